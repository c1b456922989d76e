//! Bugs planted into backends and runtimes, and by which behaviour of the conformance suites each
//! is found.
//!
//! ```text
//! cargo test -p streamlease-testkit --test suite planted:: -- --nocapture
//! ```
//!
//! prints the tables. A bug that is not found fails the test, unless the contract allows it; and
//! so does one that is found although it is allowed.

mod hints;
mod keys;
mod lbs;
mod runtime;
mod sessions;

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::simulation::SimRuntime;

/// What a bug would do to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Two owners at once, as also if one hears late that it is none any more; a token that does
    /// not grow, a stale owner obeyed, or an announcement lost.
    Safety,
    /// Work waits longer than it has to, or for ever; nothing is corrupted.
    Delay,
    /// The contract allows it, for this reason.
    Allowed(&'static str),
}

/// One bug.
#[derive(Debug)]
struct Planted<B: 'static> {
    bug: B,
    harm: Harm,
    what: &'static str,
}

/// The bugs of one trait: an enum, and `ALL` with what each does and the harm of it.
macro_rules! planted {
    ($name:ident: $($harm:ident$(($why:literal))? $bug:ident = $what:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum $name {
            $($bug,)*
        }

        impl $name {
            const ALL: &[crate::planted::Planted<Self>] = &[
                $(crate::planted::Planted {
                    bug: Self::$bug,
                    harm: crate::planted::Harm::$harm$(($why))?,
                    what: $what,
                },)*
            ];
        }
    };
}
use planted;

/// [`table_of_runs`] of services with bugs, under virtual time.
fn table<B: Debug + Copy, S>(
    title: &str,
    behaviours: &[Behaviour<S>],
    fresh: impl Fn(&SimRuntime, Option<B>) -> S,
    bugs: &[Planted<B>],
) -> Vec<String> {
    let run = |behaviour: &Behaviour<S>, seed, bug| {
        let sim = SimRuntime::new(seed);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), fresh(&sim, bug)));
    };
    table_of_runs(title, behaviours, run, bugs)
}

/// Runs every bug against the suite, prints what finds it, and returns what is wrong with that.
fn table_of_runs<B: Debug + Copy, S>(
    title: &str,
    behaviours: &[Behaviour<S>],
    run: impl Fn(&Behaviour<S>, u64, Option<B>),
    bugs: &[Planted<B>],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    if let Some((behaviour, why)) = finder(behaviours, |behaviour, seed| run(behaviour, seed, None))
    {
        wrong.push(format!("without a bug: {behaviour}: {why}"));
    }
    let mut text = format!("\n{title}: {} bugs\n", bugs.len());
    for Planted { bug, harm, what } in bugs {
        let found = finder(behaviours, |behaviour, seed| {
            run(behaviour, seed, Some(*bug))
        });
        let kind = match harm {
            Harm::Safety => "safety",
            Harm::Delay => "delay",
            Harm::Allowed(_) => "allowed",
        };
        let [planted, found_of_it] = counts.entry(kind).or_default();
        *planted += 1;
        *found_of_it += usize::from(found.is_some());
        let by = match (&found, harm) {
            (Some((behaviour, _)), _) => (*behaviour).to_owned(),
            (None, Harm::Allowed(why)) => format!("NOT FOUND, allowed: {why}"),
            (None, _) => "NOT FOUND".to_owned(),
        };
        let name = format!("{bug:?}");
        let _ = writeln!(text, "{kind:<8} {name:<28} {by:<66} {what}");
        match (harm, &found) {
            (Harm::Safety | Harm::Delay, None) => {
                wrong.push(format!("not found: {name}"));
            }
            (Harm::Allowed(_), Some((behaviour, why))) => {
                wrong.push(format!("{name} is allowed, and {behaviour} says: {why}"));
            }
            _ => {}
        }
    }
    for (kind, [planted, found]) in counts {
        let _ = writeln!(text, "{kind}: {planted} planted, {found} found");
    }
    println!("{text}");
    wrong
}

thread_local! {
    /// Whether a panic of this thread is what a bug is to come to.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// The first behaviour that fails, and with what.
fn finder<S>(
    behaviours: &[Behaviour<S>],
    run: impl Fn(&Behaviour<S>, u64),
) -> Option<(&'static str, String)> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                print(panic);
            }
        }));
    });
    behaviours.iter().find_map(|behaviour| {
        // What is not one step shows in some orders of tasks only.
        (0..3).find_map(|seed| {
            EXPECTED.set(true);
            let ended = catch_unwind(AssertUnwindSafe(|| run(behaviour, seed)));
            EXPECTED.set(false);
            Some((behaviour.name(), said(&*ended.err()?)))
        })
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("?").to_owned()
}

fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "{wrong:#?}");
}
