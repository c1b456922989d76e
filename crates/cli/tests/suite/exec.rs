//! `work --exec`: a program per stream.

use serde_json::{Value, json};
use streamlease_tests::{RedisServer, Signal, eventually_blocking, in_real_time};

use crate::common::{SOON, inspect, pid_said, run, runs, said, shell, submit, unfinished, work};

#[test]
fn a_program_learns_all_about_its_stream_and_exit_0_completes_it() {
    let server = RedisServer::start();
    let url = server.url();
    run(&[
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--info",
        "{\"a\":\"b c\"}",
        "call 1",
    ]);
    submit(&server, "s", &["plain"]);
    let script =
        "echo \"<$STREAMLEASE_STREAM|$STREAMLEASE_ENTRY|$STREAMLEASE_TOKEN|$STREAMLEASE_INFO>\"";
    let worker = shell(&server, "one", &[], script);
    let done = worker.wait_for_count("stream_done", 2, SOON);
    for event in &done {
        assert_eq!(event["outcome"], "completed");
        let info = if event["stream"] == "plain" {
            "null"
        } else {
            "{\"a\":\"b c\"}"
        };
        let (stream, entry) = (
            event["stream"].as_str().unwrap(),
            event["entry"].as_str().unwrap(),
        );
        said(
            &worker,
            &format!("<{stream}|{entry}|{}|{info}>\n", event["token"]),
        );
    }
    assert!(worker.not_json().is_empty(), "{:?}", worker.not_json());
    assert_eq!(unfinished(&server, "s"), 0);
}

/// With a long TTL a new lease is believed for nine seconds only, at first: less than a
/// quarter of the TTL. Were it not believed for longer soon, SIGTERM would come before 4 s.
#[test]
fn a_program_is_not_ended_early_because_its_lease_is_new_however_long_the_ttl() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script = "trap 'echo asked to stop; exit 1' TERM; n=0; \
                  while [ $n -lt 60 ]; do sleep 0.1; n=$((n + 1)); done";
    let worker = shell(&server, "one", &["--ttl", "60s"], script);
    eventually_blocking("its end", SOON, || {
        let ends = [
            "stream_done",
            "stream_failed",
            "stream_handed_back",
            "stream_disowned",
        ];
        ends.iter().any(|end| !worker.events_of(end).is_empty())
    });
    let done = worker.events_of("stream_done");
    assert_eq!(done.len(), 1, "{}", worker.stderr());
    assert_eq!(done[0]["outcome"], "completed");
    assert!(!worker.stderr().contains("asked to stop"));
}

#[test]
fn a_program_that_fails_hands_back_and_after_five_failures_the_entry_is_quarantined() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    // Who handed back waits a TTL; two take turns.
    let one = shell(&server, "one", &[], "exit 3");
    let two = shell(&server, "two", &[], "kill -9 $$");
    eventually_blocking("the entry to be quarantined", SOON, || {
        let listing = inspect(&server, "s");
        listing.last().unwrap()["quarantined"] == 1
    });
    eventually_blocking("that to be told", SOON, || {
        let told = [&one, &two].map(|worker| worker.events_of("quarantined").len());
        told.iter().sum::<usize>() > 0
    });
    let failed = [&one, &two].map(|worker| worker.events_of("stream_failed"));
    assert!(failed.concat().len() >= 4, "{failed:?}");
    assert_eq!(failed[0][0]["exit_code"], 3);
    assert!(failed[1][0]["exit_code"].is_null(), "it was killed");
    for failed in failed.concat() {
        let reason = failed["reason"].as_str().unwrap();
        assert!(reason.contains("the program failed ("), "{reason}");
    }
    let quarantined = one.events_of("quarantined").into_iter();
    let quarantined: Vec<_> = quarantined.chain(two.events_of("quarantined")).collect();
    let reason = quarantined[0]["reason"].as_str().unwrap();
    assert!(reason.contains("the program failed ("), "{reason}");
    assert_eq!(
        one.events_of("stream_done").len() + two.events_of("stream_done").len(),
        0
    );
    assert_eq!(unfinished(&server, "s"), 0);
}

#[test]
fn why_programs_failed_is_shown_while_the_stream_is_still_tried() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let worker = shell(&server, "one", &["--quarantine-after", "never"], "exit 3");
    worker.wait_for("stream_failed", SOON);
    let entry = &inspect(&server, "s")[0];
    assert!(entry["failures"].as_u64().unwrap() >= 1, "{entry}");
    let reasons = entry["reasons"].as_array().unwrap();
    let last = reasons.last().unwrap().as_str().unwrap();
    assert_eq!(last, "the program failed (exit status: 3)");
}

#[test]
fn being_told_to_stop_ends_the_programs_first_and_then_hands_back() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script =
        "trap 'echo asked to stop; exit 1' TERM; echo pid=$$; while :; do sleep 0.02; done";
    let mut worker = shell(&server, "one", &[], script);
    let pid = pid_said(&worker);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert!(
        worker.stderr().contains("asked to stop"),
        "{}",
        worker.stderr()
    );
    assert_eq!(worker.events_of("stream_handed_back").len(), 1);
    assert!(!runs(&pid), "the program runs on");
    let listing = inspect(&server, "s");
    assert_eq!(
        listing[0]["failures"], 0,
        "stopping is no failure: {}",
        listing[0]
    );
}

#[test]
fn once_told_to_stop_an_exit_code_means_nothing_unless_it_is_asked_for() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script = "trap 'exit 0' TERM; echo pid=$$; while :; do sleep 0.02; done";
    let mut worker = shell(&server, "one", &[], script);
    pid_said(&worker);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert_eq!(worker.events_of("stream_done").len(), 0);
    assert_eq!(worker.events_of("stream_handed_back").len(), 1);
    assert_eq!(inspect(&server, "s")[0]["failures"], 0);

    let mut worker = shell(&server, "two", &["--on-stop", "by-exit-code"], script);
    pid_said(&worker);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert_eq!(worker.events_of("stream_done").len(), 1);
    assert_eq!(unfinished(&server, "s"), 0);
}

#[test]
fn a_program_that_will_not_stop_is_killed_after_the_grace_period() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script = "trap '' TERM; echo pid=$$; while :; do sleep 0.02; done";
    let mut worker = shell(&server, "one", &["--grace", "100ms"], script);
    let pid = pid_said(&worker);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert!(!runs(&pid), "the program runs on");
    assert_eq!(worker.events_of("stream_handed_back").len(), 1);
}

#[test]
fn a_second_signal_kills_the_programs_and_exits_at_once() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script = "trap '' TERM; echo pid=$$; while :; do sleep 0.02; done";
    let mut worker = shell(&server, "one", &["--grace", "1h"], script);
    let pid = pid_said(&worker);
    worker.signal(Signal::TERM);
    said(&worker, "told to stop");
    assert!(runs(&pid), "it was given an hour");
    worker.signal(Signal::INT);
    assert_eq!(worker.wait_exit(SOON).code(), Some(1));
    eventually_blocking("the program to be dead", SOON, || !runs(&pid));
}

#[test]
fn programs_run_and_are_ended_on_every_runtime() {
    let server = RedisServer::start();
    for runtime in ["tokio", "async-std", "smol"] {
        submit(&server, "s", &["quick", "slow"]);
        let script = "[ $STREAMLEASE_STREAM = quick ] || { echo pid=$$; exec sleep 1000; }";
        let mut worker = shell(&server, runtime, &["--runtime", runtime], script);
        assert_eq!(worker.wait_for("stream_done", SOON)["stream"], "quick");
        let pid = pid_said(&worker);
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait_exit(SOON).code(), Some(0));
        assert_eq!(worker.events_of("stream_handed_back").len(), 1);
        assert!(!runs(&pid), "the program runs on");
        redis::cmd("FLUSHALL")
            .exec(&mut server.connection())
            .unwrap();
    }
}

#[test]
fn losing_the_lease_ends_the_program() {
    let server = RedisServer::start();
    submit(&server, "s", &["call"]);
    let script =
        "trap 'echo asked to stop; exit 0' TERM; echo pid=$$; while :; do sleep 0.02; done";
    let worker = shell(&server, "one", &[], script);
    let pid = pid_said(&worker);
    server.freeze();
    let disowned = worker.wait_for("stream_disowned", SOON);
    assert_eq!(disowned["stream"], "call");
    said(&worker, "asked to stop");
    eventually_blocking("the program to end", SOON, || !runs(&pid));
    server.thaw();
    // It said 0, but too late: nothing was completed.
    let done: Vec<Value> = worker.events_of("stream_done");
    assert_eq!(json!(done), json!([]));
    assert_eq!(unfinished(&server, "s"), 1);
}

#[test]
fn a_program_that_ends_while_its_worker_is_frozen_does_not_end_the_stream_twice() {
    let server = RedisServer::start();
    let streams = ["a", "b", "c", "d", "e", "f", "g", "h"];
    submit(&server, "s", &streams);
    // They end once there is the file.
    let file = std::env::temp_dir().join(format!("streamlease-ended-{}", server.port()));
    let script = format!("until [ -e {} ]; do sleep 0.02; done", file.display());
    let _ = std::fs::remove_file(&file);
    let frozen = shell(&server, "frozen", &[], &script);
    frozen.wait_for_count("stream_added", streams.len(), SOON);
    frozen.signal(Signal::STOP);
    // Another has got them all: the frozen one's time is over.
    let other = work(&server, "s", "other", &[]);
    other.wait_for_count("stream_added", streams.len(), SOON);
    std::fs::write(&file, "").unwrap();
    frozen.signal(Signal::CONT);
    // Lost, or not completed any more, whichever is noticed first.
    let ends = || frozen.events_of("stream_disowned").len() + frozen.events_of("stream_done").len();
    eventually_blocking("all to end", SOON, || ends() >= streams.len());
    // Before it exits it tells what there is to tell.
    frozen.signal(Signal::TERM);
    frozen.final_events(SOON);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ends(), streams.len(), "{:?}", frozen.events());
}

/// A stop is no reason to keep quiet about who took the stream, and why.
#[test]
fn what_is_lost_while_it_stops_is_told_with_its_reason() {
    // Less than the second for which a reason that does not come is waited for.
    in_real_time(|| {
        for (how, reason) in [
            ("cancel", "cancelled"),
            ("revoke", "revoked"),
            ("outage", "expired"),
        ] {
            let server = RedisServer::start();
            submit(&server, "s", &["call"]);
            let flags = ["--ttl", "1s", "--grace", "30s"];
            let script = "trap '' TERM; echo pid=$$; while :; do sleep 0.02; done";
            let mut worker = shell(&server, "one", &flags, script);
            pid_said(&worker);
            worker.signal(Signal::TERM);
            said(&worker, "told to stop");
            let url = server.url();
            match how {
                "outage" => server.freeze(),
                _ => {
                    let done = run(&[how, "--redis", &url, "--service", "s", "call"]);
                    assert!(done.status.success(), "{how}: {done:?}");
                }
            }
            let told = worker.wait_for("stream_disowned", SOON);
            assert_eq!(told["reason"], reason, "{how}: {told}");
            server.thaw();
            assert_eq!(worker.wait_exit(SOON).code(), Some(0), "{how}");
        }
    });
}

/// The lease is over by then, so that there is no grace; and nobody has to be warned.
#[test]
fn what_an_operator_ends_is_killed_and_the_log_says_who_did_it_without_a_warning() {
    let server = RedisServer::start();
    let url = server.url();
    for (how, why) in [
        ("revoke", "an operator asked for it"),
        ("cancel", "an operator withdrew the announcement"),
    ] {
        submit(&server, how, &["call"]);
        let script = "trap 'echo asked to stop' TERM; echo pid=$$; while :; do sleep 0.02; done";
        let worker = work(&server, how, "one", &["--exec", "sh", "-c", script]);
        let pid = pid_said(&worker);
        let done = run(&[how, "--redis", &url, "--service", how, "call"]);
        assert!(done.status.success(), "{how}: {done:?}");
        said(&worker, "killing a program");
        eventually_blocking("its end", SOON, || !runs(&pid));
        let log = worker.stderr();
        let line = log.lines().find(|line| line.contains("killing a program"));
        let line = line.unwrap();
        assert!(line.contains(" INFO ") && line.contains(why), "{line}");
        assert!(!log.contains("asked to stop"), "{log}");
    }
}
