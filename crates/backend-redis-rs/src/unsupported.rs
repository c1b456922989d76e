//! [`RedisBackend`] of a build that cannot connect: without a runtime's feature.

use streamlease_core::{
    Backend, BackendProvider, Error, ErrorKind, LockScheme, Result, ServiceName,
};

use crate::builder::{Options, RedisBackendBuilder};

/// One Redis (or Valkey) server. This build has neither the feature `tokio` nor
/// `smol`, so it cannot connect.
#[derive(Debug, Clone)]
pub struct RedisBackend {
    never: std::convert::Infallible,
}

impl RedisBackend {
    /// Fails: enable the feature `tokio` or `smol`.
    ///
    /// # Errors
    /// Always [`Environment`](ErrorKind::Environment).
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::new(url)
    }

    /// Fails: enable the feature `tokio` or `smol`.
    ///
    /// # Errors
    /// Always [`Environment`](ErrorKind::Environment).
    pub fn new(_url: impl AsRef<str>) -> Result<Self> {
        Err(Error::new(
            ErrorKind::Environment,
            "streamlease-backend-redis-rs was built without a runtime; enable its feature \
             `tokio`, or `smol` (which async-std uses too)",
        ))
    }

    /// The same: what is built of it is this error.
    pub fn builder(url: impl AsRef<str>) -> RedisBackendBuilder {
        RedisBackendBuilder::new(url.as_ref())
    }

    pub(crate) fn with(url: &str, _options: Options) -> Result<Self> {
        Self::new(url)
    }

    pub(crate) async fn check_reachable(&self) -> Result<()> {
        match self.never {}
    }

    /// Never called: there is no value of this type.
    #[must_use]
    pub fn with_lock_scheme(self, _scheme: LockScheme) -> Self {
        match self.never {}
    }

    /// Never called: there is no value of this type.
    pub async fn recorded_lock_scheme(&self, _service: &ServiceName) -> Result<Option<LockScheme>> {
        match self.never {}
    }

    /// Never called: there is no value of this type.
    pub fn acl_rules(&self, _service: &ServiceName) -> Vec<String> {
        match self.never {}
    }

    /// Never called: there is no value of this type.
    pub async fn eviction_policy(&self) -> Result<Option<String>> {
        match self.never {}
    }

    /// Never called: there is no value of this type.
    pub async fn migrate(&self, _service: &ServiceName, _to: LockScheme) -> Result<()> {
        match self.never {}
    }
}

impl BackendProvider for RedisBackend {
    fn backend(&self, _service: &ServiceName) -> Result<Backend> {
        match self.never {}
    }
}
