//! For implementors: the traits behind which everything with a clock or a socket lives,
//! and what their methods take and give.
//!
//! | You have | implement | checked by, in `streamlease_testkit` |
//! |---|---|---|
//! | locks of your own, as plain keys | [`KeyLock`]; [`KeyLockManager`] does the rest | `lock_manager_conformance!` |
//! | locks of your own, perhaps with sessions | [`LockManager`], [`Sessions`] | `lock_manager_conformance!` |
//! | another store for the load balancer stream (LBS) | [`Transport`] for consumers, [`Submitter`] for producers, [`Admin`] for operators; [`Notifier`], [`BackendProvider`](crate::BackendProvider) | `transport_conformance!`, `notifier_conformance!` |
//! | something to do around every call | [`Decorator`] | |
//! | another executor | [`Runtime`](crate::Runtime) | `runtime_conformance!` |
//! | metrics | [`Recorder`] | |
//! | passwords of Redis that change | `CredentialProvider` | |
//! | connections to Redis of your own | `Dial` | |
//!
//! Each trait's page links to its contract: idempotence, cancel-safety, concurrency, and
//! what an error means. A crate that implements them need depend on `streamlease-core`
//! alone, which has the same names at its root.
//!
//! Operators' programs use [`Admin`], [`Transport`] and [`LockManager`] to look at a service.

// All of them, for one service, and the names of their methods.
pub use streamlease_core::decorate::{Decorator, decorate};
pub use streamlease_core::{Backend, Operation};

// The LBS, and the payload of its entries.
pub use streamlease_core::{
    Admin, ClaimOutcome, CompleteOutcome, ConsumerState, Delivery, Failures, Fenced, FetchRequest,
    Fetched, HandBackOutcome, HandBackRequest, KEPT_REASONS, MAX_INFO_BYTES, MAX_PAYLOAD_BYTES,
    PAYLOAD_FIELD, Pending, PendingIds, PendingPage, Quarantine, QuarantineOutcome, Scope,
    ServiceCounts, Submitter, Transport,
};

// The locks.
pub use streamlease_core::{
    Acquire, AcquireOutcome, Held, Holder, LONGEST_GRACE, LeaseRef, LockId, LockManager, LockState,
    Member, OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Renewal, Session, SessionId,
    Sessions, TakeOverOutcome,
};

// Locks of plain keys.
pub use streamlease_core::{HeldKey, KeyAcquired, KeyHolder, KeyLock, KeyLockManager};

// The hints.
pub use streamlease_core::{Hint, Notifier, Subscription};

// How Redis is reached.
#[cfg(feature = "redis-rs")]
pub use streamlease_backend_redis_rs::{CredentialProvider, Dial, Link};

// The executor.
pub use streamlease_core::BoxFuture;

// A client's settings, with their bounds and the times that follow from them.
pub use streamlease_core::Settings;

// How counts, times, and text from outside, are written in messages.
pub use streamlease_core::{counted, printable, readable};

// The metrics.
pub use streamlease_core::{
    Attempt, EndKind, Load, NoRecorder, Part, Recorder, Started, StreamOrigin,
};
