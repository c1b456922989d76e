//! The suite for [`Runtime`]. It needs no service: run its behaviours with `()`.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{Runtime, Timestamp};

use super::support::{PATIENCE, pass, within};
use super::{behaviours, suite};

behaviours!($ runtime_behaviours!, runtime: (), [
    the_clock_never_goes_back,
    the_clock_goes_on_while_sleeping,
    all_tasks_share_one_clock,
    the_time_suspended_is_part_of_the_clock_and_never_goes_back,
    a_sleep_ends_at_or_after_its_deadline,
    a_sleep_into_the_past_ends_at_once,
    a_sleep_longer_than_any_slice_ends_on_time,
    sleeps_end_in_the_order_of_their_deadlines,
    a_dropped_sleep_is_cancelled,
    a_sleep_until_the_end_of_time_can_be_made_and_dropped,
    a_sleep_can_be_made_in_one_task_and_awaited_in_another,
    a_task_starts_at_once_and_runs_to_its_end_detached,
    a_task_is_dropped_when_it_has_ended,
    tasks_run_side_by_side,
    a_task_can_spawn_tasks,
    many_tasks_all_run,
    every_method_works_from_a_thread_of_the_users,
]);

suite!($ runtime_conformance!, runtime: (), [self: runtime_behaviours!]);

const SHORT: Duration = Duration::from_millis(30);

/// `now` never goes back, whoever reads it.
pub async fn the_clock_never_goes_back(runtime: Arc<dyn Runtime>, (): ()) {
    let mut last = runtime.now();
    for round in 0..1_000 {
        if round % 100 == 0 {
            pass(&*runtime, Duration::from_millis(1)).await;
        }
        let now = runtime.now();
        assert!(now >= last, "{now:?} after {last:?}");
        last = now;
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

/// `suspended` grows only, and not beyond what the clock has counted meanwhile.
pub async fn the_time_suspended_is_part_of_the_clock_and_never_goes_back(
    runtime: Arc<dyn Runtime>,
    (): (),
) {
    // Read around the clock, so that a suspension in between is on both.
    let (clock_before, suspended_before) = (runtime.now(), runtime.suspended());
    let mut last = suspended_before;
    for _ in 0..10 {
        pass(&*runtime, Duration::from_millis(1)).await;
        let suspended = runtime.suspended();
        assert!(suspended >= last, "{suspended:?} after {last:?}");
        last = suspended;
    }
    let counted = runtime.now().saturating_since(clock_before);
    let suspended = last - suspended_before;
    assert!(
        suspended <= counted,
        "suspended for {suspended:?} within {counted:?}"
    );
}

/// A sleep never ends early, and not absurdly late.
pub async fn a_sleep_ends_at_or_after_its_deadline(runtime: Arc<dyn Runtime>, (): ()) {
    for ms in [1, 7, 40] {
        let deadline = runtime.now() + Duration::from_millis(ms);
        within(&*runtime, "sleep", PATIENCE, runtime.sleep_until(deadline)).await;
        assert!(
            runtime.now() >= deadline,
            "{:?} < {deadline:?}",
            runtime.now()
        );
    }
}

/// A deadline that has passed, or is now, is no wait.
pub async fn a_sleep_into_the_past_ends_at_once(runtime: Arc<dyn Runtime>, (): ()) {
    // One of a few goes so quickly, even if the machine has other things to do.
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let now = runtime.now();
        let wait = async {
            runtime.sleep_until(Timestamp::ZERO).await;
            runtime.sleep_until(now).await;
            runtime.sleep_until(now - Duration::from_secs(1)).await;
        };
        within(&*runtime, "three sleeps into the past", PATIENCE, wait).await;
        least = least.min(runtime.now().saturating_since(now));
    }
    assert!(
        least < Duration::from_secs(1),
        "three sleeps into the past take {least:?}"
    );
}

/// A runtime may sleep in slices, to look at the clock in between; the sleep
/// ends at its deadline all the same.
pub async fn a_sleep_longer_than_any_slice_ends_on_time(runtime: Arc<dyn Runtime>, (): ()) {
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let deadline = runtime.now() + Duration::from_millis(1_300);
        runtime.sleep_until(deadline).await;
        let now = runtime.now();
        assert!(now >= deadline, "early: {now:?} < {deadline:?}");
        least = least.min(now.saturating_since(deadline));
        if least < Duration::from_millis(500) {
            return;
        }
    }
    panic!("three times late, by {least:?} at least");
}

/// Of two sleeps the one with the earlier deadline ends first. Not if both are
/// over already when the runtime gets to run: then it is tried again.
pub async fn sleeps_end_in_the_order_of_their_deadlines(runtime: Arc<dyn Runtime>, (): ()) {
    const GAP: Duration = Duration::from_millis(140);
    for last_try in [false, false, false, false, true] {
        let (send, receive) = async_channel::unbounded();
        let now = runtime.now();
        for place in [2, 0, 1] {
            let (sleeper, send) = (runtime.clone(), send.clone());
            runtime.spawn(Box::pin(async move {
                let deadline = now + GAP * place;
                sleeper.sleep_until(deadline).await;
                let late = sleeper.now().saturating_since(deadline);
                let _ = send.send((place, late)).await;
            }));
        }
        drop(send);
        let (mut order, mut latest) = (Vec::new(), Duration::ZERO);
        while let Ok((place, late)) =
            within(&*runtime, "three sleeps", PATIENCE, receive.recv()).await
        {
            order.push(place);
            latest = latest.max(late);
        }
        if latest < GAP || last_try {
            assert_eq!(order, [0, 1, 2], "the latest was late by {latest:?}");
            return;
        }
    }
}

/// Dropping a sleep that was waited for ends it, and nothing else.
pub async fn a_dropped_sleep_is_cancelled(runtime: Arc<dyn Runtime>, (): ()) {
    let start = runtime.now();
    for _ in 0..100 {
        let mut sleep = runtime.sleep_until(start + Duration::from_secs(3_600));
        assert!(
            future::poll_once(&mut sleep).await.is_none(),
            "it ended an hour early"
        );
    }
    within(
        &*runtime,
        "a sleep after dropped ones",
        PATIENCE,
        pass(&*runtime, SHORT),
    )
    .await;
    assert!(runtime.now() < start + Duration::from_secs(3_600));
}

/// `Timestamp::MAX` is a deadline like any other; it just never comes.
pub async fn a_sleep_until_the_end_of_time_can_be_made_and_dropped(
    runtime: Arc<dyn Runtime>,
    (): (),
) {
    let first = async {
        runtime.sleep_until(Timestamp::MAX).await;
        "the end of time"
    };
    let second = async {
        pass(&*runtime, SHORT).await;
        "a moment"
    };
    assert_eq!(future::or(first, second).await, "a moment");
}

/// The future is `'static`: it may move.
pub async fn a_sleep_can_be_made_in_one_task_and_awaited_in_another(
    runtime: Arc<dyn Runtime>,
    (): (),
) {
    let deadline = runtime.now() + SHORT;
    let mut sleep = runtime.sleep_until(deadline);
    // Polled here first: the other task's waker must then replace this one's.
    let _ = future::poll_once(&mut sleep).await;
    run(&runtime, sleep).await;
    assert!(runtime.now() >= deadline);
}

/// Nobody has to await a task for it to run, and to run on over waits.
pub async fn a_task_starts_at_once_and_runs_to_its_end_detached(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::unbounded();
    let in_task = runtime.clone();
    runtime.spawn(Box::pin(async move {
        let _ = send.send("started").await;
        pass(&*in_task, SHORT).await;
        let _ = send.send("ended").await;
    }));
    for expected in ["started", "ended"] {
        let got = within(&*runtime, expected, PATIENCE, receive.recv()).await;
        assert_eq!(got, Ok(expected));
    }
}

/// What a task holds is dropped at its end: that is how core joins tasks.
pub async fn a_task_is_dropped_when_it_has_ended(runtime: Arc<dyn Runtime>, (): ()) {
    let (held, receive) = async_channel::bounded::<()>(1);
    runtime.spawn(Box::pin(async move {
        future::yield_now().await;
        drop(held);
    }));
    let end = within(&*runtime, "the end of a task", PATIENCE, receive.recv()).await;
    assert!(end.is_err(), "the channel was to be closed");

    let (held, receive) = async_channel::bounded::<()>(1);
    runtime.spawn(Box::pin(async move {
        // Held until the task itself is dropped.
        let _held = held;
        future::yield_now().await;
    }));
    let end = within(&*runtime, "the drop of a task", PATIENCE, receive.recv()).await;
    assert!(end.is_err(), "the channel was to be closed");
}

/// A task that waits for another does not keep it from running.
pub async fn tasks_run_side_by_side(runtime: Arc<dyn Runtime>, (): ()) {
    let (ping, pings) = async_channel::bounded::<u32>(1);
    let (pong, pongs) = async_channel::bounded::<u32>(1);
    runtime.spawn(Box::pin(async move {
        while let Ok(n) = pings.recv().await {
            if pong.send(n + 1).await.is_err() {
                return;
            }
        }
    }));
    let mut n = 0;
    while n < 100 {
        let _ = ping.send(n).await;
        n = within(&*runtime, "an answer", PATIENCE, pongs.recv())
            .await
            .expect("the other task is there");
    }
}

/// Tasks may spawn tasks, which outlive them.
pub async fn a_task_can_spawn_tasks(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::bounded::<()>(1);
    let outer = runtime.clone();
    runtime.spawn(Box::pin(async move {
        let inner = outer.clone();
        outer.spawn(Box::pin(async move {
            pass(&*inner, SHORT).await;
            let _ = send.send(()).await;
        }));
    }));
    let got = within(&*runtime, "the inner task", PATIENCE, receive.recv()).await;
    assert_eq!(got, Ok(()));
}

/// None of many tasks is forgotten.
pub async fn many_tasks_all_run(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::unbounded();
    for n in 0..1_000_u64 {
        let (in_task, send) = (runtime.clone(), send.clone());
        runtime.spawn(Box::pin(async move {
            if n % 3 == 0 {
                pass(&*in_task, Duration::from_millis(n % 7)).await;
            }
            let _ = send.send(n).await;
        }));
    }
    drop(send);
    let mut seen = Vec::new();
    while let Ok(n) = within(&*runtime, "a thousand tasks", PATIENCE, receive.recv()).await {
        seen.push(n);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
}

/// A lease may be asked, and dropped, on any thread of the program.
pub async fn every_method_works_from_a_thread_of_the_users(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::bounded::<()>(1);
    let before = runtime.now();
    let elsewhere = runtime.clone();
    let thread = std::thread::spawn(move || {
        let now = elsewhere.now();
        elsewhere.spawn(Box::pin(async move {
            let _ = send.send(()).await;
        }));
        (now, elsewhere.sleep_until(now + SHORT))
    });
    let (now, sleep) = thread.join().expect("no method panics on a foreign thread");
    assert!(
        before <= now && now <= runtime.now(),
        "another clock on another thread"
    );
    let got = within(
        &*runtime,
        "a task spawned by a thread",
        PATIENCE,
        receive.recv(),
    )
    .await;
    assert_eq!(got, Ok(()));
    within(&*runtime, "a sleep made by a thread", PATIENCE, sleep).await;
    assert!(runtime.now() >= now + SHORT);
}

/// Spawns `future` and awaits its output.
async fn run<T: Send + 'static>(
    runtime: &Arc<dyn Runtime>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (send, receive) = async_channel::bounded(1);
    runtime.spawn(Box::pin(async move {
        let _ = send.send(future.await).await;
    }));
    within(&**runtime, "a spawned task", PATIENCE, receive.recv())
        .await
        .expect("the task ran to its end")
}
