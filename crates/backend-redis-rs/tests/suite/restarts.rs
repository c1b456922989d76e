//! How a restart of the server is told from what only looks like one.

use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

const SERVER: &str = "{orders-input}:server";

/// The same service by a user who may not ask INFO.
async fn without_info(server: &RedisServer) -> Backend {
    let url = server.url().replace("redis://", "redis://blind:p@");
    server.run::<()>(&[
        "ACL", "SETUSER", "blind", "on", ">p", "~*", "&*", "+@all", "-info",
    ]);
    let provider = RedisBackend::connect(url).await.unwrap();
    provider.backend(&service("orders")).unwrap()
}

#[test]
fn who_may_not_ask_for_the_run_id_changes_nothing_for_those_who_may() {
    on_both(|| async {
        let server = RedisServer::start();
        let (seeing, blind) = (sessions(&server).await, without_info(&server).await);
        // Whoever comes first.
        let b = opened(&blind, "b", TTL).await;
        acquired(&blind, &b, "first").await;
        let a = opened(&seeing, "a", TTL).await;
        acquired(&seeing, &a, "s").await;
        let generation = heartbeat(&seeing, &a).await.generation;
        for n in 0..3 {
            acquired(&blind, &b, &format!("b{n}")).await;
            assert_eq!(heartbeat(&blind, &b).await.generation, generation);
            acquired(&seeing, &a, &format!("a{n}")).await;
            assert_eq!(heartbeat(&seeing, &a).await.generation, generation);
        }
        let grace_until: String = server.run(&["HGET", SERVER, "calm"]);
        assert_eq!(grace_until, "0");
        // A restart is seen all the same, and holds both back.
        server.run::<()>(&["HSET", SERVER, "run", "0123456789abcdef"]);
        assert_ne!(heartbeat(&seeing, &a).await.generation, generation);
        for (backend, session) in [(&blind, &b), (&seeing, &a)] {
            let outcome = try_acquire(backend, session, acquire("new", E1, 1, 0)).await;
            assert!(
                matches!(outcome, AcquireOutcome::NotYet { .. }),
                "{outcome:?}"
            );
        }
    });
}

/// INFO answered by one of several processes, as some proxies do it.
#[test]
fn a_run_id_that_keeps_coming_back_is_no_restart() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", SHORT).await;
        let keep = async || {
            let outcome = try_acquire(&backend, &a, acquire("s", E1, 1, 0)).await;
            heartbeat(&backend, &a).await;
            outcome
        };
        // To the script each call looks as if another process answered.
        let flip = || server.run::<()>(&["HSET", SERVER, "run", "0123456789abcdef"]);
        let held_back = async || {
            flip();
            matches!(keep().await, AcquireOutcome::NotYet { .. })
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while held_back().await {
            assert!(Instant::now() < deadline, "held back for ever");
            pause(Duration::from_millis(10)).await;
        }
        for _ in 0..20 {
            assert!(!held_back().await, "held back once more");
        }
        // The dead are dead, too.
        let dead = opened(&backend, "dead", SHORT).await;
        loop {
            flip();
            if heartbeat(&backend, &a).await.dead.contains(&dead.id) {
                break;
            }
            assert!(Instant::now() < deadline, "the dead one lives");
            pause(Duration::from_millis(10)).await;
        }
    });
}

/// When the grace ends, by the server's clock (ms).
fn grace_until(server: &RedisServer) -> u64 {
    server.run(&["HGET", SERVER, "calm"])
}

fn clock(server: &RedisServer) -> u64 {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
    seconds * 1_000 + micros / 1_000
}

/// Repeats the call until the server is back.
async fn once_back<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match call().await {
            Ok(value) => return value,
            Err(err) => assert!(Instant::now() < deadline, "{err}"),
        }
        pause(Duration::from_millis(2)).await;
    }
}

/// As each may have lost what was written last: nobody is held back for less because it
/// happens again at once.
#[test]
fn restarts_in_a_row_each_give_the_living_a_whole_ttl() {
    const TTL: u64 = 5_000;
    on_tokio(|| async {
        let mut server = keeping_all();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let b = opened(&backend, "b", TTL).await;
        acquired(&backend, &b, "b's").await;
        for n in 0..5 {
            server.start_again();
            let restarted = clock(&server);
            let request = [acquire("b's", E1, 1, 0)];
            let outcomes = once_back(async || backend.locks.acquire(&a, &request).await).await;
            let held_back = AcquireOutcome::NotYet {
                retry_in: Duration::from_millis(TTL),
            };
            assert_eq!(outcomes, [held_back], "restart {n}");
            let deadline: u64 =
                server.run(&["ZSCORE", "{orders-input}:sessions", &b.id.to_string()]);
            assert!(deadline >= restarted + TTL, "restart {n}");
        }
    });
}

/// As behind a proxy that lets INFO be answered by processes without number.
#[test]
fn a_run_id_that_is_another_each_time_holds_nobody_back_for_ever() {
    const TTL: u64 = 3_000;
    said::listen();
    on_tokio(|| async {
        let mut server = keeping_all();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let begun = Instant::now();
        let mut last_grace = 0;
        let renew = Renew::new(a.clone(), []);
        loop {
            let run = Instant::now();
            server.start_again();
            let request = [acquire("s", E1, 1, 0)];
            once_back(async || backend.locks.renew(&renew).await).await;
            let outcomes = once_back(async || backend.locks.acquire(&a, &request).await).await;
            if matches!(outcomes[0], AcquireOutcome::Acquired(_)) {
                break;
            }
            last_grace = grace_until(&server);
            assert!(
                run.elapsed() < Duration::from_millis(TTL),
                "no chain of restarts"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(12),
                "held back for ever"
            );
        }
        // It was the end of the grace, not a pause between two of them.
        assert_eq!(grace_until(&server), last_grace);
        let warnings = said::warnings(&server.url());
        let [line] = &warnings[..] else {
            panic!("{warnings:#?}")
        };
        for part in ["run id", "orders-input", "restarts go unnoticed"] {
            assert!(line.contains(part), "{line}");
        }
    });
}

/// A server that was restarted once more while that is remembered has another id, which
/// stays: it is adopted when the minute is over.
#[test]
fn a_run_id_that_stays_does_not_keep_run_ids_from_being_believed_again() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let several = || server.run::<Option<u64>>(&["HGET", SERVER, "several"]);
        let now = server.run::<(u64, u64)>(&["TIME"]).0 * 1_000;
        let until = now + 60_000;
        let remember = ["run", "0123456789abcdef", "several", &until.to_string()];
        server.run::<()>(&[&["HSET", SERVER], &remember[..]].concat());
        heartbeat(&backend, &a).await;
        let prolonged = several();
        for _ in 0..5 {
            heartbeat(&backend, &a).await;
            assert_eq!(several(), prolonged, "only another id prolongs it");
        }
        // The minute is over: it is adopted, and from then on another id is a restart again.
        let run = || server.run::<String>(&["HGET", SERVER, "run"]);
        let grace_until = || server.run::<u64>(&["HGET", SERVER, "calm"]);
        server.run::<()>(&["HSET", SERVER, "several", "1", "calm", "0"]);
        heartbeat(&backend, &a).await;
        assert_ne!(run(), "0123456789abcdef", "the id that stayed is adopted");
        server.run::<()>(&["HSET", SERVER, "run", "fedcba9876543210", "calm", "0"]);
        heartbeat(&backend, &a).await;
        assert!(grace_until() > now, "the restart is noticed");
    });
}

/// Only what is on record for the one with the long TTL waits for it.
#[test]
fn a_restart_does_not_hold_everybody_back_for_the_longest_ttl() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let long = opened(&backend, "long", 600_000).await;
        acquired(&backend, &long, "kept").await;
        server.run::<()>(&["HSET", SERVER, "run", "0123456789abcdef"]);
        let outcome = try_acquire(&backend, &a, acquire("new", E1, 1, 0)).await;
        let AcquireOutcome::NotYet { retry_in } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(retry_in <= LONGEST_GRACE, "{retry_in:?}");
        // As if so much time had passed.
        let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
        let passed = (seconds * 1_000 + micros / 1_000).to_string();
        server.run::<()>(&["HSET", SERVER, "calm", &passed]);
        acquired(&backend, &a, "new").await;
        let outcome = try_acquire(&backend, &a, acquire("kept", E1, 2, 0)).await;
        let AcquireOutcome::Held(held) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(held.remaining > Duration::from_secs(590), "{held:?}");
    });
}

/// Its caller has given it up by then, and knows the lease by the take-over.
#[test]
fn an_acquire_that_was_put_off_and_executes_late_replaces_no_lease() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let b = opened(&backend, "b", TTL).await;
        let acquired_by_b = acquired(&backend, &b, "s").await;
        server.run::<()>(&["HSET", SERVER, "run", "0123456789abcdef"]);
        let late = || acquire("s", E1, 8, 0);
        let page = vec![late(), acquire("t", E1, 9, 0)];
        let outcomes = backend.locks.acquire(&a, &page).await.unwrap();
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, AcquireOutcome::NotYet { .. })),
            "{outcomes:?}"
        );
        server.run::<()>(&["HSET", SERVER, "calm", "0"]);
        server.run::<()>(&["ZADD", "{orders-input}:sessions", "0", &b.id.to_string()]);
        let taken = backend
            .locks
            .sessions()
            .unwrap()
            .take_over(&a, &b.id, 9)
            .await
            .unwrap();
        let TakeOverOutcome::Taken { leases, .. } = taken else {
            panic!("{taken:?}")
        };
        assert!(leases[0].token > acquired_by_b.token);
        let outcome = try_acquire(&backend, &a, late()).await;
        assert!(matches!(outcome, AcquireOutcome::Held(_)), "{outcome:?}");
        let records = backend
            .locks
            .sessions()
            .unwrap()
            .records(&a.id, None, 9)
            .await
            .unwrap();
        assert_eq!(records, leases, "it is what the take-over made it");
    });
}
