//! What `Client::health` says, for probes.

use std::time::Duration;

use streamlease_core::decorate::decorate;
use streamlease_core::{Backend, BackendProvider, Info, Result, ServiceAdmin, ServiceName};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, Node, TTL, everywhere};

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

async fn start_with_faults(fleet: &Fleet) -> (Node, Faults) {
    let faults = Faults::new();
    let backend = fleet.backend.backend(&fleet.service).unwrap();
    let backend = decorate(backend, faults.clone());
    let builder = fleet.builder("n").backend(Given(backend));
    (fleet.start_with(builder).await, faults)
}

#[test]
fn a_client_at_work_is_live_and_ready_and_tells_what_it_holds() {
    everywhere(|fleet| async move {
        let mut node = fleet.start_with(fleet.builder("n").capacity(7)).await;
        let _other = fleet.start("m").await;
        fleet.submit(&["s"]).await;
        let mut held = Vec::new();
        while held.is_empty() {
            held.extend(node.try_event(TTL).await);
            fleet.submit(&["t"]).await;
        }
        fleet.sleep(TTL).await;
        let health = node.client.health();
        assert!(health.is_live() && health.is_ready(), "{health:?}");
        assert!(health.held > 0 && health.capacity == 7, "{health:?}");
        assert_eq!(health.unreachable_for, None);
        assert!(health.last_heartbeat.unwrap() <= TTL / 2, "{health:?}");
        // Three heartbeats per TTL, and a tenth of it is the margin of R1.
        let margin = health.margin.unwrap();
        assert!(margin > TTL / 2 && margin < TTL, "{health:?}");
        assert_eq!(health.late_by, Duration::ZERO);
        if fleet.session_leases {
            assert_eq!(health.members, Some(2));
            assert!(health.believed_for.unwrap() > TTL / 2, "{health:?}");
        }
    });
}

#[test]
fn a_client_that_cannot_reach_its_backend_is_live_and_not_ready_and_says_since_when() {
    everywhere(|fleet| async move {
        let (node, faults) = start_with_faults(&fleet).await;
        fleet.sleep(TTL).await;
        assert!(node.client.health().is_ready());
        faults.break_all();
        // A fetch that waits fails at once, or a heartbeat does.
        fleet.sleep(TTL).await;
        let first = node.client.health();
        assert!(first.is_live() && !first.is_ready(), "{first:?}");
        assert!(first.unreachable_for.is_some(), "{first:?}");
        fleet.sleep(TTL * 3).await;
        let health = node.client.health();
        assert!(health.is_live() && !health.is_ready(), "{health:?}");
        assert_eq!(
            health.unreachable_for,
            first.unreachable_for.map(|since| since + TTL * 3)
        );
        assert!(!health.session_alive, "{health:?}");
        faults.repair();
        fleet.sleep(TTL * 4).await;
        let health = node.client.health();
        assert!(
            health.is_ready() && health.unreachable_for.is_none(),
            "{health:?}"
        );
    });
}

#[test]
fn a_client_that_has_not_reached_its_backend_yet_is_not_ready() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let faults = Faults::new();
        faults.break_all();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let backend = Given(decorate(backend, faults.clone()));
        let builder = fleet.builder("n").backend(backend).runtime(sim.handle());
        let (client, _events) = builder.start().unwrap();
        assert!(client.health().is_live() && !client.health().is_ready());
        fleet.sleep(TTL).await;
        assert!(client.health().is_live() && !client.health().is_ready());
        faults.repair();
        client.started().await.unwrap();
        assert!(client.health().is_ready());
    });
}

#[test]
fn a_client_whose_task_does_not_run_is_not_live_after_a_ttl() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let node = fleet.start("n").await;
        // Its clock goes on while it does nothing.
        node.process.freeze();
        fleet.sleep(TTL * 2).await;
        let health = node.client.health();
        assert!(health.late_by > TTL && !health.is_live(), "{health:?}");
        assert!(!health.session_alive, "{health:?}");
        node.process.thaw();
        fleet.sleep(TTL * 2).await;
        let health = node.client.health();
        assert!(health.is_ready(), "{health:?}");
    });
}

#[test]
fn a_client_that_has_ended_is_neither_live_nor_ready() {
    everywhere(|fleet| async move {
        let node = fleet.start("n").await;
        node.client.shutdown().await.unwrap();
        fleet.sleep(Duration::from_millis(1)).await;
        let health = node.client.health();
        assert!(
            !health.running && !health.is_live() && !health.is_ready(),
            "{health:?}"
        );
    });
}

#[test]
fn a_client_whose_events_were_dropped_takes_nothing_and_is_not_ready() {
    everywhere(|fleet| async move {
        let Node { client, events, .. } = fleet.start("n").await;
        drop(events);
        fleet.sleep(Duration::from_millis(1)).await;
        assert!(client.health().ending && !client.health().is_ready());
        fleet.producer().submit("s", Info::NONE).await.unwrap();
        assert!(client.health().is_live());
    });
}

#[test]
fn a_client_of_a_paused_service_says_so_and_is_ready() {
    everywhere(|fleet| async move {
        let node = fleet.start("n").await;
        let admin = ServiceAdmin::new(&fleet.service, &fleet.backend).unwrap();
        assert!(!node.client.health().paused);
        admin.pause("").await.unwrap();
        fleet.sleep(Duration::from_millis(50)).await;
        let health = node.client.health();
        assert!(health.paused && health.is_ready(), "{health:?}");
        admin.resume().await.unwrap();
        fleet.sleep(Duration::from_millis(50)).await;
        assert!(!node.client.health().paused);
    });
}
