//! What a client's log says to people.

use std::time::Duration;

use streamlease_core::decorate::decorate;
use streamlease_core::{Backend, BackendProvider, Event, Result, ServiceAdmin, ServiceName};
use streamlease_testkit::faults::Faults;

use crate::common::lines::{self, Line};
use crate::common::{self, Fleet, TTL, everywhere};

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
    let lines = lines::take("lines");
    let lines: Vec<_> = lines.into_iter().map(|line| line.text).collect();
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
    lines::listen();
    everywhere(an_outage_and_a_frozen_process);
}

#[test]
fn lines_have_keys_for_what_they_are_about() {
    lines::listen();
    everywhere(|fleet| async move {
        let builder = fleet.builder("n").log_target("lines of streams");
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["a stream"]).await;
        let lease = node.lease(TTL).await;
        let (entry, token) = (lease.entry().to_string(), lease.token().to_string());
        lease.complete().await.unwrap();
        node.client.shutdown().await.unwrap();
        let lines = lines::take("lines of streams");
        let client = [("service", "orders"), ("consumer", "n")];
        let stream = [("stream", "a stream"), ("entry", &entry), ("token", &token)];
        let both = [&client[..], &stream].concat();
        for (said, keys) in [
            ("reading ", &client[..]),
            ("leased ", &both),
            ("ended ", &both),
            ("stopped ", &client),
        ] {
            let line = lines.iter().find(|line| line.text.starts_with(said));
            let line = line.unwrap_or_else(|| panic!("{said}: {lines:#?}"));
            let keys = keys
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()));
            assert_eq!(line.keys, keys.collect(), "{line:?}");
        }
    });
}

/// What would be a second line and a command to the terminal, in all that users name or say.
#[test]
fn a_line_of_the_log_is_one_line_whatever_names_and_reasons_are() {
    const FORGED: &str = "s\n1795953784138 WARN  forged \u{1b}[31m\r\u{2028}\u{85}x";
    lines::listen();
    everywhere(|fleet| async move {
        let target = "lines of strange names";
        let builder = || {
            fleet
                .builder("n")
                .log_target(target)
                .quarantine_after(Some(1))
        };
        let mut node = fleet.start_with(builder()).await;
        fleet.submit(&[FORGED]).await;
        let lease = node.lease(TTL).await;
        lease.fail(FORGED).await.unwrap();
        let quarantined = async |node: &mut common::Node| loop {
            if let Event::Quarantined(entry) = node.event(TTL * 10).await {
                return entry;
            }
        };
        let entry = quarantined(&mut node).await;
        // As it is for programs.
        assert_eq!(entry.stream().unwrap().as_str(), FORGED);
        assert!(entry.failures().iter().any(|reason| reason == FORGED));
        let admin = ServiceAdmin::new("orders", &fleet.backend).unwrap();
        admin.pause(FORGED).await.unwrap();
        fleet.sleep(TTL).await;
        node.client.shutdown().await.unwrap();

        let lines = lines::take(target);
        for said in ["leased ", "ended ", "quarantined ", "the service is paused"] {
            assert!(
                lines.iter().any(|line| line.text.starts_with(said)),
                "{lines:#?}"
            );
        }
        for line in &lines {
            let all = line.keys.values().chain([&line.text]);
            for said in all {
                assert!(!said.contains(ends_line_or_commands), "{said:?}");
            }
        }
        let named = |line: &&Line| {
            line.text
                .contains("s\\n1795953784138 WARN  forged \\u{1b}[31m")
        };
        assert!(lines.iter().filter(named).count() >= 3, "{lines:#?}");
    });
}

fn ends_line_or_commands(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}
