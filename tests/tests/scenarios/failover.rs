//! A consumer dies, stalls, is cut off or goes: another one continues, and the
//! old one knows, or cannot do harm.

use std::collections::BTreeSet;
use std::time::Duration;

use streamlease_core::{
    ClaimMode, ClaimOutcome, ClaimResult, Completion, DisownReason, Event, Fenced, FencingToken,
    Info, Operation, StreamName,
};

use crate::support::{Faults, World, everywhere, on_redis_with_smol, together};

everywhere!(
    a_dead_consumers_streams_are_taken_over_and_completed,
    orphans_among_gaps_and_held_entries_are_recovered_at_start,
    a_sole_consumer_that_restarts_gets_its_streams_back,
    with_manual_claiming_an_orphan_is_reported,
    with_manual_claiming_a_thousand_orphans_are_all_reported,
    with_manual_claiming_what_is_reported_can_be_claimed,
    a_thousand_streams_of_a_dead_consumer_are_all_taken_over,
    a_stalled_owner_loses_its_lease_first_and_cannot_complete,
    an_owner_that_reaches_no_server_loses_its_lease_on_time,
    shutdown_hands_back_and_another_continues_at_once,
    a_consumer_that_starts_after_the_shutdown_continues_at_once,
    a_dropped_lease_is_handed_back_to_others,
    a_release_whose_hint_overtakes_the_refusal_is_not_missed,
    a_pause_between_fetch_and_lock_while_another_completes_leads_to_no_event,
    a_freeze_between_fetch_and_lock_while_another_completes_leads_to_no_event,
    a_claim_that_arrives_after_the_next_owners_changes_nothing,
    a_claim_that_arrives_after_the_hand_back_changes_nothing,
);
on_redis_with_smol!(
    a_dead_consumers_streams_are_taken_over_and_completed,
    a_stalled_owner_loses_its_lease_first_and_cannot_complete,
    shutdown_hands_back_and_another_continues_at_once,
);

async fn a_dead_consumers_streams_are_taken_over_and_completed(world: World) {
    let names = ["s1", "s2", "s3"];
    let info = Info::from_json("{\"priority\":7}").unwrap();
    let mut a = world.start("a").await;
    world
        .submit_with_info(names.map(|name| (name.to_owned(), info.clone())))
        .await;
    let old = a.leases(3).await;
    let mut b = world.start("b").await;
    // Past the first sweep, which tells of deadlines where there are no sessions.
    b.hears_nothing_for(world.ttl * 2).await;

    let died = world.now();
    a.process.kill();
    let new = b.leases(3).await;
    let took = world.since(died);
    // On the deadline by rule R9; the rest is for a busy machine.
    assert!(took < world.ttl * 2, "took {took:?}");
    for lease in &new {
        let before = old.iter().find(|old| old.stream() == lease.stream());
        let before = before.expect("one of the dead consumer's");
        assert!(lease.token() > before.token());
        assert!(!before.is_valid(), "believed by the dead one still");
        assert_eq!(lease.claimed_from(), Some(a.client.id()));
        assert_eq!(*lease.info(), info);
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn orphans_among_gaps_and_held_entries_are_recovered_at_start(world: World) {
    let mut dead = world.start_with("dead", |b| b.capacity(6)).await;
    let mut healthy = world.start_with("healthy", |b| b.capacity(6)).await;
    world.readers_wait(2).await;
    world
        .submit_with_info((0..12).map(|n| (format!("s{n}"), Info::NONE)))
        .await;
    let (mut left, kept) = (dead.leases(6).await, healthy.leases(6).await);
    // Every other one of the dead consumer's is finished: gaps.
    for finished in [4, 2, 0] {
        let lease = left.remove(finished);
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    dead.process.kill();

    let mut newcomer = world.start("newcomer").await;
    let recovered = newcomer.leases(3).await;
    let names = |leases: &[streamlease_core::Lease]| -> BTreeSet<StreamName> {
        leases.iter().map(|lease| lease.stream().clone()).collect()
    };
    assert_eq!(names(&recovered), names(&left));
    // Nothing is taken from the healthy one, neither now nor at a sweep.
    newcomer.hears_nothing_for(world.ttl * 5 / 2).await;
    healthy.hears_nothing_for(Duration::ZERO).await;
    assert!(kept.iter().all(|lease| lease.is_valid()));
    for lease in kept.iter().chain(&recovered) {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_sole_consumer_that_restarts_gets_its_streams_back(world: World) {
    let mut first = world.start("a").await;
    world.submit(&["s1", "s2"]).await;
    let old = first.leases(2).await;
    first.process.kill();
    let mut again = world.start("a").await;
    for lease in again.leases(2).await {
        assert!(old.iter().all(|old| lease.token() > old.token()));
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn with_manual_claiming_an_orphan_is_reported(world: World) {
    orphans_are_reported(world, 1).await;
}

async fn with_manual_claiming_a_thousand_orphans_are_all_reported(world: World) {
    orphans_are_reported(world, 1_000).await;
}

/// Every one once before any twice, through an event queue that is far too short.
async fn orphans_are_reported(world: World, streams: usize) {
    let world = world.with_ttl(Duration::from_secs(2));
    let mut owner = world.start("owner").await;
    world
        .submit_with_info((0..streams).map(|n| (format!("s{n}"), Info::NONE)))
        .await;
    let held = owner.leases(streams).await;
    let manual =
        |b: streamlease_core::ClientBuilder| b.claim_mode(ClaimMode::Manual).event_queue(50);
    let mut other = world.start_with("other", manual).await;
    owner.process.kill();
    let mut reported = BTreeSet::new();
    while reported.len() < streams {
        match other.event().await {
            Event::StreamExpired(orphan) => {
                assert_eq!(orphan.owner(), Some(owner.client.id()));
                reported.insert(orphan.stream().clone());
            }
            event => panic!("{event:?}"),
        }
    }
    assert!(held.iter().all(|lease| reported.contains(lease.stream())));
}

async fn with_manual_claiming_what_is_reported_can_be_claimed(world: World) {
    let mut owner = world.start("owner").await;
    // Locked well after its last heartbeat, the lock outlives the session.
    world.pass(world.ttl / 5).await;
    world.submit(&["s"]).await;
    let old = owner.lease().await;
    let manual = |b: streamlease_core::ClientBuilder| b.claim_mode(ClaimMode::Manual);
    let mut other = world.start_with("other", manual).await;
    owner.process.kill();
    let Event::StreamExpired(orphan) = other.event().await else {
        panic!("not reported first");
    };
    let result = other.client.claim(&orphan).await.unwrap();
    assert_eq!(result, ClaimResult::Claimed);
    let lease = other.lease().await;
    assert!(lease.token() > old.token());
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn a_thousand_streams_of_a_dead_consumer_are_all_taken_over(world: World) {
    const STREAMS: usize = 1_000;
    let world = world.with_ttl(Duration::from_secs(2));
    let mut owner = world.start("owner").await;
    world
        .submit_with_info((0..STREAMS).map(|n| (format!("s{n}"), Info::NONE)))
        .await;
    let held = owner.leases(STREAMS).await;
    let mut a = world.start("a").await;
    let mut b = world.start("b").await;
    owner.process.kill();
    let mut taken = BTreeSet::new();
    let mut leases = Vec::new();
    while taken.len() < STREAMS {
        let event = futures_lite::future::or(a.event(), b.event()).await;
        let Event::StreamAdded(lease) = event else {
            panic!("{event:?}");
        };
        assert!(
            taken.insert(lease.stream().clone()),
            "taken twice: {lease:?}"
        );
        leases.push(lease);
    }
    assert!(held.iter().all(|lease| taken.contains(lease.stream())));
    for completion in together(leases.iter().map(|lease| lease.complete())).await {
        assert_eq!(completion.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_stalled_owner_loses_its_lease_first_and_cannot_complete(world: World) {
    let mut a = world.start("a").await;
    world.submit(&["s"]).await;
    let stale = a.lease().await;
    let mut b = world.start("b").await;
    a.process.freeze();
    let lease = b.lease().await;
    assert!(!stale.is_valid(), "believed when the next owner had it");
    a.process.thaw();
    match a.event().await {
        Event::StreamDisowned(disowned) => {
            assert_eq!(disowned.reason(), DisownReason::Expired);
            assert_eq!(disowned.token(), stale.token());
            assert_eq!(disowned.stream(), stale.stream());
        }
        event => panic!("{event:?}"),
    }
    world.within("lost", stale.lost()).await;
    assert_eq!(stale.complete().await.unwrap(), Completion::NotOwner);
    // It does not take anything back either.
    a.hears_nothing_for(world.ttl * 2).await;
    assert!(lease.is_valid());
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn an_owner_that_reaches_no_server_loses_its_lease_on_time(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut a = world.start_on("a", provider, |b| b).await;
    world.submit(&["s"]).await;
    let stale = a.lease().await;
    let mut b = world.start("b").await;
    let cut_off = world.now();
    faults.set_unreachable(true);
    match a.event().await {
        Event::StreamDisowned(disowned) => assert_eq!(disowned.reason(), DisownReason::Expired),
        event => panic!("{event:?}"),
    }
    let took = world.since(cut_off);
    assert!(took <= world.ttl, "lost after {took:?}");
    assert!(!stale.is_valid());
    let lease = b.lease().await;
    faults.set_unreachable(false);
    a.hears_nothing_for(world.ttl * 2).await;
    assert_eq!(stale.complete().await.unwrap(), Completion::NotOwner);
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn shutdown_hands_back_and_another_continues_at_once(world: World) {
    // Far longer than it may take.
    let world = world.with_ttl(Duration::from_secs(20));
    let mut a = world.start("a").await;
    world.submit(&["s1", "s2"]).await;
    let held = a.leases(2).await;
    let mut b = world.start("b").await;
    let asked = world.now();
    a.client.shutdown().await.unwrap();
    let continued = b.leases(2).await;
    let took = world.since(asked);
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert!(held.iter().all(|lease| !lease.is_valid()));
    match a.event().await {
        Event::Terminated(termination) => assert!(termination.is_shutdown(), "{termination}"),
        event => panic!("{event:?}"),
    }
    assert!(a.events.next().await.is_none(), "something after the end");
    world
        .eventually("its tasks end", async || a.process.tasks() == 0)
        .await;
    for lease in continued {
        assert!(held.iter().all(|old| lease.token() > old.token()));
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_consumer_that_starts_after_the_shutdown_continues_at_once(world: World) {
    let world = world.with_ttl(Duration::from_secs(20));
    let mut a = world.start("a").await;
    world.submit(&["s1", "s2"]).await;
    let held = a.leases(2).await;
    a.client.shutdown().await.unwrap();
    let mut b = world.start("b").await;
    let started = world.now();
    for lease in b.leases(2).await {
        assert!(held.iter().all(|old| lease.token() > old.token()));
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    let took = world.since(started);
    assert!(took < Duration::from_secs(2), "took {took:?}");
    world.nothing_is_left().await;
}

async fn a_dropped_lease_is_handed_back_to_others(world: World) {
    let world = world.with_ttl(Duration::from_secs(20));
    let mut a = world.start("a").await;
    world.submit(&["s"]).await;
    let dropped = a.lease().await;
    let mut b = world.start("b").await;
    let (token, at) = (dropped.token(), world.now());
    drop(dropped);
    let lease = b.lease().await;
    let took = world.since(at);
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert!(lease.token() > token);
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn a_release_whose_hint_overtakes_the_refusal_is_not_missed(world: World) {
    let world = world.with_ttl(Duration::from_secs(20));
    let mut a = world.start_with("a", |b| b.capacity(1)).await;
    world.submit(&["twin"]).await;
    let first = a.lease().await;
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut b = world.start_on("b", provider, |b| b).await;
    let refusal = faults.hold_replies(Operation::Acquire);
    world.submit(&["twin"]).await;
    world.within("B is refused", refusal.entered()).await;
    assert_eq!(first.complete().await.unwrap(), Completion::Completed);
    // The hint comes, then the refusal.
    b.hears_nothing_for(Duration::from_millis(300)).await;
    drop(refusal);
    let dropped = world.now();
    let second = b.lease().await;
    let took = world.since(dropped);
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_eq!(second.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn a_pause_between_fetch_and_lock_while_another_completes_leads_to_no_event(world: World) {
    completed_between_fetch_and_lock(world, false).await;
}

async fn a_freeze_between_fetch_and_lock_while_another_completes_leads_to_no_event(world: World) {
    completed_between_fetch_and_lock(world, true).await;
}

/// A fetches and pauses before it locks: just that step of it, or (`frozen`) all
/// of it, so that its session ends too. B takes the entry over and completes it.
async fn completed_between_fetch_and_lock(world: World, frozen: bool) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut a = world.start_on("a", provider, |b| b).await;
    let hold = faults.hold(Operation::Acquire);
    world.submit(&["s"]).await;
    world.within("A locks", hold.entered()).await;
    if frozen {
        a.process.freeze();
    }
    // Heartbeats of both at the very same time would make each sweep turn a draw.
    world.pass(Duration::from_millis(37)).await;
    let mut b = world.start("b").await;
    let lease = b.lease().await;
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    drop(hold);
    a.process.thaw();
    a.hears_nothing_for(world.ttl * 2).await;
    world
        .nothing_is_left_of(&[(lease.stream().clone(), lease.entry())])
        .await;
    // Nor is it out of order.
    b.client.shutdown().await.unwrap();
    world.submit(&["next"]).await;
    let next = a.lease().await;
    assert_eq!(next.complete().await.unwrap(), Completion::Completed);
}

async fn a_claim_that_arrives_after_the_next_owners_changes_nothing(world: World) {
    let mut a = world.start("a").await;
    world.submit(&["s"]).await;
    let old = a.lease().await;
    let mut b = world.start("b").await;
    a.process.kill();
    let lease = b.lease().await;
    let late = claim_late(&world, &a, old.entry(), old.token()).await;
    assert_eq!(
        late,
        ClaimOutcome::Stale {
            seen: lease.token()
        }
    );
    let backend = world.backend().await;
    let pending = world.pending(&backend).await;
    assert_eq!(pending[0].consumer.as_ref(), Some(b.client.id()));
    assert!(lease.is_valid());
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    let late = claim_late(&world, &a, old.entry(), old.token()).await;
    assert_eq!(late, ClaimOutcome::Gone);
    world.nothing_is_left().await;
}

async fn a_claim_that_arrives_after_the_hand_back_changes_nothing(world: World) {
    let world = world.with_ttl(Duration::from_secs(20));
    let mut a = world.start("a").await;
    world.submit(&["s"]).await;
    let old = a.lease().await;
    old.hand_back().await.unwrap();
    let late = claim_late(&world, &a, old.entry(), old.token()).await;
    assert_eq!(late, ClaimOutcome::Stale { seen: old.token() });
    a.client.shutdown().await.unwrap();
    let mut b = world.start("b").await;
    let lease = b.lease().await;
    assert!(lease.token() > old.token());
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

/// The server executes a claim of that consumer's only now.
async fn claim_late(
    world: &World,
    consumer: &crate::support::Consumer,
    entry: streamlease_core::EntryId,
    token: FencingToken,
) -> ClaimOutcome {
    let backend = world.backend().await;
    let claims = [Fenced { entry, token }];
    let outcomes = backend.transport.claim(consumer.client.id(), &claims).await;
    outcomes.unwrap().remove(0)
}
