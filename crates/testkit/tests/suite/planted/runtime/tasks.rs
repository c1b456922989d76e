//! What is wrong with tasks, and with what wakes them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease_core::{BoxFuture, Runtime, Timestamp};

use super::{Broken, Bug};

const LATE: Duration = Duration::from_millis(100);

/// What tasks know of each other.
#[derive(Default)]
pub(super) struct Tasks {
    alive: usize,
    /// The end of the one that was spawned last, and of the handler.
    before: Option<Receiver<()>>,
    handler_before: Option<Receiver<()>>,
    not_started: Option<BoxFuture<'static, ()>>,
    ended: Option<BoxFuture<'static, ()>>,
    waiting: Option<(Sender<()>, Receiver<()>)>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<About>>> = const { RefCell::new(None) };
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// One task.
pub(super) struct About {
    pub(super) since: Timestamp,
    sleeps: Mutex<Vec<Arc<AtomicBool>>>,
    is_polled: AtomicBool,
    /// Closed when it has ended.
    end: (Sender<()>, Receiver<()>),
}

impl About {
    /// The sleep is forgotten when the task has ended.
    pub(super) fn made(&self, is_forgotten: Arc<AtomicBool>) {
        let sleeps = &mut *self.sleeps.lock().unwrap_or_else(PoisonError::into_inner);
        sleeps.push(is_forgotten);
    }

    fn ends(&self) {
        self.end.0.close();
        let sleeps = &mut *self.sleeps.lock().unwrap_or_else(PoisonError::into_inner);
        for is_forgotten in mem::take(sleeps) {
            is_forgotten.store(true, Ordering::Relaxed);
        }
    }
}

/// The task that runs on this thread.
pub(super) fn current() -> Option<Arc<About>> {
    CURRENT.with_borrow(Clone::clone)
}

pub(super) fn is_dropping() -> bool {
    DROPPING.get()
}

/// What an earlier run that panicked has left.
pub(super) fn forget_all() {
    CURRENT.set(None);
    DROPPING.set(false);
}

struct Task {
    runtime: Broken,
    about: Arc<About>,
    future: Option<BoxFuture<'static, ()>>,
    polls: u32,
}

impl Broken {
    pub(super) fn start(&self, task: BoxFuture<'static, ()>) {
        let (mut task, about) = self.task(task);
        let sim = self.sim().clone();
        match self.inner.bug {
            Some(Bug::SpawnDoesNothing) => return,
            Some(Bug::SpawnOnThreadsIsLost) if self.is_elsewhere() => return,
            Some(Bug::SpawnInADropIsLost) if is_dropping() => return,
            Some(Bug::SpawnPollsAtOnce) => {
                let nobody = &mut Context::from_waker(Waker::noop());
                if task.as_mut().poll(nobody).is_ready() {
                    return;
                }
            }
            Some(Bug::TaskStartsLate) => {
                let begin = sim.sleep_until(sim.now() + LATE);
                task = after(begin, task);
            }
            Some(Bug::TaskStartsWithTheNext) => {
                let tasks = &mut self.state().tasks;
                let Some(before) = tasks.not_started.replace(task) else {
                    return;
                };
                task = before;
            }
            Some(Bug::TaskIsDroppedAfterASecond) => {
                let end = sim.sleep_until(sim.now() + Duration::from_secs(1));
                task = Box::pin(future::or(task, end));
            }
            Some(Bug::TasksEndWithTheirParent) => task = within_its_parent(task),
            Some(Bug::TasksRunInTurn) => {
                let before = self.state().tasks.before.replace(about.end.1.clone());
                task = in_turn(before, task);
            }
            Some(Bug::TasksAreLimited) => {
                let tasks = &mut self.state().tasks;
                let (places, _) = tasks
                    .waiting
                    .get_or_insert_with(|| async_channel::bounded(1_000));
                let places = places.clone();
                let place = async move {
                    let _ = places.send(()).await;
                };
                task = after(Box::pin(place), task);
            }
            Some(Bug::TasksAreDroppedBeyond) if self.state().tasks.alive > 2_000 => return,
            _ => {}
        }
        self.state().tasks.alive += 1;
        sim.spawn(task);
    }

    pub(super) fn start_handler(&self, handler: BoxFuture<'static, ()>) {
        match self.inner.bug {
            Some(Bug::HandlersDoNotRun) => {}
            Some(Bug::HandlersRunInTurn) => {
                let (task, about) = self.task(handler);
                let end = about.end.1.clone();
                let before = self.state().tasks.handler_before.replace(end);
                self.sim().spawn(in_turn(before, task));
            }
            Some(Bug::HandlersEndWithTheirParent) => self.start(within_its_parent(handler)),
            _ => self.start(handler),
        }
    }

    fn task(&self, future: BoxFuture<'static, ()>) -> (BoxFuture<'static, ()>, Arc<About>) {
        let about = Arc::new(About {
            since: self.sim().now(),
            sleeps: Mutex::default(),
            is_polled: AtomicBool::new(false),
            end: async_channel::bounded(1),
        });
        let task = Task {
            runtime: self.clone(),
            about: about.clone(),
            future: Some(future),
            polls: 0,
        };
        (Box::pin(task), about)
    }

    fn end(&self, future: BoxFuture<'static, ()>) {
        // Not dropped while that is locked: what it holds may call the runtime.
        let dropped = {
            let tasks = &mut self.state().tasks;
            tasks.alive = tasks.alive.saturating_sub(1);
            if let Some((_, places)) = &tasks.waiting {
                let _ = places.try_recv();
            }
            match self.inner.bug {
                Some(Bug::TaskIsNeverDropped) => {
                    mem::forget(future);
                    None
                }
                Some(Bug::TaskIsDroppedLate) => tasks.ended.replace(future),
                _ => Some(future),
            }
        };
        DROPPING.set(true);
        drop(dropped);
        DROPPING.set(false);
    }
}

fn after(begin: BoxFuture<'static, ()>, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        begin.await;
        task.await;
    })
}

fn in_turn(before: Option<Receiver<()>>, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Some(before) = before {
            let _ = before.recv().await;
        }
        task.await;
    })
}

fn within_its_parent(task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    let Some(parent) = current() else {
        return task;
    };
    Box::pin(future::or(task, async move {
        let _ = parent.end.1.recv().await;
    }))
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let runtime = this.runtime.clone();
        let future = this.future.as_mut().expect("it has not ended");
        let wakes = Arc::new(Wakes {
            runtime: runtime.clone(),
            about: this.about.clone(),
            waker: cx.waker().clone(),
            is_woken: AtomicBool::new(false),
        });
        let waker = Waker::from(wakes.clone());
        let around = CURRENT.replace(Some(this.about.clone()));
        this.about.is_polled.store(true, Ordering::Relaxed);
        let polled = loop {
            wakes.is_woken.store(false, Ordering::Relaxed);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            let is_woken = wakes.is_woken.load(Ordering::Relaxed);
            match runtime.inner.bug {
                Some(Bug::BusyTaskStarvesOthers) if polled.is_pending() && is_woken => {}
                Some(Bug::TaskIsPolledAfterItsEnd) if polled.is_ready() && is_woken => {
                    let _ = future.as_mut().poll(&mut Context::from_waker(&waker));
                    break polled;
                }
                _ => break polled,
            }
        };
        this.about.is_polled.store(false, Ordering::Relaxed);
        CURRENT.set(around);
        this.polls += 1;
        match runtime.inner.bug {
            Some(Bug::TaskIsPolledForNothing) if this.polls < 4 && polled.is_pending() => {
                cx.waker().wake_by_ref();
                return polled;
            }
            Some(Bug::TaskIsDroppedWhenItWaits) => {}
            _ if polled.is_pending() => return polled,
            _ => {}
        }
        this.about.ends();
        if let Some(future) = this.future.take() {
            runtime.end(future);
        }
        Poll::Ready(())
    }
}

/// The waker that a task is given.
struct Wakes {
    runtime: Broken,
    about: Arc<About>,
    waker: Waker,
    is_woken: AtomicBool,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Relaxed);
        let has_ended = self.about.end.0.is_closed();
        match self.runtime.inner.bug {
            Some(Bug::WakesInAPollAreLost) if self.about.is_polled.load(Ordering::Relaxed) => {}
            Some(Bug::WakesFromThreadsAreLost) if self.runtime.is_elsewhere() => {}
            Some(Bug::WakesAreLate) => {
                let (sim, waker) = (self.runtime.sim(), self.waker.clone());
                let then = sim.sleep_until(sim.now() + LATE);
                sim.spawn(Box::pin(async move {
                    then.await;
                    waker.wake();
                }));
            }
            Some(Bug::WakeAfterTheEndPanics) => {
                assert!(!has_ended, "nobody is there to be woken");
                self.waker.wake_by_ref();
            }
            _ => self.waker.wake_by_ref(),
        }
    }
}
