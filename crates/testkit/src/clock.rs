//! Times, and a process's own clock.

use std::time::Duration;

use streamlease_core::Timestamp;

/// Nanoseconds since the start of the run, on the one true clock.
pub(crate) type Time = u64;

pub(crate) const SECOND: Time = 1_000_000_000;

pub(crate) fn ns(d: Duration) -> Time {
    d.as_nanos() as Time
}

/// A process's clock: ticks per million of true ones, since a point.
pub(crate) struct Clock {
    pub(crate) at: Time,
    pub(crate) local: u64,
    pub(crate) rate: u64,
}

impl Clock {
    pub(crate) fn read(&self, now: Time) -> Timestamp {
        let passed = u128::from(now.saturating_sub(self.at)) * u128::from(self.rate) / 1_000_000;
        Timestamp::from_nanos(self.local + passed as u64)
    }

    /// The first true time at which the clock shows `local`.
    pub(crate) fn when(&self, local: Timestamp, now: Time) -> Time {
        let left = u128::from(local.as_nanos().saturating_sub(self.local));
        let passed = (left * 1_000_000).div_ceil(u128::from(self.rate));
        let at = u128::from(self.at) + passed;
        (at.min(u128::from(Time::MAX / 2)) as Time).max(now)
    }

    pub(crate) fn set_rate(&mut self, now: Time, rate: u64) {
        self.local = self.read(now).as_nanos();
        self.at = self.at.max(now);
        self.rate = rate;
    }

    pub(crate) fn stop_until(&mut self, now: Time, until: Time) {
        self.local = self.read(now).as_nanos();
        self.at = until;
    }
}
