//! Real workers, a real Redis, and everything that can go wrong with them.
//!
//! As a test it is short and always the same. As a command it goes on for as
//! long as one likes:
//!
//! ```text
//! cargo test --release -p streamlease-cli --test chaos -- --minutes 10 --seed 1
//! ```
//!
//! It has no test harness because it is also the program that the workers run
//! for each stream, and because a command has an exit code and a summary.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod check;
mod deployment;
mod draw;
mod faults;
mod fleet;
mod inject;
mod ledger;
mod plan;
mod producer;
mod program;
mod round;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use streamlease_tests::in_real_time;

use crate::deployment::Mode;
use crate::draw::Wish;
use crate::plan::{Class, Locks, Plan};
use crate::round::Outcome;

pub(crate) const SERVICE: &str = "chaos";

/// As test runners know the short runs.
const NAMES: [(&str, Mode); 3] = [
    ("nothing_is_lost_and_no_stale_write_gets_in", Mode::Name),
    (
        "nothing_is_lost_on_a_cluster_but_what_was_not_replicated",
        Mode::Cluster,
    ),
    (
        "nothing_is_lost_behind_sentinels_but_what_was_not_replicated",
        Mode::Sentinel,
    ),
];

const USAGE: &str = "options: --minutes N (else the short run), --seed S (default 1), \
    --rounds N (that many, however long they take), --class durable|lossy (else drawn), \
    --mode name|cluster|sentinel (where Redis is; one server behind a name if not given), \
    --only TEXT (only faults whose name has it; may be given again)";

/// For how long faults come in a round of the long run.
const ROUND: Duration = Duration::from_secs(25);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, ledger] = &args[..]
        && flag == "--program"
    {
        return program::run(ledger);
    }
    let values = |flag: &str| -> Vec<&String> {
        let flagged = args.iter().enumerate().filter(|(_, arg)| *arg == flag);
        let missing = || panic!("{flag} needs a value; {USAGE}");
        flagged
            .map(|(at, _)| args.get(at + 1).unwrap_or_else(missing))
            .collect()
    };
    let number = |flag: &str| -> Option<u64> {
        let value = values(flag).first()?.parse().ok();
        Some(value.unwrap_or_else(|| panic!("{flag} needs a number; {USAGE}")))
    };
    let (minutes, rounds) = (number("--minutes"), number("--rounds"));
    if minutes.is_some() || rounds.is_some() {
        let seed = number("--seed").unwrap_or(1);
        let class = values("--class").first().map(|class| match &***class {
            "durable" => Class::Durable,
            "lossy" => Class::Lossy,
            _ => panic!("{USAGE}"),
        });
        let mode = match values("--mode").first().map(|mode| &***mode) {
            None | Some("name") => Mode::Name,
            Some("cluster") => Mode::Cluster,
            Some("sentinel") => Mode::Sentinel,
            Some(_) => panic!("{USAGE}"),
        };
        let only: Vec<String> = values("--only").into_iter().cloned().collect();
        return long(
            seed,
            minutes.unwrap_or(0),
            rounds.unwrap_or(0),
            (class, mode),
            &only,
        );
    }
    as_test(&args)
}

/// What test runners ask for: the list, or a run if no filter excludes it.
fn as_test(args: &[String]) -> ExitCode {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--list") {
        // None is ignored.
        if !has("--ignored") {
            for (name, _) in NAMES {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    // Of what test harnesses understand, these are followed by a value.
    let has_value = ["--test-threads", "--color", "--format", "--logfile", "-Z"];
    let (mut filters, mut skips, mut rest) = (Vec::new(), Vec::new(), args.iter());
    while let Some(arg) = rest.next() {
        if has_value.contains(&&**arg) {
            rest.next();
        } else if arg == "--skip" {
            skips.extend(rest.next());
        } else if !arg.starts_with('-') {
            filters.push(arg);
        }
    }
    let is_named =
        |name: &str, filters: &[&String]| filters.iter().any(|filter| name.contains(&***filter));
    let asked = NAMES.into_iter().filter(|(name, _)| {
        (filters.is_empty() || is_named(name, &filters)) && !is_named(name, &skips)
    });
    let asked: Vec<_> = asked.filter(|_| !has("--ignored")).collect();
    if asked.is_empty() {
        println!("0 tests");
        return ExitCode::SUCCESS;
    }
    let mut summary = Summary::default();
    for (name, mode) in asked {
        let failed = summary.failed;
        match mode {
            Mode::Name => run_short(&mut summary),
            _ => {
                for plan in short_of(mode) {
                    let outcome = round::run(&plan);
                    summary.count(&plan, outcome);
                }
            }
        }
        let verdict = if summary.failed == failed {
            "ok"
        } else {
            "FAILED"
        };
        println!("test {name} ... {verdict}");
    }
    summary.conclude()
}

fn run_short(summary: &mut Summary) {
    let plans = short();
    let planned = plans.iter().flat_map(|plan| &plan.faults);
    let kinds: BTreeSet<_> = planned
        .map(|(_, fault)| fault.kind().split(':').next())
        .collect();
    assert_eq!(kinds.len(), draw::KINDS, "the short run has only {kinds:?}");
    for (number, plan) in plans.iter().enumerate() {
        let outcome = match number {
            HARMLESS => run_in_real_time(plan),
            _ => round::run(plan),
        };
        summary.count(plan, outcome);
    }
}

/// What happens to owners, with and without losses.
fn short_of(mode: Mode) -> [Plan; 2] {
    [(1, Class::Durable), (2, Class::Lossy)].map(|(seed, class)| {
        let wish = Wish {
            seed,
            class,
            mode,
            ttl: Duration::from_secs(1),
            length: Duration::from_secs(16),
            only: &[],
            harmless: false,
        };
        Plan::new(Locks::Session, wish)
    })
}

/// Together they have each kind of fault.
fn short() -> [Plan; 5] {
    [
        (7, Class::Durable, Locks::PerStream),
        (8, Class::Durable, Locks::Session),
        (36, Class::Lossy, Locks::Session),
        (1, Class::Durable, Locks::Session),
        (2, Class::Lossy, Locks::PerStream),
    ]
    .map(|(seed, class, locks)| {
        let harmless = seed == 1;
        let wish = Wish {
            seed,
            class,
            mode: Mode::Name,
            // A machine that does other things, too, shall not cost the one with which
            // nobody may lose a lease any.
            ttl: Duration::from_secs(if harmless { 2 } else { 1 }),
            length: Duration::from_secs(9),
            only: &[],
            harmless,
        };
        Plan::new(locks, wish)
    })
}

/// Of the short run, the one whose faults cost nobody a lease.
const HARMLESS: usize = 3;

/// A round that says nothing if the machine stood still meanwhile.
fn run_in_real_time(plan: &Plan) -> Outcome {
    in_real_time(|| {
        let outcome = round::run(plan);
        let is_lost = |violation: &&String| violation.starts_with(check::LOST_FOR_NOTHING);
        let lost: Vec<_> = outcome.violations.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "{lost:#?}\n{}", outcome.story);
        outcome
    })
}

fn long(
    seed: u64,
    minutes: u64,
    rounds: u64,
    (class, mode): (Option<Class>, Mode),
    only: &[String],
) -> ExitCode {
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let mut summary = Summary::default();
    let mut done = 0;
    while Instant::now() < until || done < rounds {
        let plan = Plan::drawn(seed + done, class, mode, ROUND, only);
        summary.count(&plan, round::run(&plan));
        done += 1;
    }
    summary.conclude()
}

/// All rounds, by what was asked of them.
#[derive(Debug, Default)]
struct Summary {
    sorts: BTreeMap<(Locks, Class), Sort>,
    failed: u64,
}

/// The rounds of one sort, added up.
#[derive(Debug, Default)]
struct Sort {
    rounds: u64,
    failed: u64,
    total: Outcome,
}

impl Summary {
    fn count(&mut self, plan: &Plan, outcome: Outcome) {
        let Outcome {
            announced,
            completed,
            takeovers,
            refused,
            overlap,
            ..
        } = outcome;
        println!(
            "seed {} ({:?}, {:?}, {:?} locks, ttl {:?}): {} faults, {announced} announced, {completed} completed, \
             {takeovers} takeovers, {refused} stale writes refused, overlap {overlap:?}, \
             converged after {:.1}s of {:?}",
            plan.seed,
            plan.mode,
            plan.class,
            plan.locks,
            plan.ttl,
            outcome.faults.values().sum::<u64>(),
            outcome.converged.as_secs_f64(),
            plan.bound(),
        );
        let sort = self.sorts.entry((plan.locks, plan.class)).or_default();
        if !outcome.violations.is_empty() || !outcome.lost.is_empty() {
            self.failed += 1;
            sort.failed += 1;
            for line in outcome.violations.iter().chain(&outcome.lost) {
                println!("  VIOLATION {line}");
            }
            let path = std::env::temp_dir().join(format!(
                "streamlease-chaos-{}-{}.log",
                std::process::id(),
                plan.seed
            ));
            match std::fs::write(&path, &outcome.story) {
                Ok(()) => println!("  all that happened: {}", path.display()),
                Err(err) => println!("  cannot write {}: {err}", path.display()),
            }
        }
        sort.rounds += 1;
        sort.total.add(outcome);
    }

    fn conclude(&self) -> ExitCode {
        self.print_faults();
        for ((locks, class), sort) in &self.sorts {
            let total = &sort.total;
            println!(
                "{locks:?} locks, {class:?}: {} rounds, {} announced, {} reported completed, \
                 {} quarantined, {} takeovers, {} starts without rights",
                sort.rounds,
                total.announced,
                total.completed,
                total.quarantined,
                total.takeovers,
                total.failed_starts,
            );
            println!(
                "  {} writes accepted, {} stale ones refused, {} ends checked on the LBS, \
                 {} connections cut, longest overlap {:?}, slowest to converge {:.1}s",
                total.accepted,
                total.refused,
                total.looks,
                total.cut,
                total.overlap,
                total.converged.as_secs_f64()
            );
            println!(
                "  lost: {}, violations: {}, rounds failed: {}",
                total.lost.len(),
                total.violations.len(),
                sort.failed
            );
        }
        println!("rounds failed: {}", self.failed);
        match self.failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// Each kind with its number per sort of rounds, in the order of the lines below.
    fn print_faults(&self) {
        let kinds: BTreeSet<_> = self
            .sorts
            .values()
            .flat_map(|sort| sort.total.faults.keys())
            .collect();
        println!("faults:");
        for kind in kinds {
            for sort in self.sorts.values() {
                print!(" {:5}", sort.total.faults.get(kind).unwrap_or(&0));
            }
            println!(" {kind}");
        }
    }
}
