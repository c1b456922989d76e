//! `streamlease doctor`, on servers that are well and on those that are not.

use std::time::Instant;

use serde_json::Value;
use streamlease_tests::{
    Cluster, RedisServer, RedisServerBuilder, Sentinels, Signal, eventually_blocking,
};

use crate::common::{self, SOON, lines, run, submit, work};

/// What one run has found.
struct Found {
    exit: i32,
    findings: Vec<Value>,
    text: String,
}

impl Found {
    fn at(url: &str) -> Self {
        Self::with(url, "orders", &[])
    }

    fn with(url: &str, service: &str, more: &[&str]) -> Self {
        let args = ["doctor", "--json", "--redis", url, "--service", service];
        let output = run(&[&args, more].concat());
        let text = format!("{output:?}");
        let mut findings: Vec<Value> = lines(&output)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let summary = findings.pop().unwrap_or_else(|| panic!("{text}"));
        assert_eq!(summary["event"], "summary", "{text}");
        Self {
            exit: output.status.code().unwrap(),
            findings,
            text,
        }
    }

    fn of(&self, code: &str) -> &Value {
        let mut findings = self.findings.iter();
        let found = findings.find(|finding| finding["code"] == code);
        found.unwrap_or_else(|| panic!("no {code} in {}", self.text))
    }

    fn says(&self, code: &str, severity: &str, words: &str) {
        let found = self.of(code);
        assert_eq!(found["severity"], severity, "{found}");
        let message = found["message"].as_str().unwrap();
        assert!(message.contains(words), "{found}");
        if ["warning", "error"].contains(&severity) {
            assert!(found["advice"].is_string(), "what to do: {found}");
        }
        let link = found["link"].as_str().unwrap();
        assert!(link.ends_with(&format!("#{code}")), "{found}");
    }

    /// All findings that are warnings or errors.
    fn wrong(&self) -> Vec<&str> {
        let is_wrong = |f: &&Value| ["warning", "error"].contains(&f["severity"].as_str().unwrap());
        let wrong = self.findings.iter().filter(is_wrong);
        wrong
            .map(|finding| finding["code"].as_str().unwrap())
            .collect()
    }
}

/// Its keys, and how often each was changed: nothing that only looks does that.
fn keys(server: &RedisServer) -> Vec<String> {
    let mut keys: Vec<String> = server.run(&["KEYS", "*"]);
    keys.sort();
    let dirty: String = server.run(&["INFO", "persistence"]);
    let changes = dirty
        .lines()
        .find(|line| line.starts_with("rdb_changes_since_last_save:"));
    keys.push(changes.unwrap().to_owned());
    keys
}

/// As consumers of the wire format make it.
fn create_group(server: &RedisServer) {
    let (lbs, group) = ("orders-input", "orders-group");
    server.run::<()>(&["XGROUP", "CREATE", lbs, group, "0", "MKSTREAM"]);
}

fn well() -> RedisServer {
    RedisServer::builder().append_only().start()
}

#[test]
fn nothing_is_wrong_with_a_server_that_is_well_and_nothing_is_changed() {
    let server = well();
    let before = keys(&server);
    // This machine may be late by some tenths of a second, which is much of a short TTL only.
    let ttl = ["--ttl", "20s"];
    let found = Found::with(&server.url(), "orders", &ttl);
    assert_eq!((found.exit, found.wrong()), (0, vec![]), "{}", found.text);
    found.says("unused", "info", "nobody has consumed");
    assert_eq!(keys(&server), before);

    submit(&server, "orders", &["a", "b"]);
    for locks in ["session", "per-stream"] {
        let service = format!("with-{locks}");
        submit(&server, &service, &["a", "b"]);
        let mut worker = work(&server, &service, "one", &["--locks", locks]);
        worker.wait_for_count("stream_added", 2, SOON);
        let found = Found::with(&server.url(), &service, &ttl);
        assert_eq!((found.exit, found.wrong()), (0, vec![]), "{}", found.text);
        found.says("members", "info", "live consumers: 1 (redis-consumer-one)");
        found.says("rights", "ok", "commands are granted");
        found.says("hints", "ok", "came back");
        found.says("unowned", "ok", "every pending entry");
        found.says("stranded", "ok", "");
        found.says("keys", "ok", "no key is missing");
        found.says("role", "ok", "primary");
        found.says("eviction", "ok", "");
        found.says("persistence", "ok", "append-only");
        found.says("clock", "ok", "the server's clock");
        found.says("latency", "ok", "an answer takes ");
        found.says("executor-lag", "ok", "run at most ");
        found.says("server", "info", "standalone");
        found.says(
            "locks",
            "info",
            if locks == "session" {
                "session"
            } else {
                "a lock per stream"
            },
        );
        worker.signal(Signal::TERM);
        worker.wait_exit(SOON);
    }
}

#[test]
fn people_read_one_line_per_finding_and_what_to_do_below_what_is_wrong() {
    let server = RedisServer::start();
    let output = run(&["doctor", "--redis", &server.url(), "--service", "orders"]);
    assert_eq!(output.status.code(), Some(3), "a warning: {output:?}");
    let lines = lines(&output);
    let at = lines
        .iter()
        .position(|line| line.starts_with("warning persistence"))
        .unwrap();
    assert!(lines[at + 1].contains("appendonly yes"), "{lines:#?}");
    assert!(
        lines[at + 2].trim().ends_with("docs/doctor.md#persistence"),
        "{lines:#?}"
    );
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("errors: 0, warnings: 1, "),
        "{lines:#?}"
    );
}

#[test]
fn settings_that_lose_keys_are_warnings() {
    let server = RedisServer::builder()
        .config("maxmemory 100mb")
        .config("maxmemory-policy allkeys-lru")
        .start();
    let found = unhurried(&server.url());
    assert_eq!(found.exit, 3, "{}", found.text);
    found.says("eviction", "warning", "allkeys-lru");
    found.says("persistence", "warning", "no append-only file");
    assert_eq!(found.wrong(), ["eviction", "persistence"]);
}

#[test]
fn full_memory_is_an_error() {
    let server = RedisServer::builder()
        .append_only()
        .config("maxmemory 100kb")
        .start();
    let found = Found::at(&server.url());
    found.says("memory", "error", "% of maxmemory");
    assert_eq!(found.exit, 1, "{}", found.text);
}

/// With a TTL that a busy machine does not touch: this one may be late by some tenths of a
/// second, which is much of a short one only.
fn unhurried(url: &str) -> Found {
    Found::with(url, "orders", &["--ttl", "20s"])
}

#[test]
fn missing_rights_are_named_with_the_command_that_grants_them() {
    let server = well();
    let backend = streamlease::RedisBackend::new(server.url()).unwrap();
    let rules = backend.acl_rules(&streamlease::ServiceName::new("orders").unwrap());
    let grant = |rules: &[String]| {
        let mut words = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
        words.extend(rules.iter().map(String::as_str));
        server.run::<()>(&words);
    };
    let url = server.url_with("orders", "secret", 0);
    grant(&rules);
    let found = unhurried(&url);
    assert_eq!((found.exit, found.wrong()), (0, vec![]), "{}", found.text);

    let without = |missing: &[&str]| {
        let kept = rules.iter().filter(|rule| !missing.contains(&&***rule));
        kept.cloned().collect::<Vec<_>>()
    };
    grant(&without(&["+xadd", "+hset"]));
    let found = unhurried(&url);
    found.says("rights", "error", "missing: +hset +xadd");
    assert_eq!(
        found.of("rights")["advice"],
        "ACL SETUSER <user> +hset +xadd"
    );
    assert_eq!(
        (found.exit, found.wrong()),
        (1, vec!["rights"]),
        "{}",
        found.text
    );

    grant(&without(&["+info", "&{orders-input}:hints"]));
    let found = unhurried(&url);
    found.says("rights", "warning", "&{orders-input}:hints +info");
    found.says("hints", "warning", "");
    found.says("info", "info", "not known");
    assert_eq!(
        (found.exit, found.wrong()),
        (3, vec!["rights", "hints"]),
        "{}",
        found.text
    );

    grant(&[]);
    let found = unhurried(&url);
    assert_eq!(found.exit, 1, "{}", found.text);
    found.says("denied", "error", "NOPERM");
}

/// What managed services block, and what for.
#[test]
fn a_server_that_blocks_what_managed_ones_do_is_looked_at_all_the_same() {
    let blocked = [
        "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "MONITOR", "OBJECT",
    ];
    let server = |more: &[&str]| {
        let mut builder = RedisServer::builder().append_only();
        for name in blocked.iter().chain(more) {
            builder = builder.config(format!("rename-command {name} \"\""));
        }
        builder.start()
    };
    let managed = server(&[]);
    let found = unhurried(&managed.url());
    assert_eq!((found.exit, found.wrong()), (0, vec![]), "{}", found.text);
    // With per-stream locks CONFIG would be of use.
    create_group(&managed);
    let found = unhurried(&managed.url());
    found.says("rights", "warning", "config|get config|set");
    found.says("expired-keys", "info", "not known");

    let found = unhurried(&server(&["INFO", "HELLO"]).url());
    found.says(
        "rights",
        "warning",
        "the server does not know the commands: info",
    );
    found.says("info", "info", "not known");
    assert_eq!(
        (found.exit, found.wrong()),
        (3, vec!["rights"]),
        "{}",
        found.text
    );
    let found = unhurried(&server(&["EVALSHA"]).url());
    found.says("rights", "error", "runs no scripts");
    assert_eq!(found.exit, 1, "{}", found.text);
}

#[test]
fn a_server_that_cannot_be_talked_to_is_a_finding() {
    let server = RedisServer::builder().config("requirepass geheim").start();
    for (url, code) in [
        (server.url(), "denied"),
        (server.url_with("", "falsch", 0), "denied"),
        (server.url_with("", "geheim", 99), "settings"),
        ("redis://127.0.0.1:1".to_owned(), "unreachable"),
        (
            "redis-sentinel://127.0.0.1:1/mymaster".to_owned(),
            "unreachable",
        ),
        ("redis-cluster://127.0.0.1:1".to_owned(), "unreachable"),
    ] {
        let found = Found::at(&url);
        assert_eq!(found.exit, 1, "{url}: {}", found.text);
        found.says(code, "error", "");
        assert!(
            !found.text.contains("geheim") && !found.text.contains("falsch"),
            "{}",
            found.text
        );
    }
    let server = RedisServer::start();
    let found = Found::at(&format!(
        "redis-sentinel://127.0.0.1:{}/mymaster",
        server.port()
    ));
    found.says("settings", "error", "no sentinel");
    found.says("sentinels", "error", "0 of 1");
    let found = Found::at(&format!("redis-cluster://127.0.0.1:{}", server.port()));
    found.says("settings", "error", "it is no cluster");
    found.says("nodes", "error", "0 of 1");

    // What is no URL, or no TTL, is a wrong argument.
    for wrong in [["--redis", "http://a"], ["--ttl", "0s"]] {
        let url = server.url();
        let mut args = vec!["doctor", "--service", "orders"];
        if wrong[0] != "--redis" {
            args.extend(["--redis", &url]);
        }
        args.extend(wrong);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn a_frozen_server_is_told_within_seconds() {
    let server = RedisServer::start();
    server.freeze();
    let began = Instant::now();
    let found = Found::at(&server.url());
    server.thaw();
    found.says("unreachable", "error", "no answer in time");
    assert_eq!(found.exit, 1, "{}", found.text);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// A replica of `primary`, once it has its data.
fn replica_of(primary: &RedisServer) -> RedisServer {
    let replica = RedisServer::builder()
        .config(format!("replicaof 127.0.0.1 {}", primary.port()))
        .start();
    eventually_blocking("a linked replica", SOON, || {
        let state: String = replica.run(&["INFO", "replication"]);
        state.contains("master_link_status:up")
    });
    replica
}

fn with_quick_replicas() -> RedisServerBuilder {
    RedisServer::builder()
        .append_only()
        .config("repl-diskless-sync-delay 0")
}

#[test]
fn a_replica_is_no_place_to_work_at() {
    let primary = with_quick_replicas().start();
    let replica = replica_of(&primary);
    let found = Found::at(&replica.url());
    found.says("role", "error", "replica");
    assert_eq!(found.exit, 1, "{}", found.text);
}

#[test]
fn too_few_replicas_for_a_write_are_an_error_and_enough_are_well() {
    let primary = with_quick_replicas().start();
    let found = Found::at(&primary.url());
    found.says("replicas", "info", "no replica");
    let replica = replica_of(&primary);
    let found = Found::at(&primary.url());
    found.says("replicas", "ok", ": 1");
    found.says("min-replicas", "info", "goes on accepting");

    for setting in [
        ["min-replicas-to-write", "1"],
        ["min-replicas-max-lag", "1"],
    ] {
        primary.run::<()>(&["CONFIG", "SET", setting[0], setting[1]]);
    }
    eventually_blocking("a replica that keeps up", SOON, || {
        let state: String = primary.run(&["INFO", "replication"]);
        state.contains("min_slaves_good_slaves:1")
    });
    let found = Found::at(&primary.url());
    found.says("min-replicas", "ok", "1 keep up");
    assert_eq!(found.exit, 0, "{}", found.text);

    replica.freeze();
    eventually_blocking("a replica that is behind", SOON, || {
        let state: String = primary.run(&["INFO", "replication"]);
        state.contains("min_slaves_good_slaves:0")
    });
    let found = Found::at(&primary.url());
    replica.thaw();
    found.says("min-replicas", "error", "refuses writes");
    assert_eq!(found.exit, 1, "{}", found.text);
}

#[test]
fn keys_that_are_gone_are_told() {
    let server = well();
    submit(&server, "orders", &["a"]);
    let worker = work(&server, "orders", "one", &[]);
    worker.wait_for_count("stream_added", 1, SOON);
    // Frozen, so that it does not make them anew.
    worker.signal(Signal::STOP);
    for (key, words) in [
        ("{orders-input}:owners", "{orders-input}:owners"),
        (
            "{orders-input}:tokens",
            "{orders-input}:owners, {orders-input}:tokens",
        ),
        ("orders-input", "missing: orders-input, "),
    ] {
        assert_eq!(server.run::<u64>(&["DEL", key]), 1, "{key}");
        let found = Found::at(&server.url());
        found.says("keys", "warning", words);
        assert_eq!(found.exit, 3, "{}", found.text);
    }
    worker.signal(Signal::CONT);
}

#[test]
fn a_restart_that_holds_leases_back_and_run_ids_that_are_not_believed_are_told() {
    let server = well();
    Found::at(&server.url()).says("restarts", "ok", "");
    let soon = || {
        let (seconds, _): (u64, u64) = server.run(&["TIME"]);
        ((seconds + 60) * 1000).to_string()
    };
    let known = "{orders-input}:server";
    server.run::<u64>(&["HSET", known, "calm", &soon()]);
    Found::at(&server.url()).says("restarts", "info", "held back for");
    server.run::<u64>(&["HSET", known, "several", &soon()]);
    Found::at(&server.url()).says("restarts", "warning", "run id changes");
    // What nobody can have written.
    server.run::<u64>(&[
        "HSET",
        known,
        "several",
        "x",
        "calm",
        "99999999999999999999",
    ]);
    Found::at(&server.url()).says("restarts", "ok", "");
    server.run::<u64>(&["HSET", known, "several", "9999999999999999"]);
    Found::at(&server.url()).says("restarts", "ok", "");
}

#[test]
fn entries_at_nobody_and_without_a_consumer_are_told() {
    let server = well();
    submit(&server, "orders", &["a", "b"]);
    let mut worker = work(&server, "orders", "one", &[]);
    worker.wait_for_count("stream_added", 2, SOON);
    worker.signal(Signal::KILL);
    worker.wait_exit(SOON);
    let pending: Vec<(String, String, u64, u64)> =
        server.run(&["XPENDING", "orders-input", "orders-group", "-", "+", "9"]);
    let _: u64 = server.run(&["XACK", "orders-input", "orders-group", &pending[0].0]);
    eventually_blocking("the end of its session", SOON, || {
        let found = Found::at(&server.url());
        found.of("members")["severity"] == "warning"
    });
    let found = Found::at(&server.url());
    found.says("stranded", "warning", ": 1");
    found.says("unowned", "info", "without an owner: 1");
    found.says("members", "warning", "no consumer lives, and entries wait");
    assert_eq!(found.exit, 3, "{}", found.text);
}

#[test]
fn a_fleet_of_the_wire_format_is_looked_at_with_its_own_locks() {
    let server = well();
    create_group(&server);
    let found = Found::at(&server.url());
    found.says("locks", "info", "a lock per stream");
    found.says("expired-keys", "info", "does not tell");
    server.run::<()>(&["CONFIG", "SET", "notify-keyspace-events", "Kx"]);
    Found::at(&server.url()).says("expired-keys", "ok", "");
    server.run::<()>(&["SET", "{orders-input}:scheme", "another"]);
    let found = Found::at(&server.url());
    found.says("lock-scheme", "error", "another");
}

#[test]
fn behind_sentinels_each_of_them_is_looked_at() {
    let mut sentinels = Sentinels::start();
    let found = Found::at(&sentinels.url());
    found.says(
        "sentinels",
        "ok",
        "3 of 3 sentinels answer, and name 127.0.0.1:",
    );
    found.says("replicas", "ok", ": 2");
    found.says("min-replicas", "warning", "goes on accepting");
    found.says("rights", "ok", "");

    // To one as if it were a server.
    let one = format!("redis://127.0.0.1:{}", sentinels.sentinel(0).port());
    Found::at(&one).says("settings", "error", "it is a sentinel");

    sentinels.sentinel_mut(0).kill();
    let found = Found::at(&sentinels.url());
    found.says("sentinels", "warning", "2 of 3");
    found.says("role", "ok", "primary");
    sentinels.sentinel_mut(1).kill();
    let found = Found::at(&sentinels.url());
    found.says("sentinels", "error", "1 of 3");
    assert_eq!(found.exit, 1, "{}", found.text);
}

#[test]
fn on_a_cluster_each_node_is_looked_at_and_the_owner_as_a_server() {
    let mut cluster = Cluster::start();
    let found = Found::at(&cluster.url());
    found.says("nodes", "ok", " answer, and name 127.0.0.1:");
    found.says("server", "info", "cluster");
    found.says("rights", "ok", "");
    found.says("hints", "ok", "");
    found.says("keys", "ok", "");

    // With the rights of a consumer, and with one less, which nodes are asked for.
    let provider = streamlease::RedisBackend::new(cluster.url()).unwrap();
    let rules = provider.acl_rules(&streamlease::ServiceName::new("orders").unwrap());
    let url = cluster
        .url()
        .replace("redis-cluster://", "redis-cluster://orders:secret@");
    for less in ["", "+cluster|slots"] {
        for index in 0..cluster.len() {
            let mut words = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
            words.extend(
                rules
                    .iter()
                    .map(String::as_str)
                    .filter(|rule| *rule != less),
            );
            cluster.node(index).run::<()>(&words);
        }
        let found = Found::at(&url);
        found.says("nodes", "ok", " answer");
        found.says("rights", "ok", "");
        found.says("role", "ok", "primary");
    }

    // To the owner as if it were alone.
    let owner = cluster.owner_of("orders-input");
    Found::at(&cluster.node(owner).url()).says("mode", "warning", "node of a cluster");

    let other = (0..cluster.len()).find(|index| *index != owner).unwrap();
    cluster.node_mut(other).kill();
    let found = Found::at(&cluster.url());
    found.says("nodes", "warning", "; ");
    found.says("role", "ok", "primary");
}

#[test]
fn a_key_of_a_wrong_type_is_named() {
    let server = well();
    server.run::<()>(&["SET", "orders-input", "mine"]);
    let found = Found::at(&server.url());
    found.says("keys", "error", "of a wrong type: orders-input");
    let url = server.url();
    let refused = run(&["submit", "--redis", &url, "--service", "orders", "a"]);
    let said = common::stderr(&refused);
    assert!(said.contains("submitting to orders-input"), "{said}");
    assert!(
        said.contains("another type") && said.contains("streamlease doctor"),
        "{said}"
    );
    assert!(!said.contains("script") && !said.contains(".."), "{said}");
}

#[test]
fn consumers_that_share_a_name_are_told() {
    let server = RedisServer::start();
    let _one = work(&server, "orders", "same", &[]);
    let _two = work(&server, "orders", "same", &[]);
    let found = Found::at(&server.url());
    let words = "2 of them are called redis-consumer-same";
    found.says("members", "warning", words);
}
