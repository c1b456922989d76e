//! Standard output and standard error that nobody reads, and a stop while it starts.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use streamlease_tests::{
    JsonProcess, Proxy, RedisServer, Signal, eventually_blocking, in_real_time,
};

use crate::common::{SOON, command, inspect, stderr, submit, unfinished, work};

/// A process that is killed when the test is over.
struct Killed(Child);

impl Killed {
    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn wait_exit(&mut self) -> Option<i32> {
        eventually_blocking("its end", SOON, || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(server: &RedisServer, consumer: &str, ttl: &str) -> Command {
    let mut command = command();
    command
        .args(["work", "--redis", &server.url(), "--service", "s"])
        .args(["--consumer", consumer, "--json", "--ttl", ttl])
        .args(["--capacity", "5000"]);
    command
}

/// How many entries somebody holds the lock of.
fn held(server: &RedisServer) -> usize {
    let listing = inspect(server, "s");
    listing
        .iter()
        .filter(|line| line["lock_live"] == true)
        .count()
}

/// Both ends of something like a pipe; the first takes nothing any more.
fn full_pipe() -> (OwnedFd, UnixStream) {
    let (mut input, output) = UnixStream::pair().unwrap();
    input.set_nonblocking(true).unwrap();
    for size in [4096, 1] {
        while input.write(&vec![b'x'; size]).is_ok() {}
    }
    input.set_nonblocking(false).unwrap();
    (input.into(), output)
}

#[test]
fn stdout_that_nobody_reads_holds_nothing_that_was_not_told_and_does_not_keep_from_stopping() {
    let server = RedisServer::start();
    let (stdout, _unread) = full_pipe();
    let mut unread = Killed(
        worker(&server, "unread", "2s")
            .stdout(stdout)
            .spawn()
            .unwrap(),
    );
    eventually_blocking("its session", SOON, || {
        server.run::<u64>(&["ZCARD", "{s-input}:sessions"]) == 1
    });
    let names: Vec<String> = (0..3000).map(|n| format!("s{n}")).collect();
    submit(
        &server,
        "s",
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    eventually_blocking("it to be given streams", SOON, || held(&server) > 0);
    // All but those whose lines wait to be written.
    let other = work(
        &server,
        "s",
        "other",
        &["--ttl", "2s", "--capacity", "5000"],
    );
    other.wait_for_count("stream_added", 2900, SOON);
    unread.signal(Signal::TERM);
    other.wait_for_count("stream_added", 3000, SOON);
    assert_eq!(unread.wait_exit(), Some(0));
}

#[test]
fn stdout_that_is_read_again_is_told_of_everything_and_streams_are_taken_again() {
    let server = RedisServer::start();
    let (stdout, unread) = full_pipe();
    let mut slow = Killed(
        worker(&server, "slow", "1s")
            .args(["--hold", "0s"])
            .stdout(stdout)
            .env("RUST_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let names: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    submit(
        &server,
        "s",
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut stderr = std::io::BufReader::new(slow.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("standard output takes nothing") {
        assert!(
            std::io::BufRead::read_line(&mut stderr, &mut said).unwrap() > 0,
            "{said}"
        );
    }
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::copy(&mut { unread }, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    eventually_blocking("all to be done", SOON, || unfinished(&server, "s") == 0);
    slow.signal(Signal::TERM);
    assert_eq!(slow.wait_exit(), Some(0));
    let told = reader.join().unwrap();
    assert_eq!(told.matches("\"stream_done\"").count(), 500);
    assert!(told.trim_end().ends_with("\"reason\":\"shut down\"}"));
}

#[test]
fn stderr_that_nobody_reads_keeps_nobody_from_anything() {
    let server = RedisServer::start();
    let (stderr, _unread) = full_pipe();
    // More lines than wait to be written, and the programs are silent.
    let names: Vec<String> = (0..600).map(|n| format!("s{n}")).collect();
    submit(
        &server,
        "s",
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut child = worker(&server, "unread", "2s")
        .args(["--hold", "0s"])
        .env("RUST_LOG", "info")
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map(Killed)
        .unwrap();
    eventually_blocking("all to be done", SOON, || unfinished(&server, "s") == 0);
    child.signal(Signal::TERM);
    assert_eq!(child.wait_exit(), Some(0));
}

#[test]
fn sigterm_while_it_starts_hands_back_what_it_has_leased_already() {
    in_real_time(|| {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        submit(&server, "s", &["a", "b", "c"]);
        // It waits for its subscription, and leases streams meanwhile.
        proxy.silence_from("SUBSCRIBE");
        let mut starting = JsonProcess::spawn(
            command()
                .args(["work", "--redis", &proxy.url(), "--service", "s"])
                .args(["--consumer", "one", "--json", "--ttl", "60s"]),
        );
        eventually_blocking("streams to be leased", SOON, || held(&server) == 3);
        starting.signal(Signal::TERM);
        assert_eq!(starting.wait_exit(SOON).code(), Some(0));
        assert_eq!(held(&server), 0);
        // A session that was closed has no deadline.
        assert_eq!(
            server.run::<u64>(&["ZCOUNT", "{s-input}:sessions", "1", "+inf"]),
            0
        );
        // Long before the TTL.
        let other = work(&server, "s", "two", &["--ttl", "60s"]);
        other.wait_for_count("stream_added", 3, SOON);
    });
}

/// What takes nothing, as a full disk.
fn full() -> Stdio {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

fn ends_full(args: &[&str], server: &RedisServer) -> String {
    let mut command = command();
    let command = command.args(&args[..1]);
    let command = command.args(["--redis", &server.url(), "--service", "s"]);
    let output = command.args(&args[1..]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}: {output:?}", args[0]);
    let said = stderr(&output);
    assert!(said.contains("standard output: No space left"), "{said}");
    said
}

#[test]
fn a_full_disk_behind_stdout_is_an_error_and_keeps_nothing_from_being_done() {
    let server = RedisServer::start();
    let names: Vec<String> = (0..1_100).map(|n| format!("call-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let said = ends_full(&[&["submit"], &names[..]].concat(), &server);
    assert!(said.contains("1100 streams were submitted"), "{said}");
    assert_eq!(unfinished(&server, "s"), 1_100);

    ends_full(&["inspect"], &server);
    ends_full(&["pause"], &server);
    ends_full(&["resume"], &server);
    let said = ends_full(&["work", "--consumer", "two"], &server);
    assert!(said.contains("nobody hears of the streams"), "{said}");

    ends_full(&[&["cancel"], &names[..]].concat(), &server);
    assert_eq!(unfinished(&server, "s"), 0);
    // It is asked for by another call than the first ones.
    submit(&server, "s", &["last"]);
    let owner = work(&server, "s", "one", &[]);
    owner.wait_for("stream_added", SOON);
    ends_full(&[&["revoke"], &names[..], &["last"]].concat(), &server);
    owner.wait_for("stream_disowned", SOON);
}

#[test]
fn a_full_disk_behind_stderr_keeps_nothing_from_being_done() {
    let server = RedisServer::start();
    let output = command()
        .args(["inspect", "--redis", &server.url(), "--service", "none"])
        .stderr(full())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
