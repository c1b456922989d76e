//! A page that a scan has read, worked through entry by entry. What it shows is classified
//! in `classify`; then the scan goes on with what is to be inspected, or the next page.

use std::collections::{BTreeSet, VecDeque};

use super::Recovery;
use super::scan::Target;
use super::steps::Step;
use crate::machine::Notice;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::{EntryId, LockState, Pending, PendingPage};

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
    /// What a short reply has left out of what was to be looked up.
    unread: Vec<EntryId>,
    /// Where the pages after this one begin.
    next: Option<EntryId>,
}

impl Page {
    /// Entries that a listing showed.
    fn listed(target: Target, page: PendingPage, unread: Vec<EntryId>) -> Self {
        Self {
            target,
            todo: page.entries.into_iter().map(Todo::Read).collect(),
            to_inspect: Vec::new(),
            unread,
            next: page.next,
        }
    }

    /// Those of them whose locks were inspected.
    pub(super) fn inspected(
        target: Target,
        inspected: impl Iterator<Item = (NeedsInspection, LockState)>,
        unread: Vec<EntryId>,
        next: Option<EntryId>,
    ) -> Self {
        let todo = inspected.map(|(to_inspect, state)| Todo::Inspected(to_inspect, state));
        Self {
            target,
            todo: todo.collect(),
            to_inspect: Vec::new(),
            unread,
            next,
        }
    }
}

#[derive(Debug)]
enum Todo {
    Read(Pending),
    Classify(Pending),
    Classified(EntryId),
    Inspected(NeedsInspection, LockState),
}

impl Recovery {
    /// A page is classified: what is ours or free is taken at once, the rest inspected.
    pub(super) fn listed(
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
        self.scanner.page = Some(Page::listed(target, page, unread));
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

    pub(super) fn page_done(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        target: Target,
        next: Option<EntryId>,
    ) {
        let full = !cx.is_manual() && leases.room(cx) == 0;
        match (target, next) {
            (Target::Entries(_) | Target::Ranked(_) | Target::Consumer { .. }, None) => {}
            (Target::Own { .. }, None) => {
                self.forget_old(cx);
                if let Some(entries) = self.scanner.own.ended() {
                    cx.notify(Notice::Recovered { entries });
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
                    Target::Ranked(entries) => Target::Ranked(entries),
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
