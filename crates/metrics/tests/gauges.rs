//! What gauges show in an outage and after the end: a real client on the memory backend, in
//! virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use metrics::with_local_recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::decorate::decorate;
use streamlease_core::{
    Backend, BackendProvider, Client, Event, Events, Lease, Operation, Producer, Result, Runtime,
    ServiceName,
};
use streamlease_metrics::Metrics;
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

const TTL: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// A consumer that holds as much as it may, and its ways to the LBS and the locks.
struct Full {
    sim: SimRuntime,
    process: SimHandle,
    client: Client,
    _events: Events,
    _lease: Lease,
    lbs: Faults,
    locks: Faults,
    metrics: PrometheusHandle,
}

impl Full {
    async fn start(sim: &SimRuntime, metrics: PrometheusHandle) -> Self {
        let memory = MemoryBackend::new(Arc::new(sim.clone()));
        let producer = Producer::new("orders", &memory, sim.clone()).unwrap();
        producer.submit_all(["s", "t"]).await.unwrap();
        let (lbs, locks) = (Faults::new(), Faults::new());
        let service = ServiceName::new("orders").unwrap();
        let mut backend = memory.backend(&service).unwrap();
        backend.transport = decorate(backend.clone(), lbs.clone()).transport;
        backend.locks = decorate(backend.clone(), locks.clone()).locks;
        let process = sim.handle();
        let builder = Client::builder("orders").consumer("n").capacity(1).ttl(TTL);
        let builder = builder.backend(Given(backend)).seed(7);
        let builder = builder.recorder(Metrics::of("orders"));
        let (client, mut events) = builder.runtime(process.clone()).start().unwrap();
        let Some(Event::StreamAdded(lease)) = events.next().await else {
            panic!("no lease");
        };
        let full = Self {
            sim: sim.clone(),
            process,
            client,
            _events: events,
            _lease: lease,
            lbs,
            locks,
            metrics,
        };
        full.pass(TTL * 5).await;
        full
    }

    async fn pass(&self, time: Duration) {
        self.sim.sleep_until(self.sim.now() + time).await;
    }

    /// The value of a gauge as it is scraped, by its name and the value of a label of it.
    fn gauge(&self, name: &str, label: &str) -> f64 {
        let scraped = self.metrics.render();
        let label = format!("\"{label}\"");
        let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(&label);
        let line = scraped.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("no {name} {label}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn reachable(&self, part: &str) -> f64 {
        self.gauge("streamlease_backend_reachable", part)
    }

    fn of_service(&self, name: &str) -> f64 {
        self.gauge(name, "orders")
    }
}

fn with_full<F: Future<Output = ()>>(scenario: impl Fn(Full) -> F) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    with_local_recorder(&recorder, || {
        let sim = SimRuntime::new(1);
        sim.block_on(async { scenario(Full::start(&sim, metrics.clone()).await).await });
    });
}

#[test]
fn members_are_unknown_while_the_session_is_lost_and_known_again_after_it() {
    with_full(|full| async move {
        assert_eq!(full.of_service("streamlease_members"), 1.0);
        full.lbs.break_all();
        full.locks.break_all();
        full.pass(TTL * 2).await;
        assert_eq!(full.client.health().members, None);
        assert!(full.of_service("streamlease_members").is_nan());
        full.lbs.repair();
        full.locks.repair();
        full.pass(TTL * 3).await;
        assert_eq!(full.of_service("streamlease_members"), 1.0);
    });
}

/// Nothing was fetched, so nobody noticed.
#[test]
fn that_the_lbs_is_away_shows_at_a_full_consumer_as_in_its_health() {
    with_full(|full| async move {
        assert_eq!((full.reachable("lbs"), full.reachable("group")), (1.0, 1.0));
        full.lbs.break_all();
        full.pass(TTL * 5).await;
        assert!(full.client.health().unreachable_for.is_some());
        assert_eq!((full.reachable("lbs"), full.reachable("locks")), (0.0, 1.0));
        assert!(full.reachable("group").is_nan(), "it is asked nothing");
        full.lbs.repair();
        full.pass(TTL * 3).await;
        assert_eq!(full.client.health().unreachable_for, None);
        assert_eq!((full.reachable("lbs"), full.reachable("group")), (1.0, 1.0));
        assert_eq!(
            full.of_service("streamlease_streams_held"),
            1.0,
            "it is held"
        );
    });
}

#[test]
fn one_look_that_fails_is_no_outage_of_the_lbs() {
    with_full(|full| async move {
        for _ in 0..10 {
            full.lbs.lose_reply(Operation::ListPendingIds);
            for _ in 0..300 {
                full.pass(TTL / 100).await;
                assert!(full.client.health().is_ready());
                assert_eq!(full.reachable("lbs"), 1.0);
            }
        }
        assert!(full.lbs.calls(Operation::ListPendingIds) > 20);
    });
}

#[test]
fn without_a_session_it_is_unknown_whether_the_lbs_can_be_reached() {
    with_full(|full| async move {
        full.locks.break_all();
        full.pass(TTL * 2).await;
        assert_eq!(full.reachable("locks"), 0.0);
        assert!(full.reachable("lbs").is_nan() && full.reachable("group").is_nan());
        full.locks.repair();
        full.pass(TTL * 3).await;
        assert_eq!((full.reachable("lbs"), full.reachable("locks")), (1.0, 1.0));
    });
}

#[test]
fn a_client_that_has_ended_holds_nothing_and_knows_nothing() {
    for by_shutdown in [true, false] {
        with_full(|full| async move {
            assert_eq!(full.of_service("streamlease_capacity"), 1.0);
            match by_shutdown {
                true => full.client.shutdown().await.unwrap(),
                // Its executor drops its task.
                false => full.process.kill(),
            }
            full.pass(TTL).await;
            let of_load = [
                "streams_held",
                "capacity",
                "events_queued",
                "event_queue_capacity",
            ];
            let load = of_load.map(|name| full.of_service(&format!("streamlease_{name}")));
            assert_eq!(load, [0.0; 4]);
            assert!(full.of_service("streamlease_members").is_nan());
            let parts = ["lbs", "group", "locks"].map(|part| full.reachable(part));
            assert!(parts.iter().all(|part| part.is_nan()), "{parts:?}");
        });
    }
}
