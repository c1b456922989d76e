//! A process: the machine, driven as the driver does it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::{
    Action, ActionId, CallId, Command, Config, End, Input, LbsCall, LocksCall, Machine, Notice,
    Output, Reply,
};
use streamlease_core::{
    ClaimMode, ConsumerName, EntryId, ErrorKind, FencingToken, Hint, LeaseRef, RenewOutcome,
    RetryPolicy, Settings, StreamName, Timestamp,
};

use super::user::Waiting;
use super::{Event, World, trace, unavailable};
use crate::clock::{Clock, SECOND, Time, ns};
use crate::simulation::checker::Watch;
use crate::simulation::link::Link;
use crate::simulation::model::Mutant;
use crate::simulation::plan::Manual;
use crate::simulation::rng::Rng;

pub(super) struct Node {
    pub(super) name: ConsumerName,
    machine: Machine,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    /// Neither crashed nor terminated.
    pub(super) runs: bool,
    /// Asked to stop.
    pub(super) leaving: bool,
    pub(super) paused_until: Time,
    pub(super) awaited: BTreeMap<ActionId, Sent>,
    /// The latest that was executed, and the latest that was answered.
    pub(super) executed: Option<ActionId>,
    pub(super) answered: Option<ActionId>,
    wake: u64,
    pub(super) wake_at: Timestamp,
    pub(super) events: VecDeque<Waiting>,
    pub(super) taking: bool,
    pub(super) slow_until: Time,
    /// Its handlers do nothing.
    pub(super) hang_until: Time,
    pub(super) requests_lost_until: Time,
    pub(super) replies_lost_until: Time,
    /// Its server was demoted, and answers everything with an error.
    pub(super) demoted_until: Time,
    /// It has no connection yet.
    pub(super) connects_until: Time,
    pub(super) link: Link,
    /// It has been told that the service is paused.
    pub(super) knows_of_pause: bool,
    last_call: u64,
    /// What its user has asked for, of which lease.
    pub(super) asked: BTreeMap<CallId, (EntryId, FencingToken, StreamName)>,
    /// Calls that have been answered at least once.
    worked: Vec<&'static str>,
    /// It was refused one that had never worked: that is a mistake in its setup, and it
    /// may end.
    refused_at_once: bool,
}

/// A request whose reply is awaited.
pub(in super::super) struct Sent {
    /// When, on its sender's clock.
    pub(in super::super) local: Timestamp,
    /// When, in truth.
    pub(in super::super) at: Duration,
    pub(in super::super) what: Extends,
    call: &'static str,
}

/// What a reply may extend the belief in (R1).
pub(in super::super) enum Extends {
    Nothing,
    Session,
    Heartbeat(Arc<[LeaseRef]>),
    Acquire(Vec<EntryId>),
}

impl Node {
    fn learn(&mut self, call: &'static str, result: &streamlease_core::Result<Reply>) {
        match result {
            Ok(_) if !self.worked.contains(&call) => self.worked.push(call),
            Err(error) if error.kind() == ErrorKind::Denied => {
                self.refused_at_once |= !self.worked.contains(&call);
            }
            _ => {}
        }
    }
}

impl Sent {
    pub(super) fn of(local: Timestamp, now: Time, action: &Action) -> Self {
        let what = match action {
            Action::Locks(LocksCall::Open(_)) => Extends::Session,
            Action::Locks(LocksCall::Renew { leases, .. }) => Extends::Heartbeat(leases.clone()),
            Action::Locks(LocksCall::Acquire(_, requests)) => {
                Extends::Acquire(requests.iter().map(|request| request.entry).collect())
            }
            _ => Extends::Nothing,
        };
        let at = Duration::from_nanos(now);
        let call = action.operation().name();
        Self {
            local,
            at,
            what,
            call,
        }
    }

    fn is_heartbeat(&self) -> bool {
        matches!(self.what, Extends::Heartbeat(_))
    }
}

impl World {
    pub(super) fn start(&mut self, name: ConsumerName) {
        let slot = self.nodes.len();
        let settings = self.draw_settings(slot);
        let before = self.capacities.insert(name.clone(), settings.capacity);
        if before.is_some_and(|before| before != settings.capacity) && !self.faults_over {
            *self
                .faults
                .entry("capacity change at a restart")
                .or_default() += 1;
        }
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
            "n{slot} starts as {name}, ttl {:?}, capacity {}, {:?} claiming, progress_timeout {:?}, \
             quarantine after {:?}",
            settings.ttl,
            settings.capacity,
            settings.claim,
            settings.progress_timeout,
            settings.quarantine_after
        );
        self.checker.watch(Watch::new(&settings));
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
            executed: None,
            answered: None,
            wake: 0,
            wake_at: Timestamp::MAX,
            events: VecDeque::new(),
            taking: false,
            slow_until: 0,
            hang_until: 0,
            requests_lost_until: 0,
            replies_lost_until: 0,
            demoted_until: 0,
            connects_until: 0,
            link: Link::default(),
            knows_of_pause: false,
            last_call: 0,
            asked: BTreeMap::new(),
            worked: Vec::new(),
            refused_at_once: false,
        });
        self.feed(slot, Some(Input::Hint(Hint::MayHaveMissed)));
    }

    /// Each start draws anew: a restart under the same name may change them.
    fn draw_settings(&mut self, slot: usize) -> Settings {
        let ttl = self.plan.ttl * if self.rng.below(4) == 0 { 2 } else { 1 };
        let ttl = match self.plan.long_ttl {
            Some(long) if self.rng.below(3) == 0 => long,
            _ => ttl,
        };
        let manual = match self.plan.manual {
            Manual::Nobody => false,
            Manual::All => true,
            Manual::Some => slot % 2 == 1,
        };
        let mut settings = Settings::default();
        settings.ttl = ttl;
        settings.capacity = match self.rng.below(4) {
            0 => 3 + self.rng.below(4) as usize,
            _ if self.plan.tight => 5 + self.rng.below(8) as usize,
            1 => 8 + self.rng.below(8) as usize,
            _ => 20 + self.rng.below(30) as usize,
        };
        settings.event_queue = match self.rng.below(3) {
            0 => 2 + self.rng.below(6) as usize,
            _ => 64,
        };
        settings.claim = match manual {
            true => ClaimMode::Manual,
            false => ClaimMode::Automatic,
        };
        // Recovery takes a few TTLs whatever the policy's longest wait is.
        settings.retry = match slot % 2 {
            0 => RetryPolicy::UNLIMITED,
            _ => RetryPolicy::UNLIMITED.with_waits(RetryPolicy::UNLIMITED.first, ttl),
        };
        settings.quarantine_after = [None, Some(2), Some(5), Some(5)][self.rng.below(4) as usize];
        if self.plan.forgets {
            settings.forget_failures_after = ttl * (1 + slot as u32 % 3);
        }
        if self.rng.below(3) == 0 {
            settings.progress_timeout = Some(self.rng.between(ttl / 4, ttl * 2));
        }
        settings
    }

    pub(super) fn crash(&mut self, node: usize) {
        trace!(self, "n{node} crashes");
        self.nodes[node].runs = false;
        self.checker.crashed(node);
        self.drop_connection(node, None);
    }

    /// What waits at the server is removed once it notices, and if it is quick.
    pub(super) fn drop_connection(&mut self, node: usize, id: Option<ActionId>) {
        if self.rng.permille(700) {
            self.waiters
                .retain(|w| w.node != node || id.is_some_and(|id| id != w.id));
        }
    }

    /// Asks it to stop; it learns of that as soon as it runs.
    pub(super) fn shut_down(&mut self, node: usize) {
        trace!(self, "n{node} is asked to stop");
        self.nodes[node].leaving = true;
        self.push(self.now, Event::Stop(node));
    }

    pub(super) fn call(&mut self, node: usize) -> CallId {
        self.nodes[node].last_call += 1;
        CallId(self.nodes[node].last_call)
    }

    pub(super) fn arrive(&mut self, node: usize, event: Event) {
        match event {
            Event::Reply(_, id, Ok(Reply::Fetched(fetched)))
                if self.mutant == Some(Mutant::AsksAgain)
                    && fetched.entries.is_empty()
                    && self.nodes[node].awaited.contains_key(&id) =>
            {
                let (max, wait) = (1, Duration::from_secs(5));
                self.send(node, id, Action::Lbs(LbsCall::Fetch { max, wait }));
            }
            Event::Reply(_, id, result) => {
                let Some(sent) = self.nodes[node].awaited.remove(&id) else {
                    return;
                };
                let answered = self.nodes[node].answered;
                self.messages.replies_overtaken += u64::from(answered > Some(id));
                self.nodes[node].answered = answered.max(Some(id));
                let result = self.inject_mutant(&sent, result);
                self.nodes[node].learn(sent.call, &result);
                if let Ok(Reply::Paused(pause)) = &result {
                    self.nodes[node].knows_of_pause = pause.is_some();
                }
                if let Ok(reply) = &result {
                    self.checker.hears(node, &sent, reply);
                    let local = self.nodes[node].clock.read(self.now);
                    self.checker.brought(node, reply, local);
                }
                trace!(self, "n{node} hears {id:?} {result:?}");
                self.feed(node, Some(Input::Done(id, result)));
            }
            Event::GiveUp(_, id) => {
                if let Some(sent) = self.nodes[node].awaited.remove(&id) {
                    self.drop_connection(node, Some(id));
                    trace!(self, "n{node} gives up {id:?}");
                    let result = self.inject_mutant(&sent, Err(unavailable("no answer in time")));
                    self.feed(node, Some(Input::Done(id, result)));
                }
            }
            Event::Wake(_, wake) if self.nodes[node].wake == wake => {
                // Spent, even if a clock that stood still does not show its time yet.
                self.nodes[node].wake_at = Timestamp::ZERO;
                self.feed(node, None);
            }
            Event::Wake(..) => {}
            Event::Hint(_, hint) => {
                trace!(self, "n{node} hears {hint:?}");
                self.feed(node, Some(Input::Hint(hint)));
            }
            Event::Stop(_) => {
                let local = self.nodes[node].clock.read(self.now);
                self.checker.asked_to_stop(node, local);
                let call = Some(self.call(node));
                self.feed(node, Some(Input::Command(Command::Shutdown { call })));
            }
            Event::SetCapacity(_, streams) => {
                trace!(self, "n{node} may hold {streams}");
                self.nodes[node].settings.capacity = streams;
                self.checker.set_capacity(node, streams);
                self.feed(node, Some(Input::Command(Command::SetCapacity(streams))));
            }
            event => self.user_acts(node, event),
        }
    }

    /// A backend that takes an error for a loss.
    fn inject_mutant(
        &self,
        sent: &Sent,
        result: streamlease_core::Result<Reply>,
    ) -> streamlease_core::Result<Reply> {
        match result {
            Err(_) if sent.is_heartbeat() && self.mutant == Some(Mutant::ErrorIsLoss) => {
                Ok(Reply::Renewed(RenewOutcome::SessionGone))
            }
            result => result,
        }
    }

    /// One input of a machine (`None`: its timeout), and all that comes of it.
    pub(super) fn feed(&mut self, node: usize, input: Option<Input>) {
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
                Output::Answer(call, answer) => self.answered(node, call, answer.err()),
                Output::Timeout(at) => {
                    self.set_wake(node, at);
                    break;
                }
                Output::Stopped => {
                    self.checker.stopped(node);
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
        let mut when = n.clock.when(at, self.now);
        if self.mutant == Some(Mutant::TimersAreLate) {
            when += SECOND / 10;
        }
        let wake = n.wake;
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
                self.checker
                    .added(node, entry, &stream, token, belief.clone(), local);
                self.nodes[node]
                    .events
                    .push_back(Waiting::Added(entry, token, stream, belief));
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
                    .push_back(Waiting::Expired(entry, stream, info));
            }
            Notice::Ended {
                entry, token, end, ..
            } => {
                self.ended(node, entry, token, &end, local);
                if self.mutant == Some(Mutant::EndsTwice) {
                    self.ended(node, entry, token, &end, local);
                }
            }
            Notice::Quarantined { .. } => self.nodes[node].events.push_back(Waiting::Other),
            Notice::Terminated { .. } => {
                let may_end = self.nodes[node].refused_at_once;
                self.checker.terminated(node, may_end);
                if may_end && !self.nodes[node].leaving {
                    // Somebody starts it again.
                    let name = self.nodes[node].name.clone();
                    self.push(self.now + ns(self.plan.ttl / 4), Event::Start(name));
                }
            }
            _ => {}
        }
        self.take_soon(node);
    }

    fn ended(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        end: &End,
        local: Timestamp,
    ) {
        self.checker.ended(node, entry, token, end, local);
        if matches!(end, End::Disowned(_)) {
            self.nodes[node].events.push_back(Waiting::Other);
        }
    }
}
