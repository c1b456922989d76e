//! [`Process`]: a runtime of which all tasks can be killed or frozen, so that a
//! consumer inside the test's own process can die or stall on any executor.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use streamlease_core::{BoxFuture, Runtime, Timestamp};

/// A part of a runtime that dies, freezes and is counted by itself. Clones are the same one.
#[derive(Clone)]
pub struct Process {
    base: Arc<dyn Runtime>,
    tasks: Arc<Mutex<Tasks>>,
}

#[derive(Default)]
struct Tasks {
    mode: Mode,
    last: u64,
    running: BTreeMap<u64, Arc<Mutex<Task>>>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Mode {
    #[default]
    Running,
    Frozen,
    Dead,
}

/// Locked while it is polled, so that whoever kills or freezes it waits for that.
struct Task {
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

/// What the base runtime sees of a task.
struct Gate {
    id: u64,
    task: Arc<Mutex<Task>>,
    tasks: Arc<Mutex<Tasks>>,
}

impl Process {
    pub fn new(base: Arc<dyn Runtime>) -> Self {
        Self {
            base,
            tasks: Arc::default(),
        }
    }

    /// Ends it as `kill -9` does: once this returns, its tasks are gone.
    pub fn kill(&self) {
        let running = self.enter(Mode::Dead);
        for task in running {
            let future = lock(&task).future.take();
            drop(future);
            wake(&task);
        }
    }

    /// Stops it as `SIGSTOP` does: once this returns, none of its tasks runs.
    pub fn freeze(&self) {
        for task in self.enter(Mode::Frozen) {
            drop(lock(&task));
        }
    }

    /// Lets a frozen one go on (`SIGCONT`).
    pub fn thaw(&self) {
        for task in self.enter(Mode::Running) {
            wake(&task);
        }
    }

    /// How many tasks were spawned and have not ended.
    pub fn tasks(&self) -> usize {
        lock(&self.tasks).running.len()
    }

    fn enter(&self, mode: Mode) -> Vec<Arc<Mutex<Task>>> {
        let mut tasks = lock(&self.tasks);
        tasks.mode = mode;
        tasks.running.values().cloned().collect()
    }
}

impl Runtime for Process {
    fn now(&self) -> Timestamp {
        self.base.now()
    }

    fn suspended(&self) -> Duration {
        self.base.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.base.sleep_until(deadline)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let task = Arc::new(Mutex::new(Task {
            future: Some(future),
            waker: Waker::noop().clone(),
        }));
        let id = {
            let mut tasks = lock(&self.tasks);
            if tasks.mode == Mode::Dead {
                return;
            }
            tasks.last += 1;
            let id = tasks.last;
            tasks.running.insert(id, task.clone());
            id
        };
        let tasks = self.tasks.clone();
        self.base.spawn(Box::pin(Gate { id, task, tasks }));
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("tasks", &self.tasks())
            .finish_non_exhaustive()
    }
}

impl Future for Gate {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut task = lock(&self.task);
        task.waker.clone_from(cx.waker());
        let mode = lock(&self.tasks).mode;
        let Some(future) = &mut task.future else {
            return Poll::Ready(());
        };
        match mode {
            Mode::Dead => return Poll::Ready(()),
            Mode::Frozen => return Poll::Pending,
            Mode::Running => {}
        }
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            task.future = None;
        }
        polled
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let task = lock(&self.tasks).running.remove(&self.id);
        drop(task);
    }
}

fn wake(task: &Mutex<Task>) {
    let waker = lock(task).waker.clone();
    waker.wake();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a task fails the test by what it then does not do.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
