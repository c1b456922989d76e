//! Random kills, freezes, restarts and hand backs of a simulated fleet: nothing
//! is lost, nothing is owned twice, every token grows.
//!
//! A failing seed replays with `SEEDS=<seed> cargo test -p streamlease-core --test suite chaos::`.

use std::time::Duration;

use streamlease_core::Runtime;
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

use crate::common::ledger::{Shared, consume, seeds};
use crate::common::{Fleet, TTL};

fn run(seed: u64, session_leases: bool) {
    let sim = SimRuntime::new(seed);
    let fleet = Fleet::new(sim.clone(), session_leases);
    let ledger = Shared::default();
    let streams = 20;
    sim.block_on(async {
        let mut nodes: Vec<(String, SimHandle)> = Vec::new();
        let start = |name: String| {
            let process = sim.handle();
            let builder = fleet.builder(&name);
            let consumer = consume(
                fleet.clone(),
                builder,
                process.clone(),
                ledger.clone(),
                seed,
            );
            process.spawn(Box::pin(consumer));
            (name, process)
        };
        for i in 0..3 {
            nodes.push(start(format!("n{i}")));
        }
        for i in 0..streams {
            fleet.submit(&[&format!("s{i}")]).await;
            fleet.sleep(Duration::from_millis(sim.random(500))).await;
            let which = sim.random(nodes.len() as u64) as usize;
            match sim.random(6) {
                0 => {
                    let (name, process) = nodes.swap_remove(which);
                    process.kill();
                    // Back under its own name at once, or another one later.
                    let name = if sim.random(2) == 0 {
                        name
                    } else {
                        format!("r{i}")
                    };
                    nodes.push(start(name));
                }
                1 => nodes[which].1.freeze(),
                2 => nodes[which].1.thaw(),
                3 => nodes[which]
                    .1
                    .jump(Duration::from_millis(sim.random(10_000))),
                _ => {}
            }
        }
        for (_, process) in &nodes {
            process.thaw();
        }
        let deadline = sim.now() + TTL * 60;
        // A process can die between completing and saying so: the LBS decides.
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
        let ledger = ledger.lock().unwrap();
        assert!(
            ledger.completed.values().all(|n| *n == 1),
            "seed {seed}: {:?}",
            ledger.completed
        );
    });
}

#[test]
fn random_faults_lose_nothing_and_double_nothing() {
    for seed in seeds(60) {
        run(seed, true);
        run(seed, false);
    }
}
