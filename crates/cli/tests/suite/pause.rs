//! `streamlease pause` and `resume`.

use std::io::{Read, Write};

use serde_json::Value;
use streamlease_tests::{RedisServer, Signal, eventually_blocking};

use crate::common::{self, SOON, lines, run, stderr, submit, work};

fn with(server: &RedisServer, command: &str, more: &[&str]) -> std::process::Output {
    let url = server.url();
    let mut args = vec![command, "--redis", &url, "--service", "s"];
    args.extend(more);
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn a_paused_service_takes_nothing_and_goes_on_where_it_was() {
    let server = RedisServer::start();
    let limits = ["--hold", "10m", "--ttl", "2s"];
    // The other service is not paused: it shows that there was time enough.
    let [first, control] = ["s", "control"].map(|service| {
        submit(&server, service, &["before"]);
        let holder = work(&server, service, "one", &limits);
        holder.wait_for("stream_added", SOON);
        holder
    });

    let paused = with(&server, "pause", &["--reason", "a migration"]);
    assert_eq!(lines(&paused), ["paused: service=s (a migration)"]);
    assert_eq!(stderr(&paused), "");
    let again = with(&server, "pause", &["--reason", "another"]);
    assert_eq!(lines(&again), ["paused already: service=s (a migration)"]);

    // A consumer that starts in the pause takes nothing, nor does it when a holder dies.
    submit(&server, "s", &["during"]);
    let second = work(&server, "s", "two", &limits);
    let heir = work(&server, "control", "two", &limits);
    first.signal(Signal::KILL);
    control.signal(Signal::KILL);
    let shown = lines(&with(&server, "inspect", &["--summary"]));
    let told = shown.last().unwrap();
    assert!(
        told.starts_with("the service has been paused for"),
        "{told}"
    );
    assert!(told.contains("(a migration): nothing is taken"), "{told}");
    let json = lines(&with(&server, "inspect", &["--json"]));
    let summary: Value = serde_json::from_str(json.last().unwrap()).unwrap();
    assert_eq!(summary["paused"]["reason"], "a migration");
    assert!(summary["paused"]["since"].as_u64().unwrap() > 1_700_000_000_000);
    heir.wait_for("stream_added", SOON);
    assert!(second.events_of("stream_added").is_empty());

    assert_eq!(lines(&with(&server, "resume", &[])), ["resumed: service=s"]);
    second.wait_for_count("stream_added", 2, SOON);
    assert_eq!(
        lines(&with(&server, "resume", &[])),
        ["not paused: service=s"]
    );
    let shown = lines(&with(&server, "inspect", &[])).join("\n");
    assert!(!shown.contains("paused"), "{shown}");
}

#[test]
fn each_line_is_an_object_where_that_is_asked_for() {
    let server = RedisServer::start();
    let event = |command, more: &[&str]| -> Value {
        let output = with(&server, command, &[more, &["--json"]].concat());
        serde_json::from_str(&lines(&output)[0]).unwrap()
    };
    let paused = event("pause", &["--reason", "why \"not\""]);
    assert_eq!(
        (&paused["event"], &paused["service"], &paused["reason"]),
        (&"paused".into(), &"s".into(), &"why \"not\"".into())
    );
    assert_eq!(event("pause", &[])["event"], "already_paused");
    assert_eq!(event("resume", &[])["event"], "resumed");
    assert_eq!(event("resume", &[])["event"], "not_paused");
}

/// Consumers of the wire format know nothing of it.
#[test]
fn with_per_stream_locks_a_pause_warns_of_consumers_that_do_not_obey() {
    let server = RedisServer::start();
    let worker = work(&server, "s", "one", &["--locks", "per-stream"]);
    worker.wait_for("started", SOON);
    let paused = with(&server, "pause", &[]);
    assert!(stderr(&paused).contains("Go library"), "{paused:?}");
    assert_eq!(lines(&paused), ["paused: service=s"]);
}

#[test]
fn doctor_and_probes_tell_of_a_pause() {
    let server = RedisServer::start();
    let mut worker = work(&server, "s", "one", &["--http", "127.0.0.1:0"]);
    let words = "metrics are at http://";
    common::said(&worker, words);
    // Before, its session is not alive.
    worker.wait_for("started", SOON);
    let stderr = worker.stderr();
    let address = stderr.split(words).nth(1).unwrap();
    let address = address.lines().next().unwrap().trim();
    let ready = || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let told = ready();
    assert!(told.contains("\npaused: false\n"), "{told}");
    assert!(told.contains("\nbelieved_for: "), "{told}");
    let doctor = |code: &str| {
        let url = server.url();
        let output = run(&["doctor", "--json", "--redis", &url, "--service", "s"]);
        let lines = lines(&output).into_iter();
        let mut findings = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        findings.find(|finding| finding["code"] == code).unwrap()
    };
    assert_eq!(doctor("paused")["severity"], "ok");
    with(&server, "pause", &["--reason", "a migration"]);
    let found = doctor("paused");
    assert_eq!(found["severity"], "warning", "{found}");
    let message = found["message"].as_str().unwrap();
    assert!(
        message.contains("paused") && message.contains("a migration"),
        "{found}"
    );
    assert!(
        found["advice"]
            .as_str()
            .unwrap()
            .contains("streamlease resume")
    );
    eventually_blocking("the consumer to hear of it", SOON, || {
        ready().contains("\npaused: true\n")
    });
    // Another consumer would not help.
    worker.signal(Signal::TERM);
    worker.wait_exit(SOON);
    submit(&server, "s", &["a"]);
    let found = doctor("members");
    assert_eq!(found["severity"], "warning", "{found}");
    let advice = found["advice"].as_str().unwrap();
    assert!(advice.contains("takes nothing before `resume`"), "{found}");
}

/// A slip of the pen must not look like success.
#[test]
fn what_is_done_to_a_service_that_does_not_exist_says_so() {
    let server = RedisServer::start();
    let url = server.url();
    let target = ["--redis", &url, "--service", "typo"];
    for (command, names) in [
        (&["pause"][..], &[][..]),
        (&["resume"], &[]),
        (&["revoke"], &["a"]),
        (&["cancel"], &["a"]),
        (&["quarantine", "list"], &[]),
        (&["quarantine", "drop"], &["1-1"]),
        (&["quarantine", "release"], &["--all"]),
    ] {
        let output = run(&[command, &target, names].concat());
        let said = stderr(&output);
        assert!(
            said.starts_with("there is no service typo here"),
            "{command:?}: {said}"
        );
    }
    // Of one that there is, nothing is said.
    submit(&server, "typo", &["a"]);
    let output = run(&[&["pause"][..], &target].concat());
    assert_eq!(
        (stderr(&output), output.status.code()),
        (String::new(), Some(0))
    );
    let list = run(&[&["quarantine", "list"][..], &target].concat());
    assert_eq!(stderr(&list), "the quarantine of service typo is empty\n");
    assert!(list.stdout.is_empty() && list.status.success(), "{list:?}");
}

/// It pauses the service as well, and nobody knows why unless it is named.
#[test]
fn what_stands_where_a_pause_is_and_is_none_is_named() {
    let server = RedisServer::start();
    let url = server.url();
    let target = ["--redis", &url, "--service", "s"];
    submit(&server, "s", &["a"]);
    server.run::<u64>(&["LPUSH", "{s-input}:paused", "x"]);
    let which = "{s-input}:paused is no string (WRONGTYPE)";
    for command in ["inspect", "pause"] {
        let output = run(&[&[command][..], &target].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(which), "{output:?}");
    }
    let resumed = run(&[&["resume"][..], &target].concat());
    assert!(resumed.status.success(), "{resumed:?}");
    let said = stderr(&resumed);
    assert!(
        said.starts_with("what was removed there was no pause: ") && said.contains(which),
        "{said}"
    );
    assert_eq!(stderr(&run(&[&["resume"][..], &target].concat())), "");
}
