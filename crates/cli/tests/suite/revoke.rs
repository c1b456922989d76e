//! `streamlease revoke`.

use streamlease_tests::{RedisServer, Signal};

use crate::common::{SOON, lines, run, stderr, submit, work};

#[test]
fn a_revoked_stream_is_taken_by_whoever_has_room() {
    let server = RedisServer::start();
    submit(&server, "s", &["call-1"]);
    let limits = ["--hold", "10m", "--capacity", "1", "--ttl", "2s"];
    let first = work(&server, "s", "one", &limits);
    first.wait_for("stream_added", SOON);
    let url = server.url();
    let revoke = |names: &[&str]| {
        let mut args = vec!["revoke", "--redis", &url, "--service", "s"];
        args.extend(names);
        run(&args)
    };
    let none = revoke(&["call-2"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert_eq!(lines(&none), ["not held: stream=call-2"]);
    assert!(stderr(&none).contains("nobody holds 1 of 1 stream\n"));

    let second = work(&server, "s", "two", &limits);
    second.wait_for("started", SOON);
    let asked = revoke(&["call-1"]);
    assert!(asked.status.success(), "{asked:?}");
    assert_eq!(lines(&asked), ["revoked: stream=call-1"]);
    let told = first.wait_for("stream_disowned", SOON);
    assert_eq!(told["stream"], "call-1");
    assert_eq!(told["reason"], "revoked");
    // Either may take it now; when the first one goes, the second one does.
    first.signal(Signal::TERM);
    second.wait_for("stream_added", SOON);
}

#[test]
fn locks_of_each_stream_are_not_revoked_and_the_reason_is_told() {
    let server = RedisServer::start();
    submit(&server, "s", &["call-1"]);
    let worker = work(
        &server,
        "s",
        "one",
        &["--hold", "10m", "--locks", "per-stream"],
    );
    worker.wait_for("stream_added", SOON);
    let url = server.url();
    let refused = run(&["revoke", "--redis", &url, "--service", "s", "call-1"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(stderr(&refused).contains("only session leases can be revoked"));
}

/// There is nothing yet that has locks of one kind or the other.
#[test]
fn of_a_service_that_nobody_has_consumed_nothing_is_held() {
    let server = RedisServer::start();
    submit(&server, "s", &["call-1"]);
    let url = server.url();
    let revoke = ["revoke", "--redis", &url, "--service", "s", "call-1"];
    let none = run(&revoke);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert_eq!(lines(&none), ["not held: stream=call-1"]);
    assert!(stderr(&none).contains("nobody holds 1 of 1 stream\n"));
}
