//! [`Deployment`]: servers of which each may be the owner, on a cluster or behind sentinels.
//!
//! Workers find the owner by themselves; there is no proxy on their way, as nodes and
//! sentinels name themselves. So there are the faults of processes, and those of the owner.

use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use streamlease_tests::{Cluster, RedisServer, RedisServerBuilder, Sentinels, eventually_blocking};

use crate::SERVICE;

/// By then an order was taken by the owner, whoever that is.
const WITHIN: Duration = Duration::from_secs(30);

/// By then everybody has asked the sentinels again.
pub(crate) const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// `--mode`: where Redis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// One server behind a name, with proxies between.
    Name,
    Cluster,
    Sentinel,
}

#[derive(Debug)]
pub(crate) enum Deployment {
    Cluster(Box<Cluster>),
    Sentinel(Box<Sentinels>),
}

impl Deployment {
    pub(crate) fn start(
        mode: Mode,
        settings: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
    ) -> Option<Self> {
        match mode {
            Mode::Name => None,
            Mode::Cluster => Some(Self::Cluster(Box::new(Cluster::with(settings)))),
            Mode::Sentinel => {
                let all = Sentinels::with(settings, |sentinel| sentinel);
                Some(Self::Sentinel(Box::new(all)))
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Cluster(cluster) => cluster.url(),
            Self::Sentinel(all) => all.url(),
        }
    }

    /// Which server owns the service.
    pub(crate) fn owner(&self) -> usize {
        match self {
            Self::Cluster(cluster) => cluster.owner_of(&lbs()),
            Self::Sentinel(all) => all.primary(),
        }
    }

    /// Gives the owner an order, as soon as there is one that takes it.
    pub(crate) fn order<T: FromRedisValue>(
        &self,
        give: impl Fn(&RedisServer) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let began = Instant::now();
        loop {
            let answer = give(self.server(self.owner()));
            let passes = |err: &redis::RedisError| {
                err.is_io_error()
                    || [
                        "READONLY",
                        "MOVED",
                        "CLUSTERDOWN",
                        "ASK",
                        "TRYAGAIN",
                        "LOADING",
                    ]
                    .iter()
                    .any(|code| err.code() == Some(*code))
            };
            match answer {
                Err(err) if passes(&err) && began.elapsed() < WITHIN => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                answer => return answer,
            }
        }
    }

    /// Waits until another one than `before` is the owner.
    pub(crate) fn owner_after(&self, before: usize) -> usize {
        match self {
            Self::Cluster(cluster) => cluster.owner_after(&lbs(), before),
            Self::Sentinel(all) => all.primary_after(before),
        }
    }

    /// Has a replica take the owner's part.
    pub(crate) fn fail_over(&self) {
        match self {
            Self::Cluster(cluster) => cluster.fail_over(&lbs()),
            Self::Sentinel(all) => all.fail_over(),
        };
    }

    /// Moves the service's slot to another primary. Whether there is one.
    pub(crate) fn move_slot(&self) -> bool {
        let Self::Cluster(cluster) = self else {
            return false;
        };
        let owner = cluster.owner_of(&lbs());
        let to = cluster.primaries().into_iter().find(|node| *node != owner);
        let Some(to) = to else {
            return false;
        };
        let slot = cluster.slot_of(&lbs());
        cluster.move_slots(slot..=slot, owner, to);
        cluster.owner_after(&lbs(), owner);
        true
    }

    pub(crate) fn server(&self, index: usize) -> &RedisServer {
        match self {
            Self::Cluster(cluster) => cluster.node(index),
            Self::Sentinel(all) => all.server(index),
        }
    }

    pub(crate) fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        match self {
            Self::Cluster(cluster) => cluster.node_mut(index),
            Self::Sentinel(all) => all.server_mut(index),
        }
    }

    /// Lets a replaced one go on, and says for how long from now it may still acknowledge
    /// what is lost. A node of a cluster knows within milliseconds that it was replaced,
    /// which is waited for. A server behind sentinels does not know: who was connected
    /// asks the sentinels once a second.
    pub(crate) fn thaw(&self, index: usize) -> Duration {
        let server = self.server(index);
        server.thaw();
        if !matches!(self, Self::Cluster(_)) {
            return ASKED_AGAIN;
        }
        eventually_blocking("a thawed node is a replica", WITHIN, || {
            let info = crate::servers::order::<String>(server, &["INFO", "replication"]);
            let is_replica = info.is_ok_and(|info| info.contains("role:slave"));
            // Or it was, and is the owner again by agreement.
            is_replica || self.owner() == index
        });
        Duration::ZERO
    }

    /// Whether the owner has its replicas again, so that the next fault meets what the
    /// first one met.
    pub(crate) fn is_whole(&self) -> bool {
        let owner = self.server(self.owner());
        let info = crate::servers::order::<String>(owner, &["INFO", "replication"]);
        let replicas = match self {
            Self::Cluster(_) => 1,
            Self::Sentinel(_) => 2,
        };
        info.is_ok_and(|info| {
            // Before its first acknowledgement it is sent nothing.
            let is_sent_all =
                |line: &&str| line.contains("state=online") && !line.contains(",offset=0,");
            info.lines().filter(is_sent_all).count() >= replicas
        })
    }

    pub(crate) fn log(&self) -> String {
        let servers = match self {
            Self::Cluster(cluster) => cluster.len(),
            Self::Sentinel(_) => 3,
        };
        (0..servers).map(|index| self.server(index).log()).collect()
    }
}

fn lbs() -> String {
    format!("{SERVICE}-input")
}
