//! Calls that a server refuses for a while although it is there.

use streamlease_core::{Error, ErrorKind};

use super::fault::{Of, Refused};
use crate::clock::Time;

/// What a call asks of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    /// To look at something.
    Read,
    /// To hand out or take away what is there, for which no memory is needed.
    Write,
    /// To add as much as is needed to finish what is there.
    Add,
    /// To add what it did not have: that is all that a full server refuses.
    Announce,
}

/// Until when one server refuses what.
#[derive(Debug, Clone, Copy, Default)]
struct Until {
    announcements: Time,
    additions: Time,
    writes: Time,
    everything: Time,
}

impl Until {
    fn of(&self, needs: Needs) -> Time {
        let writes = self.everything.max(self.writes);
        let additions = writes.max(self.additions);
        match needs {
            Needs::Read => self.everything,
            Needs::Write => writes,
            Needs::Add => additions,
            Needs::Announce => additions.max(self.announcements),
        }
    }

    fn set(&mut self, what: Refused, until: Time) {
        let set = match what {
            Refused::Announcements => &mut self.announcements,
            Refused::Additions => &mut self.additions,
            Refused::Writes => &mut self.writes,
            Refused::Everything => &mut self.everything,
        };
        *set = until.max(*set);
    }
}

/// What both servers refuse.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusals {
    lbs: Until,
    locks: Until,
}

impl Refusals {
    pub(super) fn begin(&mut self, of: Of, what: Refused, until: Time) {
        if of.lbs() {
            self.lbs.set(what, until);
        }
        if of.locks() {
            self.locks.set(what, until);
        }
    }

    /// Until when the LBS refuses such calls; long past if it does not.
    pub(super) fn lbs_until(&self, needs: Needs) -> Time {
        self.lbs.of(needs)
    }

    pub(super) fn locks_until(&self, needs: Needs) -> Time {
        self.locks.of(needs)
    }

    /// What such a call is answered with, if it is refused.
    pub(super) fn refuse(&self, at_locks: bool, needs: Needs, now: Time) -> Option<Error> {
        let until = if at_locks { &self.locks } else { &self.lbs };
        if until.everything > now {
            let what = "NOPERM: the rights are gone";
            return Some(Error::new(ErrorKind::Denied, what));
        }
        if until.of(needs) > now {
            let what = "READONLY or OOM: it is not written";
            return Some(Error::new(ErrorKind::Unavailable, what));
        }
        None
    }
}
