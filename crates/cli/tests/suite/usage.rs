//! Wrong usage exits with 2 and says what would be right; everything else with 1.

use streamlease_tests::{RedisServer, Signal};

use crate::common::{self, command, lines, run, run_with_input, stderr, work};

/// Runs, and asserts the exit code and that standard error names these.
fn fails(args: &[&str], code: i32, named: &[&str]) {
    let output = run(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for name in named {
        assert!(
            said.contains(name),
            "{args:?} does not name {name:?}: {said}"
        );
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(output.stdout.is_empty(), "{args:?} printed something");
}

/// Nothing listens there: what is checked before connecting cannot fail by it.
const NOWHERE: [&str; 4] = ["--redis", "redis://127.0.0.1:1", "--service", "s"];

fn fails_to_work(args: &[&str], named: &[&str]) {
    let all: Vec<&str> = ["work"]
        .iter()
        .chain(&NOWHERE)
        .chain(args)
        .copied()
        .collect();
    fails(&all, 2, named);
}

#[test]
fn invalid_arguments_exit_2_and_are_named_before_anything_starts() {
    fails(&[], 2, &["Usage"]);
    fails(
        &["work", "--service", "s", "--consumer", "c"],
        2,
        &[
            "--redis URL",
            "--redis-file",
            "STREAMLEASE_REDIS",
            "REDIS_URL",
        ],
    );
    fails_to_work(
        &["--consumer", "c", "--quarantine-after", "0"],
        &["--quarantine-after", "give at least 1, or never"],
    );
    for address in ["localhost", ":8080", "8080"] {
        fails_to_work(
            &["--consumer", "c", "--http", address],
            &["--http", "such as 127.0.0.1:8080"],
        );
    }
    fails_to_work(&["--consumer", "c", "--quarantine-after", "x"], &["never"]);
    fails_to_work(
        &["--consumer", "c", "--event-queue", "0"],
        &["event_queue is 0"],
    );
    fails_to_work(
        &["--consumer", "c", "--progress-timeout", "1s"],
        &["--exec"],
    );
    fails_to_work(
        &["--consumer", "c", "--log", "loud"],
        &["--log", "warn, info"],
    );
    fails(&["submit", "--redis", "redis://h", "x"], 2, &["--service"]);
    fails(
        &["inspect", "--redis", "redis://h", "--service", ""],
        2,
        &["service name is empty"],
    );
    fails(
        &["inspect", "--redis", "redis://h", "--service", "a\nb"],
        2,
        &["control character"],
    );
    fails_to_work(
        &["--consumer", "c", "--hold", "1s", "--ca", "/no/such/file"],
        &["--ca", "/no/such/file"],
    );
    fails_to_work(&["--cert", "c.pem"], &["--key"]);
    fails(
        &["inspect", "--redis", "redis://me@h", "--service", "s"],
        2,
        &["a user without a password", "redis://user:password@host"],
    );
    fails_to_work(&["--consumer", "c", "--ttl", "2"], &["--ttl", "500ms"]);
    fails_to_work(
        &["--consumer", "c", "--ttl", "100ms"],
        &["ttl is 100ms", "200ms", "1h"],
    );
    fails_to_work(
        &["--consumer", "c", "--capacity", "0"],
        &["capacity is 0", "between 1 and"],
    );
    fails_to_work(&["--consumer", "c", "--capacity", "-1"], &["--capacity"]);
    fails_to_work(&["--consumer", "c", "--ttl", "-3"], &["--ttl", "500ms"]);
    fails_to_work(&["--consumer", "c", "--ttl", "-3s"], &["--ttl", "500ms"]);
    fails_to_work(
        &["--consumer", "c", "--hold", "-1s"],
        &["--hold", "forever"],
    );
    fails_to_work(
        &["--consumer", "c", "--grace", "-1s"],
        &["--grace", "500ms"],
    );
    fails_to_work(&["--consumer", "c", "--retries", "-1"], &["--retries"]);
    fails_to_work(
        &["--consumer", "c", "--lost-grace", "4s"],
        &["--lost-grace is 4s", "at most 2.1s"],
    );
    fails_to_work(
        &["--consumer", "c", "--claim", "maybe"],
        &["--claim", "auto, manual, off"],
    );
    fails_to_work(
        &["--consumer", "c", "--hold", "soon"],
        &["--hold", "forever"],
    );
    fails_to_work(
        &["--consumer", "c", "--runtime", "rayon"],
        &["tokio, async-std, smol"],
    );
    fails_to_work(
        &["--consumer", "c", "--locks", "none"],
        &["--locks", "per-stream, session"],
    );
    fails_to_work(&["--consumer", "a/b"], &["consumer identity", "reserved"]);
    fails_to_work(&["--consumer", ""], &["consumer identity is empty"]);
    fails_to_work(&[], &["--consumer", "POD_NAME", "POD_IP"]);
    fails_to_work(
        &["--consumer", "c", "--exec", "no-such-program"],
        &["--exec", "no-such-program"],
    );
    let info = [
        "submit",
        "--redis",
        "redis://h",
        "--service",
        "s",
        "--info",
        "[1]",
        "x",
    ];
    fails(&info, 2, &["--info", "not a JSON object"]);
    let submit = [&["submit"], &NOWHERE[..]].concat();
    for (source, named) in [("@/no/such/file", "/no/such/file"), ("-", "standard input")] {
        fails(
            &[&submit[..], &["--info", source, "x"]].concat(),
            2,
            &["--info", named],
        );
    }
    fails(
        &[&submit[..], &["--info", "-"]].concat(),
        2,
        &["--info -", "arguments"],
    );
    fails(
        &["submit", "--redis", "redis://h", "--service", "s", ""],
        2,
        &["name is empty"],
    );
    fails(
        &["inspect", "--redis", "http://h", "--service", "s"],
        2,
        &["--redis", "redis://"],
    );
}

#[test]
fn a_server_that_cannot_be_reached_or_refuses_exits_1() {
    let nowhere: Vec<&str> = ["inspect"].iter().chain(&NOWHERE).copied().collect();
    fails(&nowhere, 1, &["--redis", "127.0.0.1:1"]);
    let nowhere: Vec<&str> = ["work"]
        .iter()
        .chain(&NOWHERE)
        .chain(&["--consumer", "c", "--retries", "1"])
        .copied()
        .collect();
    let output = run(&nowhere);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("127.0.0.1:1"), "{output:?}");

    let server = RedisServer::builder().config("requirepass right").start();
    let wrong = server.url_with("", "wr0ng-secret", 0);
    for url in [&wrong, &server.url()] {
        fails(
            &["submit", "--redis", url, "--service", "s", "x"],
            1,
            &["--redis"],
        );
        let output = run(&["inspect", "--redis", url, "--service", "s"]);
        assert!(
            !stderr(&output).contains("wr0ng-secret"),
            "the password is in the message"
        );
    }
    let right = server.url_with("", "right", 0);
    assert!(
        run(&["submit", "--redis", &right, "--service", "s", "x"])
            .status
            .success()
    );
}

#[test]
fn the_identity_comes_from_the_argument_else_pod_name_else_pod_ip() {
    let server = RedisServer::start();
    let started = |args: &[&str], env: &[(&str, &str)]| {
        let mut worker = streamlease_tests::JsonProcess::spawn(
            command()
                .args(["work", "--redis", &server.url(), "--service", "s", "--json"])
                .args(args)
                .envs(env.iter().copied()),
        );
        let consumer = worker.wait_for("started", common::SOON)["consumer"].clone();
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait_exit(common::SOON).code(), Some(0));
        consumer
    };
    let both = [("POD_NAME", "name"), ("POD_IP", "10.0.0.1")];
    assert_eq!(started(&["--consumer", "arg"], &both), "redis-consumer-arg");
    assert_eq!(started(&[], &both), "redis-consumer-name");
    assert_eq!(
        started(&[], &[("POD_NAME", ""), both[1]]),
        "redis-consumer-10.0.0.1"
    );
}

#[test]
fn a_bad_line_of_standard_input_is_named_and_the_ones_before_are_submitted() {
    let server = RedisServer::start();
    let args = ["submit", "--redis", &server.url(), "--service", "s"];
    for bad in [
        &b"a\n\nb\n\xff\xfe\nc\n"[..],
        &[b"a\n\nb\n".to_vec(), vec![b'x'; 5000]].concat(),
    ] {
        let output = run_with_input(&args, bad);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("line 4"), "{output:?}");
        assert_eq!(common::lines(&output).len(), 2);
    }
}

#[test]
fn a_command_that_is_told_to_stop_while_it_starts_exits_0() {
    let server = RedisServer::start();
    server.freeze();
    let mut worker = streamlease_tests::JsonProcess::spawn(
        command()
            .args(["work", "--redis", &server.url(), "--service", "s", "--json"])
            .args(["--consumer", "c"])
            .env("RUST_LOG", "info"),
    );
    let status = format!("/proc/{}/status", worker.pid());
    streamlease_tests::eventually_blocking("it catches SIGTERM", common::SOON, || {
        // Before it connects. How many threads it has by then says nothing.
        std::fs::read_to_string(&status).is_ok_and(|status| {
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
        })
    });
    worker.signal(Signal::TERM);
    assert_eq!(
        worker.wait_exit(common::SOON).code(),
        Some(0),
        "{}",
        worker.stderr()
    );
    let said = worker.wait_for("terminated", common::SOON);
    assert!(
        said["reason"].as_str().unwrap().contains("shut down"),
        "{said}"
    );
    server.thaw();
    drop(work(&server, "s", "c", &[]));
}

/// As editors of other systems write them.
#[test]
fn files_and_lists_may_begin_with_a_byte_order_mark() {
    let server = RedisServer::start();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("url-with-mark");
    std::fs::write(&file, format!("\u{feff}{}\r\n", server.url())).unwrap();
    let file = file.to_str().unwrap();
    let args = ["submit", "--redis-file", file, "--service", "s", "--json"];
    let output = run_with_input(&args, "\u{feff}a\r\nb\n".as_bytes());
    assert!(output.status.success(), "{output:?}");
    let names: Vec<String> = lines(&output)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["stream"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_very_long_value_is_not_echoed_in_full() {
    let long = "n".repeat(5_000);
    let output = run(&["submit", "--redis", "redis://h", "--service", "s", &long]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("5000 bytes") && said.contains("nnn…"),
        "{said}"
    );
    assert!(said.len() < 500, "{said}");
}
