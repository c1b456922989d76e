//! One run: clients, a producer and the model backend on one queue of events
//! in virtual time.
//!
//! A client here is the machine itself, driven as the driver does it: every
//! action is a request that travels, is executed at one instant (perhaps after
//! its caller gave up), and whose reply travels back, all independently.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use streamlease_core::machine::{
    Action, ActionId, CallId, Command, Config, End, Input, Machine, Notice, Output, Reply,
};
use streamlease_core::{
    Announcement, BeatOutcome, ClaimMode, ConsumerName, EntryId, Error, ErrorKind, FencingToken,
    Fetched, Hint, Info, LockScheme, MalformedReason, RetryPolicy, Settings, StreamName, Timestamp,
};

use super::checker::{Checker, Until, Violation, Watch};
use super::faults::{Fault, Manual, Plan, Rng};
use super::model::Mutant;
use super::model::lbs::Lbs;
use super::model::locks::Locks;

/// Nanoseconds since the start of the run, on the one true clock.
type Time = u64;

/// Milliseconds since the Unix epoch at the start of a run.
const EPOCH_MS: i64 = 1_700_000_000_000;

const SECOND: Time = 1_000_000_000;

/// A run that is over earlier goes on for a while.
const LEAST_STEPS: u64 = 1_000;

fn ns(d: Duration) -> Time {
    d.as_nanos() as Time
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// Inputs of machines and effects on the backend.
    pub steps: u64,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Leases that went from one process to another.
    pub takeovers: u64,
    /// Leases given to users.
    pub added: u64,
    /// Why the run is of the class *lossy*; empty: *durable*.
    pub lossy: BTreeSet<&'static str>,
    /// From the end of the faults until everything was finished.
    pub converged: Duration,
    /// From the last crash until everything it had was leased elsewhere, beyond
    /// its TTL; with automatic claiming.
    pub failover: Option<Duration>,
    /// Acquires per stream that the last crash freed, in thousandths.
    pub herd: u64,
    /// The rule that did not hold, if any.
    pub violation: Option<Violation>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

#[derive(Debug)]
enum Event {
    Execute(usize, ActionId, Action),
    Reply(usize, ActionId, streamlease_core::Result<Reply>),
    GiveUp(usize, ActionId),
    WaitOver(usize, ActionId),
    Wake(usize, u64),
    Hint(usize, Hint),
    Take(usize),
    Work(usize, EntryId, FencingToken, StreamName),
    Claim(usize, EntryId, StreamName, Info),
    Write(usize, StreamName, FencingToken),
    Start(ConsumerName),
    Fault(usize),
    Submit,
    Sample,
    Heal,
}

/// Ordered by time, then by order of creation.
struct Queued(Time, u64, Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A process's clock: ticks per million of true ones, since a point.
struct Clock {
    at: Time,
    local: u64,
    rate: u64,
}

impl Clock {
    fn read(&self, now: Time) -> Timestamp {
        let passed = u128::from(now.saturating_sub(self.at)) * u128::from(self.rate) / 1_000_000;
        Timestamp::from_nanos(self.local + passed as u64)
    }

    /// The first true time at which the clock shows `local`.
    fn when(&self, local: Timestamp, now: Time) -> Time {
        let left = u128::from(local.as_nanos().saturating_sub(self.local));
        let passed = (left * 1_000_000).div_ceil(u128::from(self.rate));
        let at = u128::from(self.at) + passed;
        (at.min(u128::from(Time::MAX / 2)) as Time).max(now)
    }

    fn set_rate(&mut self, now: Time, rate: u64) {
        self.local = self.read(now).as_nanos();
        self.at = self.at.max(now);
        self.rate = rate;
    }

    fn stop_until(&mut self, now: Time, until: Time) {
        self.local = self.read(now).as_nanos();
        self.at = until;
    }
}

enum Queue {
    Added(EntryId, FencingToken, StreamName),
    Expired(EntryId, StreamName, Info),
    Other,
}

struct Node {
    name: ConsumerName,
    machine: Machine,
    settings: Settings,
    clock: Clock,
    rng: Rng,
    /// Neither crashed nor terminated.
    runs: bool,
    leaving: bool,
    paused_until: Time,
    /// When each was sent, and whether it is a beat.
    awaited: BTreeMap<ActionId, (Timestamp, bool)>,
    wake: u64,
    wake_at: Timestamp,
    events: VecDeque<Queue>,
    taking: bool,
    slow_until: Time,
    requests_lost_until: Time,
    replies_lost_until: Time,
    last_call: u64,
}

/// A blocking fetch that waits at the server.
struct Waiter {
    node: usize,
    id: ActionId,
    max: usize,
}

pub(super) struct World {
    plan: Plan,
    mutant: Option<Mutant>,
    now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    created: u64,
    rng: Rng,
    nodes: Vec<Node>,
    lbs: Lbs,
    locks: Locks,
    waiters: Vec<Waiter>,
    /// Earlier states of both servers, for faults that bring them back.
    history: VecDeque<(Time, Locks, Lbs)>,
    keeps_history: bool,
    locks_down_until: Time,
    lbs_down_until: Time,
    locks_clock_ms: i64,
    lbs_clock_ms: i64,
    jumped_forward_ms: i64,
    set_back_ms: i64,
    storm_until: Time,
    bad_hints_until: Time,
    no_hints_until: Time,
    calm: bool,
    /// Leases are worked on without end.
    endless: bool,
    streams: Vec<StreamName>,
    names: u64,
    /// Announcements that are still to come.
    unsubmitted: u64,
    checker: Checker,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    trace: Option<Vec<String>>,
}

macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!("{:>12.6} {}", $world.now as f64 / 1e9, format_args!($($what)*)));
        }
    };
}

impl World {
    pub(super) fn new(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Self {
        let keeps_history = plan.faults.iter().any(|(_, fault)| {
            matches!(
                fault,
                Fault::LbsRestored { .. } | Fault::LocksRestart { .. }
            )
        });
        let mut world = Self {
            plan: plan.clone(),
            mutant,
            now: 0,
            queue: BinaryHeap::new(),
            created: 0,
            rng: Rng::new(plan.seed),
            nodes: Vec::new(),
            lbs: Lbs::new(mutant),
            locks: Locks::new(plan.scheme, mutant),
            waiters: Vec::new(),
            history: VecDeque::new(),
            keeps_history,
            locks_down_until: 0,
            lbs_down_until: 0,
            locks_clock_ms: EPOCH_MS,
            lbs_clock_ms: EPOCH_MS,
            jumped_forward_ms: 0,
            set_back_ms: 0,
            storm_until: 0,
            bad_hints_until: 0,
            no_hints_until: 0,
            calm: false,
            endless: false,
            streams: Vec::new(),
            names: 0,
            unsubmitted: plan.streams,
            checker: Checker::new(plan.scheme),
            steps: 0,
            faults: BTreeMap::new(),
            trace: traced.then(Vec::new),
        };
        for _ in 0..plan.nodes {
            let name = world.new_name();
            let at = ns(world.rng.between(Duration::ZERO, plan.ttl / 4));
            world.push(at, Event::Start(name));
        }
        for _ in 0..plan.streams {
            let at = ns(world.rng.between(Duration::ZERO, plan.trouble));
            world.push(at, Event::Submit);
        }
        for (nth, (at, _)) in plan.faults.iter().enumerate() {
            world.push(ns(*at), Event::Fault(nth));
        }
        world.push(ns(plan.trouble), Event::Heal);
        world.push(0, Event::Sample);
        world
    }

    // --- the run ----------------------------------------------------------------------------

    pub(super) fn run(mut self) -> Outcome {
        self.run_until(ns(self.plan.trouble), |_| false);
        let healed = self.now;
        let bound = self.bound();
        self.run_until(healed + bound, |world| {
            world.lbs.is_empty() && world.unsubmitted == 0
        });
        let (now, converged) = (
            Duration::from_nanos(self.now),
            Duration::from_nanos(self.now - healed),
        );
        if self.checker.violation.is_none() {
            self.checker.check_finished(now, &self.lbs);
        }
        let (mut failover, mut herd) = (None, 0);
        if self.checker.violation.is_none() {
            (failover, herd) = self.last_crash();
        }
        while self.steps < LEAST_STEPS && self.checker.violation.is_none() {
            self.run_until(self.now + ns(self.plan.ttl), |_| false);
        }
        if self.checker.violation.is_none() {
            self.shut_all_down();
        }
        Outcome {
            steps: self.steps,
            faults: self.faults,
            takeovers: self.checker.takeovers,
            added: self.checker.added,
            lossy: self.checker.lossy,
            converged,
            failover,
            herd,
            violation: self.checker.violation,
            trace: self.trace.unwrap_or_default(),
        }
    }

    /// Runs until `time`, a violation, or until `done`.
    fn run_until(&mut self, time: Time, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if self.checker.violation.is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(Reverse(Queued(at, _, _))) if *at <= time => {}
                _ => {
                    self.now = time;
                    return false;
                }
            }
            let Some(Reverse(Queued(at, _, event))) = self.queue.pop() else {
                return false;
            };
            self.now = at;
            self.dispatch(event);
        }
    }

    /// How long everything may take once the faults have stopped: late requests
    /// still execute, a foreign consumer is given max(TTL, 5 s), a sweep comes
    /// every 2 TTL (+ a beat) and sees an entry at a live consumer as unlocked
    /// twice; then each entry of a data stream waits for the one before it.
    fn bound(&self) -> Time {
        let ttl = ns(self.checker.longest_ttl);
        let grace = ttl.max(5 * SECOND);
        let back = self.set_back_ms as Time * 1_000_000;
        let rounds = 8 * ttl;
        let again = self
            .plan
            .faults
            .iter()
            .filter(|(_, f)| matches!(f, Fault::Again { .. }));
        let again = again.count() as Time;
        3 * ttl + grace + rounds + again * 4 * ttl + back + 8 * ttl
    }

    /// R9, R10, R11 without any other trouble: one process dies, another one's
    /// user is slow; the rest takes over, in time and without a herd.
    fn last_crash(&mut self) -> (Option<Duration>, u64) {
        self.endless = true;
        let ttl = ns(self.checker.longest_ttl);
        let mut rooms: Vec<_> = self
            .running()
            .map(|n| self.nodes[n].settings.capacity)
            .collect();
        rooms.sort_unstable();
        let slow_too = rooms.len() > 3;
        // Enough without the largest, and without the slow one.
        let most = rooms.pop().unwrap_or(0);
        if slow_too {
            rooms.remove(1);
        }
        let count = rooms.iter().sum::<usize>().min(most).min(12);
        // By now the server has noticed which connections are gone.
        let nodes = &self.nodes;
        self.waiters.retain(|w| nodes[w.node].runs);
        let first = self.streams.len();
        for _ in 0..count {
            self.submit_new();
        }
        let leased = |world: &Self| {
            world.streams[first..]
                .iter()
                .all(|stream| !world.checker.holders(stream).is_empty())
        };
        // A fetch whose answer was lost is given up only when its wait is over.
        let deaf = 5 * SECOND + ttl.max(2 * SECOND);
        let start = self.now;
        if !self.run_until(start + 4 * ttl + deaf, leased) {
            self.checker.fail(
                "R9",
                format!("{count} fresh streams are not leased in time"),
            );
            return (None, 0);
        }
        // Two beats, so that everybody knows everybody.
        self.run_until(self.now + ttl, |_| false);
        self.run_until(self.now + 4 * ttl + deaf, leased);
        let Some(victim) = self.running().max_by_key(|n| self.checker.views(*n)) else {
            return (None, 0);
        };
        let others = self.running().filter(|n| *n != victim && slow_too);
        let slow = others.min_by_key(|n| self.nodes[*n].settings.capacity);
        if let Some(slow) = slow {
            self.nodes[slow].slow_until = self.now + 3 * ttl;
        }
        let freed = self.checker.views(victim) as u64;
        let (acquires, claims) = (self.checker.acquires, self.checker.new_claims);
        let (crashed, dies_within) = (self.now, ns(self.nodes[victim].settings.ttl));
        self.crash(victim);
        if freed == 0 || self.checker.violation.is_some() {
            return (None, 0);
        }
        // With manual claiming a claim that lost, or found no room, is made
        // again when the next sweep reports the stream.
        let slack = ttl / 2 + SECOND / 2 + self.plan.by_hand() * 4 * ttl;
        let lost = slow.map(|slow| self.checker.lost(slow));
        let in_time = self.run_until(crashed + dies_within + slack, leased);
        if let (Some(slow), Some(lost)) = (slow, lost)
            && self.checker.lost(slow) > lost
        {
            let what = format!("n{slow}'s user is slow, and it loses leases");
            self.checker.fail("R10", what);
        }
        if !in_time {
            let what = format!("a dead process's {freed} streams are not taken over in time");
            self.checker.fail("R9", what);
            return (None, 0);
        }
        let failover = Duration::from_nanos((self.now - crashed).saturating_sub(dies_within));
        self.run_until(self.now + ttl, |_| false);
        let herd = (self.checker.acquires - acquires) * 1_000 / freed;
        let claims = self.checker.new_claims - claims;
        if claims > freed + freed / 2 + 1 {
            let what = format!("{claims} claims for {freed} streams");
            self.checker.fail("R11", what);
        }
        // By hand it takes as long as the users do.
        let by_itself = self.plan.manual == Manual::Nobody;
        (by_itself.then_some(failover), herd)
    }

    /// Everybody hands back and ends; what they had stays on the LBS.
    fn shut_all_down(&mut self) {
        for node in self.running().collect::<Vec<_>>() {
            self.shut_down(node);
        }
        let ttl = ns(self.checker.longest_ttl);
        let ended = |world: &Self| world.running().next().is_none();
        if !self.run_until(self.now + 2 * ttl + SECOND, ended) {
            self.checker.fail("R12", "a shutdown does not end");
        }
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].runs && !self.nodes[*n].leaving)
    }

    fn push(&mut self, at: Time, event: Event) {
        self.created += 1;
        self.queue
            .push(Reverse(Queued(at.max(self.now), self.created, event)));
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Execute(node, id, action) => self.execute(node, id, action),
            Event::WaitOver(node, id) => self.wait_over(node, id),
            Event::Write(node, stream, token) => {
                self.steps += 1;
                self.checker
                    .write(Duration::from_nanos(self.now), &stream, token, node);
            }
            Event::Start(name) => self.start(name),
            Event::Fault(nth) => self.fault(nth),
            Event::Submit => {
                self.unsubmitted -= 1;
                self.submit_new();
            }
            Event::Sample => self.sample(),
            Event::Heal => self.heal(),
            Event::Reply(node, ..)
            | Event::GiveUp(node, ..)
            | Event::Wake(node, ..)
            | Event::Hint(node, ..)
            | Event::Take(node)
            | Event::Work(node, ..)
            | Event::Claim(node, ..) => {
                let paused_until = self.nodes[node].paused_until;
                if !self.nodes[node].runs {
                    return;
                }
                if paused_until > self.now {
                    return self.push(paused_until, event);
                }
                self.arrive(node, event);
            }
        }
    }

    // --- a process ---------------------------------------------------------------------------

    fn start(&mut self, name: ConsumerName) {
        let slot = self.nodes.len();
        let ttl = self.plan.ttl * if self.rng.below(4) == 0 { 2 } else { 1 };
        let manual = match self.plan.manual {
            Manual::Nobody => false,
            Manual::All => true,
            Manual::Some => slot % 2 == 1,
        };
        let mut settings = Settings::default();
        settings.ttl = ttl;
        settings.capacity = match self.rng.below(4) {
            0 => 3 + self.rng.below(4) as usize,
            1 => 8 + self.rng.below(8) as usize,
            _ => 20 + self.rng.below(30) as usize,
        };
        settings.event_queue = match self.rng.below(3) {
            0 => 2 + self.rng.below(6) as usize,
            _ => 64,
        };
        settings.claim = if manual {
            ClaimMode::Manual
        } else {
            ClaimMode::Automatic
        };
        settings.retry = RetryPolicy {
            max: ttl,
            ..RetryPolicy::UNLIMITED
        };
        let clock = Clock {
            at: self.now,
            local: self.rng.below(100 * SECOND) + SECOND,
            rate: 1_000_000,
        };
        let seed = self.rng.next();
        let config = Config {
            consumer: name.clone(),
            settings: settings.clone(),
            scheme: self.plan.scheme,
            seed,
        };
        trace!(
            self,
            "n{slot} starts as {name}, ttl {ttl:?}, capacity {}, manual {manual}",
            settings.capacity
        );
        let margin = (ttl / 10).max(Duration::from_millis(50));
        self.checker.watch(Watch::new(
            ttl,
            margin,
            settings.capacity,
            settings.event_queue,
        ));
        self.nodes.push(Node {
            name,
            machine: Machine::new(config, clock.read(self.now)),
            settings,
            clock,
            rng: Rng::new(seed ^ 0xabcd),
            runs: true,
            leaving: false,
            paused_until: 0,
            awaited: BTreeMap::new(),
            wake: 0,
            wake_at: Timestamp::MAX,
            events: VecDeque::new(),
            taking: false,
            slow_until: 0,
            requests_lost_until: 0,
            replies_lost_until: 0,
            last_call: 0,
        });
        self.feed(slot, Some(Input::Hint(Hint::MayHaveMissed)));
    }

    fn crash(&mut self, node: usize) {
        trace!(self, "n{node} crashes");
        self.nodes[node].runs = false;
        self.checker.crashed(node);
        self.drop_connection(node, None);
    }

    /// What waits at the server is removed once it notices, and if it is quick.
    fn drop_connection(&mut self, node: usize, id: Option<ActionId>) {
        if self.rng.permille(700) {
            self.waiters
                .retain(|w| w.node != node || id.is_some_and(|id| id != w.id));
        }
    }

    fn shut_down(&mut self, node: usize) {
        trace!(self, "n{node} is asked to stop");
        self.nodes[node].leaving = true;
        self.checker.asked_to_stop(node);
        let call = self.call(node);
        self.feed(
            node,
            Some(Input::Command(Command::Shutdown { call: Some(call) })),
        );
    }

    fn call(&mut self, node: usize) -> CallId {
        self.nodes[node].last_call += 1;
        CallId(self.nodes[node].last_call)
    }

    fn arrive(&mut self, node: usize, event: Event) {
        match event {
            Event::Reply(_, id, result) => {
                let Some((sent, is_beat)) = self.nodes[node].awaited.remove(&id) else {
                    return;
                };
                let result = self.bend(is_beat, result);
                if let Ok(reply) = &result {
                    self.checker.hears(node, sent, reply);
                }
                trace!(self, "n{node} hears {id:?} {result:?}");
                self.feed(node, Some(Input::Done(id, result)));
            }
            Event::GiveUp(_, id) => {
                if let Some((_, is_beat)) = self.nodes[node].awaited.remove(&id) {
                    self.drop_connection(node, Some(id));
                    trace!(self, "n{node} gives up {id:?}");
                    let result = self.bend(is_beat, Err(unavailable("no answer in time")));
                    self.feed(node, Some(Input::Done(id, result)));
                }
            }
            Event::Wake(_, wake) if self.nodes[node].wake == wake => self.feed(node, None),
            Event::Wake(..) => {}
            Event::Hint(_, hint) => {
                trace!(self, "n{node} hears {hint:?}");
                self.feed(node, Some(Input::Hint(hint)));
            }
            Event::Take(_) => self.take_event(node),
            Event::Work(_, entry, token, stream) => self.finish_work(node, entry, token, stream),
            Event::Claim(_, entry, stream, info) => {
                let call = self.call(node);
                self.checker.claimed_by_hand(node, entry);
                let command = Command::Claim {
                    entry,
                    stream,
                    info,
                    call,
                };
                self.feed(node, Some(Input::Command(command)));
            }
            _ => {}
        }
    }

    /// A backend that takes an error for a loss.
    fn bend(
        &self,
        is_beat: bool,
        result: streamlease_core::Result<Reply>,
    ) -> streamlease_core::Result<Reply> {
        match result {
            Err(_) if is_beat && self.mutant == Some(Mutant::ErrorIsLoss) => {
                Ok(Reply::Beaten(BeatOutcome::SessionGone))
            }
            result => result,
        }
    }

    /// One input of a machine (`None`: its timeout), and all that comes of it.
    fn feed(&mut self, node: usize, input: Option<Input>) {
        self.steps += 1;
        let now = Duration::from_nanos(self.now);
        let local = self.nodes[node].clock.read(self.now);
        self.checker.before(now, node, local);
        let machine = &mut self.nodes[node].machine;
        match input {
            Some(input) => machine.handle(local, input),
            None => machine.handle_timeout(local),
        }
        loop {
            match self.nodes[node].machine.poll_output() {
                Output::Action(id, action) => self.send(node, id, action),
                Output::Cancel(id) => {
                    self.nodes[node].awaited.remove(&id);
                    self.drop_connection(node, Some(id));
                }
                Output::Notice(notice) => self.notice(node, notice, local),
                Output::Answer(..) => {}
                Output::Timeout(at) => {
                    self.set_wake(node, at);
                    break;
                }
                Output::Stopped => {
                    if !self.checker.is_terminated(node) {
                        self.checker
                            .fail("R12", format!("n{node} stops without Terminated"));
                    }
                    self.nodes[node].runs = false;
                    break;
                }
            }
        }
        let (nodes, now) = (&self.nodes, self.now);
        self.checker.after(node, &|n| nodes[n].clock.read(now));
    }

    fn set_wake(&mut self, node: usize, at: Timestamp) {
        let n = &mut self.nodes[node];
        let (due, local) = (n.wake_at, n.clock.read(self.now));
        // What is set already, and not yet past, stays set.
        if at == due && due > local {
            return;
        }
        n.wake += 1;
        n.wake_at = at;
        let (wake, when) = (n.wake, n.clock.when(at, self.now));
        if at < Timestamp::MAX {
            self.push(when, Event::Wake(node, wake));
        }
    }

    fn notice(&mut self, node: usize, notice: Notice, local: Timestamp) {
        trace!(self, "n{node} tells {notice:?}");
        self.checker.noticed(node);
        match notice {
            Notice::Added {
                entry,
                stream,
                token,
                belief,
                ..
            } => {
                self.checker.queued(node);
                let until: Until = std::sync::Arc::new(move || belief.until());
                self.checker
                    .added(node, entry, &stream, token, until, local);
                self.nodes[node]
                    .events
                    .push_back(Queue::Added(entry, token, stream));
            }
            Notice::Expired {
                entry,
                stream,
                info,
                ..
            } => {
                self.checker.queued(node);
                self.nodes[node]
                    .events
                    .push_back(Queue::Expired(entry, stream, info));
            }
            Notice::Ended {
                entry, token, end, ..
            } => {
                self.checker.ended(node, entry, token, end, local);
                if self.mutant == Some(Mutant::EndsTwice) {
                    self.checker.ended(node, entry, token, end, local);
                }
                if matches!(end, End::Disowned(_)) {
                    self.nodes[node].events.push_back(Queue::Other);
                }
            }
            Notice::Quarantined { .. } => self.nodes[node].events.push_back(Queue::Other),
            Notice::Terminated { .. } => self.checker.terminated(node),
            _ => {}
        }
        self.take_soon(node);
    }

    // --- its user -----------------------------------------------------------------------------

    fn take_soon(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if n.taking || n.events.is_empty() {
            return;
        }
        n.taking = true;
        let at = self.now + ns(n.rng.between(Duration::ZERO, Duration::from_millis(3)));
        let at = at.max(n.slow_until);
        self.push(at, Event::Take(node));
    }

    fn take_event(&mut self, node: usize) {
        self.nodes[node].taking = false;
        if self.nodes[node].slow_until > self.now {
            return self.take_soon(node);
        }
        let Some(event) = self.nodes[node].events.pop_front() else {
            return;
        };
        let ttl = self.plan.ttl;
        match event {
            Queue::Added(entry, token, stream) => {
                self.checker.took(node);
                let most = if self.calm { ttl / 2 } else { ttl * 3 };
                let work = ns(self.nodes[node].rng.between(Duration::ZERO, most));
                if self.nodes[node].rng.permille(500) {
                    let write = self.nodes[node].rng.between(Duration::ZERO, ttl);
                    self.push(
                        self.now + ns(write),
                        Event::Write(node, stream.clone(), token),
                    );
                }
                if !self.endless {
                    self.push(self.now + work, Event::Work(node, entry, token, stream));
                }
            }
            Queue::Expired(entry, stream, info) => {
                self.checker.took(node);
                if self.calm || self.nodes[node].rng.permille(800) {
                    let most = Duration::from_millis(20);
                    let at = self.now + ns(self.nodes[node].rng.between(Duration::ZERO, most));
                    self.push(at, Event::Claim(node, entry, stream, info));
                }
            }
            Queue::Other => {}
        }
        let taken = match self.mutant {
            Some(Mutant::TakenTwice) => 2,
            _ => 1,
        };
        self.feed(node, Some(Input::EventsTaken(taken)));
        self.take_soon(node);
    }

    fn finish_work(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        stream: StreamName,
    ) {
        let draw = self.nodes[node].rng.below(20);
        let call = self.call(node);
        let command = match draw {
            0 | 1 if !self.calm => Command::HandBack {
                entry,
                token,
                failed: draw == 0,
                call: Some(call),
            },
            2 => {
                self.checker.asked_done_stream(node, &stream);
                Command::DoneStream { stream, call }
            }
            _ => {
                self.checker.asked_to_complete(node, entry, token);
                Command::Complete { entry, token, call }
            }
        };
        trace!(self, "n{node}'s user asks {command:?}");
        self.feed(node, Some(Input::Command(command)));
    }

    // --- the network ---------------------------------------------------------------------------

    fn send(&mut self, node: usize, id: ActionId, action: Action) {
        trace!(self, "n{node} sends {id:?} {action:?}");
        let now = self.now;
        let n = &mut self.nodes[node];
        let sent = n.clock.read(now);
        n.awaited
            .insert(id, (sent, matches!(action, Action::Beat { .. })));
        let ttl = n.settings.ttl;
        let limit = match &action {
            Action::Beat { .. } | Action::Open(_) => (ttl / 4).max(Duration::from_millis(50)),
            Action::Fetch { wait, .. } => *wait + ttl.max(Duration::from_secs(2)),
            _ => (ttl / 2).max(Duration::from_millis(500)),
        };
        let give_up = n.clock.when(sent + limit, now);
        let cut = n.requests_lost_until > now;
        self.push(give_up, Event::GiveUp(node, id));
        if self.mutant == Some(Mutant::SlowUserStopsBeats)
            && matches!(action, Action::Beat { .. })
            && self.nodes[node].slow_until > now
        {
            return;
        }
        let Some(delay) = self.travel(node).filter(|_| !cut) else {
            return self.break_connection(node, id, give_up);
        };
        self.push(now + delay, Event::Execute(node, id, action));
    }

    /// How long a message travels; `None` if it is lost.
    fn travel(&mut self, node: usize) -> Option<Time> {
        let (lost, late) = match (self.calm, self.storm_until > self.now) {
            (true, _) => (0, 0),
            (false, true) => (200, 300),
            (false, false) => (self.plan.lost_permille, self.plan.late_permille),
        };
        let ttl = self.plan.ttl;
        let rng = &mut self.nodes[node].rng;
        if rng.permille(lost) {
            return None;
        }
        let most = if rng.permille(late) {
            ttl * 3
        } else {
            Duration::from_millis(1)
        };
        Some(ns(rng.between(Duration::from_micros(50), most)))
    }

    /// A lost message is noticed by nobody, or at once.
    fn break_connection(&mut self, node: usize, id: ActionId, give_up: Time) {
        if self.nodes[node].rng.permille(300) {
            let at = self.now
                + self.nodes[node]
                    .rng
                    .below(give_up.saturating_sub(self.now) + 1);
            let result = Err(unavailable("the connection broke"));
            self.push(at, Event::Reply(node, id, result));
        }
    }

    fn answer(&mut self, node: usize, id: ActionId, result: streamlease_core::Result<Reply>) {
        let lost = self.nodes[node].replies_lost_until > self.now;
        match self.travel(node).filter(|_| !lost) {
            Some(delay) => self.push(self.now + delay, Event::Reply(node, id, result)),
            None => self.break_connection(node, id, self.now + SECOND),
        }
    }

    fn publish(&mut self, hints: Vec<Hint>) {
        for hint in hints {
            for node in 0..self.nodes.len() {
                if !self.nodes[node].runs || self.no_hints_until > self.now {
                    continue;
                }
                let ttl = self.plan.ttl;
                let bad = self.bad_hints_until > self.now;
                let cut = self.nodes[node].replies_lost_until > self.now;
                let rng = &mut self.nodes[node].rng;
                let times = if bad { rng.below(3) } else { 1 };
                let most = if bad {
                    ttl * 2
                } else {
                    Duration::from_millis(1)
                };
                for _ in 0..if cut { 0 } else { times } {
                    let delay = ns(self.nodes[node].rng.between(Duration::ZERO, most));
                    self.push(self.now + delay, Event::Hint(node, hint.clone()));
                }
            }
        }
    }

    // --- the servers -----------------------------------------------------------------------------

    fn locks_now(&self) -> u64 {
        (self.locks_clock_ms + (self.now / 1_000_000) as i64).max(1) as u64
    }

    fn lbs_now(&self) -> u64 {
        (self.lbs_clock_ms + (self.now / 1_000_000) as i64).max(1) as u64
    }

    fn execute(&mut self, node: usize, id: ActionId, action: Action) {
        self.steps += 1;
        let at_locks = matches!(
            action,
            Action::Open(_)
                | Action::Close(_)
                | Action::Acquire(..)
                | Action::Beat { .. }
                | Action::Release(..)
                | Action::Inspect(_)
                | Action::TakeOver { .. }
                | Action::Bury(_)
                | Action::Members
                | Action::Records { .. }
        );
        let down_until = if at_locks {
            self.locks_down_until
        } else {
            self.lbs_down_until
        };
        if down_until > self.now {
            return self.answer(node, id, Err(unavailable("the server is down")));
        }
        if let Action::Fetch { max, wait } = action {
            return self.fetch(node, id, max, wait);
        }
        if let Action::Quarantine(entries) = &action {
            let limit = self.nodes[node].settings.quarantine_after;
            for wanted in entries
                .iter()
                .filter(|wanted| self.lbs.contains(wanted.entry))
            {
                self.checker
                    .parks(wanted.entry, self.lbs.failures(wanted.entry), limit);
            }
        }
        let mut hints = Vec::new();
        let result = self.call_server(node, &action, &mut hints);
        trace!(
            self,
            "executed for n{node} {id:?} {}: {result:?}",
            name(&action)
        );
        if let Ok(reply) = &result {
            let now = Duration::from_nanos(self.now);
            self.checker.executed(now, node, &action, reply, &self.lbs);
            if matches!(action, Action::ForgetConsumer(_)) {
                self.checker.check_pending(&self.lbs);
            }
        }
        self.publish(hints);
        self.answer(node, id, result);
    }

    fn call_server(
        &mut self,
        node: usize,
        action: &Action,
        hints: &mut Vec<Hint>,
    ) -> streamlease_core::Result<Reply> {
        let (locks_now, lbs_now) = (self.locks_now(), self.lbs_now());
        let (lbs, locks) = (&mut self.lbs, &mut self.locks);
        let me = &self.nodes[node].name;
        Ok(match action {
            Action::Prepare => {
                lbs.prepare();
                Reply::Prepared
            }
            Action::Fetch { .. } => Reply::Fetched(Fetched::default()),
            Action::List { scope, limit } => Reply::Listed(lbs.list(scope, *limit, lbs_now)?),
            Action::ListIds {
                consumer,
                after,
                limit,
            } => Reply::ListedIds(lbs.list_ids(consumer.as_ref(), *after, *limit)?),
            Action::Claim(claims) => Reply::Claimed(lbs.claim(me, claims, lbs_now)?),
            Action::Complete(entries) => Reply::Completed(lbs.complete(entries)),
            Action::HandBack(entries) => Reply::HandedBack(lbs.hand_back(entries, hints)),
            Action::Quarantine(entries) => Reply::Quarantined(lbs.quarantine(entries)),
            Action::ForgetConsumer(consumer) => Reply::Forgotten(lbs.forget(consumer)),
            Action::Open(session) => Reply::Opened(locks.open(session, locks_now)),
            Action::Close(session) => {
                locks.close(session, locks_now, hints);
                Reply::Closed
            }
            Action::Acquire(session, requests) => {
                Reply::Acquired(locks.acquire(session, requests, locks_now, hints))
            }
            Action::Beat {
                session,
                leases,
                want_sweep,
            } => Reply::Beaten(locks.beat(session, leases, *want_sweep, locks_now)),
            Action::Release(session, releases) => {
                Reply::Released(locks.release(session, releases, locks_now, hints))
            }
            Action::Inspect(ids) => Reply::Inspected(locks.inspect(ids, locks_now, hints)),
            Action::TakeOver { session, dead, max } => {
                Reply::TakenOver(locks.take_over(&session.id, dead, *max, locks_now))
            }
            Action::Bury(dead) => Reply::Buried(locks.bury(dead, locks_now)),
            Action::Members => Reply::Members(locks.members(locks_now)),
            Action::Records {
                session,
                after,
                max,
            } => Reply::Records(locks.records(session, after.as_ref(), *max)),
        })
    }

    fn fetch(&mut self, node: usize, id: ActionId, max: usize, wait: Duration) {
        match self.lbs.undelivered() {
            Ok(0) if !wait.is_zero() => {
                self.waiters.push(Waiter { node, id, max });
                self.push(self.now + ns(wait), Event::WaitOver(node, id));
            }
            Ok(_) => self.deliver(node, id, max),
            Err(error) => self.answer(node, id, Err(error)),
        }
    }

    fn deliver(&mut self, node: usize, id: ActionId, max: usize) {
        let now = self.lbs_now();
        let result = self
            .lbs
            .fetch(&self.nodes[node].name, max, now)
            .map(Reply::Fetched);
        trace!(self, "delivered to n{node} {id:?}: {result:?}");
        self.answer(node, id, result);
    }

    fn wait_over(&mut self, node: usize, id: ActionId) {
        let waits = |w: &Waiter| w.node == node && w.id == id;
        if self.waiters.iter().any(waits) {
            self.waiters.retain(|w| !waits(w));
            self.answer(node, id, Ok(Reply::Fetched(Fetched::default())));
        }
    }

    /// Something was appended: who waits longest gets it, even if nobody is
    /// there any more to read the answer.
    fn serve_waiters(&mut self) {
        while !self.waiters.is_empty() && self.lbs.undelivered().is_ok_and(|n| n > 0) {
            self.steps += 1;
            let Waiter { node, id, max } = self.waiters.remove(0);
            self.deliver(node, id, max);
        }
    }

    fn fail_waiters(&mut self, error: impl Fn() -> Error) {
        for Waiter { node, id, .. } in std::mem::take(&mut self.waiters) {
            self.answer(node, id, Err(error()));
        }
    }

    fn submit_new(&mut self) {
        let stream = stream_name(self.streams.len());
        self.streams.push(stream.clone());
        self.append(Some(stream));
    }

    fn append(&mut self, stream: Option<StreamName>) {
        if self.lbs_down_until > self.now {
            // A producer that tries again until it is heard.
            if stream.is_some() {
                self.streams.pop();
                self.unsubmitted += 1;
                self.push(self.lbs_down_until, Event::Submit);
            }
            return;
        }
        self.steps += 1;
        let payload = match &stream {
            Some(stream) => Ok(Announcement::new(stream.clone(), Info::NONE)),
            None => Err(MalformedReason::NotJson),
        };
        let entry = self.lbs.append(payload, self.lbs_now());
        trace!(self, "{entry} announces {stream:?}");
        self.checker.submitted(entry, stream);
        self.serve_waiters();
    }

    fn sample(&mut self) {
        let (draw, now) = (self.rng.next(), self.locks_now());
        let mut hints = Vec::new();
        self.locks.sample(draw, now, &mut hints);
        self.publish(hints);
        if self.keeps_history && !self.calm {
            self.history
                .push_back((self.now, self.locks.clone(), self.lbs.clone()));
            let horizon = self.now.saturating_sub(ns(self.plan.ttl));
            while self.history.front().is_some_and(|(at, ..)| *at < horizon) {
                self.history.pop_front();
            }
        }
        let (nodes, now) = (&self.nodes, self.now);
        self.checker.check_overlaps(&|n| nodes[n].clock.read(now));
        self.checker.check_pending(&self.lbs);
        let next = self.now + ns(self.plan.ttl / 20);
        self.push(next, Event::Sample);
    }

    // --- faults -----------------------------------------------------------------------------------

    fn new_name(&mut self) -> ConsumerName {
        self.names += 1;
        ConsumerName::from_wire(format!("c{}", self.names))
    }

    fn pick(&self, draw: u64) -> Option<usize> {
        let running: Vec<_> = self.running().collect();
        let nth = draw.checked_rem(running.len() as u64)?;
        running.get(nth as usize).copied()
    }

    fn fault(&mut self, nth: usize) {
        let fault = self.plan.faults[nth].1;
        trace!(self, "FAULT {nth} {fault:?}");
        self.steps += 1;
        if self.strike(fault) {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
    }

    /// Whether it hit anything.
    fn strike(&mut self, fault: Fault) -> bool {
        let now = self.now;
        let node = match fault {
            Fault::Crash { node, .. }
            | Fault::Pause { node, .. }
            | Fault::Suspend { node, .. }
            | Fault::Shutdown { node, .. }
            | Fault::Twin { node }
            | Fault::Partition { node, .. }
            | Fault::Drift { node, .. }
            | Fault::SlowUser { node, .. } => match self.pick(node) {
                Some(node) => node,
                None => return false,
            },
            _ => 0,
        };
        match fault {
            Fault::Crash {
                same_name, after, ..
            } => {
                let name = match same_name {
                    true => self.nodes[node].name.clone(),
                    false => self.new_name(),
                };
                self.crash(node);
                self.push(now + ns(after), Event::Start(name));
            }
            Fault::Pause { length, .. } => {
                let until = now + ns(length);
                self.nodes[node].paused_until = until;
                if self.mutant == Some(Mutant::ClockStops) {
                    self.nodes[node].clock.stop_until(now, until);
                }
            }
            Fault::Suspend { length, .. } => {
                let until = now + ns(length);
                self.nodes[node].paused_until = until;
                self.nodes[node].clock.stop_until(now, until);
                self.checker.lossy.insert("clock suspended");
                self.checker.suspended += length;
            }
            Fault::Shutdown { after, .. } => {
                if self.nodes[node].paused_until > now {
                    return false;
                }
                let name = self.nodes[node].name.clone();
                self.shut_down(node);
                self.push(now + ns(after), Event::Start(name));
            }
            Fault::Twin { .. } => self.push(now, Event::Start(self.nodes[node].name.clone())),
            Fault::Partition {
                requests,
                replies,
                length,
                ..
            } => {
                let until = now + ns(length);
                if requests {
                    self.nodes[node].requests_lost_until = until;
                }
                if replies {
                    self.nodes[node].replies_lost_until = until;
                }
            }
            Fault::Storm { length } => self.storm_until = now + ns(length),
            Fault::BadHints { length } => self.bad_hints_until = now + ns(length),
            Fault::NoHints { length } => self.no_hints_until = now + ns(length),
            Fault::LocksRestart { lost, down } => self.restart_locks(lost, down),
            Fault::LbsDown { down } => {
                self.lbs_down_until = now + ns(down);
                self.fail_waiters(|| unavailable("the server went down"));
            }
            Fault::LbsRestored { lost } => return self.restore_lbs(lost),
            Fault::GroupGone => {
                self.lbs.destroy_group();
                self.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
            }
            Fault::LockClock { by_ms } => self.step_lock_clock(by_ms),
            Fault::LbsClock { by_ms } => {
                self.lbs_clock_ms += by_ms;
                self.set_back_ms += (-by_ms).max(0);
            }
            Fault::Drift { rate, .. } => {
                if !(970_000..=1_030_000).contains(&rate) {
                    self.checker.lossy.insert("clock drift");
                }
                self.nodes[node].clock.set_rate(now, rate);
                if self.nodes[node].paused_until <= now {
                    self.nodes[node].wake_at = Timestamp::ZERO;
                    self.feed(node, None);
                }
            }
            Fault::Steal { nth } => {
                let (thief, now) = (ConsumerName::from_wire("go-thief"), self.lbs_now());
                self.lbs.steal(&thief, nth as usize, now);
            }
            Fault::ForeignFetch => return self.foreign_fetch(),
            Fault::Poison => self.append(None),
            Fault::Burst { streams } => (0..streams).for_each(|_| self.submit_new()),
            Fault::Again { nth } => {
                let Some(nth) = nth.checked_rem(self.streams.len() as u64) else {
                    return false;
                };
                let stream = self.streams[nth as usize].clone();
                if self.lbs_down_until > now {
                    return false;
                }
                self.append(Some(stream));
            }
            Fault::Revoke { nth } => return self.locks.revoke(nth as usize).is_some(),
            Fault::SlowUser { length, .. } => self.nodes[node].slow_until = now + ns(length),
        }
        true
    }

    fn restart_locks(&mut self, lost: Duration, down: Duration) {
        self.locks_down_until = self.now + ns(down);
        if !lost.is_zero() {
            let from = self.now.saturating_sub(ns(lost));
            let then = self.history.iter().find(|(at, ..)| *at >= from);
            if let Some((_, locks, _)) = then {
                self.locks = locks.clone();
                self.checker.lossy.insert("locks lost writes");
            }
        }
        // The grace begins when the server is back.
        let back_at = self.locks_now() + down.as_millis() as u64;
        self.locks.restarted(back_at, self.checker.longest_ttl);
    }

    fn restore_lbs(&mut self, lost: Duration) -> bool {
        let from = self.now.saturating_sub(ns(lost));
        let Some((_, _, lbs)) = self.history.iter().find(|(at, ..)| *at >= from) else {
            return false;
        };
        self.lbs = lbs.clone();
        self.checker.restored(&self.lbs);
        self.fail_waiters(|| unavailable("the server went down"));
        self.serve_waiters();
        true
    }

    /// Durable as long as all steps together stay below a third of the least margin.
    fn step_lock_clock(&mut self, by_ms: i64) {
        self.locks_clock_ms += by_ms;
        if by_ms < 0 {
            self.set_back_ms -= by_ms;
            self.checker.set_back = true;
            return;
        }
        self.jumped_forward_ms += by_ms;
        let margin = (self.plan.ttl / 10).max(Duration::from_millis(50));
        if self.jumped_forward_ms > margin.as_millis() as i64 / 3 {
            self.checker.lossy.insert("lock clock forward");
        }
    }

    fn foreign_fetch(&mut self) -> bool {
        let go = ConsumerName::from_wire("go-reader");
        let now = self.lbs_now();
        let Ok(fetched) = self.lbs.fetch(&go, 1, now) else {
            return false;
        };
        for delivery in &fetched.entries {
            if let (Ok(content), LockScheme::PerStream) = (&delivery.content, self.plan.scheme) {
                let now = self.locks_now();
                self.locks
                    .foreign_lock(content.stream.clone(), delivery.entry, now);
            }
        }
        !fetched.entries.is_empty()
    }

    /// All faults stop, and there is more room than work.
    fn heal(&mut self) {
        trace!(self, "HEALED");
        self.calm = true;
        self.locks_down_until = 0;
        self.lbs_down_until = 0;
        self.storm_until = 0;
        self.bad_hints_until = 0;
        self.no_hints_until = 0;
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            n.requests_lost_until = 0;
            n.replies_lost_until = 0;
            n.slow_until = 0;
            n.paused_until = n.paused_until.min(self.now);
            // Whatever stopped the clock, it goes on now.
            n.clock.at = n.clock.at.min(self.now);
            n.clock.set_rate(self.now, 1_000_000);
            if n.runs {
                n.wake_at = Timestamp::ZERO;
                self.feed(node, None);
            }
        }
        loop {
            let room: usize = self
                .running()
                .map(|n| self.nodes[n].settings.capacity)
                .sum();
            if room > 2 * self.lbs.len() && self.running().count() >= 3 {
                break;
            }
            let name = self.new_name();
            self.start(name);
        }
    }
}

impl Plan {
    fn by_hand(&self) -> Time {
        Time::from(self.manual != Manual::Nobody)
    }
}

fn unavailable(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what)
}

fn stream_name(nth: usize) -> StreamName {
    match StreamName::new(format!("s{nth}")) {
        Ok(name) => name,
        Err(_) => unreachable!("not empty and short"),
    }
}

fn name(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}
