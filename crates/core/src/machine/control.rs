//! Preparing the LBS, outages, giving up, shutting down (R7, R8).

use std::fmt;
use std::time::Duration;

use super::items::{Item, State};
use super::session::Status;
use super::{Action, Answer, CallId, DisownReason, Flight, Input, Machine, Notice, Output, Reply};
use crate::{Error, ErrorKind, Result, Timestamp};

/// Whether the machine works, ends or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Everything is being handed back, at most until then.
    Draining {
        until: Timestamp,
        closing: bool,
    },
    Stopped,
}

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

/// A part of the backend cannot be used at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// Attempts that have failed in a row.
    failed: u32,
    /// When the next attempt is due; what fails before does not count again.
    retry_at: Timestamp,
    since: Timestamp,
    /// When the user was told last.
    told: Option<Timestamp>,
}

/// Between two notices of an outage that goes on.
const TELL_AGAIN: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn is_draining(&self) -> bool {
        self.phase != Phase::Running
    }

    /// When the backend may be tried again after an outage; long past if there is none.
    pub(super) fn retry_at(&self) -> Timestamp {
        let outages = self.outages.iter().flatten();
        let latest = outages.map(|outage| outage.retry_at).max();
        latest.unwrap_or(Timestamp::ZERO)
    }

    pub(super) fn may_retry(&self) -> bool {
        self.retry_at() <= self.now
    }

    pub(super) fn pump_control(&mut self) {
        if let Phase::Draining { until, .. } = self.phase {
            // Without a session nothing is held, and past the bound TTLs do the rest.
            if until <= self.now || !self.sitting.is_open() {
                self.stop(None);
            }
            return;
        }
        let preparing = self
            .flights
            .values()
            .any(|f| matches!(f.flight, Flight::Prepare));
        if !self.prepared && !preparing && self.may_retry() {
            self.act(Action::Prepare, Flight::Prepare);
        }
        if self.prepared && self.sitting.status == Status::Closed && self.may_retry() {
            self.open_session();
        }
    }

    pub(super) fn prepare_done(&mut self, result: Result<Reply>) {
        match result {
            Ok(Reply::Prepared) => {
                self.prepared = true;
                self.control_succeeded(Part::Lbs);
            }
            Ok(_) => self.control_failed(Part::Lbs, wrong_reply("prepare")),
            Err(error) => self.control_failed(Part::Lbs, error),
        }
    }

    pub(super) fn control_succeeded(&mut self, part: Part) {
        if let Some(outage) = self.outages[part as usize].take()
            && outage.told.is_some()
        {
            let after = self.now.saturating_since(outage.since);
            self.notify(Notice::Reached { part, after });
        }
    }

    /// One of the calls without which nothing goes on has failed: wait, then
    /// try again, or give up as the retry policy says (R8).
    pub(super) fn control_failed(&mut self, part: Part, error: Error) {
        let is_missing = error.kind() == ErrorKind::NotPrepared;
        if is_missing {
            self.prepared = false;
        } else if !error.is_retryable() {
            return self.stop(Some(error));
        }
        let part = if is_missing { Part::Group } else { part };
        let outage = self.outages[part as usize];
        if outage.is_some_and(|outage| outage.retry_at > self.now) {
            return;
        }
        // A missing group is made again at once; one that is missing still counts.
        let failed = match outage {
            None if is_missing => {
                self.outages[part as usize] = Some(Outage {
                    failed: 0,
                    retry_at: self.now,
                    since: self.now,
                    told: None,
                });
                return;
            }
            None => 1,
            Some(outage) => outage.failed + 1,
        };
        let policy = self.settings.retry;
        if policy.retries.is_some_and(|retries| failed > retries) {
            return self.stop(Some(error));
        }
        let wait = policy
            .first
            .saturating_mul(2u32.saturating_pow(failed - 1))
            .min(policy.max);
        let mut told = outage.and_then(|outage| outage.told);
        // One failure is no outage yet.
        if failed > 1 && told.is_none_or(|told| told + TELL_AGAIN <= self.now) {
            told = Some(self.now);
            self.notify(Notice::Unreachable { part, error });
        }
        self.outages[part as usize] = Some(Outage {
            failed,
            retry_at: self.now + self.rng.jittered(wait),
            since: outage.map_or(self.now, |outage| outage.since),
            told,
        });
    }

    /// A lane's page failed; all that matters beyond its own retry is a lost group.
    pub(super) fn step_failed(&mut self, result: &Result<Reply>) {
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotPrepared)
        {
            self.prepared = false;
        }
    }

    pub(super) fn shut_down(&mut self, call: Option<CallId>) {
        self.shutdown_calls.extend(call);
        if self.is_draining() {
            return;
        }
        self.phase = Phase::Draining {
            until: self.now + self.settings.ttl,
            closing: false,
        };
        self.cancel_fetch();
        // What is locked or about to be is given up when the answer is there.
        let is_held = |item: &Item| matches!(item.state, State::Held(_));
        let held = self.items.iter().filter(|(_, item)| is_held(item));
        for entry in held.map(|(entry, _)| entry).collect::<Vec<_>>() {
            self.begin_hand_back(entry, false, None);
        }
    }

    pub(super) fn cancel_fetch(&mut self) {
        let fetch = self
            .flights
            .iter()
            .find(|(_, f)| matches!(f.flight, Flight::Fetch { .. }));
        if let Some((&id, _)) = fetch {
            self.flights.remove(&id);
            self.outputs.push_back(Output::Cancel(id));
        }
    }

    /// Once nothing is held any more, the session is closed (which tells the
    /// others), then the name removed if nothing is pending at it.
    pub(super) fn pump_drain(&mut self) {
        let Phase::Draining {
            until,
            closing: false,
        } = self.phase
        else {
            return;
        };
        while let Some(entry) = self.items.any_waiting() {
            self.forget(entry);
        }
        if self.items.is_empty() && self.lanes.is_drained() {
            self.phase = Phase::Draining {
                until,
                closing: true,
            };
            self.act(
                Action::Close(self.sitting.session.id.clone()),
                Flight::Close,
            );
        }
    }

    pub(super) fn close_done(&mut self) {
        self.act(
            Action::ForgetConsumer(self.consumer.clone()),
            Flight::Forget { own: true },
        );
    }

    pub(super) fn forget_done(&mut self, own: bool) {
        if own {
            self.stop(None);
        }
    }

    /// The end. After `Terminated` nothing comes (R12).
    pub(super) fn stop(&mut self, error: Option<Error>) {
        self.disown_all(DisownReason::ClientStopped);
        self.cancel_fetch();
        self.flights.clear();
        self.phase = Phase::Stopped;
        self.notify(Notice::Terminated { error });
        for call in std::mem::take(&mut self.shutdown_calls) {
            self.answer(call, Ok(Answer::Stopped));
        }
    }

    pub(super) fn control_timeout(&self) -> Timestamp {
        match self.phase {
            Phase::Draining { until, .. } => until,
            // The retry of prepare or open; if it is due already, it is under way.
            Phase::Running if self.retry_at() > self.now => self.retry_at(),
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
                self.answer(call, Ok(Answer::Completion(Completion::NotOwner)));
            }
            Command::HandBack {
                call: Some(call), ..
            } => self.answer(call, Ok(Answer::Handover(Handover::NotOwner))),
            Command::Shutdown { call: Some(call) } => self.answer(call, Ok(Answer::Stopped)),
            Command::Claim { call, .. } => self.answer(call, Err(closed())),
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
