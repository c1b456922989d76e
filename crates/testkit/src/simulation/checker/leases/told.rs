//! What the user of a process is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamlease_core::machine::{Belief, DisownReason, End};
use streamlease_core::{EntryId, FencingToken, StreamName, Timestamp};

use super::super::Checker;
use super::View;

impl Checker {
    pub(in crate::simulation) fn took(&mut self, node: usize) {
        self.watches[node].queued -= 1;
    }

    /// R10: what is queued fits.
    pub(in crate::simulation) fn queued(&mut self, node: usize) {
        let watch = &mut self.watches[node];
        watch.queued += 1;
        let (queued, most) = (watch.queued, watch.event_queue);
        if queued > most {
            let what = format!("n{node} has {queued} events queued, {most} fit");
            self.fail("R10", "the event queue overflows", what);
        }
    }

    /// Any notice at all.
    pub(in crate::simulation) fn noticed(&mut self, node: usize) {
        if self.watches[node].terminated {
            let what = format!("n{node} is told something after Terminated");
            self.fail("R12", "a notice after Terminated", what);
        }
    }

    /// `may_end`: a call was refused to it that had never worked.
    pub(in crate::simulation) fn terminated(&mut self, node: usize, may_end: bool) {
        let watch = &mut self.watches[node];
        watch.terminated = true;
        let (asked, left) = (watch.asked_to_stop.is_some(), watch.views.len());
        if !asked && !may_end {
            self.fail("R8", "gave up", format!("n{node} gave up"));
        }
        if left > 0 {
            let what = format!("n{node} terminated with {left} leases not ended");
            self.fail("R12", "no end before Terminated", what);
        }
    }

    pub(in crate::simulation) fn stopped(&mut self, node: usize) {
        if !self.watches[node].terminated {
            let what = format!("n{node} stops without Terminated");
            self.fail("R12", "no Terminated", what);
        }
    }

    pub(in crate::simulation) fn added(
        &mut self,
        node: usize,
        entry: EntryId,
        stream: &StreamName,
        token: FencingToken,
        belief: Arc<Belief>,
        local: Timestamp,
    ) {
        self.added += 1;
        let what = format!("n{node} is given {entry} {stream} {token:?}");
        self.check_claimed(entry, token, &what);
        let durable = self.is_durable();
        if durable
            && self
                .foreign
                .get(&entry)
                .is_some_and(|until| *until > self.now)
        {
            let what = format!("{what}, which a foreign consumer has locked");
            self.fail("R6", "believed beside a foreign consumer", what);
        }
        let may_mint_again = self.may_mint_again();
        let greatest = self.greatest_added.entry(stream.clone()).or_default();
        // Who was told late of a lease that somebody else has by now is refused
        // by the fence; it happens only where a clock does not tell it so.
        let told_late = token < *greatest && !durable;
        let minted_again = token == *greatest && may_mint_again;
        let before = *greatest;
        *greatest = token.max(before);
        if token <= before && !told_late && !minted_again {
            self.fail(
                "R5",
                "tokens do not grow",
                format!("{what} after {before:?}"),
            );
        }
        let watch = &mut self.watches[node];
        let mut failed = Vec::new();
        if watch.views.values().any(|view| view.stream == *stream) {
            failed.push(("R12", "added twice", what.clone()));
        }
        if watch.views.len() >= watch.capacity {
            match watch.coming.checked_sub(1) {
                Some(coming) => watch.coming = coming,
                None => {
                    let what = format!("{what} beyond its capacity {}", watch.capacity);
                    failed.push(("R11", "beyond the capacity", what));
                }
            }
        }
        let by_hand = watch.claimed_by_hand.remove(&entry);
        if let Some(at) = watch.handed_back.remove(&entry)
            && !by_hand
            && local.saturating_since(at) < watch.ttl
        {
            let what = format!("{what}, handed back by it at {at:?}");
            failed.push(("R7", "took back what it handed back", what));
        }
        let view = View {
            stream: stream.clone(),
            token,
            belief,
            progress_timeout: watch.progress_timeout,
            last_progress: None,
            ending: false,
            timed_out: false,
        };
        watch.views.insert(entry, view);
        let last = self.last_owner.insert(stream.clone(), node);
        self.takeovers += u64::from(last.is_some_and(|last| last != node));
        let holders = self.by_stream.entry(stream.clone()).or_default();
        holders.push((node, entry));
        if holders.len() > 1 {
            self.contended.insert(stream.clone());
        }
        for (rule, check, what) in failed {
            self.fail(rule, check, what);
        }
    }

    pub(in crate::simulation) fn ended(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        end: &End,
        local: Timestamp,
    ) {
        let watch = &mut self.watches[node];
        // A session ends as a whole, as soon as anything of it runs out: also a
        // lock that the user was not told of.
        let ran_out = watch.ran_out || watch.renewed <= local;
        if watch.view(entry, token).is_none() {
            let what = format!("n{node} ends {entry} {token:?}, which it does not have");
            return self.fail("R12", "ended twice", what);
        }
        let Some(view) = watch.views.remove(&entry) else {
            return;
        };
        watch.lease_allowed.remove(&(entry, token));
        if matches!(end, End::HandedBack | End::Failed(_)) {
            watch.handed_back.insert(entry, local);
        }
        let times_out_at = view.times_out_at();
        let stream = view.stream;
        self.forget_view(&stream, node, entry);
        let &End::Disowned(reason) = end else { return };
        let by_time = matches!(reason, DisownReason::Expired | DisownReason::LockLost);
        self.watches[node].lost += u64::from(by_time);
        // R2: without lost data, only the clock ends a lease against its user's will.
        let legal = match reason {
            DisownReason::Expired => ran_out || view.timed_out,
            DisownReason::NoProgress => {
                view.timed_out || times_out_at.is_some_and(|at| at <= local)
            }
            DisownReason::EntryGone | DisownReason::Cancelled => {
                self.was_completed_by_foreigner(entry)
            }
            DisownReason::Revoked | DisownReason::ClientStopped => true,
            _ => false,
        };
        if !legal && self.is_durable() {
            let what = format!("n{node} loses {entry} {stream} {token:?}: {reason:?}");
            self.fail("R2", "a lease is lost without need", what);
        }
    }

    fn forget_view(&mut self, stream: &StreamName, node: usize, entry: EntryId) {
        if let Some(holders) = self.by_stream.get_mut(stream) {
            holders.retain(|holder| *holder != (node, entry));
            if holders.len() < 2 {
                self.contended.remove(stream);
            }
        }
    }

    /// The process is gone: nobody there believes anything.
    pub(in crate::simulation) fn crashed(&mut self, node: usize) {
        for (entry, view) in std::mem::take(&mut self.watches[node].views) {
            self.forget_view(&view.stream, node, entry);
        }
    }

    pub(in crate::simulation) fn views(&self, node: usize) -> usize {
        self.watches[node].views.len()
    }

    pub(in crate::simulation) fn streams_of(&self, node: usize) -> BTreeSet<StreamName> {
        let views = self.watches[node].views.values();
        views.map(|view| view.stream.clone()).collect()
    }

    /// How many leases were lost for want of a heartbeat.
    pub(in crate::simulation) fn lost(&self, node: usize) -> u64 {
        self.watches[node].lost
    }
}
