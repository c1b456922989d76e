//! Per-stream locks on a real server: each outcome, repeats, late requests, foreign holders.

use std::time::{Duration, Instant};

use streamlease_core::*;

use crate::support::*;

const TTL: u64 = 60_000;

async fn opened(backend: &Backend, identity: &str, ttl_ms: u64) -> Session {
    let session = session(identity, 1, ttl_ms);
    assert_eq!(
        backend
            .locks
            .sessions()
            .unwrap()
            .open(&session)
            .await
            .unwrap(),
        OpenOutcome::Opened
    );
    session
}

async fn try_acquire(backend: &Backend, session: &Session, request: Acquire) -> AcquireOutcome {
    backend
        .locks
        .acquire(session, &[request])
        .await
        .unwrap()
        .remove(0)
}

async fn acquired(backend: &Backend, session: &Session, request: Acquire) -> LeaseRef {
    let (stream, entry) = (request.stream.clone(), request.entry);
    match try_acquire(backend, session, request).await {
        AcquireOutcome::Acquired(token) => LeaseRef {
            stream,
            entry,
            token,
        },
        other => panic!("{other:?}"),
    }
}

fn held_by(outcome: &AcquireOutcome) -> &Holder {
    match outcome {
        AcquireOutcome::Held(held) => &held.holder,
        other => panic!("{other:?}"),
    }
}

async fn heartbeat(backend: &Backend, session: &Session, leases: &[LeaseRef]) -> Renewal {
    match backend
        .locks
        .renew(&Renew::new(session.clone(), leases.to_vec()))
        .await
        .unwrap()
    {
        RenewOutcome::Extended(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn release(backend: &Backend, session: &Session, lease: &LeaseRef) -> ReleaseOutcome {
    let release = Release::new(lease.clone());
    backend
        .locks
        .release(&session.id, &[release])
        .await
        .unwrap()[0]
}

fn wire_key(name: &str, entry: EntryId) -> String {
    format!("{name}<MUTEX_KEY_SEP>{entry}")
}

const E1: EntryId = EntryId::new(1_700_000_000_000, 0);
const E2: EntryId = EntryId::new(1_700_000_000_000, 1);

#[test]
fn a_lease_has_its_wire_key_and_its_stream_key() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let lease = acquired(&backend, &a, acquire("call", E1, 7, 0)).await;
        let wire = server.run::<String>(&["GET", "call<MUTEX_KEY_SEP>1700000000000-0"]);
        let ours = server.run::<String>(&["GET", "{orders-input}:lock:call"]);
        let value = format!(
            "{}/{:020}/1700000000000-0/0000000000000007",
            a.id, lease.token.0
        );
        assert_eq!((&wire, &ours), (&value, &value));
        assert!(value.starts_with("redis-consumer-a/0000000000000001/"));
        for key in [
            "call<MUTEX_KEY_SEP>1700000000000-0",
            "{orders-input}:lock:call",
        ] {
            let left = server.run::<u64>(&["PTTL", key]);
            assert!((TTL - 5000..=TTL).contains(&left), "{left}");
        }
        assert_eq!(
            release(&backend, &a, &lease).await,
            ReleaseOutcome::Released
        );
        assert_eq!(release(&backend, &a, &lease).await, ReleaseOutcome::NotHeld);
        let locks: Vec<String> = server.run(&["KEYS", "*lock:*"]);
        let wires: Vec<String> = server.run(&["KEYS", "*MUTEX*"]);
        assert!(locks.is_empty() && wires.is_empty(), "{locks:?} {wires:?}");
    });
}

#[test]
fn one_owner_per_data_stream_under_whichever_entry() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let (a, b) = (
            opened(&backend, "a", TTL).await,
            opened(&backend, "b", TTL).await,
        );
        let lease = acquired(&backend, &a, acquire("s", E1, 1, 0)).await;
        for (who, entry) in [(&b, E1), (&b, E2), (&a, E2)] {
            let outcome = try_acquire(&backend, who, acquire("s", entry, 2, 0)).await;
            assert_eq!(held_by(&outcome), &Holder::Session(a.id.clone()), "{entry}");
        }
        release(&backend, &a, &lease).await;
        let next = acquired(&backend, &b, acquire("s", E2, 3, 0)).await;
        assert!(next.token > lease.token);
    });
}

#[test]
fn a_repeated_acquire_yields_its_token_and_a_later_one_a_new_one() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let first = acquired(&backend, &a, acquire("s", E1, 1, 0)).await;
        server.run::<()>(&["PEXPIRE", &wire_key("s", E1), "5000"]);
        assert_eq!(acquired(&backend, &a, acquire("s", E1, 1, 0)).await, first);
        assert!(
            server.run::<u64>(&["PTTL", &wire_key("s", E1)]) > 10_000,
            "extended"
        );
        let later = acquired(&backend, &a, acquire("s", E1, 2, 0)).await;
        assert!(later.token > first.token);
        assert_eq!(
            release(&backend, &a, &first).await,
            ReleaseOutcome::NotHeld,
            "a late release"
        );
        assert_eq!(
            heartbeat(&backend, &a, std::slice::from_ref(&first))
                .await
                .lost,
            [first]
        );
        assert!(
            heartbeat(&backend, &a, std::slice::from_ref(&later))
                .await
                .lost
                .is_empty()
        );
        // A repeat that finds a part of the lease gone: others may have had it meanwhile.
        server.run::<()>(&["DEL", &wire_key("s", E1)]);
        let anew = acquired(&backend, &a, acquire("s", E1, 2, 0)).await;
        assert!(anew.token > later.token);
        assert!(server.run::<bool>(&["EXISTS", &wire_key("s", E1)]));
        assert_eq!(release(&backend, &a, &anew).await, ReleaseOutcome::Released);
    });
}

#[test]
fn tokens_grow_whatever_is_lost_and_however_great_they_are() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let first = acquired(&backend, &a, acquire("s", E1, 1, 0)).await.token;
        let micros = server.run::<(u64, u64)>(&["TIME"]);
        assert!(first.0 > 1_000_000_000_000_000 && first.0 <= micros.0 * 1_000_000 + micros.1);
        server.run::<()>(&["FLUSHALL"]);
        opened(&backend, "a", TTL).await;
        let second = acquired(&backend, &a, acquire("s", E1, 2, 0)).await.token;
        assert!(second > first, "the clock makes up for the lost counter");
        // Floors beyond what a Lua number holds exactly, and a carry in the tenth digit.
        for floor in [(1 << 53) + 1, 8_999_999_999_999_999_998] {
            let token = acquired(&backend, &a, acquire("s", E1, floor, floor))
                .await
                .token;
            assert_eq!(token, FencingToken(floor + 1));
        }
        for floor in [FencingToken::LIMIT.0, u64::MAX] {
            let none = backend
                .locks
                .acquire(&a, &[acquire("s", E1, 9, floor)])
                .await;
            assert_eq!(none.unwrap_err().kind(), ErrorKind::Incompatible);
        }
    });
}

#[test]
fn tokens_of_a_page_count_on_over_every_carry_and_jump_to_greater_floors() {
    on_tokio(|| async {
        let server = RedisServer::start();
        for scheme in [LockScheme::PerStream, LockScheme::Session] {
            let backend = backend_with(&server, &format!("{scheme:?}"), scheme).await;
            let a = opened(&backend, "a", TTL).await;
            let low = 7_999_999_999_999_999_960;
            let floor = |n: u64| match n {
                70 => low + 1_000,
                n => low + n % 3,
            };
            let requests: Vec<_> = (0..120)
                .map(|n| acquire(&format!("s{n}"), E1, n, floor(n)))
                .collect();
            let outcomes = backend.locks.acquire(&a, &requests).await.unwrap();
            let expected = |n: u64| match n {
                0..70 => low + 1 + n,
                n => low + 1_001 + (n - 70),
            };
            for (n, outcome) in (0..).zip(outcomes) {
                let token = FencingToken(expected(n));
                assert_eq!(outcome, AcquireOutcome::Acquired(token), "{scheme:?}, {n}");
            }
        }
    });
}

#[test]
fn tokens_of_one_page_are_all_different() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let requests: Vec<_> = (0..250)
            .map(|n| acquire(&format!("s{n}"), E1, n, 0))
            .collect();
        let outcomes = backend.locks.acquire(&a, &requests).await.unwrap();
        let tokens: std::collections::BTreeSet<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                AcquireOutcome::Acquired(token) => *token,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(tokens.len(), 250);
    });
}

#[test]
fn a_foreign_lock_is_held_until_it_expires() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        server.run::<()>(&[
            "SET",
            &wire_key("s", E1),
            "redis-consumer-go",
            "PX",
            "30000",
        ]);
        let outcome = try_acquire(&backend, &a, acquire("s", E1, 1, 0)).await;
        let AcquireOutcome::Held(held) = &outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(held.holder, Holder::Foreign("redis-consumer-go".into()));
        assert!((25_000..=30_000).contains(&held.remaining.as_millis()));
        let lock = LockId {
            stream: stream("s"),
            entry: E1,
        };
        let states = backend
            .locks
            .inspect(&[
                lock,
                LockId {
                    stream: stream("s"),
                    entry: E2,
                },
            ])
            .await
            .unwrap();
        assert!(
            matches!(&states[0], LockState::Held(held) if held.holder == Holder::Foreign("redis-consumer-go".into()))
        );
        assert_eq!(states[1], LockState::Free);
        // Somebody's key of another type or without end: held, no error for the page.
        server.run::<()>(&["DEL", &wire_key("s", E1)]);
        server.run::<()>(&["RPUSH", &wire_key("s", E1), "x"]);
        let page = [acquire("s", E1, 1, 0), acquire("t", E1, 1, 0)];
        let outcomes = backend.locks.acquire(&a, &page).await.unwrap();
        assert!(matches!(held_by(&outcomes[0]), Holder::Foreign(_)));
        assert!(matches!(outcomes[1], AcquireOutcome::Acquired(_)));
        server.run::<()>(&["DEL", &wire_key("s", E1)]);
        server.run::<()>(&["SET", &wire_key("s", E1), "redis-consumer-go", "PX", "1"]);
        eventually("the foreign lock to expire", || {
            !server.run::<bool>(&["EXISTS", &wire_key("s", E1)])
        })
        .await;
        acquired(&backend, &a, acquire("s", E1, 2, 0)).await;
    });
}

#[test]
fn a_lease_without_either_key_is_lost_and_not_taken_back_by_a_heartbeat() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let mut leases = Vec::new();
        for name in ["kept", "no wire", "no stream", "stolen"] {
            leases.push(acquired(&backend, &a, acquire(name, E1, 1, 0)).await);
        }
        server.run::<()>(&["DEL", &wire_key("no wire", E1)]);
        server.run::<()>(&["DEL", "{orders-input}:lock:no stream"]);
        server.run::<()>(&["SET", &wire_key("stolen", E1), "redis-consumer-go"]);
        assert_eq!(heartbeat(&backend, &a, &leases).await.lost, leases[1..]);
        assert!(!server.run::<bool>(&["EXISTS", &wire_key("no wire", E1)]));
        // What is left of it is in nobody's way but others'.
        let again = acquired(&backend, &a, acquire("no stream", E1, 2, 0)).await;
        assert!(again.token > leases[2].token);
        assert_eq!(
            release(&backend, &a, &leases[1]).await,
            ReleaseOutcome::Released
        );
        release(&backend, &a, &leases[3]).await;
        assert_eq!(
            server.run::<String>(&["GET", &wire_key("stolen", E1)]),
            "redis-consumer-go"
        );
    });
}

#[test]
fn a_heartbeat_extends_both_keys_and_the_session() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let lease = acquired(&backend, &a, acquire("s", E1, 1, 0)).await;
        let longer = Session::new(a.id.clone(), Duration::from_millis(2 * TTL));
        assert!(
            heartbeat(&backend, &longer, std::slice::from_ref(&lease))
                .await
                .lost
                .is_empty()
        );
        for key in [&wire_key("s", E1), "{orders-input}:lock:s"] {
            assert!(server.run::<u64>(&["PTTL", key]) > TTL);
        }
        let members = backend.locks.sessions().unwrap().members().await.unwrap();
        assert_eq!((members.len(), &members[0].session), (1, &a.id));
        assert!(members[0].remaining > a.ttl);
    });
}

#[test]
fn a_passed_deadline_is_final() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let locks = &backend.locks;
        let (a, b) = (
            opened(&backend, "a", 20).await,
            opened(&backend, "b", TTL).await,
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        while locks.sessions().unwrap().members().await.unwrap().len() > 1 {
            assert!(Instant::now() < deadline);
        }
        for _ in 0..2 {
            // Before the removal and after it.
            let long = Session::new(a.id.clone(), Duration::from_millis(TTL));
            assert_eq!(
                locks.sessions().unwrap().open(&long).await.unwrap(),
                OpenOutcome::SessionGone,
                "a late open"
            );
            assert_eq!(
                locks.renew(&Renew::new(long.clone(), [])).await.unwrap(),
                RenewOutcome::SessionGone
            );
            let request = acquire("s", E1, 1, 0);
            assert_eq!(
                try_acquire(&backend, &long, request).await,
                AcquireOutcome::SessionGone
            );
            let over = locks
                .sessions()
                .unwrap()
                .take_over(&long, &b.id, 10)
                .await
                .unwrap();
            assert_eq!(over, TakeOverOutcome::SessionGone);
            let over = locks
                .sessions()
                .unwrap()
                .take_over(&b, &a.id, 10)
                .await
                .unwrap();
            assert_eq!(
                over,
                TakeOverOutcome::Taken {
                    leases: vec![],
                    left: 0
                }
            );
            assert!(locks.sessions().unwrap().remove(&a.id).await.unwrap());
            locks.sessions().unwrap().close(&a.id).await.unwrap();
        }
        assert!(
            heartbeat(&backend, &b, &[]).await.dead.is_empty(),
            "removed"
        );
        assert!(
            !locks.sessions().unwrap().remove(&b.id).await.unwrap(),
            "the living are not removed"
        );
    });
}

#[test]
fn a_heartbeat_tells_of_the_dead_the_next_deadline_the_members_and_the_turn() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let reply = heartbeat(&backend, &a, &[]).await;
        assert_eq!(
            (reply.next_deadline, reply.members, reply.sweep),
            (None, 1, false)
        );
        let b = opened(&backend, "b", 30_000).await;
        let c = opened(&backend, "c", 40_000).await;
        let reply = heartbeat(&backend, &a, &[]).await;
        let next = reply.next_deadline.unwrap().as_millis();
        assert!((25_000..=30_000).contains(&next), "{next}");
        assert_eq!(
            (reply.members, reply.dead.len(), reply.on_record),
            (3, 0, None)
        );
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&b.id)
            .await
            .unwrap();
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&b.id)
            .await
            .unwrap();
        let reply = heartbeat(&backend, &a, &[]).await;
        assert_eq!((reply.dead, reply.members), (vec![b.id.clone()], 2));
        let over = backend
            .locks
            .sessions()
            .unwrap()
            .take_over(&a, &c.id, 1)
            .await
            .unwrap();
        assert!(
            matches!(over, TakeOverOutcome::Alive { remaining } if remaining > Duration::from_secs(30))
        );

        let sweep = async |session: &Session| {
            let turn = Some(Duration::from_secs(60));
            match backend
                .locks
                .renew(&Renew::new(session.clone(), []).want_sweep(turn))
                .await
                .unwrap()
            {
                RenewOutcome::Extended(reply) => reply.sweep,
                other => panic!("{other:?}"),
            }
        };
        assert!(
            sweep(&a).await && !sweep(&c).await && !sweep(&a).await,
            "one turn in that time"
        );
        assert!(
            !heartbeat(&backend, &a, &[]).await.sweep,
            "nobody gets it unasked"
        );
        server.run::<()>(&["DEL", "{orders-input}:sweep"]);
        assert!(sweep(&c).await && !sweep(&a).await);
    });
}

#[test]
fn with_the_servers_data_every_session_is_gone() {
    on_both(|| async {
        let mut server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let lease = acquired(&backend, &a, acquire("s", E1, 1, 0)).await;
        server.start_again();
        let lost = backend.locks.sessions().unwrap().members().await;
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Unavailable);
        let outcome = backend
            .locks
            .renew(&Renew::new(
                a.clone(),
                std::slice::from_ref(&lease).to_vec(),
            ))
            .await;
        assert_eq!(outcome.unwrap(), RenewOutcome::SessionGone);
        assert!(
            !server.run::<bool>(&["EXISTS", &wire_key("s", E1)]),
            "nothing is made again"
        );
    });
}

#[test]
fn a_close_before_its_late_open_wins() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = session("a", 1, TTL);
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        assert_eq!(
            backend.locks.sessions().unwrap().open(&a).await.unwrap(),
            OpenOutcome::SessionGone
        );
    });
}

#[test]
fn ten_thousand_leases_are_renewed_and_just_the_lost_ones_named() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let a = opened(&backend, "a", TTL).await;
        let requests: Vec<_> = (0..10_000)
            .map(|n| acquire(&format!("s{n}"), E1, n, 0))
            .collect();
        let outcomes = backend.locks.acquire(&a, &requests).await.unwrap();
        let leases: Vec<LeaseRef> = requests
            .iter()
            .zip(outcomes)
            .map(|(request, outcome)| match outcome {
                AcquireOutcome::Acquired(token) => LeaseRef {
                    stream: request.stream.clone(),
                    entry: E1,
                    token,
                },
                other => panic!("{other:?}"),
            })
            .collect();
        for lost in [0, 249, 250, 9_999] {
            server.run::<()>(&["DEL", &wire_key(&format!("s{lost}"), E1)]);
        }
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let reply = heartbeat(&backend, &a, &leases).await;
        let lost: Vec<_> = reply
            .lost
            .iter()
            .map(|lease| lease.stream.as_str())
            .collect();
        assert_eq!(lost, ["s0", "s249", "s250", "s9999"]);
        let stats: String = server.run(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha"))
            .unwrap();
        assert!(
            line.contains("calls=40,"),
            "one script per 250 leases: {line}"
        );
        let usec: f64 = line
            .split("usec_per_call=")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        println!("heartbeat of 250 leases: {usec} µs of the server's time");
        let releases: Vec<Release> = leases.into_iter().map(Release::new).collect();
        let outcomes = backend.locks.release(&a.id, &releases).await.unwrap();
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == ReleaseOutcome::Released)
        );
        let left: Vec<String> = server.run(&["KEYS", "*MUTEX*"]);
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn two_services_with_the_same_data_stream_do_not_exclude_each_other() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let (orders, calls) = (
            backend(&server, "orders").await,
            backend(&server, "calls").await,
        );
        let (a, b) = (
            opened(&orders, "a", TTL).await,
            opened(&calls, "a", TTL).await,
        );
        acquired(&orders, &a, acquire("s", E1, 1, 0)).await;
        acquired(&calls, &b, acquire("s", E2, 1, 0)).await;
    });
}
