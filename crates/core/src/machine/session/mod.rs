//! One session after the other: open it, keep it alive, believe in it (R1, R2).

pub(crate) mod heartbeat;

use self::heartbeat::Round;
use super::cx::{Cx, Effect, Flight, Status};
use super::lifecycle::outages::Vital;
use super::{Action, DisownReason};
use crate::{LockScheme, OpenOutcome, Result, Timestamp};

/// This consumer's current session, and what the machine believes of it.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// With session leases, everything held is believed until then.
    deadline: Timestamp,
    next_heartbeat: Timestamp,
    is_sent: bool,
    round: Round,
    /// Heartbeats in a row that said that a deadline is now, and brought no new death.
    in_vain: u32,
}

impl SessionState {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            deadline: Timestamp::MAX,
            next_heartbeat: now,
            is_sent: false,
            round: Round {
                began: now,
                left: Vec::new(),
            },
            in_vain: 0,
        }
    }

    /// R1: has the belief in the session run out? (With per-stream locks each lease has
    /// a deadline of its own.)
    pub(crate) fn has_run_out(&self, cx: &Cx) -> bool {
        cx.scheme == LockScheme::Session && cx.is_open() && self.deadline <= cx.now
    }

    pub(crate) fn open(&self, cx: &mut Cx) {
        cx.status = Status::Opening;
        cx.act(Action::Open(cx.session.clone()), Flight::Open);
    }

    pub(crate) fn open_done(&mut self, cx: &mut Cx, sent: Timestamp, result: Result<OpenOutcome>) {
        match result {
            Ok(OpenOutcome::Opened) => {
                let until = cx.believed_until(sent);
                if until <= cx.now {
                    return cx.effect(Effect::AbandonSession(DisownReason::Expired));
                }
                cx.status = Status::Open;
                // The first heartbeat tells at once who is dead and how many we are.
                self.next_heartbeat = cx.now;
                if cx.scheme == LockScheme::Session {
                    self.deadline = until;
                    cx.belief.set(until);
                }
            }
            Ok(OpenOutcome::SessionGone) => {
                cx.effect(Effect::AbandonSession(DisownReason::Expired));
            }
            Err(error) => {
                // The same session is opened again: what happened of it is its own.
                cx.status = Status::Closed;
                if !cx.is_draining() {
                    cx.effect(Effect::VitalFailed(Vital::Open, error));
                }
            }
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx) -> Timestamp {
        let expiry = match cx.scheme {
            LockScheme::Session => self.deadline,
            LockScheme::PerStream => Timestamp::MAX,
        };
        let heartbeat = match self.is_sent || cx.is_leaving() {
            true => Timestamp::MAX,
            false => self.next_heartbeat,
        };
        expiry.min(heartbeat)
    }
}
