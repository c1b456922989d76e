//! What this consumer holds, is about to hold, or owes an end: each entry from its
//! admission to the release of its lock (R3, R4, R6, R7, R12).

pub(crate) mod acquire;
mod ending;
mod failure_reset;
mod fresh;
mod ids;
pub(crate) mod lanes;
pub(crate) mod late;
mod progress;
pub(crate) mod table;
pub(crate) mod unconfirmed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::failure_reset::Forgiving;
use self::lanes::Lanes;
use self::late::Late;
use self::table::{Items, State};
use self::unconfirmed::Record;
use super::CallId;
use super::cx::{Cx, Flight, Phase};
use super::deadlines::Deadlines;
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
    pub(crate) silences: Deadlines<EntryId>,
    /// When to look again at waiting items.
    pub(crate) wakes: Deadlines<EntryId>,
    /// Items that wait for nothing but room.
    pub(crate) no_room: BTreeSet<EntryId>,
    pub(crate) forgiving: Forgiving,
    pub(crate) late: Late,
    /// When all that is held is claimed again (per-stream locks).
    refresh_due: Timestamp,
}

/// How often owners claim their entries again with per-stream locks: well below
/// the 40 s after which a booting Go consumer takes what looks idle.
const REFRESH: Duration = Duration::from_secs(10);

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
            silences: Deadlines::default(),
            wakes: Deadlines::default(),
            no_room: BTreeSet::new(),
            forgiving: Forgiving::default(),
            late: Late::default(),
            refresh_due: now + REFRESH,
        }
    }

    pub(crate) fn pump_refresh(&mut self, cx: &Cx) {
        if self.refresh_due <= cx.now && self.refreshes(cx) {
            self.refresh_due = cx.now + REFRESH;
            self.refresh_all();
        }
    }

    pub(crate) fn refresh_timeout(&self, cx: &Cx) -> Timestamp {
        match self.refreshes(cx) {
            true => self.refresh_due,
            false => Timestamp::MAX,
        }
    }

    fn refreshes(&self, cx: &Cx) -> bool {
        cx.scheme == LockScheme::PerStream && !cx.is_draining()
    }

    /// How many more streams may be taken now: within the capacity (R11) and
    /// the event queue, which each will need a place in (R10).
    pub(crate) fn room(&self, cx: &Cx) -> usize {
        if cx.budget.receiver_dropped || cx.phase != Phase::Running || !cx.is_open() {
            return 0;
        }
        let arriving = self.arriving(cx);
        let taken = self.items.active() + arriving;
        let seats = cx.settings.capacity.saturating_sub(taken);
        let parking = self.lanes.quarantine.queue.len();
        seats.min(self.event_places(cx).saturating_sub(parking))
    }

    /// Places that leases on their way here will take.
    fn arriving(&self, cx: &Cx) -> usize {
        self.adopting.len() + cx.budget.reserved
    }

    /// How many may be parked now: each will be an event. What nobody listens to,
    /// or what is to be over soon, waits for no place.
    pub(crate) fn parking_places(&self, cx: &Cx) -> usize {
        match cx.budget.receiver_dropped || cx.is_draining() {
            true => usize::MAX,
            false => self.event_places(cx),
        }
    }

    /// Places in the event queue that nothing under way will need (R10).
    pub(crate) fn event_places(&self, cx: &Cx) -> usize {
        let coming = self.items.inbound() + self.arriving(cx) + cx.budget.quarantining;
        cx.settings
            .event_queue
            .saturating_sub(cx.budget.undelivered + coming)
    }

    /// A mark by an operator. One that is not known here is released all the
    /// same, unless an unanswered acquire or take-over may turn out to be it:
    /// then the next beat brings the mark again ("mark overtakes acquire").
    pub(crate) fn give_up_revoked(&mut self, cx: &mut Cx, lease: LeaseRef) {
        if self.may_become_ours(cx, &lease) {
            return;
        }
        if self.items.lock_with(lease.entry, lease.token).is_some() {
            return self.revoke(cx, lease.entry);
        }
        // It may be about to be adopted; what is released must not be.
        self.disclaim(&lease);
        self.release(cx, lease, true);
    }

    /// Whether a reply that is still to come may bring this lease.
    pub(crate) fn may_become_ours(&self, cx: &Cx, lease: &LeaseRef) -> bool {
        let item = self
            .items
            .active_entry(&lease.stream)
            .and_then(|entry| self.items.get(entry));
        let acquiring = item.is_some_and(|item| matches!(item.state, State::Acquiring { .. }));
        acquiring || cx.awaits(|flight| matches!(flight, Flight::TakeOver { .. }))
    }

    /// A lease that a take-over brought is to be released instead of adopted.
    pub(crate) fn disclaim(&mut self, lease: &LeaseRef) {
        if self.is_adopting(lease) {
            self.adopting.remove(&lease.entry);
        }
    }

    pub(crate) fn is_adopting(&self, lease: &LeaseRef) -> bool {
        self.adopting.get(&lease.entry) == Some(lease)
    }
}
