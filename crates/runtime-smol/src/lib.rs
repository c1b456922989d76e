//! [`SmolRuntime`]: streamlease on [smol](https://docs.rs/smol).

use std::time::Duration;

use streamlease_clock::Clock;
use streamlease_core::{BoxFuture, Runtime, Timestamp};

/// smol's global executor. It needs no set-up and runs from anywhere, on one
/// thread unless the environment variable `SMOL_THREADS` says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct SmolRuntime {
    clock: Clock,
}

impl SmolRuntime {
    /// The global executor.
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
        }
    }
}

impl Runtime for SmolRuntime {
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
                smol::Timer::after(Clock::slice(remaining)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        smol::spawn(task).detach();
    }
}
