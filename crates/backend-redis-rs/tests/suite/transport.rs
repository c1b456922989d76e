//! The LBS on a real server: what stands in Redis, and each outcome of each operation.

use std::time::{Duration, Instant};

use streamlease_core::*;

use crate::support::*;

/// A prepared service with `names` submitted and fetched by "a".
async fn delivered(server: &RedisServer, names: &[&str]) -> (Backend, Vec<EntryId>) {
    let backend = backend(server, "orders").await;
    backend.transport.prepare().await.unwrap();
    let ids = submitted(&backend, &batch(1, names)).await.unwrap();
    let fetched = backend.transport.fetch(&fetch("a", 1000, 0)).await.unwrap();
    assert_eq!(fetched.entries.len(), names.len());
    (backend, ids)
}

async fn claim(backend: &Backend, identity: &str, entry: EntryId, token: u64) -> ClaimOutcome {
    let outcome = backend
        .transport
        .claim(&consumer(identity), &[fenced(entry, token)])
        .await;
    counted(outcome.unwrap().remove(0))
}

/// The conformance suite looks at the reasons.
fn counted(outcome: ClaimOutcome) -> ClaimOutcome {
    match outcome {
        ClaimOutcome::Claimed { from, failures } => ClaimOutcome::Claimed {
            from,
            failures: failures.count.into(),
        },
        refused => refused,
    }
}

async fn complete(backend: &Backend, entry: EntryId, token: u64) -> CompleteOutcome {
    backend
        .transport
        .complete(&consumer("a"), &[fenced(entry, token)])
        .await
        .unwrap()[0]
}

async fn hand_back(backend: &Backend, entry: EntryId, token: u64, failed: bool) -> HandBackOutcome {
    let back = HandBackRequest::new(entry, FencingToken(token))
        .failed(failed.then(|| "it was bad".to_owned()))
        .rests(failed);
    backend
        .transport
        .hand_back(&consumer("a"), &[back])
        .await
        .unwrap()[0]
}

async fn pending(backend: &Backend) -> Vec<Pending> {
    let (mut entries, mut after) = (Vec::new(), Some(EntryId::MIN));
    while let Some(from) = after {
        let scope = Scope::All { after: from };
        let page = backend.transport.list_pending(&scope, 10_000).await;
        let page = page.unwrap();
        after = page.next;
        entries.extend(page.entries);
    }
    entries
}

fn claimed(from: &str, failures: u32) -> ClaimOutcome {
    ClaimOutcome::Claimed {
        from: Some(consumer(from)),
        failures: failures.into(),
    }
}

fn stale(seen: u64) -> ClaimOutcome {
    ClaimOutcome::Stale {
        seen: FencingToken(seen),
    }
}

#[test]
fn an_entry_stands_on_the_lbs_as_the_wire_format_says() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        backend.transport.prepare().await.unwrap();
        let announcement =
            Announcement::new(stream("call-1"), Info::from_json("{\"a\":1}").unwrap());
        let one = SubmitBatch::with_id(7, vec![announcement]);
        let ids = submitted(&backend, &one).await.unwrap();
        let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", "orders-input", "-", "+"]);
        let payload = "{\"DataStreamName\":\"call-1\",\"Info\":{\"a\":1}}";
        let fields = vec!["lbs-input".to_owned(), payload.to_owned()];
        assert_eq!(entries, [(ids[0].to_string(), fields)]);
        let groups: Vec<Vec<redis_rs::Value>> = server.run(&["XINFO", "GROUPS", "orders-input"]);
        assert_eq!(groups.len(), 1);
        assert_eq!(
            groups[0][1],
            redis_rs::Value::BulkString(b"orders-group".to_vec())
        );
    });
}

#[test]
fn what_was_submitted_before_the_group_existed_is_delivered() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        submitted(&backend, &batch(1, &["a", "b", "c"]))
            .await
            .unwrap();
        backend.transport.prepare().await.unwrap();
        let fetched = backend.transport.fetch(&fetch("x", 2, 0)).await.unwrap();
        assert_eq!((fetched.entries.len(), fetched.backlog), (2, 1));
        let undelivered = backend
            .admin
            .list_undelivered(EntryId::MIN, 10)
            .await
            .unwrap();
        assert_eq!(undelivered.len(), 1);
        assert_eq!(undelivered[0].content.as_ref().unwrap().stream, stream("c"));
    });
}

#[test]
fn a_repeated_batch_appends_nothing_and_a_long_one_keeps_its_order() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let names: Vec<String> = (0..1234).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let first = submitted(&backend, &batch(1, &names)).await.unwrap();
        let again = submitted(&backend, &batch(1, &names)).await.unwrap();
        assert_eq!(first, again);
        assert!(first.is_sorted() && first.len() == 1234);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 1234);
        assert!(
            submitted(&backend, &batch(2, &[]))
                .await
                .unwrap()
                .is_empty()
        );
        let list = backend.admin.list_undelivered(EntryId::MIN, 2000).await;
        // Before the group exists everything is undelivered.
        let list = list.unwrap();
        assert_eq!(list.len(), 1234);
        assert_eq!(list[1233].content.as_ref().unwrap().stream, stream("s1233"));
    });
}

#[test]
fn a_batch_whose_first_pages_only_were_appended_is_finished_by_its_repeat() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let names: Vec<String> = (0..150).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        // A first page is what a call that broke off after 100 leaves.
        submitted(&backend, &batch(1, &names[..100])).await.unwrap();
        submitted(&backend, &batch(1, &names)).await.unwrap();
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 150);
    });
}

#[test]
fn a_fetch_may_block_longer_than_any_default_time_out() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let began = Instant::now();
        let fetched = backend.transport.fetch(&fetch("a", 1, 1500)).await.unwrap();
        assert!(fetched.entries.is_empty() && began.elapsed() >= Duration::from_millis(1500));
        // While one blocks, other calls go on, and the entry that comes ends it.
        let (fetching, submitting) = (fetch("a", 1, 5000), batch(1, &["s"]));
        let blocked = backend.transport.fetch(&fetching);
        let submit = async {
            eventually("a blocked client", || {
                server
                    .run::<String>(&["INFO", "clients"])
                    .contains("blocked_clients:1")
            })
            .await;
            let began = Instant::now();
            submitted(&backend, &submitting).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(1));
        };
        let (fetched, ()) = soon(futures_lite::future::zip(blocked, submit)).await;
        assert_eq!(fetched.unwrap().entries.len(), 1);
        // One reader does for one fetch after the other; the others are for commands and this look.
        let connections = server.run::<String>(&["CLIENT", "LIST"]).lines().count();
        assert_eq!(connections, 3);
    });
}

/// Connections whose last command was `command` and that are blocked in it.
fn clients(server: &RedisServer, command: &str) -> usize {
    let list: String = server.run(&["CLIENT", "LIST"]);
    let blocked =
        |line: &&str| line.contains(&format!("cmd={command}")) && line.contains("flags=b");
    list.lines().filter(blocked).count()
}

#[test]
fn a_cancelled_fetch_leaves_no_reader_behind() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let request = fetch("a", 10, 60_000);
        let blocked = async {
            backend.transport.fetch(&request).await.unwrap();
        };
        let cancel = eventually("a blocked reader", || clients(&server, "xreadgroup") == 1);
        futures_lite::future::or(cancel, blocked).await;
        eventually("the reader to be gone", || {
            clients(&server, "xreadgroup") == 0
        })
        .await;
        submitted(&backend, &batch(1, &["s"])).await.unwrap();
        assert!(
            pending(&backend).await.is_empty(),
            "the abandoned read took it"
        );
        assert_eq!(
            backend
                .transport
                .fetch(&fetch("b", 1, 0))
                .await
                .unwrap()
                .entries
                .len(),
            1
        );
    });
}

#[test]
fn a_missing_stream_or_group_is_not_prepared_and_preparing_helps() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        let transport = &backend.transport;
        let kind = |err: Error| err.kind();
        let not_prepared = Err(ErrorKind::NotPrepared);
        assert_eq!(
            transport
                .fetch(&fetch("a", 1, 0))
                .await
                .map(|_| ())
                .map_err(kind),
            not_prepared
        );
        assert_eq!(
            transport
                .fetch(&fetch("a", 1, 50))
                .await
                .map(|_| ())
                .map_err(kind),
            not_prepared
        );
        assert_eq!(
            transport
                .list_pending(&ALL, 1)
                .await
                .map(|_| ())
                .map_err(kind),
            not_prepared
        );
        assert_eq!(
            backend.admin.consumers().await.map(|_| ()).map_err(kind),
            not_prepared
        );
        submitted(&backend, &batch(1, &["s"])).await.unwrap();
        let id = backend
            .admin
            .list_undelivered(EntryId::MIN, 1)
            .await
            .unwrap()[0]
            .entry;
        let claim = transport.claim(&consumer("a"), &[fenced(id, 1)]).await;
        assert_eq!(claim.map(|_| ()).map_err(kind), not_prepared);
        transport.prepare().await.unwrap();
        assert!(transport.fetch(&fetch("a", 1, 0)).await.is_ok());
        // Deleted under a blocked read.
        let request = fetch("a", 1, 5000);
        let delete = async {
            eventually("a blocked reader", || clients(&server, "xreadgroup") == 1).await;
            server.run::<()>(&["DEL", "orders-input"]);
        };
        let (fetched, ()) =
            soon(futures_lite::future::zip(transport.fetch(&request), delete)).await;
        assert_eq!(fetched.map(|_| ()).map_err(kind), not_prepared);
    });
}

#[test]
fn a_key_of_the_wrong_type_is_incompatible_and_named() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        server.run::<()>(&["SET", "orders-input", "mine"]);
        for err in [
            backend.transport.prepare().await.unwrap_err(),
            backend
                .transport
                .fetch(&fetch("a", 1, 0))
                .await
                .unwrap_err(),
            submitted(&backend, &batch(1, &["s"])).await.unwrap_err(),
            backend.transport.list_pending(&ALL, 1).await.unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::Incompatible, "{err}");
            assert!(err.to_string().contains("orders-input"), "{err}");
        }
    });
}

#[test]
fn poison_entries_are_delivered_with_their_reason_and_stop_nothing() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let mut raw = server.connection();
        let mut add = |field: &[u8], value: &[u8]| {
            let mut command = redis_rs::cmd("XADD");
            command.arg("orders-input").arg("*").arg(field).arg(value);
            command.exec(&mut raw).unwrap();
        };
        let long = format!("{{\"DataStreamName\":\"{}\"}}", "x".repeat(1 << 20));
        add(b"other", b"{}");
        add(b"\xff\xfe", b"{}");
        add(b"lbs-input", b"nope");
        add(b"lbs-input", b"[1]");
        add(b"lbs-input", b"{\"DataStreamName\":\"\"}");
        add(b"lbs-input", b"{\"DataStreamName\":\"\xff\"}");
        add(b"lbs-input", long.as_bytes());
        add(b"lbs-input", b"{\"DataStreamName\":\"good\"}");
        let fetched = backend
            .transport
            .fetch(&fetch("a", 100, 0))
            .await
            .unwrap()
            .entries;
        use MalformedReason::*;
        let reasons: Vec<_> = fetched
            .iter()
            .map(|entry| entry.content.clone().err())
            .collect();
        let expected = [
            FieldMissing,
            FieldMissing,
            NotJson,
            WrongShape,
            NameEmpty,
            NotUtf8,
            NameTooLong,
        ];
        assert_eq!(reasons[..7], expected.map(Some));
        assert_eq!(reasons[7], None);
        let listed: Vec<_> = pending(&backend)
            .await
            .iter()
            .map(|p| p.content.clone().err())
            .collect();
        assert_eq!(listed, reasons);

        let items: Vec<Quarantine> = fetched[..7]
            .iter()
            .map(|entry| {
                Quarantine::new(
                    entry.entry,
                    FencingToken::NONE,
                    0,
                    entry.content.clone().unwrap_err().to_string(),
                )
            })
            .collect();
        let quarantined = backend
            .transport
            .quarantine(&consumer("a"), &items)
            .await
            .unwrap();
        assert_eq!(quarantined, [QuarantineOutcome::Quarantined; 7]);
        let again = backend
            .transport
            .quarantine(&consumer("a"), &items)
            .await
            .unwrap();
        assert_eq!(again, [QuarantineOutcome::Gone; 7], "quarantined once");
        let list = backend
            .admin
            .list_quarantined(EntryId::MIN, 100)
            .await
            .unwrap();
        assert_eq!(list.len(), 7);
        assert!(list.is_sorted_by_key(|quarantined| quarantined.entry));
        assert_eq!(list[1].fields, [(b"\xff\xfe".to_vec(), b"{}".to_vec())]);
        assert_eq!(list[6].fields[0].1, long.as_bytes());
        assert_eq!(list[0].reason, "the entry has no field lbs-input");
        assert_eq!((list[0].failures, &list[0].last_owner), (0, &consumer("a")));
        assert!(list[0].at_ms > 1_700_000_000_000);
        let rest = backend
            .admin
            .list_quarantined(list[4].entry, 1)
            .await
            .unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].entry, list[5].entry);
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 1);
        assert_eq!(pending(&backend).await.len(), 1);
    });
}

#[test]
fn a_quarantine_record_that_cannot_be_read_hides_no_other() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["a", "b"]).await;
        for entry in &ids {
            let item = Quarantine::new(*entry, FencingToken::NONE, 0, "why");
            backend
                .transport
                .quarantine(&consumer("a"), &[item])
                .await
                .unwrap();
        }
        server.run::<()>(&[
            "HSET",
            "{orders-input}:quarantine",
            &ids[0].to_string(),
            "garbage",
        ]);
        server.run::<()>(&["ZADD", "{orders-input}:quarantine:index", "0", "garbage"]);
        let list = backend
            .admin
            .list_quarantined(EntryId::MIN, 10)
            .await
            .unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[1].reason, "why");
        // Nor does it stop the others' release; what it is stays to be looked at.
        let released = backend.admin.release_quarantined(&ids).await.unwrap();
        assert_eq!(released[0], QuarantineRelease::Unreadable);
        assert!(matches!(released[1], QuarantineRelease::Released(_)));
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 1);
        let after = EntryId::MIN;
        let list = backend.admin.list_quarantined(after, 10).await.unwrap();
        assert_eq!(list.len(), 1);
        let dropped = backend.admin.drop_quarantined(&ids).await.unwrap();
        assert_eq!(dropped, [true, false]);
    });
}

#[test]
fn claims_are_fenced_and_late_ones_change_nothing() {
    on_both(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["s"]).await;
        let id = ids[0];
        assert_eq!(claim(&backend, "a", id, 5).await, claimed("a", 0));
        assert_eq!(
            claim(&backend, "a", id, 5).await,
            claimed("a", 0),
            "a repeat, or keeping it"
        );
        assert_eq!(claim(&backend, "b", id, 4).await, stale(5));
        assert_eq!(pending(&backend).await[0].consumer, Some(consumer("a")));
        // The owner with 5 never handed back: it crashed.
        assert_eq!(claim(&backend, "b", id, 9).await, claimed("a", 1));
        assert_eq!(
            claim(&backend, "a", id, 5).await,
            stale(9),
            "the late claim of regression 6"
        );
        let row = pending(&backend).await.remove(0);
        assert_eq!(
            (row.consumer, row.token, row.failures),
            (Some(consumer("b")), FencingToken(9), 1)
        );
        assert_eq!(
            hand_back(&backend, id, 5, false).await,
            HandBackOutcome::NotOwner {
                seen: FencingToken(9)
            }
        );
        assert_eq!(
            complete(&backend, id, 5).await,
            CompleteOutcome::NotOwner {
                seen: FencingToken(9)
            }
        );
        // A foreign consumer moved it: the token's holder is still the owner. And the
        // one with 5 has shown that it lives: its death does not count any more.
        server.run::<redis_rs::Value>(&[
            "XCLAIM",
            "orders-input",
            "orders-group",
            "redis-consumer-go",
            "0",
            &id.to_string(),
        ]);
        assert_eq!(claim(&backend, "b", id, 9).await, claimed("go", 0));
        assert_eq!(complete(&backend, id, 9).await, CompleteOutcome::Completed);
        assert_eq!(complete(&backend, id, 9).await, CompleteOutcome::Gone);
        assert_eq!(claim(&backend, "a", id, 10).await, ClaimOutcome::Gone);
        assert!(pending(&backend).await.is_empty());
        assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 0);
        assert!(
            !server.run::<bool>(&["EXISTS", "{orders-input}:tokens"]),
            "no record is left"
        );
    });
}

#[test]
fn after_a_hand_back_only_a_greater_token_may_claim_and_anybody_may_take_it_at_once() {
    on_both(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["s"]).await;
        let id = ids[0];
        claim(&backend, "a", id, 5).await;
        assert_eq!(
            hand_back(&backend, id, 5, true).await,
            HandBackOutcome::HandedBack
        );
        assert_eq!(
            hand_back(&backend, id, 5, true).await,
            HandBackOutcome::HandedBack
        );
        let row = pending(&backend).await.remove(0);
        assert_eq!(
            (row.handed_back, row.failures, row.deliveries),
            (true, 1, 1),
            "a repeat counts once"
        );
        assert!(
            row.idle < Duration::from_secs(5),
            "what failed rests, also from consumers that go by idle time"
        );
        assert_eq!(claim(&backend, "a", id, 5).await, stale(5));
        assert_eq!(claim(&backend, "a", id, 6).await, claimed("a", 1));
        for _ in 0..2 {
            assert_eq!(
                hand_back(&backend, id, 6, false).await,
                HandBackOutcome::HandedBack
            );
            let row = pending(&backend).await.remove(0);
            assert!(row.idle > Duration::from_secs(60));
        }
        // As a booting Go consumer does.
        let taken: redis_rs::Value = server.run(&[
            "XAUTOCLAIM",
            "orders-input",
            "orders-group",
            "redis-consumer-go",
            "40000",
            "0",
            "JUSTID",
        ]);
        assert!(format!("{taken:?}").contains(&id.to_string()), "{taken:?}");
        assert_eq!(
            claim(&backend, "b", id, 7).await,
            claimed("go", 1),
            "handed back is no crash"
        );
        assert!(
            pending(&backend).await[0].idle < Duration::from_secs(5),
            "looks fresh again"
        );
        assert_eq!(
            hand_back(&backend, id, 5, false).await,
            HandBackOutcome::NotOwner {
                seen: FencingToken(7)
            }
        );
        complete(&backend, id, 7).await;
        assert_eq!(
            hand_back(&backend, id, 6, false).await,
            HandBackOutcome::Gone
        );
    });
}

#[test]
fn tokens_above_what_a_lua_number_holds_are_compared_rightly() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["s"]).await;
        let id = ids[0];
        let greatest = FencingToken::LIMIT.0 - 1;
        for token in [1 << 53, (1 << 53) + 1, greatest - 1, greatest] {
            assert!(matches!(
                claim(&backend, "a", id, token).await,
                ClaimOutcome::Claimed { .. }
            ));
            assert_eq!(claim(&backend, "a", id, token - 1).await, stale(token));
        }
        assert_eq!(pending(&backend).await[0].token, FencingToken(greatest));
        assert_eq!(
            complete(&backend, id, greatest - 1).await,
            CompleteOutcome::NotOwner {
                seen: FencingToken(greatest)
            }
        );
        assert_eq!(
            complete(&backend, id, greatest).await,
            CompleteOutcome::Completed
        );
    });
}

#[test]
fn a_page_of_claims_of_every_kind_is_answered_entry_by_entry() {
    on_both(|| async {
        let server = RedisServer::start();
        let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let (backend, ids) = delivered(&server, &names).await;
        claim(&backend, "b", ids[1], 9).await;
        claim(&backend, "b", ids[2], 3).await;
        let del = |id: EntryId| server.run::<()>(&["XDEL", "orders-input", &id.to_string()]);
        claim(&backend, "b", ids[4], 9).await;
        del(ids[3]);
        del(ids[4]);
        // Out of order, one twice, one beyond the run of the pending list that is
        // looked at for so few.
        let page = [
            fenced(ids[39], 5),
            fenced(ids[0], 5),
            fenced(ids[1], 5),
            fenced(ids[2], 5),
            fenced(ids[3], 5),
            fenced(ids[4], 5),
            fenced(ids[0], 4),
            fenced(ids[0], 6),
            fenced(EntryId::new(1, 1), 5),
        ];
        let outcomes = backend.transport.claim(&consumer("a"), &page).await;
        let expected = [
            claimed("a", 0),
            claimed("a", 0),
            stale(9),
            claimed("b", 1),
            ClaimOutcome::Gone,
            ClaimOutcome::Gone,
            stale(5),
            claimed("a", 1),
            ClaimOutcome::Gone,
        ];
        let outcomes = outcomes.unwrap().into_iter().map(counted);
        assert_eq!(outcomes.collect::<Vec<_>>(), expected);
        let rows = pending(&backend).await;
        let row = |id: EntryId| rows.iter().find(|row| row.entry == id).unwrap();
        assert_eq!(
            (row(ids[0]).token, row(ids[0]).deliveries),
            (FencingToken(6), 1)
        );
        assert_eq!(row(ids[1]).consumer, Some(consumer("b")));
        assert_eq!(
            (&row(ids[2]).consumer, row(ids[2]).failures),
            (&Some(consumer("a")), 1)
        );
        assert_eq!(rows.len(), 38);
        assert_eq!(server.run::<usize>(&["HLEN", "{orders-input}:tokens"]), 4);
        let page = [
            fenced(ids[0], 5),
            fenced(ids[2], 5),
            fenced(ids[2], 5),
            fenced(ids[3], 5),
        ];
        let outcomes = backend.transport.complete(&consumer("a"), &page).await;
        let seen = FencingToken(6);
        use CompleteOutcome::*;
        assert_eq!(
            outcomes.unwrap(),
            [NotOwner { seen }, Completed, Gone, Gone]
        );
    });
}

#[test]
fn a_group_made_anew_costs_no_owner_its_entry() {
    on_both(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["s"]).await;
        let id = ids[0];
        claim(&backend, "a", id, 5).await;
        server.run::<()>(&["XGROUP", "DESTROY", "orders-input", "orders-group"]);
        backend.transport.prepare().await.unwrap();
        assert!(pending(&backend).await.is_empty());
        assert_eq!(claim(&backend, "b", id, 4).await, stale(5));
        assert_eq!(
            claim(&backend, "a", id, 5).await,
            ClaimOutcome::Claimed {
                from: None,
                failures: 0.into()
            }
        );
        assert_eq!(pending(&backend).await[0].consumer, Some(consumer("a")));
        // Delivered once more to somebody else: the token's holder completes all the same.
        assert_eq!(
            backend
                .transport
                .fetch(&fetch("b", 1, 0))
                .await
                .unwrap()
                .entries
                .len(),
            1
        );
        assert_eq!(complete(&backend, id, 5).await, CompleteOutcome::Completed);
        assert!(pending(&backend).await.is_empty());
    });
}

#[test]
fn pending_entries_are_listed_in_pages_and_deleted_ones_dropped() {
    on_both(|| async {
        let server = RedisServer::start();
        let names: Vec<String> = (0..250).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let (backend, ids) = delivered(&server, &names).await;
        claim(&backend, "b", ids[3], 7).await;
        for id in &ids[..2] {
            server.run::<()>(&["XDEL", "orders-input", &id.to_string()]);
        }
        let page = backend.transport.list_pending(&ALL, 120).await.unwrap();
        assert_eq!(page.entries.len(), 120);
        assert_eq!(page.entries[0].entry, ids[2]);
        let after = page.next.expect("there is more");
        let rest = backend
            .transport
            .list_pending(&Scope::All { after }, 1000)
            .await
            .unwrap();
        assert_eq!((rest.entries.len(), rest.next), (128, None));
        let left: redis_rs::Value = server.run(&["XPENDING", "orders-input", "orders-group"]);
        let redis_rs::Value::Array(left) = left else {
            panic!("{left:?}")
        };
        assert_eq!(
            left[0],
            redis_rs::Value::Int(248),
            "the deleted ones are not pending any more"
        );

        let scope = Scope::Consumer {
            consumer: consumer("b"),
            after: EntryId::MIN,
        };
        let page = backend.transport.list_pending(&scope, 10).await.unwrap();
        assert_eq!(
            (page.entries.len(), page.entries[0].entry, page.next),
            (1, ids[3], None)
        );
        let scope = Scope::Consumer {
            consumer: consumer("nobody"),
            after: EntryId::MIN,
        };
        assert!(
            backend
                .transport
                .list_pending(&scope, 10)
                .await
                .unwrap()
                .entries
                .is_empty()
        );
        let scope = Scope::Entries(vec![ids[9], ids[0], ids[5], EntryId::new(1, 1)]);
        let page = backend.transport.list_pending(&scope, 1).await.unwrap();
        let found: Vec<_> = page.entries.iter().map(|row| row.entry).collect();
        assert_eq!(found, [ids[5], ids[9]]);
        let scope = Scope::All {
            after: EntryId::new(u64::MAX, u64::MAX),
        };
        assert_eq!(
            backend
                .transport
                .list_pending(&scope, 1)
                .await
                .unwrap()
                .next,
            None
        );
    });
}

#[test]
fn records_that_a_foreign_consumer_left_behind_are_cleaned_up_by_sweeps() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let names: Vec<String> = (0..600).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let (backend, ids) = delivered(&server, &names).await;
        let claims: Vec<Fenced> = ids.iter().map(|id| fenced(*id, 5)).collect();
        backend
            .transport
            .claim(&consumer("a"), &claims)
            .await
            .unwrap();
        // A Go consumer completes: XACK, XDEL.
        for id in &ids[1..] {
            let id = id.to_string();
            server.run::<()>(&["XACK", "orders-input", "orders-group", &id]);
            server.run::<()>(&["XDEL", "orders-input", &id]);
        }
        for _ in 0..100 {
            backend.transport.list_pending(&ALL, 10).await.unwrap();
        }
        assert_eq!(server.run::<usize>(&["HLEN", "{orders-input}:tokens"]), 1);
        assert_eq!(
            claim(&backend, "b", ids[0], 4).await,
            stale(5),
            "the live one stays"
        );
    });
}

#[test]
fn a_consumer_is_removed_only_with_nothing_pending() {
    on_both(|| async {
        let server = RedisServer::start();
        let (backend, ids) = delivered(&server, &["s"]).await;
        let states = backend.admin.consumers().await.unwrap();
        assert_eq!(
            (states.len(), &states[0].consumer, states[0].pending),
            (1, &consumer("a"), 1)
        );
        assert!(
            !backend
                .transport
                .remove_consumer(&consumer("a"))
                .await
                .unwrap()
        );
        assert_eq!(pending(&backend).await.len(), 1);
        complete(&backend, ids[0], 0).await;
        assert!(
            backend
                .transport
                .remove_consumer(&consumer("a"))
                .await
                .unwrap()
        );
        assert!(
            backend
                .transport
                .remove_consumer(&consumer("a"))
                .await
                .unwrap(),
            "a repeat"
        );
        assert!(backend.admin.consumers().await.unwrap().is_empty());
    });
}

/// An operator writes into the fencing records. Every page goes on, nobody who had the
/// entry by then gets in again, and whoever comes next does.
#[test]
fn a_fencing_record_that_cannot_be_read_stops_no_page_and_lets_no_earlier_owner_in() {
    on_both(|| async {
        let server = RedisServer::start();
        for rubbish in [
            "",
            "rubbish",
            "99999999999999999999",
            "18446744073709551616",
            // Nobody could ever acquire above these.
            "18446744073709551615",
            "18446744073709551615:1:0",
            "09223372036854775807",
            "00000000000000000005:2:0",
            "00000000000000000005:0:99999999999999999999999",
            "00000000000000000005 ",
        ] {
            server.run::<()>(&["FLUSHALL"]);
            let (backend, ids) = delivered(&server, &["bad", "good"]).await;
            let overwrite = || {
                let id = ids[0].to_string();
                server.run::<i64>(&["HSET", "{orders-input}:tokens", &id, rubbish]);
            };
            for (id, token) in [(ids[0], 7), (ids[1], 8)] {
                claim(&backend, "a", id, token).await;
            }
            overwrite();
            let rows = pending(&backend).await;
            assert_eq!(rows.len(), 2, "{rubbish:?}");
            assert_eq!(
                (rows[1].token, rows[1].handed_back),
                (FencingToken(8), false)
            );
            let seen = rows[0].token;
            assert!(
                rows[0].handed_back && seen > FencingToken(1_000_000),
                "{rows:?}"
            );
            let transport = &backend.transport;
            let page = [fenced(ids[0], 7), fenced(ids[1], 8)];
            for step in 0..4 {
                overwrite();
                match step {
                    0 => {
                        let claims = transport.claim(&consumer("a"), &page).await.unwrap();
                        assert!(matches!(claims[0], ClaimOutcome::Stale { .. }));
                        assert!(matches!(claims[1], ClaimOutcome::Claimed { .. }));
                    }
                    1 => {
                        let back = hand_back(&backend, ids[0], 7, true).await;
                        assert!(matches!(back, HandBackOutcome::NotOwner { .. }));
                    }
                    2 => transport.clear_failures(&page).await.unwrap(),
                    _ => {
                        let done = transport.complete(&consumer("a"), &page).await.unwrap();
                        assert!(matches!(done[0], CompleteOutcome::NotOwner { .. }));
                        assert_eq!(done[1], CompleteOutcome::Completed);
                    }
                }
            }
            let ClaimOutcome::Stale { seen } = claim(&backend, "b", ids[0], 9).await else {
                panic!("an earlier owner is let in");
            };
            let next = claim(&backend, "b", ids[0], seen.0 + 1).await;
            assert_eq!(next, claimed("a", 0), "nobody is blamed for it");
            assert_eq!(
                complete(&backend, ids[0], seen.0 + 1).await,
                CompleteOutcome::Completed
            );
        }
    });
}
