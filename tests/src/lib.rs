//! What the integration tests share: a Redis server of their own
//! ([`RedisServer`]) or PostgreSQL server ([`PostgresServer`]), a proxy that makes the network bad ([`Proxy`]), child
//! processes that speak JSON lines ([`JsonProcess`]), bounded waiting
//! ([`eventually`]), and runs that count only if the machine went on ([`in_real_time`]).
//!
//! Everything here panics instead of returning errors, with a message that says
//! what to do, because its callers are tests. Nothing here needs an executor:
//! it works under tokio, async-std, smol and in plain `#[test]`s.
//!
//! Tests of the `streamlease` command are in `crates/cli/tests`, not here:
//! Cargo tells only a package's own tests where its binary is
//! (`CARGO_BIN_EXE_streamlease`) and builds it for them with the right profile.

mod certificates;
mod cluster;
mod postgres;
mod process;
mod proxy;
mod real_time;
mod redis_server;
mod refusals;
mod sentinels;
mod wait;

pub use certificates::{Authority, Certificate};
pub use cluster::Cluster;
pub use postgres::PostgresServer;
pub use process::JsonProcess;
pub use proxy::Proxy;
pub use real_time::in_real_time;
pub use redis_server::{RedisServer, RedisServerBuilder, Tls, free_port};
pub use refusals::REFUSALS_OF_MANAGED_SERVICES;
pub use rustix::process::Signal;
pub use sentinels::Sentinels;
pub use wait::{eventually, eventually_blocking, wait_for, wait_for_blocking};
