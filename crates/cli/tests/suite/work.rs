//! `work`: the JSON protocol, stopping, claiming.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamlease_tests::{JsonProcess, RedisServer, Signal, eventually_blocking, in_real_time};

use crate::common::{self, SOON, command, run, submit, unfinished, work};

fn names(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["stream"].as_str().unwrap())
        .collect()
}

fn keys(event: &Value) -> Vec<&str> {
    event
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn streams_are_worked_on_and_completed_and_every_event_has_its_fields() {
    let server = RedisServer::start();
    let url = server.url();
    run(&[
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--info",
        "{\n\"n\": 1\n}",
        "a",
    ]);
    submit(&server, "s", &["b"]);
    let mut worker = work(&server, "s", "one", &["--hold", "50ms"]);
    let added = worker.wait_for_count("stream_added", 2, SOON);
    let done = worker.wait_for_count("stream_done", 2, SOON);
    worker.signal(Signal::INT);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));

    assert_eq!(names(&added), ["a", "b"]);
    assert_eq!(
        (&added[0]["info"]["n"], &added[1]["info"]),
        (&Value::from(1), &Value::Null)
    );
    assert_eq!(
        keys(&added[0]),
        [
            "claimed_from",
            "entry",
            "event",
            "info",
            "stream",
            "token",
            "ts"
        ]
    );
    assert!(added[0]["claimed_from"].is_null());
    assert!(added[0]["ts"].as_u64() > Some(1_700_000_000_000));
    for event in &done {
        assert_eq!(
            keys(event),
            ["entry", "event", "outcome", "stream", "token", "ts"]
        );
        assert_eq!(event["outcome"], "completed");
        let same = added
            .iter()
            .find(|added| added["stream"] == event["stream"])
            .unwrap();
        assert_eq!(
            (&same["entry"], &same["token"]),
            (&event["entry"], &event["token"])
        );
    }
    let events = worker.events();
    assert_eq!(events[0]["event"], "started");
    assert_eq!(events[0]["consumer"], "redis-consumer-one");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["reason"]),
        (&"terminated".into(), &"shut down".into())
    );
    assert_eq!((events.len(), worker.not_json().len()), (6, 0));
    assert_eq!(unfinished(&server, "s"), 0);
}

#[test]
fn without_json_the_lines_are_readable() {
    let server = RedisServer::start();
    submit(&server, "s", &["call-1"]);
    let mut child = command()
        .args([
            "work",
            "--redis",
            &server.url(),
            "--service",
            "s",
            "--consumer",
            "one",
        ])
        .args(["--hold", "10ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(
        lines.next().unwrap(),
        "started: consumer=redis-consumer-one"
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("added: stream=call-1 entry=")
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("completed: stream=call-1 entry=")
    );
    drop(lines);
    // With its reader gone, it does not hold on to streams that nobody hears of.
    submit(&server, "s", &["call-2"]);
    eventually_blocking("the worker to end", SOON, || {
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn every_runtime_works_and_one_takes_over_from_another() {
    let server = RedisServer::start();
    let mut previous: Option<JsonProcess> = None;
    submit(&server, "s", &["call"]);
    let mut token = 0;
    for runtime in ["tokio", "async-std", "smol"] {
        let worker = work(&server, "s", runtime, &["--runtime", runtime]);
        if let Some(mut dead) = previous.take() {
            dead.signal(Signal::KILL);
            dead.wait_exit(SOON);
        }
        let added = worker.wait_for("stream_added", SOON);
        assert!(added["token"].as_u64() > Some(token), "{added}");
        assert_eq!(added["claimed_from"].is_null(), token == 0, "{added}");
        token = added["token"].as_u64().unwrap();
        previous = Some(worker);
    }
}

#[test]
fn sigterm_hands_back_and_another_continues_long_before_the_ttl() {
    let server = RedisServer::start();
    let streams: Vec<String> = (0..20).map(|n| format!("call-{n}")).collect();
    submit(
        &server,
        "s",
        &streams.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut going = work(&server, "s", "going", &["--ttl", "60s"]);
    going.wait_for_count("stream_added", 20, SOON);
    let staying = work(&server, "s", "staying", &["--ttl", "60s"]);
    going.signal(Signal::TERM);
    assert_eq!(going.wait_exit(SOON).code(), Some(0));
    assert_eq!(going.events_of("stream_handed_back").len(), 20);
    assert_eq!(
        going.events_of("stream_done").len() + going.events_of("stream_disowned").len(),
        0
    );
    let taken = staying.wait_for_count("stream_added", 20, SOON);
    assert!(
        taken
            .iter()
            .all(|event| event["claimed_from"] == "redis-consumer-going"),
        "{taken:?}"
    );
}

#[test]
fn what_could_not_be_handed_back_is_not_said_to_be() {
    let server = RedisServer::start();
    let entry = submit(&server, "s", &["call"]).remove(0);
    let mut worker = work(&server, "s", "one", &["--ttl", "60s"]);
    worker.wait_for("stream_added", SOON);
    // Somebody takes it off the LBS.
    redis::pipe()
        .cmd("XACK")
        .arg(&["s-input", "s-group", &entry])
        .cmd("XDEL")
        .arg(&["s-input", &entry])
        .exec(&mut server.connection())
        .unwrap();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert_eq!(worker.events_of("stream_handed_back").len(), 0);
    assert_eq!(worker.events_of("stream_disowned").len(), 1);
}

#[test]
fn a_second_signal_exits_at_once() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let mut worker = work(&server, "s", "one", &["--ttl", "60s"]);
    worker.wait_for("stream_added", SOON);
    // It cannot hand back now, and would try for up to a TTL.
    server.freeze();
    worker.signal(Signal::TERM);
    eventually_blocking("the first signal to be heard", SOON, || {
        worker.stderr().contains("told to stop")
    });
    // Within 100 ms it would be the same wish once more.
    let heard = Instant::now();
    eventually_blocking("100 ms to pass", SOON, || {
        heard.elapsed() > Duration::from_millis(150)
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(1));
    server.thaw();
}

#[test]
fn a_signal_that_arrives_twice_is_one_wish() {
    // Twice within 100 ms, that is.
    in_real_time(|| {
        let server = RedisServer::start();
        submit(&server, "s", &["call"]);
        let mut worker = work(&server, "s", "one", &["--ttl", "60s"]);
        worker.wait_for("stream_added", SOON);
        // As `timeout` does it: the process, then its group.
        worker.signal(Signal::TERM);
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait_exit(SOON).code(), Some(0));
        assert_eq!(worker.events_of("stream_handed_back").len(), 1);
    });
}

#[test]
fn a_frozen_owner_is_replaced_and_says_so_when_it_wakes_up() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let frozen = work(&server, "s", "frozen", &[]);
    let first = frozen.wait_for("stream_added", SOON);
    let other = work(&server, "s", "other", &[]);
    frozen.signal(Signal::STOP);
    let second = other.wait_for("stream_added", SOON);
    assert_eq!(second["claimed_from"], "redis-consumer-frozen");
    assert!(second["token"].as_u64() > first["token"].as_u64());
    frozen.signal(Signal::CONT);
    let disowned = frozen.wait_for("stream_disowned", SOON);
    let names = ["entry", "event", "reason", "stream", "token", "ts"];
    assert_eq!(keys(&disowned), names);
    assert_eq!(disowned["reason"], "expired");
    assert_eq!(disowned["token"], first["token"]);
    assert_eq!(other.events_of("stream_disowned").len(), 0);
}

/// A worker whose owner of `call` has just been killed, in this claim mode.
fn survivor(server: &RedisServer, claim: &str) -> JsonProcess {
    submit(server, "s", &["call"]);
    let mut doomed = work(server, "s", "doomed", &[]);
    doomed.wait_for("stream_added", SOON);
    let survivor = work(server, "s", "survivor", &["--claim", claim]);
    doomed.signal(Signal::KILL);
    doomed.wait_exit(SOON);
    survivor
}

#[test]
fn manual_claiming_reports_and_then_claims() {
    let server = RedisServer::start();
    let survivor = survivor(&server, "manual");
    let expired = survivor.wait_for("stream_expired", SOON);
    assert_eq!(keys(&expired), ["entry", "event", "owner", "stream", "ts"]);
    assert_eq!(expired["owner"], "redis-consumer-doomed");
    let added = survivor.wait_for("stream_added", SOON);
    assert_eq!(added["entry"], expired["entry"]);
    assert_eq!(added["claimed_from"], "redis-consumer-doomed");
}

#[test]
fn claiming_switched_off_only_reports_and_does_so_again() {
    let server = RedisServer::start();
    let survivor = survivor(&server, "off");
    survivor.wait_for_count("stream_expired", 2, SOON);
    assert_eq!(survivor.events_of("stream_added").len(), 0);
    // New streams are worked on all the same.
    submit(&server, "s", &["new"]);
    assert_eq!(survivor.wait_for("stream_added", SOON)["stream"], "new");
}

#[test]
fn automatic_claiming_takes_over_without_a_report() {
    let server = RedisServer::start();
    let survivor = survivor(&server, "auto");
    assert_eq!(
        survivor.wait_for("stream_added", SOON)["claimed_from"],
        "redis-consumer-doomed"
    );
    assert_eq!(survivor.events_of("stream_expired").len(), 0);
}

#[test]
fn streams_are_taken_over_with_either_locks_and_the_other_ones_are_refused() {
    taken_over_with("session", "per-stream");
    taken_over_with("per-stream", "session");
}

fn taken_over_with(locks: &str, others: &str) {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let locks_flag = ["--locks", locks];
    let mut doomed = work(&server, "s", "doomed", &locks_flag);
    let first = doomed.wait_for("stream_added", SOON);
    let survivor = work(&server, "s", "survivor", &locks_flag);
    doomed.signal(Signal::KILL);
    doomed.wait_exit(SOON);
    let second = survivor.wait_for("stream_added", SOON);
    assert_eq!(second["claimed_from"], "redis-consumer-doomed");
    assert!(second["token"].as_u64() > first["token"].as_u64());
    let url = server.url();
    let mut other = vec!["work", "--redis", &url, "--service", "s", "--consumer", "x"];
    other.extend(["--locks", others]);
    let refused = run(&other);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(common::stderr(&refused).contains(locks), "{refused:?}");
}

#[test]
fn work_waits_for_a_server_that_is_not_up_yet() {
    let mut server = RedisServer::start();
    server.kill();
    let worker = JsonProcess::spawn(
        command()
            .args(["work", "--redis", &server.url(), "--service", "s"])
            .args(["--consumer", "one", "--json", "--hold", "0s"]),
    );
    // It has tried, and says so once.
    eventually_blocking("a warning", SOON, || {
        worker.stderr().contains("trying again")
    });
    server.start_again();
    worker.wait_for("started", SOON);
    submit(&server, "s", &["call"]);
    worker.wait_for("stream_done", SOON);
    // One for the LBS and one for the locks, at most; not one for each try.
    assert!(worker.stderr().lines().count() <= 2, "{}", worker.stderr());
}

#[test]
fn a_stop_while_it_waits_for_its_server_ends_it_at_once() {
    let mut server = RedisServer::start();
    server.kill();
    let mut worker = JsonProcess::spawn(
        command()
            .args(["work", "--redis", &server.url(), "--service", "s"])
            .args(["--consumer", "one", "--json", "--ttl", "1h"]),
    );
    eventually_blocking("a warning", SOON, || {
        worker.stderr().contains("trying again")
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_strange_name_forges_no_line_of_the_log() {
    let server = RedisServer::start();
    let url = server.url();
    let name = "bad\n1795953784138 WARN  forged \u{1b}[31m";
    let submitted = run(&["submit", "--redis", &url, "--service", "s", name]);
    assert!(submitted.status.success(), "{submitted:?}");
    let args = [
        "work",
        "--redis",
        &url,
        "--service",
        "s",
        "--consumer",
        "one",
    ];
    let fails = [
        "--log",
        "info",
        "--quarantine-after",
        "1",
        "--exec",
        "false",
    ];
    let mut worker = command()
        .args(args)
        .args(fails)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(worker.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    while !told
        .iter()
        .any(|line: &String| line.contains("quarantined stream="))
    {
        told.push(lines.next().unwrap().unwrap());
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    let named = told.iter().filter(|line| line.contains("forged"));
    assert!(named.clone().count() >= 3, "{told:#?}");
    for line in named {
        assert!(
            line.contains(r"bad\n1795953784138 WARN  forged \u{1b}[31m"),
            "{line:?}"
        );
    }
}

/// As people and log collectors read it.
#[test]
fn a_line_of_the_log_begins_with_the_time_in_utc() {
    let server = RedisServer::start();
    let before = std::time::SystemTime::now();
    let worker = work(&server, "s", "one", &[]);
    common::said(&worker, " INFO ");
    let told = worker.stderr();
    let (time, _) = told.split_once(' ').unwrap();
    assert_eq!(
        (time.len(), &time[10..11], &time[23..]),
        (24, "T", "Z"),
        "{told}"
    );
    let time = humantime::parse_rfc3339(time).unwrap();
    let since = time
        .duration_since(before)
        .unwrap_or_else(|early| early.duration());
    assert!(since < SOON, "{told}");
}
