//! From submit over `StreamAdded` to completed: how many streams a second, and
//! what each costs Redis.
//!
//! `cargo bench -p streamlease-benches --bench assign [-- --smoke] [-- --json FILE]`
//!
//! Beside it, from the same run: `bare`, a loop over the backend's own commands
//! and scripts, several pages at a time, without state machine, leases or
//! events; and `one by one`, the algorithm of the Go library ([`wire`]), which
//! 64 tasks complete.
#![allow(clippy::unwrap_used, reason = "a benchmark stops where it is wrong")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_benches::{RedisUsage, Table, announcements, is_smoke, runtime, wire};
use streamlease_core::{
    Acquire, AcquireOutcome, BackendProvider, Client, CompleteOutcome, ConsumerName, Event, Fenced,
    FencingToken, FetchRequest, LeaseRef, LockScheme, Producer, Release, ServiceName, Session,
    SessionId,
};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::RedisServer;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const SERVICE: &str = "bench";
const TTL: Duration = Duration::from_secs(5);
/// From how many tasks streams are completed, over all consumers.
const TASKS: usize = 64;
/// The bare loop's pages: as large as one script call takes.
const PAGE: usize = 250;
/// How many of them are under way at once.
const PAGES: usize = 4;

#[derive(Debug, Clone, Copy)]
enum What {
    Ours(LockScheme),
    Bare(LockScheme),
    OneByOne,
}

fn main() -> std::io::Result<()> {
    let streams = if is_smoke() { 500 } else { 50_000 };
    let mut table = Table::new(
        "assign: submit, StreamAdded, complete (64 bytes of info)",
        &[
            "what",
            "locks",
            "consumers",
            "streams/s",
            "Redis CPU us/stream",
            "commands/stream",
            "of bare",
            "x one by one",
        ],
    );
    for consumers in [1, 4] {
        let one_by_one = measure(What::OneByOne, consumers, streams);
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            let bare = measure(What::Bare(scheme), consumers, streams);
            let ours = measure(What::Ours(scheme), consumers, streams);
            let locks = format!("{scheme:?}");
            for (what, figures) in [("streamlease", ours), ("bare", bare)] {
                let mut row = vec![what.to_owned(), locks.clone(), consumers.to_string()];
                row.extend(figures.cells());
                row.push(format!("{:.0} %", 100.0 * figures.rate / bare.rate));
                row.push(format!("{:.1}", figures.rate / one_by_one.rate));
                table.row(row);
            }
        }
        let mut row = vec!["one by one".to_owned(), "wire".to_owned()];
        row.push(consumers.to_string());
        row.extend(one_by_one.cells());
        row.extend(["-".to_owned(), "1.0".to_owned()]);
        table.row(row);
    }
    table.finish()
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    rate: f64,
    redis_us: f64,
    commands: f64,
}

impl Figures {
    fn cells(self) -> [String; 3] {
        [
            format!("{:.0}", self.rate),
            format!("{:.1}", self.redis_us),
            format!("{:.3}", self.commands),
        ]
    }
}

fn measure(what: What, consumers: usize, streams: usize) -> Figures {
    let server = RedisServer::builder()
        .config("notify-keyspace-events \"Kx\"")
        .start();
    let (took, used) = runtime().block_on(async {
        match what {
            What::Ours(scheme) => ours(&server, scheme, consumers, streams).await,
            What::Bare(scheme) => bare(&server, scheme, consumers, streams).await,
            What::OneByOne => one_by_one(&server, consumers, streams).await,
        }
    });
    Figures {
        rate: streams as f64 / took.as_secs_f64(),
        redis_us: used.cpu.as_secs_f64() * 1e6 / streams as f64,
        commands: used.commands as f64 / streams as f64,
    }
}

/// Counts down to the end of the measured time.
#[derive(Debug)]
struct Finish {
    left: AtomicUsize,
    reached: tokio::sync::Notify,
}

impl Finish {
    fn after(streams: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(streams),
            reached: tokio::sync::Notify::new(),
        })
    }

    fn completed(&self, streams: usize) {
        if self.left.fetch_sub(streams, Ordering::AcqRel) == streams {
            self.reached.notify_one();
        }
    }
}

/// Submits everything and waits for its end: how long it took, and what it cost.
async fn run(
    server: &RedisServer,
    backend: &RedisBackend,
    streams: usize,
    finish: &Finish,
) -> (Duration, RedisUsage) {
    let producer = Producer::new(SERVICE, backend).unwrap();
    let pages = announcements(streams);
    let before = RedisUsage::of(server);
    let start = Instant::now();
    for page in pages {
        producer.submit_all(page).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(120), finish.reached.notified())
        .await
        .expect("all streams are completed within two minutes");
    (start.elapsed(), RedisUsage::of(server).since(before))
}

async fn ours(
    server: &RedisServer,
    scheme: LockScheme,
    consumers: usize,
    streams: usize,
) -> (Duration, RedisUsage) {
    let finish = Finish::after(streams);
    let backend = RedisBackend::connect(server.url()).await.unwrap();
    let backend = backend.with_lock_scheme(scheme);
    let mut clients = Vec::new();
    let mut tasks = JoinSet::new();
    for n in 0..consumers {
        let client = Client::builder(SERVICE)
            .consumer(format!("c{n}"))
            .backend(backend.clone())
            .runtime(TokioRuntime::new())
            .ttl(TTL)
            .build()
            .unwrap();
        let events = client.start().await.unwrap();
        let events = Arc::new(Mutex::new(events));
        for _ in 0..TASKS / consumers {
            let (events, finish) = (events.clone(), finish.clone());
            tasks.spawn(async move {
                loop {
                    let event = events.lock().await.next().await;
                    let Some(event) = event else { return };
                    if let Event::StreamAdded(lease) = event {
                        lease.complete().await.unwrap();
                        finish.completed(1);
                    }
                }
            });
        }
        clients.push(client);
    }
    let result = run(server, &backend, streams, &finish).await;
    for client in clients {
        client.done().await.unwrap();
    }
    result
}

async fn bare(
    server: &RedisServer,
    scheme: LockScheme,
    consumers: usize,
    streams: usize,
) -> (Duration, RedisUsage) {
    let finish = Finish::after(streams);
    let provider = RedisBackend::connect(server.url()).await.unwrap();
    let provider = provider.with_lock_scheme(scheme);
    let service = ServiceName::new(SERVICE).unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..consumers {
        let backend = provider.backend(&service).unwrap();
        backend.transport.prepare().await.unwrap();
        let consumer = ConsumerName::from_identity(format!("c{n}")).unwrap();
        let session = Session {
            id: SessionId::new(consumer.clone(), 1),
            ttl: Duration::from_secs(600),
        };
        backend.locks.open(&session).await.unwrap();
        for k in 0..PAGES {
            let (backend, session, consumer) = (backend.clone(), session.clone(), consumer.clone());
            let finish = finish.clone();
            tasks.spawn(async move {
                let mut attempt = k as u64;
                loop {
                    attempt += PAGES as u64;
                    let request = FetchRequest {
                        consumer: consumer.clone(),
                        max: PAGE,
                        wait: Duration::from_millis(100),
                    };
                    let fetched = backend.transport.fetch(&request).await.unwrap();
                    let count = fetched.entries.len();
                    let acquires: Vec<_> = fetched
                        .entries
                        .into_iter()
                        .map(|delivery| Acquire {
                            stream: delivery.content.unwrap().stream,
                            entry: delivery.entry,
                            attempt,
                            floor: FencingToken(0),
                        })
                        .collect();
                    if count == 0 {
                        continue;
                    }
                    let tokens = backend.locks.acquire(&session, &acquires).await.unwrap();
                    let leases: Vec<_> = acquires
                        .into_iter()
                        .zip(tokens)
                        .map(|(acquire, outcome)| match outcome {
                            AcquireOutcome::Acquired(token) => LeaseRef {
                                stream: acquire.stream,
                                entry: acquire.entry,
                                token,
                            },
                            other => panic!("not acquired: {other:?}"),
                        })
                        .collect();
                    let fenced: Vec<_> = leases
                        .iter()
                        .map(|lease| Fenced {
                            entry: lease.entry,
                            token: lease.token,
                        })
                        .collect();
                    backend.transport.claim(&consumer, &fenced).await.unwrap();
                    let ends = backend.transport.complete(&consumer, &fenced).await;
                    let done = |end: &CompleteOutcome| *end == CompleteOutcome::Completed;
                    assert!(ends.unwrap().iter().all(done));
                    let releases: Vec<_> = leases
                        .into_iter()
                        .map(|lease| Release {
                            lease,
                            announce: false,
                        })
                        .collect();
                    backend.locks.release(&session.id, &releases).await.unwrap();
                    finish.completed(count);
                }
            });
        }
    }
    run(server, &provider, streams, &finish).await
}

async fn one_by_one(
    server: &RedisServer,
    consumers: usize,
    streams: usize,
) -> (Duration, RedisUsage) {
    let finish = Finish::after(streams);
    let backend = RedisBackend::connect(server.url()).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..consumers {
        let (consumer, leases) =
            wire::WireConsumer::start(&server.url(), SERVICE, &format!("c{n}"), TTL).await;
        let leases = Arc::new(Mutex::new(leases));
        for _ in 0..TASKS / consumers {
            let (consumer, leases) = (consumer.clone(), leases.clone());
            let finish = finish.clone();
            tasks.spawn(async move {
                loop {
                    let lease = leases.lock().await.recv().await;
                    let Some(lease) = lease else { return };
                    consumer.complete(lease).await;
                    finish.completed(1);
                }
            });
        }
    }
    run(server, &backend, streams, &finish).await
}
