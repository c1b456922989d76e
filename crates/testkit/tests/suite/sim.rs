//! What the simulated runtime promises beyond the suite for runtimes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{Runtime, Timestamp};
use streamlease_testkit::simulation::SimRuntime;

const SECOND: Duration = Duration::from_secs(1);

/// The order in which ten tasks that are ready together run.
fn order(seed: u64) -> Vec<u32> {
    let sim = SimRuntime::new(seed);
    let order = Arc::new(Mutex::new(Vec::new()));
    sim.block_on(async {
        for n in 0..10 {
            let (order, sleep) = (order.clone(), sim.sleep_until(sim.now() + SECOND));
            sim.spawn(Box::pin(async move {
                order.lock().unwrap().push(n);
                sleep.await;
                order.lock().unwrap().push(n);
            }));
        }
        sim.sleep_until(sim.now() + 2 * SECOND).await;
    });
    Arc::into_inner(order).unwrap().into_inner().unwrap()
}

fn panic_of(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap()
}

#[test]
fn the_same_seed_gives_the_same_order_and_others_give_others() {
    assert_eq!(order(3), order(3));
    assert_eq!(order(3).len(), 20);
    let orders: std::collections::BTreeSet<_> = (0..10).map(order).collect();
    assert!(orders.len() > 5, "{} orders of 10 seeds", orders.len());
}

#[test]
fn a_day_of_virtual_time_takes_none() {
    let sim = SimRuntime::new(1);
    let (start, real) = (sim.now(), std::time::Instant::now());
    sim.block_on(sim.sleep_until(start + 80_000 * SECOND));
    assert_eq!(sim.now(), start + 80_000 * SECOND, "to the nanosecond");
    // Whatever else the machine does: 80,000 s were not waited for.
    assert!(real.elapsed() < 1_000 * SECOND);
}

#[test]
fn being_stuck_is_a_panic_with_the_seed() {
    let sim = SimRuntime::new(77);
    let message = panic_of(|| sim.block_on(future::pending()));
    assert!(
        message.contains("seed 77") && message.contains("no timer"),
        "{message}"
    );
    // The simulation is still good for another run.
    sim.block_on(async {});

    let message = panic_of(|| sim.block_on(sim.sleep_until(Timestamp::MAX)));
    assert!(message.contains("beyond"), "{message}");

    let message = panic_of(|| {
        sim.block_on(async {
            loop {
                future::yield_now().await;
            }
        });
    });
    assert!(message.contains("without time passing"), "{message}");

    let message = panic_of(|| sim.block_on(async { sim.block_on(async {}) }));
    assert!(message.contains("within block_on"), "{message}");
}

#[test]
fn a_panic_of_a_task_fails_the_test() {
    let sim = SimRuntime::new(1);
    sim.spawn(Box::pin(async { panic!("a task's own") }));
    let message = panic_of(|| sim.block_on(sim.sleep_until(sim.now() + SECOND)));
    assert_eq!(message, "a task's own");
}

#[test]
fn tasks_that_are_not_done_go_on_in_the_next_block_on() {
    let sim = SimRuntime::new(1);
    let (send, receive) = async_channel::bounded(1);
    let sleep = sim.sleep_until(sim.now() + SECOND);
    sim.spawn(Box::pin(async move {
        sleep.await;
        let _ = send.send(()).await;
    }));
    sim.block_on(async {});
    assert!(receive.is_empty());
    assert_eq!(sim.block_on(receive.recv()), Ok(()));
}

#[test]
fn advancing_passes_timers_without_running_anything() {
    let sim = SimRuntime::new(1);
    let start = sim.now();
    let woken = sim.block_on(async {
        let (send, receive) = async_channel::bounded(1);
        let (clock, sleep) = (sim.clone(), sim.sleep_until(start + SECOND));
        sim.spawn(Box::pin(async move {
            sleep.await;
            let _ = send.send(clock.now()).await;
        }));
        future::yield_now().await;
        sim.advance(60 * SECOND);
        receive.recv().await.unwrap()
    });
    assert_eq!(woken, start + 60 * SECOND);
}

#[test]
fn a_killed_node_runs_nothing_any_more_and_drops_its_tasks() {
    let sim = SimRuntime::new(1);
    let node = sim.handle();
    let (held, dropped) = async_channel::bounded::<()>(1);
    let in_task = node.clone();
    node.spawn(Box::pin(async move {
        let _held = held;
        in_task.sleep_until(in_task.now() + SECOND).await;
        panic!("it ran on");
    }));
    sim.block_on(async {
        future::yield_now().await;
        node.kill();
        assert!(dropped.recv().await.is_err(), "dropped at once");
        node.spawn(Box::pin(async { panic!("spawned on a dead node") }));
        sim.sleep_until(sim.now() + 2 * SECOND).await;
    });
}

#[test]
fn a_node_can_kill_itself() {
    let sim = SimRuntime::new(1);
    let node = sim.handle();
    let (held, dropped) = async_channel::bounded::<()>(1);
    let suicide = node.clone();
    node.spawn(Box::pin(async move {
        let _held = held;
        suicide.kill();
        future::yield_now().await;
        panic!("it ran on");
    }));
    assert!(sim.block_on(dropped.recv()).is_err());
    sim.block_on(sim.sleep_until(sim.now() + SECOND));
}

#[test]
fn a_frozen_node_stands_still_while_time_goes_on() {
    let sim = SimRuntime::new(1);
    let node = sim.handle();
    let start = sim.now();
    let (send, receive) = async_channel::unbounded();
    let in_task = node.clone();
    node.spawn(Box::pin(async move {
        for n in 1..=3 {
            in_task.sleep_until(start + n * SECOND).await;
            let _ = send.send(in_task.now()).await;
        }
    }));
    sim.block_on(async {
        sim.sleep_until(start + SECOND + SECOND / 2).await;
        assert_eq!(receive.try_recv(), Ok(start + SECOND));
        node.freeze();
        sim.sleep_until(start + 60 * SECOND).await;
        assert!(receive.is_empty(), "it ran while frozen");
        assert_eq!(node.now(), start + 60 * SECOND, "its clock goes on");
        node.thaw();
        assert_eq!(receive.recv().await, Ok(start + 60 * SECOND));
        assert_eq!(
            receive.recv().await,
            Ok(start + 60 * SECOND),
            "all that is due, at once"
        );
    });
}

#[test]
fn a_clock_that_jumps_ends_its_own_sleeps_only() {
    let sim = SimRuntime::new(1);
    let (ahead, other) = (sim.handle(), sim.handle());
    let start = sim.now();
    sim.block_on(async {
        let mut sleep = ahead.sleep_until(start + 60 * SECOND);
        let mut others = other.sleep_until(start + 60 * SECOND);
        assert!(future::poll_once(&mut sleep).await.is_none());
        assert!(future::poll_once(&mut others).await.is_none());
        ahead.jump(59 * SECOND);
        assert_eq!((ahead.now(), other.now()), (start + 59 * SECOND, start));
        sleep.await;
        assert_eq!(sim.now(), start + SECOND);
        others.await;
        assert_eq!(sim.now(), start + 60 * SECOND);
    });
}

#[test]
fn a_clock_that_runs_slower_comes_later_to_its_deadlines() {
    let sim = SimRuntime::new(1);
    let slow = sim.handle();
    slow.set_clock_rate(500_000);
    let (start, local) = (sim.now(), slow.now());
    sim.block_on(slow.sleep_until(local + 10 * SECOND));
    assert_eq!(sim.now(), start + 20 * SECOND);
    assert_eq!(slow.now(), local + 10 * SECOND);
    // A timer that is set already is moved with the clock.
    let sleep = slow.sleep_until(local + 30 * SECOND);
    sim.block_on(future::zip(sleep, async {
        sim.sleep_until(start + 40 * SECOND).await;
        slow.set_clock_rate(1_000_000);
    }));
    assert_eq!(sim.now(), start + 50 * SECOND);
}

#[test]
fn a_clock_that_is_stopped_does_not_count_that_time() {
    let sim = SimRuntime::new(1);
    let stopped = sim.handle();
    let (start, local) = (sim.now(), stopped.now());
    stopped.stop_clock(7 * SECOND);
    sim.block_on(stopped.sleep_until(local + SECOND));
    assert_eq!(sim.now(), start + 8 * SECOND);
    assert_eq!(stopped.now(), local + SECOND);
}
