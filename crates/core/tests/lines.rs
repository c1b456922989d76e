//! What a client's log says to people.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{Fleet, TTL, everywhere};
use log::{LevelFilter, Log, Metadata, Record};
use streamlease_core::decorate::decorate;
use streamlease_core::{Backend, BackendProvider, Result, ServiceName};
use streamlease_testkit::faults::Faults;

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lines"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// Numbers with more digits than anybody reads: `1.234567891s`.
fn has_raw_time(line: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit();
    line.match_indices('.').any(|(at, _)| {
        let fraction = line[at + 1..].chars().take_while(|c| is_digit(*c)).count();
        line[..at].ends_with(is_digit) && fraction > 1
    })
}

async fn an_outage_and_a_frozen_process(fleet: Fleet) {
    let faults = Faults::new();
    let backend = fleet.backend.backend(&fleet.service).unwrap();
    let backend = Given(decorate(backend, faults.clone()));
    let builder = fleet.builder("n").backend(backend).log_target("lines");
    let node = fleet.start_with(builder).await;
    fleet.sleep(TTL).await;
    faults.break_all();
    fleet
        .sleep(TTL * 3 + Duration::from_nanos(123_456_789))
        .await;
    faults.repair();
    fleet.sleep(TTL * 4).await;
    let held = faults.hold(streamlease_core::Operation::Renew);
    held.arrived().await;
    fleet.sleep(TTL).await;
    drop(held);
    node.process.freeze();
    fleet.sleep(Duration::from_nanos(1_234_567_891)).await;
    node.process.thaw();
    fleet.sleep(TTL * 4).await;
    let lines = std::mem::take(&mut *LINES.0.lock().unwrap());
    for said in [
        "can be reached again after ",
        "did not run for ",
        "no answer to renew within ",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said}: {lines:#?}"
        );
    }
    let raw: Vec<_> = lines.iter().filter(|line| has_raw_time(line)).collect();
    assert!(raw.is_empty(), "{raw:#?}");
}

#[test]
fn times_in_the_log_are_for_people() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(LevelFilter::Debug);
    everywhere(an_outage_and_a_frozen_process);
}
