//! Sentinels and clusters whose servers speak TLS, with each other too, and ask for client
//! certificates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::{RedisBackend, RedisBackendBuilder};
use streamlease_core::*;
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{Authority, Cluster, Sentinels, Tls};

use super::{consumer, next_lease, trusting};
use crate::support::{on_both, on_smol, on_tokio, pause, soon};

/// Twice as long as a failover takes, and more.
const TTL: Duration = Duration::from_secs(8);
/// A failover, and what a restart holds back.
const AFTER_A_FAILOVER: Duration = Duration::from_secs(25);

fn mutual(url: &str, authority: &Authority) -> RedisBackendBuilder {
    let client = authority.client();
    trusting(url, authority).client_certificate(client.pem, client.key)
}

/// A lease that has reached the replicas lives through the failover of its server, and the next
/// one is to be had.
async fn lives_through(
    provider: RedisBackend,
    runtime: Arc<dyn Runtime>,
    kill: impl AsyncFnOnce(),
) {
    let producer = Producer::new("orders", &provider, runtime.clone()).unwrap();
    let (client, mut events) = consumer(provider, runtime, TTL);
    soon(client.started()).await.unwrap();
    producer.submit("first", Info::NONE).await.unwrap();
    let first = next_lease(&mut events).await;
    kill().await;
    let killed = Instant::now();
    producer.submit("second", Info::NONE).await.unwrap();
    let second = loop {
        match events.try_next() {
            Some(Event::StreamAdded(lease)) => break lease,
            Some(other) => panic!("{other:?}"),
            None => pause(Duration::from_millis(10)).await,
        }
        assert!(killed.elapsed() < AFTER_A_FAILOVER, "no second lease");
    };
    assert!(first.is_valid(), "lost after {:?}", killed.elapsed());
    for lease in [first, second] {
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    }
    soon(client.shutdown()).await.unwrap();
}

async fn a_cluster(runtime: Arc<dyn Runtime>) {
    let authority = Authority::new();
    let mut cluster = Cluster::with(|node| node.tls(Tls::of(&authority).asking_clients()));
    let owner = cluster.owner_of("orders-input");
    let provider = mutual(&cluster.tls_url(), &authority).connect().await;
    let kill = async || {
        cluster.node(owner).replicated().await;
        cluster.node_mut(owner).kill();
    };
    lives_through(provider.unwrap(), runtime, kill).await;
}

#[test]
fn a_lease_lives_through_a_failover_of_a_cluster_over_tls_on_tokio() {
    on_tokio(|| async { a_cluster(Arc::new(TokioRuntime::new())).await });
}

#[test]
fn a_lease_lives_through_a_failover_of_a_cluster_over_tls_on_smol() {
    on_smol(|| a_cluster(Arc::new(SmolRuntime::new())));
}

fn sentinels(authority: &Authority) -> Sentinels {
    let tls = || Tls::of(authority).asking_clients();
    Sentinels::with(|server| server.tls(tls()), |sentinel| sentinel.tls(tls()))
}

async fn behind_sentinels(runtime: Arc<dyn Runtime>) {
    let authority = Authority::new();
    let mut all = sentinels(&authority);
    let provider = mutual(&all.tls_url(), &authority).connect().await;
    let kill = async || {
        all.server(0).replicated().await;
        all.server_mut(0).kill();
    };
    lives_through(provider.unwrap(), runtime, kill).await;
}

#[test]
fn a_lease_lives_through_a_failover_by_sentinels_over_tls_on_tokio() {
    on_tokio(|| async { behind_sentinels(Arc::new(TokioRuntime::new())).await });
}

#[test]
fn a_lease_lives_through_a_failover_by_sentinels_over_tls_on_smol() {
    on_smol(|| behind_sentinels(Arc::new(SmolRuntime::new())));
}

#[test]
fn nodes_and_sentinels_that_are_not_trusted_or_do_not_trust_us_are_denied() {
    on_both(|| async {
        let authority = Authority::new();
        let all = sentinels(&authority);
        let url = all.tls_url();
        let strange = mutual(&url, &Authority::new());
        for builder in [strange, trusting(&url, &authority)] {
            let err = builder.connect().await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
        }
        drop(all);
        // Its nodes name each other by address, for which they have no certificate.
        let by_name = authority.server_named(&["localhost"]);
        let tls = || Tls::of(&authority).showing(by_name.clone());
        let cluster = Cluster::with(|node| node.tls(tls()));
        let url = cluster.tls_url().replace("127.0.0.1", "localhost");
        let err = trusting(&url, &authority).connect().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
        assert!(err.to_string().contains("announce"), "{err}");
        drop(cluster);
        let cluster = Cluster::with(|node| {
            node.tls(tls())
                .config("cluster-announce-hostname localhost")
                .config("cluster-preferred-endpoint-type hostname")
        });
        let url = cluster.tls_url().replace("127.0.0.1", "localhost");
        trusting(&url, &authority).connect().await.unwrap();
    });
}
