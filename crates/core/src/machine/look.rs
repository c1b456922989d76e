//! Looking at what is pending (R7, R9): one's own entries, what hints name,
//! what dead consumers left, and, when it is this consumer's turn, everything.
//!
//! One look at a time, a page per step: list, then inspect the locks of what is
//! neither ours nor known to be free. Where most is known already – one's own
//! part, and everything – only ids are listed, and what is not known is looked
//! up: holding many streams must not mean reading all of them again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::items::{Origin, State};
use super::orphans::SuspectKey;
use super::turns::{Turns, hashed};
use super::{Action, Backoff, Flight, Machine, Notice, Reply};
use crate::{
    Announcement, ConsumerName, EntryId, FencingToken, LockId, LockScheme, Pending, PendingIds,
    PendingPage, Result, Scope, Timestamp,
};

/// Entries per look. Inspecting them takes Redis about half a millisecond.
const LOOK_PAGE: usize = 250;

/// Ids per listing of nothing but those.
const ID_PAGE: usize = 1000;

/// Most entries remembered for a second look; the sweep finds the rest.
pub(super) const MOST_RECHECKS: usize = 10_000;

/// How often owners claim their entries again with per-stream locks: well below
/// the 40 s after which a booting Go consumer takes what looks idle.
const REFRESH: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Looking {
    current: Option<Look>,
    backoff: Backoff,
    /// Entries to look at because something may have happened to them.
    hinted: BTreeSet<EntryId>,
    /// Entries whose lock was reported or seen to expire, and when.
    pub(super) expired: BTreeMap<EntryId, Timestamp>,
    own_due: Timestamp,
    own_found: Option<usize>,
    /// How many entries the last look at one's own saw.
    own_pending: usize,
    sweep: Option<Sweep>,
    sweep_due: Timestamp,
    last_sweep: Timestamp,
    /// How long to wait before the next sweep, in view of what the last one cost.
    sweep_rest: Duration,
    /// Orphans were seen that there was no room for.
    pub(super) left_behind: bool,
    refresh_due: Timestamp,

    /// Consumers with a live session (with a hash of each name), and when that was asked.
    pub(super) live: BTreeMap<ConsumerName, u64>,
    live_as_of: Option<Timestamp>,
    /// Entries at live consumers that nobody has locked, since when (R9).
    pub(super) unlocked_since: BTreeMap<EntryId, Timestamp>,
    rechecks: BTreeSet<(Timestamp, EntryId)>,
    /// The same by entry.
    recheck_at: BTreeMap<EntryId, Timestamp>,
    /// One held entry per consumer that has no session: its deadline tells of its death.
    pub(super) watched: BTreeMap<ConsumerName, EntryId>,
    /// Consumers to list because their watched entry is gone.
    pub(super) to_list: BTreeSet<ConsumerName>,

    /// Until when entries that failed are left alone, by the token of the owner
    /// that did. Kept, because a server's clock that is set back makes idle
    /// times 0 for long.
    pub(super) resting: BTreeMap<(EntryId, FencingToken), Timestamp>,

    /// Entries that others are to take first.
    pub(super) turns: Turns,

    /// Manual claiming: orphans to report as the event queue has room.
    pub(super) reports: BTreeMap<EntryId, (Announcement, ConsumerName)>,
    pub(super) reported_at: BTreeMap<EntryId, Timestamp>,
}

#[derive(Debug)]
struct Sweep {
    after: EntryId,
    seen: usize,
    looked_up: usize,
}

#[derive(Debug)]
struct Look {
    target: Target,
    step: Step,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
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
    Turns(Vec<EntryId>),
    Consumer {
        consumer: ConsumerName,
        after: EntryId,
    },
    Sweep {
        after: EntryId,
    },
}

#[derive(Debug)]
enum Step {
    Members,
    /// Of ids alone.
    ListIds,
    List,
    /// Of these among a page of ids.
    LookUp {
        unknown: Vec<EntryId>,
        next: Option<EntryId>,
    },
    Inspect {
        page: Vec<Pending>,
        next: Option<EntryId>,
    },
    InspectTurns(Vec<LockId>),
}

impl Looking {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            current: None,
            backoff: Backoff::default(),
            hinted: BTreeSet::new(),
            expired: BTreeMap::new(),
            own_due: now,
            own_found: None,
            own_pending: 0,
            sweep: None,
            sweep_due: now,
            last_sweep: now,
            sweep_rest: Duration::ZERO,
            left_behind: false,
            refresh_due: now + REFRESH,
            live: BTreeMap::new(),
            live_as_of: None,
            unlocked_since: BTreeMap::new(),
            rechecks: BTreeSet::new(),
            recheck_at: BTreeMap::new(),
            watched: BTreeMap::new(),
            to_list: BTreeSet::new(),
            resting: BTreeMap::new(),
            turns: Turns::default(),
            reports: BTreeMap::new(),
            reported_at: BTreeMap::new(),
        }
    }

    /// A new session looks at its own part first, and at everything in its turn.
    pub(super) fn start_over(&mut self, now: Timestamp) {
        self.own_due = now;
        self.sweep_due = now;
        self.sweep = None;
        self.turns = Turns::default();
    }

    #[cfg(test)]
    pub(super) fn rechecks(&self) -> usize {
        self.rechecks.len()
    }

    /// Who is dead left what nobody here knows: that is read at once.
    fn first_step(&self, target: &Target) -> Step {
        match target {
            Target::Own { .. } | Target::Sweep { .. } => Step::ListIds,
            Target::Suspect { .. } | Target::Entries(_) | Target::Consumer { .. } => Step::List,
            Target::Turns(entries) => Step::InspectTurns(self.turns.locks(entries)),
        }
    }

    fn needs_members(&self, target: &Target, now: Timestamp, ttl: Duration) -> bool {
        let known = self
            .live_as_of
            .is_some_and(|at| now.saturating_since(at) < ttl);
        !known && !matches!(target, Target::Own { .. } | Target::Turns(_))
    }
}

// --- what makes the machine look ----------------------------------------------------------

impl Machine {
    pub(super) fn look_at(&mut self, entries: Vec<EntryId>) {
        self.looking.hinted.extend(entries);
    }

    /// What was known of these is outdated: one that waits here for its turn
    /// had an owner meanwhile, may have failed once more, and is to rest then.
    pub(super) fn look_at_handed_back(&mut self, entries: Vec<EntryId>) {
        for entry in &entries {
            if let Some(item) = self.items.get(*entry)
                && matches!(item.state, State::Waiting { .. })
                && !matches!(item.origin, Origin::Call(_))
            {
                self.items.remove(*entry);
            }
        }
        self.look_at(entries);
    }

    pub(super) fn look_at_expired(&mut self, entry: EntryId) {
        if self.items.contains(entry) {
            return;
        }
        self.remember_expired(entry);
        self.looking.hinted.insert(entry);
    }

    /// Nobody owned it when it was seen last, so that is not to be waited for again.
    pub(super) fn remember_expired(&mut self, entry: EntryId) {
        self.looking.expired.insert(entry, self.now);
    }

    pub(super) fn look_at_own(&mut self) {
        self.looking.own_due = self.now;
    }

    /// Hints may have been lost: one's own part, and (by the beat) who is dead.
    pub(super) fn look_after_silence(&mut self) {
        self.look_at_own();
        self.beat_by(self.now);
    }

    /// Look at an entry again at that time, or before: each look says anew when
    /// the next one is needed, so that one is enough.
    pub(super) fn recheck(&mut self, at: Timestamp, entry: EntryId) {
        let looking = &mut self.looking;
        match looking.recheck_at.get(&entry) {
            Some(&before) if before <= at => return,
            Some(&before) => {
                looking.rechecks.remove(&(before, entry));
            }
            None if looking.rechecks.len() >= MOST_RECHECKS => return,
            None => {}
        }
        looking.recheck_at.insert(entry, at);
        looking.rechecks.insert((at, entry));
    }

    /// Longer the more is pending, so that sweeping stays a small part of the server's work.
    pub(super) fn sweep_interval(&self) -> Duration {
        self.settings.sweep_interval() + self.looking.sweep_rest
    }

    /// The same for one's own part, of which every member has one.
    fn own_interval(&self) -> Duration {
        let members = self.sitting.members as usize;
        let seen = self.looking.own_pending.saturating_mul(members);
        self.settings.sweep_interval() + self.rest_after(seen, 0)
    }

    /// What keeps looking below a hundredth of the server's time: an id costs
    /// it a third of a microsecond, an entry that is looked up and whose lock is
    /// inspected about 15. With per-stream locks that must not go so far: only
    /// a sweep sees consumers without a session that are new.
    fn rest_after(&self, seen: usize, looked_up: usize) -> Duration {
        let times = |each: u64, n: usize| Duration::from_micros(each.saturating_mul(n as u64));
        let per_look_up = match self.scheme {
            LockScheme::Session => 2_000,
            LockScheme::PerStream => 200,
        };
        times(100, seen) + times(per_look_up, looked_up)
    }

    /// Whether no turn is needed: with manual claiming everybody is to hear of
    /// every orphan, and without sessions everybody must see others' deadlines.
    fn sweeps_alone(&self) -> bool {
        self.is_manual() || (!self.sitting.knows_members && self.room() > 0)
    }

    /// Automatic claiming: one sweeps for all, and only who has room.
    pub(super) fn wants_sweep(&self) -> bool {
        !self.is_manual()
            && self.looking.sweep.is_none()
            && self.looking.sweep_due <= self.now
            && self.room() > 0
    }

    pub(super) fn begin_sweep(&mut self) {
        if self.looking.sweep.is_some() || self.is_draining() {
            return;
        }
        self.looking.sweep_due = self.now + self.sweep_interval();
        let looking = &mut self.looking;
        looking.sweep = Some(Sweep {
            after: EntryId::MIN,
            seen: 0,
            looked_up: 0,
        });
        looking.last_sweep = self.now;
        looking.live_as_of = None;
    }

    /// What nobody has asked about for long is not remembered for ever.
    fn forget_old(&mut self) {
        let before = self.now - self.settings.sweep_interval() * 4;
        let looking = &mut self.looking;
        let rechecks = &looking.recheck_at;
        let is_kept =
            |entry: &EntryId, seen: &Timestamp| *seen >= before || rechecks.contains_key(entry);
        looking.expired.retain(|entry, seen| is_kept(entry, seen));
        looking.unlocked_since.retain(|_, since| *since >= before);
        looking.reported_at.retain(|_, at| *at >= before);
        looking.resting.retain(|_, until| *until >= before);
        looking.turns.forget_old(before);
        self.shunned.retain(|_, until| *until > self.now);
    }

    pub(super) fn pump_looks(&mut self) {
        if self.is_draining() {
            return;
        }
        self.pump_look_timers();
        if self.looking.current.is_some() || !self.looking.backoff.is_ready(self.now) {
            return;
        }
        let Some(target) = self.next_target() else {
            return;
        };
        let ttl = self.settings.ttl;
        let step = match self.looking.needs_members(&target, self.now, ttl) {
            true => Step::Members,
            false => self.looking.first_step(&target),
        };
        self.take_step(Look { target, step });
    }

    fn pump_look_timers(&mut self) {
        let now = self.now;
        while let Some(&(at, entry)) = self.looking.rechecks.first() {
            if at > now {
                break;
            }
            self.looking.rechecks.pop_first();
            self.looking.recheck_at.remove(&entry);
            self.looking.hinted.insert(entry);
        }
        if self.looking.left_behind && self.room() > 0 {
            self.looking.left_behind = false;
            let soon = self.looking.last_sweep + self.settings.ttl / 2;
            self.looking.sweep_due = self.looking.sweep_due.min(soon);
        }
        if self.sweeps_alone() && self.looking.sweep_due <= now {
            self.begin_sweep();
        }
        if self.scheme == LockScheme::PerStream && self.looking.refresh_due <= now {
            self.looking.refresh_due = now + REFRESH;
            self.refresh_all();
        }
    }

    /// What the dead left, then hints, then one's own, then everything.
    fn next_target(&mut self) -> Option<Target> {
        if let Some(key) = self.next_suspect() {
            return Some(Target::Suspect {
                key,
                after: EntryId::MIN,
                unresolved: 0,
            });
        }
        let own_interval = self.own_interval();
        let looking = &mut self.looking;
        if !looking.hinted.is_empty() {
            let rest = looking.hinted.iter().nth(LOOK_PAGE).copied();
            let rest = rest
                .map(|rest| looking.hinted.split_off(&rest))
                .unwrap_or_default();
            return Some(Target::Entries(std::mem::replace(
                &mut looking.hinted,
                rest,
            )));
        }
        let come = looking.turns.take_due(self.now, LOOK_PAGE);
        if !come.is_empty() {
            return Some(Target::Turns(come));
        }
        if looking.own_due <= self.now {
            // Set before the look, so that what asks for one meanwhile gets another.
            looking.own_due = self.now + own_interval;
            looking.own_found = None;
            return Some(Target::Own {
                after: EntryId::MIN,
            });
        }
        if let Some(consumer) = looking.to_list.pop_first() {
            return Some(Target::Consumer {
                consumer,
                after: EntryId::MIN,
            });
        }
        let after = looking.sweep.as_ref()?.after;
        Some(Target::Sweep { after })
    }

    fn take_step(&mut self, look: Look) {
        let action = match &look.step {
            Step::Members => Action::Members,
            Step::ListIds => {
                let (consumer, after) = match self.scope_of(&look.target) {
                    Scope::All { after } => (None, after),
                    Scope::Consumer { consumer, after } => (Some(consumer), after),
                    Scope::Entries(_) => (None, EntryId::MIN),
                };
                Action::ListIds {
                    consumer,
                    after,
                    limit: ID_PAGE,
                }
            }
            Step::List => Action::List {
                scope: self.scope_of(&look.target),
                limit: LOOK_PAGE,
            },
            Step::LookUp { unknown, .. } => Action::List {
                scope: Scope::Entries(unknown.clone()),
                limit: LOOK_PAGE,
            },
            Step::Inspect { page, .. } => {
                let lock = |p: &Pending| {
                    let stream = p.content.as_ref().ok()?.stream.clone();
                    Some(LockId {
                        stream,
                        entry: p.entry,
                    })
                };
                Action::Inspect(page.iter().filter_map(lock).collect())
            }
            Step::InspectTurns(locks) => Action::Inspect(locks.clone()),
        };
        self.looking.current = Some(look);
        self.act(action, Flight::Look);
    }

    fn scope_of(&self, target: &Target) -> Scope {
        match target {
            Target::Own { after } => Scope::Consumer {
                consumer: self.consumer.clone(),
                after: *after,
            },
            Target::Suspect { key, after, .. } => Scope::Consumer {
                consumer: key.0.clone(),
                after: *after,
            },
            Target::Entries(entries) => Scope::Entries(entries.iter().copied().collect()),
            Target::Turns(entries) => Scope::Entries(entries.clone()),
            Target::Consumer { consumer, after } => Scope::Consumer {
                consumer: consumer.clone(),
                after: *after,
            },
            Target::Sweep { after } => Scope::All { after: *after },
        }
    }

    pub(super) fn look_done(&mut self, result: Result<Reply>) {
        let Some(look) = self.looking.current.take() else {
            return;
        };
        if self.is_draining() {
            return;
        }
        match (look.step, result) {
            (Step::Members, Ok(Reply::Members(members))) => {
                self.looking.live = members
                    .into_iter()
                    .map(|member| hashed(member.session.consumer))
                    .collect();
                self.looking.live_as_of = Some(self.now);
                let step = self.looking.first_step(&look.target);
                self.take_step(Look {
                    target: look.target,
                    step,
                });
            }
            (Step::ListIds, Ok(Reply::ListedIds(page))) => {
                self.looking.backoff.succeed();
                self.ids_listed(look.target, page);
            }
            (Step::List, Ok(Reply::Listed(page))) => {
                self.looking.backoff.succeed();
                self.listed(look.target, page);
            }
            (Step::LookUp { next, .. }, Ok(Reply::Listed(page))) => {
                self.looking.backoff.succeed();
                let entries = page.entries;
                self.listed(look.target, PendingPage { entries, next });
            }
            (Step::Inspect { page, next }, Ok(Reply::Inspected(states)))
                if states.len() == page.len() =>
            {
                let mut target = look.target;
                for (pending, state) in page.into_iter().zip(states) {
                    self.judge(&mut target, pending, state);
                }
                self.page_done(target, next);
            }
            (Step::InspectTurns(locks), Ok(Reply::Inspected(states)))
                if states.len() == locks.len() =>
            {
                self.looking.backoff.succeed();
                for (lock, state) in locks.into_iter().zip(states) {
                    self.turn_come(lock.entry, state);
                }
            }
            (_, result) => {
                self.looking
                    .backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                self.step_failed(&result);
                self.look_failed(look.target);
            }
        }
    }

    fn look_failed(&mut self, target: Target) {
        match target {
            Target::Own { .. } => self.look_at_own(),
            // Still due.
            Target::Sweep { .. } => {}
            Target::Entries(entries) => self.looking.hinted.extend(entries),
            Target::Turns(entries) => self.looking.turns.put_off(entries, self.now),
            Target::Consumer { consumer, .. } => {
                self.looking.to_list.insert(consumer);
            }
            Target::Suspect { key, .. } => self.suspect_pass_done(&key, 1),
        }
    }

    /// Passes over what is known, and looks the rest up.
    fn ids_listed(&mut self, target: Target, mut page: PendingIds) {
        let mut unknown = Vec::new();
        let mut seen = 0;
        for (index, &entry) in page.entries.iter().enumerate() {
            if unknown.len() == LOOK_PAGE {
                // One page of those is enough at a time: on from here afterwards.
                page.next = Some(page.entries[index - 1]);
                break;
            }
            seen += 1;
            // What a take-over brought is to be read before it is held.
            if self.items.contains(entry) && !self.orphans.adopting.contains_key(&entry) {
                self.looking.expired.remove(&entry);
            } else {
                unknown.push(entry);
            }
        }
        match (&target, &mut self.looking) {
            (
                Target::Sweep { .. },
                Looking {
                    sweep: Some(sweep), ..
                },
            ) => {
                sweep.seen += seen;
                sweep.looked_up += unknown.len();
            }
            (Target::Own { .. }, looking) => *looking.own_found.get_or_insert(0) += seen,
            _ => {}
        }
        if unknown.is_empty() {
            return self.page_done(target, page.next);
        }
        let next = page.next;
        self.take_step(Look {
            target,
            step: Step::LookUp { unknown, next },
        });
    }

    /// Sorts a page: what is ours or free is taken at once, the rest inspected.
    fn listed(&mut self, mut target: Target, page: PendingPage) {
        if let Target::Entries(entries) = &target {
            let found: BTreeSet<EntryId> = page.entries.iter().map(|p| p.entry).collect();
            for entry in entries.difference(&found).copied().collect::<Vec<_>>() {
                self.no_longer_pending(entry);
            }
        }
        let mut unsure = Vec::new();
        for pending in page.entries {
            if let Some(pending) = self.sort(&mut target, pending) {
                unsure.push(pending);
            }
        }
        if unsure.is_empty() {
            return self.page_done(target, page.next);
        }
        self.take_step(Look {
            target,
            step: Step::Inspect {
                page: unsure,
                next: page.next,
            },
        });
    }

    fn page_done(&mut self, target: Target, next: Option<EntryId>) {
        let full = !self.is_manual() && self.room() == 0;
        match (target, next) {
            (Target::Entries(_) | Target::Turns(_) | Target::Consumer { .. }, None) => {}
            (Target::Own { .. }, None) => {
                self.forget_old();
                if let Some(entries) = self.looking.own_found.take() {
                    self.looking.own_pending = entries;
                    self.notify(Notice::OwnListed { entries });
                }
            }
            (Target::Sweep { .. }, None) => {
                if let Some(sweep) = self.looking.sweep.take() {
                    self.looking.sweep_rest = self.rest_after(sweep.seen, sweep.looked_up);
                }
                // Who swept lets the others have the next turn: they see what is
                // stuck at this one, and learn whose deadlines to watch.
                let others_first = match self.is_manual() {
                    true => Duration::ZERO,
                    false => self.settings.beat_interval(),
                };
                self.looking.sweep_due =
                    self.looking.last_sweep + self.sweep_interval() + others_first;
            }
            (
                Target::Suspect {
                    key, unresolved, ..
                },
                None,
            ) => {
                self.suspect_pass_done(&key, unresolved);
            }
            (Target::Suspect { key, .. }, Some(_)) if full => self.suspect_pass_done(&key, 1),
            // Between its pages a sweep lets what is more urgent go first.
            (Target::Sweep { .. }, Some(after)) => {
                if let Some(sweep) = &mut self.looking.sweep {
                    sweep.after = after;
                }
            }
            (target, Some(after)) => {
                let target = match target {
                    Target::Own { .. } => Target::Own { after },
                    Target::Consumer { consumer, .. } => Target::Consumer { consumer, after },
                    Target::Suspect {
                        key, unresolved, ..
                    } => Target::Suspect {
                        key,
                        after,
                        unresolved,
                    },
                    Target::Sweep { .. } => Target::Sweep { after },
                    Target::Entries(entries) => Target::Entries(entries),
                    Target::Turns(entries) => Target::Turns(entries),
                };
                let step = self.looking.first_step(&target);
                self.take_step(Look { target, step });
            }
        }
    }

    pub(super) fn look_timeout(&self) -> Timestamp {
        if self.is_draining() {
            return Timestamp::MAX;
        }
        let looking = &self.looking;
        let mut next = looking
            .rechecks
            .first()
            .map_or(Timestamp::MAX, |(at, _)| *at);
        if self.scheme == LockScheme::PerStream {
            next = next.min(looking.refresh_due);
        }
        if self.sweeps_alone() && looking.sweep.is_none() {
            next = next.min(looking.sweep_due);
        }
        if looking.current.is_none() {
            let work = !looking.hinted.is_empty()
                || !looking.to_list.is_empty()
                || looking.sweep.is_some();
            let due = if work { self.now } else { looking.own_due };
            let due = due.min(self.suspect_timeout()).min(looking.turns.timeout());
            next = next.min(due.max(looking.backoff.not_before));
        }
        next
    }
}
