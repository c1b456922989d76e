//! The links of processes to the servers, which may be thin for a while: replies then
//! take the longer the more they carry.

use std::time::Duration;

use streamlease_core::PendingPage;

use crate::clock::{Time, ns};

/// Infos are read in pieces of about that length, and a listing ends with one.
const PIECE: Duration = Duration::from_millis(200);

/// So many ids, outcomes or tokens are as long as one entry with its info.
const ITEMS: u64 = 500;

/// What a reply carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size {
    /// Entries with their infos.
    Entries(usize),
    /// Anything else.
    Items(usize),
}

/// One process's link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    thin_until: Time,
    /// How long an entry with its info takes.
    each: Time,
    /// When what was sent before is through.
    free: Time,
}

impl Link {
    /// From `now` on, for so long, an entry takes `each`.
    pub(super) fn narrow(&mut self, now: Time, each: Duration, length: Duration) {
        self.thin_until = now + ns(length);
        self.each = ns(each);
    }

    /// How many entries are a piece of what is read; `None`: it is as fast as any.
    pub(super) fn piece(&self, now: Time) -> Option<usize> {
        let fit = ns(PIECE).checked_div(self.each).unwrap_or(1);
        (self.thin_until > now).then(|| fit.max(1) as usize)
    }

    /// A listing returns with what it has after a piece, and with where to go on.
    pub(super) fn shorten(&self, now: Time, page: &mut PendingPage) {
        let Some(most) = self.piece(now).filter(|most| *most < page.entries.len()) else {
            return;
        };
        page.entries.truncate(most);
        let last = page.entries.last().map(|last| last.entry);
        page.next = match (page.next, last) {
            (Some(next), Some(last)) => Some(next.min(last)),
            (_, last) => last,
        };
    }

    /// By how much a reply is late that is sent now. Small ones come one after the
    /// other, as on one connection; infos come on another one, so that no heartbeat waits
    /// for them, unless all is `shared`.
    pub(super) fn delay(&mut self, now: Time, size: Size, shared: bool) -> Time {
        if self.thin_until <= now {
            return 0;
        }
        let takes = match size {
            Size::Entries(entries) => self.each * entries as Time,
            Size::Items(items) => self.each * items as Time / ITEMS,
        };
        if matches!(size, Size::Entries(_)) && !shared {
            return takes;
        }
        self.free = self.free.max(now) + takes;
        self.free - now
    }
}

#[cfg(test)]
mod tests {
    use streamlease_core::EntryId;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn thin() -> Link {
        let mut link = Link::default();
        link.narrow(0, 50 * MS, 1_000 * MS);
        link
    }

    #[test]
    fn what_is_small_waits_for_no_info_unless_they_share_a_connection() {
        let mut link = thin();
        assert_eq!(link.delay(0, Size::Entries(4), false), ns(200 * MS));
        assert_eq!(link.delay(0, Size::Items(10), false), ns(MS));
        assert_eq!(link.delay(0, Size::Items(10), false), ns(2 * MS));
        assert_eq!(link.delay(0, Size::Entries(4), true), ns(202 * MS));
        assert_eq!(link.delay(0, Size::Items(10), true), ns(203 * MS));
        assert_eq!(link.delay(ns(1_000 * MS), Size::Entries(4), true), 0);
    }

    #[test]
    fn a_listing_is_cut_where_it_can_go_on() {
        let ids = || (1..=6).map(|nth| EntryId::new(nth, 0));
        let page = || {
            let mut page = PendingPage::default();
            page.entries.extend(ids().map(pending));
            page
        };
        let mut cut = page();
        thin().shorten(0, &mut cut);
        assert_eq!((cut.entries.len(), cut.next), (4, ids().nth(3)));
        // Entries that are pending at nobody may be behind where it goes on.
        let mut cut = page();
        cut.next = ids().nth(1);
        thin().shorten(0, &mut cut);
        assert_eq!((cut.entries.len(), cut.next), (4, ids().nth(1)));
        let mut whole = page();
        Link::default().shorten(0, &mut whole);
        assert_eq!((whole.entries.len(), whole.next), (6, None));
    }

    fn pending(entry: EntryId) -> streamlease_core::Pending {
        streamlease_core::Pending {
            entry,
            consumer: None,
            idle: Duration::ZERO,
            deliveries: 0,
            token: streamlease_core::FencingToken::NONE,
            handed_back: false,
            failures: 0,
            reasons: Vec::new(),
            content: Err(streamlease_core::MalformedReason::NotJson),
        }
    }
}
