//! Looks over everybody's shoulder: were there ever two owners, was anything lost?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use streamlease::{FencingToken, Lease, StreamName};

use crate::ledger::Ledger;

#[derive(Debug, Default)]
pub(crate) struct Audit {
    calls: Mutex<BTreeMap<String, Call>>,
}

#[derive(Debug, Default)]
struct Call {
    claims: Vec<Claim>,
    taken_over: bool,
    completed: usize,
    overlapped: bool,
}

/// Somebody's word that the call is theirs, for as long as `is_valid` says so.
#[derive(Debug)]
struct Claim {
    worker: &'static str,
    token: FencingToken,
    /// Weak, since holding a lease here would be holding the call.
    lease: Weak<Lease>,
}

impl Audit {
    pub(crate) fn announced(&self, call: &str) {
        self.lock().entry(call.to_owned()).or_default();
    }

    pub(crate) fn claimed(&self, worker: &'static str, lease: &Arc<Lease>) {
        let mut calls = self.lock();
        let call = calls.entry(lease.stream().to_string()).or_default();
        call.taken_over |= lease.claimed_from().is_some();
        // No two owners have the same token. That it grows the ledger checks: this
        // may be told late, by a worker that lost the call before it could say so.
        call.overlapped |= call.claims.iter().any(|claim| claim.token == lease.token());
        call.claims.push(Claim {
            worker,
            token: lease.token(),
            lease: Arc::downgrade(lease),
        });
        drop(calls);
        self.look();
    }

    pub(crate) fn completed(&self, call: &StreamName) {
        if let Some(call) = self.lock().get_mut(call.as_str()) {
            call.completed += 1;
        }
    }

    /// Looks whether two workers claim the same call at this moment, also those
    /// that are stopped and cannot act on it.
    pub(crate) fn look(&self) {
        for call in self.lock().values_mut() {
            let valid = call.claims.iter().filter(|claim| claim.is_valid()).count();
            call.overlapped |= valid > 1;
        }
    }

    pub(crate) fn held_by(&self, worker: &str) -> usize {
        let calls = self.lock();
        calls
            .values()
            .filter(|call| {
                call.last().is_some_and(|last| last.worker == worker) && call.completed == 0
            })
            .count()
    }

    pub(crate) fn all_owned(&self) -> bool {
        self.lock().values().all(|call| call.last().is_some())
    }

    pub(crate) fn all_completed(&self) -> bool {
        self.look();
        self.lock().values().all(|call| call.completed > 0)
    }

    /// Whether others have all that `worker` had.
    pub(crate) fn replaced(&self, worker: &str) -> bool {
        self.look();
        self.held_by(worker) == 0
    }

    pub(crate) fn summary(&self, ledger: &Ledger) -> Summary {
        let calls = self.lock();
        let count = |counts: &dyn Fn(&str, &Call) -> bool| {
            calls
                .iter()
                .filter(|(name, call)| counts(name, call))
                .count()
        };
        Summary {
            streams: calls.len(),
            completed: count(&|_, call| call.completed > 0),
            taken_over: count(&|_, call| call.taken_over),
            lost: count(&|_, call| call.completed == 0),
            doubly_owned: count(&|name, call| {
                let finished = call.completed > 0;
                call.overlapped || call.completed > 1 || (finished && !ledger.is_in_order(name))
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    fn last(&self) -> Option<&Claim> {
        self.claims.iter().max_by_key(|claim| claim.token)
    }
}

impl Claim {
    fn is_valid(&self) -> bool {
        self.lease.upgrade().is_some_and(|lease| lease.is_valid())
    }
}

/// Counts of streams, at the end.
#[derive(Debug)]
pub(crate) struct Summary {
    streams: usize,
    completed: usize,
    taken_over: usize,
    lost: usize,
    doubly_owned: usize,
}

impl Summary {
    pub(crate) fn is_well(&self) -> bool {
        self.lost == 0 && self.doubly_owned == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} streams, {} completed, {} taken over, {} lost, {} doubly owned",
            self.streams, self.completed, self.taken_over, self.lost, self.doubly_owned
        )
    }
}
