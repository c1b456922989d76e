//! Suspended time, guessed from a wall clock that runs ahead of a monotonic one.

use std::time::Duration;

/// The last reading of both clocks, and what was counted so far.
#[derive(Debug)]
pub(crate) struct Divergence {
    monotonic: Duration,
    wall: Duration,
    suspended: Duration,
}

/// A step below this is jitter between two readings, not a suspension. It must
/// stay well below the smallest margin of a lease, 50 ms.
const JITTER: Duration = Duration::from_millis(20);

/// One part in this many is how fast a time daemon may slew a clock, doubled.
const SLEW: u32 = 1_000;

impl Divergence {
    pub(crate) fn new(monotonic: Duration, wall: Duration) -> Self {
        Self {
            monotonic,
            wall,
            suspended: Duration::ZERO,
        }
    }

    /// Takes a reading of both clocks; returns all suspended time so far.
    pub(crate) fn observe(&mut self, monotonic: Duration, wall: Duration) -> Duration {
        let passed = monotonic.saturating_sub(self.monotonic);
        // Zero if the wall clock was set back: nothing can be told from that.
        let ahead = wall.saturating_sub(self.wall).saturating_sub(passed);
        if ahead > JITTER + passed / SLEW {
            self.suspended += ahead;
        }
        self.monotonic = self.monotonic.max(monotonic);
        self.wall = wall;
        self.suspended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_jump_of_the_wall_clock_counts_once_and_for_good() {
        let mut clock = Divergence::new(ms(0), ms(5_000));
        assert_eq!(clock.observe(ms(100), ms(5_100)), ms(0));
        assert_eq!(clock.observe(ms(200), ms(65_200)), ms(60_000));
        assert_eq!(clock.observe(ms(300), ms(65_300)), ms(60_000));
        assert_eq!(clock.observe(ms(400), ms(1_000)), ms(60_000), "set back");
        assert_eq!(clock.observe(ms(500), ms(1_100)), ms(60_000));
    }

    #[test]
    fn jitter_and_slewing_are_no_suspension() {
        let mut clock = Divergence::new(ms(0), ms(0));
        assert_eq!(clock.observe(ms(100), ms(119)), ms(0));
        assert_eq!(
            clock.observe(ms(3_600_100), ms(3_601_900)),
            ms(0),
            "500 ppm for an hour"
        );
    }
}
