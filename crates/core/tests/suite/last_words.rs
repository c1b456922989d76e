//! What a client logs last has reached the logger when its end is told: the process may
//! end then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_lite::future;
use streamlease_core::decorate::decorate;
use streamlease_core::{BackendProvider, BoxFuture, Event, RetryPolicy, Runtime, Timestamp};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::lines::{self, Line};
use crate::common::{Fleet, TTL};

fn count(lines: &[Line], text: &str) -> usize {
    lines.iter().filter(|line| line.text.contains(text)).count()
}

/// Runs what the driver spawns first, which writes its lines, only now and then.
#[derive(Debug)]
struct LateWriter {
    sim: SimRuntime,
    spawned: AtomicUsize,
    pause: Duration,
}

impl LateWriter {
    fn new(sim: &SimRuntime, pause: Duration) -> Self {
        Self {
            sim: sim.clone(),
            spawned: AtomicUsize::new(0),
            pause,
        }
    }
}

impl Runtime for LateWriter {
    fn now(&self) -> Timestamp {
        self.sim.now()
    }

    fn suspended(&self) -> Duration {
        self.sim.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.sim.sleep_until(deadline)
    }

    fn spawn(&self, mut task: BoxFuture<'static, ()>) {
        // The first is the driver.
        if self.spawned.fetch_add(1, Ordering::Relaxed) != 1 {
            return self.sim.spawn(task);
        }
        let (sim, pause) = (self.sim.clone(), self.pause);
        self.sim.spawn(Box::pin(async move {
            while future::poll_once(&mut task).await.is_none() {
                sim.sleep_until(sim.now() + pause).await;
            }
        }));
    }
}

const STREAMS: usize = 20;

/// Ends a client that holds streams, and how long that took.
async fn end(fleet: &Fleet, runtime: LateWriter, by_event: bool) -> Duration {
    for n in 0..STREAMS {
        fleet.submit(&[&format!("s{n}")]).await;
    }
    let (client, mut events) = fleet.builder("a").runtime(runtime).start().unwrap();
    client.started().await.unwrap();
    let mut held = Vec::new();
    while held.len() < STREAMS {
        if let Some(Event::StreamAdded(lease)) = events.next().await {
            held.push(lease);
        }
    }
    let begun = fleet.sim.now();
    let done = async { client.shutdown().await };
    let told = async { while !matches!(events.next().await, Some(Event::Terminated(_))) {} };
    if by_event {
        future::or(told, async {
            done.await.unwrap();
            future::pending().await
        })
        .await;
    } else {
        done.await.unwrap();
    }
    fleet.sim.now().saturating_since(begun)
}

#[test]
fn whoever_is_told_of_the_end_finds_every_line_of_the_client_in_the_log() {
    lines::listen();
    for by_event in [true, false] {
        let sim = SimRuntime::new(1);
        let fleet = Fleet::new(sim.clone(), true);
        let late = LateWriter::new(&sim, Duration::from_millis(20));
        sim.block_on(end(&fleet, late, by_event));
        let lines = lines::take_all();
        assert_eq!(count(&lines, "ended stream="), STREAMS, "{by_event}");
        assert_eq!(count(&lines, "stopped consumer="), 1, "{by_event}");
    }
}

#[test]
fn a_logger_that_takes_nothing_holds_the_end_up_for_a_tenth_of_a_second() {
    lines::listen();
    for by_event in [true, false] {
        let sim = SimRuntime::new(1);
        let fleet = Fleet::new(sim.clone(), true);
        let stuck = LateWriter::new(&sim, Duration::from_secs(3600));
        let took = sim.block_on(end(&fleet, stuck, by_event));
        assert!(took <= Duration::from_millis(200), "{took:?}");
    }
}

#[test]
fn whoever_is_told_that_it_cannot_start_finds_the_reason_in_the_log() {
    lines::listen();
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    let late = LateWriter::new(&sim, Duration::from_millis(20));
    let mut backend = fleet.backend.backend(&fleet.service).unwrap();
    let faults = Faults::new();
    backend.locks = decorate(backend.clone(), faults.clone()).locks;
    faults.break_all();
    let builder = fleet.builder("a").runtime(late).locks(backend.locks);
    let (client, _events) = builder.retry(RetryPolicy::NONE).start().unwrap();
    sim.block_on(async {
        client.started().await.unwrap_err();
        assert_eq!(count(&lines::take_all(), "gave up consumer="), 1);
    });
}

#[test]
fn a_process_that_did_not_run_for_long_is_told_of_once_with_how_long() {
    lines::listen();
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let node = fleet.start("a").await;
        let mut said = Vec::new();
        for (blocked, told) in [(TTL / 8, 0), (TTL * 2, 1)] {
            lines::take_all();
            node.process.freeze();
            fleet.sleep(blocked).await;
            node.process.thaw();
            fleet.sleep(TTL * 3).await;
            said = lines::take_all();
            assert_eq!(count(&said, "did not run for"), told, "after {blocked:?}");
        }
        let line = said
            .iter()
            .find(|line| line.text.contains("did not run for"));
        let line = &line.unwrap().text;
        let said = line.split("did not run for ").nth(1).unwrap();
        let said: f64 = said.split('s').next().unwrap().parse().unwrap();
        // Some timer was due within a third of a TTL.
        assert!((3.0..=4.0).contains(&said), "{line}");
        assert!(line.contains("consumer=") && line.contains("does a handler block"));
    });
}
