//! What is known of each process and its leases: what it believes (`beliefs`),
//! hears and is asked for (`asked`), and what its user is told (`told`).

mod asked;
mod beliefs;
mod idle;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::Belief;
use streamlease_core::{EntryId, FencingToken, Settings, StreamName, Timestamp};

use self::idle::Fetches;

/// A lease as its user sees it.
struct View {
    stream: StreamName,
    token: FencingToken,
    belief: Arc<Belief>,
    progress_timeout: Option<Duration>,
    /// Of its handler; `None` until its user has taken it up.
    last_progress: Option<Timestamp>,
    /// Its user or an operator has asked for its end, or its progress timeout has passed.
    ending: bool,
    /// `lost()` fired because its progress timeout has passed.
    timed_out: bool,
}

impl View {
    /// `lost()` has fired: over, although its end is not told yet.
    fn is_over(&self) -> bool {
        self.belief.until() == Timestamp::ZERO
    }

    fn times_out_at(&self) -> Option<Timestamp> {
        Some(self.last_progress? + self.progress_timeout?)
    }
}

/// Until when something may be believed: by its owner's clock, and in truth.
#[derive(Debug, Clone, Copy, Default)]
struct Allowed {
    local: Timestamp,
    /// By then its lock may be somebody else's.
    truly: Duration,
}

impl Allowed {
    fn max(self, other: Self) -> Self {
        Self {
            local: self.local.max(other.local),
            truly: self.truly.max(other.truly),
        }
    }
}

/// What the checker knows of one process.
pub(in super::super) struct Watch {
    views: BTreeMap<EntryId, View>,
    /// R1: with sessions, for everything; with per-stream locks, for each lease.
    session_allowed: Allowed,
    lease_allowed: BTreeMap<(EntryId, FencingToken), Allowed>,
    /// Until when everything that is held is believed by the last heartbeat.
    renewed: Timestamp,
    capacity: usize,
    /// How many may still come over the capacity: they were on their way when it
    /// was lowered.
    coming: usize,
    event_queue: usize,
    progress_timeout: Option<Duration>,
    /// `Added` and `Expired` that the user has not taken.
    queued: usize,
    terminated: bool,
    asked_to_stop: Option<Timestamp>,
    asked_to_complete: BTreeSet<(EntryId, FencingToken)>,
    handed_back: BTreeMap<EntryId, Timestamp>,
    claimed_by_hand: BTreeSet<EntryId>,
    pub(super) ttl: Duration,
    margin: Duration,
    /// Whether a lease's belief had run out when the current step began.
    ran_out: bool,
    /// Leases that were lost for want of a heartbeat.
    lost: u64,
    fetches: Fetches,
}

impl Watch {
    pub(in super::super) fn new(settings: &Settings) -> Self {
        Self {
            views: BTreeMap::new(),
            session_allowed: Allowed::default(),
            lease_allowed: BTreeMap::new(),
            renewed: Timestamp::ZERO,
            capacity: settings.capacity,
            coming: 0,
            event_queue: settings.event_queue,
            progress_timeout: settings.progress_timeout,
            queued: 0,
            terminated: false,
            asked_to_stop: None,
            asked_to_complete: BTreeSet::new(),
            handed_back: BTreeMap::new(),
            claimed_by_hand: BTreeSet::new(),
            ttl: settings.ttl,
            // Written out: it is what is checked.
            margin: (settings.ttl / 10).max(Duration::from_millis(50)),
            ran_out: false,
            lost: 0,
            fetches: Fetches::default(),
        }
    }

    fn view(&self, entry: EntryId, token: FencingToken) -> Option<&View> {
        self.views.get(&entry).filter(|view| view.token == token)
    }

    fn view_mut(&mut self, entry: EntryId, token: FencingToken) -> Option<&mut View> {
        let view = self.views.get_mut(&entry);
        view.filter(|view| view.token == token)
    }

    fn set_capacity(&mut self, capacity: usize) {
        if capacity < self.capacity {
            self.coming += self.capacity.saturating_sub(self.views.len());
        }
        self.capacity = capacity;
    }

    /// Whoever else handed the entry back may have it again (R7).
    pub(super) fn had_elsewhere(&mut self, entry: EntryId) {
        self.handed_back.remove(&entry);
    }

    pub(super) fn wants_completed(&self, entry: EntryId, token: FencingToken) -> bool {
        self.asked_to_complete.contains(&(entry, token))
    }
}

/// Two processes believe in leases of one data stream (*lossy* only).
pub(super) struct Overlap {
    earlier: (usize, FencingToken),
    later: (usize, FencingToken),
    stream: StreamName,
    /// Since when, on the earlier owner's clock.
    since: Timestamp,
    truly_since: Duration,
}
