//! What goes wrong in a run: drawn from the seed, in one list, so that a
//! violation can be looked for with fewer of them.

use std::time::Duration;

use streamlease_core::LockScheme;

/// SplitMix64: one word of state.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is at least 1.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `n` of 1,000 cases.
    pub(super) fn permille(&mut self, n: u64) -> bool {
        self.below(1_000) < n
    }

    /// Between the two, in microseconds.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (least.as_micros() as u64, most.as_micros() as u64);
        Duration::from_micros(least + self.below(most.saturating_sub(least) + 1))
    }
}

/// One thing that goes wrong. `node` counts among those that run at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A process is gone, and another one comes later: under its name or a new one.
    Crash {
        /// Which.
        node: u64,
        /// Whether the next one has its name.
        same_name: bool,
        /// When the next one starts.
        after: Duration,
    },
    /// A process stands still, and wakes up late.
    Pause {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// The same, and its clock does not count the time.
    Suspend {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// A process is asked to stop; another one comes later.
    Shutdown {
        /// Which.
        node: u64,
        /// When the next one starts.
        after: Duration,
    },
    /// Another process starts under the name of one that runs.
    Twin {
        /// Which.
        node: u64,
    },
    /// Requests, replies or both of a process are lost.
    Partition {
        /// Which.
        node: u64,
        /// Whether requests are lost.
        requests: bool,
        /// Whether replies are lost.
        replies: bool,
        /// For how long.
        length: Duration,
    },
    /// Messages of everybody are lost or late.
    Storm {
        /// For how long.
        length: Duration,
    },
    /// Hints are lost, doubled and late.
    BadHints {
        /// For how long.
        length: Duration,
    },
    /// No hint comes.
    NoHints {
        /// For how long.
        length: Duration,
    },
    /// The lock server restarts, without its last writes.
    LocksRestart {
        /// How much it lost.
        lost: Duration,
        /// For how long it is away.
        down: Duration,
    },
    /// The LBS is away for a while.
    LbsDown {
        /// For how long.
        down: Duration,
    },
    /// The LBS is as it was then.
    LbsRestored {
        /// How much it lost.
        lost: Duration,
    },
    /// Somebody removes the consumer group.
    GroupGone,
    /// The lock server's clock steps.
    LockClock {
        /// By how many milliseconds.
        by_ms: i64,
    },
    /// The LBS server's clock steps.
    LbsClock {
        /// By how many milliseconds.
        by_ms: i64,
    },
    /// A process's clock runs at another rate.
    Drift {
        /// Which.
        node: u64,
        /// Ticks per million of true ones.
        rate: u64,
    },
    /// A foreign consumer takes a pending entry and dies.
    Steal {
        /// Which entry.
        nth: u64,
    },
    /// A foreign consumer fetches an entry, locks it and dies.
    ForeignFetch,
    /// An entry that nobody can read.
    Poison,
    /// Many streams at once: everybody is full.
    Burst {
        /// How many.
        streams: u64,
    },
    /// A data stream is announced once more.
    Again {
        /// Which.
        nth: u64,
    },
    /// An operator wants a lease given up.
    Revoke {
        /// Which.
        nth: u64,
    },
    /// The user of a process takes no events.
    SlowUser {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
}

impl Fault {
    /// Its name, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash {
                same_name: true, ..
            } => "crash, same name",
            Self::Crash { .. } => "crash, new name",
            Self::Pause { .. } => "pause",
            Self::Suspend { .. } => "suspended clock",
            Self::Shutdown { .. } => "shutdown",
            Self::Twin { .. } => "twin name",
            Self::Partition {
                requests: true,
                replies: true,
                ..
            } => "partition",
            Self::Partition { requests: true, .. } => "requests lost",
            Self::Partition { .. } => "replies lost",
            Self::Storm { .. } => "network storm",
            Self::BadHints { .. } => "bad hints",
            Self::NoHints { .. } => "no hints",
            Self::LocksRestart { lost, .. } if lost.is_zero() => "locks restart",
            Self::LocksRestart { .. } => "locks lose writes",
            Self::LbsDown { .. } => "LBS down",
            Self::LbsRestored { .. } => "LBS restored",
            Self::GroupGone => "group gone",
            Self::LockClock { by_ms } if *by_ms < 0 => "lock clock back",
            Self::LockClock { .. } => "lock clock forward",
            Self::LbsClock { .. } => "LBS clock steps",
            Self::Drift { .. } => "clock drift",
            Self::Steal { .. } => "foreign steals",
            Self::ForeignFetch => "foreign fetches",
            Self::Poison => "poison",
            Self::Burst { .. } => "burst",
            Self::Again { .. } => "announced again",
            Self::Revoke { .. } => "forced release",
            Self::SlowUser { .. } => "slow user",
        }
    }
}

/// Everything about a run that its seed decides in advance.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How leases hang together.
    pub scheme: LockScheme,
    /// The least TTL; some clients have twice that.
    pub ttl: Duration,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
    pub(super) nodes: u64,
    pub(super) streams: u64,
    pub(super) manual: Manual,
    pub(super) lost_permille: u64,
    pub(super) late_permille: u64,
    pub(super) trouble: Duration,
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
        let count = 5 + rng.below(16);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = rng.between(Duration::ZERO, trouble);
                (at, draw(&mut rng, ttl, harsh))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            scheme,
            ttl,
            faults,
            nodes: 3 + rng.below(3),
            streams: 20 + rng.below(15),
            manual: match rng.below(8) {
                0 => Manual::All,
                1 => Manual::Some,
                _ => Manual::Nobody,
            },
            lost_permille: [0, 0, 5, 30][rng.below(4) as usize],
            late_permille: [0, 0, 10, 40][rng.below(4) as usize],
            trouble,
        }
    }
}

fn draw(rng: &mut Rng, ttl: Duration, harsh: bool) -> Fault {
    let node = rng.below(1 << 20);
    let length = rng.between(ttl / 10, ttl * 3);
    let after = rng.between(Duration::from_millis(1), ttl * 3);
    let lost = rng.between(Duration::from_millis(1), ttl);
    let ttl_ms = ttl.as_millis() as u64;
    let kinds = if harsh { 31 } else { 26 };
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
        8 => Fault::Shutdown { node, after },
        9 => Fault::Twin { node },
        10 => Fault::Partition {
            node,
            requests: true,
            replies: true,
            length,
        },
        11 => Fault::Partition {
            node,
            requests: false,
            replies: true,
            length,
        },
        12 => Fault::Partition {
            node,
            requests: true,
            replies: false,
            length,
        },
        13 => Fault::Storm { length },
        14 => Fault::BadHints { length },
        15 => Fault::NoHints { length: length * 2 },
        16 => Fault::LocksRestart {
            lost: Duration::ZERO,
            down: length / 3,
        },
        17 => match rng.below(2) {
            0 => Fault::LbsDown { down: length },
            _ => Fault::GroupGone,
        },
        // Below a quarter of the margin forward, any length back.
        18 => Fault::LockClock {
            by_ms: match rng.below(2) {
                0 => rng.below(ttl_ms / 60 + 2) as i64,
                _ => -(rng.below(2 * ttl_ms) as i64),
            },
        },
        19 => Fault::LbsClock {
            by_ms: rng.below(6 * ttl_ms) as i64 - 3 * ttl_ms as i64,
        },
        20 => Fault::Drift {
            node,
            rate: 970_000 + rng.below(60_000),
        },
        21 => match rng.below(2) {
            0 => Fault::Steal { nth: rng.below(30) },
            _ => Fault::ForeignFetch,
        },
        22 => Fault::Poison,
        23 => match rng.below(2) {
            0 => Fault::Burst {
                streams: 10 + rng.below(20),
            },
            _ => Fault::Again { nth: rng.below(64) },
        },
        24 => Fault::Revoke { nth: rng.below(30) },
        25 => Fault::SlowUser {
            node,
            length: length * 2,
        },
        26 => Fault::Suspend { node, length },
        27 => Fault::LocksRestart {
            lost,
            down: length / 3,
        },
        28 => Fault::LbsRestored { lost },
        29 => Fault::LockClock {
            by_ms: rng.below(2 * ttl_ms) as i64,
        },
        _ => Fault::Drift {
            node,
            rate: 700_000 + rng.below(700_000),
        },
    }
}
