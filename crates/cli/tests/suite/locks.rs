//! `--locks` and `migrate`: both kinds of locks, one kind per service.

use streamlease_tests::{RedisServer, Signal};

use crate::common::{SOON, command, inspect, run, submit, work};

fn migrate(server: &RedisServer, to: &str) -> std::process::Output {
    let url = server.url();
    run(&["migrate", "--redis", &url, "--service", "s", "--to", to])
}

/// A worker that is refused: what it says.
fn refused(server: &RedisServer, locks: &str) -> String {
    let output = command()
        .args(["work", "--redis", &server.url(), "--service", "s"])
        .args(["--consumer", "other", "--locks", locks])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn holder_of(server: &RedisServer, stream: &str) -> serde_json::Value {
    let listing = inspect(server, "s");
    let row = listing.iter().find(|line| line["stream"] == stream);
    row.unwrap()["holder"].clone()
}

#[test]
fn a_service_keeps_its_kind_of_locks_until_it_is_migrated() {
    let server = RedisServer::start();
    for (kind, other) in [("session", "per-stream"), ("per-stream", "session")] {
        if kind == "session" {
            submit(&server, "s", &["call"]);
        }
        let mut one = work(&server, "s", "one", &["--locks", kind]);
        one.wait_for("stream_added", SOON);
        let holder = holder_of(&server, "call");
        assert!(
            holder.as_str().unwrap().starts_with("redis-consumer-one"),
            "{holder}"
        );

        let message = refused(&server, other);
        assert!(
            message.contains(&format!("has {kind} locks on record")),
            "{message}"
        );
        assert!(
            message.contains(&format!("streamlease migrate --to {other}")),
            "{message}"
        );
        let busy = migrate(&server, other);
        assert_eq!(busy.status.code(), Some(1), "{busy:?}");
        assert!(String::from_utf8_lossy(&busy.stderr).contains("is busy"));

        one.signal(Signal::TERM);
        assert_eq!(one.wait_exit(SOON).code(), Some(0));
        let moved = migrate(&server, other);
        assert_eq!(moved.status.code(), Some(0), "{moved:?}");
        assert!(refused(&server, kind).contains(other));
    }
}
