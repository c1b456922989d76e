//! The model that the simulations run on passes the suites that every backend passes.

use std::sync::Arc;

use streamlease_core::{Backend, BackendProvider, LockScheme, ServiceName};
use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::simulation::SimRuntime;
use streamlease_testkit::simulation::fleet::SimServers;

fn service(sim: &SimRuntime, scheme: LockScheme) -> Backend {
    let servers = SimServers::new(sim, "orders", scheme);
    let name = ServiceName::new("orders").expect("a valid name");
    servers.backend().backend(&name).expect("its own service")
}

/// Under a few seeds, since each gives another order of tasks and messages.
fn check<S>(behaviour: Behaviour<S>, fresh: impl Fn(&SimRuntime) -> S) {
    for seed in 0..5 {
        let sim = SimRuntime::new(seed);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), fresh(&sim)));
    }
}

mod transport {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, |sim| service(sim, LockScheme::Session));
    }

    streamlease_testkit::transport_conformance!(run);
}

mod session_leases {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn streamlease_core::LockManager>>) {
        check(behaviour, |sim| service(sim, LockScheme::Session).locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod per_stream_locks {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn streamlease_core::LockManager>>) {
        check(behaviour, |sim| service(sim, LockScheme::PerStream).locks);
    }

    streamlease_testkit::lock_manager_conformance!(run);
}

mod hints_with_session_leases {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, |sim| service(sim, LockScheme::Session));
    }

    streamlease_testkit::notifier_conformance!(run);
}

mod hints_with_per_stream_locks {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        check(behaviour, |sim| service(sim, LockScheme::PerStream));
    }

    streamlease_testkit::notifier_conformance!(run);
}
