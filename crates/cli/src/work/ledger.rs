//! Which streams are held, so that the end of each is told once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::output::HeldStream;

/// What is held, so that each stream's end is told exactly once, whoever
/// hears of it first: its task, or the reader of events.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: Mutex<BTreeMap<HeldStream, Phase>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Held,
    /// Its task is completing it or handing it back, and will tell.
    Ending {
        disowned: bool,
    },
}

impl Ledger {
    pub(super) fn add(&self, held: HeldStream) {
        self.lock().insert(held, Phase::Held);
    }

    /// Its task is about to end it; `false` if its end has been told already.
    pub(super) fn begin_end(&self, held: &HeldStream) -> bool {
        match self.lock().get_mut(held) {
            Some(phase) => {
                *phase = Phase::Ending { disowned: false };
                true
            }
            None => false,
        }
    }

    /// The end is about to be told; whether it was reported lost meanwhile.
    pub(super) fn end(&self, held: &HeldStream) -> bool {
        matches!(
            self.lock().remove(held),
            None | Some(Phase::Ending { disowned: true })
        )
    }

    /// Whether the caller is to tell.
    pub(super) fn lose(&self, held: &HeldStream) -> bool {
        let mut all = self.lock();
        match all.get_mut(held) {
            Some(Phase::Held) => {
                all.remove(held);
                true
            }
            Some(Phase::Ending { disowned }) => {
                *disowned = true;
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HeldStream, Phase>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
