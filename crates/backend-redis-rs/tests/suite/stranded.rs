//! Entries that were delivered, are on the LBS, and are pending at nobody.

use streamlease_core::*;

use crate::support::leases::*;
use crate::support::*;

/// What operators do to a group, and which of nine entries are at nobody then: the
/// third of each was completed, the last three were not delivered.
const FAULTS: [(&[&[&str]], &[usize]); 4] = [
    (
        &[&[
            "XGROUP",
            "DELCONSUMER",
            "orders-input",
            "orders-group",
            "redis-consumer-a",
        ]],
        &[0, 1],
    ),
    (&[&["XACK", "orders-input", "orders-group", "FOURTH"]], &[3]),
    (
        &[
            &["XGROUP", "DESTROY", "orders-input", "orders-group"],
            &["XGROUP", "CREATE", "orders-input", "orders-group", "$"],
        ],
        &[0, 1, 3, 4, 6, 7, 8],
    ),
    (
        &[&["XGROUP", "SETID", "orders-input", "orders-group", "$"]],
        &[6, 7, 8],
    ),
];

/// Nine entries; two of the first three are at a, two of the next at b.
async fn announced(backend: &Backend) -> Vec<EntryId> {
    let transport = &backend.transport;
    transport.prepare().await.unwrap();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let entries = submitted(backend, &batch(1, &names)).await.unwrap();
    for (who, done) in [("a", entries[2]), ("b", entries[5])] {
        transport.fetch(&fetch(who, 3, 0)).await.unwrap();
        let done = [fenced(done, 1)];
        transport.complete(&consumer(who), &done).await.unwrap();
    }
    entries
}

async fn all_stranded(backend: &Backend, limit: usize) -> Vec<EntryId> {
    let mut found = Vec::new();
    let mut after = Some(EntryId::MIN);
    while let Some(from) = after {
        let mut page = backend.transport.list_stranded(from, limit).await.unwrap();
        assert!(page.entries.len() <= limit);
        found.append(&mut page.entries);
        after = page.next;
    }
    found
}

#[test]
fn what_operators_take_from_everybody_is_found_and_claimed() {
    on_both(|| async {
        for (commands, stranded) in FAULTS {
            let server = RedisServer::start();
            let backend = sessions(&server).await;
            let transport = &backend.transport;
            let entries = announced(&backend).await;
            assert!(all_stranded(&backend, 10).await.is_empty());
            for words in commands {
                let fourth = entries[3].to_string();
                let fill = |word: &&'static str| match *word {
                    "FOURTH" => fourth.clone(),
                    word => word.to_owned(),
                };
                let words: Vec<String> = words.iter().map(fill).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                server.run::<redis_rs::Value>(&words);
            }
            let stranded: Vec<EntryId> = stranded.iter().map(|nth| entries[*nth]).collect();
            for limit in [1, 2, 10] {
                assert_eq!(
                    all_stranded(&backend, limit).await,
                    stranded,
                    "{commands:?}"
                );
            }
            // By id it is found as what is pending is; other entries are not.
            let scope = Scope::Entries(entries.clone());
            let page = transport.list_pending(&scope, 10).await.unwrap();
            let at_nobody = page.entries.iter().filter(|found| found.consumer.is_none());
            let at_nobody: Vec<EntryId> = at_nobody.map(|found| found.entry).collect();
            assert_eq!(at_nobody, stranded, "{commands:?}");
            assert!(page.entries.iter().all(|found| found.content.is_ok()));
            let at_all = transport.list_pending(&ALL, 10).await.unwrap().entries;
            assert_eq!(page.entries.len(), stranded.len() + at_all.len());

            let own: Vec<Fenced> = stranded.iter().map(|entry| fenced(*entry, 7)).collect();
            for outcome in transport.claim(&consumer("c"), &own).await.unwrap() {
                let claimed = ClaimOutcome::Claimed {
                    from: None,
                    failures: 0.into(),
                };
                assert!(
                    outcome == claimed
                        || matches!(&outcome, ClaimOutcome::Claimed { from, .. } if *from == Some(consumer("c"))),
                    "{outcome:?}"
                );
            }
            assert!(all_stranded(&backend, 10).await.is_empty());
        }
    });
}

#[test]
fn a_gap_of_any_length_and_a_long_pending_list_are_gone_through_in_pages() {
    on_tokio(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let transport = &backend.transport;
        transport.prepare().await.unwrap();
        let names: Vec<String> = (0..1_500).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let entries = submitted(&backend, &batch(1, &names)).await.unwrap();
        for (who, most) in [("a", 100), ("b", 600), ("a", 50), ("b", 750)] {
            transport.fetch(&fetch(who, most, 0)).await.unwrap();
        }
        server.run::<()>(&[
            "XGROUP",
            "DELCONSUMER",
            "orders-input",
            "orders-group",
            "redis-consumer-a",
        ]);
        let stranded = [&entries[..100], &entries[700..750]].concat();
        assert_eq!(all_stranded(&backend, 1_000).await, stranded);
    });
}

#[test]
fn without_the_right_to_look_at_groups_what_lies_between_pending_entries_is_found() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        let entries = announced(&backend).await;
        server.run::<()>(&[
            "ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all", "-xinfo",
        ]);
        for nth in [0, 4] {
            let id = entries[nth].to_string();
            server.run::<()>(&["XACK", "orders-input", "orders-group", &id]);
        }
        assert_eq!(all_stranded(&backend, 10).await, entries[..1]);
    });
}

#[test]
fn the_greatest_id_of_all_ends_the_search() {
    on_both(|| async {
        let server = RedisServer::start();
        let backend = sessions(&server).await;
        backend.transport.prepare().await.unwrap();
        let greatest = EntryId::new(u64::MAX, u64::MAX).to_string();
        let payload = Announcement::new(stream("last"), Info::NONE).encode();
        let id = ["XADD", "orders-input", &greatest, "lbs-input", &payload];
        server.run::<()>(&id);
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        assert!(all_stranded(&backend, 10).await.is_empty());
        server.run::<()>(&["XACK", "orders-input", "orders-group", &greatest]);
        assert_eq!(all_stranded(&backend, 10).await.len(), 1);
    });
}
