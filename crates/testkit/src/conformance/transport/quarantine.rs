//! Quarantining entries that cannot be worked on, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    Announcement, Backend, ClaimOutcome, CompleteOutcome, EntryId, FencingToken, Info, Quarantine,
    QuarantineOutcome, QuarantineRelease, Runtime, SubmitBatch,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, stream, unique, within};
use super::harness::{Harness, ids, one, request};

behaviours!($ transport_quarantine!, transport: Backend, [
    quarantine_keeps_the_payload_and_the_reason,
    quarantine_can_be_repeated,
    who_has_failed_less_often_by_now_is_not_quarantined,
    quarantine_counts_failures_and_names_the_last_owner,
    quarantined_entries_are_listed_in_pages,
    a_released_entry_is_delivered_again_as_it_was,
    a_release_from_quarantine_can_be_repeated,
    releases_and_drops_are_positional,
    dropped_entries_are_gone_for_good,
    a_whole_quarantine_is_released_in_order,
]);

/// Nothing is lost by it: everything the producer said is kept, and why it was quarantined.
pub async fn quarantine_keeps_the_payload_and_the_reason(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let info = Info::from_json(r#"{"keep":"mé"}"#).expect("valid info");
    let announcement = Announcement::new(stream("poison"), info);
    let batch = SubmitBatch::with_id(unique(), vec![announcement.clone()]);
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
    let quarantined = one(t.quarantined().await);
    assert_eq!(
        (quarantined.entry, quarantined.reason.as_str()),
        (entry, reason)
    );
    assert_eq!(quarantined.last_owner, t.a);
    let fields = quarantined
        .fields
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()));
    assert_eq!(Announcement::from_fields(fields), Ok(announcement));
}

/// A repeat finds the entry gone and quarantines nothing twice.
pub async fn quarantine_can_be_repeated(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
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

/// An owner that was counted as dead can hand back while its entry is being quarantined.
pub async fn who_has_failed_less_often_by_now_is_not_quarantined(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    t.claim_one(&t.b, entry, 6).await;
    assert_eq!(t.failures_at_claim(&t.a, entry, 7).await.count, 2);
    t.hand_back_as(&t.b, entry, 6, None, false).await;
    let quarantine = |min_failures, token| {
        Quarantine::new(
            entry,
            FencingToken(token),
            min_failures,
            "it failed too often",
        )
    };
    let outcomes = [
        (quarantine(2, 7), QuarantineOutcome::FewerFailures),
        (
            quarantine(1, 6),
            QuarantineOutcome::NotOwner {
                seen: FencingToken(7),
            },
        ),
    ];
    for (quarantine, outcome) in outcomes {
        for _ in 0..2 {
            let outcomes = t.quarantine(&t.a, std::slice::from_ref(&quarantine)).await;
            assert_eq!(one(outcomes.expect("quarantine")), outcome);
            let pending = t.pending(entry).await.expect("pending");
            assert_eq!((pending.failures, pending.token), (1, FencingToken(7)));
        }
    }
    assert!(t.quarantined().await.is_empty());
    let enough = t.quarantine(&t.a, &[quarantine(1, 7)]).await;
    assert_eq!(
        one(enough.expect("quarantine")),
        QuarantineOutcome::Quarantined
    );
    t.assert_gone(entry).await;
    let again = t.quarantine(&t.a, &[quarantine(2, 7)]).await;
    assert_eq!(one(again.expect("quarantine")), QuarantineOutcome::Gone);
}

/// What a person wants to know who looks at it.
pub async fn quarantine_counts_failures_and_names_the_last_owner(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    t.hand_back_one(&t.a, entry, 5, true).await;
    t.claim_one(&t.a, entry, 6).await;
    t.claim_one(&t.b, entry, 7).await;
    assert_eq!(
        t.quarantine_one(&t.b, entry, 7, "twice").await,
        QuarantineOutcome::Quarantined
    );
    let quarantined = one(t.quarantined().await);
    assert_eq!(
        (quarantined.failures, quarantined.last_owner),
        (2, t.b.clone())
    );
}

/// In the order of the LBS, whatever the order of quarantining.
pub async fn quarantined_entries_are_listed_in_pages(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let submitted = t.announce(5).await;
    t.take(&t.a, 5).await;
    for n in [3, 0, 4, 1, 2] {
        let outcome = t.quarantine_one(&t.a, submitted[n], 0, "any").await;
        assert_eq!(outcome, QuarantineOutcome::Quarantined);
    }
    let page = async |after, limit| {
        let quarantined = t
            .admin()
            .list_quarantined(after, limit)
            .await
            .expect("list_quarantined");
        quarantined
            .into_iter()
            .map(|quarantined| quarantined.entry)
            .collect::<Vec<_>>()
    };
    assert_eq!(page(EntryId::MIN, 2).await, submitted[..2]);
    assert_eq!(page(submitted[1], 2).await, submitted[2..4]);
    assert_eq!(page(submitted[3], 2).await, submitted[4..]);
    assert!(page(submitted[4], 2).await.is_empty());
}

/// Released, an entry is a new one that says the same and has failed nobody.
pub async fn a_released_entry_is_delivered_again_as_it_was(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let info = Info::from_json(r#"{"keep":"mé, 1:x,"}"#).expect("valid info");
    let announcement = Announcement::new(stream("mended"), info);
    let batch = SubmitBatch::with_id(unique(), vec![announcement.clone()]);
    let entry = t.submit(&batch).await.expect("submit")[0];
    t.take(&t.a, 1).await;
    t.claim_one(&t.a, entry, 5).await;
    t.hand_back_one(&t.a, entry, 5, true).await;
    t.quarantine_one(&t.b, entry, 6, "for now").await;
    let waiting = request(&t.b, 9, Duration::from_secs(60));
    let fetch = async {
        let fetch = t.fetch(&waiting);
        within(&*t.runtime, "a fetch woken by a release", PATIENCE, fetch).await
    };
    let (fetched, released) = future::zip(fetch, t.release_one(entry)).await;
    let QuarantineRelease::Released(new) = released else {
        panic!("{released:?}")
    };
    assert!(new > entry, "{new} is not a new id");
    assert!(t.quarantined().await.is_empty());
    let delivery = one(fetched.expect("fetch").entries);
    assert_eq!((delivery.entry, delivery.content), (new, Ok(announcement)));
    t.assert_gone(entry).await;
    let pending = t.pending(new).await.expect("pending");
    assert_eq!(
        (pending.token, pending.handed_back, pending.failures),
        (FencingToken::NONE, false, 0)
    );
    assert_eq!(
        t.complete_one(&t.b, new, 0).await,
        CompleteOutcome::Completed
    );
}

/// The answer may have been lost: the repeat appends nothing, and finds the new id.
pub async fn a_release_from_quarantine_can_be_repeated(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    t.quarantine_one(&t.a, entry, 5, "any").await;
    // Twice in one call, too.
    let twice = t.admin().release_quarantined(&[entry, entry]).await;
    let twice = twice.expect("release_quarantined");
    let QuarantineRelease::Released(new) = twice[0] else {
        panic!("{twice:?}")
    };
    assert_eq!(twice[1], twice[0]);
    for _ in 0..2 {
        assert_eq!(t.release_one(entry).await, twice[0]);
        assert_eq!(t.undelivered().await, [new]);
    }
    // Also once the new entry is gone, and when it was quarantined itself.
    assert_eq!(ids(&t.take(&t.b, 9).await), [new]);
    t.quarantine_one(&t.b, new, 0, "again").await;
    assert_eq!(t.release_one(entry).await, twice[0]);
    assert!(t.undelivered().await.is_empty());
    assert_eq!(one(t.quarantined().await).entry, new);
    let QuarantineRelease::Released(newer) = t.release_one(new).await else {
        panic!("a quarantined entry can be released, whatever it was before")
    };
    assert!(newer > new);
}

/// Only what is in quarantine is released or dropped, each of a call for itself.
pub async fn releases_and_drops_are_positional(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let pending = t.owned(&t.a, 5).await;
    let (first, second) = (t.owned(&t.a, 5).await, t.owned(&t.a, 5).await);
    let unknown = EntryId::new(1, 1);
    t.quarantine_one(&t.a, first, 5, "any").await;
    t.quarantine_one(&t.a, second, 5, "any").await;
    let releases = t
        .admin()
        .release_quarantined(&[unknown, first, pending])
        .await
        .expect("release_quarantined");
    assert_eq!(releases[0], QuarantineRelease::Gone);
    assert!(matches!(releases[1], QuarantineRelease::Released(_)));
    assert_eq!(releases[2], QuarantineRelease::Gone);
    let entries = [unknown, second, first, pending];
    let drops = t.admin().drop_quarantined(&entries).await;
    assert_eq!(
        drops.expect("drop_quarantined"),
        [false, true, false, false]
    );
    assert!(t.pending(pending).await.is_some());
    assert!(
        t.admin()
            .release_quarantined(&[])
            .await
            .expect("of nothing")
            .is_empty()
    );
    assert!(
        t.admin()
            .drop_quarantined(&[])
            .await
            .expect("of nothing")
            .is_empty()
    );
}

/// Dropped is the one way out of the quarantine that does not lead back.
pub async fn dropped_entries_are_gone_for_good(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    t.quarantine_one(&t.a, entry, 5, "any").await;
    for was_there in [true, false] {
        let dropped = t.admin().drop_quarantined(&[entry]).await;
        assert_eq!(dropped.expect("drop_quarantined"), [was_there]);
    }
    assert!(t.quarantined().await.is_empty());
    assert_eq!(t.release_one(entry).await, QuarantineRelease::Gone);
    t.assert_gone(entry).await;
}

/// More than fit into one request.
pub async fn a_whole_quarantine_is_released_in_order(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let submitted = t.announce(350).await;
    t.take(&t.a, 350).await;
    let quarantined: Vec<Quarantine> = submitted
        .iter()
        .map(|entry| Quarantine::new(*entry, FencingToken::NONE, 0, "any"))
        .collect();
    t.quarantine(&t.a, &quarantined).await.expect("quarantine");
    let released: Vec<EntryId> = t
        .admin()
        .release_quarantined(&submitted)
        .await
        .expect("release_quarantined")
        .into_iter()
        .map(|release| match release {
            QuarantineRelease::Released(new) => new,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(released.is_sorted() && released[0] > submitted[349]);
    assert_eq!(t.undelivered().await, released);
    assert!(t.quarantined().await.is_empty());
}
