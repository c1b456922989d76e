//! [`Measures`]: the user's recorder, whose panics are its own, and what it is told of the
//! actions.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::Level;

use super::voice::Voice;
use crate::machine::{Action, LbsCall, LocksCall, Reply};
use crate::recorder::{Attempt, EndKind, Load, Started};
use crate::{
    AcquireOutcome, ClaimOutcome, Operation, Part, Recorder, ReleaseOutcome, RenewOutcome, Result,
    ServiceCounts,
};

/// A panic in a recorder would end the driver, and every lease with it, without a word.
#[derive(Debug, Clone)]
pub(crate) struct Measures {
    recorder: Arc<dyn Recorder>,
    voice: Voice,
    has_warned: Arc<AtomicBool>,
}

impl Measures {
    pub(crate) fn new(recorder: Arc<dyn Recorder>, voice: Voice) -> Self {
        Self {
            recorder,
            voice,
            has_warned: Arc::default(),
        }
    }

    fn record(&self, record: impl FnOnce(&dyn Recorder)) {
        let recorded = panic::catch_unwind(AssertUnwindSafe(|| record(&*self.recorder)));
        if recorded.is_err() && !self.has_warned.swap(true, Ordering::Relaxed) {
            self.voice.say(Level::Warn, || {
                "the recorder has panicked; its measurements are not to be trusted".to_owned()
            });
        }
    }
}

impl Recorder for Measures {
    fn startup_recovery(&self, entries: usize) {
        self.record(|recorder| recorder.startup_recovery(entries));
    }

    fn claim(&self, result: Attempt, n: usize) {
        self.record(|recorder| recorder.claim(result, n));
    }

    fn lock_acquire(&self, result: Attempt, n: usize) {
        self.record(|recorder| recorder.lock_acquire(result, n));
    }

    fn lock_extend(&self, result: Attempt, n: usize) {
        self.record(|recorder| recorder.lock_extend(result, n));
    }

    fn lock_release(&self, result: Attempt, n: usize) {
        self.record(|recorder| recorder.lock_release(result, n));
    }

    fn stream_started(&self, started: &Started) {
        self.record(|recorder| recorder.stream_started(started));
    }

    fn stream_ended(&self, end: EndKind, held: Duration) {
        self.record(|recorder| recorder.stream_ended(end, held));
    }

    fn hint_received(&self) {
        self.record(|recorder| recorder.hint_received());
    }

    fn hint_dropped(&self) {
        self.record(|recorder| recorder.hint_dropped());
    }

    fn quarantined(&self) {
        self.record(|recorder| recorder.quarantined());
    }

    fn call(&self, operation: Operation, result: Attempt, took: Duration) {
        self.record(|recorder| recorder.call(operation, result, took));
    }

    fn heartbeat(&self, result: Attempt, left: Option<Duration>) {
        self.record(|recorder| recorder.heartbeat(result, left));
    }

    fn unreachable(&self, part: Part) {
        self.record(|recorder| recorder.unreachable(part));
    }

    fn reached(&self, part: Part, after: Duration) {
        self.record(|recorder| recorder.reached(part, after));
    }

    fn reachable(&self, part: Part, is_reachable: Option<bool>) {
        self.record(|recorder| recorder.reachable(part, is_reachable));
    }

    fn late(&self, by: Duration) {
        self.record(|recorder| recorder.late(by));
    }

    fn load(&self, load: &Load) {
        self.record(|recorder| recorder.load(load));
    }

    fn count_every(&self) -> Option<Duration> {
        let mut pace = None;
        self.record(|recorder| pace = recorder.count_every());
        pace
    }

    fn counted(&self, counts: Option<&ServiceCounts>) {
        self.record(|recorder| recorder.counted(counts));
    }

    fn submitted(&self, result: Attempt, streams: usize, took: Duration) {
        self.record(|recorder| recorder.submitted(result, streams, took));
    }
}

/// How many streams an action is about, for the measurements.
pub(super) fn size_of(action: &Action) -> usize {
    match action {
        Action::Lbs(LbsCall::Claim(page) | LbsCall::Keep(page)) => page.len(),
        Action::Locks(LocksCall::Acquire(_, page)) => page.len(),
        Action::Locks(LocksCall::Renew { leases, .. }) => leases.len().max(1),
        Action::Locks(LocksCall::Release(_, page)) => page.len(),
        _ => 1,
    }
}

type Method = fn(&dyn Recorder, Attempt, usize);

/// What is to be recorded of an action that has ended so, once its reply is passed on.
pub(super) fn measured(
    operation: Operation,
    size: usize,
    took: Duration,
    result: &Result<Reply>,
) -> impl FnOnce(&dyn Recorder) + use<> {
    let method: Option<Method> = match operation {
        Operation::Claim | Operation::Keep => {
            Some(|recorder, attempt, n| recorder.claim(attempt, n))
        }
        Operation::Acquire => Some(|recorder, attempt, n| recorder.lock_acquire(attempt, n)),
        Operation::Renew => Some(|recorder, attempt, n| recorder.lock_extend(attempt, n)),
        Operation::Release => Some(|recorder, attempt, n| recorder.lock_release(attempt, n)),
        _ => None,
    };
    let ok = match result {
        Ok(Reply::Claimed(outcomes)) => Some(count(outcomes, |o| {
            matches!(o, ClaimOutcome::Claimed { .. })
        })),
        Ok(Reply::Acquired(outcomes)) => Some(count(outcomes, |o| {
            matches!(o, AcquireOutcome::Acquired(_))
        })),
        Ok(Reply::Released(outcomes)) => Some(count(outcomes, |o| *o == ReleaseOutcome::Released)),
        Ok(Reply::Renewed(RenewOutcome::Extended(reply))) => {
            Some(size.saturating_sub(reply.lost.len()))
        }
        Ok(Reply::Renewed(RenewOutcome::SessionGone)) => Some(0),
        Ok(_) | Err(_) => None,
    };
    let has_failed = result.is_err();
    let is_gone = matches!(result, Ok(Reply::Renewed(RenewOutcome::SessionGone)));
    move |recorder| {
        let ended = if has_failed {
            Attempt::Error
        } else {
            Attempt::Ok
        };
        recorder.call(operation, ended, took);
        // One that was answered is measured by the machine: it knows what it was good for.
        if operation == Operation::Renew && has_failed {
            recorder.heartbeat(Attempt::Error, None);
        } else if is_gone {
            recorder.heartbeat(Attempt::Refused, None);
        }
        let Some(method) = method else { return };
        if has_failed {
            return method(recorder, Attempt::Error, size);
        }
        let Some(ok) = ok else { return };
        if ok > 0 {
            method(recorder, Attempt::Ok, ok);
        }
        if size > ok {
            method(recorder, Attempt::Refused, size - ok);
        }
    }
}

fn count<T>(outcomes: &[T], is_ok: impl Fn(&T) -> bool) -> usize {
    outcomes.iter().filter(|outcome| is_ok(outcome)).count()
}
