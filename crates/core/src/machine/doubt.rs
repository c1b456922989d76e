//! The lock server's record of this session's leases, with which beats compare
//! by number only (session leases).
//!
//! # Doubt
//! A lock server that was restarted may have lost some leases and kept others
//! that an acquire left behind, so that the number still fits. A beat tells by
//! its generation that this may have happened. Then everything that was acquired
//! before is *in doubt*: believed for as long as it was before that beat, and
//! no longer, until the record shows it. That is safe because nobody else is
//! given anything for a TTL after a restart, and what was believed before hangs
//! on a beat that was sent before it. So a restart costs no lease that is on
//! record, and the belief in one that is not ends in time (R1).

use std::collections::{BTreeMap, BTreeSet};

use super::fresh::Fresh;
use super::{Action, Backoff, DisownReason, Flight, Machine, PAGE, Reply};
use crate::{LeaseRef, LockScheme, Result, StreamName, Timestamp};

/// What is known of the record.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// As of the last beat.
    generation: Option<u64>,
    /// Counts its changes; what was read before the last one shows nothing.
    changes: u64,
    /// Leases in doubt, and until when they are believed.
    doubted: BTreeMap<LeaseRef, Timestamp>,
    pub(super) fresh: Fresh,
    reading: bool,
    /// When reading it last began.
    last_read: Timestamp,
    backoff: Backoff,
}

/// One reading of the record, page by page.
#[derive(Debug)]
pub(super) struct Reading {
    changes: u64,
    /// What was held before the first page was read: of that, what is held
    /// still was on record all the time, if it ever was.
    held: Vec<LeaseRef>,
    seen: BTreeSet<LeaseRef>,
}

impl Record {
    /// Until when the lease is believed as long as the record does not show it, or
    /// it is fresh.
    pub(super) fn capped(&self, lease: &LeaseRef) -> Timestamp {
        let fresh = self.fresh.get(lease).map(|(_, until)| until);
        let doubted = self.doubted.get(lease);
        let capped = fresh.into_iter().chain(doubted).min();
        capped.copied().unwrap_or(Timestamp::MAX)
    }

    pub(super) fn doubt(&mut self, lease: &LeaseRef, capped: Timestamp) {
        if capped < Timestamp::MAX {
            let known = self.doubted.entry(lease.clone()).or_insert(capped);
            *known = capped.min(*known);
        }
    }
}

impl Machine {
    /// A beat brought the number of the record's generation. To be called before
    /// anything is extended by that beat. Whether it is the same as before.
    pub(super) fn compare_generation(&mut self, generation: u64) -> bool {
        let record = &mut self.sitting.record;
        let unchanged = record.generation == Some(generation);
        if self.scheme != LockScheme::Session || unchanged {
            return unchanged;
        }
        // The first number of a session may be a second one: what came between
        // its opening and its first beat is in doubt as well.
        let before = record.generation.replace(generation);
        record.changes += 1;
        record.backoff = Backoff::default();
        let cap = self.sitting.deadline;
        // What was acquired before, and is answered only later.
        for flight in self.flights.values_mut() {
            if matches!(flight.flight, Flight::Acquire(_) | Flight::TakeOver { .. }) {
                flight.capped = flight.capped.min(cap);
            }
        }
        for lease in self.items.leases() {
            self.doubt_held(&lease, cap);
        }
        for lease in self.orphans.adopting.values() {
            self.sitting.record.doubt(lease, cap);
        }
        // The LBS may be of the same server, and have lost what it knew of the owners.
        if before.is_some() {
            self.refresh_all();
        }
        false
    }

    fn doubt_held(&mut self, lease: &LeaseRef, cap: Timestamp) {
        self.sitting.record.doubt(lease, cap);
        let capped = self.sitting.record.capped(lease);
        if capped < Timestamp::MAX {
            self.expires_at(capped, lease.entry);
            self.believe_until(lease, capped);
        }
    }

    pub(super) fn believe_until(&mut self, lease: &LeaseRef, until: Timestamp) {
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

    /// As long as anything is in doubt, the record is read.
    pub(super) fn pump_doubt(&mut self) {
        let record = &self.sitting.record;
        let due = !record.doubted.is_empty() && !record.reading;
        if due && record.backoff.is_ready(self.now) && self.sitting.is_open() {
            self.reconcile();
        }
    }

    pub(super) fn doubt_timeout(&self) -> Timestamp {
        let record = &self.sitting.record;
        match record.doubted.is_empty() || record.reading {
            true => Timestamp::MAX,
            false => record.backoff.not_before,
        }
    }

    /// What is held does not compare with the number on record. With nothing
    /// under way that says enough; while streams come and go it may mean
    /// nothing, so then the record is not read all the time, but well within
    /// the TTL for which a restarted server holds takeovers and acquires back.
    pub(super) fn doubt_record(&mut self, is_quiet: bool) {
        let overdue = self.sitting.record.last_read + self.settings.ttl / 2 <= self.now;
        if (is_quiet || overdue) && !self.sitting.record.reading {
            self.reconcile();
        }
    }

    /// It lets live owners beat first, and may have lost the last writes:
    /// whoever holds something that is not on record must not believe in it
    /// for longer than that.
    pub(super) fn lock_server_restarted(&mut self) {
        if self.scheme == LockScheme::Session {
            self.doubt_record(false);
        }
    }

    /// Reads the record, page by page, to adopt or release what differs.
    fn reconcile(&mut self) {
        self.sitting.record.last_read = self.now;
        let adopting = self.orphans.adopting.values().cloned();
        let reading = Reading {
            changes: self.sitting.record.changes,
            held: self.items.leases().into_iter().chain(adopting).collect(),
            seen: BTreeSet::new(),
        };
        self.read_records(None, reading);
    }

    fn read_records(&mut self, after: Option<StreamName>, reading: Reading) {
        self.sitting.record.reading = true;
        let session = self.sitting.session.id.clone();
        self.act(
            Action::Records {
                session,
                after,
                max: PAGE,
            },
            Flight::Records(reading),
        );
    }

    pub(super) fn records_done(&mut self, mut reading: Reading, result: Result<Reply>) {
        self.sitting.record.reading = false;
        let page = match result {
            Ok(Reply::Records(page)) => page,
            // Read again while anything is in doubt, else when a beat says so.
            result => {
                let backoff = &mut self.sitting.record.backoff;
                backoff.fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed("records", &result);
            }
        };
        self.sitting.record.backoff.succeed();
        // Whatever it showed may have been lost since.
        if reading.changes != self.sitting.record.changes {
            return;
        }
        for lease in &page {
            if self.sitting.record.doubted.remove(lease).is_some() {
                let until = self.sitting.record.capped(lease);
                self.believe_until(lease, until);
            }
        }
        let last = page.last().map(|lease| lease.stream.clone());
        let is_last = page.len() < PAGE;
        reading.seen.extend(page);
        if !is_last && last.is_some() {
            return self.read_records(last, reading);
        }
        self.compare_record(reading);
    }

    fn compare_record(&mut self, Reading { held, seen, .. }: Reading) {
        for lease in held {
            if seen.contains(&lease) {
                continue;
            }
            // Freed, too: if the list that was read has vanished alone, the lock may
            // stand, and would as long as this session lives.
            if self.items.lock_with(lease.entry, lease.token).is_some() {
                self.lapse(lease.entry, DisownReason::LockLost);
            } else {
                self.orphans.disclaim(&lease);
                self.release(lease, true);
            }
        }
        for lease in seen {
            let is_held = self.items.lock_with(lease.entry, lease.token).is_some();
            let is_known = is_held || self.orphans.is_adopting(&lease);
            if !is_known && !self.may_become_ours(&lease) {
                self.release(lease, true);
            }
        }
        // What came too late for this reading is in the next one.
        let (items, orphans) = (&self.items, &self.orphans);
        self.sitting.record.doubted.retain(|lease, _| {
            items.lock_with(lease.entry, lease.token).is_some() || orphans.is_adopting(lease)
        });
    }
}
