//! What operators call, and bugs of pauses and of the quarantine.

use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::{
    Admin, Announcement, ConsumerState, Delivery, EntryId, Fenced, FencingToken, FetchRequest,
    HandBackRequest, Info, QuarantineRelease, Quarantined, Result, ServiceCounts, StreamName,
    SubmitBatch,
};

use super::{Bug, Lbs, nobody};

#[async_trait]
impl Admin for Lbs {
    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        let mut consumers = self.inner.admin.consumers().await?;
        if self.is(Bug::ConsumersCountNothing) {
            consumers
                .iter_mut()
                .for_each(|consumer| consumer.pending = 0);
        }
        Ok(consumers)
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        let there = self.inner.admin.list_undelivered(after, limit).await?;
        if self.is(Bug::UndeliveredAreDelivered) && self.state().prepared {
            self.lbs()
                .fetch(&FetchRequest::new(nobody(), limit, Duration::ZERO))
                .await?;
        }
        Ok(there)
    }

    async fn pause(&self, reason: &str) -> Result<bool> {
        let admin = &self.inner.admin;
        let was_paused = self.lbs().paused().await?.is_some();
        match self.bug {
            Some(Bug::PausedAgainIsResumed) if was_paused => {
                admin.resume().await?;
                Ok(false)
            }
            Some(Bug::PauseBeginsAnew) if was_paused => {
                admin.resume().await?;
                admin.pause(reason).await?;
                Ok(false)
            }
            Some(Bug::PauseSaysNew) => admin.pause(reason).await.map(|_| true),
            _ => admin.pause(reason).await,
        }
    }

    async fn resume(&self) -> Result<bool> {
        match self.bug {
            Some(Bug::ResumeDoesNothing) => Ok(self.lbs().paused().await?.is_some()),
            _ => self.inner.admin.resume().await,
        }
    }

    async fn counts(&self) -> Result<ServiceCounts> {
        self.miscounted().await
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        let mut quarantined = self.inner.admin.list_quarantined(after, limit).await?;
        for entry in &mut quarantined {
            match self.bug {
                Some(Bug::QuarantineLosesPayload) => entry.fields.clear(),
                Some(Bug::QuarantineCountsNothing) => entry.failures = 0,
                Some(Bug::ReasonsAreLost) => entry.reasons.clear(),
                _ => {}
            }
        }
        Ok(quarantined)
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        let mut releases = Vec::new();
        for entry in self.order(entries, |entry| *entry) {
            let there = self
                .inner
                .admin
                .list_quarantined(EntryId::MIN, 10_000)
                .await?;
            let there = there
                .into_iter()
                .find(|quarantined| quarantined.entry == entry);
            let content = there.as_ref().and_then(|quarantined| {
                let fields = quarantined.fields.iter();
                Announcement::from_fields(fields.map(|(n, v)| (&n[..], &v[..]))).ok()
            });
            let release = async || self.inner.admin.release_quarantined(&[entry]).await;
            let mut outcome = release().await?[0];
            match (self.bug, outcome) {
                (Some(Bug::ReleaseLosesInfo), QuarantineRelease::Released(new))
                    if there.is_some() =>
                {
                    let fenced = Fenced {
                        entry: new,
                        token: FencingToken::NONE,
                    };
                    self.lbs().complete(&nobody(), &[fenced]).await?;
                    let stream = content.expect("readable").stream;
                    let bare = vec![Announcement::new(stream, Info::NONE)];
                    let batch = SubmitBatch::with_id(self.new_id(), bare);
                    outcome = QuarantineRelease::Released(self.submit_inner(&batch).await?);
                }
                (Some(Bug::ReleaseAppendsAgain), QuarantineRelease::Released(new))
                    if there.is_none() =>
                {
                    let stream = StreamName::new(format!("again-{new}")).expect("short");
                    let again = vec![Announcement::new(stream, Info::NONE)];
                    let batch = SubmitBatch::with_id(self.new_id(), again);
                    outcome = QuarantineRelease::Released(self.submit_inner(&batch).await?);
                }
                (Some(Bug::ReleaseIsGone), QuarantineRelease::Released(new)) => {
                    let fenced = Fenced {
                        entry: new,
                        token: FencingToken::NONE,
                    };
                    self.lbs().complete(&nobody(), &[fenced]).await?;
                }
                (Some(Bug::ReleaseKeepsFailures), QuarantineRelease::Released(new)) => {
                    let back =
                        HandBackRequest::new(new, FencingToken::NONE).failed(Some("?".into()));
                    self.lbs().hand_back(&nobody(), &[back]).await?;
                }
                _ => {}
            }
            releases.push(outcome);
        }
        Ok(releases)
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        let mut dropped = Vec::new();
        for entry in self.order(entries, |entry| *entry) {
            match self.bug {
                Some(Bug::DropDoesNothing) => {
                    dropped.push(true);
                    continue;
                }
                Some(Bug::DropOfAll) => {
                    let all = self
                        .inner
                        .admin
                        .list_quarantined(EntryId::MIN, 10_000)
                        .await?;
                    let others = all.iter().map(|quarantined| quarantined.entry);
                    let others: Vec<_> = others.filter(|other| *other != entry).collect();
                    self.inner.admin.drop_quarantined(&others).await?;
                }
                Some(Bug::DropTakesPending) => {
                    if let Some((consumer, token)) = self.at(entry).await {
                        self.lbs()
                            .complete(&consumer, &[Fenced { entry, token }])
                            .await?;
                    }
                }
                _ => {}
            }
            dropped.extend(self.inner.admin.drop_quarantined(&[entry]).await?);
        }
        Ok(dropped)
    }
}
