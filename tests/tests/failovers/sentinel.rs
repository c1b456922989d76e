//! Behind sentinels.

use std::sync::Arc;
use std::time::Instant;

use streamlease_tests::{RedisServer, Sentinels};

use crate::fleet::{CONSUMERS, Fleet, LONG, MIDDLE, SHORT, SLACK, at_work, blocking};

#[test]
fn a_killed_primary_costs_its_failover_and_two_ttls_and_little_is_lost() {
    at_work(|| async {
        let mut all = Sentinels::start();
        let fleet = Fleet::start(&all.url(), SHORT).await;
        let mishap = Instant::now();
        all.server_mut(0).kill();
        let (own, all) = blocking(move || {
            all.primary_after(0);
            (mishap.elapsed(), all)
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(all);
        println!("Sentinel, killed, own time {own:?}: {cost:?}");
        assert!(
            cost.gap <= own + SHORT * 2 + SLACK,
            "{:?} of {own:?}",
            cost.gap
        );
        assert!(cost.lost <= 10, "{} of {}", cost.lost, cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
    });
}

#[test]
fn leases_twice_as_long_as_a_failover_of_sentinels_live_through_it() {
    at_work(|| async {
        let mut all = Sentinels::start();
        let fleet = Fleet::start(&all.url(), LONG).await;
        all.server(0).replicated().await;
        let mishap = Instant::now();
        all.server_mut(0).kill();
        let all = blocking(move || {
            all.primary_after(0);
            all
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(all);
        println!("Sentinel, killed, long TTL: {cost:?}");
        assert_eq!(cost.doubled, [""; 0]);
        let long = cost.disowned.iter().filter(|name| name.starts_with("long"));
        assert_eq!(long.count(), 0, "{:?}", cost.disowned);
    });
}

#[test]
fn a_frozen_primary_costs_its_failover_and_two_ttls_and_its_thaw_nothing() {
    at_work(|| async {
        let all = Sentinels::start();
        let fleet = Fleet::start(&all.url(), SHORT).await;
        let mishap = Instant::now();
        all.server(0).freeze();
        let (own, all) = blocking(move || {
            all.primary_after(0);
            (mishap.elapsed(), all)
        })
        .await;
        fleet.works_again(30).await;
        // It accepts writes for ten seconds more, being a primary by its own account.
        all.server(0).thaw();
        fleet.works_again(60).await;
        let cost = fleet.converge(mishap).await;
        println!("Sentinel, frozen, own time {own:?}: {cost:?}");
        assert!(
            cost.gap <= own + SHORT * 2 + SLACK,
            "{:?} of {own:?}",
            cost.gap
        );
        assert!(cost.lost <= 10, "{} of {}", cost.lost, cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
    });
}

#[test]
fn a_failover_by_hand_costs_one_ttl_and_what_was_written_until_it_was_noticed() {
    at_work(|| async {
        let all = Arc::new(Sentinels::start());
        let fleet = Fleet::start(&all.url(), MIDDLE).await;
        let mishap = Instant::now();
        let asked = all.clone();
        let new = blocking(move || asked.fail_over()).await;
        let own = mishap.elapsed();
        fleet
            .eventually("all are with the new one", || has_readers(all.server(new)))
            .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        println!("Sentinel, by hand, named after {own:?}: {cost:?}");
        // The old one goes on for the time until the sentinels are asked again.
        assert!(
            cost.gap <= own + MIDDLE + SLACK,
            "{:?} of {own:?}",
            cost.gap
        );
        // At about 55 a second, for the time until it is named, and one second more.
        assert!(cost.lost <= 150, "{} of {}", cost.lost, cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
    });
}

/// Whether all consumers wait for fresh entries there.
fn has_readers(server: &RedisServer) -> bool {
    let info: String = server.run(&["INFO", "clients"]);
    info.contains(&format!("blocked_clients:{CONSUMERS}\r"))
}

#[test]
fn with_min_replicas_a_failover_by_hand_loses_next_to_nothing() {
    at_work(|| async {
        let all = Arc::new(Sentinels::with(
            |server| {
                server
                    .config("min-replicas-to-write 1")
                    .config("min-replicas-max-lag 1")
            },
            |sentinel| sentinel,
        ));
        let fleet = Fleet::start(&all.url(), MIDDLE).await;
        let mishap = Instant::now();
        let asked = all.clone();
        let new = blocking(move || asked.fail_over()).await;
        fleet
            .eventually("all are with the new one", || has_readers(all.server(new)))
            .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        println!("Sentinel, by hand, min-replicas 1: {cost:?}");
        assert!(cost.lost <= 60, "{} of {}", cost.lost, cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
    });
}
