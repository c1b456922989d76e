//! Whether the process serves the machine's timers.

use std::time::Duration;

use crate::Timestamp;

/// Whether the process serves the machine's timers.
#[derive(Debug)]
pub(crate) struct Punctuality {
    /// The time that the last [`Timeout`](crate::machine::Output::Timeout) named.
    promised: Timestamp,
    /// For how long the machine has been suspended since.
    suspended: Duration,
    /// When it was last seen that the process had stood still.
    stood_still: Option<Timestamp>,
}

impl Punctuality {
    pub(crate) fn new() -> Self {
        Self {
            promised: Timestamp::MAX,
            suspended: Duration::ZERO,
            stood_still: None,
        }
    }

    pub(crate) fn promise(&mut self, at: Timestamp) {
        self.promised = at;
        self.suspended = Duration::ZERO;
    }

    pub(crate) fn suspended(&mut self, time: Duration) {
        self.suspended += time;
    }

    /// A block of a whole TTL makes some timer late by at least this, wherever between
    /// two heartbeats it begins: they are a third of a TTL apart, an answer to one takes no
    /// more than a quarter, and the belief lasts for nine tenths. Scheduling on a busy
    /// machine does not.
    fn limit(ttl: Duration) -> Duration {
        ttl / 4
    }

    /// By how much the process serves a timer too late. Told once.
    pub(crate) fn look(&mut self, now: Timestamp, ttl: Duration) -> Option<Duration> {
        let late = now.saturating_since(self.promised);
        let late = late.saturating_sub(self.suspended);
        if late <= Self::limit(ttl) {
            return None;
        }
        self.stood_still = Some(now);
        self.promised = Timestamp::MAX;
        Some(late)
    }

    /// Whether leases that end now may do so because the process stood still.
    pub(crate) fn is_to_blame(&self, now: Timestamp, ttl: Duration) -> bool {
        self.stood_still
            .is_some_and(|at| now.saturating_since(at) < ttl)
    }
}
