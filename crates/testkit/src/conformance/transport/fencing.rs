//! What the greatest token of an entry allows, and what it refuses.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    Backend, ClaimOutcome, CompleteOutcome, EntryId, FencingToken, HandBackOutcome,
    HandBackRequest, Quarantine, QuarantineOutcome, Runtime,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, consumer, pass, within};
use super::harness::{Harness, but_idle, claimed, counted, fenced, ids, listed, stale};

behaviours!($ transport_fencing!, transport: Backend, [
    a_claim_remembers_its_token,
    a_claim_resets_the_idle_time,
    a_claim_with_the_same_token_can_be_repeated,
    a_claim_with_the_same_token_takes_a_moved_entry_back,
    a_greater_token_claims_from_whichever_consumer,
    a_claim_takes_an_entry_that_is_pending_at_nobody,
    a_lower_token_changes_nothing,
    a_delayed_claim_loses_against_the_next_owner,
    a_delayed_claim_after_a_hand_back_changes_nothing,
    a_hand_back_leaves_the_entry_to_greater_tokens_only,
    a_hand_back_can_be_repeated,
    racing_claims_end_at_the_greatest_token,
    completed_entries_are_gone_for_good,
    whoever_has_the_entry_pending_the_token_decides,
    a_token_above_the_remembered_one_fits,
    no_token_fits_only_entries_that_were_never_claimed,
    an_owner_completes_an_entry_that_is_pending_at_nobody,
    results_are_positional,
    large_batches_are_answered_whole,
]);

/// A claim with a greater token than any before is granted and remembered.
pub async fn a_claim_remembers_its_token(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    // As large as tokens get: microseconds since 1970, and far into the future; nanoseconds,
    // which no floating-point number tells apart; and the greatest.
    let greatest = FencingToken::LIMIT.0 - 1;
    let nanoseconds = 1_800_000_000_000_000_001;
    for token in [
        1,
        1_800_000_000_000_001,
        (1 << 53) - 1,
        nanoseconds,
        greatest,
    ] {
        let entry = t.fresh(&t.a).await;
        assert_eq!(t.claim_one(&t.a, entry, token).await, claimed(&t.a, 0));
        let pending = t.pending(entry).await.expect("pending");
        assert_eq!(pending.token, FencingToken(token));
        assert_eq!(
            (pending.consumer, pending.handed_back, pending.failures),
            (Some(t.a.clone()), false, 0)
        );
        assert_eq!(t.claim_one(&t.b, entry, token - 1).await, stale(token));
    }
}

/// The owner keeps its entry looking fresh by claiming it again.
pub async fn a_claim_resets_the_idle_time(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    for consumer in [&t.a, &t.b] {
        pass(&*t.runtime, Duration::from_millis(300)).await;
        let before = t.pending(entry).await.expect("pending").idle;
        assert!(
            before >= Duration::from_millis(290),
            "idle {before:?} after 300 ms"
        );
        let token = if *consumer == t.a { 5 } else { 6 };
        t.claim_one(consumer, entry, token).await;
        let after = t.pending(entry).await.expect("pending").idle;
        assert!(
            after < before,
            "idle {after:?} after a claim, {before:?} before"
        );
    }
}

/// The repeat of a claim is a claim, and counts nothing.
pub async fn a_claim_with_the_same_token_can_be_repeated(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    for _ in 0..3 {
        assert_eq!(t.claim_one(&t.a, entry, 5).await, claimed(&t.a, 0));
    }
    assert_eq!(t.pending(entry).await.expect("pending").failures, 0);
}

/// An entry that somebody moved by other means is still its token's owner's.
pub async fn a_claim_with_the_same_token_takes_a_moved_entry_back(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    // Who claims with the owner's token is the owner, under whichever name.
    assert_eq!(t.claim_one(&t.b, entry, 5).await, claimed(&t.a, 0));
    assert_eq!(
        t.pending(entry).await.expect("pending").consumer,
        Some(t.b.clone())
    );
    assert_eq!(t.claim_one(&t.a, entry, 5).await, claimed(&t.b, 0));
    assert_eq!(
        t.pending(entry).await.expect("pending").consumer,
        Some(t.a.clone())
    );
}

/// From its owner, and from a consumer that only fetched it.
pub async fn a_greater_token_claims_from_whichever_consumer(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let fetched = t.fresh(&t.a).await;
    t.claim_unowned(&t.b, fetched, 1).await;
    let owned = t.owned(&t.a, 5).await;
    assert!(matches!(
        t.claim_one(&t.b, owned, 9).await,
        ClaimOutcome::Claimed { from: Some(from), .. } if from == t.a
    ));
    let pending = t.pending(owned).await.expect("pending");
    assert_eq!(
        (pending.consumer, pending.token),
        (Some(t.b.clone()), FencingToken(9))
    );
    assert!(
        t.list_all(Some(&t.a), 10).await.is_empty(),
        "it is pending at one consumer only"
    );
    assert_eq!(listed(&t.list_all(Some(&t.b), 10).await), [fetched, owned]);
}

/// As after the group was made anew: the entry is there, and nobody has it.
pub async fn a_claim_takes_an_entry_that_is_pending_at_nobody(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.announce(1).await[0];
    t.claim_unowned(&t.a, entry, 5).await;
    let pending = t.pending(entry).await.expect("pending");
    assert_eq!(
        (pending.consumer, pending.token),
        (Some(t.a.clone()), FencingToken(5))
    );
    assert_eq!(t.claim_one(&t.b, entry, 4).await, stale(5));
    assert_eq!(
        t.complete_one(&t.a, entry, 5).await,
        CompleteOutcome::Completed
    );
    t.assert_gone(entry).await;
    assert!(
        t.take(&t.b, 10).await.is_empty(),
        "delivered after it was completed"
    );
}

/// Whatever it wants to do, and whoever it is.
pub async fn a_lower_token_changes_nothing(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    for handed_back in [false, true] {
        let entry = t.owned(&t.a, 5).await;
        if handed_back {
            t.hand_back_one(&t.a, entry, 5, false).await;
        }
        pass(&*t.runtime, Duration::from_millis(50)).await;
        let before = t.pending(entry).await.expect("pending");
        let seen = FencingToken(5);
        for consumer in [&t.a, &t.b] {
            for token in [0, 1, 4] {
                assert_eq!(t.claim_one(consumer, entry, token).await, stale(5));
                let complete = t.complete_one(consumer, entry, token).await;
                assert_eq!(complete, CompleteOutcome::NotOwner { seen });
                let hand_back = t.hand_back_one(consumer, entry, token, true).await;
                assert_eq!(hand_back, HandBackOutcome::NotOwner { seen });
                let quarantine = t.quarantine_one(consumer, entry, token, "stale").await;
                assert_eq!(quarantine, QuarantineOutcome::NotOwner { seen });
            }
        }
        let after = t.pending(entry).await.expect("pending");
        assert!(after.idle >= before.idle, "its idle time was reset");
        assert_eq!(but_idle(&after), but_idle(&before));
        assert!(t.quarantined().await.is_empty());
    }
}

/// A claim that was given up executes when the next owner has claimed already.
pub async fn a_delayed_claim_loses_against_the_next_owner(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.fresh(&t.a).await;
    t.claim_unowned(&t.b, entry, 6).await;
    assert_eq!(t.claim_one(&t.a, entry, 5).await, stale(6));
    let pending = t.pending(entry).await.expect("pending");
    assert_eq!(
        (pending.consumer, pending.token, pending.failures),
        (Some(t.b.clone()), FencingToken(6), 0)
    );
}

/// A claim times out, its repeat succeeds, the owner hands back; then the first
/// claim executes. It must not put the entry back at an owner that gave it up.
pub async fn a_delayed_claim_after_a_hand_back_changes_nothing(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(
        t.hand_back_one(&t.a, entry, 5, false).await,
        HandBackOutcome::HandedBack
    );
    let before = t.pending(entry).await.expect("pending");
    assert_eq!(t.claim_one(&t.a, entry, 5).await, stale(5));
    let after = t.pending(entry).await.expect("pending");
    assert_eq!(but_idle(&after), but_idle(&before));
    assert!(after.handed_back);
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.a, 0));
}

/// Handed back: free for a greater token, closed to this one and lower ones.
pub async fn a_hand_back_leaves_the_entry_to_greater_tokens_only(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(
        t.hand_back_one(&t.a, entry, 5, false).await,
        HandBackOutcome::HandedBack
    );
    let pending = t
        .pending(entry)
        .await
        .expect("a hand back does not remove it");
    assert_eq!(
        (pending.token, pending.handed_back),
        (FencingToken(5), true)
    );
    for token in [0, 4, 5] {
        assert_eq!(t.claim_one(&t.b, entry, token).await, stale(5));
    }
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.a, 0));
    let pending = t.pending(entry).await.expect("pending");
    assert_eq!(
        (pending.consumer, pending.handed_back),
        (Some(t.b.clone()), false)
    );
    // The new owner claims again, as owners do: it has given nothing up.
    assert_eq!(t.claim_one(&t.b, entry, 6).await, claimed(&t.b, 0));
    let seen = FencingToken(6);
    assert_eq!(
        t.hand_back_one(&t.a, entry, 5, false).await,
        HandBackOutcome::NotOwner { seen }
    );
    assert!(
        !t.pending(entry).await.expect("pending").handed_back,
        "a late hand back took effect"
    );
}

/// A repeat is a hand back, and counts a failure no second time.
pub async fn a_hand_back_can_be_repeated(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    for failed in [false, true] {
        let entry = t.owned(&t.a, 5).await;
        for _ in 0..3 {
            let outcome = t.hand_back_one(&t.a, entry, 5, failed).await;
            assert_eq!(outcome, HandBackOutcome::HandedBack);
        }
        assert_eq!(
            t.pending(entry).await.expect("pending").failures,
            u32::from(failed)
        );
        t.complete_one(&t.a, entry, 6).await;
        assert_eq!(
            t.hand_back_one(&t.a, entry, 6, failed).await,
            HandBackOutcome::Gone
        );
    }
}

/// Ten consumers with ten tokens at once.
pub async fn racing_claims_end_at_the_greatest_token(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    for _ in 0..5 {
        let entry = t.fresh(&t.a).await;
        let (send, receive) = async_channel::unbounded();
        for n in 1..=10_u64 {
            // Not in the order of their tokens.
            let token = n * 7 % 11;
            let (t, send, me) = (t.clone(), send.clone(), consumer(&format!("racer-{token}")));
            t.runtime.clone().spawn(Box::pin(async move {
                let outcome = t.claim_one(&me, entry, token).await;
                let _ = send.send((token, outcome)).await;
            }));
        }
        drop(send);
        while let Ok((token, outcome)) =
            within(&*t.runtime, "ten racers", PATIENCE, receive.recv()).await
        {
            match outcome {
                ClaimOutcome::Claimed { .. } => {}
                ClaimOutcome::Stale { seen } => {
                    assert!(seen > FencingToken(token), "{seen} refused {token}")
                }
                other => panic!("{entry}: {other:?}"),
            }
        }
        let pending = t.pending(entry).await.expect("pending");
        assert_eq!(
            (pending.consumer, pending.token),
            (Some(consumer("racer-10")), FencingToken(10))
        );
    }
}

/// Gone from what is pending, from what is to be delivered, and from every call.
pub async fn completed_entries_are_gone_for_good(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(
        t.complete_one(&t.a, entry, 5).await,
        CompleteOutcome::Completed
    );
    t.assert_gone(entry).await;
    // By its owner, whose first reply was lost, and by others.
    for (consumer, token) in [(&t.a, 5), (&t.b, 0), (&t.b, 9)] {
        assert_eq!(
            t.complete_one(consumer, entry, token).await,
            CompleteOutcome::Gone
        );
        assert_eq!(
            t.hand_back_one(consumer, entry, token, true).await,
            HandBackOutcome::Gone
        );
        let outcome = t.quarantine_one(consumer, entry, token, "gone").await;
        assert_eq!(outcome, QuarantineOutcome::Gone);
        assert_eq!(
            t.claim_one(consumer, entry, token).await,
            ClaimOutcome::Gone
        );
    }
    let never = EntryId::new(1, 1);
    assert_eq!(t.claim_one(&t.a, never, 9).await, ClaimOutcome::Gone);
    assert_eq!(t.complete_one(&t.a, never, 9).await, CompleteOutcome::Gone);
    assert!(t.take(&t.b, 10).await.is_empty());
    assert!(t.quarantined().await.is_empty());
}

/// An owner whose entry was moved by somebody without a token is still the owner.
pub async fn whoever_has_the_entry_pending_the_token_decides(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let completed = t.owned(&t.a, 5).await;
    assert_eq!(
        t.complete_one(&t.b, completed, 5).await,
        CompleteOutcome::Completed
    );
    let handed_back = t.owned(&t.a, 5).await;
    let outcome = t.hand_back_one(&t.b, handed_back, 5, false).await;
    assert_eq!(outcome, HandBackOutcome::HandedBack);
    let quarantined = t.owned(&t.a, 5).await;
    let outcome = t.quarantine_one(&t.b, quarantined, 5, "moved").await;
    assert_eq!(outcome, QuarantineOutcome::Quarantined);
}

/// The remembered token is below the owner's where writes were lost.
pub async fn a_token_above_the_remembered_one_fits(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let completed = t.owned(&t.a, 5).await;
    assert_eq!(
        t.complete_one(&t.a, completed, 8).await,
        CompleteOutcome::Completed
    );
    let quarantined = t.owned(&t.a, 5).await;
    assert_eq!(
        t.quarantine_one(&t.a, quarantined, 8, "above").await,
        QuarantineOutcome::Quarantined
    );
    let entry = t.owned(&t.a, 5).await;
    assert_eq!(
        t.hand_back_one(&t.a, entry, 8, false).await,
        HandBackOutcome::HandedBack
    );
    // And is remembered from then on.
    assert_eq!(t.claim_one(&t.b, entry, 7).await, stale(8));
    assert_eq!(t.claim_one(&t.b, entry, 8).await, stale(8));
    assert_eq!(t.claim_one(&t.b, entry, 9).await, claimed(&t.a, 0));
}

/// `FencingToken::NONE` is for those that could not be read.
pub async fn no_token_fits_only_entries_that_were_never_claimed(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let fresh = t.fresh(&t.a).await;
    assert_eq!(
        t.complete_one(&t.a, fresh, 0).await,
        CompleteOutcome::Completed
    );
    let fresh = t.fresh(&t.a).await;
    assert_eq!(
        t.quarantine_one(&t.a, fresh, 0, "bad").await,
        QuarantineOutcome::Quarantined
    );
    let owned = t.owned(&t.a, 1).await;
    let seen = FencingToken(1);
    assert_eq!(
        t.complete_one(&t.a, owned, 0).await,
        CompleteOutcome::NotOwner { seen }
    );
    let outcome = t.hand_back_one(&t.a, owned, 0, false).await;
    assert_eq!(outcome, HandBackOutcome::NotOwner { seen });
    let outcome = t.quarantine_one(&t.a, owned, 0, "bad").await;
    assert_eq!(outcome, QuarantineOutcome::NotOwner { seen });
    assert!(t.pending(owned).await.is_some());
}

/// As after the group was made anew while an owner worked.
pub async fn an_owner_completes_an_entry_that_is_pending_at_nobody(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(3).await;
    assert_eq!(
        t.complete_one(&t.a, entries[1], 5).await,
        CompleteOutcome::Completed
    );
    assert_eq!(ids(&t.take(&t.b, 10).await), [entries[0], entries[2]]);
    t.assert_gone(entries[1]).await;
}

/// One result per argument, in their order, whatever became of the others.
pub async fn results_are_positional(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (fresh, owned, gone) = (
        t.fresh(&t.a).await,
        t.owned(&t.a, 5).await,
        t.owned(&t.a, 5).await,
    );
    t.complete_one(&t.a, gone, 5).await;
    let seen = FencingToken(5);

    let claims = [
        fenced(owned, 4),
        fenced(fresh, 1),
        fenced(gone, 9),
        fenced(owned, 5),
    ];
    let outcomes = t.claim(&t.a, &claims).await.expect("claim");
    assert_eq!(
        outcomes,
        [
            stale(5),
            claimed(&t.a, 0),
            ClaimOutcome::Gone,
            claimed(&t.a, 0)
        ]
    );

    let back = |entry, token| HandBackRequest::new(entry, FencingToken(token));
    let backs = [back(gone, 5), back(owned, 4), back(fresh, 1)];
    let outcomes = t.hand_back(&t.a, &backs).await.expect("hand_back");
    let not_owner = HandBackOutcome::NotOwner { seen };
    assert_eq!(
        outcomes,
        [
            HandBackOutcome::Gone,
            not_owner,
            HandBackOutcome::HandedBack
        ]
    );

    let quarantine = |entry, token| Quarantine::new(entry, FencingToken(token), 0, "any");
    let requests = [
        quarantine(gone, 5),
        quarantine(fresh, 2),
        quarantine(owned, 4),
    ];
    let outcomes = t.quarantine(&t.a, &requests).await.expect("quarantine");
    let not_owner = QuarantineOutcome::NotOwner { seen };
    assert_eq!(
        outcomes,
        [
            QuarantineOutcome::Gone,
            QuarantineOutcome::Quarantined,
            not_owner
        ]
    );

    let done = [fenced(owned, 4), fenced(gone, 5), fenced(owned, 5)];
    let outcomes = t.complete(&t.a, &done).await.expect("complete");
    let not_owner = CompleteOutcome::NotOwner { seen };
    assert_eq!(
        outcomes,
        [not_owner, CompleteOutcome::Gone, CompleteOutcome::Completed]
    );

    assert!(t.claim(&t.a, &[]).await.expect("claim").is_empty());
    assert!(t.hand_back(&t.a, &[]).await.expect("hand_back").is_empty());
    assert!(
        t.quarantine(&t.a, &[])
            .await
            .expect("quarantine")
            .is_empty()
    );
    assert!(t.complete(&t.a, &[]).await.expect("complete").is_empty());
}

/// A batch may be larger than what a server does at a time.
pub async fn large_batches_are_answered_whole(runtime: Arc<dyn Runtime>, backend: Backend) {
    const N: usize = 1_200;
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(N).await;
    assert!(entries.is_sorted_by(|low, high| low < high));
    let mut fetched = Vec::new();
    while fetched.len() < N {
        let page = ids(&t.take(&t.a, N).await);
        assert!(!page.is_empty(), "{} of {N} delivered", fetched.len());
        fetched.extend(page);
    }
    assert_eq!(fetched, entries);
    assert_eq!(listed(&t.list_all(None, 500).await), entries);
    // Every third claim is a stale one.
    let owned: Vec<_> = entries.iter().map(|entry| fenced(*entry, 5)).collect();
    for outcome in t.claim(&t.a, &owned).await.expect("claim") {
        assert_eq!(outcome, claimed(&t.a, 0));
    }
    let token = |n| if n % 3 == 0 { 4 } else { 6 };
    let mixed: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(n, entry)| fenced(*entry, token(n)))
        .collect();
    let outcomes = t.claim(&t.b, &mixed).await.expect("claim");
    assert_eq!(outcomes.len(), N);
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(
            counted(outcome),
            if n % 3 == 0 {
                stale(5)
            } else {
                claimed(&t.a, 1)
            },
            "claim {n}"
        );
    }
    let done: Vec<_> = entries.iter().map(|entry| fenced(*entry, 6)).collect();
    let outcomes = t.complete(&t.b, &done).await.expect("complete");
    assert_eq!(outcomes, vec![CompleteOutcome::Completed; N]);
    assert!(t.list_all(None, 500).await.is_empty());
}
