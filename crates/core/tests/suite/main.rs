//! Clients and simulated fleets on the memory backend.
//! One binary: what the tests share is compiled and linked once, and what nobody uses is seen.
//! A process of its own per test is not promised: `cargo test` runs them as threads of one.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in helpers too"
)]

mod cancel;
mod chaos;
mod chaos_faults;
mod check;
mod common;
mod counting;
mod crashes;
mod health;
mod herd;
mod last_words;
mod lines;
mod main_job;
mod measurements;
mod no_answer;
mod outages;
mod progress;
mod quarantine;
mod revoke;
mod run;
