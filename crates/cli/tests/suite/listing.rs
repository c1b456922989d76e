//! `submit` and `inspect`.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use streamlease_tests::{RedisServer, Signal, eventually_blocking};

use crate::common::{self, SOON, inspect, lines, run, run_with_input, stderr, submit, work};

fn entries(server: &RedisServer) -> Vec<Value> {
    inspect(server, "s")
        .into_iter()
        .filter(|line| line["event"] == "entry")
        .collect()
}

#[test]
fn what_is_submitted_is_on_the_wire_as_the_fleet_reads_it() {
    let server = RedisServer::start();
    let url = server.url();
    let args = [
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--info",
        "{\"n\": 1}",
        "a",
        "b \"c\"",
    ];
    let ids = lines(&run(&args));
    let stream: Vec<(String, Vec<(String, String)>)> = redis::cmd("XRANGE")
        .arg(&["s-input", "-", "+"])
        .query(&mut server.connection())
        .unwrap();
    let expected = [
        r#"{"DataStreamName":"a","Info":{"n": 1}}"#,
        r#"{"DataStreamName":"b \"c\"","Info":{"n": 1}}"#,
    ];
    for ((entry, payload), id) in stream.iter().zip(expected).zip(&ids) {
        assert_eq!((&entry.0, entry.1.len()), (id, 1));
        assert_eq!(entry.1[0], ("lbs-input".to_owned(), payload.to_owned()));
    }
    assert_eq!(stream.len(), 2);
}

#[test]
fn names_are_read_from_standard_input_in_order() {
    let server = RedisServer::start();
    let names: Vec<String> = (0..1_234).map(|n| format!("stream-{n}")).collect();
    let args = ["submit", "--redis", &server.url(), "--service", "s"];
    let output = run_with_input(&args, (names.join("\r\n") + "\n\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
    let ids = lines(&output);
    let listed = entries(&server);
    let of = |key: &str| -> Vec<String> {
        listed
            .iter()
            .map(|entry| entry[key].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!((of("stream"), of("entry")), (names, ids));
    assert!(listed.iter().all(|entry| entry["state"] == "undelivered"));
}

#[test]
fn inspecting_a_service_that_nobody_used_shows_nothing_and_makes_nothing() {
    let server = RedisServer::start();
    let listing = inspect(&server, "s");
    let nothing = json!({"event": "summary", "pending": 0, "undelivered": 0, "consumers": 0, "quarantined": 0});
    assert_eq!(listing.len(), 1);
    for (key, value) in nothing.as_object().unwrap() {
        assert_eq!(&listing[0][key], value, "{key}");
    }
    let keys: u64 = redis::cmd("DBSIZE")
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(keys, 0);
}

/// Delivered, then acknowledged by an operator: its owner takes it up again by itself,
/// but nobody does where nobody works.
#[test]
fn what_is_on_the_lbs_and_pending_at_nobody_is_shown() {
    let server = RedisServer::start();
    let ids = submit(&server, "s", &["a", "b"]);
    let run = |words: &[&str]| {
        redis::cmd(words[0])
            .arg(&words[1..])
            .exec(&mut server.connection())
            .unwrap();
    };
    run(&["XGROUP", "CREATE", "s-input", "s-group", "0"]);
    run(&[
        "XREADGROUP",
        "GROUP",
        "s-group",
        "x",
        "STREAMS",
        "s-input",
        ">",
    ]);
    run(&["XACK", "s-input", "s-group", &ids[0]]);
    let listing = inspect(&server, "s");
    let stranded: Vec<_> = listing
        .iter()
        .filter(|row| row["state"] == "stranded")
        .collect();
    assert_eq!(stranded.len(), 1);
    assert_eq!(stranded[0]["entry"], ids[0].as_str());
    assert!(stranded[0]["consumer"].is_null() && stranded[0]["idle_ms"].is_null());
    let summary = listing.last().unwrap();
    assert_eq!(
        (&summary["stranded"], &summary["pending"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn pending_entries_are_shown_with_holder_lock_and_counts() {
    let server = RedisServer::start();
    let held = submit(&server, "s", &["held"]);
    let mut worker = work(&server, "s", "one", &["--capacity", "1"]);
    let added = worker.wait_for("stream_added", SOON);
    submit(&server, "s", &["waiting"]);
    redis::cmd("XADD")
        .arg(&["s-input", "*", "lbs-input", "no json"])
        .exec(&mut server.connection())
        .unwrap();

    let listed = entries(&server);
    let shown = listed
        .iter()
        .find(|entry| entry["stream"] == "held")
        .unwrap();
    assert_eq!(shown["entry"].as_str(), Some(held[0].as_str()));
    assert_eq!(
        (&shown["state"], &shown["consumer"]),
        (&json!("pending"), &json!("redis-consumer-one"))
    );
    assert_eq!(
        (&shown["holder"], &shown["lock_live"]),
        (&json!("redis-consumer-one"), &json!(true))
    );
    assert_eq!(shown["token"], added["token"]);
    let left = shown["lock_ms"].as_u64().unwrap();
    assert!((1..=3_000).contains(&left), "{left}");
    assert!(
        shown["idle_ms"].as_u64().is_some() && shown["deliveries"].as_u64() >= Some(1),
        "{shown}"
    );
    let consumers: Vec<Value> = inspect(&server, "s")
        .into_iter()
        .filter(|line| line["event"] == "consumer")
        .collect();
    assert_eq!(consumers.len(), 1);
    assert_eq!(consumers[0]["pending"], 1);
    assert!(
        consumers[0]["session_ms"].as_u64().is_some(),
        "{}",
        consumers[0]
    );

    // Dead, it is still shown as the one that has the entry, but not as a holder.
    worker.signal(Signal::KILL);
    worker.wait_exit(SOON);
    eventually_blocking("the lock to expire", SOON, || {
        let listed = entries(&server);
        let shown = listed
            .iter()
            .find(|entry| entry["stream"] == "held")
            .unwrap();
        shown["holder"].is_null()
            && shown["lock_live"] == false
            && shown["consumer"] == "redis-consumer-one"
    });
}

#[test]
fn an_entry_that_a_go_consumer_holds_is_shown_with_it_as_holder() {
    let server = RedisServer::start();
    let id = submit(&server, "s", &["call"]).remove(0);
    let mut go = server.connection();
    let go_does = |go: &mut redis::Connection, command: &[&str]| {
        redis::cmd(command[0]).arg(&command[1..]).exec(go).unwrap();
    };
    go_does(&mut go, &["XGROUP", "CREATE", "s-input", "s-group", "0"]);
    let read = [
        "XREADGROUP",
        "GROUP",
        "s-group",
        "redis-consumer-go",
        "STREAMS",
        "s-input",
        ">",
    ];
    go_does(&mut go, &read);
    let lock = format!("call<MUTEX_KEY_SEP>{id}");
    go_does(&mut go, &["SET", &lock, "redis-consumer-go", "PX", "60000"]);
    let shown = &entries(&server)[0];
    assert_eq!(shown["holder"], "redis-consumer-go");
    assert_eq!(shown["consumer"], "redis-consumer-go");
    assert!(shown["lock_ms"].as_u64() > Some(3_000), "{shown}");
    let listing = inspect(&server, "s");
    let consumer = listing
        .iter()
        .find(|line| line["event"] == "consumer")
        .unwrap();
    assert!(
        consumer["session_ms"].is_null(),
        "a Go consumer has no session: {consumer}"
    );
}

#[test]
fn quarantined_entries_are_shown_with_reason_and_payload() {
    let server = RedisServer::start();
    let bad: String = redis::cmd("XADD")
        .arg(&["s-input", "*", "lbs-input", "{\"DataStreamName\":7}"])
        .query(&mut server.connection())
        .unwrap();
    let worker = work(&server, "s", "one", &[]);
    let told = worker.wait_for("quarantined", SOON);
    assert_eq!(told["entry"].as_str(), Some(bad.as_str()));
    let listing = inspect(&server, "s");
    let shown = listing
        .iter()
        .find(|line| line["event"] == "quarantined")
        .unwrap();
    assert_eq!(
        (&shown["entry"], &shown["reason"]),
        (&told["entry"], &told["reason"])
    );
    assert!(
        shown["reason"]
            .as_str()
            .unwrap()
            .contains("DataStreamName is not a string")
    );
    assert_eq!(
        shown["fields"],
        json!([["lbs-input", "{\"DataStreamName\":7}"]])
    );
}

#[test]
fn the_table_is_readable_and_names_cannot_command_the_terminal() {
    let server = RedisServer::start();
    submit(&server, "s", &["a\u{1b}[31mb"]);
    let output = run(&["inspect", "--redis", &server.url(), "--service", "s"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("a\\u{1b}[31mb") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(
        text.starts_with("ENTRY") && text.contains("undelivered"),
        "{text}"
    );
    assert!(
        text.contains("0 pending, 1 undelivered (the oldest for ")
            && text.ends_with("), 0 consumers, 0 quarantined\n"),
        "{text}"
    );
}

#[test]
fn a_reader_that_stops_early_causes_no_panic() {
    let server = RedisServer::start();
    let names: Vec<String> = (0..3_000)
        .map(|n| format!("a-rather-long-name-{n}"))
        .collect();
    run_with_input(
        &["submit", "--redis", &server.url(), "--service", "s"],
        names.join("\n").as_bytes(),
    );
    let mut child = common::command()
        .args(["inspect", "--redis", &server.url(), "--service", "s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let head = Command::new("head")
        .arg("-1")
        .stdin(child.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(head.stdout.starts_with(b"ENTRY"));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn inspect_shows_an_entry_with_the_greatest_id() {
    let server = RedisServer::start();
    let greatest = format!("{0}-{0}", u64::MAX);
    let payload = r#"{"DataStreamName":"last"}"#;
    server.run::<String>(&["XADD", "s-input", &greatest, "lbs-input", payload]);
    let undelivered = entries(&server);
    assert_eq!(undelivered[0]["state"], "undelivered");
    assert_eq!(undelivered[0]["entry"], greatest.as_str());
    let worker = work(&server, "s", "one", &[]);
    assert_eq!(
        worker.wait_for("stream_added", SOON)["entry"],
        greatest.as_str()
    );
    let pending = entries(&server);
    assert_eq!(
        (pending.len(), &pending[0]["state"]),
        (1, &json!("pending"))
    );
}

/// What `inspect` prints with these arguments, and on standard error.
fn shown(server: &RedisServer, more: &[&str]) -> (String, String) {
    let url = server.url();
    let args = [&["inspect", "--redis", &url, "--service", "s"], more].concat();
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text, common::stderr(&output))
}

#[test]
fn a_service_that_does_not_exist_is_told() {
    let server = RedisServer::start();
    let note = "there is no service s here";
    let (text, said) = shown(&server, &[]);
    assert!(said.contains(note), "{said}");
    assert_eq!(
        text,
        "0 pending, 0 undelivered, 0 consumers, 0 quarantined\n"
    );
    submit(&server, "s", &["a"]);
    let (_, said) = shown(&server, &["--stream", "b"]);
    assert!(!said.contains(note), "{said}");
    // Nothing is left, but there is a group.
    let worker = work(&server, "s", "one", &["--hold", "0s"]);
    worker.wait_for("stream_done", SOON);
    let (_, said) = shown(&server, &[]);
    assert!(!said.contains(note), "{said}");
}

#[test]
fn a_listing_can_be_limited_to_streams_states_and_numbers_and_all_are_counted() {
    let server = RedisServer::start();
    submit(&server, "s", &["held"]);
    let worker = work(&server, "s", "one", &["--capacity", "1"]);
    worker.wait_for("stream_added", SOON);
    submit(&server, "s", &["a", "b", "a"]);
    let names = |more: &[&str]| -> Vec<String> {
        let (text, _) = shown(&server, &[more, &["--json"]].concat());
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        let counts = lines.last().unwrap();
        let sum = counts["pending"].as_u64().unwrap() + counts["undelivered"].as_u64().unwrap();
        assert_eq!((sum, &counts["event"]), (4, &json!("summary")));
        let entries = lines.iter().filter(|line| line["event"] != "summary");
        entries
            .map(|line| line["stream"].as_str().unwrap_or("?").to_owned())
            .collect()
    };
    assert_eq!(names(&["--stream", "a"]), ["a", "a"]);
    assert_eq!(names(&["--stream", "a", "--limit", "1"]), ["a"]);
    assert_eq!(names(&["--stream", "b", "--stream", "held"]).len(), 2);
    assert_eq!(names(&["--state", "quarantined"]).len(), 0);
    assert_eq!(
        names(&["--state", "pending", "--state", "undelivered"]).len(),
        4
    );
    assert_eq!(names(&["--summary"]).len(), 0);
    // Consumers are told of beside entries, but not if entries were asked for.
    assert!(names(&[]).contains(&"?".to_owned()));
    let (text, _) = shown(&server, &["--summary"]);
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains(", 1 consumer, "), "{text}");
    // What the limit left out is told, and nothing else.
    let (_, said) = shown(&server, &["--stream", "a", "--limit", "1"]);
    assert_eq!(
        said,
        "--limit left out 1 entry of those that were asked for\n"
    );
    let (_, said) = shown(&server, &["--stream", "a", "--limit", "2"]);
    assert_eq!(said, "");
}

#[test]
fn a_long_name_leaves_the_table_as_it_is() {
    let server = RedisServer::start();
    let long = "n".repeat(300);
    submit(&server, "s", &[&long, "short"]);
    let (text, _) = shown(&server, &[]);
    assert!(text.contains(&format!(" {}… ", "n".repeat(59))), "{text}");
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest < 160, "{widest}: {text}");
    let whole = entries(&server);
    assert_eq!(whole[0]["stream"], long.as_str());
}

/// It is made to look idle so that anybody takes it: that is no age to show.
#[test]
fn what_was_handed_back_has_no_idle_time() {
    let server = RedisServer::start();
    submit(&server, "s", &["a"]);
    let mut worker = work(&server, "s", "one", &[]);
    worker.wait_for("stream_added", SOON);
    worker.signal(Signal::TERM);
    worker.wait_exit(SOON);
    let entry = &entries(&server)[0];
    assert_eq!(
        (&entry["handed_back"], &entry["idle_ms"]),
        (&json!(true), &json!(null))
    );
    let (text, _) = shown(&server, &[]);
    assert!(!text.contains("1h"), "{text}");
}

#[test]
fn a_summary_counts_what_a_listing_does_and_says_for_how_long_the_oldest_has_waited() {
    let server = RedisServer::start();
    let counted = |more: &[&str]| {
        let (text, _) = shown(&server, &[&["--json"], more].concat());
        let last = text.lines().last().unwrap();
        let mut counts: Value = serde_json::from_str(last).unwrap();
        let fields = counts.as_object_mut().unwrap();
        fields.remove("ts");
        let oldest = fields.remove("oldest_undelivered_ms");
        (counts, oldest.and_then(|ms| ms.as_u64()))
    };
    assert_eq!(counted(&["--summary"]), (counted(&[]).0, None));
    submit(&server, "s", &["held"]);
    let worker = work(&server, "s", "one", &["--capacity", "1"]);
    worker.wait_for("stream_added", SOON);
    submit(&server, "s", &["a", "b", "c"]);
    let (listed, _) = counted(&[]);
    assert_eq!(listed["undelivered"], json!(3));
    let (summed_up, oldest) = counted(&["--summary"]);
    assert_eq!(summed_up, listed);
    assert!(oldest.is_some());
    let (text, _) = shown(&server, &["--summary"]);
    assert!(text.contains("3 undelivered (the oldest for "), "{text}");

    // What the server cannot tell is counted one by one.
    let page = server.run::<Vec<(String, Vec<String>)>>(&["XRANGE", "s-input", "-", "+"]);
    server.run::<u64>(&["XDEL", "s-input", &page[2].0]);
    assert_eq!(counted(&["--summary"]).0["undelivered"], json!(2));
}

#[test]
fn columns_are_as_wide_as_what_is_in_them() {
    let server = RedisServer::start();
    let long = "a".repeat(60);
    submit(&server, "s", &["b", &long]);
    let (text, _) = shown(&server, &[]);
    let lines: Vec<&str> = text.lines().collect();
    let at = lines[0].find("  AT  ").unwrap() + 2;
    assert!(at > 60, "{text}");
    for line in &lines[1..3] {
        assert_eq!(&line[at..=at], "-", "{text}");
    }
}

#[test]
fn everything_is_dropped_without_a_question_where_nobody_sits_at_a_terminal() {
    let server = RedisServer::start();
    server.run::<String>(&["XADD", "s-input", "*", "lbs-input", "bad"]);
    let worker = work(&server, "s", "one", &[]);
    worker.wait_for("quarantined", SOON);
    let url = server.url();
    let target = ["--redis", &url, "--service", "s", "--all"];
    let drop = [&["quarantine", "drop"], &target[..]].concat();
    let output = run(&drop);
    assert_eq!(lines(&output).len(), 1, "{output:?}");
}

/// Both ends of a terminal: who sits there, and what a command has.
fn terminal() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let options = File::options().read(true).write(true).clone();
    (person.into(), options.open(name.to_str().unwrap()).unwrap())
}

#[test]
fn at_a_terminal_somebody_is_asked_before_everything_is_dropped() {
    let server = RedisServer::start();
    server.run::<String>(&["XADD", "s-input", "*", "lbs-input", "bad"]);
    let worker = work(&server, "s", "one", &[]);
    worker.wait_for("quarantined", SOON);
    let answered = |answer: &str, more: &[&str]| {
        let (mut person, command_end) = terminal();
        person.write_all(answer.as_bytes()).unwrap();
        common::command()
            .args(["quarantine", "drop", "--redis", &server.url()])
            .args(["--service", "s", "--all"])
            .args(more)
            .stdin(command_end)
            .output()
            .unwrap()
    };
    for no in ["\n", "n\n", "what\n"] {
        let output = answered(no, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = common::stderr(&output);
        assert!(said.contains("Drop 1 entry for good?"), "{said}");
        assert!(said.contains("nothing was dropped"), "{said}");
    }
    let output = answered("y\n", &[]);
    assert_eq!((lines(&output).len(), output.status.code()), (1, Some(0)));
    // Nothing is left to ask about.
    let output = answered("", &[]);
    assert_eq!(
        (&*common::stderr(&output), output.status.code()),
        ("the quarantine of service s is empty\n", Some(0))
    );
    server.run::<String>(&["XADD", "s-input", "*", "lbs-input", "bad"]);
    worker.wait_for_count("quarantined", 2, SOON);
    let output = answered("", &["--yes"]);
    assert_eq!(
        (lines(&output).len(), common::stderr(&output)),
        (1, String::new())
    );
}

#[test]
fn a_terminal_has_colours_unless_its_user_does_not_want_them() {
    let server = RedisServer::start();
    submit(&server, "s", &["a"]);
    for (no_color, coloured) in [("", true), ("1", false)] {
        let (mut person, command_end) = terminal();
        let status = common::command()
            .args(["inspect", "--redis", &server.url(), "--service", "s"])
            .env("NO_COLOR", no_color)
            .stdout(command_end)
            .status()
            .unwrap();
        assert!(status.success());
        let mut shown = vec![0; 4096];
        let n = person.read(&mut shown).unwrap();
        let shown = String::from_utf8_lossy(&shown[..n]);
        assert!(shown.contains("ENTRY"), "{shown}");
        assert_eq!(shown.contains('\u{1b}'), coloured, "{shown}");
    }
}

#[test]
fn the_last_line_says_what_a_limit_left_out_and_how_long_the_oldest_has_waited() {
    let server = RedisServer::start();
    submit(&server, "s", &["a", "b", "c"]);
    let summary = |more: &[&str]| {
        let url = server.url();
        let args = ["inspect", "--redis", &url, "--service", "s", "--json"];
        let output = run(&[&args[..], more].concat());
        let last = lines(&output).pop().unwrap();
        (
            serde_json::from_str::<serde_json::Value>(&last).unwrap(),
            stderr(&output),
        )
    };
    let (all, said) = summary(&[]);
    assert!(all["oldest_undelivered_ms"].is_u64(), "{all}");
    assert!(all["left_out"].is_null() && said.is_empty(), "{all} {said}");
    let (limited, _) = summary(&["--limit", "1"]);
    assert_eq!(limited["left_out"], 2, "{limited}");
    let (nothing, said) = summary(&["--stream", "nope"]);
    assert_eq!(nothing["undelivered"], 3, "{nothing}");
    assert_eq!(said, "no entry is as --stream and --state say\n");
}
