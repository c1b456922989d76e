//! [`Runtime`]: the three things core needs from an executor.
//!
//! # Contract
//! - **Clock.** [`now`](Runtime::now) never goes back and counts time during
//!   which the machine was suspended (R1 depends on it). All clones and handles
//!   of one runtime share one clock.
//! - **Timers.** [`sleep_until`](Runtime::sleep_until) resolves at or after the
//!   given time, at once if it has passed. Dropping the future cancels it.
//! - **Tasks.** [`spawn`](Runtime::spawn) starts a detached task at once. It is
//!   never cancelled by the runtime other than by its own shutdown. Abort and
//!   join are built in core, on channels, so that they behave alike everywhere.
//! - **Concurrency.** Every method may be called from any task or thread that
//!   the runtime's users have.
//! - **Suite.** `streamlease_testkit::conformance::runtime`.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::Timestamp;

/// A boxed future, as object-safe traits need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An executor with a clock. See the [module docs](self) for the contract.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// The time on this runtime's clock.
    fn now(&self) -> Timestamp;

    /// How much of [`now`](Self::now) the machine was suspended, since whenever: never
    /// less than before. Zero where that cannot be told: a process that was suspended for
    /// longer than a TTL then counts as one that its handlers blocked.
    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    /// Resolves once [`now`](Self::now) has reached `deadline`.
    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()>;

    /// Runs `task` to its end, detached.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// For a runtime that is chosen at run time.
impl<T: Runtime + ?Sized> Runtime for Arc<T> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn suspended(&self) -> Duration {
        (**self).suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        (**self).sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        (**self).spawn(task);
    }
}
