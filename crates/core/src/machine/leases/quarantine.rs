//! Into quarantine: off the LBS, with payload and reason (R7, R8).

use super::Leases;
use super::lanes::{ToQuarantine, outcomes};
use super::table::{Ending, State};
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::{LbsCall, Notice, Reply};
use crate::{EntryId, FencingToken, Quarantine, QuarantineOutcome, Result};

impl Leases {
    /// Into quarantine, with or without a lease on it.
    pub(crate) fn quarantine(&mut self, entry: EntryId, wanted: ToQuarantine) {
        self.lanes.to_quarantine.insert(entry, wanted);
        self.lanes.quarantine.queue.insert(entry);
    }

    pub(crate) fn send_quarantine(&mut self, cx: &mut Cx, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        let mut flight = Vec::with_capacity(page.len());
        for entry in page {
            if let Some(wanted) = self.lanes.to_quarantine.get(&entry) {
                entries.push(Quarantine {
                    entry,
                    token: wanted.token,
                    min_failures: wanted.min_failures,
                    reason: wanted.reason.clone(),
                });
                flight.push((entry, wanted.clone()));
            }
        }
        cx.budget.quarantine_sent(entries.len());
        cx.act(LbsCall::Quarantine(entries), Flight::Quarantine(flight));
    }

    pub(crate) fn quarantine_done(
        &mut self,
        cx: &mut Cx,
        page: Vec<(EntryId, ToQuarantine)>,
        result: Result<Reply>,
        current: bool,
    ) {
        cx.budget.quarantine_answered(page.len());
        let mut outcomes = outcomes("quarantine", page.len(), result, |reply| match reply {
            Reply::Quarantined(outcomes) => Some(outcomes),
            _ => None,
        });
        if current {
            let again = page.iter().map(|(entry, ..)| *entry);
            outcomes = self.lanes.quarantine.settle(cx, outcomes, again);
        }
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) if current => return cx.step_failed("quarantine", error),
            Err(_) => return,
        };
        for ((entry, wanted), outcome) in page.into_iter().zip(outcomes) {
            let token = wanted.token;
            if outcome == QuarantineOutcome::Quarantined {
                cx.notify_queued(Notice::Quarantined {
                    entry,
                    content: wanted.content,
                    reason: wanted.reason,
                    failures: wanted.failures,
                });
            }
            if !current {
                continue;
            }
            // What was lost and taken again meanwhile goes its own way.
            if matches!(self.lanes.to_quarantine.get(&entry), Some(of) if of.token == token) {
                self.lanes.to_quarantine.remove(&entry);
            }
            if !self.is_quarantined(entry, token) {
                continue;
            }
            if outcome == QuarantineOutcome::FewerFailures {
                // An owner that was counted as dead lives: others may try the entry.
                self.set_ending(entry, Ending::hand_back(None));
                self.lanes.hand_back.queue.insert(entry);
            } else if let Some(item) = self.items.remove(entry) {
                self.release_lock_of(cx, entry, &item, false);
            }
        }
    }

    fn is_quarantined(&self, entry: EntryId, token: FencingToken) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Ending(holding, Ending::Quarantine)) if holding.lock.token == token)
    }
}
