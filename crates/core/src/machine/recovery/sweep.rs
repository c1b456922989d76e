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
pub(crate) struct Sweep {
    pub(crate) after: EntryId,
    /// It has seen all that is pending, and goes on with what is stranded.
    pub(crate) stranded: bool,
    /// When it began, went on, or ended a page last.
    pub(crate) looked: Timestamp,
    pub(crate) seen: usize,
    pub(crate) looked_up: usize,
}

impl Recovery {
    /// Whether no turn is needed: with manual claiming everybody is to hear of
    /// every orphan, and without sessions everybody must see others' deadlines.
    pub(crate) fn sweeps_alone(&self, cx: &Cx, leases: &Leases) -> bool {
        cx.is_manual() || (!cx.peers.are_known && leases.room(cx) > 0)
    }

    /// Automatic claiming: one sweeps for all, and only who has room.
    pub(crate) fn wants_sweep(&self, cx: &Cx, leases: &Leases) -> bool {
        !cx.is_manual()
            && self.scanner.sweep.is_none()
            && self.scanner.sweep_due <= cx.now
            && leases.room(cx) > 0
    }

    /// What there was no room for is to be found soon after there is.
    pub(crate) fn pump_sweep(&mut self, cx: &mut Cx, leases: &Leases) {
        if self.scanner.left_behind && leases.room(cx) > 0 {
            self.scanner.left_behind = false;
            let soon = self.scanner.last_sweep + cx.settings.ttl / 2;
            self.scanner.sweep_due = self.scanner.sweep_due.min(soon);
        }
        if self.sweeps_alone(cx, leases) && self.scanner.sweep_due <= cx.now {
            self.begin_sweep(cx);
        }
    }

    pub(crate) fn begin_sweep(&mut self, cx: &mut Cx) {
        if self.scanner.sweep.is_some() || cx.is_draining() {
            return;
        }
        self.scanner.sweep_due = cx.now + self.sweep_interval(cx);
        let scanner = &mut self.scanner;
        scanner.sweep = Some(Sweep {
            after: EntryId::MIN,
            stranded: false,
            looked: cx.now,
            seen: 0,
            looked_up: 0,
        });
        scanner.last_sweep = cx.now;
        scanner.live_as_of = None;
    }

    /// Its next page, if there is a sweep.
    pub(crate) fn sweep_target(&mut self, cx: &mut Cx) -> Option<Target> {
        let sweep = self.scanner.sweep.as_mut()?;
        sweep.looked = cx.now;
        let after = sweep.after;
        Some(match sweep.stranded {
            true => Target::Stranded { after },
            false => Target::Sweep { after },
        })
    }

    /// All that is pending has been seen. What is on the LBS and pending at nobody is
    /// looked for with every sweep as long as little is pending, else with every
    /// fourth: for the server it is five times as much work as listing ids.
    pub(crate) fn pending_swept(&mut self, cx: &mut Cx) {
        let scanner = &mut self.scanner;
        let Some(sweep) = &mut scanner.sweep else {
            return;
        };
        scanner.sweeps_since_stranded = scanner.sweeps_since_stranded.saturating_add(1);
        if sweep.seen > FEW && scanner.sweeps_since_stranded < SWEEPS_PER_STRANDED {
            return self.sweep_done(cx);
        }
        scanner.sweeps_since_stranded = 0;
        sweep.stranded = true;
        sweep.after = EntryId::MIN;
    }

    pub(crate) fn sweep_done(&mut self, cx: &mut Cx) {
        if let Some(sweep) = self.scanner.sweep.take() {
            self.scanner.sweep_rest = self.rest_after(cx, sweep.seen, sweep.looked_up);
        }
        // Who swept lets the others have the next turn: they see what is
        // stuck at this one, and learn whose deadlines to watch.
        let others_first = match cx.is_manual() {
            true => Duration::ZERO,
            false => cx.settings.beat_interval(),
        };
        self.scanner.sweep_due = self.scanner.last_sweep + self.sweep_interval(cx) + others_first;
    }

    /// Longer the more is pending, so that sweeping stays a small part of the server's work.
    pub(crate) fn sweep_interval(&self, cx: &Cx) -> Duration {
        cx.settings.sweep_interval() + self.scanner.sweep_rest
    }

    /// The same for one's own part, of which every member has one.
    pub(crate) fn own_interval(&self, cx: &Cx) -> Duration {
        let members = cx.peers.members as usize;
        let seen = self.scanner.own_pending.saturating_mul(members);
        cx.settings.sweep_interval() + self.rest_after(cx, seen, 0)
    }

    /// What keeps looking below a hundredth of the server's time: an id costs
    /// it a third of a microsecond, an entry that is looked up and whose lock is
    /// inspected about 15. With per-stream locks that must not go so far: only
    /// a sweep sees consumers without a session that are new.
    fn rest_after(&self, cx: &Cx, seen: usize, looked_up: usize) -> Duration {
        let times = |each: u64, n: usize| Duration::from_micros(each.saturating_mul(n as u64));
        let per_look_up = match cx.scheme {
            LockScheme::Session => 2_000,
            LockScheme::PerStream => 200,
        };
        times(100, seen) + times(per_look_up, looked_up)
    }
}
