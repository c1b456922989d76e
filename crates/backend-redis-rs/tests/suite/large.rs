//! Long infos, long batches and slow links: pieces, and nothing that waits behind them.

use std::time::{Duration, Instant};

use streamlease_core::payload::MAX_PAYLOAD_BYTES;
use streamlease_core::*;
use streamlease_tests::Proxy;

use crate::support::*;

/// Long enough for one piece, and what was under way when it was cut.
const PIECE: usize = (1 << 20) + (256 << 10);

fn info(bytes: usize) -> Info {
    Info::from_json(&format!("{{\"x\":\"{}\"}}", "y".repeat(bytes - 8))).unwrap()
}

fn long_batch(id: u128, count: usize, bytes: usize) -> SubmitBatch {
    let announcements = (0..count)
        .map(|n| Announcement::new(stream(&format!("s{n}")), info(bytes)))
        .collect();
    SubmitBatch::with_id(id, announcements)
}

/// Pending at `a`: delivered by somebody else's small page at a time.
async fn long_entries_at_a(server: &RedisServer, count: usize, bytes: usize) -> Vec<EntryId> {
    let backend = orders_at(&server.url());
    backend.transport.prepare().await.unwrap();
    let ids = submitted(&backend, &long_batch(1, count, bytes)).await;
    let mut delivered = 0;
    while delivered < count {
        let fetched = backend
            .transport
            .fetch(&fetch("a", count, 0))
            .await
            .unwrap();
        delivered += fetched.entries.len();
    }
    ids.unwrap()
}

/// How long (µs) the longest script takes while `work` runs.
async fn longest_script<T>(server: &RedisServer, work: impl Future<Output = T>) -> (u64, T) {
    type Row = (u64, u64, u64, Vec<String>, String, String);
    server.run::<()>(&["CONFIG", "SET", "slowlog-max-len", "100000"]);
    server.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.run::<()>(&["SLOWLOG", "RESET"]);
    let done = work.await;
    let rows: Vec<Row> = server.run(&["SLOWLOG", "GET", "-1"]);
    let scripts = rows.iter().filter(|row| row.3[0].starts_with("EVAL"));
    (scripts.map(|row| row.2).max().unwrap_or(0), done)
}

/// The same of a script that puts each of these bytes on a stream, all at once.
async fn all_at_once(server: &RedisServer, count: usize, bytes: usize) -> u64 {
    let code =
        "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'x', string.rep('y', ARGV[2])) end";
    let (count, bytes) = (count.to_string(), bytes.to_string());
    let all = async || server.run::<()>(&["EVAL", code, "1", "scratch", &count, &bytes]);
    longest_script(server, all()).await.0
}

fn quarantined(entry: &EntryId) -> Quarantine {
    Quarantine::new(*entry, FencingToken::NONE, 0, "made up".to_owned())
}

fn bytes_of(page: &PendingPage) -> usize {
    let entries = page.entries.iter();
    let infos = entries.map(|pending| pending.content.as_ref().unwrap().info.as_json());
    infos.map(|info| info.map_or(0, str::len)).sum()
}

#[test]
fn long_infos_are_listed_in_short_pages_that_lead_on() {
    on_both(|| async {
        let server = RedisServer::start();
        let ids = long_entries_at_a(&server, 40, 100_000).await;
        let backend = orders_at(&server.url());
        for consumer in [None, Some(consumer("a"))] {
            let (mut after, mut found) = (Some(EntryId::MIN), Vec::new());
            while let Some(from) = after {
                let scope = match &consumer {
                    None => Scope::All { after: from },
                    Some(consumer) => Scope::Consumer {
                        consumer: consumer.clone(),
                        after: from,
                    },
                };
                let page = backend.transport.list_pending(&scope, 250).await.unwrap();
                assert!(bytes_of(&page) <= PIECE, "{} bytes", bytes_of(&page));
                assert!(!page.entries.is_empty() || page.next.is_none());
                found.extend(page.entries.iter().map(|pending| pending.entry));
                after = page.next;
            }
            assert_eq!(found, ids);
        }
        // By ids: what is beyond `next` was not looked at.
        let (mut asked, mut found) = (ids.clone(), Vec::new());
        while !asked.is_empty() {
            let scope = Scope::Entries(asked.clone());
            let page = backend.transport.list_pending(&scope, 1).await.unwrap();
            assert!(bytes_of(&page) <= PIECE, "{} bytes", bytes_of(&page));
            found.extend(page.entries.iter().map(|pending| pending.entry));
            asked.retain(|id| page.next.is_some_and(|next| *id > next));
        }
        assert_eq!(found, ids);
    });
}

#[test]
fn a_small_call_does_not_wait_behind_long_listings_on_a_slow_link() {
    on_both(|| async {
        let server = RedisServer::start();
        let ids = long_entries_at_a(&server, 30, 100_000).await;
        let link = Proxy::start(server.addr());
        let backend = orders_at(&link.url());
        backend.admin.consumers().await.unwrap();
        link.set_rate(Some(1_000_000));
        let listing = async {
            let (mut after, mut found) = (Some(EntryId::MIN), Vec::new());
            while let Some(from) = after {
                let scope = Scope::All { after: from };
                let page = backend.transport.list_pending(&scope, 250).await.unwrap();
                found.extend(page.entries.iter().map(|pending| pending.entry));
                after = page.next;
            }
            found
        };
        let small = async {
            let mut longest = Duration::ZERO;
            for _ in 0..30 {
                let began = Instant::now();
                backend.admin.consumers().await.unwrap();
                longest = longest.max(began.elapsed());
                pause(Duration::from_millis(30)).await;
            }
            longest
        };
        let (found, longest) = soon(futures_lite::future::zip(listing, small)).await;
        assert_eq!(found, ids);
        // All of it takes three seconds.
        assert!(longest < Duration::from_millis(800), "{longest:?}");
    });
}

#[test]
fn a_fetch_brings_about_as_much_as_fits_once_it_knows_how_long_entries_are() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = orders_at(&server.url());
        backend.transport.prepare().await.unwrap();
        let batch = long_batch(1, 60, 100_000);
        submitted(&backend, &batch).await.unwrap();
        let mut pages = Vec::new();
        while pages.iter().sum::<usize>() < 60 {
            let fetched = backend.transport.fetch(&fetch("a", 500, 0)).await.unwrap();
            assert!(!fetched.entries.is_empty(), "some of what there is");
            pages.push(fetched.entries.len());
        }
        assert!(pages[1..].iter().all(|n| n * 100_000 <= PIECE), "{pages:?}");
    });
}

#[test]
fn a_long_batch_makes_its_way_over_a_slow_link() {
    on_both(|| async {
        let server = RedisServer::start();
        let link = Proxy::start(server.addr());
        let backend = orders_at(&link.url());
        backend.transport.prepare().await.unwrap();
        link.set_rate(Some(1_000_000));
        let batch = long_batch(1, 60, 50_000);
        let ids = soon(submitted(&backend, &batch)).await.unwrap();
        assert_eq!(ids.len(), 60);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 60);
        assert_eq!(soon(submitted(&backend, &batch)).await.unwrap(), ids);
    });
}

#[test]
fn the_repeat_of_a_long_batch_sends_only_what_is_missing() {
    let batch = long_batch(1, 60, 50_000);
    let with_key = SubmitBatch::with_key("a job", batch.announcements.clone()).unwrap();
    for batch in [batch, with_key] {
        sends_only_what_is_missing(&batch);
    }
}

fn sends_only_what_is_missing(batch: &SubmitBatch) {
    on_tokio(|| async {
        let server = RedisServer::start();
        let link = Proxy::start(server.addr());
        let backend = orders_at(&link.url());
        backend.transport.prepare().await.unwrap();
        link.set_rate(Some(1_000_000));
        let given_up = async {
            eventually("half of it", || {
                server.run::<usize>(&["XLEN", "orders-input"]) >= 30
            })
            .await;
        };
        let submit = async {
            let _ = submitted(&backend, batch).await;
        };
        futures_lite::future::or(given_up, submit).await;
        link.set_rate(None);
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let ids = soon(submitted(&backend, batch)).await.unwrap();
        assert_eq!(ids.len(), 60);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 60);
        let info: String = server.run(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|l| l.strip_prefix("total_net_input_bytes:"));
        let sent: usize = line.unwrap().trim().parse().unwrap();
        assert!(sent < 2_000_000, "{sent} bytes of 3,000,000 again");
    });
}

/// For ten minutes from when it was last sent, also if nothing of it was missing.
#[test]
fn a_batch_is_remembered_from_when_it_was_last_sent() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = orders_at(&server.url());
        let long = long_batch(1, 4, 5_000);
        let with_key = |batch: &SubmitBatch| {
            SubmitBatch::with_key("a job", batch.announcements.clone()).unwrap()
        };
        for batch in [long_batch(2, 4, 50), with_key(&long), long] {
            let ids = submitted(&backend, &batch).await.unwrap();
            let keys: Vec<String> = server.run(&["KEYS", "{orders-input}:batch:*"]);
            assert_eq!(keys.len(), if batch.key.is_some() { 4 } else { 1 });
            for key in &keys {
                server.run::<()>(&["PEXPIRE", key, "60000"]);
            }
            assert_eq!(submitted(&backend, &batch).await.unwrap(), ids);
            for key in &keys {
                let left: u64 = server.run(&["PTTL", key]);
                assert!((540_000..=600_000).contains(&left), "{key}: {left} ms");
                server.run::<()>(&["DEL", key]);
            }
        }
    });
}

/// What others write there, and what is lost, costs one name its memory and no more.
#[test]
fn a_name_whose_memory_is_lost_is_announced_again_and_others_are_not() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = orders_at(&server.url());
        let names = || long_batch(0, 5, 50).announcements;
        let batch = || SubmitBatch::with_key("a job", names()).unwrap();
        submitted(&backend, &batch()).await.unwrap();
        let key_of = |at: usize| {
            let name = batch().remembered_as().unwrap().swap_remove(at);
            format!("{{orders-input}}:batch:{name}")
        };
        assert_eq!(server.run::<u64>(&["DEL", &key_of(0)]), 1);
        server.run::<()>(&["SET", &key_of(2), "something else"]);
        server.run::<()>(&["DEL", &key_of(3)]);
        server.run::<u64>(&["RPUSH", &key_of(3), "1-1"]);
        let outcomes = backend.submitter.submit(&batch()).await.unwrap();
        let is_new = |outcome: &SubmitOutcome| matches!(outcome, SubmitOutcome::Announced(_));
        let new: Vec<bool> = outcomes.iter().map(is_new).collect();
        assert_eq!(new, [true, false, true, true, false]);
        let outcomes = backend.submitter.submit(&batch()).await.unwrap();
        assert!(!outcomes.iter().any(is_new), "{outcomes:?}");
    });
}

#[test]
fn a_payload_that_is_too_long_is_told_of_without_being_sent_and_can_be_quarantined() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = orders_at(&server.url());
        backend.transport.prepare().await.unwrap();
        let long = format!(
            "{{\"DataStreamName\":\"s\",\"Info\":{{\"x\":\"{}\"}}}}",
            "y".repeat(2 * MAX_PAYLOAD_BYTES)
        );
        for _ in 0..3 {
            server.run::<String>(&["XADD", "orders-input", "*", "lbs-input", &long]);
        }
        submitted(&backend, &batch(1, &["s"])).await.unwrap();
        let mut fetched = Vec::new();
        while fetched.len() < 4 {
            let page = backend.transport.fetch(&fetch("a", 4, 0)).await.unwrap();
            fetched.extend(page.entries);
        }
        let reason = MalformedReason::PayloadTooLong;
        assert_eq!(fetched[0].content, Err(reason));
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let page = backend.transport.list_pending(&ALL, 250).await.unwrap();
        let info: String = server.run(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|l| l.strip_prefix("total_net_output_bytes:"));
        let sent: usize = line.unwrap().trim().parse().unwrap();
        assert!(sent < MAX_PAYLOAD_BYTES, "{sent} bytes were sent");
        assert_eq!(page.entries.len(), 4);
        assert_eq!(page.entries[0].content, Err(reason));
        assert!(page.entries[3].content.is_ok(), "it hides no other");
        let quarantined = Quarantine::new(
            page.entries[0].entry,
            FencingToken::NONE,
            0,
            reason.to_string(),
        );
        let outcome = backend
            .transport
            .quarantine(&consumer("a"), &[quarantined])
            .await;
        assert_eq!(outcome.unwrap(), [QuarantineOutcome::Quarantined]);
        let listed = backend.admin.list_quarantined(EntryId::MIN, 10).await;
        assert_eq!(listed.unwrap()[0].reason, reason.to_string());
    });
}

#[test]
fn what_waits_and_what_is_quarantined_is_listed_in_short_pages_too() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = orders_at(&server.url());
        backend.transport.prepare().await.unwrap();
        let batch = long_batch(1, 40, 100_000);
        let ids = submitted(&backend, &batch).await.unwrap();
        let (mut after, mut found) = (EntryId::MIN, Vec::new());
        loop {
            let page = backend.admin.list_undelivered(after, 500).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.entry;
            // The first page cannot know how long they are.
            assert!(found.is_empty() || page.len() * 100_000 <= PIECE);
            found.extend(page.iter().map(|delivery| delivery.entry));
        }
        assert_eq!(found, ids);
        let mut delivered = 0;
        while delivered < 40 {
            let page = backend.transport.fetch(&fetch("a", 40, 0)).await.unwrap();
            delivered += page.entries.len();
        }
        let quarantined: Vec<Quarantine> = ids.iter().map(quarantined).collect();
        backend
            .transport
            .quarantine(&consumer("a"), &quarantined)
            .await
            .unwrap();
        let (mut after, mut found) = (EntryId::MIN, Vec::new());
        loop {
            let page = backend.admin.list_quarantined(after, 500).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.entry;
            assert!(page.len() * 100_000 <= PIECE, "{}", page.len());
            found.extend(page.iter().map(|quarantined| quarantined.entry));
        }
        assert_eq!(found, ids);
    });
}

#[test]
fn long_entries_enter_and_leave_the_quarantine_a_few_per_step() {
    const COUNT: usize = 40;
    const LONG: usize = 1_000_000;
    on_tokio(|| async {
        let server = RedisServer::start();
        let ids = long_entries_at_a(&server, COUNT, LONG).await;
        let backend = orders_at(&server.url());
        let transport = &backend.transport;
        let whole = all_at_once(&server, COUNT, LONG).await;
        // Among those that are not there, too.
        let mut entries: Vec<Quarantine> = ids.iter().map(quarantined).collect();
        entries.insert(1, quarantined(&EntryId::new(1, 1)));
        let mut expected = vec![QuarantineOutcome::Quarantined; COUNT];
        expected.insert(1, QuarantineOutcome::Gone);
        let a = consumer("a");
        let (longest, outcomes) = longest_script(&server, transport.quarantine(&a, &entries)).await;
        assert_eq!(outcomes.unwrap(), expected);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 0);
        assert!(longest < whole / 4, "{longest} µs, all at once {whole} µs");
        expected.fill(QuarantineOutcome::Gone);
        let again = transport.quarantine(&a, &entries).await.unwrap();
        assert_eq!(again, expected, "the repeat of all of it");

        let mut wanted = ids.clone();
        // Among those that are not there, or twice.
        wanted.extend([EntryId::new(1, 1), ids[0]]);
        let (longest, released) =
            longest_script(&server, backend.admin.release_quarantined(&wanted)).await;
        let released = released.unwrap();
        let mut new_ids = Vec::new();
        for outcome in &released[..COUNT] {
            let QuarantineRelease::Released(id) = outcome else {
                panic!("{outcome:?}")
            };
            new_ids.push(*id);
        }
        assert!(
            new_ids.is_sorted(),
            "in the order in which they were asked for"
        );
        assert_eq!(released[COUNT], QuarantineRelease::Gone);
        assert_eq!(released[COUNT + 1], released[0]);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), COUNT);
        assert!(longest < whole / 4, "{longest} µs, all at once {whole} µs");
        let again = backend.admin.release_quarantined(&wanted).await.unwrap();
        assert_eq!(again, released, "the repeat tells the same");
    });
}

/// The records of entries that are pending: those need not be read to know that.
#[test]
fn tidying_reads_no_payloads_of_what_is_pending() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let ids = long_entries_at_a(&server, 20, 100_000).await;
        let transport = orders_at(&server.url()).transport;
        let own: Vec<Fenced> = ids.iter().map(|id| fenced(*id, 7)).collect();
        transport.claim(&consumer("a"), &own).await.unwrap();
        let left = ["HSET", "{orders-input}:tokens", "1-1", "7", "note", "x"];
        server.run::<()>(&left);
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        transport
            .list_pending_ids(None, EntryId::MIN, 10)
            .await
            .unwrap();
        assert_eq!(server.run::<usize>(&["HLEN", "{orders-input}:tokens"]), 21);
        assert_eq!(reads(&server), 2, "those two that are not pending");
    });
}

/// How often entries were read since the counts were cleared.
fn reads(server: &RedisServer) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]);
    let line = stats.lines().find(|l| l.starts_with("cmdstat_xrange:"));
    line.map_or(0, |line| {
        line.split([',', '=']).nth(1).unwrap().parse().unwrap()
    })
}

/// A page of them would block the server for as long as its payloads take.
#[test]
fn stale_owners_are_refused_without_a_look_at_all_their_long_payloads() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let ids = long_entries_at_a(&server, 20, 100_000).await;
        let transport = orders_at(&server.url()).transport;
        let fences = |token| -> Vec<Fenced> { ids.iter().map(|id| fenced(*id, token)).collect() };
        let (a, b) = (consumer("a"), consumer("b"));
        transport.claim(&a, &fences(7)).await.unwrap();
        transport.claim(&b, &fences(9)).await.unwrap();
        // Two are gone, one of them without having been acknowledged.
        server.run::<()>(&[
            "XDEL",
            "orders-input",
            &ids[0].to_string(),
            &ids[1].to_string(),
        ]);
        server.run::<()>(&["XACK", "orders-input", "orders-group", &ids[0].to_string()]);
        server.run::<()>(&["CONFIG", "RESETSTAT"]);
        let seen = FencingToken(9);
        let claims = transport.claim(&a, &fences(8)).await.unwrap();
        assert_eq!(claims[0], ClaimOutcome::Gone);
        assert!(
            claims[2..]
                .iter()
                .all(|c| *c == ClaimOutcome::Stale { seen })
        );
        let ends = transport.complete(&a, &fences(8)).await.unwrap();
        assert!(
            ends[2..]
                .iter()
                .all(|e| *e == CompleteOutcome::NotOwner { seen })
        );
        let backs: Vec<HandBackRequest> = ids
            .iter()
            .map(|entry| HandBackRequest::new(*entry, FencingToken(8)))
            .collect();
        let backs = transport.hand_back(&a, &backs).await.unwrap();
        assert!(
            backs[2..]
                .iter()
                .all(|b| *b == HandBackOutcome::NotOwner { seen })
        );
        let reads = reads(&server);
        assert!(
            reads <= 3 * (3 + 2),
            "{reads} in three calls, of 20 entries each"
        );
    });
}
