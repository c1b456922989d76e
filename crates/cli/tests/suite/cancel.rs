//! `streamlease cancel`.

use streamlease_tests::RedisServer;

use crate::common::{SOON, lines, run, stderr, submit, unfinished, work};

#[test]
fn a_cancelled_stream_is_withdrawn_and_its_owner_told_with_either_locks() {
    for locks in ["session", "per-stream"] {
        let server = RedisServer::start();
        let url = server.url();
        let cancel = |names: &[&str]| {
            let args = ["cancel", "--redis", &url, "--service", "s"];
            run(&[&args[..], names].concat())
        };
        let none = cancel(&["never"]);
        assert_eq!(none.status.code(), Some(1), "{none:?}");
        assert_eq!(lines(&none), ["not announced: stream=never"]);
        assert!(stderr(&none).contains("not announced: 1 of 1 stream\n"));

        // Also before any consumer has started.
        let early = submit(&server, "s", &["early"]).remove(0);
        assert_eq!(
            lines(&cancel(&["early"])),
            [format!("cancelled: stream=early entries={early}")]
        );
        let held = submit(&server, "s", &["held"]).remove(0);
        let flags = ["--capacity", "1", "--ttl", "1s", "--locks", locks];
        let worker = work(&server, "s", "one", &flags);
        worker.wait_for("stream_added", SOON);
        let waits = submit(&server, "s", &["waits"]).remove(0);
        let done = cancel(&["held", "waits"]);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(
            lines(&done),
            [
                format!("cancelled: stream=held entries={held}"),
                format!("cancelled: stream=waits entries={waits}"),
            ]
        );
        let told = worker.wait_for("stream_disowned", SOON);
        assert_eq!(told["stream"], "held");
        let reason = told["reason"].as_str().unwrap();
        assert!(["cancelled", "entry_gone"].contains(&reason), "{told}");
        assert_eq!(unfinished(&server, "s"), 0);
        submit(&server, "s", &["next"]);
        let added = worker.wait_for_count("stream_added", 2, SOON);
        assert_eq!(added[1]["stream"], "next");
    }
}
