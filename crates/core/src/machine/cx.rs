//! What every part of the machine may use: the time, the settings, randomness, the calls
//! that are under way, and the ways out.

use std::collections::VecDeque;
use std::time::Duration;

use super::budget::Budget;
use super::calls::{Calls, Flight};
use super::effects::Effect;
use super::punctuality::Punctuality;
use super::session::current::CurrentSession;
use super::{Action, Answer, CallId, Config, Notice, Output, Reply, Rng};
use crate::limits::DEADLINE_JITTER;
use crate::{
    ClaimMode, ConsumerName, Error, FencingToken, LockScheme, Result, Settings, Timestamp,
};

#[derive(Debug)]
pub(crate) struct Cx {
    pub(crate) consumer: ConsumerName,
    pub(crate) settings: Settings,
    pub(crate) scheme: LockScheme,
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    pub(crate) phase: Phase,
    /// The service is paused, as far as is known: nothing is taken.
    pub(crate) is_paused: bool,
    pub(crate) session: CurrentSession,
    /// Greatest token seen anywhere (R5).
    pub(crate) floor: FencingToken,
    pub(crate) peers: Peers,
    pub(crate) punctuality: Punctuality,
    pub(crate) budget: Budget,
    pub(crate) calls: Calls,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) outputs: VecDeque<Output>,
}

/// The other consumers, as the last heartbeat told of them.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Live sessions of the service, at least this one.
    pub(crate) members: u32,
    /// Whether the backend keeps sessions, so that heartbeats tell who is dead.
    pub(crate) are_known: bool,
    /// If another dies at the next deadline, everybody has heard of it, and asked what it
    /// left, by then.
    pub(crate) all_know_at: Timestamp,
}

impl Peers {
    fn unknown(now: Timestamp) -> Self {
        Self {
            members: 1,
            are_known: true,
            all_know_at: now,
        }
    }
}

/// Whether the machine works, ends or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Everything is being handed back, at most until then.
    Draining {
        until: Timestamp,
        step: Leaving,
    },
    Stopped,
}

/// How far a shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    HandingBack,
    /// The session, which tells the others.
    Closing,
    /// The name in the group, if nothing is pending at it.
    RemovingName,
}

impl Cx {
    pub(crate) fn new(config: Config, now: Timestamp) -> Self {
        let mut rng = Rng::new(config.seed);
        let session = CurrentSession::new(config.consumer.clone(), config.settings.ttl, &mut rng);
        Self {
            consumer: config.consumer,
            settings: config.settings,
            scheme: config.scheme,
            now,
            rng,
            phase: Phase::Running,
            is_paused: false,
            session,
            floor: FencingToken::NONE,
            peers: Peers::unknown(now),
            punctuality: Punctuality::new(),
            budget: Budget::default(),
            calls: Calls::default(),
            effects: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Another session, whose id was never used.
    pub(crate) fn begin_session(&mut self) {
        self.session.replace(&mut self.rng);
        self.peers = Peers::unknown(self.now);
        self.budget.free_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Nothing is held any more, on the way to the end: the session is extended no longer.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Draining { step, .. } if step != Leaving::HandingBack)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase != Phase::Running
    }

    /// What is acquired from now on has a greater token. Not than what is none: a store's
    /// odd record of one entry would keep everything from being acquired.
    pub(crate) fn raise_floor(&mut self, seen: FencingToken) {
        if seen < FencingToken::LIMIT {
            self.floor = self.floor.max(seen);
        }
    }

    pub(crate) fn act(&mut self, action: impl Into<Action>, flight: Flight) {
        let id = self.calls.begin(self.session.number(), self.now, flight);
        self.outputs.push_back(Output::Action(id, action.into()));
    }

    /// Drops such an action, if there is one; its reply is not awaited any more.
    pub(crate) fn cancel(&mut self, is_it: impl Fn(&Flight) -> bool) {
        if let Some(id) = self.calls.cancel(is_it) {
            self.outputs.push_back(Output::Cancel(id));
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// A call failed; its part tries it again.
    pub(crate) fn step_failed(&mut self, call: &'static str, error: Error) {
        self.effect(Effect::Failed(call, error));
    }

    /// A call was answered, of which nothing but a failure matters.
    pub(crate) fn step_done(&mut self, call: &'static str, result: Result<Reply>) {
        if let Err(error) = result {
            self.step_failed(call, error);
        }
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    /// A notice that takes a place in the user's queue until they take it out.
    pub(crate) fn notify_queued(&mut self, notice: Notice) {
        self.budget.queued();
        self.notify(notice);
    }

    pub(crate) fn answer(&mut self, call: CallId, answer: Result<Answer>) {
        self.outputs.push_back(Output::Answer(call, answer));
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.settings.claim == ClaimMode::Manual
    }

    /// Until when something that was extended by a call sent at `sent` is believed.
    pub(crate) fn believed_until(&self, sent: Timestamp) -> Timestamp {
        sent + (self.settings.ttl - self.settings.margin())
    }

    /// A short wait with jitter, for looking at a deadline that has just passed.
    pub(crate) fn deadline_jitter(&mut self) -> Duration {
        self.rng.up_to(DEADLINE_JITTER)
    }
}
