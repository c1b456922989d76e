//! A simulated fleet whose every kind of call loses requests and replies, waits,
//! or executes long after it was given up: nothing is lost, nothing is owned
//! twice, every token grows.
//!
//! A failing seed replays with `SEEDS=<seed> cargo test -p streamlease-core --test suite chaos_faults::`.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streamlease_core::Operation;
use streamlease_core::decorate::decorate;
use streamlease_core::{Backend, BackendProvider, Result, Runtime, ServiceName};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

use crate::common::ledger::{Shared, consume, seeds};
use crate::common::{Fleet, TTL};

const TRANSPORT: [Operation; 8] = [
    Operation::Prepare,
    Operation::Fetch,
    Operation::ListPending,
    Operation::Claim,
    Operation::Complete,
    Operation::HandBack,
    Operation::Quarantine,
    Operation::RemoveConsumer,
];

const LOCKS: [Operation; 10] = [
    Operation::Open,
    Operation::Close,
    Operation::Acquire,
    Operation::Renew,
    Operation::Release,
    Operation::Inspect,
    Operation::TakeOver,
    Operation::RemoveSession,
    Operation::Members,
    Operation::Records,
];

/// One client's way to the backend.
#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// The next such call fails in one of four ways. The network is nobody's
/// process: what is late executes whatever has become of who sent it.
fn disturb(sim: &SimRuntime, faults: &Faults, call: Operation) {
    let delay = Duration::from_millis(sim.random(4_000));
    let later = sim.clone();
    match sim.random(4) {
        0 => faults.lose_request(call),
        1 => faults.lose_reply(call),
        2 => {
            let held = faults.hold(call);
            sim.spawn(Box::pin(async move {
                held.arrived().await;
                later.sleep_until(later.now() + delay / 4).await;
                held.release();
            }));
        }
        _ => {
            let late = faults.run_late(call);
            sim.spawn(Box::pin(async move {
                while !late.is_waiting() {
                    later.sleep_until(later.now() + TTL / 10).await;
                }
                later.sleep_until(later.now() + delay).await;
                late.execute().await;
            }));
        }
    }
}

/// A consumer process on a bad line, until `quiet`.
fn start(fleet: &Fleet, name: &str, ledger: &Shared, quiet: &Arc<AtomicBool>) -> SimHandle {
    let sim = fleet.sim.clone();
    let mut backend = fleet.backend.backend(&fleet.service).unwrap();
    let transport_faults = Faults::new();
    let lock_faults = Faults::new();
    backend.transport = decorate(backend.clone(), transport_faults.clone()).transport;
    backend.locks = decorate(backend.clone(), lock_faults.clone()).locks;

    let process = sim.handle();
    let builder = fleet.builder(name).backend(Given(backend));
    let ledger = ledger.clone();
    let consumer = consume(fleet.clone(), builder, process.clone(), ledger, sim.seed());
    process.spawn(Box::pin(consumer));

    let (network, quiet) = (sim.clone(), quiet.clone());
    sim.spawn(Box::pin(async move {
        while !quiet.load(Ordering::Relaxed) {
            let wait = Duration::from_millis(network.random(150));
            network.sleep_until(network.now() + wait).await;
            let which = network.random((TRANSPORT.len() + LOCKS.len()) as u64) as usize;
            match TRANSPORT.get(which) {
                Some(call) => disturb(&network, &transport_faults, *call),
                None => disturb(&network, &lock_faults, LOCKS[which - TRANSPORT.len()]),
            }
        }
    }));
    process
}

fn run(seed: u64, session_leases: bool) {
    let sim = SimRuntime::new(seed);
    let fleet = Fleet::new(sim.clone(), session_leases);
    let ledger = Shared::default();
    let quiet = Arc::new(AtomicBool::new(false));
    sim.block_on(async {
        let mut nodes: Vec<SimHandle> = (0..3)
            .map(|i| start(&fleet, &format!("n{i}"), &ledger, &quiet))
            .collect();
        for i in 0..20 {
            // Some data streams are announced twice.
            fleet.submit(&[&format!("s{}", i - i % 7 / 6)]).await;
            fleet.sleep(Duration::from_millis(sim.random(800))).await;
            let which = sim.random(nodes.len() as u64) as usize;
            match sim.random(10) {
                0 => {
                    nodes.swap_remove(which).kill();
                    nodes.push(start(&fleet, &format!("r{i}"), &ledger, &quiet));
                }
                1 => nodes[which].freeze(),
                2 | 3 => nodes[which].thaw(),
                _ => {}
            }
        }
        nodes.iter().for_each(SimHandle::thaw);
        quiet.store(true, Ordering::Relaxed);
        let deadline = sim.now() + TTL * 90;
        loop {
            let left = fleet.left().await;
            if left.is_empty() {
                break;
            }
            assert!(
                sim.now() < deadline,
                "seed {seed} session {session_leases}: left {left:?}"
            );
            fleet.sleep(TTL / 4).await;
        }
        let completed = &ledger.lock().unwrap().completed;
        assert!(
            completed.values().all(|n| *n == 1),
            "seed {seed}: {completed:?}"
        );
    });
}

#[test]
fn bad_lines_lose_nothing_and_double_nothing() {
    for seed in seeds(60) {
        run(seed, true);
        run(seed, false);
    }
}
