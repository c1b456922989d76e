//! What a process hears, and what its user asks for.

use std::time::Duration;

use streamlease_core::machine::Reply;
use streamlease_core::{
    AcquireOutcome, EntryId, FencingToken, LockScheme, OpenOutcome, RenewOutcome, StreamName,
    Timestamp,
};

use super::super::Checker;
use super::Allowed;
use crate::simulation::world::{Extends, Sent};

impl Checker {
    /// A reply is about to be handed to the machine.
    pub(in crate::simulation) fn hears(&mut self, node: usize, sent: &Sent, reply: &Reply) {
        let watch = &mut self.watches[node];
        let until = Allowed {
            local: sent.local + (watch.ttl - watch.margin),
            truly: sent.at + watch.ttl,
        };
        match (&sent.what, reply) {
            (Extends::Session, Reply::Opened(OpenOutcome::Opened)) => {
                watch.session_allowed = watch.session_allowed.max(until);
                watch.renewed = watch.renewed.max(until.local);
            }
            (Extends::Heartbeat(leases), Reply::Renewed(RenewOutcome::Extended(reply))) => {
                watch.session_allowed = watch.session_allowed.max(until);
                watch.renewed = watch.renewed.max(until.local);
                for lease in &reply.revoked {
                    if let Some(view) = watch.view_mut(lease.entry, lease.token) {
                        view.ending = true;
                    }
                }
                for lease in leases.iter().filter(|lease| !reply.lost.contains(lease)) {
                    let allowed = watch.lease_allowed.entry((lease.entry, lease.token));
                    allowed
                        .and_modify(|allowed| *allowed = allowed.max(until))
                        .or_insert(until);
                }
            }
            (Extends::Acquire(entries), Reply::Acquired(outcomes))
                if self.scheme == LockScheme::PerStream =>
            {
                for (entry, outcome) in entries.iter().zip(outcomes) {
                    if let AcquireOutcome::Acquired(token) = outcome {
                        let allowed = watch.lease_allowed.entry((*entry, *token));
                        allowed
                            .and_modify(|allowed| *allowed = allowed.max(until))
                            .or_insert(until);
                    }
                }
            }
            _ => {}
        }
    }

    pub(in crate::simulation) fn asked_to_end(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) {
        if let Some(view) = self.watches[node].view_mut(entry, token) {
            view.ending = true;
        }
    }

    pub(in crate::simulation) fn asked_to_complete(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) {
        self.watches[node].asked_to_complete.insert((entry, token));
    }

    pub(in crate::simulation) fn asked_complete_stream(
        &mut self,
        node: usize,
        stream: &StreamName,
    ) {
        let watch = &mut self.watches[node];
        for (entry, view) in &mut watch.views {
            if view.stream == *stream {
                view.ending = true;
                watch.asked_to_complete.insert((*entry, view.token));
            }
        }
    }

    pub(in crate::simulation) fn asked_to_stop(&mut self, node: usize, local: Timestamp) {
        self.watches[node].asked_to_stop = Some(local);
    }

    pub(in crate::simulation) fn set_capacity(&mut self, node: usize, capacity: usize) {
        self.watches[node].set_capacity(capacity);
    }

    pub(in crate::simulation) fn claimed_by_hand(&mut self, node: usize, entry: EntryId) {
        self.watches[node].claimed_by_hand.insert(entry);
    }

    pub(in crate::simulation) fn progress_timeout_of(
        &self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) -> Option<Duration> {
        let view = self.watches[node].view(entry, token)?;
        view.progress_timeout.filter(|_| !view.is_over())
    }

    /// The lease gets a limit of its own.
    pub(in crate::simulation) fn sets_progress_timeout(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        limit: Duration,
    ) {
        let view = self.watches[node].view_mut(entry, token);
        if let Some(view) = view.filter(|view| !view.is_over()) {
            view.progress_timeout = Some(limit);
        }
    }

    pub(in crate::simulation) fn progress(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        local: Timestamp,
    ) {
        if let Some(view) = self.watches[node].view_mut(entry, token) {
            view.last_progress = Some(local);
        }
    }
}
