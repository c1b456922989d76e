//! The rights that `docs/operations.md` names are enough for everything that is done.

use std::fs;
use std::path::Path;

use streamlease_tests::{JsonProcess, RedisServer, Signal};

use crate::common::{SOON, command, run};

/// The lines of the page that set rights, in its order: for session leases, and for
/// per-stream locks.
fn rights() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("ACL SETUSER "));
    lines.map(str::to_owned).collect()
}

struct Rights {
    server: RedisServer,
    url: String,
}

impl Rights {
    fn new(line: &str) -> Self {
        let server = RedisServer::start();
        let words: Vec<_> = line.split(' ').collect();
        let _: () = server.run(&words);
        let url = server.url().replace("redis://", "redis://orders:secret@");
        Self { server, url }
    }

    /// The output of a command that has to succeed.
    fn run(&self, subcommand: &[&str], more: &[&str]) -> String {
        let target = ["--redis", &self.url, "--service", "orders"];
        let output = run(&[subcommand, &target, more].concat());
        assert!(output.status.success(), "{subcommand:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn work(&self, consumer: &str, locks: &str) -> JsonProcess {
        JsonProcess::spawn(
            command()
                .args([
                    "work",
                    "--json",
                    "--redis",
                    &self.url,
                    "--service",
                    "orders",
                ])
                .args(["--consumer", consumer, "--locks", locks, "--ttl", "1s"]),
        )
    }

    fn everything_works(&self, locks: &str) {
        // What no consumer can read: it goes into quarantine.
        let added: String = self
            .server
            .run(&["XADD", "orders-input", "*", "no", "payload"]);
        self.run(&["submit"], &["call-1", "call-2"]);
        let mut one = self.work("one", locks);
        one.wait_for_count("stream_added", 2, SOON);
        one.wait_for("quarantined", SOON);
        assert!(self.run(&["inspect"], &[]).contains("call-1"));
        assert!(self.run(&["quarantine", "list"], &[]).contains(&added));

        // A crash, a take-over, a hand back.
        let mut two = self.work("two", locks);
        two.wait_for("started", SOON);
        one.signal(Signal::KILL);
        two.wait_for_count("stream_added", 2, SOON);
        two.signal(Signal::TERM);
        let ended = two.wait_exit(SOON);
        assert!(ended.success(), "{}", two.stderr());
        assert_eq!(
            two.stderr().matches("permission").count(),
            0,
            "{}",
            two.stderr()
        );
        one.wait_exit(SOON);

        self.run(&["quarantine", "release"], &["--all"]);
        let mut three = self.work("three", locks);
        three.wait_for("quarantined", SOON);
        three.signal(Signal::TERM);
        three.wait_exit(SOON);
        self.run(&["quarantine", "drop"], &["--all"]);
    }
}

#[test]
fn the_rights_on_the_page_are_enough_for_session_leases() {
    let rights = rights();
    Rights::new(&rights[0]).everything_works("session");
}

#[test]
fn a_worker_with_too_few_rights_ends_and_says_all_that_are_missing() {
    let line = rights()[0].replace(" +xclaim", "").replace(" +zadd", "");
    let rights = Rights::new(&line);
    let mut worker = rights.work("one", "session");
    let ended = worker.wait_exit(SOON);
    let said = worker.stderr();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("ACL SETUSER <user> +zadd +xclaim"), "{said}");
    assert_eq!(rights.server.run::<u64>(&["DBSIZE"]), 0, "nothing was done");
}

#[test]
fn the_rights_on_the_page_are_enough_for_per_stream_locks() {
    let rights = rights();
    assert_eq!(rights.len(), 2, "{rights:?}");
    Rights::new(&rights[1]).everything_works("per-stream");
}
