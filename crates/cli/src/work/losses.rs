//! [`Losses`]: why leases were lost, for whoever tells of it.
//!
//! A loss shows at the lease at once, by the clock. Its reason comes with the client's event.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease::{DisownReason, Disowned, EntryId, FencingToken, Lease};

use crate::runtime::AnyRuntime;

/// The event comes in the same moment, unless the client has ended or stands still.
const PATIENCE: Duration = Duration::from_secs(1);

type Key = (EntryId, FencingToken);

/// Whom to tell, by lease.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<BTreeMap<Key, Telling>>);

#[derive(Debug)]
struct Telling {
    reason: Arc<OnceLock<DisownReason>>,
    /// Dropped once there is a reason.
    _waited_for: Sender<Infallible>,
}

/// The loss of one lease, should it come to that.
#[derive(Debug)]
pub(crate) struct Loss {
    losses: Arc<Losses>,
    key: Key,
    reason: Arc<OnceLock<DisownReason>>,
    /// Closed once there is a reason.
    told: Receiver<Infallible>,
}

impl Losses {
    pub(super) fn watch(self: &Arc<Self>, lease: &Lease) -> Loss {
        let (waited_for, told) = async_channel::bounded(1);
        let reason = Arc::new(OnceLock::new());
        let key = (lease.entry(), lease.token());
        let telling = Telling {
            reason: reason.clone(),
            _waited_for: waited_for,
        };
        self.lock().insert(key, telling);
        Loss {
            losses: self.clone(),
            key,
            reason,
            told,
        }
    }

    pub(super) fn tell(&self, disowned: &Disowned) {
        let telling = self.lock().remove(&(disowned.entry(), disowned.token()));
        if let Some(telling) = telling {
            // There is one reason only.
            let _ = telling.reason.set(disowned.reason());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Telling>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loss {
    /// Why the lease was lost, for whoever asks. `None` if the client does not say it.
    pub(crate) async fn reason(&self, runtime: &AnyRuntime) -> Option<DisownReason> {
        let told = async {
            let _ = self.told.recv().await;
        };
        future::or(told, runtime.sleep(PATIENCE)).await;
        self.reason.get().copied()
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        self.losses.lock().remove(&self.key);
    }
}
