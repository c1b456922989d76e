//! The server goes away, comes back without its data or with it, or loses its
//! connections: what can go on goes on, and giving up goes by the retry policy.

use std::time::Duration;

use streamlease_core::{Completion, ErrorKind, Event, Operation, RetryPolicy};

use crate::support::{Faults, World, everywhere, on_redis_with_smol, together};

everywhere!(
    a_destroyed_group_is_made_again_and_leases_go_on,
    a_fetch_whose_reply_is_lost_loses_no_stream,
    every_reply_lost_once_loses_no_stream,
    without_retries_the_first_failure_at_start_is_the_starts_error,
    without_retries_the_first_failure_later_terminates_with_its_reason,
    after_n_retries_the_client_terminates_with_its_reason,
    with_unlimited_retries_an_outage_is_waited_out,
);
/// Of many servers a replica takes the place of one that is gone.
mod one_server {
    use super::a_server_that_restarts_empty_is_worked_with_again;

    crate::support::on_one_server!(a_server_that_restarts_empty_is_worked_with_again);
}
on_redis_with_smol!(
    a_server_that_restarts_empty_is_worked_with_again,
    with_unlimited_retries_an_outage_is_waited_out,
);

/// Waits only as long as these tests want to.
const QUICK: RetryPolicy =
    RetryPolicy::UNLIMITED.with_waits(Duration::from_millis(20), Duration::from_millis(200));

async fn a_server_that_restarts_empty_is_worked_with_again(mut world: World) {
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    let mut b = world.start_with("b", |b| b.retry(QUICK)).await;
    world.submit(&["s"]).await;
    let event = futures_lite::future::or(a.event(), b.event()).await;
    let Event::StreamAdded(lost) = event else {
        panic!("{event:?}");
    };
    world.restart_empty();
    // What is gone is gone, and its owner is told in time.
    world.within("lost", lost.lost()).await;
    assert!(!lost.is_valid());
    // Both read again: with room for all of it, each gets a part in the end.
    let mut completed = 0;
    for n in 0..4 {
        let name = format!("new-{n}");
        world.submit(&[name.as_str()]).await;
        loop {
            match futures_lite::future::or(a.event(), b.event()).await {
                Event::StreamAdded(lease) => {
                    assert_eq!(lease.stream().as_str(), name);
                    assert!(lease.token() > lost.token(), "a token was used again");
                    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
                    completed += 1;
                    break;
                }
                Event::StreamDisowned(_) => {}
                event => panic!("{event:?}"),
            }
        }
    }
    assert_eq!(completed, 4);
    world.nothing_is_left().await;
}

async fn a_destroyed_group_is_made_again_and_leases_go_on(world: World) {
    let mut consumer = world.start_with("a", |b| b.retry(QUICK)).await;
    world.submit(&["kept"]).await;
    let kept = consumer.lease().await;
    world.destroy_group();
    world.submit(&["new"]).await;
    let new = consumer.lease().await;
    assert_eq!(new.stream().as_str(), "new");
    consumer.hears_nothing_for(world.ttl).await;
    assert!(
        kept.is_valid(),
        "the lease has nothing to do with the group"
    );
    for lease in [kept, new] {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_fetch_whose_reply_is_lost_loses_no_stream(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut consumer = world.start_on("a", provider, |b| b.retry(QUICK)).await;
    faults.lose_replies(Operation::Fetch, 1);
    world.submit(&["s"]).await;
    let lease = consumer.lease().await;
    assert_eq!(faults.lost(), 1);
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn every_reply_lost_once_loses_no_stream(world: World) {
    let faults = Faults::default();
    for operation in [
        Operation::Prepare,
        Operation::Open,
        Operation::Acquire,
        Operation::Claim,
        Operation::Complete,
        Operation::Release,
    ] {
        faults.lose_replies(operation, 1);
    }
    let provider = faults.wrap(world.provider().await);
    let mut consumer = world.start_on("a", provider, |b| b.retry(QUICK)).await;
    world.submit(&["s1", "s2"]).await;
    let leases = consumer.leases(2).await;
    for completion in together(leases.iter().map(|lease| lease.complete())).await {
        assert_eq!(completion.unwrap(), Completion::Completed);
    }
    faults.lose_replies(Operation::HandBack, 1);
    world.submit(&["s3"]).await;
    consumer.lease().await.hand_back().await.unwrap();
    // Nobody else is there: it comes back after a TTL.
    let again = consumer.lease().await;
    assert_eq!(again.complete().await.unwrap(), Completion::Completed);
    // Without sessions there is no open.
    let opens = usize::from(world.backend().await.locks.sessions().is_some());
    assert_eq!(faults.lost(), 6 + opens);
    world.nothing_is_left().await;
}

async fn without_retries_the_first_failure_at_start_is_the_starts_error(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let process = world.process();
    faults.set_unreachable(true);
    let (client, mut events) = world.begin("a", provider, &process, |b| b.retry(RetryPolicy::NONE));
    let error = world
        .within("an answer", client.started())
        .await
        .unwrap_err();
    // Who does not wait for the start hears of it all the same, and nobody else is told less.
    match world.within("the end", events.next()).await {
        Some(Event::Terminated(end)) => {
            assert_eq!(
                end.error().map(ToString::to_string),
                Some(error.to_string())
            );
        }
        event => panic!("{event:?}"),
    }
    assert_eq!(client.started().await.unwrap_err().kind(), error.kind());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    world
        .eventually("its tasks end", async || process.tasks() == 0)
        .await;
}

async fn without_retries_the_first_failure_later_terminates_with_its_reason(world: World) {
    let took = terminates(&world, RetryPolicy::NONE).await;
    assert!(took < world.ttl, "took {took:?}");
}

async fn after_n_retries_the_client_terminates_with_its_reason(world: World) {
    let policy = RetryPolicy::times(3);
    let policy = policy.with_waits(Duration::from_millis(200), policy.max);
    let took = terminates(&world, policy).await;
    // Waits of 200, 400 and 800 ms, each shortened by at most half.
    assert!(took >= Duration::from_millis(700), "took {took:?}");
}

/// Holds a stream when the server goes away for good; how long until it gave up.
async fn terminates(world: &World, policy: RetryPolicy) -> Duration {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let mut consumer = world.start_on("a", provider, |b| b.retry(policy)).await;
    world.submit(&["s"]).await;
    let lease = consumer.lease().await;
    faults.set_unreachable(true);
    let since = world.now();
    match consumer.event().await {
        Event::StreamDisowned(disowned) => assert_eq!(disowned.token(), lease.token()),
        event => panic!("{event:?}"),
    }
    assert!(!lease.is_valid());
    match consumer.event().await {
        Event::Terminated(termination) => {
            assert!(!termination.is_shutdown());
            let error = termination.error().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(termination.to_string().contains("cannot be reached"));
        }
        event => panic!("{event:?}"),
    }
    let took = world.since(since);
    assert!(consumer.events.next().await.is_none());
    assert_eq!(lease.complete().await.unwrap(), Completion::NotOwner);
    let error = consumer.client.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "nobody asked for it");
    world
        .eventually("its tasks end", async || consumer.process.tasks() == 0)
        .await;
    took
}

async fn with_unlimited_retries_an_outage_is_waited_out(world: World) {
    let faults = Faults::default();
    let provider = faults.wrap(world.provider().await);
    let process = world.process();
    faults.set_unreachable(true);
    let (client, events) = world.begin("a", provider, &process, |b| b.retry(QUICK));
    let outage = async {
        // At start already, and over many attempts.
        world
            .eventually("many attempts", async || faults.failed() >= 10)
            .await;
        faults.set_unreachable(false);
    };
    let (started, ()) = futures_lite::future::zip(client.started(), outage).await;
    started.unwrap();
    let mut consumer = crate::support::Consumer {
        process,
        client,
        events,
    };
    world.submit(&["s1"]).await;
    let lost = consumer.lease().await;
    faults.set_unreachable(true);
    match consumer.event().await {
        Event::StreamDisowned(disowned) => assert_eq!(disowned.token(), lost.token()),
        event => panic!("{event:?}"),
    }
    world.submit(&["s2"]).await;
    consumer.hears_nothing_for(world.ttl).await;
    faults.set_unreachable(false);
    for lease in consumer.leases(2).await {
        assert!(lease.token() > lost.token());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}
