//! [`World`]: one server, one executor, and consumers on them.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_lite::future;
use streamlease_backend_memory::MemoryBackend;
use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{
    Announcement, Backend, BackendProvider, Client, ClientBuilder, EntryId, Event, Events, Info,
    Lease, LockId, LockScheme, LockState, Pending, Producer, Result, Runtime, Scope, ServiceName,
    StreamName, Timestamp,
};
use streamlease_testkit::simulation::SimRuntime;
use streamlease_tests::{Cluster, RedisServer, Sentinels, in_real_time};

use super::Process;

/// Longest wait for what must come; a bound, not a measure.
pub const SOON: Duration = Duration::from_secs(10);

/// Seeds that every scenario runs with in memory.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;

/// Runs a scenario in memory, under virtual time.
pub fn on_memory<F: Future<Output = ()>>(scheme: LockScheme, scenario: impl Fn(World) -> F) {
    for seed in SEEDS {
        let sim = SimRuntime::new(seed);
        let base: Arc<dyn Runtime> = Arc::new(sim.clone());
        let backend = match scheme {
            LockScheme::Session => MemoryBackend::new(base.clone()),
            LockScheme::PerStream => MemoryBackend::per_stream_locks(base.clone()),
        };
        eprintln!("seed {seed}");
        sim.block_on(scenario(World::new(base, Server::Memory(backend), seed)));
    }
}

/// Runs a scenario on a Redis server of its own, with tokio and per-stream locks.
pub fn on_tokio<F: Future<Output = ()>>(scenario: impl Fn(World) -> F) {
    on_tokio_with(LockScheme::PerStream, scenario);
}

/// The same with these locks.
pub fn on_tokio_with<F: Future<Output = ()>>(scheme: LockScheme, scenario: impl Fn(World) -> F) {
    on_tokio_and(|| Server::Redis(RedisServer::start()), scheme, scenario);
}

fn on_tokio_and<F: Future<Output = ()>>(
    server: impl Fn() -> Server,
    scheme: LockScheme,
    scenario: impl Fn(World) -> F,
) {
    in_real_time(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let base = streamlease_runtime_tokio::TokioRuntime::new();
            let world = World::new(Arc::new(base), server(), 0);
            scenario(World { scheme, ..world }).await;
        });
    });
}

/// Runs a scenario on a Redis server of its own, with async-std.
pub fn on_async_std<F: Future<Output = ()>>(scenario: impl Fn(World) -> F) {
    let base = Arc::new(streamlease_runtime_async_std::AsyncStdRuntime::new());
    in_real_time(|| async_std::task::block_on(scenario(World::on_redis(base.clone()))));
}

/// Runs a scenario on a Redis server of its own, with smol.
pub fn on_smol<F: Future<Output = ()>>(scenario: impl Fn(World) -> F) {
    let base = Arc::new(streamlease_runtime_smol::SmolRuntime::new());
    in_real_time(|| smol::block_on(scenario(World::on_redis(base.clone()))));
}

/// A scenario by its name.
pub type Named = (&'static str, fn(World) -> Pin<Box<dyn Future<Output = ()>>>);

/// Runs scenarios one after the other on one cluster, with tokio and session leases.
pub fn on_cluster(scenarios: &[Named]) {
    let cluster = Arc::new(Cluster::start());
    on_one(scenarios, || Server::Cluster(cluster.clone()));
}

/// The same on servers behind sentinels.
pub fn behind_sentinels(scenarios: &[Named]) {
    let sentinels = Arc::new(Sentinels::start());
    on_one(scenarios, || Server::Sentinels(sentinels.clone()));
}

/// Everything is deleted before each. Starting six servers takes longer than a scenario.
fn on_one(scenarios: &[Named], server: impl Fn() -> Server) {
    for (name, scenario) in scenarios {
        eprintln!("{name}");
        on_tokio_and(&server, LockScheme::Session, |world| {
            world.redis().run::<()>(&["FLUSHALL"]);
            scenario(world)
        });
    }
}

/// One server, one executor, and the service `orders`.
pub struct World {
    base: Arc<dyn Runtime>,
    server: Server,
    /// What consumers on Redis lock with.
    pub scheme: LockScheme,
    /// Where consumers connect to, if not to the server itself.
    url: Option<String>,
    seed: u64,
    started: AtomicU64,
    /// The TTL that consumers get, unless they are told otherwise.
    pub ttl: Duration,
}

enum Server {
    Memory(MemoryBackend),
    Redis(RedisServer),
    Cluster(Arc<Cluster>),
    Sentinels(Arc<Sentinels>),
}

/// One consumer in a process of its own.
pub struct Consumer {
    pub process: Process,
    pub client: Client,
    pub events: Events,
}

impl World {
    fn new(base: Arc<dyn Runtime>, server: Server, seed: u64) -> Self {
        Self {
            base,
            server,
            scheme: LockScheme::PerStream,
            url: None,
            seed,
            started: AtomicU64::new(0),
            ttl: Duration::from_millis(800),
        }
    }

    fn on_redis(base: Arc<dyn Runtime>) -> Self {
        Self::new(base, Server::Redis(RedisServer::start()), 0)
    }

    /// The same with another Redis server. For scenarios that run on Redis alone.
    pub fn with_server(self, server: RedisServer) -> Self {
        Self {
            server: Server::Redis(server),
            ..self
        }
    }

    /// The same with consumers that connect to this URL.
    pub fn with_url(self, url: String) -> Self {
        Self {
            url: Some(url),
            ..self
        }
    }

    /// The same with this TTL.
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    pub fn redis(&self) -> &RedisServer {
        self.try_redis().expect("a world with a Redis server")
    }

    /// The server that has the service's keys now.
    fn try_redis(&self) -> Option<&RedisServer> {
        match &self.server {
            Server::Memory(_) => None,
            Server::Redis(server) => Some(server),
            Server::Cluster(cluster) => Some(cluster.node(cluster.owner_of("orders-input"))),
            Server::Sentinels(all) => Some(all.server(all.primary())),
        }
    }

    pub fn redis_mut(&mut self) -> &mut RedisServer {
        match &mut self.server {
            Server::Redis(server) => server,
            _ => panic!("this world has no Redis server of its own"),
        }
    }

    pub fn is_redis(&self) -> bool {
        !matches!(self.server, Server::Memory(_))
    }

    // --- the server ---------------------------------------------------------------------

    /// What a consumer, or the test, connects with: its own connections each time.
    pub async fn provider(&self) -> Provider {
        let url = match &self.server {
            Server::Memory(backend) => return Provider::new(backend.clone()),
            Server::Redis(server) => server.url(),
            Server::Cluster(cluster) => cluster.url(),
            Server::Sentinels(all) => all.url(),
        };
        let url = self.url.clone().unwrap_or(url);
        let backend = RedisBackend::connect(url).await.unwrap();
        Provider::new(backend.with_lock_scheme(self.scheme))
    }

    /// The test's own look at the service.
    pub async fn backend(&self) -> Backend {
        self.provider().await.backend(&service()).unwrap()
    }

    pub async fn submit(&self, names: &[&str]) -> Vec<EntryId> {
        let announce = |name: &&str| (name.to_string(), Info::NONE);
        self.submit_with_info(names.iter().map(announce)).await
    }

    pub async fn submit_with_info(
        &self,
        streams: impl IntoIterator<Item = (String, Info)>,
    ) -> Vec<EntryId> {
        let producer = Producer::new("orders", &self.provider().await, self.base.clone()).unwrap();
        producer.submit_all(streams).await.unwrap()
    }

    /// Appends an entry with any fields, as no producer of ours would.
    pub fn submit_raw(&self, fields: &[(&[u8], &[u8])]) -> EntryId {
        if let Server::Memory(backend) = &self.server {
            let fields = fields.iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
            return backend.submit_raw(&service(), fields.collect());
        }
        let mut add = redis::cmd("XADD");
        add.arg("orders-input").arg("*");
        for (name, value) in fields {
            add.arg(*name).arg(*value);
        }
        let id: String = add.query(&mut self.redis().connection()).unwrap();
        id.parse().unwrap()
    }

    /// The server loses everything, as one without persistence does by a restart.
    pub fn restart_empty(&mut self) {
        match &mut self.server {
            Server::Memory(backend) => backend.wipe(&service()),
            Server::Redis(server) => server.start_empty(),
            _ => panic!("what restarts empty here is replaced by a replica"),
        }
    }

    /// Somebody destroys the consumer group; the entries stay.
    pub fn destroy_group(&self) {
        match &self.server {
            Server::Memory(backend) => backend.destroy_group(&service()),
            _ => {
                let words = ["XGROUP", "DESTROY", "orders-input", "orders-group"];
                self.redis().run::<()>(&words);
            }
        }
    }

    /// Everything pending.
    pub async fn pending(&self, backend: &Backend) -> Vec<Pending> {
        let all = Scope::All {
            after: EntryId::MIN,
        };
        let page = backend.transport.list_pending(&all, 10_000).await.unwrap();
        page.entries
    }

    /// Waits until so many consumers wait for fresh entries. In memory they do at once.
    pub async fn readers_wait(&self, readers: usize) {
        let Some(server) = self.try_redis() else {
            return;
        };
        let mut redis = server.connection();
        self.eventually("all are reading", async || {
            let info: String = redis::cmd("INFO").arg("clients").query(&mut redis).unwrap();
            info.contains(&format!("blocked_clients:{readers}\r"))
        })
        .await;
    }

    /// Waits until nothing is left of these streams, nor anything else on the LBS.
    pub async fn nothing_is_left_of(&self, streams: &[(StreamName, EntryId)]) {
        let backend = self.backend().await;
        let locks: Vec<LockId> = streams
            .iter()
            .map(|(stream, entry)| LockId {
                stream: stream.clone(),
                entry: *entry,
            })
            .collect();
        self.eventually("nothing is left", async || {
            let undelivered = backend.admin.list_undelivered(EntryId::MIN, 1).await;
            let states = backend.locks.inspect(&locks).await.unwrap();
            self.pending(&backend).await.is_empty()
                && undelivered.unwrap().is_empty()
                && states.iter().all(|state| *state == LockState::Free)
                && self.redis_has_no_trace()
        })
        .await;
    }

    pub async fn nothing_is_left(&self) {
        self.nothing_is_left_of(&[]).await;
    }

    /// On Redis: no lock of either kind, no fencing record, an empty LBS.
    fn redis_has_no_trace(&self) -> bool {
        let Some(server) = self.try_redis() else {
            return true;
        };
        let mut redis = server.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
        let left: u64 = redis::cmd("XLEN")
            .arg("orders-input")
            .query(&mut redis)
            .unwrap();
        let is_trace = |key: &String| {
            key.contains("<MUTEX_KEY_SEP>") || key.starts_with("{orders-input}:lock:")
        };
        // Besides its mark, see `locks/session/head.lua`.
        let records: Vec<String> = redis::cmd("HKEYS")
            .arg("{orders-input}:tokens")
            .query(&mut redis)
            .unwrap();
        left == 0 && !keys.iter().any(is_trace) && records.iter().all(String::is_empty)
    }

    // --- consumers ----------------------------------------------------------------------

    /// A process of this world.
    pub fn process(&self) -> Process {
        Process::new(self.base.clone())
    }

    /// Starts a consumer with its own process and connections.
    pub async fn start(&self, name: &str) -> Consumer {
        self.start_with(name, |builder| builder).await
    }

    pub async fn start_with(
        &self,
        name: &str,
        tune: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Consumer {
        let provider = self.provider().await;
        self.start_on(name, provider, tune).await
    }

    pub async fn start_on(
        &self,
        name: &str,
        provider: Provider,
        tune: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Consumer {
        let process = self.process();
        let (client, events) = self.begin(name, provider, &process, tune);
        self.within("the client starts", client.started())
            .await
            .unwrap();
        Consumer {
            process,
            client,
            events,
        }
    }

    /// A client that begins to start.
    pub fn begin(
        &self,
        name: &str,
        provider: Provider,
        process: &Process,
        tune: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> (Client, Events) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut builder = Client::builder("orders")
            .consumer(name)
            .backend(provider)
            .runtime(process.clone())
            .ttl(self.ttl);
        if !self.is_redis() {
            builder = builder.seed(self.seed * 1_000 + number);
        }
        tune(builder).start().unwrap()
    }

    // --- time ---------------------------------------------------------------------------

    pub fn now(&self) -> Timestamp {
        self.base.now()
    }

    pub fn since(&self, start: Timestamp) -> Duration {
        self.now().saturating_since(start)
    }

    /// Lets time pass in which something must stay as it is.
    pub async fn pass(&self, time: Duration) {
        self.base.sleep_until(self.now() + time).await;
    }

    /// What `future` brings; panics with `what` if it takes too long.
    pub async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let late = async {
            self.pass(SOON).await;
            None
        };
        future::or(async { Some(future.await) }, late)
            .await
            .unwrap_or_else(|| panic!("not within {SOON:?}: {what}"))
    }

    /// Waits until `condition` holds.
    pub async fn eventually(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        self.eventually_within(SOON, what, condition).await;
    }

    pub async fn eventually_within(
        &self,
        bound: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) {
        let deadline = self.now() + bound;
        while !condition().await {
            assert!(self.now() < deadline, "not within {bound:?}: {what}");
            self.pass(Duration::from_millis(10)).await;
        }
    }
}

impl Consumer {
    /// The next event.
    #[track_caller]
    pub fn event(&mut self) -> impl Future<Output = Event> + '_ {
        let caller = std::panic::Location::caller();
        let name = self.client.id().clone();
        async move {
            self.event_within(SOON)
                .await
                .unwrap_or_else(|| panic!("{caller}: no event of {name} within {SOON:?}"))
        }
    }

    pub async fn event_within(&mut self, bound: Duration) -> Option<Event> {
        let process = self.process.clone();
        let late = async {
            process.sleep_until(process.now() + bound).await;
            None
        };
        future::or(self.events.next(), late).await
    }

    /// The next event, which is a lease.
    #[track_caller]
    pub fn lease(&mut self) -> impl Future<Output = Lease> + '_ {
        let caller = std::panic::Location::caller();
        let event = self.event();
        async move {
            match event.await {
                Event::StreamAdded(lease) => lease,
                other => panic!("{caller}: expected StreamAdded, got {other:?}"),
            }
        }
    }

    /// The next `n` events, which are leases.
    pub async fn leases(&mut self, n: usize) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(n);
        while leases.len() < n {
            leases.push(self.lease().await);
        }
        leases
    }

    /// Nothing happens for that long.
    pub async fn hears_nothing_for(&mut self, time: Duration) {
        if let Some(event) = self.event_within(time).await {
            panic!("{} should have heard nothing: {event:?}", self.client.id());
        }
    }
}

/// Any backend as a [`BackendProvider`]. Clones share it.
#[derive(Debug, Clone)]
pub struct Provider(Arc<dyn BackendProvider>);

impl Provider {
    pub fn new(provider: impl BackendProvider) -> Self {
        Self(Arc::new(provider))
    }
}

impl BackendProvider for Provider {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        self.0.backend(service)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("redis", &self.is_redis())
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// Runs all futures at once and returns their results in order.
pub async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    let all = future::poll_fn(|cx| {
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *result = Some(ready);
            }
        }
        match results.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
    pin!(all).await;
    results.into_iter().flatten().collect()
}

fn service() -> ServiceName {
    ServiceName::new("orders").unwrap()
}
