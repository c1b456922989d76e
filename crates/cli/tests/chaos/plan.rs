//! What a round does and when, all of it drawn from its seed.

use std::time::Duration;

use serde_json::json;

use crate::deployment::Mode;
use crate::draw::{Wish, draw};
use crate::faults::Fault;

/// So many workers there are at a time.
pub(crate) const WORKERS: usize = 4;

/// What may be asked of a round (issue 3): with lost writes less can be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// What Redis has acknowledged stays (`appendfsync always`).
    Durable,
    /// Redis may lose its last writes (the end of its append-only file, what a replica
    /// did not have yet), single keys (deleted, evicted), or everything (FLUSHALL).
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
    pub(crate) mode: Mode,
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
    /// So many of those who begin on it fail.
    pub(crate) fails: usize,
}

impl Plan {
    /// Class, TTL and locks drawn, too; `only` as in [`Wish`].
    pub(crate) fn drawn(
        seed: u64,
        class: Option<Class>,
        mode: Mode,
        length: Duration,
        only: &[String],
    ) -> Self {
        let mut rng = Rng(seed);
        let drawn = match rng.below(3) {
            0 => Class::Lossy,
            _ => Class::Durable,
        };
        let ttl = Duration::from_millis([600, 1_000, 2_000][rng.below(3)]);
        let locks = match [Locks::PerStream, Locks::Session][rng.below(2)] {
            _ if mode == Mode::Cluster => Locks::Session,
            drawn => drawn,
        };
        Self::new(
            locks,
            Wish {
                seed,
                class: class.unwrap_or(drawn),
                mode,
                ttl,
                length,
                only,
                harmless: false,
            },
        )
    }

    pub(crate) fn new(locks: Locks, wish: Wish<'_>) -> Self {
        let Wish {
            seed,
            class,
            mode,
            ttl,
            length,
            ..
        } = wish;
        // Sources of their own, so that a change of one leaves the others as they are.
        let faults = draw(wish);
        assert!(
            class == Class::Lossy || !faults.iter().any(|(_, fault)| fault.is_lossy()),
            "a durable round loses nothing"
        );
        let mut submissions = draw_submissions(&mut Rng(seed ^ 0x5B), ttl, length);
        submissions.push(draw_hopeless(&mut Rng(seed ^ 0xBAD), length));
        Self {
            seed,
            class,
            mode,
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
    let parts = 2 + rng.below(6);
    // For whoever is not the first.
    let check = rng.between(Duration::ZERO, ttl);
    let fails = usize::from(rng.below(12) == 0) + usize::from(rng.below(40) == 0);
    Work::new(format!("call-{number}"), [time, check], parts, fails, 0)
}

/// One that is quarantined in the end, as nobody can finish it.
fn draw_hopeless(rng: &mut Rng, length: Duration) -> (Duration, Vec<Work>) {
    let time = Duration::from_millis(50);
    let work = Work::new("hopeless".into(), [time, time], 2, usize::MAX, 0);
    (rng.between(Duration::ZERO, length / 4), vec![work])
}

impl Work {
    /// `padding`: bytes by which its info is larger than it has to be.
    pub(crate) fn new(
        stream: String,
        [time, check]: [Duration; 2],
        parts: usize,
        fails: usize,
        padding: usize,
    ) -> Self {
        let info = json!({
            "parts": parts,
            "work_ms": time.as_millis() as u64,
            "check_ms": check.as_millis() as u64,
            // So many of those who begin it exit with 1.
            "fails": fails,
            "padding": "x".repeat(padding),
        });
        Self {
            stream,
            info: info.to_string(),
            fails,
        }
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

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.next() % (span + 1))
    }
}
