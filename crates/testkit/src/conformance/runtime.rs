//! The suite for [`Runtime`]. It needs no service: run its behaviours with `()`.

mod clock;
mod sleeps;
mod tasks;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::Runtime;

use super::suite;
use super::support::{PATIENCE, within};

pub use clock::*;
pub use sleeps::*;
pub use tasks::*;
pub use threads::*;

suite!($ runtime_conformance!, runtime: (), [
    clock: runtime_clock!,
    sleeps: runtime_sleeps!,
    tasks: runtime_tasks!,
    threads: runtime_threads!,
]);

const SHORT: Duration = Duration::from_millis(30);

/// Longer than a runtime sleeps at a time, if it looks at the clock in between.
const LONG: Duration = Duration::from_millis(1_300);

/// The least margin (R1): what is late by more has somebody own too long.
const PROMPT: Duration = Duration::from_millis(50);

/// How often what must be prompt is tried until it was. On a busy machine anything is late at
/// times.
const TRIES: usize = 20;

/// Spawns `future` and awaits its output.
async fn run<T: Send + 'static>(
    runtime: &Arc<dyn Runtime>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (send, receive) = async_channel::bounded(1);
    runtime.spawn(Box::pin(async move {
        let _ = send.send(future.await).await;
    }));
    within(&**runtime, "a spawned task", PATIENCE, receive.recv())
        .await
        .expect("the task ran to its end")
}

/// The least of how late something was, in some tries.
struct Least {
    what: &'static str,
    late: Duration,
    tries: usize,
}

impl Least {
    fn of(what: &'static str) -> Self {
        Self {
            what,
            late: Duration::MAX,
            tries: 0,
        }
    }

    /// Whether to try again; panics when that was done often enough.
    fn is_too_long(&self) -> bool {
        let is_too_long = self.late >= PROMPT;
        assert!(
            !is_too_long || self.tries < TRIES,
            "{}: late by {:?} at least in {TRIES} tries",
            self.what,
            self.late
        );
        is_too_long
    }

    fn measured(&mut self, late: Duration) {
        self.late = self.late.min(late);
        self.tries += 1;
    }
}
