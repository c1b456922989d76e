//! Starting programs where that fails: fewer at once, tries ever further apart, one warning.
//!
//! It fails for want of processes, memory or descriptors, which others free; or because
//! there is nothing to execute any more. Neither is the streams' fault. So whoever has
//! a stream waits here for its turn, for a while, and no more streams are taken than
//! there are programs. The next try comes when a program has ended, or after a rest.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use streamlease::{Runtime, Timestamp};

use crate::runtime::AnyRuntime;
use crate::work::Intake;

/// Until the next try, doubling up to the other.
const REST_FIRST: Duration = Duration::from_millis(100);
const REST_LAST: Duration = Duration::from_secs(30);

/// After so long without a failure, any number may be started again.
const FORGOTTEN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Starts {
    intake: Arc<Intake>,
    runtime: AnyRuntime,
    state: Mutex<State>,
    /// Each is leave to try once.
    turns: (Sender<()>, Receiver<()>),
}

#[derive(Debug)]
struct State {
    running: usize,
    waiting: usize,
    /// When it failed last, not long ago.
    failed: Option<Timestamp>,
    rest: Duration,
}

/// A program that runs. Dropped, it has ended.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Starts);

/// Who waits for its turn, and whether it came.
struct Waiting<'a>(&'a Starts, bool);

impl Starts {
    pub(crate) fn new(intake: Arc<Intake>, runtime: AnyRuntime) -> Arc<Self> {
        Arc::new(Self {
            intake,
            runtime,
            state: Mutex::new(State {
                running: 0,
                waiting: 0,
                failed: None,
                rest: REST_FIRST,
            }),
            turns: async_channel::unbounded(),
        })
    }

    /// Resolves when a program may be started: at once, unless that failed lately.
    pub(super) async fn turn(&self) {
        let mut waiting = {
            let mut state = self.lock();
            if state.failed.is_none() {
                return;
            }
            state.waiting += 1;
            Waiting(self, false)
        };
        // Both ends are kept here.
        let _ = self.turns.1.recv().await;
        waiting.1 = true;
    }

    pub(super) fn succeeded(&self) -> Running<'_> {
        let mut state = self.lock();
        state.running += 1;
        if let Some(failed) = state.failed {
            state.rest = REST_FIRST;
            let now = self.runtime.now();
            if now.saturating_since(failed) >= FORGOTTEN && state.waiting == 0 {
                self.forget(&mut state);
            } else {
                self.one_more(&state);
            }
        }
        Running(self)
    }

    /// Why it failed is logged if that was not expected.
    pub(super) fn failed(self: &Arc<Self>, err: &io::Error) {
        let mut state = self.lock();
        let before = state.failed.replace(self.runtime.now());
        self.intake.limit_programs(Some(state.running));
        if before.is_some() {
            log::debug!("a program cannot be started: {err}");
            return;
        }
        log::warn!(
            "a program cannot be started: {err}; {} run, and until more can be started no \
             further streams are taken",
            state.running
        );
        state.rest = REST_FIRST;
        drop(state);
        self.runtime.start(tries(Arc::downgrade(self)));
    }

    fn one_more(&self, state: &State) {
        if state.waiting == 0 {
            self.intake.limit_programs(Some(state.running + 1));
        }
        // Who comes has its turn already.
        if self.turns.0.len() < state.waiting.max(1) {
            let _ = self.turns.0.try_send(());
        }
    }

    fn forget(&self, state: &mut State) {
        log::info!("programs can be started again");
        state.failed = None;
        self.intake.limit_programs(None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has somebody try now and then, as long as a failure is remembered.
async fn tries(starts: Weak<Starts>) {
    let mut slept = Duration::ZERO;
    while let Some(runtime) = starts.upgrade().map(|starts| starts.runtime.clone()) {
        runtime.sleep(REST_FIRST).await;
        slept += REST_FIRST;
        let Some(starts) = starts.upgrade() else {
            return;
        };
        let mut state = starts.lock();
        if state.failed.is_none() {
            return;
        }
        // A success meanwhile has made it short again.
        if slept >= state.rest {
            slept = Duration::ZERO;
            state.rest = (state.rest * 2).min(REST_LAST);
            starts.one_more(&state);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        if state.failed.is_some() && state.waiting > 0 {
            self.0.one_more(&state);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        if !self.1 && state.failed.is_some() {
            // It goes back, and others shall not come in its place.
            self.0.intake.limit_programs(Some(state.running));
        }
    }
}
