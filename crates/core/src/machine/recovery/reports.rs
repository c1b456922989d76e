//! Manual claiming: which orphans users have been told of, and are to be told of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::scan::MOST_RECHECKS;
use crate::{EntryId, FencingToken, Timestamp};

/// Each is reported once per TTL, unless it has had another owner since.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Those that the event queue had no room for. Looked at again when it has: somebody
    /// may own them by then.
    waiting: BTreeSet<EntryId>,
    /// When each was reported last, and its last owner's token then.
    last: BTreeMap<EntryId, (FencingToken, Timestamp)>,
}

impl Reports {
    pub(crate) fn is_due(
        &self,
        entry: EntryId,
        token: FencingToken,
        now: Timestamp,
        ttl: Duration,
    ) -> bool {
        let last = self.last.get(&entry);
        !last.is_some_and(|(of, at)| *of == token && now.saturating_since(*at) < ttl)
    }

    pub(crate) fn reported(&mut self, entry: EntryId, token: FencingToken, now: Timestamp) {
        self.waiting.remove(&entry);
        self.last.insert(entry, (token, now));
    }

    /// There is no room for it. A sweep finds what there are too many of.
    pub(crate) fn wait(&mut self, entry: EntryId) {
        if self.waiting.len() < MOST_RECHECKS {
            self.waiting.insert(entry);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn next_waiting(&mut self) -> Option<EntryId> {
        self.waiting.pop_first()
    }

    pub(crate) fn forget_old(&mut self, before: Timestamp) {
        self.last.retain(|_, (_, at)| *at >= before);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
