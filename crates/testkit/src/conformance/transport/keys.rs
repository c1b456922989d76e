//! Batches with a key: what another process repeats.

use std::sync::Arc;

use streamlease_core::{
    Announcement, Backend, CompleteOutcome, EntryId, Info, Runtime, StreamName, SubmitBatch,
    SubmitOutcome,
};

use super::super::behaviours;
use super::super::support::{stream, unique};
use super::harness::{Harness, ids};

behaviours!($ transport_keys!, transport: Backend, [
    with_a_key_each_name_is_announced_once_wherever_it_stands,
    a_name_that_stands_twice_is_announced_twice_with_a_key_too,
    what_a_key_has_announced_is_not_announced_again_once_it_is_gone,
    each_key_announces_for_itself,
    a_key_and_if_absent_go_together,
    a_long_batch_with_a_key_appends_what_is_new_of_it,
]);

/// As one process does it; another has the same key.
fn keyed(key: &str, streams: &[StreamName]) -> SubmitBatch {
    let announce = |stream: &StreamName| Announcement::new(stream.clone(), Info::NONE);
    let announcements = streams.iter().map(announce).collect();
    let mut batch = SubmitBatch::with_key(key, announcements).expect("a key");
    batch.id = unique();
    batch
}

fn key() -> String {
    format!("key {}", unique())
}

fn again(outcomes: &[SubmitOutcome]) -> Vec<SubmitOutcome> {
    let again = |outcome: &SubmitOutcome| match outcome {
        SubmitOutcome::Announced(entry) => SubmitOutcome::AlreadySubmitted(*entry),
        other => *other,
    };
    outcomes.iter().map(again).collect()
}

fn entries(outcomes: &[SubmitOutcome]) -> Vec<EntryId> {
    outcomes.iter().map(|outcome| outcome.entry()).collect()
}

impl Harness {
    async fn outcomes_of(&self, batch: &SubmitBatch) -> Vec<SubmitOutcome> {
        let outcomes = self.backend.submitter.submit(batch).await.expect("submit");
        assert_eq!(outcomes.len(), batch.announcements.len(), "one for each");
        outcomes
    }
}

/// In another order, in another batch, and with others before and between them.
pub async fn with_a_key_each_name_is_announced_once_wherever_it_stands(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let (key, [a, b, c, d]) = (key(), ["a", "b", "c", "d"].map(stream));
    let batch = keyed(&key, &[a.clone(), b.clone()]);
    let first = t.outcomes_of(&batch).await;
    assert!(
        first
            .iter()
            .all(|outcome| matches!(outcome, SubmitOutcome::Announced(_))),
        "{first:?}"
    );
    assert_eq!(t.outcomes_of(&batch).await, first, "the same batch again");
    let known = again(&first);

    let others = [c.clone(), b.clone(), d.clone(), a.clone()];
    let second = t.outcomes_of(&keyed(&key, &others)).await;
    assert_eq!([second[3], second[1]], known[..], "its place has changed");
    let new = [second[0], second[2]];
    assert!(
        new.iter()
            .all(|outcome| matches!(outcome, SubmitOutcome::Announced(_))),
        "{new:?}"
    );
    assert!(new[0].entry() < new[1].entry(), "in order");
    let all = [entries(&first), entries(&new)].concat();
    assert_eq!(ids(&t.take(&t.a, 9).await), all);

    let last = t.outcomes_of(&keyed(&key, &[d, c, b, a])).await;
    let told = [again(&new)[1], again(&new)[0], known[1], known[0]];
    assert_eq!(last, told);
    assert!(t.undelivered().await.is_empty(), "announced twice");
}

/// And once more if it stands there once more.
pub async fn a_name_that_stands_twice_is_announced_twice_with_a_key_too(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let (key, a) = (key(), stream("a"));
    let first = t.outcomes_of(&keyed(&key, &[a.clone(), a.clone()])).await;
    assert_ne!(first[0].entry(), first[1].entry());
    let other = [stream("b"), a.clone(), a.clone(), a];
    let second = t.outcomes_of(&keyed(&key, &other)).await;
    assert_eq!(second[1..3], again(&first)[..]);
    let new = entries(&[second[0], second[3]]);
    assert_eq!(ids(&t.take(&t.a, 9).await), [entries(&first), new].concat());
}

/// Completed, or withdrawn.
pub async fn what_a_key_has_announced_is_not_announced_again_once_it_is_gone(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let (key, a) = (key(), stream("a"));
    let first = t.outcomes_of(&keyed(&key, std::slice::from_ref(&a))).await;
    t.take(&t.a, 1).await;
    assert_eq!(
        t.complete_one(&t.a, first[0].entry(), 1).await,
        CompleteOutcome::Completed
    );
    assert_eq!(t.outcomes_of(&keyed(&key, &[a])).await, again(&first));
    assert!(t.undelivered().await.is_empty(), "announced anew");
}

/// And so do batches without one.
pub async fn each_key_announces_for_itself(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let names = [stream("a"), stream("b")];
    let first = keyed(&key(), &names);
    let mut all = entries(&t.outcomes_of(&first).await);
    all.extend(entries(&t.outcomes_of(&keyed(&key(), &names)).await));
    let plain = SubmitBatch::with_id(first.id, first.announcements.clone());
    all.extend(entries(&t.outcomes_of(&plain).await));
    assert_eq!(ids(&t.take(&t.a, 9).await), all);
    assert_eq!(all.len(), 6);
}

/// What was there when it was first asked for stays the answer.
pub async fn a_key_and_if_absent_go_together(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (key, [a, b, c]) = (key(), ["a", "b", "c"].map(stream));
    let there = t.submit_streams(std::slice::from_ref(&a)).await[0];
    let batch = keyed(&key, &[a.clone(), b.clone()]).if_absent();
    let first = t.outcomes_of(&batch).await;
    assert_eq!(first[0], SubmitOutcome::AlreadyAnnounced(there));
    assert_eq!(t.outcomes_of(&batch).await, first, "the same batch again");
    t.take(&t.a, 9).await;
    for entry in entries(&first) {
        t.complete_one(&t.a, entry, 1).await;
    }
    let other = [c.clone(), b.clone(), a.clone(), c.clone()];
    let second = t.outcomes_of(&keyed(&key, &other).if_absent()).await;
    assert_eq!([second[2], second[1]], again(&first)[..]);
    let new = second[0].entry();
    assert_eq!(second[0], SubmitOutcome::Announced(new));
    assert_eq!(second[3], SubmitOutcome::AlreadyAnnounced(new));
    assert_eq!(ids(&t.take(&t.a, 9).await), [new]);
    // A key that has not announced it looks for itself.
    let other = keyed(&self::key(), &[c, a]).if_absent();
    let outcomes = t.outcomes_of(&other).await;
    assert_eq!(outcomes[0], SubmitOutcome::AlreadyAnnounced(new));
    assert!(matches!(outcomes[1], SubmitOutcome::Announced(_)));
}

/// Long ones may go in pieces.
pub async fn a_long_batch_with_a_key_appends_what_is_new_of_it(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let key = key();
    let names: Vec<_> = (0..1_000).map(|n| stream(&format!("s{n}"))).collect();
    let odd: Vec<_> = names.iter().skip(1).step_by(2).cloned().collect();
    let first = t.outcomes_of(&keyed(&key, &odd)).await;
    let batch = keyed(&key, &names);
    let outcomes = t.outcomes_of(&batch).await;
    let known: Vec<_> = outcomes.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(known, again(&first));
    let new: Vec<_> = outcomes.iter().step_by(2).copied().collect();
    assert!(
        new.iter()
            .all(|outcome| matches!(outcome, SubmitOutcome::Announced(_)))
    );
    assert!(
        entries(&new).is_sorted_by(|low, high| low < high),
        "in order"
    );
    assert_eq!(
        t.outcomes_of(&batch).await,
        outcomes,
        "the same batch again"
    );
    let all = [entries(&first), entries(&new)].concat();
    assert_eq!(ids(&t.take(&t.a, 2_000).await), all);
}
