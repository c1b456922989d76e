//! Bugs of announcing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use streamlease_core::{
    Announcement, EntryId, Info, Result, Scope, StreamName, SubmitBatch, SubmitOutcome, Submitter,
};

use super::{Bug, Lbs, entries};

impl Lbs {
    /// Of a batch of one.
    pub(super) async fn submit_inner(&self, batch: &SubmitBatch) -> Result<EntryId> {
        Ok(self.inner.submitter.submit(batch).await?[0].entry())
    }

    pub(super) fn new_id(&self) -> u128 {
        let state = &mut *self.state();
        state.renamed += 1;
        (1 << 127) | state.renamed
    }

    pub(super) fn as_announced(&self, announcement: &Announcement) -> Announcement {
        let name = announcement.stream.as_str();
        let name: String = match self.bug {
            Some(Bug::NamesAreCut) => name.chars().take(1_000).collect(),
            Some(Bug::NamesAreTrimmed) => name.replace('\n', " "),
            _ => name.to_owned(),
        };
        let info = match self.bug {
            Some(Bug::InfoIsDropped) => Info::NONE,
            Some(Bug::InfoIsFormatted) => {
                let text = announcement.info.as_json().unwrap_or("{}");
                let text = text.replace("12345678901234567890", "12345678901234567000");
                Info::from_json(&text).expect("it was JSON")
            }
            _ => announcement.info.clone(),
        };
        Announcement::new(StreamName::new(name).expect("not empty"), info)
    }
}

#[async_trait]
impl Submitter for Lbs {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        if batch.if_absent && self.is_of_absent() {
            return self.submit_absent(batch).await;
        }
        let announcements: Vec<_> = batch
            .announcements
            .iter()
            .map(|a| self.as_announced(a))
            .collect();
        let mut sent = SubmitBatch::with_id(batch.id, announcements);
        sent.if_absent = batch.if_absent;
        if batch.key.is_some() {
            sent.key = batch.key;
            return self.submit_keyed(sent).await;
        }
        let known = self.state().batches.get(&batch.id).copied();
        match self.bug {
            Some(Bug::RepeatAppends) => sent.id = self.new_id(),
            Some(Bug::RepeatIsForgottenOnceGone) if known.is_some() => {
                let first = self.inner.submitter.submit(&sent).await?;
                let there = self
                    .lbs()
                    .list_pending(&Scope::Entries(entries(&first)), 10_000)
                    .await;
                let waiting = self
                    .inner
                    .admin
                    .list_undelivered(EntryId::MIN, 10_000)
                    .await?;
                let waits = |id: &EntryId| waiting.iter().any(|delivery| delivery.entry == *id);
                let there = there.map_or(0, |page| page.entries.len());
                if there > 0 || entries(&first).iter().any(waits) {
                    return Ok(first);
                }
                sent.id = self.new_id();
            }
            Some(Bug::BatchIsItsContents) => {
                let contents = format!(
                    "{:?}",
                    sent.announcements
                        .iter()
                        .map(|a| &a.stream)
                        .collect::<Vec<_>>()
                );
                let id = *self.state().by_contents.entry(contents).or_insert(sent.id);
                sent.id = id;
            }
            Some(Bug::GrownBatchIsIgnored) if known.is_some() => {
                let size = known.map_or(0, |(_, size)| size);
                sent.announcements.truncate(size);
            }
            Some(Bug::GrownBatchIsAppendedWhole) => {
                let size = known.map_or(sent.announcements.len(), |(_, size)| size);
                if sent.announcements.len() > size {
                    sent.id = self.new_id();
                }
            }
            Some(Bug::SubmitLosesTheLast) if sent.announcements.len() > 1 => {
                sent.announcements.pop();
                let mut ids = self.inner.submitter.submit(&sent).await?;
                let last = ids[ids.len() - 1].entry();
                ids.push(SubmitOutcome::Announced(EntryId::new(
                    last.ms,
                    last.seq + 1,
                )));
                return Ok(ids);
            }
            Some(Bug::SameStreamIsOneEntry) => {
                let names: Vec<_> = sent
                    .announcements
                    .iter()
                    .map(|a| a.stream.clone())
                    .collect();
                let mut seen = BTreeMap::new();
                sent.announcements.retain(|a| {
                    let nth = seen.len();
                    let new = !seen.contains_key(&a.stream);
                    seen.entry(a.stream.clone()).or_insert(nth);
                    new
                });
                let ids = self.inner.submitter.submit(&sent).await?;
                return Ok(names.iter().map(|name| ids[seen[name]]).collect());
            }
            Some(Bug::SubmitReverses) => sent.announcements.reverse(),
            _ => {}
        }
        let size = known.map_or(sent.announcements.len(), |(_, size)| {
            size.max(sent.announcements.len())
        });
        self.state().batches.insert(batch.id, (sent.id, size));
        let mut ids = self.inner.submitter.submit(&sent).await?;
        if self.is(Bug::SubmitReverses) {
            ids.reverse();
        }
        let names = sent.announcements.into_iter().map(|a| a.stream);
        let submitted = names.zip(entries(&ids));
        self.state().absent.submitted.extend(submitted);
        Ok(ids)
    }
}
