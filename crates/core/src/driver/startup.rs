//! [`Startup`]: whether the client has started, for everybody who waits for it.

use std::sync::{Arc, OnceLock};

use event_listener::Event;

use crate::Result;
use crate::machine::closed;

/// How the client's start ended, once it has.
#[derive(Debug, Default)]
pub(crate) struct Startup {
    ended: OnceLock<Result<()>>,
    told: Event,
}

impl Startup {
    /// Resolves when it is known. Cancel-safe.
    pub(crate) async fn outcome(&self) -> Result<()> {
        loop {
            let listener = self.told.listen();
            if let Some(outcome) = self.ended.get() {
                return outcome.clone();
            }
            listener.await;
        }
    }
}

/// The driver's end of it. Only what is told first counts.
#[derive(Debug)]
pub(crate) struct ReportStart(pub(crate) Arc<Startup>);

impl ReportStart {
    pub(crate) fn is_told(&self) -> bool {
        self.0.ended.get().is_some()
    }

    pub(crate) fn tell(&self, outcome: Result<()>) {
        if self.0.ended.set(outcome).is_ok() {
            self.0.told.notify(usize::MAX);
        }
    }
}

/// Executors drop a task that panics, and all tasks when they end themselves.
impl Drop for ReportStart {
    fn drop(&mut self) {
        self.tell(Err(closed()));
    }
}
