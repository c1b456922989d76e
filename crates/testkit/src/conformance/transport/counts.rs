//! How much there is.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{Backend, CompleteOutcome, QuarantineOutcome, Runtime, ServiceCounts};

use super::super::behaviours;
use super::super::support::pass;
use super::harness::{Harness, ids};

behaviours!($ transport_counts!, transport: Backend, [
    a_service_that_nobody_has_used_has_nothing_to_count,
    what_nobody_has_had_waits_and_what_consumers_have_is_pending,
    without_a_group_all_that_was_announced_waits,
    the_oldest_that_waits_grows_older_until_somebody_has_it,
    what_was_withdrawn_among_those_that_wait_leaves_no_wrong_number,
    what_was_withdrawn_right_behind_what_was_taken_leaves_no_wrong_number,
    the_quarantine_is_counted,
    counting_changes_nothing,
]);

/// Waiting, if that is known, whether there is an oldest, pending and quarantined.
type Seen = (Option<u64>, bool, u64, u64);

async fn counts(t: &Harness) -> ServiceCounts {
    t.admin().counts().await.expect("counts")
}

async fn seen(t: &Harness) -> Seen {
    let counts = counts(t).await;
    let has_oldest = counts.oldest_waiting.is_some();
    (
        counts.waiting,
        has_oldest,
        counts.pending,
        counts.quarantined,
    )
}

/// Neither before it was prepared nor after is that an error.
pub async fn a_service_that_nobody_has_used_has_nothing_to_count(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::unprepared(runtime, backend);
    assert_eq!(seen(&t).await, (Some(0), false, 0, 0));
    t.prepare().await.expect("prepare");
    assert_eq!(seen(&t).await, (Some(0), false, 0, 0));
}

/// An entry is the one or the other until it is completed.
pub async fn what_nobody_has_had_waits_and_what_consumers_have_is_pending(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(5).await;
    assert_eq!(seen(&t).await, (Some(5), true, 0, 0));
    t.take(&t.a, 2).await;
    t.take(&t.b, 1).await;
    assert_eq!(seen(&t).await, (Some(2), true, 3, 0));
    t.claim_one(&t.a, entries[0], 5).await;
    let completed = t.complete_one(&t.a, entries[0], 5).await;
    assert_eq!(completed, CompleteOutcome::Completed);
    assert_eq!(seen(&t).await, (Some(2), true, 2, 0));
    // It is somebody's still, and nobody has to be told of it.
    t.claim_one(&t.a, entries[1], 5).await;
    t.hand_back_one(&t.a, entries[1], 5, false).await;
    assert_eq!(seen(&t).await, (Some(2), true, 2, 0));
    t.take(&t.b, 9).await;
    assert_eq!(seen(&t).await, (Some(0), false, 4, 0));
}

/// A producer may come first.
pub async fn without_a_group_all_that_was_announced_waits(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::unprepared(runtime, backend);
    t.announce(3).await;
    assert_eq!(seen(&t).await, (Some(3), true, 0, 0));
}

/// Its age is the time since it was announced, by one clock.
pub async fn the_oldest_that_waits_grows_older_until_somebody_has_it(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    const STEP: Duration = Duration::from_millis(100);
    // Ids have whole milliseconds.
    const ROUNDING: Duration = Duration::from_millis(1);
    let t = Harness::new(runtime, backend).await;
    let begun = t.runtime.now();
    t.announce(1).await;
    pass(&*t.runtime, STEP).await;
    t.announce(1).await;
    pass(&*t.runtime, STEP).await;
    let age = counts(&t).await.oldest_waiting.expect("two wait");
    assert!(age >= STEP * 2 - ROUNDING, "{age:?}");
    let most = t.runtime.now().saturating_since(begun) + ROUNDING;
    assert!(age <= most, "{age:?}, and the test took {most:?}");
    t.take(&t.a, 1).await;
    let second = counts(&t).await.oldest_waiting.expect("one waits");
    assert!(second >= STEP - ROUNDING, "{second:?}");
    let least = t.runtime.now().saturating_since(begun) - STEP;
    assert!(
        second <= least + ROUNDING,
        "{second:?}, of at most {least:?}"
    );
}

/// A store that can only estimate then says that it does not know, and not 0.
pub async fn what_was_withdrawn_among_those_that_wait_leaves_no_wrong_number(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(6).await;
    t.take(&t.a, 1).await;
    for withdrawn in [2, 5] {
        t.complete_one(&t.a, entries[withdrawn], 0).await;
    }
    let (waiting, has_oldest, pending, _) = seen(&t).await;
    assert!(
        waiting.is_none_or(|waiting| waiting == 3),
        "{waiting:?} of 3"
    );
    assert!(has_oldest);
    assert_eq!(pending, 1);
    assert_eq!(ids(&t.take(&t.b, 9).await).len(), 3);
    assert_eq!(seen(&t).await, (Some(0), false, 4, 0));
}

/// Redis 7.0 counts one too many from then on.
pub async fn what_was_withdrawn_right_behind_what_was_taken_leaves_no_wrong_number(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(5).await;
    t.take(&t.a, 2).await;
    t.complete_one(&t.a, entries[2], 0).await;
    t.take(&t.a, 1).await;
    let (waiting, has_oldest, pending, _) = seen(&t).await;
    assert!(
        waiting.is_none_or(|waiting| waiting == 1),
        "{waiting:?} of 1"
    );
    assert_eq!((has_oldest, pending), (true, 3));
}

/// It counts apart, and what comes back from it waits again.
pub async fn the_quarantine_is_counted(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (first, second) = (t.owned(&t.a, 5).await, t.owned(&t.a, 6).await);
    for (entry, token) in [(first, 5), (second, 6)] {
        let quarantined = t.quarantine_one(&t.a, entry, token, "bad").await;
        assert_eq!(quarantined, QuarantineOutcome::Quarantined);
    }
    assert_eq!(seen(&t).await, (Some(0), false, 0, 2));
    t.release_one(first).await;
    let (_, waits, _, quarantined) = seen(&t).await;
    assert_eq!((waits, quarantined), (true, 1));
    let dropped = t.admin().drop_quarantined(&[second]).await;
    assert_eq!(dropped.expect("drop_quarantined"), [true]);
    assert_eq!(seen(&t).await.3, 0);
}

/// Each consumer asks again and again.
pub async fn counting_changes_nothing(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let entries = t.announce(4).await;
    t.take(&t.a, 2).await;
    let before = t.pending(entries[0]).await.expect("pending");
    for _ in 0..4 {
        pass(&*t.runtime, Duration::from_millis(50)).await;
        counts(&t).await;
    }
    let after = t.pending(entries[0]).await.expect("pending");
    assert_eq!(after.deliveries, before.deliveries);
    let grown = after.idle.saturating_sub(before.idle);
    // 200 ms less what is lost by rounding to milliseconds twice.
    assert!(grown >= Duration::from_millis(190), "{grown:?}");
    assert_eq!(t.undelivered().await, entries[2..]);
}
