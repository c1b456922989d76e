//! What becomes of a message on its way.

use std::time::Duration;

use super::rng::Rng;

/// Without trouble a message takes at most that long.
pub(super) const TRAVEL: Duration = Duration::from_millis(1);

/// How bad the network is, for each message anew: whatever became of those
/// before it, so that any may overtake any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// So many of 1,000 requests, replies and hints never arrive.
    pub lost: u64,
    /// So many of 1,000 are late.
    pub late: u64,
    /// The longest that a late one travels; any other takes up to a millisecond.
    pub most_late: Duration,
}

/// A fair one: 5 of 1,000 are lost, and 10 late, by up to three seconds.
impl Default for Network {
    fn default() -> Self {
        Self {
            lost: 5,
            late: 10,
            most_late: Duration::from_secs(3),
        }
    }
}

impl Network {
    /// Nothing is lost, nothing is late.
    pub const QUIET: Self = Self {
        lost: 0,
        late: 0,
        most_late: Duration::ZERO,
    };

    /// Every fifth message is lost, and nearly every third of the others late.
    pub const fn storm(most_late: Duration) -> Self {
        Self {
            lost: 200,
            late: 300,
            most_late,
        }
    }

    /// How long a message travels; `None` if it is lost.
    pub(super) fn travel(&self, rng: &mut Rng) -> Option<Duration> {
        if rng.permille(self.lost) {
            return None;
        }
        let most = match rng.permille(self.late) {
            true => self.most_late,
            false => TRAVEL,
        };
        Some(rng.between(Duration::from_micros(50), most))
    }
}
