//! One look, step by step: who lives, what is pending, and whose locks are held
//! of what is neither ours nor known to be free. What it shows is classified in `classify`.

use std::collections::{BTreeSet, VecDeque};

use super::Recovery;
use super::scan::{SCAN_PAGE, Target};
use crate::limits::ID_PAGE;
use crate::machine::calls::Flight;
use crate::machine::cx::{Cx, Effect};
use crate::machine::leases::Leases;
use crate::machine::leases::table::State;
use crate::machine::{Action, Notice, Reply};
use crate::{
    EntryId, LockId, LockState, Pending, PendingIds, PendingPage, Result, Scope, Timestamp,
};

#[derive(Debug)]
pub(crate) struct Scan {
    target: Target,
    step: Step,
    sent: Timestamp,
}

#[derive(Debug)]
enum Step {
    Members,
    /// Of ids alone.
    ListIds,
    /// Of ids of what is stranded.
    ListStranded,
    List,
    /// Of these among a page of ids.
    LookUp {
        unknown: Vec<EntryId>,
        next: Option<EntryId>,
    },
    Inspect {
        page: Vec<NeedsInspection>,
        unread: Vec<EntryId>,
        next: Option<EntryId>,
    },
    InspectTurns(Vec<LockId>),
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::ListIds => "list_pending_ids",
            Self::ListStranded => "list_stranded",
            Self::List | Self::LookUp { .. } => "list_pending",
            Self::Inspect { .. } | Self::InspectTurns(_) => "inspect",
        }
    }
}

/// What is pending, and inspected by its lock.
#[derive(Debug)]
pub(crate) struct NeedsInspection {
    pub(crate) pending: Pending,
    /// Its lock was reported or seen to expire before.
    pub(crate) expired: bool,
}

/// A page that was read.
#[derive(Debug)]
pub(crate) struct Page {
    target: Target,
    todo: VecDeque<Todo>,
    /// What is to be inspected.
    to_inspect: Vec<NeedsInspection>,
    unread: Vec<EntryId>,
    next: Option<EntryId>,
}

#[derive(Debug)]
enum Todo {
    Read(Pending),
    Classify(Pending),
    Classified(EntryId),
    Inspected(NeedsInspection, LockState),
}

impl Recovery {
    /// Who is dead left what nobody here knows: that is read at once.
    fn first_step(&self, target: &Target) -> Step {
        match target {
            Target::Own { .. } | Target::Sweep { .. } => Step::ListIds,
            Target::Stranded { .. } => Step::ListStranded,
            Target::Suspect { .. } | Target::Entries(_) | Target::Consumer { .. } => Step::List,
            Target::Turns(entries) => Step::InspectTurns(self.turns.locks(entries)),
        }
    }

    pub(crate) fn begin_scan(&mut self, cx: &mut Cx, target: Target) {
        let known = self.members.are_known(cx.now, cx.settings.ttl);
        let step = match known || matches!(target, Target::Own { .. } | Target::Turns(_)) {
            true => self.first_step(&target),
            false => Step::Members,
        };
        self.take_step(cx, target, step);
    }

    fn take_step(&mut self, cx: &mut Cx, target: Target, step: Step) {
        let sent = cx.now;
        let look = Scan { target, step, sent };
        let action = match &look.step {
            Step::Members => Action::Members,
            Step::ListIds => {
                let (consumer, after) = match self.scope_of(cx, &look.target) {
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
            Step::ListStranded => Action::ListStranded {
                after: match look.target {
                    Target::Stranded { after } => after,
                    _ => EntryId::MIN,
                },
                limit: SCAN_PAGE,
            },
            Step::List => Action::List {
                scope: self.scope_of(cx, &look.target),
                limit: SCAN_PAGE,
            },
            Step::LookUp { unknown, .. } => Action::List {
                scope: Scope::Entries(unknown.clone()),
                limit: SCAN_PAGE,
            },
            Step::Inspect { page, .. } => {
                let lock = |NeedsInspection { pending, .. }: &NeedsInspection| {
                    let stream = pending.content.as_ref().ok()?.stream.clone();
                    Some(LockId {
                        stream,
                        entry: pending.entry,
                    })
                };
                Action::Inspect(page.iter().filter_map(lock).collect())
            }
            Step::InspectTurns(locks) => Action::Inspect(locks.clone()),
        };
        self.scanner.current = Some(look);
        cx.act(action, Flight::Scan);
    }

    fn scope_of(&self, cx: &Cx, target: &Target) -> Scope {
        match target {
            Target::Own { after } => Scope::Consumer {
                consumer: cx.consumer.clone(),
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
            Target::Sweep { after } | Target::Stranded { after } => Scope::All { after: *after },
        }
    }

    pub(crate) fn scan_done(&mut self, cx: &mut Cx, leases: &Leases, result: Result<Reply>) {
        let Some(look) = self.scanner.current.take() else {
            return;
        };
        if cx.is_draining() {
            return;
        }
        match (look.step, result) {
            (Step::Members, Ok(Reply::Members(members))) => {
                self.members.listed(members, cx.now);
                let step = self.first_step(&look.target);
                self.take_step(cx, look.target, step);
            }
            (Step::ListIds | Step::ListStranded, Ok(Reply::ListedIds(page))) => {
                self.scanner.backoff.succeed();
                self.ids_listed(cx, leases, look.target, page, look.sent);
            }
            (Step::List, Ok(Reply::Listed(page))) => {
                self.scanner.backoff.succeed();
                self.listed(cx, leases, look.target, page, Vec::new());
            }
            (Step::LookUp { mut unknown, next }, Ok(Reply::Listed(page))) => {
                self.scanner.backoff.succeed();
                // The page is short if what it has is long.
                unknown.retain(|entry| page.next.is_some_and(|last| *entry > last));
                let entries = page.entries;
                self.listed(
                    cx,
                    leases,
                    look.target,
                    PendingPage { entries, next },
                    unknown,
                );
            }
            (Step::Inspect { page, unread, next }, Ok(Reply::Inspected(states)))
                if states.len() == page.len() =>
            {
                let inspected = page.into_iter().zip(states);
                self.scanner.page = Some(Page {
                    target: look.target,
                    todo: inspected
                        .map(|(to_inspect, state)| Todo::Inspected(to_inspect, state))
                        .collect(),
                    to_inspect: Vec::new(),
                    unread,
                    next,
                });
            }
            (Step::InspectTurns(locks), Ok(Reply::Inspected(states)))
                if states.len() == locks.len() =>
            {
                self.scanner.backoff.succeed();
                for (lock, state) in locks.into_iter().zip(states) {
                    self.turn_come(cx, lock.entry, state);
                }
            }
            (step, result) => {
                self.scanner
                    .backoff
                    .fail(cx.now, cx.settings.ttl, &mut cx.rng);
                cx.step_done(step.name(), result);
                self.scan_failed(cx, leases, look.target);
            }
        }
    }

    fn scan_failed(&mut self, cx: &mut Cx, leases: &Leases, target: Target) {
        match target {
            Target::Own { .. } => self.rescan_own(cx),
            // Still due.
            Target::Sweep { .. } | Target::Stranded { .. } => {}
            Target::Entries(entries) => self.scanner.hinted.extend(entries),
            Target::Turns(entries) => self.turns.put_off(entries, cx.now),
            Target::Consumer { consumer, .. } => self.watched.list_again(consumer),
            Target::Suspect { key, .. } => self.suspect_pass_done(cx, leases, &key, 1),
        }
    }

    /// Passes over what is known, and looks the rest up.
    fn ids_listed(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        target: Target,
        mut page: PendingIds,
        sent: Timestamp,
    ) {
        let mut unknown = Vec::new();
        let mut seen = 0;
        for (index, &entry) in page.entries.iter().enumerate() {
            if unknown.len() == SCAN_PAGE {
                // One page of those is enough at a time: on from here afterwards.
                page.next = Some(page.entries[index - 1]);
                break;
            }
            seen += 1;
            // What a take-over brought is to be read before it is held.
            if leases.items.contains(entry) && !leases.adopting.contains_key(&entry) {
                self.scanner.expired.remove(&entry);
            } else {
                unknown.push(entry);
            }
        }
        match &target {
            Target::Sweep { .. } => self.sweeps.saw(seen, unknown.len()),
            Target::Own { after } => {
                self.scanner.own.saw(seen);
                self.claim_what_was_taken(cx, leases, *after, &page, sent);
            }
            Target::Stranded { .. } => self.claim_what_is_stranded(cx, leases, &page.entries),
            _ => {}
        }
        if unknown.is_empty() {
            return self.page_done(cx, leases, target, page.next);
        }
        let next = page.next;
        self.take_step(cx, target, Step::LookUp { unknown, next });
    }

    /// A page is classified: what is ours or free is taken at once, the rest inspected.
    fn listed(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        mut target: Target,
        mut page: PendingPage,
        unread: Vec<EntryId>,
    ) {
        if let Target::Entries(entries) = &mut target {
            if let Some(last) = page.next.take() {
                let (looked_at, later): (BTreeSet<EntryId>, BTreeSet<EntryId>) =
                    entries.iter().partition(|entry| **entry <= last);
                *entries = looked_at;
                self.scanner.hinted.extend(later);
            }
            let found: BTreeSet<EntryId> = page.entries.iter().map(|p| p.entry).collect();
            for entry in entries.difference(&found).copied().collect::<Vec<_>>() {
                self.no_longer_pending(cx, leases, entry);
            }
        }
        self.scanner.page = Some(Page {
            target,
            todo: page.entries.into_iter().map(Todo::Read).collect(),
            to_inspect: Vec::new(),
            unread,
            next: page.next,
        });
    }

    /// Works on with the page that was read, by one step. `false` if there is none.
    ///
    /// What is wanted of the leases is carried out after each step: so each entry is
    /// classified by the room that those before it have left.
    pub(crate) fn step(&mut self, cx: &mut Cx, leases: &Leases) -> bool {
        let Some(mut page) = self.scanner.page.take() else {
            return false;
        };
        match page.todo.pop_front() {
            Some(Todo::Read(pending)) => {
                cx.raise_floor(pending.token);
                let stream = pending.content.as_ref().ok();
                let stream = stream.map(|content| content.stream.clone());
                cx.effect(Effect::Read(pending.entry, stream));
                page.todo.push_front(Todo::Classify(pending));
            }
            Some(Todo::Classify(pending)) => {
                page.todo.push_front(Todo::Classified(pending.entry));
                let to_inspect = self.classify(cx, leases, &mut page.target, pending);
                page.to_inspect.extend(to_inspect);
            }
            Some(Todo::Classified(entry)) => self.leave_to_others(leases, &mut page.target, entry),
            Some(Todo::Inspected(to_inspect, state)) => {
                self.classify_by_lock(cx, leases, &mut page.target, to_inspect, state)
            }
            None => {
                self.page_classified(cx, leases, page);
                return true;
            }
        }
        self.scanner.page = Some(page);
        true
    }

    fn page_classified(&mut self, cx: &mut Cx, leases: &Leases, page: Page) {
        let Page {
            target,
            to_inspect,
            unread,
            next,
            ..
        } = page;
        if to_inspect.is_empty() {
            return self.page_read(cx, leases, target, unread, next);
        }
        let page = to_inspect;
        self.take_step(cx, target, Step::Inspect { page, unread, next });
    }

    /// What is held, and was when the listing of one's own entries was sent, is among
    /// them, unless somebody took it from here: a foreign consumer, or an operator who
    /// removed this consumer's name from the group. It is claimed again, or found gone.
    fn claim_what_was_taken(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        after: EntryId,
        page: &PendingIds,
        sent: Timestamp,
    ) {
        let held = leases.items.after(after);
        let held = held.take_while(|(entry, _)| page.next.is_none_or(|next| *entry <= next));
        let taken = held.filter(|(entry, item)| {
            let is_held = matches!(&item.state, State::Held(holding) if holding.since < sent);
            is_held && page.entries.binary_search(entry).is_err()
        });
        let taken = taken.map(|(entry, _)| entry).collect();
        cx.effect(Effect::Refresh(taken));
    }

    fn claim_what_is_stranded(&mut self, cx: &mut Cx, leases: &Leases, entries: &[EntryId]) {
        let is_held = |entry: &&EntryId| {
            let item = leases.items.get(**entry);
            item.is_some_and(|item| matches!(item.state, State::Held(_)))
        };
        let held = entries.iter().filter(is_held).copied().collect();
        cx.effect(Effect::Refresh(held));
    }

    /// On with what a short page left out of what was to be looked up, if anything.
    fn page_read(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        target: Target,
        unread: Vec<EntryId>,
        next: Option<EntryId>,
    ) {
        let Some(first) = unread.first() else {
            return self.page_done(cx, leases, target, next);
        };
        match &target {
            // Lets what is more urgent go first.
            Target::Sweep { .. } if self.sweeps.is_under_way() => {
                self.sweeps.left_unread(unread.len());
                let before = just_before(*first);
                self.page_done(cx, leases, target, Some(before));
            }
            _ => {
                let unknown = unread;
                self.take_step(cx, target, Step::LookUp { unknown, next });
            }
        }
    }

    fn page_done(&mut self, cx: &mut Cx, leases: &Leases, target: Target, next: Option<EntryId>) {
        let full = !cx.is_manual() && leases.room(cx) == 0;
        match (target, next) {
            (Target::Entries(_) | Target::Turns(_) | Target::Consumer { .. }, None) => {}
            (Target::Own { .. }, None) => {
                self.forget_old(cx);
                if let Some(entries) = self.scanner.own.ended() {
                    cx.notify(Notice::OwnListed { entries });
                }
            }
            (Target::Sweep { .. }, None) => self.sweeps.pending_swept(cx),
            (Target::Stranded { .. }, None) => self.sweeps.end(cx),
            (
                Target::Suspect {
                    key, unresolved, ..
                },
                None,
            ) => {
                self.suspect_pass_done(cx, leases, &key, unresolved);
            }
            (Target::Suspect { key, .. }, Some(_)) if full => {
                self.suspect_pass_done(cx, leases, &key, 1)
            }
            // Between its pages a sweep lets what is more urgent go first.
            (Target::Sweep { .. } | Target::Stranded { .. }, Some(after)) => {
                self.sweeps.go_on(after, cx.now);
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
                    Target::Stranded { .. } => Target::Stranded { after },
                    Target::Entries(entries) => Target::Entries(entries),
                    Target::Turns(entries) => Target::Turns(entries),
                };
                let step = self.first_step(&target);
                self.take_step(cx, target, step);
            }
        }
    }
}

fn just_before(entry: EntryId) -> EntryId {
    match entry.seq.checked_sub(1) {
        Some(seq) => EntryId::new(entry.ms, seq),
        None => EntryId::new(entry.ms.saturating_sub(1), u64::MAX),
    }
}
