//! One session after the other: open, beat, believe (R1), bear errors (R2), disown.

use std::sync::Arc;
use std::time::Duration;

use super::control::Vital;
use super::cx::{Flight, Status};
use super::recovery::takeover::{ASKING, LATEST_NEWS};
use super::{Action, DisownReason, Machine, Reply};
use crate::{
    BeatOutcome, BeatReply, LeaseRef, LockScheme, OpenOutcome, Result, SessionId, Timestamp,
};

/// How many leases one beat extends with per-stream locks. All at once, 100,000
/// take a backend longer than a beat may take; and what a client sends meanwhile
/// waits behind them.
const BEAT_LEASES: usize = 1_024;

/// Between a failed beat and the next: beats also tell who has died.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// This consumer's current session, and what the machine believes of it.
#[derive(Debug)]
pub(super) struct Sitting {
    /// With session leases, everything held is believed until then.
    pub(super) deadline: Timestamp,
    next_beat: Timestamp,
    beating: bool,
    round: Round,
    /// Beats in a row that said that a deadline is now, and brought no new death.
    in_vain: u32,
}

/// One extension of everything held: with per-stream locks as many beats as it
/// takes, each as soon as the one before is answered.
#[derive(Debug)]
struct Round {
    began: Timestamp,
    /// What no beat of the round has named yet.
    left: Vec<LeaseRef>,
}

impl Sitting {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            deadline: Timestamp::MAX,
            next_beat: now,
            beating: false,
            round: Round {
                began: now,
                left: Vec::new(),
            },
            in_vain: 0,
        }
    }
}

impl Machine {
    /// R1: has the belief in the session run out? With per-stream locks: in all
    /// its leases; a single one that has run out ends here.
    pub(super) fn belief_ran_out(&mut self) -> bool {
        if !self.cx.is_open() {
            return false;
        }
        if self.cx.scheme == LockScheme::Session && self.sitting.deadline <= self.cx.now {
            return true;
        }
        let lapsed = self.leases.items.expired(self.cx.now);
        let all = !lapsed.is_empty() && lapsed.len() == self.leases.items.locked();
        if all && self.cx.scheme == LockScheme::PerStream {
            return true;
        }
        // The others have been extended since, or found on record: an acquire that
        // was long under way, or a doubt, costs only its own lease (R2).
        for entry in lapsed {
            self.leases
                .lapse(&mut self.cx, entry, DisownReason::Expired);
        }
        false
    }

    /// Ends everything that hangs on the current session and begins another,
    /// whose id was never used. What was pending here is listed again by it.
    pub(super) fn abandon_session(&mut self, reason: DisownReason) {
        self.leases.owe_all(&mut self.cx);
        self.leases.disown_all(&mut self.cx, reason);
        self.leases.adopting.clear();
        self.leases.record = super::leases::unconfirmed::Record::default();
        self.cx.begin_session();
        self.sitting = Sitting::new(self.cx.now);
        self.recovery.start_over(&self.cx);
    }

    pub(super) fn open_session(&mut self) {
        self.cx.status = Status::Opening;
        self.cx
            .act(Action::Open(self.cx.session.clone()), Flight::Open);
    }

    pub(super) fn open_done(&mut self, sent: Timestamp, result: Result<Reply>) {
        match result {
            Ok(Reply::Opened(OpenOutcome::Opened)) => {
                self.control_succeeded(Vital::Open);
                let until = self.cx.believed_until(sent);
                if until <= self.cx.now {
                    return self.abandon_session(DisownReason::Expired);
                }
                self.cx.status = Status::Open;
                // The first beat tells at once who is dead and how many we are.
                self.sitting.next_beat = self.cx.now;
                if self.cx.scheme == LockScheme::Session {
                    self.sitting.deadline = until;
                    self.cx.belief.set(until);
                }
            }
            Ok(Reply::Opened(OpenOutcome::SessionGone)) => {
                self.control_succeeded(Vital::Open);
                self.abandon_session(DisownReason::Expired);
            }
            Ok(_) => self.control_failed(Vital::Open, super::control::wrong_reply("open")),
            Err(error) => {
                // The same session is opened again: what happened of it is its own.
                self.cx.status = Status::Closed;
                if !self.cx.is_draining() {
                    self.control_failed(Vital::Open, error);
                }
            }
        }
    }

    pub(super) fn pump_beat(&mut self) {
        if self.sitting.beating || self.sitting.next_beat > self.cx.now || self.is_leaving() {
            return;
        }
        self.sitting.beating = true;
        if self.sitting.round.left.is_empty() {
            self.sitting.round.began = self.cx.now;
            if self.cx.scheme == LockScheme::PerStream {
                self.sitting.round.left = self.leases.items.leases();
            }
        }
        let left = &mut self.sitting.round.left;
        let leases: Arc<[LeaseRef]> = left
            .split_off(left.len().saturating_sub(BEAT_LEASES))
            .into();
        let want_sweep = self
            .recovery
            .wants_sweep(&self.cx, &self.leases)
            .then(|| self.recovery.sweep_interval(&self.cx));
        let quiet = self.leases.lanes.no_lock_op_open()
            && self.leases.adopting.is_empty()
            && !self
                .cx
                .awaits(|flight| matches!(flight, Flight::TakeOver { .. }));
        let quiet_since = quiet.then_some(self.cx.lock_ops);
        let session = self.cx.session.clone();
        self.cx.act(
            Action::Beat {
                session,
                leases: leases.clone(),
                want_sweep,
            },
            Flight::Beat {
                leases,
                quiet_since,
            },
        );
    }

    /// Beat then at the latest.
    pub(super) fn beat_by(&mut self, at: Timestamp) {
        self.sitting.next_beat = self.sitting.next_beat.min(at);
    }

    pub(super) fn beat_done(
        &mut self,
        sent: Timestamp,
        leases: &[LeaseRef],
        quiet_since: Option<u64>,
        result: Result<Reply>,
    ) {
        self.sitting.beating = false;
        match result {
            Ok(Reply::Beaten(BeatOutcome::Extended(reply))) => {
                self.control_succeeded(Vital::Beat);
                let unchanged = self.leases.compare_generation(
                    &mut self.cx,
                    reply.generation,
                    self.sitting.deadline,
                );
                self.extend(sent, leases);
                let round = &self.sitting.round;
                self.sitting.next_beat = match round.left.is_empty() {
                    true => round.began + self.cx.settings.beat_interval(),
                    false => self.cx.now,
                };
                self.leases.lasting(&mut self.cx, sent, unchanged);
                self.beat_told(reply, quiet_since);
            }
            Ok(Reply::Beaten(BeatOutcome::SessionGone)) => {
                self.control_succeeded(Vital::Beat);
                self.abandon_session(DisownReason::Expired);
            }
            Ok(_) => self.beat_failed(leases, super::control::wrong_reply("beat")),
            Err(error) => self.beat_failed(leases, error),
        }
    }

    /// R2: an error is not a loss. Tried again, until R1 strikes.
    fn beat_failed(&mut self, leases: &[LeaseRef], error: crate::Error) {
        // The others go first: a page that always fails must not cost them their time.
        self.sitting.round.left.splice(0..0, leases.iter().cloned());
        let longest = match self.leases.record.fresh.is_empty() {
            true => LONGEST_WAIT,
            false => LONGEST_WAIT / 10,
        };
        let wait = (self.cx.settings.ttl / 10).min(longest);
        let wait = self.cx.rng.jittered(wait);
        self.sitting.next_beat = self.cx.now + wait;
        self.control_failed(Vital::Beat, error);
    }

    fn extend(&mut self, sent: Timestamp, leases: &[LeaseRef]) {
        let until = self.cx.believed_until(sent);
        if self.cx.scheme == LockScheme::Session {
            self.sitting.deadline = self.sitting.deadline.max(until);
            self.cx.belief.set(self.sitting.deadline);
            return;
        }
        for lease in leases {
            let Some(item) = self.leases.items.get(lease.entry) else {
                continue;
            };
            let Some(lock) = item.state.lock() else {
                continue;
            };
            if lock.token != lease.token || lock.deadline >= until {
                continue;
            }
            if let Some(belief) = item.state.belief() {
                belief.set(until);
            }
            if let Some(lock) = self.leases.items.lock_mut(lease.entry) {
                lock.deadline = until;
            }
        }
    }

    fn beat_told(&mut self, reply: BeatReply, quiet_since: Option<u64>) {
        self.cx.peers.members = reply.members.max(1);
        self.cx.peers.are_known = reply.members > 0;
        for lease in reply.lost {
            if self
                .leases
                .items
                .lock_with(lease.entry, lease.token)
                .is_some()
            {
                self.leases
                    .lose(&mut self.cx, lease.entry, DisownReason::LockLost);
            }
        }
        for lease in reply.revoked {
            self.leases.give_up_revoked(&mut self.cx, lease);
        }
        let is_known = |dead: &SessionId| self.recovery.orphans.is_dead(dead);
        if !reply.dead.iter().all(is_known) {
            self.sitting.in_vain = 0;
        }
        self.recovery
            .told_dead(&mut self.cx, &self.leases, reply.dead);
        if let Some(deadline) = reply.next_deadline {
            let at = self.cx.now + deadline.max(self.before_next_deadline(deadline));
            self.cx.peers.all_know_at = at + LATEST_NEWS + ASKING;
            let at = at + self.cx.deadline_jitter();
            self.beat_by(at);
        }
        if reply.sweep {
            self.recovery.begin_sweep(&mut self.cx);
        }
        let held = self.leases.items.locked() as u64;
        if reply.on_record.is_some_and(|on_record| on_record != held) {
            let is_quiet = quiet_since == Some(self.cx.lock_ops);
            self.leases.doubt_record(&mut self.cx, is_quiet);
        }
    }

    /// The least time until another's deadline is looked at. A backend may say again and
    /// again that it is now, and nobody dies: then it is looked at less and less often.
    fn before_next_deadline(&mut self, deadline: Duration) -> Duration {
        if deadline >= LATEST_NEWS {
            self.sitting.in_vain = 0;
        }
        let wait = Duration::from_millis(1 << self.sitting.in_vain.min(20));
        self.sitting.in_vain = self.sitting.in_vain.saturating_add(1);
        wait.min(self.cx.settings.beat_interval() / 4)
    }

    pub(super) fn session_timeout(&self) -> Timestamp {
        let expiry = match self.cx.scheme {
            LockScheme::Session => self.sitting.deadline,
            LockScheme::PerStream => Timestamp::MAX,
        };
        let expiry = expiry.min(self.leases.items.next_expiry());
        let beat = if self.sitting.beating || self.is_leaving() {
            Timestamp::MAX
        } else {
            self.sitting.next_beat
        };
        expiry.min(beat)
    }
}
