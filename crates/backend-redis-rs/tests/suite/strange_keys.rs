//! What others put into the service's keys.

use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

const SESSIONS: &str = "{orders-input}:sessions";
const SWEEP: &str = "{orders-input}:sweep";
const SCHEMES: [LockScheme; 2] = [LockScheme::Session, LockScheme::PerStream];

#[test]
fn a_member_of_the_sessions_that_is_none_fails_nobody_and_is_removed() {
    on_both(|| async {
        for scheme in SCHEMES {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let a = opened(&backend, "a", TTL).await;
            let b = opened(&backend, "b", TTL).await;
            let add = |score: &str, name: &[u8]| {
                let mut command = redis_rs::cmd("ZADD");
                command.arg(SESSIONS).arg(score).arg(name);
                command.exec(&mut server.connection()).unwrap();
            };
            let odd: [&[u8]; 4] = [b"oops", b"", b"x/0123456789abcdeg", b"\xff/0123"];
            for name in odd {
                add("9999999999999", name);
            }
            assert_eq!(
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .members()
                    .await
                    .unwrap()
                    .len(),
                2
            );
            assert_eq!(server.run::<u64>(&["ZCARD", SESSIONS]), 2);
            // The same of those whose time is over, or is next to be over.
            for n in 0..200 {
                add("1", format!("oops{n}").as_bytes());
            }
            add(&(now(&server) + 1_000).to_string(), b"soon");
            backend
                .locks
                .sessions()
                .unwrap()
                .close(&b.id)
                .await
                .unwrap();
            for _ in 0..2 {
                heartbeat(&backend, &a).await;
            }
            let told = heartbeat(&backend, &a).await;
            assert_eq!(told.dead, vec![b.id.clone()], "{scheme:?}");
            assert_eq!(told.members, 1, "{scheme:?}");
            assert_eq!(server.run::<u64>(&["ZCARD", SESSIONS]), 2);
        }
    });
}

fn now(server: &RedisServer) -> u64 {
    let (seconds, micros): (u64, u64) = server.run(&["TIME"]);
    seconds * 1_000 + micros / 1_000
}

#[test]
fn a_turn_to_sweep_lasts_no_longer_than_it_was_wanted_for() {
    on_both(|| async {
        for scheme in SCHEMES {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let a = opened(&backend, "a", TTL).await;
            let b = opened(&backend, "b", TTL).await;
            let gets = async |who: &Session, turn: u64| {
                let turn = Duration::from_millis(turn);
                match backend
                    .locks
                    .renew(&Renew::new(who.clone(), []).want_sweep(Some(turn)))
                    .await
                    .unwrap()
                {
                    RenewOutcome::Extended(reply) => reply.sweep,
                    other => panic!("{other:?}"),
                }
            };
            assert!(gets(&a, 60_000).await);
            assert!(
                !gets(&b, 1_000).await,
                "it is a's, for as long as a wants it"
            );
            let spoil: [&[&str]; 4] = [
                // The server's clock was set back by an hour.
                &["PEXPIRE", SWEEP, "3660000"],
                &["SET", SWEEP, "x", "PX", "3600000"],
                &["SET", SWEEP, "x"],
                &["PERSIST", SWEEP],
            ];
            for spoil in spoil {
                server.run::<()>(spoil);
                assert!(gets(&b, 2_000).await, "{scheme:?} {spoil:?}");
                assert!(!gets(&a, 2_000).await, "{scheme:?} {spoil:?}");
            }
            server.run::<()>(&["DEL", SWEEP]);
            server.run::<()>(&["RPUSH", SWEEP, "of another type"]);
            assert!(gets(&b, 2_000).await, "{scheme:?}");
        }
    });
}

/// A number that nobody can go above, put where tokens are kept, must not become
/// everybody's.
#[test]
fn a_counter_beyond_all_tokens_is_begun_anew_from_the_clock() {
    on_both(|| async {
        for scheme in SCHEMES {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let a = opened(&backend, "a", TTL).await;
            let before = acquired(&backend, &a, "before").await;
            for odd in [
                "99999999999999999999",
                "18446744073709551615",
                "09223372036854775807",
                "1",
                "oops",
            ] {
                server.run::<()>(&["SET", "{orders-input}:counter", odd]);
                let token = acquired(&backend, &a, odd).await.token;
                assert!(token > before.token, "{scheme:?} {odd}: {token}");
                assert!(token < FencingToken::LIMIT, "{scheme:?} {odd}: {token}");
            }
        }
    });
}

#[test]
fn a_lease_on_record_with_a_token_beyond_all_hinders_no_other() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let a = opened(&backend, "a", TTL).await;
        let b = opened(&backend, "b", TTL).await;
        let (bad, good) = (
            acquired(&backend, &a, "bad").await,
            acquired(&backend, &a, "good").await,
        );
        let odd = [
            "18446744073709551615",
            "9999999999999999999999999",
            "09223372036854775807",
        ];
        let overwrite = |token: &str| {
            let value = format!("{}/{token}/{E1}/0000000000000001", a.id);
            server.run::<()>(&["HSET", "{orders-input}:owners", "bad", &value]);
        };
        for token in odd {
            overwrite(token);
            let records = backend
                .locks
                .sessions()
                .unwrap()
                .records(&a.id, None, 9)
                .await
                .unwrap();
            assert_eq!(records, std::slice::from_ref(&good), "{token}");
            backend
                .locks
                .sessions()
                .unwrap()
                .revoke(std::slice::from_ref(&bad.stream))
                .await
                .unwrap();
            assert!(heartbeat(&backend, &a).await.revoked.is_empty(), "{token}");
        }
        server.run::<()>(&[
            "ZADD",
            &format!("{{orders-input}}:leases:{}", a.id),
            "0",
            "bad",
        ]);
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        let (leases, left) = took(&backend, &b, &a).await;
        assert_eq!(leases.len(), 1, "{leases:?}");
        assert_eq!((&leases[0].stream, left), (&good.stream, 0));
        // It is nobody's.
        let token = acquired(&backend, &b, "bad").await.token;
        assert!(token > bad.token && token < FencingToken::LIMIT);
    });
}

#[test]
fn an_odd_value_of_what_is_known_of_the_server_stops_nothing() {
    let keys = [
        ("server", "run"),
        ("server", "last"),
        ("server", "calm"),
        ("server", "several"),
        ("server", "seen"),
        ("server", "earlier"),
        ("server", "owners"),
        ("server", "records"),
        ("owners", ""),
        ("tokens", ""),
        ("sessions:details", "ttl:redis-consumer-a/0000000000000001"),
        (
            "sessions:details",
            "attempt:redis-consumer-b/0000000000000001",
        ),
    ];
    let odd = ["", "oops", "-1", "nan", "inf", "1e300", "99999999999999999"];
    on_tokio(|| async {
        let server = RedisServer::start();
        for (key, field) in keys {
            for value in odd {
                let which = format!("{key} {field:?} {value:?}");
                server.run::<()>(&["FLUSHALL"]);
                let backend = sessions(&server).await;
                let (a, b) = (
                    opened(&backend, "a", TTL).await,
                    opened(&backend, "b", TTL).await,
                );
                acquired(&backend, &a, "s").await;
                heartbeat(&backend, &a).await;
                server.run::<()>(&["HSET", &format!("{{orders-input}}:{key}"), field, value]);
                if key == "sessions:details" {
                    // It is looked at when all begin anew.
                    server.run::<()>(&["HSET", "{orders-input}:server", "run", "abc"]);
                }
                assert!(!is_gone(&backend, &a).await, "{which}");
                heartbeat(&backend, &b).await;
                match try_acquire(&backend, &b, acquire("new", E1, 1, 0)).await {
                    AcquireOutcome::Acquired(_) => {}
                    AcquireOutcome::NotYet { retry_in } => {
                        assert!(
                            retry_in <= Duration::from_millis(TTL),
                            "{which} {retry_in:?}"
                        );
                        server.run::<()>(&["HSET", "{orders-input}:server", "calm", "0"]);
                    }
                    other => panic!("{which} {other:?}"),
                }
                let left: f64 = server.run(&["ZSCORE", SESSIONS, &a.id.to_string()]);
                assert!(left < (now(&server) + 2 * TTL) as f64, "{which} {left}");
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .close(&a.id)
                    .await
                    .unwrap();
                let (taken, left) = took(&backend, &b, &a).await;
                assert_eq!(left, 0, "{which}");
                if taken.is_empty() {
                    // Another mark means that all owners were lost, lists of leases too.
                    assert!(matches!((key, field), ("server" | "owners", "owners" | "")));
                    acquired(&backend, &b, "s").await;
                }
                let records = backend
                    .locks
                    .sessions()
                    .unwrap()
                    .records(&b.id, None, 9)
                    .await
                    .unwrap();
                assert!(
                    records.iter().any(|lease| lease.stream == stream("s")),
                    "{which}"
                );
            }
        }
    });
}

/// Nothing is taken, and nobody who holds something is stopped.
#[test]
fn whatever_somebody_puts_where_a_pause_is_pauses_the_service() {
    const PAUSED: &str = "{orders-input}:paused";
    on_both(|| async {
        for scheme in SCHEMES {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let (transport, admin) = (&backend.transport, &backend.admin);
            transport.prepare().await.unwrap();
            let entries = submitted(&backend, &batch(1, &["s", "t"])).await.unwrap();
            transport.fetch(&fetch("a", 2, 0)).await.unwrap();
            let a = consumer("a");
            let fenced = |n: usize| Fenced {
                entry: entries[n],
                token: FencingToken(5),
            };
            transport.claim(&a, &[fenced(0)]).await.unwrap();
            for odd in ["", "1", "x:y", "99999999999999999999999:z"] {
                server.run::<String>(&["SET", PAUSED, odd]);
                let pause = transport.paused().await.unwrap().unwrap();
                assert_eq!((pause.since_ms, &*pause.reason), (None, odd));
                let outcomes = transport.claim(&a, &[fenced(1), fenced(0)]).await.unwrap();
                assert_eq!(outcomes[0], ClaimOutcome::Paused);
                assert!(matches!(outcomes[1], ClaimOutcome::Claimed { .. }));
                assert!(!admin.pause("").await.unwrap());
            }
            // A key of another type is told as that, wherever it is looked at.
            server.run::<u64>(&["DEL", PAUSED]);
            server.run::<u64>(&["RPUSH", PAUSED, "x"]);
            for refused in [
                transport.paused().await.map(|_| ()),
                transport.claim(&a, &[fenced(1)]).await.map(|_| ()),
                admin.pause("").await.map(|_| ()),
            ] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Incompatible, "{error:?}");
                let which = format!("{PAUSED} is no string (WRONGTYPE)");
                assert!(error.to_string().contains(&which), "{error}");
            }
            transport.claim(&a, &[fenced(0)]).await.unwrap();
            transport.keep(&a, &[fenced(0)]).await.unwrap();
            transport.complete(&a, &[fenced(0)]).await.unwrap();
            // Resuming removes whatever it is.
            assert!(admin.resume().await.unwrap());
            let outcomes = transport.claim(&a, &[fenced(1)]).await.unwrap();
            assert!(matches!(outcomes[0], ClaimOutcome::Claimed { .. }));
            // Gone alone, the service is resumed.
            assert!(admin.pause("").await.unwrap());
            server.run::<u64>(&["DEL", PAUSED]);
            assert_eq!(transport.paused().await.unwrap(), None);
        }
    });
}

/// Another refusal is not taken for that.
#[test]
fn a_pause_that_may_not_be_read_is_a_matter_of_rights() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let rules = RedisBackend::connect(server.url()).await.unwrap();
        let rules = rules.acl_rules(&service("orders"));
        let mut set = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
        set.extend(rules.iter().map(String::as_str));
        set.push("-get");
        let _: () = server.run(&set);
        let limited = orders_at(&server.url_with("orders", "secret", 0));
        let err = limited.admin.pause("a migration").await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    });
}
