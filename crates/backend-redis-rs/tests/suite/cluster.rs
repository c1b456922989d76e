//! A server in cluster mode: what works there, and what is refused at start.

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::*;

/// One node with all slots.
async fn cluster_of_one() -> RedisServer {
    // Beside the default, the port of the bus may lie where outgoing connections are.
    let bus = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bus_port = bus.local_addr().unwrap().port();
    drop(bus);
    let server = RedisServer::builder()
        .config("cluster-enabled yes")
        .config(format!("cluster-port {bus_port}"))
        .start();
    server.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("a cluster that is up", || {
        let info: String = server.run(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok")
    })
    .await;
    server
}

#[test]
fn per_stream_locks_are_refused_on_a_cluster_at_start_with_what_to_do() {
    on_both(|| async {
        let server = cluster_of_one().await;
        let per_stream = backend_with(&server, "orders", LockScheme::PerStream).await;
        let err = per_stream.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{err}");
        assert!(err.to_string().contains("LockScheme::Session"), "{err}");
        assert_eq!(server.run::<usize>(&["DBSIZE"]), 0, "nothing was made");

        let provider = RedisBackend::connect(server.url()).await.unwrap();
        let service = service("orders");
        let err = provider.migrate(&service, LockScheme::PerStream).await;
        assert_eq!(err.unwrap_err().kind(), ErrorKind::Config);
    });
}

#[test]
fn session_leases_work_on_a_cluster_of_one_node() {
    on_both(|| async {
        let server = cluster_of_one().await;
        let backend = backend_with(&server, "orders", LockScheme::Session).await;
        backend.transport.prepare().await.unwrap();
        let ids = submitted(&backend, &batch(1, &["s"])).await.unwrap();
        let fetched = backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        assert_eq!(fetched.entries[0].entry, ids[0]);
        let provider = RedisBackend::connect(server.url()).await.unwrap();
        let service = service("orders");
        // With something pending, whose locks are looked for elsewhere.
        provider
            .migrate(&service, LockScheme::Session)
            .await
            .unwrap();
    });
}

#[test]
fn a_client_with_per_stream_locks_ends_at_its_start_on_a_cluster() {
    on_tokio(|| async {
        let server = cluster_of_one().await;
        let provider = RedisBackend::new(server.url()).unwrap();
        let (client, _events) = Client::builder("orders")
            .consumer("a")
            .backend(provider.with_lock_scheme(LockScheme::PerStream))
            .runtime(streamlease_runtime_tokio::TokioRuntime::new())
            .start()
            .unwrap();
        let err = soon(client.started()).await.unwrap_err();
        assert!(err.to_string().contains("cluster mode"), "{err:?}");
        assert!(!err.is_retryable(), "{err:?}");
    });
}
