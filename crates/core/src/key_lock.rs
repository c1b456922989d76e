//! [`KeyLock`]: the small trait for a lock backend that has only plain keys,
//! and [`KeyLockManager`], which makes a [`LockManager`] of it.
//!
//! # Contract of `KeyLock`
//! - [`acquire`](KeyLock::acquire) sets the key to `value` for `ttl` if it is
//!   absent, in one atomic step. It returns a number that is greater than
//!   `floor` and than every number it returned for that key before (an etcd
//!   revision, a sequence), and below [`FencingToken::LIMIT`]. If the key is there with
//!   exactly this `value`, the call is the repeat of one whose answer was lost: it sets the
//!   time to live to `ttl` again (the caller relies on it) and returns the same number.
//! - The number names the acquisition from then on:
//!   [`renew`](KeyLock::renew) sets the time to live to `ttl` only if the key is
//!   there with this number, and never creates the key;
//!   [`release`](KeyLock::release) deletes the key only if it is there with this number.
//!   [`renew_many`](KeyLock::renew_many) is `renew` for a page. Each key is renewed or lost for
//!   itself; the page need not be one step.
//! - A key is gone, for everybody and for good, once its time to live has passed, by the
//!   store's clock.
//! - **Times to live** are between 200 ms and an hour. A store may round
//!   them up by a little: a tenth of a second costs so much at each take-over. It must never
//!   round down: the owner believes in the whole time.
//! - **Keys** are `<service>/stream/<data stream>` and `<service>/sweep`, up to
//!   about 6 KiB of any characters, NUL and line breaks among them. They differ if they differ in
//!   one byte: no collation, no trimming. A store that cannot take such keys as they are has to
//!   escape or hash them.
//! - **Values** are at most 600 bytes: the consumer's name (UTF-8 without control characters),
//!   and figures. They are compared byte by byte.
//! - **Concurrency.** All methods may run at once; up to 32 calls of one page do.
//! - **Errors.** An `Err` means unknown: it may have happened, now or later. Nothing else is
//!   one: that a key is held, or gone, is an answer.
//! - **Time limits** are the caller's. A client gives up on a call after a part of the TTL, by
//!   dropping its future, and calls again. So a call may hang, but no state may be broken by a
//!   future that is dropped; and a connection that does not answer has to be replaced some day.
//! - **Hints.** None are needed. A stream that was released is tried again within a TTL by those
//!   who were refused it. A store that can tell others may publish
//!   [`Hint::Freed`](crate::Hint) in the step of the release, through a
//!   [`Notifier`](crate::Notifier) of its own in the [`Backend`](crate::Backend);
//!   [`KeyLockManager::stream_of`] says which data stream a key belongs to.
//! - **Suite.** `streamlease_testkit::conformance::lock_manager`, run on the
//!   `KeyLockManager` around it.
//!
//! Implement it with the attribute of the crate [`async-trait`](https://docs.rs/async-trait), as
//! the trait is defined with it: `#[async_trait] impl KeyLock for …`.
//! `docs/lock-backend.md` goes through an implementation on PostgreSQL.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Acquire, AcquireOutcome, BoxFuture, EntryId, Error, ErrorKind, FencingToken, Held, Holder,
    LeaseRef, LockId, LockManager, LockState, Release, ReleaseOutcome, Renew, RenewOutcome,
    Renewal, Result, ServiceName, Session, SessionId, StreamName,
};

/// Keys with a value, a number and a time to live. See the [module docs](self) for the contract.
#[async_trait]
pub trait KeyLock: Debug + Send + Sync + 'static {
    /// Takes the key, or says who has it.
    async fn acquire(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        floor: u64,
    ) -> Result<KeyAcquired>;

    /// Extends the key; `false` if it is not there with this number.
    async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool>;

    /// Extends a page of keys. One answer for each, in their order: `false` if it is not there
    /// with its number. By default they are renewed one by one, some at a time; a store that can
    /// do a page in one request saves most of what leases cost it.
    async fn renew_many(&self, keys: &[HeldKey], ttl: Duration) -> Result<Vec<bool>> {
        each(keys, |held| {
            Box::pin(self.renew(&held.key, held.number, ttl))
        })
        .await
    }

    /// Deletes the key; `false` if it is not there with this number.
    async fn release(&self, key: &str, number: u64) -> Result<bool>;

    /// Who has the key; `None` if it is not there.
    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>>;
}

/// How [`KeyLock::acquire`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyAcquired {
    /// The key is the caller's, with this number.
    Acquired(u64),
    /// Somebody else's.
    Held(KeyHolder),
}

/// A key that is held, and the number that its acquisition returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldKey {
    /// The key.
    pub key: String,
    /// The number.
    pub number: u64,
}

/// Who has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// The key's value.
    pub value: String,
    /// The number its acquisition returned.
    pub number: u64,
    /// How long it is there still, unless renewed.
    pub remaining: Duration,
}

/// A [`LockManager`] with [`LockScheme::PerStream`](crate::LockScheme) on any [`KeyLock`].
///
/// It keeps no record of what is held: a lease's token is the number of its
/// key, so any manager of the service can renew or release it, and a late
/// release cannot free a newer acquisition.
///
/// It keeps no [sessions](crate::sessions): dead owners are noticed by the deadlines of
/// their locks.
/// Nor do they publish hints, unless the `KeyLock` does so itself in `release`;
/// [`stream_of`](Self::stream_of) tells which data stream became free.
#[derive(Debug)]
pub struct KeyLockManager {
    lock: Arc<dyn KeyLock>,
    /// The service's name with `/` escaped, so that keys of two services never meet.
    service: String,
    /// Makes the value of each request for the sweep turn another.
    sweep_requests: AtomicU64,
}

impl KeyLockManager {
    /// The locks of `service`, kept in `lock`.
    pub fn new(service: &ServiceName, lock: Arc<dyn KeyLock>) -> Self {
        Self {
            lock,
            service: service.as_str().replace('%', "%25").replace('/', "%2F"),
            sweep_requests: AtomicU64::new(0),
        }
    }

    /// The data stream that `key` is the lock of, if it is one.
    pub fn stream_of(key: &str) -> Option<StreamName> {
        let (_service, rest) = key.split_once('/')?;
        StreamName::new(rest.strip_prefix("stream/")?).ok()
    }

    fn key(&self, stream: &StreamName) -> String {
        format!("{}/stream/{stream}", self.service)
    }

    async fn acquire_one(&self, session: &Session, request: &Acquire) -> Result<AcquireOutcome> {
        let key = self.key(&request.stream);
        let wanted = Assignment {
            session: session.id.clone(),
            attempt: request.attempt,
            entry: request.entry,
        };
        let value = wanted.to_string();
        loop {
            match self
                .lock
                .acquire(&key, &value, session.ttl, request.floor.0)
                .await?
            {
                KeyAcquired::Acquired(number) => {
                    let token = FencingToken(number);
                    if token >= FencingToken::LIMIT {
                        let message = format!("the lock of {key} has {number}, which is no token");
                        return Err(Error::new(ErrorKind::Incompatible, message));
                    }
                    return Ok(AcquireOutcome::Acquired(token));
                }
                KeyAcquired::Held(holder) => {
                    // An earlier attempt's key makes room for a later attempt, which so
                    // gets a new token. The other way round, this is an abandoned request
                    // that executes late: it must not take the key from its successor.
                    if !Assignment::parse(&holder.value).is_some_and(|had| wanted.supersedes(&had))
                    {
                        return Ok(AcquireOutcome::Held(held(holder)));
                    }
                    self.lock.release(&key, holder.number).await?;
                }
            }
        }
    }

    /// Asks for the turn to sweep: a key that is never released, so that it
    /// comes up again once `turn` has passed. Each request has another value;
    /// with the same one, its holder would get it again with every renewal.
    async fn sweep_turn(&self, session: &SessionId, turn: Duration) -> Result<bool> {
        let key = format!("{}/sweep", self.service);
        let request = self.sweep_requests.fetch_add(1, Ordering::Relaxed);
        let acquired = self
            .lock
            .acquire(&key, &format!("{session}/{request}"), turn, 0)
            .await?;
        Ok(matches!(acquired, KeyAcquired::Acquired(_)))
    }
}

#[async_trait]
impl LockManager for KeyLockManager {
    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        each(requests, |request| {
            Box::pin(self.acquire_one(session, request))
        })
        .await
    }

    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let Renew {
            session,
            leases,
            want_sweep,
        } = renew;
        let held = |lease: &LeaseRef| HeldKey {
            key: self.key(&lease.stream),
            number: lease.token.0,
        };
        let mut renewed = Vec::with_capacity(leases.len());
        for page in leases.chunks(RENEWED_AT_ONCE) {
            let keys: Vec<HeldKey> = page.iter().map(held).collect();
            let answers = self.lock.renew_many(&keys, session.ttl).await?;
            if answers.len() != keys.len() {
                let (got, asked) = (answers.len(), keys.len());
                let message = format!("renew_many gave {got} answers for {asked} keys");
                return Err(Error::new(ErrorKind::Protocol, message));
            }
            renewed.extend(answers);
        }
        let lost = leases
            .iter()
            .zip(renewed)
            .filter(|(_, held)| !held)
            .map(|(lease, _)| lease.clone());
        let lost = lost.collect();
        let sweep = match want_sweep {
            // What was renewed is, whether or not the turn can be asked for.
            Some(turn) => self.sweep_turn(&session.id, *turn).await.unwrap_or(false),
            None => false,
        };
        Ok(RenewOutcome::Extended(Renewal {
            lost,
            sweep,
            ..Renewal::default()
        }))
    }

    async fn release(
        &self,
        _session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        each(releases, |release| {
            Box::pin(async {
                let LeaseRef { stream, token, .. } = &release.lease;
                let released = self.lock.release(&self.key(stream), token.0).await?;
                Ok(if released {
                    ReleaseOutcome::Released
                } else {
                    ReleaseOutcome::NotHeld
                })
            })
        })
        .await
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        each(locks, |lock| {
            Box::pin(async {
                let holder = self.lock.inspect(&self.key(&lock.stream)).await?;
                Ok(holder.map_or(LockState::Free, |holder| LockState::Held(held(holder))))
            })
        })
        .await
    }
}

/// What a key's value says: `<session>/<attempt>/<entry>`.
#[derive(Debug, PartialEq, Eq)]
struct Assignment {
    session: SessionId,
    attempt: u64,
    entry: EntryId,
}

impl Assignment {
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.rsplitn(3, '/');
        let entry = parts.next()?.parse().ok()?;
        let attempt = parts.next()?.parse().ok()?;
        let session = parts.next()?.parse().ok()?;
        Some(Self {
            session,
            attempt,
            entry,
        })
    }

    fn supersedes(&self, other: &Self) -> bool {
        self.session == other.session && self.entry == other.entry && self.attempt > other.attempt
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.session, self.attempt, self.entry)
    }
}

fn held(holder: KeyHolder) -> Held {
    let by = match Assignment::parse(&holder.value) {
        Some(assignment) => Holder::Session(assignment.session),
        None => Holder::Foreign(holder.value),
    };
    Held {
        holder: by,
        remaining: holder.remaining,
    }
}

/// Keys in one [`KeyLock::renew_many`]: few enough that a server has done them in some ms.
const RENEWED_AT_ONCE: usize = 250;

/// Calls of one page that run at once: one after the other, a few thousand
/// leases at a millisecond each would not be renewed within a TTL; all at once,
/// they would be a burst for any server.
const CALLS_AT_ONCE: usize = 32;

/// The results of `call` for each item, in the items' order; ends at the first error.
async fn each<'a, T, R>(
    items: &'a [T],
    call: impl Fn(&'a T) -> BoxFuture<'a, Result<R>>,
) -> Result<Vec<R>> {
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(items.len(), || None);
    let mut waiting = items.iter().enumerate();
    let mut running = Vec::new();
    poll_fn(|cx| {
        loop {
            let free = CALLS_AT_ONCE - running.len();
            running.extend(
                waiting
                    .by_ref()
                    .take(free)
                    .map(|(at, item)| (at, call(item))),
            );
            let before = running.len();
            let mut next = 0;
            while let Some((at, future)) = running.get_mut(next) {
                match future.as_mut().poll(cx) {
                    Poll::Ready(Ok(result)) => {
                        results[*at] = Some(result);
                        drop(running.swap_remove(next));
                    }
                    Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                    Poll::Pending => next += 1,
                }
            }
            if running.len() == before {
                // All are pending, or there was nothing left to start.
                return if before == 0 {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
        }
    })
    .await?;
    Ok(results.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ConsumerName;

    #[test]
    fn values_survive_a_round_trip_and_foreign_ones_are_kept_as_text() {
        let session = SessionId::new(ConsumerName::from_wire("a/b"), 7);
        let entry = EntryId::new(5, 1);
        let ours = Assignment {
            session: session.clone(),
            attempt: 3,
            entry,
        };
        assert_eq!(Assignment::parse(&ours.to_string()), Some(ours));
        for foreign in [
            "",
            "redis-consumer-go",
            "a/3/5-1",
            "redis-consumer-a/0000000000000007",
        ] {
            let holder = KeyHolder {
                value: foreign.into(),
                number: 1,
                remaining: Duration::ZERO,
            };
            assert_eq!(held(holder).holder, Holder::Foreign(foreign.into()));
        }
    }

    #[test]
    fn keys_of_two_services_never_meet_and_name_their_stream() {
        let key = |service: &str, stream: &str| {
            let service = ServiceName::new(service).unwrap();
            KeyLockManager::new(&service, Arc::new(Unused)).key(&StreamName::new(stream).unwrap())
        };
        assert_eq!(key("orders", "call-1"), "orders/stream/call-1");
        assert_ne!(key("a", "b/stream/c"), key("a/stream/b", "c"));
        assert_ne!(key("a/b", "c"), key("a%2Fb", "c"));
        let stream = KeyLockManager::stream_of(&key("a/b", "stream/c/sweep")).unwrap();
        assert_eq!(stream.as_str(), "stream/c/sweep");
        assert_eq!(KeyLockManager::stream_of("a/sweep"), None);
    }

    #[test]
    fn a_page_keeps_its_order_whatever_the_order_of_answers() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = each(&items, |&item| {
            Box::pin(async move {
                for _ in 0..(100 - item) % 7 {
                    futures_lite::future::yield_now().await;
                }
                Ok(item * 2)
            })
        });
        let expected: Vec<usize> = (0..100).map(|item| item * 2).collect();
        assert_eq!(futures_lite::future::block_on(doubled).unwrap(), expected);
    }

    #[test]
    fn a_number_that_is_no_token_is_refused() {
        let service = ServiceName::new("orders").unwrap();
        let locks = KeyLockManager::new(&service, Arc::new(Unused));
        let session = Session {
            id: SessionId::new(ConsumerName::from_wire("a"), 7),
            ttl: Duration::from_secs(2),
        };
        let acquired = |floor| {
            let request = Acquire {
                stream: StreamName::new("s").unwrap(),
                entry: EntryId::new(1, 0),
                attempt: 1,
                floor: FencingToken(floor),
            };
            futures_lite::future::block_on(locks.acquire(&session, &[request]))
        };
        let limit = FencingToken::LIMIT.0;
        let greatest = AcquireOutcome::Acquired(FencingToken(limit - 1));
        assert_eq!(acquired(limit - 2).unwrap(), [greatest]);
        let refused = acquired(limit - 1).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Incompatible, "{refused}");
    }

    #[test]
    fn renewals_come_in_pages_and_an_answer_that_is_missing_loses_no_lease() {
        let service = ServiceName::new("orders").unwrap();
        let session = Session {
            id: SessionId::new(ConsumerName::from_wire("a"), 7),
            ttl: Duration::from_secs(2),
        };
        let leases: Vec<_> = (0..600)
            .map(|number| LeaseRef {
                stream: StreamName::new(format!("s{number}")).unwrap(),
                entry: EntryId::new(1, 0),
                token: FencingToken(number),
            })
            .collect();
        let renewed = |left_out| {
            let pages = Pages {
                left_out,
                seen: Mutex::default(),
            };
            let pages = Arc::new(pages);
            let locks = KeyLockManager::new(&service, pages.clone());
            let renew = Renew::new(session.clone(), leases.clone());
            let renewed = futures_lite::future::block_on(locks.renew(&renew));
            (renewed, pages.seen.lock().unwrap().clone())
        };
        let (reply, pages) = renewed(0);
        let RenewOutcome::Extended(reply) = reply.unwrap() else {
            panic!("it keeps no sessions");
        };
        // The even ones are lost.
        let lost: Vec<_> = leases.iter().step_by(2).cloned().collect();
        assert_eq!((reply.lost, pages), (lost, vec![250, 250, 100]));
        let error = renewed(1).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    }

    #[derive(Debug)]
    struct Pages {
        left_out: usize,
        seen: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl KeyLock for Pages {
        async fn acquire(&self, _: &str, _: &str, _: Duration, floor: u64) -> Result<KeyAcquired> {
            Ok(KeyAcquired::Acquired(floor + 1))
        }
        async fn renew(&self, _: &str, _: u64, _: Duration) -> Result<bool> {
            panic!("pages are renewed together")
        }
        async fn renew_many(&self, keys: &[HeldKey], _: Duration) -> Result<Vec<bool>> {
            self.seen.lock().unwrap().push(keys.len());
            let answers = keys.iter().map(|held| held.number % 2 == 1);
            Ok(answers.skip(self.left_out).collect())
        }
        async fn release(&self, _: &str, _: u64) -> Result<bool> {
            Ok(false)
        }
        async fn inspect(&self, _: &str) -> Result<Option<KeyHolder>> {
            Ok(None)
        }
    }

    /// The turn to sweep is a courtesy to the server.
    #[test]
    fn a_turn_that_cannot_be_had_fails_no_renewal() {
        let service = ServiceName::new("orders").unwrap();
        let locks = KeyLockManager::new(&service, Arc::new(NoSweeps));
        let session = Session {
            id: SessionId::new(ConsumerName::from_wire("a"), 7),
            ttl: Duration::from_secs(2),
        };
        let lease = |name: &str, number| LeaseRef {
            stream: StreamName::new(name).unwrap(),
            entry: EntryId::new(1, 0),
            token: FencingToken(number),
        };
        let leases = [lease("held", 1), lease("lost", 0)];
        let turn = Some(session.ttl);
        let renew = Renew::new(session, leases.to_vec()).want_sweep(turn);
        let renewed = futures_lite::future::block_on(locks.renew(&renew)).unwrap();
        let RenewOutcome::Extended(reply) = renewed else {
            panic!("{renewed:?}");
        };
        assert_eq!(reply.lost, leases[1..]);
        assert!(!reply.sweep);
    }

    #[derive(Debug)]
    struct NoSweeps;

    #[async_trait]
    impl KeyLock for NoSweeps {
        async fn acquire(&self, _: &str, _: &str, _: Duration, _: u64) -> Result<KeyAcquired> {
            Err(Error::new(ErrorKind::Denied, "made up"))
        }
        async fn renew(&self, _: &str, number: u64, _: Duration) -> Result<bool> {
            Ok(number > 0)
        }
        async fn release(&self, _: &str, _: u64) -> Result<bool> {
            Ok(false)
        }
        async fn inspect(&self, _: &str) -> Result<Option<KeyHolder>> {
            Ok(None)
        }
    }

    #[derive(Debug)]
    struct Unused;

    #[async_trait]
    impl KeyLock for Unused {
        async fn acquire(&self, _: &str, _: &str, _: Duration, floor: u64) -> Result<KeyAcquired> {
            Ok(KeyAcquired::Acquired(floor + 1))
        }
        async fn renew(&self, _: &str, _: u64, _: Duration) -> Result<bool> {
            Ok(false)
        }
        async fn release(&self, _: &str, _: u64) -> Result<bool> {
            Ok(false)
        }
        async fn inspect(&self, _: &str) -> Result<Option<KeyHolder>> {
            Ok(None)
        }
    }
}
