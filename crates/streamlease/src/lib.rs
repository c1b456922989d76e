// docs.rs says beside each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README is the crate's documentation, and its programs are doctests. They
// need what they use; a build without it is not the one that is documented.
#![cfg_attr(
    all(feature = "memory", feature = "redis-rs", feature = "runtime-tokio"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "memory", feature = "redis-rs", feature = "runtime-tokio")),
    doc = "Exactly one consumer per long-lived data stream, with failover, on Redis streams."
)]

pub mod spi;

// One by one: what users see is decided here. `tests/public_items.rs` compares.
pub use streamlease_core::{
    Announcement, BackendProvider, Canceller, ClaimMode, ClaimResult, Client, ClientBuilder,
    Completion, ConsumerName, DisownReason, Disowned, Done, EntryId, Error, ErrorKind, Event,
    Events, FencingToken, Finding, HandBack, Health, Info, Lease, LeaseAdmin, LockScheme,
    MalformedReason, Orphan, Pause, Producer, QuarantineAdmin, QuarantineRelease, Quarantined,
    QuarantinedEntry, Report, Result, RetryPolicy, Run, Runtime, ServiceAdmin, ServiceName,
    Severity, Stopping, StreamName, SubmitBatch, SubmitOutcome, Termination, Timestamp, shard,
};

#[cfg(feature = "memory")]
pub use streamlease_backend_memory::MemoryBackend;
#[cfg(feature = "redis-rs")]
pub use streamlease_backend_redis_rs::{Credentials, RedisBackend, RedisBackendBuilder};
#[cfg(feature = "metrics")]
pub use streamlease_metrics as metrics;
#[cfg(feature = "runtime-async-std")]
pub use streamlease_runtime_async_std::AsyncStdRuntime;
#[cfg(feature = "runtime-smol")]
pub use streamlease_runtime_smol::SmolRuntime;
#[cfg(feature = "runtime-tokio")]
pub use streamlease_runtime_tokio::TokioRuntime;
