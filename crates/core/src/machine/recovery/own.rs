//! The look at what is pending at this consumer's own name (R7).

use std::time::Duration;

use super::sweep::rest_after;
use crate::Timestamp;
use crate::machine::cx::Cx;

/// When it is due, and what it has found.
#[derive(Debug)]
pub(crate) struct Own {
    due: Timestamp,
    /// How many entries the one that is under way has seen.
    found: Option<usize>,
    /// How many the last one saw.
    pending: usize,
    /// No look of this session has ended yet: what it finds was left by an earlier one.
    is_first: bool,
    /// How many of those that it saw were not known, if the one under way is the first.
    recovered: Option<usize>,
}

impl Own {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            due: now,
            found: None,
            pending: 0,
            is_first: true,
            recovered: None,
        }
    }

    /// A new session looks at its own part first.
    pub(crate) fn start_over(&mut self, now: Timestamp) {
        self.due = now;
        self.is_first = true;
        self.recovered = None;
    }

    pub(crate) fn due(&self) -> Timestamp {
        self.due
    }

    pub(crate) fn ask(&mut self, now: Timestamp) {
        self.due = self.due.min(now);
    }

    /// The next one is due from now on, so that what asks for one meanwhile gets another.
    pub(crate) fn begin(&mut self, cx: &Cx) {
        self.due = cx.now + self.interval(cx);
        self.found = None;
        self.recovered = self.is_first.then_some(0);
    }

    pub(crate) fn saw(&mut self, entries: usize) {
        *self.found.get_or_insert(0) += entries;
    }

    /// One of them is not held here, and is gone for.
    pub(crate) fn recovers(&mut self) {
        if let Some(recovered) = &mut self.recovered {
            *recovered += 1;
        }
    }

    /// How many entries the first look of a session has recovered; `None` for later ones,
    /// which see what is held.
    pub(crate) fn ended(&mut self) -> Option<usize> {
        self.pending = self.found.take()?;
        let recovered = self.recovered.take()?;
        self.is_first = false;
        Some(recovered)
    }

    /// Longer the more is pending, at each of the members.
    fn interval(&self, cx: &Cx) -> Duration {
        let members = cx.peers.members as usize;
        let seen = self.pending.saturating_mul(members);
        cx.settings.sweep_interval() + rest_after(cx, seen, 0)
    }
}
