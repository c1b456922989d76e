//! The main job in a few seconds: calls come in, three workers share them, one
//! worker is killed and one stalls, and every call is finished all the same,
//! by one worker at a time.
//!
//! ```text
//! cargo run --example failover                                 # in memory, no Redis needed
//! cargo run --example failover -- --redis redis://127.0.0.1/   # the same on Redis
//! cargo run --example failover -- --runtime smol               # tokio (default), async-std, smol
//! ```
//!
//! It prints what happens and ends with a summary. It exits with 1 if a call was
//! lost, or had two owners at once.
//!
//! Where to look: `worker.rs` is what your program has in it, the loop over
//! events and the work on one stream. `ledger.rs` is a store that is safe from
//! stale owners. `audit.rs` looks over everybody's shoulder. This file is the
//! stage: it starts everything, kills and stops.

mod audit;
mod ledger;
mod timeline;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use streamlease::{
    AsyncStdRuntime, BackendProvider, Client, Info, MemoryBackend, Producer, RedisBackend, Result,
    Runtime, SmolRuntime, TokioRuntime,
};
use streamlease_examples::Process;

use crate::audit::Audit;
use crate::ledger::Ledger;
use crate::timeline::Timeline;
use crate::worker::Worker;

const CALLS: usize = 12;
/// A lease outlives its owner by at most this.
const TTL: Duration = Duration::from_secs(1);
/// No step of the play takes that long, unless something is broken.
const BOUND: Duration = Duration::from_secs(15);

/// Twelve calls, three workers: one is killed, one stalls, nothing is lost.
#[derive(Debug, Parser)]
struct Args {
    /// Run on this Redis server instead of in memory, e.g. redis://127.0.0.1/
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// What the tasks run on.
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: RuntimeKind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RuntimeKind {
    Tokio,
    AsyncStd,
    Smol,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.runtime {
        RuntimeKind::Tokio => match tokio::runtime::Runtime::new() {
            Ok(tokio) => tokio.block_on(async {
                let runtime = Arc::new(TokioRuntime::new());
                play(&args, runtime).await
            }),
            Err(err) => {
                eprintln!("error: tokio does not start: {err}");
                return ExitCode::FAILURE;
            }
        },
        // These two have a global executor: it is enough to wait for it.
        RuntimeKind::AsyncStd => {
            futures_lite::future::block_on(play(&args, Arc::new(AsyncStdRuntime::new())))
        }
        RuntimeKind::Smol => {
            futures_lite::future::block_on(play(&args, Arc::new(SmolRuntime::new())))
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

/// The whole play; whether all is well at its end.
async fn play(args: &Args, runtime: Arc<dyn Runtime>) -> Result<bool> {
    // Every run has a service of its own, so that runs do not meet in Redis.
    let service = format!("failover-{}", std::process::id());
    let memory = MemoryBackend::new(runtime.clone());
    let place = if args.redis.is_some() {
        "on Redis"
    } else {
        "in memory"
    };
    println!(
        "{CALLS} calls, 3 workers, {place}, on {:?}. A worker that is silent for {TTL:?} loses its calls.\n",
        args.runtime
    );

    let timeline = Timeline::new(runtime.clone());
    let ledger = Arc::new(Ledger::default());
    let audit = Arc::new(Audit::default());
    // Closed once the last task of the last worker has ended.
    let (alive, ended) = async_channel::bounded(1);
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2", "worker-3"] {
        let process = Process::new(runtime.clone());
        let (client, events) = Client::builder(&service)
            .consumer(name)
            // Each worker connects for itself, as separate processes do.
            .backend(connect(args, &memory).await?)
            .runtime(process.clone())
            .ttl(TTL)
            .start()?;
        client.started().await?;
        let worker = Worker {
            name,
            process: process.clone(),
            timeline: timeline.clone(),
            ledger: ledger.clone(),
            audit: audit.clone(),
            _alive: alive.clone(),
        };
        process.run(worker.run(events));
        timeline.say(name, "is ready");
        workers.push((name, process, client));
    }

    drop(alive);

    let producer = Producer::new(&service, &*connect(args, &memory).await?, runtime.clone())?;
    for number in 1..=CALLS {
        let call = format!("call-{number:02}");
        timeline.say("producer", format!("announces {call}"));
        producer
            .submit(&call, Info::from_json(r#"{"codec":"opus"}"#)?)
            .await?;
        audit.announced(&call);
        pause(&runtime, Duration::from_millis(80)).await;
    }

    until(&runtime, || audit.all_owned()).await;
    // Whoever has the most to do fails.
    workers.sort_by_key(|(name, ..)| std::cmp::Reverse(audit.held_by(name)));
    let (killed, stopped) = (&workers[0], &workers[1]);

    killed.1.kill();
    timeline.stage(format!(
        "{} is killed, as by kill -9, with {} calls in its hands",
        killed.0,
        audit.held_by(killed.0)
    ));
    until(&runtime, || audit.replaced(killed.0)).await;
    stopped.1.stop();
    timeline.stage(format!(
        "{} stalls in the middle of its work on {} calls, and does not know it",
        stopped.0,
        audit.held_by(stopped.0)
    ));
    until(&runtime, || audit.replaced(stopped.0)).await;
    pause(&runtime, TTL / 4).await;
    timeline.stage(format!("{} wakes up and goes on where it was", stopped.0));
    stopped.1.resume();

    until(&runtime, || audit.all_completed()).await;
    // The last refused writes and events.
    pause(&runtime, TTL / 2).await;
    for (name, _, client) in &workers {
        if *name != killed.0 {
            client.shutdown().await?;
        }
    }
    until(&runtime, || ended.is_closed()).await;
    if let Some(url) = &args.redis
        && let Err(err) = streamlease_examples::remove_keys(url, &service)
    {
        eprintln!("the keys of service {service} stay in Redis: {err}");
    }

    let summary = audit.summary(&ledger);
    println!("\nsummary: {summary}");
    Ok(summary.is_well())
}

/// The same memory for everybody, or a connection of one's own.
async fn connect(args: &Args, memory: &MemoryBackend) -> Result<Arc<dyn BackendProvider>> {
    Ok(match &args.redis {
        Some(url) => Arc::new(RedisBackend::connect(url).await?),
        None => Arc::new(memory.clone()),
    })
}

async fn pause(runtime: &Arc<dyn Runtime>, time: Duration) {
    runtime.sleep_until(runtime.now() + time).await;
}

/// Waits for something to happen; not for ever, the summary tells what did not.
async fn until(runtime: &Arc<dyn Runtime>, condition: impl Fn() -> bool) {
    let deadline = runtime.now() + BOUND;
    while !condition() && runtime.now() < deadline {
        pause(runtime, Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use streamlease_tests::RedisServer;

    fn on(redis: Option<String>) -> Args {
        Args {
            redis,
            runtime: RuntimeKind::Tokio,
        }
    }

    #[test]
    fn all_is_well_on_async_std() {
        assert!(block_on(play(&on(None), Arc::new(AsyncStdRuntime::new()))).unwrap());
    }

    #[test]
    fn all_is_well_on_smol() {
        assert!(block_on(play(&on(None), Arc::new(SmolRuntime::new()))).unwrap());
    }

    #[tokio::test]
    async fn all_is_well_on_tokio() {
        assert!(
            play(&on(None), Arc::new(TokioRuntime::new()))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn all_is_well_on_redis_and_nothing_stays_there() {
        let server = RedisServer::start();
        let args = on(Some(server.url()));
        assert!(play(&args, Arc::new(TokioRuntime::new())).await.unwrap());
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query(&mut server.connection())
            .unwrap();
        assert!(keys.is_empty(), "{keys:?}");
    }
}
