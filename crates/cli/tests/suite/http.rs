//! `work --http`: what probes and Prometheus get.

use std::io::{Read, Write};
use std::net::TcpStream;

use streamlease_tests::{JsonProcess, RedisServer, Signal, eventually_blocking};

use crate::common::{self, SOON, command, said, submit, work};

fn address(worker: &JsonProcess) -> String {
    let words = "metrics are at http://";
    said(worker, words);
    let stderr = worker.stderr();
    let after = stderr.split(words).nth(1).unwrap();
    after.lines().next().unwrap().trim().to_owned()
}

/// What is answered to these bytes.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn get(address: &str, path: &str) -> String {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"),
    )
}

fn is(reply: &str, status: u16) -> bool {
    reply.starts_with(&format!("HTTP/1.1 {status} "))
}

#[test]
fn a_worker_answers_probes_and_shows_its_metrics() {
    let server = RedisServer::start();
    let mut worker = work(&server, "s", "one", &["--http", "localhost:0"]);
    let address = address(&worker);
    submit(&server, "s", &["a", "b"]);
    worker.wait_for_count("stream_added", 2, SOON);
    let live = get(&address, "/livez");
    assert!(is(&live, 200) && live.contains("\nlive: true\n"), "{live}");
    let ready = get(&address, "/readyz?verbose");
    assert!(is(&ready, 200) && ready.contains("\nheld: 2\n"), "{ready}");
    let held = "streamlease_streams_held{service=\"s\"} 2";
    eventually_blocking(held, SOON, || get(&address, "/metrics").contains(held));
    let metrics = get(&address, "/metrics");
    assert!(is(&metrics, 200), "{metrics}");
    assert!(
        metrics.contains("streamlease_streams_started_total{service=\"s\",origin=\"fresh\"} 2")
    );
    assert!(
        metrics.contains("streamlease_heartbeat_margin_seconds_bucket"),
        "{metrics}"
    );
    assert!(is(&get(&address, "/other"), 404));
    assert!(is(&ask(&address, "POST /livez HTTP/1.1\r\n\r\n"), 405));
    assert!(is(&ask(&address, "not HTTP\r\n\r\n"), 400));
    // As proxies write it.
    for target in ["http://host/livez", "HTTP://host:80/livez?verbose"] {
        let live = get(&address, target);
        assert!(is(&live, 200), "{target}: {live}");
    }
    // Of the same length as that of GET, whose body is always the same here.
    let lengths = ["GET", "HEAD"].map(|method| {
        let reply = ask(&address, &format!("{method} /other HTTP/1.1\r\n\r\n"));
        assert!(is(&reply, 404), "{reply}");
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let length = head.split("Content-Length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        assert_eq!(body.len(), if method == "GET" { length } else { 0 });
        length
    });
    assert_eq!(lengths[0], lengths[1]);
    worker.signal(Signal::INT);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
}

/// An orchestrator restarts whom it cannot probe.
#[test]
fn connections_that_send_nothing_keep_no_probe_from_its_answer() {
    let server = RedisServer::start();
    let worker = work(&server, "s", "one", &["--http", "127.0.0.1:0"]);
    let address = address(&worker);
    let mut idle = Vec::new();
    for n in 0..20 {
        // Some have begun to ask.
        for begun in ["", "GET /livez HTTP/1.1\r\n"] {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            idle.push(stream);
        }
        let live = get(&address, "/livez");
        assert!(is(&live, 200), "{n}: {live}");
    }
}

#[test]
fn a_worker_whose_server_is_gone_is_live_and_not_ready() {
    let server = RedisServer::start();
    let worker = work(&server, "s", "one", &["--http", "127.0.0.1:0"]);
    let address = address(&worker);
    let ready = || get(&address, "/readyz");
    // It listens before it has reached the server.
    eventually_blocking("ready", SOON, || is(&ready(), 200));
    drop(server);
    eventually_blocking("not ready", SOON, || is(&ready(), 503));
    eventually_blocking("since when", SOON, || {
        ready().contains("\nunreachable_for: ")
    });
    assert!(is(&get(&address, "/livez"), 200));
    let metrics = get(&address, "/metrics");
    assert!(
        metrics.contains("streamlease_backend_reachable{service=\"s\",part=\"lbs\"} 0"),
        "{metrics}"
    );
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let server = RedisServer::start();
    let taken = format!("127.0.0.1:{}", server.port());
    for address in [&taken, "no-such-host.invalid:8080"] {
        let output = command()
            .args(["work", "--redis", &server.url(), "--service", "s"])
            .args(["--consumer", "one", "--http", address])
            .output()
            .unwrap();
        let said = common::stderr(&output);
        let is_named = said.contains(&format!("--http {address}: cannot listen: "));
        assert!(!output.status.success() && is_named, "{said}");
    }
}
