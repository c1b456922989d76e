//! One look, step by step: who lives, what is pending, and whose locks are held
//! of what is neither ours nor known to be free. What it shows is classified in `classify`.

use super::Recovery;
use super::page::{NeedsInspection, Page};
use super::scan::{SCAN_PAGE, Target};
use crate::limits::ID_PAGE;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::machine::leases::table::State;
use crate::machine::{Action, LbsCall, LocksCall, Reply};
use crate::{EntryId, LockId, PendingIds, PendingPage, Result, Scope, Timestamp};

#[derive(Debug)]
pub(crate) struct Scan {
    target: Target,
    step: Step,
    sent: Timestamp,
}

#[derive(Debug)]
pub(super) enum Step {
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
    InspectRanked(Vec<LockId>),
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::ListIds => "list_pending_ids",
            Self::ListStranded => "list_stranded",
            Self::List | Self::LookUp { .. } => "list_pending",
            Self::Inspect { .. } | Self::InspectRanked(_) => "inspect",
        }
    }
}

impl Recovery {
    /// Who is dead left what nobody here knows: that is read at once.
    pub(super) fn first_step(&self, target: &Target) -> Step {
        match target {
            Target::Own { .. } | Target::Sweep { .. } => Step::ListIds,
            Target::Stranded { .. } => Step::ListStranded,
            Target::Suspect { .. } | Target::Entries(_) | Target::Consumer { .. } => Step::List,
            Target::Ranked(entries) => Step::InspectRanked(self.ranks.locks(entries)),
        }
    }

    pub(crate) fn begin_scan(&mut self, cx: &mut Cx, target: Target) {
        let known = self.members.are_known(cx.now, cx.settings.ttl);
        let step = match known || matches!(target, Target::Own { .. } | Target::Ranked(_)) {
            true => self.first_step(&target),
            false => Step::Members,
        };
        self.take_step(cx, target, step);
    }

    pub(super) fn take_step(&mut self, cx: &mut Cx, target: Target, step: Step) {
        let sent = cx.now;
        let look = Scan { target, step, sent };
        let action = match &look.step {
            Step::Members => Action::Locks(LocksCall::Members),
            Step::ListIds => {
                let (consumer, after) = match self.scope_of(cx, &look.target) {
                    Scope::All { after } => (None, after),
                    Scope::Consumer { consumer, after } => (Some(consumer), after),
                    Scope::Entries(_) => (None, EntryId::MIN),
                };
                Action::Lbs(LbsCall::ListIds {
                    consumer,
                    after,
                    limit: ID_PAGE,
                })
            }
            Step::ListStranded => Action::Lbs(LbsCall::ListStranded {
                after: match look.target {
                    Target::Stranded { after } => after,
                    _ => EntryId::MIN,
                },
                limit: SCAN_PAGE,
            }),
            Step::List => Action::Lbs(LbsCall::List {
                scope: self.scope_of(cx, &look.target),
                limit: SCAN_PAGE,
            }),
            Step::LookUp { unknown, .. } => Action::Lbs(LbsCall::List {
                scope: Scope::Entries(unknown.clone()),
                limit: SCAN_PAGE,
            }),
            Step::Inspect { page, .. } => {
                let lock = |NeedsInspection { pending, .. }: &NeedsInspection| {
                    let stream = pending.content.as_ref().ok()?.stream.clone();
                    Some(LockId {
                        stream,
                        entry: pending.entry,
                    })
                };
                Action::Locks(LocksCall::Inspect(page.iter().filter_map(lock).collect()))
            }
            Step::InspectRanked(locks) => Action::Locks(LocksCall::Inspect(locks.clone())),
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
            Target::Ranked(entries) => Scope::Entries(entries.clone()),
            Target::Consumer { consumer, after } => Scope::Consumer {
                consumer: consumer.clone(),
                after: *after,
            },
            Target::Sweep { after } | Target::Stranded { after } => Scope::All { after: *after },
        }
    }

    /// The call of a scan that is under way lists the ids at this consumer's own name.
    pub(crate) fn lists_own(&self) -> bool {
        let look = self.scanner.current.as_ref();
        look.is_some_and(|look| {
            matches!(
                (&look.target, &look.step),
                (Target::Own { .. }, Step::ListIds)
            )
        })
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
                let page = Page::inspected(look.target, inspected, unread, next);
                self.scanner.page = Some(page);
            }
            (Step::InspectRanked(locks), Ok(Reply::Inspected(states)))
                if states.len() == locks.len() =>
            {
                self.scanner.backoff.succeed();
                for (lock, state) in locks.into_iter().zip(states) {
                    self.rank_come(cx, lock.entry, state);
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
            Target::Ranked(entries) => self.ranks.put_off(entries, cx.now),
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
}
