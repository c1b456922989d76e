#![doc = include_str!("../../../README.md")]

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
