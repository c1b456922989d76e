//! Consumers of another make, as the Go library behaves on the wire: a lock per
//! entry, extended each second, no token, and a completion that asks nobody.

use std::time::Duration;

use streamlease_core::{ConsumerName, EntryId, StreamName};

use super::{Event, World, trace};
use crate::clock::{SECOND, Time, ns};
use crate::simulation::model::locks::FOREIGN_TTL_MS;
use crate::simulation::refusals::Needs;

/// What a foreign consumer works on.
pub(super) struct Foreigner {
    stream: StreamName,
    entry: EntryId,
    /// It goes on until then.
    until: Time,
    /// And then completes the entry; else it dies.
    completes: bool,
}

impl World {
    fn lbs_writes(&self) -> bool {
        self.servers.lbs_serves_from(Needs::Write) <= self.now
    }

    fn locks_write(&self) -> bool {
        self.servers.locks_serve_from(Needs::Write) <= self.now
    }

    /// XCLAIM of an entry that is somebody's: whoever does that dies at once.
    pub(super) fn foreign_steal(&mut self, nth: u64) -> bool {
        let (thief, now) = (
            ConsumerName::from_wire("go-thief"),
            self.servers.lbs_now(self.now),
        );
        self.lbs_writes() && self.servers.lbs.steal(&thief, nth, now)
    }

    /// XREADGROUP, then the lock. Losing that race it dies.
    pub(super) fn foreign_fetch(&mut self, renews: Duration, completes: bool) -> bool {
        let (name, now) = (
            ConsumerName::from_wire("go-reader"),
            self.servers.lbs_now(self.now),
        );
        if !self.lbs_writes() {
            return false;
        }
        let Ok(fetched) = self.servers.lbs.fetch(&name, 1, now) else {
            return false;
        };
        for delivery in &fetched.entries {
            if let Ok(content) = &delivery.content {
                let stream = content.stream.clone();
                self.foreigner_starts(stream, delivery.entry, renews, completes);
            }
        }
        !fetched.entries.is_empty()
    }

    /// XCLAIM of an entry that has been idle for a heartbeat, after its lock
    /// expired; then the lock.
    pub(super) fn foreign_claim(&mut self, nth: u64, renews: Duration, completes: bool) -> bool {
        if !self.lbs_writes() || !self.locks_write() {
            return false;
        }
        let (lbs_now, locks_now) = (
            self.servers.lbs_now(self.now),
            self.servers.locks_now(self.now),
        );
        let mut free = self.servers.lbs.idle_entries(1_000, lbs_now);
        free.retain(|(entry, stream)| !self.servers.locks.is_locked(stream, *entry, locks_now));
        let Some(nth) = nth.checked_rem(free.len() as u64) else {
            return false;
        };
        let (entry, stream) = free.swap_remove(nth as usize);
        let name = ConsumerName::from_wire("go-claimer");
        self.servers.lbs.claim_unfenced(&name, entry, lbs_now);
        self.foreigner_starts(stream, entry, renews, completes);
        true
    }

    fn foreigner_starts(
        &mut self,
        stream: StreamName,
        entry: EntryId,
        renews: Duration,
        completes: bool,
    ) {
        if self.plan.scheme == streamlease_core::LockScheme::Session {
            return; // It dies: there is no lock that both know.
        }
        self.foreigners.push(Foreigner {
            stream,
            entry,
            until: self.now + ns(renews),
            completes,
        });
        self.foreigner_acts(self.foreigners.len() - 1);
    }

    /// Its heartbeat: extend the lock, and perhaps come to an end.
    pub(super) fn foreigner_acts(&mut self, nth: usize) {
        self.steps += 1;
        let (now, locks_now) = (self.now, self.servers.locks_now(self.now));
        let foreigner = &self.foreigners[nth];
        let (stream, entry) = (foreigner.stream.clone(), foreigner.entry);
        if self.locks_write() {
            // The library goes by what the server says, not by a clock.
            if !self.servers.locks.foreign_lock(&stream, entry, locks_now) {
                return trace!(self, "a foreign consumer lost {entry}");
            }
            let nodes = &self.nodes;
            let (at, lasts) = (
                Duration::from_nanos(now),
                Duration::from_millis(FOREIGN_TTL_MS),
            );
            self.checker
                .foreign_lock(at, lasts, entry, &stream, &|n| nodes[n].clock.read(now));
        }
        let foreigner = &self.foreigners[nth];
        let ends = foreigner.until <= now || self.faults_over;
        if ends && foreigner.completes {
            if !self.lbs_writes() || !self.locks_write() {
                return self.push(now + SECOND, Event::Foreigner(nth));
            }
            trace!(self, "a foreign consumer completes {entry}");
            self.servers.locks.foreign_unlock(&stream, entry);
            if self.servers.lbs.remove_unfenced(entry) {
                self.checker.foreign_completes(entry);
            }
        } else if ends {
            trace!(self, "a foreign consumer dies with {entry}");
        } else {
            self.push(now + SECOND, Event::Foreigner(nth));
        }
    }
}
