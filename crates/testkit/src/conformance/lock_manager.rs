//! The suite for [`LockManager`], of either [`LockScheme`].
//!
//! Give each behaviour an `Arc<dyn LockManager>` of a service that has never
//! been used. What does not concern its kind is skipped, and says so:
//! `skipped: keeps no sessions`.

mod deadlines;
mod harness;
mod leases;
mod sessions;

use std::sync::Arc;

use streamlease_core::{LockManager, LockScheme};

use super::suite;

pub use deadlines::*;
pub use leases::*;
pub use sessions::*;

suite!($ lock_manager_conformance!, lock_manager: Arc<dyn LockManager>, [
    deadlines: lock_manager_deadlines!,
    leases: lock_manager_leases!,
    sessions: lock_manager_sessions!,
]);

#[doc(hidden)]
pub fn keeps_sessions(locks: &Arc<dyn LockManager>) -> Option<&'static str> {
    locks.sessions().is_none().then_some("keeps no sessions")
}

#[doc(hidden)]
pub fn has_session_leases(locks: &Arc<dyn LockManager>) -> Option<&'static str> {
    (locks.scheme() != LockScheme::Session).then_some("has a lock per data stream")
}

#[doc(hidden)]
pub fn has_a_lock_per_stream(locks: &Arc<dyn LockManager>) -> Option<&'static str> {
    (locks.scheme() != LockScheme::PerStream).then_some("has session leases")
}
