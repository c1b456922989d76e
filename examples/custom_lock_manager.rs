//! A lock backend of your own: four methods, about fifty lines.
//!
//! ```text
//! cargo run --example custom_lock_manager
//! cargo test --example custom_lock_manager     # the conformance suite, one test per behaviour
//! ```
//!
//! Your locks may live somewhere else than your data streams: in etcd, in a SQL
//! table, in anything that has keys with a time to live. Implement [`KeyLock`]
//! for it, and [`KeyLockManager`] makes a `LockManager` of that. Here the
//! "somewhere else" is a map behind a mutex that stands for a server.
//!
//! The program first checks the backend with the conformance suite, under
//! virtual time, and then lets a client use it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use streamlease::spi::{KeyAcquired, KeyHolder, KeyLock, KeyLockManager, LockManager};
use streamlease::{
    Client, Event, Info, MemoryBackend, Producer, Result, Runtime, ServiceName, Timestamp,
};
use streamlease_testkit::conformance;
use streamlease_testkit::simulation::SimRuntime;

// The lock backend: from here …

/// A table of locks. With a real server this is a connection to it, the clock is
/// the server's, and each method is one atomic request (a transaction, a script).
#[derive(Debug)]
struct TableLock {
    clock: Arc<dyn Runtime>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last_number: u64,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug)]
struct Row {
    value: String,
    number: u64,
    deadline: Timestamp,
}

#[async_trait]
impl KeyLock for TableLock {
    async fn acquire(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        floor: u64,
    ) -> Result<KeyAcquired> {
        let (mut table, now) = self.live(key);
        if let Some(row) = table.rows.get_mut(key) {
            if row.value != value {
                return Ok(KeyAcquired::Held(row.holder(now)));
            }
            // The same request once more: its first answer was lost.
            row.deadline = now + ttl;
            return Ok(KeyAcquired::Acquired(row.number));
        }
        // Greater than every number before: it becomes the fencing token.
        let number = table.last_number.max(floor) + 1;
        table.last_number = number;
        let row = Row {
            value: value.to_owned(),
            number,
            deadline: now + ttl,
        };
        table.rows.insert(key.to_owned(), row);
        Ok(KeyAcquired::Acquired(number))
    }

    async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool> {
        let (mut table, now) = self.live(key);
        let row = table.rows.get_mut(key).filter(|row| row.number == number);
        Ok(row.map(|row| row.deadline = now + ttl).is_some())
    }

    async fn release(&self, key: &str, number: u64) -> Result<bool> {
        let (mut table, _) = self.live(key);
        let held = table.rows.get(key).is_some_and(|row| row.number == number);
        if held {
            table.rows.remove(key);
        }
        Ok(held)
    }

    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>> {
        let (table, now) = self.live(key);
        Ok(table.rows.get(key).map(|row| row.holder(now)))
    }
}

impl TableLock {
    /// The table, without the key if its time to live has passed.
    fn live(&self, key: &str) -> (MutexGuard<'_, Table>, Timestamp) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if table.rows.get(key).is_some_and(|row| row.deadline <= now) {
            table.rows.remove(key);
        }
        (table, now)
    }
}

impl Row {
    fn holder(&self, now: Timestamp) -> KeyHolder {
        KeyHolder {
            value: self.value.clone(),
            number: self.number,
            remaining: self.deadline.saturating_since(now),
        }
    }
}

// … to here.

fn locks(service: &str, clock: Arc<dyn Runtime>) -> Result<Arc<dyn LockManager>> {
    let lock = TableLock {
        clock,
        table: Mutex::default(),
    };
    Ok(Arc::new(KeyLockManager::new(
        &ServiceName::new(service)?,
        Arc::new(lock),
    )))
}

fn main() -> Result<()> {
    let sim = SimRuntime::new(1);
    for behaviour in conformance::lock_manager::behaviours() {
        let runtime = Arc::new(sim.clone());
        let locks = locks("orders", runtime.clone())?;
        // It says itself that it is skipped, and why.
        let is_skipped = behaviour.skipped(&locks).is_some();
        sim.block_on(behaviour.run(runtime, locks));
        if !is_skipped {
            println!("ok    {}", behaviour.name());
        }
    }
    println!("\nThe backend does all that the suite asks of plain keys. Now a client with it:\n",);
    sim.block_on(use_it(&sim))
}

/// The LBS in memory, the locks in the table.
async fn use_it(sim: &SimRuntime) -> Result<()> {
    let backend = MemoryBackend::new(sim.clone());
    let (client, mut events) = Client::builder("orders")
        .consumer("worker-1")
        .backend(backend.clone())
        .locks(locks("orders", Arc::new(sim.clone()))?)
        .runtime(sim.clone())
        .start()?;
    Producer::new("orders", &backend, sim.clone())?
        .submit("call-1", Info::NONE)
        .await?;
    while let Some(event) = events.next().await {
        match event {
            Event::StreamAdded(lease) => {
                println!(
                    "{} leases {} with token {}",
                    client.id(),
                    lease.stream(),
                    lease.token()
                );
                println!("it is completed: {:?}", lease.complete().await?);
                client.shutdown().await?;
            }
            Event::Terminated(end) => {
                println!("the client ends: {end}");
                end.into_result()?;
            }
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(behaviour: conformance::Behaviour<Arc<dyn LockManager>>) {
        let sim = SimRuntime::new(1);
        let locks = locks("orders", Arc::new(sim.clone())).unwrap();
        sim.block_on(behaviour.run(Arc::new(sim.clone()), locks));
    }

    streamlease_testkit::lock_manager_conformance!(check);

    #[test]
    fn a_client_works_with_it() {
        let sim = SimRuntime::new(1);
        sim.block_on(use_it(&sim)).unwrap();
    }
}
