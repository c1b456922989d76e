//! Sleeping, time-outs and tasks of our own, under whichever executor polls them.
//!
//! The choice is the one that the redis crate makes for its connections: inside
//! a tokio runtime tokio's timer and tasks, elsewhere smol's, which has threads of
//! its own and so works under smol, async-std and anything else. Users of tokio
//! alone link and start no second timer.

use std::future::Future;
use std::time::Duration;

use futures_lite::future;

/// Resolves after `time`.
pub(crate) async fn sleep(time: Duration) {
    #[cfg(all(feature = "tokio", feature = "smol"))]
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep(time).await;
    } else {
        smol::Timer::after(time).await;
    }
    #[cfg(not(feature = "smol"))]
    tokio::time::sleep(time).await;
    #[cfg(not(feature = "tokio"))]
    smol::Timer::after(time).await;
}

/// `task`'s result, or `None` if it takes longer than `limit`; it is dropped then.
pub(crate) async fn within<T>(limit: Duration, task: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(task.await) }, async {
        sleep(limit).await;
        None
    })
    .await
}

/// Runs `task` whether or not anybody waits for it.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(all(feature = "tokio", feature = "smol"))]
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    } else {
        smol::spawn(task).detach();
    }
    #[cfg(not(feature = "smol"))]
    tokio::spawn(task);
    #[cfg(not(feature = "tokio"))]
    smol::spawn(task).detach();
}
