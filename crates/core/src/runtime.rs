//! [`Runtime`]: the three things core needs from an executor.
//!
//! # Contract
//! - **Clock.** [`now`](Runtime::now) never goes back and counts time during
//!   which the machine was suspended (R1 depends on it). All clones and handles
//!   of one runtime share one clock.
//! - **Suspension.** [`suspended`](Runtime::suspended) is a part of what
//!   [`now`](Runtime::now) has counted, and never goes back either.
//! - **Timers.** [`sleep_until`](Runtime::sleep_until) resolves at or after the
//!   given time, at once if it has passed. Whoever owns a lease is told by a timer
//!   that it ends: a machine with time to spare has it late by less than the least
//!   margin, 50 ms. Dropping the future cancels it.
//! - **Tasks.** [`spawn`](Runtime::spawn) starts a detached task at once. It is
//!   never cancelled by the runtime other than by its own shutdown. Thousands may
//!   wait at once, and one that can always run lets others run, too. Abort and
//!   join are built in core, on channels, so that they behave alike everywhere.
//! - **Concurrency.** Every method may be called from any task or thread that
//!   the runtime's users have, also while a task is dropped. Wakers and sleeps may
//!   be used there, too.
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

    /// For how much of [`now`](Self::now) the machine was suspended. It never decreases;
    /// where it starts does not matter. Zero if the runtime cannot tell: then a process
    /// that was suspended for longer than a TTL counts as one that its handlers blocked. A
    /// wrapper passes on what the wrapped runtime answers.
    fn suspended(&self) -> Duration;

    /// Resolves once [`now`](Self::now) has reached `deadline`.
    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()>;

    /// Runs `task` to its end, detached.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Like [`spawn`](Self::spawn), for a task that runs code of the user: a handler of
    /// [`Client::run`](crate::Client::run). A runtime that keeps the client's own tasks apart
    /// from what may block runs it elsewhere. A wrapper passes it on.
    fn spawn_handler(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }
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

    fn spawn_handler(&self, task: BoxFuture<'static, ()>) {
        (**self).spawn_handler(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer is another one.
    #[derive(Debug)]
    struct Told;

    impl Runtime for Told {
        fn now(&self) -> Timestamp {
            Timestamp::from_origin(Duration::from_secs(60))
        }

        fn suspended(&self) -> Duration {
            Duration::from_secs(7)
        }

        fn sleep_until(&self, _: Timestamp) -> BoxFuture<'static, ()> {
            Box::pin(async {})
        }

        fn spawn(&self, _: BoxFuture<'static, ()>) {}
    }

    #[test]
    fn a_runtime_chosen_at_run_time_says_what_that_one_says() {
        let chosen: Arc<dyn Runtime> = Arc::new(Told);
        // Of the Arc, not of what is in it.
        assert_eq!(Runtime::now(&chosen), Told.now());
        assert_eq!(Runtime::suspended(&chosen), Told.suspended());
    }
}
