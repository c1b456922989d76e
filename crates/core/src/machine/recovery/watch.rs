//! Consumers without a session are known to be dead by one of their locks: all locks of a
//! consumer are extended together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ConsumerName, EntryId};

/// At most one held entry of each such consumer: its deadline tells of its death.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    entries: BTreeMap<ConsumerName, EntryId>,
    /// Consumers whose watched entry is gone: another of theirs is to be found.
    to_list: BTreeSet<ConsumerName>,
}

impl Watched {
    /// Whether this is the entry by which the consumer is watched, from now on at least.
    pub(crate) fn watches(&mut self, consumer: ConsumerName, entry: EntryId) -> bool {
        *self.entries.entry(consumer).or_insert(entry) == entry
    }

    /// Its lock is free. Whether the consumer was watched by it: then it is dead.
    pub(crate) fn expired(&mut self, consumer: &ConsumerName, entry: EntryId) -> bool {
        let was_watched = self.entries.get(consumer) == Some(&entry);
        if was_watched {
            self.entries.remove(consumer);
        }
        was_watched
    }

    /// The entry is `owner`'s now, or nobody's: of whom else it was watched for,
    /// another one is to be.
    pub(crate) fn moved(&mut self, entry: EntryId, owner: Option<&ConsumerName>) {
        let mut watched = self.entries.iter();
        let watching = watched.find(|(consumer, e)| **e == entry && Some(*consumer) != owner);
        if let Some(consumer) = watching.map(|(consumer, _)| consumer.clone()) {
            self.entries.remove(&consumer);
            self.to_list.insert(consumer);
        }
    }

    pub(crate) fn list_again(&mut self, consumer: ConsumerName) {
        self.to_list.insert(consumer);
    }

    pub(crate) fn next_to_list(&mut self) -> Option<ConsumerName> {
        self.to_list.pop_first()
    }

    pub(crate) fn has_to_list(&self) -> bool {
        !self.to_list.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_watched_by_one_entry_until_that_is_gone() {
        let (name, other) = (
            ConsumerName::from_wire("go-1"),
            ConsumerName::from_wire("go-2"),
        );
        let (first, second) = (EntryId::new(1, 0), EntryId::new(2, 0));
        let mut watched = Watched::default();
        assert!(watched.watches(name.clone(), first));
        assert!(!watched.watches(name.clone(), second));
        watched.moved(first, Some(&name));
        assert!(!watched.has_to_list(), "it has it still");
        watched.moved(first, Some(&other));
        assert_eq!(watched.next_to_list(), Some(name.clone()));
        assert!(watched.watches(name.clone(), second));
        assert!(!watched.expired(&name, first) && watched.expired(&name, second));
        assert!(!watched.expired(&name, second), "once");
    }
}
