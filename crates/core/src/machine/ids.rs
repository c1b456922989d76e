//! Ids that were given twice.
//!
//! An LBS that lost its last announcements gives their ids to others if its clock was
//! set back, or if that of the replica that was promoted is behind. What was known
//! by such an id is then gone, and the lock server may still know a lease of it.

use super::items::State;
use super::{DisownReason, Machine};
use crate::{EntryId, LeaseRef, StreamName};

impl Machine {
    /// The LBS has an announcement of `stream` under this id, or one that cannot be
    /// read. What is known of the id here and is not of that stream is over.
    pub(super) fn id_is_of(&mut self, entry: EntryId, stream: Option<&StreamName>) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        if Some(&item.stream) == stream {
            return;
        }
        // Its answer may bring a lock, which only this item can release.
        if matches!(item.state, State::Acquiring { .. }) {
            return self.recheck(self.now + self.settings.ttl / 4, entry);
        }
        self.lanes.quarantine.queue.remove(&entry);
        self.lanes.parking.remove(&entry);
        self.lapse(entry, DisownReason::EntryGone);
    }

    /// A take-over brought this lease; its entry is to be read before it is held.
    pub(super) fn adopt_when_read(&mut self, lease: LeaseRef) {
        self.look_at(vec![lease.entry]);
        let before = self.orphans.adopting.insert(lease.entry, lease.clone());
        if let Some(before) = before.filter(|before| before.stream != lease.stream) {
            // One of the two at least is of an announcement that is gone; if it is the
            // later one, the other's is found as an orphan.
            self.give_back(before);
        }
    }
}
