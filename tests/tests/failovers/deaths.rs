//! The owner dies or stands still, and another server takes its part: alike on a cluster and
//! behind sentinels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamlease_tests::{Cluster, RedisServer, Sentinels};

use crate::fleet::{Cost, Fleet, LBS, LONG, SHORT, SLACK, at_work, blocking};

/// Servers of which one owns the service.
pub(crate) trait Servers: Send + Sync + 'static {
    const NAME: &str;

    fn start() -> Self;
    fn url(&self) -> String;
    fn owner(&self) -> usize;
    /// Waits until another one than `before` is the owner.
    fn owner_after(&self, before: usize) -> usize;
    fn server(&self, index: usize) -> &RedisServer;
    fn server_mut(&mut self, index: usize) -> &mut RedisServer;
}

impl Servers for Cluster {
    const NAME: &str = "cluster";

    fn start() -> Self {
        Self::start()
    }
    fn url(&self) -> String {
        self.url()
    }
    fn owner(&self) -> usize {
        self.owner_of(LBS)
    }
    fn owner_after(&self, before: usize) -> usize {
        self.owner_after(LBS, before)
    }
    fn server(&self, index: usize) -> &RedisServer {
        self.node(index)
    }
    fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        self.node_mut(index)
    }
}

impl Servers for Sentinels {
    const NAME: &str = "Sentinel";

    fn start() -> Self {
        Self::start()
    }
    fn url(&self) -> String {
        self.url()
    }
    fn owner(&self) -> usize {
        self.primary()
    }
    fn owner_after(&self, before: usize) -> usize {
        self.primary_after(before)
    }
    fn server(&self, index: usize) -> &RedisServer {
        self.server(index)
    }
    fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        self.server_mut(index)
    }
}

pub(crate) fn a_killed_owner_costs_its_failover_and_two_ttls_and_little_is_lost<S: Servers>() {
    at_work(|| async {
        let mut all = S::start();
        let fleet = Fleet::start(&all.url(), SHORT).await;
        let owner = all.owner();
        let mishap = Instant::now();
        all.server_mut(owner).kill();
        let (own, all) = blocking(move || {
            all.owner_after(owner);
            (mishap.elapsed(), all)
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(all);
        println!("{}, killed, own time {own:?}: {cost:?}", S::NAME);
        assert_is_little(&cost, own);
    });
}

pub(crate) fn leases_twice_as_long_as_a_failover_live_through_it<S: Servers>() {
    at_work(|| async {
        let mut all = S::start();
        let fleet = Fleet::start(&all.url(), LONG).await;
        let owner = all.owner();
        all.server(owner).replicated().await;
        let mishap = Instant::now();
        all.server_mut(owner).kill();
        let all = blocking(move || {
            all.owner_after(owner);
            all
        })
        .await;
        fleet.works_again(30).await;
        let cost = fleet.converge(mishap).await;
        drop(all);
        println!("{}, killed, long TTL: {cost:?}", S::NAME);
        assert_eq!(cost.doubled, [""; 0]);
        let long = cost.disowned.iter().filter(|name| name.starts_with("long"));
        assert_eq!(long.count(), 0, "{:?}", cost.disowned);
    });
}

pub(crate) fn a_frozen_owner_costs_its_failover_and_two_ttls_and_its_thaw_nothing<S: Servers>() {
    at_work(|| async {
        let all = Arc::new(S::start());
        let fleet = Fleet::start(&all.url(), SHORT).await;
        let owner = all.owner();
        let mishap = Instant::now();
        all.server(owner).freeze();
        let asked = all.clone();
        let own = blocking(move || {
            asked.owner_after(owner);
            mishap.elapsed()
        })
        .await;
        fleet.works_again(30).await;
        // Behind sentinels it accepts writes for ten seconds more, being a primary by its own
        // account.
        all.server(owner).thaw();
        fleet.works_again(60).await;
        let cost = fleet.converge(mishap).await;
        println!("{}, frozen, own time {own:?}: {cost:?}", S::NAME);
        assert_is_little(&cost, own);
    });
}

/// `own`: how long the servers themselves took to replace the owner.
fn assert_is_little(cost: &Cost, own: Duration) {
    let Cost { gap, lost, .. } = cost;
    assert!(*gap <= own + SHORT * 2 + SLACK, "{gap:?} of {own:?}");
    assert!(*lost <= 10, "{lost} of {}", cost.acked);
    assert_eq!(cost.doubled, [""; 0]);
}
