//! Which consumers have a live session.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rank::hash;
use crate::{ConsumerName, Member, Timestamp};

/// The list of them, as old as a TTL at most where it counts.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// With a hash of each name, to be mixed with each entry's.
    live: BTreeMap<ConsumerName, u64>,
    as_of: Option<Timestamp>,
}

impl Members {
    pub(crate) fn listed(&mut self, members: Vec<Member>, now: Timestamp) {
        let names = members.into_iter().map(|member| member.session.consumer);
        self.live = names.map(|name| (name.clone(), hash(&name))).collect();
        self.as_of = Some(now);
    }

    /// Whether the list is young enough.
    pub(crate) fn are_known(&self, now: Timestamp, ttl: Duration) -> bool {
        self.as_of.is_some_and(|at| now.saturating_since(at) < ttl)
    }

    /// Who lived a moment ago is not to count as alive.
    pub(crate) fn ask_anew(&mut self) {
        self.as_of = None;
    }

    pub(crate) fn is_live(&self, consumer: &ConsumerName) -> bool {
        self.live.contains_key(consumer)
    }

    /// The live ones with the hashes of their names.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = (&ConsumerName, u64)> {
        self.live.iter().map(|(name, hash)| (name, *hash))
    }
}
