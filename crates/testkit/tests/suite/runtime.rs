//! The simulated runtime passes the suite that the real ones pass.

use std::sync::Arc;

use streamlease_core::Runtime;
use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::simulation::SimRuntime;

/// Under a few seeds, since each gives another order of tasks.
fn simulated(behaviour: Behaviour<()>) {
    for seed in 0..5 {
        let sim = SimRuntime::new(seed);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), ()));
        let node: Arc<dyn Runtime> = Arc::new(sim.handle());
        sim.block_on(behaviour.run(node, ()));
    }
}

streamlease_testkit::runtime_conformance!(simulated);
