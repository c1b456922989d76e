//! What may be called from where: from any thread, and at any moment of a task.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use streamlease_core::Runtime;

use super::super::behaviours;
use super::super::support::{PATIENCE, pass, within};
use super::{SHORT, run};

behaviours!($ runtime_threads!, runtime: (), [
    every_method_works_from_a_thread_of_the_users,
    a_wake_from_a_thread_of_the_users_arrives,
    a_waker_can_be_used_after_its_task_has_ended,
    every_method_works_while_a_task_is_dropped,
]);

/// A lease may be asked, awaited and dropped on any thread of the program.
pub async fn every_method_works_from_a_thread_of_the_users(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::bounded::<&'static str>(2);
    let before = runtime.now();
    let elsewhere = runtime.clone();
    // Made here, ended there.
    let dropped = poll_now(runtime.sleep_until(before + Duration::from_secs(3_600)));
    let thread = thread::spawn(move || {
        drop(dropped);
        let now = elsewhere.now();
        let _ = elsewhere.suspended();
        let (task, handler) = (send.clone(), send);
        elsewhere.spawn(Box::pin(async move {
            let _ = task.send("a task").await;
        }));
        elsewhere.spawn_handler(Box::pin(async move {
            let _ = handler.send("a handler").await;
        }));
        (now, poll_now(elsewhere.sleep_until(now + SHORT)))
    });
    let (now, sleep) = thread.join().expect("no method panics on a foreign thread");
    assert!(
        before <= now && now <= runtime.now(),
        "another clock on another thread"
    );
    let mut spawned = Vec::new();
    for _ in 0..2 {
        let one = within(&*runtime, "what a thread spawned", PATIENCE, receive.recv()).await;
        spawned.push(one.expect("both run"));
    }
    spawned.sort_unstable();
    assert_eq!(spawned, ["a handler", "a task"]);
    within(&*runtime, "a sleep of a thread", PATIENCE, sleep).await;
    assert!(runtime.now() >= now + SHORT);
}

/// A lease that a thread drops, or a channel it sends to, wakes the client.
pub async fn a_wake_from_a_thread_of_the_users_arrives(runtime: Arc<dyn Runtime>, (): ()) {
    for _ in 0..10 {
        let (ask, asked) = async_channel::bounded::<()>(1);
        let (answer, answered) = async_channel::bounded::<()>(1);
        runtime.spawn(Box::pin(async move {
            let _ = answer.send(()).await;
            let _ = asked.recv().await;
            let _ = answer.send(()).await;
        }));
        let waits = within(&*runtime, "a task", PATIENCE, answered.recv()).await;
        assert_eq!(waits, Ok(()));
        // So that it waits when the thread sends, if it has a turn.
        pass(&*runtime, Duration::from_millis(1)).await;
        let sent = thread::spawn(move || ask.try_send(()).is_ok());
        assert!(sent.join().expect("to wake never panics"));
        let woken = within(
            &*runtime,
            "the task that was woken",
            PATIENCE,
            answered.recv(),
        )
        .await;
        assert_eq!(woken, Ok(()));
    }
}

/// Whoever keeps one does not know that nobody waits any more.
pub async fn a_waker_can_be_used_after_its_task_has_ended(runtime: Arc<dyn Runtime>, (): ()) {
    let (send, receive) = async_channel::bounded::<Waker>(1);
    runtime.spawn(Box::pin(poll_fn(move |cx| {
        let _ = send.try_send(cx.waker().clone());
        Poll::Ready(())
    })));
    let waker = within(&*runtime, "the waker of a task", PATIENCE, receive.recv()).await;
    let waker = waker.expect("the task has run");
    let end = within(&*runtime, "the end of a task", PATIENCE, receive.recv()).await;
    assert!(end.is_err(), "the channel was to be closed");
    waker.wake_by_ref();
    let woken = thread::spawn(move || waker.wake()).join();
    woken.expect("to wake never panics");
    run(&runtime, async {}).await;
}

/// What a task holds may call the runtime when it is dropped.
pub async fn every_method_works_while_a_task_is_dropped(runtime: Arc<dyn Runtime>, (): ()) {
    struct Last(Option<Box<dyn FnOnce() + Send>>);
    impl Drop for Last {
        fn drop(&mut self) {
            if let Some(call) = self.0.take() {
                call();
            }
        }
    }
    let (send, receive) = async_channel::bounded::<&'static str>(3);
    let in_task = runtime.clone();
    let last = Last(Some(Box::new(move || {
        let soon = in_task.now() + SHORT;
        let _ = in_task.suspended();
        drop(poll_now(in_task.sleep_until(soon)));
        let (task, handler) = (send.clone(), send);
        in_task.spawn(Box::pin(async move {
            let _ = task.send("a task").await;
        }));
        in_task.spawn_handler(Box::pin(async move {
            let _ = handler.send("a handler").await;
        }));
    })));
    runtime.spawn(Box::pin(poll_fn(move |_| {
        let _ = &last;
        Poll::Ready(())
    })));
    let mut spawned = Vec::new();
    for _ in 0..2 {
        let what = "what a task spawned when it was dropped";
        let one = within(&*runtime, what, PATIENCE, receive.recv()).await;
        spawned.push(one.expect("both run"));
    }
    spawned.sort_unstable();
    assert_eq!(spawned, ["a handler", "a task"]);
}

/// Polls a future once, for nobody, and gives it back.
fn poll_now<F: Future + Unpin>(mut future: F) -> F {
    let mut nobody = Context::from_waker(Waker::noop());
    let polled = std::pin::Pin::new(&mut future).poll(&mut nobody);
    assert!(polled.is_pending(), "it has ended at once");
    future
}
