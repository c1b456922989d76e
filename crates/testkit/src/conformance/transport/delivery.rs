//! How announcements get to consumers: prepare, submit, fetch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    Announcement, Backend, ClaimOutcome, CompleteOutcome, ConsumerName, Delivery, EntryId,
    ErrorKind, FencingToken, HandBackOutcome, HandBackRequest, Info, Runtime, StreamName,
    SubmitBatch,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, Patience, consumer, pass, stream, unique, within};
use super::harness::{Harness, batch, claimed, fenced, ids, listed, request};

behaviours!($ transport_delivery!, transport: Backend, [
    prepare_is_idempotent,
    a_new_group_starts_at_the_first_entry,
    an_unprepared_service_says_so_or_works,
    submitted_entries_arrive_in_order_as_they_were,
    an_empty_batch_appends_nothing,
    a_repeated_batch_appends_nothing,
    a_batch_that_has_grown_appends_what_is_new,
    a_repeated_batch_appends_nothing_after_its_entries_are_gone,
    a_batch_submitted_twice_at_once_is_appended_once,
    the_same_data_stream_can_be_announced_twice,
    a_fetch_brings_at_most_max_and_each_entry_to_one_consumer,
    racing_fetches_deliver_every_entry_once,
    a_fetch_that_waits_for_nothing_returns_at_once,
    a_blocking_fetch_wakes_on_submit,
    a_fetch_of_over_a_second_returns_empty_when_nothing_comes,
    a_blocking_fetch_delays_no_other_call,
    entries_of_a_dropped_fetch_are_found_by_listing,
    dropped_calls_can_be_repeated,
    everything_works_at_once,
]);

/// Preparing again neither fails nor starts the group anew.
pub async fn prepare_is_idempotent(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    t.prepare().await.expect("prepare again");
    let owned = t.owned(&t.a, 5).await;
    let waiting = t.announce(1).await;
    t.prepare().await.expect("prepare with entries there");
    let pending = t.pending(owned).await.expect("it is still pending");
    assert_eq!(
        (pending.consumer, pending.token),
        (Some(t.a.clone()), FencingToken(5))
    );
    assert_eq!(
        ids(&t.take(&t.b, 10).await),
        waiting,
        "only what nobody has had"
    );
}

/// What was submitted before there was any consumer is delivered.
pub async fn a_new_group_starts_at_the_first_entry(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::unprepared(runtime, backend);
    let before = t.announce(3).await;
    t.prepare().await.expect("prepare");
    assert_eq!(ids(&t.take(&t.a, 10).await), before);
}

/// Without `prepare` a fetch works or is refused as `NotPrepared`; with it, it works.
pub async fn an_unprepared_service_says_so_or_works(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::unprepared(runtime, backend);
    match t.fetch(&request(&t.a, 1, Duration::ZERO)).await {
        Ok(fetched) => assert!(fetched.entries.is_empty(), "{:?}", fetched.entries),
        Err(err) => assert_eq!(err.kind(), ErrorKind::NotPrepared, "{err:?}"),
    }
    t.prepare().await.expect("prepare");
    t.fresh(&t.a).await;
}

/// Ids grow in the order submitted, and names and info are as they were,
/// whatever characters are in them.
pub async fn submitted_entries_arrive_in_order_as_they_were(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let mut announcements = Vec::new();
    for name in [
        "plain",
        "with space",
        "quo\"te\\",
        "ümläut-流",
        "a<MUTEX_KEY_SEP>1-0",
        "{tag}:*?[x]",
        "new\nline",
    ] {
        let name = StreamName::new(format!("{name}{:x}", unique())).expect("a valid name");
        announcements.push(Announcement::new(name, Info::NONE));
    }
    for info in [
        "{}",
        r#"{"a":{"b":[1,2.5e300,null,"ü\n"]},"n":12345678901234567890}"#,
    ] {
        let info = Info::from_json(info).expect("valid info");
        announcements.push(Announcement::new(stream("info"), info));
    }
    let longest = "x".repeat(StreamName::MAX_LEN);
    announcements.push(Announcement::new(
        StreamName::new(longest).expect("valid"),
        Info::NONE,
    ));

    let batch = SubmitBatch::with_id(unique(), announcements.clone());
    let submitted = t.submit(&batch).await.expect("submit");
    assert!(
        submitted.is_sorted_by(|low, high| low < high),
        "{submitted:?}"
    );
    assert!(submitted[0] > EntryId::MIN);
    let fetched = t.take(&t.a, 100).await;
    assert_eq!(ids(&fetched), submitted, "in order");
    let contents: Vec<_> = fetched
        .into_iter()
        .map(|entry| entry.content.expect("well-formed"))
        .collect();
    assert_eq!(contents, announcements);
    let later = t.announce(1).await[0];
    assert!(Some(&later) > submitted.last(), "ids grow over batches");
}

/// A batch may be empty.
pub async fn an_empty_batch_appends_nothing(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    assert!(t.submit(&batch(&[])).await.expect("submit").is_empty());
    assert!(t.take(&t.a, 10).await.is_empty());
}

/// A batch is known by its id: a repeat answers the same ids and appends nothing.
pub async fn a_repeated_batch_appends_nothing(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let batch = batch(&[stream("one"), stream("two")]);
    let first = t.submit(&batch).await.expect("submit");
    assert_eq!(t.submit(&batch).await.expect("submit again"), first);
    assert_eq!(ids(&t.take(&t.a, 10).await), first);
    assert_eq!(
        t.submit(&batch).await.expect("submit once delivered"),
        first
    );
    assert!(t.take(&t.a, 10).await.is_empty(), "delivered twice");
    // The id, not the contents: the same contents under another id are new.
    let other = SubmitBatch::with_id(unique(), batch.announcements);
    let second = t.submit(&other).await.expect("submit under another id");
    assert_eq!(ids(&t.take(&t.a, 10).await), second);
}

/// The input of a job was cut off, and is whole when it runs again.
pub async fn a_batch_that_has_grown_appends_what_is_new(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let names: Vec<StreamName> = ["one", "two", "three"].into_iter().map(stream).collect();
    let whole = batch(&names);
    let part = |count: usize| SubmitBatch::with_id(whole.id, whole.announcements[..count].to_vec());
    let first = t.submit(&part(1)).await.expect("submit a part");
    let all = t.submit(&whole).await.expect("submit the whole");
    assert_eq!(all.len(), 3, "one id for each");
    assert_eq!(all[..1], first);
    let less = t.submit(&part(2)).await.expect("submit less again");
    assert_eq!(less, all[..2]);
    assert_eq!(ids(&t.take(&t.a, 10).await), all);
}

/// A late repeat must not announce anew what was worked on meanwhile.
pub async fn a_repeated_batch_appends_nothing_after_its_entries_are_gone(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let batch = batch(&[stream("once")]);
    let first = t.submit(&batch).await.expect("submit");
    t.take(&t.a, 1).await;
    assert_eq!(
        t.complete_one(&t.a, first[0], 1).await,
        CompleteOutcome::Completed
    );
    pass(&*t.runtime, Duration::from_millis(200)).await;
    assert_eq!(t.submit(&batch).await.expect("submit again"), first);
    t.assert_gone(first[0]).await;
    assert!(t.undelivered().await.is_empty(), "appended anew");
}

/// The original and its repeat may be under way together.
pub async fn a_batch_submitted_twice_at_once_is_appended_once(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    for _ in 0..10 {
        let batch = batch(&[stream("one"), stream("two")]);
        let (first, second) = future::zip(t.submit(&batch), t.submit(&batch)).await;
        let (first, second) = (first.expect("submit"), second.expect("submit"));
        assert_eq!(first, second);
        assert_eq!(ids(&t.take(&t.a, 10).await), first);
    }
}

/// Exclusion is the locks' business: on the LBS both entries are there.
pub async fn the_same_data_stream_can_be_announced_twice(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let twice = stream("twice");
    let submitted = t.submit_streams(&[twice.clone(), twice.clone()]).await;
    assert_ne!(submitted[0], submitted[1]);
    assert_eq!(ids(&t.take(&t.a, 10).await), submitted);
    assert_eq!(
        t.complete_one(&t.a, submitted[0], 1).await,
        CompleteOutcome::Completed
    );
    assert!(
        t.pending(submitted[1]).await.is_some(),
        "the other one went with it"
    );
}

/// Nobody gets more than asked for, and nobody gets what another one got.
pub async fn a_fetch_brings_at_most_max_and_each_entry_to_one_consumer(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let submitted = t.announce(5).await;
    let first = t
        .fetch(&request(&t.a, 2, Duration::ZERO))
        .await
        .expect("fetch");
    assert_eq!(ids(&first.entries), submitted[..2], "the lowest ids first");
    assert!(first.backlog <= 5, "{} of 5 waiting", first.backlog);
    assert_eq!(ids(&t.take(&t.b, 2).await), submitted[2..4]);
    assert_eq!(ids(&t.take(&t.a, 2).await), submitted[4..]);
    assert!(t.take(&t.b, 2).await.is_empty());
    assert_eq!(listed(&t.list_all(Some(&t.b), 10).await), submitted[2..4]);
}

/// However many ask at once, each entry is delivered to one of them.
pub async fn racing_fetches_deliver_every_entry_once(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let submitted = t.announce(60).await;
    let (send, receive) = async_channel::unbounded();
    for n in 0..10 {
        let (t, send, me) = (t.clone(), send.clone(), consumer(&format!("racer-{n}")));
        t.runtime.clone().spawn(Box::pin(async move {
            loop {
                let page = t.take(&me, 4).await;
                if page.is_empty() {
                    break;
                }
                for entry in ids(&page) {
                    let _ = send.send((entry, me.clone())).await;
                }
            }
        }));
    }
    drop(send);
    let mut got: Vec<(EntryId, ConsumerName)> = Vec::new();
    while let Ok(entry) = within(&*t.runtime, "ten racers", PATIENCE, receive.recv()).await {
        got.push(entry);
    }
    got.sort();
    let entries: Vec<_> = got.iter().map(|(entry, _)| *entry).collect();
    assert_eq!(entries, submitted, "each once");
    let pending: Vec<_> = t
        .list_all(None, 100)
        .await
        .into_iter()
        .filter_map(|p| Some((p.entry, p.consumer?)))
        .collect();
    assert_eq!(pending, got, "pending at whoever got it");
}

/// With `wait` zero an empty LBS is answered at once.
pub async fn a_fetch_that_waits_for_nothing_returns_at_once(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let start = t.runtime.now();
    for _ in 0..5 {
        assert!(t.take(&t.a, 10).await.is_empty());
    }
    let took = t.runtime.now().saturating_since(start);
    assert!(
        took < Duration::from_secs(2),
        "five fetches that wait for nothing took {took:?}"
    );
}

/// The first entry ends the wait, whoever submits it.
pub async fn a_blocking_fetch_wakes_on_submit(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let start = t.runtime.now();
    let (send, submitted) = async_channel::bounded(1);
    let producer = t.clone();
    t.runtime.spawn(Box::pin(async move {
        pass(&*producer.runtime, Duration::from_millis(100)).await;
        let _ = send.send(producer.announce(1).await).await;
    }));
    let asked = request(&t.a, 10, Duration::from_secs(60));
    let fetch = t.fetch(&asked);
    let fetched = within(&*t.runtime, "a fetch woken by a submit", PATIENCE, fetch).await;
    let submitted = submitted.recv().await.expect("the producer goes on");
    assert_eq!(ids(&fetched.expect("fetch").entries), submitted);
    let took = t.runtime.now().saturating_since(start);
    assert!(
        took >= Duration::from_millis(100),
        "it ended before there was anything"
    );
}

/// No time-out that something on the way has by default (500 ms and 1 s are
/// common) may cut a wait short, or make an error of it.
pub async fn a_fetch_of_over_a_second_returns_empty_when_nothing_comes(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let start = t.runtime.now();
    let wait = Duration::from_millis(1_700);
    let asked = request(&t.a, 10, wait);
    let fetch = t.fetch(&asked);
    let fetched = within(&*t.runtime, "an empty fetch", PATIENCE, fetch).await;
    assert!(
        fetched
            .expect("an empty page is no error")
            .entries
            .is_empty()
    );
    let took = t.runtime.now().saturating_since(start);
    assert!(
        took >= wait - Duration::from_millis(20),
        "it gave up after {took:?}"
    );
    t.fresh(&t.a).await;
}

/// While consumers wait, everybody else is served.
pub async fn a_blocking_fetch_delays_no_other_call(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let owned = t.owned(&t.a, 5).await;
    let wait = Duration::from_secs(60);
    let (asked_a, asked_b) = (request(&t.a, 1, wait), request(&t.b, 1, wait));
    let waiting = future::zip(t.fetch(&asked_a), t.fetch(&asked_b));
    let others = async {
        // Long enough that both are waiting at the server.
        pass(&*t.runtime, Duration::from_millis(100)).await;
        let start = t.runtime.now();
        t.prepare().await.expect("prepare");
        assert_eq!(listed(&t.list_all(None, 10).await), [owned]);
        assert!(t.take(&t.a, 1).await.is_empty());
        t.admin().consumers().await.expect("consumers");
        assert_eq!(
            t.hand_back_one(&t.a, owned, 5, false).await,
            HandBackOutcome::HandedBack
        );
        assert!(matches!(
            t.claim_one(&t.b, owned, 6).await,
            ClaimOutcome::Claimed { .. }
        ));
        assert_eq!(
            t.complete_one(&t.b, owned, 6).await,
            CompleteOutcome::Completed
        );
        let took = t.runtime.now().saturating_since(start);
        assert!(
            took < Duration::from_secs(10),
            "calls beside blocking fetches took {took:?}"
        );
        t.announce(2).await
    };
    let all = future::zip(waiting, others);
    let ((a, b), submitted) = within(&*t.runtime, "two waiting fetches", PATIENCE, all).await;
    let mut got = ids(&a.expect("fetch").entries);
    got.extend(ids(&b.expect("fetch").entries));
    got.sort();
    assert_eq!(got, submitted, "one entry for each that waited");
}

/// A fetch that was given up may have delivered all the same, now or later:
/// what it delivered is pending, and nothing is in neither place.
pub async fn entries_of_a_dropped_fetch_are_found_by_listing(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let mut submitted = BTreeSet::new();
    let mut fetched: BTreeSet<EntryId> = BTreeSet::new();
    for round in 0..20_u64 {
        let asked = request(&t.a, 1, Duration::from_secs(60));
        let fetch = async { t.fetch(&asked).await.expect("fetch").entries };
        let give_up = async {
            pass(&*t.runtime, Duration::from_millis(round % 7)).await;
            Vec::new()
        };
        // The submit goes on, and its ids are known, whatever becomes of the fetch.
        let submit = async {
            pass(&*t.runtime, Duration::from_millis(round % 5)).await;
            t.announce(1).await
        };
        let (page, announced) = future::zip(future::or(fetch, give_up), submit).await;
        fetched.extend(ids(&page));
        submitted.extend(announced);
    }
    // An abandoned fetch may still be waiting at the server and get the next entry.
    let mut patience = Patience::new(&*t.runtime, "every entry fetched or pending");
    loop {
        fetched.extend(ids(&t.take(&t.b, 100).await));
        let pending: BTreeSet<_> = listed(&t.list_all(None, 7).await).into_iter().collect();
        if pending == submitted {
            break;
        }
        patience.wait().await;
    }
    let mine: BTreeSet<_> = listed(&t.list_all(Some(&t.a), 7).await)
        .into_iter()
        .collect();
    let theirs: BTreeSet<_> = listed(&t.list_all(Some(&t.b), 7).await)
        .into_iter()
        .collect();
    assert!(mine.is_disjoint(&theirs));
    assert!(
        fetched.is_subset(&submitted),
        "something was fetched that nobody submitted"
    );
}

/// Whatever a dropped call has done or still does, its repeat ends well.
pub async fn dropped_calls_can_be_repeated(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    for drop_after in [0_u64, 0, 1, 2] {
        let batch = batch(&[stream("dropped")]);
        abandon(&t, drop_after, t.submit(&batch)).await;
        let entry = t.submit(&batch).await.expect("submit")[0];
        assert_eq!(ids(&t.take(&t.a, 10).await), [entry], "submitted twice");

        let claims = [fenced(entry, 5)];
        abandon(&t, drop_after, t.claim(&t.a, &claims)).await;
        assert_eq!(t.claim_one(&t.a, entry, 5).await, claimed(&t.a, 0));

        let back = [HandBackRequest::new(entry, FencingToken(5))
            .failed(Some("it was bad".into()))
            .rests(true)];
        abandon(&t, drop_after, t.hand_back(&t.a, &back)).await;
        assert_eq!(
            t.hand_back_one(&t.a, entry, 5, true).await,
            HandBackOutcome::HandedBack
        );
        assert_eq!(
            t.claim_one(&t.b, entry, 6).await,
            claimed(&t.a, 1),
            "counted twice, or not at all"
        );

        let done = [fenced(entry, 6)];
        abandon(&t, drop_after, t.complete(&t.b, &done)).await;
        let outcome = t.complete_one(&t.b, entry, 6).await;
        assert!(
            matches!(outcome, CompleteOutcome::Completed | CompleteOutcome::Gone),
            "{outcome:?}"
        );
        t.assert_gone(entry).await;
    }
}

/// Polls `call` at least once and drops it after `ms` if it is not done by then.
async fn abandon<T>(t: &Harness, ms: u64, call: impl Future<Output = T>) {
    let call = async {
        call.await;
    };
    let end = async {
        if ms > 0 {
            pass(&*t.runtime, Duration::from_millis(ms)).await;
        }
    };
    future::or(call, end).await;
}

/// Many producers and consumers at once: every entry is worked on once.
pub async fn everything_works_at_once(runtime: Arc<dyn Runtime>, backend: Backend) {
    const PRODUCERS: usize = 4;
    const EACH: usize = 15;
    let t = Harness::new(runtime, backend).await;
    for _ in 0..PRODUCERS {
        let t = t.clone();
        t.runtime.clone().spawn(Box::pin(async move {
            for _ in 0..EACH / 3 {
                t.announce(3).await;
            }
        }));
    }
    let (send, receive) = async_channel::unbounded();
    for n in 0..4 {
        let (t, send, me) = (t.clone(), send.clone(), consumer(&format!("worker-{n}")));
        t.runtime.clone().spawn(Box::pin(async move {
            loop {
                let page = t
                    .fetch(&request(&me, 3, Duration::from_millis(300)))
                    .await
                    .expect("fetch");
                for Delivery { entry, .. } in page.entries {
                    let claimed = t.claim_one(&me, entry, 1).await;
                    assert!(
                        matches!(claimed, ClaimOutcome::Claimed { .. }),
                        "{claimed:?}"
                    );
                    assert_eq!(
                        t.complete_one(&me, entry, 1).await,
                        CompleteOutcome::Completed
                    );
                    if send.send(entry).await.is_err() {
                        return;
                    }
                }
                if send.is_closed() {
                    return;
                }
            }
        }));
    }
    drop(send);
    let mut done = BTreeSet::new();
    while done.len() < PRODUCERS * EACH {
        let next = within(
            &*t.runtime,
            "the next completed entry",
            PATIENCE,
            receive.recv(),
        )
        .await;
        assert!(done.insert(next.expect("workers go on")), "worked on twice");
    }
    assert!(
        t.list_all(None, 100).await.is_empty(),
        "something is left pending"
    );
    assert!(
        t.undelivered().await.is_empty(),
        "something is left undelivered"
    );
}
