//! What the testkit promises, and how many planted bugs its suites find.
//! One binary: what the tests share is compiled and linked once, and what nobody uses is seen.
//! A process of its own per test is not promised: `cargo test` runs them as threads of one.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in helpers too"
)]

mod faults;
mod fleet;
mod memory;
mod model;
mod outages;
mod planted;
mod runtime;
mod servers;
mod sim;
mod simulation;
