//! [`Lbs`]: the stream, its group, the fencing records and the quarantine.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Duration;

use streamlease_core::limits::HANDED_BACK_IDLE;
use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{
    Announcement, ClaimOutcome, CompleteOutcome, ConsumerName, ConsumerState, Delivery, EntryId,
    Failures, Fenced, FencingToken, Fetched, HandBackOutcome, HandBackRequest, KEPT_REASONS,
    MalformedReason, Pause, Pending, PendingIds, PendingPage, Quarantine, QuarantineOutcome,
    QuarantineRelease, Quarantined, Result, Scope, ServiceCounts, StreamName, SubmitBatch,
    SubmitOutcome, Timestamp,
};

use crate::service::{REMEMBERED, not_prepared};

pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) struct Lbs {
    entries: BTreeMap<EntryId, Entry>,
    /// The greatest id ever given: ids grow even where the newest entries are gone.
    last_id: EntryId,
    group: Option<Group>,
    /// Of each readable data stream the entries.
    announced: BTreeMap<StreamName, BTreeSet<EntryId>>,
    quarantined: BTreeMap<EntryId, Quarantined>,
    pause: Option<Pause>,
    /// By their ids, when they were last sent and what they became.
    batches: BTreeMap<u128, (Timestamp, Vec<SubmitOutcome>)>,
    /// When batches were sent, oldest first.
    batch_ages: VecDeque<(Timestamp, u128)>,
    /// By what names of batches with a key are remembered as: when they were last sent, the
    /// batch that was answered first, and what.
    named: BTreeMap<String, (Timestamp, u128, SubmitOutcome)>,
    /// When they were sent, oldest first.
    named_ages: VecDeque<(Timestamp, String)>,
    /// As what entries came back from the quarantine, and when.
    released: BTreeMap<EntryId, (Timestamp, EntryId)>,
}

struct Entry {
    /// Bytes as they came, so that malformed entries can be put in.
    fields: Fields,
    /// What they say, read once.
    content: Result<Announcement, MalformedReason>,
    fence: Fence,
}

/// What is remembered of an entry's owners. It outlives the group.
#[derive(Default)]
struct Fence {
    token: FencingToken,
    handed_back: bool,
    failures: u32,
    /// Of the last ones, oldest first.
    kept: VecDeque<Failure>,
}

struct Failure {
    /// Whose.
    token: FencingToken,
    /// The token by which a death was counted; `None` if its owner said that it failed.
    counted_by: Option<FencingToken>,
    reason: String,
}

struct Group {
    /// The last entry delivered.
    cursor: EntryId,
    /// How many entries there are behind the cursor.
    undelivered: u64,
    pending: BTreeMap<EntryId, PendingAt>,
    consumers: BTreeMap<ConsumerName, Consumer>,
}

struct PendingAt {
    consumer: ConsumerName,
    /// `None`: it was handed back, and looks so idle that everybody takes it.
    since: Option<Timestamp>,
    deliveries: u64,
}

struct Consumer {
    seen: Timestamp,
    pending: BTreeSet<EntryId>,
}

/// Why a fenced operation changes nothing.
enum Refusal {
    Gone,
    Stale(FencingToken),
}

impl Default for Lbs {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            last_id: EntryId::MIN,
            group: None,
            announced: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            pause: None,
            batches: BTreeMap::new(),
            batch_ages: VecDeque::new(),
            named: BTreeMap::new(),
            named_ages: VecDeque::new(),
            released: BTreeMap::new(),
        }
    }
}

impl Lbs {
    pub(crate) fn prepare(&mut self) {
        let undelivered = self.entries.len() as u64;
        self.group.get_or_insert_with(|| Group {
            cursor: EntryId::MIN,
            undelivered,
            pending: BTreeMap::new(),
            consumers: BTreeMap::new(),
        });
    }

    pub(crate) fn destroy_group(&mut self) {
        self.group = None;
    }

    pub(crate) fn submit(&mut self, batch: &SubmitBatch, now: Timestamp) -> Vec<SubmitOutcome> {
        match batch.remembered_as() {
            Some(names) => self.submit_named(batch, names, now),
            None => self.submit_placed(batch, now),
        }
    }

    /// Each is remembered by its name.
    fn submit_named(
        &mut self,
        batch: &SubmitBatch,
        names: Vec<String>,
        now: Timestamp,
    ) -> Vec<SubmitOutcome> {
        while let Some((sent, _)) = self.named_ages.front()
            && now.saturating_since(*sent) > REMEMBERED
            && let Some((sent, name)) = self.named_ages.pop_front()
        {
            // Unless it was sent again.
            if let btree_map::Entry::Occupied(known) = self.named.entry(name)
                && known.get().0 == sent
            {
                known.remove();
            }
        }
        let mut outcomes = Vec::new();
        for (announcement, name) in batch.announcements.iter().zip(names) {
            let (by, first) = match self.named.get(&name) {
                Some((_, by, first)) => (*by, *first),
                None => (batch.id, self.announce(announcement, batch.if_absent, now)),
            };
            outcomes.push(match first {
                SubmitOutcome::Announced(entry) if by != batch.id => {
                    SubmitOutcome::AlreadySubmitted(entry)
                }
                first => first,
            });
            self.named.insert(name.clone(), (now, by, first));
            self.named_ages.push_back((now, name));
        }
        outcomes
    }

    /// Each is remembered by its place.
    fn submit_placed(&mut self, batch: &SubmitBatch, now: Timestamp) -> Vec<SubmitOutcome> {
        while let Some(&(submitted, id)) = self.batch_ages.front()
            && now.saturating_since(submitted) > REMEMBERED
        {
            self.batch_ages.pop_front();
            // Unless it was sent again.
            if self
                .batches
                .get(&id)
                .is_some_and(|(last, _)| *last == submitted)
            {
                self.batches.remove(&id);
            }
        }
        let known = self.batches.remove(&batch.id);
        let mut outcomes = known.map(|(_, outcomes)| outcomes).unwrap_or_default();
        for announcement in batch.announcements.iter().skip(outcomes.len()) {
            outcomes.push(self.announce(announcement, batch.if_absent, now));
        }
        let asked = outcomes
            .iter()
            .take(batch.announcements.len())
            .copied()
            .collect();
        self.batches.insert(batch.id, (now, outcomes));
        self.batch_ages.push_back((now, batch.id));
        asked
    }

    fn announce(
        &mut self,
        announcement: &Announcement,
        if_absent: bool,
        now: Timestamp,
    ) -> SubmitOutcome {
        let there = self.announced.get(&announcement.stream);
        let there = there.and_then(|entries| entries.first().copied());
        match there.filter(|_| if_absent) {
            Some(entry) => SubmitOutcome::AlreadyAnnounced(entry),
            None => {
                let payload = announcement.encode().into_bytes();
                let fields = vec![(PAYLOAD_FIELD.into(), payload)];
                SubmitOutcome::Announced(self.append(fields, now))
            }
        }
    }

    pub(crate) fn append(&mut self, fields: Fields, now: Timestamp) -> EntryId {
        let ms = millis(now);
        let id = if ms > self.last_id.ms {
            EntryId::new(ms, 0)
        } else {
            EntryId::new(self.last_id.ms, self.last_id.seq + 1)
        };
        self.last_id = id;
        let pairs = fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let content = Announcement::from_fields(pairs);
        if let Ok(announcement) = &content {
            let stream = announcement.stream.clone();
            self.announced.entry(stream).or_default().insert(id);
        }
        let entry = Entry {
            fields,
            content,
            fence: Fence::default(),
        };
        self.entries.insert(id, entry);
        if let Some(group) = &mut self.group {
            group.undelivered += 1;
        }
        id
    }

    /// How many entries a fetch could still get.
    pub(crate) fn undelivered(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.undelivered)
    }

    pub(crate) fn deliver(
        &mut self,
        consumer: &ConsumerName,
        max: usize,
        now: Timestamp,
    ) -> Result<Fetched> {
        let group = self.group.as_mut().ok_or_else(not_prepared)?;
        group.consumer(consumer, now);
        let behind_cursor = self.entries.range((Excluded(group.cursor), Unbounded));
        let mut entries = Vec::new();
        for (&id, entry) in behind_cursor.take(max.max(1)) {
            entries.push(Delivery {
                entry: id,
                content: entry.content.clone(),
            });
        }
        for delivery in &entries {
            group.cursor = delivery.entry;
            group.undelivered -= 1;
            group.assign(delivery.entry, consumer, now);
            if let Some(at) = group.pending.get_mut(&delivery.entry) {
                at.deliveries += 1;
            }
        }
        Ok(Fetched {
            entries,
            backlog: group.undelivered,
        })
    }

    pub(crate) fn list_pending(
        &self,
        scope: &Scope,
        limit: usize,
        now: Timestamp,
    ) -> Result<PendingPage> {
        let group = self.group.as_ref().ok_or_else(not_prepared)?;
        let page = match scope {
            Scope::All { after } => self.list_pending_ids(None, *after, limit)?,
            Scope::Consumer { consumer, after } => {
                self.list_pending_ids(Some(consumer), *after, limit)?
            }
            Scope::Entries(wanted) => {
                let wanted: BTreeSet<_> = wanted.iter().copied().collect();
                PendingIds {
                    entries: wanted.into_iter().collect(),
                    next: None,
                }
            }
        };
        let entries = page.entries.into_iter();
        Ok(PendingPage {
            entries: entries
                .filter_map(|id| self.pending(group, id, now))
                .collect(),
            next: page.next,
        })
    }

    pub(crate) fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let group = self.group.as_ref().ok_or_else(not_prepared)?;
        let limit = limit.max(1);
        let from = (Excluded(after), Unbounded);
        let one_more = limit.saturating_add(1);
        let mut entries: Vec<EntryId> = match consumer {
            None => {
                let all = group.pending.range(from).map(|(id, _)| *id);
                all.take(one_more).collect()
            }
            Some(consumer) => {
                let known = group.consumers.get(consumer).into_iter();
                let its = known.flat_map(|known| known.pending.range(from).copied());
                its.take(one_more).collect()
            }
        };
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().copied().filter(|_| more);
        Ok(PendingIds { entries, next })
    }

    /// What was delivered to the group, is there still, and is pending at nobody. There
    /// is no way to bring that about here; but the listing tells what is so.
    pub(crate) fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        let group = self.group.as_ref().ok_or_else(not_prepared)?;
        let limit = limit.max(1);
        let mut entries: Vec<EntryId> = if after < group.cursor {
            let delivered = self
                .entries
                .range((Excluded(after), Included(group.cursor)));
            let ids = delivered.map(|(id, _)| *id);
            let stranded = ids.filter(|id| !group.pending.contains_key(id));
            stranded.take(limit.saturating_add(1)).collect()
        } else {
            Vec::new()
        };
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().copied().filter(|_| more);
        Ok(PendingIds { entries, next })
    }

    fn pending(&self, group: &Group, id: EntryId, now: Timestamp) -> Option<Pending> {
        let at = group.pending.get(&id);
        if at.is_none() && id > group.cursor {
            return None;
        }
        let entry = self.entries.get(&id)?;
        Some(Pending {
            entry: id,
            consumer: at.map(|at| at.consumer.clone()),
            idle: at.map_or(Duration::ZERO, |at| {
                at.since
                    .map_or(HANDED_BACK_IDLE, |since| now.saturating_since(since))
            }),
            deliveries: at.map_or(0, |at| at.deliveries),
            token: entry.fence.token,
            handed_back: entry.fence.handed_back,
            failures: entry.fence.failures,
            reasons: entry.fence.reasons(),
            content: entry.content.clone(),
        })
    }

    pub(crate) fn claim(
        &mut self,
        consumer: &ConsumerName,
        claims: &[Fenced],
        keeps: bool,
        now: Timestamp,
    ) -> Result<Vec<ClaimOutcome>> {
        if self.group.is_none() {
            return Err(not_prepared());
        }
        Ok(claims
            .iter()
            .map(|claim| self.claim_one(consumer, *claim, keeps, now))
            .collect())
    }

    fn claim_one(
        &mut self,
        consumer: &ConsumerName,
        claim: Fenced,
        keeps: bool,
        now: Timestamp,
    ) -> ClaimOutcome {
        let refuses_new = self.pause.is_some() && !keeps;
        let owner = self.pending_at(claim.entry);
        let fence = match self.admit(claim) {
            Ok(fence) => fence,
            Err(Refusal::Gone) => return ClaimOutcome::Gone,
            Err(Refusal::Stale(seen)) => return ClaimOutcome::Stale { seen },
        };
        if fence.handed_back && claim.token == fence.token {
            // The late copy of a claim from before the hand back.
            return ClaimOutcome::Stale { seen: fence.token };
        }
        let has_new_owner = claim.token > fence.token || fence.token == FencingToken::NONE;
        if refuses_new && has_new_owner {
            return ClaimOutcome::Paused;
        }
        fence.count_death(claim.token, owner);
        fence.token = claim.token;
        fence.handed_back = false;
        let last = fence.kept.back();
        let failures = Failures {
            count: fence.failures,
            counted_now: last.is_some_and(|last| last.counted_by == Some(claim.token)),
            deaths: fence.deaths(),
            reasons: fence.reasons(),
        };
        let from = self
            .group
            .as_mut()
            .and_then(|group| group.assign(claim.entry, consumer, now));
        ClaimOutcome::Claimed { from, failures }
    }

    pub(crate) fn paused(&self) -> Option<Pause> {
        self.pause.clone()
    }

    /// Whether it was not paused before.
    pub(crate) fn begin_pause(&mut self, reason: &str, now: Timestamp) -> bool {
        let is_new = self.pause.is_none();
        self.pause
            .get_or_insert_with(|| Pause::new(Some(millis(now)), reason));
        is_new
    }

    /// Whether it was paused before.
    pub(crate) fn end_pause(&mut self) -> bool {
        self.pause.take().is_some()
    }

    pub(crate) fn clear_failures(&mut self, owner: Fenced) {
        if let Ok(fence) = self.admit(owner)
            && fence.token == owner.token
            && !fence.handed_back
        {
            fence.failures = 0;
            fence.kept.clear();
        }
    }

    pub(crate) fn complete(&mut self, entry: Fenced) -> CompleteOutcome {
        match self.admit(entry).map(|_| ()) {
            Ok(()) => {
                self.remove(entry.entry);
                CompleteOutcome::Completed
            }
            Err(Refusal::Gone) => CompleteOutcome::Gone,
            Err(Refusal::Stale(seen)) => CompleteOutcome::NotOwner { seen },
        }
    }

    /// What others may take now goes into `freed`.
    pub(crate) fn hand_back(
        &mut self,
        hand_back: &HandBackRequest,
        freed: &mut Vec<EntryId>,
        now: Timestamp,
    ) -> HandBackOutcome {
        let &HandBackRequest {
            entry,
            token,
            ref failed,
            rests,
            ..
        } = hand_back;
        match self.admit(Fenced { entry, token }) {
            Ok(fence) => {
                let repeated = fence.handed_back && fence.token == token;
                if let Some(reason) = failed.clone().filter(|_| !repeated) {
                    fence.count(Failure {
                        token,
                        counted_by: None,
                        reason,
                    });
                }
                fence.token = token;
                fence.handed_back = true;
                if !(rests && repeated) {
                    let pending = self.group.as_mut().map(|group| &mut group.pending);
                    if let Some(at) = pending.and_then(|pending| pending.get_mut(&entry)) {
                        at.since = rests.then_some(now);
                    }
                }
                freed.push(entry);
                HandBackOutcome::HandedBack
            }
            Err(Refusal::Gone) => HandBackOutcome::Gone,
            Err(Refusal::Stale(seen)) => {
                if let Some(Entry { fence, .. }) = self.entries.get_mut(&entry) {
                    let taken_back = fence.take_back(token, failed.as_deref());
                    // It need not rest for so long any more.
                    freed.extend((taken_back && fence.handed_back).then_some(entry));
                }
                HandBackOutcome::NotOwner { seen }
            }
        }
    }

    fn pending_at(&self, entry: EntryId) -> Option<ConsumerName> {
        let pending = &self.group.as_ref()?.pending;
        Some(pending.get(&entry)?.consumer.clone())
    }

    pub(crate) fn quarantine(
        &mut self,
        consumer: &ConsumerName,
        quarantine: &Quarantine,
        now: Timestamp,
    ) -> QuarantineOutcome {
        let &Quarantine {
            entry,
            token,
            min_failures,
            ref reason,
            ..
        } = quarantine;
        let fence = self.admit(Fenced { entry, token });
        match fence.map(|fence| fence.failures) {
            Ok(failures) if failures < min_failures => QuarantineOutcome::FewerFailures,
            Ok(_) => {
                if let Some(Entry { fields, fence, .. }) = self.remove(entry) {
                    let quarantined = Quarantined {
                        entry,
                        reason: reason.clone(),
                        failures: fence.failures,
                        reasons: fence.reasons(),
                        last_owner: consumer.clone(),
                        at_ms: millis(now),
                        fields,
                    };
                    self.quarantined.insert(entry, quarantined);
                }
                QuarantineOutcome::Quarantined
            }
            Err(Refusal::Gone) => QuarantineOutcome::Gone,
            Err(Refusal::Stale(seen)) => QuarantineOutcome::NotOwner { seen },
        }
    }

    pub(crate) fn remove_consumer(&mut self, consumer: &ConsumerName) -> bool {
        let Some(group) = &mut self.group else {
            return true;
        };
        if group
            .consumers
            .get(consumer)
            .is_some_and(|known| !known.pending.is_empty())
        {
            return false;
        }
        group.consumers.remove(consumer);
        true
    }

    pub(crate) fn consumers(&self, now: Timestamp) -> Result<Vec<ConsumerState>> {
        let group = self.group.as_ref().ok_or_else(not_prepared)?;
        let state = |(name, consumer): (&ConsumerName, &Consumer)| ConsumerState {
            consumer: name.clone(),
            pending: consumer.pending.len() as u64,
            idle: now.saturating_since(consumer.seen),
        };
        Ok(group.consumers.iter().map(state).collect())
    }

    pub(crate) fn list_undelivered(&self, after: EntryId, limit: usize) -> Vec<Delivery> {
        let cursor = self
            .group
            .as_ref()
            .map_or(EntryId::MIN, |group| group.cursor);
        let behind = self.entries.range((Excluded(after.max(cursor)), Unbounded));
        let delivery = |(&id, entry): (&EntryId, &Entry)| Delivery {
            entry: id,
            content: entry.content.clone(),
        };
        behind.take(limit).map(delivery).collect()
    }

    pub(crate) fn counts(&self, now: Timestamp) -> ServiceCounts {
        let (cursor, waiting, pending) = match &self.group {
            Some(group) => (group.cursor, group.undelivered, group.pending.len()),
            None => (EntryId::MIN, self.entries.len() as u64, 0),
        };
        let mut behind = self.entries.range((Excluded(cursor), Unbounded));
        let announced_at = |id: &EntryId| Timestamp::from_millis(id.ms);
        let oldest = behind.next().map(|(id, _)| announced_at(id));
        ServiceCounts::new(
            Some(waiting),
            oldest.map(|at| now.saturating_since(at)),
            pending as u64,
            self.quarantined.len() as u64,
        )
        .paused(self.pause.is_some())
    }

    pub(crate) fn list_quarantined(&self, after: EntryId, limit: usize) -> Vec<Quarantined> {
        let behind = self.quarantined.range((Excluded(after), Unbounded));
        behind
            .take(limit)
            .map(|(_, quarantined)| quarantined.clone())
            .collect()
    }

    pub(crate) fn release_quarantined(
        &mut self,
        entry: EntryId,
        now: Timestamp,
    ) -> QuarantineRelease {
        self.released
            .retain(|_, (at, _)| now.saturating_since(*at) <= REMEMBERED);
        if let Some(quarantined) = self.quarantined.remove(&entry) {
            let id = self.append(quarantined.fields, now);
            self.released.insert(entry, (now, id));
        }
        match self.released.get(&entry) {
            Some(&(_, id)) => QuarantineRelease::Released(id),
            None => QuarantineRelease::Gone,
        }
    }

    pub(crate) fn drop_quarantined(&mut self, entry: EntryId) -> bool {
        self.quarantined.remove(&entry).is_some()
    }

    /// The one check of tokens (R4): none lower than the greatest one seen.
    fn admit(&mut self, actor: Fenced) -> Result<&mut Fence, Refusal> {
        let entry = self.entries.get_mut(&actor.entry).ok_or(Refusal::Gone)?;
        if actor.token < entry.fence.token {
            return Err(Refusal::Stale(entry.fence.token));
        }
        Ok(&mut entry.fence)
    }

    fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Ok(announcement) = &entry.content
            && let Some(entries) = self.announced.get_mut(&announcement.stream)
        {
            entries.remove(&id);
            if entries.is_empty() {
                self.announced.remove(&announcement.stream);
            }
        }
        if let Some(group) = &mut self.group {
            group.undelivered -= u64::from(id > group.cursor);
            group.unassign(id);
        }
        Some(entry)
    }
}

fn millis(now: Timestamp) -> u64 {
    u64::try_from(now.since_origin().as_millis()).unwrap_or(u64::MAX)
}

impl Group {
    /// Makes the entry pending at `consumer`, afresh; returns at whom it was.
    fn assign(
        &mut self,
        id: EntryId,
        consumer: &ConsumerName,
        now: Timestamp,
    ) -> Option<ConsumerName> {
        let before = self.unassign(id);
        let deliveries = before.as_ref().map_or(0, |at| at.deliveries);
        self.consumer(consumer, now).pending.insert(id);
        self.pending.insert(
            id,
            PendingAt {
                consumer: consumer.clone(),
                since: Some(now),
                deliveries,
            },
        );
        before.map(|at| at.consumer)
    }

    fn unassign(&mut self, id: EntryId) -> Option<PendingAt> {
        let at = self.pending.remove(&id)?;
        if let Some(consumer) = self.consumers.get_mut(&at.consumer) {
            consumer.pending.remove(&id);
        }
        Some(at)
    }

    /// The consumer, which was just heard of.
    fn consumer(&mut self, name: &ConsumerName, now: Timestamp) -> &mut Consumer {
        let new = || Consumer {
            seen: now,
            pending: BTreeSet::new(),
        };
        let consumer = self.consumers.entry(name.clone()).or_insert_with(new);
        consumer.seen = now;
        consumer
    }
}

impl Fence {
    /// Whoever has a greater token finds the owner before it dead, unless it handed back.
    fn count_death(&mut self, by: FencingToken, owner: Option<ConsumerName>) {
        if by > self.token && self.token != FencingToken::NONE && !self.handed_back {
            let owner = owner.map_or_else(String::new, |owner| format!(" {owner}"));
            self.count(Failure {
                token: self.token,
                counted_by: Some(by),
                reason: format!("its owner{owner} ended without handing back"),
            });
        }
    }

    fn count(&mut self, failure: Failure) {
        self.failures += 1;
        self.kept.push_back(failure);
        if self.kept.len() > KEPT_REASONS {
            self.kept.pop_front();
        }
    }

    /// The owner with this token lives: what was counted as its death, if it was, is
    /// what it says.
    fn take_back(&mut self, token: FencingToken, failed: Option<&str>) -> bool {
        let is_its_death = |of: &Failure| of.token == token && of.counted_by.is_some();
        let Some(at) = self.kept.iter().position(is_its_death) else {
            return false;
        };
        match (failed, self.kept.get_mut(at)) {
            (Some(reason), Some(failure)) => {
                failure.counted_by = None;
                failure.reason = reason.to_owned();
            }
            _ => {
                self.kept.remove(at);
                self.failures -= 1;
            }
        }
        true
    }

    fn deaths(&self) -> u32 {
        let deaths = self.kept.iter().filter(|of| of.counted_by.is_some());
        deaths.count() as u32
    }

    fn reasons(&self) -> Vec<String> {
        let reasons = self.kept.iter().map(|failure| failure.reason.clone());
        reasons.collect()
    }
}
