//! Connecting, losing connections, and what a server may refuse.

// clippy allows it in test functions only, not in their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
use support::*;

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
            // A build with TLS finds out by the handshake.
            if url.starts_with("rediss") && err.kind() == ErrorKind::Unavailable {
                continue;
            }
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
        let backend = provider
            .backend(&ServiceName::new("orders").unwrap())
            .unwrap();
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
        let denied = provider
            .backend(&ServiceName::new("orders").unwrap())
            .unwrap();
        assert_eq!(
            denied.transport.prepare().await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        // Also from within a script.
        let full = backend(&server, "orders").await;
        full.transport.prepare().await.unwrap();
        let ids = full.transport.submit(&batch(1, &["s"])).await.unwrap();
        full.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        let claim = denied
            .transport
            .claim(&consumer("a"), &[fenced(ids[0], 1)])
            .await;
        assert_eq!(claim.unwrap_err().kind(), ErrorKind::Denied);
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
            let err = backend.transport.submit(&batch).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable);
            backend.transport.submit(&batch).await.unwrap();
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
        backend.transport.submit(&batch(1, &["s"])).await.unwrap();
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
            let ids = backend
                .transport
                .submit(&batch(n, &["s"; 250]))
                .await
                .unwrap();
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
        let err = backend
            .transport
            .submit(&batch(1, &["s"]))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let err = backend
            .transport
            .submit(&batch(1, &["s"]))
            .await
            .unwrap_err();
        assert!(err.is_retryable(), "{err:?}");
        server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
        assert_eq!(
            backend
                .transport
                .submit(&batch(1, &["s"]))
                .await
                .unwrap()
                .len(),
            1
        );
    });
}
