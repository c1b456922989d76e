//! What one input costs the bare state machine, at 1,000 and at 100,000 leases.
//!
//! `cargo bench -p streamlease-benches --bench machine [-- --smoke] [-- --json FILE]`
//!
//! The reference beside it is the least that could be done with the same input:
//! one insert into and one removal from a `BTreeMap` of as many entries.
#![allow(clippy::unwrap_used, reason = "a benchmark stops where it is wrong")]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use streamlease_benches::{Table, is_smoke};
use streamlease_core::machine::{
    Action, ActionId, CallId, Command, Config, Input, LbsCall, LocksCall, Machine, Notice, Output,
    Reply,
};
use streamlease_core::{
    Acquire, AcquireOutcome, Announcement, ClaimOutcome, CompleteOutcome, ConsumerName, Delivery,
    EntryId, FencingToken, Fetched, Hint, Info, LeaseRef, LockScheme, OpenOutcome, PendingIds,
    PendingPage, Release, ReleaseOutcome, RenewOutcome, Renewal, Settings, StreamName, Timestamp,
};

/// A machine and a backend that answers everything at once and well.
struct Bench {
    machine: Machine,
    now: Timestamp,
    /// Entries that nobody has had.
    waiting: VecDeque<Delivery>,
    fetch: Option<(ActionId, usize)>,
    held: VecDeque<(EntryId, FencingToken)>,
    /// What the lock server has on record.
    leases: BTreeMap<StreamName, LeaseRef>,
    token: u64,
    /// Inputs that the machine has handled, and the time it took for them.
    inputs: u64,
    spent: Duration,
}

impl Bench {
    fn new(scheme: LockScheme, capacity: usize) -> Self {
        let mut settings = Settings::default();
        settings.capacity = capacity;
        settings.event_queue = 1_000_000;
        let consumer = ConsumerName::from_identity("bench").unwrap();
        let now = Timestamp::from_millis(1_000);
        let config = Config {
            consumer,
            settings,
            scheme,
            seed: 1,
        };
        Self {
            machine: Machine::new(config, now),
            now,
            waiting: VecDeque::new(),
            fetch: None,
            held: VecDeque::new(),
            leases: BTreeMap::new(),
            token: 0,
            inputs: 0,
            spent: Duration::ZERO,
        }
    }

    fn submit(&mut self, entries: std::ops::Range<u64>) {
        self.waiting.extend(entries.map(|n| {
            let stream = StreamName::new(format!("stream-{n}")).unwrap();
            Delivery {
                entry: EntryId::new(n + 1, 0),
                content: Ok(Announcement::new(stream, Info::NONE)),
            }
        }));
        self.run();
    }

    fn handle(&mut self, input: Input) {
        let start = Instant::now();
        self.machine.handle(self.now, input);
        self.spent += start.elapsed();
        self.inputs += 1;
    }

    /// Until the machine wants nothing more.
    fn run(&mut self) {
        loop {
            let start = Instant::now();
            let output = self.machine.poll_output();
            self.spent += start.elapsed();
            match output {
                Output::Action(id, Action::Lbs(LbsCall::Fetch { max, wait })) => {
                    self.fetch = Some((id, max));
                    if wait.is_zero() {
                        self.answer_fetch();
                    }
                }
                Output::Action(id, action) => {
                    let reply = self.execute(action);
                    self.handle(Input::Done(id, Ok(reply)));
                }
                Output::Notice(Notice::Added { entry, token, .. }) => {
                    self.held.push_back((entry, token));
                    self.handle(Input::EventsTaken(1));
                }
                Output::Timeout(_) if self.fetch.is_some() && !self.waiting.is_empty() => {
                    self.answer_fetch();
                }
                Output::Timeout(_) => return,
                Output::Stopped => panic!("the machine has stopped"),
                Output::Notice(_) | Output::Answer(..) | Output::Cancel(_) => {}
            }
        }
    }

    fn answer_fetch(&mut self) {
        let Some((id, max)) = self.fetch.take() else {
            return;
        };
        let page = self.waiting.len().min(max);
        let entries = self.waiting.drain(..page).collect();
        let backlog = self.waiting.len() as u64;
        let fetched = Reply::Fetched(Fetched { entries, backlog });
        self.handle(Input::Done(id, Ok(fetched)));
    }

    fn execute(&mut self, action: Action) -> Reply {
        match action {
            Action::Lbs(LbsCall::Prepare) => Reply::Prepared,
            Action::Locks(LocksCall::Open(_)) => Reply::Opened(OpenOutcome::Opened),
            Action::Locks(LocksCall::Acquire(_, page)) => Reply::Acquired(
                page.into_iter()
                    .map(|Acquire { stream, entry, .. }| {
                        self.token += 1;
                        let token = FencingToken(self.token);
                        let lease = LeaseRef {
                            stream: stream.clone(),
                            entry,
                            token,
                        };
                        self.leases.insert(stream, lease);
                        AcquireOutcome::Acquired(token)
                    })
                    .collect(),
            ),
            Action::Locks(LocksCall::Records { after, max, .. }) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let later = self.leases.range((from, Bound::Unbounded));
                Reply::Records(later.take(max).map(|(_, lease)| lease.clone()).collect())
            }
            Action::Lbs(LbsCall::Claim(page) | LbsCall::Keep(page)) => {
                let claimed = ClaimOutcome::Claimed {
                    from: None,
                    failures: 0.into(),
                };
                Reply::Claimed(vec![claimed; page.len()])
            }
            Action::Lbs(LbsCall::Complete(page)) => {
                Reply::Completed(vec![CompleteOutcome::Completed; page.len()])
            }
            Action::Locks(LocksCall::Release(_, page)) => {
                for Release { lease, .. } in &page {
                    self.leases.remove(&lease.stream);
                }
                Reply::Released(vec![ReleaseOutcome::Released; page.len()])
            }
            Action::Locks(LocksCall::Renew { .. }) => {
                let mut reply = Renewal::default();
                reply.members = 1;
                reply.on_record = Some(self.leases.len() as u64);
                Reply::Renewed(RenewOutcome::Extended(reply))
            }
            Action::Lbs(LbsCall::Paused) => Reply::Paused(None),
            Action::Lbs(LbsCall::List { .. }) => Reply::Listed(PendingPage::default()),
            Action::Lbs(LbsCall::ListIds { .. }) | Action::Lbs(LbsCall::ListStranded { .. }) => {
                Reply::ListedIds(PendingIds::default())
            }
            Action::Locks(LocksCall::Members) => Reply::Members(Vec::new()),
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Nanoseconds per input of what `work` does.
    fn measure(&mut self, work: impl FnOnce(&mut Self)) -> u64 {
        (self.inputs, self.spent) = (0, Duration::ZERO);
        work(self);
        u64::try_from(self.spent.as_nanos()).unwrap() / self.inputs.max(1)
    }
}

fn main() -> std::io::Result<()> {
    let sizes: &[u64] = if is_smoke() {
        &[100, 1_000]
    } else {
        &[1_000, 100_000]
    };
    let rounds = if is_smoke() { 1_000 } else { 100_000 };
    let mut table = Table::new(
        "machine: ns per input (least of five runs)",
        &[
            "scheme",
            "leases",
            "assign+complete",
            "hint",
            "heartbeat",
            "reference",
        ],
    );
    for scheme in [LockScheme::Session, LockScheme::PerStream] {
        for &size in sizes {
            let figures = (0..5)
                .map(|_| run(scheme, size, rounds))
                .reduce(least)
                .unwrap();
            let mut row = vec![format!("{scheme:?}"), size.to_string()];
            row.extend(figures.map(|ns| ns.to_string()));
            table.row(row);
        }
    }
    table.finish()
}

fn least(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|i| a[i].min(b[i]))
}

fn run(scheme: LockScheme, size: u64, rounds: u64) -> [u64; 4] {
    let mut bench = Bench::new(scheme, size as usize + 1_000);
    bench.submit(0..size);
    assert_eq!(bench.machine.held() as u64, size);

    // One stream in, the oldest out, with everything that takes.
    let assign = bench.measure(|bench| {
        for n in size..size + rounds / 100 {
            bench.submit(n..n + 1);
            let (entry, token) = bench.held.pop_front().unwrap();
            let call = CallId(n);
            bench.handle(Input::Command(Command::Complete { entry, token, call }));
            bench.run();
        }
    });
    let hint = bench.measure(|bench| {
        for n in 0..rounds {
            let stream = StreamName::new(format!("stream-{}", n % size)).unwrap();
            bench.handle(Input::Hint(Hint::Freed(vec![stream])));
        }
        bench.run();
    });
    // A heartbeat is linear in the leases at worst: per lease it must stay small.
    let heartbeats = 10;
    let heartbeat = bench.measure(|bench| {
        for _ in 0..heartbeats {
            bench.now = bench.now + Settings::default().heartbeat_interval();
            let start = Instant::now();
            let now = bench.now;
            bench.machine.handle_timeout(now);
            bench.spent += start.elapsed();
            bench.inputs += 1;
            bench.run();
        }
    });
    [assign, hint, heartbeat, reference(size, rounds)]
}

fn reference(size: u64, rounds: u64) -> u64 {
    let mut map: BTreeMap<EntryId, u64> = (0..size).map(|n| (EntryId::new(n, 0), n)).collect();
    let start = Instant::now();
    for n in 0..rounds {
        map.insert(EntryId::new(size + n, 0), n);
        map.remove(&EntryId::new(n, 0));
    }
    assert_eq!(map.len() as u64, size);
    u64::try_from(start.elapsed().as_nanos()).unwrap() / rounds
}
