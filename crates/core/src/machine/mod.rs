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
//! Where to find what, in the order of a stream's life:
//! - `fetch`: fresh entries, and how many at once;
//! - `acquiring`: lock → fenced claim → added (R3, R4, R6);
//! - `ending`: refresh, complete, hand back, quarantine, release (R4, R7, R12);
//! - `lanes`: how steps are sent, a page at a time;
//! - `session`: open, beat, believe, disown (R1, R2);
//! - `doubt`: leases that the lock server may have lost, and its record of them;
//!   `fresh`: those that it may still lose;
//! - `look`: what makes it look at what is pending, and at what next: hints, own
//!   entries, the dead, everything (R7, R9); `look/steps`: how one look goes;
//!   `look/sweep`: whose turn it is to look at everything;
//! - `judging`: what a look shows: ours, an orphan, somebody else's (R9);
//! - `orphans`: who is dead, who takes over (R9, R11);
//! - `turns`: who of the survivors goes first for which entry (R11);
//! - `silence`: handlers that make no progress;
//! - `ids`: entry ids that a restored LBS gave to other announcements;
//! - `forgiving`: failures of earlier owners that are over;
//! - `late`: what was lost although this process lives, and whether it ran on time;
//! - `control`: preparing, outages, giving up, shutting down (R8).
//!
//! It is level-triggered and edge-accelerated: looking at what is pending is,
//! alone, enough for every orphan to be found; hints only make it faster.

mod control;
mod cx;
mod deadlines;
mod fetch;
mod io;
mod leases;
mod punctuality;
mod recovery;
mod rng;
mod session;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use io::{
    Action, ActionId, Answer, CallId, ClaimResult, Command, Completion, DisownReason, End,
    Handover, Input, Notice, Output, Reply,
};

pub use crate::belief::Belief;
use crate::{ConsumerName, Hint, LockScheme, Settings, Timestamp};
use control::Outage;
pub use control::Part;
pub(crate) use control::closed;
use cx::{Cx, Effect, Flight, InFlight, Phase};
use deadlines::Deadlines;
use leases::Leases;
use recovery::Recovery;
use rng::Rng;
pub(crate) use rng::mix;
use session::Sitting;

/// Streams per action: a page. A script over one takes Redis well under 2 ms.
pub(crate) const PAGE: usize = 120;

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

    /// By [`control::Part`].
    outages: [Option<Outage>; 3],
    /// Which calls have ever worked, by [`control::Vital`].
    answered: [bool; 4],
    /// When a refusal was told last.
    refusal_told: Option<Timestamp>,
    prepared: bool,
    started: bool,
    shutdown_calls: Vec<CallId>,
    /// Between the tries of a shutdown's last steps.
    leaving: Backoff,

    sitting: Sitting,
    leases: Leases,

    fetch: fetch::Fetching,
    recovery: Recovery,
}

impl Machine {
    /// A machine that has not done anything yet; drain its outputs to start it.
    pub fn new(config: Config, now: Timestamp) -> Self {
        let mut machine = Self {
            cx: Cx::new(config, now),
            outages: [None; 3],
            answered: [false; 4],
            refusal_told: None,
            prepared: false,
            started: false,
            shutdown_calls: Vec::new(),
            leaving: Backoff::default(),
            sitting: Sitting::new(now),
            leases: Leases::new(now),
            fetch: fetch::Fetching::default(),
            recovery: Recovery::new(now),
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
            self.answer_late(input);
            return;
        }
        match input {
            Input::Done(id, result) => self.done(id, result),
            Input::Hint(hint) => self.hint(hint),
            Input::Command(command) => self.command(command),
            Input::EventsTaken(n) => {
                self.cx.budget.undelivered = self.cx.budget.undelivered.saturating_sub(n)
            }
            // Nothing but the clock has moved.
            Input::Suspended(_) => {}
            Input::NobodyListens => {
                self.cx.budget.receiver_dropped = true;
                // It would bring what only others can take.
                self.cancel_fetch();
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

    /// How many streams are held. For metrics.
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
        self.cx.punctuality.look(self.cx.now, self.cx.settings.ttl);
        if self.cx.phase != Phase::Stopped && self.belief_ran_out() {
            self.abandon_session(DisownReason::Expired);
        }
    }

    /// Everything that may be due or have become possible. Cheap when nothing is.
    fn pump(&mut self) {
        if self.cx.phase == Phase::Stopped {
            return;
        }
        self.apply();
        self.pump_control();
        if self.cx.phase != Phase::Stopped && self.cx.is_open() {
            self.pump_session();
        }
        if self.cx.phase != Phase::Stopped {
            self.leases.pump_late(&mut self.cx);
            self.apply();
        }
    }

    fn pump_session(&mut self) {
        self.leases.pump_waiting(&mut self.cx);
        self.leases.pump_silence(&mut self.cx);
        self.leases.pump_forgiving(&mut self.cx);
        self.apply();
        self.recovery.pump_unreported(&mut self.cx, &self.leases);
        self.recovery.pump_looks(&mut self.cx, &self.leases);
        self.apply();
        self.leases.pump_refresh(&self.cx);
        self.leases.pump_lanes(&mut self.cx);
        self.pump_fetch();
        self.pump_beat();
        self.leases.pump_doubt(&mut self.cx);
        self.pump_drain();
        self.apply();
    }

    /// Carries out what parts want of each other, in the order in which they asked.
    fn apply(&mut self) {
        while let Some(effect) = self.cx.effects.pop_front() {
            match effect {
                Effect::Recheck(entry, at) => self.recovery.recheck(at, entry),
                Effect::Unowned(entry) => self.recovery.remember_expired(&mut self.cx, entry),
                Effect::LeftBehind => self.recovery.looking.left_behind = true,
                Effect::Look(entries) => self.recovery.look_at(entries),
                Effect::LookAtOwn => self.recovery.look_at_own(&mut self.cx),
                Effect::HeartbeatBy(at) => self.beat_by(at),
                Effect::FetchNotBefore(at) => {
                    self.fetch.not_before = self.fetch.not_before.max(at);
                }
                Effect::Read(entry, stream) => {
                    self.leases.read(&mut self.cx, entry, stream.as_ref());
                }
                Effect::Admit {
                    entry,
                    content,
                    origin,
                    giver,
                } => self
                    .leases
                    .admit_from(&mut self.cx, entry, content, origin, giver),
                Effect::Adopt(lease, info) => self.leases.adopt(&mut self.cx, lease, info),
                Effect::GiveBack(lease) => self.leases.give_back(&mut self.cx, lease),
                Effect::TakenOver {
                    lease,
                    sent,
                    capped,
                } => self.leases.taken_over(&mut self.cx, lease, sent, capped),
                Effect::Park(entry, parking) => self.leases.park(entry, parking),
                Effect::Refresh(entries) => self.leases.lanes.refresh.queue.extend(entries),
                Effect::Wake(stream) => self.leases.wake_stream(&mut self.cx, &stream),
                Effect::LocksRestarted => self.leases.lock_server_restarted(&mut self.cx),
                Effect::AbandonSession(reason) => self.abandon_session(reason),
                Effect::Failed(call, error) => self.step_failed(call, &Err(error)),
            }
        }
    }

    /// Works through a page that a look has read, and what is wanted of the leases.
    fn classify_page(&mut self) {
        self.apply();
        while self.recovery.step(&mut self.cx, &self.leases) {
            self.apply();
        }
    }

    fn done(&mut self, id: ActionId, result: crate::Result<Reply>) {
        // A reply that comes twice is known by its id being gone.
        let Some(InFlight {
            session,
            sent,
            capped,
            flight,
        }) = self.cx.flights.remove(&id)
        else {
            return;
        };
        let current = session == self.cx.session_number;
        match flight {
            Flight::Prepare => self.prepare_done(result),
            Flight::Fetch { max, wait } => self.fetch_done(sent, (max, wait), result),
            Flight::Look => {
                self.recovery.look_done(&mut self.cx, &self.leases, result);
                self.classify_page();
            }
            Flight::LateHandBack(page) => {
                self.leases.late_hand_back_done(&mut self.cx, &page, result)
            }
            Flight::Quarantine(page) => {
                self.leases
                    .quarantine_done(&mut self.cx, page, result, current)
            }
            Flight::Forget(None) => self.forget_own_done(&result),
            Flight::Forget(Some(suspect)) => {
                self.recovery.forget_done(&mut self.cx, &suspect, result)
            }
            Flight::Close => self.close_done(&result),
            // What an abandoned session did no longer matters: what it held is
            // dead with it, and all of it is listed again.
            _ if !current => {}
            Flight::Open => self.open_done(sent, result),
            Flight::Beat {
                leases,
                quiet_since,
            } => self.beat_done(sent, &leases, quiet_since, result),
            Flight::Records(reading) => self.leases.records_done(&mut self.cx, reading, result),
            Flight::Acquire(page) => self.leases.acquire_done(
                &mut self.cx,
                &self.recovery.orphans,
                sent,
                capped,
                &page,
                result,
            ),
            Flight::Claim(page) => self.leases.claim_done(&mut self.cx, &page, result),
            Flight::Refresh(page) => self.leases.refresh_done(&mut self.cx, &page, result),
            Flight::ClearFailures(page) => {
                self.leases.clear_failures_done(&mut self.cx, page, result)
            }
            Flight::Complete(page) => self.leases.complete_done(&mut self.cx, &page, result),
            Flight::HandBack(page) => self.leases.hand_back_done(&mut self.cx, &page, result),
            Flight::Release(page) => self.leases.release_done(&mut self.cx, &page, result),
            Flight::TakeOver { suspect, places } => {
                self.recovery.take_over_done(
                    &mut self.cx,
                    &suspect,
                    places,
                    (sent, capped),
                    result,
                );
            }
            Flight::Bury(suspect) => self.recovery.bury_done(&mut self.cx, &suspect, result),
        }
    }

    fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::LockExpired { entry, .. } => {
                self.recovery
                    .look_at_expired(&mut self.cx, &self.leases, entry)
            }
            Hint::HandedBack(entries) => {
                self.leases.reconsider(&entries);
                self.recovery.look_at(entries);
            }
            Hint::Freed(streams) => {
                for stream in &streams {
                    self.leases.wake_stream(&mut self.cx, stream);
                    self.recovery.turn_freed(stream);
                }
            }
            Hint::HolderGone(consumer) => self.recovery.suspect(&mut self.cx, consumer, None),
            Hint::MayHaveMissed => {
                // Hints come again: so may everything else.
                self.retry_soon();
                self.recovery.look_after_silence(&mut self.cx);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Complete { entry, token, call } => {
                self.leases.complete(&mut self.cx, entry, token, call)
            }
            Command::DoneStream { stream, call } => {
                let lease = self.leases.items.active_entry(&stream).and_then(|entry| {
                    Some((entry, self.leases.items.get(entry)?.state.lock()?.token))
                });
                match lease {
                    Some((entry, token)) => self.leases.complete(&mut self.cx, entry, token, call),
                    None => self
                        .cx
                        .answer(call, Ok(Answer::Completion(Completion::NotOwner))),
                }
            }
            Command::HandBack {
                entry,
                token,
                failed,
                call,
            } => {
                self.leases
                    .hand_back(&mut self.cx, entry, token, failed, call);
            }
            Command::Claim {
                entry,
                stream,
                info,
                call,
            } => {
                self.leases
                    .claim_orphan(&mut self.cx, entry, stream, info, call);
            }
            Command::LimitSilence {
                entry,
                token,
                limit,
            } => self.leases.limit_silence(&mut self.cx, entry, token, limit),
            Command::SetCapacity(capacity) => {
                self.leases.late.allow(self.cx.settings.capacity);
                self.cx.settings.capacity = capacity;
            }
            Command::Shutdown { call } => self.shut_down(call),
        }
    }

    fn next_timeout(&self) -> Timestamp {
        let mut next = self.control_timeout().min(self.leases.late.timeout());
        if self.cx.is_open() {
            next = next
                .min(self.session_timeout())
                .min(self.leases.doubt_timeout())
                .min(
                    self.leases
                        .lanes
                        .timeout(self.leases.parking_places(&self.cx) > 0),
                )
                .min(self.recovery.look_timeout(&self.cx, &self.leases))
                .min(self.leases.refresh_timeout(&self.cx))
                .min(self.fetch_timeout())
                .min(self.leases.forgiving.timeout())
                .min(self.leases.silences.next())
                .min(self.leases.wakes.next());
        }
        next
    }
}

/// Doubling waits after failures in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Backoff {
    failures: u32,
    not_before: Timestamp,
}

impl Backoff {
    fn is_ready(&self, now: Timestamp) -> bool {
        self.not_before <= now
    }

    fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Waits 10 ms, doubling up to a fifth of the TTL, so that a lease's work
    /// is tried several times before R1 strikes.
    fn fail(&mut self, now: Timestamp, ttl: Duration, rng: &mut Rng) {
        let wait = Duration::from_millis(10) * 2u32.pow(self.failures.min(8));
        self.failures += 1;
        self.not_before = now + rng.jittered(wait.min(ttl / 5));
    }
}
