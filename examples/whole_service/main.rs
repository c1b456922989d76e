//! A service with fencing, a shutdown in good order and metrics. docs/getting-started.md shows it.
//!
//! ```text
//! export REDIS_URL=redis://127.0.0.1/ POD_NAME=worker-1
//! cargo run --example whole_service
//! ```

use std::{env, sync::Arc};

use metrics_exporter_prometheus::PrometheusBuilder;
use redis::{ToRedisArgs, aio::MultiplexedConnection as Store};
use streamlease::metrics::Metrics;
use streamlease::{Client, Done, Lease, RedisBackend, Run, Stopping, TokioRuntime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    PrometheusBuilder::new().with_http_listener(([127, 0, 0, 1], 9000)).install()?;
    serve(env::var("POD_NAME")?, env::var("REDIS_URL")?, Run::until(tokio::signal::ctrl_c())).await
}

async fn serve(name: String, url: String, until: Run) -> Result<(), Failure> {
    let (client, events) = Client::builder("calls")
        .consumer(name)
        .backend(RedisBackend::new(&url)?)
        .runtime(TokioRuntime::new())
        .recorder(Metrics::of("calls"))
        .start()?;
    let store = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(client.run(events, until, |lease, stopping| handle(lease, stopping, store.clone())).await?)
}

async fn handle(lease: Arc<Lease>, stopping: Stopping, store: Store) -> Result<Done, Failure> {
    let mut position = step(&lease, store.clone(), "").await?; // Puts the token down, then reads.
    while !stopping.is_requested() {
        if !part(lease.stream().as_str(), position).await {
            return Ok(Done::Complete);
        }
        position += 1;
        step(&lease, store.clone(), position).await?;
    }
    Ok(Done::HandBack)
}

async fn step(lease: &Lease, mut store: Store, to: impl ToRedisArgs) -> Result<u64, Failure> {
    let script = redis::Script::new(include_str!("step.lua"));
    let mut call = script.key(format!("calls:{}", lease.stream()));
    let position: Option<u64> =
        call.arg(lease.token().get()).arg(to).invoke_async(&mut store).await?;
    position.ok_or_else(|| "a later owner has been there".into())
}

/// The work.
async fn part(stream: &str, position: u64) -> bool {
    println!("part {position} of {stream}");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    position < 5
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use streamlease::{Info, Producer};
    use streamlease_tests::{RedisServer, wait_for};

    use super::*;

    /// What is between these lines, as the page has it.
    fn program() -> &'static str {
        let source = include_str!("main.rs");
        let (_, rest) = source.split_once("//! ```\n\n").unwrap();
        rest.split_once("\n/// The work.").unwrap().0
    }

    #[test]
    fn the_page_shows_this_program_and_it_has_less_than_40_lines() {
        assert!(include_str!("../../docs/getting-started.md").contains(program()));
        let lines = program().lines().filter(|line| !line.trim().is_empty());
        assert!(lines.count() < 40);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_service_works_measures_and_stops() {
        let server = RedisServer::start();
        let metrics = PrometheusBuilder::new().install_recorder().unwrap();
        let redis = RedisBackend::connect(server.url()).await.unwrap();
        let producer = Producer::new("calls", &redis, TokioRuntime::new()).unwrap();
        producer.submit("call-1", Info::NONE).await.unwrap();
        // Its owner has left a token that is greater than any.
        server.run::<i64>(&["HSET", "calls:stale", "token", "9999999999999999999"]);
        producer.submit("stale", Info::NONE).await.unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let until = Run::until(async move { stopped.recv().await });
        let url = server.url();
        let serving = tokio::spawn(async move { serve("worker-1".to_owned(), url, until).await });
        let limit = Duration::from_secs(20);
        wait_for("both have ended", limit, async || {
            assert!(!serving.is_finished());
            let text = metrics.render();
            let ended = |kind: &str| {
                let mut lines = text.lines().filter(|line| line.contains("_ended_total{"));
                lines.any(|line| line.contains(&format!("\"{kind}\"")))
            };
            (ended("completed") && ended("failed")).then_some(())
        })
        .await;
        let position: String = server.run(&["HGET", "calls:call-1", "position"]);
        assert_eq!(position, "5");
        drop(stop);
        serving.await.unwrap().unwrap();
    }
}
