//! The suite for [`LockManager`], of either
//! [`LockScheme`](streamlease_core::LockScheme).
//!
//! Give each behaviour an `Arc<dyn LockManager>` of a service that has never
//! been used. Behaviours of sessions are skipped, and say so, where the backend keeps none.

mod deadlines;
mod harness;
mod leases;
mod sessions;

use std::sync::Arc;

use streamlease_core::LockManager;

use super::suite;

pub use deadlines::*;
pub use leases::*;
pub use sessions::*;

suite!($ lock_manager_conformance!, lock_manager: Arc<dyn LockManager>, [
    deadlines: lock_manager_deadlines!,
    leases: lock_manager_leases!,
    sessions: lock_manager_sessions!,
]);
