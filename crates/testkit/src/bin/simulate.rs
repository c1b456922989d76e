//! Runs simulated fleets, seed by seed, and looks for a rule that does not hold.
//!
//! ```text
//! simulate --seeds 1..1000            many seeds, on all cores
//! simulate --seed 17 --trace          one seed, with all that happens
//! simulate --seed 17 --faults 0,4     one seed, with only these of its faults
//! simulate --mutants                  every deliberate bug, and the seed that finds it
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use streamlease_testkit::simulation::{Mutant, Outcome, Plan, minimise, run};

const USAGE: &str = "usage: simulate [--seeds A..B | --seed N [--faults I,J,…] [--trace]] \
    [--jobs N] [--mutant NAME | --mutants]";

/// Seeds within which each mutant has to be found.
const MUTANT_SEEDS: u64 = 1_000;

#[derive(Default)]
struct Args {
    seeds: Option<(u64, u64)>,
    faults: Option<Vec<usize>>,
    trace: bool,
    jobs: Option<usize>,
    mutant: Option<Mutant>,
    mutants: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("error: {wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.mutants {
        return run_mutants();
    }
    let (from, to) = args.seeds.unwrap_or((1, 1_000));
    if to == from + 1 {
        return run_one(from, &args);
    }
    run_many(from, to, &args)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{text:?} is no number"))
        };
        match &*word {
            "--seeds" => {
                let text = value()?;
                let (from, to) = text
                    .split_once("..")
                    .ok_or(format!("{text:?} is no range like 1..1000"))?;
                let (from, to) = (number(from)?, number(to)?);
                if from >= to {
                    return Err(format!("{text:?} is empty; the end is exclusive"));
                }
                args.seeds = Some((from, to));
            }
            "--seed" => {
                let seed = number(&value()?)?;
                args.seeds = Some((seed, seed + 1));
            }
            "--faults" => {
                let text = value()?;
                let wanted = text.split(',').filter(|nth| !nth.is_empty());
                let wanted: Result<Vec<_>, _> =
                    wanted.map(|nth| number(nth).map(|n| n as usize)).collect();
                args.faults = Some(wanted?);
            }
            "--jobs" => args.jobs = Some(number(&value()?)?.clamp(1, 256) as usize),
            "--trace" => args.trace = true,
            "--mutants" => args.mutants = true,
            "--mutant" => {
                let name = value()?;
                let known = Mutant::ALL.iter().find(|(m, _)| format!("{m:?}") == name);
                args.mutant = Some(known.ok_or(format!("there is no mutant {name}"))?.0);
            }
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(args)
}

fn run_one(seed: u64, args: &Args) -> ExitCode {
    let mut plan = Plan::of(seed);
    if let Some(wanted) = &args.faults {
        let mut nth = 0;
        plan.faults.retain(|_| {
            nth += 1;
            wanted.contains(&(nth - 1))
        });
    }
    let outcome = run(&plan, args.mutant, args.trace);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!(
        "seed {seed}: {:?}, ttl {:?}, {} steps, {} leases, {} takeovers, converged after {:?}, \
         failover {:?} behind the TTL, lossy by {:?}",
        plan.scheme,
        plan.ttl,
        outcome.steps,
        outcome.added,
        outcome.takeovers,
        outcome.converged,
        outcome.failover,
        outcome.lossy
    );
    match &outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("violation: {violation}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Summary {
    seeds: u64,
    steps: u64,
    fewest_steps: Option<u64>,
    short_seeds: u64,
    durable: u64,
    takeovers: u64,
    added: u64,
    faults: BTreeMap<&'static str, u64>,
    lossy: BTreeMap<&'static str, u64>,
    slowest: (Duration, u64),
    slowest_failover: (Duration, u64),
    most_herd: (u64, u64),
    violations: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.fewest_steps = Some(self.fewest_steps.unwrap_or(u64::MAX).min(outcome.steps));
        self.short_seeds += u64::from(outcome.steps < 1_000);
        self.durable += u64::from(outcome.lossy.is_empty());
        self.takeovers += outcome.takeovers;
        self.added += outcome.added;
        for (kind, times) in outcome.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        for why in outcome.lossy {
            *self.lossy.entry(why).or_default() += 1;
        }
        self.slowest = self.slowest.max((outcome.converged, seed));
        self.slowest_failover = self
            .slowest_failover
            .max((outcome.failover.unwrap_or_default(), seed));
        self.most_herd = self.most_herd.max((outcome.herd, seed));
        if let Some(violation) = outcome.violation {
            self.violations.push((seed, violation.to_string()));
        }
    }

    fn print(&self, took: Duration) {
        println!(
            "seeds       {} ({} durable, {} lossy)",
            self.seeds,
            self.durable,
            self.seeds - self.durable
        );
        println!(
            "steps       {} ({:.0}/s; fewest in a seed {}, {} seeds below 1,000)",
            self.steps,
            self.steps as f64 / took.as_secs_f64(),
            self.fewest_steps.unwrap_or(0),
            self.short_seeds
        );
        println!("leases      {} ({} takeovers)", self.added, self.takeovers);
        println!("faults      {}", self.faults.values().sum::<u64>());
        for (kind, times) in &self.faults {
            println!("  {kind:<20} {times}");
        }
        println!("lossy by");
        for (why, times) in &self.lossy {
            println!("  {why:<20} {times}");
        }
        println!(
            "slowest convergence {:?} (seed {})",
            self.slowest.0, self.slowest.1
        );
        println!(
            "slowest failover    TTL + {:?} (seed {})",
            self.slowest_failover.0, self.slowest_failover.1
        );
        println!(
            "most acquires per freed stream {:.2} (seed {})",
            self.most_herd.0 as f64 / 1e3,
            self.most_herd.1
        );
        println!("took        {:.1} s", took.as_secs_f64());
        println!("violations  {}", self.violations.len());
    }
}

fn run_many(from: u64, to: u64, args: &Args) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(cores);
    let next = AtomicU64::new(from);
    let summary = Mutex::new(Summary::default());
    let started = Instant::now();
    let reported = Mutex::new(started);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let outcome = run(&Plan::of(seed), args.mutant, false);
                    if let Some(violation) = &outcome.violation {
                        println!("seed {seed}: {violation}");
                    }
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.add(seed, outcome);
                    let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
                    if reported.elapsed() > Duration::from_secs(10) {
                        *reported = Instant::now();
                        println!(
                            "… {} seeds, {} violations",
                            summary.seeds,
                            summary.violations.len()
                        );
                    }
                }
            });
        }
    });
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.print(started.elapsed());
    if summary.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    for (seed, violation) in summary.violations.iter().take(5) {
        println!("\nseed {seed}: {violation}");
        explain(*seed, args.mutant);
    }
    ExitCode::FAILURE
}

/// The fewest faults that still show it, how it ends, and how to see it again.
fn explain(seed: u64, mutant: Option<Mutant>) {
    let plan = Plan::of(seed);
    let least = minimise(&plan, mutant);
    let mut kept = Vec::new();
    let mut rest = plan.faults.iter().enumerate();
    for wanted in &least.faults {
        let found = rest.find(|(_, fault)| *fault == wanted);
        kept.extend(found.map(|(nth, _)| nth.to_string()));
        println!("  {:?} {:?}", wanted.0, wanted.1);
    }
    let outcome = run(&least, mutant, true);
    if let Some(violation) = &outcome.violation {
        println!("  with only these faults: {violation}");
    }
    let tail = outcome.trace.len().saturating_sub(25);
    outcome.trace[tail..]
        .iter()
        .for_each(|line| println!("    {line}"));
    let mutant = mutant
        .map(|mutant| format!(" --mutant {mutant:?}"))
        .unwrap_or_default();
    println!(
        "  replay: cargo run --release -p streamlease-testkit --bin simulate -- --seed {seed} --faults {},{mutant} --trace",
        kept.join(",")
    );
}

fn run_mutants() -> ExitCode {
    let mut missed = 0;
    for (mutant, rule) in Mutant::ALL {
        let found = (1..=MUTANT_SEEDS).find_map(|seed| {
            let violation = run(&Plan::of(seed), Some(mutant), false).violation?;
            Some((seed, violation))
        });
        match found {
            Some((seed, violation)) => println!("{rule:<4} {mutant:?}: seed {seed}, {violation}"),
            None => {
                missed += 1;
                println!("{rule:<4} {mutant:?}: not found within {MUTANT_SEEDS} seeds");
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
