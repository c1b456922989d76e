//! Over TLS, with certificates of the tests' own: one server, sentinels, a cluster; and what
//! is said when the certificates, or the ports, are wrong.

mod fleets;
mod one_server;
mod refusals;
use std::sync::Arc;
use std::time::Duration;

use streamlease_backend_redis_rs::{RedisBackend, RedisBackendBuilder};
use streamlease_core::{Client, Event, Events, Lease, Runtime};
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{Authority, RedisServer, Tls};

use crate::support;

/// The same on both runtimes, for what needs to know which one it is on.
fn on_each<F: Future<Output = ()>>(body: impl Fn(Arc<dyn Runtime>) -> F) {
    support::on_tokio(|| async { body(Arc::new(TokioRuntime::new())).await });
    support::on_smol(|| body(Arc::new(SmolRuntime::new())));
}

fn start(tls: Tls) -> RedisServer {
    RedisServer::builder().tls(tls).start()
}

fn trusting(url: impl AsRef<str>, authority: &Authority) -> RedisBackendBuilder {
    RedisBackend::builder(url).ca(authority.pem())
}

fn consumer(provider: RedisBackend, runtime: Arc<dyn Runtime>, ttl: Duration) -> (Client, Events) {
    let builder = Client::builder("orders").consumer("a").ttl(ttl);
    builder.backend(provider).runtime(runtime).start().unwrap()
}

async fn next_lease(events: &mut Events) -> Lease {
    match support::soon(events.next()).await {
        Some(Event::StreamAdded(lease)) => lease,
        other => panic!("{other:?}"),
    }
}
