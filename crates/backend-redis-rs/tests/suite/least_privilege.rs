//! A user with exactly the rights of [`RedisBackend::acl_rules`], and with fewer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::conformance::{lock_manager, notifier, transport};

use crate::support::{self, *};

const BOTH: [LockScheme; 2] = [LockScheme::Session, LockScheme::PerStream];

fn rules(scheme: LockScheme) -> Vec<String> {
    let backend = RedisBackend::new("redis://127.0.0.1:1").unwrap();
    backend
        .with_lock_scheme(scheme)
        .acl_rules(&service("orders"))
}

/// A server with a user `orders` of these rules.
struct Limited {
    server: RedisServer,
    url: String,
}

impl Limited {
    fn new(rules: &[String]) -> Self {
        let server = RedisServer::start();
        let url = server.url_with("orders", "secret", 0);
        let limited = Self { server, url };
        limited.set(rules);
        limited
    }

    fn set(&self, rules: &[String]) {
        let mut words = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
        words.extend(rules.iter().map(String::as_str));
        let _: () = self.server.run(&words);
    }

    fn provider(&self, scheme: LockScheme) -> RedisBackend {
        RedisBackend::new(&self.url)
            .unwrap()
            .with_lock_scheme(scheme)
    }

    fn backend(&self, scheme: LockScheme) -> Backend {
        self.provider(scheme).backend(&service("orders")).unwrap()
    }

    /// The commands that were executed, as rules name them.
    fn used(&self) -> BTreeSet<String> {
        let stats: String = self.server.run(&["INFO", "commandstats"]);
        let lines = stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_"));
        lines
            .filter(|line| !line.contains(":calls=0,"))
            .filter_map(|line| Some(format!("+{}", line.split_once(':')?.0)))
            .collect()
    }
}

type Check = Box<dyn Fn(Arc<dyn Runtime>, Backend) -> BoxFuture<'static, ()> + Send + Sync>;

/// The behaviours of all suites.
fn behaviours() -> Vec<(&'static str, Check)> {
    let mut all: Vec<(&str, Check)> = Vec::new();
    for behaviour in transport::behaviours()
        .into_iter()
        .chain(notifier::behaviours())
    {
        let run = move |runtime, backend| -> BoxFuture<'static, ()> {
            Box::pin(async move { behaviour.run(runtime, backend).await })
        };
        all.push((behaviour.name(), Box::new(run)));
    }
    for behaviour in lock_manager::behaviours() {
        let run = move |runtime, backend: Backend| -> BoxFuture<'static, ()> {
            Box::pin(async move { behaviour.run(runtime, backend.locks).await })
        };
        all.push((behaviour.name(), Box::new(run)));
    }
    assert!(all.len() > 90, "only {} behaviours", all.len());
    all
}

/// All suites with exactly the rights, a few behaviours at a time, each with a server of its
/// own. Returns the commands that were executed.
fn all_suites(scheme: LockScheme, on_tokio: bool) -> BTreeSet<String> {
    let (waiting, used) = (Mutex::new(behaviours()), Mutex::new(BTreeSet::new()));
    let run = |name: &str, behaviour: &Check| {
        println!("{name}");
        let body = |runtime: Arc<dyn Runtime>| async move {
            let limited = Limited::new(&rules(scheme));
            behaviour(runtime, limited.backend(scheme)).await;
            limited.used()
        };
        match on_tokio {
            true => support::on_tokio(|| async {
                let found = body(Arc::new(TokioRuntime::new())).await;
                used.lock().unwrap().extend(found);
            }),
            false => support::on_smol(|| async {
                let found = body(Arc::new(SmolRuntime::new())).await;
                used.lock().unwrap().extend(found);
            }),
        }
    };
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap().pop();
                    let Some((name, behaviour)) = next else {
                        return;
                    };
                    run(name, &behaviour);
                }
            });
        }
    });
    used.into_inner().unwrap()
}

/// What the suites do not do.
async fn the_rest(limited: &Limited, scheme: LockScheme) {
    let provider = limited.provider(scheme);
    RedisBackend::connect(&limited.url).await.unwrap();
    provider.eviction_policy().await.unwrap();
    provider
        .recorded_lock_scheme(&service("orders"))
        .await
        .unwrap();

    // The index of the quarantine has what the quarantine has not.
    let index = "{orders-input}:quarantine:index";
    let member = format!("{:020}-{:020}", 9, 1);
    let _: u64 = limited.server.run(&["ZADD", index, "0", &member]);
    let admin = limited.backend(scheme).admin;
    admin.list_quarantined(EntryId::MIN, 10).await.unwrap();

    if scheme == LockScheme::PerStream {
        // With what session leases have left.
        let sessions = "{orders-input}:sessions";
        let dead = format!("redis-consumer-a/{:016x}", 7);
        let _: u64 = limited.server.run(&["ZADD", sessions, "1", &dead]);
        provider.migrate(&service("orders"), scheme).await.unwrap();
    }
}

fn every_suite_passes_and_needs_each_right(scheme: LockScheme, on_tokio: bool) {
    let used = Mutex::new(all_suites(scheme, on_tokio));
    support::on_tokio(|| async {
        let limited = Limited::new(&rules(scheme));
        the_rest(&limited, scheme).await;
        used.lock().unwrap().extend(limited.used());
    });
    let (used, mut unneeded) = (used.into_inner().unwrap(), rules(scheme));
    // Sent by this test, too.
    unneeded.retain(|rule| rule.starts_with('+') && rule != "+info" && !used.contains(rule));
    assert!(unneeded.is_empty(), "granted, and never used: {unneeded:?}");
}

#[test]
fn session_leases_conform_with_exactly_the_rights_and_need_each_on_tokio() {
    every_suite_passes_and_needs_each_right(LockScheme::Session, true);
}

#[test]
fn session_leases_conform_with_exactly_the_rights_and_need_each_on_smol() {
    every_suite_passes_and_needs_each_right(LockScheme::Session, false);
}

#[test]
fn per_stream_locks_conform_with_exactly_the_rights_and_need_each_on_tokio() {
    every_suite_passes_and_needs_each_right(LockScheme::PerStream, true);
}

#[test]
fn per_stream_locks_conform_with_exactly_the_rights_and_need_each_on_smol() {
    every_suite_passes_and_needs_each_right(LockScheme::PerStream, false);
}

/// The text of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    error.to_string()
}

#[test]
fn a_consumer_with_too_few_rights_is_told_all_that_are_missing_before_it_does_anything() {
    support::on_both(|| async {
        for scheme in BOTH {
            let mut fewer = rules(scheme);
            fewer.retain(|rule| !["+xadd", "+zscore", "+pexpire"].contains(&&**rule));
            let limited = Limited::new(&fewer);
            let backend = limited.backend(scheme);
            let text = refusal(backend.transport.prepare().await);
            let grant = "ACL SETUSER <user> +pexpire +zscore +xadd";
            assert!(text.contains(grant), "{text}");
            assert!(!text.contains("secret"), "{text}");
            assert_eq!(
                limited.server.run::<u64>(&["DBSIZE"]),
                0,
                "nothing was done"
            );

            // As the text says.
            let _: () = limited
                .server
                .run(&["ACL", "SETUSER", "orders", "+pexpire", "+zscore", "+xadd"]);
            backend.transport.prepare().await.unwrap();
        }
    });
}

#[test]
fn each_right_that_is_missing_is_named_by_a_server_as_it_is_granted() {
    support::on_tokio(|| async {
        for scheme in BOTH {
            let limited = Limited::new(&rules(scheme));
            for rule in rules(scheme) {
                let optional = rule.starts_with('&')
                    || [
                        "resetchannels",
                        "+info",
                        "+hrandfield",
                        "+xlen",
                        "+publish",
                        "+subscribe",
                        "+psubscribe",
                        "+config|get",
                        "+config|set",
                    ]
                    .contains(&&*rule);
                let mut fewer = rules(scheme);
                fewer.retain(|other| *other != rule);
                limited.set(&fewer);
                let prepared = limited.backend(scheme).transport.prepare().await;
                if optional {
                    prepared.unwrap();
                    continue;
                }
                let text = refusal(prepared);
                // Without the right to scripts nobody can look: all that is needed is named.
                let all = rules(scheme).join(" ");
                let is_named = text.ends_with(&format!("ACL SETUSER <user> {rule}"))
                    || (rule.starts_with("+eval") && text.ends_with(&all));
                assert!(is_named, "{rule}: {text}");
            }
        }
    });
}

#[test]
fn rights_that_go_after_a_consumer_has_worked_are_not_looked_at_again() {
    support::on_tokio(|| async {
        let limited = Limited::new(&rules(LockScheme::Session));
        let backend = limited.backend(LockScheme::Session);
        backend.transport.prepare().await.unwrap();
        let _: () = limited.server.run(&["ACL", "SETUSER", "orders", "-xadd"]);
        backend.transport.prepare().await.unwrap();
        let another = limited.backend(LockScheme::Session);
        refusal(another.transport.prepare().await);
    });
}

#[test]
fn the_page_shows_the_rights() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    for scheme in BOTH {
        let line = format!("ACL SETUSER orders on >secret {}", rules(scheme).join(" "));
        assert!(
            page.lines().any(|found| found == line),
            "not on the page: {line}"
        );
    }
}
