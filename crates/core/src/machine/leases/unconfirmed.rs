//! The lock server's record of this session's leases, with which heartbeats compare
//! by number only (session leases).
//!
//! # Unconfirmed leases
//! A lock server that was restarted may have lost some leases and kept others
//! that an acquire left behind, so that the number still fits. A heartbeat tells by
//! its generation that this may have happened. Then everything that was acquired
//! before is *unconfirmed*: believed for as long as it was before that heartbeat, and
//! no longer, until the record shows it. That is safe because nobody else is
//! given anything for a TTL after a restart, and what was believed before hangs
//! on a heartbeat that was sent before it. So a restart costs no lease that is on
//! record, and the belief in one that is not ends in time (R1).

use super::Leases;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use std::collections::{BTreeMap, BTreeSet};

use super::fresh::Fresh;
use crate::machine::{Backoff, DisownReason, LocksCall, PAGE, Reply};
use crate::{LeaseRef, LockScheme, Result, StreamName, Timestamp};

/// What is known of the record.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// As of the last heartbeat.
    generation: Option<u64>,
    /// Counts its changes; what was read before the last one shows nothing.
    changes: u64,
    /// Unconfirmed leases, and until when they are believed.
    unconfirmed: BTreeMap<LeaseRef, Timestamp>,
    pub(crate) fresh: Fresh,
    reading: bool,
    /// When reading it last began.
    last_read: Timestamp,
    backoff: Backoff,
}

/// One reading of the record, page by page.
#[derive(Debug)]
pub(crate) struct Reading {
    changes: u64,
    /// What was held before the first page was read: of that, what is held
    /// still was on record all the time, if it ever was.
    held: Vec<LeaseRef>,
    seen: BTreeSet<LeaseRef>,
}

impl Record {
    /// Until when the lease is believed as long as the record does not show it, or
    /// it is fresh.
    pub(crate) fn valid_at_most(&self, lease: &LeaseRef) -> Timestamp {
        let fresh = self.fresh.get(lease).map(|(_, until)| until);
        let unconfirmed = self.unconfirmed.get(lease);
        let earliest = fresh.into_iter().chain(unconfirmed).min();
        earliest.copied().unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn limit(&mut self, lease: &LeaseRef, valid_at_most: Timestamp) {
        if valid_at_most < Timestamp::MAX {
            let known = self
                .unconfirmed
                .entry(lease.clone())
                .or_insert(valid_at_most);
            *known = valid_at_most.min(*known);
        }
    }
}

impl Leases {
    /// A heartbeat brought the number of the record's generation. To be called before
    /// anything is extended by that heartbeat. Whether it is the same as before.
    pub(crate) fn compare_generation(
        &mut self,
        cx: &mut Cx,
        generation: u64,
        valid_at_most: Timestamp,
    ) -> bool {
        let record = &mut self.record;
        let unchanged = record.generation == Some(generation);
        if cx.scheme != LockScheme::Session || unchanged {
            return unchanged;
        }
        // The first number of a session may be a second one: what came between
        // its opening and its first heartbeat is unconfirmed as well.
        let before = record.generation.replace(generation);
        record.changes += 1;
        record.backoff = Backoff::default();
        // What was acquired before, and is answered only later.
        cx.calls.limit_leases(valid_at_most);
        for lease in self.items.leases() {
            self.limit_held(&lease, valid_at_most);
        }
        for lease in self.adopting.values() {
            self.record.limit(lease, valid_at_most);
        }
        // The LBS may be of the same server, and have lost what it knew of the owners.
        if before.is_some() {
            self.refresh_all();
        }
        false
    }

    fn limit_held(&mut self, lease: &LeaseRef, valid_at_most: Timestamp) {
        self.record.limit(lease, valid_at_most);
        let valid_at_most = self.record.valid_at_most(lease);
        if valid_at_most < Timestamp::MAX {
            self.items.expires_at(valid_at_most, lease.entry);
            self.believe_until(lease, valid_at_most);
        }
    }

    pub(crate) fn believe_until(&mut self, lease: &LeaseRef, until: Timestamp) {
        let Some(item) = self.items.get(lease.entry) else {
            return;
        };
        if item.state.lock().map(|lock| lock.token) != Some(lease.token) {
            return;
        }
        if let Some(belief) = item.state.belief().filter(|belief| !belief.is_over()) {
            belief.set(until);
        }
        if let Some(lock) = self.items.lock_mut(lease.entry) {
            lock.deadline = until;
        }
    }

    /// As long as anything is unconfirmed, the record is read.
    pub(crate) fn pump_record(&mut self, cx: &mut Cx) {
        let record = &self.record;
        let due = !record.unconfirmed.is_empty() && !record.reading;
        if due && record.backoff.is_ready(cx.now) && cx.is_open() {
            self.reconcile(cx);
        }
    }

    pub(crate) fn record_timeout(&self) -> Timestamp {
        let record = &self.record;
        match record.unconfirmed.is_empty() || record.reading {
            true => Timestamp::MAX,
            false => record.backoff.not_before,
        }
    }

    /// What is held does not compare with the number on record. With nothing
    /// under way that says enough; while streams come and go it may mean
    /// nothing, so then the record is not read all the time, but well within
    /// the TTL for which a restarted server holds takeovers and acquires back.
    pub(crate) fn check_record(&mut self, cx: &mut Cx, is_quiet: bool) {
        let overdue = self.record.last_read + cx.settings.ttl / 2 <= cx.now;
        if (is_quiet || overdue) && !self.record.reading {
            self.reconcile(cx);
        }
    }

    /// It lets live owners renew first, and may have lost the last writes:
    /// whoever holds something that is not on record must not believe in it
    /// for longer than that.
    pub(crate) fn lock_server_restarted(&mut self, cx: &mut Cx) {
        if cx.scheme == LockScheme::Session {
            self.check_record(cx, false);
        }
    }

    /// Reads the record, page by page, to adopt or release what differs.
    fn reconcile(&mut self, cx: &mut Cx) {
        self.record.last_read = cx.now;
        let adopting = self.adopting.values().cloned();
        let reading = Reading {
            changes: self.record.changes,
            held: self.items.leases().into_iter().chain(adopting).collect(),
            seen: BTreeSet::new(),
        };
        self.read_records(cx, None, reading);
    }

    fn read_records(&mut self, cx: &mut Cx, after: Option<StreamName>, reading: Reading) {
        self.record.reading = true;
        let session = cx.session.id().clone();
        cx.act(
            LocksCall::Records {
                session,
                after,
                max: PAGE,
            },
            Flight::Records(reading),
        );
    }

    pub(crate) fn records_done(
        &mut self,
        cx: &mut Cx,
        mut reading: Reading,
        result: Result<Reply>,
    ) {
        self.record.reading = false;
        let page = match result {
            Ok(Reply::Records(page)) => page,
            // Read again while anything is unconfirmed, else when a heartbeat says so.
            result => {
                let backoff = &mut self.record.backoff;
                backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
                return cx.step_done("records", result);
            }
        };
        self.record.backoff.succeed();
        // Whatever it showed may have been lost since.
        if reading.changes != self.record.changes {
            return;
        }
        for lease in &page {
            if self.record.unconfirmed.remove(lease).is_some() {
                let until = self.record.valid_at_most(lease);
                self.believe_until(lease, until);
            }
        }
        let last = page.last().map(|lease| lease.stream.clone());
        let is_last = page.len() < PAGE;
        reading.seen.extend(page);
        if !is_last && last.is_some() {
            return self.read_records(cx, last, reading);
        }
        self.compare_record(cx, reading);
    }

    fn compare_record(&mut self, cx: &mut Cx, Reading { held, seen, .. }: Reading) {
        for lease in held {
            if seen.contains(&lease) {
                continue;
            }
            // Freed, too: if the list that was read has vanished alone, the lock may
            // stand, and would as long as this session lives.
            if self.items.lock_with(lease.entry, lease.token).is_some() {
                self.lose_and_release(cx, lease.entry, DisownReason::LockLost);
            } else {
                self.no_longer_adopting(&lease);
                self.release(cx, lease, true);
            }
        }
        for lease in seen {
            let is_held = self.items.lock_with(lease.entry, lease.token).is_some();
            let is_known = is_held || self.is_adopting(&lease);
            if !is_known && !self.may_become_ours(cx, &lease) {
                self.release(cx, lease, true);
            }
        }
        // What came too late for this reading is in the next one.
        let (items, adopting) = (&self.items, &self.adopting);
        self.record.unconfirmed.retain(|lease, _| {
            items.lock_with(lease.entry, lease.token).is_some()
                || adopting.get(&lease.entry) == Some(lease)
        });
    }
}
