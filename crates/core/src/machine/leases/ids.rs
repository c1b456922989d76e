//! Ids that were given twice.
//!
//! An LBS that lost its last announcements gives their ids to others if its clock was
//! set back, or if that of the replica that was promoted is behind. What was known
//! by such an id is then gone, and the lock server may still know a lease of it.

use super::Leases;
use super::table::State;
use crate::machine::DisownReason;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::{EntryId, LeaseRef, StreamName, Timestamp};

impl Leases {
    /// The LBS has an announcement of `stream` under this id, or one that cannot be
    /// read. What is known of the id here and is not of that stream is over.
    pub(crate) fn id_is_of(&mut self, cx: &mut Cx, entry: EntryId, stream: Option<&StreamName>) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        if Some(&item.stream) == stream {
            return;
        }
        // Its answer may bring a lock, which only this item can release.
        if matches!(item.state, State::Acquiring { .. }) {
            return cx.effect(Effect::Recheck(entry, cx.now + cx.settings.ttl / 4));
        }
        self.lanes.quarantine.queue.remove(&entry);
        self.lanes.to_quarantine.remove(&entry);
        self.lose_and_release(cx, entry, DisownReason::EntryGone);
    }

    /// The entry was read, see [`Effect::Read`].
    pub(crate) fn read(&mut self, cx: &mut Cx, entry: EntryId, stream: Option<&StreamName>) {
        self.id_is_of(cx, entry, stream);
        if let Some(lease) = self.adopting.get(&entry)
            && Some(&lease.stream) != stream
        {
            let other = lease.clone();
            self.give_back(cx, other);
        }
    }

    /// A take-over brought this lease.
    pub(crate) fn taken_over(
        &mut self,
        cx: &mut Cx,
        lease: LeaseRef,
        sent: Timestamp,
        valid_at_most: Timestamp,
    ) {
        self.record.limit(&lease, valid_at_most);
        self.fresh_until(cx, &lease, sent);
        self.adopt_when_read(cx, lease);
    }

    /// A take-over brought this lease; its entry is to be read before it is held.
    fn adopt_when_read(&mut self, cx: &mut Cx, lease: LeaseRef) {
        cx.effect(Effect::Rescan(vec![lease.entry]));
        let before = self.adopting.insert(lease.entry, lease.clone());
        if let Some(before) = before.filter(|before| before.stream != lease.stream) {
            // One of the two at least is of an announcement that is gone; if it is the
            // later one, the other's is found as an orphan.
            self.give_back(cx, before);
        }
    }
}
