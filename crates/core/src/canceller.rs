//! [`Canceller`]: takes announcements back.

use std::collections::BTreeMap;

use crate::transport::{CompleteOutcome, Fenced, Pending, Scope};
use crate::{
    Announcement, Backend, BackendProvider, ConsumerName, EntryId, Error, ErrorKind, FencingToken,
    MalformedReason, Result, ServiceName, StreamName,
};

/// Entries dealt with together.
const PAGE: usize = 500;

/// Withdraws the announcements of data streams, and ends those that are held. A cheap handle
/// for operators' programs; it needs no client.
#[derive(Debug, Clone)]
pub struct Canceller {
    backend: Backend,
}

impl Canceller {
    /// For the data streams of `service` on `backend`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the service name is invalid.
    pub fn new(service: impl AsRef<str>, backend: &dyn BackendProvider) -> Result<Self> {
        let backend = backend.backend(&ServiceName::new(service)?)?;
        Ok(Self { backend })
    }

    /// Removes all entries of these data streams from the load balancer stream (LBS) for good.
    /// One result per data stream, in this order: the entries that this call removed.
    ///
    /// Each entry goes in one step, fenced by a token above every owner's: from then on nobody
    /// can take, complete or hand back anything of it. An owner is asked to release its lease,
    /// and gets [`StreamDisowned`](crate::Event::StreamDisowned) by its next heartbeat, at most
    /// a third of its TTL later, as [`Cancelled`](crate::DisownReason::Cancelled). With
    /// per-stream locks nobody can be asked: the owner learns of it when it looks at its entries, within a few TTLs, and a Go consumer when it ends. So
    /// until then it works on. It is told [`EntryGone`](crate::DisownReason::EntryGone) then. So
    /// is an owner that finds its entry gone before it is asked, because it completes it.
    ///
    /// Reads the whole LBS. Entries that are announced meanwhile may stay, and so does what is
    /// in quarantine.
    ///
    /// # Errors
    /// Some entries may be removed. Calling again with the same data streams removes the others.
    pub async fn cancel(&self, streams: &[StreamName]) -> Result<Vec<Vec<EntryId>>> {
        let mut cancelled: BTreeMap<&StreamName, Vec<EntryId>> = BTreeMap::new();
        for (entry, stream) in self.entries().await? {
            let Some(stream) = streams.iter().find(|wanted| **wanted == stream) else {
                continue;
            };
            // Alone: the answers for a page are those of pending entries.
            if self.remove(entry).await? {
                cancelled.entry(stream).or_default().push(entry);
            }
        }
        // Afterwards, so that nobody takes up what an owner releases.
        if let Some(sessions) = self.backend.locks.sessions() {
            sessions.revoke(streams).await?;
        }
        let of = |stream| cancelled.get(stream).cloned().unwrap_or_default();
        Ok(streams.iter().map(of).collect())
    }

    async fn remove(&self, entry: EntryId) -> Result<bool> {
        let nobody = ConsumerName::from_identity("cancelled")?;
        let token = FencingToken(FencingToken::LIMIT.get() - 1);
        let fenced = [Fenced { entry, token }];
        let outcomes = self.backend.transport.complete(&nobody, &fenced).await?;
        match outcomes.first() {
            Some(CompleteOutcome::NotOwner { .. }) => Err(Error::new(
                ErrorKind::Protocol,
                format!("the fencing record of {entry} cannot be read: it stays"),
            )),
            outcome => Ok(outcome == Some(&CompleteOutcome::Completed)),
        }
    }

    /// Everything on the LBS that can be read.
    async fn entries(&self) -> Result<Vec<(EntryId, StreamName)>> {
        let Backend {
            transport, admin, ..
        } = &self.backend;
        let mut found = Vec::new();
        let mut add = |entry: EntryId, content: Result<Announcement, MalformedReason>| {
            found.extend(content.ok().map(|said| (entry, said.stream)));
        };
        // Delivered meanwhile, they are found among the pending ones.
        let mut after = EntryId::MIN;
        loop {
            let page = or_empty(admin.list_undelivered(after, PAGE).await)?;
            let Some(last) = page.last() else { break };
            after = last.entry;
            for delivery in page {
                add(delivery.entry, delivery.content);
            }
        }
        let mut after = Some(EntryId::MIN);
        while let Some(from) = after {
            let scope = Scope::All { after: from };
            let page = or_empty(transport.list_pending(&scope, PAGE).await)?;
            after = page.next;
            for Pending { entry, content, .. } in page.entries {
                add(entry, content);
            }
        }
        let mut after = Some(EntryId::MIN);
        while let Some(from) = after {
            let page = or_empty(transport.list_stranded(from, PAGE).await)?;
            after = page.next;
            let scope = Scope::Entries(page.entries);
            let page = or_empty(transport.list_pending(&scope, PAGE).await)?;
            for Pending { entry, content, .. } in page.entries {
                add(entry, content);
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Without a group there is nothing that was delivered.
fn or_empty<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(err) if err.kind() == ErrorKind::NotPrepared => Ok(T::default()),
        other => other,
    }
}
