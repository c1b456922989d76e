//! [`AsyncStdRuntime`]: streamlease on [async-std](https://docs.rs/async-std).
//!
//! async-std is discontinued ([RUSTSEC-2025-0052]) and gets no fixes any more.
//! This crate is for programs that are built on it already; new ones, and
//! those that can move, take `streamlease-runtime-smol`, whose executor is
//! built on the same crates.
//!
//! [RUSTSEC-2025-0052]: https://rustsec.org/advisories/RUSTSEC-2025-0052.html

use std::time::Duration;

use streamlease_clock::Clock;
use streamlease_core::{BoxFuture, Runtime, Timestamp};

/// async-std's global executor. It needs no set-up and runs from anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsyncStdRuntime {
    clock: Clock,
}

impl AsyncStdRuntime {
    /// The global executor.
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
        }
    }
}

impl Runtime for AsyncStdRuntime {
    fn now(&self) -> Timestamp {
        Timestamp::from_origin(self.clock.elapsed())
    }

    fn suspended(&self) -> Duration {
        self.clock.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let runtime = *self;
        Box::pin(async move {
            loop {
                let remaining = deadline.saturating_since(runtime.now());
                if remaining.is_zero() {
                    return;
                }
                async_std::task::sleep(Clock::slice(remaining)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // Dropping its handle detaches the task.
        drop(async_std::task::spawn(task));
    }
}
