//! A fixed set of simulated seeds, those that have found bugs, and a few
//! deliberate bugs that must be found.
//!
//! `cargo run --release -p streamlease-testkit --bin simulate` runs as many as one likes.

use std::sync::atomic::{AtomicU64, Ordering};

use streamlease_testkit::simulation::{Mutant, Plan, run};

fn holds(seed: u64) {
    let violation = run(&Plan::of(seed), None, false).violation;
    assert_eq!(violation, None, "seed {seed}");
}

/// The violated rule of the first of a few hundred seeds that shows the bug.
fn found(mutant: Mutant) -> Option<&'static str> {
    let violation = |seed| run(&Plan::of(seed), Some(mutant), false).violation;
    (1..200).find_map(violation).map(|violation| violation.rule)
}

#[test]
fn all_rules_hold_in_a_fixed_set_of_seeds() {
    let next = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        seed @ ..=300 => holds(seed),
                        _ => return,
                    }
                }
            });
        }
    });
}

#[test]
fn one_seed_gives_one_run() {
    let steps = |seed| run(&Plan::of(seed), None, true).trace;
    assert_eq!(steps(7), steps(7));
    assert_ne!(steps(7), steps(8));
}

#[test]
fn a_slow_acquire_ended_its_whole_session() {
    holds(18);
}

#[test]
fn a_take_over_freed_the_lease_that_an_acquire_was_answered_with() {
    holds(156);
    holds(904);
}

#[test]
fn a_completion_was_sent_for_the_next_lease() {
    holds(546);
}

#[test]
fn what_was_handed_back_came_back_from_the_own_dead_session() {
    holds(15_708);
    holds(17_943);
}

#[test]
fn a_clock_that_stops_is_found() {
    assert!(matches!(found(Mutant::ClockStops), Some("R1" | "R6")));
}

#[test]
fn a_lock_per_entry_is_found() {
    // Two owners; which rule it breaks first is the schedule's choice.
    assert!(matches!(found(Mutant::LockPerEntry), Some("R5" | "R6")));
}

#[test]
fn a_missing_fence_is_found() {
    assert_eq!(found(Mutant::NoFence), Some("R4"));
}

#[test]
fn beats_that_tell_nothing_are_found() {
    assert_eq!(found(Mutant::BeatsAreSilent), Some("R9"));
}
