//! Keys that vanish one by one: evicted, or deleted by somebody.
//!
//! What the contract says: where a record of leases may have lost any, the next heartbeat
//! brings another generation, and as long as others could take what is missing before
//! its owner knows, nobody is given anything. Only an owner itself can see that what it
//! holds is gone, if the others' leases are there still.

use std::time::Duration;

use streamlease_core::{LockScheme, SessionId, StreamName};

use super::super::Mutant;
use super::Locks;
use crate::simulation::fault::Key;

impl Locks {
    /// Whether it was there.
    pub(in crate::simulation) fn lose(
        &mut self,
        key: Key,
        nth: u64,
        now: u64,
        longest_ttl: Duration,
    ) -> bool {
        match key {
            Key::Sessions => {
                let were = !self.sessions.is_empty();
                self.sessions.clear();
                were
            }
            Key::Session => {
                let session = nth_of(self.sessions.keys(), nth);
                session.is_some_and(|session| self.sessions.remove(&session).is_some())
            }
            Key::Owners => {
                let were = !self.leases.is_empty();
                self.leases.clear();
                self.marked.clear();
                if self.mutant != Some(Mutant::LossIsSilent) {
                    self.restarted(now, longest_ttl);
                }
                were && self.scheme == LockScheme::Session
            }
            Key::Leases => {
                let holders = self.leases.values().map(|lease| &lease.session);
                let Some(session) = nth_of(holders, nth) else {
                    return false;
                };
                self.leases.retain(|_, lease| lease.session != session);
                *self.disturbed.entry(session).or_default() += 1;
                true
            }
            Key::Marks => {
                let were = !self.marked.is_empty();
                self.marked.clear();
                were
            }
            Key::Counter => std::mem::take(&mut self.counter) > 0,
            Key::Turn => std::mem::take(&mut self.sweep_until) > now,
            Key::Buried => {
                let were = !self.removed.is_empty();
                self.removed.clear();
                were
            }
            Key::Refused => {
                let were = !self.refused.is_empty();
                self.refused.clear();
                were
            }
            Key::StreamLock => {
                let stream = nth_of(self.stream_keys.keys(), nth);
                stream.is_some_and(|stream: StreamName| self.stream_keys.remove(&stream).is_some())
            }
            Key::WireLock => {
                let wire = nth_of(self.wire_keys.keys(), nth);
                wire.is_some_and(|wire| self.wire_keys.remove(&wire).is_some())
            }
            Key::Tokens | Key::Token => false,
        }
    }

    /// Another one after each loss, of all records or of this session's.
    pub(super) fn generation(&self, session: &SessionId) -> u64 {
        if self.mutant == Some(Mutant::LossIsSilent) {
            return self.started_at;
        }
        let own = self.disturbed.get(session).copied().unwrap_or(0);
        self.started_at.wrapping_add(own << 48)
    }
}

fn nth_of<'a, T: Clone + 'a>(all: impl Iterator<Item = &'a T>, nth: u64) -> Option<T> {
    let all: Vec<_> = all.collect();
    let nth = nth.checked_rem(all.len() as u64)?;
    Some(all[nth as usize].clone())
}
