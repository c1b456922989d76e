//! The rules R1–R12 as code. It sees every call as the backend executed it and
//! every notice as the user was given it, and asks the model nothing that a
//! rule does not speak of.
//!
//! - `leases`: what processes believe, hear and are told (R1, R2, R6, R10, R12);
//! - `entries`: what is done to entries, and with which tokens (R3, R4, R5, R7).

mod entries;
mod leases;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use streamlease_core::{EntryId, FencingToken, LockScheme, Settings, StreamName, Timestamp};

use self::entries::{Entries, Taking};
use self::leases::Overlap;
pub(super) use self::leases::Watch;
use super::plan::STATED_DRIFT;

/// A machine is woken at most this late: its timeouts are a millisecond apart
/// at least, and another one is lost where a clock's rate is rounded.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: &'static str,
    /// Which of the checks that state it.
    pub check: &'static str,
    /// What was seen.
    pub what: String,
    /// When, since the run's start.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            check,
            what,
            at,
        } = self;
        write!(f, "{rule} ({check}) at {at:?}: {what}")
    }
}

pub(super) struct Checker {
    scheme: LockScheme,
    /// Why a run is of the class *lossy*; empty: *durable*.
    pub(super) lossy: BTreeSet<&'static str>,
    pub(super) violation: Option<Violation>,
    pub(super) takeovers: u64,
    pub(super) added: u64,
    pub(super) longest_ttl: Duration,
    now: Duration,
    watches: Vec<Watch>,
    /// Who has a view of a data stream.
    by_stream: BTreeMap<StreamName, Vec<(usize, EntryId)>>,
    /// Data streams that two have a view of.
    contended: BTreeSet<StreamName>,
    overlaps: Vec<Overlap>,
    /// In thousandths of the earlier owner's TTL, on its clock.
    pub(super) longest_overlap: u64,
    /// The same in true time, which that clock may not see.
    pub(super) longest_true_overlap: u64,
    greatest_added: BTreeMap<StreamName, FencingToken>,
    last_owner: BTreeMap<StreamName, usize>,
    /// The protected resource: the greatest token it has seen, and whose.
    resource: BTreeMap<StreamName, (FencingToken, usize)>,
    entries: Entries,
    pub(super) taking: Taking,
    /// Until when foreign consumers hold the locks of entries.
    foreign: BTreeMap<EntryId, Duration>,
    /// What the lock server's clock may jump forward within a TTL, *durable*.
    stated_jump: Duration,
    jumps: VecDeque<(Duration, Duration)>,
    /// The lock server's clock was set back.
    set_back: bool,
    /// Between the return of a pause and the call that ends it.
    pub(super) is_paused: bool,
}

impl Checker {
    pub(super) fn new(scheme: LockScheme, least_ttl: Duration) -> Self {
        let mut settings = Settings::default();
        settings.ttl = least_ttl;
        // The margin is there for a clock that is slow for a TTL and for the
        // server's jumps together; 2 ms go where its milliseconds are rounded.
        let drift = least_ttl * STATED_DRIFT as u32 / 1_000_000;
        let stated_jump = settings.margin() - drift - Duration::from_millis(2);
        Self {
            scheme,
            lossy: BTreeSet::new(),
            violation: None,
            takeovers: 0,
            added: 0,
            longest_ttl: Duration::ZERO,
            now: Duration::ZERO,
            watches: Vec::new(),
            by_stream: BTreeMap::new(),
            contended: BTreeSet::new(),
            overlaps: Vec::new(),
            longest_overlap: 0,
            longest_true_overlap: 0,
            greatest_added: BTreeMap::new(),
            last_owner: BTreeMap::new(),
            resource: BTreeMap::new(),
            entries: Entries::default(),
            taking: Taking::default(),
            foreign: BTreeMap::new(),
            stated_jump,
            jumps: VecDeque::new(),
            set_back: false,
            is_paused: false,
        }
    }

    fn is_durable(&self) -> bool {
        self.lossy.is_empty()
    }

    pub(super) fn fail(
        &mut self,
        rule: &'static str,
        check: &'static str,
        what: impl Into<String>,
    ) {
        let (what, at) = (what.into(), self.now);
        self.violation.get_or_insert(Violation {
            rule,
            check,
            what,
            at,
        });
    }

    /// A run stays *durable* while the jumps within any TTL stay below what the
    /// margin has left for them; any step back only makes locks last longer.
    pub(super) fn lock_clock_steps(&mut self, now: Duration, by_ms: i64) {
        let Ok(forward) = u64::try_from(by_ms) else {
            self.set_back = true;
            return;
        };
        let forward = Duration::from_millis(forward);
        self.jumps.push_back((now, forward));
        for until in self.foreign.values_mut() {
            *until = until.saturating_sub(forward);
        }
        let ttl = self.longest_ttl;
        self.jumps.retain(|(at, _)| *at + ttl >= now);
        let within_ttl: Duration = self.jumps.iter().map(|(_, by)| *by).sum();
        if within_ttl > self.stated_jump {
            self.lossy.insert("lock clock forward");
        }
    }

    pub(super) fn watch(&mut self, watch: Watch) {
        self.longest_ttl = self.longest_ttl.max(watch.ttl);
        self.watches.push(watch);
    }

    /// Who has a lease of the data stream, as far as the users know.
    pub(super) fn holders(&self, stream: &StreamName) -> Vec<usize> {
        let holders = self.by_stream.get(stream);
        holders
            .map(|all| all.iter().map(|(node, _)| *node).collect())
            .unwrap_or_default()
    }
}

/// Reads each process's clock.
pub(super) type Clocks<'a> = &'a dyn Fn(usize) -> Timestamp;
