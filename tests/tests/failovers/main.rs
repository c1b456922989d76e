//! Consumers and a producer at work while the server that owns their service is killed,
//! frozen, replaced, or loses its slot: what it costs, and what is lost.
//!
//! Each test prints its figures; benches/README.md has them. Replication is asynchronous, so
//! a server that is replaced may take acknowledged writes with it. They are counted here.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cluster;
mod deaths;
mod fleet;
mod sentinel;
