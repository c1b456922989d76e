//! How often owners failed on an entry: what counts, and what is forgotten.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{FencingToken, HandBackOutcome, Runtime, Transport};

use super::super::support::pass;
use super::tool::{Tool, claimed, fenced, stale};

/// An owner that is replaced without having handed back has crashed, once.
pub async fn a_crash_counts_a_failure_once(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.a, 1));
    assert_eq!(
        t.claim_one(&t.b, entry, 6).await,
        claimed(&t.b, 1),
        "a repeat counts nothing"
    );
    assert_eq!(t.claim_one(&t.a, entry, 5).await, stale(6));
    assert_eq!(t.claim_one(&t.a, entry, 7).await, claimed(&t.b, 2));
    assert_eq!(t.pending(entry).await.expect("pending").failures, 2);
    // Also if it comes back to a consumer of the same name.
    assert_eq!(t.claim_one(&t.a, entry, 8).await, claimed(&t.a, 3));
}

/// Giving up in good order is no failure, unless the owner says that it is one.
pub async fn a_hand_back_counts_a_failure_only_if_it_says_so(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    t.hand_back_one(&t.a, entry, 5, false).await;
    assert_eq!(t.pending(entry).await.expect("pending").failures, 0);
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.a, 0));
    t.hand_back_one(&t.b, entry, 6, true).await;
    assert_eq!(t.pending(entry).await.expect("pending").failures, 1);
    assert_eq!(
        t.claim_one(&t.a, entry, 7).await,
        claimed(&t.b, 1),
        "not for the claim as well"
    );
    let seen = FencingToken(7);
    let late = t.hand_back_one(&t.b, entry, 6, true).await;
    assert_eq!(late, HandBackOutcome::NotOwner { seen });
    assert_eq!(t.pending(entry).await.expect("pending").failures, 1);
}

/// For how long it has rested since, everybody can see; a repeat starts nothing anew.
pub async fn a_failed_hand_back_starts_the_idle_time_anew(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    let idle = async || t.pending(entry).await.expect("pending").idle;
    pass(&*t.runtime, Duration::from_millis(300)).await;
    let before = idle().await;
    t.hand_back_one(&t.a, entry, 5, true).await;
    let after = idle().await;
    assert!(after < before, "idle {after:?} after it, {before:?} before");
    pass(&*t.runtime, Duration::from_millis(300)).await;
    t.hand_back_one(&t.a, entry, 5, true).await;
    let rested = idle().await;
    assert!(
        rested >= Duration::from_millis(290) && rested < Duration::from_secs(60),
        "idle {rested:?}, 300 ms after it"
    );
}

/// An owner that has held an entry for long has what happened before forgotten.
pub async fn an_owner_clears_the_failures_before_it(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entries = [t.owned(&t.a, 5).await, t.owned(&t.a, 6).await];
    for entry in entries {
        assert_eq!(t.claim_one(&t.b, entry, 7).await, claimed(&t.a, 1));
    }
    let before = t.pending(entries[0]).await.expect("pending");
    let owners = [fenced(entries[0], 7)];
    for _ in 0..2 {
        t.clear_failures(&owners).await.expect("clear_failures");
    }
    let after = t.pending(entries[0]).await.expect("pending");
    assert_eq!(after.failures, 0);
    assert_eq!(
        (after.token, after.handed_back, &after.consumer),
        (before.token, before.handed_back, &before.consumer)
    );
    assert_eq!(t.pending(entries[1]).await.expect("pending").failures, 1);
    // It can fail itself.
    assert_eq!(t.claim_one(&t.a, entries[0], 8).await, claimed(&t.b, 1));
    t.complete(&t.a, &[fenced(entries[0], 8)])
        .await
        .expect("complete");
    t.clear_failures(&[fenced(entries[0], 8)])
        .await
        .expect("gone is no error");
    t.assert_gone(entries[0]).await;
}

/// A late call of an earlier owner, or one from before the hand back, forgets nothing;
/// nor does one who never claimed it.
pub async fn only_the_owner_clears_failures(
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
) {
    let t = Tool::new(runtime, transport).await;
    let entry = t.owned(&t.a, 5).await;
    t.claim_one(&t.b, entry, 6).await;
    let failures = async || t.pending(entry).await.expect("pending").failures;
    for token in [0, 5, 7] {
        t.clear_failures(&[fenced(entry, token)])
            .await
            .expect("clear_failures");
        assert_eq!(failures().await, 1, "with token {token}");
    }
    assert_eq!(t.claim_one(&t.a, entry, 5).await, stale(6));
    t.hand_back_one(&t.b, entry, 6, true).await;
    t.clear_failures(&[fenced(entry, 6)])
        .await
        .expect("clear_failures");
    assert_eq!(failures().await, 2, "after the hand back");
}
