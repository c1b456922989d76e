//! What the suites share: bounded waiting, and names that nobody else uses.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{ConsumerName, Runtime, StreamName, Timestamp};

/// How long to wait for what should happen at once. Only a failing test waits
/// that long, so it has room for a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Awaits `future` for at most `bound`.
pub(super) async fn within<T>(
    runtime: &dyn Runtime,
    what: &str,
    bound: Duration,
    future: impl Future<Output = T>,
) -> T {
    let deadline = runtime.now() + bound;
    let done = async { Some(future.await) };
    let late = async {
        runtime.sleep_until(deadline).await;
        None
    };
    // The deadline first: a future that nobody wakes must not pass for done
    // because the deadline's timer happens to have it polled.
    match future::or(late, done).await {
        Some(output) => output,
        None => panic!("{what}: not within {bound:?}"),
    }
}

/// Lets time pass.
pub(super) async fn pass(runtime: &dyn Runtime, time: Duration) {
    runtime.sleep_until(runtime.now() + time).await;
}

/// A loop's waiting for a condition: `while !condition { patience.wait().await }`.
pub(super) struct Patience<'a> {
    runtime: &'a dyn Runtime,
    what: &'a str,
    until: Timestamp,
}

impl<'a> Patience<'a> {
    pub(super) fn new(runtime: &'a dyn Runtime, what: &'a str) -> Self {
        let until = runtime.now() + PATIENCE;
        Self {
            runtime,
            what,
            until,
        }
    }

    /// Waits a moment before the next look; panics when there were enough.
    pub(super) async fn wait(&mut self) {
        assert!(
            self.runtime.now() < self.until,
            "{}: not within {PATIENCE:?}",
            self.what
        );
        pass(self.runtime, Duration::from_millis(5)).await;
    }
}

/// A number that no other call, in any process, gets.
pub(super) fn unique() -> u128 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one("streamlease-testkit"));
    (u128::from(process) << 64) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A data stream that no other test uses.
pub(super) fn stream(label: &str) -> StreamName {
    StreamName::new(format!("{label}-{:x}", unique())).expect("a short name is valid")
}

/// So many of them.
pub(super) fn streams(label: &str, n: usize) -> Vec<StreamName> {
    (0..n).map(|i| stream(&format!("{label}{i}"))).collect()
}

/// The consumer `conformance-<identity>`.
pub(super) fn consumer(identity: &str) -> ConsumerName {
    ConsumerName::from_identity(format!("conformance-{identity}")).expect("a short name is valid")
}

/// A number for a session that no other session has.
pub(super) fn nonce() -> u64 {
    let unique = unique();
    // Process and count in one: either half alone repeats.
    ((unique >> 64) as u64).wrapping_add((unique as u64) << 32)
}
