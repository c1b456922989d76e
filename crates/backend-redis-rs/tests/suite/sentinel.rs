//! Behind sentinels: a primary that is found, left and followed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::Sentinels;

use crate::conformance;
use crate::support::*;

async fn conforms(runtime: Arc<dyn Runtime>) {
    let all = Sentinels::start();
    let provider = || RedisBackend::new(all.url()).unwrap();
    conformance::conforms(provider, runtime).await;
}

#[test]
fn session_leases_conform_behind_sentinels_on_tokio() {
    on_tokio(|| async { conforms(Arc::new(TokioRuntime::new())).await });
}

#[test]
fn session_leases_conform_behind_sentinels_on_smol() {
    on_smol(|| conforms(Arc::new(SmolRuntime::new())));
}

#[test]
fn the_primary_is_found_though_a_sentinel_is_frozen_and_another_dead() {
    on_both(|| async {
        let mut all = Sentinels::start();
        all.sentinel(0).freeze();
        let began = Instant::now();
        orders_at(&all.url()).transport.prepare().await.unwrap();
        let took = began.elapsed();
        assert!(
            took < Duration::from_millis(800),
            "waited for the frozen one: {took:?}"
        );
        all.sentinel_mut(1).kill();
        // The last one's word is enough, after a second for the others.
        orders_at(&all.url()).transport.prepare().await.unwrap();
        all.sentinel_mut(2).kill();
        let err = orders_at(&all.url()).transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        all.sentinel(0).thaw();
        orders_at(&all.url()).transport.prepare().await.unwrap();
    });
}

#[test]
fn a_name_that_no_sentinel_knows_and_a_server_that_is_no_sentinel_are_settings_errors() {
    on_both(|| async {
        let all = Sentinels::start();
        let url = all.url().replace("/mymaster", "/MyMaster");
        let err = RedisBackend::connect(url).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{err}");
        assert!(err.to_string().contains("\"MyMaster\""), "{err}");
        let url = format!(
            "redis-sentinel://127.0.0.1:{}/mymaster",
            all.server(0).port()
        );
        let err = RedisBackend::connect(url).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{err}");
        assert!(err.to_string().contains("no sentinel"), "{err}");
        // And the other way round.
        for scheme in ["redis", "redis-cluster"] {
            let url = format!("{scheme}://127.0.0.1:{}", all.sentinel(0).port());
            let err = RedisBackend::connect(url).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config, "{err}");
            assert!(err.to_string().contains("redis-sentinel://"), "{err}");
        }
    });
}

#[test]
fn a_killed_primarys_successor_is_found_and_has_what_was_replicated() {
    on_both(|| async {
        let mut all = Sentinels::start();
        let backend = orders_at(&all.url());
        backend.transport.prepare().await.unwrap();
        let ids = submitted(&backend, &batch(1, &["s"])).await.unwrap();
        all.server(0).replicated().await;
        all.server_mut(0).kill();
        let killed = Instant::now();
        let mut kinds = Vec::new();
        while let Err(err) = submitted(&backend, &batch(2, &["t"])).await {
            kinds.push(err.kind());
            assert!(killed.elapsed() < Duration::from_secs(10), "{err}");
            pause(Duration::from_millis(20)).await;
        }
        assert!(
            kinds.iter().all(|kind| *kind == ErrorKind::Unavailable),
            "{kinds:?}"
        );
        let fetched = backend.transport.fetch(&fetch("a", 2, 0)).await.unwrap();
        assert_eq!(fetched.entries[0].entry, ids[0]);
        assert_eq!(fetched.entries.len(), 2);
    });
}

#[test]
fn a_primary_that_was_replaced_by_hand_is_left_though_it_still_accepts_writes() {
    on_both(|| async {
        let all = Sentinels::start();
        let backend = orders_at(&all.url());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let blocked = fetch("a", 1, 9000);
        let new = async {
            eventually("a blocked reader", || {
                let clients: String = all.server(0).run(&["CLIENT", "LIST"]);
                clients.contains("flags=b")
            })
            .await;
            let new = all.fail_over();
            let named = Instant::now();
            // Accepted by the old one, until the sentinels are asked again.
            while all.server(new).run::<usize>(&["XLEN", "orders-input"]) == 0 {
                let _ = submitted(&backend, &batch(1, &["s"])).await;
                assert!(
                    named.elapsed() < Duration::from_secs(3),
                    "stays with the old one"
                );
                pause(Duration::from_millis(10)).await;
            }
        };
        let (fetched, ()) = soon(futures_lite::future::zip(
            backend.transport.fetch(&blocked),
            new,
        ))
        .await;
        if let Err(err) = fetched {
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        }
        assert!(
            soon(subscription.next()).await.is_err(),
            "it would hear nothing more"
        );
        assert!(backend.notifier.subscribe().await.is_ok());
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
fn a_connect_that_a_thawed_primary_answers_late_does_not_count() {
    on_both(|| async {
        let all = Arc::new(Sentinels::start());
        let backend = orders_at(&all.url());
        all.server(0).freeze();
        // Still named, and nothing is answered.
        let late = async {
            while backend.transport.prepare().await.is_err() {
                pause(Duration::from_millis(5)).await;
            }
        };
        let thaw = async {
            let asked = all.clone();
            let new = on_a_thread(move || asked.primary_after(0)).await;
            all.server(0).thaw();
            new
        };
        let ((), new) = soon(futures_lite::future::zip(late, thaw)).await;
        let has = |index: usize| all.server(index).run::<usize>(&["EXISTS", "orders-input"]);
        assert_eq!(has(new), 1, "the former one's word was taken: {}", has(0));
    });
}
