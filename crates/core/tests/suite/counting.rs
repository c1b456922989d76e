//! What a client counts of its service for its recorder.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::Level;
use streamlease_core::decorate::{Decorator, decorate};
use streamlease_core::{
    Backend, BackendProvider, Client, Error, ErrorKind, Operation, Recorder, Result, ServiceCounts,
    ServiceName, Timestamp,
};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, Node, TTL, everywhere, lines};

const PACE: Duration = Duration::from_secs(15);

/// Wants to be told, and keeps what it is told, and when.
#[derive(Debug)]
struct Told {
    sim: SimRuntime,
    counts: Mutex<Vec<(Timestamp, Option<ServiceCounts>)>>,
}

impl Told {
    fn new(fleet: &Fleet) -> Arc<Self> {
        Arc::new(Self {
            sim: fleet.sim.clone(),
            counts: Mutex::default(),
        })
    }

    fn kept(&self) -> Vec<(Timestamp, Option<ServiceCounts>)> {
        self.counts.lock().unwrap().clone()
    }

    fn last(&self) -> Option<ServiceCounts> {
        let kept = self.kept();
        kept.last().expect("something was told").1
    }
}

impl Recorder for Told {
    fn count_every(&self) -> Option<Duration> {
        Some(PACE)
    }

    fn counted(&self, counts: Option<&ServiceCounts>) {
        let now = streamlease_core::Runtime::now(&self.sim);
        self.counts.lock().unwrap().push((now, counts.copied()));
    }
}

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

async fn start_with(fleet: &Fleet, decorator: impl Decorator, told: &Arc<Told>) -> Node {
    let backend = fleet.backend.backend(&fleet.service).unwrap();
    let builder = fleet
        .builder("n")
        .backend(Given(decorate(backend, decorator)))
        .recorder(told.clone())
        .capacity(1);
    fleet.start_with(builder).await
}

#[test]
fn a_full_consumer_tells_at_its_pace_what_waits_in_its_service() {
    everywhere(|fleet| async move {
        let (told, faults) = (Told::new(&fleet), Faults::new());
        let mut node = start_with(&fleet, faults.clone(), &told).await;
        fleet.submit(&["a"]).await;
        let _lease = node.lease(TTL).await;
        fleet.submit(&["b", "c"]).await;
        let begun = streamlease_core::Runtime::now(&fleet.sim);
        fleet.sleep(PACE * 10).await;
        let counts = told.last().expect("counts");
        assert_eq!((counts.waiting, counts.pending), (Some(2), 1), "{counts:?}");
        let age = counts.oldest_waiting.unwrap();
        assert!(age > PACE * 8 && age < PACE * 10, "{age:?}");

        let at: Vec<_> = told.kept().iter().map(|(at, _)| *at).collect();
        assert!(
            at[0].saturating_since(begun) < PACE / 2,
            "the first comes soon"
        );
        let apart: Vec<_> = at
            .windows(2)
            .map(|two| two[1].saturating_since(two[0]))
            .collect();
        assert!(
            apart
                .iter()
                .all(|apart| *apart <= PACE && *apart >= PACE / 2),
            "{apart:?}"
        );
        assert!(
            apart.windows(2).any(|two| two[0] != two[1]),
            "in step: {apart:?}"
        );
        assert_eq!(faults.calls(Operation::Counts), at.len() as u64);
    });
}

#[test]
fn nothing_is_counted_for_a_recorder_that_does_not_want_it() {
    #[derive(Debug)]
    struct Other;
    impl Recorder for Other {}
    everywhere(|fleet| async move {
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let backend = Given(decorate(backend, faults.clone()));
        let builder = fleet
            .builder("n")
            .backend(backend)
            .recorder(Arc::new(Other));
        let _node = fleet.start_with(builder).await;
        fleet.sleep(PACE * 10).await;
        assert_eq!(faults.calls(Operation::Counts), 0);
    });
}

#[test]
fn while_the_backend_cannot_be_reached_nobody_asks_and_the_counts_are_unknown() {
    everywhere(|fleet| async move {
        let (told, faults) = (Told::new(&fleet), Faults::new());
        let _node = start_with(&fleet, faults.clone(), &told).await;
        fleet.sleep(PACE).await;
        assert!(told.last().is_some());
        faults.break_all();
        fleet.sleep(PACE + TTL).await;
        assert_eq!(told.last(), None);
        let asked = faults.calls(Operation::Counts);
        fleet.sleep(PACE * 4).await;
        assert_eq!(faults.calls(Operation::Counts), asked);
        assert_eq!(told.last(), None);
        faults.repair();
        fleet.sleep(PACE * 2).await;
        assert!(told.last().is_some());
    });
}

#[test]
fn a_count_that_fails_or_hangs_is_unknown_and_delays_nothing() {
    everywhere(|fleet| async move {
        let (told, faults) = (Told::new(&fleet), Faults::new());
        faults.lose_reply(Operation::Counts);
        let mut node = start_with(&fleet, faults.clone(), &told).await;
        fleet.sleep(PACE / 2).await;
        assert_eq!(told.last(), None);

        let held = faults.hold(Operation::Counts);
        held.arrived().await;
        fleet.submit(&["a"]).await;
        let lease = node.lease(Duration::from_millis(100)).await;
        fleet.sleep(TTL * 3).await;
        assert!(lease.is_valid());
        assert_eq!(told.last(), None);
        assert!(told.kept().len() >= 2, "it was given up");

        // Nor does the end wait for one.
        drop(held);
        fleet.sleep(PACE).await;
        let held = faults.hold(Operation::Counts);
        held.arrived().await;
        let begun = streamlease_core::Runtime::now(&fleet.sim);
        node.client.shutdown().await.unwrap();
        let took = streamlease_core::Runtime::now(&fleet.sim).saturating_since(begun);
        assert!(took < TTL / 4, "{took:?}");
    });
}

#[test]
fn once_a_client_has_ended_its_counts_are_unknown_and_it_asks_no_more() {
    everywhere(|fleet| async move {
        let (told, faults) = (Told::new(&fleet), Faults::new());
        let node = start_with(&fleet, faults.clone(), &told).await;
        fleet.sleep(PACE).await;
        assert!(told.last().is_some());
        node.client.shutdown().await.unwrap();
        fleet.sleep(Duration::from_millis(1)).await;
        assert_eq!(told.last(), None);
        let asked = faults.calls(Operation::Counts);
        fleet.sleep(PACE * 4).await;
        assert_eq!(faults.calls(Operation::Counts), asked);
    });
}

/// Refuses to count.
#[derive(Debug, Clone)]
struct NoCounts;

impl Decorator for NoCounts {
    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match operation {
            Operation::Counts => Err(Error::new(ErrorKind::Denied, "not for you")),
            _ => request.await,
        }
    }
}

#[test]
fn a_client_without_the_right_to_count_works_and_says_so_once() {
    lines::listen();
    everywhere(|fleet| async move {
        let told = Told::new(&fleet);
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let builder = Client::builder("orders")
            .consumer("n")
            .backend(Given(decorate(backend, NoCounts)))
            .seed(1)
            .ttl(TTL)
            .recorder(told.clone())
            .log_target("counting");
        let mut node = fleet.start_with(builder).await;
        fleet.sleep(PACE * 5).await;
        fleet.submit(&["a"]).await;
        node.lease(TTL).await;
        assert_eq!(told.last(), None);
        let lines = lines::take("counting");
        let refused = lines
            .iter()
            .filter(|line| line.level <= Level::Info && line.text.contains("not for you"));
        assert_eq!(refused.count(), 1, "{lines:#?}");
    });
}
