//! Bugs of announcing only what is absent. Batches that ask are answered here, right but for
//! the bug; all of them are appended by batches that do not ask.

use std::collections::BTreeMap;
use std::time::Duration;

use streamlease_core::{
    Announcement, Delivery, EntryId, Pending, Result, Scope, StreamName, SubmitBatch, SubmitOutcome,
};

use super::{Bug, Lbs};

/// What is known of what was submitted.
#[derive(Debug, Default)]
pub(super) struct Absent {
    /// What became of the batches that asked.
    batches: BTreeMap<u128, Vec<SubmitOutcome>>,
    /// Whatever was submitted, in this order.
    pub(super) submitted: Vec<(StreamName, EntryId)>,
    /// By batches that asked.
    asked: Vec<EntryId>,
}

impl Lbs {
    /// Whether the bug is one of these.
    pub(super) fn is_of_absent(&self) -> bool {
        let bug = self.bug.map(|bug| format!("{bug:?}"));
        bug.is_some_and(|bug| bug.starts_with("Absent"))
    }

    pub(super) async fn submit_absent(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let mut outcomes = match self.is(Bug::AbsentRepeatLooksAnew) {
            true => Vec::new(),
            false => self
                .state()
                .absent
                .batches
                .get(&batch.id)
                .cloned()
                .unwrap_or_default(),
        };
        let mut there = self.there().await?;
        if self.is(Bug::AbsentIsTwoSteps) {
            let soon = self.clock.now() + Duration::from_millis(1);
            self.clock.sleep_until(soon).await;
        }
        for announcement in batch.announcements.iter().skip(outcomes.len()) {
            let key = self.key_of(&announcement.stream);
            let found = there.get(&key).filter(|_| !self.is(Bug::AbsentIsIgnored));
            outcomes.push(match found {
                Some(entry) if self.is(Bug::AbsentSaysAnnounced) => {
                    SubmitOutcome::Announced(*entry)
                }
                Some(_) if self.is(Bug::AbsentTellsNoEntry) => {
                    SubmitOutcome::AlreadyAnnounced(EntryId::MIN)
                }
                Some(entry) => SubmitOutcome::AlreadyAnnounced(*entry),
                None => {
                    let entry = self.append_one(announcement).await?;
                    if !self.is(Bug::AbsentDoublesInABatch) {
                        there.insert(key, entry);
                    }
                    SubmitOutcome::Announced(entry)
                }
            });
        }
        let absent = &mut self.state().absent;
        absent.batches.insert(batch.id, outcomes.clone());
        outcomes.truncate(batch.announcements.len());
        Ok(outcomes)
    }

    async fn append_one(&self, announcement: &Announcement) -> Result<EntryId> {
        let batch = SubmitBatch::with_id(self.new_id(), vec![announcement.clone()]);
        let entry = self.submit_inner(&batch).await?;
        let absent = &mut self.state().absent;
        absent.submitted.push((announcement.stream.clone(), entry));
        absent.asked.push(entry);
        Ok(entry)
    }

    /// By what names are compared.
    fn key_of(&self, stream: &StreamName) -> String {
        match self.bug {
            Some(Bug::AbsentCutsNames) => stream.as_str().chars().take(255).collect(),
            Some(Bug::AbsentIgnoresCase) => stream.as_str().to_lowercase(),
            Some(Bug::AbsentTrimsNames) => stream.as_str().trim().to_owned(),
            _ => stream.as_str().to_owned(),
        }
    }

    /// The latest entry of each data stream that is on the LBS.
    async fn there(&self) -> Result<BTreeMap<String, EntryId>> {
        let after = EntryId::MIN;
        let waiting = self.inner.admin.list_undelivered(after, 100_000).await?;
        let pending = self
            .lbs()
            .list_pending(&Scope::All { after }, 100_000)
            .await;
        let pending = pending.map_or_else(|_| Vec::new(), |page| page.entries);
        let of_waiting = |delivery: Delivery| Some((delivery.entry, delivery.content.ok()?.stream));
        let of_pending = |pending: Pending| Some((pending.entry, pending.content.ok()?.stream));
        let mut entries: Vec<(EntryId, StreamName)> = match self.bug {
            Some(Bug::AbsentForgetsThePending) => Vec::new(),
            _ => pending.into_iter().filter_map(of_pending).collect(),
        };
        entries.extend(waiting.into_iter().filter_map(of_waiting));
        let absent = &self.state().absent;
        let is_known = |entry: EntryId| absent.submitted.iter().any(|(_, known)| *known == entry);
        match self.bug {
            Some(Bug::AbsentSeesItsOwn) => entries.retain(|(id, _)| absent.asked.contains(id)),
            Some(Bug::AbsentForgetsTheReleased) => entries.retain(|(id, _)| is_known(*id)),
            Some(Bug::AbsentRemembersTheGone) => {
                let ever = absent.submitted.iter().cloned();
                entries.extend(ever.map(|(stream, entry)| (entry, stream)));
                entries.sort();
            }
            Some(Bug::AbsentForgetsTheOld) => {
                let old = absent.submitted.iter().rev().skip(500);
                let old: Vec<_> = old.map(|(_, entry)| *entry).collect();
                entries.retain(|(id, _)| !old.contains(id));
            }
            _ => {}
        }
        let entries = entries.into_iter();
        Ok(entries
            .map(|(entry, stream)| (self.key_of(&stream), entry))
            .collect())
    }
}
