//! [`LockManager`]: who owns which data stream, and since when with which token.
//!
//! # Contract
//! - **Mutual exclusion (R6).** At most one session holds a data stream, under
//!   whichever entry. A holder keeps it until it releases it, or its deadline
//!   passes by the lock server's own clock.
//! - **Deadlines.** With [`LockScheme::PerStream`] an acquire and a beat set a
//!   lease's deadline to `ttl` from then; with [`LockScheme::Session`] only
//!   `open` and `beat` set the session's, for everything it holds. A passed
//!   deadline is final: neither a late beat nor a late open revives it.
//! - **Tokens (R5).** An acquire mints, in the same atomic step, a token that
//!   is greater than every token of that data stream before, and than the
//!   caller's `floor`. All tokens, and so all floors, are below
//!   [`FencingToken::LIMIT`].
//! - **Expected outcomes are values**; an `Err` means *unknown: any part of it
//!   may have happened*, now or later.
//! - **Idempotence.** Every operation can be repeated with the same arguments.
//!   An acquire repeated with the same `attempt` yields the same token; with
//!   another `attempt`, by the same session, a new one, after which the old
//!   token releases nothing. Attempts of one session only grow: a lower one on a
//!   held lease is an abandoned request that executes late, and answers `Held`.
//!   An attempt counts whatever it was answered with: a lease that came by a
//!   take-over has the greatest one of its session so far.
//!   An acquire by a session that is gone holds nothing.
//! - **Lost writes.** With [`LockScheme::Session`] beats name no leases, so each
//!   reply carries a [`generation`](BeatReply::generation) that tells when the
//!   record may have lost any; from then on `acquire` and `take_over` answer
//!   `NotYet` for a TTL (the longest of those who lived, at most [`LONGEST_CALM`]),
//!   so that live owners beat and read their records first.
//! - **Release names its token** and frees only that.
//! - **Batches are pages.** Results are positional; each item is atomic for
//!   itself. An implementation splits a large batch as its server likes it.
//! - **Cancel-safety.** Dropping a future means `Err`: unknown.
//! - **Concurrency.** All methods may run at once, on one value or many.
//! - **Hints.** `release` publishes [`Hint::Freed`](crate::Hint) for streams
//!   that somebody was refused meanwhile and for those with `announce`; `close`
//!   publishes [`Hint::HolderGone`](crate::Hint); each in the same step. Hints
//!   are only ever hints: a [`KeyLockManager`](crate::KeyLockManager), whose
//!   store may have no way to publish, announces what its `KeyLock` announces.
//! - **Suite.** `streamlease_testkit::conformance::lock_manager`.
//!
//! A backend that has only plain keys implements [`KeyLock`](crate::KeyLock)
//! instead, and gets a `LockManager` from [`KeyLockManager`](crate::KeyLockManager).

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{EntryId, FencingToken, Result, SessionId, StreamName};

/// How long a lock server that was restarted lets live owners beat first, at most.
/// What it may have lost by the restart, its owner believes in for no longer: the
/// leases that were acquired last. What is on record waits for its session's deadline.
pub const LONGEST_CALM: Duration = Duration::from_secs(10);

/// The locks of one service. See the [module docs](self) for the contract.
#[async_trait]
pub trait LockManager: Debug + Send + Sync + 'static {
    /// What a lease's life hangs on; the same answer always.
    fn scheme(&self) -> LockScheme;

    /// Makes the session live for its TTL from now. Idempotent while it lives.
    async fn open(&self, session: &Session) -> Result<OpenOutcome>;

    /// Ends the session at once: it counts as dead from now on, whatever it holds.
    async fn close(&self, session: &SessionId) -> Result<()>;

    /// Tries to lock a page of data streams for the session.
    async fn acquire(&self, session: &Session, requests: &[Acquire])
    -> Result<Vec<AcquireOutcome>>;

    /// Extends the session and these leases, and answers with exceptions only.
    ///
    /// With [`LockScheme::PerStream`], `leases` is a page of what is held; what
    /// it does not name stays as it is. With [`LockScheme::Session`] it is empty:
    /// everything held lives as long as the session. With `want_sweep` it also asks for the turn
    /// to sweep, which one member per service and that length of time gets.
    async fn beat(
        &self,
        session: &Session,
        leases: &[LeaseRef],
        want_sweep: Option<Duration>,
    ) -> Result<BeatOutcome>;

    /// Frees leases, each named with its token.
    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>>;

    /// Who holds these locks, and for how long still. Looking lets a lock whose
    /// deadline has passed be gone at once.
    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>>;

    /// Marks `dead` dead if its deadline has passed (it cannot come back), and
    /// moves up to `max` of its leases to `session` with new tokens.
    /// With [`LockScheme::PerStream`] there are never any to move.
    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome>;

    /// Removes what is left of a dead session once it holds nothing, so that
    /// beats report it no more. `true` if nothing is left of it.
    async fn bury(&self, dead: &SessionId) -> Result<bool>;

    /// The live sessions. Empty for a backend that keeps none.
    async fn members(&self) -> Result<Vec<Member>>;

    /// A page of what is on record for a session, stream names greater than
    /// `after`, in that order. Empty for a backend that keeps no such record.
    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>>;

    /// Marks leases to be released (an operator, a rebalance). Nothing is freed
    /// by it: the owner learns of it by its beat and releases. `false` where no
    /// such lease is on record, or the backend keeps no record.
    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>>;
}

/// What a lease's life hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockScheme {
    /// Each data stream has a lock with its own deadline; beats name them all.
    PerStream,
    /// Each session has one deadline for everything it holds.
    Session,
}

/// A session and how long it lives without a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Which.
    pub id: SessionId,
    /// Its TTL; sessions of one service may differ in it.
    pub ttl: Duration,
}

/// How an open ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenOutcome {
    /// The session lives.
    Opened,
    /// The session's deadline has passed, or it was closed: take another id.
    SessionGone,
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
    /// The lock server has just restarted and lets live owners beat first.
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

/// How a beat ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeatOutcome {
    /// The session, and all leases but those in the reply, are extended.
    Extended(BeatReply),
    /// The session is gone: nothing was extended.
    SessionGone,
}

/// What a beat brings besides the extension.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BeatReply {
    /// Leases of the call that are not held (any more).
    pub lost: Vec<LeaseRef>,
    /// Leases that are marked for release; to be released even if unknown.
    pub revoked: Vec<LeaseRef>,
    /// Other sessions whose deadline has passed and that are not buried, oldest
    /// first; if they are many, the first few are enough. Every beat tells again.
    pub dead: Vec<SessionId>,
    /// When the next deadline of another session that is not yet dead will be.
    pub next_deadline: Option<Duration>,
    /// Live sessions, this one included; 0 if the backend does not know.
    pub members: u32,
    /// Leases on record for this session; `None` if the backend keeps no such record.
    pub on_record: Option<u64>,
    /// Another number whenever leases may have gone off the record, or others
    /// come onto it, without their holder's doing: the server was restarted or
    /// replaced by a replica, its data restored, its clock has leapt. Never the
    /// number of an earlier time, whatever was lost. The count on record does not
    /// tell: one lease lost and one that an acquire left behind add up to it.
    ///
    /// Always the same number is right where nothing can be lost without the
    /// sessions (a server in memory), and with [`LockScheme::PerStream`], whose
    /// beats name every lease and hear of each that is lost.
    pub generation: u64,
    /// Whether the turn to sweep is this session's.
    pub sweep: bool,
}

/// One lease to free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub lease: LeaseRef,
    /// Publish [`Hint::Freed`](crate::Hint) even if nobody was refused it.
    pub announce: bool,
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

/// How a take-over ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeOverOutcome {
    /// These are the caller's now, with these tokens.
    Taken {
        /// The leases.
        leases: Vec<LeaseRef>,
        /// How many the dead session still has.
        left: u64,
    },
    /// The session is not dead.
    Alive {
        /// How long still.
        remaining: Duration,
    },
    /// The caller's own session is gone.
    SessionGone,
    /// The lock server has just restarted and lets live owners beat first.
    NotYet {
        /// When to try again.
        retry_in: Duration,
    },
}

/// A live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub session: SessionId,
    /// How long it lives without a further beat.
    pub remaining: Duration,
}
