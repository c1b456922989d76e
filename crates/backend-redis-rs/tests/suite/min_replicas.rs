//! A primary that has too few replicas to write (`min-replicas-to-write`).

use streamlease_core::*;

use crate::support::*;

/// As a fingerprint of all that it has.
fn data(server: &RedisServer) -> String {
    server.run(&["DEBUG", "DIGEST"])
}

fn needs(server: &RedisServer, replicas: &str) {
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", replicas]);
}

async fn refused<T: std::fmt::Debug>(result: impl Future<Output = Result<T>>) {
    let error = result.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("NOREPLICAS"), "{error}");
}

#[test]
fn without_enough_replicas_each_write_is_refused_whole_and_waited_for() {
    on_both(|| async {
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            let server = RedisServer::builder()
                .config("enable-debug-command yes")
                .start();
            let backend = backend_with(&server, "orders", scheme).await;
            let (transport, locks) = (&backend.transport, &backend.locks);
            let sessions = locks.sessions().unwrap();
            transport.prepare().await.unwrap();
            let entries = submitted(&backend, &batch(1, &["a", "b"])).await;
            let entries = entries.unwrap();
            transport.fetch(&fetch("one", 1, 0)).await.unwrap();
            let owner = session("one", 1, 60_000);
            sessions.open(&owner).await.unwrap();
            let request = [acquire("a", entries[0], 1, 0)];
            let acquired = locks.acquire(&owner, &request).await.unwrap();
            let [AcquireOutcome::Acquired(token)] = acquired[..] else {
                panic!("{acquired:?}")
            };
            let own = [fenced(entries[0], token.0)];
            let name = &owner.id.consumer;
            transport.claim(name, &own).await.unwrap();

            needs(&server, "1");
            let before = data(&server);
            refused(submitted(&backend, &batch(2, &["c"]))).await;
            refused(transport.fetch(&fetch("one", 1, 0))).await;
            refused(transport.claim(name, &own)).await;
            refused(transport.complete(name, &own)).await;
            refused(locks.acquire(&owner, &[acquire("b", entries[1], 2, 0)])).await;
            refused(locks.renew(&Renew::new(owner.clone(), []))).await;
            refused(sessions.close(&owner.id)).await;
            assert_eq!(data(&server), before);
            // What only looks goes on.
            let page = transport.list_pending(&ALL, 9).await.unwrap();
            assert_eq!(page.entries.len(), 1);

            needs(&server, "0");
            let ids = submitted(&backend, &batch(2, &["c"])).await.unwrap();
            assert_eq!(ids.len(), 1);
            let done = transport.complete(name, &own).await.unwrap();
            assert_eq!(done, [CompleteOutcome::Completed]);
        }
    });
}
