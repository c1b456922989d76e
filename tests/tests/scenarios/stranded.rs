//! Somebody takes entries from the group under those who work on them: removes a
//! consumer's name, acknowledges what is not finished, makes the group anew behind it.
//! Nothing of it is forgotten.

use std::time::Duration;

use streamlease_core::Event;

use crate::support::{World, on_redis_with_session_leases};

on_redis_with_session_leases!(
    a_holder_that_lives_takes_back_what_was_taken_from_the_group,
    what_was_taken_from_the_group_of_one_that_dies_is_inherited,
    what_was_announced_behind_a_new_group_is_found,
);
crate::support::tests!(
    redis_on_tokio: |scenario| on_tokio(scenario),
    a_holder_that_lives_takes_back_what_was_taken_from_the_group,
    what_was_taken_from_the_group_of_one_that_dies_is_inherited,
    what_was_announced_behind_a_new_group_is_found,
);

const FAULTS: [&str; 3] = ["DELCONSUMER", "XACK", "a group at $"];

/// With per-stream locks what a Go consumer may be about to delete is left alone for 5 s.
const BOUND: Duration = Duration::from_secs(25);

async fn inject(world: &World, fault: &str) {
    let redis = || world.redis().connection();
    let group = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.exec(&mut redis()).unwrap();
    };
    match fault {
        "DELCONSUMER" => group(&[
            "XGROUP",
            "DELCONSUMER",
            "orders-input",
            "orders-group",
            "redis-consumer-a",
        ]),
        "XACK" => {
            let backend = world.backend().await;
            for pending in world.pending(&backend).await {
                let id = pending.entry.to_string();
                group(&["XACK", "orders-input", "orders-group", &id]);
            }
        }
        // In one step: whoever finds no group makes it at the first entry.
        _ => redis::pipe()
            .atomic()
            .cmd("XGROUP")
            .arg(&["DESTROY", "orders-input", "orders-group"])
            .cmd("XGROUP")
            .arg(&["CREATE", "orders-input", "orders-group", "$"])
            .exec(&mut redis())
            .unwrap(),
    }
}

async fn a_holder_that_lives_takes_back_what_was_taken_from_the_group(world: World) {
    let mut a = world.start("a").await;
    world.submit(&["s", "t", "u"]).await;
    let leases = a.leases(3).await;
    let backend = world.backend().await;
    for fault in FAULTS {
        inject(&world, fault).await;
        let what = format!("all are at their owner after {fault}");
        let own = Some(a.client.id());
        world
            .eventually_within(BOUND, &what, async || {
                let pending = world.pending(&backend).await;
                let at_a = pending.iter().filter(|p| p.consumer.as_ref() == own);
                at_a.count() == 3
            })
            .await;
        assert!(
            leases.iter().all(streamlease_core::Lease::is_valid),
            "{fault}"
        );
    }
    for lease in leases {
        lease.complete().await.unwrap();
    }
    world.nothing_is_left().await;
}

async fn what_was_taken_from_the_group_of_one_that_dies_is_inherited(world: World) {
    for fault in FAULTS {
        let mut a = world.start_with("a", |a| a.capacity(3)).await;
        let mut b = world.start_with("b", |b| b.capacity(3)).await;
        world.submit(&["s", "t", "u", "v", "w", "x"]).await;
        let (at_a, at_b) = (a.leases(3).await, b.leases(3).await);
        inject(&world, fault).await;
        a.process.kill();
        let mut heir = world.start("heir").await;
        let mut inherited = Vec::new();
        while inherited.len() < at_a.len() {
            match heir.event_within(BOUND).await {
                Some(Event::StreamAdded(lease)) => inherited.push(lease),
                other => panic!("{fault}: {other:?} after {}", inherited.len()),
            }
        }
        for lease in inherited.into_iter().chain(at_b) {
            lease.complete().await.unwrap();
        }
        b.client.shutdown().await.unwrap();
        heir.client.shutdown().await.unwrap();
        world.nothing_is_left().await;
    }
}

async fn what_was_announced_behind_a_new_group_is_found(world: World) {
    let first = world.start("first").await;
    first.client.shutdown().await.unwrap();
    world.submit(&["s", "t"]).await;
    inject(&world, "a group at $").await;
    let mut a = world.start("a").await;
    for _ in 0..2 {
        match a.event_within(BOUND).await {
            Some(Event::StreamAdded(lease)) => drop(lease.complete().await.unwrap()),
            other => panic!("{other:?}"),
        }
    }
    world.nothing_is_left().await;
}
