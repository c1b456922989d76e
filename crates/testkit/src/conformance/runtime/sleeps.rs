//! When sleeps end.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{BoxFuture, Runtime, Timestamp};

use super::super::behaviours;
use super::super::support::{PATIENCE, Patience, pass, within};
use super::{LONG, Least, PROMPT, SHORT, run};

behaviours!($ runtime_sleeps!, runtime: (), [
    a_sleep_ends_at_or_after_its_deadline,
    a_sleep_is_late_by_less_than_the_least_margin,
    a_sleep_into_the_past_ends_at_once,
    a_sleep_longer_than_any_slice_ends_on_time,
    a_sleep_counts_from_its_deadline_and_not_from_its_first_poll,
    a_sleep_that_is_polled_again_ends_all_the_same,
    sleeps_end_in_the_order_of_their_deadlines,
    sleeps_to_one_moment_all_end,
    a_dropped_sleep_is_cancelled,
    a_dropped_sleep_lets_go_of_its_waker,
    a_deadline_far_away_does_not_come_early,
    a_sleep_until_the_end_of_time_can_be_made_and_dropped,
    a_sleep_can_be_made_in_one_task_and_awaited_in_another,
]);

/// A sleep never ends early.
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

/// Whose lease ends is told so before the next owner may come; so neither the timers nor the clock
/// may be as coarse as the least margin.
pub async fn a_sleep_is_late_by_less_than_the_least_margin(runtime: Arc<dyn Runtime>, (): ()) {
    let mut late = Least::of("a short sleep");
    while late.is_too_long() {
        let deadline = runtime.now() + SHORT;
        runtime.sleep_until(deadline).await;
        late.measured(runtime.now().saturating_since(deadline));
    }
}

/// A deadline that has passed, or is now, is no wait.
pub async fn a_sleep_into_the_past_ends_at_once(runtime: Arc<dyn Runtime>, (): ()) {
    let mut late = Least::of("three sleeps into the past");
    while late.is_too_long() {
        let now = runtime.now();
        let wait = async {
            runtime.sleep_until(Timestamp::ZERO).await;
            runtime.sleep_until(now).await;
            runtime.sleep_until(now - Duration::from_secs(1)).await;
        };
        within(&*runtime, "three sleeps into the past", PATIENCE, wait).await;
        late.measured(runtime.now().saturating_since(now));
    }
}

/// A runtime may sleep in slices, to look at the clock in between; the sleep
/// ends at its deadline all the same.
pub async fn a_sleep_longer_than_any_slice_ends_on_time(runtime: Arc<dyn Runtime>, (): ()) {
    let mut late = Least::of("a long sleep");
    while late.is_too_long() {
        let deadline = runtime.now() + LONG;
        runtime.sleep_until(deadline).await;
        let now = runtime.now();
        assert!(now >= deadline, "early: {now:?} < {deadline:?}");
        late.measured(now.saturating_since(deadline));
    }
}

/// Between the two there may be other work.
pub async fn a_sleep_counts_from_its_deadline_and_not_from_its_first_poll(
    runtime: Arc<dyn Runtime>,
    (): (),
) {
    let mut late = Least::of("a sleep that is polled late");
    while late.is_too_long() {
        let deadline = runtime.now() + 2 * PROMPT;
        let sleep = runtime.sleep_until(deadline);
        pass(&*runtime, 2 * PROMPT).await;
        sleep.await;
        late.measured(runtime.now().saturating_since(deadline));
    }
}

/// Whoever waits for several things polls all of them whenever one wakes it.
pub async fn a_sleep_that_is_polled_again_ends_all_the_same(runtime: Arc<dyn Runtime>, (): ()) {
    let deadline = runtime.now() + SHORT;
    let mut sleep = runtime.sleep_until(deadline);
    for _ in 0..3 {
        let _ = future::poll_once(&mut sleep).await;
    }
    let polled_again = async {
        let _ = future::poll_once(&mut sleep).await;
        future::yield_now().await;
        sleep.await;
    };
    within(&*runtime, "a sleep that was polled", PATIENCE, polled_again).await;
    assert!(runtime.now() >= deadline);
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

/// Whatever the runtime keeps them by; and when one of them is dropped, the others still do.
pub async fn sleeps_to_one_moment_all_end(runtime: Arc<dyn Runtime>, (): ()) {
    let deadline = runtime.now() + SHORT;
    let (send, receive) = async_channel::unbounded();
    for n in 0..6 {
        let (sleep, send) = (runtime.sleep_until(deadline), send.clone());
        runtime.spawn(Box::pin(async move {
            if n < 3 {
                // It is dropped before its deadline.
                future::or(sleep, future::yield_now()).await;
            } else {
                sleep.await;
            }
            let _ = send.send(n).await;
        }));
    }
    drop(send);
    let mut ended = Vec::new();
    while let Ok(n) = within(
        &*runtime,
        "six sleeps to one moment",
        PATIENCE,
        receive.recv(),
    )
    .await
    {
        ended.push(n);
    }
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2, 3, 4, 5]);
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

/// What waits for messages or a deadline drops a sleep with each message: nothing may be left of it.
pub async fn a_dropped_sleep_lets_go_of_its_waker(runtime: Arc<dyn Runtime>, (): ()) {
    struct Nobody;
    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    let nobody = Arc::new(Nobody);
    for _ in 0..10 {
        let mut sleep = runtime.sleep_until(runtime.now() + Duration::from_secs(3_600));
        let waker = Waker::from(nobody.clone());
        let polled = sleep.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "it ended an hour early");
    }
    let mut patience = Patience::new(&*runtime, "the wakers of dropped sleeps are dropped");
    while Arc::strong_count(&nobody) > 1 {
        patience.wait().await;
    }
}

/// Also where the time until then is more than numbers of a common size can hold.
pub async fn a_deadline_far_away_does_not_come_early(runtime: Arc<dyn Runtime>, (): ()) {
    let far = [
        Duration::from_secs(24 * 3_600),
        Duration::from_millis(1 << 31),
        Duration::from_millis(1 << 32),
        Duration::from_secs(1 << 31),
        Duration::from_secs(1 << 32),
        Duration::from_nanos(1 << 63),
        Duration::from_nanos(u64::MAX) + Duration::from_nanos(1),
        Duration::from_secs(1 << 63),
        Duration::MAX,
    ];
    let now = runtime.now();
    // What is lost of it leaves a time that comes soon.
    let sleep = |far: Duration| {
        let far = far.saturating_add(SHORT / 2);
        (far, runtime.sleep_until(now + far))
    };
    let mut sleeps: Vec<(Duration, BoxFuture<'static, ()>)> = far.into_iter().map(sleep).collect();
    for _ in 0..2 {
        for (far, sleep) in &mut sleeps {
            let ended = future::poll_once(sleep).await;
            assert!(ended.is_none(), "a sleep of {far:?} has ended");
        }
        pass(&*runtime, SHORT).await;
    }
    for (far, sleep) in &mut sleeps {
        let ended = future::poll_once(sleep).await;
        assert!(ended.is_none(), "a sleep of {far:?} has ended");
    }
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

/// The future is `'static`: it may move, and outlive the task that made it.
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

    let maker = runtime.clone();
    let (deadline, sleep) = run(&runtime, async move {
        let deadline = maker.now() + SHORT;
        let mut sleep = maker.sleep_until(deadline);
        let _ = future::poll_once(&mut sleep).await;
        (deadline, sleep)
    })
    .await;
    within(&*runtime, "a sleep of a task that is gone", PATIENCE, sleep).await;
    assert!(runtime.now() >= deadline);
}
