//! One session after the other: open, beat, believe (R1), bear errors (R2), disown.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::control::Vital;
use super::doubt::Record;
use super::items::{Item, State};
use super::orphans::{ASKING, LATEST_NEWS};
use super::{Action, Config, DisownReason, Flight, Machine, PAGE, Reply, Rng};
use crate::belief::SessionBelief;
use crate::{
    BeatOutcome, BeatReply, ConsumerName, EntryId, LeaseRef, LockScheme, OpenOutcome, Result,
    Session, SessionId, Timestamp,
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
    /// Counts the sessions of this machine; tells late replies of an earlier one.
    pub(super) number: u64,
    pub(super) session: Session,
    pub(super) status: Status,
    /// With session leases, everything held is believed until then.
    pub(super) deadline: Timestamp,
    pub(super) belief: Arc<SessionBelief>,
    next_beat: Timestamp,
    beating: bool,
    round: Round,
    pub(super) record: Record,
    /// Live sessions of the service, at least this one.
    pub(super) members: u32,
    /// Whether the backend keeps sessions, so that beats tell who is dead.
    pub(super) knows_members: bool,
    /// Beats in a row that said that a deadline is now, and brought no new death.
    in_vain: u32,
    /// If another dies at the next deadline, everybody has heard of it, and asked what is left, by then.
    pub(super) all_know_at: Timestamp,
    /// Counts lock operations sent and answered, so that a beat can tell
    /// whether its count of records compares with what is held.
    pub(super) ops: u64,
    /// A time at which to look at the deadline of each lease that has one of its
    /// own. Deadlines are moved without touching this; a passed time is looked up again.
    expiries: BTreeSet<(Timestamp, EntryId)>,
}

/// One extension of everything held: with per-stream locks as many beats as it
/// takes, each as soon as the one before is answered.
#[derive(Debug)]
struct Round {
    began: Timestamp,
    /// What no beat of the round has named yet.
    left: Vec<LeaseRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Closed,
    Opening,
    Open,
}

impl Sitting {
    pub(super) fn new(config: &Config, rng: &mut Rng, now: Timestamp) -> Self {
        Self::fresh(0, &config.consumer, config.settings.ttl, rng, now)
    }

    fn fresh(
        number: u64,
        consumer: &ConsumerName,
        ttl: Duration,
        rng: &mut Rng,
        now: Timestamp,
    ) -> Self {
        Self {
            number,
            session: Session {
                id: SessionId::new(consumer.clone(), rng.next()),
                ttl,
            },
            status: Status::Closed,
            deadline: Timestamp::MAX,
            belief: SessionBelief::new(Timestamp::MAX),
            next_beat: now,
            beating: false,
            round: Round {
                began: now,
                left: Vec::new(),
            },
            record: Record::default(),
            members: 1,
            knows_members: true,
            in_vain: 0,
            all_know_at: now,
            ops: 0,
            expiries: BTreeSet::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.status == Status::Open
    }

    #[cfg(test)]
    pub(super) fn expiries(&self) -> usize {
        self.expiries.len()
    }
}

impl Machine {
    /// Until when something that was extended by a call sent at `sent` is believed.
    pub(super) fn believed_until(&self, sent: Timestamp) -> Timestamp {
        sent + (self.settings.ttl - self.settings.margin())
    }

    /// A lease has a deadline of its own, at which to look whether it has run out.
    pub(super) fn expires_at(&mut self, deadline: Timestamp, entry: EntryId) {
        let expiries = &mut self.sitting.expiries;
        expiries.insert((deadline, entry));
        // Those of leases that have ended stay, until they are many.
        if expiries.len() > 2 * (self.items.locked() + PAGE) {
            let items = &self.items;
            let mut seen = BTreeSet::new();
            expiries.retain(|(_, entry)| {
                let is_locked = |item: &Item| item.state.lock().is_some();
                items.get(*entry).is_some_and(is_locked) && seen.insert(*entry)
            });
        }
    }

    /// R1: has the belief in the session run out? With per-stream locks: in all
    /// its leases; a single one that has run out ends here.
    pub(super) fn belief_ran_out(&mut self) -> bool {
        if !self.sitting.is_open() {
            return false;
        }
        if self.scheme == LockScheme::Session && self.sitting.deadline <= self.now {
            return true;
        }
        let mut lapsed = Vec::new();
        while let Some(&(at, entry)) = self.sitting.expiries.first() {
            if at > self.now {
                break;
            }
            self.sitting.expiries.pop_first();
            match self.items.lock_mut(entry) {
                Some(lock) if lock.deadline <= self.now => lapsed.push(entry),
                Some(lock) if lock.deadline < Timestamp::MAX => {
                    let at = lock.deadline;
                    self.sitting.expiries.insert((at, entry));
                }
                _ => {}
            }
        }
        let all = !lapsed.is_empty() && lapsed.len() == self.items.locked();
        if all && self.scheme == LockScheme::PerStream {
            return true;
        }
        // The others have been extended since, or found on record: an acquire that
        // was long under way, or a doubt, costs only its own lease (R2).
        for entry in lapsed {
            self.lapse(entry, DisownReason::Expired);
        }
        false
    }

    /// Ends everything that hangs on the current session and begins another,
    /// whose id was never used. What was pending here is listed again by it.
    pub(super) fn abandon_session(&mut self, reason: DisownReason) {
        self.owe_all();
        self.disown_all(reason);
        let number = self.sitting.number + 1;
        self.sitting = Sitting::fresh(
            number,
            &self.consumer,
            self.settings.ttl,
            &mut self.rng,
            self.now,
        );
        self.looking.start_over(self.now);
        self.orphans.start_over();
    }

    pub(super) fn open_session(&mut self) {
        self.sitting.status = Status::Opening;
        self.act(Action::Open(self.sitting.session.clone()), Flight::Open);
    }

    pub(super) fn open_done(&mut self, sent: Timestamp, result: Result<Reply>) {
        match result {
            Ok(Reply::Opened(OpenOutcome::Opened)) => {
                self.control_succeeded(Vital::Open);
                let until = self.believed_until(sent);
                if until <= self.now {
                    return self.abandon_session(DisownReason::Expired);
                }
                self.sitting.status = Status::Open;
                // The first beat tells at once who is dead and how many we are.
                self.sitting.next_beat = self.now;
                if self.scheme == LockScheme::Session {
                    self.sitting.deadline = until;
                    self.sitting.belief.set(until);
                }
            }
            Ok(Reply::Opened(OpenOutcome::SessionGone)) => {
                self.control_succeeded(Vital::Open);
                self.abandon_session(DisownReason::Expired);
            }
            Ok(_) => self.control_failed(Vital::Open, super::control::wrong_reply("open")),
            Err(error) => {
                // The same session is opened again: what happened of it is its own.
                self.sitting.status = Status::Closed;
                if !self.is_draining() {
                    self.control_failed(Vital::Open, error);
                }
            }
        }
    }

    pub(super) fn pump_beat(&mut self) {
        if self.sitting.beating || self.sitting.next_beat > self.now || self.is_leaving() {
            return;
        }
        self.sitting.beating = true;
        if self.sitting.round.left.is_empty() {
            self.sitting.round.began = self.now;
            if self.scheme == LockScheme::PerStream {
                self.sitting.round.left = self.items.leases();
            }
        }
        let left = &mut self.sitting.round.left;
        let leases: Arc<[LeaseRef]> = left
            .split_off(left.len().saturating_sub(BEAT_LEASES))
            .into();
        let want_sweep = self.wants_sweep().then(|| self.sweep_interval());
        let quiet = self.lanes.no_lock_op_open()
            && self.orphans.adopting.is_empty()
            && !self.is_taking_over();
        let quiet_since = quiet.then_some(self.sitting.ops);
        let session = self.sitting.session.clone();
        self.act(
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
                let unchanged = self.compare_generation(reply.generation);
                self.extend(sent, leases);
                let round = &self.sitting.round;
                self.sitting.next_beat = match round.left.is_empty() {
                    true => round.began + self.settings.beat_interval(),
                    false => self.now,
                };
                self.lasting(sent, unchanged);
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
        let longest = match self.sitting.record.fresh.is_empty() {
            true => LONGEST_WAIT,
            false => LONGEST_WAIT / 10,
        };
        let wait = (self.settings.ttl / 10).min(longest);
        let wait = self.rng.jittered(wait);
        self.sitting.next_beat = self.now + wait;
        self.control_failed(Vital::Beat, error);
    }

    fn extend(&mut self, sent: Timestamp, leases: &[LeaseRef]) {
        let until = self.believed_until(sent);
        if self.scheme == LockScheme::Session {
            self.sitting.deadline = self.sitting.deadline.max(until);
            self.sitting.belief.set(self.sitting.deadline);
            return;
        }
        for lease in leases {
            let Some(item) = self.items.get(lease.entry) else {
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
            if let Some(lock) = self.items.lock_mut(lease.entry) {
                lock.deadline = until;
            }
        }
    }

    fn beat_told(&mut self, reply: BeatReply, quiet_since: Option<u64>) {
        self.sitting.members = reply.members.max(1);
        self.sitting.knows_members = reply.members > 0;
        for lease in reply.lost {
            if self.items.lock_with(lease.entry, lease.token).is_some() {
                self.lose(lease.entry, DisownReason::LockLost);
            }
        }
        for lease in reply.revoked {
            self.give_up_revoked(lease);
        }
        let is_known = |dead: &SessionId| self.orphans.is_dead(dead);
        if !reply.dead.iter().all(is_known) {
            self.sitting.in_vain = 0;
        }
        self.told_dead(reply.dead);
        if let Some(deadline) = reply.next_deadline {
            let at = self.now + deadline.max(self.before_next_deadline(deadline));
            self.sitting.all_know_at = at + LATEST_NEWS + ASKING;
            let at = at + self.deadline_jitter();
            self.beat_by(at);
        }
        if reply.sweep {
            self.begin_sweep();
        }
        let held = self.items.locked() as u64;
        if reply.on_record.is_some_and(|on_record| on_record != held) {
            self.doubt_record(quiet_since == Some(self.sitting.ops));
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
        wait.min(self.settings.beat_interval() / 4)
    }

    /// A mark by an operator. One that is not known here is released all the
    /// same, unless an unanswered acquire or take-over may turn out to be it:
    /// then the next beat brings the mark again ("mark overtakes acquire").
    fn give_up_revoked(&mut self, lease: LeaseRef) {
        if self.may_become_ours(&lease) {
            return;
        }
        if self.items.lock_with(lease.entry, lease.token).is_some() {
            return self.revoke(lease.entry);
        }
        // It may be about to be adopted; what is released must not be.
        self.orphans.disclaim(&lease);
        self.release(lease, true);
    }

    /// Whether a reply that is still to come may bring this lease.
    pub(super) fn may_become_ours(&self, lease: &LeaseRef) -> bool {
        let item = self
            .items
            .active_entry(&lease.stream)
            .and_then(|entry| self.items.get(entry));
        let acquiring = item.is_some_and(|item| matches!(item.state, State::Acquiring { .. }));
        acquiring || self.is_taking_over()
    }

    pub(super) fn session_timeout(&self) -> Timestamp {
        let expiry = match self.scheme {
            LockScheme::Session => self.sitting.deadline,
            LockScheme::PerStream => Timestamp::MAX,
        };
        let first = self.sitting.expiries.first();
        let expiry = first.map_or(expiry, |(at, _)| expiry.min(*at));
        let beat = if self.sitting.beating || self.is_leaving() {
            Timestamp::MAX
        } else {
            self.sitting.next_beat
        };
        expiry.min(beat)
    }
}
