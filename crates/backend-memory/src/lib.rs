//! All of streamlease's backend traits in process: the embedded default, and the
//! fake for unit tests that need neither Redis nor sleeping.
//!
//! A [`MemoryBackend`] stands for a server. Clients, producers and tests that
//! share one (it is cheap to clone) see the same services; it lives as long as
//! the last of them. It guarantees what the contracts of
//! [`Transport`](streamlease_core::Transport),
//! [`LockManager`] and
//! [`Notifier`](streamlease_core::Notifier) say, with the clock of the
//! [`Runtime`] it was made with as the server's clock: simulated time makes
//! locks expire in simulated time. Nothing is written to disk, and nothing
//! leaves the process.
//!
//! Each service is one state behind one mutex. Every operation is one step
//! under it, so it is atomic whole, and the hints that belong to a change are
//! published with it.

mod key_lock;
mod lbs;
mod locks;
mod notifier;
mod service;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use streamlease_core::{
    Backend, BackendProvider, EntryId, KeyLockManager, LockManager, LockScheme, Result, Runtime,
    ServiceName,
};

use crate::key_lock::MemoryKeyLock;
use crate::locks::MemoryLocks;
use crate::notifier::MemoryNotifier;
use crate::service::Service;
use crate::transport::MemoryTransport;

/// A server in memory, with any number of services. Clones share it.
#[derive(Clone)]
pub struct MemoryBackend {
    server: Arc<Server>,
}

struct Server {
    runtime: Arc<dyn Runtime>,
    scheme: LockScheme,
    services: Mutex<BTreeMap<ServiceName, Arc<Service>>>,
}

impl MemoryBackend {
    /// A server with session leases and the clock of `runtime`.
    pub fn new(runtime: impl Runtime) -> Self {
        Self::with_scheme(Arc::new(runtime), LockScheme::Session)
    }

    /// The same with a lock per data stream, as the Redis wire format has them.
    /// For tests of what differs between the two.
    pub fn per_stream_locks(runtime: impl Runtime) -> Self {
        Self::with_scheme(Arc::new(runtime), LockScheme::PerStream)
    }

    fn with_scheme(runtime: Arc<dyn Runtime>, scheme: LockScheme) -> Self {
        let services = Mutex::default();
        Self {
            server: Arc::new(Server {
                runtime,
                scheme,
                services,
            }),
        }
    }

    /// Appends an entry with these fields, whatever they are: to see what
    /// becomes of malformed ones.
    pub fn submit_raw(&self, service: &ServiceName, fields: Vec<(Vec<u8>, Vec<u8>)>) -> EntryId {
        self.service(service).step(|state, now| {
            let id = state.lbs.append(fields, now);
            state.serve_fetches(now);
            id
        })
    }

    /// Loses everything of the service, as a server that was restarted empty:
    /// its load balancer stream (LBS), group, quarantine and locks. Running fetches fail.
    pub fn wipe(&self, service: &ServiceName) {
        self.service(service).step(|state, _| state.wipe());
    }

    /// Destroys the service's consumer group, and with it who has what pending.
    /// The entries and their tokens stay. Running fetches fail.
    pub fn destroy_group(&self, service: &ServiceName) {
        self.service(service).step(|state, _| state.destroy_group());
    }

    fn service(&self, name: &ServiceName) -> Arc<Service> {
        let mut services = self
            .server
            .services
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Service::new(self.server.runtime.clone()));
        services.entry(name.clone()).or_insert_with(new).clone()
    }
}

impl BackendProvider for MemoryBackend {
    fn backend(&self, name: &ServiceName) -> Result<Backend> {
        let service = self.service(name);
        let locks: Arc<dyn LockManager> = match self.server.scheme {
            LockScheme::Session => Arc::new(MemoryLocks::new(service.clone())),
            LockScheme::PerStream => {
                let keys = MemoryKeyLock::new(service.clone());
                Arc::new(KeyLockManager::new(name, Arc::new(keys)))
            }
        };
        let transport = MemoryTransport::new(service.clone());
        let notifier = MemoryNotifier::new(service);
        Ok(Backend::new(Arc::new(transport), locks, Arc::new(notifier)))
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("scheme", &self.server.scheme)
            .finish_non_exhaustive()
    }
}
