//! Your own handlers under faults: real clients on the model, on one seed.
//!
//! A [`Trial`] runs your code in each process of a fleet, under virtual time,
//! while what its seed says goes wrong: processes crash, stand still, are asked
//! to stop and come back; requests, replies and hints are lost, late and
//! doubled, each on its own; servers restart without their last writes, and
//! their clocks step. Then the faults stop, and everything that was announced
//! has to be completed. A [`Ledger`] takes the place of what your handlers write
//! to, and checks them.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use streamlease_core::{Completion, Event, Lease};
//! use streamlease_testkit::simulation::fleet::{Process, Trial};
//!
//! /// What each process of the fleet runs: your program.
//! async fn worker(process: Process) {
//!     let (client, mut events) = process.client().capacity(50).start().unwrap();
//!     while let Some(event) = events.next().await {
//!         if let Event::StreamAdded(lease) = event {
//!             process.spawn(handle(process.clone(), Arc::new(lease)));
//!         }
//!     }
//! }
//!
//! /// The handler under test.
//! async fn handle(process: Process, lease: Arc<Lease>) {
//!     let store = process.ledger();
//!     store.take_up(&lease);
//!     for _part in 0..3 {
//!         process.sleep(Duration::from_millis(200)).await; // the work
//!         if !store.write(&lease) {
//!             return; // somebody else goes on
//!         }
//!     }
//!     if store.finish(&lease)
//!         && let Ok(Completion::Completed) = lease.complete().await
//!     {
//!         store.completed(&lease);
//!     }
//! }
//!
//! // At least 3 clients, 20 streams and 5 faults in each.
//! for seed in 1..=5 {
//!     Trial::of(seed).run(worker).assert_holds();
//! }
//! ```
//!
//! Run 200 seeds at least: a mistake that takes a pause at the wrong moment shows in one of ten or
//! twenty. Handlers that write to a store of their own have the store tell the ledger what it did
//! ([`Ledger::was_read`] and the two after it), which then checks the store's fencing. The example
//! `fencing_redis` does so on 500 seeds.
//!
//! A failure names its seed; `Trial::of(seed)` with [`traced`](Trial::traced)
//! replays it and writes down what the servers were asked. Faults can be taken
//! out of [`Trial::faults`] one by one, or put there. As long as your code takes
//! time and chance from its [`Process`] alone, the same seed gives the same run.
//!
//! To tell a story of your own instead of a drawn one, give each process a
//! [`SimBackend`] of [`SimServers`] as its backend and a node of
//! [`SimRuntime`](crate::simulation::SimRuntime) as its runtime, and inject faults yourself:
//!
//! ```
//! use std::time::Duration;
//! use streamlease_core::{Client, Event, Info, LockScheme, Producer};
//! use streamlease_testkit::simulation::SimRuntime;
//! use streamlease_testkit::simulation::Network;
//! use streamlease_testkit::simulation::fleet::SimServers;
//!
//! # fn main() -> streamlease_core::Result<()> {
//! let sim = SimRuntime::new(7);
//! let servers = SimServers::new(&sim, "orders", LockScheme::Session);
//! servers.set_network(Network::default());
//! sim.block_on(async {
//!     let (process, backend) = (sim.handle(), servers.backend());
//!     let (client, mut events) = Client::builder("orders")
//!         .consumer("a")
//!         .backend(backend.clone())
//!         .runtime(process.clone())
//!         .seed(sim.random(u64::MAX))
//!         .start()?;
//!     let producer = Producer::new("orders", &servers.backend(), process.clone())?;
//!     producer.submit("s", Info::NONE).await?;
//!     let Some(Event::StreamAdded(lease)) = events.next().await else { panic!() };
//!
//!     // Cut off for longer than its TTL, it is told so before anybody else gets the stream.
//!     backend.lose_requests(Duration::from_secs(60));
//!     lease.lost().await;
//!     assert!(!lease.is_valid());
//!     Ok(())
//! })
//! # }
//! ```

mod backend;
mod ledger;
mod process;
mod run;
mod servers;
mod trial;

pub use backend::SimBackend;
pub use ledger::Ledger;
pub use process::Process;
pub use servers::{HintsAre, SimServers};
pub use trial::{Outcome, Trial};
