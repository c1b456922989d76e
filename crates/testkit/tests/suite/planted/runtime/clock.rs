//! What is wrong with the clock, and with the time suspended.

use std::mem;
use std::time::Duration;

use streamlease_core::{Runtime, Timestamp};

use super::{Broken, Bug, tasks};

const HOUR: Duration = Duration::from_secs(3_600);

impl Broken {
    pub(super) fn read_clock(&self) -> Timestamp {
        if let Some(began) = self.inner.began {
            return self.inner.origin + self.read_real(began.elapsed());
        }
        let now = self.sim().now();
        let elapsed = now.saturating_since(self.inner.origin);
        let in_steps = |step: u64| Timestamp::from_nanos(now.as_nanos() / step * step);
        match self.inner.bug {
            Some(Bug::ClockGoesBack) => {
                let readings = &mut self.state().readings;
                *readings += 1;
                now - Duration::from_millis(u64::from(readings.is_multiple_of(7)))
            }
            Some(Bug::ClockIsSetBack) => now - Duration::from_millis(20) * elapsed.as_secs() as u32,
            Some(Bug::ClockStands) => self.inner.origin,
            Some(Bug::ClockIsCoarse) => in_steps(100_000_000),
            Some(Bug::ClockIsInSeconds) => in_steps(1_000_000_000),
            Some(Bug::ClockIsCoarseALittle) => in_steps(10_000_000),
            Some(Bug::ClockJumpsOnce) if elapsed >= Duration::from_millis(20) => now + HOUR / 6,
            Some(Bug::ClockBeginsAtZero) => Timestamp::from_origin(elapsed),
            Some(Bug::ClockIsPerTask) => match tasks::current() {
                Some(task) => self.inner.origin + now.saturating_since(task.since),
                None => now,
            },
            Some(Bug::ClockIsBehindOnThreads) if self.is_elsewhere() => {
                now - Duration::from_secs(1)
            }
            Some(Bug::ClockIsAheadOnThreads) if self.is_elsewhere() => now + Duration::from_secs(1),
            _ => now,
        }
    }

    fn read_real(&self, elapsed: Duration) -> Duration {
        let state = &mut *self.state();
        match self.inner.bug {
            Some(Bug::ClockIsSlow) => elapsed * 9 / 10,
            Some(Bug::ClockIsFast) => elapsed * 2,
            Some(Bug::ClockIsOfTheLastWake) => state.last,
            Some(Bug::ClockMissesBlocking) => {
                let passed = elapsed.saturating_sub(mem::replace(&mut state.last, elapsed));
                if passed < Duration::from_millis(100) {
                    state.counted += passed;
                }
                state.counted
            }
            _ => elapsed,
        }
    }

    pub(super) fn read_suspended(&self) -> Duration {
        let elapsed = self.sim().now().saturating_since(self.inner.origin);
        match self.inner.bug {
            Some(Bug::SuspendedGoesBack) => {
                let readings = &mut self.state().readings;
                *readings = 1 - *readings;
                Duration::from_micros(u64::from(*readings))
            }
            Some(Bug::SuspendedIsTwice) => elapsed * 2,
            Some(Bug::SuspendedIsTheClock) => self.now().since_origin(),
            Some(Bug::SuspendedIsHalfTheClock) => elapsed / 2,
            Some(Bug::SuspendedIsPerTask) if tasks::current().is_none() => HOUR,
            Some(Bug::SuspendedIsPerThread) if !self.is_elsewhere() => HOUR,
            Some(Bug::SuspendedBeginsAnywhere) => HOUR * 24 * 365,
            _ => Duration::ZERO,
        }
    }
}
