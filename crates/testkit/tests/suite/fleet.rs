//! Real clients with handlers on the model, under faults: good handlers keep all
//! promises, and what is wrong with bad ones is found.
//!
//! A failing seed replays with `SEEDS=<seed> cargo test -p streamlease-testkit --test suite fleet::`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamlease_core::{Completion, Event, FencingToken, Lease, LockScheme, StreamName};
use streamlease_testkit::simulation::fleet::{Outcome, Process, Trial};
use streamlease_testkit::simulation::{
    Fault, Key, LEAST_CLIENTS, LEAST_FAULTS, LEAST_STREAMS, Mutant, Of, Refused,
};

/// Calls `handle` for each lease, in a task of its own.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    process: Process,
    handle: impl Fn(Process, Arc<Lease>) -> F,
) {
    // Now and then everybody is full.
    let capacity = |process: &Process| 1 + process.random(12) as usize;
    let client = process.client().capacity(capacity(&process)).start();
    let (client, mut events) = client.expect("a valid client");
    client.started().await.expect("it never gives up");
    let (stopping, ending) = (process.clone(), client.clone());
    process.spawn(async move {
        stopping.asked_to_stop().await;
        ending.shutdown().await.expect("it was asked to end");
    });
    while let Some(event) = events.next().await {
        if let Event::StreamAdded(lease) = event {
            let lease = Arc::new(lease);
            process.ledger().take_up(&lease);
            process.spawn(handle(process.clone(), lease));
        }
        if process.random(10) == 0 {
            let capacity = capacity(&process);
            client.set_capacity(capacity).expect("a valid capacity");
        }
    }
}

/// Writes a few times with the token, and stops when it is refused.
async fn good(process: Process, lease: Arc<Lease>) {
    for _ in 0..1 + process.random(5) {
        process
            .sleep(Duration::from_millis(process.random(400)))
            .await;
        if !process.ledger().write(&lease) {
            return;
        }
    }
    if process.random(6) == 0 {
        let _ = lease.hand_back().await;
    } else if process.ledger().finish(&lease)
        && let Ok(Completion::Completed) = lease.complete().await
    {
        process.ledger().completed(&lease);
    }
}

/// Its store takes everything, so it looks before each write whether it is the owner.
async fn looks_first(process: Process, lease: Arc<Lease>) {
    for _ in 0..4 {
        process.sleep(Duration::from_millis(300)).await;
        if !lease.is_valid() {
            return;
        }
        process.ledger().write_unguarded(&lease);
    }
    if process.ledger().finish(&lease) {
        let _ = lease.complete().await;
    }
}

/// Goes on writing whether or not the lease is still its own.
async fn never_looks(process: Process, lease: Arc<Lease>) {
    for _ in 0..4 {
        process.sleep(Duration::from_millis(300)).await;
        process.ledger().write_unguarded(&lease);
    }
    if process.ledger().finish(&lease) {
        let _ = lease.complete().await;
    }
}

/// Takes the stream off the LBS and does its work then, in case it gets to it.
async fn completes_first(process: Process, lease: Arc<Lease>) {
    if let Ok(Completion::Completed) = lease.complete().await {
        process.sleep(Duration::from_millis(300)).await;
        let _ = process.ledger().finish(&lease);
    }
}

/// Drops its lease on the floor, for ever.
async fn forgets(process: Process, lease: Arc<Lease>) {
    process.sleep(Duration::from_millis(300)).await;
    if lease.stream().as_str() == "s7" {
        std::future::pending::<()>().await;
    }
    if process.ledger().finish(&lease) {
        let _ = lease.complete().await;
    }
}

fn run<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    handle: impl Fn(Process, Arc<Lease>) -> F + Copy + Send + Sync + 'static,
) -> Outcome {
    Trial::of(seed).run(move |process| serve(process, handle))
}

/// What the first of a few seeds that finds anything finds.
fn found<F: Future<Output = ()> + Send + 'static>(
    handle: impl Fn(Process, Arc<Lease>) -> F + Copy + Send + Sync + 'static,
) -> Vec<String> {
    let mut runs = (1..=40).map(|seed| run(seed, handle).violations);
    runs.find(|violations| !violations.is_empty())
        .expect("a deliberate bug is found within 40 seeds")
}

/// `SEEDS=7` or `SEEDS=1..200`; by default the first `n`.
fn seeds(n: u64) -> RangeInclusive<u64> {
    let number = |text: &str| text.parse().expect("a number in SEEDS");
    match std::env::var("SEEDS") {
        Ok(text) => {
            let (from, to) = text.split_once("..").unwrap_or((&text, &text));
            number(from)..=number(to)
        }
        Err(_) => 1..=n,
    }
}

/// The same with a good handler, and a server that breaks its contract.
fn found_with(mutant: Mutant, and: &[Fault]) -> Vec<String> {
    let trial = |seed| {
        let mut trial = Trial::of(seed);
        trial.mutant = Some(mutant);
        // Each data stream is announced twice.
        trial.announcements.extend_from_within(..);
        let half = trial.trouble / 2;
        trial.faults.extend(and.iter().map(|fault| (half, *fault)));
        trial
    };
    let mut runs = (1..=120).map(|seed| trial(seed).run(|process| serve(process, good)).violations);
    runs.find(|violations| !violations.is_empty())
        .expect("a breach is found within 120 seeds")
}

fn assert_all(violations: &[String], what: &str) {
    let others: Vec<_> = violations.iter().filter(|v| !v.starts_with(what)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn good_handlers_keep_all_promises_in_a_fixed_set_of_seeds() {
    for seed in seeds(40) {
        let outcome = run(seed, good);
        outcome.assert_holds();
        let faults: u64 = outcome.faults.values().sum();
        assert!(faults >= LEAST_FAULTS as u64, "{outcome:?}");
        assert!(outcome.processes >= LEAST_CLIENTS, "{outcome:?}");
        assert!(outcome.announced as u64 >= LEAST_STREAMS, "{outcome:?}");
    }
}

#[test]
fn rights_that_go_and_links_that_are_thin_end_no_client_and_lose_nothing() {
    let (ttl, length) = (Duration::from_secs(1), Duration::from_secs(2));
    for seed in seeds(6) {
        let mut trial = Trial::of(seed);
        trial.ttl = ttl;
        trial.trouble = ttl * 20;
        trial.faults = (0..12)
            .map(|nth| {
                let fault = match nth % 3 {
                    0 => Fault::Refuses {
                        of: [Of::Lbs, Of::Locks, Of::Both][nth as usize / 3 % 3],
                        what: Refused::Everything,
                        length,
                    },
                    1 => Fault::ThinLink {
                        node: nth.into(),
                        each: ttl / 5,
                        length,
                    },
                    _ => Fault::Crash {
                        node: nth.into(),
                        same_name: true,
                        after: ttl / 2,
                    },
                };
                (ttl * (1 + nth), fault)
            })
            .collect();
        let outcome = trial.run(|process| serve(process, good));
        outcome.assert_holds();
        assert_eq!(outcome.faults.values().sum::<u64>(), 12, "{outcome:?}");
        assert!(outcome.lossy.is_empty(), "{outcome:?}");
    }
}

#[test]
fn seeds_are_of_both_schemes_and_both_classes_and_have_all_sorts_of_faults() {
    let (mut kinds, mut faults) = (BTreeSet::new(), BTreeSet::new());
    for seed in 1..=12 {
        let outcome = run(seed, good);
        let durable = outcome.lossy.is_empty();
        kinds.insert((format!("{:?}", Trial::of(seed).scheme), durable));
        faults.extend(outcome.faults.into_keys());
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert!(faults.len() >= 20, "{faults:?}");
}

#[test]
fn a_seed_replays_to_the_letter() {
    for seed in [3, 4] {
        let trace = || {
            let mut trial = Trial::of(seed);
            trial.traced = true;
            trial.run(|process| serve(process, good))
        };
        let first = trace();
        assert!(first.trace.len() > 500, "{}", first.trace.len());
        assert_eq!(first, trace());
    }
}

#[test]
fn whoever_looks_first_writes_nothing_stale_in_durable_runs() {
    for seed in seeds(20) {
        let outcome = run(seed, looks_first);
        if outcome.lossy.is_empty() {
            outcome.assert_holds();
        }
    }
}

#[test]
fn a_handler_that_writes_after_its_lease_is_lost_is_found() {
    assert_all(&found(never_looks), "a stale write");
}

#[test]
fn a_handler_that_completes_before_its_work_is_done_is_found() {
    assert_all(
        &found(completes_first),
        "completed, and its work not finished",
    );
}

#[test]
fn a_handler_that_never_ends_is_found() {
    assert_all(&found(forgets), "not completed in time");
}

#[test]
fn a_lock_per_entry_is_found() {
    assert_all(&found_with(Mutant::LockPerEntry, &[]), "believed twice");
}

#[test]
fn tokens_that_start_anew_are_found() {
    // It counts on from what it remembers.
    let forgets = Fault::KeyGone {
        key: Key::Counter,
        nth: 0,
    };
    let violations = found_with(Mutant::TokensRestart, &[forgets]);
    assert_all(&violations, "a token twice");
}

#[test]
fn a_claim_of_what_is_gone_is_found() {
    let violations = found_with(Mutant::ClaimsTheGone, &[]);
    assert_all(&violations, "worked on after its completion");
}

/// A store of the test's own, which the ledger of a trial knows nothing of: by data stream the
/// greatest token and how much is done.
type Store = Arc<Mutex<BTreeMap<StreamName, (FencingToken, u64)>>>;

/// What the store checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Right,
    /// The token is put down by the first write only.
    ReadsFirst,
    /// The check is one request and the write is another.
    InTwoSteps,
    Nothing,
}

impl Checks {
    /// One request to the store, which takes its time.
    async fn ask(
        self,
        process: &Process,
        store: &Store,
        lease: &Lease,
        write: Option<u64>,
    ) -> Option<u64> {
        process
            .sleep(Duration::from_millis(process.random(50)))
            .await;
        let (stream, token, ledger) = (lease.stream(), lease.token(), process.ledger());
        let rows = || store.lock().expect("nobody panics with it");
        if self == Self::InTwoSteps && rows().get(stream).is_some_and(|row| row.0 > token) {
            return None;
        }
        if self == Self::InTwoSteps {
            process
                .sleep(Duration::from_millis(process.random(20)))
                .await;
        }
        let mut rows = rows();
        let row = rows.entry(stream.clone()).or_default();
        if row.0 > token && matches!(self, Self::Right | Self::ReadsFirst) {
            return None;
        }
        match write {
            None if self == Self::ReadsFirst => ledger.was_read(stream, token),
            None => {
                row.0 = token;
                ledger.was_read(stream, token);
            }
            Some(done) => {
                *row = (token, done);
                ledger.was_written(stream, token);
            }
        }
        if row.1 == 4 {
            ledger.was_finished(stream, token, lease.entry());
        }
        Some(row.1)
    }
}

async fn with_a_store(process: Process, lease: Arc<Lease>, store: Store, checks: Checks) {
    let Some(mut done) = checks.ask(&process, &store, &lease, None).await else {
        return;
    };
    while done < 4 {
        process
            .sleep(Duration::from_millis(process.random(400)))
            .await;
        match checks.ask(&process, &store, &lease, Some(done + 1)).await {
            Some(now) => done = now,
            None => return,
        }
    }
    let _ = lease.complete().await;
}

async fn serve_with_a_store(process: Process, store: Store, checks: Checks) {
    let client = process.client().capacity(8).start();
    let (_client, mut events) = client.expect("a valid client");
    while let Some(event) = events.next().await {
        if let Event::StreamAdded(lease) = event {
            let handler = with_a_store(process.clone(), Arc::new(lease), store.clone(), checks);
            process.spawn(handler);
        }
    }
}

fn run_with_a_store(seed: u64, checks: Checks) -> Outcome {
    let store = Store::default();
    Trial::of(seed).run(|process| serve_with_a_store(process, store.clone(), checks))
}

#[test]
fn a_store_that_checks_tokens_holds_and_need_not_be_the_ledger() {
    for seed in seeds(10) {
        run_with_a_store(seed, Checks::Right).assert_holds();
    }
}

#[test]
fn handlers_that_tell_the_ledger_nothing_have_to_complete_everything_in_time() {
    async fn worker(process: Process) {
        let client = process.client().capacity(8).start();
        let (_client, mut events) = client.expect("a valid client");
        while let Some(event) = events.next().await {
            if let Event::StreamAdded(lease) = event {
                let _ = lease.complete().await;
            }
        }
    }
    for seed in seeds(6) {
        Trial::of(seed).run(worker).assert_holds();
    }
}

#[test]
fn what_is_wrong_with_a_store_is_found() {
    for checks in [Checks::Nothing, Checks::ReadsFirst, Checks::InTwoSteps] {
        let mut runs = (1..=200).map(|seed| (seed, run_with_a_store(seed, checks).violations));
        let (seed, violations) = runs
            .find(|(_, violations)| !violations.is_empty())
            .expect("found");
        println!("{checks:?} is found by seed {seed}");
        assert_all(&violations, "a stale write was taken");
    }
}

#[test]
fn each_lock_scheme_can_be_chosen() {
    for scheme in [LockScheme::PerStream, LockScheme::Session] {
        let mut trial = Trial::of(11);
        trial.scheme = scheme;
        trial.run(|process| serve(process, good)).assert_holds();
    }
}
