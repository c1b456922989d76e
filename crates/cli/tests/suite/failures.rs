//! What counts as a failure of an entry, with real processes: what its programs do to
//! their consumers, and not what the server does.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamlease_tests::{JsonProcess, RedisServer, eventually_blocking};

use crate::common::{self, inspect, run, shell, submit, work};

const TTL: Duration = Duration::from_secs(1);
const STREAMS: usize = 40;
const LONG: Duration = Duration::from_secs(120);

fn quarantined(server: &RedisServer) -> Vec<Value> {
    let url = server.url();
    let listing = [
        "quarantine",
        "list",
        "--redis",
        &url,
        "--service",
        "s",
        "--json",
    ];
    let output = run(&listing);
    assert!(output.status.success(), "{output:?}");
    let lines = common::lines(&output).into_iter();
    lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect()
}

fn told(workers: &[JsonProcess], kind: &str) -> usize {
    workers
        .iter()
        .map(|worker| worker.events_of(kind).len())
        .sum()
}

/// Each is longer than the TTL: every lease of the fleet is lost each time.
#[test]
fn outages_of_the_server_quarantine_nothing_and_count_as_no_failure() {
    let server = RedisServer::start();
    let names: Vec<String> = (1..=STREAMS).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let workers = ["w1", "w2"].map(|name| work(&server, "s", name, &["--ttl", "1s"]));
    submit(&server, "s", &names);
    let held = |rounds: usize| {
        eventually_blocking("all streams to be held", LONG, || {
            told(&workers, "stream_added") >= STREAMS + told(&workers, "stream_disowned")
                && told(&workers, "stream_disowned") >= rounds * STREAMS
        });
    };
    held(0);
    for round in 1..=6 {
        server.freeze();
        let frozen = Instant::now();
        eventually_blocking("all streams to be lost", LONG, || {
            told(&workers, "stream_disowned") >= round * STREAMS
        });
        // Also for the server, whose clock goes on.
        thread::sleep((TTL * 3 / 2).saturating_sub(frozen.elapsed()));
        server.thaw();
        held(round);
    }
    eventually_blocking("no failure to be on record", LONG, || {
        let listing = inspect(&server, "s");
        let entries = listing.iter().filter(|line| line.get("failures").is_some());
        let failures: Vec<u64> = entries.map(|e| e["failures"].as_u64().unwrap()).collect();
        failures.len() >= STREAMS && failures.iter().all(|failures| *failures == 0)
    });
    assert!(quarantined(&server).is_empty());
}

/// The programs stop their consumer, as a handler that blocks its process does.
#[test]
fn an_entry_whose_handler_blocks_its_process_for_longer_than_a_ttl_is_quarantined_in_the_end() {
    let server = RedisServer::start();
    submit(&server, "s", &["blocks"]);
    let script = "kill -STOP $PPID; sleep 1.8; kill -CONT $PPID; sleep 60";
    let workers = ["w1", "w2", "w3"].map(|name| shell(&server, name, &["--ttl", "1s"], script));
    eventually_blocking("the entry to be quarantined", LONG, || {
        !quarantined(&server).is_empty()
    });
    let quarantined = &quarantined(&server)[0];
    assert_eq!(quarantined["stream"], "blocks");
    assert_eq!(quarantined["failures"], 5);
    let reasons = quarantined["reasons"].as_array().unwrap();
    assert_eq!(reasons.len(), 5);
    for reason in reasons {
        let reason = reason.as_str().unwrap();
        assert!(reason.starts_with("its owner redis-consumer-w"), "{reason}");
    }
    assert!(told(&workers, "stream_disowned") >= 5);
}

/// A consumer that somebody starts again whenever it has died, after more than a TTL.
fn supervised(server: &RedisServer, name: &str, until: impl Fn() -> bool) {
    let started = Instant::now();
    while !until() {
        let mut worker = shell(server, name, &["--ttl", "1s"], "kill -KILL $PPID; sleep 60");
        eventually_blocking("the worker to die, or the end", LONG, || {
            worker.exited().is_some() || until()
        });
        thread::sleep(TTL * 3 / 2);
        assert!(started.elapsed() < LONG, "it is not quarantined");
    }
}

#[test]
fn an_entry_that_kills_its_process_is_quarantined_in_the_end_by_three_workers_or_a_lone_one() {
    for workers in [1, 3] {
        let server = RedisServer::start();
        submit(&server, "s", &["kills"]);
        let is_quarantined = || !quarantined(&server).is_empty();
        thread::scope(|scope| {
            for n in 1..=workers {
                let (server, is_quarantined) = (&server, &is_quarantined);
                scope.spawn(move || supervised(server, &format!("w{n}"), is_quarantined));
            }
        });
        let quarantined = &quarantined(&server)[0];
        assert_eq!(
            (&quarantined["stream"], &quarantined["failures"]),
            (&"kills".into(), &5.into())
        );
    }
}
