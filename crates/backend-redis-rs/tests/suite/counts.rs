//! What a service has, as a server counts it.

use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::*;

async fn prepared(server: &RedisServer) -> Backend {
    let backend = backend_with(server, "orders", LockScheme::Session).await;
    backend.transport.prepare().await.unwrap();
    backend
}

async fn counts(backend: &Backend) -> ServiceCounts {
    backend.admin.counts().await.unwrap()
}

fn delete(server: &RedisServer, entry: EntryId) {
    let deleted: u64 = server.run(&["XDEL", "orders-input", &entry.to_string()]);
    assert_eq!(deleted, 1);
}

#[test]
fn where_the_server_cannot_tell_how_many_wait_nobody_says_that_none_does() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = prepared(&server).await;
        let names = ["a", "b", "c", "d", "e"];
        let entries = submitted(&backend, &batch(1, &names)).await.unwrap();
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        assert_eq!(counts(&backend).await.waiting, Some(4));
        delete(&server, entries[2]);
        let seen = counts(&backend).await;
        assert_eq!((seen.waiting, seen.pending), (None, 1));
        assert!(seen.oldest_waiting.is_some());

        // As soon as nobody has to count over the gap.
        backend.transport.fetch(&fetch("a", 2, 0)).await.unwrap();
        let seen = counts(&backend).await;
        assert!(seen.waiting.is_none_or(|waiting| waiting == 1), "{seen:?}");
        backend.transport.fetch(&fetch("a", 2, 0)).await.unwrap();
        let seen = counts(&backend).await;
        assert_eq!((seen.waiting, seen.oldest_waiting), (Some(0), None));
    });
}

#[test]
fn a_count_that_contradicts_the_stream_is_not_believed() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = prepared(&server).await;
        backend
            .submitter
            .submit(&batch(1, &["a", "b"]))
            .await
            .unwrap();
        // As tools do that restore a group: the server takes the number for true.
        let set = ["XGROUP", "SETID", "orders-input", "orders-group", "0"];
        let _: String = server.run(&[&set[..], &["ENTRIESREAD", "2"]].concat());
        let seen = counts(&backend).await;
        // Later versions do not.
        assert!(seen.waiting.is_none_or(|waiting| waiting == 2), "{seen:?}");
        assert!(seen.oldest_waiting.is_some());
    });
}

#[test]
fn odd_ids_do_no_harm() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = prepared(&server).await;
        let (latest, max) = ("18446744073709551615-1", "18446744073709551615");
        let _: String = server.run(&["XADD", "orders-input", latest, "lbs-input", "{}"]);
        let seen = counts(&backend).await;
        assert_eq!(seen.oldest_waiting, Some(Duration::ZERO), "of the future");
        let greatest = format!("{max}-{max}");
        let _: String = server.run(&["XADD", "orders-input", &greatest, "lbs-input", "{}"]);
        backend.transport.fetch(&fetch("a", 9, 0)).await.unwrap();
        let seen = counts(&backend).await;
        assert_eq!((seen.waiting, seen.oldest_waiting), (Some(0), None));
        assert_eq!(seen.pending, 2);
    });
}

#[test]
fn without_the_right_to_count_all_only_that_is_unknown() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let producer = backend_with(&server, "orders", LockScheme::Session).await;
        producer.submitter.submit(&batch(1, &["a"])).await.unwrap();
        let rules = RedisBackend::connect(server.url()).await.unwrap();
        let mut rules = rules.acl_rules(&service("orders"));
        rules.retain(|rule| rule != "+xlen");
        let mut set = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
        set.extend(rules.iter().map(String::as_str));
        let _: () = server.run(&set);
        let provider = RedisBackend::new(server.url_with("orders", "secret", 0)).unwrap();
        let limited = provider.backend(&service("orders")).unwrap();
        let seen = counts(&limited).await;
        assert_eq!(seen.waiting, None);
        assert!(seen.oldest_waiting.is_some());
        limited.transport.prepare().await.unwrap();
        assert_eq!(counts(&limited).await.waiting, None, "it cannot be checked");
    });
}

#[test]
fn counting_costs_the_same_however_much_there_is() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = prepared(&server).await;
        let names: Vec<_> = (0..5_000).map(|n| format!("s{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        backend.submitter.submit(&batch(1, &names)).await.unwrap();
        backend
            .transport
            .fetch(&fetch("a", 1_000, 0))
            .await
            .unwrap();
        let executed = || -> u64 {
            let stats: String = server.run(&["INFO", "commandstats"]);
            let calls = stats.lines().filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                // What the test itself and its connections ask.
                let own = ["info", "config|get", "hello", "client|setinfo"];
                (!own.contains(&name)).then(|| rest.split(',').next()?.parse::<u64>().ok())?
            });
            calls.sum()
        };
        counts(&backend).await;
        let before = executed();
        let seen = counts(&backend).await;
        assert_eq!(seen.waiting, Some(5_000 - seen.pending));
        assert!(seen.pending > 0);
        let used = executed() - before;
        assert!(used <= 7, "{used} commands");
    });
}
