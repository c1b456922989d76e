//! [`Fleet`]: consumers that work, a producer that announces, and a ledger of what became
//! of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_lite::future;
use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{
    Backend, BackendProvider, Client, Completion, EntryId, Event, Events, Info, Lease, Producer,
    RetryPolicy, Scope, ServiceName,
};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::in_real_time;

/// In the slot of everything that the service has.
pub(crate) const LBS: &str = "orders-input";

/// Twice as long as a failover takes here: so leases live through it, though the last
/// heartbeat before it was a third of this ago.
pub(crate) const LONG: Duration = Duration::from_secs(9);
/// Shorter than that.
pub(crate) const SHORT: Duration = Duration::from_secs(1);
/// Twice as long as sentinels are left unasked. So who goes on with a primary that was
/// replaced has told the new one that it lives before anybody is held for dead there.
pub(crate) const MIDDLE: Duration = Duration::from_secs(2);

pub(crate) const CONSUMERS: usize = 3;
/// Between two announcements.
const PACE: Duration = Duration::from_millis(15);
/// How long one stream's work takes.
const WORK: Duration = Duration::from_millis(40);
/// These are held from the start until the end.
const HELD: usize = 6;
/// By when all is completed once nothing happens any more.
const CONVERGED_WITHIN: Duration = Duration::from_secs(40);
/// For what a busy machine takes longer.
pub(crate) const SLACK: Duration = Duration::from_millis(700);

pub(crate) struct Fleet {
    backend: Backend,
    clients: Vec<Client>,
    ledger: Arc<Ledger>,
    is_announcing: Arc<AtomicBool>,
    producer: tokio::task::JoinHandle<()>,
    consumers: Vec<tokio::task::JoinHandle<()>>,
}

/// What became of the streams.
#[derive(Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    /// The long ones end now.
    may_end: AtomicBool,
}

#[derive(Default)]
struct Books {
    acked: BTreeMap<String, EntryId>,
    slowest_submit: Duration,
    added: Vec<Instant>,
    /// Whoever believes to own it now.
    owners: BTreeMap<String, Vec<Arc<Lease>>>,
    doubled: Vec<String>,
    completed: BTreeSet<String>,
    /// Of streams that were completed before.
    again: usize,
    disowned: Vec<String>,
}

/// What a mishap has cost.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) acked: usize,
    /// Acknowledged, and never given to anybody again.
    pub(crate) lost: usize,
    /// Completed, and given out again.
    pub(crate) again: usize,
    /// Leases that ended although their owners lived.
    pub(crate) disowned: Vec<String>,
    /// While two believed to own it.
    pub(crate) doubled: Vec<String>,
    /// The longest time without a new lease, from the mishap on.
    pub(crate) gap: Duration,
    pub(crate) slowest_submit: Duration,
}

/// Runs a test's body on tokio, in real time.
pub(crate) fn at_work<F: Future<Output = ()>>(body: impl Fn() -> F) {
    in_real_time(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(body());
    });
}

/// Runs what blocks on a thread of its own while others go on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

impl Fleet {
    /// Returns once all work, and some streams are held.
    pub(crate) async fn start(url: &str, ttl: Duration) -> Self {
        let service = ServiceName::new("orders").unwrap();
        let ledger = Arc::new(Ledger::default());
        let mut clients = Vec::new();
        let mut consumers = Vec::new();
        for number in 0..CONSUMERS {
            let (client, events) = Client::builder("orders")
                .consumer(format!("c{number}"))
                // Its own connections, as a process of its own has.
                .backend(RedisBackend::new(url).unwrap())
                .runtime(TokioRuntime::new())
                .ttl(ttl)
                .retry(
                    RetryPolicy::UNLIMITED
                        .with_waits(Duration::from_millis(20), Duration::from_millis(200)),
                )
                .start()
                .unwrap();
            client.started().await.unwrap();
            clients.push(client);
            consumers.push(tokio::spawn(consume(events, ledger.clone())));
        }
        let provider = RedisBackend::new(url).unwrap();
        let producer = Producer::new("orders", &provider, TokioRuntime::new()).unwrap();
        for number in 0..HELD {
            let name = format!("long-{number}");
            let entry = producer.submit(&name, Info::NONE).await.unwrap();
            ledger.books().acked.insert(name, entry);
        }
        let is_announcing = Arc::new(AtomicBool::new(true));
        let announcing = announce(producer, ledger.clone(), is_announcing.clone());
        let fleet = Self {
            backend: provider.backend(&service).unwrap(),
            clients,
            producer: tokio::spawn(announcing),
            ledger,
            is_announcing,
            consumers,
        };
        fleet
            .eventually("all at work", || {
                let books = fleet.ledger.books();
                let held = books
                    .owners
                    .iter()
                    .filter(|(name, owners)| name.starts_with("long") && !owners.is_empty());
                held.count() == HELD && books.completed.len() > 20
            })
            .await;
        fleet
    }

    /// Waits until new streams are leased and completed again, `count` of them.
    pub(crate) async fn works_again(&self, count: usize) {
        let before = self.ledger.books().completed.len();
        self.eventually("new streams are completed", || {
            self.ledger.books().completed.len() >= before + count
        })
        .await;
    }

    /// Ends the announcing, waits until all is completed, and says what became of it since
    /// the mishap.
    pub(crate) async fn converge(self, mishap: Instant) -> Cost {
        self.is_announcing.store(false, Ordering::Relaxed);
        self.ledger.may_end.store(true, Ordering::Relaxed);
        self.producer.await.unwrap();
        let deadline = Instant::now() + CONVERGED_WITHIN;
        while let Err(why) = is_empty(&self.backend).await {
            assert!(Instant::now() < deadline, "not converged: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for client in &self.clients {
            client.shutdown().await.unwrap();
        }
        for consumer in self.consumers {
            consumer.await.unwrap();
        }
        let books = self.ledger.books();
        let added = books.added.iter().filter(|at| **at >= mishap);
        let (mut gap, mut last) = (Duration::ZERO, mishap);
        for at in added {
            gap = gap.max(at.duration_since(last));
            last = *at;
        }
        let lost = books
            .acked
            .keys()
            .filter(|name| !books.completed.contains(*name));
        Cost {
            acked: books.acked.len(),
            lost: lost.count(),
            again: books.again,
            disowned: books.disowned.clone(),
            doubled: books.doubled.clone(),
            gap,
            slowest_submit: books.slowest_submit,
        }
    }

    pub(crate) async fn eventually(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + CONVERGED_WITHIN;
        while !is_so() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

async fn is_empty(backend: &Backend) -> Result<(), String> {
    let all = Scope::All {
        after: EntryId::MIN,
    };
    let pending = backend.transport.list_pending(&all, 100).await;
    let fresh = backend.admin.list_undelivered(EntryId::MIN, 100).await;
    match (pending, fresh) {
        (Ok(pending), Ok(fresh)) if pending.entries.is_empty() && fresh.is_empty() => Ok(()),
        (pending, fresh) => Err(format!("{pending:?} {fresh:?}")),
    }
}

async fn announce(producer: Producer, ledger: Arc<Ledger>, is_announcing: Arc<AtomicBool>) {
    let mut number = 0;
    while is_announcing.load(Ordering::Relaxed) {
        let name = format!("s{number}");
        number += 1;
        let began = Instant::now();
        let entry = producer.submit(&name, Info::NONE).await.unwrap();
        {
            let mut books = ledger.books();
            books.slowest_submit = books.slowest_submit.max(began.elapsed());
            books.acked.insert(name, entry);
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn consume(mut events: Events, ledger: Arc<Ledger>) {
    while let Some(event) = events.next().await {
        match event {
            Event::StreamAdded(lease) => {
                let lease = Arc::new(lease);
                let name = lease.stream().to_string();
                let mut books = ledger.books();
                books.added.push(Instant::now());
                books.again += usize::from(books.completed.contains(&name));
                let owners = books.owners.entry(name.clone()).or_default();
                let others = owners.iter().filter(|other| other.is_valid()).count();
                owners.push(lease.clone());
                if others > 0 {
                    books.doubled.push(name);
                }
                drop(books);
                tokio::spawn(work(lease, ledger.clone()));
            }
            Event::StreamDisowned(lost) => {
                let what = format!("{}: {}", lost.stream(), lost.reason());
                ledger.books().disowned.push(what);
            }
            _ => {}
        }
    }
}

async fn work(lease: Arc<Lease>, ledger: Arc<Ledger>) {
    let name = lease.stream().to_string();
    let is_long = name.starts_with("long");
    let done = async {
        tokio::time::sleep(WORK).await;
        while is_long && !ledger.may_end.load(Ordering::Relaxed) {
            tokio::time::sleep(WORK).await;
        }
    };
    let is_done = future::or(
        async {
            done.await;
            true
        },
        async {
            lease.lost().await;
            false
        },
    );
    // After an error it is not known; then whoever has it next completes it.
    if is_done.await && matches!(lease.complete().await, Ok(Completion::Completed)) {
        ledger.books().completed.insert(name.clone());
    }
    let mut books = ledger.books();
    let owners = books.owners.entry(name).or_default();
    owners.retain(|owner| !Arc::ptr_eq(owner, &lease));
}
