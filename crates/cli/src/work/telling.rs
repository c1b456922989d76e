//! Telling of streams before they are worked on, also where nobody listens for a while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_lite::future;
use streamlease::{Runtime, Timestamp};

use super::intake::Intake;
use crate::output::Events;
use crate::runtime::AnyRuntime;

/// Lines that are to be taken by standard output before anything else happens.
#[derive(Debug)]
pub(super) struct Telling {
    output: Events,
    intake: Arc<Intake>,
    runtime: AnyRuntime,
    /// So long a stream that is held waits to be told of.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: usize,
    /// Since when nothing was taken of what waits.
    since: Timestamp,
    /// Nothing was taken for too long.
    stuck: bool,
}

/// Who waits for its line to be taken.
struct Waiting<'a>(&'a Telling);

impl Telling {
    pub(super) fn new(
        output: Events,
        intake: Arc<Intake>,
        runtime: AnyRuntime,
        patience: Duration,
    ) -> Arc<Self> {
        let state = State {
            waiting: 0,
            since: runtime.now(),
            stuck: false,
        };
        Arc::new(Self {
            output,
            intake,
            runtime,
            patience,
            state: Mutex::new(state),
        })
    }

    /// Whether the line was taken. If standard output takes nothing for a while it is not,
    /// and until it takes something again no further streams are.
    pub(super) async fn tell(self: &Arc<Self>, line: &str) -> bool {
        let _waiting = Waiting::new(self);
        let taken = async {
            self.output.print_line(line).await;
            self.lock().since = self.runtime.now();
            true
        };
        let stuck = async {
            self.stuck().await;
            self.take_nothing_more();
            false
        };
        future::or(taken, stuck).await
    }

    /// The same, however long it takes.
    pub(super) async fn tell_surely(self: &Arc<Self>, line: &str) {
        if !self.tell(line).await {
            self.output.print_line(line).await;
        }
    }

    async fn stuck(&self) {
        loop {
            let due = {
                let state = self.lock();
                if state.stuck {
                    return;
                }
                state.since + self.patience
            };
            if self.runtime.now() >= due {
                return;
            }
            self.runtime.sleep_until(due).await;
        }
    }

    fn take_nothing_more(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().stuck, true) {
            return;
        }
        log::warn!(
            "standard output takes nothing: no further streams are taken, and \
             what is not told of goes back"
        );
        self.intake.cannot_tell();
        let telling = self.clone();
        self.runtime.start(async move {
            telling.output.has_room(&telling.runtime).await;
            {
                let mut state = telling.lock();
                state.stuck = false;
                state.since = telling.runtime.now();
            }
            log::warn!("standard output is read again");
            telling.intake.told();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Waiting<'a> {
    fn new(telling: &'a Telling) -> Self {
        let mut state = telling.lock();
        if state.waiting == 0 {
            state.since = telling.runtime.now();
        }
        state.waiting += 1;
        drop(state);
        Self(telling)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
