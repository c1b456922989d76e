//! What the machine knows of single entries: one [`Item`] each, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use crate::belief::Belief;
use crate::machine::Deadlines;
use crate::machine::io::{CallId, DisownReason};
use crate::{ConsumerName, EntryId, FencingToken, Info, LeaseRef, StreamName, Timestamp};

/// An entry on its way through this consumer.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) stream: StreamName,
    pub(crate) info: Info,
    pub(crate) origin: Origin,
    /// Who gave it up, if somebody did.
    pub(crate) giver: Option<ConsumerName>,
    pub(crate) state: State,
}

/// How the machine came to know of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is pending at this consumer's own name.
    Mine,
    /// Its owner gave it up.
    HandedBack,
    /// Its owner is gone.
    Orphan,
    /// A user claims it.
    Call(CallId),
}

/// Where an entry is. Only `Waiting` counts against no capacity.
#[derive(Debug)]
pub(crate) enum State {
    /// Not to be locked now: its stream is held under another entry, or there is no room.
    Waiting {
        /// How often its lock was found held.
        refused: u32,
    },
    /// In the acquire lane; sent or not, answered not yet.
    Acquiring {
        attempt: u64,
        refused: u32,
        /// The lock was released meanwhile: a refusal may be older than that.
        freed: bool,
    },
    /// Locked, and in the claim lane.
    Claiming {
        lock: Lock,
        /// A try of the claim was not answered: it may be executed still.
        unanswered: bool,
    },
    /// The user's.
    Held(Holding),
    /// On its way out.
    Ending(Holding, Ending),
}

/// A lock that is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lock {
    pub(crate) token: FencingToken,
    /// Believed until then; never with session leases, where the session's deadline counts.
    pub(crate) deadline: Timestamp,
}

/// A lease.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) lock: Lock,
    pub(crate) since: Timestamp,
    /// `None` if the user was never told of it.
    pub(crate) belief: Option<Arc<Belief>>,
    /// The user has nothing left to end it with.
    pub(crate) is_dropped: bool,
    /// How long the handler may go without reporting progress.
    pub(crate) progress_timeout: Option<Duration>,
    /// A completion was sent, and what became of it is unknown: it may have removed the
    /// entry. Stays so if the server then refuses another try, and the lease goes on.
    pub(crate) may_be_completed: bool,
    /// How often owners before this one failed.
    pub(crate) failures: u32,
}

/// What is to become of a lease.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Complete,
    HandBack {
        failed: Option<Arc<str>>,
        /// The entry is to rest before anybody takes it.
        rests: bool,
        /// Against the user's will, for this reason.
        because: Option<DisownReason>,
    },
    Quarantine,
}

impl Ending {
    /// Given up in good order: others may take it at once.
    pub(crate) fn hand_back(because: Option<DisownReason>) -> Self {
        Self::HandBack {
            failed: None,
            rests: false,
            because,
        }
    }
}

impl State {
    pub(crate) fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Waiting { .. } | Self::Acquiring { .. } => None,
            Self::Claiming { lock, .. } => Some(lock),
            Self::Held(holding) | Self::Ending(holding, _) => Some(&holding.lock),
        }
    }

    pub(crate) fn lock_mut(&mut self) -> Option<&mut Lock> {
        match self {
            Self::Waiting { .. } | Self::Acquiring { .. } => None,
            Self::Claiming { lock, .. } => Some(lock),
            Self::Held(holding) | Self::Ending(holding, _) => Some(&mut holding.lock),
        }
    }

    pub(crate) fn belief(&self) -> Option<&Arc<Belief>> {
        match self {
            Self::Held(holding) | Self::Ending(holding, _) => holding.belief.as_ref(),
            _ => None,
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// On the way to the user, who has not been told yet.
    fn is_inbound(&self) -> bool {
        matches!(self, Self::Acquiring { .. } | Self::Claiming { .. })
    }

    fn is_locked(&self) -> bool {
        self.lock().is_some()
    }
}

/// All items, with what must be known of them without a scan.
#[derive(Debug, Default)]
pub(crate) struct Items {
    map: BTreeMap<EntryId, Item>,
    /// The one entry per data stream that is not waiting (R6).
    active: BTreeMap<StreamName, EntryId>,
    /// The waiting entries, by data stream.
    waiting: BTreeMap<StreamName, BTreeSet<EntryId>>,
    /// When to look at the lock deadline of each lease that has one of its own. That is
    /// moved without touching this; a time that has passed is looked up again.
    expiries: Deadlines<EntryId>,
    inbound: usize,
    locked: usize,
}

impl Items {
    pub(crate) fn get(&self, entry: EntryId) -> Option<&Item> {
        self.map.get(&entry)
    }

    /// For changes that keep the kind of state: the indexes do not see them.
    pub(crate) fn get_mut(&mut self, entry: EntryId) -> Option<&mut Item> {
        self.map.get_mut(&entry)
    }

    pub(crate) fn into_items(self) -> impl Iterator<Item = (EntryId, Item)> {
        self.map.into_iter()
    }

    pub(crate) fn contains(&self, entry: EntryId) -> bool {
        self.map.contains_key(&entry)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Item)> {
        self.map.iter().map(|(entry, item)| (*entry, item))
    }

    /// Those with greater ids.
    pub(crate) fn after(&self, entry: EntryId) -> impl Iterator<Item = (EntryId, &Item)> {
        let later = self.map.range((Excluded(entry), Unbounded));
        later.map(|(entry, item)| (*entry, item))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Items that count against the capacity.
    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// Items that will need an event each.
    pub(crate) fn inbound(&self) -> usize {
        self.inbound
    }

    /// Items whose lock is held.
    pub(crate) fn locked(&self) -> usize {
        self.locked
    }

    pub(crate) fn active_entry(&self, stream: &StreamName) -> Option<EntryId> {
        self.active.get(stream).copied()
    }

    /// The lowest waiting entry of a data stream (R6).
    pub(crate) fn first_waiting(&self, stream: &StreamName) -> Option<EntryId> {
        self.waiting
            .get(stream)
            .and_then(|entries| entries.first())
            .copied()
    }

    pub(crate) fn any_waiting(&self) -> Option<EntryId> {
        let (_, entries) = self.waiting.first_key_value()?;
        entries.first().copied()
    }

    /// A new item, waiting.
    pub(crate) fn insert(
        &mut self,
        entry: EntryId,
        stream: StreamName,
        info: Info,
        origin: Origin,
    ) {
        self.waiting
            .entry(stream.clone())
            .or_default()
            .insert(entry);
        let state = State::Waiting { refused: 0 };
        self.map.insert(
            entry,
            Item {
                stream,
                info,
                origin,
                giver: None,
                state,
            },
        );
    }

    /// Moves an item to another state; the old one is returned.
    pub(crate) fn set(&mut self, entry: EntryId, state: State) -> Option<State> {
        let item = self.map.get_mut(&entry)?;
        let old = std::mem::replace(&mut item.state, state);
        let (was_waiting, is_waiting) = (old.is_waiting(), item.state.is_waiting());
        self.inbound -= usize::from(old.is_inbound());
        self.inbound += usize::from(item.state.is_inbound());
        self.locked -= usize::from(old.is_locked());
        self.locked += usize::from(item.state.is_locked());
        if old.is_locked() && !item.state.is_locked() {
            self.expiries.cancel(&entry);
        }
        if was_waiting && !is_waiting {
            let stream = item.stream.clone();
            self.unindex_waiting(entry, &stream);
            self.active.insert(stream, entry);
        } else if !was_waiting && is_waiting {
            self.active.remove(&item.stream);
            self.waiting
                .entry(item.stream.clone())
                .or_default()
                .insert(entry);
        }
        Some(old)
    }

    /// Changes the payload of a lock in place; the state stays what it is.
    pub(crate) fn lock_mut(&mut self, entry: EntryId) -> Option<&mut Lock> {
        self.map.get_mut(&entry)?.state.lock_mut()
    }

    /// The lease is believed until then, if it is the one with this token. Returns until
    /// when it was.
    pub(crate) fn extend(
        &mut self,
        entry: EntryId,
        token: FencingToken,
        until: Timestamp,
    ) -> Option<Timestamp> {
        let state = &mut self.map.get_mut(&entry)?.state;
        let lock = state.lock_mut().filter(|lock| lock.token == token)?;
        let before = lock.deadline;
        if before < until {
            lock.deadline = until;
            if let Some(belief) = state.belief() {
                belief.set(until);
            }
        }
        Some(before)
    }

    pub(crate) fn set_origin(&mut self, entry: EntryId, origin: Origin) {
        if let Some(item) = self.map.get_mut(&entry) {
            item.origin = origin;
        }
    }

    pub(crate) fn remove(&mut self, entry: EntryId) -> Option<Item> {
        let item = self.map.remove(&entry)?;
        if item.state.is_waiting() {
            self.unindex_waiting(entry, &item.stream);
        } else {
            self.active.remove(&item.stream);
        }
        self.inbound -= usize::from(item.state.is_inbound());
        self.locked -= usize::from(item.state.is_locked());
        self.expiries.cancel(&entry);
        Some(item)
    }

    /// The lock of `entry` if it is held with `token`.
    pub(crate) fn lock_with(&self, entry: EntryId, token: FencingToken) -> Option<&Lock> {
        self.get(entry)?
            .state
            .lock()
            .filter(|lock| lock.token == token)
    }

    /// The lease of `entry` has a deadline of its own.
    pub(crate) fn expires_at(&mut self, deadline: Timestamp, entry: EntryId) {
        self.expiries.set(entry, deadline);
    }

    #[cfg(test)]
    pub(crate) fn expiries(&self) -> usize {
        self.expiries.len()
    }

    /// The next time at which a lock of its own deadline may have run out.
    pub(crate) fn next_expiry(&self) -> Timestamp {
        self.expiries.next()
    }

    /// Those whose locks have run out by now.
    pub(crate) fn expired(&mut self, now: Timestamp) -> Vec<EntryId> {
        let mut expired = Vec::new();
        let deadline = |entry: &EntryId| {
            let lock = self.map.get(entry)?.state.lock()?;
            Some(lock.deadline)
        };
        let is_moved = |entry: &EntryId| deadline(entry).filter(|at| *at < Timestamp::MAX);
        while let Some(entry) = self.expiries.pop_due_unless(now, is_moved) {
            // What is not locked any more, or has no deadline, is not looked at again.
            if deadline(&entry).is_some_and(|at| at <= now) {
                expired.push(entry);
            }
        }
        expired
    }

    /// Everything locked, as backends know it. Linear, once per heartbeat.
    pub(crate) fn leases(&self) -> Vec<LeaseRef> {
        self.map
            .iter()
            .filter_map(|(entry, item)| {
                let token = item.state.lock()?.token;
                Some(LeaseRef {
                    stream: item.stream.clone(),
                    entry: *entry,
                    token,
                })
            })
            .collect()
    }

    fn unindex_waiting(&mut self, entry: EntryId, stream: &StreamName) {
        if let Some(entries) = self.waiting.get_mut(stream) {
            entries.remove(&entry);
            if entries.is_empty() {
                self.waiting.remove(stream);
            }
        }
    }
}
