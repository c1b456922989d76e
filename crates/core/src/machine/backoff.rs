//! How long to wait before something that failed is tried again.

use std::time::Duration;

use super::Rng;
use crate::Timestamp;

/// Doubling waits after failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) not_before: Timestamp,
}

impl Backoff {
    pub(crate) fn is_ready(&self, now: Timestamp) -> bool {
        self.not_before <= now
    }

    pub(crate) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Waits 10 ms, doubling up to a fifth of the TTL, so that a lease's work
    /// is tried several times before R1 strikes.
    pub(crate) fn fail(&mut self, now: Timestamp, ttl: Duration, rng: &mut Rng) {
        let wait = Duration::from_millis(10) * 2u32.pow(self.failures.min(8));
        self.failures += 1;
        self.not_before = now + rng.jittered(wait.min(ttl / 5));
    }
}
