//! What the recorder of the `metrics` crate is given.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::with_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use streamlease_core::recorder::{Attempt, EndKind};
use streamlease_core::{DisownReason, Operation, Part, Recorder, ServiceCounts};
use streamlease_metrics::{ALL, Kind, Metrics};

const SECOND: Duration = Duration::from_secs(1);

/// What is recorded, by name and labels without `service`.
fn recorded(record: impl FnOnce(&Metrics)) -> BTreeMap<String, DebugValue> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    with_local_recorder(&recorder, || record(&Metrics::of("orders")));
    let all = snapshotter.snapshot().into_vec().into_iter();
    let shown = |(key, unit, description, value): (
        metrics_util::CompositeKey,
        Option<metrics::Unit>,
        Option<metrics::SharedString>,
        DebugValue,
    )| {
        assert!(
            unit.is_some() && description.is_some(),
            "{key:?} is not described"
        );
        let mut labels: Vec<_> = key.key().labels().collect();
        assert_eq!(labels.remove(0).value(), "orders", "{key:?}");
        let labels = labels.iter().map(|l| format!("{}={}", l.key(), l.value()));
        let labels: Vec<_> = labels.collect();
        (format!("{} {}", key.key().name(), labels.join(",")), value)
    };
    all.map(shown).collect()
}

fn count(found: &BTreeMap<String, DebugValue>, name: &str) -> u64 {
    match found.get(name) {
        Some(DebugValue::Counter(n)) => *n,
        other => panic!("{name}: {other:?} among {found:?}"),
    }
}

fn everything(metrics: &Metrics) {
    metrics.startup_recovery(3);
    metrics.claim(Attempt::Ok, 2);
    metrics.lock_acquire(Attempt::Refused, 4);
    metrics.lock_extend(Attempt::Ok, 5);
    metrics.lock_release(Attempt::Error, 1);
    metrics.stream_ended(EndKind::Completed, SECOND);
    metrics.stream_ended(EndKind::Failed, SECOND);
    metrics.stream_ended(EndKind::Disowned(DisownReason::NoProgress), SECOND);
    metrics.hint_received();
    metrics.hint_dropped();
    metrics.quarantined();
    metrics.call(Operation::Renew, Attempt::Ok, SECOND);
    metrics.heartbeat(Attempt::Ok, Some(SECOND));
    metrics.heartbeat(Attempt::Error, None);
    metrics.unreachable(Part::Lbs);
    metrics.reached(Part::Lbs, SECOND);
    metrics.unreachable(Part::Locks);
    metrics.reachable(Part::Lbs, Some(true));
    metrics.reachable(Part::Group, None);
    metrics.reachable(Part::Locks, Some(false));
    metrics.late(SECOND);
    metrics.submitted(Attempt::Ok, 7, SECOND);
    metrics.counted(Some(
        &ServiceCounts::new(None, Some(SECOND), 4, 2).paused(true),
    ));
}

fn gauge(found: &BTreeMap<String, DebugValue>, name: &str) -> f64 {
    match found.get(name) {
        Some(DebugValue::Gauge(value)) => value.into_inner(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn what_is_unknown_of_a_service_is_no_number() {
    let service = |found: &BTreeMap<String, DebugValue>| {
        [
            "waiting",
            "oldest_waiting_seconds",
            "pending",
            "quarantined",
            "paused",
        ]
        .map(|what| gauge(found, &format!("streamlease_service_{what} ")))
    };
    let [waiting, known @ ..] = service(&recorded(everything));
    assert!(waiting.is_nan());
    assert_eq!(known, [1.0, 4.0, 2.0, 1.0]);
    let nothing_waits = ServiceCounts::new(Some(0), None, 0, 0);
    let found = recorded(|metrics| metrics.counted(Some(&nothing_waits)));
    assert_eq!(service(&found), [0.0; 5]);
    let found = recorded(|metrics| {
        everything(metrics);
        metrics.counted(None);
    });
    assert!(service(&found).iter().all(|value| value.is_nan()));
}

#[test]
fn ends_are_counted_by_kind_and_reason_and_failures_by_kind() {
    let found = recorded(everything);
    let ended = "streamlease_streams_ended_total";
    assert_eq!(
        count(&found, &format!("{ended} end=completed,reason=none")),
        1
    );
    assert_eq!(
        count(&found, &format!("{ended} end=disowned,reason=no_progress")),
        1
    );
    assert_eq!(count(&found, "streamlease_failures_total kind=reported"), 1);
    assert_eq!(
        count(&found, "streamlease_failures_total kind=no_progress"),
        1
    );
}

#[test]
fn calls_are_counted_by_result_and_batches_by_their_size() {
    let found = recorded(everything);
    assert_eq!(count(&found, "streamlease_claims_total result=ok"), 2);
    assert_eq!(
        count(
            &found,
            "streamlease_locks_total operation=acquire,result=refused"
        ),
        4
    );
    assert_eq!(
        count(&found, "streamlease_heartbeats_total result=error"),
        1
    );
    assert_eq!(
        count(&found, "streamlease_submitted_streams_total result=ok"),
        7
    );
}

#[test]
fn a_part_is_reachable_or_not_or_that_is_unknown() {
    let found = recorded(everything);
    let reachable = |part: &str| {
        gauge(
            &found,
            &format!("streamlease_backend_reachable part={part}"),
        )
    };
    assert_eq!((reachable("lbs"), reachable("locks")), (1.0, 0.0));
    assert!(reachable("group").is_nan());
}

#[test]
fn each_metric_is_listed_with_its_labels_and_follows_the_conventions() {
    let names: BTreeSet<_> = ALL.iter().map(|of| of.name).collect();
    assert_eq!(names.len(), ALL.len());
    for of in ALL {
        assert_eq!(
            of.name.ends_with("_total"),
            of.kind == Kind::Counter,
            "{}",
            of.name
        );
        // A gauge may be a time, too.
        assert!(
            of.name.ends_with("_seconds") || of.kind != Kind::Histogram,
            "{}",
            of.name
        );
        assert_eq!(
            !of.buckets.is_empty(),
            of.kind == Kind::Histogram,
            "{}",
            of.name
        );
        assert!(of.buckets.is_sorted(), "{}", of.name);
    }
    for found in recorded(everything).keys() {
        let (name, labels) = found.split_once(' ').unwrap();
        let of = ALL.iter().find(|of| of.name == name).unwrap();
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let labels: Vec<_> = labels.map(|(key, _)| key).collect();
        assert_eq!(labels, of.labels, "{name}");
    }
}
