//! What the memory backend does, seen through the traits, under a clock that
//! only the test moves.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;
mod key_locks;
mod notifier;
mod session_locks;
mod transport;
