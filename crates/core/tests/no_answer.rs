//! Calls that are never answered: nobody waits for ever.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::Fleet;
use streamlease_core::{
    Backend, BackendProvider, Notifier, Result, Runtime, ServiceName, Subscription,
};
use streamlease_testkit::faults::{FaultyTransport, TransportCall};
use streamlease_testkit::sim::SimRuntime;

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// Its server accepts connections and says nothing.
#[derive(Debug)]
struct Mute;

#[async_trait]
impl Notifier for Mute {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        std::future::pending().await
    }
}

#[test]
fn a_client_starts_without_hints_if_subscribing_is_never_answered() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        backend.notifier = std::sync::Arc::new(Mute);
        let begun = sim.now();
        let builder = fleet.builder("n").backend(Given(backend));
        let mut node = fleet.start_with(builder).await;
        assert!(sim.now() < begun + Duration::from_secs(10));
        fleet.submit(&["s"]).await;
        node.lease(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_completion_that_is_never_answered_is_repeated_soon_whatever_the_ttl() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let (transport, faults) = FaultyTransport::new(backend.transport);
        backend.transport = transport;
        let held = faults.hold(TransportCall::Complete);
        let ttl = Duration::from_secs(3600);
        let builder = fleet.builder("n").ttl(ttl).backend(Given(backend));
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["s"]).await;
        let lease = node.lease(Duration::from_secs(1)).await;
        let begun = sim.now();
        lease.complete().await.unwrap();
        assert!(sim.now() < begun + Duration::from_secs(15));
        drop(held);
        fleet.assert_nothing_left().await;
    });
}
