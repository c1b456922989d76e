//! [`ServiceAdmin`]: pauses a service and resumes it.

use std::sync::Arc;

use crate::{Backend, BackendProvider, Pause, Result, ServiceName};

/// Pauses a service: nothing is taken until it is resumed, and what is held stays held. A
/// cheap handle for operators' programs; it needs no client.
///
/// ```
/// # use streamlease_core::{BackendProvider, Result, ServiceAdmin};
/// # async fn migrate(backend: &dyn BackendProvider) -> Result<()> {
/// let orders = ServiceAdmin::new("orders", backend)?;
/// orders.pause("the schema is being changed").await?;
/// // No lease begins from here on, at whichever consumer. Those that are held go on.
/// orders.resume().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ServiceAdmin {
    backend: Arc<Backend>,
}

impl ServiceAdmin {
    /// For `service` on `backend`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if the service name is invalid.
    pub fn new(service: impl AsRef<str>, backend: &dyn BackendProvider) -> Result<Self> {
        let service = ServiceName::new(service)?;
        Ok(Self {
            backend: Arc::new(backend.backend(&service)?),
        })
    }

    /// Pauses the service; `reason` is for people to read, and may be empty. `true` if this
    /// call began the pause: one that lasts already keeps its beginning and its reason.
    ///
    /// Once this has returned no consumer takes a stream: neither what is announced, nor
    /// what is handed back, nor what a dead one leaves. (A lease whose claim was executed
    /// before counts as held; its owner may hear of it a moment later.) What is held is
    /// renewed, completed, failed and handed back as ever; but what ends otherwise than by a
    /// completion has no owner until the service is resumed. Streams can be announced.
    ///
    /// A pause has no end of its own. It needs no consumer to run, and a consumer that starts
    /// in it takes nothing. Consumers of versions without pauses, and consumers of the wire
    /// format, do not know of it and go on taking.
    ///
    /// # Errors
    /// Whether the service is paused is unknown. Calling again is safe.
    /// [`Environment`](crate::ErrorKind::Environment) if the backend cannot pause services.
    pub async fn pause(&self, reason: &str) -> Result<bool> {
        self.backend.admin.pause(reason).await
    }

    /// Ends the pause. `true` if this call ended one.
    ///
    /// Consumers hear of it at once by a hint, and without one within a third of their TTL.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<bool> {
        self.backend.admin.resume().await
    }

    /// The pause, if the service is paused.
    ///
    /// # Errors
    /// Those of the backend.
    pub async fn paused(&self) -> Result<Option<Pause>> {
        self.backend.transport.paused().await
    }
}
