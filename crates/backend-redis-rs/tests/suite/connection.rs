//! Connecting, losing connections, and what a server may refuse.

use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
use streamlease_tests::Proxy;

use crate::support::*;

async fn refused(url: String) -> Error {
    let err = RedisBackend::connect(&url).await.unwrap_err();
    let shown = format!("{err} {err:?}");
    assert!(!shown.contains("secret"), "{shown}");
    err
}

#[test]
fn connecting_fails_with_the_kind_of_what_is_wrong_and_without_the_password() {
    on_both(|| async {
        let server = RedisServer::builder().config("requirepass right").start();
        let port = server.port();
        for (url, kind) in [
            ("nonsense".to_owned(), ErrorKind::Config),
            (
                format!("redis://:right@127.0.0.1:{port}/99"),
                ErrorKind::Config,
            ),
            (
                format!("redis://:right@127.0.0.1:{port}/x"),
                ErrorKind::Config,
            ),
            (
                format!("rediss://:secret@127.0.0.1:{port}/0"),
                ErrorKind::Config,
            ),
            (
                format!("redis://:secret@127.0.0.1:{port}/0"),
                ErrorKind::Denied,
            ),
            (
                format!("redis://nobody:secret@127.0.0.1:{port}/0"),
                ErrorKind::Denied,
            ),
            (format!("redis://127.0.0.1:{port}/0"), ErrorKind::Denied),
            (
                "redis://:secret@127.0.0.1:1/0".to_owned(),
                ErrorKind::Unavailable,
            ),
            (
                "redis://:secret@no-such-host.invalid/0".to_owned(),
                ErrorKind::Unavailable,
            ),
        ] {
            let err = refused(url.clone()).await;
            assert_eq!(err.kind(), kind, "{url}: {err:?}");
            if kind != ErrorKind::Config {
                assert!(
                    err.to_string().contains("127.0.0.1") || url.contains("invalid"),
                    "{err}"
                );
            }
        }
        RedisBackend::connect(format!("redis://:right@127.0.0.1:{port}/1"))
            .await
            .unwrap();
    });
}

#[test]
fn a_backend_is_built_without_its_server_and_connects_once_that_is_up() {
    on_both(|| async {
        let mut server = RedisServer::start();
        server.kill();
        let provider = RedisBackend::new(server.url()).unwrap();
        let backend = provider.backend(&service("orders")).unwrap();
        for _ in 0..2 {
            let err = soon(backend.transport.prepare()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        }
        let err = soon(RedisBackend::connect(server.url())).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "connect is eager");
        server.start_again();
        backend.transport.prepare().await.unwrap();
    });
    // Not even a runtime is needed to build one, but a URL is looked at.
    RedisBackend::new("redis://127.0.0.1:1/0").unwrap();
    let err = RedisBackend::new("nonsense").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Config);
}

#[test]
fn a_server_that_never_answers_is_unavailable_in_bounded_time() {
    on_both(|| async {
        // Accepts (the kernel does), and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}/0", mute.local_addr().unwrap().port());
        let err = soon(RedisBackend::connect(url)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_server_that_talks_nonsense_causes_errors_and_no_panic() {
    on_both(|| async {
        let noise = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}/0", noise.local_addr().unwrap().port());
        let talk = std::thread::spawn(move || {
            for answer in [
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                b"*-5\r\n",
                b"$99999999999999\r\n",
            ] {
                let (mut socket, _) = noise.accept().unwrap();
                use std::io::{Read, Write};
                let _ = socket.read(&mut [0; 512]);
                let _ = socket.write_all(answer);
            }
        });
        for _ in 0..3 {
            assert!(soon(RedisBackend::connect(&url)).await.is_err());
        }
        talk.join().unwrap();
    });
}

#[test]
fn what_a_user_may_not_do_is_denied() {
    on_tokio(|| async {
        let server = RedisServer::start();
        server.run::<()>(&[
            "ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all", "-xclaim", "-xgroup",
        ]);
        let url = format!("redis://reader:pw@127.0.0.1:{}/0", server.port());
        let provider = RedisBackend::connect(url).await.unwrap();
        let denied = provider.backend(&service("orders")).unwrap();
        assert_eq!(
            denied.transport.prepare().await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        // Also from within a script.
        let full = backend(&server, "orders").await;
        full.transport.prepare().await.unwrap();
        let ids = submitted(&full, &batch(1, &["s"])).await.unwrap();
        full.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        let claim = denied
            .transport
            .claim(&consumer("a"), &[fenced(ids[0], 1)])
            .await;
        assert_eq!(claim.unwrap_err().kind(), ErrorKind::Denied);
    });
}

#[test]
fn a_login_that_has_worked_and_is_refused_now_is_an_outage_whatever_the_call() {
    on_both(|| async {
        let server = RedisServer::start();
        let set = |password: &str| {
            let rule = format!(">{password}");
            server.run::<()>(&[
                "ACL", "SETUSER", "app", "reset", "on", &rule, "~*", "&*", "+@all",
            ]);
        };
        set("old");
        let url = format!("redis://app:old@127.0.0.1:{}/0", server.port());
        let orders = service("orders");
        let provider = RedisBackend::connect(&url).await.unwrap();
        let backend = provider.backend(&orders).unwrap();
        backend.transport.prepare().await.unwrap();
        set("new");
        server.run::<()>(&["CLIENT", "KILL", "USER", "app"]);
        // Calls that have not worked yet: their callers would take a refusal for the end.
        let fetched = backend.transport.fetch(&fetch("a", 1, 0)).await;
        let subscribed = backend.notifier.subscribe().await.map(drop);
        for err in [fetched.map(drop).unwrap_err(), subscribed.unwrap_err()] {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
            assert!(err.to_string().contains("authentication failed"), "{err}");
        }
        // Who comes new is told.
        assert_eq!(refused(url).await.kind(), ErrorKind::Denied);
        set("old");
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
    });
}

#[test]
fn a_killed_connection_costs_one_error_and_is_made_anew() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        for n in 0..5 {
            let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            assert!(server.run::<u64>(&kill) > 0);
            // Not repeated behind the caller's back: a repeat may have another answer.
            let batch = batch(n, &["s"]);
            let err = submitted(&backend, &batch).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable);
            submitted(&backend, &batch).await.unwrap();
        }
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 5);
    });
}

#[test]
fn a_fetch_whose_connection_is_killed_is_an_error_and_the_next_one_works() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let request = fetch("a", 1, 5000);
        let kill = async {
            eventually("a blocked reader", || {
                let list: String = server.run(&["CLIENT", "LIST"]);
                let reader = list.lines().find(|line| line.contains("flags=b"));
                let id = reader.and_then(|line| line.split(' ').next()?.strip_prefix("id="));
                id.is_some_and(|id| server.run::<u64>(&["CLIENT", "KILL", "ID", id]) == 1)
            })
            .await;
        };
        let (fetched, ()) = soon(futures_lite::future::zip(
            backend.transport.fetch(&request),
            kill,
        ))
        .await;
        assert_eq!(fetched.unwrap_err().kind(), ErrorKind::Unavailable);
        submitted(&backend, &batch(1, &["s"])).await.unwrap();
        assert_eq!(
            backend
                .transport
                .fetch(&request)
                .await
                .unwrap()
                .entries
                .len(),
            1
        );
    });
}

#[test]
fn scripts_survive_being_flushed() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        for n in 0..3u128 {
            server.run::<()>(&["SCRIPT", "FLUSH"]);
            let ids = submitted(&backend, &batch(n, &["s"; 250])).await.unwrap();
            assert_eq!(ids.len(), 250);
        }
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 750);
    });
}

#[test]
fn a_restarted_server_is_found_again() {
    on_both(|| async {
        let mut server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        server.start_again();
        let err = backend.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "the old connection");
        let err = backend
            .transport
            .fetch(&fetch("a", 1, 0))
            .await
            .unwrap_err();
        assert_eq!(
            err.kind(),
            ErrorKind::NotPrepared,
            "a new connection to a new server: {err}"
        );
        backend.transport.prepare().await.unwrap();
        assert!(backend.transport.fetch(&fetch("a", 1, 0)).await.is_ok());
    });
}

#[test]
fn a_frozen_server_is_unavailable_in_bounded_time_and_its_connection_given_up() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        server.freeze();
        let began = Instant::now();
        let err = backend.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(5));
        // An impatient caller counts as well: what it gave up on is not used again.
        server.thaw();
        backend.transport.prepare().await.unwrap();
        let before = server.run::<String>(&["INFO", "stats"]);
        server.freeze();
        let impatient = pause(Duration::from_millis(200));
        futures_lite::future::or(impatient, async {
            let _ = backend.transport.prepare().await;
        })
        .await;
        server.thaw();
        backend.transport.prepare().await.unwrap();
        let connections = |info: &str| -> u64 {
            let line = info
                .lines()
                .find(|line| line.starts_with("total_connections_received"));
            line.unwrap()
                .split(':')
                .nth(1)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        let after = server.run::<String>(&["INFO", "stats"]);
        assert_eq!(
            connections(&after) - connections(&before),
            2,
            "ours anew, and this look's"
        );
    });
}

#[test]
fn a_full_server_is_waited_out() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        let err = submitted(&backend, &batch(1, &["s"])).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let err = submitted(&backend, &batch(1, &["s"])).await.unwrap_err();
        assert!(err.is_retryable(), "{err:?}");
        server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
        assert_eq!(
            submitted(&backend, &batch(1, &["s"])).await.unwrap().len(),
            1
        );
    });
}

/// A call whose caller waits no longer than this.
async fn impatient<T>(
    patience_ms: u64,
    call: impl Future<Output = Result<T>>,
) -> Option<Result<T>> {
    let leave = async {
        pause(Duration::from_millis(patience_ms)).await;
        None
    };
    futures_lite::future::or(async { Some(call.await) }, leave).await
}

#[test]
fn a_demoted_server_behind_a_name_is_left_by_every_connection() {
    on_both(|| async {
        let old = RedisServer::builder()
            .config("repl-diskless-sync-delay 0")
            .start();
        let new = RedisServer::start();
        let (old_port, new_port) = (old.port().to_string(), new.port().to_string());
        let name = Proxy::start(old.addr());
        let backend = orders_at(&name.url());
        backend.transport.prepare().await.unwrap();
        new.run::<()>(&["REPLICAOF", "127.0.0.1", &old_port]);
        old.replicated().await;
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let blocked = fetch("a", 1, 9000);
        let fail_over = async {
            eventually("a blocked reader", || {
                let clients: String = old.run(&["CLIENT", "LIST"]);
                clients.contains("flags=b")
            })
            .await;
            new.run::<()>(&["REPLICAOF", "NO", "ONE"]);
            name.set_target(new.addr());
            old.run::<()>(&["REPLICAOF", "127.0.0.1", &new_port]);
        };
        let fetched = soon(futures_lite::future::zip(
            backend.transport.fetch(&blocked),
            fail_over,
        ));
        let err = fetched.await.0.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        let ids = submitted(&backend, &batch(1, &["s"])).await.unwrap();
        let ended = soon(subscription.next()).await.unwrap_err();
        assert_eq!(
            ended.kind(),
            ErrorKind::Unavailable,
            "it would be silent for ever"
        );
        let fetched = backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        assert_eq!(fetched.entries[0].entry, ids[0], "the new one's group");
        assert!(backend.notifier.subscribe().await.is_ok());
    });
}

#[test]
fn a_refusal_of_a_replica_is_enough_to_look_the_name_up_anew() {
    on_both(|| async {
        let (old, new) = (RedisServer::start(), RedisServer::start());
        let name = Proxy::start(old.addr());
        let backend = orders_at(&name.url());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        // What it says comes from within a script; nothing blocks, nothing is closed.
        pause(Duration::from_millis(60)).await;
        name.set_target(new.addr());
        old.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let err = backend.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        backend.transport.prepare().await.unwrap();
        assert!(soon(subscription.next()).await.is_err());
        assert_eq!(new.run::<usize>(&["EXISTS", "orders-input"]), 1);
    });
}

#[test]
fn a_connect_that_takes_longer_than_any_caller_waits_serves_the_next_one() {
    on_both(|| async {
        let server = RedisServer::start();
        let far = Proxy::start(server.addr());
        // No multiple of the patience: a fetch that is dropped while it is answered closes
        // its connection.
        far.set_connect_delay(Duration::from_millis(450));
        let backend = orders_at(&far.url());
        let mut tries = 0;
        while impatient(100, backend.transport.prepare()).await.is_none() {
            tries += 1;
            assert!(tries < 20, "cancelled and begun again, for ever");
        }
        assert_eq!(far.accepted(), 1, "one connect for all who wait");
        let request = fetch("a", 1, 0);
        tries = 0;
        while impatient(100, backend.transport.fetch(&request))
            .await
            .is_none()
        {
            tries += 1;
            assert!(tries < 20, "fetches");
        }
        assert_eq!(far.accepted(), 2);
        tries = 0;
        while impatient(100, backend.notifier.subscribe()).await.is_none() {
            tries += 1;
            assert!(tries < 20, "subscriptions");
        }

        assert_eq!(far.accepted(), 3);
    });
}

#[test]
fn a_vanished_peer_is_doubted_however_short_its_callers_wait() {
    on_both(|| async {
        let server = RedisServer::start();
        let path = Proxy::start(server.addr());
        let backend = orders_at(&path.url());
        backend.transport.prepare().await.unwrap();
        path.silence_open();
        // With a TTL of 200 ms a heartbeat waits for 50 ms.
        let mut answers = 0;
        for _ in 0..10 {
            let answer = impatient(50, backend.transport.prepare()).await;
            answers += u32::from(answer.is_some_and(|answer| answer.is_ok()));
        }
        assert!(answers >= 5, "{answers} of 10 calls were answered");
    });
}

#[test]
fn who_waits_on_a_vanished_peer_is_told_when_a_new_connection_answers() {
    on_both(|| async {
        let server = RedisServer::start();
        let path = Proxy::start(server.addr());
        let backend = orders_at(&path.url());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let request = fetch("a", 1, 60_000);
        let vanish = async {
            eventually("a blocked reader", || {
                let clients: String = server.run(&["CLIENT", "LIST"]);
                clients.contains("flags=b")
            })
            .await;
            path.silence_open();
            assert!(impatient(150, backend.transport.prepare()).await.is_none());
            backend.transport.prepare().await.unwrap();
        };
        let fetched = soon(futures_lite::future::zip(
            backend.transport.fetch(&request),
            vanish,
        ));
        assert_eq!(fetched.await.0.unwrap_err().kind(), ErrorKind::Unavailable);
        let silent = soon(subscription.next()).await;
        assert_eq!(silent.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn calls_that_wait_for_the_same_connect_fail_together() {
    on_tokio(|| async {
        // Accepts (the kernel does), and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}/0", mute.local_addr().unwrap().port());
        let backend = orders_at(&url);
        let began = Instant::now();
        let calls: Vec<_> = (0..32)
            .map(|_| {
                let transport = backend.transport.clone();
                tokio::spawn(async move { transport.prepare().await })
            })
            .collect();
        for call in calls {
            assert_eq!(
                call.await.unwrap().unwrap_err().kind(),
                ErrorKind::Unavailable
            );
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "the last one after {took:?}"
        );
    });
}

#[test]
fn any_number_of_clients_fetches_without_connecting_each_time() {
    on_both(|| async {
        let server = RedisServer::start();
        let path = Proxy::start(server.addr());
        let backend = orders_at(&path.url());
        backend.transport.prepare().await.unwrap();
        for _ in 0..5 {
            let fetches = (0..12).map(|n| {
                let transport = backend.transport.clone();
                async move {
                    // All at once: each waits for the same time.
                    let request = fetch(&format!("c{n}"), 1, 100);
                    transport.fetch(&request).await.unwrap();
                }
            });
            let all = fetches.fold(
                Box::pin(async {}) as std::pin::Pin<Box<dyn Future<Output = ()>>>,
                |rest, one| {
                    Box::pin(async {
                        futures_lite::future::zip(rest, one).await;
                    })
                },
            );
            soon(all).await;
        }
        assert_eq!(path.accepted(), 13, "twelve readers and the commands'");
    });
}

/// Answers whatever it is asked as a server does that loads its data.
fn always_loading() -> (String, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicU32, Ordering};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "redis://127.0.0.1:{}/0",
        listener.local_addr().unwrap().port()
    );
    let accepted = std::sync::Arc::new(AtomicU32::new(0));
    let counter = accepted.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(n @ 1..) = socket.read(&mut chunk) {
                    let commands = chunk[..n].windows(2).filter(|two| *two == b"\n*").count() + 1;
                    let refusal = b"-LOADING Redis is loading the dataset in memory\r\n";
                    let _ = socket.write_all(&refusal.repeat(commands));
                }
            });
        }
    });
    (url, accepted)
}

#[test]
fn a_server_that_loads_for_long_has_its_name_looked_up_again_and_not_at_each_call() {
    on_both(|| async {
        let (url, accepted) = always_loading();
        let backend = orders_at(&url);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(3500) {
            let err = backend.transport.prepare().await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
            pause(Duration::from_millis(20)).await;
        }
        let connections = accepted.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(connections, 2, "one each two seconds");
    });
}
