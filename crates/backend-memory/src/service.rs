//! [`Service`]: one service's state, and the one way to it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use streamlease_core::limits::REPEATABLE;
use streamlease_core::{Error, ErrorKind, FencingToken, Hint, Runtime, Timestamp};

use crate::key_lock::Keys;
use crate::lbs::Lbs;
use crate::locks::SessionTable;
use crate::notifier::Subscribers;
use crate::transport::Waiters;

/// How long the ids of past batches and sessions are remembered, so that late
/// repeats do nothing: twice what the contract of `Transport` asks for.
pub(crate) const REMEMBERED: Duration = REPEATABLE.saturating_mul(2);

pub(crate) struct Service {
    pub(crate) runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) lbs: Lbs,
    pub(crate) waiters: Waiters,
    pub(crate) sessions: SessionTable,
    pub(crate) keys: Keys,
    pub(crate) tokens: Tokens,
    pub(crate) subscribers: Subscribers,
}

impl Service {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            state: Mutex::default(),
        }
    }

    /// One atomic step on the state, at the given time of the server's clock.
    pub(crate) fn step<R>(&self, step: impl FnOnce(&mut State, Timestamp) -> R) -> R {
        let (result, woken) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // Read under the mutex: with a time read before it, a heartbeat that had
            // to wait for the mutex could revive a session found dead meanwhile.
            let now = self.runtime.now();
            let result = step(&mut state, now);
            (result, state.take_woken())
        };
        // Outside of the mutex: what a waker does is the executor's business.
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    /// Publishes a hint; call it in the step that makes the change it tells of.
    pub(crate) fn publish(&mut self, hint: Hint) {
        self.subscribers.publish(hint);
    }

    /// Gives waiting fetches what there is for them; call it wherever entries were added.
    pub(crate) fn serve_fetches(&mut self, now: Timestamp) {
        self.waiters.serve(&mut self.lbs, now);
    }

    pub(crate) fn wipe(&mut self) {
        self.waiters.fail();
        self.lbs = Lbs::default();
        self.sessions = SessionTable::default();
        self.keys = Keys::default();
        self.tokens = Tokens::default();
        self.publish(Hint::MayHaveMissed);
    }

    pub(crate) fn destroy_group(&mut self) {
        self.waiters.fail();
        self.lbs.destroy_group();
    }

    fn take_woken(&mut self) -> Vec<Waker> {
        let mut woken = self.waiters.take_woken();
        woken.append(&mut self.subscribers.take_woken());
        woken
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// The counter that all tokens of a service come from (R5).
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    last: u64,
}

impl Tokens {
    /// A token greater than every one before and than `floor`. It follows the
    /// clock, so that it grows even where the counter was lost.
    pub(crate) fn mint(&mut self, floor: u64, now: Timestamp) -> FencingToken {
        let micros = now.as_nanos() / 1_000;
        self.last = self
            .last
            .saturating_add(1)
            .max(micros)
            .max(floor.saturating_add(1));
        FencingToken(self.last)
    }
}

pub(crate) fn not_prepared() -> Error {
    Error::new(
        ErrorKind::NotPrepared,
        "the service has no consumer group; prepare it first",
    )
}
