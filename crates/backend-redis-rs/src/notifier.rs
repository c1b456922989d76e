//! [`RedisNotifier`]: hints from our own channel and from expiring wire locks.
//!
//! Nothing depends on a hint, so whatever is refused – the flags, the pattern,
//! even the channel – is logged and done without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_lite::{StreamExt, future};
use redis_rs::aio::{PubSubSink, PubSubStream};
use redis_rs::{ErrorKind as RedisKind, Msg, Pipeline, RedisError, Value, cmd};
use streamlease_core::{
    ConsumerName, Error, ErrorKind, Hint, LockScheme, Notifier, Result, StreamName, Subscription,
    printable,
};

use crate::connection::{Lifetime, Server};
use crate::decode;
use crate::keys::{Keys, keyspace_channel, parse_wire_lock, wire_lock_pattern};
use crate::timer;

/// What has the flags.
const PARAMETER: &str = "notify-keyspace-events";
/// How long a subscription may be silent before it is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long the sign of life, and every other answer, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the probe's expiry may take to be heard of.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// The hints of one service.
#[derive(Debug)]
pub(crate) struct RedisNotifier {
    server: Arc<Server>,
    keys: Arc<Keys>,
    /// Session leases leave no keys whose expiry would tell anything.
    expiries: bool,
    /// Whether it was said already that the server tells of no expired keys.
    complained: Arc<AtomicBool>,
}

impl RedisNotifier {
    pub(crate) fn new(server: Arc<Server>, keys: Arc<Keys>, scheme: LockScheme) -> Self {
        Self {
            server,
            keys,
            expiries: scheme == LockScheme::PerStream,
            complained: Arc::default(),
        }
    }

    /// Has the server tell of expired keys, whatever else it is told to tell.
    /// At each subscription: a server that was restarted has forgotten.
    async fn set_flags(&self) -> Result<()> {
        let flags = flags(&self.server).await?;
        let Some(merged) = merge_flags(&flags) else {
            return Ok(());
        };
        let mut set = cmd("CONFIG");
        set.arg("SET").arg(PARAMETER).arg(&merged);
        self.server
            .command("setting the notification flags", &set)
            .await?;
        log::info!("{PARAMETER} was {flags:?}, is {merged:?} now");
        Ok(())
    }

    /// Sets the flags, or does without, and says why; an error if the server is away.
    async fn have_expiries_told(&self) -> Result<Option<Error>> {
        let mut flags = self.set_flags().await;
        if is_unavailable(&flags) {
            // A subscription is renewed because the server was gone, and the
            // command connection went with it.
            flags = self.set_flags().await;
        }
        match flags {
            Ok(()) => Ok(None),
            Err(err) if err.kind() == ErrorKind::Unavailable => Err(err),
            // Others may have set them: the probe tells.
            Err(err) => {
                log::debug!("notification flags left as they are: {err}");
                Ok(Some(err))
            }
        }
    }

    /// A key that expires at once, to hear whether the server tells of it.
    async fn probe(&self) -> Result<()> {
        let mut set = cmd("SET");
        set.arg(&self.keys.probe).arg(1).arg("PX").arg(1);
        self.server.command("probing notifications", &set).await?;
        timer::sleep(Duration::from_millis(3)).await;
        // Looking makes the server expire it.
        let mut exists = Pipeline::new();
        exists.cmd("EXISTS").arg(&self.keys.probe);
        self.server
            .pipeline("probing notifications", &exists)
            .await
            .map(drop)
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let refusal = match self.expiries {
            true => self.have_expiries_told().await?,
            false => None,
        };
        let db = self.server.db();
        let (lifetime, mut sink, stream) = self.server.pubsub().await?;
        let probe_channel = keyspace_channel(db, &self.keys.probe);
        self.accept(&self.keys.hints, sink.subscribe(&*self.keys.hints))
            .await?;
        let mut probing = false;
        if self.expiries {
            let heard = self
                .accept(&probe_channel, sink.subscribe(&*probe_channel))
                .await?;
            self.accept("the locks' pattern", sink.psubscribe(wire_lock_pattern(db)))
                .await?;
            probing = heard && self.probe().await.is_ok();
        }
        Ok(Box::new(RedisSubscription {
            server: self.server.clone(),
            lifetime,
            sink,
            stream,
            hints_channel: self.keys.hints.clone(),
            probe_channel,
            lock_prefix: keyspace_channel(db, ""),
            probe_until: probing.then(|| Instant::now() + PROBE_WITHIN),
            refusal,
            complained: self.complained.clone(),
            ping_at: Instant::now() + PING_EVERY,
        }))
    }
}

impl RedisNotifier {
    /// Waits for a subscription's answer; `false` if the server refused it for good.
    async fn accept(
        &self,
        channel: &str,
        answer: impl Future<Output = Result<(), RedisError>>,
    ) -> Result<bool> {
        match timer::within(ANSWER_WITHIN, answer).await {
            Some(Ok(())) => Ok(true),
            Some(Err(err)) if !err.is_io_error() && err.kind() != RedisKind::Parse => {
                let err = printable(err);
                log::info!("no notifications from {channel}: {err}");
                Ok(false)
            }
            Some(Err(err)) => Err(self.server.failed("subscribing", err)),
            None => Err(no_answer(&self.server)),
        }
    }
}

/// A subscription on a connection of its own.
struct RedisSubscription {
    server: Arc<Server>,
    /// A demoted server keeps subscriptions open, and tells nothing any more: others
    /// notice first.
    lifetime: Lifetime,
    sink: PubSubSink,
    stream: PubSubStream,
    hints_channel: String,
    probe_channel: String,
    /// In front of the key in the channels of the locks.
    lock_prefix: String,
    /// Until when the probe's expiry is waited for; `None` once that is known.
    probe_until: Option<Instant>,
    /// Why the server's flags could not be set.
    refusal: Option<Error>,
    complained: Arc<AtomicBool>,
    ping_at: Instant,
}

impl std::fmt::Debug for RedisSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSubscription")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Subscription for RedisSubscription {
    // Dropped at any point this loses nothing: messages wait in the stream.
    async fn next(&mut self) -> Result<Hint> {
        loop {
            let wake_at = self
                .probe_until
                .map_or(self.ping_at, |until| until.min(self.ping_at));
            let pause = wake_at.saturating_duration_since(Instant::now());
            let stream = &mut self.stream;
            let lifetime = &self.lifetime;
            let heard = future::or(async { Some(stream.next().await) }, async {
                timer::sleep(pause).await;
                None
            });
            let ended = async {
                lifetime.ended().await;
                Some(None)
            };
            match future::or(heard, ended).await {
                Some(Some(message)) => {
                    if let Some(hint) = self.read(&message) {
                        return Ok(hint);
                    }
                }
                Some(None) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "the connection for notifications broke, or was given up ({})",
                            self.server.endpoint()
                        ),
                    ));
                }
                None => self.on_silence().await?,
            }
        }
    }
}

impl RedisSubscription {
    async fn on_silence(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.probe_until.is_some_and(|until| until <= now) {
            self.probe_until = None;
            self.complain();
        }
        if self.ping_at <= now {
            // A frozen server keeps its connections open: only a question shows it.
            match timer::within(ANSWER_WITHIN, self.sink.ping::<Value>()).await {
                Some(Ok(_)) => self.ping_at = Instant::now() + PING_EVERY,
                // Refused is an answer too.
                Some(Err(err)) if err.code().is_some() => {
                    self.server.heed_error(&self.lifetime, &err);
                    self.ping_at = Instant::now() + PING_EVERY
                }
                Some(Err(err)) => return Err(self.server.failed("listening", err)),
                None => return Err(no_answer(&self.server)),
            }
        }
        Ok(())
    }

    /// Once: it is no worse the next time.
    fn complain(&self) {
        let endpoint = self.server.endpoint();
        if self.complained.swap(true, Ordering::Relaxed) {
            log::debug!("{endpoint}: the server still tells of no expired keys");
        } else if let Some(refusal) = &self.refusal {
            log::warn!(
                "{endpoint}: the server tells of no expired keys, so expired locks are found by \
                 their deadlines alone. Have notify-keyspace-events set to Kx (or more): with the \
                 provider's tool, or by CONFIG SET of somebody who may. It was refused to this \
                 client: {refusal}"
            );
        } else {
            log::info!(
                "{endpoint}: the server tells of no expired keys; running on deadlines alone"
            );
        }
    }

    fn read(&mut self, message: &Msg) -> Option<Hint> {
        // Not `get_channel_name`: it panics on a channel that is not UTF-8.
        let channel: Vec<u8> = message.get_channel().ok()?;
        if channel == self.hints_channel.as_bytes() {
            return read_hint(message.get_payload_bytes());
        }
        if message.get_payload_bytes() != b"expired" {
            return None;
        }
        if channel == self.probe_channel.as_bytes() {
            if self.probe_until.take().is_some() {
                log::debug!("the server tells of expired keys");
            }
            return None;
        }
        let (stream, entry) = parse_wire_lock(channel.strip_prefix(self.lock_prefix.as_bytes())?)?;
        Some(Hint::LockExpired { stream, entry })
    }
}

/// Of what the server tells.
pub(crate) async fn flags(server: &Server) -> Result<String> {
    let mut get = cmd("CONFIG");
    get.arg("GET").arg(PARAMETER);
    let reply = server
        .command("reading the notification flags", &get)
        .await?;
    match decode::pairs(reply)?.into_iter().next() {
        Some((_, flags)) => decode::text(flags),
        None => Ok(String::new()),
    }
}

fn is_unavailable(result: &Result<()>) -> bool {
    result
        .as_ref()
        .err()
        .is_some_and(|err| err.kind() == ErrorKind::Unavailable)
}

fn no_answer(server: &Server) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "no answer on the connection for notifications in time ({})",
            server.endpoint()
        ),
    )
}

/// The flags with what is needed added; `None` if it is all there.
/// `K`: tell on the key's channel. `x`: of expired keys; `A` stands for it too.
pub(crate) fn merge_flags(flags: &str) -> Option<String> {
    let mut merged = flags.to_owned();
    if !flags.contains('K') {
        merged.push('K');
    }
    if !flags.contains(['x', 'A']) {
        merged.push('x');
    }
    (merged != flags).then_some(merged)
}

/// Reads what the scripts publish; `None` for what they do not.
pub(crate) fn read_hint(payload: &[u8]) -> Option<Hint> {
    let (kind, rest) = payload.split_first()?;
    match kind {
        b'H' => {
            let ids = std::str::from_utf8(rest).ok()?.split(' ');
            Some(Hint::HandedBack(
                ids.map(|id| id.parse().ok()).collect::<Option<_>>()?,
            ))
        }
        b'F' => {
            let names = decode::pieces(rest)?.into_iter();
            let name = |name| StreamName::new(std::str::from_utf8(name).ok()?).ok();
            Some(Hint::Freed(names.map(name).collect::<Option<_>>()?))
        }
        b'P' if rest.is_empty() => Some(Hint::PauseChanged),
        b'G' => Some(Hint::HolderGone(ConsumerName::from_wire(
            std::str::from_utf8(rest).ok()?,
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamlease_core::EntryId;

    #[test]
    fn flags_are_merged_never_overwritten() {
        for (flags, merged) in [
            ("", Some("Kx")),
            ("KEx", None),
            ("AK", None),
            ("AE", Some("AEK")),
            ("Elg", Some("ElgKx")),
            ("K", Some("Kx")),
        ] {
            assert_eq!(merge_flags(flags).as_deref(), merged, "{flags:?}");
        }
    }

    #[test]
    fn hints_are_read_and_anything_else_is_ignored() {
        assert_eq!(
            read_hint(b"H1-1 2-0"),
            Some(Hint::HandedBack(vec![
                EntryId::new(1, 1),
                EntryId::new(2, 0)
            ]))
        );
        let freed = Hint::Freed(vec![StreamName::new("a,").unwrap()]);
        assert_eq!(read_hint(b"F2:a,,"), Some(freed));
        let gone = Hint::HolderGone(ConsumerName::from_wire("redis-consumer-a"));
        assert_eq!(read_hint(b"Gredis-consumer-a"), Some(gone));
        assert_eq!(read_hint(b"P"), Some(Hint::PauseChanged));
        for odd in [
            &b""[..],
            b"x",
            b"H",
            b"Hx",
            b"F1",
            b"F0:,",
            b"F1:\xff,",
            b"G\xff",
            b"{}",
        ] {
            assert_eq!(read_hint(odd), None, "{odd:?}");
        }
    }
}
