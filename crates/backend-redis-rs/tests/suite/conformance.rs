//! The testkit's suites on real servers, with either lock scheme and on either
//! runtime: each behaviour with a server of its own.

use std::sync::Arc;

use streamlease_core::{Backend, LockManager, LockScheme};
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::Behaviour;

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
