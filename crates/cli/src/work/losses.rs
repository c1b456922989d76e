//! [`Losses`]: why leases were lost, for whoever tells of it.
//!
//! A loss shows at the lease at once, by the clock. Its reason comes with the client's event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
pub(super) struct Losses(Mutex<BTreeMap<Key, Sender<DisownReason>>>);

/// One lease, from its start to its end.
#[derive(Debug)]
pub(super) struct Watch {
    losses: Arc<Losses>,
    key: Key,
    reason: Receiver<DisownReason>,
}

impl Losses {
    pub(super) fn watch(self: &Arc<Self>, lease: &Lease) -> Watch {
        let (send, reason) = async_channel::bounded(1);
        let key = (lease.entry(), lease.token());
        self.lock().insert(key, send);
        Watch {
            losses: self.clone(),
            key,
            reason,
        }
    }

    pub(super) fn tell(&self, disowned: &Disowned) {
        if let Some(watch) = self.lock().get(&(disowned.entry(), disowned.token())) {
            // There is one, and room for it.
            let _ = watch.try_send(disowned.reason());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Sender<DisownReason>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Why the lease was lost. `None` if the client does not say it.
    pub(super) async fn reason(&self, runtime: &AnyRuntime) -> Option<DisownReason> {
        let told = async { self.reason.recv().await.ok() };
        let overdue = async {
            runtime.sleep(PATIENCE).await;
            None
        };
        future::or(told, overdue).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.losses.lock().remove(&self.key);
    }
}
