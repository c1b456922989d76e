//! [`TokioRuntime`]: streamlease on [tokio](https://docs.rs/tokio).
//!
//! Time is read from `tokio::time::Instant`, so that `tokio::time::pause()`
//! and `advance()` work in your tests, plus the time the machine was suspended.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use streamlease_clock::Clock;
use streamlease_core::{BoxFuture, Error, ErrorKind, Result, Runtime, Timestamp};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A tokio runtime, held by its handle. Its timers must be enabled
/// (`enable_time` or `enable_all` where the runtime is built by hand).
///
/// All values in a process share one origin. A runtime whose clock is paused
/// has its own idea of now, as always with tokio.
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    handle: Handle,
    clock: Clock,
}

impl TokioRuntime {
    /// The runtime this is called in.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as tokio's own functions do. See
    /// [`try_current`](Self::try_current) and [`from_handle`](Self::from_handle).
    #[track_caller]
    pub fn new() -> Self {
        Self::from_handle(Handle::current())
    }

    /// The runtime this is called in.
    ///
    /// # Errors
    /// [`Environment`](ErrorKind::Environment) outside of a tokio runtime; the message says
    /// what to do.
    pub fn try_current() -> Result<Self> {
        Handle::try_current().map(Self::from_handle).map_err(|err| {
            Error::with_source(
                ErrorKind::Environment,
                "there is no tokio runtime here; call this from within one, \
                 or give its handle to TokioRuntime::from_handle",
                err,
            )
        })
    }

    /// The runtime of `handle`, from anywhere.
    pub fn from_handle(handle: Handle) -> Self {
        origin();
        Self {
            handle,
            clock: Clock::new(),
        }
    }
}

impl Default for TokioRuntime {
    /// The same as [`TokioRuntime::new`], panics included.
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Timestamp {
        // A paused clock belongs to its runtime: enter it, whichever thread this is.
        let _entered = self.handle.enter();
        since_origin(Instant::now()) + self.clock.suspended()
    }

    fn suspended(&self) -> Duration {
        self.clock.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let runtime = self.clone();
        Box::pin(async move {
            loop {
                let remaining = deadline.saturating_since(runtime.now());
                if remaining.is_zero() {
                    return;
                }
                runtime.sleep(Clock::slice(remaining)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.handle.spawn(task);
    }
}

impl TokioRuntime {
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        // A timer belongs to the runtime that is entered when it is made.
        let _entered = self.handle.enter();
        tokio::time::sleep(duration)
    }
}

/// How far the origin lies before this process's first use of the clock. A
/// paused clock may stand at a time before that use, which must not read as zero.
const BEFORE_FIRST_USE: Duration = Duration::from_secs(3600);

fn origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

fn since_origin(now: Instant) -> Timestamp {
    let (now, first_use) = (now.into_std(), origin());
    Timestamp::from_origin(BEFORE_FIRST_USE) + now.saturating_duration_since(first_use)
        - first_use.saturating_duration_since(now)
}
