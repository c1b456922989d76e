//! A transport with the calls the suite makes most, one entry at a time.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    Admin, Announcement, Backend, ClaimOutcome, CompleteOutcome, ConsumerName, Delivery, EntryId,
    Failures, Fenced, FencingToken, FetchRequest, HandBackOutcome, HandBackRequest, Info, Pending,
    Quarantine, QuarantineOutcome, QuarantineRelease, Quarantined, Result, Runtime, Scope,
    StreamName, SubmitBatch, SubmitOutcome, Transport,
};

use super::super::support::{consumer, stream, streams, unique};

/// Dereferences to the transport itself.
#[derive(Clone)]
pub(super) struct Harness {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) backend: Backend,
    pub(super) a: ConsumerName,
    pub(super) b: ConsumerName,
}

impl Deref for Harness {
    type Target = dyn Transport;

    fn deref(&self) -> &Self::Target {
        &*self.backend.transport
    }
}

impl Harness {
    pub(super) fn unprepared(runtime: Arc<dyn Runtime>, backend: Backend) -> Self {
        let (a, b) = (consumer("a"), consumer("b"));
        Self {
            runtime,
            backend,
            a,
            b,
        }
    }

    pub(super) async fn new(runtime: Arc<dyn Runtime>, backend: Backend) -> Self {
        let harness = Self::unprepared(runtime, backend);
        harness.prepare().await.expect("prepare");
        harness
    }

    /// Of a batch that announces whatever is there already.
    pub(super) async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<EntryId>> {
        let outcomes = self.backend.submitter.submit(batch).await?;
        let entry = |outcome| match outcome {
            SubmitOutcome::Announced(entry) => entry,
            other => panic!("{other:?}, and nobody asked"),
        };
        Ok(outcomes.into_iter().map(entry).collect())
    }

    pub(super) fn admin(&self) -> &dyn Admin {
        &*self.backend.admin
    }

    pub(super) async fn submit_streams(&self, streams: &[StreamName]) -> Vec<EntryId> {
        let ids = self.submit(&batch(streams)).await.expect("submit");
        assert_eq!(ids.len(), streams.len(), "one id per announcement");
        ids
    }

    /// Announces `n` data streams.
    pub(super) async fn announce(&self, n: usize) -> Vec<EntryId> {
        self.submit_streams(&streams("s", n)).await
    }

    /// Fetches without waiting.
    pub(super) async fn take(&self, consumer: &ConsumerName, max: usize) -> Vec<Delivery> {
        self.fetch(&request(consumer, max, Duration::ZERO))
            .await
            .expect("fetch")
            .entries
    }

    /// An entry that is pending at `consumer` and was never claimed.
    pub(super) async fn fresh(&self, consumer: &ConsumerName) -> EntryId {
        let id = self.submit_streams(&[stream("s")]).await[0];
        assert_eq!(
            ids(&self.take(consumer, 1).await),
            [id],
            "fetch brings what was submitted"
        );
        id
    }

    /// An entry that is pending at `consumer`, claimed with `token`.
    pub(super) async fn owned(&self, consumer: &ConsumerName, token: u64) -> EntryId {
        let id = self.fresh(consumer).await;
        let from = consumer.clone();
        assert_eq!(
            self.claim_one(consumer, id, token).await,
            claimed(&from, 0),
            "claim of a fresh entry"
        );
        id
    }

    /// Claims what nobody has owned yet; whose it was may be left out then.
    pub(super) async fn claim_unowned(&self, consumer: &ConsumerName, entry: EntryId, token: u64) {
        let outcome = self.claim_one(consumer, entry, token).await;
        let is_claimed =
            matches!(&outcome, ClaimOutcome::Claimed { failures, .. } if failures.count == 0);
        assert!(
            is_claimed,
            "claim of an entry without an owner: {outcome:?}"
        );
    }

    /// Of failures the outcome has the number alone; see [`Harness::failures_at_claim`].
    pub(super) async fn claim_one(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
    ) -> ClaimOutcome {
        let outcomes = self.claim(consumer, &[fenced(entry, token)]).await;
        counted(one(outcomes.expect("claim")))
    }

    pub(super) async fn failures_at_claim(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
    ) -> Failures {
        let outcomes = self.claim(consumer, &[fenced(entry, token)]).await;
        match one(outcomes.expect("claim")) {
            ClaimOutcome::Claimed { failures, .. } => failures,
            outcome => panic!("not claimed: {outcome:?}"),
        }
    }

    pub(super) async fn complete_one(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
    ) -> CompleteOutcome {
        one(self
            .complete(consumer, &[fenced(entry, token)])
            .await
            .expect("complete"))
    }

    pub(super) async fn hand_back_one(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
        failed: bool,
    ) -> HandBackOutcome {
        let reason = failed.then_some("it was bad");
        self.hand_back_as(consumer, entry, token, reason, failed)
            .await
    }

    pub(super) async fn hand_back_as(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
        reason: Option<&str>,
        rests: bool,
    ) -> HandBackOutcome {
        let back = HandBackRequest::new(entry, FencingToken(token))
            .failed(reason.map(ToOwned::to_owned))
            .rests(rests);
        one(self.hand_back(consumer, &[back]).await.expect("hand_back"))
    }

    pub(super) async fn quarantine_one(
        &self,
        consumer: &ConsumerName,
        entry: EntryId,
        token: u64,
        reason: &str,
    ) -> QuarantineOutcome {
        let quarantine = Quarantine::new(entry, FencingToken(token), 0, reason);
        one(self
            .quarantine(consumer, &[quarantine])
            .await
            .expect("quarantine"))
    }

    /// How this entry is pending, if it is.
    pub(super) async fn pending(&self, entry: EntryId) -> Option<Pending> {
        let page = self
            .list_pending(&Scope::Entries(vec![entry]), 1)
            .await
            .expect("list_pending");
        assert!(page.entries.len() <= 1, "{:?} for one entry", page.entries);
        page.entries.into_iter().next()
    }

    /// Walks all pages of ids, and returns what is in them.
    pub(super) async fn list_all_ids(
        &self,
        of: Option<&ConsumerName>,
        limit: usize,
    ) -> Vec<EntryId> {
        let (mut all, mut after) = (Vec::new(), EntryId::MIN);
        loop {
            let page = self
                .list_pending_ids(of, after, limit)
                .await
                .expect("list_pending_ids");
            assert!(page.entries.len() <= limit, "more than {limit}");
            all.extend(page.entries);
            match page.next {
                None => return all,
                Some(next) => {
                    assert!(next > after, "the next page starts where this one did");
                    after = next;
                }
            }
        }
    }

    /// Walks all pages, checks their order, and returns what is in them.
    pub(super) async fn list_all(&self, of: Option<&ConsumerName>, limit: usize) -> Vec<Pending> {
        let mut all: Vec<Pending> = Vec::new();
        let mut after = EntryId::MIN;
        loop {
            let scope = match of {
                None => Scope::All { after },
                Some(consumer) => Scope::Consumer {
                    consumer: consumer.clone(),
                    after,
                },
            };
            let page = self
                .list_pending(&scope, limit)
                .await
                .expect("list_pending");
            assert!(
                page.entries.len() <= limit,
                "{} entries, limit {limit}",
                page.entries.len()
            );
            for entry in page.entries {
                assert!(
                    all.last().is_none_or(|last| last.entry < entry.entry),
                    "out of order"
                );
                assert!(entry.entry > after, "{} is not after {after}", entry.entry);
                all.push(entry);
            }
            match page.next {
                None => return all,
                Some(next) => {
                    assert!(next > after, "the next page starts where this one did");
                    after = next;
                }
            }
        }
    }

    pub(super) async fn quarantined(&self) -> Vec<Quarantined> {
        self.admin()
            .list_quarantined(EntryId::MIN, 1_000)
            .await
            .expect("list_quarantined")
    }

    pub(super) async fn release_one(&self, entry: EntryId) -> QuarantineRelease {
        one(self
            .admin()
            .release_quarantined(&[entry])
            .await
            .expect("release_quarantined"))
    }

    /// Ids of all entries that no consumer has had.
    pub(super) async fn undelivered(&self) -> Vec<EntryId> {
        ids(&self
            .admin()
            .list_undelivered(EntryId::MIN, 10_000)
            .await
            .expect("list_undelivered"))
    }

    /// Asserts that the entry is nowhere any more.
    pub(super) async fn assert_gone(&self, entry: EntryId) {
        assert!(self.pending(entry).await.is_none(), "{entry} is pending");
        assert!(
            !self.undelivered().await.contains(&entry),
            "{entry} is to be delivered"
        );
        assert_eq!(
            self.claim_one(&self.b, entry, u64::MAX >> 12).await,
            ClaimOutcome::Gone
        );
    }
}

pub(super) fn batch(streams: &[StreamName]) -> SubmitBatch {
    let announce = |stream: &StreamName| Announcement::new(stream.clone(), Info::NONE);
    SubmitBatch::with_id(unique(), streams.iter().map(announce).collect())
}

pub(super) fn request(consumer: &ConsumerName, max: usize, wait: Duration) -> FetchRequest {
    FetchRequest::new(consumer.clone(), max, wait)
}

pub(super) fn fenced(entry: EntryId, token: u64) -> Fenced {
    Fenced {
        entry,
        token: FencingToken(token),
    }
}

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<EntryId> {
    deliveries.iter().map(|delivery| delivery.entry).collect()
}

pub(super) fn listed(pending: &[Pending]) -> Vec<EntryId> {
    pending.iter().map(|pending| pending.entry).collect()
}

pub(super) fn one<T>(results: Vec<T>) -> T {
    assert_eq!(results.len(), 1, "one result for one argument");
    results.into_iter().next().expect("there is one")
}

pub(super) fn claimed(from: &ConsumerName, failures: u32) -> ClaimOutcome {
    ClaimOutcome::Claimed {
        from: Some(from.clone()),
        failures: failures.into(),
    }
}

/// Of failures the number alone.
pub(super) fn counted(mut outcome: ClaimOutcome) -> ClaimOutcome {
    if let ClaimOutcome::Claimed { failures, .. } = &mut outcome {
        *failures = failures.count.into();
    }
    outcome
}

pub(super) fn stale(seen: u64) -> ClaimOutcome {
    ClaimOutcome::Stale {
        seen: FencingToken(seen),
    }
}

/// Everything about a pending entry that only a call that takes effect changes.
pub(super) fn but_idle(
    pending: &Pending,
) -> (EntryId, Option<&ConsumerName>, u64, FencingToken, bool, u32) {
    (
        pending.entry,
        pending.consumer.as_ref(),
        pending.deliveries,
        pending.token,
        pending.handed_back,
        pending.failures,
    )
}
