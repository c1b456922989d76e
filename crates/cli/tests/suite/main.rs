//! The command, mostly as a process.
//! One binary: what the tests share is compiled and linked once, and what nobody uses is seen.
//! A process of its own per test is not promised: `cargo test` runs them as threads of one.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in helpers too"
)]

mod cancel;
mod common;
mod deploying;
mod doctor;
mod everyday;
mod exec;
mod failures;
mod http;
mod listing;
mod locks;
mod pause;
mod pipes;
mod programs;
mod quarantine;
mod revoke;
mod rights;
mod starting;
mod submit;
mod tls;
mod usage;
mod work;
