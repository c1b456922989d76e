//! [`Attempt`]: one try to connect, for everybody who waits for it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use streamlease_core::{BoxFuture, Error, ErrorKind, Result};

use crate::timer;

/// How long a try goes on alone. Its address may be that of a server that is no more, and
/// the name lead elsewhere by now.
pub(super) const ANOTHER_AFTER: Duration = Duration::from_secs(2);

/// A try to connect on a task of its own, which outlives whoever waits for it: callers are
/// less patient, some by far (a heartbeat waits for a quarter of the TTL).
/// Its failure answers all of them: none begins another one in its turn.
pub(super) struct Attempt<T> {
    began: Instant,
    /// How long it may take: the look-up of the name, TCP, TLS and the credentials together.
    limit: Duration,
    outcome: Mutex<Option<Result<T>>>,
    /// Closed at the end, whatever that was.
    over: Receiver<Infallible>,
}

impl<T: Send + 'static> Attempt<T> {
    pub(super) fn begin(
        limit: Duration,
        connect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Arc<Self> {
        let (end, over) = async_channel::bounded(1);
        let attempt = Arc::new(Self {
            began: Instant::now(),
            limit,
            outcome: Mutex::new(None),
            over,
        });
        let told = attempt.clone();
        timer::spawn(async move {
            let outcome = connect.await;
            *told.outcome() = Some(outcome);
            drop(end);
        });
        attempt
    }

    /// Waits for its end. Can be dropped, and called by many.
    pub(super) async fn wait(&self) {
        // Longer than it may take: its executor may have stopped without ending it.
        let left = (self.limit + ANOTHER_AFTER).saturating_sub(self.began.elapsed());
        let _ = timer::within(left, self.over.recv()).await;
    }

    /// Whether waiting for it, or what it brought, is of no use to newcomers.
    pub(super) fn is_useless(&self) -> bool {
        match &*self.outcome() {
            Some(outcome) => outcome.is_err(),
            None => self.over.is_closed() || self.began.elapsed() > self.limit,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.outcome().is_some()
    }

    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it brought, for the only one who waits for it.
    pub(super) fn take(&self) -> Result<T> {
        self.outcome().take().unwrap_or_else(|| Err(never_ended()))
    }

    /// What it brought, for one of many.
    pub(super) fn share(&self) -> Result<T>
    where
        T: Clone,
    {
        self.outcome().clone().unwrap_or_else(|| Err(never_ended()))
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Option<Result<T>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn never_ended() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "connecting came to no end: the executor in which it began has stopped",
    )
}

/// The first connection that comes, or the first failure, within the limit. `once` is told
/// whether another try is under way, and silent; `another_after` is how long a try
/// goes on alone.
pub(super) async fn connect<T>(
    limit: Duration,
    another_after: Duration,
    once: impl Fn(bool) -> BoxFuture<'static, Result<T>>,
) -> Option<Result<T>> {
    let tries = async {
        let mut under_way = Vec::new();
        loop {
            under_way.push(once(!under_way.is_empty()));
            let first = poll_fn(|context| {
                let ended = under_way
                    .iter_mut()
                    .find_map(|one| match one.as_mut().poll(context) {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending => None,
                    });
                ended.map_or(Poll::Pending, Poll::Ready)
            });
            if let Some(result) = timer::within(another_after, first).await {
                return result;
            }
        }
    };
    timer::within(limit, tries).await
}
