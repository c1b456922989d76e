//! When nobody holds a handle any more, nothing is left running.

use std::time::Duration;

use streamlease_core::{Completion, FencingToken, RetryPolicy};

use crate::support::{Faults, World, everywhere, on_redis_with_smol};

everywhere!(
    dropping_every_handle_in_an_outage_ends_every_task,
    dropping_a_client_that_has_not_started_ends_every_task,
);
/// It counts the connections of the server that it has for itself.
mod one_server {
    use super::dropping_every_handle_ends_every_task_and_connection_and_hands_back;

    crate::support::on_one_server!(
        dropping_every_handle_ends_every_task_and_connection_and_hands_back
    );
}
on_redis_with_smol!(dropping_every_handle_ends_every_task_and_connection_and_hands_back);

async fn dropping_every_handle_ends_every_task_and_connection_and_hands_back(world: World) {
    let world = world.with_ttl(Duration::from_secs(20));
    let connections = connections(&world);
    let mut a = world.start("a").await;
    world.submit(&["s1", "s2", "s3"]).await;
    let leases = a.leases(2).await;
    let token = leases[0].token();
    // The third is leased too, its event unread.
    let backend = world.backend().await;
    world
        .eventually("all are leased", async || {
            let pending = world.pending(&backend).await;
            pending.len() == 3 && pending.iter().all(|p| p.token != FencingToken::NONE)
        })
        .await;
    drop(backend);
    let process = a.process.clone();
    let other = a.client.clone();
    assert!(process.tasks() > 0);
    drop(a);
    drop(other);
    // Events are gone, so nothing is taken any more; the leases still are handles.
    assert!(leases.iter().all(|lease| lease.is_valid()));
    drop(leases);
    world
        .eventually("its tasks end", async || process.tasks() == 0)
        .await;
    world
        .eventually("its connections are closed", async || {
            self::connections(&world) == connections
        })
        .await;
    // The others continue at once.
    let mut b = world.start("b").await;
    for lease in b.leases(3).await {
        assert!(lease.token() > token);
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn dropping_every_handle_in_an_outage_ends_every_task(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut a = world.start_on("a", provider, |b| b).await;
    world.submit(&["s"]).await;
    let lease = a.lease().await;
    faults.set_unreachable(true);
    let process = a.process.clone();
    drop((a, lease));
    world
        .eventually("its tasks end", async || process.tasks() == 0)
        .await;
}

async fn dropping_a_client_that_has_not_started_ends_every_task(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    faults.set_unreachable(true);
    let process = world.process();
    let (client, events) =
        world.begin("a", provider, &process, |b| b.retry(RetryPolicy::UNLIMITED));
    let start = async {
        let _ = client.started().await;
        panic!("it started");
    };
    futures_lite::future::or(start, world.pass(Duration::from_millis(200))).await;
    assert!(process.tasks() > 0);
    drop((client, events));
    world
        .eventually("its tasks end", async || process.tasks() == 0)
        .await;
}

/// How many connections the server has, besides the one that asks.
fn connections(world: &World) -> usize {
    if !world.is_redis() {
        return 0;
    }
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut world.redis().connection())
        .unwrap();
    list.lines().count() - 1
}
