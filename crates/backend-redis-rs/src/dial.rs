//! [`Dial`]: a transport of the application's own.

use std::io;

use async_trait::async_trait;
use futures_lite::{AsyncRead, AsyncWrite};

/// Bytes both ways, until it is dropped.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Makes the connections, instead of TCP and TLS of this crate: through a tunnel or a proxy,
/// or with TLS of one's own.
///
/// What it gives carries the server's protocol as it is; no TLS is laid over it. So the URL
/// begins with `redis` and not with `rediss`, which is refused: whoever dials decides
/// whether the link is encrypted, and whom to trust.
///
/// Called for each connection, by several at once, also for those to sentinels and to the
/// nodes that a cluster names. What it takes is part of the time that connecting may take.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Connects to this host, as the URL, a sentinel or a node names it.
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Link>>;
}
