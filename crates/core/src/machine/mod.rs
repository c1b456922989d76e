//! The recovery state machine: sans-IO, no clock, no randomness of its own.
//!
//! ```text
//! handle(now, input)      something happened
//! handle_timeout(now)     the time that Output::Timeout named has come
//! poll_output()           until it yields Timeout or Stopped
//! ```
//!
//! After each `handle` or `handle_timeout` the outputs are drained until
//! `Timeout` or `Stopped`. Several inputs may be handled before draining.
//!
//! The machine only routes. Its parts own their state:
//! - `intake`: fresh entries, and how many at once;
//! - `leases`: what is held, about to be held, or owed an end (R3, R4, R6, R7, R12);
//! - `session`: one session after the other, and its heartbeats (R1, R2);
//! - `recovery`: what others hold or have left: finding streams that nobody serves, and
//!   taking them over (R7, R9, R11);
//! - `lifecycle`: outages, giving up, shutting down (R8);
//! - `pause`: whether the service is paused, as far as is known.
//!
//! A part is given the context (`cx`) and, where it needs one, a view of another part.
//! What it wants of another part is an `Effect`, which the machine carries out as soon as
//! the part is done.
//!
//! It is level-triggered and edge-accelerated: looking at what is pending is,
//! alone, enough for every orphan to be found; hints only make it faster.

mod backoff;
mod budget;
mod calls;
mod cx;
mod deadlines;
mod effects;
mod inputs;
mod intake;
mod io;
mod leases;
mod lifecycle;
mod pages;
mod pause;
mod punctuality;
mod recovery;
mod rng;
mod session;
#[cfg(test)]
mod tests;
mod vitals;

use std::time::Duration;

pub use io::{
    ActionId, Answer, CallId, ClaimResult, Command, Completion, DisownReason, End, HandBack, Input,
    Notice, Output, StreamOrigin,
};

pub use crate::action::{Action, LbsCall, LocksCall, Reply};
pub use crate::belief::Belief;
pub(crate) use crate::limits::PAGE;
use crate::{ConsumerName, LockScheme, Settings, Timestamp};
use backoff::Backoff;
use calls::Flight;
use cx::{Cx, Phase};
use deadlines::Deadlines;
use intake::Intake;
use leases::Leases;
pub(crate) use lifecycle::closed;
use lifecycle::drain::Drain;
use lifecycle::outages::Outages;
pub use lifecycle::outages::Part;
use pause::Pauses;
use recovery::Recovery;
use rng::Rng;
pub(crate) use rng::mix;
use session::SessionState;
pub(crate) use vitals::Vitals;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The consumer's name in the group.
    pub consumer: ConsumerName,
    /// Validated settings.
    pub settings: Settings,
    /// What the lock manager's leases hang on.
    pub scheme: LockScheme,
    /// Source of session nonces and jitter; must differ for every start.
    pub seed: u64,
}

/// One consumer's state machine. See the [module docs](self).
#[derive(Debug)]
pub struct Machine {
    cx: Cx,
    intake: Intake,
    leases: Leases,
    session: SessionState,
    recovery: Recovery,
    outages: Outages,
    pauses: Pauses,
    drain: Drain,
}

impl Machine {
    /// A machine that has not done anything yet; drain its outputs to start it.
    pub fn new(config: Config, now: Timestamp) -> Self {
        let mut machine = Self {
            cx: Cx::new(config, now),
            intake: Intake::default(),
            leases: Leases::new(now),
            session: SessionState::new(now),
            recovery: Recovery::new(now),
            outages: Outages::default(),
            pauses: Pauses::new(now),
            drain: Drain::default(),
        };
        machine.pump();
        machine
    }

    /// Something happened.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if let Input::Suspended(time) = input {
            // Before the clock is looked at.
            self.cx.punctuality.suspended(time);
        }
        self.advance(now);
        if self.cx.phase == Phase::Stopped {
            if let Input::Command(command) = input {
                self.drain.answer_late(&mut self.cx, command);
            }
            return;
        }
        match input {
            Input::Done(id, result) => self.done(id, result),
            Input::Hint(hint) => self.hint(hint),
            Input::Command(command) => self.command(command),
            Input::EventsTaken(n) => self.cx.budget.taken(n),
            // Nothing but the clock has moved.
            Input::Suspended(_) => {}
            Input::ReceiverDropped => {
                self.cx.budget.receiver_dropped();
                // It would bring what only others can take.
                self.cx
                    .cancel(|flight| matches!(flight, Flight::Fetch { .. }));
            }
        }
        self.pump();
    }

    /// The time named by the last [`Output::Timeout`] has come (or any other has).
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.advance(now);
        self.pump();
    }

    /// The next thing to do. Call until it yields `Timeout` or `Stopped`.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.cx.outputs.pop_front() {
            return output;
        }
        match self.cx.phase {
            Phase::Stopped => Output::Stopped,
            _ => {
                let at = self.next_timeout();
                debug_assert!(at > self.cx.now, "spins on a time in the past: {self:?}");
                let at = at.max(self.cx.now + Duration::from_millis(1));
                self.cx.punctuality.promise(at);
                Output::Timeout(at)
            }
        }
    }

    /// How many streams are held.
    pub fn held(&self) -> usize {
        self.leases.items.locked()
    }

    /// Nobody runs this machine any more: its leases are over.
    pub(crate) fn end_beliefs(&self) {
        self.leases.end_beliefs();
    }

    /// Moves the clock, never back, and disowns before anything else is done (R1).
    fn advance(&mut self, now: Timestamp) {
        self.cx.now = self.cx.now.max(now);
        let late = self.cx.punctuality.look(self.cx.now, self.cx.settings.ttl);
        if let Some(by) = late.filter(|_| self.cx.phase != Phase::Stopped) {
            self.cx.notify(Notice::Late { by });
        }
        if self.cx.phase == Phase::Stopped || !self.cx.is_open() {
            return;
        }
        if self.session.has_run_out(&self.cx) || self.leases.have_run_out(&mut self.cx) {
            self.abandon_session(DisownReason::Expired);
        }
    }

    /// Everything that may be due or have become possible. Cheap when nothing is.
    fn pump(&mut self) {
        self.apply();
        if self.cx.phase == Phase::Stopped {
            return;
        }
        self.drain.pump_bound(&mut self.cx);
        self.outages.pump(&mut self.cx);
        self.pauses.pump(&mut self.cx, &self.outages);
        self.apply();
        if self.cx.phase != Phase::Stopped && self.cx.is_open() {
            self.pump_session();
        }
        if self.cx.phase != Phase::Stopped {
            self.leases.pump_late(&mut self.cx);
            self.apply();
        }
    }

    fn pump_session(&mut self) {
        self.leases.pump_timers(&mut self.cx);
        self.apply();
        self.recovery.pump(&mut self.cx, &self.leases);
        self.apply();
        self.leases.pump_refresh(&self.cx);
        self.leases.pump_lanes(&mut self.cx);
        self.intake
            .pump(&mut self.cx, &self.leases, &self.recovery, &self.outages);
        self.session
            .pump_heartbeat(&mut self.cx, &self.leases, &self.recovery);
        self.leases.pump_record(&mut self.cx);
        self.leases.pump_drain(&mut self.cx);
        self.drain.pump(&mut self.cx, &self.leases);
        self.apply();
    }

    fn next_timeout(&self) -> Timestamp {
        let cx = &self.cx;
        let mut next = self
            .drain
            .timeout(cx)
            .min(self.outages.timeout(cx))
            .min(self.pauses.timeout(cx, &self.outages))
            .min(self.leases.late.timeout());
        if cx.is_open() {
            next = next
                .min(self.session.timeout(cx))
                .min(self.leases.timeout(cx))
                .min(self.recovery.timeout(cx, &self.leases))
                .min(self.intake.timeout(cx, &self.outages));
        }
        next
    }
}
