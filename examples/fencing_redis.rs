//! Fencing in Redis: a worker keeps there how far it got, the next owner goes on from there, and
//! a stale owner changes nothing.
//!
//! ```text
//! cargo run --example fencing_redis -- redis://127.0.0.1/
//! cargo test --example fencing_redis    # on a server of its own, by 500 fleets under faults
//! ```
//!
//! The store is one script, [`STEP`]. A handler puts its token down, and is told in the same step
//! where to go on; then it writes with its token. The tests have other scripts that look much like
//! it, and are wrong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{ConnectionLike, Script};
use streamlease::spi::BoxFuture;
use streamlease::{
    Client, FencingToken, Info, Producer, RedisBackend, Run, StreamName, TokioRuntime,
};

/// KEYS[1]: a hash of token and position. ARGV: the owner's token, and a new position or ''.
/// Returns the position; nothing to an owner whose token is lower than one that was there.
///
/// Tokens are compared as text of one width, for Lua's numbers are not exact above 2^53.
const STEP: &str = include_str!("whole_service/step.lua");

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How far the work on data streams is.
struct Progress {
    client: redis::Client,
    connection: Mutex<redis::Connection>,
    step: Script,
    prefix: String,
}

impl Progress {
    fn new(url: &str, script: &str, prefix: &str) -> redis::RedisResult<Self> {
        let client = redis::Client::open(url)?;
        Ok(Self {
            connection: Mutex::new(client.get_connection()?),
            client,
            step: Script::new(script),
            prefix: prefix.into(),
        })
    }

    /// Puts the token down, and the new position if there is one. Says what the position is;
    /// nothing if a later owner goes on. An error says nothing, and the same may be asked again.
    fn step(
        &self,
        stream: &StreamName,
        token: FencingToken,
        to: Option<u64>,
    ) -> redis::RedisResult<Option<u64>> {
        let connection = self.connection.lock();
        let mut connection = connection.unwrap_or_else(PoisonError::into_inner);
        if !connection.is_open() {
            *connection = self.client.get_connection()?;
        }
        self.step
            .key(format!("{}:{stream}", self.prefix))
            .arg(token.get())
            .arg(to.map_or(String::new(), |to| to.to_string()))
            .invoke(&mut *connection)
    }
}

const NAMES: [&str; 2] = ["call-1", "call-2"];

/// How much work there is in a stream.
const PARTS: u64 = 5;

/// The handler: `step` is the store, and waits while it is away; `part` does some of the work.
async fn handle(
    step: impl Fn(Option<u64>) -> BoxFuture<'static, Option<u64>>,
    part: impl Fn(u64) -> BoxFuture<'static, ()>,
) -> Result<(), &'static str> {
    let mut to = None;
    loop {
        let position = step(to).await.ok_or("fenced: a later owner goes on")?;
        if position == PARTS {
            return Ok(());
        }
        part(position).await;
        to = Some(position + 1);
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::args().nth(1);
    work(&url.unwrap_or_else(|| "redis://127.0.0.1/".into())).await
}

/// Announces two streams, and works until both are done.
async fn work(url: &str) -> Result<(), Failure> {
    let redis = RedisBackend::connect(url).await?;
    let producer = Producer::new("fenced", &redis, TokioRuntime::new())?;
    for name in NAMES {
        producer.submit(name, Info::NONE).await?;
    }
    let client = Client::builder("fenced")
        .consumer("worker-1")
        .backend(redis);
    let (client, events) = client.runtime(TokioRuntime::new()).start()?;
    let progress = Arc::new(Progress::new(url, STEP, "progress")?);
    let (done, all_done) = async_channel::bounded::<()>(2);
    let until = Run::until(async move {
        for _ in 0..2 {
            let _ = all_done.recv().await;
        }
    });
    let run = client.run(events, until, move |lease, _stopping| {
        let (progress, done) = (progress.clone(), done.clone());
        async move {
            let (stream, token) = (lease.stream().clone(), lease.token());
            let name = stream.clone();
            let step = move |to| -> BoxFuture<'static, _> {
                let (progress, stream) = (progress.clone(), stream.clone());
                Box::pin(async move {
                    loop {
                        // The connection blocks its thread for a moment.
                        let ask = || progress.step(&stream, token, to);
                        match tokio::task::block_in_place(ask) {
                            Ok(position) => return position,
                            // No failure of the stream: it would be the same with each.
                            Err(error) => eprintln!("the store is away: {error}"),
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                })
            };
            let part = |position| -> BoxFuture<'static, ()> {
                println!("{name}, part {position}, with token {token}");
                Box::pin(tokio::time::sleep(Duration::from_millis(100)))
            };
            handle(step, part).await?;
            let _ = done.send(()).await;
            Ok::<_, &str>(())
        }
    });
    Ok(run.await?)
}

#[cfg(test)]
mod tests {
    use streamlease::{Event, Lease};
    use streamlease_testkit::simulation::fleet::{Outcome, Process, Trial};
    use streamlease_tests::{RedisServer, wait_for_blocking};

    use super::*;

    /// One request to the store, on a network that takes its time.
    async fn ask(
        process: Process,
        progress: Arc<Progress>,
        lease: Arc<Lease>,
        to: Option<u64>,
    ) -> Option<u64> {
        let latency = || process.sleep(Duration::from_millis(process.random(30)));
        latency().await;
        let (stream, token) = (lease.stream(), lease.token());
        let position = progress.step(stream, token, to).unwrap()?;
        match to {
            None => process.ledger().was_read(stream, token),
            Some(_) => process.ledger().was_written(stream, token),
        }
        if position == PARTS {
            process.ledger().was_finished(stream, token, lease.entry());
        }
        latency().await;
        Some(position)
    }

    async fn worker(process: Process, progress: Arc<Progress>) {
        let client = process.client().capacity(8).start();
        let (_client, mut events) = client.unwrap();
        while let Some(event) = events.next().await {
            let Event::StreamAdded(lease) = event else {
                continue;
            };
            let (lease, progress) = (Arc::new(lease), progress.clone());
            let (asks, works, of) = (process.clone(), process.clone(), lease.clone());
            process.spawn(async move {
                let step = move |to| -> BoxFuture<'static, _> {
                    Box::pin(ask(asks.clone(), progress.clone(), of.clone(), to))
                };
                let part = move |_| -> BoxFuture<'static, ()> {
                    let process = works.clone();
                    Box::pin(async move {
                        process
                            .sleep(Duration::from_millis(process.random(300)))
                            .await;
                    })
                };
                if handle(step, part).await.is_ok() {
                    let _ = lease.complete().await;
                }
            });
        }
    }

    fn trial(seed: u64, server: &RedisServer, script: &str) -> Outcome {
        let progress = Progress::new(&server.url(), script, &format!("trial-{seed}")).unwrap();
        let progress = Arc::new(progress);
        let mut trial = Trial::of(seed);
        // Few, so that what goes wrong goes wrong with each; and many seeds.
        trial.announcements.truncate(6);
        trial.run(|process| worker(process, progress.clone()))
    }

    fn holds(seeds: std::ops::RangeInclusive<u64>) {
        let server = RedisServer::start();
        for seed in seeds {
            trial(seed, &server, STEP).assert_holds();
        }
    }

    /// By which seed it is found, of the first 200.
    fn is_found(name: &str, script: &str) {
        assert_ne!(script, STEP);
        let server = RedisServer::start();
        let bad = |seed: &u64| !trial(*seed, &server, script).violations.is_empty();
        let found = (1..=200).find(bad);
        println!("{name}: found by seed {found:?}");
        assert!(found.is_some(), "{name} is not found");
    }

    /// In parts, each of which takes a few seconds.
    macro_rules! hold {
        ($($name:ident: $seeds:expr,)*) => {$(
            #[test]
            fn $name() {
                holds($seeds);
            }
        )*};
    }

    hold! {
        seeds_1_to_50_hold: 1..=50,
        seeds_51_to_100_hold: 51..=100,
        seeds_101_to_150_hold: 101..=150,
        seeds_151_to_200_hold: 151..=200,
        seeds_201_to_250_hold: 201..=250,
        seeds_251_to_300_hold: 251..=300,
        seeds_301_to_350_hold: 301..=350,
        seeds_351_to_400_hold: 351..=400,
        seeds_401_to_450_hold: 401..=450,
        seeds_451_to_500_hold: 451..=500,
    }

    #[test]
    fn a_store_that_takes_everything_is_found() {
        is_found("no check", &STEP.replace("return false", "local _ = 0"));
    }

    /// The owner before can still write what the new one has not read.
    #[test]
    fn a_token_that_only_writes_put_down_is_found() {
        let put_down = "redis.call('HSET', KEYS[1], 'token', ARGV[1])";
        let late = format!("if ARGV[2] ~= '' then {put_down} end");
        is_found("reads first", &STEP.replace(put_down, &late));
    }

    /// The next owner of the same stream has a token that is greater by little.
    #[test]
    fn tokens_that_are_compared_without_their_last_digits_are_found() {
        let rounded = "local function wide(token) return math.floor(tonumber(token) / 1e9) end";
        let exact = "local function wide(token) return string.rep('0', 20 - #token) .. token end";
        is_found("rounded tokens", &STEP.replace(exact, rounded));
    }

    #[test]
    fn a_check_that_writes_skip_is_found() {
        let check = "if wide(ARGV[1]) < wide(seen) then";
        let only_reads = "if ARGV[2] == '' and wide(ARGV[1]) < wide(seen) then";
        is_found("unchecked writes", &STEP.replace(check, only_reads));
    }

    #[test]
    fn a_greater_token_refuses_lower_ones_and_the_same_can_come_again() {
        let server = RedisServer::start();
        let progress = Progress::new(&server.url(), STEP, "p").unwrap();
        let stream = StreamName::new("s").unwrap();
        let step = |token, to| progress.step(&stream, FencingToken(token), to).unwrap();
        assert_eq!(step(9, None), Some(0));
        assert_eq!(step(9, Some(1)), Some(1));
        assert_eq!(step(9, Some(1)), Some(1), "its answer was lost");
        // Of another width, and more than a floating-point number tells apart.
        let great = 1_800_000_000_000_000_001;
        assert_eq!(step(10, None), Some(1));
        assert_eq!(step(9, Some(2)), None);
        assert_eq!(step(great, None), Some(1));
        assert_eq!(step(great - 1, Some(2)), None);
        assert_eq!(step(great, None), Some(1), "nothing changed");
    }

    /// Text without its indentation.
    fn lines(text: &str) -> Vec<&str> {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect()
    }

    #[test]
    fn the_page_shows_this_script() {
        let page = lines(include_str!("../docs/fencing.md"));
        let script = lines(STEP);
        assert!(page.windows(script.len()).any(|part| part == script));
    }

    /// Its connections are closed in the middle: each stream is completed by its first owner.
    #[test]
    fn the_program_works_and_outlives_its_connections() {
        let server = RedisServer::start();
        let tokio = tokio::runtime::Runtime::new().unwrap();
        let url = server.url();
        let working = tokio.spawn(async move { work(&url).await });
        let read = |name: &str, field: &str| -> Option<u64> {
            server.run(&["HGET", &format!("progress:{name}"), field])
        };
        let limit = Duration::from_secs(20);
        let first = wait_for_blocking("both are under way", limit, || {
            let is_in_work = |name| read(name, "position").is_some_and(|to| to < PARTS);
            let tokens = NAMES.map(|name| read(name, "token"));
            NAMES.iter().all(|name| is_in_work(name)).then_some(tokens)
        });
        assert!(server.run::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]) > 1);
        tokio.block_on(working).unwrap().unwrap();
        for name in NAMES {
            assert_eq!(read(name, "position"), Some(PARTS));
        }
        assert_eq!(NAMES.map(|name| read(name, "token")), first);
    }
}
