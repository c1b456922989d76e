//! Preparing the LBS, outages, giving up, shutting down (R7, R8).

use std::fmt;
use std::time::Duration;

use super::cx::{Leaving, Phase, Status};
use super::leases::table::{Item, State};
use super::{Action, Answer, CallId, DisownReason, Flight, Input, Machine, Notice, Reply};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How often each of the last two steps is tried.
const LEAVING_TRIES: u32 = 4;

/// What the LBS and the locks live on may be two systems: that one answers
/// says nothing about the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The LBS itself.
    Lbs,
    /// The LBS' group, missing whenever it has been made: only a fetch shows that
    /// it stands.
    Group,
    /// The lock manager.
    Locks,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lbs => "the LBS",
            Self::Group => "the consumer group",
            Self::Locks => "the locks",
        })
    }
}

/// The calls without which nothing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vital {
    Prepare,
    Fetch,
    Open,
    Beat,
}

impl Vital {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Fetch => "fetch",
            Self::Open => "open",
            Self::Beat => "beat",
        }
    }

    fn part(self) -> Part {
        match self {
            Self::Prepare | Self::Fetch => Part::Lbs,
            Self::Open | Self::Beat => Part::Locks,
        }
    }
}

/// A part of the backend cannot be used at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// Attempts that have failed in a row, as the retry policy counts them.
    failed: u32,
    /// When the policy's next attempt is due; what fails before does not count.
    counts_at: Timestamp,
    /// When the next attempt is due.
    retry_at: Timestamp,
    since: Timestamp,
    /// When the user was told last.
    told: Option<Timestamp>,
}

/// Between two notices of an outage that goes on.
const TELL_AGAIN: Duration = Duration::from_secs(30);

impl Machine {
    /// When the backend may be tried again after an outage; long past if there is none.
    pub(super) fn retry_at(&self) -> Timestamp {
        let outages = self.outages.iter().flatten();
        let latest = outages.map(|outage| outage.retry_at).max();
        latest.unwrap_or(Timestamp::ZERO)
    }

    pub(super) fn may_retry(&self) -> bool {
        self.retry_at() <= self.cx.now
    }

    pub(super) fn pump_control(&mut self) {
        if let Phase::Draining { until, .. } = self.cx.phase {
            // Without a session nothing is held, and past the bound TTLs do the rest. One
            // that is being opened is closed again, so that nobody waits for its end.
            if until <= self.cx.now || self.cx.status == Status::Closed {
                self.stop(None);
            }
            return;
        }
        let preparing = self.cx.awaits(|flight| matches!(flight, Flight::Prepare));
        if !self.prepared && !preparing && self.may_retry() {
            self.cx.act(Action::Prepare, Flight::Prepare);
        }
        if self.prepared && self.cx.status == Status::Closed && self.may_retry() {
            self.open_session();
        }
    }

    pub(super) fn prepare_done(&mut self, result: Result<Reply>) {
        match result {
            Ok(Reply::Prepared) => {
                self.prepared = true;
                self.control_succeeded(Vital::Prepare);
            }
            Ok(_) => self.control_failed(Vital::Prepare, wrong_reply("prepare")),
            Err(error) => self.control_failed(Vital::Prepare, error),
        }
    }

    pub(super) fn control_succeeded(&mut self, call: Vital) {
        self.answered[call as usize] = true;
        let mut was_out = self.reached(call.part());
        if call == Vital::Fetch {
            was_out |= self.reached(Part::Group);
        }
        if was_out {
            self.retry_soon();
        }
    }

    /// Something can be reached again: what else was out may be, too.
    pub(super) fn retry_soon(&mut self) {
        let soon = self.cx.now + self.cx.deadline_jitter();
        for outage in self.outages.iter_mut().flatten() {
            outage.retry_at = outage.retry_at.min(soon);
        }
    }

    pub(super) fn has_answered(&self, call: Vital) -> bool {
        self.answered[call as usize]
    }

    /// Whether it was out before.
    fn reached(&mut self, part: Part) -> bool {
        let Some(outage) = self.outages[part as usize].take() else {
            return false;
        };
        if outage.told.is_some() {
            let after = self.cx.now.saturating_since(outage.since);
            self.cx.notify(Notice::Reached { part, after });
        }
        true
    }

    /// One of the calls without which nothing goes on has failed: wait, then
    /// try again, or give up as the retry policy says (R8).
    ///
    /// A call that is refused before it has ever worked is a mistake in the setup, and
    /// the end. One that has worked will again: rights come back, a server is replaced.
    pub(super) fn control_failed(&mut self, call: Vital, error: Error) {
        let is_missing = error.kind() == ErrorKind::NotPrepared;
        if is_missing {
            self.prepared = false;
        } else if !error.is_retryable() && !self.has_answered(call) {
            return self.stop(Some(error));
        }
        let refusal_told = self.tell_refusal(call.name(), &error);
        let part = if is_missing { Part::Group } else { call.part() };
        let outage = self.outages[part as usize];
        // However long the policy waits, after about a TTL it is tried again: a client
        // that could not reach its server for long is to be back soon.
        let soon = self.cx.now + self.cx.rng.jittered(self.cx.settings.ttl);
        if let Some(outage) = &mut self.outages[part as usize] {
            if refusal_told {
                outage.told = Some(self.cx.now);
            }
            if outage.retry_at > self.cx.now {
                return;
            }
            if outage.counts_at > self.cx.now {
                outage.retry_at = outage.counts_at.min(soon);
                return;
            }
        }
        // A missing group is made again at once; one that is missing still counts.
        let failed = match outage {
            None if is_missing => {
                self.outages[part as usize] = Some(Outage {
                    failed: 0,
                    counts_at: self.cx.now,
                    retry_at: self.cx.now,
                    since: self.cx.now,
                    told: None,
                });
                return;
            }
            None => 1,
            Some(outage) => outage.failed + 1,
        };
        let Some(wait) = self.cx.settings.retry.wait_after(failed) else {
            return self.stop(Some(error));
        };
        let mut told = outage.and_then(|outage| outage.told);
        if refusal_told {
            told = Some(self.cx.now);
        }
        // One failure is no outage yet.
        if failed > 1
            && error.is_retryable()
            && told.is_none_or(|told| told + TELL_AGAIN <= self.cx.now)
        {
            told = Some(self.cx.now);
            self.cx.notify(Notice::Unreachable { part, error });
        }
        let counts_at = self.cx.now + self.cx.rng.jittered(wait);
        self.outages[part as usize] = Some(Outage {
            failed,
            counts_at,
            retry_at: counts_at.min(soon),
            since: outage.map_or(self.cx.now, |outage| outage.since),
            told,
        });
    }

    /// A step of `name` failed; all that matters beyond its own retry is a lost group,
    /// and that somebody hears of a refusal.
    pub(super) fn step_failed(&mut self, name: &'static str, result: &Result<Reply>) {
        let Err(error) = result else { return };
        if error.kind() == ErrorKind::NotPrepared {
            self.prepared = false;
        }
        self.tell_refusal(name, error);
    }

    /// One warning names a refusal, not one for each try of each step; another while it
    /// goes on. Whether it was told now.
    fn tell_refusal(&mut self, call: &'static str, error: &Error) -> bool {
        let again = |told: Timestamp| told + TELL_AGAIN <= self.cx.now;
        if error.is_retryable() || !self.refusal_told.is_none_or(again) {
            return false;
        }
        self.refusal_told = Some(self.cx.now);
        let error = error.clone();
        self.cx.notify(Notice::Refused { call, error });
        true
    }

    pub(super) fn shut_down(&mut self, call: Option<CallId>) {
        self.shutdown_calls.extend(call);
        if self.cx.is_draining() {
            return;
        }
        self.cx.phase = Phase::Draining {
            until: self.cx.now + self.cx.settings.ttl,
            step: Leaving::HandingBack,
        };
        self.cancel_fetch();
        // What is locked or about to be is given up when the answer is there.
        let is_held = |item: &Item| matches!(item.state, State::Held(_));
        let held = self.leases.items.iter().filter(|(_, item)| is_held(item));
        for entry in held.map(|(entry, _)| entry).collect::<Vec<_>>() {
            self.leases.begin_hand_back(&mut self.cx, entry, None, None);
        }
    }

    pub(super) fn cancel_fetch(&mut self) {
        self.cx
            .cancel(|flight| matches!(flight, Flight::Fetch { .. }));
    }

    /// Once nothing is held any more, the session is closed (which tells the
    /// others), then the name removed if nothing is pending at it.
    pub(super) fn pump_drain(&mut self) {
        let Phase::Draining { until, step } = self.cx.phase else {
            return;
        };
        match step {
            Leaving::HandingBack => {
                while let Some(entry) = self.leases.items.any_waiting() {
                    self.leases.forget(&mut self.cx, entry);
                }
                if self.leases.items.is_empty()
                    && self.leases.lanes.is_drained()
                    && self.leases.late.is_settled()
                {
                    let step = Leaving::Closing;
                    self.cx.phase = Phase::Draining { until, step };
                    self.send_leave(step);
                }
            }
            _ if self.leaving.is_ready(self.cx.now) && !self.is_leave_sent() => {
                self.send_leave(step)
            }
            _ => {}
        }
    }

    fn send_leave(&mut self, step: Leaving) {
        match step {
            Leaving::HandingBack => {}
            Leaving::Closing => {
                let session = self.cx.session.id.clone();
                self.cx.act(Action::Close(session), Flight::Close);
            }
            Leaving::Forgetting => {
                let consumer = self.cx.consumer.clone();
                self.cx
                    .act(Action::ForgetConsumer(consumer), Flight::Forget(None));
            }
        }
    }

    fn is_leave_sent(&self) -> bool {
        let is_one = |flight: &Flight| matches!(flight, Flight::Close | Flight::Forget(None));
        self.cx.awaits(is_one)
    }

    /// Nothing is held any more: the session is extended no longer.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.cx.phase, Phase::Draining { step, .. } if step != Leaving::HandingBack)
    }

    pub(super) fn close_done(&mut self, result: &Result<Reply>) {
        if self.leave_again(result) {
            return;
        }
        self.leaving = super::Backoff::default();
        if let Phase::Draining { until, .. } = self.cx.phase {
            let step = Leaving::Forgetting;
            self.cx.phase = Phase::Draining { until, step };
            self.send_leave(step);
        }
    }

    pub(super) fn forget_own_done(&mut self, result: &Result<Reply>) {
        if !self.leave_again(result) {
            self.stop(None);
        }
    }

    /// A few times, and not past the bound of the shutdown: then TTLs do the rest.
    fn leave_again(&mut self, result: &Result<Reply>) -> bool {
        if result.is_ok() {
            return false;
        }
        self.leaving
            .fail(self.cx.now, self.cx.settings.ttl, &mut self.cx.rng);
        self.leaving.failures < LEAVING_TRIES
    }

    /// The end. After `Terminated` nothing comes (R12).
    pub(super) fn stop(&mut self, error: Option<Error>) {
        self.leases
            .disown_all(&mut self.cx, DisownReason::ClientStopped);
        self.cancel_fetch();
        self.cx.flights.clear();
        self.cx.phase = Phase::Stopped;
        self.cx.notify(Notice::Terminated { error });
        for call in std::mem::take(&mut self.shutdown_calls) {
            self.cx.answer(call, Ok(Answer::Stopped));
        }
    }

    pub(super) fn control_timeout(&self) -> Timestamp {
        match self.cx.phase {
            Phase::Draining { until, step } => match step {
                Leaving::HandingBack => until,
                _ if self.is_leave_sent() => until,
                _ => until.min(self.leaving.not_before),
            },
            // The retry of prepare or open; if it is due already, it is under way.
            Phase::Running if self.retry_at() > self.cx.now => self.retry_at(),
            Phase::Running => Timestamp::MAX,
            Phase::Stopped => Timestamp::MAX,
        }
    }

    /// After the end: nobody waits for ever.
    pub(super) fn answer_late(&mut self, input: Input) {
        use super::{Command, Completion, Handover};
        let Input::Command(command) = input else {
            return;
        };
        match command {
            Command::Complete { call, .. } | Command::DoneStream { call, .. } => {
                self.cx
                    .answer(call, Ok(Answer::Completion(Completion::NotOwner)));
            }
            Command::HandBack {
                call: Some(call), ..
            } => self
                .cx
                .answer(call, Ok(Answer::Handover(Handover::NotOwner))),
            Command::Shutdown { call: Some(call) } => self.cx.answer(call, Ok(Answer::Stopped)),
            Command::Claim { call, .. } => self.cx.answer(call, Err(closed())),
            Command::HandBack { call: None, .. }
            | Command::Shutdown { call: None }
            | Command::LimitSilence { .. }
            | Command::SetCapacity(_) => {}
        }
    }
}

/// What calls of a stopped client are told.
pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the client is shut down; build a new one",
    )
}

/// A driver or backend that mixes up replies: treated as no answer.
pub(super) fn wrong_reply(to: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the reply does not belong to the call: {to}"),
    )
}
