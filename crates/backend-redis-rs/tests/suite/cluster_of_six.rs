//! On a cluster of three primaries with a replica each: the owner of a service's slot is
//! found, left and followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::Cluster;

use crate::conformance;
use crate::support::leases::*;
use crate::support::{self, *};

/// In the slot of everything that `orders` has.
const LBS: &str = "orders-input";

async fn conforms(runtime: Arc<dyn Runtime>) {
    let cluster = Cluster::start();
    let provider = RedisBackend::new(cluster.url()).unwrap();
    conformance::conforms(|| provider.clone(), runtime).await;
    for node in 0..3 {
        let keys = cluster.node(node).run::<usize>(&["DBSIZE"]);
        assert!(keys > 0, "node {node} has had nothing to do");
    }
}

#[test]
fn session_leases_conform_on_a_cluster_on_tokio() {
    on_tokio(|| async { conforms(Arc::new(TokioRuntime::new())).await });
}

#[test]
fn session_leases_conform_on_a_cluster_on_smol() {
    on_smol(|| conforms(Arc::new(SmolRuntime::new())));
}

#[test]
fn any_one_node_is_enough_to_find_the_owner_with_or_without_the_right_to_ask() {
    on_both(|| async {
        let cluster = Cluster::start();
        let owner = cluster.owner_of(LBS);
        let seeds: Vec<usize> = (0..cluster.len()).filter(|node| *node != owner).collect();
        for node in 0..cluster.len() {
            cluster.node(node).run::<()>(&[
                "ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-cluster",
            ]);
        }
        for credentials in ["", "blind:pw@"] {
            for seed in &seeds {
                let port = cluster.node(*seed).port();
                let url = format!("redis-cluster://{credentials}127.0.0.1:{port}");
                orders_at(&url).transport.prepare().await.unwrap();
            }
        }
        assert_eq!(cluster.node(owner).run::<usize>(&["EXISTS", LBS]), 1);
        // By its own name only the owner will do, and the others say what would.
        let err = orders_at(&cluster.node(seeds[0]).url())
            .transport
            .prepare()
            .await;
        assert!(err.unwrap_err().to_string().contains("redis-cluster://"));
        // Nor does a node that is away, or frozen, keep anybody.
        cluster.node(seeds[0]).freeze();
        let began = Instant::now();
        orders_at(&cluster.url()).transport.prepare().await.unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        cluster.node(seeds[0]).thaw();
    });
}

#[test]
fn what_cannot_be_on_a_cluster_is_refused_before_anything_is_sent() {
    on_both(|| async {
        let provider = RedisBackend::new("redis-cluster://127.0.0.1:1").unwrap();
        let per_stream = provider.clone().with_lock_scheme(LockScheme::PerStream);
        let err = per_stream.backend(&service("orders")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config);
        assert!(err.to_string().contains("LockScheme::Session"), "{err}");
        let err = provider.backend(&service("x}y")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config);
        assert!(err.to_string().contains("different slots"), "{err}");
        assert!(provider.backend(&service("a{eu}")).is_ok());
        // A server without cluster mode.
        let server = RedisServer::start();
        let url = format!("redis-cluster://127.0.0.1:{}", server.port());
        let err = RedisBackend::connect(url).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{err}");
        assert!(err.to_string().contains("redis://"), "{err}");
    });
}

#[test]
fn a_killed_owners_successor_is_found() {
    on_both(|| async {
        let mut cluster = Cluster::start();
        let backend = orders_at(&cluster.url());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let owner = cluster.owner_of(LBS);
        cluster.node_mut(owner).kill();
        assert!(soon(subscription.next()).await.is_err());
        let elected = on_a_thread(move || {
            let elected = cluster.owner_after(LBS, owner);
            (elected, cluster)
        });
        let (elected, _cluster) = elected.await;
        assert!(elected >= 3);
        let ready = Instant::now();
        while let Err(err) = backend.submitter.submit(&batch(1, &["s"])).await {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
            assert!(ready.elapsed() < Duration::from_secs(2), "{err}");
            pause(Duration::from_millis(10)).await;
        }
        assert_eq!(
            backend
                .transport
                .fetch(&fetch("a", 1, 0))
                .await
                .unwrap()
                .entries
                .len(),
            1
        );
        backend.notifier.subscribe().await.unwrap();
    });
}

#[test]
fn a_frozen_owner_is_left_by_commands_reads_and_subscriptions() {
    on_both(|| async {
        let cluster = Cluster::start();
        let backend = orders_at(&cluster.url());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let owner = cluster.owner_of(LBS);
        let blocked = fetch("a", 1, 60_000);
        let freeze = async {
            eventually("a blocked reader", || {
                let clients: String = cluster.node(owner).run(&["CLIENT", "LIST"]);
                clients.contains("flags=b")
            })
            .await;
            cluster.node(owner).freeze();
            let frozen = Instant::now();
            while let Err(err) = backend.submitter.submit(&batch(1, &["s"])).await {
                assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
                assert!(frozen.elapsed() < Duration::from_secs(9), "{err}");
                pause(Duration::from_millis(10)).await;
            }
        };
        let (fetched, ()) =
            futures_lite::future::zip(soon_or(20, backend.transport.fetch(&blocked)), freeze).await;
        assert_eq!(fetched.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(soon(subscription.next()).await.is_err());
        cluster.node(owner).thaw();
    });
}

/// `work`'s result; fails the test if it takes longer than so many seconds.
async fn soon_or<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    let late = async {
        pause(Duration::from_secs(seconds)).await;
        panic!("took longer than {seconds} seconds")
    };
    futures_lite::future::or(work, late).await
}

#[test]
fn a_failover_by_agreement_and_a_slot_that_moves_cost_no_call_its_answer() {
    on_both(|| async {
        let cluster = Arc::new(Cluster::start());
        let backend = orders_at(&cluster.url());
        backend.transport.prepare().await.unwrap();
        let session = opened(&backend, "a", TTL).await;
        acquired(&backend, &session, "s").await;
        // What is added at the end of everything, whoever had the slot meanwhile.
        let submitted = AtomicU32::new(0);
        let is_over = AtomicBool::new(false);
        let work = async {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let number = submitted.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                let submit = backend
                    .submitter
                    .submit(&batch(number.into(), &["t"]))
                    .await;
                longest = longest.max(began.elapsed());
                submit.unwrap_or_else(|err| panic!("submit {number}: {err}"));
                let heartbeat = backend.locks.renew(&Renew::new(session.clone(), [])).await;
                assert!(
                    matches!(heartbeat, Ok(RenewOutcome::Extended(_))),
                    "{heartbeat:?}"
                );
            }
            longest
        };
        let mishaps = async {
            let cluster = cluster.clone();
            let done = on_a_thread(move || {
                let slot = cluster.slot_of(LBS);
                let owner = cluster.owner_of(LBS);
                let replica = cluster.fail_over(LBS);
                let other = (0..3).find(|node| *node != owner).unwrap();
                cluster.move_slots(slot..=slot, replica, other);
                cluster.owner_after(LBS, replica);
                cluster.move_slots(slot..=slot, other, replica);
                cluster.owner_after(LBS, other)
            });
            let owner = done.await;
            is_over.store(true, Ordering::Relaxed);
            owner
        };
        let (longest, owner) = soon_or(60, futures_lite::future::zip(work, mishaps)).await;
        let entries = cluster.node(owner).run::<u32>(&["XLEN", LBS]);
        assert_eq!(entries, submitted.load(Ordering::Relaxed), "each once");
        println!("{entries} submitted, the longest wait was {longest:?}");
        assert!(longest < Duration::from_millis(1500), "{longest:?}");
    });
}

/// Runs what blocks on a thread of its own while others go on.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(work);
    while !thread.is_finished() {
        pause(Duration::from_millis(2)).await;
    }
    thread.join().unwrap()
}

#[test]
fn a_key_that_no_script_declares_is_never_missed_in_the_middle_of_one() {
    on_both(|| async {
        let cluster = Cluster::start();
        let backend = orders_at(&cluster.url());
        backend.transport.prepare().await.unwrap();
        let session = opened(&backend, "a", TTL).await;
        acquired(&backend, &session, "s").await;
        let (slot, owner) = (cluster.slot_of(LBS), cluster.owner_of(LBS));
        let other = (owner + 1) % 3;
        cluster.begin_to_move(slot, owner, other);
        // The one key that session scripts make up: all they declare is still here.
        let leases = format!("{{orders-input}}:leases:{}", session.id);
        assert_eq!(cluster.node(owner).run::<usize>(&["EXISTS", &leases]), 1);
        cluster.move_keys(owner, other, &[leases]);
        let before = everything(&cluster, owner);
        let other_session = support::session("b", 2, TTL);
        for (what, err) in [
            (
                "heartbeat",
                backend
                    .locks
                    .renew(&Renew::new(session.clone(), []))
                    .await
                    .err(),
            ),
            (
                "open",
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .open(&other_session)
                    .await
                    .err(),
            ),
            (
                "close",
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .close(&session.id)
                    .await
                    .err(),
            ),
            (
                "acquire",
                backend
                    .locks
                    .acquire(&session, &[acquire("t", E1, 1, 0)])
                    .await
                    .err(),
            ),
            (
                "take over",
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .take_over(&session, &other_session.id, 1)
                    .await
                    .err(),
            ),
            (
                "records",
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .records(&session.id, None, 10)
                    .await
                    .err(),
            ),
            (
                "remove",
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .remove(&session.id)
                    .await
                    .err(),
            ),
        ] {
            let err = err.unwrap_or_else(|| panic!("{what} was executed"));
            assert!(err.to_string().contains("TRYAGAIN"), "{what}: {err}");
        }
        assert_eq!(everything(&cluster, owner), before, "something was written");
        // And once all is there, all works.
        let number = slot.to_string();
        let rest: Vec<String> =
            cluster
                .node(owner)
                .run(&["CLUSTER", "GETKEYSINSLOT", &number, "1000"]);
        assert!(
            !rest.iter().any(|key| key == "{orders-input}:leases:"),
            "never made"
        );
        cluster.move_keys(owner, other, &rest);
        cluster.end_the_move(slot, other);
        let kept = backend
            .locks
            .sessions()
            .unwrap()
            .records(&session.id, None, 10)
            .await
            .unwrap();
        assert_eq!(kept.len(), 1);
        let all: Vec<String> =
            cluster
                .node(other)
                .run(&["CLUSTER", "GETKEYSINSLOT", &number, "1000"]);
        assert!(
            !all.iter().any(|key| key == "{orders-input}:leases:"),
            "never made"
        );
    });
}

/// What a node has of a slot's keys, as text.
fn everything(cluster: &Cluster, node: usize) -> Vec<String> {
    let number = cluster.slot_of(LBS).to_string();
    let mut keys: Vec<String> =
        cluster
            .node(node)
            .run(&["CLUSTER", "GETKEYSINSLOT", &number, "1000"]);
    keys.sort();
    keys.into_iter()
        .map(|key| {
            let content: Vec<u8> = cluster.node(node).run(&["DUMP", &key]);
            format!("{key} {content:?}")
        })
        .collect()
}
