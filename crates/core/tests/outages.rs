//! The backend goes away, is late, or refuses; virtual time, the memory backend.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::time::Duration;

use common::{Fleet, Node};
use streamlease_core::{Backend, BackendProvider, Event, Result, Runtime, ServiceName};
use streamlease_testkit::faults::{Faults, FaultyLocks, FaultyTransport, LockCall, TransportCall};
use streamlease_testkit::sim::SimRuntime;

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// The way to the backend, which can be cut.
struct Way {
    transport: Faults<TransportCall>,
    locks: Faults<LockCall>,
}

impl Way {
    fn of(fleet: &Fleet) -> (Given, Self) {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let (transport, transport_faults) = FaultyTransport::new(backend.transport);
        let (locks, lock_faults) = FaultyLocks::new(backend.locks);
        backend.transport = transport;
        backend.locks = locks;
        let way = Self {
            transport: transport_faults,
            locks: lock_faults,
        };
        (Given(backend), way)
    }

    fn cut(&self) {
        self.transport.break_all();
        self.locks.break_all();
    }

    fn mend(&self) {
        self.transport.repair();
        self.locks.repair();
    }
}

async fn next_lease(node: &mut Node, within: Duration) -> streamlease_core::Lease {
    loop {
        match node.event(within).await {
            Event::StreamAdded(lease) => return lease,
            Event::StreamDisowned(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// It came back when a backoff of up to 30 s had run out, whatever its TTL.
#[test]
fn after_a_long_outage_work_goes_on_within_a_few_ttls() {
    let ttl = Duration::from_secs(1);
    for seed in 1..=10 {
        for session_leases in [true, false] {
            let sim = SimRuntime::new(seed);
            let fleet = Fleet::new(sim.clone(), session_leases);
            sim.block_on(async {
                let (given, way) = Way::of(&fleet);
                let builder = fleet.builder("n").ttl(ttl).backend(given);
                let mut node = fleet.start_with(builder).await;
                fleet.submit(&["s"]).await;
                let lost = node.lease(ttl).await;
                way.cut();
                fleet.sleep(Duration::from_secs(40)).await;
                assert!(!lost.is_valid());
                way.mend();
                let since = sim.now();
                let again = next_lease(&mut node, ttl * 3).await;
                assert!(again.token() > lost.token());
                let took = sim.now().saturating_since(since);
                assert!(took <= ttl * 3, "{took:?}");
            });
        }
    }
}
