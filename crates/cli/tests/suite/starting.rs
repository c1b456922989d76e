//! `work --exec`: what a program is given, and where it cannot be started.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use streamlease_tests::{JsonProcess, RedisServer, Signal, eventually_blocking};

use crate::common::{
    self, SOON, Scratch, run, run_with_input, said, shell, submit, unfinished, work,
};

#[test]
fn an_info_that_no_environment_holds_is_in_a_file() {
    let server = RedisServer::start();
    let scratch = Scratch::new(&server);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
    std::fs::write(scratch.path("info"), &large).unwrap();
    let url = server.url();
    let args = ["submit", "--redis", &url, "--service", "s", "--info"];
    let from_file = format!("@{}", scratch.path("info"));
    assert!(
        run(&[&args[..], &[&from_file, "large"]].concat())
            .status
            .success()
    );
    let small = [&args[..], &["-", "small"]].concat();
    assert!(run_with_input(&small, b"{\"a\": 1}\n").status.success());
    submit(&server, "s", &["none"]);
    let script = format!(
        "cat \"$STREAMLEASE_INFO_FILE\" > {0}/$STREAMLEASE_STREAM; \
         printf %s \"${{STREAMLEASE_INFO-unset}}\" > {0}/$STREAMLEASE_STREAM.env; \
         stat -c %a \"$STREAMLEASE_INFO_FILE\" > {0}/mode; echo \"file=<$STREAMLEASE_INFO_FILE>\"",
        scratch.path("")
    );
    let mut worker = shell(&server, "one", &[], &script);
    for done in worker.wait_for_count("stream_done", 3, SOON) {
        assert_eq!(done["outcome"], "completed");
    }
    let read = |file: &str| std::fs::read_to_string(scratch.path(file)).unwrap();
    assert!(read("large") == large, "the large one is another");
    assert_eq!(read("large.env"), "unset");
    assert_eq!(
        (read("small"), read("small.env")),
        ("{\"a\": 1}\n".trim().into(), "{\"a\": 1}".into())
    );
    assert_eq!(
        (read("none"), read("none.env")),
        ("null".into(), "null".into())
    );
    assert_eq!(read("mode"), "600\n");
    said(&worker, "file=<");
    let stderr = worker.stderr();
    let file = stderr
        .split("file=<")
        .nth(1)
        .unwrap()
        .split('>')
        .next()
        .unwrap();
    let dir = std::path::Path::new(file).parent().unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "a file is left");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
    assert!(!dir.exists(), "{} is left", dir.display());
}

#[test]
fn running_programs_cost_no_file_descriptors() {
    let server = RedisServer::start();
    let names: Vec<String> = (0..200).map(|n| format!("s{n}")).collect();
    submit(
        &server,
        "s",
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let worker = JsonProcess::spawn(
        std::process::Command::new("sh")
            .args(["-c", "ulimit -n 40; exec \"$@\"", "sh"])
            .args([
                env!("CARGO_BIN_EXE_streamlease"),
                "work",
                "--redis",
                &server.url(),
            ])
            .args(["--service", "s", "--consumer", "one", "--json", "--exec"])
            .args(["sh", "-c", "echo runs; exec sleep 1000"]),
    );
    eventually_blocking("all to run", SOON, || {
        worker.stderr().matches("runs").count() == 200
    });
    assert_eq!(worker.events_of("stream_handed_back").len(), 0);
    worker.signal(Signal::TERM);
    worker.wait_for_count("stream_handed_back", 200, SOON);
}

#[test]
fn where_programs_cannot_be_started_there_is_one_warning_and_no_hot_loop() {
    let server = RedisServer::start();
    let scratch = Scratch::new(&server);
    let program = scratch.path("program");
    std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    let allow = |mode| {
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(0o755);
    let worker = work(&server, "s", "one", &["--ttl", "2s", "--exec", &program]);
    allow(0o644);
    let names: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    submit(
        &server,
        "s",
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    // Those that were taken wait, then go back; after that one tries now and then.
    let first = worker.wait_for("stream_handed_back", SOON);
    worker.wait_for_event("a later one to go back", SOON, |event| {
        let since = |event: &Value| event["ts"].as_u64().unwrap();
        event["event"] == "stream_handed_back" && since(event) > since(&first) + 3000
    });
    assert_eq!(worker.stderr().matches("cannot be started").count(), 1);
    let back = worker.events_of("stream_handed_back").len();
    assert!(back <= 60, "{back} were handed back");
    allow(0o755);
    worker.wait_for_count("stream_done", 50, SOON);
    assert_eq!(unfinished(&server, "s"), 0);
    let mut failures = common::inspect(&server, "s");
    failures.retain(|line| line["failures"].as_u64() > Some(0));
    assert!(failures.is_empty(), "{failures:?}");
}
