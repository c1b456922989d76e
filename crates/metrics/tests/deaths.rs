//! Which deaths are counted as failures: a real client on the memory backend, in virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use metrics::with_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{Client, Event, Events, Lease, Producer, Runtime};
use streamlease_metrics::Metrics;
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

const STREAMS: usize = 25;
/// Longer than the window in which a death may be a stream's doing.
const WHILE: Duration = Duration::from_secs(4);

struct Node {
    process: SimHandle,
    events: Events,
    _client: Client,
}

impl Node {
    fn start(sim: &SimRuntime, backend: &MemoryBackend, name: &str) -> Self {
        let process = sim.handle();
        let builder = Client::builder("orders").consumer(name);
        let builder = builder.backend(backend.clone()).ttl(Duration::from_secs(2));
        let builder = builder.seed(7).recorder(Metrics::of("orders"));
        let (client, events) = builder.runtime(process.clone()).start().unwrap();
        Self {
            process,
            events,
            _client: client,
        }
    }

    async fn leases(&mut self, n: usize) -> Vec<Lease> {
        let mut leases = Vec::new();
        while leases.len() < n {
            if let Some(Event::StreamAdded(lease)) = self.events.next().await {
                leases.push(lease);
            }
        }
        leases
    }
}

/// Deaths that were counted since the last look.
fn deaths(metrics: &Snapshotter) -> u64 {
    let all = metrics.snapshot().into_vec().into_iter();
    let counted = all.filter_map(|(key, .., value)| {
        let key = key.key();
        let is_death = key.labels().any(|label| label.value() == "death");
        match value {
            DebugValue::Counter(n) if is_death && key.name() == "streamlease_failures_total" => {
                Some(n)
            }
            _ => None,
        }
    });
    counted.sum()
}

#[test]
fn one_death_of_a_process_is_no_failure_of_what_it_held_and_those_in_a_row_are() {
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    with_local_recorder(&recorder, || {
        let sim = SimRuntime::new(1);
        let backend = MemoryBackend::new(Arc::new(sim.clone()));
        sim.block_on(async {
            let producer = Producer::new("orders", &backend, sim.clone()).unwrap();
            let names = (0..STREAMS).map(|n| format!("s{n}"));
            producer.submit_all(names).await.unwrap();
            let mut first = Node::start(&sim, &backend, "first");
            let _held = first.leases(STREAMS).await;
            sim.sleep_until(sim.now() + WHILE).await;
            first.process.kill();
            let mut second = Node::start(&sim, &backend, "second");
            let _held = second.leases(STREAMS).await;
            assert_eq!(deaths(&metrics), 0);

            // Within the window: now each may be what kills.
            second.process.kill();
            let mut third = Node::start(&sim, &backend, "third");
            let _held = third.leases(STREAMS).await;
            assert_eq!(deaths(&metrics), STREAMS as u64);
        });
    });
}
