//! Failures that are over. An owner that has held a stream for long enough has shown
//! that the stream does no harm: those who crashed on it before did so for another
//! reason, and the count starts anew. Without this a stream that lives for months
//! would end in quarantine for the outages of its servers.

use std::collections::BTreeSet;

use super::items::State;
use super::{Action, Backoff, Flight, Machine, PAGE, Reply};
use crate::{EntryId, Fenced, FencingToken, Result, Timestamp};

/// Leases of entries that owners have failed on, and when that is to be forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgiving {
    /// Those of leases that have ended by then are dropped when it is their time.
    due: BTreeSet<(Timestamp, EntryId, FencingToken)>,
    busy: bool,
    backoff: Backoff,
}

impl Forgiving {
    pub(super) fn timeout(&self) -> Timestamp {
        match self.due.first() {
            Some((at, ..)) if !self.busy => self.backoff.not_before.max(*at),
            _ => Timestamp::MAX,
        }
    }
}

impl Machine {
    /// A lease begins.
    pub(super) fn forgive_later(&mut self, entry: EntryId, token: FencingToken, failures: u32) {
        if failures > 0 {
            let at = self.now + self.settings.forget_failures_after;
            self.forgiving.due.insert((at, entry, token));
        }
    }

    pub(super) fn pump_forgiving(&mut self) {
        if self.forgiving.timeout() > self.now {
            return;
        }
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some(&(at, entry, token)) = self.forgiving.due.first()
            && at <= self.now
        {
            self.forgiving.due.pop_first();
            if self.holds(entry, token) {
                page.push(Fenced { entry, token });
            }
        }
        if !page.is_empty() {
            self.forgiving.busy = true;
            self.act(
                Action::ClearFailures(page.clone()),
                Flight::ClearFailures(page),
            );
        }
    }

    pub(super) fn clear_failures_done(&mut self, page: Vec<Fenced>, result: Result<Reply>) {
        self.forgiving.busy = false;
        if matches!(result, Ok(Reply::FailuresCleared)) {
            return self.forgiving.backoff.succeed();
        }
        let again = page.into_iter().map(|of| (self.now, of.entry, of.token));
        self.forgiving.due.extend(again);
        self.forgiving
            .backoff
            .fail(self.now, self.settings.ttl, &mut self.rng);
        self.step_failed("clear_failures", &result);
    }

    fn holds(&self, entry: EntryId, token: FencingToken) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Held(holding)) if holding.lock.token == token)
    }
}
