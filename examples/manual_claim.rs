//! The notification loop that users of the Go library know: the client reports
//! streams whose owner is gone, and your code decides who takes them.
//!
//! ```text
//! cargo run --example manual_claim
//! cargo run --example manual_claim -- --redis redis://127.0.0.1/
//! ```
//!
//! `worker-1` leases three streams and is killed. `worker-2`, with
//! `ClaimMode::Manual`, hears `StreamExpired` for each, claims it, and gets it
//! as `StreamAdded`. Without manual claiming, the default, the library does the
//! claiming, and there is no `StreamExpired`.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use streamlease::{
    BackendProvider, ClaimMode, ClaimResult, Client, Completion, ConsumerName, Event, Events, Info,
    Lease, MemoryBackend, Producer, RedisBackend, Result, Runtime, TokioRuntime,
};
use streamlease_examples::Process;

/// A worker dies; another hears of its streams and claims them.
#[derive(Debug, Parser)]
struct Args {
    /// Run on this Redis server instead of in memory, e.g. redis://127.0.0.1/
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

const TTL: Duration = Duration::from_secs(1);
const STREAMS: [&str; 3] = ["call-1", "call-2", "call-3"];

/// The loop. Compare with `for n := range client.Init(ctx)` in Go. Returns how many streams it
/// has claimed.
async fn work(client: Client, mut events: Events) -> Result<usize> {
    let (mut claimed, mut finished) = (0, 0);
    while let Some(event) = events.next().await {
        match event {
            Event::StreamAdded(lease) => {
                println!("StreamAdded     {}", lease.stream());
                handle(&client, &lease).await?;
                finished += 1;
                if finished == STREAMS.len() {
                    // Go's Done() acknowledges and deletes what is unfinished. This
                    // one hands it back, so that others continue.
                    client.shutdown().await?;
                }
            }
            Event::StreamExpired(orphan) => {
                let owner = orphan.owner().map_or("nobody", ConsumerName::as_str);
                println!("StreamExpired   {}, was with {owner}", orphan.stream());
                // Every client in manual mode hears of it; one of the claims succeeds.
                match client.claim(&orphan).await? {
                    ClaimResult::Claimed => {
                        println!("                claimed");
                        claimed += 1;
                    }
                    other => println!("                not claimed: {other:?}"),
                }
            }
            Event::StreamDisowned(lost) => {
                println!("StreamDisowned  {}: {}", lost.stream(), lost.reason());
            }
            Event::Terminated(end) => {
                println!("Terminated      {end}");
                // An error, if it was not asked for.
                end.into_result()?;
            }
            // Events may be added in later versions.
            other => println!("{other:?}"),
        }
    }
    Ok(claimed)
}

/// A real handler would be a task of its own, so that the loop goes on.
async fn handle(client: &Client, lease: &Lease) -> Result<()> {
    // By name, as in Go; `lease.complete()` does the same.
    match client.complete_stream(lease.stream()).await? {
        Completion::Completed => println!("                done"),
        other => println!("                not done by this worker: {other:?}"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    run(Args::parse().redis).await?;
    Ok(())
}

/// Both workers, on a server or in memory.
async fn run(redis: Option<String>) -> Result<usize> {
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::new());
    let backend: Arc<dyn BackendProvider> = match &redis {
        Some(url) => Arc::new(RedisBackend::connect(url).await?),
        None => Arc::new(MemoryBackend::new(runtime.clone())),
    };
    // Every run has a service of its own, so that runs do not meet in Redis.
    let service = format!("manual-claim-{}", std::process::id());

    let producer = Producer::new(&service, &*backend, runtime.clone())?;
    for stream in STREAMS {
        producer.submit(stream, Info::NONE).await?;
    }
    lease_all_and_die(&service, &backend, &runtime).await?;
    println!(
        "worker-1 has leased {} streams and is dead\n",
        STREAMS.len()
    );

    let (client, events) = Client::builder(&service)
        // Left out, this is POD_NAME, else POD_IP, as in Go.
        .consumer("worker-2")
        .backend(backend)
        .runtime(runtime)
        .ttl(TTL)
        .claim_mode(ClaimMode::Manual)
        .start()?;
    let claimed = work(client, events).await?;

    if let Some(url) = &redis
        && let Err(err) = streamlease_examples::remove_keys(url, &service)
    {
        eprintln!("the keys of service {service} stay in Redis: {err}");
    }
    Ok(claimed)
}

/// A worker that is killed, as by `kill -9`, with everything in its hands.
async fn lease_all_and_die(
    service: &str,
    backend: &Arc<dyn BackendProvider>,
    runtime: &Arc<dyn Runtime>,
) -> Result<()> {
    let process = Process::new(runtime.clone());
    let (_client, mut events) = Client::builder(service)
        .consumer("worker-1")
        .backend(backend.clone())
        .runtime(process.clone())
        .ttl(TTL)
        .start()?;
    let mut leases = Vec::new();
    while let Some(Event::StreamAdded(lease)) = events.next().await {
        leases.push(lease);
        if leases.len() == STREAMS.len() {
            break;
        }
    }
    process.kill();
    Ok(())
}

#[cfg(test)]
mod tests {
    use streamlease_tests::RedisServer;

    use super::*;

    #[tokio::test]
    async fn the_second_worker_claims_what_the_dead_one_held() {
        assert_eq!(run(None).await.unwrap(), STREAMS.len());
    }

    #[tokio::test]
    async fn it_does_so_on_a_server_and_leaves_nothing_there() {
        let server = RedisServer::start();
        assert_eq!(run(Some(server.url())).await.unwrap(), STREAMS.len());
        let keys: Vec<String> = server.run(&["KEYS", "*"]);
        assert!(keys.is_empty(), "{keys:?}");
    }
}
