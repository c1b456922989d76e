//! [`Backend`]: what a client is built on, and [`BackendProvider`], which hands it out per service.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{LockManager, Notifier, Result, ServiceName, Transport};

/// The three traits of one service. Mix them as you like: the locks may live in
/// another system than the load balancer stream (LBS).
#[derive(Debug, Clone)]
pub struct Backend {
    /// The LBS.
    pub transport: Arc<dyn Transport>,
    /// The locks.
    pub locks: Arc<dyn LockManager>,
    /// The hints.
    pub notifier: Arc<dyn Notifier>,
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
