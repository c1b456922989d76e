//! What a pause stops, and what it leaves alone.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    Backend, ClaimOutcome, CompleteOutcome, ErrorKind, Fenced, FencingToken, HandBackOutcome,
    QuarantineOutcome, Runtime,
};

use super::super::behaviours;
use super::super::support::pass;
use super::harness::{Harness, but_idle, claimed, counted, fenced, ids, stale};

behaviours!($ transport_pauses!, transport: Backend, [
    in_a_pause_nobody_becomes_an_owner,
    in_a_pause_owners_go_on,
    who_keeps_what_it_holds_is_never_refused_for_a_pause,
    keeping_is_fenced_as_claiming_is,
    a_pause_begins_once_and_ends_once,
    a_pause_needs_no_group_and_outlives_its_making,
    in_a_pause_a_page_is_refused_only_where_it_must_be,
    the_counts_tell_of_a_pause,
]);

/// Neither of what is fresh nor of what others have left, and a refusal leaves no trace.
pub async fn in_a_pause_nobody_becomes_an_owner(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (fresh, dead) = (t.fresh(&t.a).await, t.owned(&t.a, 5).await);
    let handed_back = t.owned(&t.a, 5).await;
    t.hand_back_one(&t.a, handed_back, 5, true).await;
    let gone = t.owned(&t.a, 5).await;
    t.complete_one(&t.a, gone, 5).await;
    if !pause(&t).await {
        return;
    }
    pass(&*t.runtime, Duration::from_millis(50)).await;
    for entry in [fresh, dead, handed_back] {
        let before = t.pending(entry).await.expect("pending");
        for consumer in [&t.a, &t.b, &t.b] {
            let outcome = t.claim_one(consumer, entry, 9).await;
            assert_eq!(outcome, ClaimOutcome::Paused);
        }
        let after = t.pending(entry).await.expect("pending");
        assert!(after.idle >= before.idle, "its idle time was reset");
        assert_eq!(but_idle(&after), but_idle(&before));
        assert_eq!(after.reasons, before.reasons);
    }
    // What would be refused anyhow is told as ever.
    assert_eq!(t.claim_one(&t.b, dead, 4).await, stale(5));
    assert_eq!(t.claim_one(&t.b, handed_back, 5).await, stale(5));
    assert_eq!(t.claim_one(&t.b, gone, 9).await, ClaimOutcome::Gone);
    // The same token is good after it, and only now the owner's death counts.
    assert!(t.admin().resume().await.expect("resume"));
    t.claim_unowned(&t.b, fresh, 9).await;
    assert_eq!(t.claim_one(&t.b, dead, 9).await, claimed(&t.a, 1));
    assert_eq!(t.claim_one(&t.b, handed_back, 9).await, claimed(&t.a, 1));
}

/// Their claims, and all that ends a lease; and everything that takes nothing.
pub async fn in_a_pause_owners_go_on(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let [kept, moved, completed, handed_back, quarantined] = [
        t.owned(&t.a, 5).await,
        t.owned(&t.a, 5).await,
        t.owned(&t.a, 5).await,
        t.owned(&t.a, 5).await,
        t.owned(&t.a, 5).await,
    ];
    if !pause(&t).await {
        return;
    }
    assert_eq!(t.claim_one(&t.a, kept, 5).await, claimed(&t.a, 0));
    // The owner takes it back from wherever it is pending.
    assert_eq!(t.claim_one(&t.b, moved, 5).await, claimed(&t.a, 0));
    assert_eq!(t.claim_one(&t.a, moved, 5).await, claimed(&t.b, 0));
    assert_eq!(
        t.complete_one(&t.a, completed, 5).await,
        CompleteOutcome::Completed
    );
    t.assert_gone(completed).await;
    assert_eq!(
        t.hand_back_one(&t.a, handed_back, 5, true).await,
        HandBackOutcome::HandedBack
    );
    let pending = t.pending(handed_back).await.expect("pending");
    assert_eq!((pending.handed_back, pending.failures), (true, 1));
    assert_eq!(
        t.quarantine_one(&t.a, quarantined, 5, "bad").await,
        QuarantineOutcome::Quarantined
    );
    assert_eq!(ids_of(&t.quarantined().await), [quarantined]);
    t.clear_failures(&[fenced(kept, 5)])
        .await
        .expect("clear_failures");
    // Announcements and fetches: what is fetched waits for the end of the pause.
    let announced = t.announce(1).await;
    assert_eq!(ids(&t.take(&t.b, 10).await), announced);
    assert_eq!(
        t.claim_one(&t.b, announced[0], 9).await,
        ClaimOutcome::Paused
    );
}

/// Not even where nothing is known of its token, as after the record was lost.
pub async fn who_keeps_what_it_holds_is_never_refused_for_a_pause(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let (owned, forgotten) = (t.owned(&t.a, 5).await, t.fresh(&t.a).await);
    if !pause(&t).await {
        return;
    }
    for (entry, token) in [(owned, 5), (owned, 7), (forgotten, 7)] {
        let outcome = keep(&t, fenced(entry, token)).await;
        assert!(
            matches!(outcome, ClaimOutcome::Claimed { .. }),
            "{outcome:?}"
        );
        let pending = t.pending(entry).await.expect("pending");
        assert_eq!(pending.token, FencingToken(token), "it is remembered");
        assert_eq!(pending.consumer, Some(t.a.clone()));
    }
}

/// In a pause and without one.
pub async fn keeping_is_fenced_as_claiming_is(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (owned, handed_back) = (t.owned(&t.a, 5).await, t.owned(&t.a, 5).await);
    t.hand_back_one(&t.a, handed_back, 5, false).await;
    let gone = t.owned(&t.a, 5).await;
    t.complete_one(&t.a, gone, 5).await;
    for pauses in [false, true] {
        if pauses && !pause(&t).await {
            return;
        }
        assert_eq!(keep(&t, fenced(owned, 4)).await, stale(5));
        assert_eq!(keep(&t, fenced(owned, 5)).await, claimed(&t.a, 0));
        assert_eq!(keep(&t, fenced(handed_back, 5)).await, stale(5));
        assert_eq!(keep(&t, fenced(gone, 5)).await, ClaimOutcome::Gone);
    }
}

/// A repeat changes nothing, and says so.
pub async fn a_pause_begins_once_and_ends_once(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    assert_eq!(t.paused().await.expect("paused"), None);
    if !pause(&t).await {
        return;
    }
    let begun = t.paused().await.expect("paused").expect("it is paused");
    assert_eq!(begun.reason, REASON);
    assert!(begun.since_ms.is_some_and(|ms| ms > 0));
    pass(&*t.runtime, Duration::from_millis(20)).await;
    for reason in ["another", ""] {
        assert!(!t.admin().pause(reason).await.expect("pause"), "again");
        assert_eq!(t.paused().await.expect("paused"), Some(begun.clone()));
    }
    assert!(t.admin().resume().await.expect("resume"));
    for _ in 0..2 {
        assert_eq!(t.paused().await.expect("paused"), None);
        assert!(!t.admin().resume().await.expect("resume"), "again");
    }
    assert!(t.admin().pause("").await.expect("pause"), "another one");
    let second = t.paused().await.expect("paused").expect("it is paused");
    assert_eq!(second.reason, "");
    assert!(second.since_ms >= begun.since_ms);
}

/// A service can be paused before its first consumer starts.
pub async fn a_pause_needs_no_group_and_outlives_its_making(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::unprepared(runtime, backend);
    assert_eq!(t.paused().await.expect("paused"), None);
    if !pause(&t).await {
        return;
    }
    assert!(t.paused().await.expect("paused").is_some());
    t.prepare().await.expect("prepare");
    let entry = t.fresh(&t.a).await;
    assert_eq!(t.claim_one(&t.a, entry, 5).await, ClaimOutcome::Paused);
    assert!(t.admin().resume().await.expect("resume"));
    t.claim_unowned(&t.a, entry, 5).await;
}

/// Results are positional, and what is refused stops nothing else.
pub async fn in_a_pause_a_page_is_refused_only_where_it_must_be(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    const N: usize = 600;
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(N).await;
    let mut fetched = 0;
    while fetched < N {
        fetched += t.take(&t.a, N).await.len();
    }
    let of = |rest: usize| {
        let these = entries
            .iter()
            .enumerate()
            .filter(move |(n, _)| n % 3 == rest);
        these
            .map(|(_, entry)| fenced(*entry, 5))
            .collect::<Vec<_>>()
    };
    t.claim(&t.a, &of(0)).await.expect("claim");
    t.complete(&t.a, &of(2)).await.expect("complete");
    if !pause(&t).await {
        return;
    }
    let all: Vec<_> = entries.iter().map(|entry| fenced(*entry, 5)).collect();
    let outcomes = t.claim(&t.a, &all).await.expect("claim");
    assert_eq!(outcomes.len(), N);
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let expected = match n % 3 {
            0 => claimed(&t.a, 0),
            1 => ClaimOutcome::Paused,
            _ => ClaimOutcome::Gone,
        };
        assert_eq!(counted(outcome), expected, "the {n}th");
    }
}

const REASON: &str = "for a migration: \"now\", и так";

/// Pauses the service; `false` if its backend cannot, and says so.
/// What waits in it is no reason for an alarm.
pub async fn the_counts_tell_of_a_pause(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    t.announce(2).await;
    let is_paused = async || t.admin().counts().await.expect("counts").is_paused;
    assert!(!is_paused().await);
    if !pause(&t).await {
        return;
    }
    let counts = t.admin().counts().await.expect("counts");
    assert!(counts.is_paused && counts.oldest_waiting.is_some());
    assert!(t.admin().resume().await.expect("resume"));
    assert!(!is_paused().await);
}

async fn pause(t: &Harness) -> bool {
    match t.admin().pause(REASON).await {
        Ok(is_new) => {
            assert!(is_new, "it was not paused before");
            true
        }
        Err(error) if error.kind() == ErrorKind::Environment => {
            let resumed = t.admin().resume().await.map_err(|error| error.kind());
            assert_eq!(resumed, Err(ErrorKind::Environment));
            println!("skipped: cannot pause services");
            false
        }
        Err(error) => panic!("pause: {error:?}"),
    }
}

async fn keep(t: &Harness, held: Fenced) -> ClaimOutcome {
    let outcomes = t.keep(&t.a, &[held]).await.expect("keep");
    counted(super::harness::one(outcomes))
}

fn ids_of(quarantined: &[streamlease_core::Quarantined]) -> Vec<streamlease_core::EntryId> {
    quarantined.iter().map(|kept| kept.entry).collect()
}
