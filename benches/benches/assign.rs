//! From submit over `StreamAdded` to completed: how many streams a second, and
//! what each costs Redis.
//!
//! `cargo bench -p streamlease-benches --bench assign [-- --smoke] [-- --json FILE]`
//!
//! `--only session|per-stream` and `--streams N` choose cells (the reference is
//! always measured), `--rounds N` how often the shares of a burst are (0: not).
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
use streamlease_benches::{
    RedisUsage, Table, announcements, is_smoke, name_of, number_of, runtime, schemes, server,
    slowest_call, wire,
};
use streamlease_core::{
    Acquire, AcquireOutcome, BackendProvider, Client, CompleteOutcome, Event, Events, Fenced,
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
    let (streams, rounds) = if is_smoke() { (500, 1) } else { (50_000, 5) };
    let streams = number_of("--streams").unwrap_or(streams);
    let schemes: Vec<LockScheme> = schemes().into_iter().flatten().collect();
    let mut table = Table::new(
        "assign: submit, StreamAdded, complete (64 bytes of info)",
        &[
            "what",
            "locks",
            "consumers",
            "streams/s",
            "Redis CPU us/stream",
            "commands/stream",
            "scripts/1000",
            "fetches/1000",
            "of bare",
            "x one by one",
            "slowest call ms",
            "over 2 ms",
        ],
    );
    for consumers in [1, 4] {
        let one_by_one = measure(What::OneByOne, consumers, streams);
        for &scheme in &schemes {
            let bare = measure(What::Bare(scheme), consumers, streams);
            let ours = measure(What::Ours(scheme), consumers, streams);
            let locks = name_of(Some(scheme)).to_owned();
            for (what, figures) in [("streamlease", &ours), ("bare", &bare)] {
                let mut row = vec![what.to_owned(), locks.clone(), consumers.to_string()];
                row.extend(figures.cells());
                row.push(format!("{:.0} %", 100.0 * figures.rate / bare.rate));
                row.push(format!("{:.1}", figures.rate / one_by_one.rate));
                row.extend(figures.slow.clone());
                table.row(row);
            }
            if scheme == LockScheme::Session {
                budgets(&mut table, consumers, &ours, &bare, &one_by_one);
            }
        }
        let mut row = vec!["one by one".to_owned(), "wire".to_owned()];
        row.push(consumers.to_string());
        row.extend(one_by_one.cells());
        row.extend(["-".to_owned(), "1.0".to_owned()]);
        row.extend(one_by_one.slow);
        table.row(row);
    }
    for scheme in schemes {
        for burst in [streams / 50, streams / 5] {
            shares(
                &mut table,
                scheme,
                burst,
                number_of("--rounds").unwrap_or(rounds),
            );
        }
    }
    table.finish()
}

/// The budget of session leases, in `docs/protocol.md`.
fn budgets(
    table: &mut Table,
    consumers: usize,
    ours: &Figures,
    bare: &Figures,
    reference: &Figures,
) {
    let what = |budget: &str| format!("session, {consumers} consumer(s), {budget}");
    let (of_bare, times) = (ours.rate / bare.rate, ours.rate / reference.rate);
    let text = format!("{:.0} %", 100.0 * of_bare);
    table.budget(&what("at least 60 % of bare"), &text, of_bare >= 0.6);
    let text = format!("{times:.1}");
    table.budget(&what("at least 3 x one by one"), &text, times >= 3.0);
    let text = format!("{:.1}", ours.redis_us);
    let cheap = ours.redis_us <= 15.0;
    table.budget(&what("at most 15 us of Redis per stream"), &text, cheap);
}

/// How four consumers that were there before a burst share it, and how far the
/// furthest share was from a quarter, over all rounds.
fn shares(table: &mut Table, scheme: LockScheme, burst: usize, rounds: usize) {
    const CONSUMERS: usize = 4;
    let mut worst = (0.0, Vec::new());
    for _ in 0..rounds {
        let server = RedisServer::builder().start();
        let shares = runtime().block_on(share(&server, scheme, CONSUMERS, burst));
        let equal = burst as f64 / CONSUMERS as f64;
        let off = shares
            .iter()
            .map(|share| (*share as f64 / equal - 1.0).abs());
        let off = off.fold(0.0, f64::max);
        if off >= worst.0 {
            worst = (off, shares);
        }
    }
    if rounds == 0 {
        return;
    }
    let what = format!(
        "{}, {CONSUMERS} consumers share {burst} streams within 20 % of equal, {rounds} rounds",
        name_of(Some(scheme))
    );
    let (off, shares) = worst;
    let measured = format!("at worst {shares:?}, {:.0} % off", 100.0 * off);
    eprintln!("{what}: {measured}");
    table.budget(&what, &measured, off <= 0.2);
}

/// How many each holds when all are held.
async fn share(
    server: &RedisServer,
    scheme: LockScheme,
    consumers: usize,
    burst: usize,
) -> Vec<usize> {
    let backend = RedisBackend::connect(server.url()).await.unwrap();
    let backend = backend.with_lock_scheme(scheme);
    let finish = Finish::after(burst);
    let held: Arc<Vec<AtomicUsize>> = Arc::new((0..consumers).map(|_| 0.into()).collect());
    let mut clients = Vec::new();
    let mut tasks = JoinSet::new();
    for n in 0..consumers {
        let client = start(&backend, n, burst).await;
        let mut events = client.1;
        let (held, finish) = (held.clone(), finish.clone());
        tasks.spawn(async move {
            let mut leases = Vec::new();
            while let Some(event) = events.next().await {
                if let Event::StreamAdded(lease) = event {
                    leases.push(lease);
                    held[n].fetch_add(1, Ordering::Relaxed);
                    finish.completed(1);
                }
            }
        });
        clients.push(client.0);
    }
    // Until each knows how many they are.
    tokio::time::sleep(TTL / 2).await;
    run(server, &backend, burst, &finish).await;
    held.iter().map(|n| n.load(Ordering::Relaxed)).collect()
}

async fn start(backend: &RedisBackend, n: usize, capacity: usize) -> (Client, Events) {
    let (client, events) = Client::builder(SERVICE)
        .consumer(format!("c{n}"))
        .backend(backend.clone())
        .runtime(TokioRuntime::new())
        .ttl(TTL)
        .capacity(capacity)
        .start()
        .unwrap();
    client.started().await.unwrap();
    (client, events)
}

#[derive(Debug)]
struct Figures {
    rate: f64,
    redis_us: f64,
    commands: f64,
    scripts: f64,
    fetches: f64,
    slow: [String; 2],
}

impl Figures {
    fn cells(&self) -> [String; 5] {
        [
            format!("{:.0}", self.rate),
            format!("{:.1}", self.redis_us),
            format!("{:.3}", self.commands),
            format!("{:.1}", self.scripts),
            format!("{:.1}", self.fetches),
        ]
    }
}

fn measure(what: What, consumers: usize, streams: usize) -> Figures {
    let server = server();
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
        scripts: used.scripts as f64 * 1e3 / streams as f64,
        fetches: used.fetches as f64 * 1e3 / streams as f64,
        slow: slowest_call(&server),
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
    let producer = Producer::new(SERVICE, backend, TokioRuntime::new()).unwrap();
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
        let (client, events) = start(&backend, n, 1_000).await;
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
        client.shutdown().await.unwrap();
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
        let consumer = backend.consumer_name(format!("c{n}")).unwrap();
        let session = Session::new(
            SessionId::new(consumer.clone(), 1),
            Duration::from_secs(600),
        );
        backend
            .locks
            .sessions()
            .unwrap()
            .open(&session)
            .await
            .unwrap();
        for k in 0..PAGES {
            let (backend, session, consumer) = (backend.clone(), session.clone(), consumer.clone());
            let finish = finish.clone();
            tasks.spawn(async move {
                let mut attempt = k as u64;
                loop {
                    attempt += PAGES as u64;
                    let request =
                        FetchRequest::new(consumer.clone(), PAGE, Duration::from_millis(100));
                    // On an overloaded machine a read can time out, and takes those
                    // that wait on the same connection along. Had it brought
                    // entries, the run would not end.
                    let Ok(fetched) = backend.transport.fetch(&request).await else {
                        // While the runtime ends each read fails at once: a task that never
                        // yields would keep it from ending.
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let count = fetched.entries.len();
                    let acquires: Vec<_> = fetched
                        .entries
                        .into_iter()
                        .map(|delivery| {
                            Acquire::new(
                                delivery.content.unwrap().stream,
                                delivery.entry,
                                attempt,
                                FencingToken(0),
                            )
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
                    let releases: Vec<_> = leases.into_iter().map(Release::new).collect();
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
