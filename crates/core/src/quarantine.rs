//! [`QuarantineAdmin`]: shows a service's quarantine, releases entries and removes them.

use std::sync::Arc;

use crate::{Admin, BackendProvider, EntryId, QuarantineRelease, Quarantined, Result, ServiceName};

/// Entries per request of [`QuarantineAdmin::all`].
const PAGE: usize = 500;

/// Lists a service's quarantine, and releases or removes its entries. A cheap handle for
/// operators' programs; it needs no client.
///
/// In quarantine are the announcements that could not be read, and those whose
/// owners failed [`quarantine_after`](crate::ClientBuilder::quarantine_after)
/// times. They stay until somebody releases or drops them.
#[derive(Debug, Clone)]
pub struct QuarantineAdmin {
    admin: Arc<dyn Admin>,
}

impl QuarantineAdmin {
    /// For the quarantine of `service` on `backend`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if the service name is invalid.
    pub fn new(service: impl AsRef<str>, backend: &dyn BackendProvider) -> Result<Self> {
        let service = ServiceName::new(service)?;
        Ok(Self {
            admin: backend.backend(&service)?.admin,
        })
    }

    /// Quarantined entries with ids greater than `after`, at most `limit`, lowest id
    /// first. Begin with [`EntryId::MIN`]. A page may be short because its entries
    /// are long; only an empty one is the last.
    pub async fn page(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        self.admin.list_quarantined(after, limit).await
    }

    /// Everything that is in quarantine, lowest id first.
    pub async fn all(&self) -> Result<Vec<Quarantined>> {
        let mut all: Vec<Quarantined> = Vec::new();
        loop {
            let after = all.last().map_or(EntryId::MIN, |last| last.entry);
            let page = self.page(after, PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Announces entries again, as they were: each gets a new id, and its
    /// failures count from 0. One result per entry, in this order.
    ///
    /// An entry that could not be read still cannot be read. It will be quarantined again
    /// under its new id.
    ///
    /// # Errors
    /// Some may be released. Calling again with the same entries releases the
    /// others, and for five minutes also tells the ids of those that were.
    pub async fn release(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        self.admin.release_quarantined(entries).await
    }

    /// Removes entries for good; nothing of them is left. One result per entry,
    /// in this order: whether this call found it in quarantine.
    ///
    /// # Errors
    /// Some may be removed. Calling again with the same entries removes the others.
    pub async fn drop(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        self.admin.drop_quarantined(entries).await
    }
}
