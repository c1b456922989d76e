//! The programs of README and docs that name a server do on one what their pages say.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use streamlease_tests::{JsonProcess, RedisServer, Signal, eventually_blocking};

const WITHIN: Duration = Duration::from_secs(20);

/// A program; `build.rs` says which name it has.
fn program(name: &str, args: &[&str], server: &RedisServer) -> JsonProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamlease-pages"));
    command.arg0(name).args(args);
    command.env("REDIS_URL", server.url());
    command.env("POD_NAME", name);
    JsonProcess::spawn(&mut command)
}

fn says(program: &JsonProcess, words: &str) -> bool {
    program.not_json().iter().any(|line| line.contains(words))
}

/// A program that ends by itself.
fn run(name: &str, args: &[&str], server: &RedisServer) {
    let mut program = program(name, args, server);
    let ended = program.wait_exit(WITHIN);
    assert!(ended.success(), "{name}: {}", program.stderr());
}

fn announced(server: &RedisServer) -> u64 {
    server.run(&["XLEN", "calls-input"])
}

/// A worker completes what was announced, and ends when it is told to.
fn works_until(signal: Signal, name: &str, server: &RedisServer) -> JsonProcess {
    run("readme_2", &[], server);
    assert_eq!(announced(server), 1);
    let mut worker = program(name, &[], server);
    eventually_blocking("the stream is completed", WITHIN, || announced(server) == 0);
    worker.signal(signal);
    let ended = worker.wait_exit(WITHIN);
    assert!(ended.success(), "{name}: {}", worker.stderr());
    worker
}

#[test]
fn the_readmes_worker_takes_what_its_producer_announces() {
    let server = RedisServer::start();
    for signal in [Signal::TERM, Signal::INT] {
        let worker = works_until(signal, "readme_1", &server);
        assert!(says(&worker, "working on call-1, info"));
        assert!(says(&worker, "opus"));
    }
}

#[test]
fn the_second_worker_of_getting_started_takes_over_from_the_one_that_is_killed() {
    let server = RedisServer::start();
    let first = program("getting_started_1", &["worker-1"], &server);
    run("getting_started_2", &["call-1", "call-2"], &server);
    for name in ["call-1", "call-2"] {
        let says_it = || says(&first, &format!("{name} is mine, from nobody"));
        eventually_blocking("the first has it", WITHIN, says_it);
    }
    let mut second = program("getting_started_1", &["worker-2"], &server);
    first.signal(Signal::KILL);
    for name in ["call-1", "call-2"] {
        let words = format!("{name} is mine, from redis-consumer-worker-1");
        eventually_blocking("the second has it", WITHIN, || says(&second, &words));
    }
    second.signal(Signal::KILL);
    second.wait_exit(WITHIN);
}

#[test]
fn the_handlers_of_each_runtime_work_and_stop() {
    let server = RedisServer::start();
    works_until(Signal::TERM, "handlers_1", &server);
    works_until(Signal::TERM, "handlers_2", &server);
    works_until(Signal::TERM, "handlers_3", &server);
    let blocking = works_until(Signal::TERM, "handlers_4", &server);
    assert!(says(&blocking, "part 999 of call-1"));
}

#[test]
fn the_consumer_for_a_mixed_fleet_works_and_stops() {
    let server = RedisServer::start();
    let worker = works_until(Signal::TERM, "coming_from_go_1", &server);
    assert!(says(&worker, "call-1: "));
}

#[test]
fn the_guides_producer_announces_many() {
    let server = RedisServer::start();
    run("guide_1", &[], &server);
    assert_eq!(announced(&server), 999);
}
