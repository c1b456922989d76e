//! Behind a proxy that refuses all that managed services refuse, see
//! docs/managed-services.md: session leases need none of it.

use std::sync::Arc;
use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{Backend, BackendProvider, LockManager, LockScheme};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::Behaviour;
use streamlease_tests::{Proxy, REFUSALS_OF_MANAGED_SERVICES};

use crate::support::*;

async fn through(proxy: &Proxy, scheme: LockScheme) -> Backend {
    let provider = RedisBackend::connect(proxy.url()).await.unwrap();
    let provider = provider.with_lock_scheme(scheme);
    provider.backend(&service("orders")).unwrap()
}

fn run<S>(behaviour: Behaviour<S>, service: impl Fn(Backend) -> S) {
    on_tokio(|| async {
        let server = RedisServer::start();
        let proxy = Proxy::of_a_managed_service(server.addr());
        let service = service(through(&proxy, LockScheme::Session).await);
        behaviour.run(Arc::new(TokioRuntime::new()), service).await;
    });
}

mod transport {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        super::run(behaviour, |backend| backend);
    }

    streamlease_testkit::transport_conformance!(run);
}

mod locks {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
        super::run(behaviour, |backend| backend.locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod notifier {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        super::run(behaviour, |backend| backend);
    }

    streamlease_testkit::notifier_conformance!(run);
}

/// Listens with per-stream locks until it is known whether the server tells of expired keys.
async fn listen(proxy: &Proxy) {
    let backend = through(proxy, LockScheme::PerStream).await;
    let mut subscription = backend.notifier.subscribe().await.unwrap();
    let heard = futures_lite::future::or(async { Some(subscription.next().await) }, async {
        pause(Duration::from_millis(1_500)).await;
        None
    });
    assert!(heard.await.is_none());
}

#[test]
fn who_cannot_be_told_of_expired_locks_is_told_what_to_set_and_where() {
    said::listen();
    on_tokio(|| async {
        let server = RedisServer::start();
        for error in REFUSALS_OF_MANAGED_SERVICES {
            let proxy = Proxy::start(server.addr());
            proxy.refuse("CONFIG", error);
            listen(&proxy).await;
            let warnings = said::warnings(&proxy.url());
            let [line] = &warnings[..] else {
                panic!("{error}: {warnings:#?}")
            };
            for part in [
                "deadlines",
                "notify-keyspace-events",
                "Kx",
                "provider",
                error,
            ] {
                assert!(line.contains(part), "{line}");
            }
        }
    });
}

#[test]
fn flags_that_the_providers_tool_has_set_are_enough_without_config() {
    said::listen();
    on_tokio(|| async {
        let server = RedisServer::builder()
            .config("notify-keyspace-events Kx")
            .start();
        let proxy = Proxy::of_a_managed_service(server.addr());
        listen(&proxy).await;
        assert_eq!(said::warnings(&proxy.url()), Vec::<String>::new());
        assert!(proxy.refused().contains("CONFIG"));
    });
}
