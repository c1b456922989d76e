//! A server behind a proxy that refuses all that managed services refuse.

use std::time::Duration;

use streamlease_core::Completion;
use streamlease_tests::Proxy;

use crate::support::{World, on_redis, on_redis_with_session_leases};

on_redis!(
    a_service_whose_server_refuses_what_managed_services_do_fails_over,
    a_service_whose_server_refuses_what_managed_services_do_hands_over_at_once,
);
on_redis_with_session_leases!(
    a_service_whose_server_refuses_what_managed_services_do_fails_over,
    a_service_whose_server_refuses_what_managed_services_do_hands_over_at_once,
);

async fn a_service_whose_server_refuses_what_managed_services_do_fails_over(world: World) {
    let proxy = Proxy::of_a_managed_service(world.redis().addr());
    let world = world.with_url(proxy.url());
    let names = ["s1", "s2", "s3"];
    let mut a = world.start("a").await;
    world.submit(&names).await;
    a.leases(3).await;
    let mut b = world.start("b").await;
    // Past the first sweep, which tells of deadlines where there are no sessions.
    b.hears_nothing_for(world.ttl * 2).await;

    let died = world.now();
    a.process.kill();
    for lease in b.leases(3).await {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    let took = world.since(died);
    assert!(took < world.ttl * 2, "took {took:?}");
    world.nothing_is_left().await;
    // It was really asked for some of it, and did without.
    assert!(!proxy.refused().is_empty());
}

/// By the hint, which needs no command that is refused.
async fn a_service_whose_server_refuses_what_managed_services_do_hands_over_at_once(world: World) {
    let proxy = Proxy::of_a_managed_service(world.redis().addr());
    // Far longer than it may take.
    let ttl = Duration::from_secs(20);
    let world = world.with_url(proxy.url()).with_ttl(ttl);
    let mut a = world.start("a").await;
    world.submit(&["s"]).await;
    a.lease().await;
    let mut b = world.start("b").await;
    let asked = world.now();
    a.client.shutdown().await.unwrap();
    let lease = b.lease().await;
    let took = world.since(asked);
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
}
