//! Failures that are over. An owner that has held a stream for long enough has shown
//! that the stream does no harm: those who crashed on it before did so for another
//! reason, and the count starts anew. Without this a stream that lives for months
//! would end in quarantine for the outages of its servers.
//!
//! A death is soon forgotten: it is a failure of everything that the process held, and a
//! stream that kills does so when the work on it starts. What an owner has reported itself
//! is about this stream, and counts for longer.

use super::Leases;
use super::table::State;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::{Backoff, Deadlines, LbsCall, PAGE, Reply};
use crate::{EntryId, Failures, Fenced, FencingToken, Result, Timestamp};

/// Leases of entries that owners have failed on, and when that is to be forgotten.
#[derive(Debug, Default)]
pub(crate) struct FailureReset {
    /// Those of leases that have ended by then are dropped when it is their time.
    due: Deadlines<(EntryId, FencingToken)>,
    busy: bool,
    backoff: Backoff,
}

impl FailureReset {
    pub(crate) fn timeout(&self) -> Timestamp {
        match self.busy {
            true => Timestamp::MAX,
            false => self.backoff.not_before.max(self.due.next()),
        }
    }
}

impl Leases {
    /// A lease begins.
    pub(crate) fn reset_failures_later(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        token: FencingToken,
        failures: &Failures,
    ) {
        if failures.count == 0 {
            return;
        }
        let held = match failures.are_deaths() {
            true => cx.settings.crash_window,
            false => cx.settings.forget_failures_after,
        };
        self.failure_reset.due.set((entry, token), cx.now + held);
    }

    pub(crate) fn pump_failure_reset(&mut self, cx: &mut Cx) {
        if self.failure_reset.timeout() > cx.now {
            return;
        }
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some((entry, token)) = self.failure_reset.due.pop_due(cx.now)
        {
            if self.holds(entry, token) {
                page.push(Fenced { entry, token });
            }
        }
        if !page.is_empty() {
            self.failure_reset.busy = true;
            cx.act(
                LbsCall::ClearFailures(page.clone()),
                Flight::ClearFailures(page),
            );
        }
    }

    pub(crate) fn clear_failures_done(
        &mut self,
        cx: &mut Cx,
        page: Vec<Fenced>,
        result: Result<Reply>,
    ) {
        self.failure_reset.busy = false;
        if matches!(result, Ok(Reply::FailuresCleared)) {
            return self.failure_reset.backoff.succeed();
        }
        for Fenced { entry, token } in page {
            self.failure_reset.due.set((entry, token), cx.now);
        }
        self.failure_reset
            .backoff
            .fail(cx.now, cx.settings.ttl, &mut cx.rng);
        cx.step_done("clear_failures", result);
    }

    fn holds(&self, entry: EntryId, token: FencingToken) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Held(holding)) if holding.lock.token == token)
    }
}
