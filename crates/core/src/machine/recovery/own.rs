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
}

impl Own {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            due: now,
            found: None,
            pending: 0,
        }
    }

    /// A new session looks at its own part first.
    pub(crate) fn start_over(&mut self, now: Timestamp) {
        self.due = now;
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
    }

    pub(crate) fn saw(&mut self, entries: usize) {
        *self.found.get_or_insert(0) += entries;
    }

    /// How many entries there are, if any page was read.
    pub(crate) fn ended(&mut self) -> Option<usize> {
        let entries = self.found.take()?;
        self.pending = entries;
        Some(entries)
    }

    /// Longer the more is pending, at each of the members.
    fn interval(&self, cx: &Cx) -> Duration {
        let members = cx.peers.members as usize;
        let seen = self.pending.saturating_mul(members);
        cx.settings.sweep_interval() + rest_after(cx, seen, 0)
    }
}
