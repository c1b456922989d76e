//! One run: clients, a producer and the model backend on one queue of events
//! in virtual time.
//!
//! - `client`: a process, which is the machine itself, driven as the driver
//!   does it, on its own `clock`; `user`: what is done with its leases;
//! - `network`: each request, reply and hint travels on its own;
//! - `servers`: the model is asked, perhaps after the caller gave up;
//! - `trouble`: how faults are injected; `foreign`: consumers of another make;
//! - `convergence`: what must come right once the faults are over.

mod client;
mod convergence;
mod foreign;
mod network;
mod servers;
mod trouble;
mod user;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::{Action, ActionId, Belief, Reply};
use streamlease_core::{
    ConsumerName, EntryId, Error, ErrorKind, FencingToken, Hint, Info, StreamName,
};

use self::client::Node;
pub(super) use self::client::{Extends, Sent};
use self::foreign::Foreigner;
use self::servers::Waiter;
use super::checker::{Checker, Violation};
use super::model::Mutant;
use super::plan::Plan;
use super::rng::Rng;
use super::servers::Servers;
use crate::clock::{Time, ns};

/// A run that is over earlier goes on for a while.
pub const LEAST_STEPS: u64 = 1_000;

/// How a run went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Inputs of machines and effects on the backend.
    pub steps: u64,
    /// Processes at the start; more come with the faults.
    pub clients: u64,
    /// Data streams that were announced.
    pub streams: u64,
    /// Faults that were injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What became of single messages, by kind.
    pub messages: Messages,
    /// Leases that went from one process to another.
    pub takeovers: u64,
    /// Leases given to users.
    pub added: u64,
    /// Why the run is of the class *lossy*; empty: *durable*.
    pub lossy: BTreeSet<&'static str>,
    /// The longest that two processes believed in one data stream, in thousandths
    /// of the earlier owner's TTL, on that owner's clock.
    pub overlap: u64,
    /// The same in true time, of which a clock may have missed some.
    pub true_overlap: u64,
    /// From the end of the faults until everything was finished.
    pub converged: Duration,
    /// The bound of that.
    pub converges_within: Duration,
    /// From the last crash until everything it had was leased elsewhere, beyond
    /// its TTL; with automatic claiming.
    pub failover: Option<Duration>,
    /// Acquires per stream that the last crash freed and per survivor, in thousandths.
    pub herd: u64,
    /// The rule that did not hold, if any.
    pub violation: Option<Violation>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// What became of single messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// Requests that never arrived.
    pub requests_lost: u64,
    /// Replies that never arrived.
    pub replies_lost: u64,
    /// Requests executed after one that the same process sent later.
    pub requests_overtaken: u64,
    /// Replies heard after one whose request the same process sent later.
    pub replies_overtaken: u64,
    /// Requests executed after their sender gave up waiting.
    pub executed_late: u64,
}

impl std::ops::AddAssign for Messages {
    fn add_assign(&mut self, other: Self) {
        self.requests_lost += other.requests_lost;
        self.replies_lost += other.replies_lost;
        self.requests_overtaken += other.requests_overtaken;
        self.replies_overtaken += other.replies_overtaken;
        self.executed_late += other.executed_late;
    }
}

#[derive(Debug)]
enum Event {
    Execute(usize, ActionId, Action),
    Reply(usize, ActionId, streamlease_core::Result<Reply>),
    GiveUp(usize, ActionId),
    WaitOver(usize, ActionId),
    Wake(usize, u64),
    Hint(usize, Hint),
    Stop(usize),
    SetCapacity(usize, usize),
    Take(usize),
    Progress(usize, EntryId, FencingToken, Arc<Belief>),
    Work(usize, EntryId, FencingToken, StreamName),
    Claim(usize, EntryId, StreamName, Info),
    Write(usize, StreamName, FencingToken),
    Start(ConsumerName),
    Foreigner(usize),
    Fault(usize),
    Submit,
    Resume,
    Sample,
    Heal,
}

impl Event {
    /// The process that has to run for it.
    fn process(&self) -> Option<usize> {
        match self {
            Self::Reply(node, ..)
            | Self::GiveUp(node, ..)
            | Self::Wake(node, ..)
            | Self::Hint(node, ..)
            | Self::Stop(node)
            | Self::SetCapacity(node, _)
            | Self::Take(node)
            | Self::Progress(node, ..)
            | Self::Work(node, ..)
            | Self::Claim(node, ..) => Some(*node),
            _ => None,
        }
    }
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

pub(super) struct World {
    plan: Plan,
    mutant: Option<Mutant>,
    now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    created: u64,
    rng: Rng,
    nodes: Vec<Node>,
    foreigners: Vec<Foreigner>,
    servers: Servers,
    waiters: Vec<Waiter>,
    keeps_history: bool,
    set_back_ms: i64,
    storm_until: Time,
    bad_hints_until: Time,
    no_hints_until: Time,
    /// The service is paused until then.
    service_paused_until: Time,
    faults_over: bool,
    /// Leases are worked on without end.
    endless: bool,
    streams: Vec<StreamName>,
    names: u64,
    /// The capacity of the last process of each name.
    capacities: BTreeMap<ConsumerName, usize>,
    /// Announcements that are still to come.
    unsubmitted: u64,
    checker: Checker,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    messages: Messages,
    trace: Option<Vec<String>>,
}

macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!("{:>12.6} {}", $world.now as f64 / 1e9, format_args!($($what)*)));
        }
    };
}
use trace;

impl World {
    pub(super) fn new(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Self {
        let keeps_history = plan.faults.iter().any(|(_, fault)| fault.looks_back());
        let mut world = Self {
            plan: plan.clone(),
            mutant,
            now: 0,
            queue: BinaryHeap::new(),
            created: 0,
            rng: Rng::new(plan.seed),
            nodes: Vec::new(),
            foreigners: Vec::new(),
            servers: Servers::new(plan.scheme, mutant),
            waiters: Vec::new(),
            keeps_history,
            set_back_ms: 0,
            storm_until: 0,
            bad_hints_until: 0,
            no_hints_until: 0,
            service_paused_until: 0,
            faults_over: false,
            endless: false,
            streams: Vec::new(),
            names: 0,
            capacities: BTreeMap::new(),
            unsubmitted: plan.streams,
            checker: Checker::new(plan.scheme, plan.ttl),
            steps: 0,
            faults: BTreeMap::new(),
            messages: Messages::default(),
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

    pub(super) fn run(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while !self.faults_over && self.checker.violation.is_none() {
            self.run_until(self.now + ns(self.plan.ttl), |world| world.faults_over);
        }
        self.converge(&mut outcome);
        Outcome {
            steps: self.steps,
            clients: self.plan.nodes,
            streams: self.streams.len() as u64,
            faults: self.faults,
            messages: self.messages,
            takeovers: self.checker.takeovers,
            added: self.checker.added,
            lossy: self.checker.lossy,
            overlap: self.checker.longest_overlap,
            true_overlap: self.checker.longest_true_overlap,
            violation: self.checker.violation,
            trace: self.trace.unwrap_or_default(),
            ..outcome
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

    fn push(&mut self, at: Time, event: Event) {
        self.created += 1;
        self.queue
            .push(Reverse(Queued(at.max(self.now), self.created, event)));
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(node) = event.process() {
            let paused_until = self.nodes[node].paused_until;
            return match self.nodes[node].runs {
                false => {}
                true if paused_until > self.now => self.push(paused_until, event),
                true => self.arrive(node, event),
            };
        }
        match event {
            Event::Execute(node, id, action) => self.execute(node, id, action),
            Event::WaitOver(node, id) => self.wait_over(node, id),
            Event::Write(node, stream, token) => {
                self.steps += 1;
                self.checker
                    .write(Duration::from_nanos(self.now), &stream, token, node);
            }
            Event::Start(name) => self.start(name),
            Event::Foreigner(nth) => self.foreigner_acts(nth),
            Event::Fault(nth) => self.fault(nth),
            Event::Submit => {
                self.unsubmitted -= 1;
                self.submit_new();
            }
            Event::Resume => self.resume_service(),
            Event::Sample => self.sample(),
            Event::Heal => self.heal(),
            _ => {}
        }
    }

    /// The processes that run and are not asked to stop.
    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.alive().filter(|n| !self.nodes[*n].leaving)
    }

    fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].runs)
    }

    fn new_name(&mut self) -> ConsumerName {
        self.names += 1;
        ConsumerName::from_wire(format!("c{}", self.names))
    }
}

fn unavailable(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what)
}
