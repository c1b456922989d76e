//! Session leases on a real server: what the conformance suite cannot see, and
//! what they cost.

use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

/// Script calls since the statistics were reset, and how many µs of the server's
/// time they took: the median, which does not tell of the moments in which others
/// had the processor.
fn calls(server: &RedisServer) -> (u64, f64) {
    let info: String = server.run(&["INFO", "everything"]);
    let number = |name: &str, after: &str| -> Option<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        let value = line.split(after).nth(1)?.split(',').next()?;
        Some(value.parse().unwrap())
    };
    // By code if the server did not know the script, by hash ever after.
    let kinds = ["evalsha", "eval"].map(|name| {
        let stats = format!("cmdstat_{name}:");
        let calls = number(&stats, "calls=").unwrap_or(0.0);
        let failed = number(&stats, "failed_calls=").unwrap_or(0.0);
        let usec = number(&format!("latency_percentiles_usec_{name}:"), "p50=");
        (calls - failed, usec.unwrap_or(0.0))
    });
    let most = if kinds[1].0 > kinds[0].0 { 1 } else { 0 };
    ((kinds[0].0 + kinds[1].0) as u64, kinds[most].1)
}

/// What a script costs that writes as much as a page of leases does, and no more
/// than that: the measure of what a page may cost on this machine, now.
fn plain_page(server: &RedisServer) -> f64 {
    const WRITES: &str = "for i = 1, 600 do redis.call('HSET', KEYS[1], 'call-' .. i, i) end";
    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    for _ in 0..50 {
        server.run::<()>(&["EVAL", WRITES, "1", "plain"]);
    }
    let (_, usec) = calls(server);
    server.run::<()>(&["DEL", "plain"]);
    println!("600 plain writes: {usec} µs");
    server.run::<()>(&["CONFIG", "RESETSTAT"]);
    usec
}

/// So many times a plain page one of leases may cost: two to three are usual.
const PAGE: f64 = 10.0;

#[test]
fn a_heartbeat_is_one_call_that_costs_the_same_whatever_is_held() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let cost_of = |what: &str, per: usize| {
            let (count, usec) = calls(&server);
            let per = usec * count as f64 / per as f64;
            println!("{what}: {count} calls of {usec:.1} µs, {per:.2} µs per item");
            server.run::<()>(&["CONFIG", "RESETSTAT"]);
            (count, usec)
        };
        // The server has to be given each script once, which would count as calls.
        let warm_up = all_acquired(&backend, &a, 1).await;
        assert_eq!(release_all(&backend, &a, &warm_up).await, 1);
        heartbeat(&backend, &a).await;
        let plain = plain_page(&server);
        for _ in 0..50 {
            heartbeat(&backend, &a).await;
        }
        let (_, empty) = cost_of("heartbeat with nothing held", 50);

        let mut leases = all_acquired(&backend, &a, 100_000).await;
        let (count, usec) = cost_of("acquire of 100,000", 100_000);
        assert_eq!(count, 100_000_u64.div_ceil(120), "one call per page");
        assert!(usec < plain * PAGE, "{usec} µs, {plain} µs plain");

        for _ in 0..50 {
            assert_eq!(heartbeat(&backend, &a).await.on_record, Some(100_000));
        }
        let (count, full) = cost_of("heartbeat with 100,000 held", 50);
        assert_eq!(count, 50, "one call per heartbeat");
        // Ten times as much would still be a wonder next to 100,000 renewals.
        assert!(full < empty * 10.0 + 100.0, "{full} µs, {empty} µs empty");

        let locks: Vec<LockId> = leases
            .iter()
            .take(1_200)
            .map(|lease| LockId {
                stream: lease.stream.clone(),
                entry: lease.entry,
            })
            .collect();
        backend.locks.inspect(&locks).await.unwrap();
        cost_of("inspect of 1,200", 1_200);

        backend
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        let b = opened(&backend, "b", TTL).await;
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        leases.clear();
        loop {
            let (page, left) = took(&backend, &b, &a).await;
            leases.extend(page);
            if left == 0 {
                break;
            }
        }
        assert_eq!(leases.len(), 100_000);
        let (_, usec) = cost_of("take-over of 100,000", 100_000);
        assert!(usec < plain * PAGE, "{usec} µs, {plain} µs plain");
        assert!(
            backend
                .locks
                .sessions()
                .unwrap()
                .remove(&a.id)
                .await
                .unwrap()
        );

        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let record = backend
            .locks
            .sessions()
            .unwrap()
            .records(&b.id, None, 5_000)
            .await
            .unwrap();
        assert_eq!(record.len(), 5_000);
        cost_of("record, 5,000 read", 5_000);
        assert_eq!(release_all(&backend, &b, &leases).await, 100_000);
        let (_, usec) = cost_of("release of 100,000", 100_000);
        assert!(usec < plain * PAGE, "{usec} µs, {plain} µs plain");
        assert_eq!(heartbeat(&backend, &b).await.on_record, Some(0));
        let keys: Vec<String> = server.run(&["KEYS", "*:leases:*"]);
        assert!(keys.is_empty(), "{keys:?}");
        let left: u64 = server.run(&["HLEN", "{orders-input}:owners"]);
        assert_eq!(left, 1, "its mark");
    });
}

#[test]
fn every_key_is_in_the_services_slot_and_none_tells_of_its_expiry() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        let _subscription = backend.notifier.subscribe().await.unwrap();
        let (a, b) = (
            opened(&backend, "a", TTL).await,
            opened(&backend, "b", TTL).await,
        );
        let lease = acquired(&backend, &a, "call").await;
        try_acquire(&backend, &b, acquire("call", E1, 1, 0)).await;
        backend
            .locks
            .sessions()
            .unwrap()
            .revoke(&[stream("call")])
            .await
            .unwrap();
        let owner: String = server.run(&["HGET", "{orders-input}:owners", "call"]);
        let token = lease.token.0;
        assert_eq!(
            owner,
            format!("{}/{token:020}/{E1}/0000000000000001", a.id),
            "as a lock's value"
        );
        let keys: Vec<String> = server.run(&["KEYS", "*"]);
        for key in &keys {
            let ours = key == "orders-input" || key.starts_with("{orders-input}:");
            assert!(ours, "{keys:?}");
        }
        let flags: Vec<String> = server.run(&["CONFIG", "GET", "notify-keyspace-events"]);
        assert_eq!(flags[1], "");
    });
}

#[test]
fn neither_a_late_heartbeat_nor_a_late_open_revives_even_if_the_clock_goes_back() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let (a, b) = (
            opened(&backend, "a", SHORT).await,
            opened(&backend, "b", TTL).await,
        );
        acquired(&backend, &a, "s1").await;
        acquired(&backend, &a, "s2").await;
        outlived(&backend, &a).await;
        // Dead before anybody has done anything about it.
        assert!(is_gone(&backend, &a).await);
        // Acquired in the ordinary way: the record moves, and the death is final.
        let mine = acquired(&backend, &b, "s1").await;
        assert_eq!(heartbeat(&backend, &b).await.on_record, Some(1));
        let deadline: String =
            server.run(&["ZSCORE", "{orders-input}:sessions", &a.id.to_string()]);
        assert_eq!(deadline, "0", "before every clock");
        let (moved, left) = took(&backend, &b, &a).await;
        assert_eq!((moved.len(), left), (1, 0));
        assert!(moved[0].token > mine.token);
        for _ in 0..2 {
            assert!(is_gone(&backend, &a).await);
            let outcome = backend.locks.sessions().unwrap().open(&a).await.unwrap();
            assert_eq!(outcome, OpenOutcome::SessionGone);
            assert!(
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .remove(&a.id)
                    .await
                    .unwrap()
            );
        }
        assert_eq!(heartbeat(&backend, &b).await.on_record, Some(2));
    });
}

#[test]
fn a_lease_that_was_taken_over_is_safe_from_an_earlier_acquire_that_comes_late() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let (a, b) = (
            opened(&backend, "a", TTL).await,
            opened(&backend, "b", TTL).await,
        );
        acquired(&backend, &a, "s").await;
        try_acquire(&backend, &b, acquire("other", E1, 7, 0)).await;
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        let (moved, _) = took(&backend, &b, &a).await;
        let late = try_acquire(&backend, &b, acquire("s", E1, 6, 0)).await;
        assert!(matches!(late, AcquireOutcome::Held(_)), "{late:?}");
        let AcquireOutcome::Acquired(token) =
            try_acquire(&backend, &b, acquire("s", E1, 8, 0)).await
        else {
            panic!("a later one gets it")
        };
        assert!(token > moved[0].token);
    });
}

#[test]
fn a_reply_that_was_lost_is_found_on_record_and_let_go() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        // Executed by the server, but its caller has never learned of it.
        let lost = acquired(&backend, &a, "lost").await;
        let known = acquired(&backend, &a, "known").await;
        assert_eq!(heartbeat(&backend, &a).await.on_record, Some(2));
        let record = backend
            .locks
            .sessions()
            .unwrap()
            .records(&a.id, None, 10)
            .await
            .unwrap();
        assert_eq!(record, [known.clone(), lost.clone()], "by name");
        // The repeat gets the same lease, and an ordinary later one another token.
        assert_eq!(acquired(&backend, &a, "lost").await, lost);
        assert_eq!(
            release_all(&backend, &a, std::slice::from_ref(&lost)).await,
            1
        );
        assert_eq!(release_all(&backend, &a, &[lost]).await, 0);
        let record = backend
            .locks
            .sessions()
            .unwrap()
            .records(&a.id, None, 10)
            .await
            .unwrap();
        assert_eq!(record, [known]);
    });
}

#[test]
fn marks_come_in_pages_until_released_and_go_with_their_lease() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let leases = all_acquired(&backend, &a, 1_000).await;
        let streams: Vec<StreamName> = leases.iter().map(|lease| lease.stream.clone()).collect();
        let marked = backend
            .locks
            .sessions()
            .unwrap()
            .revoke(&streams)
            .await
            .unwrap();
        assert!(marked.iter().all(|marked| *marked));
        assert!(!heartbeat(&backend, &a).await.revoked.is_empty());
        // A newer lease of the same data stream is not meant.
        let newer = try_acquire(&backend, &a, acquire("call-000000", E1, 2, 0)).await;
        assert!(matches!(newer, AcquireOutcome::Acquired(_)));
        let mut given_up = 0;
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        loop {
            let revoked = heartbeat(&backend, &a).await.revoked;
            if revoked.is_empty() {
                break;
            }
            assert!(revoked.iter().all(|lease| leases.contains(lease)));
            let released = release_all(&backend, &a, &revoked).await;
            assert!(released > 0, "a mark of what is not held: {revoked:?}");
            given_up += released;
        }
        let (_, usec) = calls(&server);
        println!("heartbeats and releases of marked pages: {usec:.0} µs each");
        assert_eq!(given_up, 999);
        assert_eq!(heartbeat(&backend, &a).await.on_record, Some(1));
        let keys: Vec<String> = server.run(&["KEYS", "*:marks"]);
        assert!(keys.is_empty(), "{keys:?}");
    });
}

#[test]
fn a_consumer_with_the_services_other_locks_is_refused() {
    on_both(|| async {
        let server = RedisServer::start();
        let name = |n: u32| format!("service-{n}");
        let pair = [LockScheme::PerStream, LockScheme::Session];
        for (n, (first, second)) in [(0, (pair[0], pair[1])), (1, (pair[1], pair[0]))] {
            let first = backend_with(&server, &name(n), first).await;
            let second = backend_with(&server, &name(n), second).await;
            first.transport.prepare().await.unwrap();
            for _ in 0..2 {
                let err = second.transport.prepare().await.unwrap_err();
                assert_eq!(err.kind(), ErrorKind::Incompatible);
                let own = match first.locks.scheme() {
                    LockScheme::PerStream => "has per-stream locks on record",
                    LockScheme::Session => "has session locks on record",
                };
                assert!(err.to_string().contains(own), "{err}");
                assert!(err.to_string().contains("migrate"), "{err}");
            }
            // One that had prepared before the service was made anew.
            let err = second
                .locks
                .sessions()
                .unwrap()
                .open(&session("late", 1, TTL))
                .await;
            assert_eq!(err.unwrap_err().kind(), ErrorKind::Incompatible);
            // A group that was lost is made again; the record stays.
            let (lbs, group) = (format!("{}-input", name(n)), format!("{}-group", name(n)));
            server.run::<()>(&["XGROUP", "DESTROY", &lbs, &group]);
            assert!(second.transport.prepare().await.is_err());
            first.transport.prepare().await.unwrap();
        }
    });
}

#[test]
fn a_group_without_a_record_belongs_to_the_wire_format() {
    on_both(|| async {
        let server = RedisServer::start();
        server.run::<()>(&[
            "XGROUP",
            "CREATE",
            "orders-input",
            "orders-group",
            "0",
            "MKSTREAM",
        ]);
        let refused = sessions(&server).await;
        let err = refused.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Incompatible);
        assert!(err.to_string().contains("wire format"), "{err}");
        let mixed = backend(&server, "orders").await;
        mixed.transport.prepare().await.unwrap();
        let record: Option<String> = server.run(&["GET", "{orders-input}:scheme"]);
        assert_eq!(record, None, "the group is not ours");
        // A stream that producers have made has no group yet.
        server.run::<String>(&["XADD", "calls-input", "*", "lbs-input", "{}"]);
        let calls = backend_with(&server, "calls", LockScheme::Session).await;
        calls.transport.prepare().await.unwrap();
        let record: String = server.run(&["GET", "{calls-input}:scheme"]);
        assert_eq!(record, "session");
    });
}

#[test]
fn after_a_restart_live_owners_renew_first() {
    on_both(|| async {
        let mut server = keeping_all();
        let backend = sessions(&server).await;
        const MS: u64 = 1_500;
        let (a, b, dead) = (
            opened(&backend, "a", MS).await,
            opened(&backend, "b", MS).await,
            opened(&backend, "dead", MS).await,
        );
        let held = acquired(&backend, &a, "held").await;
        acquired(&backend, &dead, "left").await;
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&dead.id)
            .await
            .unwrap();
        heartbeat(&backend, &a).await;
        // As if the server had been away for longer than the TTL: nobody could renew.
        for who in [&a, &b] {
            let name = who.id.to_string();
            let score: u64 = server.run(&["ZSCORE", "{orders-input}:sessions", &name]);
            let earlier = (score - MS + 100).to_string();
            server.run::<()>(&["ZADD", "{orders-input}:sessions", &earlier, &name]);
        }
        let last: u64 = server.run(&["HGET", "{orders-input}:server", "last"]);
        let last = (last - MS).to_string();
        server.run::<()>(&["HSET", "{orders-input}:server", "last", &last]);
        server.start_again();

        let outcome = loop {
            let request = [
                acquire("held", E1, 2, 0),
                acquire("left", E1, 2, 0),
                acquire("new", E1, 2, 0),
            ];
            if let Ok(outcomes) = backend.locks.acquire(&b, &request).await {
                break outcomes;
            }
        };
        for outcome in outcome {
            let AcquireOutcome::NotYet { retry_in } = outcome else {
                panic!("{outcome:?}")
            };
            assert!(retry_in <= Duration::from_millis(MS), "{retry_in:?}");
        }
        let taken = backend
            .locks
            .sessions()
            .unwrap()
            .take_over(&b, &dead.id, 10)
            .await
            .unwrap();
        assert!(matches!(taken, TakeOverOutcome::NotYet { .. }), "{taken:?}");
        let taken = backend
            .locks
            .sessions()
            .unwrap()
            .take_over(&b, &a.id, 10)
            .await
            .unwrap();
        assert!(matches!(taken, TakeOverOutcome::Alive { .. }), "{taken:?}");
        // The live ones go on, with what they have; the dead one stays dead.
        let reply = heartbeat(&backend, &a).await;
        assert_eq!(reply.on_record, Some(1));
        assert!(is_gone(&backend, &dead).await);
        let again = try_acquire(&backend, &a, acquire("held", E1, 1, 0)).await;
        assert_eq!(again, AcquireOutcome::Acquired(held.token), "its own");
        assert_eq!(release_all(&backend, &a, &[held]).await, 1);

        // For a TTL, then everything is as always.
        let taken = loop {
            heartbeat(&backend, &a).await;
            heartbeat(&backend, &b).await;
            match backend
                .locks
                .sessions()
                .unwrap()
                .take_over(&b, &dead.id, 10)
                .await
                .unwrap()
            {
                TakeOverOutcome::NotYet { .. } => pause(Duration::from_millis(10)).await,
                other => break other,
            }
        };
        assert!(
            matches!(&taken, TakeOverOutcome::Taken { leases, left: 0 } if leases.len() == 1),
            "{taken:?}"
        );
        acquired(&backend, &b, "new").await;
    });
}

#[test]
fn each_restart_has_its_own_generation_though_its_last_writes_are_lost() {
    on_both(|| async {
        let mut server = keeping_all();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let mut seen = vec![heartbeat(&backend, &a).await.generation];
        assert_eq!(heartbeat(&backend, &a).await.generation, seen[0]);
        for _ in 0..3 {
            // What is known of the server is what it was before the last restart.
            let fields = ["run", "last", "calm"];
            let known = fields.map(|field| {
                let value: Option<String> = server.run(&["HGET", "{orders-input}:server", field]);
                (field, value.unwrap())
            });
            server.start_again();
            let lost_one = acquire("lost", E1, 1, 0);
            while backend
                .locks
                .acquire(&a, std::slice::from_ref(&lost_one))
                .await
                .is_err()
            {}
            let generation = heartbeat(&backend, &a).await.generation;
            assert!(!seen.contains(&generation), "{generation} again");
            assert_eq!(
                heartbeat(&backend, &a).await.generation,
                generation,
                "stays"
            );
            seen.push(generation);
            for (field, value) in known {
                server.run::<()>(&["HSET", "{orders-input}:server", field, &value]);
            }
        }
    });
}

/// A restart loses one lease and leaves an unknown one.
#[test]
fn a_lease_that_a_restart_lost_shows_in_the_generation_though_the_number_fits() {
    on_tokio(|| async {
        let mut server = keeping_all();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        acquired(&backend, &a, "s").await;
        let before = heartbeat(&backend, &a).await;
        let name = a.id.to_string();
        // As if the last write had been another acquire, left behind, and not this one.
        acquired(&backend, &a, "unknown").await;
        server.run::<()>(&["HDEL", "{orders-input}:owners", "s"]);
        let leases = format!("{{orders-input}}:leases:{name}");
        assert_eq!(server.run::<u64>(&["ZREM", &leases, "s"]), 1);
        server.start_again();
        let after = loop {
            if let Ok(outcome) = backend.locks.renew(&Renew::new(a.clone(), [])).await {
                break outcome;
            }
        };
        let RenewOutcome::Extended(after) = after else {
            panic!("{after:?}")
        };
        assert_eq!(
            after.on_record, before.on_record,
            "the number tells nothing"
        );
        assert_ne!(after.generation, before.generation);
    });
}

#[test]
fn after_a_restart_that_lost_everything_nobody_acquires_for_a_ttl() {
    on_both(|| async {
        let mut server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", SHORT).await;
        acquired(&backend, &a, "s").await;
        server.start_again();
        let gone = loop {
            if let Ok(outcome) = backend.locks.renew(&Renew::new(a.clone(), [])).await {
                break outcome;
            }
        };
        assert_eq!(gone, RenewOutcome::SessionGone);
        let again = session("a", 2, SHORT * 10);
        backend
            .locks
            .sessions()
            .unwrap()
            .open(&again)
            .await
            .unwrap();
        let outcome = try_acquire(&backend, &again, acquire("s", E1, 1, 0)).await;
        assert!(
            matches!(outcome, AcquireOutcome::NotYet { retry_in } if retry_in <= again.ttl),
            "its former owner may believe in it still: {outcome:?}"
        );
        let token = loop {
            match try_acquire(&backend, &again, acquire("s", E1, 2, 0)).await {
                AcquireOutcome::NotYet { .. } => pause(Duration::from_millis(10)).await,
                AcquireOutcome::Acquired(token) => break token,
                other => panic!("{other:?}"),
            }
        };
        assert!(token > FencingToken::NONE);
    });
}

/// A call as its script gets it from a client that thinks it is earlier.
struct Behind<'a> {
    script: &'a str,
    /// Beyond those that every script has.
    keys: &'a [&'a str],
    arguments: &'a [&'a str],
}

impl Behind<'_> {
    fn by(&self, server: &RedisServer, who: &Session, behind: u64) -> String {
        let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
        let expected = seconds * 1_000 + micros / 1_000 - behind;
        let shared = [
            "sessions",
            "owners",
            "server",
            "sessions:details",
            "leases:",
        ];
        let mut call = redis_rs::cmd("EVAL");
        call.arg(self.script).arg(shared.len() + self.keys.len());
        for key in shared.iter().chain(self.keys) {
            call.arg(format!("{{orders-input}}:{key}"));
        }
        call.arg(who.id.to_string())
            .arg(u64::try_from(who.ttl.as_millis()).unwrap())
            .arg(expected)
            .arg(self.arguments);
        let reply: redis_rs::Value = call.query(&mut server.connection()).unwrap();
        format!("{reply:?}")
    }
}

#[test]
fn when_the_servers_clock_leaps_live_owners_renew_first() {
    const HEARTBEAT: &str = concat!(
        include_str!("../../src/scripts/lib/base.lua"),
        include_str!("../../src/scripts/lib/locks.lua"),
        include_str!("../../src/scripts/locks/session/head.lua"),
        include_str!("../../src/scripts/lib/around.lua"),
        include_str!("../../src/scripts/locks/session/heartbeat.lua")
    );
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let (a, b) = (
            opened(&backend, "a", 2_000).await,
            opened(&backend, "b", 2_000).await,
        );
        acquired(&backend, &a, "s").await;
        // What is stored from before a leap by ten seconds.
        let leap = |what: &str| {
            for who in [&a, &b] {
                let name = who.id.to_string();
                server.run::<()>(&["ZINCRBY", "{orders-input}:sessions", "-10000", &name]);
            }
            server.run::<()>(&["HINCRBY", "{orders-input}:server", "last", "-10000"]);
            println!("{what}");
        };
        let called = Behind {
            script: HEARTBEAT,
            keys: &["sweep", "tokens", "scheme"],
            arguments: &["0"],
        };
        let generation = heartbeat(&backend, &a).await.generation;
        leap("seen by one who knows the time");
        let reply = called.by(&server, &b, 10_000);
        assert!(!reply.contains("gone"), "{reply}");
        let reply = heartbeat(&backend, &a).await;
        assert_eq!(reply.on_record, Some(1));
        assert_ne!(reply.generation, generation);
        let outcome = try_acquire(&backend, &b, acquire("s", E1, 1, 0)).await;
        assert!(
            matches!(outcome, AcquireOutcome::NotYet { .. }),
            "{outcome:?}"
        );
        leap("a silence, and nobody who was there before");
        let reply = called.by(&server, &b, 0);
        assert!(reply.contains("gone"), "{reply}");
    });
}

#[test]
fn forty_who_die_at_once_are_all_told_of_by_one_heartbeat() {
    on_both(|| async {
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let a = opened(&backend, "a", TTL).await;
            for n in 0..40 {
                let dead = opened(&backend, &format!("dead{n}"), TTL).await;
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .close(&dead.id)
                    .await
                    .unwrap();
            }
            assert_eq!(heartbeat(&backend, &a).await.dead.len(), 40, "{scheme:?}");
        }
    });
}

#[test]
fn a_close_that_comes_late_stops_nobody() {
    const SESSION: &str = concat!(
        include_str!("../../src/scripts/lib/base.lua"),
        include_str!("../../src/scripts/lib/locks.lua"),
        include_str!("../../src/scripts/locks/session/head.lua"),
        include_str!("../../src/scripts/locks/session/session.lua")
    );
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let (a, b) = (
            opened(&backend, "a", TTL).await,
            opened(&backend, "b", TTL).await,
        );
        // Nobody has called for a while, nor did the close come quickly.
        server.run::<()>(&["HINCRBY", "{orders-input}:server", "last", "-5000"]);
        let unsaid = Session::new(b.id.clone(), Duration::ZERO);
        let call = Behind {
            script: SESSION,
            keys: &["buried", "hints", "scheme"],
            arguments: &["close", b.id.consumer.as_str()],
        };
        let reply = call.by(&server, &unsaid, 4_000);
        assert!(reply.contains("ok"), "{reply}");
        let outcome = try_acquire(&backend, &a, acquire("s", E1, 1, 0)).await;
        assert!(
            matches!(outcome, AcquireOutcome::Acquired(_)),
            "{outcome:?}"
        );
    });
}

#[test]
fn without_the_right_to_ask_for_the_run_id_all_but_that_works() {
    on_both(|| async {
        let server = RedisServer::start();
        server.run::<()>(&[
            "ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all", "-info",
        ]);
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let lease = acquired(&backend, &a, "s").await;
        assert_eq!(heartbeat(&backend, &a).await.on_record, Some(1));
        assert_eq!(release_all(&backend, &a, &[lease]).await, 1);
    });
}

/// They slipped into a fleet of Go consumers, whose locks they do not see. (A user without
/// this right is refused already because of that.)
#[test]
fn where_nobody_can_look_at_groups_a_wire_fleet_is_refused_all_the_same() {
    on_both(|| async {
        let server = RedisServer::builder()
            .config("rename-command XINFO \"\"")
            .start();
        server.run::<()>(&[
            "XGROUP",
            "CREATE",
            "orders-input",
            "orders-group",
            "0",
            "MKSTREAM",
        ]);
        let backend = sessions(&server).await;
        let refused = backend.transport.prepare().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Incompatible, "{refused}");
        assert!(refused.to_string().contains("wire format"), "{refused}");
    });
}

#[test]
fn the_setting_decides_and_session_leases_are_the_default() {
    on_both(|| async {
        let server = RedisServer::start();
        let provider = RedisBackend::connect(server.url()).await.unwrap();
        let scheme = |provider: &RedisBackend| {
            let backend = provider.backend(&service("s"));
            backend.unwrap().locks.scheme()
        };
        assert_eq!(scheme(&provider), LockScheme::Session);
        let provider = provider.with_lock_scheme(LockScheme::PerStream);
        assert_eq!(scheme(&provider), LockScheme::PerStream);
    });
}

#[test]
fn an_idle_service_is_migrated_and_a_busy_one_is_not() {
    on_both(|| async {
        let server = RedisServer::start();
        let provider = RedisBackend::connect(server.url()).await.unwrap();
        let orders = service("orders");
        let recorded = async || provider.recorded_lock_scheme(&orders).await.unwrap();
        assert_eq!(recorded().await, None);
        let (old, new) = (backend(&server, "orders").await, sessions(&server).await);
        old.transport.prepare().await.unwrap();
        assert_eq!(recorded().await, Some(LockScheme::PerStream));
        old.submitter.submit(&batch(1, &["call"])).await.unwrap();
        let fetched = old.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        let entry = fetched.entries[0].entry;

        let refused = async |to| {
            let err = provider.migrate(&orders, to).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Busy);
            assert!(err.to_string().contains("busy"), "{err}");
            err.to_string()
        };
        // A Go consumer: no session, but a lock.
        let wire = format!("call<MUTEX_KEY_SEP>{entry}");
        server.run::<()>(&["SET", &wire, "redis-consumer-go"]);
        assert!(refused(LockScheme::Session).await.contains("call is held"));
        server.run::<()>(&["DEL", &wire]);
        let a = opened(&old, "a", TTL).await;
        assert!(
            refused(LockScheme::Session)
                .await
                .contains("1 consumer is alive")
        );
        assert_eq!(recorded().await, Some(LockScheme::PerStream));
        old.locks.sessions().unwrap().close(&a.id).await.unwrap();

        provider
            .migrate(&orders, LockScheme::Session)
            .await
            .unwrap();
        provider
            .migrate(&orders, LockScheme::Session)
            .await
            .unwrap();
        assert_eq!(recorded().await, Some(LockScheme::Session));
        assert!(old.transport.prepare().await.is_err());
        new.transport.prepare().await.unwrap();
        let pending = new.transport.list_pending(&ALL, 10).await.unwrap();
        assert_eq!(pending.entries[0].entry, entry, "pending still");
        let b = session("b", 1, TTL);
        new.locks.sessions().unwrap().open(&b).await.unwrap();
        acquired(&new, &b, "call").await;
        refused(LockScheme::PerStream).await;
        // It dies, with the stream on record.
        new.locks.sessions().unwrap().close(&b.id).await.unwrap();
        provider
            .migrate(&orders, LockScheme::PerStream)
            .await
            .unwrap();
        old.transport.prepare().await.unwrap();
        let left: Vec<String> = server.run(&["KEYS", "*leases*"]);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(server.run::<u64>(&["EXISTS", "{orders-input}:owners"]), 0);

        server.run::<()>(&["SET", "{orders-input}:scheme", "other"]);
        let err = provider.recorded_lock_scheme(&orders).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Incompatible);
        assert!(new.transport.prepare().await.is_err());
    });
}
