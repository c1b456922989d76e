//! Fresh entries: when to fetch, how many, how long to wait.
//!
//! What the server says about its backlog is a hint, for the size of a page. Whether
//! to block goes by what the last fetch brought: after one that was not full, the next
//! one waits. Redis' `lag` stays too high for ever once entries were trimmed or deleted
//! before their delivery.

use std::time::Duration;

use super::control::Vital;
use super::leases::lanes::{GATHER, Parking};
use super::leases::table::Origin;
use super::{Action, Flight, Machine, Notice, PAGE, Reply};
use crate::{Result, Timestamp};

/// Longest wait of one fetch. Only a bound: an entry ends the wait at once.
const WAIT: Duration = Duration::from_secs(5);

/// Before the next fetch if one that was to wait came back empty at once, from a
/// server, or a proxy before it, that does not block.
const UNBLOCKED: Duration = Duration::from_millis(100);

/// The most one fetch takes, so that a burst is shared by all who have room.
const LARGEST_PAGE: u64 = 500;

#[derive(Debug, Default)]
pub(super) struct Fetching {
    busy: bool,
    /// Entries that nobody has had, as the server estimated with the last fetch.
    backlog: u64,
    /// How many too many that is: what it said when there was nothing left.
    surplus: u64,
    /// The last fetch was full: more may be waiting, whatever the backlog says.
    was_full: usize,
    pub(super) not_before: Timestamp,
    /// Waits until then for completions to make more room.
    held_until: Option<Timestamp>,
}

impl Machine {
    pub(super) fn pump_fetch(&mut self) {
        let wanted =
            !self.cx.is_draining() && self.prepared && !self.fetch.busy && self.may_retry();
        if !wanted {
            return;
        }
        if !self.started {
            self.started = true;
            self.cx.notify(Notice::Started);
        }
        // R11: orphans before fresh entries, as long as room is short.
        let is_serving = !self.leases.adopting.is_empty() || self.recovery.orphans.is_taking();
        let room = match is_serving {
            true => self.leases.room(&self.cx).saturating_sub(2 * PAGE),
            false => self.leases.room(&self.cx),
        };
        if room == 0 || self.fetch.not_before > self.cx.now {
            return;
        }
        let (page, wait) = self.next_page();
        // Completions under way will make more room in a moment, and one page for
        // all of it costs much less than one for each.
        let worthwhile = page.min(PAGE).min(self.cx.settings.capacity / 8);
        if room < worthwhile && self.leases.lanes.complete.busy {
            let until = self.fetch.held_until.get_or_insert(self.cx.now + GATHER);
            if *until > self.cx.now {
                return;
            }
        }
        self.fetch.held_until = None;
        let max = page.min(room);
        self.fetch.busy = true;
        self.cx
            .act(Action::Fetch { max, wait }, Flight::Fetch { max, wait });
    }

    /// A share of the backlog that leaves the others theirs. An idle consumer
    /// waits for one entry only, and asks how many there are when it has come.
    /// An eighth of what each should get: with a quarter, four who shared 1,000
    /// were up to 36 % off, because some came round once more than others.
    fn next_page(&self) -> (usize, Duration) {
        let fetch = &self.fetch;
        let backlog = fetch.backlog.saturating_sub(fetch.surplus);
        let share = backlog / (8 * u64::from(self.cx.peers.members));
        if !self.has_answered(Vital::Fetch) {
            // The first one shows at once whether it is allowed.
            (1, Duration::ZERO)
        } else if fetch.was_full == 0 {
            (1, WAIT)
        } else if backlog > 0 {
            (share.clamp(1, LARGEST_PAGE) as usize, Duration::ZERO)
        } else {
            ((fetch.was_full * 2).min(32), Duration::ZERO)
        }
    }

    pub(super) fn fetch_done(
        &mut self,
        sent: Timestamp,
        (max, wait): (usize, Duration),
        result: Result<Reply>,
    ) {
        self.fetch.busy = false;
        let fetched = match result {
            Ok(Reply::Fetched(fetched)) => fetched,
            result => {
                // It may have delivered entries, or still will: look at what is pending here.
                self.fetch.was_full = 0;
                self.fetch.not_before =
                    self.cx.now + self.cx.rng.jittered(Duration::from_millis(10));
                self.recovery.look_at_own(&mut self.cx);
                let error = result
                    .err()
                    .unwrap_or_else(|| super::control::wrong_reply("fetch"));
                return self.control_failed(Vital::Fetch, error);
            }
        };
        self.control_succeeded(Vital::Fetch);
        let is_full = fetched.entries.len() >= max;
        self.fetch.was_full = if is_full { max } else { 0 };
        self.fetch.backlog = fetched.backlog;
        self.fetch.surplus = match is_full {
            true => self.fetch.surplus.min(fetched.backlog),
            false => fetched.backlog,
        };
        let came_early = self.cx.now.saturating_since(sent) < wait.min(UNBLOCKED);
        if fetched.entries.is_empty() && came_early {
            self.fetch.not_before = self.fetch.not_before.max(self.cx.now + UNBLOCKED);
        }
        for delivery in fetched.entries {
            match delivery.content {
                Ok(content) => {
                    self.leases
                        .admit(&mut self.cx, delivery.entry, content, Origin::Mine)
                }
                Err(reason) => {
                    self.leases.id_is_of(&mut self.cx, delivery.entry, None);
                    let parking = Parking::unreadable(crate::FencingToken::NONE, &reason);
                    self.leases.park(delivery.entry, parking);
                }
            }
        }
    }

    pub(super) fn fetch_timeout(&self) -> Timestamp {
        if self.fetch.busy || self.cx.is_draining() || !self.prepared {
            return Timestamp::MAX;
        }
        // What is due already waits for room, not for time.
        let held_until = self.fetch.held_until.unwrap_or(Timestamp::ZERO);
        let due = self.fetch.not_before.max(self.retry_at()).max(held_until);
        if due > self.cx.now {
            due
        } else {
            Timestamp::MAX
        }
    }
}
