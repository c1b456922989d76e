//! What only a real Redis server does: restarts with its data, freezes, closes
//! connections, has flags and rights of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_lite::future::zip;
use redis::cmd;
use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{Completion, DisownReason, Event, Info, RetryPolicy};
use streamlease_tests::{Proxy, RedisServer};

use crate::support::{
    GoConsumer, Provider, World, on_redis, on_redis_with_session_leases, on_redis_with_smol,
    together,
};

on_redis!(
    an_idle_consumer_of_a_trimmed_lbs_waits_for_what_comes,
    a_server_that_restarts_with_its_data_has_its_leases_still,
    a_server_that_restarts_with_its_data_after_a_ttl_loses_no_stream,
    an_owner_whose_server_is_frozen_loses_its_lease_on_time,
    requests_that_a_partition_delays_until_after_the_next_owner_change_nothing,
    connections_killed_in_the_middle_of_a_fetch_lose_nothing,
    a_reply_to_a_fetch_that_is_cut_off_loses_nothing,
    killed_notification_connections_come_back_and_failover_goes_on,
    flags_already_set_by_others_are_kept_and_ours_added,
    flags_lost_by_a_restart_are_set_again,
    without_the_right_to_config_failover_still_works,
    with_config_renamed_away_failover_still_works,
    one_expired_lock_is_noticed_by_its_hint_alone,
    a_thousand_expired_locks_are_noticed_by_their_hints_alone,
    another_services_expired_lock_with_the_same_entry_id_is_left_alone,
    a_server_that_is_gone_for_good_terminates_by_the_retry_policy,
);
// What is about expiring keys is about per-stream locks. After a restart session
// leases assign nothing new for a TTL; the backend's own tests wait for that.
on_redis_with_session_leases!(
    an_idle_consumer_of_a_trimmed_lbs_waits_for_what_comes,
    a_server_that_restarts_with_its_data_after_a_ttl_loses_no_stream,
    an_owner_whose_server_is_frozen_loses_its_lease_on_time,
    requests_that_a_partition_delays_until_after_the_next_owner_change_nothing,
    connections_killed_in_the_middle_of_a_fetch_lose_nothing,
    a_reply_to_a_fetch_that_is_cut_off_loses_nothing,
    without_the_right_to_config_failover_still_works,
    a_server_that_is_gone_for_good_terminates_by_the_retry_policy,
);
on_redis_with_smol!(
    connections_killed_in_the_middle_of_a_fetch_lose_nothing,
    an_owner_whose_server_is_frozen_loses_its_lease_on_time,
);

const QUICK: RetryPolicy =
    RetryPolicy::UNLIMITED.with_waits(Duration::from_millis(20), Duration::from_millis(200));

/// The group's `lag` never comes down again once entries were removed that nobody had
/// had; consumers read without blocking then, 30,000 times a second.
async fn an_idle_consumer_of_a_trimmed_lbs_waits_for_what_comes(world: World) {
    let mut a = world.start_with("a", |b| b.capacity(1)).await;
    let names: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.submit(&names).await;
    let lease = a.lease().await;
    let _: u64 = world.redis().run(&["XTRIM", "orders-input", "MAXLEN", "0"]);
    // Its own entry went with the others.
    assert_eq!(lease.complete().await.unwrap(), Completion::Gone);
    assert!(matches!(a.event().await, Event::StreamDisowned(_)));
    let lag = || {
        let groups: redis::Value = world.redis().run(&["XINFO", "GROUPS", "orders-input"]);
        format!("{groups:?}")
    };
    let before = fetches(&world);
    let window = Duration::from_secs(3);
    a.hears_nothing_for(window).await;
    let made = fetches(&world) - before;
    assert!(made <= 30, "{made} fetches in {window:?}: {}", lag());
    world.submit(&["new"]).await;
    let new = a.lease().await;
    assert_eq!(new.complete().await.unwrap(), Completion::Completed);
}

/// How often the server was asked for fresh entries so far.
fn fetches(world: &World) -> u64 {
    let stats: String = world.redis().run(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_xreadgroup:calls="));
    let calls = calls.and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

async fn a_server_that_restarts_with_its_data_has_its_leases_still(world: World) {
    let mut world = world
        .with_server(RedisServer::builder().append_only().start())
        .with_ttl(Duration::from_secs(15));
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    world.submit(&["s1", "s2"]).await;
    let leases = a.leases(2).await;
    world.redis_mut().start_again();
    world.submit(&["s3"]).await;
    let new = a.lease().await;
    assert_eq!(new.stream().as_str(), "s3");
    for lease in leases.iter().chain([&new]) {
        assert!(lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn a_server_that_restarts_with_its_data_after_a_ttl_loses_no_stream(world: World) {
    let mut world = world.with_server(RedisServer::builder().append_only().start());
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    world.submit(&["s1", "s2"]).await;
    let lost = a.leases(2).await;
    world.redis_mut().kill();
    for _ in 0..2 {
        match a.event().await {
            Event::StreamDisowned(disowned) => {
                assert_eq!(disowned.reason(), DisownReason::Expired);
            }
            event => panic!("{event:?}"),
        }
    }
    a.hears_nothing_for(world.ttl).await;
    world.redis_mut().start_again();
    for lease in a.leases(2).await {
        let before = lost.iter().find(|old| old.stream() == lease.stream());
        assert!(lease.token() > before.unwrap().token());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn an_owner_whose_server_is_frozen_loses_its_lease_on_time(world: World) {
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    world.submit(&["s"]).await;
    let stale = a.lease().await;
    world.redis().freeze();
    let frozen = world.now();
    match a.event().await {
        Event::StreamDisowned(disowned) => {
            assert_eq!(disowned.reason(), DisownReason::Expired);
            assert_eq!(disowned.token(), stale.token());
        }
        event => panic!("{event:?}"),
    }
    let took = world.since(frozen);
    assert!(took <= world.ttl, "lost after {took:?}");
    assert!(!stale.is_valid());
    world.redis().thaw();
    let again = a.lease().await;
    assert!(again.token() > stale.token());
    assert_eq!(stale.complete().await.unwrap(), Completion::NotOwner);
    assert_eq!(again.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn requests_that_a_partition_delays_until_after_the_next_owner_change_nothing(world: World) {
    let proxy = Proxy::start(world.redis().addr());
    let through_proxy = RedisBackend::connect(proxy.url()).await.unwrap();
    let through_proxy = through_proxy.with_lock_scheme(world.scheme);
    let provider = Provider::new(through_proxy);
    let mut a = world.start_on("a", provider, |b| b.retry(QUICK)).await;
    world.submit(&["completed-late", "handed-back-late"]).await;
    let mut stale = a.leases(2).await;
    stale.sort_by_key(|lease| lease.stream().clone());
    let mut b = world.start("b").await;
    proxy.partition();
    // Both requests are on their way, and arrive at the healing.
    let (completed, handed_back) = zip(stale[0].complete(), stale[1].hand_back()).await;
    assert!(
        !matches!(completed, Ok(Completion::Completed)),
        "{completed:?}"
    );
    assert!(stale.iter().all(|lease| !lease.is_valid()));
    drop(handed_back);
    for lease in &stale {
        world.within("lost", lease.lost()).await;
    }
    let mut leases = b.leases(2).await;
    leases.sort_by_key(|lease| lease.stream().clone());
    proxy.heal();
    // It can talk again, so what was held has arrived before.
    b.hears_nothing_for(world.ttl * 2).await;
    let backend = world.backend().await;
    let pending = world.pending(&backend).await;
    assert_eq!(pending.len(), 2, "completed by its former owner");
    for (pending, lease) in pending.iter().zip(&leases) {
        assert_eq!(pending.consumer.as_ref(), Some(b.client.id()));
        assert_eq!(pending.token, lease.token());
        assert!(!pending.handed_back, "handed back by its former owner");
    }
    for lease in leases {
        assert!(lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn connections_killed_in_the_middle_of_a_fetch_lose_nothing(world: World) {
    let world = world.with_ttl(Duration::from_secs(5));
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    world.submit(&["held"]).await;
    let held = a.lease().await;
    for n in 0..5 {
        world.readers_wait(1).await;
        let killed: u64 = cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .query(&mut world.redis().connection())
            .unwrap();
        assert!(killed >= 2, "only {killed} connections");
        let name = format!("s{n}");
        world.submit(&[name.as_str()]).await;
        let lease = a.lease().await;
        assert_eq!(lease.stream().as_str(), name);
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    assert!(held.is_valid(), "an error is not a loss");
    assert_eq!(held.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn a_reply_to_a_fetch_that_is_cut_off_loses_nothing(world: World) {
    let proxy = Proxy::start(world.redis().addr());
    let world = world.with_url(proxy.url()).with_ttl(Duration::from_secs(5));
    // The first read finds one, and its reply is lost whole; that of another in the middle.
    proxy.cut_reply_to("XREADGROUP", 0);
    proxy.cut_reply_to("XREADGROUP", 40);
    world.submit(&["s1", "s2", "s3"]).await;
    let mut a = world.start_with("a", |b| b.retry(QUICK)).await;
    let leases = a.leases(3).await;
    assert_eq!(proxy.cut(), 2);
    for lease in leases {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn killed_notification_connections_come_back_and_failover_goes_on(world: World) {
    let world = world.with_ttl(Duration::from_secs(5));
    let mut a = world.start("a").await;
    let mut b = world.start("b").await;
    let mut admin = world.redis().connection();
    let killed: u64 = cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query(&mut admin)
        .unwrap();
    assert_eq!(killed, 2);
    world
        .eventually("both listen again", async || {
            let subscribed: u64 = cmd("PUBSUB").arg("NUMPAT").query(&mut admin).unwrap();
            let (_, hints): (String, u64) = cmd("PUBSUB")
                .arg(&["NUMSUB", "{orders-input}:hints"])
                .query(&mut admin)
                .unwrap();
            (subscribed, hints) == (1, 2)
        })
        .await;
    // Only a hint makes this one quick.
    world.submit(&["s"]).await;
    let event = futures_lite::future::or(async { (a.event().await, 'a') }, async {
        (b.event().await, 'b')
    });
    let (Event::StreamAdded(lease), owner) = event.await else {
        panic!("not added");
    };
    let handed_back = world.now();
    lease.hand_back().await.unwrap();
    let other = if owner == 'a' { &mut b } else { &mut a };
    let lease = other.lease().await;
    let took = world.since(handed_back);
    assert!(took < Duration::from_secs(1), "took {took:?}");
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
}

async fn flags_already_set_by_others_are_kept_and_ours_added(world: World) {
    let server = RedisServer::builder()
        .config("notify-keyspace-events Elg")
        .start();
    let world = world.with_server(server);
    let _a = world.start("a").await;
    assert_flags(&world, "Elg", "Kx");
    // A second one starts as well, and changes nothing.
    let _b = world.start("b").await;
    assert_flags(&world, "Elg", "Kx");
}

async fn flags_lost_by_a_restart_are_set_again(world: World) {
    let mut world = world;
    let _a = world.start_with("a", |b| b.retry(QUICK)).await;
    assert_flags(&world, "", "Kx");
    world.redis_mut().start_again();
    world
        .eventually("the flags are set again", async || {
            flags(&world).contains('K')
        })
        .await;
    assert_flags(&world, "", "Kx");
}

fn flags(world: &World) -> String {
    let (_, flags): (String, String) = cmd("CONFIG")
        .arg(&["GET", "notify-keyspace-events"])
        .query(&mut world.redis().connection())
        .unwrap();
    flags
}

#[track_caller]
fn assert_flags(world: &World, theirs: &str, ours: &str) {
    let mut flags: Vec<char> = flags(world).chars().collect();
    let mut expected: Vec<char> = theirs.chars().chain(ours.chars()).collect();
    flags.sort_unstable();
    expected.sort_unstable();
    assert_eq!(flags, expected);
}

async fn without_the_right_to_config_failover_still_works(world: World) {
    let server = RedisServer::builder()
        .config("user worker on >pw ~* &* +@all -config")
        .start();
    let url = server.url_with("worker", "pw", 0);
    let world = world.with_server(server).with_url(url);
    failover_works_without_notifications(world).await;
}

async fn with_config_renamed_away_failover_still_works(world: World) {
    let server = RedisServer::builder()
        .config("rename-command CONFIG \"\"")
        .start();
    failover_works_without_notifications(world.with_server(server)).await;
}

async fn failover_works_without_notifications(world: World) {
    let mut a = world.start("a").await;
    world.submit(&["s1", "s2"]).await;
    let old = a.leases(2).await;
    let mut b = world.start("b").await;
    b.hears_nothing_for(world.ttl).await;
    let died = world.now();
    a.process.kill();
    for lease in b.leases(2).await {
        assert!(old.iter().all(|old| lease.token() > old.token()));
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    let took = world.since(died);
    assert!(took < world.ttl * 2, "took {took:?}");
    world.nothing_is_left().await;
}

async fn one_expired_lock_is_noticed_by_its_hint_alone(world: World) {
    expired_locks_are_noticed_by_their_hints(world, 1).await;
}

async fn a_thousand_expired_locks_are_noticed_by_their_hints_alone(world: World) {
    expired_locks_are_noticed_by_their_hints(world, 1_000).await;
}

/// A Go consumer takes streams after ours has looked at all there was, and
/// dies: hints apart, ours looks again after two of its TTLs.
async fn expired_locks_are_noticed_by_their_hints(world: World, streams: usize) {
    let world = world.with_ttl(Duration::from_secs(60));
    let mut a = world.start("a").await;
    // Its first sweep is over: the turn, which is asked for first, is taken.
    let mut redis = world.redis().connection();
    world
        .eventually("the first sweep", async || {
            let taken: bool = cmd("EXISTS")
                .arg("{orders-input}:sweep")
                .query(&mut redis)
                .unwrap();
            taken
        })
        .await;
    a.hears_nothing_for(Duration::from_millis(200)).await;

    let mut go = GoConsumer::new(world.redis(), "go");
    let names: Vec<String> = (0..streams).map(|n| format!("call-{n}")).collect();
    for (name, entry) in names.iter().zip(go.submit_and_read(&names)) {
        assert!(go.lock(name, &entry));
    }
    let locked = world.now();
    let leases = a.leases(streams).await;
    let took = world.since(locked);
    assert!(took < Duration::from_secs(30), "took {took:?}");
    let taken: BTreeSet<&str> = leases.iter().map(|l| l.stream().as_str()).collect();
    assert_eq!(taken.len(), streams);
    for completion in together(leases.iter().map(|lease| lease.complete())).await {
        assert_eq!(completion.unwrap(), Completion::Completed);
    }
    world.nothing_is_left().await;
}

async fn another_services_expired_lock_with_the_same_entry_id_is_left_alone(world: World) {
    let mut owner = world.start("owner").await;
    let entry = world.submit(&["call"]).await[0];
    let held = owner.lease().await;
    let mut other = world.start("other").await;
    // The same entry id on the LBS of another service, whose lock expires.
    let mut redis = world.redis().connection();
    let key = format!("call-of-theirs<MUTEX_KEY_SEP>{entry}");
    cmd("SET")
        .arg(&[&*key, "redis-consumer-theirs", "PX", "50"])
        .exec(&mut redis)
        .unwrap();
    world
        .eventually("it expires", async || {
            let exists: bool = cmd("EXISTS").arg(&key).query(&mut redis).unwrap();
            !exists
        })
        .await;
    other.hears_nothing_for(world.ttl * 2).await;
    owner.hears_nothing_for(Duration::ZERO).await;
    assert!(held.is_valid());
    assert_eq!(held.complete().await.unwrap(), Completion::Completed);
}

async fn a_server_that_is_gone_for_good_terminates_by_the_retry_policy(world: World) {
    let mut world = world;
    let policy = RetryPolicy::times(2);
    let policy = policy.with_waits(Duration::from_millis(50), policy.max);
    let mut a = world.start_with("a", |b| b.retry(policy)).await;
    world.submit_with_info([("s".to_owned(), Info::NONE)]).await;
    let lease = a.lease().await;
    let provider: Provider = world.provider().await;
    world.redis_mut().kill();
    let terminated = loop {
        match a.event().await {
            Event::StreamDisowned(_) => {}
            Event::Terminated(termination) => break termination,
            event => panic!("{event:?}"),
        }
    };
    assert!(!terminated.is_shutdown());
    assert!(terminated.to_string().contains("127.0.0.1"), "{terminated}");
    assert!(!lease.is_valid());
    // And whoever starts now hears of it from `started`.
    let process = world.process();
    let (late, _events) = world.begin("late", provider, &process, |b| b.retry(policy));
    let error = world.within("an answer", late.started()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    for process in [&process, &a.process] {
        world
            .eventually("its tasks end", async || process.tasks() == 0)
            .await;
    }
}
