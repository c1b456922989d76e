//! Looking at what is there.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    Backend, CompleteOutcome, EntryId, FencingToken, Report, Runtime, Scope, Severity,
};

use super::super::behaviours;
use super::super::support::{consumer, pass, stream};
use super::harness::{Harness, ids, listed};

behaviours!($ transport_listing!, transport: Backend, [
    a_delivered_entry_is_listed_as_untouched,
    pages_are_in_order_and_complete,
    scopes_list_what_they_say,
    ids_are_listed_as_the_entries_are,
    nothing_is_stranded_whatever_its_consumers_do,
    listing_changes_neither_idle_time_nor_deliveries,
    undelivered_entries_are_listed_without_being_delivered,
    consumers_are_listed_with_what_they_have,
    a_consumer_is_removed_only_when_nothing_is_pending_at_it,
    a_check_changes_nothing_and_says_what_it_is_about,
]);

/// What was delivered and not yet claimed says so.
pub async fn a_delivered_entry_is_listed_as_untouched(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let name = stream("listed");
    let entry = t.submit_streams(std::slice::from_ref(&name)).await[0];
    assert!(
        t.pending(entry).await.is_none(),
        "pending before it was delivered"
    );
    t.take(&t.a, 1).await;
    let pending = t.pending(entry).await.expect("pending once delivered");
    assert_eq!(pending.entry, entry);
    assert_eq!(pending.consumer, Some(t.a));
    assert_eq!(pending.token, FencingToken::NONE);
    assert!(!pending.handed_back);
    assert_eq!(pending.failures, 0);
    assert!(pending.deliveries >= 1);
    assert!(
        pending.idle < Duration::from_secs(60),
        "idle {:?}",
        pending.idle
    );
    assert_eq!(pending.content.expect("well-formed").stream, name);
}

/// Pages of any size bring every entry once, lowest id first.
pub async fn pages_are_in_order_and_complete(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let none = t
        .list_pending(
            &Scope::All {
                after: EntryId::MIN,
            },
            3,
        )
        .await
        .expect("list_pending");
    assert!(none.entries.is_empty());
    let submitted = t.announce(7).await;
    // Alternately, so that no consumer's entries are in one piece.
    for n in 0..7 {
        t.take(if n % 2 == 0 { &t.a } else { &t.b }, 1).await;
    }
    let even: Vec<_> = submitted.iter().copied().step_by(2).collect();
    for limit in [1, 2, 3, 4, 7, 8, 100] {
        assert_eq!(
            listed(&t.list_all(None, limit).await),
            submitted,
            "limit {limit}"
        );
        assert_eq!(
            listed(&t.list_all(Some(&t.a), limit).await),
            even,
            "limit {limit}"
        );
    }
    // A page that is full says where the next one starts: there are more.
    let page = t
        .list_pending(
            &Scope::All {
                after: EntryId::MIN,
            },
            3,
        )
        .await
        .expect("list_pending");
    assert_eq!(page.entries.len(), 3, "a page is as large as it may be");
    assert!(page.next.is_some(), "there are four more");
}

/// Everything, one consumer's, or just these.
pub async fn scopes_list_what_they_say(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let submitted = t.announce(5).await;
    t.take(&t.a, 2).await;
    t.take(&t.b, 2).await;
    assert_eq!(
        listed(&t.list_all(None, 10).await),
        submitted[..4],
        "the fifth is not delivered"
    );
    assert_eq!(listed(&t.list_all(Some(&t.b), 10).await), submitted[2..4]);
    assert!(t.list_all(Some(&consumer("nobody")), 10).await.is_empty());

    let after = |after| Scope::All { after };
    let page = t
        .list_pending(&after(submitted[1]), 10)
        .await
        .expect("list_pending");
    assert_eq!(
        listed(&page.entries),
        submitted[2..4],
        "`after` itself is not listed"
    );
    let page = t
        .list_pending(&after(submitted[3]), 10)
        .await
        .expect("list_pending");
    assert!(page.entries.is_empty() && page.next.is_none());
    let mine = Scope::Consumer {
        consumer: t.a.clone(),
        after: submitted[0],
    };
    let page = t.list_pending(&mine, 10).await.expect("list_pending");
    assert_eq!(listed(&page.entries), submitted[1..2]);

    assert_eq!(
        t.complete_one(&t.a, submitted[0], 0).await,
        CompleteOutcome::Completed
    );
    // Completed, pending at either, not delivered, and never there.
    let mut asked = submitted.clone();
    asked.push(EntryId::new(1, 1));
    let page = t
        .list_pending(&Scope::Entries(asked), 1)
        .await
        .expect("list_pending");
    assert_eq!(
        listed(&page.entries),
        submitted[1..4],
        "no limit, and only what is pending"
    );
    let page = t
        .list_pending(&Scope::Entries(Vec::new()), 1)
        .await
        .expect("list_pending");
    assert!(page.entries.is_empty() && page.next.is_none());
}

/// The ids alone say the same: of all or of one consumer, in pages of any size.
pub async fn ids_are_listed_as_the_entries_are(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    assert!(t.list_all_ids(None, 3).await.is_empty());
    let submitted = t.announce(8).await;
    for n in 0..7 {
        t.take(if n % 2 == 0 { &t.a } else { &t.b }, 1).await;
    }
    // One moves, and one goes; the eighth is not delivered.
    t.claim_one(&t.b, submitted[2], 1).await;
    t.complete_one(&t.a, submitted[4], 0).await;
    let of = |these: &[usize]| these.iter().map(|n| submitted[*n]).collect::<Vec<_>>();
    for limit in [1, 2, 3, 6, 100] {
        let (all, one) = (
            t.list_all_ids(None, limit),
            t.list_all_ids(Some(&t.b), limit),
        );
        assert_eq!(all.await, of(&[0, 1, 2, 3, 5, 6]), "limit {limit}");
        assert_eq!(one.await, of(&[1, 2, 3, 5]), "limit {limit}");
    }
    assert!(
        t.list_all_ids(Some(&consumer("nobody")), 10)
            .await
            .is_empty()
    );
    let page = t
        .list_pending_ids(Some(&t.b), submitted[2], 1)
        .await
        .expect("list_pending_ids");
    assert_eq!(page.entries, of(&[3]), "`after` itself is not listed");
    let greatest = EntryId::new(u64::MAX, u64::MAX);
    let page = t
        .list_pending_ids(None, greatest, 10)
        .await
        .expect("list_pending_ids");
    assert!(page.entries.is_empty() && page.next.is_none());
}

/// Looking is not touching: an entry that is looked at grows old all the same.
pub async fn listing_changes_neither_idle_time_nor_deliveries(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.fresh(&t.a).await;
    let first = t.pending(entry).await.expect("pending");
    let mut last = first.clone();
    for _ in 0..4 {
        pass(&*t.runtime, Duration::from_millis(50)).await;
        t.list_all(None, 10).await;
        t.list_all(Some(&t.a), 10).await;
        t.list_all_ids(Some(&t.a), 10).await;
        last = t.pending(entry).await.expect("pending");
    }
    let grown = last.idle.saturating_sub(first.idle);
    // 200 ms less what is lost by rounding to milliseconds twice.
    assert!(
        grown >= Duration::from_millis(190),
        "idle grew by {grown:?}"
    );
    assert_eq!(last.deliveries, first.deliveries);
    assert_eq!(last.consumer.as_ref(), Some(&t.a));
}

/// What nobody has had is listed, and still to be had afterwards.
pub async fn undelivered_entries_are_listed_without_being_delivered(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let names = [
        stream("u0"),
        stream("u1"),
        stream("u2"),
        stream("u3"),
        stream("u4"),
    ];
    let submitted = t.submit_streams(&names).await;
    assert_eq!(t.undelivered().await, submitted);
    t.take(&t.a, 2).await;
    let waiting = t
        .admin()
        .list_undelivered(EntryId::MIN, 2)
        .await
        .expect("list_undelivered");
    assert_eq!(
        ids(&waiting),
        submitted[2..4],
        "at most so many, the lowest ids"
    );
    assert_eq!(
        waiting[0].content.as_ref().expect("well-formed").stream,
        names[2]
    );
    let waiting = t
        .admin()
        .list_undelivered(submitted[2], 10)
        .await
        .expect("list_undelivered");
    assert_eq!(
        ids(&waiting),
        submitted[3..],
        "`after` itself is not listed"
    );
    assert_eq!(ids(&t.take(&t.b, 10).await), submitted[2..]);
    assert!(t.undelivered().await.is_empty());
}

/// The group's consumers, with how many entries each has.
pub async fn consumers_are_listed_with_what_they_have(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    assert!(t.admin().consumers().await.expect("consumers").is_empty());
    t.announce(3).await;
    let entry = t.take(&t.a, 2).await[0].entry;
    t.take(&t.b, 1).await;
    let count = async || {
        let mut consumers: Vec<_> = t.admin().consumers().await.expect("consumers");
        consumers.sort_by(|one, other| one.consumer.cmp(&other.consumer));
        for state in &consumers {
            assert!(state.idle < Duration::from_secs(60), "{state:?}");
        }
        consumers
            .into_iter()
            .map(|state| (state.consumer, state.pending))
            .collect::<Vec<_>>()
    };
    assert_eq!(count().await, [(t.a.clone(), 2), (t.b.clone(), 1)]);
    t.claim_one(&t.b, entry, 1).await;
    assert_eq!(count().await, [(t.a.clone(), 1), (t.b.clone(), 2)]);
    t.complete_one(&t.b, entry, 1).await;
    assert_eq!(count().await, [(t.a.clone(), 1), (t.b.clone(), 1)]);
}

/// Whoever looks at a service for what is wrong makes no group, no consumer and no entry.
pub async fn a_check_changes_nothing_and_says_what_it_is_about(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    const TTL: Duration = Duration::from_secs(5);
    let unused = match backend
        .transport
        .list_pending_ids(None, EntryId::MIN, 1)
        .await
    {
        Err(error) => Some(error.kind()),
        Ok(_) => None,
    };
    let report = Report::of(&backend, &*runtime, TTL).await;
    for finding in &report.findings {
        let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(
            !finding.code.is_empty() && finding.code.chars().all(is_word),
            "a code is lower case letters and hyphens: {finding:?}"
        );
        assert!(!finding.message.is_empty(), "{finding:?}");
        assert!(
            finding.severity < Severity::Warning || finding.advice.is_some(),
            "what is wrong has an advice: {finding:?}"
        );
        // How fast the machine is now is none of the backend.
        let of_the_machine = ["executor-lag", "latency"].contains(&finding.code);
        assert!(
            of_the_machine || finding.severity < Severity::Error,
            "{finding:?}"
        );
    }
    let after = backend
        .transport
        .list_pending_ids(None, EntryId::MIN, 1)
        .await;
    assert_eq!(after.err().map(|error| error.kind()), unused);

    let t = Harness::new(runtime, backend).await;
    t.announce(3).await;
    t.take(&t.a, 2).await;
    let seen = async || {
        let deliveries = t.list_all(None, 9).await;
        let deliveries: Vec<_> = deliveries
            .into_iter()
            .map(|pending| (pending.entry, pending.consumer, pending.deliveries))
            .collect();
        let consumers = t.admin().consumers().await.expect("consumers");
        let consumers: Vec<_> = consumers
            .into_iter()
            .map(|state| (state.consumer, state.pending))
            .collect();
        (deliveries, consumers, t.undelivered().await)
    };
    let before = seen().await;
    Report::of(&t.backend, &*t.runtime, TTL).await;
    assert_eq!(seen().await, before);
}

/// Removing a name must not remove what is pending at it.
pub async fn a_consumer_is_removed_only_when_nothing_is_pending_at_it(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let entry = t.owned(&t.a, 5).await;
    assert!(
        !t.remove_consumer(&t.a).await.expect("remove_consumer"),
        "an entry is pending at it"
    );
    let pending = t.pending(entry).await.expect("still pending");
    assert_eq!(
        (pending.consumer, pending.token),
        (Some(t.a.clone()), FencingToken(5))
    );
    let known = async |consumer| {
        t.admin()
            .consumers()
            .await
            .expect("consumers")
            .iter()
            .any(|state| state.consumer == consumer)
    };
    assert!(known(t.a.clone()).await);

    t.claim_one(&t.b, entry, 6).await;
    assert!(
        t.remove_consumer(&t.a).await.expect("remove_consumer"),
        "nothing is pending at it"
    );
    assert!(!known(t.a.clone()).await);
    assert!(known(t.b.clone()).await);
    assert!(
        t.remove_consumer(&t.a).await.expect("remove_consumer"),
        "a repeat"
    );
    assert!(
        t.remove_consumer(&consumer("nobody"))
            .await
            .expect("remove_consumer")
    );
    assert!(t.pending(entry).await.is_some());
}

/// Nothing that this trait does leaves an entry on the LBS, delivered and pending at
/// nobody; and what is undelivered, or gone, is not that.
pub async fn nothing_is_stranded_whatever_its_consumers_do(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let stranded = async || {
        let page = t.list_stranded(EntryId::MIN, 10).await;
        let page = page.expect("list_stranded");
        assert!(page.next.is_none_or(|next| next > EntryId::MIN));
        page.entries
    };
    assert!(stranded().await.is_empty());
    let entries = t.announce(6).await;
    assert!(stranded().await.is_empty(), "nothing was delivered");
    t.take(&t.a, 3).await;
    t.take(&t.b, 1).await;
    assert!(stranded().await.is_empty(), "all is pending");
    t.complete_one(&t.a, entries[0], 5).await;
    t.claim_one(&t.b, entries[1], 5).await;
    t.hand_back_one(&t.b, entries[1], 5, false).await;
    assert!(stranded().await.is_empty());
    let scope = Scope::Entries(entries.clone());
    let page = t.list_pending(&scope, 10).await.expect("list_pending");
    assert_eq!(listed(&page.entries), entries[1..4], "what is pending");
    assert!(page.entries.iter().all(|p| p.consumer.is_some()));
    let greatest = EntryId::new(u64::MAX, u64::MAX);
    let behind = t.list_stranded(greatest, 10).await.expect("list_stranded");
    assert_eq!(behind, streamlease_core::PendingIds::default());
}
