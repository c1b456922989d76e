//! [`RedisBackend`]: connecting, and handing out the parts of a service.

use std::sync::Arc;

use streamlease_core::{Backend, BackendProvider, LockManager, LockScheme, Result, ServiceName};

use crate::builder::{Options, RedisBackendBuilder};
use crate::connection::{Servers, read_url};
use crate::hello;
use crate::keys::{CONSUMER_PREFIX, Keys};
use crate::locks::per_stream::PerStreamLocks;
use crate::locks::session::SessionLocks;
use crate::notifier::RedisNotifier;
use crate::transport::RedisTransport;

/// Redis or Valkey, for any number of services.
///
/// Cheap to clone; clones share connections. See the [crate docs](crate) for
/// which keys it uses and which connections it keeps.
#[derive(Debug, Clone)]
pub struct RedisBackend {
    pub(crate) servers: Arc<Servers>,
    pub(crate) scheme: LockScheme,
}

impl RedisBackend {
    /// The server at `url`, for example `redis://user:password@host:6379/0`,
    /// `rediss://…` with one of the TLS features, or `unix:///path/to/socket`; or the one
    /// that sentinels name, `redis-sentinel://host:26379,host:26379/mymaster/0`; or a
    /// cluster, `redis-cluster://host:6379,host:6379`. In a user name or a password write `/` as
    /// `%2F`, `?` as `%3F`, `#` as `%23`, `@` as `%40`, `:` as `%3A`, `&` as `%26`, `+` as `%2B`
    /// and `%` as `%25`, or give them to [`RedisBackendBuilder::credentials`] as they are.
    ///
    /// Reads the URL and does no I/O: the first call connects, and so does the
    /// first call after a connection broke. A server that is not up yet is so
    /// waited for by whoever uses this, as its retry policy says.
    ///
    /// The URL's database is used for everything. Go consumers of a shared
    /// fleet look at database 0 only.
    ///
    /// # Errors
    /// [`Config`](streamlease_core::ErrorKind::Config): the URL is not usable.
    /// The message names it without its password.
    pub fn new(url: impl AsRef<str>) -> Result<Self> {
        Self::with(url.as_ref(), Options::default())
    }

    /// What `url` leads to, with what it cannot say: certificates, time-outs, credentials
    /// that change, those of sentinels, a transport of your own.
    pub fn builder(url: impl AsRef<str>) -> RedisBackendBuilder {
        RedisBackendBuilder::new(url.as_ref())
    }

    pub(crate) fn with(url: &str, options: Options) -> Result<Self> {
        Ok(Self {
            servers: Arc::new(read_url(url, &options)?),
            scheme: LockScheme::Session,
        })
    }

    pub(crate) async fn check_reachable(&self) -> Result<()> {
        self.servers.any().ping().await
    }

    /// Like [`new`](Self::new), and connects at once: an eager check that fails
    /// if the server is not up, or still loading. It does not wait for it.
    ///
    /// # Errors
    /// [`Config`](streamlease_core::ErrorKind::Config): the URL is not usable, or asks for
    /// TLS where there is none, or for none where there is.
    /// [`Unavailable`](streamlease_core::ErrorKind::Unavailable): the server
    /// cannot be reached, or is not ready.
    /// [`Denied`](streamlease_core::ErrorKind::Denied): wrong user or password, or the
    /// certificate of the server or of the client will not do.
    /// The message names the URL without its password.
    ///
    /// # Panics
    /// With the feature `tokio` alone, outside of a tokio runtime (or inside one
    /// without its I/O and time drivers): tokio itself does.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// The same server with these locks. Without this they are
    /// [`LockScheme::Session`]; fleets with Go consumers need
    /// [`LockScheme::PerStream`].
    ///
    /// A service keeps the scheme with which its group was made. A consumer with
    /// the other one ends with an
    /// [`Incompatible`](streamlease_core::ErrorKind::Incompatible) error, and so
    /// does one with session leases where the group was made by a Go consumer.
    #[must_use]
    pub fn with_lock_scheme(mut self, scheme: LockScheme) -> Self {
        self.scheme = scheme;
        self
    }
}

impl BackendProvider for RedisBackend {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        let keys = Arc::new(Keys::new(service));
        let servers = &self.servers;
        if servers.is_cluster() && self.scheme == LockScheme::PerStream {
            return Err(hello::no_per_stream_locks(servers.endpoint()));
        }
        let server = servers.of(&keys)?;
        let locks: Arc<dyn LockManager> = match self.scheme {
            LockScheme::PerStream => Arc::new(PerStreamLocks::new(server.clone(), keys.clone())),
            LockScheme::Session => Arc::new(SessionLocks::new(server.clone(), keys.clone())),
        };
        let transport = RedisTransport::new(server.clone(), keys.clone(), self.scheme);
        let notifier = RedisNotifier::new(server.clone(), keys, self.scheme);
        let mut backend = Backend::new(Arc::new(transport), locks, Arc::new(notifier));
        backend.consumer_prefix = CONSUMER_PREFIX;
        Ok(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumers_name_has_the_prefix_that_the_wire_format_asks_for() {
        let server = RedisBackend::new("redis://127.0.0.1:1").unwrap();
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            let service = ServiceName::new("orders").unwrap();
            let backend = server.clone().with_lock_scheme(scheme).backend(&service);
            let name = backend.unwrap().consumer_name("pod-7").unwrap();
            assert_eq!(name.as_str(), "redis-consumer-pod-7");
        }
    }
}
