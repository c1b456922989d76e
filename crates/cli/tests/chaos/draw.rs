//! Which faults come when. There are two lists, each with a source of its own, so that
//! an old seed still has the faults by which it is remembered: of processes, network
//! and server; and of what operators and limits do to keys, groups, rights and memory.

use std::time::Duration;

use crate::deployment::Mode;
use crate::faults::{DECIDING_KEYS, Fault, OTHER_PASSWORD, SPARE_KEYS};
use crate::plan::{Class, Rng, WORKERS};

/// Kinds of the first list; the last two only where writes may be lost.
const FIRST: usize = 20;
/// Kinds of the second list; the last five only where writes may be lost.
const SECOND: usize = 22;

/// Kinds of the third list, of what happens to one owner among several servers.
const THIRD: usize = 5;

/// Kinds by name on one server, all keys of the service taken for one.
pub(crate) const KINDS: usize = 40;

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) seed: u64,
    pub(crate) class: Class,
    pub(crate) mode: Mode,
    pub(crate) ttl: Duration,
    pub(crate) length: Duration,
    /// Nothing else than what has one of these in its kind.
    pub(crate) only: &'a [String],
    /// Nothing for which somebody that lives may lose a lease.
    pub(crate) harmless: bool,
}

impl Wish<'_> {
    fn allows(&self, fault: &Fault) -> bool {
        let is_named = || self.only.iter().any(|text| fault.kind().contains(text));
        let is_possible =
            fault.suits(self.mode) && (self.class == Class::Lossy || !fault.is_lossy());
        is_possible
            && (self.only.is_empty() || is_named())
            && !(self.harmless && fault.may_cost_leases())
    }
}

pub(crate) fn draw(wish: Wish<'_>) -> Vec<(Duration, Fault)> {
    let is_durable = usize::from(wish.class == Class::Durable);
    let millis = Duration::from_millis;
    let (mut first, mut second) = (
        (FIRST - 2 * is_durable, millis(200), millis(700)),
        (SECOND - 5 * is_durable, millis(500), millis(1_300)),
    );
    if !wish.only.is_empty() {
        // Few kinds shall leave room for what follows from each.
        (first.1, first.2) = (millis(1_000), millis(3_000));
        (second.1, second.2) = (millis(700), millis(2_000));
    }
    let mut faults = draw_list(wish, &mut Rng(wish.seed ^ 0xFA17), first, draw_first);
    let more = draw_list(wish, &mut Rng(wish.seed ^ 0x0BE7), second, draw_second);
    faults.extend(more);
    if wish.mode != Mode::Name {
        let third = (THIRD, millis(2_500), millis(5_000));
        faults.extend(draw_list(
            wish,
            &mut Rng(wish.seed ^ 0x0C1A),
            third,
            draw_third,
        ));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn draw_list(
    wish: Wish<'_>,
    rng: &mut Rng,
    (kinds, from, to): (usize, Duration, Duration),
    draw_fault: fn(&mut Rng, usize, Duration) -> Fault,
) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    // Everybody gets to work first.
    let mut at = Duration::from_millis(800);
    // Each kind comes once before any comes again, so that short rounds have most.
    let mut bag = Vec::new();
    // In vain, if this list has nothing of what is asked for.
    let mut tries = 0;
    loop {
        at += rng.between(from, to);
        if at >= wish.length {
            return faults;
        }
        let fault = loop {
            if bag.is_empty() {
                bag = (0..kinds).collect();
            }
            let kind = bag.swap_remove(rng.below(bag.len()));
            let fault = draw_fault(rng, kind, wish.ttl);
            if wish.allows(&fault) {
                break fault;
            }
            tries += 1;
            if tries > 10_000 {
                return faults;
            }
        };
        faults.push((at, fault));
    }
}

fn draw_first(rng: &mut Rng, kind: usize, ttl: Duration) -> Fault {
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
        17 => Fault::DelayEntry {
            worker,
            time: ttls(1.2, 3.0),
        },
        18 => Fault::FlushAll,
        _ => Fault::RedisForgets {
            down: ttls(0.0, 1.5),
            // Up to about a second's.
            bytes: rng.below(40_000) as u64,
        },
    }
}

fn draw_second(rng: &mut Rng, kind: usize, ttl: Duration) -> Fault {
    let worker = rng.below(WORKERS);
    let mut ttls = |from: f64, to: f64| rng.between(ttl.mul_f64(from), ttl.mul_f64(to));
    match kind {
        0 => Fault::FailOver,
        1 => Fault::FullMemory {
            time: ttls(0.5, 3.0),
        },
        2 => Fault::RefuseWrites {
            time: ttls(0.3, 2.0),
        },
        3..=4 => Fault::DeleteKey {
            key: SPARE_KEYS[rng.below(SPARE_KEYS.len())],
        },
        5 => Fault::ForgetLiving { worker },
        6 => Fault::ForgetDead { worker },
        7 => Fault::Acknowledge {
            entries: 1 + rng.below(8),
        },
        8 => Fault::GroupAnew,
        9 => Fault::SetId {
            id: ["0", "$"][rng.below(2)],
        },
        10 => Fault::OddSession,
        11 => Fault::Malformed,
        12 => Fault::NoRights {
            time: ttls(0.3, 2.0),
            rights: RIGHTS[rng.below(RIGHTS.len())],
            worker: (rng.below(3) > 0).then_some(worker),
        },
        13 => Fault::NoRights {
            time: ttls(0.3, 2.0),
            rights: OTHER_PASSWORD,
            worker: (rng.below(3) > 0).then_some(worker),
        },
        14 => Fault::StartBeforeServer {
            worker,
            down: ttls(0.5, 3.0),
        },
        15 => Fault::SlowLink {
            time: ttls(2.0, 5.0),
            worker: (rng.below(2) > 0).then_some(worker),
            streams: 4 + rng.below(17),
            kilobytes: 100 + rng.below(21),
            rate: [400_000, 1_000_000, 4_000_000][rng.below(3)],
        },
        16 => Fault::SlowConnect {
            worker,
            // From what is longer than a call may take to longer than a session lives.
            delay: ttls(0.25, 1.5),
            time: ttls(2.0, 5.0),
        },
        17 => Fault::PromoteReplica {
            // What both accept overlaps for so long.
            gap: ttls(0.0, 0.4),
        },
        18 => Fault::Evict {
            time: ttls(0.5, 2.0),
            policy: ["allkeys-lru", "allkeys-lfu", "allkeys-random"][rng.below(3)],
        },
        19 => Fault::DeleteKey {
            key: DECIDING_KEYS[rng.below(DECIDING_KEYS.len())],
        },
        20 => Fault::DeleteLbs,
        _ => Fault::SpoilRecord,
    }
}

fn draw_third(rng: &mut Rng, kind: usize, ttl: Duration) -> Fault {
    let mut ttls = |from: f64, to: f64| rng.between(ttl.mul_f64(from), ttl.mul_f64(to));
    match kind {
        0 => Fault::KillOwner {
            down: ttls(0.0, 1.5),
        },
        1 => Fault::FreezeOwner {
            time: ttls(0.0, 2.0),
        },
        2 => Fault::ReplaceByAgreement,
        3 => Fault::ReplaceByHand,
        _ => Fault::MoveSlot,
    }
}

/// What may be taken from a user.
const RIGHTS: [&str; 6] = [
    "-@scripting",
    "-@all",
    "-@write",
    "-xreadgroup",
    "-info",
    "resetkeys",
];
