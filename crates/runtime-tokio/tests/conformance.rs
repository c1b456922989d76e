//! tokio passes the suite for runtimes: with threads, without, and with paused time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use streamlease_core::Runtime;
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

mod on_a_thread_of_its_own {
    use super::*;

    fn run(behaviour: Behaviour<()>) {
        let tokio = Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let runtime = tokio.block_on(async { TokioRuntime::own_thread() });
        // tokio's thread has handlers only: all else is on the other one.
        futures_lite::future::block_on(behaviour.run(Arc::new(runtime.unwrap()), ()));
    }

    streamlease_testkit::runtime_conformance!(run);
}

#[test]
fn a_thread_of_its_own_runs_handlers_elsewhere_and_ends_with_the_last_clone() {
    let tokio = Builder::new_current_thread().build().unwrap();
    let runtime = tokio
        .block_on(async { TokioRuntime::own_thread() })
        .unwrap();
    let (say, heard) = std::sync::mpsc::channel();
    let name = move || say.send(std::thread::current().name().map(str::to_owned));
    let handler_name = name.clone();
    runtime.spawn(Box::pin(async move { name().unwrap() }));
    assert_eq!(heard.recv().unwrap().as_deref(), Some("streamlease"));
    runtime.spawn_handler(Box::pin(async move { handler_name().unwrap() }));
    tokio.block_on(tokio::task::yield_now());
    let here = std::thread::current().name().map(str::to_owned);
    assert_eq!(heard.recv().unwrap(), here);

    let (keep, dropped) = std::sync::mpsc::channel::<()>();
    runtime.spawn(Box::pin(async move {
        let _keep = keep;
        std::future::pending::<()>().await;
    }));
    let clone = runtime.clone();
    drop(runtime);
    let not_yet = dropped.recv_timeout(std::time::Duration::from_millis(50));
    assert_eq!(not_yet, Err(std::sync::mpsc::RecvTimeoutError::Timeout));
    drop(clone);
    // Its tasks are dropped with it.
    assert_eq!(dropped.recv(), Err(std::sync::mpsc::RecvError));
}

#[test]
fn without_a_runtime_there_is_no_place_for_handlers() {
    let error = TokioRuntime::own_thread().unwrap_err();
    assert_eq!(error.kind(), streamlease_core::ErrorKind::Environment);
}
