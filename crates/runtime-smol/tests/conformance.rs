//! smol passes the suite for runtimes.

use std::sync::Arc;

use streamlease_runtime_smol::SmolRuntime;
use streamlease_testkit::conformance::Behaviour;

fn smol(behaviour: Behaviour<()>) {
    smol::block_on(behaviour.run(Arc::new(SmolRuntime::new()), ()));
}

streamlease_testkit::runtime_conformance!(smol);
