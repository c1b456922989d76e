//! `work --exec`: a program, and all that it starts, ends before its lease does.

use streamlease_tests::{
    JsonProcess, Proxy, RedisServer, Signal, eventually_blocking, in_real_time,
};

use crate::common::{
    SOON, Scratch, command, inspect, number_said, pid_said, runs, said, shell, submit, work,
};

/// Sends a signal to a process that is not the test's child.
fn signal(pid: &str, name: &str) {
    let status = std::process::Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status();
    assert!(status.unwrap().success());
}

/// Milliseconds since 1970 that a program wrote last into a file.
fn last_time_in(file: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().last().unwrap().parse().unwrap()
}

#[test]
fn children_that_outlive_the_program_keep_the_stream_from_the_next_owner() {
    let server = RedisServer::start();
    let scratch = Scratch::new(&server);
    submit(&server, "s", &["call"]);
    // The shell dies of SIGTERM at once, what it has started finishes what it does.
    let child = format!(
        "trap 'sleep 1; date +%s%3N > {}; exit 0' TERM; echo child=$$; while :; do sleep 0.02; done",
        scratch.path("end")
    );
    let script = format!("sh -c \"{}\"; true", child.replace('$', "\\$"));
    let mut one = shell(&server, "one", &["--grace", "30s"], &script);
    let child = number_said(&one, "child=");
    let two = work(&server, "s", "two", &[]);
    one.signal(Signal::TERM);
    let added = two.wait_for("stream_added", SOON);
    assert!(!runs(&child), "two programs work on one stream");
    let ended = last_time_in(&scratch.path("end"));
    assert!(added["ts"].as_u64().unwrap() >= ended, "{added}, {ended}");
    assert_eq!(one.wait_exit(SOON).code(), Some(0));
    assert_eq!(one.events_of("stream_handed_back").len(), 1);
}

#[test]
fn what_a_program_leaves_behind_has_its_grace_and_is_ended_then() {
    let server = RedisServer::start();
    for ending in [
        "exec sleep 1000",
        "trap '' TERM; while :; do sleep 0.02; done",
    ] {
        submit(&server, "s", &["call"]);
        let script = format!(
            "sh -c 'echo child=$$; {}' & exit 0",
            ending.replace('\'', "\"")
        );
        let worker = shell(&server, "one", &["--grace", "100ms"], &script);
        let child = number_said(&worker, "child=");
        let done = worker.wait_for("stream_done", SOON);
        assert_eq!(done["outcome"], "completed");
        assert!(!runs(&child), "{ending}: it runs on");
    }
    // What ends by itself is waited for, and nothing else happens to it.
    submit(&server, "s", &["call"]);
    let script = "sh -c 'sleep 0.3; echo finished' & exit 0";
    let worker = shell(&server, "one", &["--grace", "60s"], script);
    worker.wait_for("stream_done", SOON);
    said(&worker, "finished");
}

#[test]
fn a_program_is_dead_before_another_owner_begins_although_its_grace_is_long() {
    in_real_time(|| {
        let server = RedisServer::start();
        let scratch = Scratch::new(&server);
        let proxy = Proxy::start(server.addr());
        submit(&server, "s", &["call"]);
        let script = format!(
            "trap 'echo asked to stop' TERM; echo pid=$$; \
             while :; do date +%s%3N >> {}; sleep 0.01; done",
            scratch.path("writes")
        );
        let cut_off = JsonProcess::spawn(
            command()
                .args([
                    "work",
                    "--redis",
                    &proxy.url(),
                    "--service",
                    "s",
                    "--consumer",
                    "one",
                ])
                .args([
                    "--json", "--ttl", "2s", "--grace", "1h", "--exec", "sh", "-c", &script,
                ]),
        );
        let pid = pid_said(&cut_off);
        let other = work(&server, "s", "two", &["--ttl", "2s"]);
        proxy.partition();
        let added = other.wait_for("stream_added", SOON);
        assert!(!runs(&pid), "two programs work on one stream");
        let last = last_time_in(&scratch.path("writes"));
        assert!(last < added["ts"].as_u64().unwrap(), "{last}, {added}");
        said(&cut_off, "asked to stop");
        cut_off.wait_for("stream_disowned", SOON);
    });
}

#[test]
fn a_program_that_ends_because_its_lease_is_not_extended_hands_back_and_has_not_failed() {
    in_real_time(|| {
        let server = RedisServer::start();
        submit(&server, "s", &["call"]);
        let script = "trap 'echo asked to stop; exit 1' TERM; while :; do sleep 0.01; done";
        let worker = shell(&server, "one", &["--ttl", "4s"], script);
        worker.wait_for("stream_added", SOON);
        server.freeze();
        said(&worker, "asked to stop");
        server.thaw();
        worker.wait_for("stream_handed_back", SOON);
        assert_eq!(worker.events_of("stream_disowned").len(), 0);
        assert_eq!(inspect(&server, "s")[0]["failures"], 0);
    });
}

#[test]
fn a_signal_to_the_command_and_its_programs_at_once_fails_nothing_and_finishes_nothing() {
    let endings = [
        ("TERM", "exec sleep 1000"),
        ("INT", "exec sleep 1000"),
        ("KILL", "exec sleep 1000"),
        ("TERM", "trap 'exit 0' TERM; while :; do sleep 0.01; done"),
        ("TERM", "trap 'exit 143' TERM; while :; do sleep 0.01; done"),
    ];
    for (name, ending) in endings {
        in_real_time(|| {
            let server = RedisServer::start();
            submit(&server, "s", &["call"]);
            let mut worker = shell(&server, "one", &[], &format!("echo pid=$$; {ending}"));
            let pid = pid_said(&worker);
            // The program first, as it comes.
            signal(&pid, name);
            if ending.starts_with("exec") {
                eventually_blocking("its end", SOON, || !runs(&pid));
            }
            worker.signal(Signal::TERM);
            assert_eq!(worker.wait_exit(SOON).code(), Some(0));
            assert_eq!(worker.events_of("stream_done").len(), 0, "{name} {ending}");
            assert_eq!(
                worker.events_of("stream_handed_back").len(),
                1,
                "{name} {ending}"
            );
            assert_eq!(inspect(&server, "s")[0]["failures"], 0, "{name} {ending}");
        });
    }
}

#[test]
fn orphans_of_programs_are_adopted_and_reaped() {
    let server = RedisServer::start();
    let scratch = Scratch::new(&server);
    let streams = ["a", "b", "c", "d", "e"];
    submit(&server, "s", &streams);
    // A daemon: it leaves the group, and ends long after its stream is completed.
    let script = format!(
        "setsid sh -c 'until [ -e {} ]; do sleep 0.02; done' >/dev/null 2>&1 & exit 0",
        scratch.path("end")
    );
    let worker = shell(&server, "one", &[], &script);
    worker.wait_for_count("stream_done", streams.len(), SOON);
    let children = || {
        let children = format!("/proc/{0}/task/{0}/children", worker.pid());
        std::fs::read_to_string(children).unwrap()
    };
    eventually_blocking("five to be adopted", SOON, || {
        children().split_ascii_whitespace().count() == streams.len()
    });
    std::fs::write(scratch.path("end"), "").unwrap();
    // Zombies are children, too.
    eventually_blocking("all to be reaped", SOON, || children().is_empty());
}

#[test]
fn a_terminal_that_goes_away_stops_the_command_and_its_programs() {
    for signal in [Signal::HUP, Signal::QUIT] {
        let server = RedisServer::start();
        submit(&server, "s", &["call"]);
        let mut worker = shell(&server, "one", &[], "echo pid=$$; exec sleep 1000");
        let pid = pid_said(&worker);
        worker.signal(signal);
        assert_eq!(worker.wait_exit(SOON).code(), Some(0));
        assert!(!runs(&pid), "the program runs on");
        assert_eq!(worker.events_of("stream_handed_back").len(), 1);
        assert_eq!(inspect(&server, "s")[0]["failures"], 0);
    }
}

#[test]
fn a_terminal_that_goes_away_does_not_stop_what_was_told_to_ignore_that() {
    let server = RedisServer::start();
    let mut worker = JsonProcess::spawn(
        std::process::Command::new("sh")
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .args([
                env!("CARGO_BIN_EXE_streamlease"),
                "work",
                "--redis",
                &server.url(),
            ])
            .args([
                "--service",
                "s",
                "--consumer",
                "one",
                "--json",
                "--hold",
                "0s",
            ]),
    );
    worker.wait_for("started", SOON);
    worker.signal(Signal::HUP);
    submit(&server, "s", &["call"]);
    worker.wait_for("stream_done", SOON);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
}
