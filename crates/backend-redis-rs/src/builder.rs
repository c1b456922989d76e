//! [`RedisBackendBuilder`]: what a URL cannot say.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{Error, Result};

use crate::{CredentialProvider, Dial, RedisBackend};

/// Connecting, from the look-up of the name to the credentials.
const CONNECT: Duration = Duration::from_secs(8);
/// Far below the default TTL, so that a heartbeat which went into the void can be sent again
/// over a new connection in time.
const ANSWER: Duration = Duration::from_secs(2);
const BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            answer: ANSWER,
        }
    }
}

/// What the builder was told.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) credentials: Option<Arc<dyn CredentialProvider>>,
    pub(crate) sentinel_credentials: Option<Arc<dyn CredentialProvider>>,
    pub(crate) dial: Option<Arc<dyn Dial>>,
    pub(crate) limits: Limits,
}

/// Settings of a [`RedisBackend`] that its URL cannot say. Begun with
/// [`RedisBackend::builder`].
///
/// ```
/// # use std::time::Duration;
/// # use streamlease_backend_redis_rs::{Credentials, RedisBackend};
/// # fn backend(token: String) -> streamlease_core::Result<RedisBackend> {
/// RedisBackend::builder("redis-sentinel://a:26379,b:26379,c:26379/mymaster")
///     .credentials(Credentials::new("orders", token))
///     .sentinel_credentials(Credentials::password("of the sentinels"))
///     .response_timeout(Duration::from_secs(1))
///     .build()
/// # }
/// ```
#[derive(Clone)]
pub struct RedisBackendBuilder {
    url: String,
    options: Options,
}

/// Without anything that is secret.
impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackendBuilder")
            .field("limits", &self.options.limits)
            .finish_non_exhaustive()
    }
}

impl RedisBackendBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            options: Options::default(),
        }
    }

    /// Trusts these certificates (PEM, one or more) instead of the system's, for servers,
    /// sentinels and nodes alike. With `rediss…://`.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.ca = Some(pem.into());
        self
    }

    /// Shows this certificate, or a chain of them, to whoever asks for one (PEM). With
    /// `rediss…://`.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.options.client = Some((certificate.into(), key.into()));
        self
    }

    /// Logs in to the servers as this says, which is asked at each connect; with a URL
    /// without credentials.
    #[must_use]
    pub fn credentials(mut self, provider: impl CredentialProvider + 'static) -> Self {
        self.options.credentials = Some(Arc::new(provider));
        self
    }

    /// Logs in to the sentinels as this says. They are not asked with the servers'
    /// credentials; without this they are asked without any.
    #[must_use]
    pub fn sentinel_credentials(mut self, provider: impl CredentialProvider + 'static) -> Self {
        self.options.sentinel_credentials = Some(Arc::new(provider));
        self
    }

    /// Makes all connections by this. With `redis…://`: what TLS they have is up to it.
    #[must_use]
    pub fn dial(mut self, dial: impl Dial + 'static) -> Self {
        self.options.dial = Some(Arc::new(dial));
        self
    }

    /// How long connecting may take, from the look-up of the name to the credentials:
    /// 8 s if not set, 0.1 s to 60 s. A call may be less patient; then the connect goes on for the next
    /// one.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.limits.connect = limit;
        self
    }

    /// How long the answer to a command may take: 2 s if not set, 0.1 s to 60 s. What is large, or
    /// blocks, has more.
    #[must_use]
    pub fn response_timeout(mut self, limit: Duration) -> Self {
        self.options.limits.answer = limit;
        self
    }

    /// The backend; no I/O, as [`RedisBackend::new`].
    ///
    /// # Errors
    /// [`Config`](streamlease_core::ErrorKind::Config): the URL or a setting is not usable,
    /// or they do not go together.
    pub fn build(self) -> Result<RedisBackend> {
        for (name, limit) in [
            ("connect_timeout", self.options.limits.connect),
            ("response_timeout", self.options.limits.answer),
        ] {
            if !BOUNDS.contains(&limit) {
                let (least, most) = (BOUNDS.start(), BOUNDS.end());
                return Err(Error::config(format!(
                    "{name} is {limit:?}; it must be {least:?} to {most:?}"
                )));
            }
        }
        RedisBackend::with(&self.url, self.options)
    }

    /// The backend, connected at once, as [`RedisBackend::connect`].
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and of [`RedisBackend::connect`].
    pub async fn connect(self) -> Result<RedisBackend> {
        let backend = self.build()?;
        backend.check_reachable().await?;
        Ok(backend)
    }
}
