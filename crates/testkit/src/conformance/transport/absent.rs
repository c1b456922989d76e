//! Announcing only what is not announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_lite::future;
use streamlease_core::{
    Backend, CompleteOutcome, EntryId, QuarantineRelease, Runtime, StreamName, SubmitBatch,
    SubmitOutcome,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, stream, streams, unique, within};
use super::harness::{Harness, batch, fenced, ids, one};

behaviours!($ transport_absent!, transport: Backend, [
    what_is_announced_is_not_announced_again,
    what_is_gone_can_be_announced_again,
    what_came_back_from_the_quarantine_is_announced,
    of_two_with_one_name_the_second_is_there_already,
    a_batch_if_absent_is_answered_alike_when_it_is_repeated,
    of_racing_producers_one_announces,
    streams_that_are_absent_are_told_apart_by_their_whole_names,
    a_stream_that_was_announced_twice_is_announced_until_both_are_gone,
    what_is_held_is_announced_however_much_comes_and_goes,
]);

impl Harness {
    async fn outcomes(&self, batch: &SubmitBatch) -> Vec<SubmitOutcome> {
        let outcomes = self.backend.submitter.submit(batch).await.expect("submit");
        assert_eq!(outcomes.len(), batch.announcements.len(), "one for each");
        outcomes
    }

    async fn if_absent(&self, streams: &[StreamName]) -> Vec<SubmitOutcome> {
        self.outcomes(&batch(streams).if_absent()).await
    }

    async fn complete_all(&self, entries: &[EntryId]) {
        for page in entries.chunks(100) {
            let done: Vec<_> = page.iter().map(|entry| fenced(*entry, 1)).collect();
            let outcomes = self.complete(&self.a, &done).await.expect("complete");
            assert!(
                outcomes.iter().all(|o| *o == CompleteOutcome::Completed),
                "{outcomes:?}"
            );
        }
    }
}

fn all_announced(outcomes: &[SubmitOutcome]) -> Vec<EntryId> {
    let announced = |outcome: &SubmitOutcome| match outcome {
        SubmitOutcome::Announced(entry) => *entry,
        other => panic!("{other:?}, though it was absent"),
    };
    outcomes.iter().map(announced).collect()
}

fn there(entry: EntryId) -> SubmitOutcome {
    SubmitOutcome::AlreadyAnnounced(entry)
}

/// However it was announced, and whoever has it by now.
pub async fn what_is_announced_is_not_announced_again(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let (plain, asked) = (stream("plain"), stream("asked"));
    let both = [plain.clone(), asked.clone()];
    let first = t.submit_streams(std::slice::from_ref(&plain)).await[0];
    let outcomes = t.if_absent(&both).await;
    assert_eq!(outcomes[0], there(first), "announced without asking");
    let second = all_announced(&outcomes[1..])[0];
    assert_eq!(t.undelivered().await, [first, second]);

    let again = [there(first), there(second)];
    assert_eq!(t.if_absent(&both).await, again);
    assert_eq!(ids(&t.take(&t.a, 9).await), [first, second]);
    assert_eq!(t.if_absent(&both).await, again, "delivered");
    t.claim_one(&t.a, first, 5).await;
    assert_eq!(t.if_absent(&both).await, again, "claimed");
    t.hand_back_one(&t.a, first, 5, true).await;
    assert_eq!(t.if_absent(&both).await, again, "handed back");
    assert!(t.undelivered().await.is_empty(), "appended once more");

    // Who does not ask announces it all the same.
    assert_eq!(t.submit_streams(&[plain]).await.len(), 1);
}

/// Completed or in quarantine: it is not on the LBS any more.
pub async fn what_is_gone_can_be_announced_again(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let names = [stream("completed"), stream("parked"), stream("stays")];
    let first = t.submit_streams(&names).await;
    t.take(&t.a, 9).await;
    t.complete_all(&first[..1]).await;
    t.quarantine_one(&t.a, first[1], 1, "of the test").await;
    let outcomes = t.if_absent(&names).await;
    let anew = all_announced(&outcomes[..2]);
    assert!(anew.iter().all(|entry| *entry > first[2]), "{anew:?}");
    assert_eq!(outcomes[2], there(first[2]));
    assert_eq!(ids(&t.take(&t.a, 9).await), anew);
    // And so on.
    t.complete_all(&anew).await;
    let outcomes = t.if_absent(&names).await;
    assert_eq!(ids(&t.take(&t.a, 9).await), all_announced(&outcomes[..2]));
}

/// As its new entry.
pub async fn what_came_back_from_the_quarantine_is_announced(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let names: Vec<_> = ["plain", "quo\"te\\", "new\nline ümläut-流\u{1}"]
        .into_iter()
        .map(stream)
        .collect();
    let first = t.submit_streams(&names).await;
    t.take(&t.a, 9).await;
    for entry in first {
        t.quarantine_one(&t.a, entry, 1, "of the test").await;
        let QuarantineRelease::Released(_) = t.release_one(entry).await else {
            panic!("{entry} was in quarantine");
        };
    }
    let back = ids(&t.take(&t.a, 9).await);
    let expected: Vec<_> = back.into_iter().map(there).collect();
    assert_eq!(t.if_absent(&names).await, expected);
}

/// However far they are apart in the batch.
pub async fn of_two_with_one_name_the_second_is_there_already(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let mut names = streams("s", 400);
    names.insert(1, names[0].clone());
    names.push(names[0].clone());
    names.push(names[400].clone());
    let outcomes = t.if_absent(&names).await;
    assert_eq!(outcomes[1], there(outcomes[0].entry()));
    assert_eq!(outcomes[401], there(outcomes[0].entry()));
    assert_eq!(outcomes[402], there(outcomes[400].entry()));
    let mut appended = all_announced(&outcomes[..1]);
    appended.extend(all_announced(&outcomes[2..401]));
    assert_eq!(t.undelivered().await, appended);
}

/// Also which streams were there already, whatever has become of them since; and nothing is
/// appended.
pub async fn a_batch_if_absent_is_answered_alike_when_it_is_repeated(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let names = [stream("there"), stream("absent"), stream("later")];
    let first = t.submit_streams(&names[..1]).await[0];
    let whole = batch(&names).if_absent();
    let mut part = whole.clone();
    part.announcements.truncate(2);
    let outcomes = t.outcomes(&part).await;
    let second = all_announced(&outcomes[1..])[0];
    assert_eq!(outcomes, [there(first), SubmitOutcome::Announced(second)]);
    assert_eq!(t.outcomes(&part).await, outcomes);
    assert_eq!(ids(&t.take(&t.a, 9).await), [first, second]);
    t.complete_all(&[first, second]).await;
    assert_eq!(t.outcomes(&part).await, outcomes, "they are gone");
    // What it has grown by is looked at now.
    let third = t.submit_streams(&names[2..]).await[0];
    let grown = t.outcomes(&whole).await;
    assert_eq!(grown[..2], outcomes);
    assert_eq!(grown[2], there(third));
    assert_eq!(ids(&t.take(&t.a, 9).await), [third]);
    // Both at once: the original and its repeat.
    for _ in 0..10 {
        let batch = batch(&[stream("one"), stream("two")]).if_absent();
        let (first, second) = future::zip(t.outcomes(&batch), t.outcomes(&batch)).await;
        assert_eq!(first, second);
        assert_eq!(ids(&t.take(&t.a, 9).await), all_announced(&first));
    }
}

/// To look and to announce is one step.
pub async fn of_racing_producers_one_announces(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let names = streams("s", 20);
    let (send, receive) = async_channel::unbounded();
    for n in 0..6 {
        let (t, send, mut names) = (t.clone(), send.clone(), names.clone());
        t.runtime.clone().spawn(Box::pin(async move {
            names.rotate_left(n * 7 % 20);
            for page in names.chunks(n % 3 + 1) {
                let outcomes = t.if_absent(page).await;
                for told in page.iter().cloned().zip(outcomes) {
                    let _ = send.send(told).await;
                }
            }
        }));
    }
    drop(send);
    let mut told: BTreeMap<StreamName, Vec<SubmitOutcome>> = BTreeMap::new();
    while let Ok((name, outcome)) =
        within(&*t.runtime, "six racers", PATIENCE, receive.recv()).await
    {
        told.entry(name).or_default().push(outcome);
    }
    let mut entries = BTreeSet::new();
    for (name, outcomes) in told {
        let is_new = |outcome: &&SubmitOutcome| matches!(outcome, SubmitOutcome::Announced(_));
        assert_eq!(outcomes.iter().filter(is_new).count(), 1, "{name}");
        let entry = outcomes[0].entry();
        assert!(outcomes.iter().all(|told| told.entry() == entry), "{name}");
        entries.insert(entry);
    }
    assert_eq!(entries.len(), names.len());
    assert_eq!(t.undelivered().await, Vec::from_iter(entries));
}

/// Whatever they have in common.
pub async fn streams_that_are_absent_are_told_apart_by_their_whole_names(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let name = |text: String| StreamName::new(text).expect("a valid name");
    let base = format!("{:x}", unique());
    let mut names: Vec<StreamName> = [
        "", " ", "\n", "A", "a", "é", "e\u{301}", "e", "=", "\"", "\\", "\\\"", "{", "\u{0}", "流",
    ]
    .iter()
    .map(|end| name(base.clone() + end))
    .collect();
    for length in [255, 256, 1_024, StreamName::MAX_LEN] {
        for end in ["x", "y"] {
            names.push(name("x".repeat(length - 1) + end));
        }
    }
    let mut entries = Vec::new();
    for name in &names {
        let outcome = one(t.if_absent(std::slice::from_ref(name)).await);
        entries.extend(all_announced(&[outcome]));
    }
    let expected: Vec<_> = entries.iter().copied().map(there).collect();
    assert_eq!(t.if_absent(&names).await, expected);
    assert_eq!(t.undelivered().await, entries);
}

/// The entry that is told is one of them. Once the later one is gone the other may be
/// overlooked; when both are, it is absent.
pub async fn a_stream_that_was_announced_twice_is_announced_until_both_are_gone(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let twice = [stream("twice")];
    let first = t.submit_streams(&twice).await[0];
    let second = t.submit_streams(&twice).await[0];
    t.take(&t.a, 9).await;
    let outcome = one(t.if_absent(&twice).await);
    assert!(
        [there(first), there(second)].contains(&outcome),
        "{outcome:?}"
    );
    // They are worked on in this order.
    t.complete_all(&[first]).await;
    assert_eq!(t.if_absent(&twice).await, [there(second)]);
    t.complete_all(&[second]).await;
    all_announced(&t.if_absent(&twice).await);
}

/// A store may tidy up what it knows of names, but not of those that are there.
pub async fn what_is_held_is_announced_however_much_comes_and_goes(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let held = streams("held", 40);
    let entries = t.submit_streams(&held).await;
    t.take(&t.a, 100).await;
    for round in 0..6 {
        let passing = streams("passing", 200);
        let outcomes = match round % 2 {
            0 => t.if_absent(&passing).await,
            _ => t.outcomes(&batch(&passing)).await,
        };
        let come = all_announced(&outcomes);
        t.take(&t.a, 200).await;
        t.complete_all(&come).await;
    }
    let expected: Vec<_> = entries.iter().copied().map(there).collect();
    assert_eq!(t.if_absent(&held).await, expected);
    assert!(t.undelivered().await.is_empty(), "appended once more");
}
