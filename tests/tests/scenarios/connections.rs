//! What lies between a consumer and its server: a name that leads elsewhere, and a link
//! that carries little.

use std::time::Duration;

use streamlease_core::{Event, Info, Lease};
use streamlease_tests::{Proxy, RedisServer};

use crate::support::{Consumer, SOON, World};

crate::support::on_redis_with_session_leases!(
    a_name_that_leads_to_a_new_primary_is_followed_with_all_leases,
    long_infos_are_taken_over_on_a_slow_link_and_no_healthy_lease_is_lost,
);

const TTL: Duration = Duration::from_secs(2);

async fn a_name_that_leads_to_a_new_primary_is_followed_with_all_leases(world: World) {
    let primary = RedisServer::builder()
        .config("repl-diskless-sync-delay 0")
        .start();
    let replica = RedisServer::start();
    let name = Proxy::start(primary.addr());
    let (primary_port, replica_port) = (primary.port().to_string(), replica.port().to_string());
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &primary_port]);
    let world = world
        .with_server(primary)
        .with_url(name.url())
        .with_ttl(TTL);
    let mut consumer = world.start("a").await;
    world.submit(&["s0", "s1", "s2"]).await;
    let leases = consumer.leases(3).await;
    world.redis().replicated().await;

    replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    name.set_target(replica.addr());
    // Nobody hangs up on anybody: the old one refuses, and is silent to who listens.
    world
        .redis()
        .run::<()>(&["REPLICAOF", "127.0.0.1", &replica_port]);
    let since = world.now();
    world.submit(&["s3"]).await;
    let lease = consumer.lease().await;
    let took = world.since(since);
    assert!(took <= 2 * TTL, "work went on after {took:?}");
    assert!(leases.iter().chain([&lease]).all(Lease::is_valid));
    assert_eq!(replica.run::<usize>(&["XLEN", "orders-input"]), 4);
}

async fn long_infos_are_taken_over_on_a_slow_link_and_no_healthy_lease_is_lost(world: World) {
    const STREAMS: usize = 40;
    let world = world.with_ttl(TTL / 2);
    let link = Proxy::start(world.redis().addr());
    let mut dies = world
        .start_with("v", |builder| builder.capacity(STREAMS))
        .await;
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    let streams = (0..STREAMS).map(|n| (format!("long{n}"), Info::from_json(&long).unwrap()));
    world.submit_with_info(streams).await;
    let taken = dies.leases(STREAMS).await;

    // All of it at once would take twice as long as an answer may.
    link.set_rate(Some(4_000_000));
    let world = world.with_url(link.url());
    let mut survivor = world.start("w").await;
    world.submit(&["own0", "own1", "own2"]).await;
    let own = survivor.leases(3).await;
    dies.process.kill();
    let inherited = inherited_by(&mut survivor, STREAMS).await;
    assert!(own.iter().chain(&inherited).all(Lease::is_valid));
    drop(taken);
}

/// Takes so many leases; nothing may be lost meanwhile.
async fn inherited_by(survivor: &mut Consumer, streams: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    while leases.len() < streams {
        match survivor.event_within(SOON).await {
            Some(Event::StreamAdded(lease)) => leases.push(lease),
            other => panic!("{other:?} after {} of {streams}", leases.len()),
        }
    }
    leases
}
