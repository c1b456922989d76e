//! What the benches `failover` and `handoff` share.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::recorder::{Attempt, Recorder};
use streamlease_core::{Client, Event, LockScheme, Producer};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{JsonProcess, RedisServer, Signal};
use tokio::sync::mpsc::unbounded_channel;

use crate::wire::WireConsumer;
use crate::{
    Table, announcements, die_with_parent, forget_slow_calls, is_smoke, millis, name_of, number_of,
    numbers_of, runtime, schemes, server, slowest_call,
};

const SERVICE: &str = "bench";
/// What has no owner by then counts as never.
const LIMIT: Duration = Duration::from_secs(60);
/// How the victim is told what to be; its arguments follow.
const VICTIM: &str = "--victim";

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// `None`: the wire format's algorithm.
    scheme: Option<LockScheme>,
    ttl: Duration,
    streams: usize,
    survivors: usize,
    /// Keys with a TTL that have nothing to do with it.
    unrelated: usize,
}

#[derive(Debug, Default)]
struct FailedClaims(AtomicUsize);

impl Recorder for FailedClaims {
    fn claim(&self, result: Attempt, n: usize) {
        if result == Attempt::Refused {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    fn lock_acquire(&self, result: Attempt, n: usize) {
        self.claim(result, n);
    }
}

/// Measures all cells with `signal`, and prints them.
pub fn bench(name: &'static str, signal: Signal) -> std::io::Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != VICTIM).skip(1);
    if let (Some(url), Some(scheme), Some(ttl), Some(streams)) =
        (args.next(), args.next(), args.next(), args.next())
    {
        die_with_parent();
        let ttl = Duration::from_millis(ttl.parse().unwrap());
        runtime().block_on(victim(&url, &scheme, ttl, streams.parse().unwrap()));
        return Ok(());
    }
    let mut table = Table::new(
        name,
        &[
            "locks",
            "TTL ms",
            "streams",
            "survivors",
            "unrelated",
            "p50 ms",
            "p99 ms",
            "max ms",
            "never",
            "failed claims",
            "slowest call ms",
            "over 2 ms",
        ],
    );
    for cell in cells(signal) {
        let (mut took, failed_claims, slow) = measure(cell, signal);
        took.sort();
        let never = cell.streams - took.len();
        // Of all streams: a percentile that was never reached is none.
        let at = |percent: usize| {
            let index = (cell.streams * percent).div_ceil(100) - 1;
            took.get(index).map_or("never".to_owned(), |t| millis(*t))
        };
        let row = [
            name_of(cell.scheme).to_owned(),
            millis(cell.ttl),
            cell.streams.to_string(),
            cell.survivors.to_string(),
            cell.unrelated.to_string(),
            at(50),
            at(99),
            at(100),
            never.to_string(),
            failed_claims.to_string(),
        ];
        table.row(row.into_iter().chain(slow));
        if let Some(budget) = budget(cell, signal) {
            let p99 = took.get((cell.streams * 99).div_ceil(100) - 1);
            let what = format!(
                "session, TTL {} ms, {} streams, {} survivor(s), {} unrelated keys, p99 at most {} ms",
                millis(cell.ttl),
                cell.streams,
                cell.survivors,
                cell.unrelated,
                millis(budget)
            );
            table.budget(&what, &at(99), p99.is_some_and(|p99| *p99 <= budget));
        }
    }
    table.finish()
}

/// The budget of the 99th percentile with session leases, in `docs/protocol.md`.
fn budget(cell: Cell, signal: Signal) -> Option<Duration> {
    if cell.scheme != Some(LockScheme::Session) {
        return None;
    }
    match (cell.streams, signal == Signal::KILL) {
        (1_000, true) => Some(cell.ttl + Duration::from_millis(100)),
        (10_000, true) => Some(cell.ttl + Duration::from_millis(400)),
        (100, false) => Some(Duration::from_millis(50)),
        _ => None,
    }
}

fn cells(signal: Signal) -> Vec<Cell> {
    let (half, two) = (Duration::from_millis(500), Duration::from_secs(2));
    let (schemes, ttl, streams) = (schemes(), number_of("--ttl"), numbers_of("--streams"));
    let mut cells = Vec::new();
    let mut add = |scheme, ttl, streams, survivors, unrelated| {
        cells.push(Cell {
            scheme,
            ttl,
            streams,
            survivors,
            unrelated,
        });
    };
    if is_smoke() {
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            add(Some(scheme), half, 20, 1, 100);
        }
        return cells;
    }
    let ttls = ttl.map_or(vec![two, half], |ttl| vec![Duration::from_millis(ttl)]);
    let counts = streams.unwrap_or(vec![100, 1_000, 10_000]);
    for scheme in schemes {
        for (survivors, unrelated) in [(4, 100_000), (1, 100_000), (1, 0), (4, 0)] {
            for ttl in &ttls {
                for streams in &counts {
                    // The reference can take its minute per cell, so not every
                    // cell has it; its `Done()` deletes, so there is no handoff.
                    let lean = survivors == 1 && *ttl != half && signal == Signal::KILL;
                    if scheme.is_some() || lean {
                        add(scheme, *ttl, *streams, survivors, unrelated);
                    }
                }
            }
        }
    }
    cells
}

/// How long each stream took that found an owner, the claims that failed, and the
/// slowest call.
fn measure(cell: Cell, signal: Signal) -> (Vec<Duration>, usize, [String; 2]) {
    let server = server();
    if cell.unrelated > 0 {
        let fill = "for i = 1, ARGV[1] do redis.call('SET', 'unrelated-'..i, i, 'EX', 3600) end";
        let mut fill_command = redis::cmd("EVAL");
        fill_command.arg(fill).arg(0).arg(cell.unrelated);
        fill_command.query::<()>(&mut server.connection()).unwrap();
        forget_slow_calls(&server);
    }
    runtime().block_on(async {
        submit(&server, cell).await;
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim
            .args([VICTIM, &server.url()])
            .arg(name_of(cell.scheme))
            .arg(millis(cell.ttl))
            .arg(cell.streams.to_string());
        let victim = JsonProcess::spawn(&mut victim);
        victim.wait_for("held", LIMIT);

        let (added, mut adds) = unbounded_channel();
        let failed = Arc::new(FailedClaims::default());
        let mut wires = Vec::new();
        let mut clients = Vec::new();
        for n in 0..cell.survivors {
            let added = added.clone();
            let Some(scheme) = cell.scheme else {
                let (consumer, mut leases) =
                    WireConsumer::start(&server.url(), SERVICE, &format!("s{n}"), cell.ttl).await;
                tokio::spawn(async move {
                    while let Some(lease) = leases.recv().await {
                        let _ = added.send(lease.at);
                    }
                });
                wires.push(consumer);
                continue;
            };
            let (client, mut events) =
                start(&server.url(), scheme, cell.ttl, n, failed.clone()).await;
            tokio::spawn(async move {
                let mut leases = Vec::new();
                while let Some(event) = events.next().await {
                    if let Event::StreamAdded(lease) = event {
                        let _ = added.send(Instant::now());
                        leases.push(lease);
                    }
                }
            });
            clients.push(client);
        }
        // Until each has sent a heartbeat and knows of the others.
        tokio::time::sleep(cell.ttl).await;

        let killed = Instant::now();
        victim.signal(signal);
        let mut took = Vec::new();
        let deadline = tokio::time::Instant::from_std(killed + LIMIT);
        while took.len() < cell.streams {
            match tokio::time::timeout_at(deadline, adds.recv()).await {
                Ok(Some(at)) => took.push(at.saturating_duration_since(killed)),
                _ => break,
            }
        }
        let ours = failed.0.load(Ordering::Relaxed);
        let theirs: u64 = wires.iter().map(WireConsumer::failed_claims).sum();
        (took, ours + theirs as usize, slowest_call(&server))
    })
}

async fn submit(server: &RedisServer, cell: Cell) {
    let backend = RedisBackend::connect(server.url()).await.unwrap();
    let producer = Producer::new(SERVICE, &backend, TokioRuntime::new()).unwrap();
    for page in announcements(cell.streams) {
        producer.submit_all(page).await.unwrap();
    }
}

async fn start(
    url: &str,
    scheme: LockScheme,
    ttl: Duration,
    n: usize,
    recorder: Arc<dyn Recorder>,
) -> (Client, streamlease_core::Events) {
    let backend = RedisBackend::connect(url).await.unwrap();
    let (client, events) = Client::builder(SERVICE)
        .consumer(format!("s{n}"))
        .backend(backend.with_lock_scheme(scheme))
        .runtime(TokioRuntime::new())
        .ttl(ttl)
        .capacity(20_000)
        .recorder(recorder)
        .start()
        .unwrap();
    client.started().await.unwrap();
    (client, events)
}

/// Holds all streams until it is told to go.
async fn victim(url: &str, scheme: &str, ttl: Duration, streams: usize) {
    let mut terminated =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let held = || println!("{{\"event\":\"held\"}}");
    let scheme = match scheme {
        "session" => LockScheme::Session,
        "per-stream" => LockScheme::PerStream,
        _ => {
            let (_consumer, mut leases) = WireConsumer::start(url, SERVICE, "victim", ttl).await;
            let mut kept = Vec::new();
            while kept.len() < streams {
                kept.push(leases.recv().await);
            }
            held();
            terminated.recv().await;
            return;
        }
    };
    let recorder = Arc::new(FailedClaims::default());
    let (client, mut events) = start(url, scheme, ttl, 1_000, recorder).await;
    let mut leases = Vec::new();
    let holding = async {
        while let Some(event) = events.next().await {
            if let Event::StreamAdded(lease) = event {
                leases.push(lease);
                if leases.len() == streams {
                    held();
                }
            }
        }
    };
    tokio::select! {
        () = holding => {}
        _ = terminated.recv() => client.shutdown().await.unwrap(),
    }
}
