//! What it takes to test on, and for, **streamlease**.
//!
//! - [`simulation::SimRuntime`]: a runtime with virtual time. Tests run without threads
//!   and without waiting, and a seed replays them.
//! - [`conformance`]: the suites that check the contracts of streamlease's
//!   traits. Whoever implements one runs its suite.
//! - [`simulation`]: a whole fleet of bare state machines on a model backend, on
//!   one seed, with every fault there is, and a checker of the rules.
//! - [`simulation::fleet`]: the same for your own handlers, with real clients.
//! - [`faults`]: wrappers that lose, hold back or delay single requests and
//!   replies of a backend.
//!
//! *LBS* stands for load balancer stream, on which data streams are announced.
//!
//! Everything here is test code: what goes wrong panics, with a message.

mod clock;
pub mod conformance;
pub mod faults;
pub mod simulation;
