//! [`Faults`]: a backend that cannot be reached, loses replies, or holds a
//! call up, for one consumer of a world.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use streamlease_core::decorate::{Decorator, decorate};
use streamlease_core::{
    Backend, BackendProvider, Error, ErrorKind, Operation, Result, ServiceName,
};

use super::Provider;

/// Stages faults of the backend it [wraps](Faults::wrap). Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    unreachable: bool,
    failed: usize,
    lose: BTreeMap<Operation, usize>,
    lost: usize,
    hold: BTreeMap<Operation, Gate>,
    hold_replies: BTreeMap<Operation, Gate>,
}

#[derive(Debug, Clone)]
struct Gate {
    entered: Sender<()>,
    closed: Receiver<()>,
}

/// Holds calls up; dropping it lets them through.
#[derive(Debug)]
pub struct Hold {
    entered: Receiver<()>,
    _closed: Sender<()>,
}

fn gate() -> (Gate, Hold) {
    let (entered, entrances) = async_channel::unbounded();
    let (opener, closed) = async_channel::bounded(1);
    let hold = Hold {
        entered: entrances,
        _closed: opener,
    };
    (Gate { entered, closed }, hold)
}

impl Gate {
    async fn pass(&self) {
        let _ = self.entered.try_send(());
        // Nothing is ever sent: it ends when the hold is dropped.
        let _ = self.closed.recv().await;
    }
}

impl Hold {
    /// Resolves once a call has come.
    pub async fn entered(&self) {
        self.entered.recv().await.unwrap();
    }
}

impl Faults {
    pub fn wrap(&self, inner: Provider) -> Provider {
        Provider::new(FaultyProvider {
            inner,
            faults: self.clone(),
        })
    }

    /// From now on every call fails: what is under way executes, unheard.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.lock().unreachable = unreachable;
    }

    /// How many calls have failed for that reason.
    pub fn failed(&self) -> usize {
        self.lock().failed
    }

    /// The next `n` calls of `method` execute, but their replies are lost.
    pub fn lose_replies(&self, method: Operation, n: usize) {
        self.lock().lose.insert(method, n);
    }

    /// How many replies have been lost so.
    pub fn lost(&self) -> usize {
        self.lock().lost
    }

    /// Calls of `method` wait before they are sent, until the hold is dropped.
    pub fn hold(&self, method: Operation) -> Hold {
        let (gate, hold) = gate();
        self.lock().hold.insert(method, gate);
        hold
    }

    /// Calls of `method` execute, but their replies wait until the hold is dropped.
    pub fn hold_replies(&self, method: Operation) -> Hold {
        let (gate, hold) = gate();
        self.lock().hold_replies.insert(method, gate);
        hold
    }

    fn reach(&self) -> Result<()> {
        let mut state = self.lock();
        if state.unreachable {
            state.failed += 1;
            return Err(Error::new(ErrorKind::Unavailable, "cannot be reached"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct FaultyProvider {
    inner: Provider,
    faults: Faults,
}

impl Decorator for Faults {
    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.reach()?;
        let gate = self.lock().hold.get(&operation).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let reply = request.await;
        let gate = self.lock().hold_replies.get(&operation).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        self.reach()?;
        let mut state = self.lock();
        if let Some(left) = state.lose.get_mut(&operation).filter(|left| **left > 0) {
            *left -= 1;
            state.lost += 1;
            return Err(Error::new(ErrorKind::Unavailable, "the reply is lost"));
        }
        reply
    }
}

impl BackendProvider for FaultyProvider {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        Ok(decorate(self.inner.backend(service)?, self.faults.clone()))
    }
}
