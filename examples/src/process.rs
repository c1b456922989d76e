//! [`Process`]: a runtime whose tasks can be killed or stopped, all at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use streamlease::spi::BoxFuture;
use streamlease::{Runtime, Timestamp};

/// A [`Runtime`] that runs its tasks on another one, as long as it may.
///
/// Give one to each client, and start the client's own code with
/// [`run`](Self::run): then [`kill`](Self::kill) does to them what `kill -9`
/// does to a process, and [`stop`](Self::stop) what `kill -STOP` does. Clones
/// are the same process.
#[derive(Clone)]
pub struct Process {
    inner: Arc<dyn Runtime>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Tasks run while they hold it for reading, so whoever has changed it
    /// knows that none runs any more.
    state: RwLock<State>,
    /// Who is to look at the state again when it changes.
    wakers: Mutex<Vec<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Killed,
}

impl Process {
    /// A process whose tasks run on `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        let shared = Shared {
            state: RwLock::new(State::Running),
            wakers: Mutex::default(),
        };
        Self {
            inner: runtime,
            shared: Arc::new(shared),
        }
    }

    /// Runs a task of this process.
    pub fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(Box::pin(task));
    }

    /// Drops every task where it stands. Must not be called by one of them.
    pub fn kill(&self) {
        self.shared.set(State::Killed);
    }

    /// No task runs until [`resume`](Self::resume). The clock goes on. Must not
    /// be called by one of them.
    pub fn stop(&self) {
        self.shared.set(State::Stopped);
    }

    /// The tasks go on.
    pub fn resume(&self) {
        self.shared.set(State::Running);
    }
}

impl Runtime for Process {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn suspended(&self) -> Duration {
        self.inner.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.inner.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.spawn(Box::pin(Task {
            shared: self.shared.clone(),
            task: Some(task),
        }));
    }
}

impl Shared {
    fn set(&self, state: State) {
        {
            let mut current = self.state.write().unwrap_or_else(PoisonError::into_inner);
            // The dead stay dead.
            if *current != State::Killed {
                *current = state;
            }
        }
        for waker in self.wakers().drain(..) {
            waker.wake();
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task {
    shared: Arc<Shared>,
    task: Option<BoxFuture<'static, ()>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.shared.clone();
        // Before the look at the state: a change after it then wakes this task.
        let mut wakers = shared.wakers();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        drop(wakers);
        let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
        match (*state, self.task.as_mut()) {
            (State::Running, Some(task)) => task.as_mut().poll(cx),
            (State::Stopped, Some(_)) => Poll::Pending,
            (State::Killed, _) | (_, None) => {
                self.task = None;
                Poll::Ready(())
            }
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}
