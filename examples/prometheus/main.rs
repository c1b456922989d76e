//! A service whose metrics Prometheus can scrape, with the default exporter of the `metrics`
//! crate.
//!
//! ```text
//! cargo run --example prometheus
//! curl http://127.0.0.1:9184/metrics
//! ```
//!
//! A producer announces calls, and one consumer handles them: one of ten fails, the others are
//! completed. It ends with Ctrl-C. `ops/` has a dashboard and rules for what it serves.

use std::error::Error;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use streamlease::metrics::{Metrics, buckets};
use streamlease::{
    BackendProvider, Client, Done, Info, MemoryBackend, Producer, RedisBackend, Result, Run,
    TokioRuntime,
};

const SERVICE: &str = "calls";

/// Handles calls and serves their metrics.
#[derive(Debug, Parser)]
struct Args {
    /// Run on this Redis server instead of in memory, e.g. redis://127.0.0.1/
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Where to serve /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9184")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args = Args::parse();
    serve_metrics(args.listen)?;
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    match args.redis {
        Some(url) => work(RedisBackend::new(url)?, stop).await?,
        None => work(MemoryBackend::new(TokioRuntime::new()), stop).await?,
    }
    Ok(())
}

/// Installs the exporter, with the buckets of each histogram.
fn serve_metrics(listen: SocketAddr) -> std::result::Result<(), BuildError> {
    let exporter = buckets().try_fold(PrometheusBuilder::new(), |exporter, (name, bounds)| {
        exporter.set_buckets_for_metric(Matcher::Full(name.into()), bounds)
    })?;
    exporter.with_http_listener(listen).install()
}

/// Announces and handles calls until `stop` resolves.
async fn work(
    backend: impl BackendProvider + Clone,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let metrics = Metrics::of(SERVICE);
    let producer = Producer::new(SERVICE, &backend, TokioRuntime::new())?.recorder(metrics.clone());
    let (client, events) = Client::builder(SERVICE)
        .consumer("worker-1")
        .backend(backend)
        .runtime(TokioRuntime::new())
        .recorder(metrics)
        .start()?;
    let announce = async {
        for call in 0.. {
            producer.submit(format!("call-{call}"), Info::NONE).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pending().await
    };
    let handle = client.run(events, Run::until(stop), |lease, _stopping| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        match lease.stream().as_str().ends_with('9') && lease.failures() == 0 {
            true => Done::Fail("its number ends with 9".to_owned()),
            false => Done::Complete,
        }
    });
    futures_lite::future::or(handle, announce).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use streamlease_tests::{RedisServer, wait_for};

    use streamlease::metrics::ALL;

    use super::*;

    /// What this program gives no cause for: no owner dies or hands back, and its server
    /// stays up.
    const NOT_SERVED: [&str; 4] = [
        "streamlease_handover_seconds",
        "streamlease_late_seconds",
        "streamlease_outage_seconds",
        "streamlease_takeover_seconds",
    ];

    fn ops(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../ops")
            .join(file)
    }

    /// The metrics that a text names, histograms without the endings of their series.
    fn named(text: &str) -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !is_part(c));
        let names = words.filter(|word| word.starts_with("streamlease_"));
        let base = |name: &str| {
            let endings = ["_bucket", "_count", "_sum"];
            let base = endings.iter().find_map(|end| name.strip_suffix(end));
            base.unwrap_or(name).to_owned()
        };
        names.map(base).collect()
    }

    fn get(address: SocketAddr) -> Option<String> {
        let mut stream = TcpStream::connect(address).ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Some(body.to_owned())
    }

    fn promtool(args: &[&str], input: &str) {
        let program = Command::new("promtool")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut program = program.expect("promtool, of Debian's package prometheus");
        let mut stdin = program.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let ended = program.wait_with_output().unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(ended.status.success(), "promtool {args:?}: {said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_dashboard_and_the_rules_name_is_served() {
        let server = RedisServer::start();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        serve_metrics(address).unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let backend = RedisBackend::new(server.url()).unwrap();
        let working = tokio::spawn(work(backend, async move {
            let _ = stopped.recv().await;
        }));
        let listed: BTreeSet<_> = ALL.iter().map(|of| of.name.to_owned()).collect();
        let expected: BTreeSet<_> = listed
            .iter()
            .filter(|name| !NOT_SERVED.contains(&name.as_str()))
            .cloned()
            .collect();
        let limit = Duration::from_secs(20);
        let scrape = wait_for("all metrics", limit, async || {
            let scrape = get(address)?;
            (named(&scrape) == expected).then_some(scrape)
        })
        .await;
        drop(stop);
        working.await.unwrap().unwrap();
        for metric in &expected {
            assert!(scrape.contains(&format!("# HELP {metric} ")), "{metric}");
        }
        promtool(&["check", "metrics"], &scrape);

        for file in ["grafana-dashboard.json", "alerts.yml"] {
            let text = fs::read_to_string(ops(file)).unwrap();
            let unknown: Vec<_> = named(&text).difference(&listed).cloned().collect();
            assert!(unknown.is_empty(), "{file}: {unknown:?}");
        }
        promtool(&["check", "rules", ops("alerts.yml").to_str().unwrap()], "");
    }

    #[test]
    fn the_rules_say_what_they_are_to_say_also_while_nothing_is_known() {
        let tests = ops("alerts_test.yml");
        promtool(&["test", "rules", tests.to_str().unwrap()], "");
    }
}
