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

pub use streamlease_core::*;

#[cfg(feature = "memory")]
pub use streamlease_backend_memory as memory;
#[cfg(feature = "memory")]
pub use streamlease_backend_memory::MemoryBackend;
#[cfg(feature = "redis-rs")]
pub use streamlease_backend_redis_rs as redis;
#[cfg(feature = "redis-rs")]
pub use streamlease_backend_redis_rs::RedisBackend;
#[cfg(feature = "runtime-async-std")]
pub use streamlease_runtime_async_std::AsyncStdRuntime;
#[cfg(feature = "runtime-smol")]
pub use streamlease_runtime_smol::SmolRuntime;
#[cfg(feature = "runtime-tokio")]
pub use streamlease_runtime_tokio::TokioRuntime;
