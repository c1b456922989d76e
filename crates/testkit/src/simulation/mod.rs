//! A deterministic simulation of a whole fleet, and a checker of the rules.
//!
//! Many clients, a producer and a model backend in virtual time, on one seed:
//! each request and each reply is delayed, lost and executed late on its own,
//! and everything else that can go wrong does. After every step the checker
//! looks whether the rules hold. [`fleet`] has the same for handlers of yours. Both run
//! in virtual time: [`SimRuntime`] is the runtime, for tests of your own, too.
//!
//! ```
//! use streamlease_testkit::simulation::{Plan, run};
//!
//! let outcome = run(&Plan::of(1), None, false);
//! assert_eq!(outcome.violation, None);
//! ```

mod checker;
mod fault;
pub mod fleet;
mod link;
mod model;
mod network;
mod plan;
mod refusals;
mod rng;
mod runtime;
mod servers;
mod world;

pub use checker::Violation;
pub use fault::{Amid, Estimate, Fault, Key, Of, Refused};
pub use model::Mutant;
pub use network::Network;
pub use plan::{LEAST_CLIENTS, LEAST_FAULTS, LEAST_STREAMS, Plan};
pub use runtime::{SimHandle, SimRuntime};
pub use world::{LEAST_STEPS, Messages, Outcome};

/// Runs a plan, with a deliberate breach of a contract if one is given, and
/// writes down what happens if asked to.
pub fn run(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Outcome {
    world::World::new(plan, mutant, traced).run()
}

/// The least that still fails the same check as the plan.
#[derive(Debug, Clone)]
pub struct Minimal {
    /// What is left of it.
    pub plan: Plan,
    /// Which of its faults that are.
    pub faults: Vec<usize>,
    /// Whether the network does nothing beyond those.
    pub quiet: bool,
}

/// Does without the network's losses and delays if that goes, and without
/// faults, one by one, until none can be done without.
pub fn minimise(plan: &Plan, mutant: Option<Mutant>) -> Minimal {
    let mut least = Minimal {
        plan: plan.clone(),
        faults: (0..plan.faults.len()).collect(),
        quiet: false,
    };
    let Some(violation) = run(plan, mutant, false).violation else {
        return least;
    };
    let fails = |plan: &Plan| {
        let still = run(plan, mutant, false).violation;
        still.is_some_and(|still| (still.rule, still.check) == (violation.rule, violation.check))
    };
    let mut nth = 0;
    loop {
        if !least.quiet && fails(&least.plan.clone().quiet()) {
            least.plan = least.plan.quiet();
            least.quiet = true;
            nth = 0;
        }
        if nth == least.faults.len() {
            return least;
        }
        let mut fewer = least.plan.clone();
        fewer.faults.remove(nth);
        if fails(&fewer) {
            least.plan = fewer;
            least.faults.remove(nth);
            nth = 0;
        } else {
            nth += 1;
        }
    }
}
