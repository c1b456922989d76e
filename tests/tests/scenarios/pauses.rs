//! A paused service: nothing is taken, what is held stays held, and then all goes on.

use std::collections::BTreeSet;

use futures_lite::future;
use streamlease_core::{ClientBuilder, Completion};

use crate::support::{World, everywhere, on_redis_with_smol};

everywhere!(
    in_a_pause_nobody_gets_anything_and_at_its_end_all_is_held_soon,
    a_fleet_that_is_replaced_in_a_pause_takes_everything_after_it,
);
on_redis_with_smol!(in_a_pause_nobody_gets_anything_and_at_its_end_all_is_held_soon);

async fn in_a_pause_nobody_gets_anything_and_at_its_end_all_is_held_soon(world: World) {
    let one = |b: ClientBuilder| b.capacity(1);
    let mut owner = world.start_with("owner", one).await;
    world.submit(&["kept"]).await;
    let kept = owner.lease().await;
    let mut dying = world.start_with("dying", one).await;
    world.submit(&["left"]).await;
    let left = dying.lease().await;
    let admin = world.backend().await.admin;
    assert!(admin.pause("a test").await.unwrap());

    let mut late = world.start("late").await;
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    world
        .submit(&names.iter().map(|name| &**name).collect::<Vec<_>>())
        .await;
    dying.process.kill();
    // Long enough for a take-over, and for everybody to ask whether the pause is over.
    future::zip(
        late.hears_nothing_for(world.ttl * 4),
        owner.hears_nothing_for(world.ttl * 4),
    )
    .await;
    assert!(kept.is_valid());
    owner.client.set_capacity(0).unwrap();
    assert_eq!(kept.complete().await.unwrap(), Completion::Completed);

    assert!(admin.resume().await.unwrap());
    let resumed = world.now();
    let mut missing: BTreeSet<_> = names.into_iter().chain(["left".to_owned()]).collect();
    let mut leases = Vec::new();
    while !missing.is_empty() {
        let lease = late.lease().await;
        assert!(missing.remove(lease.stream().as_str()), "{lease:?}");
        leases.push(lease);
        if missing.len() == 1 {
            let after = world.since(resumed);
            assert!(after < world.ttl, "{after:?} after the end of the pause");
        }
    }
    for lease in &leases {
        assert_eq!(lease.failures(), u32::from(lease.stream() == left.stream()));
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_fleet_that_is_replaced_in_a_pause_takes_everything_after_it(world: World) {
    let mut old = world.start("old").await;
    world.submit(&["first", "second"]).await;
    old.leases(2).await;
    let admin = world.backend().await.admin;
    assert!(admin.pause("").await.unwrap());
    world.submit(&["third"]).await;
    old.client.shutdown().await.unwrap();
    let mut new = world.start("new").await;
    new.hears_nothing_for(world.ttl * 2).await;
    assert!(admin.resume().await.unwrap());
    for lease in new.leases(3).await {
        assert_eq!(lease.failures(), 0, "{lease:?}");
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}
