//! Leases that ended although their owner lives: the server or the network was away, the
//! machine was suspended, or a lock was lost. The next claim of such an entry counts its
//! owner as dead. So as soon as the LBS answers again, the owner hands back late what it
//! held: if nobody has claimed it since, nothing is counted; else it is taken back.
//!
//! Not so where the process itself stood still. A handler that blocks its process for
//! longer than a TTL ends whole sessions, and an entry that makes every handler do so is
//! to be quarantined in the end. From inside, that differs from an outage in one thing: the
//! machine's own timers are not served. Time for which the machine was suspended does not
//! count for that; the driver says how long it was.

use super::Leases;
use super::lanes::handed_back;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::table::{Ending, Item, State};
use crate::machine::{Backoff, LbsCall, PAGE, Reply};
use crate::{EntryId, FencingToken, HandBackOutcome, HandBackRequest, Result, Timestamp};

/// What is to be handed back late.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// At most one lease of an entry: the next one's claim waits for its answer.
    owed: BTreeMap<EntryId, (FencingToken, Option<Arc<str>>)>,
    /// The greatest capacity so far: a lower one takes nothing away that is held.
    most: usize,
    busy: bool,
    backoff: Backoff,
    /// With manual claiming: handed back late, and this consumer's own still.
    own: BTreeSet<EntryId>,
}

impl Late {
    /// So many leases there may be.
    pub(crate) fn allow(&mut self, capacity: usize) {
        self.most = self.most.max(capacity);
    }

    /// An earlier lease of the entry is to be handed back before it is claimed anew.
    pub(crate) fn owes(&self, entry: EntryId) -> bool {
        self.owed.contains_key(&entry)
    }

    /// This consumer lost the entry, has handed it back late, and has not taken it again.
    pub(crate) fn is_own(&self, entry: EntryId) -> bool {
        self.own.contains(&entry)
    }

    pub(crate) fn own_taken(&mut self, entry: EntryId) {
        self.own.remove(&entry);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    pub(crate) fn timeout(&self) -> Timestamp {
        match self.busy || self.owed.is_empty() {
            true => Timestamp::MAX,
            false => self.backoff.not_before,
        }
    }
}

impl Leases {
    /// The session is lost, and everything in it.
    pub(crate) fn owe_all(&mut self, cx: &mut Cx) {
        self.late.own.clear();
        let locked = self.items.iter();
        let locked = locked.filter(|(_, item)| item.state.lock().is_some());
        for entry in locked.map(|(entry, _)| entry).collect::<Vec<_>>() {
            self.owe_present(cx, entry);
        }
    }

    /// It is about to go, and its answer is not there yet.
    pub(crate) fn owe_present(&mut self, cx: &mut Cx, entry: EntryId) {
        let owed = self.items.get(entry).and_then(owed_of);
        self.owe(cx, entry, owed);
    }

    /// A single lease is lost.
    pub(crate) fn owe_one(&mut self, cx: &mut Cx, entry: EntryId, item: &Item) {
        self.owe(cx, entry, owed_of(item));
    }

    fn owe(&mut self, cx: &mut Cx, entry: EntryId, owed: Option<(FencingToken, Option<Arc<str>>)>) {
        let Some(owed) = owed else { return };
        if cx.punctuality.is_to_blame(cx.now, cx.settings.ttl) {
            return;
        }
        // Where one is owed already, the claim of this one was never sent. And no more
        // than one session can hold: what was lost beyond that is counted.
        self.late.allow(cx.settings.capacity);
        if self.late.owed.len() < self.late.most {
            self.late.owed.entry(entry).or_insert(owed);
        }
    }

    /// Needs no session.
    pub(crate) fn pump_late(&mut self, cx: &mut Cx) {
        if self.late.timeout() > cx.now {
            return;
        }
        let page = self.late.owed.iter().take(PAGE);
        let page: Vec<HandBackRequest> = page
            .map(|(&entry, (token, failed))| HandBackRequest {
                entry,
                token: *token,
                failed: failed.as_deref().map(ToOwned::to_owned),
                rests: failed.is_some(),
            })
            .collect();
        self.late.busy = true;
        let flight = page.iter().map(|back| (back.entry, back.token)).collect();
        cx.act(LbsCall::HandBack(page), Flight::LateHandBack(flight));
    }

    pub(crate) fn late_hand_back_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        self.late.busy = false;
        let outcomes = match handed_back(page.len(), result) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.late.backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
                return cx.step_failed("hand_back", error);
            }
        };
        self.late.backoff.succeed();
        let mut own = Vec::new();
        for (&(entry, _), outcome) in page.iter().zip(outcomes) {
            self.late.owed.remove(&entry);
            if outcome == HandBackOutcome::HandedBack && cx.is_manual() {
                self.late.own.insert(entry);
                own.push(entry);
            }
            // Its next claim has waited for this.
            let state = self.items.get(entry).map(|item| &item.state);
            if matches!(state, Some(State::Claiming { .. })) {
                self.lanes.claim.queue.insert(entry);
            }
        }
        if !own.is_empty() {
            cx.effect(Effect::Rescan(own));
        }
    }
}

/// What there is to hand back of an item: its token, and why it failed, if it did.
fn owed_of(item: &Item) -> Option<(FencingToken, Option<Arc<str>>)> {
    let failed = match &item.state {
        State::Ending(_, Ending::HandBack { failed, .. }) => failed.clone(),
        _ => None,
    };
    Some((item.state.lock()?.token, failed))
}
