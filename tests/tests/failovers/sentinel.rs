//! Behind sentinels.

use std::sync::Arc;
use std::time::Instant;

use streamlease_tests::{RedisServer, Sentinels};

use crate::deaths;
use crate::fleet::{CONSUMERS, Fleet, MIDDLE, SLACK, at_work, blocking};

#[test]
fn a_killed_primary_costs_its_failover_and_two_ttls_and_little_is_lost() {
    deaths::a_killed_owner_costs_its_failover_and_two_ttls_and_little_is_lost::<Sentinels>();
}

#[test]
fn leases_twice_as_long_as_a_failover_of_sentinels_live_through_it() {
    deaths::leases_twice_as_long_as_a_failover_live_through_it::<Sentinels>();
}

#[test]
fn a_frozen_primary_costs_its_failover_and_two_ttls_and_its_thaw_nothing() {
    deaths::a_frozen_owner_costs_its_failover_and_two_ttls_and_its_thaw_nothing::<Sentinels>();
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
