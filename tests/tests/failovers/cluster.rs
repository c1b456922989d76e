//! On a cluster.

use std::sync::Arc;
use std::time::Instant;

use streamlease_tests::Cluster;

use crate::fleet::{Fleet, LBS, LONG, SHORT, SLACK, at_work, blocking};

#[test]
fn a_killed_owner_costs_its_failover_and_two_ttls_and_little_is_lost() {
    at_work(|| async {
        let mut cluster = Cluster::start();
        let fleet = Fleet::start(&cluster.url(), SHORT).await;
        let owner = cluster.owner_of(LBS);
        let mishap = Instant::now();
        cluster.node_mut(owner).kill();
        let (own, cluster) = blocking(move || {
            cluster.owner_after(LBS, owner);
            (mishap.elapsed(), cluster)
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(cluster);
        println!("cluster, killed, own time {own:?}: {cost:?}");
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
fn leases_twice_as_long_as_a_failover_of_a_cluster_live_through_it() {
    at_work(|| async {
        let mut cluster = Cluster::start();
        let fleet = Fleet::start(&cluster.url(), LONG).await;
        let owner = cluster.owner_of(LBS);
        cluster.node(owner).replicated().await;
        let mishap = Instant::now();
        cluster.node_mut(owner).kill();
        let cluster = blocking(move || {
            cluster.owner_after(LBS, owner);
            cluster
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(cluster);
        println!("cluster, killed, long TTL: {cost:?}");
        assert_eq!(cost.doubled, [""; 0]);
        let long = cost.disowned.iter().filter(|name| name.starts_with("long"));
        assert_eq!(long.count(), 0, "{:?}", cost.disowned);
    });
}

#[test]
fn a_frozen_owner_costs_its_failover_and_two_ttls_and_its_thaw_nothing() {
    at_work(|| async {
        let cluster = Arc::new(Cluster::start());
        let fleet = Fleet::start(&cluster.url(), SHORT).await;
        let owner = cluster.owner_of(LBS);
        let mishap = Instant::now();
        cluster.node(owner).freeze();
        let asked = cluster.clone();
        let own = blocking(move || {
            asked.owner_after(LBS, owner);
            mishap.elapsed()
        })
        .await;
        fleet.works_again(30).await;
        cluster.node(owner).thaw();
        fleet.works_again(60).await;
        let cost = fleet.converge(mishap).await;
        println!("cluster, frozen, own time {own:?}: {cost:?}");
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
