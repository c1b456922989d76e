//! What a round does and when, all of it drawn from its seed.

use std::time::Duration;

use serde_json::json;

/// So many workers there are at a time.
pub(crate) const WORKERS: usize = 4;

/// What may be asked of a round (issue 3): with lost writes less can be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// What Redis has acknowledged stays (`appendfsync always`).
    Durable,
    /// Redis may lose its last writes (the end of its append-only file), or everything
    /// (FLUSHALL).
    Lossy,
}

/// `--locks` of all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Locks {
    PerStream,
    Session,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) class: Class,
    pub(crate) ttl: Duration,
    pub(crate) locks: Locks,
    /// How long faults and new streams come.
    pub(crate) length: Duration,
    pub(crate) faults: Vec<(Duration, Fault)>,
    pub(crate) submissions: Vec<(Duration, Vec<Work>)>,
}

/// A data stream to announce.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) stream: String,
    /// For the program: see `program.rs`.
    pub(crate) info: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// SIGKILL; another starts after `down`, under another name if `rename`.
    Kill {
        worker: usize,
        down: Duration,
        rename: bool,
    },
    /// SIGKILL, and the same name again at once.
    Restart {
        worker: usize,
    },
    /// SIGTERM; another starts `down` after it has exited.
    Terminate {
        worker: usize,
        down: Duration,
        rename: bool,
    },
    /// SIGSTOP for less than a TTL.
    StopShort {
        worker: usize,
        time: Duration,
    },
    /// SIGSTOP for longer than a TTL.
    StopLong {
        worker: usize,
        time: Duration,
    },
    /// SIGSTOP, the same name again at once, and then the first wakes up and
    /// lives on for a while.
    Twin {
        worker: usize,
        stopped: Duration,
        alive: Duration,
    },
    RedisRestart {
        down: Duration,
    },
    /// Like a machine that loses power: what is not on its disk yet is gone.
    RedisForgets {
        down: Duration,
        bytes: u64,
    },
    RedisFreeze {
        time: Duration,
    },
    CutAll {
        worker: usize,
    },
    CutReply {
        worker: usize,
        request: &'static str,
        bytes: usize,
    },
    Latency {
        worker: usize,
        latency: Duration,
        time: Duration,
    },
    Partition {
        worker: usize,
        time: Duration,
    },
    LoseReplies {
        worker: usize,
        time: Duration,
    },
    LoseRequests {
        worker: usize,
        time: Duration,
    },
    PartitionOfAll {
        time: Duration,
    },
    ScriptFlush,
    ClientKill {
        kind: &'static str,
    },
    FlushAll,
}

impl Plan {
    /// Class, TTL and locks drawn, too.
    pub(crate) fn drawn(seed: u64, length: Duration) -> Self {
        let mut rng = Rng(seed);
        let class = match rng.below(3) {
            0 => Class::Lossy,
            _ => Class::Durable,
        };
        let ttl = Duration::from_millis([600, 1_000, 2_000][rng.below(3)]);
        let locks = [Locks::PerStream, Locks::Session][rng.below(2)];
        Self::new(seed, class, locks, ttl, length)
    }

    pub(crate) fn new(
        seed: u64,
        class: Class,
        locks: Locks,
        ttl: Duration,
        length: Duration,
    ) -> Self {
        // One for each, so that a change of one leaves the other as it is.
        let faults = draw_faults(&mut Rng(seed ^ 0xFA17), class, ttl, length);
        let submissions = draw_submissions(&mut Rng(seed ^ 0x5B), ttl, length);
        Self {
            seed,
            class,
            ttl,
            locks,
            length,
            faults,
            submissions,
        }
    }

    /// By when everything is completed after the faults have stopped.
    ///
    /// Whatever was begun ends within a TTL, and a sweep (every two TTLs) finds
    /// what nobody has told of, one later what was held then; who could not
    /// reach Redis comes back within as long again as it could not; a consumer
    /// whose session Redis has lost is left alone for five seconds. Then come the
    /// work itself, and time for a machine that does other things, too.
    pub(crate) fn bound(&self) -> Duration {
        self.ttl * (1 + 2 + 2 + 4) + Duration::from_secs(5) + self.ttl * 4 + Duration::from_secs(20)
    }
}

impl Fault {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "SIGKILL",
            Self::Restart { .. } => "SIGKILL and the same name at once",
            Self::Terminate { .. } => "SIGTERM",
            Self::StopShort { .. } => "SIGSTOP, shorter than the TTL",
            Self::StopLong { .. } => "SIGSTOP, longer than the TTL",
            Self::Twin { .. } => "SIGSTOP and the same name at once",
            Self::RedisRestart { .. } => "Redis killed and restarted",
            Self::RedisForgets { .. } => "Redis restarted without its last writes",
            Self::RedisFreeze { .. } => "Redis frozen",
            Self::CutAll { .. } => "connections cut",
            Self::CutReply { .. } => "connection cut in the middle of a reply",
            Self::Latency { .. } => "latency",
            Self::Partition { .. } => "partition",
            Self::LoseReplies { .. } => "replies held",
            Self::LoseRequests { .. } => "requests held",
            Self::PartitionOfAll { .. } => "partition of all",
            Self::ScriptFlush => "SCRIPT FLUSH",
            Self::ClientKill { .. } => "CLIENT KILL",
            Self::FlushAll => "FLUSHALL",
        }
    }
}

fn draw_faults(
    rng: &mut Rng,
    class: Class,
    ttl: Duration,
    length: Duration,
) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    // Everybody gets to work first.
    let mut at = Duration::from_millis(800);
    // Each kind comes once before any comes again, so that short rounds have most.
    let mut bag = Vec::new();
    loop {
        at += rng.between(Duration::from_millis(200), Duration::from_millis(700));
        if at >= length {
            return faults;
        }
        if bag.is_empty() {
            bag = (0..17 + 2 * usize::from(class == Class::Lossy)).collect();
        }
        let kind = bag.swap_remove(rng.below(bag.len()));
        faults.push((at, draw_fault(rng, kind, ttl)));
    }
}

fn draw_fault(rng: &mut Rng, kind: usize, ttl: Duration) -> Fault {
    let worker = rng.below(WORKERS);
    let mut ttls = |from: f64, to: f64| rng.between(ttl.mul_f64(from), ttl.mul_f64(to));
    match kind {
        0 => Fault::Kill {
            worker,
            down: ttls(0.0, 2.0),
            rename: rng.below(3) == 0,
        },
        1 => Fault::Restart { worker },
        2 => Fault::Terminate {
            worker,
            down: ttls(0.0, 1.0),
            rename: rng.below(3) == 0,
        },
        3 => Fault::StopShort {
            worker,
            time: ttls(0.2, 0.8),
        },
        4 => Fault::StopLong {
            worker,
            time: ttls(1.2, 3.0),
        },
        5 => Fault::Twin {
            worker,
            stopped: ttls(0.5, 2.5),
            alive: ttls(0.5, 2.0),
        },
        6 => Fault::RedisRestart {
            down: ttls(0.0, 1.5),
        },
        7 => Fault::RedisFreeze {
            time: ttls(0.2, 1.5),
        },
        8 => Fault::CutAll { worker },
        9 => Fault::CutReply {
            worker,
            request: ["", "EVALSHA", "XREADGROUP", "XACK"][rng.below(4)],
            bytes: rng.below(24),
        },
        10 => Fault::Latency {
            worker,
            latency: rng.between(Duration::from_millis(5), ttl / 6),
            time: rng.between(ttl, ttl * 3),
        },
        11 => Fault::Partition {
            worker,
            time: ttls(0.3, 2.5),
        },
        12 => Fault::LoseReplies {
            worker,
            time: ttls(0.3, 2.5),
        },
        13 => Fault::LoseRequests {
            worker,
            time: ttls(0.3, 2.5),
        },
        14 => Fault::PartitionOfAll {
            time: ttls(0.3, 1.5),
        },
        15 => Fault::ScriptFlush,
        16 => Fault::ClientKill {
            kind: ["normal", "pubsub"][rng.below(2)],
        },
        17 => Fault::FlushAll,
        _ => Fault::RedisForgets {
            down: ttls(0.0, 1.5),
            // Up to about a second's.
            bytes: rng.below(40_000) as u64,
        },
    }
}

fn draw_submissions(rng: &mut Rng, ttl: Duration, length: Duration) -> Vec<(Duration, Vec<Work>)> {
    let mut submissions = Vec::new();
    let (mut at, mut streams) = (Duration::ZERO, 0);
    while at < length {
        let batch = (0..1 + rng.below(3))
            .map(|_| {
                // Some are announced again, while they are worked on or later.
                let again = streams > 0 && rng.below(20) == 0;
                let number = if again { rng.below(streams) } else { streams };
                streams += usize::from(!again);
                draw_work(rng, number, ttl)
            })
            .collect();
        submissions.push((at, batch));
        at += rng.between(Duration::from_millis(100), Duration::from_millis(400));
    }
    submissions
}

fn draw_work(rng: &mut Rng, number: usize, ttl: Duration) -> Work {
    let time = if rng.below(5) == 0 {
        // So long that its program may outlive its lease, after its worker's death.
        rng.between(ttl * 3 / 2, ttl * 3)
    } else {
        rng.between(Duration::from_millis(50), Duration::from_millis(500))
    };
    let info = json!({
        "parts": 2 + rng.below(6),
        "work_ms": time.as_millis() as u64,
        // For whoever is not the first.
        "check_ms": rng.between(Duration::ZERO, ttl).as_millis() as u64,
        // So many of those who begin it exit with 1.
        "fails": usize::from(rng.below(12) == 0) + usize::from(rng.below(40) == 0),
    });
    Work {
        stream: format!("call-{number}"),
        info: info.to_string(),
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.next() % (span + 1))
    }
}
