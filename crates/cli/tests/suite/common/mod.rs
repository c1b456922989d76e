//! What the tests of the command share.

// Each test binary uses a part of it; and in tests a panic is the way to fail.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use streamlease_tests::{JsonProcess, RedisServer, eventually_blocking};

/// Long enough for a loaded machine; nothing waits for it to pass.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Names another build of the command than the one beside the tests: with another TLS.
const COMMAND: &str = "STREAMLEASE_COMMAND";

/// The command, with nothing of the surrounding environment that it looks at.
pub(crate) fn command() -> Command {
    let built = || env!("CARGO_BIN_EXE_streamlease").into();
    let mut command = Command::new(std::env::var_os(COMMAND).unwrap_or_else(built));
    for name in [
        "POD_NAME",
        "POD_IP",
        "RUST_LOG",
        "STREAMLEASE_REDIS",
        "REDIS_URL",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        command.env_remove(name);
    }
    // Where those that are killed leave the infos of their streams.
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null());
    command
}

/// `streamlease <args>` to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

/// The same with something on standard input.
pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// `streamlease submit` of `names`; their entry ids.
pub(crate) fn submit(server: &RedisServer, service: &str, names: &[&str]) -> Vec<String> {
    let url = server.url();
    let mut args = vec!["submit", "--redis", &url, "--service", service];
    args.extend(names);
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    lines(&output)
}

/// `streamlease work --json`, with a TTL of 3s if `more` has none, once it has said `started`.
/// A machine that stands still for a second costs nobody a lease.
pub(crate) fn work(
    server: &RedisServer,
    service: &str,
    consumer: &str,
    more: &[&str],
) -> JsonProcess {
    let ttl: &[&str] = if more.contains(&"--ttl") {
        &[]
    } else {
        &["--ttl", "3s"]
    };
    let worker = JsonProcess::spawn(
        command()
            .args(["work", "--redis", &server.url(), "--service", service])
            .args(["--consumer", consumer, "--json"])
            .args(ttl)
            .args(more)
            .env("RUST_LOG", "info"),
    );
    worker.wait_for("started", SOON);
    worker
}

/// What `streamlease inspect --json` prints, the summary last.
pub(crate) fn inspect(server: &RedisServer, service: &str) -> Vec<Value> {
    let output = run(&[
        "inspect",
        "--redis",
        &server.url(),
        "--service",
        service,
        "--json",
    ]);
    assert!(output.status.success(), "{output:?}");
    lines(&output)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// How many entries are pending or undelivered.
pub(crate) fn unfinished(server: &RedisServer, service: &str) -> u64 {
    let listing = inspect(server, service);
    let summary = listing.last().unwrap();
    summary["pending"].as_u64().unwrap() + summary["undelivered"].as_u64().unwrap()
}

pub(crate) fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A worker that runs a shell script per stream.
pub(crate) fn shell(
    server: &RedisServer,
    consumer: &str,
    more: &[&str],
    script: &str,
) -> JsonProcess {
    let mut args = more.to_vec();
    args.extend(["--exec", "sh", "-c", script]);
    work(server, "s", consumer, &args)
}

/// Waits until a program has printed this (its output is on standard error).
pub(crate) fn said(worker: &JsonProcess, text: &str) {
    eventually_blocking(text, SOON, || worker.stderr().contains(text));
}

pub(crate) fn runs(pid: &str) -> bool {
    // Killed and not yet reaped counts as ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

/// The number that a program printed as `pid=<number>`.
pub(crate) fn pid_said(worker: &JsonProcess) -> String {
    number_said(worker, "pid=")
}

/// The number that a program printed behind these words.
pub(crate) fn number_said(worker: &JsonProcess, words: &str) -> String {
    said(worker, words);
    let stderr = worker.stderr();
    let after = stderr.split(words).nth(1).unwrap();
    after.chars().take_while(char::is_ascii_digit).collect()
}

/// A directory of its own, removed when the test ends.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(server: &RedisServer) -> Self {
        let name = format!("streamlease-test-{}-{}", std::process::id(), server.port());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
