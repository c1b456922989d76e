//! How long a lease lives, what extends it, and that its end is final.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    AcquireOutcome, FencingToken, LeaseRef, LockManager, LockState, OpenOutcome, ReleaseOutcome,
    RenewOutcome, Runtime,
};

use super::super::behaviours;
use super::super::support::{pass, stream, streams};
use super::harness::{E0, Harness, LONG, SHORT, attempt, lease, request, unopened};

behaviours!($ lock_manager_deadlines!, lock_manager: Arc<dyn LockManager>, [
    a_lease_ends_at_its_deadline,
    a_lease_lasts_to_its_deadline,
    a_renewal_extends_what_is_held,
    a_renewal_leaves_alone_what_it_does_not_name,
    a_renewal_gives_the_whole_ttl_again,
    a_renewal_names_what_is_lost,
    a_repeated_acquire_begins_a_whole_ttl if has_a_lock_per_stream,
    a_repeated_open_begins_a_whole_ttl if keeps_sessions,
    a_late_renewal_revives_nothing,
    a_late_open_revives_nothing if keeps_sessions,
    an_open_can_be_repeated if keeps_sessions,
    an_acquire_does_not_extend_its_session,
    ttls_may_differ,
    a_closed_session_is_dead_at_once if keeps_sessions,
    a_session_that_is_gone_acquires_nothing if keeps_sessions,
]);

/// Of sessions that repeat a call at half of it; the other half leaves room for a busy machine.
const REPEATED: Duration = Duration::from_secs(2);

/// Without a heartbeat, others get what was held as soon as its deadline is over.
pub async fn a_lease_ends_at_its_deadline(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let (s, other) = (stream("s"), stream("other"));
    let attempt = attempt();
    let old = t.hold_as(&a, &s, attempt).await;
    t.hold(&a, &other).await;
    t.outlast(SHORT).await;
    assert_eq!(
        t.state(&other).await,
        LockState::Free,
        "looking lets it be gone"
    );
    let new = t.hold(&b, &s).await;
    assert!(new.token > old.token, "{new:?} after {old:?}");
    // Nothing that the former owner still does changes that.
    assert_eq!(t.release_one(&a, &old).await, ReleaseOutcome::NotHeld);
    t.renew_with(&a, std::slice::from_ref(&old)).await;
    let late = t.try_acquire_as(&a, &s, E0, attempt).await;
    assert!(
        matches!(late, AcquireOutcome::Held(_) | AcquireOutcome::SessionGone),
        "{late:?}"
    );
    let LockState::Held(held) = t.state(&s).await else {
        panic!("the new owner lost it")
    };
    assert_eq!(held.holder, streamlease_core::Holder::Session(b.id.clone()));
    assert!(t.renewed(&b, &[new]).await.lost.is_empty());
}

/// No part of a TTL is cut off, as by a store that counts in seconds: the owner believes in it.
pub async fn a_lease_lasts_to_its_deadline(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let ttl = Duration::from_millis(1_950);
    let (a, b) = (t.session("a", ttl).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    for _ in 0..2 {
        pass(&*t.runtime, Duration::from_millis(1_500)).await;
        t.assert_refused(&b, &s, &a).await;
        let named = std::slice::from_ref(&held);
        assert!(t.renewed(&a, named).await.lost.is_empty());
    }
}

/// As long as it renews, nobody else gets what a session holds.
pub async fn a_renewal_extends_what_is_held(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    // Long enough for a busy machine to renew in time.
    let (a, b) = (
        t.session("a", Duration::from_secs(2)).await,
        t.session("b", LONG).await,
    );
    let streams = streams("s", 3);
    let held = t.hold_all(&a, &streams).await;
    for _ in 0..6 {
        pass(&*t.runtime, Duration::from_millis(500)).await;
        let reply = t.renewed(&a, &held).await;
        assert!(
            reply.lost.is_empty() && reply.revoked.is_empty(),
            "{reply:?}"
        );
    }
    for stream in &streams {
        t.assert_refused(&b, stream, &a).await;
    }
}

/// A heartbeat counts from its own time: it does not add to what was left.
pub async fn a_renewal_gives_the_whole_ttl_again(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let s = stream("s");
    let held = [t.hold(&a, &s).await];
    let remaining = async || match t.state(&s).await {
        LockState::Held(held) => held.remaining,
        other => panic!("{other:?}, and nobody released it"),
    };
    pass(&*t.runtime, Duration::from_secs(1)).await;
    let before = remaining().await;
    assert!(before < LONG);
    for _ in 0..3 {
        t.renewed(&a, &held).await;
        let after = remaining().await;
        assert!(
            before < after && after <= LONG,
            "{before:?}, after a heartbeat {after:?}"
        );
    }
}

/// With a lock per stream, a heartbeat extends what it names and nothing else.
pub async fn a_renewal_leaves_alone_what_it_does_not_name(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let held = t.hold_all(&a, &streams("s", 2)).await;
    let remaining = async |lease: &LeaseRef| match t.state(&lease.stream).await {
        LockState::Held(held) => held.remaining,
        other => panic!("{other:?}, and nobody released it"),
    };
    pass(&*t.runtime, Duration::from_secs(1)).await;
    let (named, other) = (remaining(&held[0]).await, remaining(&held[1]).await);
    assert!(t.renewed(&a, &held[..1]).await.lost.is_empty());
    assert!(remaining(&held[0]).await > named);
    if !t.has_session_leases() {
        assert!(remaining(&held[1]).await <= other);
    }
    assert!(t.renewed(&a, &held).await.lost.is_empty());
    assert!(remaining(&held[1]).await > other);
}

/// With a lock per stream, a heartbeat says which of those it names are not held.
pub async fn a_renewal_names_what_is_lost(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let streams = streams("s", 4);
    let held = t.hold_all(&a, &streams).await;
    assert!(t.renewed(&a, &held).await.lost.is_empty());
    if t.has_session_leases() {
        // Here a heartbeat names nothing; what is on record tells the same.
        return;
    }
    // Released, then somebody else's; and held with another token.
    t.release_one(&a, &held[0]).await;
    t.release_one(&a, &held[1]).await;
    t.hold(&b, &streams[1]).await;
    let other = |token| lease(&streams[2], E0, FencingToken(token));
    let (stale, never) = (other(held[2].token.0 - 1), other(held[2].token.0 + 1));
    let named = [
        held[0].clone(),
        held[1].clone(),
        stale.clone(),
        never.clone(),
        held[3].clone(),
    ];
    let mut lost = t.renewed(&a, &named).await.lost;
    lost.sort();
    let mut expected = vec![held[0].clone(), held[1].clone(), stale, never];
    expected.sort();
    assert_eq!(lost, expected);
    t.assert_refused(&a, &streams[1], &b).await;
}

/// An acquire whose reply was lost is repeated: its caller believes for a TTL from the repeat.
pub async fn a_repeated_acquire_begins_a_whole_ttl(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", REPEATED).await, t.session("b", LONG).await);
    let (s, attempt) = (stream("s"), attempt());
    let held = t.hold_as(&a, &s, attempt).await;
    pass(&*t.runtime, REPEATED / 2).await;
    // The session goes on; of the lock it says nothing.
    t.renewed(&a, &[]).await;
    assert_eq!(t.hold_as(&a, &s, attempt).await, held);
    // Past the deadline of the first one, and well before that of the repeat.
    pass(&*t.runtime, REPEATED * 3 / 4).await;
    t.assert_refused(&b, &s, &a).await;
    let named = std::slice::from_ref(&held);
    assert!(t.renewed(&a, named).await.lost.is_empty());
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::Released);
}

/// The same for the open of a session, on which everything hangs that it holds.
pub async fn a_repeated_open_begins_a_whole_ttl(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", REPEATED).await, t.session("b", LONG).await);
    let s = stream("s");
    pass(&*t.runtime, REPEATED / 2).await;
    let outcome = t.sessions().open(&a).await.expect("open");
    assert_eq!(outcome, OpenOutcome::Opened);
    let held = t.hold(&a, &s).await;
    pass(&*t.runtime, REPEATED * 3 / 4).await;
    t.assert_refused(&b, &s, &a).await;
    assert!(t.is_member(&a.id).await, "it ended with the first open");
    let named = std::slice::from_ref(&held);
    assert!(t.renewed(&a, named).await.lost.is_empty());
}

/// The deadline is final: a renewal that comes after it extends nothing.
pub async fn a_late_renewal_revives_nothing(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    t.outlast(SHORT).await;
    for _ in 0..2 {
        match t.renew_with(&a, std::slice::from_ref(&held)).await {
            RenewOutcome::SessionGone => {}
            RenewOutcome::Extended(reply) => {
                assert!(
                    !t.has_session_leases(),
                    "a late renewal revived the session"
                );
                assert_eq!(reply.lost, std::slice::from_ref(&held));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(t.state(&s).await, LockState::Free);
    t.hold(&b, &s).await;
}

/// Nor does an open.
pub async fn a_late_open_revives_nothing(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    t.outlast(SHORT).await;
    for _ in 0..2 {
        let outcome = t.sessions().open(&a).await.expect("open");
        assert_eq!(outcome, OpenOutcome::SessionGone);
    }
    assert_eq!(t.state(&s).await, LockState::Free);
    // It clears a record away at most: there was nothing to be freed any more.
    t.release_one(&a, &held).await;
    t.hold(&b, &s).await;
}

/// The repeat of an open whose reply was lost.
pub async fn an_open_can_be_repeated(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let held = t.hold(&a, &stream("s")).await;
    assert_eq!(
        t.sessions().open(&a).await.expect("open"),
        OpenOutcome::Opened
    );
    assert!(
        t.renewed(&a, std::slice::from_ref(&held))
            .await
            .lost
            .is_empty()
    );
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::Released);
}

/// With session leases only `open` and `renew` do: an owner that took an acquire
/// for an extension would outlive its session.
pub async fn an_acquire_does_not_extend_its_session(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let ttl = Duration::from_millis(1_500);
    let (a, b) = (t.session("a", ttl).await, t.session("b", LONG).await);
    let opened = t.runtime.now();
    pass(&*t.runtime, ttl / 2).await;
    let s = stream("s");
    t.hold(&a, &s).await;
    if !t.has_session_leases() {
        // Here the acquire starts a whole TTL of its own.
        let LockState::Held(held) = t.state(&s).await else {
            panic!("it was just acquired")
        };
        assert!(held.remaining > ttl / 2, "{:?} of {ttl:?}", held.remaining);
        return;
    }
    t.runtime
        .sleep_until(opened + ttl + Duration::from_millis(50))
        .await;
    assert_eq!(t.state(&s).await, LockState::Free);
    t.hold(&b, &s).await;
    assert_eq!(t.renew_with(&a, &[]).await, RenewOutcome::SessionGone);
}

/// Consumers of one service may be configured differently, as during a change.
pub async fn ttls_may_differ(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let c = t.session("c", LONG * 2).await;
    let (short, long) = (stream("short"), stream("long"));
    t.hold(&a, &short).await;
    t.hold(&b, &long).await;
    t.outlast(SHORT).await;
    t.hold(&c, &short).await;
    t.assert_refused(&c, &long, &b).await;
}

/// Closing ends a session whatever it holds, and for good.
pub async fn a_closed_session_is_dead_at_once(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let ttl = if t.has_session_leases() { LONG } else { SHORT };
    let (a, b) = (t.session("a", ttl).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    for _ in 0..2 {
        t.sessions().close(&a.id).await.expect("close");
    }
    assert_eq!(
        t.sessions().open(&a).await.expect("open"),
        OpenOutcome::SessionGone
    );
    let renewed = t.renew_with(&a, std::slice::from_ref(&held)).await;
    assert_eq!(renewed, RenewOutcome::SessionGone);
    let late = t.acquire_page(&a, &[request(&stream("other"), E0)]).await;
    assert_eq!(late, [AcquireOutcome::SessionGone]);
    assert!(!t.is_member(&a.id).await);
    if !t.has_session_leases() {
        // A lock of its own lasts to its own deadline, which nothing extends any more.
        t.outlast(SHORT).await;
    }
    assert_eq!(t.state(&s).await, LockState::Free);
    t.hold(&b, &s).await;
    t.sessions()
        .close(&unopened("never", LONG).id)
        .await
        .expect("close of an unknown session");
}

/// An acquire that executes after its session's end leaves nothing behind.
pub async fn a_session_that_is_gone_acquires_nothing(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let (s, other) = (stream("s"), stream("other"));
    t.sessions().close(&a.id).await.expect("close");
    let outcomes = t
        .acquire_page(&a, &[request(&s, E0), request(&other, E0)])
        .await;
    assert_eq!(
        outcomes,
        [AcquireOutcome::SessionGone, AcquireOutcome::SessionGone]
    );
    t.hold(&b, &s).await;
    assert_eq!(t.state(&other).await, LockState::Free);

    // The same for one whose deadline passed.
    let c = t.session("c", SHORT).await;
    t.outlast(SHORT).await;
    let outcomes = t.acquire_page(&c, &[request(&other, E0)]).await;
    assert_eq!(outcomes, [AcquireOutcome::SessionGone]);
    assert_eq!(t.state(&other).await, LockState::Free);
    if t.has_session_leases() {
        // And for one that was never there.
        let outcomes = t
            .acquire_page(&unopened("never", LONG), &[request(&other, E0)])
            .await;
        assert_eq!(outcomes, [AcquireOutcome::SessionGone]);
        assert_eq!(t.state(&other).await, LockState::Free);
    }
}
