//! What a scan shows (R9): is it ours, is it an orphan, or does somebody
//! who lives hold it?

use std::time::Duration;

use super::Recovery;
use super::page::NeedsInspection;
use super::scan::{MOST_RECHECKS, SCAN_PAGE, Target};
use super::trials::Suspicion;
use crate::machine::Notice;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::machine::leases::lanes::ToQuarantine;
use crate::machine::leases::table::Origin;
use crate::{
    Announcement, ConsumerName, EntryId, FencingToken, Held, Holder, LockScheme, LockState, Pending,
};

impl Recovery {
    /// Deals with what needs no inspection of its lock; returns what does.
    pub(crate) fn classify(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        target: &mut Target,
        pending: Pending,
    ) -> Option<NeedsInspection> {
        if matches!(target, Target::Entries(_)) {
            let owner = pending.consumer.as_ref().filter(|_| !pending.handed_back);
            self.watched.moved(pending.entry, owner);
        }
        let expired = self.scanner.expired.remove(&pending.entry).is_some();
        let adopted = leases.adopting.get(&pending.entry).cloned();
        let content = match &pending.content {
            Ok(content) => content.clone(),
            Err(reason) => {
                let waiting = &leases.lanes.quarantine.queue;
                if leases.quarantine_places(cx) > waiting.len() {
                    let wanted = ToQuarantine::unreadable(pending.token, reason);
                    cx.effect(Effect::Quarantine(pending.entry, wanted));
                } else if !waiting.contains(&pending.entry) {
                    self.sweeps.leave_behind();
                }
                return None;
            }
        };
        let is_own_look = matches!(target, Target::Own { .. });
        if let Some(lease) = adopted {
            if is_own_look {
                self.scanner.own.recovers();
            }
            if self.rests(cx, leases, &pending) {
                self.remember_expired(cx, pending.entry);
                cx.effect(Effect::GiveBack(lease));
            } else {
                cx.effect(Effect::Adopt(lease, content.info));
            }
            return None;
        }
        if leases.items.contains(pending.entry) {
            // Known and waiting: what made us look may have cleared its way.
            if matches!(target, Target::Entries(_)) {
                cx.effect(Effect::Wake(content.stream));
            }
            return None;
        }
        let is_own = leases.late.is_own(pending.entry);
        let handed_back_for_a_claim = pending.handed_back && cx.is_manual() && !is_own;
        let is_here = pending.consumer.as_ref() == Some(&cx.consumer);
        if is_here && !handed_back_for_a_claim {
            if is_own_look {
                self.scanner.own.recovers();
            }
            if !self.rests(cx, leases, &pending) {
                self.admit_from(cx, pending, content, Origin::Mine);
            }
        } else if pending.handed_back {
            count_unresolved(target);
            // Who hands back releases right after: the hint may be faster.
            if cx.is_manual() || self.ranks_first(cx, leases, &pending) {
                return Some(NeedsInspection { pending, expired });
            }
            self.orphan(cx, leases, pending, content, Origin::HandedBack);
        } else if (expired || self.is_first_pass(target))
            && !cx.is_manual()
            && !self.may_be_in_between(cx, &pending)
        {
            // What is reported must be claimable, so with manual claiming the lock is
            // looked at whatever is known: somebody may have it already, and one of
            // a dead consumer that was acquired after the last heartbeat outlives its session.
            count_unresolved(target);
            self.orphan(cx, leases, pending, content, Origin::Orphan);
        } else {
            return Some(NeedsInspection { pending, expired });
        }
        None
    }

    /// What a dead one of this consumer's own name left, and there is no room for:
    /// the others learn of the death as long as it is not removed.
    pub(crate) fn leave_to_others(&self, leases: &Leases, target: &mut Target, entry: EntryId) {
        if leases.no_room.contains(&entry) {
            count_unresolved(target);
        }
    }

    /// Whether an entry that is free is to be left alone still, because its
    /// owners failed on it. Then it is looked at again when that is over. What
    /// would be quarantined now waits as well if the last failure was a death: its owner may
    /// live and take it back. (What an owner says itself it hands back without a rest.)
    fn rests(&mut self, cx: &mut Cx, leases: &Leases, pending: &Pending) -> bool {
        // Not counted yet: that is done by the next claim.
        let has_owner = pending.token != FencingToken::NONE && !pending.handed_back;
        let crashed = has_owner && !leases.late.owes(pending.entry);
        let failures = pending.failures.saturating_add(u32::from(crashed));
        let limit = cx.settings.quarantine_after;
        let is_to_be_quarantined = limit.is_some_and(|limit| failures >= limit);
        // To count the last one, or to quarantine what was counted before, needs no rest.
        if failures == 0 || (is_to_be_quarantined && crashed) {
            return false;
        }
        let rest = match is_to_be_quarantined {
            true => cx.settings.rest_before_quarantine(failures),
            false => cx.settings.rest(failures),
        };
        let key = (pending.entry, pending.token);
        let rest = rest.saturating_sub(pending.idle);
        let until = cx.now + rest;
        let until = (*self.scanner.resting.entry(key).or_insert(until)).min(until);
        if until <= cx.now {
            return crashed && self.waits_for_its_trial(cx, leases, pending.entry, failures);
        }
        self.recheck(until, pending.entry);
        true
    }

    /// Whether what owners died of has to wait until others have shown that they do no harm.
    fn waits_for_its_trial(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        entry: EntryId,
        failures: u32,
    ) -> bool {
        let suspicion = Suspicion::of(failures, cx.settings.quarantine_after);
        // What cannot start now, in a pause for example, would pass its trial without one.
        if suspicion != Suspicion::None && !cx.is_manual() && leases.room(cx) == 0 {
            self.scanner.leave(entry);
            return true;
        }
        // The window begins with the lease, and when it is over the failures are still to be
        // forgotten: who begins before that and kills makes them count.
        let trial = cx.settings.crash_window + cx.settings.ttl / 2;
        match self.trials.begin(entry, suspicion, cx.now, trial) {
            Ok(()) => false,
            Err(until) => {
                self.recheck(until, entry);
                true
            }
        }
    }

    /// R9: is it an orphan?
    pub(crate) fn classify_by_lock(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        target: &mut Target,
        to_inspect: NeedsInspection,
        state: LockState,
    ) {
        let NeedsInspection { pending, expired } = to_inspect;
        let Ok(content) = pending.content.clone() else {
            return;
        };
        if leases.items.contains(pending.entry) {
            return;
        }
        let held = match state {
            LockState::Held(held) if pending.handed_back => {
                return self.wait_for_giver(cx, &pending, content.stream, &held);
            }
            LockState::Held(held) => held,
            LockState::Free if pending.handed_back => {
                return self.orphan(cx, leases, pending, content, Origin::HandedBack);
            }
            LockState::Free => {
                let (entry, consumer) = (pending.entry, pending.consumer.as_ref());
                let known = expired && !self.may_be_in_between(cx, &pending);
                if known || self.is_orphan(cx, target, entry, consumer, pending.idle) {
                    count_unresolved(target);
                    self.orphan(cx, leases, pending, content, Origin::Orphan);
                }
                return;
            }
        };
        let (entry, consumer) = (pending.entry, pending.consumer);
        self.scanner.unlocked_since.remove(&entry);
        match &held.holder {
            Holder::Session(id) if self.orphans.is_dead(id) => {
                count_unresolved(target);
                self.rescan_when_expired(cx, entry, &held);
            }
            Holder::Session(id) if self.members.is_live(&id.consumer) => {}
            Holder::Session(_) | Holder::Foreign(_) => match consumer {
                Some(consumer) => self.watch(cx, consumer, entry, &held),
                // Taken from its owner, who may be dead by then.
                None => {
                    let at = cx.now + held.remaining + cx.deadline_jitter();
                    self.recheck(at, entry);
                }
            },
        }
    }

    fn is_orphan(
        &mut self,
        cx: &mut Cx,
        target: &Target,
        entry: EntryId,
        consumer: Option<&ConsumerName>,
        idle: Duration,
    ) -> bool {
        let Some(consumer) = consumer else {
            return self.is_stranded(cx, entry);
        };
        let was_watched = self.watched.expired(consumer, entry);
        if was_watched {
            // Its lock was held, and nobody extended it.
            self.suspect(cx, consumer.clone(), None);
        }
        // One that lives may have that name now, and what it has just fetched is
        // not to be reported. To go for it does no harm.
        let is_dead = !cx.is_manual() || !self.members.is_live(consumer);
        if was_watched || (is_dead && matches!(target, Target::Suspect { .. })) {
            return true;
        }
        let (age, needed) = match self.members.is_live(consumer) {
            // That consumer is full, or does not know of it.
            true => {
                let since = *self.scanner.unlocked_since.entry(entry).or_insert(cx.now);
                (cx.now.saturating_since(since), cx.settings.ttl)
            }
            // A foreign consumer that it was just delivered to is left alone.
            false => (idle, cx.settings.foreign_grace()),
        };
        if age >= needed {
            self.scanner.unlocked_since.remove(&entry);
            return true;
        }
        let at = cx.now + (needed - age) + cx.deadline_jitter();
        self.recheck(at, entry);
        false
    }

    /// A consumer of the wire format completes in two steps: what it has acknowledged
    /// and not deleted yet is at nobody, and must not be begun anew.
    fn may_be_in_between(&self, cx: &Cx, pending: &Pending) -> bool {
        pending.consumer.is_none() && cx.scheme == LockScheme::PerStream
    }

    /// Of an entry that is pending at nobody and locked by nobody.
    fn is_stranded(&mut self, cx: &mut Cx, entry: EntryId) -> bool {
        if cx.scheme == LockScheme::Session {
            return true;
        }
        let since = *self.scanner.unlocked_since.entry(entry).or_insert(cx.now);
        let age = cx.now.saturating_since(since);
        let needed = cx.settings.foreign_grace();
        if age >= needed {
            return true;
        }
        let at = cx.now + (needed - age) + cx.deadline_jitter();
        self.recheck(at, entry);
        false
    }

    fn watch(&mut self, cx: &mut Cx, consumer: ConsumerName, entry: EntryId, held: &Held) {
        if self.watched.watches(consumer, entry) {
            let at = cx.now + held.remaining + cx.deadline_jitter();
            self.recheck(at, entry);
        }
    }

    /// A dead session's lock outlives it a little; then nothing stands against taking it.
    fn rescan_when_expired(&mut self, cx: &mut Cx, entry: EntryId, held: &Held) {
        self.remember_expired(cx, entry);
        let at = cx.now + held.remaining + cx.deadline_jitter();
        self.recheck(at, entry);
    }

    pub(crate) fn no_longer_pending(&mut self, cx: &mut Cx, leases: &Leases, entry: EntryId) {
        self.scanner.expired.remove(&entry);
        self.scanner.unlocked_since.remove(&entry);
        self.ranks.remove(entry);
        if let Some(lease) = leases.adopting.get(&entry) {
            cx.effect(Effect::GiveBack(lease.clone()));
        }
        self.watched.moved(entry, None);
    }

    /// An orphan: taken if it has rested and there is room, reported with manual claiming.
    fn orphan(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        pending: Pending,
        content: Announcement,
        origin: Origin,
    ) {
        let entry = pending.entry;
        if self.rests(cx, leases, &pending) {
            if origin == Origin::Orphan {
                // That nobody owns it is known already.
                self.remember_expired(cx, entry);
            }
        } else if cx.is_manual() {
            self.report(cx, leases, pending, content);
        } else if leases.room(cx) == 0 {
            self.leave_behind(cx, entry, origin);
            if pending.consumer.is_none() {
                self.scanner.leave(entry);
            }
        } else if self.goes_now(cx, &pending, &content, origin) {
            self.admit_from(cx, pending, content, origin);
        }
    }

    /// No room: a sweep takes it once there is some. Whatever was known of its
    /// owner then is forgotten but this, which must not be waited for again.
    fn leave_behind(&mut self, cx: &mut Cx, entry: EntryId, origin: Origin) {
        self.left_behind(cx, entry);
        if origin == Origin::Orphan && self.scanner.expired.len() < MOST_RECHECKS {
            self.remember_expired(cx, entry);
        }
    }

    fn admit_from(&mut self, cx: &mut Cx, pending: Pending, content: Announcement, origin: Origin) {
        cx.effect(Effect::Admit {
            entry: pending.entry,
            content,
            origin,
            giver: pending.consumer.filter(|_| pending.handed_back),
        });
    }

    fn report(&mut self, cx: &mut Cx, leases: &Leases, pending: Pending, content: Announcement) {
        let (entry, token) = (pending.entry, pending.token);
        if leases.is_cooling_down(cx, entry) {
            return;
        }
        if !self.reports.is_due(entry, token, cx.now, cx.settings.ttl) {
            return;
        }
        if leases.event_places(cx) == 0 {
            return self.reports.wait(entry);
        }
        self.reports.reported(entry, token, cx.now);
        cx.notify_queued(Notice::Expired {
            entry,
            stream: content.stream,
            info: content.info,
            owner: pending.consumer,
        });
    }

    /// There is room for reports: what waited for it is looked at again.
    pub(crate) fn pump_unreported(&mut self, cx: &mut Cx, leases: &Leases) {
        if self.reports.is_empty() {
            return;
        }
        for _ in 0..leases.event_places(cx).min(SCAN_PAGE) {
            let Some(entry) = self.reports.next_waiting() else {
                break;
            };
            self.remember_expired(cx, entry);
            self.rescan(vec![entry]);
        }
    }

    fn is_first_pass(&self, target: &Target) -> bool {
        matches!(target, Target::Suspect { key, .. } if self.orphans.is_first_pass(key))
    }
}

fn count_unresolved(target: &mut Target) {
    if let Target::Suspect { unresolved, .. } = target {
        *unresolved += 1;
    }
}

#[cfg(test)]
mod tests;
