//! Go consumers and ours in one fleet: each takes over from the other, going by
//! `docs/wire-format.md` alone.

use std::time::Duration;

use futures_lite::StreamExt;
use streamlease_core::Completion;

use crate::support::{GoConsumer, World, on_redis};

on_redis!(
    a_rust_consumer_takes_over_from_a_go_consumer_that_died_and_completes,
    an_entry_that_a_go_consumer_read_and_never_locked_is_taken_after_a_grace,
    a_go_consumer_takes_over_from_a_rust_consumer_that_died_and_completes,
    owners_keep_entries_fresh_and_take_back_what_a_go_consumer_moved,
    an_owner_completes_an_entry_that_a_go_consumer_moved,
);

/// How often the Go library extends its locks.
const GO_HEARTBEAT: Duration = Duration::from_secs(1);

async fn a_rust_consumer_takes_over_from_a_go_consumer_that_died_and_completes(world: World) {
    let mut go = GoConsumer::new(world.redis(), "go");
    go.create_group();
    let entry = go.submit("call-7", "{\"caller\":\"x\"}");
    assert!(go.read());
    assert!(go.lock("call-7", &entry));

    let mut rust = world.start("rust").await;
    for _ in 0..2 {
        rust.hears_nothing_for(GO_HEARTBEAT).await;
        assert!(go.extend("call-7", &entry), "its lock was taken");
    }
    assert_eq!(go.pending(&entry).unwrap().0, go.name());

    // It dies: nobody extends the lock any more.
    let died = world.now();
    let lease = rust.lease().await;
    let took = world.since(died);
    assert!(took >= Duration::from_millis(1_900), "too early: {took:?}");
    assert!(took < Duration::from_secs(4), "took {took:?}");
    assert_eq!(lease.stream().as_str(), "call-7");
    assert_eq!(lease.entry().to_string(), entry);
    assert_eq!(lease.info().as_json(), Some("{\"caller\":\"x\"}"));
    assert_eq!(
        lease.claimed_from().map(|from| from.as_str()),
        Some(go.name())
    );
    // Late, the Go consumer finds the lock to be somebody else's.
    assert!(!go.extend("call-7", &entry));
    assert!(!go.lock("call-7", &entry));
    assert!(
        go.lock_value("call-7", &entry)
            .unwrap()
            .starts_with("redis-consumer-rust")
    );
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn an_entry_that_a_go_consumer_read_and_never_locked_is_taken_after_a_grace(world: World) {
    let mut go = GoConsumer::new(world.redis(), "go");
    go.create_group();
    let entry = go.submit("call-7", "null");
    assert!(go.read());
    let read = world.now();
    let mut rust = world.start("rust").await;
    let lease = rust.lease().await;
    let took = world.since(read);
    // A Go reader that loses a lock race dies, so it gets max(TTL, 5 s).
    assert!(took >= Duration::from_millis(4_900), "too early: {took:?}");
    assert_eq!(lease.entry().to_string(), entry);
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
}

async fn a_go_consumer_takes_over_from_a_rust_consumer_that_died_and_completes(world: World) {
    let world = world.with_ttl(Duration::from_millis(1_500));
    let mut rust = world.start("rust").await;
    let mut go = GoConsumer::new(world.redis(), "go");
    let entry = go.submit("call-7", "{\"caller\":\"x\"}");
    let lease = rust.lease().await;
    assert_eq!(lease.entry().to_string(), entry);
    assert!(
        !go.lock("call-7", &entry),
        "the lock stands where it looks for it"
    );
    world
        .eventually("it has been held for a heartbeat", async || {
            go.pending(&entry).unwrap().1 >= GO_HEARTBEAT
        })
        .await;

    // What a Go consumer listens to; flags as the Rust consumer has set them.
    let client = redis::Client::open(world.redis().url()).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub
        .psubscribe("__keyspace@0__:*<MUTEX_KEY_SEP>*")
        .await
        .unwrap();
    let mut messages = pubsub.on_message();
    rust.process.kill();
    let expired = async {
        loop {
            let message = messages.next().await.unwrap();
            if message.get_payload::<String>().unwrap() == "expired" {
                break message.get_channel_name().to_owned();
            }
        }
    };
    let channel = world.within("the lock's expiry", expired).await;
    let key = channel.strip_prefix("__keyspace@0__:").unwrap();
    let (stream, id) = key.split_once("<MUTEX_KEY_SEP>").unwrap();
    assert_eq!((stream, id), ("call-7", &*entry));
    assert!(go.claim(id), "not idle for a heartbeat, or gone");
    assert!(go.lock(stream, id), "the lock is not free");

    // Another Rust consumer leaves it where it is.
    let mut other = world.start("other").await;
    for _ in 0..2 {
        other.hears_nothing_for(GO_HEARTBEAT).await;
        assert!(go.extend(stream, id), "its lock was taken");
    }
    assert_eq!(go.pending(id).unwrap().0, go.name());
    go.complete(stream, id);
    other.hears_nothing_for(world.ttl).await;
    // Our record of an entry that others removed is tidied away by sweeps.
    world.nothing_is_left().await;
}

async fn owners_keep_entries_fresh_and_take_back_what_a_go_consumer_moved(world: World) {
    // It takes ten seconds and more; the lease has to outlast whatever happens then.
    let world = world.with_ttl(Duration::from_secs(5));
    let mut rust = world.start("rust").await;
    let mut go = GoConsumer::new(world.redis(), "go");
    let kept = go.submit("kept", "null");
    let moved = go.submit("moved", "null");
    let leases = rust.leases(2).await;
    assert!(go.claim_idle_for(&moved, Duration::ZERO));
    assert_eq!(go.pending(&moved).unwrap().0, go.name());
    // Idle time grows, and is reset long before the 40 s at which a booting Go
    // consumer takes over; the same call takes back what is at another consumer.
    let owner = rust.client.id().as_str().to_owned();
    let mut longest = Duration::ZERO;
    world
        .eventually_within(Duration::from_secs(19), "both are fresh", async || {
            let (consumer, idle) = go.pending(&kept).unwrap();
            assert_eq!(consumer, owner);
            let was_reset = idle < longest;
            longest = longest.max(idle);
            was_reset && go.pending(&moved).unwrap().0 == owner
        })
        .await;
    assert_eq!(go.boot(), 0);
    rust.hears_nothing_for(Duration::ZERO).await;
    for lease in leases {
        assert!(lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn an_owner_completes_an_entry_that_a_go_consumer_moved(world: World) {
    let mut rust = world.start("rust").await;
    let mut go = GoConsumer::new(world.redis(), "go");
    let entry = go.submit("call-7", "null");
    let lease = rust.lease().await;
    assert!(go.claim_idle_for(&entry, Duration::ZERO));
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    assert_eq!(go.pending(&entry), None);
    world.nothing_is_left().await;
}
