//! Each key of the service vanishes alone: evicted, or deleted by somebody who tidies
//! up. Whatever it is, nobody owns twice for longer than a lossy fault allows, nothing
//! is stuck, and nobody is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamlease_core::{Event, Lease, StreamName, Timestamp};

use crate::support::{Consumer, SOON, World, on_redis_with_session_leases};

on_redis_with_session_leases!(
    any_key_may_vanish,
    the_lbs_itself_may_vanish_and_whoever_held_of_it_is_told,
);
crate::support::tests!(
    redis_on_tokio: |scenario| on_tokio(scenario),
    any_key_may_vanish,
    the_lbs_itself_may_vanish_and_whoever_held_of_it_is_told,
);

const TTL: Duration = Duration::from_millis(800);
const MARGIN: Duration = Duration::from_millis(80);
/// Between two looks at who believes, on a busy machine.
const LOOK: Duration = Duration::from_millis(150);
const STREAMS: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

/// A fleet, and all the leases it was given.
struct Fleet {
    world: World,
    consumers: Vec<Consumer>,
    leases: Vec<Lease>,
    /// Since when a data stream has had two owners.
    twice: BTreeMap<StreamName, Timestamp>,
    longest: Duration,
}

impl Fleet {
    /// Takes what events there are, and looks at who owns what.
    async fn look(&mut self) -> BTreeMap<StreamName, usize> {
        for consumer in &mut self.consumers {
            while let Some(event) = consumer.event_within(Duration::from_millis(4)).await {
                match event {
                    Event::StreamAdded(lease) => self.leases.push(lease),
                    Event::StreamDisowned(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        self.leases.retain(Lease::is_valid);
        let mut owners = BTreeMap::new();
        for lease in &self.leases {
            *owners.entry(lease.stream().clone()).or_insert(0) += 1;
        }
        let now = self.world.now();
        self.twice.retain(|stream, _| owners.get(stream) > Some(&1));
        for (stream, _) in owners.iter().filter(|(_, owners)| **owners > 1) {
            let since = *self.twice.entry(stream.clone()).or_insert(now);
            self.longest = self.longest.max(now.saturating_since(since));
        }
        owners
    }

    /// Until each of these has one owner.
    async fn owned(&mut self, what: &str, streams: &BTreeSet<StreamName>) {
        let deadline = self.world.now() + SOON;
        loop {
            let owners = self.look().await;
            let missing: Vec<_> = streams
                .iter()
                .filter(|stream| owners.get(*stream) != Some(&1))
                .collect();
            if missing.is_empty() {
                return;
            }
            let late = self.world.now() >= deadline;
            assert!(!late, "{what}: not owned by one: {missing:?}");
        }
    }

    async fn look_for(&mut self, time: Duration) {
        let until = self.world.now() + time;
        while self.world.now() < until {
            self.look().await;
        }
    }
}

/// What stands for all keys of its kind.
fn kind(key: &str) -> &str {
    let kinds = ["<MUTEX_KEY_SEP>", ":lock:", ":batch:", ":leases:"];
    let of_kind = kinds.into_iter().find(|kind| key.contains(kind));
    of_kind.unwrap_or(key)
}

async fn any_key_may_vanish(world: World) {
    let world = world.with_ttl(TTL);
    // One that left is removed, one bad entry is in quarantine, one stream was announced
    // twice, and so somebody was refused.
    let left = world.start("left").await;
    left.client.shutdown().await.unwrap();
    let mut fleet = Fleet {
        consumers: vec![world.start("a").await, world.start("b").await],
        world,
        leases: Vec::new(),
        twice: BTreeMap::new(),
        longest: Duration::ZERO,
    };
    let world = &fleet.world;
    world.submit(&STREAMS).await;
    world.submit(&["s0"]).await;
    let mut streams: BTreeSet<StreamName> = STREAMS
        .iter()
        .map(|name| StreamName::new(*name).unwrap())
        .collect();
    fleet.owned("at first", &streams).await;
    fleet.look_for(TTL).await;

    let mut redis = fleet.world.redis().connection();
    let mut done = BTreeSet::new();
    loop {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
        keys.retain(|key| key != "orders-input" && !done.contains(kind(key)));
        keys.sort_unstable();
        let Some(key) = keys.into_iter().next() else {
            break;
        };
        done.insert(kind(&key).to_owned());
        redis::cmd("DEL").arg(&key).exec(&mut redis).unwrap();
        // What is taken over meanwhile, and what is new, is owned by one in the end.
        let name = format!("new-{}", done.len());
        fleet.world.submit(&[&name]).await;
        streams.insert(StreamName::new(&*name).unwrap());
        fleet.look_for(TTL).await;
        fleet.owned(&key, &streams).await;
        println!("{key}: at two for {:?}", fleet.longest);
        assert!(
            fleet.longest < TTL - MARGIN + LOOK,
            "{key}: two owners for {:?}",
            fleet.longest
        );
        fleet.longest = Duration::ZERO;
        // And nobody is refused.
        let late = fleet.world.start("late").await;
        late.client.shutdown().await.unwrap();
    }
    assert!(done.len() >= 8, "{done:?}");
    fleet.look_for(TTL * 2).await;
    assert!(fleet.twice.is_empty(), "{:?}", fleet.twice);
    // Each can be completed by its owner.
    let deadline = fleet.world.now() + SOON;
    while redis::cmd("XLEN")
        .arg("orders-input")
        .query::<u64>(&mut redis)
        != Ok(0)
    {
        fleet.look().await;
        for lease in std::mem::take(&mut fleet.leases) {
            lease.complete().await.unwrap();
        }
        assert!(fleet.world.now() < deadline, "not all completed");
    }
}

async fn the_lbs_itself_may_vanish_and_whoever_held_of_it_is_told(world: World) {
    let mut a = world.start("a").await;
    world.submit(&["s", "t"]).await;
    let leases = a.leases(2).await;
    let mut redis = world.redis().connection();
    redis::cmd("DEL")
        .arg("orders-input")
        .exec(&mut redis)
        .unwrap();
    for lease in &leases {
        world.within("told", lease.lost()).await;
    }
    // What is announced again is worked on.
    world.submit(&["s", "u"]).await;
    let mut worked_on = 0;
    while worked_on < 2 {
        match a.event().await {
            Event::StreamAdded(lease) => {
                lease.complete().await.unwrap();
                worked_on += 1;
            }
            Event::StreamDisowned(_) => {}
            other => panic!("{other:?}"),
        }
    }
    world.nothing_is_left().await;
}
