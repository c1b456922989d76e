//! Everything that can go wrong, by a telling name: each scenario is written
//! once, and runs on memory under virtual time and on a Redis server of its own
//! with real executors.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../support/mod.rs"]
mod support;

mod assigning;
mod blocking;
mod connections;
mod failover;
mod handles;
mod lost_keys;
mod managed;
mod mixed_fleet;
mod outages;
mod pauses;
mod poison;
mod redis_server;
mod refusals;
mod starting;
mod stranded;
