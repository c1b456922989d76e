//! The testkit's suites on real servers: each behaviour with a server of its own.

mod support;

use std::sync::Arc;

use streamlease_core::{Backend, LockManager, Transport};
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::Behaviour;
use support::*;

fn on_tokio<S>(behaviour: Behaviour<S>, service: impl Fn(Backend) -> S) {
    let server = RedisServer::start();
    support::on_tokio(async {
        let service = service(backend(&server, "orders").await);
        behaviour.run(Arc::new(TokioRuntime::new()), service).await;
    });
}

fn on_smol<S>(behaviour: Behaviour<S>, service: impl Fn(Backend) -> S) {
    let server = RedisServer::start();
    smol::block_on(async {
        let service = service(backend(&server, "orders").await);
        behaviour.run(Arc::new(SmolRuntime::new()), service).await;
    });
}

mod transport_on_tokio {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn Transport>>) {
        on_tokio(behaviour, |backend| backend.transport);
    }

    streamlease_testkit::transport_conformance!(run);
}

mod transport_on_smol {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn Transport>>) {
        on_smol(behaviour, |backend| backend.transport);
    }

    streamlease_testkit::transport_conformance!(run);
}

mod locks_on_tokio {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
        on_tokio(behaviour, |backend| backend.locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod locks_on_smol {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
        on_smol(behaviour, |backend| backend.locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod notifier_on_tokio {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        on_tokio(behaviour, |backend| backend);
    }

    streamlease_testkit::notifier_conformance!(run);
}

mod notifier_on_smol {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        on_smol(behaviour, |backend| backend);
    }

    streamlease_testkit::notifier_conformance!(run);
}
