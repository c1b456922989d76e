//! Leases that ended although their owner lives: the server or the network was away, the
//! machine was suspended, or a lock was lost. The next claim of such an entry counts its
//! owner as dead. So as soon as the LBS answers again, the owner hands back late what it
//! held: if nobody has claimed it since, nothing is counted; else it is taken back.
//!
//! Not so where the process itself stood still. A handler that blocks its process for
//! longer than a TTL ends whole sessions, and an entry that makes every handler do so is
//! to be parked in the end. From inside, that differs from an outage in one thing: the
//! machine's own timers are not served. Time for which the machine was suspended does not
//! count for that; the driver says how long it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::items::{Ending, Item, State};
use super::{Action, Backoff, Flight, Machine, PAGE, Reply};
use crate::{EntryId, FencingToken, HandBack, HandBackOutcome, Result, Timestamp};

/// Whether the process serves the machine's timers.
#[derive(Debug)]
pub(super) struct Punctuality {
    /// The time that the last [`Timeout`](super::Output::Timeout) named.
    promised: Timestamp,
    /// For how long the machine has been suspended since.
    suspended: Duration,
    /// When it was last seen that the process had stood still.
    stood_still: Option<Timestamp>,
}

/// What is to be handed back late.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// At most one lease of an entry: the next one's claim waits for its answer.
    owed: BTreeMap<EntryId, (FencingToken, Option<Arc<str>>)>,
    /// The greatest capacity so far: a lower one takes nothing away that is held.
    most: usize,
    busy: bool,
    backoff: Backoff,
    /// With manual claiming: handed back late, and this consumer's own still.
    own: BTreeSet<EntryId>,
}

impl Punctuality {
    pub(super) fn new() -> Self {
        Self {
            promised: Timestamp::MAX,
            suspended: Duration::ZERO,
            stood_still: None,
        }
    }

    pub(super) fn promise(&mut self, at: Timestamp) {
        self.promised = at;
        self.suspended = Duration::ZERO;
    }

    pub(super) fn suspended(&mut self, time: Duration) {
        self.suspended += time;
    }

    /// A block of a whole TTL makes some timer late by at least this, wherever between
    /// two beats it begins: they are a third of a TTL apart, an answer to one takes no
    /// more than a quarter, and the belief lasts for nine tenths. Scheduling on a busy
    /// machine does not.
    fn limit(ttl: Duration) -> Duration {
        ttl / 4
    }

    pub(super) fn look(&mut self, now: Timestamp, ttl: Duration) {
        let late = now.saturating_since(self.promised);
        if late.saturating_sub(self.suspended) > Self::limit(ttl) {
            self.stood_still = Some(now);
        }
    }

    /// Whether leases that end now may do so because the process stood still.
    fn is_to_blame(&self, now: Timestamp, ttl: Duration) -> bool {
        self.stood_still
            .is_some_and(|at| now.saturating_since(at) < ttl)
    }
}

impl Late {
    /// So many leases there may be.
    pub(super) fn allow(&mut self, capacity: usize) {
        self.most = self.most.max(capacity);
    }

    /// An earlier lease of the entry is to be handed back before it is claimed anew.
    pub(super) fn owes(&self, entry: EntryId) -> bool {
        self.owed.contains_key(&entry)
    }

    /// This consumer lost the entry and has handed it back late; told once.
    pub(super) fn take_own(&mut self, entry: EntryId) -> bool {
        self.own.remove(&entry)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    pub(super) fn timeout(&self) -> Timestamp {
        match self.busy || self.owed.is_empty() {
            true => Timestamp::MAX,
            false => self.backoff.not_before,
        }
    }
}

impl Machine {
    /// The session is lost, and everything in it.
    pub(super) fn owe_all(&mut self) {
        self.late.own.clear();
        let locked = self.items.iter();
        let locked = locked.filter(|(_, item)| item.state.lock().is_some());
        for entry in locked.map(|(entry, _)| entry).collect::<Vec<_>>() {
            self.owe_present(entry);
        }
    }

    /// It is about to go, and its answer is not there yet.
    pub(super) fn owe_present(&mut self, entry: EntryId) {
        let owed = self.items.get(entry).and_then(owed_of);
        self.owe(entry, owed);
    }

    /// A single lease is lost.
    pub(super) fn owe_one(&mut self, entry: EntryId, item: &Item) {
        self.owe(entry, owed_of(item));
    }

    fn owe(&mut self, entry: EntryId, owed: Option<(FencingToken, Option<Arc<str>>)>) {
        let Some(owed) = owed else { return };
        if self.punctuality.is_to_blame(self.now, self.settings.ttl) {
            return;
        }
        // Where one is owed already, the claim of this one was never sent. And no more
        // than one session can hold: what was lost beyond that is counted.
        self.late.allow(self.settings.capacity);
        if self.late.owed.len() < self.late.most {
            self.late.owed.entry(entry).or_insert(owed);
        }
    }

    /// Needs no session.
    pub(super) fn pump_late(&mut self) {
        if self.late.timeout() > self.now {
            return;
        }
        let page = self.late.owed.iter().take(PAGE);
        let page: Vec<HandBack> = page
            .map(|(&entry, (token, failed))| HandBack {
                entry,
                token: *token,
                failed: failed.as_deref().map(ToOwned::to_owned),
                rests: failed.is_some(),
            })
            .collect();
        self.late.busy = true;
        let flight = page.iter().map(|back| (back.entry, back.token)).collect();
        self.act(Action::HandBack(page), Flight::LateHandBack(flight));
    }

    pub(super) fn late_hand_back_done(
        &mut self,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        self.late.busy = false;
        let outcomes = match result {
            Ok(Reply::HandedBack(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                let (now, ttl) = (self.now, self.settings.ttl);
                self.late.backoff.fail(now, ttl, &mut self.rng);
                return self.step_failed("hand_back", &result);
            }
        };
        self.late.backoff.succeed();
        let mut own = Vec::new();
        for (&(entry, _), outcome) in page.iter().zip(outcomes) {
            self.late.owed.remove(&entry);
            if outcome == HandBackOutcome::HandedBack && self.is_manual() {
                self.late.own.insert(entry);
                own.push(entry);
            }
            // Its next claim has waited for this.
            let state = self.items.get(entry).map(|item| &item.state);
            if matches!(state, Some(State::Claiming { .. })) {
                self.lanes.claim.queue.insert(entry);
            }
        }
        if !own.is_empty() {
            self.look_at(own);
        }
    }
}

/// What there is to hand back of an item: its token, and why it failed, if it did.
fn owed_of(item: &Item) -> Option<(FencingToken, Option<Arc<str>>)> {
    let failed = match &item.state {
        State::Ending(_, Ending::HandBack { failed, .. }) => failed.clone(),
        _ => None,
    };
    Some((item.state.lock()?.token, failed))
}
