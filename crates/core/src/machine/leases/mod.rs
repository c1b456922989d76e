//! What this consumer holds, is about to hold, or owes an end: each entry from its
//! admission to the release of its lock (R3, R4, R6, R7, R12).

pub(crate) mod acquire;
mod admit;
mod claim;
mod complete;
mod ending;
mod failure_reset;
mod fresh;
mod hand_back;
mod ids;
pub(crate) mod lanes;
pub(crate) mod late;
mod progress;
mod quarantine;
mod refresh;
mod release;
pub(crate) mod table;
pub(crate) mod unconfirmed;

use std::collections::{BTreeMap, BTreeSet};

use self::failure_reset::FailureReset;
use self::lanes::Lanes;
use self::late::Late;
use self::refresh::REFRESH;
use self::table::{Items, State};
use self::unconfirmed::Record;
use super::calls::Flight;
use super::cx::Cx;
use super::deadlines::Deadlines;
use super::session::heartbeat::Heartbeat;
use super::{CallId, DisownReason};
use crate::{EntryId, LeaseRef, LockScheme, Timestamp};

#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) items: Items,
    pub(crate) lanes: Lanes,
    /// Leases that a take-over brought, until their entries have been read.
    pub(crate) adopting: BTreeMap<EntryId, LeaseRef>,
    /// What the lock server may have lost of these leases.
    pub(crate) record: Record,
    last_attempt: u64,
    /// Who waits for the end of an entry's lease.
    end_calls: BTreeMap<EntryId, Vec<CallId>>,
    /// Entries handed back here: left to others until then (R7).
    pub(crate) cooldown: Deadlines<EntryId>,
    /// When a lease's handler must have reported progress (looked up again then).
    pub(crate) progress_due: Deadlines<EntryId>,
    /// When to look again at waiting items.
    pub(crate) wakes: Deadlines<EntryId>,
    /// Items that wait for nothing but room.
    pub(crate) no_room: BTreeSet<EntryId>,
    pub(crate) failure_reset: FailureReset,
    pub(crate) late: Late,
    /// When all that is held is claimed again (per-stream locks).
    refresh_due: Timestamp,
}

impl Leases {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            items: Items::default(),
            lanes: Lanes::default(),
            adopting: BTreeMap::new(),
            record: Record::default(),
            last_attempt: 0,
            end_calls: BTreeMap::new(),
            cooldown: Deadlines::default(),
            progress_due: Deadlines::default(),
            wakes: Deadlines::default(),
            no_room: BTreeSet::new(),
            failure_reset: FailureReset::default(),
            late: Late::default(),
            refresh_due: now + REFRESH,
        }
    }

    /// The session is over, and everything in it.
    pub(crate) fn start_over(&mut self, cx: &mut Cx, reason: DisownReason) {
        self.owe_all(cx);
        self.lose_all(cx, reason);
        self.adopting.clear();
        self.record = Record::default();
    }

    /// A heartbeat was answered.
    pub(crate) fn heartbeat(&mut self, cx: &mut Cx, heartbeat: &Heartbeat) -> Option<Timestamp> {
        let Heartbeat { sent, reply, .. } = heartbeat;
        let unchanged = self.compare_generation(cx, reply.generation, heartbeat.deadline_before);
        let deadline = match cx.scheme {
            LockScheme::Session => Some(heartbeat.deadline_before),
            LockScheme::PerStream => self.extend(cx.believed_until(*sent), &heartbeat.named),
        };
        self.lasting(cx, *sent, unchanged);
        for lease in &reply.lost {
            if self.items.lock_with(lease.entry, lease.token).is_some() {
                self.lose(cx, lease.entry, DisownReason::LockLost);
            }
        }
        for lease in &reply.revoked {
            self.release_revoked(cx, lease.clone());
        }
        deadline
    }

    /// The earliest of the deadlines that they had before, if any is held still.
    fn extend(&mut self, until: Timestamp, leases: &[LeaseRef]) -> Option<Timestamp> {
        let extend = |lease: &LeaseRef| self.items.extend(lease.entry, lease.token, until);
        leases.iter().filter_map(extend).min()
    }

    /// How many leases there are by the record of a heartbeat; they may be others.
    pub(crate) fn compare_count(&mut self, cx: &mut Cx, heartbeat: &Heartbeat) {
        let held = self.items.locked() as u64;
        let on_record = heartbeat.reply.on_record;
        if on_record.is_some_and(|on_record| on_record != held) {
            let is_quiet = heartbeat.quiet_since == Some(cx.calls.lock_ops());
            self.check_record(cx, is_quiet);
        }
    }

    /// R1: ends the leases whose own deadlines have passed; whether that is all of them
    /// with per-stream locks, and so the end of the session.
    #[inline]
    pub(crate) fn have_run_out(&mut self, cx: &mut Cx) -> bool {
        if self.items.next_expiry() > cx.now {
            return false;
        }
        let expired = self.items.expired(cx.now);
        let all = !expired.is_empty() && expired.len() == self.items.locked();
        if all && cx.scheme == LockScheme::PerStream {
            return true;
        }
        // The others have been extended since, or found on record: an acquire that
        // was long under way, or one that stayed unconfirmed, costs only its own lease (R2).
        for entry in expired {
            self.lose_and_release(cx, entry, DisownReason::Expired);
        }
        false
    }

    /// What waits goes at once when the client is to end.
    pub(crate) fn pump_drain(&mut self, cx: &mut Cx) {
        if cx.is_draining() && !cx.is_leaving() {
            while let Some(entry) = self.items.any_waiting() {
                self.drop_item(cx, entry);
            }
        }
    }

    pub(crate) fn are_drained(&self) -> bool {
        self.items.is_empty() && self.lanes.is_drained() && self.late.is_settled()
    }

    /// What is due, or has room now.
    pub(crate) fn pump_timers(&mut self, cx: &mut Cx) {
        self.pump_waiting(cx);
        self.pump_progress(cx);
        self.pump_failure_reset(cx);
    }

    pub(crate) fn timeout(&self, cx: &Cx) -> Timestamp {
        self.items
            .next_expiry()
            .min(self.record_timeout())
            .min(self.lanes.timeout(self.quarantine_places(cx) > 0))
            .min(self.refresh_timeout(cx))
            .min(self.failure_reset.timeout())
            .min(self.progress_due.next())
            .min(self.wakes.next())
    }

    /// A mark by an operator. One that is not known here is released all the
    /// same, unless an unanswered acquire or take-over may turn out to be it:
    /// then the next heartbeat brings the mark again ("mark overtakes acquire").
    pub(crate) fn release_revoked(&mut self, cx: &mut Cx, lease: LeaseRef) {
        if self.may_become_ours(cx, &lease) {
            return;
        }
        if self.items.lock_with(lease.entry, lease.token).is_some() {
            return self.revoke(cx, lease.entry);
        }
        // It may be about to be adopted; what is released must not be.
        self.no_longer_adopting(&lease);
        self.release(cx, lease, true);
    }

    /// Whether a reply that is still to come may bring this lease.
    pub(crate) fn may_become_ours(&self, cx: &Cx, lease: &LeaseRef) -> bool {
        let item = self
            .items
            .active_entry(&lease.stream)
            .and_then(|entry| self.items.get(entry));
        let acquiring = item.is_some_and(|item| matches!(item.state, State::Acquiring { .. }));
        acquiring
            || cx
                .calls
                .awaits(|flight| matches!(flight, Flight::TakeOver { .. }))
    }

    /// A lease that a take-over brought is to be released instead of adopted.
    pub(crate) fn no_longer_adopting(&mut self, lease: &LeaseRef) {
        if self.is_adopting(lease) {
            self.adopting.remove(&lease.entry);
        }
    }

    pub(crate) fn is_adopting(&self, lease: &LeaseRef) -> bool {
        self.adopting.get(&lease.entry) == Some(lease)
    }
}
