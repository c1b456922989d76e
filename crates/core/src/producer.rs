//! [`Producer`]: announces data streams.

use std::sync::Arc;

use crate::client::random;
use crate::{
    Announcement, BackendProvider, EntryId, Error, ErrorKind, Info, Result, ServiceName,
    StreamName, SubmitBatch, Transport,
};

/// How often a batch is sent before its error is returned.
const ATTEMPTS: usize = 3;

/// Announces data streams on a service's LBS. A cheap handle.
#[derive(Debug, Clone)]
pub struct Producer {
    transport: Arc<dyn Transport>,
}

impl Producer {
    /// A producer for `service` on `backend`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the service name is invalid.
    pub fn new(service: impl AsRef<str>, backend: &dyn BackendProvider) -> Result<Self> {
        let service = ServiceName::new(service)?;
        Ok(Self {
            transport: backend.backend(&service)?.transport,
        })
    }

    /// Announces one data stream; see [`submit_batch`](Self::submit_batch).
    pub async fn submit(&self, stream: impl AsRef<str>, info: Info) -> Result<EntryId> {
        let announcement = Announcement::new(StreamName::new(stream)?, info);
        let entries = self.submit_all(vec![announcement]).await?;
        entries.first().copied().ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                "one stream was submitted, but no entry id came back",
            )
        })
    }

    /// Announces many data streams, in this order; see [`submit_batch`](Self::submit_batch).
    pub async fn submit_all(&self, announcements: Vec<Announcement>) -> Result<Vec<EntryId>> {
        self.submit_batch(&new_batch(announcements)?).await
    }

    /// Appends a batch to the LBS and returns the entry ids in the order given.
    ///
    /// A connection that breaks is tried again with the same batch, which
    /// appends nothing twice.
    ///
    /// # Errors
    /// Whether the batch was appended is unknown. Calling again with the *same*
    /// batch (within five minutes) settles it; [`submit`](Self::submit) and
    /// [`submit_all`](Self::submit_all) draw a new one each time.
    pub async fn submit_batch(&self, batch: &SubmitBatch) -> Result<Vec<EntryId>> {
        let mut attempt = 1;
        loop {
            match self.transport.submit(batch).await {
                Err(error) if error.is_retryable() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }
}

/// A batch with an id of its own, to be submitted once however often it is sent.
pub fn new_batch(announcements: Vec<Announcement>) -> Result<SubmitBatch> {
    let id = (u128::from(random()?) << 64) | u128::from(random()?);
    Ok(SubmitBatch { id, announcements })
}
