//! What is wrong with sleeps.

use std::collections::BTreeMap;
use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use streamlease_core::{BoxFuture, Runtime, Timestamp};

use super::{Broken, Bug, tasks};

const SLICE: Duration = Duration::from_millis(500);

/// What sleeps know of each other.
#[derive(Default)]
pub(super) struct Timers {
    last: u64,
    /// Those that have not ended, by number: until when, and whether they are forgotten.
    all: BTreeMap<u64, (Timestamp, Arc<AtomicBool>)>,
}

struct Sleep {
    runtime: Broken,
    number: u64,
    deadline: Timestamp,
    /// What is slept in truth; made at the first poll.
    inner: Option<BoxFuture<'static, ()>>,
    /// For how long it was to be when it was made.
    remaining: Duration,
    waker: Option<Waker>,
    polled: u32,
    is_forgotten: Arc<AtomicBool>,
    is_over: bool,
}

impl Broken {
    pub(super) fn sleep(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let now = self.read_clock();
        let remaining = deadline.saturating_since(now);
        let is_past = remaining.is_zero();
        let millis = remaining.as_millis();
        let in_time = |time: Duration| now + time;
        let changed = match self.inner.bug {
            Some(Bug::SleepEndsALittleEarly) => deadline - Duration::from_millis(1),
            Some(Bug::SleepEndsHalfway) => in_time(remaining / 2),
            Some(Bug::SleepEndsAtOnce) => now,
            Some(Bug::LongSleepEndsAtTheSlice) => in_time(remaining.min(SLICE)),
            _ if is_past => deadline,
            Some(Bug::SleepIsLateByALittle) => deadline + Duration::from_millis(60),
            Some(Bug::SleepIsLate) => deadline + Duration::from_secs(1),
            Some(Bug::SleepIsLateByAFifth) => deadline + remaining / 5,
            Some(Bug::SleepIsRoundedUp) => {
                Timestamp::from_millis(deadline.since_origin().as_secs() * 1_000 + 1_000)
            }
            Some(Bug::SleepIsOfWholeSlices) => {
                in_time(Duration::from_millis((millis as u64).div_ceil(500) * 500))
            }
            Some(Bug::FarDeadlineIsSigned) if millis & (1 << 31) != 0 => now,
            Some(Bug::FarDeadlineWraps) => in_time(Duration::from_millis(u64::from(millis as u32))),
            Some(Bug::FarDeadlineWrapsIn64) => {
                in_time(Duration::from_nanos(remaining.as_nanos() as u64))
            }
            Some(Bug::DeadlineAtTheEndComes) if deadline >= Timestamp::MAX => now,
            _ => deadline,
        };
        let never = match self.inner.bug {
            Some(Bug::SleepNeverEnds) => !is_past,
            Some(Bug::LongSleepNeverEnds) => {
                remaining > Duration::from_secs(1) && remaining < Duration::from_secs(10)
            }
            Some(Bug::SleepIntoThePastNeverEnds) => is_past,
            Some(Bug::SleepIntoThePastPanics) => {
                assert!(!is_past, "attempt to subtract with overflow");
                false
            }
            Some(Bug::FarDeadlinePanics) => {
                assert!(remaining.as_nanos() < 1 << 63, "overflow");
                false
            }
            Some(Bug::DeadlineAtTheEndPanics) => {
                assert!(deadline != Timestamp::MAX, "overflow");
                false
            }
            _ => false,
        };
        if never {
            return Box::pin(future::pending());
        }
        if is_past && self.is(Bug::SleepIntoThePastYields) {
            return Box::pin(futures_lite::future::yield_now());
        }
        if is_past && self.is(Bug::SleepIntoThePastWaits) {
            let sim = self.sim();
            return sim.sleep_until(sim.now() + Duration::from_millis(100));
        }
        self.registered(changed, remaining)
    }

    /// Right but for what it does with others, and with who polls it.
    fn registered(&self, mut deadline: Timestamp, remaining: Duration) -> BoxFuture<'static, ()> {
        let is_forgotten = Arc::new(AtomicBool::new(false));
        let timers = &mut self.state().timers;
        timers.last += 1;
        let number = timers.last;
        match self.inner.bug {
            Some(Bug::SleepsToOneMomentAreOne) => {
                for (at, is_forgotten) in timers.all.values() {
                    is_forgotten.fetch_or(*at == deadline, Ordering::Relaxed);
                }
            }
            Some(Bug::SleepsAreInTurn) => {
                let latest = timers.all.values().map(|(at, _)| *at).max();
                deadline = deadline.max(latest.unwrap_or(deadline));
            }
            Some(Bug::SleepsAreLimited) if timers.all.len() > 1_000 => {
                is_forgotten.store(true, Ordering::Relaxed);
            }
            Some(Bug::SleepEndsWithItsTask) => {
                if let Some(task) = tasks::current() {
                    task.made(is_forgotten.clone());
                }
            }
            _ => {}
        }
        timers.all.insert(number, (deadline, is_forgotten.clone()));
        Box::pin(Sleep {
            runtime: self.clone(),
            number,
            deadline,
            inner: None,
            remaining,
            waker: None,
            polled: 0,
            is_forgotten,
            is_over: false,
        })
    }

    /// By this runtime's clock, which may not be that of the simulation. A clock that goes back, or
    /// does not go, is not that of the timers.
    async fn sleep_rightly(self, deadline: Timestamp) {
        loop {
            if let Some(began) = self.inner.began {
                if self.is(Bug::ClockIsOfTheLastWake) {
                    self.state().last = began.elapsed();
                }
                if self.read_clock() >= deadline {
                    return;
                }
                std::thread::sleep(Duration::from_micros(200));
                futures_lite::future::yield_now().await;
                continue;
            }
            let remaining = deadline.saturating_since(self.read_clock());
            if remaining.is_zero() {
                return;
            }
            self.sim().sleep_until(self.sim().now() + remaining).await;
            if matches!(self.inner.bug, Some(Bug::ClockStands | Bug::ClockIsSetBack)) {
                return;
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let runtime = this.runtime.clone();
        runtime.fails_on_threads(Bug::SleepPollPanicsOnThreads);
        this.polled += 1;
        if runtime.is(Bug::SleepHoldsUpAll) {
            let left = this.deadline.saturating_since(runtime.sim().now());
            runtime.sim().advance(left);
        }
        if runtime.is(Bug::SleepBeginsWhenPolled) && this.polled == 1 {
            this.deadline = runtime.now() + this.remaining;
        }
        if runtime.is(Bug::SleepForgetsItsWaker) && this.polled == 2 {
            this.is_forgotten
                .store(runtime.now() < this.deadline, Ordering::Relaxed);
        }
        let deadline = this.deadline;
        let inner = this
            .inner
            .get_or_insert_with(|| Box::pin(runtime.clone().sleep_rightly(deadline)));
        let waker = match runtime.inner.bug {
            Some(Bug::SleepIsNeverWoken) => Waker::noop().clone(),
            Some(Bug::SleepKeepsItsFirstWaker) => {
                let first = this.waker.get_or_insert_with(|| cx.waker().clone());
                first.clone()
            }
            _ => cx.waker().clone(),
        };
        let waker = Waker::from(Arc::new(Remembered {
            waker,
            is_forgotten: this.is_forgotten.clone(),
        }));
        let polled = inner.as_mut().poll(&mut Context::from_waker(&waker));
        this.is_over = polled.is_ready();
        polled
    }
}

/// The waker of a sleep that may be forgotten before its end.
struct Remembered {
    waker: Waker,
    is_forgotten: Arc<AtomicBool>,
}

impl Wake for Remembered {
    fn wake(self: Arc<Self>) {
        if !self.is_forgotten.load(Ordering::Relaxed) {
            self.waker.wake_by_ref();
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let runtime = self.runtime.clone();
        runtime.state().timers.all.remove(&self.number);
        if self.is_over || std::thread::panicking() {
            return;
        }
        runtime.fails_on_threads(Bug::SleepDropPanicsOnThreads);
        match runtime.inner.bug {
            Some(Bug::DroppedSleepTakesOthers) => {
                for (at, is_forgotten) in runtime.state().timers.all.values() {
                    is_forgotten.fetch_or(*at == self.deadline, Ordering::Relaxed);
                }
            }
            Some(Bug::DroppedSleepHoldsUp) => {
                let left = self.deadline.saturating_since(runtime.sim().now());
                runtime.sim().advance(left.min(Duration::from_secs(3_600)));
            }
            Some(Bug::DroppedSleepGoesOn) => {
                if let Some(inner) = self.inner.take() {
                    std::mem::forget(inner);
                }
            }
            _ => {}
        }
    }
}
