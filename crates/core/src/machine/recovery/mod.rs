//! What others hold, or have left: finding the streams that nobody serves, and taking
//! them over (R7, R9, R11).
//!
//! Where to find what:
//! - `scan`: what makes it look at what is pending, and at what next; `steps`: how one
//!   look goes; `sweep`: whose turn it is to look at everything;
//! - `classify`: what a look shows: ours, an orphan, somebody else's;
//! - `takeover`: who is dead, and who takes over what they left;
//! - `rank`: who of the survivors goes first for which entry.

mod classify;
mod rank;
pub(crate) mod scan;
mod steps;
mod sweep;
pub(crate) mod takeover;

use self::scan::Scanner;
use self::takeover::Orphans;
use super::cx::Cx;
use super::leases::Leases;
use crate::{BeatReply, Timestamp};

#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) scanner: Scanner,
    pub(crate) orphans: Orphans,
}

impl Recovery {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            scanner: Scanner::new(now),
            orphans: Orphans::default(),
        }
    }

    pub(crate) fn pump(&mut self, cx: &mut Cx, leases: &Leases) {
        self.pump_unreported(cx, leases);
        self.pump_scans(cx, leases);
    }

    /// A heartbeat was answered: who is dead, and whether it is this consumer's turn to
    /// look at everything.
    pub(crate) fn heartbeat(&mut self, cx: &mut Cx, leases: &Leases, reply: &BeatReply) {
        self.told_dead(cx, leases, reply.dead.clone());
        if reply.sweep {
            self.begin_sweep(cx);
        }
    }

    /// A new session looks at its own part first.
    pub(crate) fn start_over(&mut self, cx: &Cx) {
        self.scanner.start_over(cx.now);
        self.orphans.start_over();
    }
}
