//! Scans of what is pending (R7, R9): one's own entries, what hints name,
//! what dead consumers left, and, when it is this consumer's turn, everything.
//!
//! One look at a time, a page per step: list, then inspect the locks of what is
//! neither ours nor known to be free. Where most is known already – one's own
//! part, and everything – only ids are listed, and what is not known is looked
//! up: holding many streams must not mean reading all of them again and again.
//!
//! Here: what makes the machine look, and at what next. `steps`: how one look
//! goes. `sweep`: whose turn it is to look at everything, and when.

use std::collections::{BTreeMap, BTreeSet};

use super::Recovery;
use super::own::Own;
use super::page::Page;
use super::steps::Scan;
use super::takeover::SuspectKey;
use crate::machine::Backoff;
use crate::machine::cx::Cx;
use crate::machine::deadlines::Deadlines;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::{ConsumerName, EntryId, FencingToken, Timestamp};

/// Entries per look. Inspecting them takes Redis about half a millisecond.
pub(crate) const SCAN_PAGE: usize = 250;

/// Most entries remembered for a second look; the sweep finds the rest.
pub(crate) const MOST_RECHECKS: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Scanner {
    pub(super) current: Option<Scan>,
    /// What it has read and not classified yet.
    pub(super) page: Option<Page>,
    pub(super) backoff: Backoff,
    /// Entries to look at because something may have happened to them.
    pub(super) hinted: BTreeSet<EntryId>,
    /// Entries whose lock was reported or seen to expire, and when.
    pub(crate) expired: BTreeMap<EntryId, Timestamp>,
    pub(super) own: Own,
    /// Orphans that there was no room for: those that are pending at nobody, and those of a
    /// pause. Nothing else tells of them, and they may be all that the LBS had: freed room
    /// serves them, without another sweep.
    left: BTreeSet<EntryId>,
    /// Entries at live consumers that nobody has locked, since when (R9).
    pub(crate) unlocked_since: BTreeMap<EntryId, Timestamp>,
    pub(super) rechecks: Deadlines<EntryId>,
    /// Until when entries that failed are left alone, by the token of the owner
    /// that did. Kept, because a server's clock that is set back makes idle
    /// times 0 for long.
    pub(crate) resting: BTreeMap<(EntryId, FencingToken), Timestamp>,
}

#[derive(Debug, Clone)]
pub(crate) enum Target {
    Own {
        after: EntryId,
    },
    Suspect {
        key: SuspectKey,
        after: EntryId,
        unresolved: usize,
    },
    Entries(BTreeSet<EntryId>),
    /// Others were to take these first; only their locks are looked at.
    Ranked(Vec<EntryId>),
    Consumer {
        consumer: ConsumerName,
        after: EntryId,
    },
    Sweep {
        after: EntryId,
    },
    /// The last part of a sweep: what is on the LBS and pending at nobody.
    Stranded {
        after: EntryId,
    },
}

impl Scanner {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            current: None,
            page: None,
            backoff: Backoff::default(),
            hinted: BTreeSet::new(),
            expired: BTreeMap::new(),
            own: Own::new(now),
            left: BTreeSet::new(),
            unlocked_since: BTreeMap::new(),
            rechecks: Deadlines::default(),
            resting: BTreeMap::new(),
        }
    }

    /// A new session looks at its own part first.
    pub(crate) fn start_over(&mut self, now: Timestamp) {
        self.own.start_over(now);
        self.page = None;
    }

    /// There was no room for it.
    pub(super) fn leave(&mut self, entry: EntryId) {
        if self.left.len() < MOST_RECHECKS {
            self.left.insert(entry);
        }
    }

    #[cfg(test)]
    pub(crate) fn rechecks(&self) -> usize {
        self.rechecks.len()
    }
}

impl Recovery {
    pub(crate) fn rescan(&mut self, entries: Vec<EntryId>) {
        self.scanner.hinted.extend(entries);
    }

    pub(crate) fn rescan_expired(&mut self, cx: &mut Cx, leases: &Leases, entry: EntryId) {
        if leases.items.contains(entry) {
            return;
        }
        self.remember_expired(cx, entry);
        self.scanner.hinted.insert(entry);
    }

    /// Nobody owned it when it was seen last, so that is not to be waited for again.
    pub(crate) fn remember_expired(&mut self, cx: &mut Cx, entry: EntryId) {
        self.scanner.expired.insert(entry, cx.now);
    }

    pub(crate) fn rescan_own(&mut self, cx: &mut Cx) {
        self.scanner.own.ask(cx.now);
    }

    /// Hints may have been lost: one's own part, and (by the heartbeat) who is dead.
    pub(crate) fn rescan_after_silence(&mut self, cx: &mut Cx) {
        self.rescan_own(cx);
        cx.effect(Effect::HeartbeatBy(cx.now));
    }

    /// Scan an entry again at that time, or before: each look says anew when
    /// the next one is needed, so that one is enough.
    pub(crate) fn recheck(&mut self, at: Timestamp, entry: EntryId) {
        let rechecks = &mut self.scanner.rechecks;
        let is_better = match rechecks.get(&entry) {
            Some(before) => at < before,
            None => rechecks.len() < MOST_RECHECKS,
        };
        if is_better {
            rechecks.set(entry, at);
        }
    }

    /// What nobody has asked about for long is not remembered for ever.
    pub(super) fn forget_old(&mut self, cx: &mut Cx) {
        let before = cx.now - cx.settings.sweep_interval() * 4;
        let scanner = &mut self.scanner;
        let rechecks = &scanner.rechecks;
        let is_kept =
            |entry: &EntryId, seen: &Timestamp| *seen >= before || rechecks.get(entry).is_some();
        scanner.expired.retain(|entry, seen| is_kept(entry, seen));
        scanner
            .unlocked_since
            .retain(|entry, since| is_kept(entry, since));
        scanner.resting.retain(|_, until| *until >= before);
        self.reports.forget_old(before);
        self.ranks.forget_old(before);
    }

    pub(crate) fn pump_scans(&mut self, cx: &mut Cx, leases: &Leases) {
        if cx.is_draining() {
            return;
        }
        self.pump_timers(cx, leases);
        if self.scanner.current.is_some() || !self.scanner.backoff.is_ready(cx.now) {
            return;
        }
        let Some(target) = self.next_target(cx, leases) else {
            return;
        };
        self.begin_scan(cx, target);
    }

    pub(super) fn pump_timers(&mut self, cx: &mut Cx, leases: &Leases) {
        let now = cx.now;
        while let Some(entry) = self.scanner.rechecks.pop_due(now) {
            self.scanner.hinted.insert(entry);
        }
        self.pump_sweep(cx, leases);
        self.pump_left(cx, leases);
    }

    /// As many of what was left as there is room for. Others have some of them
    /// by then: what comes of a look is taken off before the next one.
    pub(super) fn pump_left(&mut self, cx: &mut Cx, leases: &Leases) {
        if self.scanner.left.is_empty() || !self.scanner.hinted.is_empty() {
            return;
        }
        let room = leases.room(cx);
        let scanner = &mut self.scanner;
        while scanner.hinted.len() < room
            && let Some(entry) = scanner.left.pop_first()
        {
            scanner.hinted.insert(entry);
        }
    }

    /// What the dead left, then hints, then what others were to take first, then one's own, then
    /// everything. But hints only make things faster: what has waited for a TTL goes
    /// before them, and before the dead. Where infos are slow to read, these would else
    /// be read again and again before any of them was looked at when its time came.
    pub(super) fn next_target(&mut self, cx: &mut Cx, leases: &Leases) -> Option<Target> {
        let long_ago = cx.now - cx.settings.ttl;
        if self.scanner.own.due() <= long_ago {
            return Some(self.own_target(cx));
        }
        if self.sweeps.waits_since().is_some_and(|at| at <= long_ago) {
            return self.sweeps.next_target(cx);
        }
        if self.ranks.timeout() <= long_ago {
            let come = self.ranks.take_due(cx.now, SCAN_PAGE);
            return Some(Target::Ranked(come));
        }
        if let Some(key) = self.next_suspect(cx, leases) {
            return Some(Target::Suspect {
                key,
                after: EntryId::MIN,
                unresolved: 0,
            });
        }
        let scanner = &mut self.scanner;
        if !scanner.hinted.is_empty() {
            let rest = scanner.hinted.iter().nth(SCAN_PAGE).copied();
            let rest = rest
                .map(|rest| scanner.hinted.split_off(&rest))
                .unwrap_or_default();
            return Some(Target::Entries(std::mem::replace(
                &mut scanner.hinted,
                rest,
            )));
        }
        if self.ranks.timeout() <= cx.now {
            return Some(Target::Ranked(self.ranks.take_due(cx.now, SCAN_PAGE)));
        }
        if scanner.own.due() <= cx.now {
            return Some(self.own_target(cx));
        }
        if let Some(consumer) = self.watched.next_to_list() {
            return Some(Target::Consumer {
                consumer,
                after: EntryId::MIN,
            });
        }
        self.sweeps.next_target(cx)
    }

    fn own_target(&mut self, cx: &Cx) -> Target {
        self.scanner.own.begin(cx);
        Target::Own {
            after: EntryId::MIN,
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx, leases: &Leases) -> Timestamp {
        if cx.is_draining() {
            return Timestamp::MAX;
        }
        let scanner = &self.scanner;
        let mut next = scanner.rechecks.next().min(self.sweeps.timeout(cx, leases));
        if scanner.current.is_none() {
            let work = !scanner.hinted.is_empty()
                || self.watched.has_to_list()
                || self.sweeps.is_under_way();
            let due = if work { cx.now } else { scanner.own.due() };
            let due = due
                .min(self.suspect_timeout(cx, leases))
                .min(self.ranks.timeout());
            next = next.min(due.max(scanner.backoff.not_before));
        }
        next
    }
}
