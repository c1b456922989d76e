//! Locks in PostgreSQL: a `KeyLock` that could go into production.
//!
//! ```text
//! cargo run --example locks_in_postgres -- "host=localhost user=me dbname=test"
//! cargo test --example locks_in_postgres     # the conformance suite, on a PostgreSQL of its own
//! ```
//!
//! The locks are in `lock.rs`. The load balancer stream is in memory here; with Redis, the backend
//! is a `RedisBackend`, and `.locks(…)` stays as it is. `docs/lock-backend.md` goes through it.
//!
//! # What it costs
//!
//! With 1,000 leases and a TTL of 5 s, measured by the test `a_thousand_leases_cost_little`:
//!
//! | Renewals | Transactions per second |
//! |---|---|
//! | `renew_many`, pages of 250 | 2.4 |
//! | one by one | 600 |
//!
//! Beside that a lease costs one transaction when it is taken and one when it is released, and
//! the turn to sweep one per heartbeat.

mod lock;

use std::sync::Arc;
use std::time::Duration;

use lock::PostgresLock;
use streamlease::spi::{KeyLock, KeyLockManager, LockManager};
use streamlease::{
    Client, ClientBuilder, Event, Info, MemoryBackend, Producer, Result, ServiceName, TokioRuntime,
};

fn locks(service: &str, lock: Arc<dyn KeyLock>) -> Result<Arc<dyn LockManager>> {
    Ok(Arc::new(KeyLockManager::new(
        &ServiceName::new(service)?,
        lock,
    )))
}

fn client(backend: &MemoryBackend, lock: Arc<dyn KeyLock>) -> Result<ClientBuilder> {
    Ok(Client::builder("orders")
        .consumer("worker-1")
        .backend(backend.clone())
        .locks(locks("orders", lock)?)
        .ttl(Duration::from_secs(5))
        .runtime(TokioRuntime::new()))
}

#[tokio::main]
async fn main() -> Result<()> {
    let config = std::env::args().nth(1);
    work(&config.unwrap_or_else(|| "host=localhost user=postgres".into())).await
}

/// Leases a stream, completes it, and ends.
async fn work(config: &str) -> Result<()> {
    let lock = PostgresLock::new(config);
    lock.prepare().await?;
    let backend = MemoryBackend::new(TokioRuntime::new());
    let (client, mut events) = client(&backend, Arc::new(lock))?.start()?;
    let producer = Producer::new("orders", &backend, TokioRuntime::new())?;
    producer.submit("order-1", Info::NONE).await?;
    while let Some(event) = events.next().await {
        if let Event::StreamAdded(lease) = event {
            println!("{} has token {}", lease.stream(), lease.token());
            println!("{:?}", lease.complete().await?);
            break;
        }
    }
    client.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use streamlease::spi::{KeyAcquired, KeyHolder};
    use streamlease::{Announcement, Lease};
    use streamlease_testkit::conformance;
    use streamlease_tests::PostgresServer;
    use tokio_postgres::NoTls;

    use super::*;

    /// All behaviours at once, each as a service of its own: most of them wait for a deadline.
    #[tokio::test(flavor = "multi_thread")]
    async fn it_passes_the_suite_on_a_real_server() {
        let server = PostgresServer::start();
        PostgresLock::new(&server.url()).prepare().await.unwrap();
        let behaviours = conformance::lock_manager::behaviours().into_iter();
        let checks = behaviours.enumerate().map(|(nth, behaviour)| {
            let lock = Arc::new(PostgresLock::new(&server.url()));
            let locks = locks(&format!("service-{nth}"), lock).unwrap();
            let why = behaviour
                .skipped(&locks)
                .map(|why| format!(" (skipped: {why})"));
            let check = async move { behaviour.run(Arc::new(TokioRuntime::new()), locks).await };
            (
                behaviour.name(),
                why.unwrap_or_default(),
                tokio::spawn(check),
            )
        });
        let mut failed = Vec::new();
        for (name, why, check) in checks.collect::<Vec<_>>() {
            match check.await {
                Ok(()) => println!("ok {name}{why}"),
                Err(panic) => failed.push(format!("{name}: {panic}")),
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    /// The same without `renew_many`.
    #[derive(Debug)]
    struct OneByOne(PostgresLock);

    #[async_trait]
    impl KeyLock for OneByOne {
        async fn acquire(
            &self,
            key: &str,
            value: &str,
            ttl: Duration,
            floor: u64,
        ) -> Result<KeyAcquired> {
            self.0.acquire(key, value, ttl, floor).await
        }
        async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool> {
            self.0.renew(key, number, ttl).await
        }
        async fn release(&self, key: &str, number: u64) -> Result<bool> {
            self.0.release(key, number).await
        }
        async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>> {
            self.0.inspect(key).await
        }
    }

    /// Transactions per second while a client holds a thousand leases.
    async fn cost(server: &PostgresServer, lock: Arc<dyn KeyLock>) -> f64 {
        const LEASES: usize = 1_000;
        let backend = MemoryBackend::new(TokioRuntime::new());
        let started = client(&backend, lock).unwrap().capacity(LEASES).start();
        let (client, mut events) = started.unwrap();
        let producer = Producer::new("orders", &backend, TokioRuntime::new()).unwrap();
        let names = (0..LEASES).map(|nth| streamlease::StreamName::new(format!("s{nth}")).unwrap());
        let all: Vec<Announcement> = names
            .map(|name| Announcement::new(name, Info::NONE))
            .collect();
        producer.submit_all(all).await.unwrap();
        let mut held: Vec<Lease> = Vec::new();
        while held.len() < LEASES {
            match events.next().await.unwrap() {
                Event::StreamAdded(lease) => held.push(lease),
                other => panic!("{other:?}"),
            }
        }
        let (db, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        // Rows of the table, and not `xact_commit`: that lags by up to a second.
        let (from, counted) = (transactions(&db).await, Duration::from_secs(5));
        let asked = tokio::time::Instant::now();
        tokio::time::sleep(counted).await;
        let took = asked.elapsed().as_secs_f64();
        let cost = (transactions(&db).await - from) as f64 / took;
        assert!(held.iter().all(Lease::is_valid));
        client.shutdown().await.unwrap();
        cost
    }

    /// How many there have been: each that writes has a number.
    async fn transactions(db: &tokio_postgres::Client) -> i64 {
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        db.query_one(next, &[]).await.unwrap().get(0)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_leases_cost_little() {
        let server = PostgresServer::start();
        let lock = || PostgresLock::new(&server.url());
        lock().prepare().await.unwrap();
        let together = cost(&server, Arc::new(lock())).await;
        println!("{together:.1} transactions per second");
        assert!(together < 10.0, "{together} with renew_many");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_leases_that_are_renewed_one_by_one_cost_much() {
        let server = PostgresServer::start();
        let lock = PostgresLock::new(&server.url());
        lock.prepare().await.unwrap();
        let alone = cost(&server, Arc::new(OneByOne(lock))).await;
        println!("{alone:.1} transactions per second");
        assert!(
            alone > 100.0,
            "{alone} one by one: is the comparison right?"
        );
    }

    /// What was held lately keeps its row, and so its number.
    async fn old_rows_are_deleted_while_it_works(server: &PostgresServer, lock: &PostgresLock) {
        let (db, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let old = "INSERT INTO streamlease_locks
            SELECT sha256(name::bytea), name::bytea, '', 1, now() - interval '25 hours' * held
            FROM (VALUES ('old-1', 1.0), ('old-2', 2.0), ('late', 0.9)) AS had (name, held)";
        assert_eq!(db.execute(old, &[]).await.unwrap(), 3);
        let names = async || {
            let names = "SELECT convert_from(key, 'UTF8') FROM streamlease_locks
                WHERE value = '' AND number = 1 ORDER BY key";
            let rows = db.query(names, &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
        };
        for _ in 1..lock::TIDY_EVERY {
            lock.release("of nobody", 1).await.unwrap();
        }
        assert_eq!(names().await, ["late", "old-1", "old-2"], "not yet");
        lock.release("of nobody", 1).await.unwrap();
        assert_eq!(names().await, ["late"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_program_works_and_a_connection_that_is_cut_comes_again() {
        let server = PostgresServer::start();
        work(&server.url()).await.unwrap();
        let lock = PostgresLock::new(&server.url());
        let ttl = Duration::from_secs(60);
        let KeyAcquired::Acquired(number) = lock.acquire("k", "v", ttl, 0).await.unwrap() else {
            panic!("it is free");
        };
        assert!(lock.renew("k", number, ttl).await.unwrap());
        old_rows_are_deleted_while_it_works(&server, &lock).await;
        let (db, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        db.query(others, &[]).await.unwrap();
        // One call may find out; no other does.
        let _ = lock.renew("k", number, ttl).await;
        let within = Duration::from_secs(10);
        streamlease_tests::eventually("a new connection", within, async || {
            lock.renew("k", number, ttl).await.is_ok_and(|held| held)
        })
        .await;
    }
}
