//! [`LeaseAdmin`]: asks owners to hand leases back.

use std::sync::Arc;

use crate::{BackendProvider, Error, LockManager, LockScheme, Result, ServiceName, StreamName};

/// Asks the owners of data streams to hand them back. A cheap handle for operators'
/// programs; it needs no client.
///
/// It works with session leases only. Per-stream locks have no record of who is to be
/// asked.
#[derive(Debug, Clone)]
pub struct LeaseAdmin {
    locks: Arc<dyn LockManager>,
}

impl LeaseAdmin {
    /// For the leases of `service` on `backend`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if the service name is invalid, or if the
    /// backend has per-stream locks.
    pub fn new(service: impl AsRef<str>, backend: &dyn BackendProvider) -> Result<Self> {
        let service = ServiceName::new(service)?;
        let locks = backend.backend(&service)?.locks;
        match locks.scheme() {
            LockScheme::Session => Ok(Self { locks }),
            LockScheme::PerStream => Err(Error::config(
                "only session leases can be revoked: where locks are per stream, as Go \
                 consumers have them, there is no record of who is to be asked",
            )),
        }
    }

    /// Asks for the leases of these data streams. One result per data stream, in this
    /// order: whether a lease of it is on record.
    ///
    /// Nothing is freed by asking. The owner learns of it by its next heartbeat, at most a third of its TTL later. Its lease ends with
    /// [`DisownReason::Revoked`](crate::DisownReason), and whoever has room takes the
    /// stream. That may be the same consumer.
    ///
    /// # Errors
    /// Some owners may be asked. Calling again with the same data streams asks the others.
    pub async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        match self.locks.sessions() {
            Some(sessions) => sessions.revoke(streams).await,
            None => Ok(vec![false; streams.len()]),
        }
    }
}
