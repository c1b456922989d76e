//! What producers and operators ask for: submitting once, looking, and the quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{
    Announcement, ConsumerName, ConsumerState, Delivery, EntryId, Pause, Quarantine,
    QuarantineRelease, Quarantined, Result, ServiceCounts, StreamName, SubmitBatch, SubmitOutcome,
};

use super::{Group, Kept, Lbs, Payload, no_group};

impl Lbs {
    /// Appends a batch, unless it was appended before.
    pub(in crate::simulation) fn submit(
        &mut self,
        batch: &SubmitBatch,
        now_ms: u64,
    ) -> Vec<SubmitOutcome> {
        if let Some(names) = batch.remembered_as() {
            return self.submit_named(batch, names, now_ms);
        }
        let mut outcomes = self.batches.remove(&batch.id).unwrap_or_default();
        for announcement in batch.announcements.iter().skip(outcomes.len()) {
            outcomes.push(self.announce(announcement, batch.if_absent, now_ms));
        }
        let asked = outcomes
            .iter()
            .take(batch.announcements.len())
            .copied()
            .collect();
        self.batches.insert(batch.id, outcomes);
        asked
    }

    /// Each is remembered by its name.
    fn submit_named(
        &mut self,
        batch: &SubmitBatch,
        names: Vec<String>,
        now_ms: u64,
    ) -> Vec<SubmitOutcome> {
        let mut outcomes = Vec::new();
        for (announcement, name) in batch.announcements.iter().zip(names) {
            let (by, first) = match self.named.get(&name) {
                Some(known) => *known,
                None => {
                    let outcome = self.announce(announcement, batch.if_absent, now_ms);
                    self.named.insert(name, (batch.id, outcome));
                    (batch.id, outcome)
                }
            };
            outcomes.push(match first {
                SubmitOutcome::Announced(entry) if by != batch.id => {
                    SubmitOutcome::AlreadySubmitted(entry)
                }
                first => first,
            });
        }
        outcomes
    }

    fn announce(
        &mut self,
        announcement: &Announcement,
        if_absent: bool,
        now_ms: u64,
    ) -> SubmitOutcome {
        let there = match if_absent {
            true => self.announced(&announcement.stream),
            false => None,
        };
        match there {
            Some(entry) => SubmitOutcome::AlreadyAnnounced(entry),
            None => SubmitOutcome::Announced(self.append(Ok(announcement.clone()), now_ms)),
        }
    }

    /// The entry of a data stream that is on the stream.
    fn announced(&self, stream: &StreamName) -> Option<EntryId> {
        let is_its = |content: &Payload| content.as_ref().is_ok_and(|a| a.stream == *stream);
        let mut entries = self.stream.iter();
        entries.find_map(|(entry, content)| is_its(content).then_some(*entry))
    }

    /// XGROUP DELCONSUMER of one at which something is pending.
    pub(in crate::simulation) fn remove_consumer(&mut self, nth: u64) -> bool {
        let Some(group) = &mut self.group else {
            return false;
        };
        let names: BTreeSet<_> = group.pending.values().map(|slot| &slot.consumer).collect();
        let Some(nth) = nth.checked_rem(names.len() as u64) else {
            return false;
        };
        let Some(name) = names.into_iter().nth(nth as usize).cloned() else {
            return false;
        };
        group.pending.retain(|_, slot| slot.consumer != name);
        group.consumers.remove(&name);
        true
    }

    /// XACK of a pending entry.
    pub(in crate::simulation) fn acknowledge(&mut self, nth: u64) -> bool {
        let Some(group) = &mut self.group else {
            return false;
        };
        let nth = nth.checked_rem(group.pending.len() as u64);
        let entry = nth.and_then(|nth| group.pending.keys().nth(nth as usize).copied());
        entry.is_some_and(|entry| group.pending.remove(&entry).is_some())
    }

    /// XGROUP DESTROY, and XGROUP CREATE at `$`.
    pub(in crate::simulation) fn make_group_at_the_end(&mut self) {
        self.group = Some(Group {
            last_delivered: self.last_id,
            pending: BTreeMap::new(),
            consumers: BTreeMap::new(),
        });
    }

    /// Whether it was not paused before.
    pub(in crate::simulation) fn begin_pause(&mut self, reason: &str, now_ms: u64) -> bool {
        let is_new = self.pause.is_none();
        self.pause
            .get_or_insert_with(|| Pause::new(Some(now_ms), reason));
        is_new
    }

    /// Whether it was paused before.
    pub(in crate::simulation) fn end_pause(&mut self) -> bool {
        self.pause.take().is_some()
    }

    pub(in crate::simulation) fn consumers(&self, now_ms: u64) -> Result<Vec<ConsumerState>> {
        let group = self.group.as_ref().ok_or_else(no_group)?;
        let state = |(name, seen_ms): (&ConsumerName, &u64)| {
            let slots = group.pending.values();
            ConsumerState {
                consumer: name.clone(),
                pending: slots.filter(|slot| slot.consumer == *name).count() as u64,
                idle: Duration::from_millis(now_ms.saturating_sub(*seen_ms)),
            }
        };
        Ok(group.consumers.iter().map(state).collect())
    }

    pub(in crate::simulation) fn list_undelivered(
        &self,
        after: EntryId,
        limit: usize,
    ) -> Vec<Delivery> {
        let group = self.group.as_ref();
        let delivered = group.map_or(EntryId::MIN, |group| group.last_delivered);
        let later = self
            .stream
            .range((Excluded(after.max(delivered)), Unbounded));
        let delivery = |(&entry, content): (&EntryId, &Payload)| Delivery {
            entry,
            content: content.clone(),
        };
        later.take(limit).map(delivery).collect()
    }

    pub(in crate::simulation) fn counts(&self, now_ms: u64) -> ServiceCounts {
        let group = self.group.as_ref();
        let delivered = group.map_or(EntryId::MIN, |group| group.last_delivered);
        let later = self.stream.range((Excluded(delivered), Unbounded));
        let oldest = later.clone().next();
        let waited = |(id, _): (&EntryId, _)| Duration::from_millis(now_ms.saturating_sub(id.ms));
        ServiceCounts::new(
            Some(later.count() as u64),
            oldest.map(waited),
            group.map_or(0, |group| group.pending.len() as u64),
            self.quarantined.len() as u64,
        )
        .paused(self.pause.is_some())
    }

    /// XADD to the quarantine, and off the stream.
    pub(super) fn move_to_quarantine(
        &mut self,
        caller: &ConsumerName,
        wanted: &Quarantine,
        now_ms: u64,
    ) {
        let fence = self.fences.get(&wanted.entry).cloned().unwrap_or_default();
        let content = self.stream.get(&wanted.entry).cloned();
        self.remove(wanted.entry);
        if let Some(content) = content {
            let kept = Kept {
                content,
                reason: wanted.reason.clone(),
                failures: fence.failures,
                reasons: fence.reasons(),
                last_owner: caller.clone(),
                at_ms: now_ms,
            };
            self.quarantined.insert(wanted.entry, kept);
        }
    }

    pub(in crate::simulation) fn list_quarantined(
        &self,
        after: EntryId,
        limit: usize,
    ) -> Vec<Quarantined> {
        let later = self.quarantined.range((Excluded(after), Unbounded));
        let kept = |(&entry, kept): (&EntryId, &Kept)| Quarantined {
            entry,
            reason: kept.reason.clone(),
            failures: kept.failures,
            reasons: kept.reasons.clone(),
            last_owner: kept.last_owner.clone(),
            at_ms: kept.at_ms,
            fields: fields(&kept.content),
        };
        later.take(limit).map(kept).collect()
    }

    pub(in crate::simulation) fn release_quarantined(
        &mut self,
        entries: &[EntryId],
        now_ms: u64,
    ) -> Vec<QuarantineRelease> {
        let mut release = |entry: &EntryId| {
            if let Some(kept) = self.quarantined.remove(entry) {
                let id = self.append(kept.content, now_ms);
                self.released.insert(*entry, id);
            }
            match self.released.get(entry) {
                Some(id) => QuarantineRelease::Released(*id),
                None => QuarantineRelease::Gone,
            }
        };
        entries.iter().map(&mut release).collect()
    }

    pub(in crate::simulation) fn drop_quarantined(&mut self, entries: &[EntryId]) -> Vec<bool> {
        let mut drop = |entry: &EntryId| self.quarantined.remove(entry).is_some();
        entries.iter().map(&mut drop).collect()
    }
}

/// As they are on the wire. Of what cannot be read only the reason is known,
/// which cannot be read as a payload either.
fn fields(content: &Payload) -> Vec<(Vec<u8>, Vec<u8>)> {
    let payload = match content {
        Ok(announcement) => announcement.encode(),
        Err(reason) => reason.to_string(),
    };
    vec![(PAYLOAD_FIELD.into(), payload.into_bytes())]
}
