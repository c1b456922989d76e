//! How to test your handler without Redis and without sleeping.
//!
//! ```text
//! cargo test --example unit_test_with_fakes    # the tests at the end of this file
//! cargo run --example unit_test_with_fakes     # shows what they are about
//! ```
//!
//! Two fakes do it: [`MemoryBackend`] instead of a server, and the testkit's
//! [`SimRuntime`] instead of an executor. Its time is virtual: it stands still
//! while anything can run, and jumps when everything waits. Each worker gets a
//! handle of the simulation, a "process" that the test can kill, freeze and thaw.
//! The seed decides the order of tasks; the same seed gives the same run.
//!
//! What your code must do for it: take time from the `Runtime` it is given, and
//! spawn on it, instead of calling tokio directly.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use streamlease::{
    Client, Completion, Event, Events, Info, Lease, MemoryBackend, Producer, Result, Runtime,
};
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

/// How long a call takes, in minutes.
const CALL: usize = 12;
/// After so many minutes something happens.
const BEFORE: usize = 4;

// The program. It does not know that it is being tested.

fn minutes(n: usize) -> Duration {
    Duration::from_secs(60 * n as u64)
}

/// Records a call, minute by minute, from where the previous owner stopped.
async fn record(call: Lease, worker: &'static str, archive: Archive, runtime: Arc<dyn Runtime>) {
    while archive.minutes().len() < CALL {
        runtime.sleep_until(runtime.now() + minutes(1)).await;
        if !call.is_valid() {
            return;
        }
        archive.append(worker);
    }
    match call.complete().await {
        Ok(Completion::Completed) => {}
        other => eprintln!("{worker} could not complete {}: {other:?}", call.stream()),
    }
}

async fn work(
    mut events: Events,
    worker: &'static str,
    archive: Archive,
    runtime: Arc<dyn Runtime>,
) {
    while let Some(event) = events.next().await {
        if let Event::StreamAdded(call) = event {
            let task = record(call, worker, archive.clone(), runtime.clone());
            runtime.spawn(Box::pin(task));
        }
    }
}

/// Who recorded each minute. In your program this is a trait of yours, with a
/// real store and this fake behind it.
#[derive(Debug, Clone, Default)]
struct Archive {
    minutes: Arc<Mutex<Vec<&'static str>>>,
}

impl Archive {
    fn append(&self, worker: &'static str) {
        self.minutes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(worker);
    }

    fn minutes(&self) -> Vec<&'static str> {
        self.minutes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn by(&self, worker: &str) -> usize {
        self.minutes().iter().filter(|by| **by == worker).count()
    }
}

// The fakes, put together once for all tests.

#[derive(Debug)]
struct World {
    sim: SimRuntime,
    backend: MemoryBackend,
    archive: Archive,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = SimRuntime::new(seed);
        Self {
            backend: MemoryBackend::new(sim.clone()),
            sim,
            archive: Archive::default(),
        }
    }

    /// Runs the program in a simulated process.
    fn start(&self, worker: &'static str) -> Result<SimHandle> {
        let process = self.sim.handle();
        let (_client, events) = Client::builder("calls")
            .consumer(worker)
            .backend(self.backend.clone())
            .runtime(process.clone())
            // By default the operating system draws it, and runs would differ.
            .seed(self.sim.random(u64::MAX))
            .start()?;
        let runtime = Arc::new(process.clone());
        process.spawn(Box::pin(work(
            events,
            worker,
            self.archive.clone(),
            runtime,
        )));
        Ok(process)
    }

    async fn submit(&self, call: &str) -> Result<()> {
        Producer::new("calls", &self.backend, self.sim.clone())?
            .submit(call, Info::NONE)
            .await?;
        Ok(())
    }

    /// Lets virtual time pass.
    async fn pass(&self, time: Duration) {
        self.sim.sleep_until(self.sim.now() + time).await;
    }
}

// What can go wrong, as scenarios.

/// `worker-1` takes the call, `worker-2` stands by. After some minutes something
/// `happens` to `worker-1`; then there is time enough to finish.
fn scenario(seed: u64, happens: impl AsyncFn(&World, &SimHandle)) -> Result<Archive> {
    let world = World::new(seed);
    world.sim.block_on(async {
        let first = world.start("worker-1")?;
        world.submit("call-1").await?;
        // Half a minute, so that nothing happens just when a minute is recorded.
        world.pass(minutes(1) / 2).await;
        world.start("worker-2")?;
        world.pass(minutes(BEFORE)).await;
        happens(&world, &first).await;
        world.pass(minutes(CALL)).await;
        Ok(world.archive.clone())
    })
}

fn nothing_happens(seed: u64) -> Result<Archive> {
    scenario(seed, async |_, _| {})
}

fn it_dies(seed: u64) -> Result<Archive> {
    scenario(seed, async |_, worker| worker.kill())
}

fn it_freezes_for_two_minutes(seed: u64) -> Result<Archive> {
    scenario(seed, async |world, worker| {
        worker.freeze();
        world.pass(minutes(2)).await;
        worker.thaw();
    })
}

fn main() -> Result<()> {
    let began = Instant::now();
    println!("A call of {CALL} minutes. After {BEFORE} of them, worker-1 …\n");
    for (what, archive) in [
        ("lives on", nothing_happens(1)?),
        ("dies", it_dies(1)?),
        ("freezes for two minutes", it_freezes_for_two_minutes(1)?),
    ] {
        let (first, second) = (archive.by("worker-1"), archive.by("worker-2"));
        println!("{what:<24} {first:>2} minutes recorded by worker-1, {second:>2} by worker-2");
    }
    println!(
        "\nAlmost an hour of virtual time took {:?}.",
        began.elapsed()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each seed is another order of tasks. A failure names its seed.
    fn with_seeds(scenario: impl Fn(u64) -> Result<Archive>, check: impl Fn(&Archive)) {
        for seed in 1..=10 {
            println!("seed {seed}");
            check(&scenario(seed).unwrap());
        }
    }

    #[test]
    fn a_call_is_recorded_to_its_end() {
        with_seeds(nothing_happens, |archive| {
            assert_eq!(archive.minutes(), ["worker-1"; CALL]);
        });
    }

    #[test]
    fn when_a_worker_dies_another_goes_on_where_it_was() {
        with_seeds(it_dies, |archive| {
            let mut expected = vec!["worker-1"; BEFORE];
            expected.extend(["worker-2"; CALL - BEFORE]);
            assert_eq!(archive.minutes(), expected);
        });
    }

    #[test]
    fn a_frozen_worker_records_nothing_once_another_has_the_call() {
        with_seeds(it_freezes_for_two_minutes, |archive| {
            let minutes = archive.minutes();
            assert_eq!(minutes.len(), CALL);
            assert!(
                minutes.is_sorted(),
                "worker-1 wrote after worker-2: {minutes:?}"
            );
        });
    }
}
