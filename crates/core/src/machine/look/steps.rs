//! One look, step by step: who lives, what is pending, and whose locks are held
//! of what is neither ours nor known to be free. What it shows is judged in `judging`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::leases::table::State;
use super::super::turns::hashed;
use super::super::{Action, Flight, Machine, Notice, Reply};
use super::{LOOK_PAGE, Looking, Target};
use crate::{EntryId, LockId, Pending, PendingIds, PendingPage, Result, Scope, Timestamp};

/// Ids per listing of nothing but those.
const ID_PAGE: usize = 1000;

#[derive(Debug)]
pub(super) struct Look {
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
        page: Vec<Unsure>,
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

/// What is pending, and judged by its lock.
#[derive(Debug)]
pub(in super::super) struct Unsure {
    pub(in super::super) pending: Pending,
    /// Its lock was reported or seen to expire before.
    pub(in super::super) expired: bool,
}

impl Looking {
    /// Who is dead left what nobody here knows: that is read at once.
    fn first_step(&self, target: &Target) -> Step {
        match target {
            Target::Own { .. } | Target::Sweep { .. } => Step::ListIds,
            Target::Stranded { .. } => Step::ListStranded,
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

impl Machine {
    pub(super) fn begin_look(&mut self, target: Target) {
        let ttl = self.cx.settings.ttl;
        let step = match self.looking.needs_members(&target, self.cx.now, ttl) {
            true => Step::Members,
            false => self.looking.first_step(&target),
        };
        self.take_step(target, step);
    }

    fn take_step(&mut self, target: Target, step: Step) {
        let sent = self.cx.now;
        let look = Look { target, step, sent };
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
            Step::ListStranded => Action::ListStranded {
                after: match look.target {
                    Target::Stranded { after } => after,
                    _ => EntryId::MIN,
                },
                limit: LOOK_PAGE,
            },
            Step::List => Action::List {
                scope: self.scope_of(&look.target),
                limit: LOOK_PAGE,
            },
            Step::LookUp { unknown, .. } => Action::List {
                scope: Scope::Entries(unknown.clone()),
                limit: LOOK_PAGE,
            },
            Step::Inspect { page, .. } => {
                let lock = |Unsure { pending, .. }: &Unsure| {
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
        self.looking.current = Some(look);
        self.cx.act(action, Flight::Look);
    }

    fn scope_of(&self, target: &Target) -> Scope {
        match target {
            Target::Own { after } => Scope::Consumer {
                consumer: self.cx.consumer.clone(),
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

    pub(in super::super) fn look_done(&mut self, result: Result<Reply>) {
        let Some(look) = self.looking.current.take() else {
            return;
        };
        if self.cx.is_draining() {
            return;
        }
        match (look.step, result) {
            (Step::Members, Ok(Reply::Members(members))) => {
                self.looking.live = members
                    .into_iter()
                    .map(|member| hashed(member.session.consumer))
                    .collect();
                self.looking.live_as_of = Some(self.cx.now);
                let step = self.looking.first_step(&look.target);
                self.take_step(look.target, step);
            }
            (Step::ListIds | Step::ListStranded, Ok(Reply::ListedIds(page))) => {
                self.looking.backoff.succeed();
                self.ids_listed(look.target, page, look.sent);
            }
            (Step::List, Ok(Reply::Listed(page))) => {
                self.looking.backoff.succeed();
                self.listed(look.target, page, Vec::new());
            }
            (Step::LookUp { mut unknown, next }, Ok(Reply::Listed(page))) => {
                self.looking.backoff.succeed();
                // The page is short if what it has is long.
                unknown.retain(|entry| page.next.is_some_and(|last| *entry > last));
                let entries = page.entries;
                self.listed(look.target, PendingPage { entries, next }, unknown);
            }
            (Step::Inspect { page, unread, next }, Ok(Reply::Inspected(states)))
                if states.len() == page.len() =>
            {
                let mut target = look.target;
                for (unsure, state) in page.into_iter().zip(states) {
                    self.judge(&mut target, unsure, state);
                }
                self.page_read(target, unread, next);
            }
            (Step::InspectTurns(locks), Ok(Reply::Inspected(states)))
                if states.len() == locks.len() =>
            {
                self.looking.backoff.succeed();
                for (lock, state) in locks.into_iter().zip(states) {
                    self.turn_come(lock.entry, state);
                }
            }
            (step, result) => {
                self.looking
                    .backoff
                    .fail(self.cx.now, self.cx.settings.ttl, &mut self.cx.rng);
                self.step_failed(step.name(), &result);
                self.look_failed(look.target);
            }
        }
    }

    fn look_failed(&mut self, target: Target) {
        match target {
            Target::Own { .. } => self.look_at_own(),
            // Still due.
            Target::Sweep { .. } | Target::Stranded { .. } => {}
            Target::Entries(entries) => self.looking.hinted.extend(entries),
            Target::Turns(entries) => self.looking.turns.put_off(entries, self.cx.now),
            Target::Consumer { consumer, .. } => {
                self.looking.to_list.insert(consumer);
            }
            Target::Suspect { key, .. } => self.suspect_pass_done(&key, 1),
        }
    }

    /// Passes over what is known, and looks the rest up.
    fn ids_listed(&mut self, target: Target, mut page: PendingIds, sent: Timestamp) {
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
            if self.leases.items.contains(entry) && !self.leases.adopting.contains_key(&entry) {
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
            (Target::Own { after }, looking) => {
                *looking.own_found.get_or_insert(0) += seen;
                self.claim_what_was_taken(*after, &page, sent);
            }
            (Target::Stranded { .. }, _) => self.claim_what_is_stranded(&page.entries),
            _ => {}
        }
        if unknown.is_empty() {
            return self.page_done(target, page.next);
        }
        let next = page.next;
        self.take_step(target, Step::LookUp { unknown, next });
    }

    /// Sorts a page: what is ours or free is taken at once, the rest inspected.
    fn listed(&mut self, mut target: Target, mut page: PendingPage, unread: Vec<EntryId>) {
        if let Target::Entries(entries) = &mut target {
            if let Some(last) = page.next.take() {
                let (looked_at, later): (BTreeSet<EntryId>, BTreeSet<EntryId>) =
                    entries.iter().partition(|entry| **entry <= last);
                *entries = looked_at;
                self.looking.hinted.extend(later);
            }
            let found: BTreeSet<EntryId> = page.entries.iter().map(|p| p.entry).collect();
            for entry in entries.difference(&found).copied().collect::<Vec<_>>() {
                self.no_longer_pending(entry);
            }
        }
        let mut unsure = Vec::new();
        for pending in page.entries {
            unsure.extend(self.sort(&mut target, pending));
        }
        if unsure.is_empty() {
            return self.page_read(target, unread, page.next);
        }
        let next = page.next;
        let page = unsure;
        self.take_step(target, Step::Inspect { page, unread, next });
    }

    /// What is held, and was when the listing of one's own entries was sent, is among
    /// them, unless somebody took it from here: a foreign consumer, or an operator who
    /// removed this consumer's name from the group. It is claimed again, or found gone.
    fn claim_what_was_taken(&mut self, after: EntryId, page: &PendingIds, sent: Timestamp) {
        let held = self.leases.items.after(after);
        let held = held.take_while(|(entry, _)| page.next.is_none_or(|next| *entry <= next));
        let taken = held.filter(|(entry, item)| {
            let is_held = matches!(&item.state, State::Held(holding) if holding.since < sent);
            is_held && page.entries.binary_search(entry).is_err()
        });
        self.leases
            .lanes
            .refresh
            .queue
            .extend(taken.map(|(entry, _)| entry));
    }

    fn claim_what_is_stranded(&mut self, entries: &[EntryId]) {
        for entry in entries {
            let state = self.leases.items.get(*entry).map(|item| &item.state);
            if matches!(state, Some(State::Held(_))) {
                self.leases.lanes.refresh.queue.insert(*entry);
            }
        }
    }

    /// On with what a short page left out of what was to be looked up, if anything.
    fn page_read(&mut self, target: Target, unread: Vec<EntryId>, next: Option<EntryId>) {
        let Some(first) = unread.first() else {
            return self.page_done(target, next);
        };
        match (&target, &mut self.looking.sweep) {
            // Lets what is more urgent go first.
            (Target::Sweep { .. }, Some(sweep)) => {
                sweep.seen = sweep.seen.saturating_sub(unread.len());
                sweep.looked_up = sweep.looked_up.saturating_sub(unread.len());
                let before = just_before(*first);
                self.page_done(target, Some(before));
            }
            _ => {
                let unknown = unread;
                self.take_step(target, Step::LookUp { unknown, next });
            }
        }
    }

    fn page_done(&mut self, target: Target, next: Option<EntryId>) {
        let full = !self.cx.is_manual() && self.leases.room(&self.cx) == 0;
        match (target, next) {
            (Target::Entries(_) | Target::Turns(_) | Target::Consumer { .. }, None) => {}
            (Target::Own { .. }, None) => {
                self.forget_old();
                if let Some(entries) = self.looking.own_found.take() {
                    self.looking.own_pending = entries;
                    self.cx.notify(Notice::OwnListed { entries });
                }
            }
            (Target::Sweep { .. }, None) => self.pending_swept(),
            (Target::Stranded { .. }, None) => self.sweep_done(),
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
            (Target::Sweep { .. } | Target::Stranded { .. }, Some(after)) => {
                if let Some(sweep) = &mut self.looking.sweep {
                    sweep.after = after;
                    // A page that takes longer than a TTL has not waited for it.
                    sweep.looked = self.cx.now;
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
                    Target::Stranded { .. } => Target::Stranded { after },
                    Target::Entries(entries) => Target::Entries(entries),
                    Target::Turns(entries) => Target::Turns(entries),
                };
                let step = self.looking.first_step(&target);
                self.take_step(target, step);
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
