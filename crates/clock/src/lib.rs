//! A monotonic clock that counts the time during which the machine was suspended.
//!
//! A lease must not be believed longer than its lock lives on the server, and
//! the server's clock goes on while a laptop or a virtual machine sleeps.
//! `std::time::Instant` stands still meanwhile on most systems.
//!
//! - On Linux and Android this clock is `CLOCK_BOOTTIME`, which is exact.
//! - Elsewhere it is `std::time::Instant`, plus every step by which the wall
//!   clock ran ahead of it. A wall clock that somebody sets forward counts as a
//!   suspension: leases then end too early, which is the safe side.
//!
//! It cannot see what the system's own clocks cannot see, such as a pause by a
//! hypervisor that hides it.

use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "boottime.rs"]
mod source;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "portable.rs"]
mod source;

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod divergence;

// Compiled and tested on Linux as well, where it is not the source.
#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod portable;

/// The process's clock. All values read the same one: its origin is the first
/// use in the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(());

impl Clock {
    /// Longest sleep after which a timer looks at the clock again.
    ///
    /// The system's timers stand still while the machine is suspended, so a
    /// single long sleep would end late by all of that time. Sleeping in
    /// slices bounds the lateness after waking up by this, at the price of two
    /// wake-ups per second and waiting timer.
    pub const RECHECK: Duration = Duration::from_millis(500);

    /// The process's clock; the first one sets the origin.
    pub fn new() -> Self {
        source::start();
        Self(())
    }

    /// Time since the origin, suspended time included. Never goes back.
    pub fn elapsed(&self) -> Duration {
        source::elapsed()
    }

    /// How much of [`elapsed`](Self::elapsed) the machine was suspended. Never
    /// goes back, and is exactly zero as long as there was no suspension, so
    /// that it can be added to another monotonic clock.
    pub fn suspended(&self) -> Duration {
        source::suspended()
    }

    /// How long to sleep at a time when `remaining` is left: all of it, but at
    /// most [`RECHECK`](Self::RECHECK).
    pub fn slice(remaining: Duration) -> Duration {
        remaining.min(Self::RECHECK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_and_all_values_share_its_origin() {
        let first = Clock::new();
        let before = first.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        let second = Clock::new().elapsed();
        assert!(
            second >= before + Duration::from_millis(20),
            "{before:?}, then {second:?}"
        );
        assert!(first.elapsed() >= second);
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn the_portable_source_goes_on_like_the_exact_one() {
        portable::start();
        let before = portable::elapsed();
        std::thread::sleep(Duration::from_millis(20));
        assert!(portable::elapsed() >= before + Duration::from_millis(20));
        assert_eq!(portable::suspended(), Duration::ZERO);
    }

    #[test]
    fn nothing_is_counted_as_suspended_on_a_machine_that_runs() {
        let clock = Clock::new();
        for _ in 0..10_000 {
            assert_eq!(clock.suspended(), Duration::ZERO);
        }
    }
}
