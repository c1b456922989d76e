//! Core of **streamlease**: the traits, the recovery state machine, its driver, the client.
//!
//! It has no executor and no Redis in it; users add the crate `streamlease`,
//! which re-exports this one beside the backends and runtimes of their choice.

mod action;
pub mod admin;
mod backend;
mod belief;
mod canceller;
mod check;
mod client;
pub mod decorate;
mod driver;
mod error;
mod events;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod health;
mod ids;
pub mod key_lock;
mod lease;
mod lease_admin;
pub mod limits;
pub mod lock_manager;
// Not part of the public interface: for the simulation and the benchmark, and free to
// change in any version.
#[doc(hidden)]
pub mod machine;
pub mod notifier;
pub mod payload;
mod printable;
mod producer;
mod quarantine;
mod readable;
pub mod recorder;
mod run;
pub mod runtime;
mod service_admin;
pub mod sessions;
mod settings;
mod shard;
pub mod submitter;
mod time;
pub mod transport;

pub use admin::*;
pub use backend::{Backend, BackendProvider};
pub use canceller::Canceller;
#[doc(hidden)]
pub use check::PAGE as FINDINGS_PAGE;
pub use check::{Finding, Report, Severity};
pub use client::{Client, ClientBuilder};
pub use decorate::Operation;
pub use error::{Error, ErrorKind, Result};
pub use events::{Disowned, Event, Events, Orphan, QuarantinedEntry, Termination};
pub use health::Health;
pub use ids::{ConsumerName, EntryId, FencingToken, ServiceName, SessionId, StreamName};
pub use key_lock::{HeldKey, KeyAcquired, KeyHolder, KeyLock, KeyLockManager};
pub use lease::Lease;
pub use lease_admin::LeaseAdmin;
pub use lock_manager::*;
pub use machine::{ClaimResult, Completion, DisownReason, HandBack, Part, StreamOrigin};
pub use notifier::{Hint, Notifier, Subscription};
pub use payload::{
    Announcement, Info, MAX_INFO_BYTES, MAX_PAYLOAD_BYTES, MalformedReason, PAYLOAD_FIELD,
};
pub use printable::printable;
pub use producer::Producer;
pub use quarantine::QuarantineAdmin;
pub use readable::{counted, readable};
pub use recorder::{Attempt, EndKind, Load, NoRecorder, Recorder, Started};
pub use run::{Done, Run, Stopping};
pub use runtime::{BoxFuture, Runtime};
pub use service_admin::ServiceAdmin;
pub use sessions::*;
pub use settings::{ClaimMode, RetryPolicy, Settings};
pub use shard::shard;
pub use submitter::*;
pub use time::Timestamp;
pub use transport::*;
