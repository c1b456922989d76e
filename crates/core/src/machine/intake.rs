//! Fresh entries: when to fetch, how many, how long to wait.
//!
//! What the server says about its backlog is a hint, for the size of a page. Whether
//! to block goes by what the last fetch brought: after one that was not full, the next
//! one waits. Redis' `lag` stays too high for ever once entries were trimmed or deleted
//! before their delivery.

use std::time::Duration;

use super::calls::Flight;
use super::cx::Cx;
use super::effects::Effect;
use super::leases::Leases;
use super::leases::lanes::{GATHER, ToQuarantine};
use super::leases::table::Origin;
use super::lifecycle::outages::{Outages, Vital};
use super::recovery::Recovery;
use super::{LbsCall, Notice, PAGE};
use crate::limits::{FETCH_PAGE, LONGEST_FETCH};
use crate::{FencingToken, Fetched, Result, Timestamp};

/// Before the next fetch if one that was to wait came back empty at once, from a
/// server, or a proxy before it, that does not block.
const UNBLOCKED: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// The first fetch has been sent, or waits for room.
    started: bool,
    busy: bool,
    /// Entries that nobody has had, as the server estimated with the last fetch.
    backlog: u64,
    /// How many too many that is: what it said when there was nothing left.
    surplus: u64,
    /// The last fetch was full: more may be waiting, whatever the backlog says.
    was_full: usize,
    not_before: Timestamp,
    /// Waits until then for completions to make more room.
    held_until: Option<Timestamp>,
}

impl Intake {
    pub(crate) fn pump(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        recovery: &Recovery,
        outages: &Outages,
    ) {
        let may_fetch = outages.prepared && outages.may_retry(cx) && !cx.is_draining();
        if self.busy || !may_fetch {
            return;
        }
        if !self.started {
            self.started = true;
            cx.notify(Notice::Started);
        }
        // R11: orphans before fresh entries, as long as room is short.
        let is_serving = !leases.adopting.is_empty() || recovery.orphans.is_taking();
        let room = match is_serving {
            true => leases.room(cx).saturating_sub(2 * PAGE),
            false => leases.room(cx),
        };
        if room == 0 || self.not_before > cx.now {
            return;
        }
        let (page, wait) = self.next_page(cx, outages);
        // Completions under way will make more room in a moment, and one page for
        // all of it costs much less than one for each.
        let worthwhile = page.min(PAGE).min(cx.settings.capacity / 8);
        if room < worthwhile && leases.lanes.complete.busy {
            let until = self.held_until.get_or_insert(cx.now + GATHER);
            if *until > cx.now {
                return;
            }
        }
        self.held_until = None;
        let max = page.min(room);
        self.busy = true;
        cx.act(LbsCall::Fetch { max, wait }, Flight::Fetch { max, wait });
    }

    /// A share of the backlog that leaves the others theirs. An idle consumer
    /// waits for one entry only, and asks how many there are when it has come.
    /// An eighth of what each should get: with a quarter, four who shared 1,000
    /// were up to 36 % off, because some came round once more than others.
    fn next_page(&self, cx: &Cx, outages: &Outages) -> (usize, Duration) {
        let backlog = self.backlog.saturating_sub(self.surplus);
        let share = backlog / (8 * u64::from(cx.peers.members));
        if !outages.has_answered(Vital::Fetch) {
            // The first one shows at once whether it is allowed.
            (1, Duration::ZERO)
        } else if self.was_full == 0 {
            (1, LONGEST_FETCH)
        } else if backlog > 0 {
            (share.clamp(1, FETCH_PAGE as u64) as usize, Duration::ZERO)
        } else {
            ((self.was_full * 2).min(32), Duration::ZERO)
        }
    }

    /// The service is paused: what a fetch that waits would bring is for whoever fetches
    /// after the pause. What it has brought already is found then, by listing.
    pub(crate) fn give_up(&mut self, cx: &mut Cx) {
        if self.busy {
            self.busy = false;
            self.was_full = 0;
            cx.cancel(|flight| matches!(flight, Flight::Fetch { .. }));
        }
    }

    /// Nothing is fetched before then.
    pub(crate) fn wait_until(&mut self, at: Timestamp) {
        self.not_before = self.not_before.max(at);
    }

    pub(crate) fn fetch_done(
        &mut self,
        cx: &mut Cx,
        sent: Timestamp,
        (max, wait): (usize, Duration),
        result: Result<Fetched>,
    ) {
        self.busy = false;
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                // It may have delivered entries, or still will: look at what is pending here.
                self.was_full = 0;
                self.not_before = cx.now + cx.rng.jittered(Duration::from_millis(10));
                cx.effect(Effect::RescanOwn);
                return cx.effect(Effect::VitalFailed(Vital::Fetch, error));
            }
        };
        let is_full = fetched.entries.len() >= max;
        self.was_full = if is_full { max } else { 0 };
        self.backlog = fetched.backlog;
        self.surplus = match is_full {
            true => self.surplus.min(fetched.backlog),
            false => fetched.backlog,
        };
        let came_early = cx.now.saturating_since(sent) < wait.min(UNBLOCKED);
        if fetched.entries.is_empty() && came_early {
            self.wait_until(cx.now + UNBLOCKED);
        }
        for delivery in fetched.entries {
            let entry = delivery.entry;
            match delivery.content {
                Ok(content) => cx.effect(Effect::Admit {
                    entry,
                    content,
                    origin: Origin::Mine,
                    giver: None,
                }),
                Err(reason) => {
                    cx.effect(Effect::Read(entry, None));
                    let wanted = ToQuarantine::unreadable(FencingToken::NONE, &reason);
                    cx.effect(Effect::Quarantine(entry, wanted));
                }
            }
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx, outages: &Outages) -> Timestamp {
        if self.busy || cx.is_draining() || !outages.prepared {
            return Timestamp::MAX;
        }
        // What is due already waits for room, not for time.
        let held_until = self.held_until.unwrap_or(Timestamp::ZERO);
        let due = self.not_before.max(outages.retry_at()).max(held_until);
        if due > cx.now { due } else { Timestamp::MAX }
    }
}
