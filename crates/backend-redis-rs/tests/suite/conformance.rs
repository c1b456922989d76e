//! The testkit's suites on real servers, with either lock scheme and on either
//! runtime: each behaviour with a server of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{Backend, BackendProvider, LockManager, LockScheme, Runtime};
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::{Behaviour, lock_manager, notifier, transport};

use crate::support::{self, *};

fn on_tokio<S>(scheme: LockScheme, behaviour: Behaviour<S>, service: impl Fn(Backend) -> S) {
    support::on_tokio(|| async {
        let server = RedisServer::start();
        let service = service(backend_with(&server, "orders", scheme).await);
        behaviour.run(Arc::new(TokioRuntime::new()), service).await;
    });
}

fn on_smol<S>(scheme: LockScheme, behaviour: Behaviour<S>, service: impl Fn(Backend) -> S) {
    support::on_smol(|| async {
        let server = RedisServer::start();
        let service = service(backend_with(&server, "orders", scheme).await);
        behaviour.run(Arc::new(SmolRuntime::new()), service).await;
    });
}

/// All suites with one scheme on one runtime.
macro_rules! suites {
    ($name:ident, $on:ident, $scheme:ident) => {
        mod $name {
            use super::*;

            mod transport {
                use super::*;

                fn run(behaviour: Behaviour<Backend>) {
                    $on(LockScheme::$scheme, behaviour, |backend| backend);
                }

                streamlease_testkit::transport_conformance!(run);
            }

            mod locks {
                use super::*;

                fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
                    $on(LockScheme::$scheme, behaviour, |backend| backend.locks);
                }

                streamlease_testkit::lock_manager_conformance!(run);
            }

            mod notifier {
                use super::*;

                fn run(behaviour: Behaviour<Backend>) {
                    $on(LockScheme::$scheme, behaviour, |backend| backend);
                }

                streamlease_testkit::notifier_conformance!(run);
            }
        }
    };
}

suites!(per_stream_on_tokio, on_tokio, PerStream);
suites!(per_stream_on_smol, on_smol, PerStream);
suites!(session_on_tokio, on_tokio, Session);
suites!(session_on_smol, on_smol, Session);

/// The same servers for all: each behaviour has a service of its own, on a cluster in one slot
/// or another.
pub(crate) async fn conforms(provider: impl Fn() -> RedisBackend, runtime: Arc<dyn Runtime>) {
    let services = AtomicU32::new(0);
    let fresh = || {
        let name = format!("orders-{}", services.fetch_add(1, Ordering::Relaxed));
        provider().backend(&service(&name)).unwrap()
    };
    transport::run_all(runtime.clone(), async || fresh()).await;
    lock_manager::run_all(runtime.clone(), async || fresh().locks).await;
    notifier::run_all(runtime, async || fresh()).await;
}
