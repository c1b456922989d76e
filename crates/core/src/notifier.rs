//! [`Notifier`]: inbound hints that make failover faster.
//!
//! # Contract
//! - **Hints only.** Neither safety nor liveness depends on a hint: each may be
//!   lost, doubled, late or wrong. The client looks up what a hint names before it acts.
//! - **The publisher is who makes the change.** Hints about a hand back, a release, a
//!   closed session or a pause are published by the [`Transport`](crate::Transport),
//!   [`Admin`](crate::Admin) or [`LockManager`](crate::LockManager) in the same step as the
//!   change.
//! - **Known loss is reported.** After a reconnect, or when a
//!   buffer overflowed, a subscription yields [`Hint::MayHaveMissed`]. Each
//!   fresh subscription counts as having missed everything before it; the
//!   driver adds that hint itself.
//! - **`Err`** from [`subscribe`](Notifier::subscribe) or
//!   [`next`](Subscription::next): the subscription has ended. The driver drops it and
//!   subscribes again, with backoff.
//! - **Cancel-safety.** Dropping the future of `next` loses no hint.
//! - **Suite.** `streamlease_testkit::conformance::notifier`.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{ConsumerName, EntryId, Result, StreamName};

/// Source of hints. See the [module docs](self) for the contract.
#[async_trait]
pub trait Notifier: Debug + Send + Sync + 'static {
    /// Subscribes; when this returns, every later change is heard.
    async fn subscribe(&self) -> Result<Box<dyn Subscription>>;
}

/// One subscription of a [`Notifier`]; dropping it ends it.
#[async_trait]
pub trait Subscription: Debug + Send {
    /// The next hint. Waits as long as there is none.
    async fn next(&mut self) -> Result<Hint>;
}

/// Something that may be worth a look.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The lock of this assignment expired.
    LockExpired {
        /// The data stream whose lock it was.
        stream: StreamName,
        /// The entry of the load balancer stream (LBS) it was held for.
        entry: EntryId,
    },
    /// These entries were handed back unfinished and are free to be claimed.
    HandedBack(Vec<EntryId>),
    /// The locks of these data streams were released.
    Freed(Vec<StreamName>),
    /// A session of this consumer was closed or found dead.
    HolderGone(ConsumerName),
    /// The service was paused, or resumed.
    PauseChanged,
    /// Hints may have been lost.
    MayHaveMissed,
}
