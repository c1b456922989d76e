//! The Redis backend on spawned servers.
//! One binary: what the tests share is compiled and linked once, and what nobody uses is seen.
//! A process of its own per test is not promised: `cargo test` runs them as threads of one.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in helpers too"
)]

mod announced;
mod builder;
mod calls;
mod client_check;
mod cluster;
mod cluster_of_six;
mod conformance;
mod connection;
mod counts;
mod full_memory;
mod half_transactions;
mod large;
mod least_privilege;
mod locks;
mod lost_keys;
mod managed;
mod min_replicas;
mod notifier;
mod restarts;
mod sentinel;
mod sessions;
mod stranded;
mod strange_keys;
mod support;
mod tls;
mod transport;
