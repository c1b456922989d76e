//! Heartbeats: they keep the session alive, and with per-stream locks renew every lease,
//! and bring what the lock server has to tell.

use std::sync::Arc;
use std::time::Duration;

use super::SessionState;
use crate::limits::DEADLINE_JITTER;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::machine::lifecycle::outages::{Part, Vital};
use crate::machine::recovery::Recovery;
use crate::machine::recovery::takeover::ASKING;
use crate::machine::{DisownReason, LocksCall};
use crate::{Error, LeaseRef, LockScheme, RenewOutcome, Renewal, Result, SessionId, Timestamp};

/// How many leases one heartbeat extends with per-stream locks. All at once, 100,000
/// take a backend longer than a heartbeat may take; and what a client sends meanwhile
/// waits behind them.
const HEARTBEAT_LEASES: usize = 1_024;

/// Between a failed heartbeat and the next: they also tell who has died.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// One extension of everything held: with per-stream locks as many heartbeats as it
/// takes, each as soon as the one before is answered.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) began: Timestamp,
    /// What no heartbeat of the round has named yet.
    pub(super) left: Vec<LeaseRef>,
}

/// A heartbeat that was answered, for those whom its news concern.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) sent: Timestamp,
    /// Which leases it named (per-stream locks).
    pub(crate) named: Arc<[LeaseRef]>,
    /// How many lock operations there had been, if none was under way.
    pub(crate) quiet_since: Option<u64>,
    /// Until when the session was believed before it.
    pub(crate) deadline_before: Timestamp,
    pub(crate) reply: Renewal,
}

impl SessionState {
    pub(crate) fn pump_heartbeat(&mut self, cx: &mut Cx, leases: &Leases, recovery: &Recovery) {
        if let Some((_, error)) = self.unanswered.take_if(|(until, _)| *until <= cx.now) {
            cx.effect(Effect::Unreachable(Part::Locks, error));
        }
        if self.is_sent || self.next_heartbeat > cx.now || cx.is_leaving() {
            return;
        }
        self.is_sent = true;
        if self.round.left.is_empty() {
            self.round.began = cx.now;
            if cx.scheme == LockScheme::PerStream {
                self.round.left = leases.items.leases();
            }
        }
        let left = &mut self.round.left;
        let named: Arc<[LeaseRef]> = left
            .split_off(left.len().saturating_sub(HEARTBEAT_LEASES))
            .into();
        let want_sweep = recovery
            .sweeps
            .wants_turn(cx, leases)
            .then(|| recovery.sweeps.interval(cx));
        let is_quiet = leases.lanes.no_lock_op_open()
            && leases.adopting.is_empty()
            && !cx
                .calls
                .awaits(|flight| matches!(flight, Flight::TakeOver { .. }));
        let quiet_since = is_quiet.then_some(cx.calls.lock_ops());
        cx.act(
            LocksCall::Renew {
                session: cx.session.get(),
                leases: named.clone(),
                want_sweep,
            },
            Flight::Heartbeat {
                leases: named,
                quiet_since,
            },
        );
    }

    /// Send the next one then at the latest.
    pub(crate) fn heartbeat_by(&mut self, at: Timestamp) {
        self.next_heartbeat = self.next_heartbeat.min(at);
    }

    pub(crate) fn heartbeat_done(
        &mut self,
        cx: &mut Cx,
        (leases, recovery): (&Leases, &Recovery),
        (sent, named, quiet_since): (Timestamp, Arc<[LeaseRef]>, Option<u64>),
        result: Result<RenewOutcome>,
    ) {
        self.is_sent = false;
        if result.is_ok() {
            self.unanswered = None;
            self.is_silent = false;
        }
        match result {
            Ok(RenewOutcome::Extended(reply)) => {
                let deadline_before = self.deadline;
                if cx.scheme == LockScheme::Session {
                    self.deadline = self.deadline.max(cx.believed_until(sent));
                }
                self.next_heartbeat = match self.round.left.is_empty() {
                    true => self.round.began + cx.settings.heartbeat_interval(),
                    false => cx.now,
                };
                self.told_of_peers(cx, recovery, &reply);
                cx.effect(Effect::Heartbeat(Box::new(Heartbeat {
                    sent,
                    named,
                    quiet_since,
                    deadline_before,
                    reply,
                })));
            }
            Ok(RenewOutcome::SessionGone) => {
                cx.effect(Effect::AbandonSession(DisownReason::Expired));
            }
            Err(error) => self.heartbeat_failed(cx, leases, (sent, &named), error),
        }
    }

    /// R2: an error is not a loss. Tried again, until R1 ends the lease: at once if there was
    /// no answer for so long that the wait is over by now.
    ///
    /// One failure is no outage yet, and what a packet costs that was lost the next try shows
    /// soon. But without an answer there may be no second failure before the leases end. So
    /// the first one counts as an outage if none is answered for another interval.
    fn heartbeat_failed(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        (sent, named): (Timestamp, &[LeaseRef]),
        error: Error,
    ) {
        // The others go first: a page that always fails must not cost them their time.
        self.round.left.splice(0..0, named.iter().cloned());
        let longest = match leases.record.fresh.is_empty() {
            true => LONGEST_WAIT,
            false => LONGEST_WAIT / 10,
        };
        let wait = (cx.settings.ttl / 10).min(longest);
        self.next_heartbeat = cx.now.max(sent + cx.rng.jittered(wait));
        if !self.is_silent {
            self.is_silent = true;
            let until = sent + cx.settings.heartbeat_interval();
            self.unanswered = Some((until, error.clone()));
        }
        cx.effect(Effect::VitalFailed(Vital::Heartbeat, error));
    }

    fn told_of_peers(&mut self, cx: &mut Cx, recovery: &Recovery, reply: &Renewal) {
        cx.peers.members = reply.members.max(1);
        cx.peers.are_known = reply.members > 0;
        let is_known = |dead: &SessionId| recovery.orphans.is_dead(dead);
        if !reply.dead.iter().all(is_known) {
            self.in_vain = 0;
        }
    }

    /// Shows handlers the new deadline. Only after the leases that the lock server may
    /// have lost were limited: handlers read it from other threads at any moment (R1).
    pub(crate) fn show_deadline(&self, cx: &Cx) {
        if cx.scheme == LockScheme::Session {
            cx.session.believe_until(self.deadline);
        }
    }

    /// When another's deadline is next, to hear of its death at once. After those who are
    /// dead already were told of: by when all know of them is what was said before.
    pub(crate) fn told_of_deadline(&mut self, cx: &mut Cx, reply: &Renewal) {
        if let Some(deadline) = reply.next_deadline {
            let at = cx.now + deadline.max(self.before_next_deadline(cx, deadline));
            cx.peers.all_know_at = at + DEADLINE_JITTER + ASKING;
            let at = at + cx.deadline_jitter();
            self.heartbeat_by(at);
        }
    }

    /// The least time until another's deadline is looked at. A backend may say again and
    /// again that it is now, and nobody dies: then it is looked at less and less often.
    fn before_next_deadline(&mut self, cx: &Cx, deadline: Duration) -> Duration {
        if deadline >= DEADLINE_JITTER {
            self.in_vain = 0;
        }
        let wait = Duration::from_millis(1 << self.in_vain.min(20));
        self.in_vain = self.in_vain.saturating_add(1);
        wait.min(cx.settings.heartbeat_interval() / 4)
    }
}
