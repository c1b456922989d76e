//! Measures [streamlease] through the [`metrics`] crate, with names for Prometheus.
//!
//! Give [`Metrics`] to clients and producers, and install an exporter of your choice:
//!
//! ```
//! use streamlease_metrics::Metrics;
//!
//! # fn main() -> streamlease_core::Result<()> {
//! let metrics = Metrics::of("orders");
//! let client = streamlease_core::Client::builder("orders").recorder(metrics);
//! # Ok(())
//! # }
//! ```
//!
//! [`ALL`] lists the metrics. Each has the label `service`; no data stream, entry or consumer
//! is ever a label. The exporter has to be installed before a client starts, and has to be
//! told of the [`buckets`], or it may not show histograms.
//!
//! [streamlease]: https://docs.rs/streamlease

mod names;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{SharedString, counter, gauge, histogram};
use streamlease_core::recorder::{Attempt, EndKind, Load, Recorder, Started};
use streamlease_core::{DisownReason, Operation, Part, ServiceCounts, StreamOrigin};

pub use self::names::{ALL, Description, Kind, buckets};

/// Announcements that seem older are no times since 1970: the ids of a backend in memory are
/// times since its start.
const OLDEST: Duration = Duration::from_secs(366 * 24 * 3_600);

/// How often what there is in the whole service is counted: as often as Prometheus looks.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// What a gauge shows that is not known: the last value would be a lie.
const UNKNOWN: f64 = f64::NAN;

/// A [`Recorder`] that passes everything on to the recorder of the `metrics` crate.
#[derive(Debug, Clone)]
pub struct Metrics {
    service: SharedString,
}

impl Metrics {
    /// Measures clients and producers of `service`, which becomes a label. Describes all
    /// metrics to the exporter.
    pub fn of(service: impl AsRef<str>) -> Arc<Self> {
        ALL.iter().for_each(Description::describe);
        let service = SharedString::from_shared(service.as_ref().into());
        let metrics = Self { service };
        metrics.show_rare_counters();
        Arc::new(metrics)
    }

    /// Prometheus sees no increase in a counter that begins with 1: those that are alarmed
    /// on are shown before they have counted anything.
    fn show_rare_counters(&self) {
        for reason in ["expired", "lock_lost", "no_progress"] {
            self.ended("disowned", reason, 0);
        }
        for kind in ["reported", "no_progress", "death"] {
            self.count(names::FAILURES, ("kind", kind), 0);
        }
        for result in ["ok", "error", "refused"] {
            self.count(names::HEARTBEATS, ("result", result), 0);
        }
        for part in ["lbs", "group", "locks"] {
            self.count(names::OUTAGES, ("part", part), 0);
            self.count(names::RECONNECTS, ("part", part), 0);
        }
        self.count(names::SUBMITTED, ("result", "error"), 0);
        counter!(names::QUARANTINED, "service" => self.service()).increment(0);
    }

    fn ended(&self, end: &'static str, reason: &'static str, n: u64) {
        let service = self.service();
        counter!(names::ENDED, "service" => service, "end" => end, "reason" => reason).increment(n);
    }

    fn service(&self) -> SharedString {
        self.service.clone()
    }

    fn count(&self, name: &'static str, label: (&'static str, &'static str), n: usize) {
        let (key, value) = label;
        counter!(name, "service" => self.service(), key => value).increment(n as u64);
    }

    fn locks(&self, operation: &'static str, result: Attempt, n: usize) {
        let result = of_attempt(result);
        let service = self.service();
        counter!(names::LOCKS, "service" => service, "operation" => operation, "result" => result)
            .increment(n as u64);
    }

    fn time(&self, name: &'static str, took: Duration) {
        histogram!(name, "service" => self.service()).record(took);
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name, "service" => self.service()).set(value);
    }
}

impl Recorder for Metrics {
    fn startup_recovery(&self, entries: usize) {
        counter!(names::RECOVERED, "service" => self.service()).increment(entries as u64);
    }

    fn claim(&self, result: Attempt, n: usize) {
        self.count(names::CLAIMS, ("result", of_attempt(result)), n);
    }

    fn lock_acquire(&self, result: Attempt, n: usize) {
        self.locks("acquire", result, n);
    }

    fn lock_extend(&self, result: Attempt, n: usize) {
        self.locks("extend", result, n);
    }

    fn lock_release(&self, result: Attempt, n: usize) {
        self.locks("release", result, n);
    }

    fn stream_started(&self, started: &Started) {
        let origin = match started.origin {
            StreamOrigin::Fresh => "fresh",
            StreamOrigin::HandedBack => "handed_back",
            StreamOrigin::TakenOver => "taken_over",
            _ => "other",
        };
        self.count(names::STARTED, ("origin", origin), 1);
        match (started.origin, started.free_for) {
            (StreamOrigin::Fresh, _) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
                let waited = now.map(|now| now.saturating_sub(started.announced_at));
                if let Some(waited) = waited.filter(|waited| *waited < OLDEST) {
                    self.time(names::ANNOUNCE_TO_LEASE, waited);
                }
            }
            (StreamOrigin::HandedBack, Some(free_for)) => self.time(names::HANDOVER, free_for),
            (StreamOrigin::TakenOver, Some(free_for)) => self.time(names::TAKEOVER, free_for),
            _ => {}
        }
        if started.death_counts {
            self.count(names::FAILURES, ("kind", "death"), 1);
        }
    }

    fn stream_ended(&self, end: EndKind, held: Duration) {
        let (kind, reason) = match end {
            EndKind::Completed => ("completed", "none"),
            EndKind::HandedBack => ("handed_back", "none"),
            EndKind::Failed => ("failed", "none"),
            EndKind::Disowned(reason) => ("disowned", reason.as_str()),
            _ => ("other", "none"),
        };
        self.ended(kind, reason, 1);
        histogram!(names::HOLD, "service" => self.service(), "end" => kind).record(held);
        match end {
            EndKind::Failed => self.count(names::FAILURES, ("kind", "reported"), 1),
            EndKind::Disowned(DisownReason::NoProgress) => {
                self.count(names::FAILURES, ("kind", "no_progress"), 1);
            }
            _ => {}
        }
    }

    fn hint_received(&self) {
        counter!(names::HINTS_RECEIVED, "service" => self.service()).increment(1);
    }

    fn hint_dropped(&self) {
        counter!(names::HINTS_LOST, "service" => self.service()).increment(1);
    }

    fn quarantined(&self) {
        counter!(names::QUARANTINED, "service" => self.service()).increment(1);
    }

    fn call(&self, operation: Operation, result: Attempt, took: Duration) {
        let (service, name) = (self.service(), operation.name());
        let ended = of_attempt(result);
        histogram!(names::CALL, "service" => service, "operation" => name, "result" => ended)
            .record(took);
    }

    fn heartbeat(&self, result: Attempt, left: Option<Duration>) {
        self.count(names::HEARTBEATS, ("result", of_attempt(result)), 1);
        if let Some(left) = left {
            self.time(names::MARGIN, left);
        }
    }

    fn unreachable(&self, part: Part) {
        self.count(names::OUTAGES, ("part", of_part(part)), 1);
    }

    fn reached(&self, part: Part, after: Duration) {
        self.count(names::RECONNECTS, ("part", of_part(part)), 1);
        histogram!(names::OUTAGE, "service" => self.service(), "part" => of_part(part))
            .record(after);
    }

    fn reachable(&self, part: Part, is_reachable: Option<bool>) {
        let value = is_reachable.map_or(UNKNOWN, |is_reachable| f64::from(u8::from(is_reachable)));
        gauge!(names::REACHABLE, "service" => self.service(), "part" => of_part(part)).set(value);
    }

    fn late(&self, by: Duration) {
        self.time(names::LATE, by);
    }

    fn load(&self, load: &Load) {
        self.set(names::HELD, load.held as f64);
        self.set(names::CAPACITY, load.capacity as f64);
        self.set(names::QUEUED, load.queued as f64);
        self.set(names::EVENT_QUEUE, load.event_queue as f64);
        self.set(names::MEMBERS, load.members.map_or(UNKNOWN, f64::from));
    }

    fn count_every(&self) -> Option<Duration> {
        Some(COUNT_EVERY)
    }

    fn counted(&self, counts: Option<&ServiceCounts>) {
        let number = |count: Option<u64>| count.map_or(UNKNOWN, |count| count as f64);
        let age = |counts: &ServiceCounts| counts.oldest_waiting.unwrap_or_default().as_secs_f64();
        let values = [
            (
                names::SERVICE_WAITING,
                number(counts.and_then(|of| of.waiting)),
            ),
            (names::SERVICE_OLDEST, counts.map_or(UNKNOWN, age)),
            (names::SERVICE_PENDING, number(counts.map(|of| of.pending))),
            (
                names::SERVICE_QUARANTINED,
                number(counts.map(|of| of.quarantined)),
            ),
            (
                names::SERVICE_PAUSED,
                number(counts.map(|of| u64::from(of.is_paused))),
            ),
        ];
        for (name, value) in values {
            self.set(name, value);
        }
    }

    fn submitted(&self, result: Attempt, streams: usize, took: Duration) {
        let result = of_attempt(result);
        self.count(names::SUBMITTED, ("result", result), streams);
        histogram!(names::SUBMIT, "service" => self.service(), "result" => result).record(took);
    }
}

fn of_attempt(attempt: Attempt) -> &'static str {
    match attempt {
        Attempt::Ok => "ok",
        Attempt::Refused => "refused",
        Attempt::Error => "error",
        _ => "other",
    }
}

fn of_part(part: Part) -> &'static str {
    match part {
        Part::Lbs => "lbs",
        Part::Group => "group",
        Part::Locks => "locks",
        _ => "other",
    }
}
