//! Streams find an owner, one each, and go away when they are done.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{ClaimMode, ClaimResult, Completion, Event, Info, Lease};

use crate::support::{Consumer, World, everywhere, on_redis_with_smol, together};

everywhere!(
    streams_are_spread_over_two_consumers_with_their_info,
    streams_submitted_before_any_consumer_existed_are_delivered,
    the_same_stream_submitted_twice_has_one_owner_at_a_time,
    completing_removes_the_entry_and_the_lock,
    completing_many_streams_removes_all_their_entries_and_locks,
    a_claim_succeeds_exactly_once_among_ten_racing_consumers,
    a_fetch_that_blocks_longer_than_any_default_time_out_still_delivers_at_once,
);
on_redis_with_smol!(
    streams_are_spread_over_two_consumers_with_their_info,
    a_claim_succeeds_exactly_once_among_ten_racing_consumers,
);

async fn streams_are_spread_over_two_consumers_with_their_info(world: World) {
    const STREAMS: usize = 40;
    let mut consumers = [world.start("a").await, world.start("b").await];
    world.readers_wait(2).await;
    let info = |n: usize| Info::from_json(&format!("{{\"n\":{n}}}")).unwrap();
    world
        .submit_with_info((0..STREAMS).map(|n| (format!("s{n}"), info(n))))
        .await;

    let mut seen = BTreeMap::new();
    let mut held: [Vec<Lease>; 2] = Default::default();
    for _ in 0..STREAMS {
        let (who, lease) = next_lease(&mut consumers).await;
        let n: usize = lease.stream().as_str()[1..].parse().unwrap();
        assert_eq!(*lease.info(), info(n));
        assert_eq!(seen.insert(n, who), None, "{lease:?} has two owners");
        held[who].push(lease);
    }
    assert_eq!(seen.len(), STREAMS);
    assert!(held.iter().all(|leases| !leases.is_empty()), "not spread");
    for lease in held.iter().flatten() {
        assert!(lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn streams_submitted_before_any_consumer_existed_are_delivered(world: World) {
    let names = ["first", "second", "third"];
    world.submit(&names).await;
    let mut consumer = world.start("a").await;
    let leases = consumer.leases(3).await;
    let mut delivered: Vec<_> = leases.iter().map(|l| l.stream().as_str()).collect();
    delivered.sort_unstable();
    assert_eq!(delivered, names);
    for lease in &leases {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn the_same_stream_submitted_twice_has_one_owner_at_a_time(world: World) {
    let mut consumers = [world.start("a").await, world.start("b").await];
    world.submit(&["twin", "twin"]).await;
    let (_, first) = next_lease(&mut consumers).await;
    let [a, b] = &mut consumers;
    future::zip(
        a.hears_nothing_for(world.ttl * 2),
        b.hears_nothing_for(world.ttl * 2),
    )
    .await;
    assert!(first.is_valid());
    assert_eq!(first.complete().await.unwrap(), Completion::Completed);
    let (_, second) = next_lease(&mut consumers).await;
    assert_ne!(second.entry(), first.entry());
    assert!(second.token() > first.token());
    assert_eq!(second.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn completing_removes_the_entry_and_the_lock(world: World) {
    let mut consumer = world.start("a").await;
    let entries = world.submit(&["s"]).await;
    let lease = consumer.lease().await;
    assert_eq!(lease.entry(), entries[0]);
    let completion = consumer.client.complete_stream(lease.stream()).await;
    assert_eq!(completion.unwrap(), Completion::Completed);
    assert!(!lease.is_valid());
    world.within("lost", lease.lost()).await;
    assert_eq!(lease.complete().await.unwrap(), Completion::NotOwner);
    world
        .nothing_is_left_of(&[(lease.stream().clone(), lease.entry())])
        .await;
}

async fn completing_many_streams_removes_all_their_entries_and_locks(world: World) {
    const STREAMS: usize = 400;
    let mut consumer = world.start("a").await;
    world
        .submit_with_info((0..STREAMS).map(|n| (format!("s{n}"), Info::NONE)))
        .await;
    let leases = consumer.leases(STREAMS).await;
    let completions = together(leases.iter().map(Lease::complete)).await;
    for completion in completions {
        assert_eq!(completion.unwrap(), Completion::Completed);
    }
    let streams: Vec<_> = leases
        .iter()
        .map(|lease| (lease.stream().clone(), lease.entry()))
        .collect();
    world.nothing_is_left_of(&streams).await;
}

async fn a_claim_succeeds_exactly_once_among_ten_racing_consumers(world: World) {
    let mut owner = world.start("owner").await;
    world.submit(&["s"]).await;
    let lost = owner.lease().await;
    let mut others = Vec::new();
    for n in 0..10 {
        let manual =
            |builder: streamlease_core::ClientBuilder| builder.claim_mode(ClaimMode::Manual);
        others.push(world.start_with(&format!("m{n}"), manual).await);
    }
    owner.process.kill();
    let mut orphans = Vec::new();
    for other in &mut others {
        match other.event().await {
            Event::StreamExpired(orphan) => {
                assert_eq!(orphan.stream(), lost.stream());
                assert_eq!(orphan.owner(), Some(owner.client.id()));
                orphans.push(orphan);
            }
            event => panic!("{event:?}"),
        }
    }
    let claims = others.iter().zip(&orphans);
    let results = together(claims.map(|(other, orphan)| other.client.claim(orphan))).await;
    let mut winner = None;
    for (other, result) in others.iter_mut().zip(results) {
        match result.unwrap() {
            ClaimResult::Claimed => {
                assert!(winner.replace(other).is_none(), "claimed twice");
            }
            ClaimResult::HeldElsewhere => {}
            result => panic!("{result:?}"),
        }
    }
    let winner = winner.expect("nobody's claim succeeded");
    let lease = loop {
        match winner.event().await {
            Event::StreamAdded(lease) => break lease,
            // Reported again by a sweep that began before the claim.
            Event::StreamExpired(_) => {}
            event => panic!("{event:?}"),
        }
    };
    assert!(lease.token() > lost.token());
    assert_eq!(lease.claimed_from(), Some(owner.client.id()));
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn a_fetch_that_blocks_longer_than_any_default_time_out_still_delivers_at_once(world: World) {
    let mut consumer = world.start("a").await;
    // Longer than the redis crate's time-outs, and than one fetch waits.
    consumer
        .hears_nothing_for(Duration::from_millis(6_500))
        .await;
    let submitted = world.now();
    world.submit(&["s"]).await;
    let lease = consumer.lease().await;
    let took = world.since(submitted);
    assert!(took < Duration::from_secs(1), "took {took:?}");
    let backend = world.backend().await;
    assert_eq!(world.pending(&backend).await.len(), 1);
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

/// The next lease that any of them gets, and whose it is.
async fn next_lease(consumers: &mut [Consumer; 2]) -> (usize, Lease) {
    let [a, b] = consumers;
    future::or(async { (0, a.lease().await) }, async {
        (1, b.lease().await)
    })
    .await
}
