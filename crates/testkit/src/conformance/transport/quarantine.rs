//! Parking entries that cannot be worked on.

use std::sync::Arc;

use streamlease_core::{
    Announcement, ClaimOutcome, CompleteOutcome, EntryId, Info, QuarantineOutcome, Runtime,
    SubmitBatch, Transport,
};

use super::super::support::{stream, unique};
use super::tool::{Tool, one};

/// Parked is not lost: everything the producer said is kept, and why it was parked.
pub async fn quarantine_keeps_the_payload_and_the_reason(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let info = Info::from_json(r#"{"keep":"mé"}"#).expect("valid info");
    let announcement = Announcement::new(stream("poison"), info);
    let batch = SubmitBatch {
        id: unique(),
        announcements: vec![announcement.clone()],
    };
    let entry = t.submit(&batch).await.expect("submit")[0];
    t.take(&t.a, 1).await;
    assert!(t.quarantined().await.is_empty());
    // As for an entry that could not be read: nobody ever claimed it.
    let reason = "it does not \"work\", ümläut";
    assert_eq!(
        t.quarantine_one(&t.a, entry, 0, reason).await,
        QuarantineOutcome::Quarantined
    );
    t.assert_gone(entry).await;
    let parked = one(t.quarantined().await);
    assert_eq!((parked.entry, parked.reason.as_str()), (entry, reason));
    assert_eq!(parked.last_owner, t.a);
    let fields = parked
        .fields
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()));
    assert_eq!(Announcement::from_fields(fields), Ok(announcement));
}

/// A repeat finds the entry gone and parks nothing twice.
pub async fn quarantine_can_be_repeated(runtime: Arc<dyn Runtime>, transport: Arc<dyn Transport>) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(
        t.quarantine_one(&t.a, entry, 5, "first").await,
        QuarantineOutcome::Quarantined
    );
    assert_eq!(
        t.quarantine_one(&t.a, entry, 5, "second").await,
        QuarantineOutcome::Gone
    );
    assert_eq!(t.complete_one(&t.a, entry, 5).await, CompleteOutcome::Gone);
    assert_eq!(t.claim_one(&t.a, entry, 6).await, ClaimOutcome::Gone);
    assert_eq!(one(t.quarantined().await).reason, "first");
}

/// What a person wants to know who looks at it.
pub async fn quarantine_counts_failures_and_names_the_last_owner(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    t.hand_back_one(&t.a, entry, 5, true).await;
    t.claim_one(&t.a, entry, 6).await;
    t.claim_one(&t.b, entry, 7).await;
    assert_eq!(
        t.quarantine_one(&t.b, entry, 7, "twice").await,
        QuarantineOutcome::Quarantined
    );
    let parked = one(t.quarantined().await);
    assert_eq!((parked.failures, parked.last_owner), (2, t.b.clone()));
}

/// In the order of the LBS, whatever the order of parking.
pub async fn quarantined_entries_are_listed_in_pages(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let submitted = t.announce(5).await;
    t.take(&t.a, 5).await;
    for n in [3, 0, 4, 1, 2] {
        let outcome = t.quarantine_one(&t.a, submitted[n], 0, "any").await;
        assert_eq!(outcome, QuarantineOutcome::Quarantined);
    }
    let page = async |after, limit| {
        let parked = t
            .list_quarantined(after, limit)
            .await
            .expect("list_quarantined");
        parked
            .into_iter()
            .map(|parked| parked.entry)
            .collect::<Vec<_>>()
    };
    assert_eq!(page(EntryId::MIN, 2).await, submitted[..2]);
    assert_eq!(page(submitted[1], 2).await, submitted[2..4]);
    assert_eq!(page(submitted[3], 2).await, submitted[4..]);
    assert!(page(submitted[4], 2).await.is_empty());
}
