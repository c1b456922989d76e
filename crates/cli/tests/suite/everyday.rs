//! Where the URL comes from, what is logged, names on standard input, completions and manual
//! pages.

use std::fs;
use std::process::Output;

use streamlease_tests::{RedisServer, Signal};

use crate::common::{
    self, SOON, Scratch, command, lines, run, run_with_input, shell, stderr, submit,
};

const INSPECT: [&str; 3] = ["inspect", "--service", "s"];

fn with_env(args: &[&str], env: &[(&str, &str)]) -> Output {
    command()
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn the_url_comes_from_the_argument_a_file_or_the_environment_in_this_order() {
    let server = RedisServer::start();
    let (url, nowhere) = (server.url(), "redis://127.0.0.1:1");
    let scratch = Scratch::new(&server);
    let file = scratch.path("url");
    fs::write(&file, format!("{url}\nmore\n")).unwrap();
    let nowhere_set = [("STREAMLEASE_REDIS", nowhere), ("REDIS_URL", nowhere)];
    let with_redis = [&INSPECT[..], &["--redis", &url]].concat();
    let with_file = [&INSPECT[..], &["--redis-file", &file]].concat();
    for (args, env) in [
        (&with_redis[..], &nowhere_set[..]),
        (&with_file, &nowhere_set),
        (
            &INSPECT,
            &[("STREAMLEASE_REDIS", &*url), ("REDIS_URL", nowhere)],
        ),
        (&INSPECT, &[("REDIS_URL", &*url)]),
        (&INSPECT, &[("STREAMLEASE_REDIS", ""), ("REDIS_URL", &*url)]),
    ] {
        let output = with_env(args, env);
        assert!(output.status.success(), "{args:?} {env:?}: {output:?}");
    }
    for (args, env, code, named) in [
        (
            &INSPECT[..],
            &[("REDIS_URL", nowhere)][..],
            1,
            "REDIS_URL: ",
        ),
        (&INSPECT, &[("REDIS_URL", "http://h")], 2, "REDIS_URL: "),
        (
            &[&INSPECT[..], &["--redis-file", "/no/such/file"]].concat(),
            &[],
            2,
            "--redis-file: cannot read /no/such/file",
        ),
        (
            &[&with_redis[..], &["--redis-file", &file]].concat(),
            &[],
            2,
            "cannot be used with",
        ),
    ] {
        let output = with_env(args, env);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
    }
    fs::write(&file, "\n").unwrap();
    let output = run(&with_file);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no URL"), "{output:?}");
}

#[test]
fn a_password_whose_colon_was_forgotten_is_not_shown() {
    for url in [
        "redis://sesame@127.0.0.1:1",
        "redis://:sesame",
        "redis://me:sesame/0",
        "sesame@127.0.0.1",
        "redis//:sesame@127.0.0.1",
        "redis:/me:sesame@127.0.0.1",
        "redis://me:?sesame@127.0.0.1/",
        "redis-cluster://me:x#sesame@127.0.0.1",
    ] {
        let output = with_env(&INSPECT, &[("REDIS_URL", url), ("RUST_LOG", "trace")]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!stderr(&output).contains("sesame"), "{url}: {output:?}");
    }
}

#[test]
fn help_names_the_variables_and_the_levels_of_the_log() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for named in ["STREAMLEASE_REDIS", "REDIS_URL", "POD_NAME", "RUST_LOG"] {
        assert!(help.contains(named), "{named}: {help}");
    }
    for level in ["error:", "warn:", "info:", "debug:", "trace:"] {
        assert!(help.contains(level), "{level}: {help}");
    }
    let help = String::from_utf8(run(&["work", "--help"]).stdout).unwrap();
    assert!(
        help.contains("$STREAMLEASE_REDIS, else $REDIS_URL"),
        "{help}"
    );
}

#[test]
fn the_level_that_was_asked_for_counts_more_than_that_of_the_environment() {
    let server = RedisServer::start();
    let url = server.url();
    for (asked, env, told) in [
        (Some("info"), "error", true),
        (Some("off"), "info", false),
        (None, "info", true),
    ] {
        let mut args = vec!["work", "--redis", &url, "--service", "s", "--consumer", "c"];
        args.extend(["--json", "--hold", "0s"]);
        if let Some(level) = asked {
            args.extend(["--log", level]);
        }
        let mut worker =
            streamlease_tests::JsonProcess::spawn(command().args(&args).env("RUST_LOG", env));
        worker.wait_for("started", SOON);
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait_exit(SOON).code(), Some(0));
        assert_eq!(
            worker.stderr().contains("told to stop"),
            told,
            "{asked:?} {env}"
        );
    }
}

#[test]
fn a_dash_stands_for_the_names_on_standard_input() {
    let server = RedisServer::start();
    let url = server.url();
    let args = ["submit", "--redis", &url, "--service", "s", "-"];
    let output = run_with_input(&args, b"a\nb\n");
    assert_eq!((lines(&output).len(), output.status.code()), (2, Some(0)));
    assert_eq!(common::unfinished(&server, "s"), 2);
    // Nobody looks on: no progress bar.
    assert_eq!(stderr(&output), "");
    for (more, named) in [
        (&["c"][..], "alone"),
        (&["--info", "-"], "standard input is the info"),
    ] {
        let output = run_with_input(&[&args[..], more].concat(), b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(named), "{output:?}");
    }
}

#[test]
fn a_program_that_reports_no_progress_is_killed_and_its_stream_goes_on_elsewhere() {
    let server = RedisServer::start();
    submit(&server, "s", &["silent"]);
    let limit = ["--progress-timeout", "1s", "--quarantine-after", "1"];
    let silent = shell(&server, "one", &limit, "echo pid=$$; sleep 600");
    let pid = common::pid_said(&silent);
    silent.wait_for("stream_disowned", SOON);
    streamlease_tests::eventually_blocking("it to be gone", SOON, || !common::runs(&pid));
    // That was one failure too many.
    silent.wait_for("quarantined", SOON);

    submit(&server, "s2", &["busy"]);
    let script =
        "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; touch \"$STREAMLEASE_INFO_FILE\"; done";
    let mut args = limit.to_vec();
    args.extend(["--exec", "sh", "-c", script]);
    let busy = common::work(&server, "s2", "two", &args);
    busy.wait_for("stream_done", SOON);
    assert_eq!(busy.events_of("stream_disowned").len(), 0);
}

#[test]
fn completions_and_manual_pages_are_made_for_each_shell_and_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("quarantine") && script.contains("redis-file"),
            "{shell}"
        );
    }
    let page = String::from_utf8(run(&["man"]).stdout).unwrap();
    assert!(
        page.contains(".TH streamlease") && page.contains("STREAMLEASE_REDIS"),
        "{page}"
    );
    let server = RedisServer::start();
    let scratch = Scratch::new(&server);
    let dir = scratch.path("");
    assert!(run(&["man", "--dir", &dir]).status.success());
    for (name, option) in [
        ("streamlease-work", "grace"),
        ("streamlease-quarantine-drop", "all"),
    ] {
        let page = fs::read_to_string(scratch.path(&format!("{name}.1"))).unwrap();
        assert!(
            page.contains(&format!(".TH {name}")) && page.contains(option),
            "{page}"
        );
    }
    assert_eq!(run(&["man", "--dir", "/no/such"]).status.code(), Some(1));
}
