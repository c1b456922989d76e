//! The LBS: a stream, its group with a pending list, and the fencing records.
//! `admin` has what consumers do not ask for.

mod admin;
mod fence;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use streamlease_core::limits::HANDED_BACK_IDLE;
use streamlease_core::machine::{LbsCall, Reply};
use streamlease_core::{
    Announcement, ClaimOutcome, CompleteOutcome, ConsumerName, Delivery, EntryId, Error, ErrorKind,
    Failures, Fenced, FencingToken, Fetched, HandBackOutcome, HandBackRequest, Hint,
    MalformedReason, Pause, Pending, PendingIds, PendingPage, Quarantine, QuarantineOutcome,
    Result, Scope, StreamName, SubmitOutcome,
};

use self::fence::Fence;
use super::Mutant;
use crate::simulation::fault::Estimate;

/// How idle an entry looks that was handed back.
const HANDED_BACK_IDLE_MS: u64 = HANDED_BACK_IDLE.as_millis() as u64;

type Payload = Result<Announcement, MalformedReason>;

#[derive(Debug, Clone)]
pub(in super::super) struct Lbs {
    stream: BTreeMap<EntryId, Payload>,
    last_id: EntryId,
    group: Option<Group>,
    fences: BTreeMap<EntryId, Fence>,
    quarantined: BTreeMap<EntryId, Kept>,
    /// What became of entries that were released from the quarantine.
    released: BTreeMap<EntryId, EntryId>,
    batches: BTreeMap<u128, Vec<SubmitOutcome>>,
    /// Of batches with a key, by what names are remembered as: which was answered what.
    named: BTreeMap<String, (u128, SubmitOutcome)>,
    pub(in super::super) pause: Option<Pause>,
    /// What fetches are told of the backlog.
    pub(in super::super) estimate: Estimate,
    /// A fetch that finds nothing comes back when so much of its wait is over.
    pub(in super::super) waits_permille: u64,
    mutant: Option<Mutant>,
}

#[derive(Debug, Clone)]
struct Group {
    last_delivered: EntryId,
    pending: BTreeMap<EntryId, Slot>,
    /// With when they last asked for something.
    consumers: BTreeMap<ConsumerName, u64>,
}

/// A line of the pending list.
#[derive(Debug, Clone)]
struct Slot {
    consumer: ConsumerName,
    delivered_ms: u64,
    count: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    content: Payload,
    reason: String,
    failures: u32,
    reasons: Vec<String>,
    last_owner: ConsumerName,
    at_ms: u64,
}

/// Entries per listing, whatever was asked for: as if their infos were long.
const MOST_LISTED: usize = 20;

impl Lbs {
    pub(in super::super) fn new(mutant: Option<Mutant>) -> Self {
        Self {
            stream: BTreeMap::new(),
            last_id: EntryId::MIN,
            group: None,
            fences: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            released: BTreeMap::new(),
            batches: BTreeMap::new(),
            named: BTreeMap::new(),
            pause: None,
            estimate: Estimate::True,
            waits_permille: 1_000,
            mutant,
        }
    }

    /// What a consumer asks for, but for a fetch: that may have to wait.
    pub(in super::super) fn answer(
        &mut self,
        call: &LbsCall,
        me: &ConsumerName,
        now: u64,
        hints: &mut Vec<Hint>,
    ) -> Result<Reply> {
        Ok(match call {
            LbsCall::Prepare => {
                self.prepare();
                Reply::Prepared
            }
            LbsCall::Fetch { .. } => Reply::Fetched(Fetched::default()),
            LbsCall::List { scope, limit } => Reply::Listed(self.list(scope, *limit, now)?),
            LbsCall::ListIds {
                consumer,
                after,
                limit,
            } => Reply::ListedIds(self.list_ids(consumer.as_ref(), *after, *limit)?),
            LbsCall::ListStranded { after, limit } => {
                Reply::ListedIds(self.list_stranded(*after, *limit)?)
            }
            LbsCall::Claim(claims) => Reply::Claimed(self.claim(me, claims, false, now)?),
            LbsCall::Keep(held) => Reply::Claimed(self.claim(me, held, true, now)?),
            LbsCall::Paused => Reply::Paused(self.pause.clone()),
            LbsCall::ClearFailures(entries) => {
                self.clear_failures(entries);
                Reply::FailuresCleared
            }
            LbsCall::Complete(entries) => Reply::Completed(self.complete(entries)),
            LbsCall::HandBack(entries) => {
                Reply::HandedBack(self.hand_back(me, entries, now, hints))
            }
            LbsCall::Quarantine(entries) => Reply::Quarantined(self.quarantine(me, entries, now)),
            LbsCall::RemoveConsumer(consumer) => {
                Reply::ConsumerRemoved(self.remove_unused(consumer))
            }
        })
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.stream.is_empty()
    }

    pub(in super::super) fn len(&self) -> usize {
        self.stream.len()
    }

    pub(in super::super) fn contains(&self, entry: EntryId) -> bool {
        self.stream.contains_key(&entry)
    }

    pub(in super::super) fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.stream.keys().copied()
    }

    /// Entries that were delivered to this group, are still on the stream, and
    /// are pending at nobody.
    pub(in super::super) fn strays(&self) -> Vec<EntryId> {
        let Some(group) = &self.group else {
            return Vec::new();
        };
        let delivered = self.stream.range(..=group.last_delivered);
        let delivered = delivered.map(|(entry, _)| *entry);
        delivered
            .filter(|entry| !group.pending.contains_key(entry))
            .collect()
    }

    pub(in super::super) fn failures(&self, entry: EntryId) -> u32 {
        self.fences.get(&entry).map_or(0, |fence| fence.failures)
    }

    pub(in super::super) fn describe(&self, entry: EntryId) -> String {
        let slot = self.group.as_ref().and_then(|g| g.pending.get(&entry));
        format!(
            "{entry} pending {slot:?} fence {:?}",
            self.fences.get(&entry)
        )
    }

    // --- what producers, foreign consumers and operators do ---------------------------

    pub(in super::super) fn append(&mut self, payload: Payload, now_ms: u64) -> EntryId {
        let next = EntryId::new(self.last_id.ms, self.last_id.seq + 1);
        let id = EntryId::new(now_ms, 0).max(next);
        self.last_id = id;
        self.stream.insert(id, payload);
        id
    }

    pub(in super::super) fn destroy_group(&mut self) {
        self.group = None;
    }

    /// XCLAIM of any pending entry by a consumer that knows nothing of tokens.
    pub(in super::super) fn steal(&mut self, thief: &ConsumerName, nth: u64, now_ms: u64) -> bool {
        let Some(group) = &self.group else {
            return false;
        };
        let Some(nth) = nth.checked_rem(group.pending.len() as u64) else {
            return false;
        };
        let Some(entry) = group.pending.keys().nth(nth as usize).copied() else {
            return false;
        };
        self.claim_unfenced(thief, entry, now_ms);
        true
    }

    pub(in super::super) fn claim_unfenced(
        &mut self,
        consumer: &ConsumerName,
        entry: EntryId,
        now_ms: u64,
    ) {
        if let Some(group) = &mut self.group {
            group.deliver(entry, consumer, now_ms);
        }
    }

    /// Readable entries that have been idle for so long.
    pub(in super::super) fn idle_entries(
        &self,
        min_idle_ms: u64,
        now_ms: u64,
    ) -> Vec<(EntryId, StreamName)> {
        let pending = self.group.iter().flat_map(|group| &group.pending);
        let idle = pending
            .filter(|(_, slot)| now_ms.saturating_sub(slot.delivered_ms) >= min_idle_ms)
            .filter_map(|(entry, _)| {
                let content = self.stream.get(entry)?.as_ref().ok()?;
                Some((*entry, content.stream.clone()))
            });
        idle.collect()
    }

    /// XACK and XDEL by a consumer that knows nothing of tokens; whether it was there.
    pub(in super::super) fn remove_unfenced(&mut self, entry: EntryId) -> bool {
        if let Some(group) = &mut self.group {
            group.pending.remove(&entry);
        }
        self.stream.remove(&entry).is_some()
    }

    // --- Transport --------------------------------------------------------------------

    pub(in super::super) fn prepare(&mut self) {
        let start = match self.mutant {
            Some(Mutant::GroupAtTheEnd) => self.last_id,
            _ => EntryId::MIN,
        };
        self.group.get_or_insert_with(|| Group {
            last_delivered: start,
            pending: BTreeMap::new(),
            consumers: BTreeMap::new(),
        });
    }

    /// How many entries a fetch would get, if the group is there.
    pub(in super::super) fn undelivered(&self) -> Result<usize> {
        let group = self.group.as_ref().ok_or_else(no_group)?;
        Ok(self
            .stream
            .range((Excluded(group.last_delivered), Unbounded))
            .count())
    }

    /// What the server says of that: a hint.
    fn backlog(&self) -> u64 {
        let truly = self.undelivered().unwrap_or(0) as u64;
        match self.estimate {
            Estimate::True => truly,
            Estimate::TooMany(more) => truly + more,
            Estimate::TooFew => truly / 2,
            Estimate::None => 0,
        }
    }

    /// What a fetch is answered whose wait is over.
    pub(in super::super) fn nothing(&self) -> Fetched {
        Fetched {
            entries: Vec::new(),
            backlog: self.backlog(),
        }
    }

    /// How long a fetch really waits that is to wait so long.
    pub(in super::super) fn waits(&self, wait: Duration) -> Duration {
        wait * self.waits_permille as u32 / 1_000
    }

    /// The key with all fencing records is gone.
    pub(in super::super) fn lose_fences(&mut self) -> bool {
        let were = !self.fences.is_empty();
        self.fences.clear();
        were
    }

    pub(in super::super) fn lose_fence(&mut self, nth: u64) -> bool {
        let nth = nth.checked_rem(self.fences.len() as u64);
        let entry = nth.and_then(|nth| self.fences.keys().nth(nth as usize).copied());
        entry.is_some_and(|entry| self.fences.remove(&entry).is_some())
    }

    pub(in super::super) fn fetch(
        &mut self,
        consumer: &ConsumerName,
        max: usize,
        now_ms: u64,
    ) -> Result<Fetched> {
        let group = self.group.as_mut().ok_or_else(no_group)?;
        group.consumers.insert(consumer.clone(), now_ms);
        let fresh = self
            .stream
            .range((Excluded(group.last_delivered), Unbounded));
        let mut entries: Vec<Delivery> = fresh
            .take(max)
            .map(|(entry, content)| Delivery {
                entry: *entry,
                content: content.clone(),
            })
            .collect();
        for delivery in &entries {
            group.last_delivered = delivery.entry;
            group.deliver(delivery.entry, consumer, now_ms);
        }
        if self.mutant == Some(Mutant::SwallowsPoison) {
            entries.retain(|delivery| delivery.content.is_ok());
        }
        let backlog = self.backlog();
        Ok(Fetched { entries, backlog })
    }

    pub(in super::super) fn list(
        &mut self,
        scope: &Scope,
        limit: usize,
        now_ms: u64,
    ) -> Result<PendingPage> {
        let stream = &self.stream;
        let group = self.group.as_mut().ok_or_else(no_group)?;
        group.pending.retain(|entry, _| stream.contains_key(entry));
        let (after, of, only) = match scope {
            Scope::All { after } => (*after, None, None),
            Scope::Consumer { consumer, after } => (*after, Some(consumer), None),
            Scope::Entries(entries) => (EntryId::MIN, None, Some(entries)),
        };
        let limit = match only {
            Some(_) => MOST_LISTED,
            None => limit.min(MOST_LISTED),
        };
        let mut page = PendingPage::default();
        for (&entry, slot) in group.pending.range((Excluded(after), Unbounded)) {
            let wanted = of.is_none_or(|of| *of == slot.consumer)
                && only.is_none_or(|only| only.contains(&entry));
            let Some(content) = stream.get(&entry).filter(|_| wanted) else {
                continue;
            };
            if self.mutant == Some(Mutant::SwallowsPoison) && content.is_err() {
                continue;
            }
            if page.entries.len() == limit {
                page.next = page.entries.last().map(|last: &Pending| last.entry);
                break;
            }
            let fence = self.fences.get(&entry).cloned().unwrap_or_default();
            page.entries.push(Pending {
                entry,
                consumer: Some(slot.consumer.clone()),
                idle: Duration::from_millis(now_ms.saturating_sub(slot.delivered_ms)),
                deliveries: slot.count,
                token: fence.token,
                handed_back: fence.handed_back,
                failures: fence.failures,
                reasons: fence.reasons(),
                content: content.clone(),
            });
        }
        for entry in only.into_iter().flatten() {
            let delivered = *entry <= group.last_delivered && !group.pending.contains_key(entry);
            let Some(content) = stream.get(entry).filter(|_| delivered) else {
                continue;
            };
            let fence = self.fences.get(entry).cloned().unwrap_or_default();
            page.entries.push(Pending {
                entry: *entry,
                consumer: None,
                idle: Duration::ZERO,
                deliveries: 0,
                token: fence.token,
                handed_back: fence.handed_back,
                failures: fence.failures,
                reasons: fence.reasons(),
                content: content.clone(),
            });
        }
        page.entries.sort_unstable_by_key(|pending| pending.entry);
        Ok(page)
    }

    pub(in super::super) fn list_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let group = self.group.as_ref().ok_or_else(no_group)?;
        let later = group.pending.range((Excluded(after), Unbounded));
        let wanted = later.filter(|(_, slot)| consumer.is_none_or(|of| *of == slot.consumer));
        let entries: Vec<_> = wanted.map(|(&entry, _)| entry).take(limit).collect();
        // A full page may be the last one: the next is empty then.
        let next = entries.last().copied().filter(|_| entries.len() == limit);
        Ok(PendingIds { entries, next })
    }

    /// Delivered to this group, still on the stream, and pending at nobody.
    pub(in super::super) fn list_stranded(
        &self,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let group = self.group.as_ref().ok_or_else(no_group)?;
        let later = self.stream.range((Excluded(after), Unbounded));
        let stranded = later
            .map(|(entry, _)| *entry)
            .take_while(|entry| *entry <= group.last_delivered)
            .filter(|entry| !group.pending.contains_key(entry));
        let entries: Vec<_> = stranded.take(limit).collect();
        let next = entries.last().copied().filter(|_| entries.len() == limit);
        Ok(PendingIds { entries, next })
    }

    pub(in super::super) fn claim(
        &mut self,
        consumer: &ConsumerName,
        claims: &[Fenced],
        keeps: bool,
        now_ms: u64,
    ) -> Result<Vec<ClaimOutcome>> {
        if self.group.is_none() {
            return Err(no_group());
        }
        Ok(claims
            .iter()
            .map(|claim| self.claim_one(consumer, *claim, keeps, now_ms))
            .collect())
    }

    fn claim_one(
        &mut self,
        consumer: &ConsumerName,
        claim: Fenced,
        keeps: bool,
        now_ms: u64,
    ) -> ClaimOutcome {
        if !self.stream.contains_key(&claim.entry) {
            return match self.mutant {
                Some(Mutant::ClaimsTheGone) => ClaimOutcome::Claimed {
                    from: None,
                    failures: Failures::default(),
                },
                _ => ClaimOutcome::Gone,
            };
        }
        let unfenced = self.mutant == Some(Mutant::NoFence);
        let pending = self
            .group
            .as_ref()
            .and_then(|g| g.pending.get(&claim.entry));
        let fence = self.fences.entry(claim.entry).or_default();
        let stale = claim.token < fence.token || (fence.handed_back && claim.token == fence.token);
        if stale && !unfenced {
            return ClaimOutcome::Stale { seen: fence.token };
        }
        let is_owner = claim.token == fence.token && fence.token != FencingToken::NONE;
        let takes_pauses = self.mutant != Some(Mutant::ClaimIgnoresPause);
        if self.pause.is_some() && takes_pauses && !keeps && !is_owner {
            return ClaimOutcome::Paused;
        }
        fence.find_dead(claim.token, pending.map(|slot| &slot.consumer));
        fence.token = claim.token;
        fence.handed_back = false;
        let last = fence.kept.last();
        let failures = Failures {
            count: fence.failures,
            counted_now: last.is_some_and(|(_, by, _)| *by == claim.token),
            deaths: fence.deaths(),
            reasons: fence.reasons(),
        };
        let group = self.group.as_mut();
        let from = group.and_then(|group| group.deliver(claim.entry, consumer, now_ms));
        ClaimOutcome::Claimed { from, failures }
    }

    pub(in super::super) fn clear_failures(&mut self, owners: &[Fenced]) {
        for owner in owners {
            if let Some(fence) = self.fences.get_mut(&owner.entry)
                && fence.token == owner.token
                && !fence.handed_back
            {
                fence.failures = 0;
                fence.kept.clear();
            }
        }
    }

    pub(in super::super) fn complete(&mut self, entries: &[Fenced]) -> Vec<CompleteOutcome> {
        let complete = |fenced: &Fenced| match self.admit(*fenced) {
            Verdict::Gone => CompleteOutcome::Gone,
            Verdict::Stale(seen) => CompleteOutcome::NotOwner { seen },
            Verdict::Fine => {
                self.remove(fenced.entry);
                CompleteOutcome::Completed
            }
        };
        entries.iter().map(complete).collect()
    }

    pub(in super::super) fn hand_back(
        &mut self,
        caller: &ConsumerName,
        entries: &[HandBackRequest],
        now_ms: u64,
        hints: &mut Vec<Hint>,
    ) -> Vec<HandBackOutcome> {
        let mut freed = Vec::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        for &HandBackRequest {
            entry,
            token,
            ref failed,
            rests,
            ..
        } in entries
        {
            outcomes.push(match self.admit(Fenced { entry, token }) {
                Verdict::Gone => HandBackOutcome::Gone,
                Verdict::Stale(seen) => {
                    let fence = self.fences.entry(entry).or_default();
                    if fence.revive(token, failed.as_ref()) && fence.handed_back {
                        freed.push(entry);
                    }
                    HandBackOutcome::NotOwner { seen }
                }
                Verdict::Fine => {
                    if self.mutant == Some(Mutant::HandBackRemoves) {
                        self.remove(entry);
                    }
                    let fence = self.fences.entry(entry).or_default();
                    let repeated = fence.handed_back && fence.token == token;
                    if let Some(reason) = failed.as_ref().filter(|_| !repeated) {
                        fence.count(token, FencingToken::NONE, reason.clone());
                    }
                    fence.token = token;
                    fence.handed_back = true;
                    // XCLAIM … FORCE, to where it is pending: so idle that all
                    // others take it at once; or, if it is to rest, idle since then,
                    // which a repeat does not start anew.
                    let idle = if rests { 0 } else { HANDED_BACK_IDLE_MS };
                    if let Some(group) = &mut self.group {
                        let slot = group.pending.get_mut(&entry);
                        let delivered_ms = now_ms.saturating_sub(idle);
                        match slot {
                            Some(_) if repeated && rests => {}
                            Some(slot) => slot.delivered_ms = delivered_ms,
                            None => {
                                group.deliver(entry, caller, delivered_ms);
                            }
                        }
                    }
                    freed.push(entry);
                    HandBackOutcome::HandedBack
                }
            });
        }
        if !freed.is_empty() {
            hints.push(Hint::HandedBack(freed));
        }
        outcomes
    }

    pub(in super::super) fn quarantine(
        &mut self,
        caller: &ConsumerName,
        entries: &[Quarantine],
        now_ms: u64,
    ) -> Vec<QuarantineOutcome> {
        let quarantine = |wanted: &Quarantine| {
            let fenced = Fenced {
                entry: wanted.entry,
                token: wanted.token,
            };
            match self.admit(fenced) {
                Verdict::Gone => QuarantineOutcome::Gone,
                Verdict::Stale(seen) => QuarantineOutcome::NotOwner { seen },
                Verdict::Fine if self.failed_less_often(wanted) => QuarantineOutcome::FewerFailures,
                Verdict::Fine => {
                    self.move_to_quarantine(caller, wanted, now_ms);
                    QuarantineOutcome::Quarantined
                }
            }
        };
        entries.iter().map(quarantine).collect()
    }

    pub(in super::super) fn remove_unused(&mut self, consumer: &ConsumerName) -> bool {
        let Some(group) = &mut self.group else {
            return true;
        };
        if self.mutant == Some(Mutant::ForgetsPending) {
            group.pending.retain(|_, slot| slot.consumer != *consumer);
        }
        if group
            .pending
            .values()
            .any(|slot| slot.consumer == *consumer)
        {
            return false;
        }
        group.consumers.remove(consumer);
        true
    }

    fn failed_less_often(&self, wanted: &Quarantine) -> bool {
        self.failures(wanted.entry) < wanted.min_failures
    }

    fn admit(&self, actor: Fenced) -> Verdict {
        if !self.stream.contains_key(&actor.entry) {
            return Verdict::Gone;
        }
        let seen = self
            .fences
            .get(&actor.entry)
            .map_or(FencingToken::NONE, |f| f.token);
        if actor.token < seen && self.mutant != Some(Mutant::NoFence) {
            return Verdict::Stale(seen);
        }
        Verdict::Fine
    }

    /// XACK, XDEL and the record's HDEL.
    fn remove(&mut self, entry: EntryId) {
        self.stream.remove(&entry);
        self.fences.remove(&entry);
        if let Some(group) = &mut self.group {
            group.pending.remove(&entry);
        }
    }
}

enum Verdict {
    Fine,
    Gone,
    Stale(FencingToken),
}

impl Group {
    /// At whom it was pending, if at anybody.
    fn deliver(
        &mut self,
        entry: EntryId,
        consumer: &ConsumerName,
        now_ms: u64,
    ) -> Option<ConsumerName> {
        self.consumers.entry(consumer.clone()).or_insert(now_ms);
        let before = self.pending.get(&entry);
        let slot = Slot {
            consumer: consumer.clone(),
            delivered_ms: now_ms,
            // Keeping is no delivery (JUSTID).
            count: before.map_or(0, |slot| slot.count)
                + u64::from(before.is_none_or(|slot| slot.consumer != *consumer)),
        };
        self.pending.insert(entry, slot).map(|slot| slot.consumer)
    }
}

fn no_group() -> Error {
    Error::new(ErrorKind::NotPrepared, "NOGROUP")
}
