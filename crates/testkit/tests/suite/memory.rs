//! The backend in memory, under virtual time, passes the suites.

use std::sync::Arc;

use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{Backend, BackendProvider, ServiceName};
use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::simulation::SimRuntime;

fn session_leases(sim: &SimRuntime) -> Backend {
    service(MemoryBackend::new(Arc::new(sim.clone())))
}

fn per_stream_locks(sim: &SimRuntime) -> Backend {
    service(MemoryBackend::per_stream_locks(Arc::new(sim.clone())))
}

fn service(backend: MemoryBackend) -> Backend {
    backend
        .backend(&ServiceName::new("orders").unwrap())
        .unwrap()
}

/// Under a few seeds, since each gives another order of tasks.
fn check<S>(behaviour: Behaviour<S>, fresh: impl Fn(&SimRuntime) -> S) {
    for seed in 0..5 {
        let sim = SimRuntime::new(seed);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), fresh(&sim)));
    }
}

mod transport {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, session_leases);
    }

    streamlease_testkit::transport_conformance!(run);
}

mod session_leases {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn streamlease_core::LockManager>>) {
        check(behaviour, |sim| session_leases(sim).locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod per_stream_locks {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn streamlease_core::LockManager>>) {
        check(behaviour, |sim| per_stream_locks(sim).locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod hints_with_session_leases {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, session_leases);
    }

    streamlease_testkit::notifier_conformance!(run);
}

mod hints_with_per_stream_locks {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, per_stream_locks);
    }

    streamlease_testkit::notifier_conformance!(run);
}
