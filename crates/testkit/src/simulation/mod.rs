//! A deterministic simulation of a whole fleet, and a checker of the rules.
//!
//! Many clients, a producer and a model backend in virtual time, on one seed:
//! each request and each reply is delayed, lost and executed late on its own,
//! and everything else that can go wrong does. After every step the checker
//! looks whether the rules hold.
//!
//! ```
//! use streamlease_testkit::simulation::{Plan, run};
//!
//! let outcome = run(&Plan::of(1), None, false);
//! assert_eq!(outcome.violation, None);
//! ```

mod checker;
mod faults;
mod model;
mod world;

pub use checker::Violation;
pub use faults::{Fault, Plan};
pub use model::Mutant;
pub use world::Outcome;

/// Runs a plan, with a deliberate breach of a contract if one is given, and
/// writes down what happens if asked to.
pub fn run(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Outcome {
    world::World::new(plan, mutant, traced).run()
}

/// Drops faults one by one for as long as the same rule is violated.
pub fn minimise(plan: &Plan, mutant: Option<Mutant>) -> Plan {
    let Some(violation) = run(plan, mutant, false).violation else {
        return plan.clone();
    };
    let mut least = plan.clone();
    let mut nth = 0;
    while nth < least.faults.len() {
        let mut fewer = least.clone();
        fewer.faults.remove(nth);
        let still = run(&fewer, mutant, false).violation;
        if still.is_some_and(|still| still.rule == violation.rule) {
            least = fewer;
            nth = 0;
        } else {
            nth += 1;
        }
    }
    least
}
