//! [`Server`]: the connections to one Redis server.
//!
//! - One multiplexed connection for commands, made anew when it breaks or does
//!   not answer in time: a peer that vanished without a word would otherwise
//!   hold every command up until TCP gives up.
//! - Readers: connections for blocking fetches, since everything behind a
//!   blocked read on a connection waits for it. One is used by one fetch at a
//!   time and kept for the next; a fetch that fails or is dropped closes its
//!   own, so that the server abandons the read too.
//! - One pub/sub connection per subscription.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis_rs::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis_rs::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, Value, cmd,
};
use streamlease_core::{Error, ErrorKind, Result};

use crate::error::{from_redis, from_server, protocol};
use crate::timer;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take. Far below the default TTL, so that a beat which
/// went into the void can be sent again over a new connection in time.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than its BLOCK a blocking read may take.
const BLOCK_GRACE: Duration = Duration::from_secs(2);
/// How long a request that is given up must have been without an answer to cast
/// doubt on its connection.
const SUSPICIOUS_SILENCE: Duration = Duration::from_millis(100);
/// Scripts sent in one go.
const PIPELINE: usize = 32;
/// Idle readers kept.
const IDLE_READERS: usize = 4;

/// One Redis server. Reconnects by itself: a failed call's successor finds a new connection.
pub(crate) struct Server {
    client: Client,
    /// The URL without its password, for messages.
    endpoint: String,
    db: i64,
    command: async_lock::Mutex<Option<Link>>,
    readers: Mutex<Vec<MultiplexedConnection>>,
}

/// A command connection, and what is known of how well it works.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    health: Arc<Health>,
}

#[derive(Default)]
struct Health {
    /// Answers that have come.
    answers: AtomicU64,
    /// Not to be used any more.
    broken: AtomicBool,
}

/// A request under way. Dropped unanswered – our caller may be less patient than
/// the response time-out – it tells that the peer may have vanished, unless
/// another request has been answered meanwhile.
struct Waiting<'a> {
    health: &'a Health,
    answers_before: u64,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn new(health: &'a Health) -> Self {
        let answers_before = health.answers.load(Ordering::Relaxed);
        Self {
            health,
            answers_before,
            since: Instant::now(),
        }
    }

    fn answered(self) {
        self.health.answers.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let silent = self.health.answers.load(Ordering::Relaxed) == self.answers_before;
        if silent && self.since.elapsed() >= SUSPICIOUS_SILENCE {
            self.health.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Reads `url`. No I/O.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let endpoint = without_password(url);
        refuse_tls_without_its_feature(url, &endpoint)?;
        let bad = |err: RedisError| {
            Error::with_source(
                ErrorKind::Config,
                format!(
                    "redis URL {endpoint:?} is not usable ({err}); it looks like \
                     redis://user:password@host:6379/0, or rediss:// for TLS"
                ),
                err,
            )
        };
        let info = url.into_connection_info().map_err(bad)?;
        // Off by default in the client crate; it costs a third of the latency.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        if matches!(info.addr(), redis_rs::ConnectionAddr::TcpTls { .. }) {
            prepare_tls();
        }
        let db = info.redis_settings().db();
        Ok(Self {
            client: Client::open(info).map_err(bad)?,
            endpoint,
            db,
            command: async_lock::Mutex::new(None),
            readers: Mutex::default(),
        })
    }

    /// The number of the database.
    pub(crate) fn db(&self) -> i64 {
        self.db
    }

    /// The URL without its password.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends one command.
    pub(crate) async fn command(&self, what: &str, command: &Cmd) -> Result<Value> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command.clone());
        let reply = self.pipeline(what, &pipeline).await?.into_iter().next();
        self.checked(what, reply.ok_or_else(|| protocol("no reply"))?)
    }

    /// Runs a script for each of `calls`, in order, and returns their replies.
    ///
    /// By hash; a server that does not know it (any more) is given the script,
    /// and only the calls that it did not run are repeated.
    pub(crate) async fn run(
        &self,
        what: &str,
        script: &Script,
        calls: &[Call],
    ) -> Result<Vec<Value>> {
        let mut replies = Vec::with_capacity(calls.len());
        for calls in calls.chunks(PIPELINE) {
            let mut pipeline = Pipeline::new();
            for call in calls {
                pipeline.add_command(call.by_hash(script));
            }
            for (call, reply) in calls.iter().zip(self.pipeline(what, &pipeline).await?) {
                let unknown = matches!(&reply, Value::ServerError(err) if err.code() == "NOSCRIPT");
                let reply = if unknown {
                    self.load_and_run(what, script, call).await?
                } else {
                    reply
                };
                replies.push(self.checked(what, reply)?);
            }
        }
        if replies.len() == calls.len() {
            Ok(replies)
        } else {
            Err(protocol("replies are missing"))
        }
    }

    async fn load_and_run(&self, what: &str, script: &Script, call: &Call) -> Result<Value> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(call.by_code(script));
        let reply = self.pipeline(what, &pipeline).await?.pop();
        reply.ok_or_else(|| protocol("no reply"))
    }

    /// Runs a script once.
    pub(crate) async fn run_one(&self, what: &str, script: &Script, call: Call) -> Result<Value> {
        let reply = self
            .run(what, script, std::slice::from_ref(&call))
            .await?
            .pop();
        reply.ok_or_else(|| protocol("no reply"))
    }

    /// Sends commands and returns their replies, errors among them.
    ///
    /// Never sends again what may have been executed: the caller has to know
    /// that it asks for the second time, to read an answer like "gone" rightly.
    pub(crate) async fn pipeline(&self, what: &str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let mut link = self.link().await?;
        let waiting = Waiting::new(&link.health);
        let replies = link
            .connection
            .send_packed_commands(pipeline, 0, pipeline.len());
        match replies.await {
            Ok(replies) => {
                waiting.answered();
                Ok(replies)
            }
            Err(err) => {
                if err.is_io_error() || err.is_unrecoverable_error() {
                    link.health.broken.store(true, Ordering::Relaxed);
                }
                Err(self.failed(what, err))
            }
        }
    }

    /// The command connection, made if there is none that works. Callers that
    /// come meanwhile wait for it instead of making their own.
    async fn link(&self) -> Result<Link> {
        let mut slot = self.command.lock().await;
        if let Some(link) = slot.take_if(|link| link.health.broken.load(Ordering::Relaxed)) {
            log::debug!("dropping a broken connection to {}", self.endpoint);
            drop(link);
        }
        if let Some(link) = &*slot {
            return Ok(link.clone());
        }
        let connection = self.connect(Some(RESPONSE_TIMEOUT)).await?;
        log::debug!("connected to {}", self.endpoint);
        let link = Link {
            connection,
            health: Arc::default(),
        };
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Sends commands of which the first blocks for up to `block`, on a connection of their own.
    /// Never repeated: what an unanswered read took is in the pending list.
    pub(crate) async fn blocking(
        &self,
        what: &str,
        pipeline: &Pipeline,
        block: Duration,
    ) -> Result<Vec<Value>> {
        let idle = self.readers().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            // No response time-out: it would have no exemption for a blocking read.
            None => self.connect(None).await?,
        };
        let read = connection.send_packed_commands(pipeline, 0, pipeline.len());
        // On every way out but the last the connection is dropped, and so closed.
        let reply = timer::within(block.saturating_add(BLOCK_GRACE), read).await;
        let replies =
            reply.unwrap_or_else(|| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        let mut readers = self.readers();
        let replies = replies.map_err(|err| {
            // What broke this one has hardly spared the idle ones.
            readers.clear();
            self.failed(what, err)
        })?;
        if readers.len() < IDLE_READERS {
            readers.push(connection);
        }
        Ok(replies)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for subscriptions.
    pub(crate) async fn pubsub(&self) -> Result<(PubSubSink, PubSubStream)> {
        match timer::within(CONNECT_TIMEOUT, self.client.get_async_pubsub()).await {
            Some(Ok(pubsub)) => Ok(pubsub.split()),
            Some(Err(err)) => Err(self.failed("connecting for notifications", err)),
            None => Err(self.failed(
                "connecting for notifications",
                std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
            )),
        }
    }

    async fn connect(&self, response_timeout: Option<Duration>) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(response_timeout);
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        connection.map_err(|err| self.failed("connecting", err))
    }

    /// Asks for a sign of life, so that wrong settings show before anything starts.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.command("connecting", &cmd("PING")).await.map(drop)
    }

    /// The reply, unless it is an error.
    pub(crate) fn checked(&self, what: &str, reply: Value) -> Result<Value> {
        match reply {
            Value::ServerError(err) => Err(from_server(&self.context(what), &err)),
            reply => Ok(reply),
        }
    }

    pub(crate) fn failed(&self, what: &str, err: RedisError) -> Error {
        from_redis(&self.context(what), err)
    }

    fn context(&self, what: &str) -> String {
        format!("{what} ({})", self.endpoint)
    }
}

/// A Lua script and the hash by which a server knows it.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self {
            code,
            hash: redis_rs::Script::new(code).get_hash().to_owned(),
        }
    }
}

/// A script of these files in `scripts`, one behind the other: its heads, and itself.
macro_rules! script {
    ($($part:literal),+) => {
        std::sync::LazyLock::new(|| {
            $crate::connection::Script::new(concat!($(
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/", $part, ".lua"))
            ),+))
        })
    };
}
pub(crate) use script;

/// One call of a script.
#[derive(Debug, Default)]
pub(crate) struct Call {
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.keys.push(key.as_ref().to_vec());
        self
    }

    pub(crate) fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(arg.as_ref().to_vec());
        self
    }

    pub(crate) fn args<A: AsRef<[u8]>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_vec());
        self.args.extend(args);
        self
    }

    fn by_hash(&self, script: &Script) -> Cmd {
        self.command("EVALSHA", &script.hash)
    }

    /// The server remembers the script from then on.
    fn by_code(&self, script: &Script) -> Cmd {
        self.command("EVAL", script.code)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command
            .arg(script)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}

/// The client crate's own words for it name no feature of ours.
fn refuse_tls_without_its_feature(url: &str, endpoint: &str) -> Result<()> {
    let built_in = cfg!(any(feature = "tls-rustls", feature = "tls-native-tls"));
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if built_in || !matches!(scheme, "rediss" | "valkeys") {
        return Ok(());
    }
    Err(Error::config(format!(
        "redis URL {endpoint:?} asks for TLS, which this build leaves out; enable the feature \
         `tls-rustls` or `tls-native-tls`"
    )))
}

/// rustls panics at the first connection if the process has no crypto provider
/// of its choice: then ours is installed. A choice the application made stays.
fn prepare_tls() {
    #[cfg(feature = "tls-rustls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that somebody else was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// `url` for messages: the password, and parameters that might hold one, left out.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (rest, parameters) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let shown = match rest.rsplit_once('@') {
        // Perhaps a password that should have been escaped: where it ends nobody can say.
        _ if parameters.contains('@') => "***".to_owned(),
        Some((credentials, host)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{user}:***@{host}")
        }
        None => rest.to_owned(),
    };
    if scheme.is_empty() {
        shown
    } else {
        format!("{scheme}://{shown}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_the_url_without_its_password() {
        for (url, shown) in [
            ("redis://localhost:6379/1", "redis://localhost:6379/1"),
            ("redis://:secret@h:1", "redis://:***@h:1"),
            ("redis://me:sec@ret@h:1/2", "redis://me:***@h:1/2"),
            (
                "unix:///run/redis.sock?db=1&pass=secret",
                "unix:///run/redis.sock",
            ),
            ("me:secret@h", "me:***@h"),
            ("redis://:sec#ret@h:1", "redis://***"),
            ("redis://me:sec@re?t@h:1/2", "redis://***"),
            ("unix:///run/redis.sock?pass=sec@ret", "unix://***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
    #[test]
    fn a_url_with_tls_is_refused_by_naming_the_feature_that_is_off() {
        for url in ["rediss://:secret@h:1", "valkeys://h"] {
            let err = Server::new(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config);
            assert!(err.to_string().contains("`tls-rustls`"), "{err}");
            assert!(!err.to_string().contains("secret"), "{err}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_with_what_would_be_right() {
        for url in [
            "",
            "localhost",
            "http://localhost",
            "redis://",
            "redis://h/x",
            "redis://:secret@h:port",
        ] {
            let err = Server::new(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config, "{url}");
            let shown = format!("{err:?} {err}");
            assert!(
                shown.contains("redis://user:password@host:6379/0"),
                "{shown}"
            );
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
