//! Hints from a real server, with and without its notifications.

use std::time::Duration;

use streamlease_core::*;

use crate::support::*;

/// One command on a connection that is kept.
fn run<T: redis_rs::FromRedisValue>(connection: &mut redis_rs::Connection, words: &[&str]) -> T {
    let mut command = redis_rs::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query(connection).unwrap()
}

const FLAGS: &str = "notify-keyspace-events";
const E1: EntryId = EntryId::new(1_700_000_000_000, 0);

fn flags(server: &RedisServer) -> String {
    let reply: Vec<String> = server.run(&["CONFIG", "GET", FLAGS]);
    reply[1].clone()
}

fn expire(server: &RedisServer, key: &str) {
    server.run::<()>(&["SET", key, "x", "PX", "1"]);
    let mut raw = server.connection();
    while run::<bool>(&mut raw, &["EXISTS", key]) {}
}

#[test]
fn an_expired_wire_lock_is_heard_and_split_at_its_last_separator() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let mut hints = backend.notifier.subscribe().await.unwrap();
        for odd in ["a<MUTEX_KEY_SEP>nonsense", "<MUTEX_KEY_SEP>1-1", "plain"] {
            expire(&server, odd);
        }
        let mut raw = server.connection();
        redis_rs::cmd("SET")
            .arg(b"\xff<MUTEX_KEY_SEP>1-1")
            .arg(1)
            .arg("PX")
            .arg(1)
            .exec(&mut raw)
            .unwrap();
        while redis_rs::cmd("EXISTS")
            .arg(b"\xff<MUTEX_KEY_SEP>1-1")
            .query::<bool>(&mut raw)
            .unwrap()
        {}
        // Released, not expired: no hint of this kind.
        server.run::<()>(&["SET", "x<MUTEX_KEY_SEP>1-1", "x"]);
        server.run::<()>(&["DEL", "x<MUTEX_KEY_SEP>1-1"]);
        expire(&server, "a<MUTEX_KEY_SEP>b<MUTEX_KEY_SEP>5-2");
        let hint = soon(hints.next()).await.unwrap();
        assert_eq!(
            hint,
            Hint::LockExpired {
                stream: stream("a<MUTEX_KEY_SEP>b"),
                entry: EntryId::new(5, 2)
            }
        );
    });
}

#[test]
fn a_thousand_expiries_at_once_are_all_heard() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let mut hints = backend.notifier.subscribe().await.unwrap();
        let mut raw = server.connection();
        let keys: Vec<String> = (0..1000)
            .map(|n| format!("s{n}<MUTEX_KEY_SEP>{E1}"))
            .collect();
        for key in &keys {
            run::<()>(&mut raw, &["SET", key, "x", "PX", "300"]);
        }
        eventually("all to expire", || {
            let mut exists = redis_rs::cmd("EXISTS");
            exists
                .arg(&keys)
                .query::<usize>(&mut server.connection())
                .unwrap()
                == 0
        })
        .await;
        let mut heard = std::collections::BTreeSet::new();
        while heard.len() < 1000 {
            match soon(hints.next()).await.unwrap() {
                Hint::LockExpired { stream, .. } => heard.insert(stream),
                other => panic!("{other:?}"),
            };
        }
    });
}

#[test]
fn the_database_of_the_url_is_listened_to() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let url = format!("redis://127.0.0.1:{}/3", server.port());
        let provider = streamlease_backend_redis_rs::RedisBackend::connect(url)
            .await
            .unwrap();
        // Nothing expires with session leases.
        let backend = provider
            .with_lock_scheme(LockScheme::PerStream)
            .backend(&service("orders"))
            .unwrap();
        let mut hints = backend.notifier.subscribe().await.unwrap();
        let mut raw = server.connection();
        run::<()>(&mut raw, &["SET", "zero<MUTEX_KEY_SEP>1-1", "x", "PX", "1"]);
        while run::<bool>(&mut raw, &["EXISTS", "zero<MUTEX_KEY_SEP>1-1"]) {}
        run::<()>(&mut raw, &["SELECT", "3"]);
        run::<()>(
            &mut raw,
            &["SET", "three<MUTEX_KEY_SEP>1-1", "x", "PX", "1"],
        );
        while run::<bool>(&mut raw, &["EXISTS", "three<MUTEX_KEY_SEP>1-1"]) {}
        let Hint::LockExpired { stream: heard, .. } = soon(hints.next()).await.unwrap() else {
            panic!()
        };
        assert_eq!(heard, stream("three"));
    });
}

#[test]
fn hand_backs_releases_and_closes_are_announced_by_those_who_do_them() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let ids = submitted(&backend, &batch(1, &["s"])).await.unwrap();
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        let mut hints = backend.notifier.subscribe().await.unwrap();
        let back = HandBackRequest::new(ids[0], FencingToken(1));
        backend
            .transport
            .hand_back(&consumer("a"), &[back])
            .await
            .unwrap();
        assert_eq!(soon(hints.next()).await.unwrap(), Hint::HandedBack(ids));

        let (a, b) = (session("a", 1, 60_000), session("b", 1, 60_000));
        backend.locks.sessions().unwrap().open(&a).await.unwrap();
        backend.locks.sessions().unwrap().open(&b).await.unwrap();
        let mut leases = Vec::new();
        for name in ["quiet", "wanted", "announced"] {
            let outcome = backend
                .locks
                .acquire(&a, &[acquire(name, E1, 1, 0)])
                .await
                .unwrap();
            let AcquireOutcome::Acquired(token) = outcome[0] else {
                panic!("{outcome:?}")
            };
            leases.push(LeaseRef {
                stream: stream(name),
                entry: E1,
                token,
            });
        }
        let refused = backend
            .locks
            .acquire(&b, &[acquire("wanted", E1, 1, 0)])
            .await
            .unwrap();
        assert!(matches!(refused[0], AcquireOutcome::Held(_)));
        let releases: Vec<Release> = leases
            .into_iter()
            .map(|lease| {
                let announced = lease.stream.as_str() == "announced";
                Release::new(lease).announce(announced)
            })
            .collect();
        backend.locks.release(&a.id, &releases).await.unwrap();
        let freed = Hint::Freed(vec![stream("wanted"), stream("announced")]);
        assert_eq!(soon(hints.next()).await.unwrap(), freed);
        assert!(
            !server.run::<bool>(&["EXISTS", "{orders-input}:refused"]),
            "told once"
        );
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        assert_eq!(
            soon(hints.next()).await.unwrap(),
            Hint::HolderGone(consumer("a"))
        );
    });
}

#[test]
fn a_dropped_wait_for_a_hint_loses_none() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let mut hints = backend.notifier.subscribe().await.unwrap();
        for n in 0..20u64 {
            let give_up = async {
                pause(Duration::from_millis(1)).await;
                Ok(Hint::MayHaveMissed)
            };
            assert_eq!(
                futures_lite::future::or(hints.next(), give_up)
                    .await
                    .unwrap(),
                Hint::MayHaveMissed
            );
            server.run::<()>(&["PUBLISH", "{orders-input}:hints", &format!("H{n}-1")]);
            let hint = soon(hints.next()).await.unwrap();
            assert_eq!(hint, Hint::HandedBack(vec![EntryId::new(n, 1)]));
        }
    });
}

#[test]
fn flags_of_others_are_kept_and_ours_added_once() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        for (before, after) in [("", "xK"), ("KEx", "xKE"), ("Elg", "glxKE"), ("KA", "AK")] {
            server.run::<()>(&["CONFIG", "SET", FLAGS, before]);
            backend.notifier.subscribe().await.unwrap();
            assert_eq!(flags(&server), after, "before: {before}");
        }
    });
}

#[test]
fn without_the_right_to_config_hints_still_come() {
    on_both(|| async {
        let server = RedisServer::builder()
            .config("rename-command CONFIG \"\"")
            .start();
        let renamed = backend(&server, "orders").await;
        let mut hints = renamed.notifier.subscribe().await.unwrap();
        renamed
            .locks
            .sessions()
            .unwrap()
            .close(&session("a", 1, 1000).id)
            .await
            .unwrap();
        assert_eq!(
            soon(hints.next()).await.unwrap(),
            Hint::HolderGone(consumer("a"))
        );

        let server = RedisServer::start();
        server.run::<()>(&[
            "ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all", "-config",
        ]);
        let restricted = as_user(&server, "worker").await;
        let mut hints = restricted.notifier.subscribe().await.unwrap();
        assert_eq!(flags(&server), "");
        restricted
            .locks
            .sessions()
            .unwrap()
            .close(&session("a", 1, 1000).id)
            .await
            .unwrap();
        assert_eq!(
            soon(hints.next()).await.unwrap(),
            Hint::HolderGone(consumer("a"))
        );
    });
}

async fn as_user(server: &RedisServer, user: &str) -> Backend {
    let url = format!("redis://{user}:pw@127.0.0.1:{}/0", server.port());
    let provider = streamlease_backend_redis_rs::RedisBackend::connect(url)
        .await
        .unwrap();
    provider.backend(&service("orders")).unwrap()
}

#[test]
fn without_rights_on_channels_everything_but_hints_works() {
    on_both(|| async {
        let server = RedisServer::start();
        server.run::<()>(&[
            "ACL",
            "SETUSER",
            "no-channels",
            "on",
            ">pw",
            "~*",
            "resetchannels",
            "+@all",
        ]);
        let no_channels = as_user(&server, "no-channels").await;
        let mut hints = no_channels.notifier.subscribe().await.unwrap();
        let a = session("a", 1, 60_000);
        no_channels
            .locks
            .sessions()
            .unwrap()
            .open(&a)
            .await
            .unwrap();
        let outcome = no_channels
            .locks
            .acquire(&a, &[acquire("s", E1, 1, 0)])
            .await
            .unwrap();
        let AcquireOutcome::Acquired(token) = outcome[0] else {
            panic!("{outcome:?}")
        };
        let lease = LeaseRef {
            stream: stream("s"),
            entry: E1,
            token,
        };
        let release = Release::new(lease).announce(true);
        let outcome = no_channels.locks.release(&a.id, &[release]).await.unwrap();
        assert_eq!(outcome, [ReleaseOutcome::Released]);
        no_channels
            .locks
            .sessions()
            .unwrap()
            .close(&a.id)
            .await
            .unwrap();
        // Only the exact channel is granted: the pattern is done without.
        server.run::<()>(&["ACL", "SETUSER", "no-channels", "&{orders-input}:hints"]);
        drop(hints);
        hints = no_channels.notifier.subscribe().await.unwrap();
        no_channels
            .locks
            .sessions()
            .unwrap()
            .close(&session("b", 1, 1000).id)
            .await
            .unwrap();
        assert_eq!(
            soon(hints.next()).await.unwrap(),
            Hint::HolderGone(consumer("b"))
        );
    });
}

#[test]
fn a_broken_subscription_says_so_and_a_new_one_sets_the_flags_again() {
    on_both(|| async {
        let mut server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let mut hints = backend.notifier.subscribe().await.unwrap();
        server.start_again();
        let err = soon(hints.next()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert_eq!(flags(&server), "");
        let mut hints = backend.notifier.subscribe().await.unwrap();
        assert_eq!(flags(&server), "xK");
        expire(&server, "s<MUTEX_KEY_SEP>5-2");
        assert!(matches!(
            soon(hints.next()).await.unwrap(),
            Hint::LockExpired { .. }
        ));
    });
}

#[test]
fn a_frozen_server_is_noticed_by_its_silence() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let mut hints = backend.notifier.subscribe().await.unwrap();
        server.freeze();
        let err = soon(hints.next()).await;
        server.thaw();
        assert_eq!(err.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}
