//! `quarantine list`, `release` and `drop`.

use std::process::Output;

use serde_json::{Value, json};
use streamlease_tests::RedisServer;

use crate::common::{self, SOON, lines, run, stderr, submit, unfinished, work};

fn quarantine(server: &RedisServer, what: &str, more: &[&str]) -> Output {
    let url = server.url();
    let mut args = vec!["quarantine", what, "--redis", &url, "--service", "s"];
    args.extend(more);
    run(&args)
}

fn json_lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    parse(output)
}

fn parse(output: &Output) -> Vec<Value> {
    let lines = lines(output);
    let lines = lines.iter();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The cells of a row.
fn columns(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

/// So many malformed entries, quarantined.
fn quarantined(server: &RedisServer, n: usize) -> Vec<String> {
    let add = |i| {
        let payload = format!("{{\"DataStreamName\":{i}}}");
        redis::cmd("XADD")
            .arg(&["s-input", "*", "lbs-input", &payload])
            .query(&mut server.connection())
            .unwrap()
    };
    let ids = (0..n).map(add).collect();
    let mut worker = work(server, "s", "one", &[]);
    worker.wait_for_count("quarantined", n, SOON);
    worker.signal(streamlease_tests::Signal::TERM);
    worker.wait_exit(SOON);
    ids
}

#[test]
fn a_failing_stream_is_listed_released_and_worked_on() {
    let server = RedisServer::start();
    let id = submit(&server, "s", &["bad \u{1b}[31m"]).remove(0);
    // Quarantined as the library quarantines it, without waiting for five failures.
    let mut redis = server.connection();
    let record = "5:tired,1:5,20:redis-consumer-three,13:1700000000000,9:lbs-input,\
                  35:{\"DataStreamName\":\"bad \\u001b[31m\"},";
    let member = |id: &str| {
        let (ms, seq) = id.split_once('-').unwrap();
        format!("{ms:0>20}-{seq:0>20}")
    };
    redis::pipe()
        .cmd("HSET")
        .arg(&["{s-input}:quarantine", &id, record])
        .cmd("ZADD")
        .arg(&["{s-input}:quarantine:index", "0", &member(&id)])
        .cmd("XDEL")
        .arg(&["s-input", &id])
        .exec(&mut redis)
        .unwrap();
    let listed = json_lines(&quarantine(&server, "list", &["--json"]));
    assert_eq!(listed.len(), 1);
    for (key, value) in [
        ("event", json!("quarantined")),
        ("entry", json!(id)),
        ("stream", json!("bad \u{1b}[31m")),
        ("info", json!(null)),
        ("malformed", json!(null)),
        ("reason", json!("tired")),
        ("failures", json!(5)),
        ("last_owner", json!("redis-consumer-three")),
        ("parked_at", json!(1_700_000_000_000_u64)),
    ] {
        assert_eq!(listed[0][key], value, "{key}");
    }
    // For people it is a table.
    let table = lines(&quarantine(&server, "list", &[]));
    let words: Vec<Vec<&str>> = table.iter().map(|line| columns(line)).collect();
    let names = "ENTRY,STREAM,AGE,FAILURES,QUARANTINED BY,PAYLOAD,REASON";
    assert_eq!(words[0].join(","), names);
    assert_eq!(words[1][..2], [&id, "bad \\u{1b}[31m"]);
    assert!(words[1][2].contains('d'), "its age in days: {table:?}");
    assert_eq!(words[1][3..5], ["5", "redis-consumer-three"]);
    assert_eq!(words[1][6], "tired");
    assert_eq!(table.len(), 2);
    let url = server.url();
    let inspect = lines(&run(&["inspect", "--redis", &url, "--service", "s"]));
    assert!(inspect.contains(&table[0]), "{inspect:?}");

    let released = json_lines(&quarantine(&server, "release", &[&id, "--json"]));
    assert_eq!(released[0]["event"], "released");
    assert_eq!(released[0]["entry"], json!(id));
    // Again, it is still one.
    let again = json_lines(&quarantine(&server, "release", &[&id, "--json"]));
    assert_eq!(again[0]["new_entry"], released[0]["new_entry"]);
    assert_eq!(unfinished(&server, "s"), 1);
    let worker = work(&server, "s", "one", &["--hold", "10ms"]);
    let done = worker.wait_for("stream_done", SOON);
    assert_eq!(done["entry"], released[0]["new_entry"]);
    assert_eq!(done["stream"], "bad \u{1b}[31m");
    assert_eq!(unfinished(&server, "s"), 0);
}

#[test]
fn entries_are_dropped_one_by_one_or_all() {
    let server = RedisServer::start();
    let ids = quarantined(&server, 4);
    let listed = json_lines(&quarantine(&server, "list", &["--json"]));
    let entries: Vec<&str> = listed.iter().filter_map(|l| l["entry"].as_str()).collect();
    assert_eq!(entries, ids);
    assert_eq!(listed[0]["malformed"], "DataStreamName is not a string");
    assert_eq!(
        listed[3]["fields"],
        json!([["lbs-input", "{\"DataStreamName\":3}"]])
    );

    let output = quarantine(&server, "drop", &[&ids[1], "7-7"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = [
        format!("dropped: entry={}", ids[1]),
        "not quarantined: entry=7-7".into(),
    ];
    assert_eq!(lines(&output), shown);
    assert!(stderr(&output).contains("1 of 2 entries"), "{output:?}");

    let dropped = json_lines(&quarantine(&server, "drop", &["--all", "--json"]));
    assert_eq!(dropped.len(), 3);
    assert!(dropped.iter().all(|line| line["event"] == "dropped"));
    for what in ["list", "drop", "release"] {
        let all: &[&str] = if what == "list" { &[] } else { &["--all"] };
        let output = quarantine(&server, what, all);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    assert_eq!(unfinished(&server, "s"), 0);
}

#[test]
fn all_is_what_is_there_now_even_if_it_is_quarantined_again() {
    let server = RedisServer::start();
    let ids = quarantined(&server, 3);
    let worker = work(&server, "s", "two", &[]);
    let released = json_lines(&quarantine(&server, "release", &["--all", "--json"]));
    assert_eq!(released.len(), 3);
    // Still malformed, they are quarantined under their new ids.
    worker.wait_for_count("quarantined", 3, SOON);
    let listed = json_lines(&quarantine(&server, "list", &["--json"]));
    let now: Vec<&Value> = listed.iter().map(|line| &line["entry"]).collect();
    let new: Vec<&Value> = released.iter().map(|line| &line["new_entry"]).collect();
    assert_eq!(now, new);
    assert!(
        now.iter()
            .all(|id| !ids.contains(&id.as_str().unwrap().to_owned()))
    );
}

#[test]
fn which_entries_must_be_said_once() {
    let server = RedisServer::start();
    for wrong in [&[][..], &["--all", "1-1"], &["x"], &["1"]] {
        for what in ["release", "drop"] {
            let output = quarantine(&server, what, wrong);
            assert_eq!(
                output.status.code(),
                Some(2),
                "{what} {wrong:?}: {output:?}"
            );
        }
    }
}

/// Whoever reads the consumer's output has what its library tells.
#[test]
fn a_consumer_tells_which_stream_is_quarantined_and_why_its_owners_failed() {
    let server = RedisServer::start();
    submit(&server, "s", &["bad"]);
    let limits = ["--quarantine-after", "1"];
    let worker = common::shell(&server, "one", &limits, "exit 3");
    let told = worker.wait_for("quarantined", SOON);
    assert_eq!(told["stream"], "bad");
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("1 owner failed on it, the last: "),
        "{told}"
    );
    let reasons = told["reasons"].as_array().unwrap();
    assert_eq!(reasons.len(), 1, "{told}");
    assert!(reasons[0].as_str().unwrap().contains('3'), "{told}");
}

/// A stream in quarantine with this reason, as the library writes it.
fn parked_for(server: &RedisServer, name: &str, reason: &str) -> String {
    let id = submit(server, "s", &[name]).remove(0);
    let payload = format!("{{\"DataStreamName\":\"{name}\"}}");
    let field = |text: &str| format!("{}:{text},", text.len());
    let record = [reason, "5", "redis-consumer-three", "1700000000000"];
    let record = [&record[..], &["lbs-input", &payload]].concat();
    let record: String = record.into_iter().map(field).collect();
    let (ms, seq) = id.split_once('-').unwrap();
    redis::pipe()
        .cmd("HSET")
        .arg(&["{s-input}:quarantine", &id, &record])
        .cmd("ZADD")
        .arg(&["{s-input}:quarantine:index", "0"])
        .arg(format!("{ms:0>20}-{seq:0>20}"))
        .cmd("XDEL")
        .arg(&["s-input", &id])
        .exec(&mut server.connection())
        .unwrap();
    id
}

#[test]
fn the_reason_of_a_quarantine_is_shown_to_its_end() {
    let server = RedisServer::start();
    let reason = "5 owners failed on it, the last: the program failed (exit status: 3)";
    parked_for(&server, "call", reason);
    let url = server.url();
    for output in [
        quarantine(&server, "list", &[]),
        run(&["inspect", "--redis", &url, "--service", "s"]),
    ] {
        let shown = lines(&output);
        assert!(shown.iter().any(|line| line.ends_with(reason)), "{shown:?}");
    }
}

#[test]
fn who_cancels_what_is_in_quarantine_is_told_where_it_is() {
    let server = RedisServer::start();
    let id = parked_for(&server, "call", "tired");
    let url = server.url();
    let output = run(&["cancel", "--redis", &url, "--service", "s", "call", "other"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    let hint = format!("in quarantine: stream=call entry={id}; `quarantine drop {id}` removes it");
    assert!(
        said.starts_with(&hint) && said.lines().count() == 2,
        "{said}"
    );
}

#[test]
fn nothing_to_do_is_said() {
    let server = RedisServer::start();
    let url = server.url();
    submit(&server, "s", &["call"]);
    for what in ["release", "drop"] {
        let output = quarantine(&server, what, &["--all"]);
        assert!(output.status.success(), "{output:?}");
        let empty = "the quarantine of service s is empty\n";
        assert_eq!(stderr(&output), empty, "{what}");
    }
    let migrate = [
        "migrate",
        "--redis",
        &url,
        "--service",
        "s",
        "--to",
        "session",
    ];
    assert_eq!(stderr(&run(&migrate)), "");
    assert_eq!(
        stderr(&run(&migrate)),
        "nothing to do: service s has these locks already\n"
    );
}
