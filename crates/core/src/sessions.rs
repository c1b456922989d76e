//! [`Sessions`]: which consumers live, and what the dead ones held.
//!
//! # Contract
//! As of a [`LockManager`](crate::lock_manager), and besides:
//! - **Deadlines.** An open and a renewal set the session's deadline to its `ttl` from
//!   then. With [`LockScheme::Session`] that is the deadline of everything it holds. A
//!   passed deadline is final: neither a late renewal nor a late open revives the session.
//! - **A session that is gone** acquires, renews and takes over nothing.
//!   What others have acquired or taken over since, a late release of its frees neither.
//! - **Marks.** [`revoke`](Sessions::revoke) marks a lease with its token. The mark goes with
//!   the lease: it survives neither a release nor a later acquire nor a take-over.
//! - **Attempts.** A lease that a take-over moved to a session counts as acquired with the
//!   greatest attempt of that session so far.
//! - **Lost writes.** With [`LockScheme::Session`] renewals name no leases. So each
//!   reply carries a [`generation`](crate::Renewal::generation), which changes when the
//!   record may have lost some. After that `acquire` and `take_over` answer `NotYet` for a
//!   TTL (the longest of the live sessions, at most [`LONGEST_GRACE`]), so that live owners
//!   renew and read their records first.
//! - **Hints.** `close` publishes [`Hint::HolderGone`](crate::Hint) in the same step.
//! - **Suite.** `streamlease_testkit::conformance::lock_manager`, which says of a backend
//!   without sessions that it keeps none.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{LeaseRef, LockScheme, Result, Session, SessionId, StreamName};

/// For how long at most a lock server that was restarted answers `NotYet`, so that live
/// owners renew first. The restart may have lost the leases that were acquired last. Their
/// owners believe in them for no longer than this. Leases that are on record are protected
/// until their session's deadline.
pub const LONGEST_GRACE: Duration = Duration::from_secs(10);

/// The sessions of one service. See the [module docs](self) for the contract.
#[async_trait]
pub trait Sessions: Debug + Send + Sync + 'static {
    /// What a lease's life hangs on; the same answer always.
    fn scheme(&self) -> LockScheme;

    /// Makes the session live for its TTL from now. Idempotent while it lives.
    async fn open(&self, session: &Session) -> Result<OpenOutcome>;

    /// Ends the session at once: it counts as dead from now on, whatever it holds.
    async fn close(&self, session: &SessionId) -> Result<()>;

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
    /// renewals report it no more. `true` if nothing is left of it.
    async fn remove(&self, dead: &SessionId) -> Result<bool>;

    /// The live sessions.
    async fn members(&self) -> Result<Vec<Member>>;

    /// A page of what is on record for a session, stream names greater than
    /// `after`, in that order. With [`LockScheme::PerStream`] there is no such record.
    async fn records(
        &self,
        _session: &SessionId,
        _after: Option<&StreamName>,
        _max: usize,
    ) -> Result<Vec<LeaseRef>> {
        Ok(Vec::new())
    }

    /// Marks leases to be released (an operator, a rebalance). Nothing is freed
    /// by it: the owner learns of it by its renewal and releases. `false` where no
    /// such lease is on record.
    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        Ok(vec![false; streams.len()])
    }
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
    /// The lock server has just restarted and lets live owners renew first.
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
    /// How long it lives without a further renewal.
    pub remaining: Duration,
}
