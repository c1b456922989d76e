//! `submit`: a server that is away is waited for, and nothing is submitted twice.

use std::process::{Output, Stdio};

use serde_json::Value;

use streamlease_tests::{Proxy, RedisServer, Sentinels, eventually_blocking};

use crate::common::{self, command, lines, run, run_with_input, stderr, submit};

fn submitted(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    lines(output)
}

fn on_the_lbs(server: &RedisServer) -> u64 {
    server.run(&["XLEN", "s-input"])
}

#[test]
fn a_server_that_is_not_up_yet_is_waited_for_and_each_id_is_printed_once() {
    let mut server = RedisServer::start();
    let url = server.url();
    server.kill();
    let waiting = command()
        .args(["submit", "--redis", &url, "--service", "s", "a", "b"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.start_again();
    let ids = submitted(&waiting.wait_with_output().unwrap());
    assert_eq!((ids.len(), on_the_lbs(&server)), (2, 2));
}

#[test]
fn a_batch_whose_reply_was_lost_in_a_restart_is_not_submitted_twice() {
    let mut server = RedisServer::builder().append_only().start();
    let proxy = Proxy::start(server.addr());
    // What is submitted first is executed, and the reply does not come.
    proxy.cut_reply_to("DataStreamName", 0);
    let names: Vec<String> = (0..700).map(|n| format!("s{n}")).collect();
    let waiting = command()
        .args(["submit", "--redis", &proxy.url(), "--service", "s"])
        .args(&names)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually_blocking("something to be submitted", common::SOON, || {
        on_the_lbs(&server) > 0
    });
    server.kill();
    server.start_again();
    let ids = submitted(&waiting.wait_with_output().unwrap());
    assert_eq!((ids.len(), on_the_lbs(&server)), (700, 700));
    let unique: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), 700);
}

#[test]
fn a_rerun_with_the_same_batch_key_submits_what_is_missing_and_doubles_nothing() {
    let server = RedisServer::start();
    let url = server.url();
    let args = [
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--batch-key",
        "job 7",
    ];
    let names: Vec<String> = (0..1_200).map(|n| format!("s{n}")).collect();
    let first = submitted(&run_with_input(
        &args,
        (names[..800].join("\n") + "\n").as_bytes(),
    ));
    let known = |ids: &[String]| -> Vec<String> {
        let known = ids.iter().map(|id| format!("{id} already submitted"));
        known.collect()
    };
    let all = submitted(&run_with_input(&args, (names.join("\n") + "\n").as_bytes()));
    assert_eq!((&all[..800], all.len()), (&known(&first)[..], 1_200));
    assert!(all[800..].iter().all(|line| !line.contains(' ')));
    assert_eq!(on_the_lbs(&server), 1_200);
    // As arguments they are the same.
    let as_arguments: Vec<&str> = args
        .iter()
        .copied()
        .chain(names.iter().map(String::as_str))
        .collect();
    let ids = [&first, &all[800..]].concat();
    assert_eq!(submitted(&run(&as_arguments)), known(&ids));
    assert_eq!(on_the_lbs(&server), 1_200);
    // Another key, or none, is something else.
    submit(&server, "s", &["s0"]);
    let other = [&args[..5], &["--batch-key", "job 8", "s0"]].concat();
    submitted(&run(&other));
    assert_eq!(on_the_lbs(&server), 1_202);
}

/// Its place in the input counts for nothing.
#[test]
fn with_a_batch_key_a_name_is_announced_once_wherever_it_stands() {
    let server = RedisServer::start();
    let url = server.url();
    let args = ["submit", "--json", "--redis", &url, "--service", "s"];
    let args = [&args[..], &["--batch-key", "day1"]].concat();
    let told = |output: &Output| -> Vec<(String, String, String)> {
        let told = |line: &String| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("event"), text("stream"), text("entry"))
        };
        submitted(output).iter().map(told).collect()
    };
    let submit = |names: &str| told(&run_with_input(&args, names.as_bytes()));
    let events = |told: &[(String, String, String)]| -> Vec<String> {
        told.iter().map(|(event, ..)| event.clone()).collect()
    };
    let first = submit("alpha\nbeta\n");
    assert_eq!(events(&first), ["submitted", "submitted"]);
    // Others, with the same key, and one in front.
    assert_eq!(
        events(&submit("gamma\ndelta\n")),
        ["submitted", "submitted"]
    );
    let second = submit("new\nbeta\nalpha\n");
    let known = "already_submitted";
    assert_eq!(events(&second), ["submitted", known, known]);
    assert_eq!((&second[1].2, &second[2].2), (&first[1].2, &first[0].2));
    assert_eq!(on_the_lbs(&server), 5);

    // What was withdrawn is not told as submitted now.
    let cancel = ["cancel", "--redis", &url, "--service", "s", "alpha"];
    assert!(run(&cancel).status.success());
    let third = submit("alpha\n");
    assert_eq!(third, [second[2].clone()]);
    assert_eq!(on_the_lbs(&server), 4);

    // Twice in one run is two, also far apart, and no more in the next run.
    let others: String = (0..600).map(|n| format!("n{n}\n")).collect();
    let twice = format!("twice\n{others}twice\n");
    assert!(events(&submit(&twice)).iter().all(|e| e == "submitted"));
    assert_eq!(on_the_lbs(&server), 4 + 602);
    let again = format!("{others}twice\ntwice\n");
    assert!(events(&submit(&again)).iter().all(|e| e == known));
    assert_eq!(on_the_lbs(&server), 4 + 602);

    let empty = run(&[&args[..6], &["--batch-key", "", "a"]].concat());
    assert_eq!(empty.status.code(), Some(2), "{empty:?}");
    assert!(stderr(&empty).contains("--batch-key"), "{empty:?}");
}

#[test]
fn only_what_is_absent_is_announced_and_the_rest_is_told() {
    let server = RedisServer::start();
    let url = server.url();
    let args = ["submit", "--redis", &url, "--service", "s", "--if-absent"];
    let first = submit(&server, "s", &["a"]).remove(0);
    // Two of one name, and names on standard input.
    let said = submitted(&run_with_input(&[&args[..], &["-"]].concat(), b"a\nb\nb\n"));
    assert_eq!(said[0], format!("{first} already announced"));
    assert_eq!(said[2], format!("{} already announced", said[1]));
    assert_eq!((said.len(), on_the_lbs(&server)), (3, 2));

    let as_json = submitted(&run(&[&args[..], &["--json", "a", "c"]].concat()));
    let as_json: Vec<Value> = as_json
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |nth: usize, key: &str| as_json[nth][key].as_str().unwrap().to_owned();
    assert_eq!(told(0, "event"), "already_announced");
    assert_eq!(
        (told(0, "stream"), told(0, "entry")),
        ("a".into(), first.clone())
    );
    assert_eq!(told(1, "event"), "submitted");
    assert_eq!((told(1, "stream"), on_the_lbs(&server)), ("c".into(), 3));

    // A rerun has the same ids, also once a stream is gone; without the key it is absent.
    let keyed = [&args[..], &["--batch-key", "k", "a", "d"]].concat();
    let said = submitted(&run(&keyed));
    assert_eq!(said[0], format!("{first} already announced"));
    server.run::<()>(&["XTRIM", "s-input", "MAXLEN", "0"]);
    let again = [said[0].clone(), format!("{} already submitted", said[1])];
    assert_eq!(submitted(&run(&keyed)), again);
    assert_eq!(on_the_lbs(&server), 0);
    let anew = submitted(&run(&[&args[..], &["a", "d"]].concat()));
    assert!(anew.iter().all(|line| !line.contains(' ')), "{anew:?}");
    assert_eq!(on_the_lbs(&server), 2);

    // Without the flag everything is announced; as JSON, too.
    let plain = submitted(&run(&[&args[..5], &["--json", "a"]].concat()));
    assert!(plain[0].contains("\"event\":\"submitted\""), "{plain:?}");
    assert_eq!(on_the_lbs(&server), 3);
}

#[test]
fn a_server_that_stays_away_is_given_up_after_the_timeout() {
    let nowhere = ["submit", "--redis", "redis://127.0.0.1:1", "--service", "s"];
    let output = run(&[&nowhere[..], &["--timeout", "300ms", "a"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("127.0.0.1:1"), "{output:?}");
    // Nothing was sent.
    assert!(!stderr(&output).contains("known"), "{output:?}");
    let longer = run(&[&nowhere[..], &["--timeout", "6m", "a"]].concat());
    let said = String::from_utf8_lossy(&longer.stderr);
    assert!(
        said.contains("--timeout") && said.contains("at most 5m"),
        "{said}"
    );
    // What was sent may be executed once the server goes on.
    let server = RedisServer::start();
    let url = server.url();
    let frozen = [
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--timeout",
        "300ms",
    ];
    server.freeze();
    let said = stderr(&run(&[&frozen[..], &["a"]].concat()));
    let standing = ". Whether the stream was submitted is not known.\n";
    assert!(said.ends_with(standing), "{said}");
    let keyed = [&frozen[..], &["--batch-key", "k", "a", "b"]].concat();
    let said = stderr(&run(&keyed));
    let standing = ". Whether the first 2 streams were submitted is not known. \
                    The same again with --batch-key k within five minutes submits the rest.\n";
    assert!(said.ends_with(standing), "{said}");
    server.thaw();
}

#[test]
fn what_is_certain_is_not_said_to_be_unknown_however_often_it_was_tried() {
    let server = RedisServer::start();
    let url = server.url();
    let args = [
        "submit",
        "--redis",
        &url,
        "--service",
        "s",
        "--timeout",
        "500ms",
    ];
    let names: Vec<String> = (0..450).map(|n| format!("call-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fails = |names: &[&str], words: &str| {
        let output = run(&[&args[..], names].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = stderr(&output);
        assert!(said.contains(words), "{said}");
        let is_clear = !said.contains("known") && !said.contains("submitted");
        assert!(is_clear && !said.contains(".."), "{said}");
    };
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    // One page and many, over either connection.
    fails(&["new"], "maxmemory");
    fails(&names, "maxmemory");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(on_the_lbs(&server), 0);
    server.run::<()>(&["SET", "s-input", "x"]);
    fails(&["new"], "WRONGTYPE");
    fails(&names, "WRONGTYPE");
}

#[test]
fn what_was_refused_at_once_is_not_said_to_be_unknown() {
    let server = RedisServer::start();
    let url = server.url();
    let args = ["submit", "--redis", &url, "--service", "s"];
    // What stands before a line that is no name is submitted, and nothing behind it.
    let output = run_with_input(&args, b"a\nb\n\xff\nc\n");
    assert_eq!((lines(&output).len(), on_the_lbs(&server)), (2, 2));
    let said = stderr(&output);
    assert!(
        said.contains("line 3") && said.ends_with(". 2 streams were submitted.\n"),
        "{said}"
    );
    let no_name = run_with_input(&args, b"\xff\n");
    assert!(!stderr(&no_name).contains("submitted"), "{no_name:?}");
    server.run::<()>(&["CONFIG", "SET", "requirepass", "secret"]);
    let refused = run(&[&args[..], &["a", "b"]].concat());
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--redis") && !said.contains("known"),
        "{said}"
    );
}

#[test]
fn sentinels_are_shown_the_credentials_that_are_theirs() {
    let user = "user asker on >secret -@all +auth +sentinel|get-master-addr-by-name";
    let sentinels = Sentinels::with(|server| server, |sentinel| sentinel.config(user));
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("sentinels-password");
    let submit = |password: &str| {
        std::fs::write(&file, password).unwrap();
        command()
            .args(["submit", "--redis", &sentinels.url(), "--service", "s", "a"])
            .args(["--sentinel-user", "asker", "--sentinel-password-file"])
            .arg(&file)
            .output()
            .unwrap()
    };
    assert_eq!(submitted(&submit("secret\n")).len(), 1);
    let wrong = submit("wrong");
    assert!(!wrong.status.success(), "{wrong:?}");
    assert!(
        stderr(&wrong).contains("authentication failed"),
        "{wrong:?}"
    );
}
