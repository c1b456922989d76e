//! Keys that vanish alone, and how that is noticed. Whole fleets to which it happens
//! are in `tests/tests/scenarios/lost_keys.rs`.

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

fn delete(server: &RedisServer, name: &str) {
    let key = format!("{{orders-input}}:{name}");
    assert_eq!(server.run::<u64>(&["DEL", &key]), 1, "{key} was not there");
}

#[test]
fn owners_that_vanish_hold_acquiring_back_until_all_have_heard_of_it() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let (a, b) = (
            opened(&backend, "a", TTL).await,
            opened(&backend, "b", TTL / 2).await,
        );
        acquired(&backend, &a, "s").await;
        let before = heartbeat(&backend, &a).await;
        delete(&server, "owners");
        // Whoever would be the first to put something there again does not.
        for _ in 0..2 {
            let outcome = try_acquire(&backend, &b, acquire("s", E1, 1, 0)).await;
            let AcquireOutcome::NotYet { retry_in } = outcome else {
                panic!("{outcome:?}")
            };
            assert!(retry_in.as_millis() as u64 > TTL / 2, "{retry_in:?}");
        }
        let after = heartbeat(&backend, &a).await;
        assert_ne!(after.generation, before.generation);
        assert_eq!(after.on_record, Some(0));
        assert!(
            backend
                .locks
                .sessions()
                .unwrap()
                .records(&a.id, None, 9)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            heartbeat(&backend, &a).await.generation,
            after.generation,
            "once"
        );
    });
}

#[test]
fn fencing_records_that_vanish_show_in_the_generation() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        submitted(&backend, &batch(1, &["s", "t"])).await.unwrap();
        let fetched = backend.transport.fetch(&fetch("a", 2, 0)).await.unwrap();
        let a = opened(&backend, "a", TTL).await;
        let claim = async |nth: usize| {
            let own = [fenced(fetched.entries[nth].entry, 5)];
            backend.transport.claim(&a.id.consumer, &own).await.unwrap();
        };
        claim(0).await;
        let before = heartbeat(&backend, &a).await.generation;
        claim(1).await;
        assert_eq!(heartbeat(&backend, &a).await.generation, before);
        delete(&server, "tokens");
        // Somebody has put a part there again.
        claim(1).await;
        let after = heartbeat(&backend, &a).await.generation;
        assert_ne!(after, before);
        assert_eq!(heartbeat(&backend, &a).await.generation, after, "once");
        // Nothing has to wait for it.
        acquired(&backend, &a, "new").await;
    });
}

#[test]
fn a_service_whose_scheme_vanished_refuses_the_others_all_the_same() {
    on_both(|| async {
        for other_key_gone in [
            None,
            Some("owners"),
            Some("server"),
            Some("sessions:details"),
        ] {
            let server = RedisServer::start();
            let provider = RedisBackend::connect(server.url()).await.unwrap();
            let orders = service("orders");
            let (new, old) = (sessions(&server).await, backend(&server, "orders").await);
            new.transport.prepare().await.unwrap();
            let a = opened(&new, "a", TTL).await;
            heartbeat(&new, &a).await;
            delete(&server, "scheme");
            if let Some(name) = other_key_gone {
                delete(&server, name);
            }
            let recorded = provider.recorded_lock_scheme(&orders).await.unwrap();
            assert_eq!(recorded, Some(LockScheme::Session));
            let refused = old.transport.prepare().await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Incompatible, "{refused}");
            new.transport.prepare().await.unwrap();
            delete(&server, "scheme");
            new.transport.prepare().await.unwrap();
            delete(&server, "scheme");
            // Who lives restores it too, once per turn to sweep.
            let turn = Some(a.ttl);
            new.locks
                .renew(&Renew::new(a.clone(), []).want_sweep(turn))
                .await
                .unwrap();
            let recorded: String = server.run(&["GET", "{orders-input}:scheme"]);
            assert_eq!(recorded, "session");
        }
    });
}

#[test]
fn either_half_of_the_quarantine_may_vanish() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let transport = &backend.transport;
        transport.prepare().await.unwrap();
        let quarantine = async |id: u128, names: &[&str]| {
            submitted(&backend, &batch(id, names)).await.unwrap();
            let fetched = transport.fetch(&fetch("a", 9, 0)).await.unwrap();
            for entry in fetched.entries {
                let wanted =
                    Quarantine::new(entry.entry, FencingToken::NONE, 0, "of the test".to_owned());
                transport
                    .quarantine(&consumer("a"), &[wanted])
                    .await
                    .unwrap();
            }
        };
        let listed = async || {
            let quarantined = backend
                .admin
                .list_quarantined(EntryId::MIN, 9)
                .await
                .unwrap();
            quarantined.len()
        };
        quarantine(1, &["a", "b"]).await;
        delete(&server, "quarantine:index");
        assert_eq!(listed().await, 2);
        quarantine(2, &["c"]).await;
        delete(&server, "quarantine:index");
        quarantine(3, &["d"]).await;
        assert_eq!(listed().await, 4);
        // Also in the middle of a listing, which else would end there.
        let quarantined = backend
            .admin
            .list_quarantined(EntryId::MIN, 2)
            .await
            .unwrap();
        delete(&server, "quarantine:index");
        let later = backend
            .admin
            .list_quarantined(quarantined[1].entry, 9)
            .await
            .unwrap();
        assert_eq!(later.len(), 2);
        delete(&server, "quarantine");
        assert_eq!(listed().await, 0);
        quarantine(4, &["e"]).await;
        assert_eq!(listed().await, 1);
    });
}

#[test]
fn a_policy_by_which_keys_may_vanish_is_told() {
    on_both(|| async {
        let server = RedisServer::start();
        let provider = RedisBackend::connect(server.url()).await.unwrap();
        assert_eq!(provider.eviction_policy().await.unwrap(), None);
        server.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        assert_eq!(provider.eviction_policy().await.unwrap(), None, "no limit");
        server.run::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]);
        let policy = provider.eviction_policy().await.unwrap();
        assert_eq!(policy.as_deref(), Some("allkeys-lru"));
    });
}

/// What is no id in the quarantine is not an index that is lost.
#[test]
fn a_foreign_field_in_the_quarantine_has_its_index_built_once() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        let names = batch(1, &["a"]);
        let ids = submitted(&backend, &names).await.unwrap();
        backend.transport.fetch(&fetch("a", 9, 0)).await.unwrap();
        let transport = &backend.transport;
        let quarantined = Quarantine::new(ids[0], FencingToken::NONE, 0, "of the test".to_owned());
        transport
            .quarantine(&consumer("a"), &[quarantined])
            .await
            .unwrap();
        server.run::<()>(&["HSET", "{orders-input}:quarantine", "note", "of others"]);
        let built = || {
            let stats: String = server.run(&["INFO", "commandstats"]);
            let zadd = stats
                .lines()
                .find_map(|l| l.strip_prefix("cmdstat_zadd:calls="));
            zadd.map(|rest| rest.split(',').next().unwrap().to_owned())
        };
        let list = async || {
            backend
                .admin
                .list_quarantined(EntryId::MIN, 9)
                .await
                .unwrap()
        };
        assert_eq!(list().await.len(), 1);
        let once = built();
        for _ in 0..3 {
            assert_eq!(list().await.len(), 1, "nothing of others is listed");
        }
        assert_eq!(built(), once, "built again");
    });
}

const QUARANTINE: &str = "{orders-input}:quarantine";
const INDEX: &str = "{orders-input}:quarantine:index";

/// In µs, of each script since the log was cleared.
fn script_times(server: &RedisServer) -> Vec<u64> {
    type Row = (u64, u64, u64, Vec<String>, String, String);
    let rows: Vec<Row> = server.run(&["SLOWLOG", "GET", "-1"]);
    let scripts = rows.iter().filter(|row| row.3[0].starts_with("EVAL"));
    let mut times: Vec<u64> = scripts.map(|row| row.2).collect();
    times.sort_unstable();
    times
}

#[test]
fn the_index_of_a_large_quarantine_is_made_anew_in_short_steps() {
    const MANY: usize = 30_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let fill = "for i = 1, ARGV[1] do \
                    redis.call('HSET', KEYS[1], i .. '-1', '1:x,1:0,1:a,1:1,1:k,1:v,') end";
        server.run::<()>(&["EVAL", fill, "1", QUARANTINE, &MANY.to_string()]);
        server.run::<()>(&["HSET", QUARANTINE, "note", "of others", "01-1", "?"]);
        // What is in no quarantine any more.
        let stale = "for i = 1, 1000 do redis.call('ZADD', KEYS[1], 0, \
                     string.format('%020d-%020d', i, 2)) end";
        server.run::<()>(&["EVAL", stale, "1", INDEX]);
        server.run::<()>(&["CONFIG", "SET", "slowlog-max-len", "100000"]);
        server.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);

        // What it takes all at once.
        let whole = "for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do \
                     redis.call('ZADD', KEYS[2], 0, id) end";
        server.run::<()>(&["SLOWLOG", "RESET"]);
        server.run::<()>(&["EVAL", whole, "2", QUARANTINE, "{orders-input}:reference"]);
        let whole = script_times(&server)[0];

        let list_all = async || {
            server.run::<()>(&["SLOWLOG", "RESET"]);
            let (mut after, mut found) = (EntryId::MIN, 0);
            loop {
                let page = backend.admin.list_quarantined(after, 500).await;
                let page = page.unwrap();
                let Some(last) = page.last() else { break };
                assert!(page.iter().all(|quarantined| quarantined.entry > after));
                (after, found) = (last.entry, found + page.len());
            }
            assert_eq!(found, MANY);
            assert_eq!(server.run::<usize>(&["ZCARD", INDEX]), MANY + 2);
            *script_times(&server).last().unwrap()
        };
        let mut longest = list_all().await;
        // Some may have been interrupted.
        for _ in 0..2 {
            server.run::<()>(&["DEL", INDEX]);
            server.run::<()>(&["SLOWLOG", "RESET"]);
            let page = backend.admin.list_quarantined(EntryId::MIN, 1).await;
            assert_eq!(page.unwrap()[0].entry, EntryId::new(1, 1));
            assert_eq!(server.run::<usize>(&["ZCARD", INDEX]), MANY + 2);
            longest = longest.min(*script_times(&server).last().unwrap());
        }
        assert!(longest < whole / 8, "{longest} µs, all at once {whole} µs");
    });
}

#[test]
fn long_records_make_the_steps_of_a_new_index_shorter() {
    const LONG: usize = 400_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let fill = "for i = 1, 100 do redis.call('HSET', KEYS[1], i .. '-1', \
                    '1:x,1:0,1:a,1:1,1:k,' .. ARGV[1] .. ':' .. string.rep('v', ARGV[1]) .. ',') end";
        server.run::<()>(&["EVAL", fill, "1", QUARANTINE, &LONG.to_string()]);
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let quarantined = backend.admin.list_quarantined(EntryId::MIN, 1).await;
        assert_eq!(quarantined.unwrap()[0].entry, EntryId::new(1, 1));
        let stats: String = server.run(&["INFO", "commandstats"]);
        let calls = |name: &str| -> u64 {
            let head = format!("cmdstat_{name}:calls=");
            let found = stats.lines().find_map(|line| line.strip_prefix(&head));
            found.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
        };
        let steps = calls("evalsha") + calls("eval");
        // No step can be less than a bucket of the hash: one record or two with Redis, seven
        // and more with Valkey since 8.1, which has 16 buckets for these.
        assert!(steps >= 16, "{steps} steps for {} bytes", 100 * LONG);
    });
}
