//! How often owners failed on an entry: what counts, and what is forgotten.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{Backend, FencingToken, HandBackOutcome, Runtime};

use super::super::behaviours;
use super::super::support::pass;
use super::harness::{Harness, claimed, fenced, one, stale};

behaviours!($ transport_failures!, transport: Backend, [
    a_crash_counts_a_failure_once,
    a_hand_back_counts_a_failure_only_if_it_says_so,
    a_failed_hand_back_starts_the_idle_time_anew,
    reasons_of_failures_are_kept,
    deaths_are_told_from_what_owners_report,
    a_late_hand_back_takes_the_death_of_its_owner_back,
    a_late_hand_back_can_say_why_it_failed,
    an_owner_clears_the_failures_before_it,
    only_the_owner_clears_failures,
]);

/// An owner that is replaced without having handed back has crashed, once.
pub async fn a_crash_counts_a_failure_once(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
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
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
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

/// The last five reasons, whatever is in them, through claims and into quarantine.
pub async fn reasons_of_failures_are_kept(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    let said = [
        "first",
        "5:x,é\u{0}\n",
        ":1:2",
        &"x".repeat(256),
        "last, said",
    ];
    for (n, reason) in (0..).zip(said) {
        t.hand_back_as(&t.a, entry, 5 + n, Some(reason), true).await;
        let failures = t.failures_at_claim(&t.a, entry, 6 + n).await;
        assert_eq!(failures.count, n as u32 + 1);
        assert_eq!((failures.counted_now, failures.deaths), (false, 0));
        let so_far = &said[..=n as usize];
        assert_eq!(failures.reasons, so_far);
        let shown = t.pending(entry).await.expect("pending").reasons;
        assert_eq!(shown, so_far, "operators see them, too");
    }
    // The owner with 10 dies; who reads that is told by which name to look for it.
    let failures = t.failures_at_claim(&t.b, entry, 11).await;
    assert_eq!((failures.count, failures.counted_now), (6, true));
    assert_eq!(failures.deaths, 1);
    assert_eq!(failures.reasons[..4], said[1..]);
    let death = failures.reasons.last().expect("five are kept");
    assert!(death.contains(t.a.as_str()), "no name in {death:?}");
    assert_eq!(
        t.failures_at_claim(&t.b, entry, 11).await,
        failures,
        "a repeat is told the same"
    );
    t.quarantine_one(&t.b, entry, 11, "six").await;
    let quarantined = one(t.quarantined().await);
    assert_eq!(
        (quarantined.failures, &quarantined.reasons),
        (6, &failures.reasons)
    );
}

/// Deaths are sooner forgotten, so whoever claims is told how many of the kept ones they are.
pub async fn deaths_are_told_from_what_owners_report(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    for token in 6..=7 {
        let failures = t.failures_at_claim(&t.b, entry, token).await;
        let deaths = token as u32 - 5;
        assert_eq!((failures.count, failures.deaths), (deaths, deaths));
    }
    t.hand_back_as(&t.b, entry, 7, Some("said so"), true).await;
    let failures = t.failures_at_claim(&t.a, entry, 8).await;
    assert_eq!((failures.count, failures.deaths), (3, 2));
    // Of so many only the last five are kept, and none of these is what was said.
    for token in 9..=13 {
        t.claim_one(&t.b, entry, token).await;
    }
    let failures = t.failures_at_claim(&t.b, entry, 13).await;
    assert_eq!((failures.count, failures.deaths), (8, 5));
}

/// Who was cut off, and was counted as dead, takes that back as soon as it can.
pub async fn a_late_hand_back_takes_the_death_of_its_owner_back(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.a, 1));
    let before = t.pending(entry).await.expect("pending");
    let seen = FencingToken(6);
    for _ in 0..2 {
        let late = t.hand_back_as(&t.a, entry, 5, None, false).await;
        assert_eq!(late, HandBackOutcome::NotOwner { seen });
        let after = t.pending(entry).await.expect("pending");
        assert_eq!(after.failures, 0);
        assert_eq!(
            (after.token, after.handed_back, &after.consumer),
            (before.token, false, &before.consumer),
            "it is the next owner's all the same"
        );
    }
    assert!(!t.failures_at_claim(&t.b, entry, 6).await.counted_now);
    // Also when others have come and gone since; it takes back its own one alone.
    t.claim_one(&t.a, entry, 7).await;
    t.hand_back_as(&t.a, entry, 7, Some("said so"), true).await;
    t.claim_one(&t.b, entry, 8).await;
    assert_eq!(t.pending(entry).await.expect("pending").failures, 2);
    t.hand_back_as(&t.b, entry, 6, None, false).await;
    let failures = t.failures_at_claim(&t.b, entry, 8).await;
    assert_eq!(
        (failures.count, failures.reasons),
        (1, vec!["said so".into()])
    );
    t.hand_back_as(&t.a, entry, 7, None, false).await;
    t.hand_back_as(&t.a, entry, 5, None, false).await;
    let failures = t.failures_at_claim(&t.b, entry, 8).await;
    assert_eq!(failures.count, 1, "what an owner said stands");
}

/// It lives, but its work had failed when it was cut off: one failure, for that reason.
pub async fn a_late_hand_back_can_say_why_it_failed(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    t.claim_one(&t.b, entry, 6).await;
    for _ in 0..2 {
        t.hand_back_as(&t.a, entry, 5, Some("bad input"), true)
            .await;
        let failures = t.failures_at_claim(&t.b, entry, 6).await;
        assert_eq!((failures.count, failures.counted_now), (1, false));
        assert_eq!(failures.deaths, 0);
        assert_eq!(failures.reasons, ["bad input"]);
    }
}

/// For how long it has rested since, everybody can see; a repeat starts nothing anew.
pub async fn a_failed_hand_back_starts_the_idle_time_anew(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
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
pub async fn an_owner_clears_the_failures_before_it(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
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
pub async fn only_the_owner_clears_failures(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
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
