//! [`Backend`]: what a client is built on, and [`BackendProvider`], which hands it out per service.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{
    Admin, ConsumerName, LockManager, Notifier, Result, ServiceName, Submitter, Transport,
};

/// The parts of one service.
///
/// They need not come from one system. To keep the locks elsewhere than the load
/// balancer stream (LBS), take a backend and replace its [`locks`](Self::locks).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Backend {
    /// The LBS, for consumers.
    pub transport: Arc<dyn Transport>,
    /// The LBS, for producers.
    pub submitter: Arc<dyn Submitter>,
    /// The LBS, for operators.
    pub admin: Arc<dyn Admin>,
    /// The locks.
    pub locks: Arc<dyn LockManager>,
    /// The hints.
    pub notifier: Arc<dyn Notifier>,
    /// What stands in front of a consumer's identity in its name. Empty unless the
    /// backend's wire format asks for it.
    pub consumer_prefix: &'static str,
}

impl Backend {
    /// A backend of these parts, with consumers whose names are their identities.
    pub fn new(
        lbs: Arc<impl Transport + Submitter + Admin>,
        locks: Arc<dyn LockManager>,
        notifier: Arc<dyn Notifier>,
    ) -> Self {
        Self {
            transport: lbs.clone(),
            submitter: lbs.clone(),
            admin: lbs,
            locks,
            notifier,
            consumer_prefix: "",
        }
    }

    /// The name of the consumer with this identity.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), as
    /// [`ConsumerName::from_identity`] says.
    pub fn consumer_name(&self, identity: impl AsRef<str>) -> Result<ConsumerName> {
        let name = ConsumerName::from_identity(identity)?;
        Ok(match self.consumer_prefix {
            "" => name,
            prefix => ConsumerName::from_wire(format!("{prefix}{name}")),
        })
    }
}

/// Something that has a [`Backend`] for every service: a Redis server, a memory.
pub trait BackendProvider: Debug + Send + Sync + 'static {
    /// The backend of `service`. Does no I/O.
    fn backend(&self, service: &ServiceName) -> Result<Backend>;
}

/// For a backend that is chosen at run time.
impl<T: BackendProvider + ?Sized> BackendProvider for Arc<T> {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        (**self).backend(service)
    }
}
