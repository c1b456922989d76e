//! tokio passes the suite for runtimes: with threads, without, and with paused time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::Behaviour;
use tokio::runtime::Builder;

mod with_threads {
    use super::*;

    fn run(behaviour: Behaviour<()>) {
        let tokio = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let runtime = TokioRuntime::from_handle(tokio.handle().clone());
        tokio.block_on(behaviour.run(Arc::new(runtime), ()));
    }

    streamlease_testkit::runtime_conformance!(run);
}

mod on_one_thread_with_paused_time {
    use super::*;

    fn run(behaviour: Behaviour<()>) {
        let tokio = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        tokio.block_on(async move { behaviour.run(Arc::new(TokioRuntime::new()), ()).await });
    }

    streamlease_testkit::runtime_conformance!(run);
}

mod from_outside_of_tokio {
    use super::*;

    /// The runtime is used by a thread that tokio knows nothing of.
    fn run(behaviour: Behaviour<()>) {
        let tokio = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let runtime = TokioRuntime::from_handle(tokio.handle().clone());
        futures_lite::future::block_on(behaviour.run(Arc::new(runtime), ()));
    }

    streamlease_testkit::runtime_conformance!(run);
}
