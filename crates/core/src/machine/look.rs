//! Looking at what is pending (R7, R9): one's own entries, what hints name,
//! what dead consumers left, and, when it is this consumer's turn, everything.
//!
//! One look at a time, a page per step: list, then inspect the locks of what is
//! neither ours nor known to be free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::items::{Origin, State};
use super::orphans::SuspectKey;
use super::{Action, Backoff, Flight, Machine, Notice, Reply};
use crate::{
    Announcement, ConsumerName, EntryId, FencingToken, Held, Holder, LockId, LockScheme, LockState,
    Pending, PendingPage, Result, Scope, Timestamp,
};

/// Entries per look. Inspecting them takes Redis about half a millisecond.
const LOOK_PAGE: usize = 250;

/// Most entries remembered for a second look; the sweep finds the rest.
const MOST_RECHECKS: usize = 10_000;

/// How often owners claim their entries again with per-stream locks: well below
/// the 40 s after which a booting Go consumer takes what looks idle.
const REFRESH: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Looking {
    current: Option<Look>,
    backoff: Backoff,
    /// Entries to look at because something may have happened to them.
    hinted: BTreeSet<EntryId>,
    /// Those of them whose lock was reported or seen to expire.
    expired: BTreeSet<EntryId>,
    own_due: Timestamp,
    own_found: Option<usize>,
    sweep: Option<Sweep>,
    sweep_due: Timestamp,
    last_sweep: Timestamp,
    /// How many entries the last sweep saw pending.
    pending: usize,
    /// Orphans were seen that there was no room for.
    pub(super) left_behind: bool,
    refresh_due: Timestamp,

    /// Consumers with a live session, and when that was asked.
    live: BTreeSet<ConsumerName>,
    live_as_of: Option<Timestamp>,
    /// Entries at live consumers that nobody has locked, since when (R9).
    unlocked_since: BTreeMap<EntryId, Timestamp>,
    rechecks: BTreeSet<(Timestamp, EntryId)>,
    /// One held entry per consumer that has no session: its deadline tells of its death.
    watched: BTreeMap<ConsumerName, EntryId>,
    /// Consumers to list because their watched entry is gone.
    to_list: BTreeSet<ConsumerName>,

    /// Until when entries that failed are left alone, by the token of the owner
    /// that did. Kept, because a server's clock that is set back makes idle
    /// times 0 for long.
    resting: BTreeMap<(EntryId, FencingToken), Timestamp>,

    /// Manual claiming: orphans to report as the event queue has room.
    reports: BTreeMap<EntryId, (Announcement, ConsumerName)>,
    reported_at: BTreeMap<EntryId, Timestamp>,
}

#[derive(Debug)]
struct Sweep {
    after: EntryId,
    seen: usize,
}

#[derive(Debug)]
struct Look {
    target: Target,
    step: Step,
}

#[derive(Debug, Clone)]
enum Target {
    Own {
        after: EntryId,
    },
    Suspect {
        key: SuspectKey,
        after: EntryId,
        unresolved: usize,
    },
    Entries(BTreeSet<EntryId>),
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
    List,
    Inspect {
        page: Vec<Pending>,
        next: Option<EntryId>,
    },
}

impl Looking {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            current: None,
            backoff: Backoff::default(),
            hinted: BTreeSet::new(),
            expired: BTreeSet::new(),
            own_due: now,
            own_found: None,
            sweep: None,
            sweep_due: now,
            last_sweep: now,
            pending: 0,
            left_behind: false,
            refresh_due: now + REFRESH,
            live: BTreeSet::new(),
            live_as_of: None,
            unlocked_since: BTreeMap::new(),
            rechecks: BTreeSet::new(),
            watched: BTreeMap::new(),
            to_list: BTreeSet::new(),
            resting: BTreeMap::new(),
            reports: BTreeMap::new(),
            reported_at: BTreeMap::new(),
        }
    }

    /// A new session looks at its own part first, and at everything in its turn.
    pub(super) fn start_over(&mut self, now: Timestamp) {
        self.own_due = now;
        self.sweep_due = now;
        self.sweep = None;
    }

    fn needs_members(&self, target: &Target, now: Timestamp, ttl: Duration) -> bool {
        let known = self
            .live_as_of
            .is_some_and(|at| now.saturating_since(at) < ttl);
        !known && !matches!(target, Target::Own { .. } | Target::Suspect { .. })
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
        self.looking.expired.insert(entry);
        self.looking.hinted.insert(entry);
    }

    pub(super) fn look_at_own(&mut self) {
        self.looking.own_due = self.now;
    }

    /// Hints may have been lost: one's own part, and (by the beat) who is dead.
    pub(super) fn look_after_silence(&mut self) {
        self.look_at_own();
        self.beat_soon();
    }

    /// Look at an entry again at that time.
    pub(super) fn recheck(&mut self, at: Timestamp, entry: EntryId) {
        if self.looking.rechecks.len() < MOST_RECHECKS {
            self.looking.rechecks.insert((at, entry));
        }
    }

    /// Longer the more is pending, so that sweeping stays a small part of the server's work.
    pub(super) fn sweep_interval(&self) -> Duration {
        let pending = u32::try_from(self.looking.pending).unwrap_or(u32::MAX);
        self.settings.sweep_interval() + Duration::from_micros(200) * pending
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
        });
        looking.last_sweep = self.now;
        looking.live_as_of = None;
        let forget_before = self.now - self.settings.sweep_interval() * 4;
        looking
            .unlocked_since
            .retain(|_, since| *since >= forget_before);
        looking.reported_at.retain(|_, at| *at >= forget_before);
        looking.resting.retain(|_, until| *until >= forget_before);
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
            false => Step::List,
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
        if looking.own_due <= self.now {
            // Set before the look, so that what asks for one meanwhile gets another.
            looking.own_due = self.now + self.settings.sweep_interval();
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
            Step::List => Action::List {
                scope: self.scope_of(&look.target),
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
                self.looking.live = members.into_iter().map(|m| m.session.consumer).collect();
                self.looking.live_as_of = Some(self.now);
                self.take_step(Look {
                    target: look.target,
                    step: Step::List,
                });
            }
            (Step::List, Ok(Reply::Listed(page))) => {
                self.looking.backoff.succeed();
                self.listed(look.target, page);
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
            Target::Consumer { consumer, .. } => {
                self.looking.to_list.insert(consumer);
            }
            Target::Suspect { key, .. } => self.suspect_pass_done(&key, 1),
        }
    }

    /// Sorts a page: what is ours or free is taken at once, the rest inspected.
    fn listed(&mut self, mut target: Target, page: PendingPage) {
        if let Target::Entries(entries) = &target {
            let found: BTreeSet<EntryId> = page.entries.iter().map(|p| p.entry).collect();
            for entry in entries.difference(&found).copied().collect::<Vec<_>>() {
                self.no_longer_pending(entry);
            }
        }
        if let (Target::Sweep { .. }, Some(sweep)) = (&target, &mut self.looking.sweep) {
            sweep.seen += page.entries.len();
        }
        if let (Target::Own { .. }, found) = (&target, &mut self.looking.own_found) {
            *found.get_or_insert(0) += page.entries.len();
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

    /// Deals with what needs no inspection of its lock; returns what does.
    fn sort(&mut self, target: &mut Target, pending: Pending) -> Option<Pending> {
        self.floor = self.floor.max(pending.token);
        let content = match &pending.content {
            Ok(content) => content.clone(),
            Err(reason) => {
                self.park(pending.entry, pending.token, reason.to_string());
                return None;
            }
        };
        if let Some(lease) = self.orphans.adopting.remove(&pending.entry) {
            if self.rests(&pending) {
                self.looking.expired.insert(pending.entry);
                self.release(lease, true);
            } else {
                self.adopt(lease, content.info);
            }
            return None;
        }
        if self.items.contains(pending.entry) {
            // Known and waiting: what made us look may have cleared its way.
            if matches!(target, Target::Entries(_)) {
                self.wake_stream(&content.stream);
            }
            return None;
        }
        let expired = self.looking.expired.remove(&pending.entry);
        let handed_back_for_a_claim = pending.handed_back && self.is_manual();
        if pending.consumer == self.consumer && !handed_back_for_a_claim {
            if !self.rests(&pending) {
                self.admit_from(pending, content, Origin::Mine);
            }
        } else if pending.handed_back {
            count_unresolved(target);
            self.orphan(pending, content, Origin::HandedBack);
        } else if expired || (self.is_first_pass(target) && !self.is_manual()) {
            // What is reported must be claimable, so with manual claiming even a
            // dead consumer's locks are looked at: one that was acquired after
            // the last beat outlives its session.
            count_unresolved(target);
            self.orphan(pending, content, Origin::Orphan);
        } else {
            return Some(pending);
        }
        None
    }

    /// Whether an entry that is free is to be left alone still, because its
    /// owners failed on it. Then it is looked at again when that is over. What
    /// has failed often enough to be parked does not wait for it.
    fn rests(&mut self, pending: &Pending) -> bool {
        // Not counted yet: that is done by the next claim.
        let crashed = pending.token != FencingToken::NONE && !pending.handed_back;
        let failures = pending.failures.saturating_add(u32::from(crashed));
        let limit = self.settings.quarantine_after;
        if failures == 0 || limit.is_some_and(|limit| failures >= limit) {
            return false;
        }
        let key = (pending.entry, pending.token);
        let rest = self.settings.rest(failures).saturating_sub(pending.idle);
        let until = self.now + rest;
        let until = (*self.looking.resting.entry(key).or_insert(until)).min(until);
        if until <= self.now {
            return false;
        }
        self.recheck(until, pending.entry);
        true
    }

    /// R9: is it an orphan?
    fn judge(&mut self, target: &mut Target, pending: Pending, state: LockState) {
        let Ok(content) = pending.content.clone() else {
            return;
        };
        if self.items.contains(pending.entry) {
            return;
        }
        let held = match state {
            LockState::Held(held) => held,
            LockState::Free => {
                if self.is_orphan(target, pending.entry, &pending.consumer, pending.idle) {
                    count_unresolved(target);
                    self.orphan(pending, content, Origin::Orphan);
                }
                return;
            }
        };
        let (entry, consumer) = (pending.entry, pending.consumer);
        self.looking.unlocked_since.remove(&entry);
        match &held.holder {
            Holder::Session(id) if self.orphans.is_dead(id) => {
                count_unresolved(target);
                self.look_when_expired(entry, &held);
            }
            Holder::Session(id) if self.looking.live.contains(&id.consumer) => {}
            Holder::Session(_) | Holder::Foreign(_) => self.watch(consumer, entry, &held),
        }
    }

    fn is_orphan(
        &mut self,
        target: &Target,
        entry: EntryId,
        consumer: &ConsumerName,
        idle: Duration,
    ) -> bool {
        let was_watched = self.looking.watched.get(consumer) == Some(&entry);
        if was_watched {
            // Its lock was held, and nobody extended it.
            self.looking.watched.remove(consumer);
            self.suspect(consumer.clone(), None);
        }
        if was_watched || matches!(target, Target::Suspect { .. }) {
            return true;
        }
        let (age, needed) = match self.looking.live.contains(consumer) {
            // That consumer is full, or does not know of it.
            true => {
                let since = *self.looking.unlocked_since.entry(entry).or_insert(self.now);
                (self.now.saturating_since(since), self.settings.ttl)
            }
            // A foreign consumer that it was just delivered to is left alone.
            false => (idle, self.settings.foreign_grace()),
        };
        if age >= needed {
            self.looking.unlocked_since.remove(&entry);
            return true;
        }
        let at = self.now + (needed - age) + self.deadline_jitter();
        self.recheck(at, entry);
        false
    }

    /// Consumers without a session are known to be dead by one of their locks:
    /// all of a consumer's locks are extended together.
    fn watch(&mut self, consumer: ConsumerName, entry: EntryId, held: &Held) {
        let watched = *self.looking.watched.entry(consumer).or_insert(entry);
        if watched == entry {
            let at = self.now + held.remaining + self.deadline_jitter();
            self.recheck(at, entry);
        }
    }

    /// A dead session's lock outlives it a little; then nothing stands against taking it.
    fn look_when_expired(&mut self, entry: EntryId, held: &Held) {
        self.looking.expired.insert(entry);
        let at = self.now + held.remaining + self.deadline_jitter();
        self.recheck(at, entry);
    }

    fn no_longer_pending(&mut self, entry: EntryId) {
        self.looking.expired.remove(&entry);
        self.looking.unlocked_since.remove(&entry);
        if let Some(lease) = self.orphans.adopting.remove(&entry) {
            self.release(lease, true);
        }
        let watching = self
            .looking
            .watched
            .iter()
            .find(|(_, watched)| **watched == entry);
        if let Some(consumer) = watching.map(|(consumer, _)| consumer.clone()) {
            self.looking.watched.remove(&consumer);
            self.looking.to_list.insert(consumer);
        }
    }

    /// An orphan: taken if it has rested and there is room, reported with manual claiming.
    fn orphan(&mut self, pending: Pending, content: Announcement, origin: Origin) {
        let entry = pending.entry;
        if self.rests(&pending) {
            if origin == Origin::Orphan {
                // That nobody owns it is known already.
                self.looking.expired.insert(entry);
            }
        } else if self.is_manual() {
            self.report(entry, content, pending.consumer);
        } else if self.room() == 0 {
            self.looking.left_behind = true;
        } else {
            self.admit_from(pending, content, origin);
        }
    }

    fn admit_from(&mut self, pending: Pending, content: Announcement, origin: Origin) {
        self.admit(pending.entry, content, origin);
        if let Some(item) = self.items.get_mut(pending.entry) {
            item.giver = pending.handed_back.then_some(pending.consumer);
        }
    }

    fn report(&mut self, entry: EntryId, content: Announcement, owner: ConsumerName) {
        if self
            .shunned
            .get(&entry)
            .is_some_and(|until| *until > self.now)
        {
            return;
        }
        let last = self.looking.reported_at.get(&entry);
        if last.is_none_or(|at| self.now.saturating_since(*at) >= self.settings.ttl) {
            self.looking.reports.insert(entry, (content, owner));
        }
    }

    pub(super) fn pump_reports(&mut self) {
        while !self.looking.reports.is_empty()
            && self.undelivered + self.items.inbound() < self.settings.event_queue
        {
            let Some((entry, (content, owner))) = self.looking.reports.pop_first() else {
                break;
            };
            self.looking.reported_at.insert(entry, self.now);
            self.notify_queued(Notice::Expired {
                entry,
                stream: content.stream,
                info: content.info,
                owner: Some(owner),
            });
        }
    }

    fn is_first_pass(&self, target: &Target) -> bool {
        matches!(target, Target::Suspect { key, .. } if self.orphans.is_first_pass(key))
    }

    fn page_done(&mut self, target: Target, next: Option<EntryId>) {
        let full = !self.is_manual() && self.room() == 0;
        match (target, next) {
            (Target::Entries(_) | Target::Consumer { .. }, None) => {}
            (Target::Own { .. }, None) => {
                if let Some(entries) = self.looking.own_found.take() {
                    self.notify(Notice::OwnListed { entries });
                }
            }
            (Target::Sweep { .. }, None) => {
                if let Some(sweep) = self.looking.sweep.take() {
                    self.looking.pending = sweep.seen;
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
                };
                self.take_step(Look {
                    target,
                    step: Step::List,
                });
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
            let due = due.min(self.suspect_timeout());
            next = next.min(due.max(looking.backoff.not_before));
        }
        next
    }
}

fn count_unresolved(target: &mut Target) {
    if let Target::Suspect { unresolved, .. } = target {
        *unresolved += 1;
    }
}
