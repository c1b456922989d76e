//! A service whose metrics Prometheus can scrape, with the default exporter of the `metrics`
//! crate.
//!
//! ```text
//! cargo run --example prometheus
//! curl http://127.0.0.1:9184/metrics
//! ```
//!
//! A producer announces calls, and one consumer handles them: one of ten fails, the others are
//! completed. It ends at SIGTERM or Ctrl-C. `ops/` has a dashboard and rules for what it serves.

#[cfg(test)]
mod queries;

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
use tokio::signal::{ctrl_c, unix};

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
    let mut term = unix::signal(unix::SignalKind::terminate())?;
    let stop = async move { tokio::select!(_ = term.recv() => (), _ = ctrl_c() => ()) };
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
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::path::PathBuf;
    use std::process::{self, Command, Stdio};
    use std::{env, fs};

    use serde_json::Value;
    use streamlease_tests::{RedisServer, free_port, wait_for};

    use streamlease::metrics::ALL;

    use super::queries::Scrape;
    use super::*;

    /// What this program gives no cause for: no owner dies or hands back, and its server
    /// stays up. The test records one of each.
    const RARE: [&str; 4] = [
        "streamlease_handover_seconds",
        "streamlease_late_seconds",
        "streamlease_outage_seconds",
        "streamlease_takeover_seconds",
    ];

    fn record_rare() {
        for name in RARE {
            let of = ALL.iter().find(|of| of.name == name).unwrap();
            let labels = of.labels.iter().map(|label| (*label, "any"));
            let labels: Vec<_> = labels.chain([("service", SERVICE)]).collect();
            metrics::histogram!(name, &labels).record(0.2);
        }
    }

    /// All `expr` of the dashboard, with values in place of its variables, and those of the rules.
    fn queries() -> Vec<String> {
        let text = fs::read_to_string(ops("grafana-dashboard.json")).unwrap();
        let mut queries = Vec::new();
        let mut values = vec![serde_json::from_str::<Value>(&text).unwrap()];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(items) => values.extend(items),
                Value::Object(fields) => {
                    let query = fields.get("expr").and_then(Value::as_str);
                    let query = query.map(|query| query.replace("$service", ".*"));
                    queries.extend(query.map(|query| query.replace("$__rate_interval", "5m")));
                    values.extend(fields.into_iter().map(|(_, value)| value));
                }
                _ => {}
            }
        }
        assert!(queries.len() > 20, "{queries:?}");
        let of_dashboard = queries.len();
        let text = fs::read_to_string(ops("alerts.yml")).unwrap();
        for rule in text.split("        expr: ").skip(1) {
            let mut lines = rule.lines();
            let first = lines.next().unwrap().trim_start_matches(">-");
            // What goes on is indented by more.
            let more = lines.take_while(|line| line.starts_with("          "));
            queries.push(
                [first]
                    .into_iter()
                    .chain(more.map(str::trim))
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
        assert!(queries.len() > of_dashboard + 10, "{queries:?}");
        queries
    }

    /// Recording rules of them, for who reads nothing but rules.
    fn as_rules(queries: &[String]) -> String {
        let mut rules = "groups:\n  - name: queries\n    rules:\n".to_owned();
        for (number, query) in queries.iter().enumerate() {
            let query = Value::from(query.as_str());
            rules += &format!("      - record: query:{number}\n        expr: {query}\n");
        }
        rules
    }

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
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        serve_metrics(address).unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let backend = RedisBackend::new(server.url()).unwrap();
        let working = tokio::spawn(work(backend, async move {
            let _ = stopped.recv().await;
        }));
        record_rare();
        let listed: BTreeSet<_> = ALL.iter().map(|of| of.name.to_owned()).collect();
        let limit = Duration::from_secs(20);
        let scrape = wait_for("all metrics", limit, async || {
            let scrape = get(address)?;
            (named(&scrape) == listed).then_some(scrape)
        })
        .await;
        drop(stop);
        working.await.unwrap().unwrap();
        for metric in &listed {
            assert!(scrape.contains(&format!("# HELP {metric} ")), "{metric}");
        }
        promtool(&["check", "metrics"], &scrape);

        let (scrape, queries) = (Scrape::of(&scrape), queries());
        for query in &queries {
            let missing = scrape.missing(query);
            assert!(missing.is_empty(), "{query}: not served: {missing:?}");
        }
        let rules = env::temp_dir().join(format!("streamlease-queries-{}.yml", process::id()));
        fs::write(&rules, as_rules(&queries)).unwrap();
        promtool(&["check", "rules", rules.to_str().unwrap()], "");
        fs::remove_file(rules).unwrap();
        promtool(&["check", "rules", ops("alerts.yml").to_str().unwrap()], "");
    }

    #[test]
    fn the_rules_say_what_they_are_to_say_also_while_nothing_is_known() {
        let tests = ["alerts_test.yml", "alerts_days_test.yml"].map(ops);
        let [minutes, days] = tests.each_ref().map(|path| path.to_str().unwrap());
        promtool(&["test", "rules", minutes, days], "");
    }
}
