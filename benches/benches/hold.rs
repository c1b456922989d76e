//! What it costs to hold streams: Redis, CPU and memory of the client, and
//! whether any lease is lost.
//!
//! `cargo bench -p streamlease-benches --bench hold [-- --smoke] [-- --json FILE]`
//!
//! `--only session|per-stream|wire`, `--streams N`, `--ttl MS` and `--seconds N`
//! choose cells (numbers with commas
//! between them; the first is what memory grows from). Each cell has a server of its own and its holder in a process
//! of its own (this program once more), so that its memory is that cell's alone.
//! Beside it, from the same run: the algorithm of the Go library
//! ([`wire`]), one task and timer per stream.
#![allow(clippy::unwrap_used, reason = "a benchmark stops where it is wrong")]

use std::process::Command;
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_benches::wire::WireConsumer;
use streamlease_benches::{
    ProcessUsage, RedisUsage, Table, announcements, die_with_parent, is_smoke, millis, name_of,
    number_of, numbers_of, runtime, schemes, server, slowest_call, value_of,
};
use streamlease_core::{Client, Event, Events, Lease, LockScheme, Producer};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::JsonProcess;

const SERVICE: &str = "bench";
/// What is not held by then is not waited for.
const FILL_LIMIT: Duration = Duration::from_secs(60);
/// How the holder is told what to be; its arguments follow.
const HOLDER: &str = "--holder";

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// `None`: the wire format's algorithm.
    scheme: Option<LockScheme>,
    streams: usize,
    ttl: Duration,
    hold: Duration,
}

#[derive(Debug)]
struct Figures {
    /// Streams held after the time.
    held: u64,
    lost: u64,
    commands: f64,
    /// Shares of a core.
    redis: f64,
    client: f64,
    resident: u64,
    slow: [String; 2],
}

fn main() -> std::io::Result<()> {
    if let Some(url) = value_of(HOLDER) {
        die_with_parent();
        let cell = Cell {
            scheme: schemes()[0],
            streams: number_of("--streams").unwrap(),
            ttl: Duration::from_millis(number_of("--ttl").unwrap()),
            hold: Duration::from_secs(number_of("--seconds").unwrap()),
        };
        runtime().block_on(hold(&url, cell));
        return Ok(());
    }
    let mut table = Table::new(
        "hold",
        &[
            "locks",
            "streams",
            "held at the end",
            "lost",
            "Redis commands/s",
            "Redis CPU %",
            "client CPU %",
            "RSS MiB",
            "RSS bytes/stream",
            "slowest call ms",
            "over 2 ms",
        ],
    );
    let (counts, ttl, seconds) = match is_smoke() {
        true => (vec![100, 200], 500, 1),
        false => (vec![1_000, 10_000, 100_000], 2_000, 30),
    };
    let counts = numbers_of("--streams").unwrap_or(counts);
    for scheme in schemes() {
        let mut least: Option<(usize, u64)> = None;
        for streams in &counts {
            let cell = Cell {
                scheme,
                streams: *streams,
                ttl: Duration::from_millis(number_of("--ttl").unwrap_or(ttl)),
                hold: Duration::from_secs(number_of("--seconds").unwrap_or(seconds)),
            };
            let figures = measure(cell);
            // Growth over the smallest cell: what the process is without streams is not theirs.
            let per_stream = least.map(|(streams, resident)| {
                figures.resident.saturating_sub(resident) / (cell.streams - streams) as u64
            });
            least = least.or(Some((cell.streams, figures.resident)));
            let [slowest, over] = figures.slow.clone();
            table.row([
                name_of(scheme).to_owned(),
                cell.streams.to_string(),
                figures.held.to_string(),
                figures.lost.to_string(),
                format!("{:.1}", figures.commands),
                format!("{:.2}", 100.0 * figures.redis),
                format!("{:.2}", 100.0 * figures.client),
                format!("{:.1}", figures.resident as f64 / f64::from(1 << 20)),
                per_stream.map_or("-".to_owned(), |bytes| bytes.to_string()),
                slowest,
                over,
            ]);
            if scheme == Some(LockScheme::Session) {
                budgets(&mut table, cell, &figures, per_stream);
            }
        }
    }
    table.finish()
}

/// The budget of session leases, in `docs/protocol.md`.
fn budgets(table: &mut Table, cell: Cell, figures: &Figures, per_stream: Option<u64>) {
    let what = |budget: &str| format!("session, {} streams, {budget}", cell.streams);
    let all_held = figures.lost == 0 && figures.held == cell.streams as u64;
    let lost = format!("{} lost, {} held", figures.lost, figures.held);
    table.budget(&what("leases lost 0"), &lost, all_held);
    if cell.streams < 100_000 {
        return;
    }
    let redis = format!("{:.2} %", 100.0 * figures.redis);
    let cheap = figures.redis < 0.01;
    table.budget(&what("under 1 % of a Redis core"), &redis, cheap);
    if let Some(bytes) = per_stream {
        let small = format!("{bytes} bytes");
        table.budget(
            &what("at most 1 KiB of RSS per stream"),
            &small,
            bytes <= 1024,
        );
    }
}

fn measure(cell: Cell) -> Figures {
    let server = server();
    runtime().block_on(async {
        let backend = RedisBackend::connect(server.url()).await.unwrap();
        let producer = Producer::new(SERVICE, &backend, TokioRuntime::new()).unwrap();
        for page in announcements(cell.streams) {
            producer.submit_all(page).await.unwrap();
        }
    });
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder
        .args([HOLDER, &server.url(), "--only", name_of(cell.scheme)])
        .args(["--streams", &cell.streams.to_string()])
        .args(["--ttl", &millis(cell.ttl)])
        .args(["--seconds", &cell.hold.as_secs().to_string()]);
    let mut holder = JsonProcess::spawn(&mut holder);
    holder.wait_for("begin", FILL_LIMIT * 2);
    let (before, began) = (RedisUsage::of(&server), Instant::now());
    let end = holder.wait_for("end", cell.hold + FILL_LIMIT);
    let (used, seconds) = (
        RedisUsage::of(&server).since(before),
        began.elapsed().as_secs_f64(),
    );
    let number = |name: &str| end[name].as_u64().unwrap();
    let figures = Figures {
        held: number("held"),
        lost: number("lost"),
        commands: used.commands as f64 / seconds,
        redis: used.cpu.as_secs_f64() / seconds,
        client: number("cpu_ms") as f64 / 1e3 / seconds,
        resident: number("resident"),
        slow: slowest_call(&server),
    };
    holder.wait_exit(FILL_LIMIT);
    figures
}

/// Takes all streams, holds them for the time, and says what that took.
async fn hold(url: &str, cell: Cell) {
    let mut held = Held::start(url, cell).await;
    let deadline = Instant::now() + FILL_LIMIT;
    while held.count() < cell.streams as u64 && Instant::now() < deadline {
        held.wait(Duration::from_millis(10)).await;
    }
    // What assigning has begun comes to rest.
    held.wait(cell.ttl * 2).await;
    println!("{{\"event\":\"begin\"}}");
    let before = ProcessUsage::now();
    held.wait(cell.hold).await;
    let after = ProcessUsage::now();
    println!(
        "{{\"event\":\"end\",\"held\":{},\"lost\":{},\"cpu_ms\":{},\"resident\":{}}}",
        held.count(),
        held.lost(),
        (after.cpu - before.cpu).as_millis(),
        after.resident
    );
    // Nothing is handed back: 100,000 streams would take a while, and nobody wants them.
    std::process::exit(0);
}

/// What is held, either way.
enum Held {
    Ours {
        _client: Client,
        events: Events,
        leases: Vec<Lease>,
        lost: u64,
    },
    OneByOne {
        consumer: WireConsumer,
        leases: tokio::sync::mpsc::UnboundedReceiver<streamlease_benches::wire::WireLease>,
        kept: Vec<streamlease_benches::wire::WireLease>,
    },
}

impl Held {
    async fn start(url: &str, cell: Cell) -> Self {
        let Some(scheme) = cell.scheme else {
            let (consumer, leases) = WireConsumer::start(url, SERVICE, "holder", cell.ttl).await;
            return Self::OneByOne {
                consumer,
                leases,
                kept: Vec::new(),
            };
        };
        let backend = RedisBackend::connect(url).await.unwrap();
        let (client, events) = Client::builder(SERVICE)
            .consumer("holder")
            .backend(backend.with_lock_scheme(scheme))
            .runtime(TokioRuntime::new())
            .ttl(cell.ttl)
            // Who has no room left does not sweep.
            .capacity(cell.streams + 1_000)
            .start()
            .unwrap();
        client.started().await.unwrap();
        Self::Ours {
            _client: client,
            events,
            leases: Vec::new(),
            lost: 0,
        }
    }

    /// Takes what comes within that time.
    async fn wait(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            match self {
                Self::Ours {
                    events,
                    leases,
                    lost,
                    ..
                } => match tokio::time::timeout_at(deadline, events.next()).await {
                    Ok(Some(Event::StreamAdded(lease))) => leases.push(lease),
                    Ok(Some(Event::StreamDisowned(_))) => *lost += 1,
                    // Lost often enough to count as an entry that fails its owners.
                    Ok(Some(Event::Quarantined(_))) => {}
                    Ok(Some(event)) => panic!("unexpected: {event:?}"),
                    Ok(None) => panic!("the client has ended"),
                    Err(_) => return,
                },
                Self::OneByOne { leases, kept, .. } => {
                    match tokio::time::timeout_at(deadline, leases.recv()).await {
                        Ok(lease) => kept.extend(lease),
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn lost(&self) -> u64 {
        match self {
            Self::Ours { lost, .. } => *lost,
            Self::OneByOne { consumer, .. } => consumer.lost(),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Ours { leases, .. } => {
                leases.iter().filter(|lease| lease.is_valid()).count() as u64
            }
            Self::OneByOne { consumer, kept, .. } => {
                (kept.len() as u64).saturating_sub(consumer.lost())
            }
        }
    }
}
