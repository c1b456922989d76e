//! [`Trial`]: a fleet of processes that run your code, and what goes wrong around them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamlease_core::{Announcement, BoxFuture, Info, LockScheme, StreamName};

use super::Process;
use super::run::Run;
use crate::simulation::SimRuntime;
use crate::simulation::fault::Fault;
use crate::simulation::model::Mutant;
use crate::simulation::network::Network;
use crate::simulation::plan::Plan;

/// One run of your code under faults, all of it decided by its seed.
///
/// The fields may be changed before [`run`](Self::run). By the seed there are 3
/// to 5 processes, 20 to 34 data streams, 5 to 20 faults, a TTL between 300 ms
/// and 5 s, and one of the two lock schemes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trial {
    /// The seed.
    pub seed: u64,
    /// How leases hang together.
    pub scheme: LockScheme,
    /// The TTL of the clients; lengths of faults are drawn to fit it.
    pub ttl: Duration,
    /// How many processes run at first.
    pub processes: u64,
    /// What is announced, at drawn times. More comes with some faults.
    pub announcements: Vec<Announcement>,
    /// How bad the network is while there are faults.
    pub network: Network,
    /// What goes wrong, and when, before [`trouble`](Self::trouble) is over.
    pub faults: Vec<(Duration, Fault)>,
    /// After that long the faults stop.
    pub trouble: Duration,
    /// Then everything has to be completed within that time: how long your
    /// handlers work, and a few minutes.
    pub patience: Duration,
    /// A breach of a server's contract, to see that your test notices one; those
    /// of clients and networks do nothing here.
    pub mutant: Option<Mutant>,
    /// Whether to write down what happens.
    pub traced: bool,
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Processes that were started.
    pub processes: u64,
    /// Announcements that had to be completed.
    pub announced: usize,
    /// Faults that were injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Why the run is not durable; see [`SimServers::lossy`](super::SimServers::lossy).
    pub lossy: BTreeSet<&'static str>,
    /// From the end of the faults until everything was completed.
    pub convergence: Duration,
    /// What should not have happened.
    pub violations: Vec<String>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

impl Outcome {
    /// # Panics
    /// If there are violations, with the seed and what went wrong in the run.
    pub fn assert_holds(&self) {
        assert!(
            self.violations.is_empty(),
            "seed {}, faults {:?}, lossy {:?}: {:#?}",
            self.seed,
            self.faults,
            self.lossy,
            self.violations
        );
    }
}

impl Trial {
    /// The name of the service in all trials.
    pub const SERVICE: &str = "orders";

    /// The trial of a seed.
    pub fn of(seed: u64) -> Self {
        let plan = Plan::with(seed, concerns_real_clients);
        let streams = (0..plan.streams).map(stream);
        Self {
            seed,
            scheme: plan.scheme,
            ttl: plan.ttl,
            processes: plan.nodes,
            announcements: streams.map(|s| Announcement::new(s, Info::NONE)).collect(),
            network: plan.network(),
            faults: plan.faults,
            trouble: plan.trouble,
            patience: Duration::from_secs(600),
            mutant: None,
            traced: false,
        }
    }

    /// Runs `main` in each process: at first, and again after each crash. It
    /// gets a client from [`Process::client`], and works for as long as the
    /// process lives.
    ///
    /// # Panics
    /// With whatever `main` and its tasks panic; the seed is printed.
    pub fn run<F>(&self, main: impl Fn(Process) -> F) -> Outcome
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _told = TellsSeed(self.seed);
        let sim = SimRuntime::new(self.seed);
        let main = |process: Process| -> BoxFuture<'static, ()> { Box::pin(main(process)) };
        let outcome = sim.block_on(Run::new(self, &sim, &main).run());
        sim.end();
        outcome
    }
}

/// What can happen to a client as it is, from without.
fn concerns_real_clients(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::ForeignFetch { .. }
            | Fault::ForeignClaim { .. }
            | Fault::Capacity { .. }
            | Fault::HangingHandlers { .. }
            | Fault::SlowUser { .. }
            | Fault::ServicePaused { .. }
    )
}

pub(super) fn stream(nth: u64) -> StreamName {
    StreamName::new(format!("s{nth}")).expect("not empty and short")
}

/// Says which seed it was, should anything panic.
struct TellsSeed(u64);

impl Drop for TellsSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the trial has seed {}", self.0);
        }
    }
}
