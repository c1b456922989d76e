//! That tasks run, all of them and side by side, and end.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future;
use streamlease_core::Runtime;

use super::super::behaviours;
use super::super::support::{PATIENCE, pass, within};
use super::{LONG, Least, SHORT, run};

behaviours!($ runtime_tasks!, runtime: (), [
    a_task_starts_at_once_and_runs_to_its_end_detached,
    a_task_starts_and_is_woken_promptly,
    a_task_is_dropped_when_it_has_ended,
    a_task_is_polled_no_more_after_its_end,
    tasks_run_side_by_side,
    a_task_can_spawn_tasks,
    many_tasks_all_run,
    many_tasks_can_wait_at_once,
    a_busy_task_starves_no_other,
    handlers_run_side_by_side_and_detached,
    a_task_that_waits_for_long_is_not_dropped,
]);

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

/// A heartbeat is sent, and a lost lease told of, by tasks that are woken.
pub async fn a_task_starts_and_is_woken_promptly(runtime: Arc<dyn Runtime>, (): ()) {
    let mut late = Least::of("the start of a task and an answer of it");
    while late.is_too_long() {
        let (ask, asked) = async_channel::bounded::<()>(1);
        let (answer, answered) = async_channel::bounded::<()>(1);
        let spawned = runtime.now();
        runtime.spawn(Box::pin(async move {
            let _ = answer.send(()).await;
            let _ = asked.recv().await;
            let _ = answer.send(()).await;
        }));
        let both = async {
            answered.recv().await.expect("the task has started");
            ask.send(()).await.expect("the task waits");
            answered.recv().await.expect("the task answers");
        };
        within(&*runtime, "an answer", PATIENCE, both).await;
        late.measured(runtime.now().saturating_since(spawned));
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

/// Not even if it was woken meanwhile: most futures panic then.
pub async fn a_task_is_polled_no_more_after_its_end(runtime: Arc<dyn Runtime>, (): ()) {
    let polls = Arc::new(AtomicUsize::new(0));
    let (held, receive) = async_channel::bounded::<()>(1);
    let count = polls.clone();
    runtime.spawn(Box::pin(poll_fn(move |cx| {
        let _ = &held;
        count.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Ready(())
    })));
    let end = within(&*runtime, "the drop of a task", PATIENCE, receive.recv()).await;
    assert!(end.is_err(), "the channel was to be closed");
    assert_eq!(polls.load(Ordering::Relaxed), 1);
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
    let in_task = runtime.clone();
    let both = run(&runtime, async move {
        let mut n = 0;
        while n < 100 {
            let _ = ping.send(n).await;
            n = within(&*in_task, "an answer", PATIENCE, pongs.recv())
                .await
                .expect("the other task is there");
        }
    });
    both.await;
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

/// A client has a task for each handler, and some for its calls; all may wait at once, also for a
/// deadline.
pub async fn many_tasks_can_wait_at_once(runtime: Arc<dyn Runtime>, (): ()) {
    const TASKS: usize = 3_000;
    let (started, starts) = async_channel::unbounded();
    let (gate, opened) = async_channel::bounded::<()>(1);
    let (send, ends) = async_channel::unbounded();
    for _ in 0..TASKS {
        let (started, opened, send) = (started.clone(), opened.clone(), send.clone());
        let sleep = runtime.sleep_until(runtime.now() + Duration::from_secs(3_600));
        let in_task = runtime.clone();
        runtime.spawn(Box::pin(async move {
            let _ = started.send(()).await;
            let is_open = async {
                let _ = opened.recv().await;
            };
            future::or(sleep, is_open).await;
            pass(&*in_task, SHORT).await;
            let _ = send.send(()).await;
        }));
    }
    for _ in 0..TASKS {
        let start = within(&*runtime, "the start of each", PATIENCE, starts.recv()).await;
        assert_eq!(start, Ok(()));
    }
    // All of them hear of it.
    drop(gate);
    for _ in 0..TASKS {
        let end = within(&*runtime, "the end of each", PATIENCE, ends.recv()).await;
        assert_eq!(end, Ok(()));
    }
}

/// What can always run lets others run, too: a handler must not hold the heartbeat up.
pub async fn a_busy_task_starves_no_other(runtime: Arc<dyn Runtime>, (): ()) {
    let served = Arc::new(AtomicBool::new(false));
    let (send, receive) = async_channel::bounded::<bool>(1);
    let is_served = served.clone();
    runtime.spawn(Box::pin(async move {
        let (began, mut rounds) = (Instant::now(), 0_u64);
        // The other one may be on a thread that the machine keeps waiting.
        while rounds < 100_000 || began.elapsed() < Duration::from_secs(1) {
            if is_served.load(Ordering::Relaxed) {
                break;
            }
            rounds += 1;
            future::yield_now().await;
        }
        let _ = send.send(is_served.load(Ordering::Relaxed)).await;
    }));
    runtime.spawn(Box::pin(async move {
        served.store(true, Ordering::Relaxed);
    }));
    let was_served = within(&*runtime, "the busy task", PATIENCE, receive.recv()).await;
    assert_eq!(was_served, Ok(true), "the other task did not run");
}

/// Wherever the runtime has them.
pub async fn handlers_run_side_by_side_and_detached(runtime: Arc<dyn Runtime>, (): ()) {
    let (to_first, first) = async_channel::bounded::<()>(1);
    let (to_second, second) = async_channel::bounded::<()>(1);
    let (send, receive) = async_channel::bounded::<()>(1);
    let parent = runtime.clone();
    run(&runtime, async move {
        let in_handler = parent.clone();
        parent.spawn_handler(Box::pin(async move {
            pass(&*in_handler, SHORT).await;
            let _ = to_second.send(()).await;
            let _ = first.recv().await;
            let _ = send.send(()).await;
        }));
        let in_handler = parent.clone();
        parent.spawn_handler(Box::pin(async move {
            let _ = second.recv().await;
            pass(&*in_handler, SHORT).await;
            let _ = to_first.send(()).await;
        }));
    })
    .await;
    let end = within(&*runtime, "two handlers", PATIENCE, receive.recv()).await;
    assert_eq!(end, Ok(()));
}

/// The runtime cancels none, however long it takes.
pub async fn a_task_that_waits_for_long_is_not_dropped(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::bounded::<()>(1);
    let in_task = runtime.clone();
    runtime.spawn(Box::pin(async move {
        pass(&*in_task, LONG).await;
        let _ = send.send(()).await;
    }));
    let end = within(&*runtime, "a task of some time", PATIENCE, receive.recv()).await;
    assert_eq!(end, Ok(()));
}
