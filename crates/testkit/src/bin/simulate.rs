//! Runs simulated fleets, seed by seed, and looks for a rule that does not hold.
//!
//! ```text
//! simulate --seeds 1..1000            many seeds, on all cores, or with --jobs N on N
//! simulate --seed 17 --trace          one seed, with all that happens
//! simulate --seed 17 --faults 0,4     one seed, with only these of its faults, or none
//! simulate --seed 17 --early          one seed, and what it meant before servers refused,
//!                                     lied and lost single keys, and links were thin
//! simulate --seed 17 --quiet          one seed, and the network loses and delays nothing
//! simulate --mutants                  every deliberate bug, and the seed that finds it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use streamlease_testkit::simulation::{
    LEAST_CLIENTS, LEAST_FAULTS, LEAST_STEPS, LEAST_STREAMS, Messages, Mutant, Outcome, Plan,
    Violation, minimise, run,
};

const USAGE: &str = "usage: simulate [--seeds A..B | --seed N [--early] [--faults I,J,…|none] [--quiet] [--trace]] \
    [--jobs N] [--mutant NAME | --mutants]";

/// Seeds within which each mutant has to be found: one in a thousand shows the rarest, a
/// record of leases that vanishes without a word.
const MUTANT_SEEDS: u64 = 3_000;

#[derive(Default)]
struct Args {
    seeds: Option<(u64, u64)>,
    faults: Option<Vec<usize>>,
    early: bool,
    quiet: bool,
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
                let wanted = text.split(',').filter(|nth| *nth != "none");
                let wanted: Result<Vec<_>, _> =
                    wanted.map(|nth| number(nth).map(|n| n as usize)).collect();
                args.faults = Some(wanted?);
            }
            "--jobs" => args.jobs = Some(number(&value()?)?.clamp(1, 256) as usize),
            "--early" => args.early = true,
            "--quiet" => args.quiet = true,
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
    let mut plan = match args.early {
        true => Plan::early(seed),
        false => Plan::of(seed),
    };
    if let Some(wanted) = &args.faults {
        let mut nth = 0;
        plan.faults.retain(|_| {
            nth += 1;
            wanted.contains(&(nth - 1))
        });
    }
    if args.quiet {
        plan = plan.quiet();
    }
    let outcome = run(&plan, args.mutant, args.trace);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!(
        "seed {seed}: {:?}, ttl {:?}, {} steps, {} leases, {} takeovers, converged after {:?}, \
         failover {:?} behind the TTL, lossy by {:?}, overlap {:.1} % of a TTL, {:.1} % in true time",
        plan.scheme,
        plan.ttl,
        outcome.steps,
        outcome.added,
        outcome.takeovers,
        outcome.converged,
        outcome.failover,
        outcome.lossy,
        outcome.overlap as f64 / 10.0,
        outcome.true_overlap as f64 / 10.0
    );
    match &outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("violation: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted for each class of runs.
#[derive(Default)]
struct Class {
    seeds: u64,
    steps: u64,
    added: u64,
    takeovers: u64,
    violations: u64,
    faults: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Summary {
    durable: Class,
    lossy: Class,
    lossy_by: BTreeMap<&'static str, u64>,
    messages: Messages,
    /// Over all seeds: clients, streams, faults that were injected, steps.
    fewest: Option<[u64; 4]>,
    slowest: (Duration, u64),
    /// In thousandths of its bound.
    closest: (u128, u64),
    slowest_failover: (Duration, u64),
    most_herd: (u64, u64),
    longest_overlap: (u64, u64),
    longest_true_overlap: (u64, u64),
    violations: Vec<(u64, Violation)>,
    /// Seeds with less than every seed is to have.
    too_small: Vec<u64>,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        let injected = outcome.faults.values().sum();
        let size = [outcome.clients, outcome.streams, injected, outcome.steps];
        let least = [
            LEAST_CLIENTS,
            LEAST_STREAMS,
            LEAST_FAULTS as u64,
            LEAST_STEPS,
        ];
        let is_small = size.iter().zip(least).any(|(has, least)| *has < least);
        if is_small && outcome.violation.is_none() {
            self.too_small.push(seed);
        }
        let fewest = self.fewest.get_or_insert(size);
        for (fewest, has) in fewest.iter_mut().zip(size) {
            *fewest = has.min(*fewest);
        }
        let class = match outcome.lossy.is_empty() {
            true => &mut self.durable,
            false => &mut self.lossy,
        };
        class.seeds += 1;
        class.steps += outcome.steps;
        class.added += outcome.added;
        class.takeovers += outcome.takeovers;
        class.violations += u64::from(outcome.violation.is_some());
        for (kind, times) in outcome.faults {
            *class.faults.entry(kind).or_default() += times;
        }
        for why in outcome.lossy {
            *self.lossy_by.entry(why).or_default() += 1;
        }
        self.messages += outcome.messages;
        self.slowest = self.slowest.max((outcome.converged, seed));
        let share = outcome.converged.as_nanos() * 1_000;
        let share = share.checked_div(outcome.converges_within.as_nanos());
        self.closest = self.closest.max((share.unwrap_or(0), seed));
        self.slowest_failover = self
            .slowest_failover
            .max((outcome.failover.unwrap_or_default(), seed));
        self.most_herd = self.most_herd.max((outcome.herd, seed));
        self.longest_overlap = self.longest_overlap.max((outcome.overlap, seed));
        let truly = (outcome.true_overlap, seed);
        self.longest_true_overlap = self.longest_true_overlap.max(truly);
        if let Some(violation) = outcome.violation {
            self.violations.push((seed, violation));
        }
    }

    fn seeds(&self) -> u64 {
        self.durable.seeds + self.lossy.seeds
    }

    fn print(&self, took: Duration) {
        let [durable, lossy] = [&self.durable, &self.lossy];
        let row = |what: &str, of: fn(&Class) -> u64| {
            let (durable, lossy) = (of(durable), of(lossy));
            println!(
                "{what:<32} {durable:>12} {lossy:>12} {:>12}",
                durable + lossy
            );
        };
        println!("{:<32} {:>12} {:>12} {:>12}", "", "durable", "lossy", "all");
        row("seeds", |class| class.seeds);
        row("steps", |class| class.steps);
        row("leases", |class| class.added);
        row("takeovers", |class| class.takeovers);
        row("violations", |class| class.violations);
        row("faults", |class| class.faults.values().sum());
        let kinds: BTreeSet<_> = durable.faults.keys().chain(lossy.faults.keys()).collect();
        for kind in kinds {
            let of = |class: &Class| class.faults.get(kind).copied().unwrap_or(0);
            let (durable, lossy) = (of(durable), of(lossy));
            println!(
                "  {kind:<30} {durable:>12} {lossy:>12} {:>12}",
                durable + lossy
            );
        }
        println!("lossy by (seeds)");
        for (why, times) in &self.lossy_by {
            println!("  {why:<30} {:>12} {times:>12} {times:>12}", "");
        }
        let messages = &self.messages;
        println!(
            "messages: {} requests and {} replies lost, {} requests and {} replies overtaken, \
             {} requests executed after their sender gave up",
            messages.requests_lost,
            messages.replies_lost,
            messages.requests_overtaken,
            messages.replies_overtaken,
            messages.executed_late
        );
        let [clients, streams, injected, steps] = self.fewest.unwrap_or_default();
        println!(
            "fewest in a seed: {clients} clients, {streams} streams, {injected} faults, {steps} steps; \
             {} seeds are too small",
            self.too_small.len()
        );
        println!(
            "slowest convergence {:?} (seed {}); closest to its bound {:.1} % (seed {})",
            self.slowest.0,
            self.slowest.1,
            self.closest.0 as f64 / 10.0,
            self.closest.1
        );
        println!(
            "slowest failover TTL + {:?} (seed {})",
            self.slowest_failover.0, self.slowest_failover.1
        );
        println!(
            "most acquires per freed stream and survivor {:.2} (seed {})",
            self.most_herd.0 as f64 / 1e3,
            self.most_herd.1
        );
        println!(
            "longest overlap of two beliefs (lossy) {:.1} % of the earlier owner's TTL by its clock \
             (seed {}), {:.1} % in true time (seed {})",
            self.longest_overlap.0 as f64 / 10.0,
            self.longest_overlap.1,
            self.longest_true_overlap.0 as f64 / 10.0,
            self.longest_true_overlap.1
        );
        println!(
            "took {:.1} s, {:.0} steps/s",
            took.as_secs_f64(),
            (durable.steps + lossy.steps) as f64 / took.as_secs_f64()
        );
        println!("violations {}", self.violations.len());
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
                        let (seeds, violations) = (summary.seeds(), summary.violations.len());
                        println!("… {seeds} seeds, {violations} violations");
                    }
                }
            });
        }
    });
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.print(started.elapsed());
    if !summary.too_small.is_empty() {
        println!("error: too small are the seeds {:?}", summary.too_small);
    }
    for (seed, violation) in summary.violations.iter().take(3) {
        println!("\nseed {seed}: {violation}");
        explain(*seed, args.mutant);
    }
    match summary.violations.is_empty() && summary.too_small.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The least that still shows it, what of its trace is about it, and how to see
/// it again.
fn explain(seed: u64, mutant: Option<Mutant>) {
    let least = minimise(&Plan::of(seed), mutant);
    let outcome = run(&least.plan, mutant, true);
    let Some(violation) = &outcome.violation else {
        return;
    };
    println!("  with the least that shows it: {violation}");
    for (nth, (at, fault)) in least.faults.iter().zip(&least.plan.faults) {
        println!("  fault {nth} at {at:?}: {fault:?}");
    }
    print_about(violation, &outcome.trace);
    let faults: Vec<_> = least.faults.iter().map(usize::to_string).collect();
    let faults = match faults.is_empty() {
        true => "none".to_owned(),
        false => faults.join(","),
    };
    let quiet = if least.quiet { " --quiet" } else { "" };
    let mutant = mutant.map(|mutant| format!(" --mutant {mutant:?}"));
    println!(
        "  replay: cargo run --release -p streamlease-testkit --bin simulate -- --seed {seed} \
         --faults {faults}{quiet}{} --trace",
        mutant.unwrap_or_default()
    );
}

/// The last lines of a trace that name the streams, the entries or, if there
/// are none, the processes of a violation; and all faults.
fn print_about(violation: &Violation, trace: &[String]) {
    let words = violation
        .what
        .split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|word| word.chars().any(|c| c.is_ascii_digit()));
    let is_of = |word: &str, first: char| {
        word.strip_prefix(first)
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
    };
    let (mut about, mut processes) = (BTreeSet::new(), BTreeSet::new());
    for word in words {
        if is_of(word, 's') || word.contains('-') {
            about.insert(word);
        } else if is_of(word, 'n') {
            processes.insert(word);
        }
    }
    // The entries of a stream are about it too.
    for line in trace {
        let Some((before, stream)) = line.split_once(" announces Some(") else {
            continue;
        };
        let stream = stream.trim_matches(|c: char| !c.is_alphanumeric());
        if about.contains(stream) {
            about.extend(before.split(' ').next_back());
        }
    }
    if about.is_empty() {
        about = processes;
    }
    let names = |line: &str| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '-');
        words.into_iter().any(|word| about.contains(word))
    };
    let lines = trace
        .iter()
        .filter(|line| names(line) || line.contains("FAULT") || line.contains("HEALED"));
    let lines: Vec<_> = lines.collect();
    let shown = &lines[lines.len().saturating_sub(60)..];
    println!(
        "  {} of {} lines are about it, the last of them:",
        lines.len(),
        trace.len()
    );
    for line in shown {
        let long = line.char_indices().nth(400).map(|(at, _)| at);
        println!(
            "    {}{}",
            &line[..long.unwrap_or(line.len())],
            if long.is_some() { " …" } else { "" }
        );
    }
}

/// Each mutant is aimed at a rule, whose own check has to find it.
fn run_mutants() -> ExitCode {
    let mut missed = 0;
    println!(
        "{:<8} {:<22} {:<12} by the check",
        "rule", "mutant", "killed by"
    );
    for (mutant, rule) in Mutant::ALL {
        let mut first = None;
        let aimed = (1..=MUTANT_SEEDS).find_map(|seed| {
            let violation = run(&Plan::of(seed), Some(mutant), false).violation?;
            first.get_or_insert((seed, violation.clone()));
            (violation.rule == rule).then_some((seed, violation))
        });
        let name = format!("{mutant:?}");
        let Some((seed, violation)) = aimed else {
            missed += 1;
            println!(
                "{rule:<8} {name:<22} not found by its rule within {MUTANT_SEEDS} seeds; {first:?}"
            );
            continue;
        };
        println!(
            "{rule:<8} {name:<22} {:<12} {violation}",
            format!("seed {seed}")
        );
        if let Some((seed, violation)) = first.filter(|(first, _)| *first != seed) {
            println!(
                "{:<8} {:<22} {:<12} {violation}",
                "",
                "  found before by",
                format!("seed {seed}")
            );
        }
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
