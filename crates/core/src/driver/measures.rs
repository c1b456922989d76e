//! [`Measures`]: the user's recorder, whose panics are its own.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::Level;

use super::voice::Voice;
use crate::Recorder;
use crate::recorder::{Attempt, EndKind};

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
            let line = "the recorder has panicked; its measurements are not to be trusted";
            self.voice.say(Level::Warn, || line.to_owned());
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

    fn stream_started(&self, taken_over: bool) {
        self.record(|recorder| recorder.stream_started(taken_over));
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

    fn leases_held(&self, n: usize) {
        self.record(|recorder| recorder.leases_held(n));
    }
}
