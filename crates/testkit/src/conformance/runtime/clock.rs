//! What the clock shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamlease_core::{Runtime, Timestamp};

use super::super::behaviours;
use super::super::support::pass;
use super::{LONG, SHORT, TRIES, run};

behaviours!($ runtime_clock!, runtime: (), [
    the_clock_never_goes_back,
    the_clock_goes_on_while_sleeping,
    all_tasks_share_one_clock,
    the_clock_keeps_pace_with_time,
    the_time_suspended_is_part_of_the_clock_and_never_goes_back,
    a_machine_that_runs_is_not_said_to_be_suspended,
]);

/// `now` never goes back, whoever reads it.
pub async fn the_clock_never_goes_back(runtime: Arc<dyn Runtime>, (): ()) {
    let mut last = runtime.now();
    let step = Duration::from_millis(10);
    // Not until the clock shows an end, which one that stands never does.
    for _ in 0..LONG.as_millis() / step.as_millis() {
        for _ in 0..10 {
            let now = runtime.now();
            assert!(now >= last, "{now:?} after {last:?}");
            last = now;
        }
        pass(&*runtime, step).await;
    }
}

/// Time passes on the clock while one sleeps.
pub async fn the_clock_goes_on_while_sleeping(runtime: Arc<dyn Runtime>, (): ()) {
    let before = runtime.now();
    pass(&*runtime, SHORT).await;
    assert!(runtime.now() >= before + SHORT);
}

/// A spawned task reads the same clock as the task that spawned it.
pub async fn all_tasks_share_one_clock(runtime: Arc<dyn Runtime>, (): ()) {
    // A clock that begins with its task is another one by then.
    pass(&*runtime, SHORT).await;
    let before = runtime.now();
    let in_task = run(&runtime, {
        let runtime = runtime.clone();
        async move { runtime.now() }
    })
    .await;
    let after = runtime.now();
    assert!(
        before <= in_task && in_task <= after,
        "{before:?}, in a task {in_task:?}, {after:?}"
    );
}

/// It counts all the time that passes, whether or not anything runs, and not much more. Says
/// nothing of a runtime whose time is virtual: the same time costs the machine less than a third.
pub async fn the_clock_keeps_pace_with_time(runtime: Arc<dyn Runtime>, (): ()) {
    let asleep = Span::begin(&*runtime);
    for _ in 0..10 {
        let span = Span::begin(&*runtime);
        pass(&*runtime, Duration::from_millis(50)).await;
        let span = span.end(&*runtime);
        if span.most * 3 < span.counted {
            println!("skipped: its time is virtual");
            return;
        }
    }
    asleep.end(&*runtime).check("while sleeping");
    let blocked = Span::begin(&*runtime);
    std::thread::sleep(Duration::from_millis(300));
    blocked.end(&*runtime).check("while nothing runs");
}

/// `suspended` grows only, whoever reads it, and not beyond what the clock has counted meanwhile.
pub async fn the_time_suspended_is_part_of_the_clock_and_never_goes_back(
    runtime: Arc<dyn Runtime>,
    (): (),
) {
    // Read around the clock, so that a suspension in between is on both.
    let (clock_before, suspended_before) = (runtime.now(), runtime.suspended());
    let mut last = suspended_before;
    for _ in 0..10 {
        pass(&*runtime, Duration::from_millis(1)).await;
        let (in_task, in_thread) = (runtime.clone(), runtime.clone());
        let in_task = run(&runtime, async move { in_task.suspended() }).await;
        let in_thread = std::thread::spawn(move || in_thread.suspended());
        let in_thread = in_thread.join().expect("it panics on a foreign thread");
        for suspended in [in_task, in_thread, runtime.suspended()] {
            assert!(suspended >= last, "{suspended:?} after {last:?}");
            last = suspended;
        }
    }
    let counted = runtime.now().saturating_since(clock_before);
    let suspended = last - suspended_before;
    assert!(
        suspended <= counted,
        "suspended for {suspended:?} within {counted:?}"
    );
}

/// Who takes time for suspended that was not, takes a handler that blocks its process for innocent.
pub async fn a_machine_that_runs_is_not_said_to_be_suspended(runtime: Arc<dyn Runtime>, (): ()) {
    // A machine that is suspended in between is not so in each of them.
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let before = runtime.suspended();
        pass(&*runtime, SHORT).await;
        least = least.min(runtime.suspended().saturating_sub(before));
        if least <= SHORT / 10 {
            return;
        }
    }
    panic!("suspended for {least:?} at least in each of {TRIES} spans of {SHORT:?}");
}

/// What the runtime's clock has counted between two moments, and what the machine's has.
struct Span {
    since: Timestamp,
    suspended: Duration,
    before: Instant,
    after: Instant,
}

struct Measured {
    counted: Duration,
    suspended: Duration,
    /// That much has passed at least, whenever the two clocks were read.
    least: Duration,
    most: Duration,
}

impl Span {
    fn begin(runtime: &dyn Runtime) -> Self {
        let suspended = runtime.suspended();
        let before = Instant::now();
        let since = runtime.now();
        let after = Instant::now();
        Self {
            since,
            suspended,
            before,
            after,
        }
    }

    fn end(&self, runtime: &dyn Runtime) -> Measured {
        let least = self.after.elapsed();
        let counted = runtime.now().saturating_since(self.since);
        let most = self.before.elapsed();
        Measured {
            counted,
            suspended: runtime.suspended().saturating_sub(self.suspended),
            least,
            most,
        }
    }
}

impl Measured {
    /// As far as a clock may drift within a TTL, and a coarse one be behind.
    fn check(&self, when: &str) {
        let Self {
            counted,
            suspended,
            least,
            most,
        } = *self;
        let off = |time: Duration| time * 3 / 100 + Duration::from_millis(20);
        assert!(
            counted + off(least) >= least,
            "{when}: the clock counts {counted:?} of {least:?}"
        );
        assert!(
            counted <= most + off(most) + suspended,
            "{when}: the clock counts {counted:?} within {most:?}"
        );
    }
}
