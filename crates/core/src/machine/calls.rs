//! Calls that are under way: what was asked of the backend and is not answered yet, and
//! which part of the machine gets the reply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::leases::lanes::ToQuarantine;
use super::leases::unconfirmed::Reading;
use super::lifecycle::outages::Vital;
use super::lifecycle::wrong_reply;
use super::recovery::takeover::SuspectKey;
use super::{ActionId, Machine, Reply};
use crate::{EntryId, Fenced, FencingToken, LeaseRef, Result, Timestamp};

/// Each call has an id of its own, and is answered once.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    under_way: BTreeMap<ActionId, InFlight>,
    last: u64,
    /// Counts lock operations sent and answered, so that a heartbeat can tell
    /// whether its count of records compares with what is held.
    lock_ops: u64,
}

/// An action whose reply is awaited.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The number of the session that it belongs to.
    pub(crate) session: u64,
    pub(crate) sent: Timestamp,
    /// Leases that it brings are believed no longer than this, until the record
    /// shows them (see `leases::unconfirmed`).
    pub(crate) valid_at_most: Timestamp,
    pub(crate) flight: Flight,
}

/// What the reply of an action will be about.
#[derive(Debug)]
pub(crate) enum Flight {
    Prepare,
    Paused,
    Open,
    Close,
    Heartbeat {
        leases: Arc<[LeaseRef]>,
        quiet_since: Option<u64>,
    },
    Records(Reading),
    Fetch {
        max: usize,
        wait: Duration,
    },
    Acquire(Vec<(EntryId, u64)>),
    Claim(Vec<(EntryId, FencingToken)>),
    Refresh(Vec<(EntryId, FencingToken)>),
    ClearFailures(Vec<Fenced>),
    Complete(Vec<(EntryId, FencingToken)>),
    HandBack(Vec<(EntryId, FencingToken)>),
    LateHandBack(Vec<(EntryId, FencingToken)>),
    Quarantine(Vec<(EntryId, ToQuarantine)>),
    Release(Vec<LeaseRef>),
    Scan,
    TakeOver {
        suspect: SuspectKey,
        /// How many leases it may bring.
        places: usize,
    },
    Remove(SuspectKey),
    /// Of a dead consumer, or one's own name.
    RemoveName(Option<SuspectKey>),
}

impl Flight {
    /// It changes what the lock server has on record of this session.
    fn is_lock_op(&self) -> bool {
        matches!(
            self,
            Self::Acquire(_) | Self::Release(_) | Self::TakeOver { .. }
        )
    }
}

impl Calls {
    pub(crate) fn begin(&mut self, session: u64, sent: Timestamp, flight: Flight) -> ActionId {
        self.lock_ops += u64::from(flight.is_lock_op());
        self.last += 1;
        let id = ActionId(self.last);
        let call = InFlight {
            session,
            sent,
            valid_at_most: Timestamp::MAX,
            flight,
        };
        self.under_way.insert(id, call);
        id
    }

    /// A call is answered. `None` if it was before, or is not awaited any more.
    pub(crate) fn answered(&mut self, id: ActionId, session: u64) -> Option<InFlight> {
        let call = self.under_way.remove(&id)?;
        let is_lock_op = call.session == session && call.flight.is_lock_op();
        self.lock_ops += u64::from(is_lock_op);
        Some(call)
    }

    pub(crate) fn awaits(&self, is_it: impl Fn(&Flight) -> bool) -> bool {
        self.under_way.values().any(|call| is_it(&call.flight))
    }

    /// Such a call, if there is one, is not awaited any more.
    pub(crate) fn cancel(&mut self, is_it: impl Fn(&Flight) -> bool) -> Option<ActionId> {
        let mut calls = self.under_way.iter();
        let (&id, _) = calls.find(|(_, call)| is_it(&call.flight))?;
        self.under_way.remove(&id);
        Some(id)
    }

    pub(crate) fn cancel_all(&mut self) {
        self.under_way.clear();
    }

    /// Leases that calls under way bring are believed until then at most.
    pub(crate) fn limit_leases(&mut self, until: Timestamp) {
        for call in self.under_way.values_mut() {
            if matches!(call.flight, Flight::Acquire(_) | Flight::TakeOver { .. }) {
                call.valid_at_most = call.valid_at_most.min(until);
            }
        }
    }

    /// As long as this number stays the same, no lock operation was sent or answered.
    pub(crate) fn lock_ops(&self) -> u64 {
        self.lock_ops
    }
}

impl Machine {
    /// A call has ended: which part gets the reply.
    pub(super) fn done(&mut self, id: ActionId, result: Result<Reply>) {
        // A reply that comes twice is known by its id being gone.
        let Some(InFlight {
            session,
            sent,
            valid_at_most,
            flight,
        }) = self.cx.calls.answered(id, self.cx.session.number())
        else {
            return;
        };
        let current = session == self.cx.session.number();
        match flight {
            Flight::Prepare => {
                let result = self.vital(Vital::Prepare, result, |reply| match reply {
                    Reply::Prepared => Some(()),
                    _ => None,
                });
                self.outages.prepare_done(&mut self.cx, result);
            }
            Flight::Paused => {
                self.lbs_asked(&result);
                self.pauses.answered(&mut self.cx, result);
            }
            Flight::Fetch { max, wait } => {
                let result = self.vital(Vital::Fetch, result, |reply| match reply {
                    Reply::Fetched(fetched) => Some(fetched),
                    _ => None,
                });
                self.intake
                    .fetch_done(&mut self.cx, sent, (max, wait), result);
            }
            Flight::Scan => {
                if self.recovery.lists_own() {
                    self.lbs_asked(&result);
                }
                self.recovery.scan_done(&mut self.cx, &self.leases, result);
                self.classify_page();
            }
            Flight::LateHandBack(page) => {
                self.leases.late_hand_back_done(&mut self.cx, &page, result)
            }
            Flight::Quarantine(page) => {
                self.leases
                    .quarantine_done(&mut self.cx, page, result, current)
            }
            Flight::RemoveName(None) => self.drain.own_name_removed(&mut self.cx, &result),
            Flight::RemoveName(Some(suspect)) => {
                self.recovery.name_removed(&mut self.cx, &suspect, result)
            }
            Flight::Close => self.drain.close_done(&mut self.cx, &result),
            // What an abandoned session did no longer matters: what it held is
            // dead with it, and all of it is listed again.
            _ if !current => {}
            Flight::Open => {
                let result = self.vital(Vital::Open, result, |reply| match reply {
                    Reply::Opened(outcome) => Some(outcome),
                    _ => None,
                });
                self.session.open_done(&mut self.cx, sent, result);
            }
            Flight::Heartbeat {
                leases,
                quiet_since,
            } => {
                let result = self.vital(Vital::Heartbeat, result, |reply| match reply {
                    Reply::Renewed(outcome) => Some(outcome),
                    _ => None,
                });
                self.session.heartbeat_done(
                    &mut self.cx,
                    (&self.leases, &self.recovery),
                    (sent, leases, quiet_since),
                    result,
                );
            }
            Flight::Records(reading) => self.leases.records_done(&mut self.cx, reading, result),
            Flight::Acquire(page) => self.leases.acquire_done(
                &mut self.cx,
                &self.recovery.orphans,
                sent,
                valid_at_most,
                &page,
                result,
            ),
            Flight::Claim(page) => self.leases.claim_done(&mut self.cx, &page, result),
            Flight::Refresh(page) => self.leases.refresh_done(&mut self.cx, &page, result),
            Flight::ClearFailures(page) => {
                self.leases.clear_failures_done(&mut self.cx, page, result)
            }
            Flight::Complete(page) => self.leases.complete_done(&mut self.cx, &page, result),
            Flight::HandBack(page) => self.leases.hand_back_done(&mut self.cx, &page, result),
            Flight::Release(page) => self.leases.release_done(&mut self.cx, &page, result),
            Flight::TakeOver { suspect, places } => {
                self.recovery.take_over_done(
                    &mut self.cx,
                    &suspect,
                    places,
                    (sent, valid_at_most),
                    result,
                );
            }
            Flight::Remove(suspect) => self.recovery.remove_done(&mut self.cx, &suspect, result),
        }
    }

    /// The reply to a call without which nothing goes on, if it is one of the right kind.
    fn vital<T>(
        &mut self,
        call: Vital,
        result: Result<Reply>,
        of: impl FnOnce(Reply) -> Option<T>,
    ) -> Result<T> {
        let reply = of(result?).ok_or_else(|| wrong_reply(call.name()))?;
        self.outages.worked(&mut self.cx, call);
        Ok(reply)
    }

    /// A call has asked the LBS that is not vital: that matters where no fetch does, in a
    /// pause and where there is no room.
    fn lbs_asked(&mut self, result: &Result<Reply>) {
        let is_fetching = self.leases.room(&self.cx) > 0
            || self
                .cx
                .calls
                .awaits(|flight| matches!(flight, Flight::Fetch { .. }));
        if self.outages.prepared && !is_fetching {
            self.outages.lbs_asked(&mut self.cx, result);
        }
    }

    /// Works through a page that a look has read, and what is wanted of the leases.
    fn classify_page(&mut self) {
        self.apply();
        while self.recovery.step(&mut self.cx, &self.leases) {
            self.apply();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_once_and_an_earlier_sessions_is_no_lock_operation() {
        let mut calls = Calls::default();
        let release = |calls: &mut Calls| calls.begin(1, Timestamp::ZERO, Flight::Release(vec![]));
        let (first, second) = (release(&mut calls), release(&mut calls));
        assert_eq!(calls.lock_ops(), 2);
        assert!(calls.answered(first, 1).is_some());
        assert!(calls.answered(first, 1).is_none());
        assert_eq!(calls.lock_ops(), 3);
        assert!(calls.answered(second, 2).is_some());
        assert_eq!(
            calls.lock_ops(),
            3,
            "it says nothing of this session's record"
        );
    }

    #[test]
    fn what_is_cancelled_is_not_awaited_and_only_one_is() {
        let mut calls = Calls::default();
        let ids = [Flight::Scan, Flight::Prepare, Flight::Scan]
            .map(|flight| calls.begin(0, Timestamp::ZERO, flight));
        let is_scan = |flight: &Flight| matches!(flight, Flight::Scan);
        assert_eq!(calls.cancel(is_scan), Some(ids[0]));
        assert!(calls.awaits(is_scan));
        assert_eq!(calls.cancel(is_scan), Some(ids[2]));
        assert!(!calls.awaits(is_scan));
        assert!(calls.answered(ids[0], 0).is_none());
    }
}
