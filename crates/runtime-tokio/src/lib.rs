//! [`TokioRuntime`]: streamlease on [tokio](https://docs.rs/tokio).
//!
//! Handlers that block their threads belong on other ones than the client's own tasks:
//! [`TokioRuntime::own_thread`].
//!
//! Time is read from `tokio::time::Instant`, so that `tokio::time::pause()`
//! and `advance()` work in your tests, plus the time the machine was suspended.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use streamlease_clock::Clock;
use streamlease_core::{BoxFuture, Error, ErrorKind, Result, Runtime, Timestamp};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A tokio runtime, held by its handle. Its timers must be enabled
/// (`enable_time` or `enable_all` where the runtime is built by hand).
///
/// All values in a process share one origin. A runtime whose clock is paused
/// has its own idea of now, as always with tokio.
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    handle: Handle,
    /// Where handlers run, if that is elsewhere.
    handlers: Option<Handle>,
    /// The thread of its own ends when the last of these is dropped.
    #[expect(dead_code, reason = "what counts is that it is dropped")]
    own_thread: Option<Arc<oneshot::Sender<Infallible>>>,
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
            handlers: None,
            own_thread: None,
            clock: Clock::new(),
        }
    }

    /// A runtime on a thread of its own, for a client whose handlers may block their threads.
    ///
    /// The client's task, its timers and the connections that it makes are on the new thread.
    /// Handlers of [`Client::run`](streamlease_core::Client::run) run on the runtime in which
    /// this is called. So heartbeats are sent whatever handlers do. Still, a handler that
    /// blocks hears of nothing meanwhile: not that its lease is lost, nor that the client is
    /// to stop.
    ///
    /// A connection stays where it was made. Give the client a backend of its own, which
    /// connects when the client first asks it (`RedisBackend::new`), and not one that is
    /// connected already or that producers share.
    ///
    /// The thread ends when the last clone is dropped; the client drops its own at its end.
    ///
    /// # Errors
    /// [`Environment`](ErrorKind::Environment) outside of a tokio runtime, or if the operating
    /// system gives no thread.
    pub fn own_thread() -> Result<Self> {
        let handlers = Self::try_current()?.handle;
        let fails = |err| {
            let what = "there is no thread for the client";
            Error::with_source(ErrorKind::Environment, what, err)
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(fails)?;
        let handle = runtime.handle().clone();
        let (keep, dropped) = oneshot::channel::<Infallible>();
        thread::Builder::new()
            .name("streamlease".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(dropped);
                // What has not ended is dropped with it, and is not waited for.
                runtime.shutdown_background();
            })
            .map_err(fails)?;
        Ok(Self {
            handlers: Some(handlers),
            own_thread: Some(Arc::new(keep)),
            ..Self::from_handle(handle)
        })
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

    fn spawn_handler(&self, task: BoxFuture<'static, ()>) {
        self.handlers.as_ref().unwrap_or(&self.handle).spawn(task);
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
