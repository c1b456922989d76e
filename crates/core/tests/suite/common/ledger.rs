//! What random runs of a fleet are checked against, and the consumers in them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamlease_core::{ClientBuilder, Completion, EntryId, Event, Lease, Runtime};
use streamlease_testkit::simulation::SimHandle;

use super::Fleet;

/// What an outside store with fencing would see, and who believes what.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    tokens: BTreeMap<String, u64>,
    held: Vec<Arc<Lease>>,
    pub(crate) completed: BTreeMap<EntryId, usize>,
}

impl Ledger {
    pub(crate) fn take_up(&mut self, lease: &Arc<Lease>, seed: u64) {
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
                !self.completed.contains_key(&lease.entry()),
                "seed {seed}: {name} after completion"
            );
        }
        self.held.push(lease.clone());
    }
}

pub(crate) type Shared = Arc<Mutex<Ledger>>;

/// A consumer process: works each stream for a while, then completes it, or
/// sometimes hands it back.
pub(crate) async fn consume(
    fleet: Fleet,
    builder: ClientBuilder,
    process: SimHandle,
    ledger: Shared,
    seed: u64,
) {
    let builder = builder.capacity(1 + fleet.sim.random(12) as usize);
    let (_client, mut events) = builder.runtime(process.clone()).start().unwrap();
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
                let mut ledger = ledger.lock().unwrap();
                *ledger.completed.entry(lease.entry()).or_default() += 1;
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

/// `SEEDS=7` or `SEEDS=1..200`; by default the first `n`.
pub(crate) fn seeds(n: u64) -> RangeInclusive<u64> {
    match std::env::var("SEEDS") {
        Ok(text) => {
            let (from, to) = text.split_once("..").unwrap_or((&text, &text));
            from.parse().unwrap()..=to.parse().unwrap()
        }
        Err(_) => 1..=n,
    }
}
