//! A server at its `maxmemory` that evicts nothing: what is owned can be kept and
//! completed, and the LBS drained; only what appends is refused.

use std::time::Duration;

use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

const SCHEMES: [LockScheme; 2] = [LockScheme::Session, LockScheme::PerStream];

/// The limit lies below what is used: by more than the tests free again.
fn fill(server: &RedisServer) {
    let info: String = server.run(&["INFO", "memory"]);
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.unwrap().trim().parse().unwrap();
    let limit = (used * 2 / 3).to_string();
    server.run::<()>(&["CONFIG", "SET", "maxmemory", &limit]);
}

fn lock_of(entry: &Delivery, attempt: u64) -> Acquire {
    let stream = entry.content.as_ref().unwrap().stream.clone();
    acquire(stream.as_str(), entry.entry, attempt, 0)
}

#[test]
fn when_memory_is_full_all_is_done_but_what_appends() {
    on_both(|| async {
        for scheme in SCHEMES {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let (transport, locks) = (&backend.transport, &backend.locks);
            transport.prepare().await.unwrap();
            submitted(&backend, &batch(1, &["a", "b", "c", "d", "e"]))
                .await
                .unwrap();
            let a = opened(&backend, "a", TTL).await;
            fill(&server);
            let refused = submitted(&backend, &batch(2, &["more"])).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
            assert!(refused.to_string().contains("OOM"), "{refused}");

            // Operators may need that just then.
            assert!(backend.admin.pause("the memory is full").await.unwrap());
            assert!(backend.admin.resume().await.unwrap());
            transport.prepare().await.unwrap();
            let b = opened(&backend, "b", TTL).await;
            let fetched = transport.fetch(&fetch("a", 10, 0)).await.unwrap();
            let requests: Vec<Acquire> = fetched.entries.iter().map(|e| lock_of(e, 1)).collect();
            let mut leases = Vec::new();
            for (request, outcome) in requests
                .iter()
                .zip(locks.acquire(&a, &requests).await.unwrap())
            {
                let AcquireOutcome::Acquired(token) = outcome else {
                    panic!("{outcome:?}")
                };
                leases.push(LeaseRef {
                    stream: request.stream.clone(),
                    entry: request.entry,
                    token,
                });
            }
            let own = |lease: &LeaseRef| fenced(lease.entry, lease.token.0);
            let all: Vec<Fenced> = leases.iter().map(own).collect();
            transport.claim(&a.id.consumer, &all).await.unwrap();
            let named: &[LeaseRef] = match scheme {
                LockScheme::Session => &[],
                LockScheme::PerStream => &leases,
            };
            let heartbeat = locks
                .renew(
                    &Renew::new(a.clone(), named.to_vec()).want_sweep(Some(Duration::from_secs(1))),
                )
                .await;
            let Ok(RenewOutcome::Extended(reply)) = heartbeat else {
                panic!("{heartbeat:?}")
            };
            assert!(reply.lost.is_empty() && reply.sweep, "{reply:?}");
            // Whoever is refused is put down to be told.
            let refused = locks.acquire(&b, &requests[..1]).await.unwrap();
            assert!(matches!(refused[0], AcquireOutcome::Held(_)), "{refused:?}");
            locks
                .sessions()
                .unwrap()
                .revoke(&[stream("a")])
                .await
                .unwrap();
            transport.clear_failures(&all[..1]).await.unwrap();
            let back = HandBackRequest::new(all[0].entry, all[0].token)
                .failed(Some("it was bad".into()))
                .rests(true);
            let back = transport.hand_back(&a.id.consumer, &[back]).await.unwrap();
            assert_eq!(back, [HandBackOutcome::HandedBack]);
            let quarantine =
                Quarantine::new(all[1].entry, all[1].token, 0, "of the test".to_owned());
            let quarantined = transport
                .quarantine(&a.id.consumer, &[quarantine])
                .await
                .unwrap();
            assert_eq!(quarantined, [QuarantineOutcome::Quarantined]);
            let back = backend.admin.release_quarantined(&[all[1].entry]).await;
            assert_eq!(back.unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(
                backend
                    .admin
                    .list_quarantined(EntryId::MIN, 9)
                    .await
                    .unwrap()
                    .len(),
                1
            );
            let ended = transport
                .complete(&a.id.consumer, &all[2..3])
                .await
                .unwrap();
            assert_eq!(ended, [CompleteOutcome::Completed]);
            assert_eq!(release_all(&backend, &a, &leases[..3]).await, 3);
            // A dies, b inherits and drains.
            locks.sessions().unwrap().close(&a.id).await.unwrap();
            locks
                .sessions()
                .unwrap()
                .take_over(&b, &a.id, 10)
                .await
                .unwrap();
            let page = transport.list_pending(&ALL, 10).await.unwrap();
            assert_eq!(page.entries.len(), 3);
            for pending in page.entries {
                let token = FencingToken(pending.token.0 + 1);
                let own = [fenced(pending.entry, token.0)];
                transport.claim(&b.id.consumer, &own).await.unwrap();
                transport.complete(&b.id.consumer, &own).await.unwrap();
            }
            assert_eq!(server.run::<u64>(&["XLEN", "orders-input"]), 0);
            transport.remove_consumer(&a.id.consumer).await.unwrap();
            locks.sessions().unwrap().remove(&a.id).await.unwrap();
        }
    });
}

/// What cannot be read is refused although that cannot be noted.
#[test]
fn when_memory_is_full_an_unreadable_record_fails_no_other_of_its_page() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        let names = batch(1, &["a", "b"]);
        let ids = submitted(&backend, &names).await.unwrap();
        backend.transport.fetch(&fetch("a", 9, 0)).await.unwrap();
        let (transport, a) = (&backend.transport, consumer("a"));
        let all = [fenced(ids[0], 7), fenced(ids[1], 7)];
        transport.claim(&a, &all).await.unwrap();
        let spoil = ["HSET", "{orders-input}:tokens", &ids[0].to_string(), "?"];
        server.run::<()>(&spoil);
        fill(&server);

        let page = transport.list_pending(&ALL, 10).await.unwrap();
        assert_eq!(page.entries.len(), 2);
        let ended = transport.complete(&a, &all).await.unwrap();
        assert!(
            matches!(ended[0], CompleteOutcome::NotOwner { .. }),
            "{ended:?}"
        );
        assert_eq!(ended[1], CompleteOutcome::Completed);
        // Whoever comes next is told above what, gets in and completes.
        let claimed = transport.claim(&a, &all[..1]).await.unwrap();
        let ClaimOutcome::Stale { seen } = claimed[0] else {
            panic!("{claimed:?}")
        };
        let next = [fenced(ids[0], seen.0 + 1)];
        transport.claim(&a, &next).await.unwrap();
        let ended = transport.complete(&a, &next).await.unwrap();
        assert_eq!(ended, [CompleteOutcome::Completed]);
    });
}
