//! What scenarios are written against: a [`World`] of servers and consumers
//! that is a simulated one in memory, or real executors with a real Redis
//! server. A scenario is an `async fn(World)`; the macros below make a test of
//! it for every world, so that a failure names both.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    unused_macros,
    reason = "each test binary uses its part"
)]

mod faults;
mod go;
mod process;
mod world;

pub use faults::Faults;
pub use go::GoConsumer;
pub use process::Process;
pub use world::{
    Consumer, Provider, SOON, World, behind_sentinels, on_async_std, on_cluster, on_memory,
    on_smol, on_tokio, on_tokio_with, together,
};

/// Tests of these scenarios in memory, on one server and on many.
macro_rules! everywhere {
    ($($scenario:ident),+ $(,)?) => {
        crate::support::on_one_server!($($scenario),+);
        crate::support::on_many_servers!($($scenario),+);
    };
}

/// Tests of these scenarios in memory and on a Redis server (with tokio), with both lock
/// schemes, and on Redis with async-std.
macro_rules! on_one_server {
    ($($scenario:ident),+ $(,)?) => {
        crate::support::tests!(
            memory_with_session_leases: |scenario| on_memory(LockScheme::Session, scenario),
            $($scenario),+
        );
        crate::support::tests!(
            memory_with_per_stream_locks: |scenario| on_memory(LockScheme::PerStream, scenario),
            $($scenario),+
        );
        crate::support::on_redis_with_session_leases!($($scenario),+);
        crate::support::on_redis!($($scenario),+);
    };
}

/// Tests of these scenarios on Redis, with tokio and session leases.
macro_rules! on_redis_with_session_leases {
    ($($scenario:ident),+ $(,)?) => {
        crate::support::tests!(
            redis_with_session_leases: |scenario| on_tokio_with(LockScheme::Session, scenario),
            $($scenario),+
        );
    };
}

/// Tests of these scenarios on Redis, with tokio and with async-std.
macro_rules! on_redis {
    ($($scenario:ident),+ $(,)?) => {
        crate::support::tests!(redis_on_tokio: |scenario| on_tokio(scenario), $($scenario),+);
        crate::support::tests!(
            redis_on_async_std: |scenario| on_async_std(scenario),
            $($scenario),+
        );
    };
}

/// Tests of these scenarios on Redis, with smol.
macro_rules! on_redis_with_smol {
    ($($scenario:ident),+ $(,)?) => {
        crate::support::tests!(redis_on_smol: |scenario| on_smol(scenario), $($scenario),+);
    };
}

/// Two tests of all of these scenarios: on a cluster, and behind sentinels.
macro_rules! on_many_servers {
    ($($scenario:ident),+ $(,)?) => {
        mod on_many_servers {
            #[test]
            fn cluster() {
                crate::support::on_cluster(&[
                    $((stringify!($scenario), |world| Box::pin(super::$scenario(world)))),+
                ]);
            }

            #[test]
            fn sentinels() {
                crate::support::behind_sentinels(&[
                    $((stringify!($scenario), |world| Box::pin(super::$scenario(world)))),+
                ]);
            }
        }
    };
}

macro_rules! tests {
    ($world:ident: |$given:ident| $run:expr, $($scenario:ident),+ $(,)?) => {
        mod $world {
            #[allow(unused_imports, reason = "each world needs its part")]
            use {crate::support::*, streamlease_core::LockScheme};
            $(
                #[test]
                fn $scenario() {
                    let $given = super::$scenario;
                    $run
                }
            )+
        }
    };
}

pub(crate) use {
    everywhere, on_many_servers, on_one_server, on_redis, on_redis_with_session_leases,
    on_redis_with_smol, tests,
};
