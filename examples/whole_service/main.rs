//! A service with fencing, a shutdown in good order and metrics. docs/getting-started.md shows it.
//!
//! ```text
//! export REDIS_URL=redis://127.0.0.1/ POD_NAME=worker-1 LISTEN=127.0.0.1:9000
//! cargo run --example whole_service
//! ```

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use streamlease::metrics::{Metrics, buckets};
use streamlease::{Client, Done, Lease, RedisBackend, Run, Stopping, TokioRuntime};
use tokio::signal::{ctrl_c, unix};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [url, listen] = ["REDIS_URL", "LISTEN"].map(|name| env::var(name).expect(name));
    let exporter = buckets().try_fold(PrometheusBuilder::new(), |exporter, (name, bounds)| {
        exporter.set_buckets_for_metric(Matcher::Full(name.into()), bounds)
    })?;
    exporter.with_http_listener(listen.parse::<SocketAddr>().expect("LISTEN")).install()?;
    let mut term = unix::signal(unix::SignalKind::terminate())?;
    let told = async move { tokio::select!(_ = term.recv() => (), _ = ctrl_c() => ()) };
    let (client, events) = Client::builder("calls")
        .backend(RedisBackend::new(&url)?) // The consumer's name is $POD_NAME.
        .runtime(TokioRuntime::new())
        .recorder(Metrics::of("calls"))
        .start()?;
    let db = redis::Client::open(url)?.get_connection_manager_lazy(Default::default())?;
    Ok(client.run(events, Run::until(told), |lease, stop| serve(lease, stop, db.clone())).await?)
}

async fn serve(lease: Arc<Lease>, stop: Stopping, mut db: redis::aio::ConnectionManager) -> Done {
    let script = redis::Script::new(include_str!("step.lua"));
    let mut to = String::new(); // The first step puts the token down, and then reads.
    loop {
        let mut step = script.key(format!("calls:{}", lease.stream()));
        match step.arg(lease.token().get()).arg(&to).invoke_async(&mut db).await {
            Ok(None) => return Done::Fail("a later owner has been there".into()),
            _ if stop.is_requested() => return Done::HandBack,
            Ok(Some(position)) if part(&lease, position).await => to = (position + 1).to_string(),
            Ok(Some(_)) => return Done::Complete,
            Err(error) => {
                eprintln!("the database is away: {error}"); // No failure of the stream.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The work. `false`: this was the last part.
async fn part(lease: &Lease, position: u64) -> bool {
    println!("part {position} of {}", lease.stream());
    tokio::time::sleep(Duration::from_millis(50)).await;
    position < PARTS
}

const PARTS: u64 = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::process::Command;

    use streamlease::{Event, Info, Producer};
    use streamlease_tests::{
        JsonProcess, RedisServer, Signal, eventually_blocking, free_port, wait_for,
    };

    use super::*;

    /// Set for the process that is the service.
    const IS_SERVICE: &str = "WHOLE_SERVICE";

    const WITHIN: Duration = Duration::from_secs(20);

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

    /// The program as a process of its own: the binary of these tests, which runs one of them.
    fn start(url: String, listen: SocketAddr) -> JsonProcess {
        let mut program = Command::new(env::current_exe().unwrap());
        program.args(["--exact", "tests::the_service_outlives_its_connections", "--nocapture"]);
        program.envs([("REDIS_URL", url), ("LISTEN", listen.to_string())]);
        program.envs([("POD_NAME", "worker-1"), (IS_SERVICE, "1")]);
        JsonProcess::spawn(&mut program)
    }

    fn scrape(from: SocketAddr) -> Option<String> {
        let mut stream = TcpStream::connect(from).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The value of the first series of this metric that has this label.
    fn value(text: &str, name: &str, label: &str) -> Option<f64> {
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let line = lines.find(|line| line.contains(label))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn the_service_outlives_its_connections() {
        match env::var(IS_SERVICE) {
            Ok(_) => main().unwrap(),
            Err(_) => tokio::runtime::Runtime::new().unwrap().block_on(outlives()),
        }
    }

    /// Neither the client nor the database keeps it from that.
    #[test]
    fn a_service_whose_server_is_away_stops_when_it_is_told_to() {
        let mut server = RedisServer::start();
        server.kill();
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut service = start(server.url(), listen);
        let is_up = || scrape(listen).is_some_and(|text| text.contains("_backend_reachable"));
        eventually_blocking("it is up", WITHIN, is_up);
        service.signal(Signal::TERM);
        assert!(service.wait_exit(Duration::from_secs(5)).success());
    }

    async fn outlives() {
        let server = RedisServer::start();
        let redis = RedisBackend::connect(server.url()).await.unwrap();
        let producer = Producer::new("calls", &redis, TokioRuntime::new()).unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut service = start(server.url(), listen);
        let position = |of: &str| {
            let text: Option<u64> = server.run(&["HGET", &format!("calls:{of}"), "position"]);
            text.unwrap_or_default()
        };
        let reaches = async |stream: &str, part| {
            let is_there = async || (position(stream) >= part).then_some(());
            wait_for("it works", WITHIN, is_there).await;
        };
        let ends = async |kind: &str| {
            let label = format!("\"{kind}\"");
            let ended = "streamlease_streams_ended_total";
            let has = |text: &String| value(text, ended, &label) >= Some(1.0);
            wait_for(kind, WITHIN, async || scrape(listen).filter(has)).await
        };

        // It loses its connections in the middle of the work, twice.
        producer.submit("call-1", Info::NONE).await.unwrap();
        for part in [3, 10] {
            reaches("call-1", part).await;
            assert!(server.run::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]) > 1);
        }
        let text = ends("completed").await;
        assert_eq!(position("call-1"), PARTS);
        let failures = value(&text, "streamlease_failures_total", "\"reported\"");
        assert_eq!(failures, Some(0.0), "{text}");
        let margin = "streamlease_heartbeat_margin_seconds_bucket";
        assert!(value(&text, margin, "le=\"5\"").is_some(), "{text}");

        // The owner of this one has left a token that is greater than any.
        server.run::<i64>(&["HSET", "calls:stale", "token", "9999999999999999999"]);
        producer.submit("stale", Info::NONE).await.unwrap();
        ends("failed").await;

        producer.submit("call-2", Info::NONE).await.unwrap();
        reaches("call-2", 1).await;
        service.signal(Signal::TERM);
        assert!(service.wait_exit(WITHIN).success());
        let next = Client::builder("calls").consumer("worker-2").backend(redis);
        let (_next, mut events) = next.runtime(TokioRuntime::new()).start().unwrap();
        let lease = wait_for("it is handed back", WITHIN, async || match events.next().await {
            Some(Event::StreamAdded(lease)) if lease.stream().as_str() == "call-2" => Some(lease),
            _ => None,
        });
        let lease = lease.await;
        assert_eq!(lease.failures(), 0, "a death is one");
        assert!(position("call-2") < PARTS);
    }
}
