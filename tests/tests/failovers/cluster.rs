//! On a cluster.

use std::sync::Arc;
use std::time::Instant;

use streamlease_tests::Cluster;

use crate::deaths;
use crate::fleet::{Fleet, LBS, SHORT, SLACK, at_work, blocking};

#[test]
fn a_killed_owner_costs_its_failover_and_two_ttls_and_little_is_lost() {
    deaths::a_killed_owner_costs_its_failover_and_two_ttls_and_little_is_lost::<Cluster>();
}

#[test]
fn leases_twice_as_long_as_a_failover_of_a_cluster_live_through_it() {
    deaths::leases_twice_as_long_as_a_failover_live_through_it::<Cluster>();
}

#[test]
fn a_frozen_owner_costs_its_failover_and_two_ttls_and_its_thaw_nothing() {
    deaths::a_frozen_owner_costs_its_failover_and_two_ttls_and_its_thaw_nothing::<Cluster>();
}

#[test]
fn a_failover_by_agreement_costs_one_ttl_and_no_lease_and_loses_nothing() {
    at_work(|| async {
        let cluster = Arc::new(Cluster::start());
        let fleet = Fleet::start(&cluster.url(), SHORT).await;
        let mishap = Instant::now();
        let asked = cluster.clone();
        blocking(move || asked.fail_over(LBS)).await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        println!("cluster, failover by agreement: {cost:?}");
        assert!(cost.gap <= SHORT + SLACK, "{:?}", cost.gap);
        assert!(cost.slowest_submit < SHORT, "{:?}", cost.slowest_submit);
        assert_eq!((cost.lost, cost.again), (0, 0), "of {}", cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
        assert_eq!(cost.disowned, [""; 0]);
    });
}

#[test]
fn resharding_under_load_costs_one_ttl_and_no_lease_and_loses_nothing() {
    at_work(|| async {
        let cluster = Arc::new(Cluster::start());
        let fleet = Fleet::start(&cluster.url(), SHORT).await;
        let mishap = Instant::now();
        let asked = cluster.clone();
        blocking(move || {
            let owner = asked.owner_of(LBS);
            let slots = asked.slots_of(owner);
            asked.move_slots(slots, owner, (owner + 1) % 3);
            asked.owner_after(LBS, owner);
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        println!("cluster, all slots of the owner moved: {cost:?}");
        assert!(cost.gap <= SHORT + SLACK, "{:?}", cost.gap);
        assert!(cost.slowest_submit < SHORT, "{:?}", cost.slowest_submit);
        assert_eq!((cost.lost, cost.again), (0, 0), "of {}", cost.acked);
        assert_eq!(cost.doubled, [""; 0]);
        assert_eq!(cost.disowned, [""; 0]);
    });
}
