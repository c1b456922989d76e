//! [`LockManager`]: who owns which data stream, and since when with which token.
//!
//! # Contract
//! - **Mutual exclusion (R6).** At most one session holds a data stream, under
//!   whichever entry. A holder keeps it until it releases it, or its deadline
//!   passes by the lock server's own clock.
//! - **Deadlines.** An acquire and a renewal set a lease's deadline to `ttl` from then;
//!   with [`LockScheme::Session`] a lease has none of its own and ends with its
//!   session's (see [`sessions`](crate::sessions)). A passed deadline is final: no late
//!   renewal revives it.
//! - **Tokens (R5).** An acquire mints, in the same atomic step, a token that
//!   is greater than every token of that data stream before, and than the
//!   caller's `floor`. All tokens, and so all floors, are below
//!   [`FencingToken::LIMIT`].
//! - **Expected outcomes are values.** An `Err` means *unknown*: the operation may have
//!   happened in part, in full, or not at all, and it may still happen later.
//! - **Idempotence.** Every operation can be repeated with the same arguments.
//!   An acquire repeated with the same `attempt` sets the deadline again and yields the
//!   same token. With a greater `attempt` the same session gets a new token, after which the
//!   old token releases nothing. Attempts of one session only grow. A lower attempt on a
//!   held lease is an abandoned request that executes late; it is answered `Held`.
//!   An attempt counts whatever its answer was.
//! - **Release names its token** and frees only that.
//! - **Batches are pages.** Results are positional. Each item is atomic on its own. An
//!   implementation may split a large batch to suit its server.
//! - **Cancel-safety.** Dropping a future has the meaning of `Err`: unknown.
//! - **Concurrency.** All methods may run at once, on one value or many.
//! - **Hints.** `release` publishes [`Hint::Freed`](crate::Hint), in the same step, for
//!   streams that somebody was refused meanwhile and for those with `announce`. Nothing
//!   depends on hints: a [`KeyLockManager`](crate::KeyLockManager), whose store may have no
//!   way to publish, publishes only what its `KeyLock` publishes.
//! - **Suite.** `streamlease_testkit::conformance::lock_manager`.
//!
//! A backend that has only plain keys implements [`KeyLock`](crate::KeyLock)
//! instead, and gets a `LockManager` from [`KeyLockManager`](crate::KeyLockManager).

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{EntryId, FencingToken, Finding, Result, SessionId, Sessions, StreamName};

/// The locks of one service. See the [module docs](self) for the contract.
#[async_trait]
pub trait LockManager: Debug + Send + Sync + 'static {
    /// The sessions, if the backend keeps any; the same answer always. Without them
    /// a dead owner is noticed by the deadlines of its locks.
    fn sessions(&self) -> Option<&dyn Sessions> {
        None
    }

    /// Tries to lock a page of data streams for the session.
    async fn acquire(&self, session: &Session, requests: &[Acquire])
    -> Result<Vec<AcquireOutcome>>;

    /// Extends the session, if the backend keeps sessions, and the leases that are named.
    /// The reply names only the leases that are lost. This is a client's heartbeat.
    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome>;

    /// Frees leases, each named with its token.
    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>>;

    /// Who holds these locks, and for how long still. A lock whose deadline has passed is
    /// free.
    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>>;

    /// What only the lock server knows of itself, as [`Admin::check`](crate::Admin::check).
    /// Left out where the load balancer stream is on the same server, or there is nothing to say.
    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

impl dyn LockManager {
    /// What a lease's life hangs on: [`LockScheme::PerStream`] without sessions, else
    /// what these say.
    pub fn scheme(&self) -> LockScheme {
        self.sessions()
            .map_or(LockScheme::PerStream, |sessions| sessions.scheme())
    }
}

/// What a lease's life hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockScheme {
    /// Each data stream has a lock with its own deadline; renewals name them all.
    PerStream,
    /// Each session has one deadline for everything it holds.
    Session,
}

/// A session and how long it lives without a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// Which.
    pub id: SessionId,
    /// Its TTL; sessions of one service may differ in it.
    pub ttl: Duration,
}

impl Session {
    /// The session `id`, which lives for `ttl` after each renewal.
    pub fn new(id: SessionId, ttl: Duration) -> Self {
        Self { id, ttl }
    }
}

/// The lock of one assignment: a data stream, for one entry of the load
/// balancer stream (LBS).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId {
    /// The data stream; what exclusion is about.
    pub stream: StreamName,
    /// The entry it is to be held for.
    pub entry: EntryId,
}

/// One lock to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acquire {
    /// The data stream.
    pub stream: StreamName,
    /// The entry it is to be held for.
    pub entry: EntryId,
    /// Tells a repeat of an unanswered acquire from a later one.
    pub attempt: u64,
    /// Greatest token the caller has seen; the new one will be greater.
    pub floor: FencingToken,
}

impl Acquire {
    /// Asks for the lock of `stream` for `entry`, with a token greater than `floor`.
    pub fn new(stream: StreamName, entry: EntryId, attempt: u64, floor: FencingToken) -> Self {
        Self {
            stream,
            entry,
            attempt,
            floor,
        }
    }
}

/// How an acquire ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireOutcome {
    /// Held now, with this token.
    Acquired(FencingToken),
    /// Somebody else holds it, or this session for another entry.
    Held(Held),
    /// The session is gone and holds nothing any more.
    SessionGone,
    /// The lock server has just restarted and lets live owners renew first.
    NotYet {
        /// When to try again.
        retry_in: Duration,
    },
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who holds it; as text, because foreign holders have no session.
    pub holder: Holder,
    /// How long still, unless it is extended.
    pub remaining: Duration,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// One of ours.
    Session(SessionId),
    /// Something else, by the name it wrote there (a Go consumer's, say).
    Foreign(String),
}

/// A lease as backends know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseRef {
    /// The data stream.
    pub stream: StreamName,
    /// The entry it is held for.
    pub entry: EntryId,
    /// Its token.
    pub token: FencingToken,
}

/// What to extend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renew {
    /// Whose leases they are.
    pub session: Session,
    /// With [`LockScheme::PerStream`] a page of what is held; what it does not name stays
    /// as it is. With [`LockScheme::Session`] empty: everything that is held lives as
    /// long as the session.
    pub leases: Arc<[LeaseRef]>,
    /// Asks for the turn to sweep, which one session per service and this length of
    /// time gets.
    pub want_sweep: Option<Duration>,
}

impl Renew {
    /// Extends the session, and these leases.
    pub fn new(session: Session, leases: impl Into<Arc<[LeaseRef]>>) -> Self {
        Self {
            session,
            leases: leases.into(),
            want_sweep: None,
        }
    }

    /// Asks for the turn to sweep, too, if it is free.
    #[must_use]
    pub fn want_sweep(mut self, turn: Option<Duration>) -> Self {
        self.want_sweep = turn;
        self
    }
}

/// How a renewal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewOutcome {
    /// The session, and all leases but those in the reply, are extended.
    Extended(Renewal),
    /// The session is gone: nothing was extended.
    SessionGone,
}

/// What a renewal brings besides the extension.
///
/// A backend begins with [`Renewal::default`], which says of everything that there is
/// none, and sets what it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// Leases of the call that are not held (any more).
    pub lost: Vec<LeaseRef>,
    /// Leases that are marked for release; to be released even if unknown.
    pub revoked: Vec<LeaseRef>,
    /// Other sessions whose deadline has passed and that are not removed, oldest
    /// first; if they are many, the first few are enough. Every renewal tells again.
    pub dead: Vec<SessionId>,
    /// When the next deadline of another session that is not yet dead will be.
    pub next_deadline: Option<Duration>,
    /// Live sessions, this one included; 0 if the backend does not know.
    pub members: u32,
    /// Leases on record for this session; `None` if the backend keeps no such record.
    pub on_record: Option<u64>,
    /// A number that changes whenever the record may have lost leases, or gained some,
    /// without their holder: the server was restarted or replaced by a replica, its data
    /// was restored, its clock has jumped. It never returns to an earlier value. The count
    /// on record is not enough: one lease lost and one that an acquire left behind give the
    /// same count.
    ///
    /// It may stay the same for ever where nothing can be lost without the sessions (a
    /// server in memory), and with [`LockScheme::PerStream`], whose renewals name every
    /// lease and hear of each that is lost.
    pub generation: u64,
    /// Whether the turn to sweep is this session's.
    pub sweep: bool,
}

/// One lease to free.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Release {
    /// Which.
    pub lease: LeaseRef,
    /// Publish [`Hint::Freed`](crate::Hint) even if nobody was refused it.
    pub announce: bool,
}

impl Release {
    /// Frees `lease`, and tells only those who were refused it.
    pub fn new(lease: LeaseRef) -> Self {
        Self {
            lease,
            announce: false,
        }
    }

    /// Sets [`announce`](Self::announce).
    #[must_use]
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// It was held with this token, and is free.
    Released,
    /// It was not held with this token; nothing changed.
    NotHeld,
}

/// What an inspection saw.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockState {
    /// Nobody holds it.
    Free,
    /// It is held.
    Held(Held),
}
