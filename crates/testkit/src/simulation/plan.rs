//! What a seed decides in advance: who takes part, and what goes wrong, in one
//! list, so that a violation can be looked for with fewer of them.

mod last;
mod later;
mod pauses;

use std::time::Duration;

use streamlease_core::LockScheme;

use super::fault::{Amid, Fault};
use super::network::Network;
use super::rng::Rng;

/// Clients in each seed, at least.
pub const LEAST_CLIENTS: u64 = 3;

/// Data streams in each seed, at least.
pub const LEAST_STREAMS: u64 = 20;

/// Faults that are injected in each seed, at least.
pub const LEAST_FAULTS: usize = 5;

/// Clocks that drift by no more, in ticks per million, leave a run *durable*.
pub(super) const STATED_DRIFT: u64 = 30_000;

/// Everything about a run that its seed decides in advance.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How leases hang together.
    pub scheme: LockScheme,
    /// The least TTL; some clients have twice that, or a much longer one.
    pub ttl: Duration,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
    pub(super) nodes: u64,
    pub(super) streams: u64,
    pub(super) manual: Manual,
    pub(super) lost_permille: u64,
    pub(super) late_permille: u64,
    /// After the faults there is room for one stream more than there are.
    pub(super) tight: bool,
    /// Failures are forgotten within the run. Not drawn, so that the other seeds stay
    /// what they were.
    pub(super) forgets: bool,
    /// After the faults a link is so thin that an entry takes that long.
    pub(super) thin: Option<Duration>,
    /// Some clients have that TTL.
    pub(super) long_ttl: Option<Duration>,
    pub(super) trouble: Duration,
    /// Also what may cost more than nothing is drawn.
    harsh: bool,
}

/// Who claims by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manual {
    Nobody,
    Some,
    All,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        Self::with(seed, |_| true)
    }

    /// The plan of a seed without what is drawn since servers refuse, lie and lose
    /// single keys, and links are thin: what a seed meant that was found before.
    pub fn early(seed: u64) -> Self {
        Self::early_with(seed, |_| true)
    }

    /// The plan of a seed, with faults that fit only.
    pub(super) fn with(seed: u64, fits: impl Fn(&Fault) -> bool) -> Self {
        let mut plan = Self::early_with(seed, &fits);
        plan.draw_later(&fits);
        plan.draw_last(&fits);
        plan.draw_pauses(fits);
        plan
    }

    fn early_with(seed: u64, fits: impl Fn(&Fault) -> bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let scheme = match rng.below(2) {
            0 => LockScheme::Session,
            _ => LockScheme::PerStream,
        };
        let ttl = Duration::from_millis([300, 500, 1_000, 2_000, 5_000][rng.below(5) as usize]);
        let trouble = ttl * (8 + rng.below(8) as u32);
        // Half of the seeds draw only what must cost nothing (the class is
        // still for the checker to say).
        let harsh = rng.below(2) == 0;
        let count = LEAST_FAULTS as u64 + rng.below(16);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = rng.between(Duration::ZERO, trouble);
                loop {
                    let fault = draw(&mut rng, scheme, ttl, harsh);
                    if fits(&fault) {
                        break (at, fault);
                    }
                }
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        let mut plan = Self {
            seed,
            scheme,
            ttl,
            faults,
            nodes: LEAST_CLIENTS + rng.below(3),
            streams: LEAST_STREAMS + rng.below(15),
            manual: match rng.below(8) {
                0 => Manual::All,
                1 => Manual::Some,
                _ => Manual::Nobody,
            },
            lost_permille: [0, 0, 5, 30][rng.below(4) as usize],
            late_permille: [0, 0, 10, 40][rng.below(4) as usize],
            tight: rng.below(3) == 0,
            forgets: seed.is_multiple_of(5),
            thin: None,
            long_ttl: None,
            trouble,
            harsh,
        };
        // Drawn last, so that the rest of a seed's plan is what it was without.
        for _ in 0..rng.below(4) {
            let at = rng.between(Duration::ZERO, trouble);
            let node = rng.below(1 << 20);
            let streams = 1 + rng.below(30) as usize;
            let fault = Fault::Capacity { node, streams };
            if fits(&fault) {
                plan.faults.push((at, fault));
            }
        }
        plan
    }
}

impl Plan {
    /// The same without what the network does on its own.
    pub fn quiet(mut self) -> Self {
        self.lost_permille = 0;
        self.late_permille = 0;
        self
    }

    pub(super) fn network(&self) -> Network {
        Network {
            lost: self.lost_permille,
            late: self.late_permille,
            most_late: self.most_late(),
        }
    }

    /// The longest that a late message travels.
    pub(super) fn most_late(&self) -> Duration {
        self.ttl * 3
    }
}

fn draw(rng: &mut Rng, scheme: LockScheme, ttl: Duration, harsh: bool) -> Fault {
    let node = rng.below(1 << 20);
    let nth = rng.below(64);
    let length = rng.between(ttl / 10, ttl * 3);
    let after = rng.between(Duration::from_millis(1), ttl * 3);
    let ttl_ms = ttl.as_millis() as u64;
    let kinds = if harsh { 33 } else { 28 };
    match rng.below(kinds) {
        0..=2 => Fault::Crash {
            node,
            same_name: true,
            after: after / (1 + rng.below(20) as u32),
        },
        3..=4 => Fault::Crash {
            node,
            same_name: false,
            after,
        },
        5..=7 => Fault::Pause { node, length },
        8..=9 => Fault::Shutdown {
            node,
            amid: match rng.below(6) {
                0 => Some(Amid::Pause),
                1 => Some(Amid::Partition),
                2 if harsh => Some(Amid::Suspend),
                _ => None,
            },
            length,
            after,
        },
        10 => Fault::Twin { node },
        11..=13 => {
            let (requests, replies) =
                [(true, true), (false, true), (true, false)][nth as usize % 3];
            Fault::Partition {
                node,
                requests,
                replies,
                length,
            }
        }
        14 => Fault::Storm { length },
        15 => Fault::BadHints { length },
        16 => Fault::NoHints { length: length * 2 },
        17 => Fault::LocksRestart {
            lost: Duration::ZERO,
            down: length / 3,
        },
        18 => match rng.below(2) {
            0 => Fault::LbsDown { down: length },
            _ => Fault::GroupGone,
        },
        // Forward by what the margin bears, back by any length.
        19 => Fault::LockClock {
            by_ms: match rng.below(2) {
                0 => rng.below(ttl_ms / 15) as i64,
                _ => -(rng.below(2 * ttl_ms) as i64),
            },
        },
        20 => Fault::LbsClock {
            by_ms: rng.below(6 * ttl_ms) as i64 - 3 * ttl_ms as i64,
        },
        21 => Fault::Drift {
            node,
            rate: 1_000_000 - STATED_DRIFT + rng.below(2 * STATED_DRIFT),
        },
        22 => draw_foreign(rng, scheme, nth, length),
        23 => Fault::Poison,
        24 => match rng.below(2) {
            0 => Fault::Burst {
                streams: 10 + rng.below(20),
            },
            _ => Fault::Again { nth },
        },
        // Only sessions' leases can be marked.
        25 => match scheme {
            LockScheme::Session => Fault::Revoke { nth },
            LockScheme::PerStream => draw_foreign(rng, scheme, nth, length),
        },
        26 => Fault::SlowUser {
            node,
            length: length * 2,
        },
        27 => Fault::HangingHandlers { node, length },
        28 => Fault::Suspend { node, length },
        29 => Fault::LocksRestart {
            lost: rng.between(Duration::from_millis(1), ttl),
            down: length / 3,
        },
        30 => Fault::LbsRestored {
            lost: rng.between(Duration::from_millis(1), ttl),
        },
        31 => Fault::LockClock {
            by_ms: rng.below(2 * ttl_ms) as i64,
        },
        _ => Fault::Drift {
            node,
            rate: 700_000 + rng.below(700_000),
        },
    }
}

/// Session leases refuse a fleet with consumers that do not know them; what may
/// still come is somebody with a command line.
fn draw_foreign(rng: &mut Rng, scheme: LockScheme, nth: u64, renews: Duration) -> Fault {
    let completes = rng.below(2) == 0;
    match (scheme, rng.below(3)) {
        (LockScheme::PerStream, 0) => Fault::ForeignFetch { renews, completes },
        (LockScheme::PerStream, 1) => Fault::ForeignClaim {
            nth,
            renews,
            completes,
        },
        (LockScheme::Session, 0) => Fault::ForeignFetch {
            renews: Duration::ZERO,
            completes: false,
        },
        _ => Fault::Steal { nth },
    }
}
