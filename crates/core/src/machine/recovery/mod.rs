//! What others hold, or have left: finding the streams that nobody serves, and taking
//! them over (R7, R9, R11).
//!
//! Where to find what:
//! - `scan`: what makes it look at what is pending, and at what next; `steps`: how one
//!   look goes, `page`: how what it has read is worked through; `own`: when to look at one's own part; `sweep`: whose turn it is to look
//!   at everything;
//! - `classify`: what a look shows: ours, an orphan, somebody else's;
//! - `members`: who lives; `watch`: whose death a lock tells of;
//! - `takeover`: who is dead, and who takes over what they left;
//! - `rank`: who of the survivors goes first for which entry;
//! - `trials`: which of the entries that owners died of go on when;
//! - `reports`: which orphans users hear of (manual claiming).

mod classify;
mod members;
mod own;
mod page;
mod rank;
mod reports;
pub(crate) mod scan;
mod steps;
pub(crate) mod sweep;
pub(crate) mod takeover;
mod trials;
mod watch;

use self::members::Members;
use self::rank::Ranks;
use self::reports::Reports;
use self::scan::Scanner;
use self::sweep::Sweeps;
use self::takeover::Orphans;
use self::trials::Trials;
use self::watch::Watched;
use super::cx::Cx;
use super::effects::Effect;
use super::leases::Leases;
use crate::{EntryId, Renewal, Timestamp};

#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) scanner: Scanner,
    pub(crate) sweeps: Sweeps,
    members: Members,
    watched: Watched,
    /// Entries that others are to take first.
    ranks: Ranks,
    trials: Trials,
    pub(crate) reports: Reports,
    pub(crate) orphans: Orphans,
}

impl Recovery {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            scanner: Scanner::new(now),
            sweeps: Sweeps::new(now),
            members: Members::default(),
            watched: Watched::default(),
            ranks: Ranks::default(),
            trials: Trials::default(),
            reports: Reports::default(),
            orphans: Orphans::default(),
        }
    }

    pub(crate) fn pump(&mut self, cx: &mut Cx, leases: &Leases) {
        self.pump_unreported(cx, leases);
        self.pump_scans(cx, leases);
    }

    /// A heartbeat was answered: who is dead, and whether it is this consumer's turn to
    /// look at everything.
    pub(crate) fn heartbeat(&mut self, cx: &mut Cx, leases: &Leases, reply: &Renewal) {
        self.told_dead(cx, leases, reply.dead.clone());
        if reply.sweep {
            self.begin_sweep(cx);
        }
    }

    /// There was no room for this orphan. In a pause, which may be over at any moment, it is
    /// remembered: then it is taken without a sweep.
    pub(crate) fn left_behind(&mut self, cx: &Cx, entry: EntryId) {
        self.sweeps.leave_behind();
        if cx.is_paused {
            self.scanner.leave(entry);
        }
    }

    /// The service is paused no more. What was left behind meanwhile has room now; what
    /// nobody here has heard of a sweep finds, with the next turn.
    pub(crate) fn resumed(&mut self, cx: &mut Cx) {
        self.rescan_own(cx);
        // Whoever has claimed one in vain is told of it once more.
        self.reports.forget_old(cx.now);
        self.sweeps.begin_soon(cx.now);
        let at = cx.now + cx.deadline_jitter();
        cx.effect(Effect::HeartbeatBy(at));
    }

    /// A new session looks at its own part first.
    pub(crate) fn start_over(&mut self, cx: &Cx) {
        self.scanner.start_over(cx.now);
        self.sweeps.start_over(cx.now);
        self.ranks = Ranks::default();
        self.orphans.start_over();
    }
}
