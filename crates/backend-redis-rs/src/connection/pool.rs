//! [`Pool`]: the connections to the owner that was found last,
//! and what is known of how well they work.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use redis_rs::aio::{MultiplexedConnection, PubSub};
use redis_rs::{ConnectionAddr, ConnectionInfo};
use streamlease_core::{Error, ErrorKind, Result};

use super::attempt::Attempt;

/// How long a request that somebody gave up must have been without an answer to
/// cast doubt on its connection.
const SUSPICIOUS_SILENCE: Duration = Duration::from_millis(100);
/// Idle readers kept, however many there were at once.
const MOST_IDLE: usize = 64;
/// For how long one that nobody uses is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Refusals that are further apart than this have nothing to do with each other.
const REFUSALS_APART: Duration = Duration::from_secs(30);

/// All connections of a backend that belong together: if one of them shows that
/// their server is not the one to talk to, none is used any more.
pub(super) struct Pool {
    made: Instant,
    /// How long connecting may take.
    limit: Duration,
    /// The owner, or the search for it.
    owner: Mutex<Option<Arc<Attempt<ConnectionInfo>>>>,
    /// Where all of its connections lead, once that is known.
    address: Mutex<Option<ConnectionAddr>>,
    /// The connection for commands, or the try to make it.
    command: Mutex<Option<Arc<Attempt<MultiplexedConnection>>>>,
    health: Mutex<Health>,
    /// When its server first and last said that it is not ready.
    refused: Mutex<Option<(Instant, Instant)>>,
    pub(super) readers: Singles<MultiplexedConnection>,
    pub(super) subscriptions: Singles<PubSub>,
    /// Something was answered on a connection of this pool.
    answered: AtomicBool,
    /// The pool before, whose connections are doubted. Once this one's server
    /// answers, whoever waits on those waits in vain.
    doubted: Mutex<Option<Arc<Pool>>>,
    end: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

/// What is known of the connection for commands.
#[derive(Default)]
struct Health {
    last_answer: Option<Instant>,
    /// When the oldest request was sent that its caller gave up, and that has not
    /// been answered as far as one can see: replies come in order.
    given_up: Option<Instant>,
}

impl Pool {
    pub(super) fn new(limit: Duration, doubted: Option<Arc<Pool>>) -> Arc<Self> {
        let (end, ended) = async_channel::bounded(1);
        Arc::new(Self {
            made: Instant::now(),
            limit,
            owner: Mutex::default(),
            address: Mutex::default(),
            command: Mutex::default(),
            health: Mutex::default(),
            refused: Mutex::default(),
            readers: Singles::default(),
            subscriptions: Singles::default(),
            answered: AtomicBool::new(false),
            doubted: Mutex::new(doubted),
            end,
            ended,
        })
    }

    /// Its server says that it is not ready; for how long it has said so. Answers in
    /// between count for nothing: a former primary that refuses writes goes on reading.
    pub(super) fn refused(&self) -> Duration {
        let now = Instant::now();
        let mut refused = lock(&self.refused);
        let first = match *refused {
            Some((first, last)) if now - last < REFUSALS_APART => first,
            _ => now,
        };
        *refused = Some((first, now));
        now - first
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// What takes its place, if its connections are doubted. Those that block are
    /// left alone until a new one has shown that the server can be reached: then
    /// it is them, and not just a server that is slow.
    pub(super) fn successor(self: &Arc<Self>) -> Arc<Self> {
        lock(&self.command).take();
        self.readers.close_idle();
        if self.answered.load(Ordering::Relaxed) {
            return Self::new(self.limit, Some(self.clone()));
        }
        let doubted = lock(&self.doubted).take();
        self.end();
        Self::new(self.limit, doubted)
    }

    /// Nothing is sent any more, and who waits for an answer gets an error.
    pub(super) fn end(&self) {
        self.end.close();
        lock(&self.command).take();
        self.readers.close_idle();
        if let Some(doubted) = lock(&self.doubted).take() {
            doubted.end();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_closed()
    }

    /// Waits for the end of these connections.
    pub(super) async fn ended(&self) {
        let _ = self.ended.recv().await;
    }

    /// `work`'s result, or an error if the connections end before.
    pub(super) async fn unless_ended<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        future::or(work, async {
            self.ended().await;
            Err(Error::new(
                ErrorKind::Unavailable,
                "its connection was given up, as others to the same server were",
            ))
        })
        .await
    }

    /// An answer came, and it was not that this is the wrong server.
    pub(super) fn answered(&self) {
        if self.answered.load(Ordering::Relaxed) {
            return;
        }
        self.answered.store(true, Ordering::Relaxed);
        if let Some(doubted) = lock(&self.doubted).take() {
            doubted.end();
        }
    }

    /// The owner, or the search for it; begun if there is none.
    pub(super) fn owner<F>(&self, find: impl FnOnce() -> F) -> Arc<Attempt<ConnectionInfo>>
    where
        F: Future<Output = Result<ConnectionInfo>> + Send + 'static,
    {
        let mut owner = lock(&self.owner);
        match &*owner {
            Some(attempt) if !attempt.is_useless() => attempt.clone(),
            _ => owner.insert(Attempt::begin(self.limit, find())).clone(),
        }
    }

    /// Has the owner searched for again at the next connect, if this is still what was found.
    pub(super) fn forget_owner(&self, found: &Arc<Attempt<ConnectionInfo>>) {
        let mut owner = lock(&self.owner);
        if matches!(&*owner, Some(known) if Arc::ptr_eq(known, found)) {
            owner.take();
        }
    }

    /// The same, whatever was found. A search that is under way goes on.
    pub(super) fn doubt_owner(&self) {
        let mut owner = lock(&self.owner);
        if matches!(&*owner, Some(known) if known.is_over()) {
            owner.take();
        }
    }

    /// Has all connections lead there. `Some`: they do from now on, or have done (`false`);
    /// `None`: they lead elsewhere, and are given up.
    pub(super) fn lead_to(&self, owner: &ConnectionInfo) -> Option<bool> {
        let mut address = lock(&self.address);
        match &*address {
            Some(known) if known == owner.addr() => return Some(false),
            Some(_) => {}
            None => {
                *address = Some(owner.addr().clone());
                return Some(true);
            }
        }
        drop(address);
        self.end();
        None
    }

    /// Where its connections lead, if that is known.
    pub(super) fn address(&self) -> Option<ConnectionAddr> {
        lock(&self.address).clone()
    }

    /// The connection for commands, or the try to make it; begun if there is none.
    pub(super) fn command<F>(
        &self,
        connect: impl FnOnce() -> F,
    ) -> Arc<Attempt<MultiplexedConnection>>
    where
        F: Future<Output = Result<MultiplexedConnection>> + Send + 'static,
    {
        let mut command = lock(&self.command);
        match &*command {
            Some(attempt) if !attempt.is_useless() => attempt.clone(),
            _ => command
                .insert(Attempt::begin(self.limit, connect()))
                .clone(),
        }
    }

    /// The answer to a command that was sent then has come.
    pub(super) fn command_answered(&self, sent: Instant) {
        let mut health = lock(&self.health);
        health.last_answer = Some(Instant::now());
        // Replies come in order.
        health.given_up = health.given_up.filter(|given_up| *given_up > sent);
    }

    /// Whoever sent a command then waits no longer.
    pub(super) fn command_given_up(&self, sent: Instant) {
        let mut health = lock(&self.health);
        health.given_up = Some(health.given_up.map_or(sent, |before| before.min(sent)));
    }

    /// Whether the peer may have vanished: it has been silent for too long while
    /// something was asked that its caller gave up. Not by one caller's time: each
    /// may be less patient than this.
    pub(super) fn is_doubtful(&self) -> bool {
        let health = lock(&self.health);
        health.given_up.is_some_and(|sent| {
            let silent_since = health.last_answer.map_or(sent, |answer| answer.max(sent));
            silent_since.elapsed() >= SUSPICIOUS_SILENCE
        })
    }
}

/// Connections of which each serves one call at a time.
pub(super) struct Singles<T> {
    idle: Mutex<Vec<(T, Instant)>>,
    /// Tries that whoever began them does not wait for any more.
    left: Mutex<Vec<Arc<Attempt<T>>>>,
}

impl<T> Default for Singles<T> {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            left: Mutex::default(),
        }
    }
}

impl<T: Send + 'static> Singles<T> {
    /// An idle connection, or a new one. Dropped before it comes, that one is for
    /// whoever asks next.
    pub(super) async fn get<F>(&self, limit: Duration, connect: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.close_old();
        // The one that was used last: so those that are not needed grow old.
        if let Some((connection, _)) = lock(&self.idle).pop() {
            return Ok(connection);
        }
        let left = {
            let mut left = lock(&self.left);
            left.retain(|attempt| !attempt.is_useless() && attempt.age() < IDLE_LIMIT);
            left.pop()
        };
        let mut waiting = Waiting {
            singles: self,
            attempt: Some(left.unwrap_or_else(|| Attempt::begin(limit, connect()))),
        };
        if let Some(attempt) = &waiting.attempt {
            attempt.wait().await;
        }
        match waiting.attempt.take() {
            Some(attempt) => attempt.take(),
            None => Err(Error::new(ErrorKind::Unavailable, "no connection")),
        }
    }

    /// For the next call: what is put back has answered, and waits for nothing.
    pub(super) fn put_back(&self, connection: T) {
        self.close_old();
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push((connection, Instant::now()));
        }
    }

    pub(super) fn close_idle(&self) {
        lock(&self.idle).clear();
    }

    fn close_old(&self) {
        lock(&self.idle).retain(|(_, since)| since.elapsed() < IDLE_LIMIT);
    }
}

struct Waiting<'a, T: Send + 'static> {
    singles: &'a Singles<T>,
    attempt: Option<Arc<Attempt<T>>>,
}

impl<T: Send + 'static> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let mut left = lock(&self.singles.left);
            if left.len() < MOST_IDLE {
                left.push(attempt);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_from_the_first_of_those_that_belong_together() {
        let pool = Pool::new(Duration::from_secs(1), None);
        assert_eq!(pool.refused(), Duration::ZERO, "however old the pool");
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        *lock(&pool.refused) = Some((ago(3), ago(1)));
        assert!(pool.refused() >= Duration::from_secs(3));
        *lock(&pool.refused) = Some((ago(100), ago(31)));
        assert_eq!(pool.refused(), Duration::ZERO);
    }
}
