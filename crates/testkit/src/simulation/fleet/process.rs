//! [`Process`]: what your code gets of the fleet it is in.

use std::time::Duration;

use async_channel::{Receiver, Sender};
use streamlease_core::{Client, ClientBuilder, Runtime};

use super::{Ledger, SimBackend, SimServers, Trial};
use crate::simulation::{SimHandle, SimRuntime};

/// One process of the fleet, to your code. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    ttl: Duration,
    sim: SimRuntime,
    handle: SimHandle,
    backend: SimBackend,
    ledger: Ledger,
    /// Closed when it is asked to stop; nothing is ever sent.
    stop: (Sender<()>, Receiver<()>),
}

impl Process {
    pub(super) fn new(
        name: String,
        ttl: Duration,
        sim: &SimRuntime,
        servers: &SimServers,
        ledger: &Ledger,
    ) -> Self {
        Self {
            name,
            ttl,
            sim: sim.clone(),
            handle: sim.handle(),
            backend: servers.backend(),
            ledger: ledger.clone(),
            stop: async_channel::bounded(1),
        }
    }

    pub(super) fn stop(&self) {
        self.stop.0.close();
    }

    /// Begins this process's client, with its consumer name, backend, runtime,
    /// seed and TTL. Nothing is quarantined for failing unless you set it: a
    /// crash counts as a failure, and here are many.
    pub fn client(&self) -> ClientBuilder {
        Client::builder(Trial::SERVICE)
            .consumer(&self.name)
            .backend(self.backend.clone())
            .runtime(self.handle.clone())
            .seed(self.sim.random(u64::MAX))
            .ttl(self.ttl)
            .quarantine_after(None)
    }

    /// Its name; a process that is started again after a crash may have the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its tasks run on, with its clock.
    pub fn runtime(&self) -> &SimHandle {
        &self.handle
    }

    /// Its way to the servers, for a producer of its own.
    pub fn backend(&self) -> &SimBackend {
        &self.backend
    }

    /// What its handlers write to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Resolves when the process is asked to stop, as by SIGTERM: shut its client
    /// down then ([`Client::shutdown`]), and end. Another one comes under its name,
    /// whether or not it does.
    pub async fn asked_to_stop(&self) {
        let _ = self.stop.1.recv().await;
    }

    /// Runs a task in this process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(Box::pin(task));
    }

    /// Waits, by this process's clock.
    pub async fn sleep(&self, time: Duration) {
        self.handle.sleep_until(self.handle.now() + time).await;
    }

    /// A number below `bound` (at least 1), drawn from the seed.
    pub fn random(&self, bound: u64) -> u64 {
        self.sim.random(bound)
    }
}
