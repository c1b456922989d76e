//! async-std passes the suite for runtimes.

use std::sync::Arc;

use streamlease_runtime_async_std::AsyncStdRuntime;
use streamlease_testkit::conformance::Behaviour;

fn async_std(behaviour: Behaviour<()>) {
    async_std::task::block_on(behaviour.run(Arc::new(AsyncStdRuntime::new()), ()));
}

streamlease_testkit::runtime_conformance!(async_std);
