//! Sweeps: looking at everything that is pending. Whose turn it is, and how long
//! to rest in between, so that looking stays a small part of the server's work.

use std::time::Duration;

use super::Recovery;
use super::scan::Target;
use crate::machine::cx::Cx;
use crate::machine::leases::Leases;
use crate::{EntryId, LockScheme, Timestamp};

/// Pending entries that are so few that looking for what is stranded costs nothing.
const FEW: usize = 1_000;

/// With more, so many sweeps look for it once.
const SWEEPS_PER_STRANDED: u32 = 4;

/// How far a sweep has come, and what it has cost.
#[derive(Debug)]
struct Sweep {
    after: EntryId,
    /// It has seen all that is pending, and goes on with what is stranded.
    stranded: bool,
    /// When it began, went on, or ended a page last.
    looked: Timestamp,
    seen: usize,
    looked_up: usize,
}

/// One sweep after the other, and the rest between them.
#[derive(Debug)]
pub(crate) struct Sweeps {
    current: Option<Sweep>,
    /// Sweeps that ended since one looked for what is stranded.
    since_stranded: u32,
    due: Timestamp,
    /// When the last one began.
    began: Timestamp,
    /// How long to wait before the next one, in view of what the last one cost.
    rest: Duration,
    /// Orphans were seen that there was no room for.
    left_behind: bool,
}

impl Sweeps {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            current: None,
            since_stranded: u32::MAX,
            due: now,
            began: now,
            rest: Duration::ZERO,
            left_behind: false,
        }
    }

    /// A new session sweeps when it is its turn.
    pub(crate) fn start_over(&mut self, now: Timestamp) {
        self.due = now;
        self.current = None;
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// Since when the one that is under way has waited for its next page.
    pub(crate) fn waits_since(&self) -> Option<Timestamp> {
        self.current.as_ref().map(|sweep| sweep.looked)
    }

    /// An orphan was seen that there was no room for.
    pub(crate) fn leave_behind(&mut self) {
        self.left_behind = true;
    }

    /// What there is was left alone for a while.
    pub(crate) fn begin_soon(&mut self, now: Timestamp) {
        self.due = self.due.min(now);
    }

    /// Whether no turn is needed: with manual claiming everybody is to hear of
    /// every orphan, and without sessions everybody must see others' deadlines.
    pub(crate) fn needs_no_turn(cx: &Cx, leases: &Leases) -> bool {
        cx.is_manual() || (!cx.peers.are_known && leases.room(cx) > 0)
    }

    /// Automatic claiming: one sweeps for all, and only who has room.
    pub(crate) fn wants_turn(&self, cx: &Cx, leases: &Leases) -> bool {
        !cx.is_manual() && self.current.is_none() && self.due <= cx.now && leases.room(cx) > 0
    }

    /// Whether one is to begin that needs no turn. What there was no room for is to be
    /// found soon after there is.
    fn begins_alone(&mut self, cx: &Cx, leases: &Leases) -> bool {
        if self.left_behind && leases.room(cx) > 0 {
            self.left_behind = false;
            let soon = self.began + cx.settings.ttl / 2;
            self.due = self.due.min(soon);
        }
        self.due <= cx.now && Self::needs_no_turn(cx, leases)
    }

    /// Whether there was none before.
    fn begin(&mut self, cx: &Cx) -> bool {
        if self.current.is_some() || cx.is_draining() {
            return false;
        }
        self.due = cx.now + self.interval(cx);
        self.current = Some(Sweep {
            after: EntryId::MIN,
            stranded: false,
            looked: cx.now,
            seen: 0,
            looked_up: 0,
        });
        self.began = cx.now;
        true
    }

    /// Its next page, if there is a sweep.
    pub(crate) fn next_target(&mut self, cx: &Cx) -> Option<Target> {
        let sweep = self.current.as_mut()?;
        sweep.looked = cx.now;
        let after = sweep.after;
        Some(match sweep.stranded {
            true => Target::Stranded { after },
            false => Target::Sweep { after },
        })
    }

    /// A page showed so many entries, of which some are to be looked up.
    pub(crate) fn saw(&mut self, seen: usize, looked_up: usize) {
        if let Some(sweep) = &mut self.current {
            sweep.seen += seen;
            sweep.looked_up += looked_up;
        }
    }

    /// So many of them are not looked up now, and are seen again.
    pub(crate) fn left_unread(&mut self, unread: usize) {
        if let Some(sweep) = &mut self.current {
            sweep.seen = sweep.seen.saturating_sub(unread);
            sweep.looked_up = sweep.looked_up.saturating_sub(unread);
        }
    }

    /// A page has ended, and there are more.
    pub(crate) fn go_on(&mut self, after: EntryId, now: Timestamp) {
        if let Some(sweep) = &mut self.current {
            sweep.after = after;
            // A page that takes longer than a TTL has not waited for it.
            sweep.looked = now;
        }
    }

    /// All that is pending has been seen. What is on the LBS and pending at nobody is
    /// looked for with every sweep as long as little is pending, else with every
    /// fourth: for the server it is five times as much work as listing ids.
    pub(crate) fn pending_swept(&mut self, cx: &Cx) {
        let Some(sweep) = &mut self.current else {
            return;
        };
        self.since_stranded = self.since_stranded.saturating_add(1);
        if sweep.seen > FEW && self.since_stranded < SWEEPS_PER_STRANDED {
            return self.end(cx);
        }
        self.since_stranded = 0;
        sweep.stranded = true;
        sweep.after = EntryId::MIN;
    }

    pub(crate) fn end(&mut self, cx: &Cx) {
        if let Some(sweep) = self.current.take() {
            self.rest = rest_after(cx, sweep.seen, sweep.looked_up);
        }
        // Who swept lets the others have the next turn: they see what is
        // stuck at this one, and learn whose deadlines to watch.
        let others_first = match cx.is_manual() {
            true => Duration::ZERO,
            false => cx.settings.heartbeat_interval(),
        };
        self.due = self.began + self.interval(cx) + others_first;
    }

    /// Longer the more is pending, so that sweeping stays a small part of the server's work.
    pub(crate) fn interval(&self, cx: &Cx) -> Duration {
        cx.settings.sweep_interval() + self.rest
    }

    pub(crate) fn timeout(&self, cx: &Cx, leases: &Leases) -> Timestamp {
        match self.current.is_none() && Self::needs_no_turn(cx, leases) {
            true => self.due,
            false => Timestamp::MAX,
        }
    }
}

impl Recovery {
    pub(crate) fn pump_sweep(&mut self, cx: &mut Cx, leases: &Leases) {
        if self.sweeps.begins_alone(cx, leases) {
            self.begin_sweep(cx);
        }
    }

    pub(crate) fn begin_sweep(&mut self, cx: &mut Cx) {
        if self.sweeps.begin(cx) {
            self.members.ask_anew();
        }
    }
}

/// What keeps looking below a hundredth of the server's time: an id costs
/// it a third of a microsecond, an entry that is looked up and whose lock is
/// inspected about 15. With per-stream locks that must not go so far: only
/// a sweep sees consumers without a session that are new.
pub(super) fn rest_after(cx: &Cx, seen: usize, looked_up: usize) -> Duration {
    let times = |each: u64, n: usize| Duration::from_micros(each.saturating_mul(n as u64));
    let per_look_up = match cx.scheme {
        LockScheme::Session => 2_000,
        LockScheme::PerStream => 200,
    };
    times(100, seen) + times(per_look_up, looked_up)
}
