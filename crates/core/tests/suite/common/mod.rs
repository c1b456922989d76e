//! A simulated fleet on the memory backend: nodes that can be killed, frozen and
//! woken late, under virtual time and a seed.

pub(crate) mod ledger;
pub(crate) mod lines;

use std::sync::Arc;
use std::time::Duration;

use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    BackendProvider, Client, ClientBuilder, EntryId, Event, Events, Info, Lease, Producer, Runtime,
    Scope, ServiceName,
};
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

pub(crate) const TTL: Duration = Duration::from_secs(2);

/// Runs a scenario with both lock schemes and several seeds.
pub(crate) fn everywhere<F: Future<Output = ()>>(scenario: impl Fn(Fleet) -> F) {
    for seed in 1..=5 {
        for session_leases in [true, false] {
            let sim = SimRuntime::new(seed);
            let fleet = Fleet::new(sim.clone(), session_leases);
            sim.block_on(scenario(fleet));
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) sim: SimRuntime,
    pub(crate) backend: MemoryBackend,
    pub(crate) service: ServiceName,
    pub(crate) session_leases: bool,
}

/// One simulated consumer process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) process: SimHandle,
    pub(crate) client: Client,
    pub(crate) events: Events,
}

impl Fleet {
    pub(crate) fn new(sim: SimRuntime, session_leases: bool) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
        let backend = match session_leases {
            true => MemoryBackend::new(runtime),
            false => MemoryBackend::per_stream_locks(runtime),
        };
        let service = ServiceName::new("orders").unwrap();
        Self {
            sim,
            backend,
            service,
            session_leases,
        }
    }

    pub(crate) fn producer(&self) -> Producer {
        Producer::new("orders", &self.backend, self.sim.clone()).unwrap()
    }

    pub(crate) async fn submit(&self, names: &[&str]) {
        for name in names {
            self.producer().submit(name, Info::NONE).await.unwrap();
        }
    }

    pub(crate) fn builder(&self, name: &str) -> ClientBuilder {
        Client::builder("orders")
            .consumer(name)
            .backend(self.backend.clone())
            .seed(self.sim.random(u64::MAX))
            .ttl(TTL)
    }

    pub(crate) async fn start(&self, name: &str) -> Node {
        self.start_with(self.builder(name)).await
    }

    pub(crate) async fn start_with(&self, builder: ClientBuilder) -> Node {
        let process = self.sim.handle();
        let (client, events) = builder.runtime(process.clone()).start().unwrap();
        client.started().await.unwrap();
        Node {
            process,
            client,
            events,
        }
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.sim.sleep_until(self.sim.now() + time).await;
    }

    /// The entries on the LBS, pending or undelivered.
    pub(crate) async fn left(&self) -> Vec<EntryId> {
        let backend = self.backend.backend(&self.service).unwrap();
        let all = Scope::All {
            after: EntryId::MIN,
        };
        let pending = backend.transport.list_pending(&all, 1_000).await.unwrap();
        let undelivered = backend
            .admin
            .list_undelivered(EntryId::MIN, 1_000)
            .await
            .unwrap();
        let pending = pending.entries.into_iter().map(|p| p.entry);
        pending
            .chain(undelivered.into_iter().map(|d| d.entry))
            .collect()
    }

    pub(crate) async fn assert_nothing_left(&self) {
        assert_eq!(self.left().await, []);
    }
}

impl Node {
    /// The next event, within a bound of virtual time.
    pub(crate) async fn event(&mut self, within: Duration) -> Event {
        self.try_event(within).await.expect("no event in time")
    }

    pub(crate) async fn try_event(&mut self, within: Duration) -> Option<Event> {
        let runtime = self.process.clone();
        let deadline = runtime.now() + within;
        let timeout = async {
            runtime.sleep_until(deadline).await;
            None
        };
        futures_lite::future::or(self.events.next(), timeout).await
    }

    /// The next event, which is a lease.
    pub(crate) async fn lease(&mut self, within: Duration) -> Lease {
        match self.event(within).await {
            Event::StreamAdded(lease) => lease,
            other => panic!("expected StreamAdded, got {other:?}"),
        }
    }
}
