//! Announcing only what is absent: the hash that says where to look, and what is done without it.

use std::collections::BTreeSet;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::SubmitOutcome::{AlreadyAnnounced, Announced};
use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

const LBS: &str = "orders-input";
const KEY: &str = "{orders-input}:announced";

fn names(label: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{label}{i}")).collect()
}

async fn try_if_absent<S: AsRef<str>>(
    backend: &Backend,
    names: &[S],
) -> Result<Vec<SubmitOutcome>> {
    let announce = |name: &S| Announcement::of(name, Info::NONE).unwrap();
    let batch = SubmitBatch::new(names.iter().map(announce).collect()).unwrap();
    backend.submitter.submit(&batch.if_absent()).await
}

async fn if_absent<S: AsRef<str>>(backend: &Backend, names: &[S]) -> Vec<SubmitOutcome> {
    try_if_absent(backend, names).await.unwrap()
}

fn there(entries: &[EntryId]) -> Vec<SubmitOutcome> {
    entries.iter().copied().map(AlreadyAnnounced).collect()
}

fn on_the_lbs(server: &RedisServer) -> usize {
    server.run(&["XLEN", LBS])
}

fn fields(server: &RedisServer) -> usize {
    server.run(&["HLEN", KEY])
}

fn scripts(server: &RedisServer) -> usize {
    let stats: String = server.run(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn who_does_not_ask_pays_nothing() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        submitted(&backend, &batch(1, &["a", "b"])).await.unwrap();
        assert_eq!(server.run::<usize>(&["EXISTS", KEY]), 0);
        let stats: String = server.run(&["INFO", "commandstats"]);
        assert!(!stats.contains("cmdstat_hset:"), "{stats}");
    });
}

#[test]
fn a_hash_that_is_lost_is_read_anew_and_nothing_is_announced_twice() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let entries = submitted(&backend, &batch(1, &["a", "b"])).await.unwrap();
        for _ in 0..2 {
            assert_eq!(if_absent(&backend, &["a", "b"]).await, there(&entries));
            assert_eq!(server.run::<usize>(&["DEL", KEY]), 1);
        }
        assert_eq!(on_the_lbs(&server), 2);
    });
}

#[test]
fn a_key_of_another_type_stops_only_who_asks_and_appends_nothing() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        server.run::<()>(&["SET", KEY, "of another type"]);
        let entries = submitted(&backend, &batch(1, &["a"])).await.unwrap();
        let refused = try_if_absent(&backend, &["a", "b"]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Incompatible, "{refused}");
        assert!(refused.to_string().contains(KEY), "{refused}");
        assert_eq!(on_the_lbs(&server), 1);
        server.run::<()>(&["DEL", KEY]);
        assert_eq!(if_absent(&backend, &["a"]).await, there(&entries));
    });
}

#[test]
fn what_others_write_into_the_hash_is_not_believed() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let entries = submitted(&backend, &batch(1, &["a", "b"])).await.unwrap();
        if_absent(&backend, &["a"]).await;
        let other = entries[0].to_string();
        let odd = [
            "",
            "oops",
            "1",
            "1-",
            "-",
            "+",
            "99999999999999999999-1",
            &*other,
        ];
        for (n, odd) in odd.into_iter().enumerate() {
            let name = format!("absent{n}");
            server.run::<()>(&["HSET", KEY, &name, odd]);
            let outcome = if_absent(&backend, &[&name]).await[0];
            assert!(matches!(outcome, Announced(_)), "{odd:?} {outcome:?}");
            assert_eq!(
                if_absent(&backend, &[&name]).await,
                there(&[outcome.entry()])
            );
        }
        // Up to where the LBS was read: then all is read again.
        for odd in ["", "oops", "1", "99999999999999999999-1"] {
            server.run::<()>(&["DEL", KEY]);
            server.run::<()>(&["HSET", KEY, "", odd]);
            assert_eq!(if_absent(&backend, &["a", "b"]).await, there(&entries));
        }
    });
}

#[test]
fn what_go_producers_announced_is_seen() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let payloads = [
            (
                r"a<b>&",
                r#"{"DataStreamName":"a\u003cb\u003e\u0026","Info":{"x":1}}"#,
            ),
            ("q\"\\", r#"{"DataStreamName":"q\"\\","Info":null}"#),
            (
                "other order",
                r#"{"Info":{"y":"z"},"DataStreamName":"other order"}"#,
            ),
            ("other case", r#"{"datastreamname":"other case"}"#),
            ("spaces", r#"{ "DataStreamName" : "spaces" }"#),
        ];
        // Before the first that asks, and after.
        for round in 0..2 {
            let append = |payload: &str| -> EntryId {
                let id: String = server.run(&["XADD", LBS, "*", "lbs-input", payload]);
                id.parse().unwrap()
            };
            for bad in [
                "",
                "{}",
                "[1]",
                "{\"DataStreamName\":7}",
                "{\"DataStreamName\":\"",
                "x",
            ] {
                append(bad);
            }
            for (name, payload) in payloads {
                let entry = append(payload);
                assert_eq!(
                    if_absent(&backend, &[name]).await,
                    there(&[entry]),
                    "{round}"
                );
            }
        }
        server.run::<()>(&["XADD", LBS, "*", "another field", "x"]);
        let outcome = if_absent(&backend, &["absent"]).await[0];
        assert!(matches!(outcome, Announced(_)), "{outcome:?}");
    });
}

#[test]
fn a_hundred_thousand_streams_that_are_gone_leave_a_small_hash() {
    const ROUND: usize = 5_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let held = names("held", 50);
        let mut expected = Vec::new();
        for outcome in if_absent(&backend, &held).await {
            expected.push(outcome.entry());
        }
        let last = expected.last().unwrap().to_string();
        for round in 0..20 {
            let asked = names(&format!("call-{round}-"), ROUND);
            let outcomes = if_absent(&backend, &asked).await;
            assert!(outcomes.iter().all(|told| matches!(told, Announced(_))));
            let (most, is) = (2 * (ROUND + held.len()) + 101 + 400, fields(&server));
            assert!(is <= most, "round {round}: {is} fields");
            // All but what is held is completed.
            let gone = "local gone = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+') \
                        for _, entry in ipairs(gone) do redis.call('XDEL', KEYS[1], entry[1]) end";
            server.run::<()>(&["EVAL", gone, "1", LBS, &last]);
            assert_eq!(on_the_lbs(&server), held.len());
        }
        // A few single ones more, and it is as small as what is there.
        let before = fields(&server);
        let mut more = 0;
        while fields(&server) > 2 * on_the_lbs(&server) + 101 {
            more += 1;
            assert!(more < before / 8, "{} of {before} fields", fields(&server));
            if_absent(&backend, &[format!("more{more}")]).await;
        }
        assert_eq!(if_absent(&backend, &held).await, there(&expected));
    });
}

#[test]
fn many_announcements_are_read_in_short_steps() {
    const MANY: usize = 30_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let all = names("s", MANY);
        let plain: Vec<&str> = all.iter().map(String::as_str).collect();
        let entries = submitted(&backend, &batch(1, &plain)).await.unwrap();
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let last = &all[MANY - 1..];
        assert_eq!(if_absent(&backend, last).await, there(&entries[MANY - 1..]));
        let steps = scripts(&server);
        assert!((MANY / 400..MANY / 100).contains(&steps), "{steps} steps");
        // And once only.
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        assert_eq!(if_absent(&backend, &all[..9]).await, there(&entries[..9]));
        assert_eq!(scripts(&server), 1);
    });
}

#[test]
fn long_infos_make_the_steps_shorter() {
    const LONG: usize = 300_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        let info = Info::from_json(&format!("{{\"x\":\"{}\"}}", "y".repeat(LONG))).unwrap();
        let all = names("s", 40);
        let long = |name: &String| Announcement::of(name, info.clone()).unwrap();
        let batch = SubmitBatch::with_id(1, all.iter().map(long).collect());
        let entries = submitted(&backend, &batch).await.unwrap();
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        assert_eq!(if_absent(&backend, &all).await, there(&entries));
        let steps = scripts(&server);
        assert!(steps >= all.len(), "{steps} steps");
        // That they are there is seen by reading them: one for each step.
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        assert_eq!(if_absent(&backend, &all).await, there(&entries));
        let steps = scripts(&server);
        assert!(steps >= all.len(), "{steps} steps to look");
        // Once they are pending nobody has to read them all again.
        backend.transport.fetch(&fetch("a", 100, 0)).await.unwrap();
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        assert_eq!(if_absent(&backend, &all).await, there(&entries));
        let stats: String = server.run(&["INFO", "commandstats"]);
        let read = "cmdstat_xrange:calls=2,";
        assert!(
            stats.contains(read),
            "one, and a look behind the last: {stats}"
        );
    });
}

/// Tidying reads as well, and may use up what one step may read.
#[test]
fn tidying_among_long_infos_leaves_a_step_that_can_go_on() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let info = Info::from_json(&format!("{{\"x\":\"{}\"}}", "y".repeat(300_000))).unwrap();
        let (gone, held) = (names("gone", 240), names("long", 40));
        if_absent(&backend, &gone).await;
        server.run::<()>(&["XTRIM", LBS, "MAXLEN", "0"]);
        let long = |name: &String| Announcement::of(name, info.clone()).unwrap();
        let all = SubmitBatch::with_id(1, held.iter().map(long).collect());
        let entries = submitted(&backend, &all).await.unwrap();
        for round in 0..5 {
            // Something to read, which is when it tidies up.
            let name = format!("new{round}");
            submitted(&backend, &batch(100 + round, &[&name]))
                .await
                .unwrap();
            let asked = [&held[round as usize]];
            let there = there(&entries[round as usize..][..1]);
            assert_eq!(if_absent(&backend, &asked).await, there);
        }
    });
}

#[test]
fn without_the_rights_to_tidy_up_it_is_left() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let rules = RedisBackend::connect(server.url()).await.unwrap();
        let mut rules = rules.acl_rules(&service("orders"));
        rules.retain(|rule| rule != "+xlen" && rule != "+hrandfield");
        let mut set = vec!["ACL", "SETUSER", "orders", "reset", "on", ">secret"];
        set.extend(rules.iter().map(String::as_str));
        let _: () = server.run(&set);
        let provider = RedisBackend::new(server.url_with("orders", "secret", 0)).unwrap();
        let service = service("orders");
        let limited = provider.backend(&service).unwrap();
        let all = names("s", 150);
        if_absent(&limited, &all).await;
        server.run::<()>(&["XTRIM", LBS, "MAXLEN", "0"]);
        let outcomes = if_absent(&limited, &all[..9]).await;
        assert!(outcomes.iter().all(|told| matches!(told, Announced(_))));
        assert_eq!(fields(&server), 151);
    });
}

/// Both kinds of producers at once, and others than ours: what is told to be there is, and
/// nothing is announced twice by those who ask.
#[test]
fn while_others_announce_nothing_is_announced_twice_by_who_asks() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let all = names("s", 300);
        let mut working = Vec::new();
        for n in 0..4 {
            let (backend, mut mine) = (backend.clone(), all.clone());
            mine.rotate_left(n * 70);
            working.push(tokio::spawn(async move {
                let mut announced = Vec::new();
                for (nth, page) in mine.chunks(7).enumerate() {
                    let other = format!("other-{n}-{nth}");
                    let id = (n * 1_000 + nth) as u128;
                    submitted(&backend, &batch(id, &[&other])).await.unwrap();
                    let outcomes = if_absent(&backend, page).await;
                    let new = page.iter().zip(outcomes);
                    let new = new.filter(|(_, told)| matches!(told, Announced(_)));
                    announced.extend(new.map(|(name, _)| name.clone()));
                }
                announced
            }));
        }
        let mut announced = Vec::new();
        for work in working {
            announced.extend(work.await.unwrap());
        }
        assert_eq!(announced.len(), 300);
        assert_eq!(BTreeSet::from_iter(announced).len(), 300);
        assert_eq!(on_the_lbs(&server), 300 + 4 * 43);
    });
}
