//! The command with the arguments and variables that the files in `deploy/` give to it works on
//! a stream, and ends in time when it is told to. What else is in the files is checked by
//! `tests/tests/repository/deploy.rs`.

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;
use streamlease_tests::{JsonProcess, RedisServer, Signal};

use crate::common::{SOON, command, submit};

#[test]
fn a_pod_works_as_the_manifest_starts_it() {
    let documents = yaml("kubernetes.yaml");
    let deployment = documents
        .iter()
        .find(|document| document["kind"] == "Deployment");
    let pod = &deployment.unwrap()["spec"]["template"]["spec"];
    let mut args = texts(&pod["containers"][0]["args"]);
    // The port may be taken on this machine.
    let http = args.iter_mut().find(|arg| arg.starts_with("--http="));
    *http.unwrap() = "--http=127.0.0.1:0".to_owned();
    works(&args, &[("POD_NAME", "calls-worker-1")], "calls-worker-1");
}

#[test]
fn a_container_works_as_the_compose_file_starts_it() {
    let compose = &yaml("docker-compose.yml")[0]["services"];
    let entrypoint = texts(&compose["worker"]["entrypoint"]);
    // `sh -c 'exec streamlease … "$$@"' sh`; the container's host name is the consumer's.
    let start = entrypoint[2].replace("$$", "$");
    let start = start.strip_prefix("exec streamlease ").unwrap();
    let start = start.replace("\"$HOSTNAME\"", "0123456789ab");
    let mut args: Vec<_> = start.split(' ').map(str::to_owned).collect();
    assert_eq!(args.pop().as_deref(), Some("\"$@\""));
    args.extend(texts(&compose["worker"]["command"]));
    works(&args, &[], "0123456789ab");
    let submit = texts(&compose["submit"]["entrypoint"]);
    assert_eq!(submit[..2], ["streamlease", "submit"]);
    let server = RedisServer::start();
    let mut submit = command_with(&submit[1..], &server);
    assert!(submit.arg("call-1").status().unwrap().success());
}

#[test]
fn a_service_works_as_the_unit_starts_it() {
    let unit = read("streamlease-work@.service").replace("\\\n", " ");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    let start = start.replace("%i", "calls").replace("%H", "host-1");
    let args: Vec<_> = start.split_whitespace().map(str::to_owned).collect();
    works(&args[1..], &[], "host-1");
}

/// With a program in the place of the one that is named there.
fn works(args: &[String], env: &[(&str, &str)], consumer: &str) {
    let server = RedisServer::start();
    let exec = args.iter().position(|arg| arg == "--exec").unwrap();
    let mut worker = command_with(&args[..exec], &server);
    worker.envs(env.iter().copied()).env("RUST_LOG", "info");
    worker.args(["--json", "--exec", "sh", "-c", "exit 0"]);
    let mut worker = JsonProcess::spawn(&mut worker);
    let name = format!("redis-consumer-{consumer}");
    assert_eq!(worker.wait_for("started", SOON)["consumer"], name);
    submit(&server, "calls", &["call-1"]);
    let ended = worker.wait_for("stream_done", SOON);
    assert_eq!(ended["stream"], "call-1");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
}

fn command_with(args: &[String], server: &RedisServer) -> std::process::Command {
    let mut command = command();
    command.args(args).env("STREAMLEASE_REDIS", server.url());
    command
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn yaml(file: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(&read(file))
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn read(file: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    fs::read_to_string(deploy.join(file)).unwrap()
}
