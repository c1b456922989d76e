//! Entries that nobody can work on are quarantined with their reason, and stop nothing else.

use std::collections::BTreeMap;

use streamlease_core::{Completion, EntryId, Event, Info};

use crate::support::{World, everywhere, on_redis_with_smol};

everywhere!(
    poison_entries_are_quarantined_and_nothing_else_stops,
    poison_entries_stop_none_of_three_consumers,
);
on_redis_with_smol!(poison_entries_are_quarantined_and_nothing_else_stops);

/// Every kind, with a word of the reason it is to be quarantined for.
fn poison() -> Vec<(Vec<u8>, Vec<u8>, &'static str)> {
    let payload = |payload: &[u8], reason| (b"lbs-input".to_vec(), payload.to_vec(), reason);
    let long = format!("{{\"DataStreamName\":\"{}\"}}", "x".repeat(1 << 20));
    vec![
        (b"other".to_vec(), b"{}".to_vec(), "no field lbs-input"),
        (b"\xff\xfe".to_vec(), b"{}".to_vec(), "no field lbs-input"),
        payload(b"hello", "not JSON"),
        payload(b"{\"DataStreamName\":", "not JSON"),
        payload(b"[1,2]", "not a JSON object"),
        payload(b"{}", "no DataStreamName"),
        payload(b"{\"DataStreamName\":7}", "not a string"),
        payload(b"{\"DataStreamName\":\"\"}", "empty"),
        payload(b"{\"DataStreamName\":\"s\",\"Info\":[1]}", "Info"),
        payload(b"{\"DataStreamName\":\"\xff\xfe\"}", "not UTF-8"),
        payload(long.as_bytes(), "longer than 4096"),
    ]
}

async fn poison_entries_are_quarantined_and_nothing_else_stops(world: World) {
    let mut before = world.start("a").await;
    world.submit(&["held"]).await;
    let held = before.lease().await;
    // Good ones between the bad ones.
    let mut bad: BTreeMap<EntryId, _> = BTreeMap::new();
    for (n, (field, value, reason)) in poison().into_iter().enumerate() {
        let id = world.submit_raw(&[(&field, &value)]);
        bad.insert(id, (field, value, reason));
        let announced = (format!("good-{n}"), Info::NONE);
        world.submit_with_info([announced]).await;
    }
    let (mut quarantined, mut good) = (BTreeMap::new(), 0);
    while (quarantined.len(), good) != (bad.len(), bad.len()) {
        match before.event().await {
            Event::Quarantined(entry) => {
                let before = quarantined.insert(entry.entry(), entry.reason().to_owned());
                assert_eq!(before, None, "quarantined twice");
            }
            Event::StreamAdded(lease) => {
                assert!(lease.stream().as_str().starts_with("good-"));
                assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
                good += 1;
            }
            event => panic!("{event:?}"),
        }
    }
    // All of it is kept: fields as they were, and why.
    let backend = world.backend().await;
    let quarantine = backend.admin.list_quarantined(EntryId::MIN, 100).await;
    let quarantine = quarantine.unwrap();
    assert_eq!(quarantine.len(), bad.len());
    for entry in quarantine {
        let (field, value, reason) = &bad[&entry.entry];
        assert!(entry.reason.contains(reason), "{}", entry.reason);
        assert_eq!(entry.reason, quarantined[&entry.entry]);
        assert!(
            entry.fields == [(field.clone(), value.clone())],
            "{reason}: the fields are not what was submitted"
        );
        assert_eq!(entry.last_owner, *before.client.id());
    }
    assert!(held.is_valid());
    assert_eq!(held.complete().await.unwrap(), Completion::Completed);
    world.nothing_is_left().await;
}

async fn poison_entries_stop_none_of_three_consumers(world: World) {
    for (field, value, _) in poison() {
        world.submit_raw(&[(&field, &value)]);
    }
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        consumers.push(world.start_with(name, |b| b.capacity(1)).await);
    }
    let backend = world.backend().await;
    world
        .eventually("all are quarantined", async || {
            let quarantine = backend.admin.list_quarantined(EntryId::MIN, 100).await;
            quarantine.unwrap().len() == poison().len()
        })
        .await;
    // With room for one each, three streams need all three.
    world.submit(&["s1", "s2", "s3"]).await;
    for consumer in &mut consumers {
        let lease = loop {
            match consumer.event().await {
                Event::Quarantined(_) => {}
                Event::StreamAdded(lease) => break lease,
                event => panic!("{event:?}"),
            }
        };
        std::mem::forget(lease);
    }
}
