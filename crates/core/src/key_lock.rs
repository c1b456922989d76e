//! [`KeyLock`]: the small trait for a lock backend that has only plain keys,
//! and [`KeyLockManager`], which makes a [`LockManager`] of it.
//!
//! # Contract of `KeyLock`
//! - [`acquire`](KeyLock::acquire) sets the key to `value` for `ttl` if it is
//!   absent, in one atomic step, and returns a number that is greater than
//!   `floor` and than every number it returned for that key before (an etcd
//!   revision, a sequence). If the key is there with exactly this `value`, it
//!   is the repeat of a call whose answer was lost: it returns the same number.
//! - [`renew`](KeyLock::renew) sets the key's time to live to `ttl` only if it
//!   is there with this `value`; it never creates the key.
//! - [`release`](KeyLock::release) deletes the key only if it is there with this `value`.
//! - An `Err` means unknown: it may have happened.
//! - **Suite.** `streamlease_testkit::conformance::lock_manager`, run on the
//!   `KeyLockManager` around it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Acquire, AcquireOutcome, BeatOutcome, BeatReply, FencingToken, Held, Holder, LeaseRef, LockId,
    LockManager, LockScheme, LockState, Member, OpenOutcome, Release, ReleaseOutcome, Result,
    Session, SessionId, StreamName, TakeOverOutcome,
};

/// Keys with a value and a time to live. See the [module docs](self) for the contract.
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

    /// Extends the key; `false` if it is not there with this value.
    async fn renew(&self, key: &str, value: &str, ttl: Duration) -> Result<bool>;

    /// Deletes the key; `false` if it is not there with this value.
    async fn release(&self, key: &str, value: &str) -> Result<bool>;

    /// The key's value and the time it still has; `None` if it is not there.
    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>>;
}

/// How [`KeyLock::acquire`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAcquired {
    /// The key is the caller's, with this number.
    Acquired(u64),
    /// Somebody else's.
    Held(KeyHolder),
}

/// Who has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// The key's value.
    pub value: String,
    /// How long it is there still, unless renewed.
    pub remaining: Duration,
}
