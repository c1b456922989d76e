//! Random kills, freezes, restarts and hand backs of a simulated fleet: nothing
//! is lost, nothing is owned twice, every token grows.
//!
//! A failing seed replays with `SEEDS=<seed> cargo test -p streamlease-core --test chaos`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fleet, TTL};
use streamlease_core::{Completion, Event, Lease, Runtime};
use streamlease_testkit::sim::{SimHandle, SimRuntime};

/// What an outside store with fencing would see, and who believes what.
#[derive(Debug, Default)]
struct Ledger {
    tokens: BTreeMap<String, u64>,
    held: Vec<Arc<Lease>>,
    completed: BTreeMap<String, usize>,
}

impl Ledger {
    fn take_up(&mut self, lease: &Arc<Lease>, seed: u64) {
        let name = lease.stream().to_string();
        let token = lease.token().0;
        self.held.retain(|other| other.is_valid());
        if lease.is_valid() {
            let twice = self
                .held
                .iter()
                .find(|other| other.stream() == lease.stream());
            assert!(
                twice.is_none(),
                "seed {seed}: {name} believed twice: {lease:?} {twice:?}"
            );
            let last = self.tokens.insert(name.clone(), token).unwrap_or(0);
            assert!(
                token > last,
                "seed {seed}: {name} got token {token} after {last}"
            );
            assert!(
                !self.completed.contains_key(&name),
                "seed {seed}: {name} after completion"
            );
        }
        self.held.push(lease.clone());
    }
}

type Shared = Arc<Mutex<Ledger>>;

/// A consumer process: works each stream for a while, then completes it, or
/// sometimes hands it back.
async fn consume(fleet: Fleet, name: String, process: SimHandle, ledger: Shared, seed: u64) {
    let builder = fleet
        .builder(&name)
        .capacity(1 + fleet.sim.random(12) as usize);
    let client = builder.runtime(process.clone()).build().unwrap();
    let Ok(mut events) = client.start().await else {
        return;
    };
    while let Some(event) = events.next().await {
        let Event::StreamAdded(lease) = event else {
            continue;
        };
        let lease = Arc::new(lease);
        ledger.lock().unwrap().take_up(&lease, seed);
        let (ledger, sim, runtime) = (ledger.clone(), fleet.sim.clone(), process.clone());
        let work = Duration::from_millis(sim.random(5_000));
        process.spawn(Box::pin(async move {
            runtime.sleep_until(runtime.now() + work).await;
            if sim.random(5) == 0 {
                let _ = lease.hand_back().await;
            } else if let Ok(Completion::Completed) = lease.complete().await {
                let name = lease.stream().to_string();
                let mut ledger = ledger.lock().unwrap();
                *ledger.completed.entry(name).or_default() += 1;
            }
            // The ledger must not keep a finished lease's handle alive.
            ledger
                .lock()
                .unwrap()
                .held
                .retain(|other| !Arc::ptr_eq(other, &lease));
        }));
    }
}

fn run(seed: u64, session_leases: bool) {
    let sim = SimRuntime::new(seed);
    let fleet = Fleet::new(sim.clone(), session_leases);
    let ledger = Shared::default();
    let streams = 20;
    sim.block_on(async {
        let mut nodes: Vec<(String, SimHandle)> = Vec::new();
        let start = |name: String| {
            let process = sim.handle();
            let consumer = consume(
                fleet.clone(),
                name.clone(),
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
        // A process can die between completing and saying so: the LBS is the judge.
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
    let seeds = match std::env::var("SEEDS") {
        Ok(text) => {
            let (from, to) = text.split_once("..").unwrap_or((&text, &text));
            from.parse().unwrap()..=to.parse().unwrap()
        }
        Err(_) => 1..=60,
    };
    for seed in seeds {
        run(seed, true);
        run(seed, false);
    }
}
