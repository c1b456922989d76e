//! The metrics: their names, units and meaning, and in which buckets times are counted.

use metrics::Unit;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what was measured last.
    Gauge,
    /// It counts times in [`Description::buckets`].
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, besides `service`.
    pub labels: &'static [&'static str],
    /// What it says.
    pub text: &'static str,
    /// Upper bounds in seconds, of a histogram.
    pub buckets: &'static [f64],
}

impl Description {
    pub(crate) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, Unit::Count, self.text),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit(), self.text),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit(), self.text),
        }
    }

    /// As the name says.
    fn unit(&self) -> Unit {
        match self.name.ends_with("_seconds") {
            true => Unit::Seconds,
            false => Unit::Count,
        }
    }
}

/// The name of each histogram with its buckets, for the exporter.
///
/// With `metrics-exporter-prometheus`, which shows summaries where it knows no buckets:
///
/// ```
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
///
/// # fn main() -> Result<(), metrics_exporter_prometheus::BuildError> {
/// let exporter = streamlease_metrics::buckets()
///     .try_fold(PrometheusBuilder::new(), |exporter, (name, bounds)| {
///         exporter.set_buckets_for_metric(Matcher::Full(name.into()), bounds)
///     })?;
/// # let _ = exporter;
/// # Ok(())
/// # }
/// ```
pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    let histograms = ALL.iter().filter(|of| of.kind == Kind::Histogram);
    histograms.map(|of| (of.name, of.buckets))
}

/// Of calls, take-overs and margins.
const SHORT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Of work and waiting.
const LONG: &[f64] = &[
    0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $buckets:ident $text:literal;)+) => {
        $(pub(crate) const $constant: &str = $name;)+

        /// All of them.
        pub const ALL: &[Description] = &[
            $(Description {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                text: $text,
                buckets: $buckets,
            },)+
        ];
    };
}

const NONE: &[f64] = &[];

metrics! {
    STARTED: Counter "streamlease_streams_started_total" ["origin"] NONE
        "Streams of which this consumer became the owner";
    ENDED: Counter "streamlease_streams_ended_total" ["end", "reason"] NONE
        "Leases that ended";
    FAILURES: Counter "streamlease_failures_total" ["kind"] NONE
        "Failures of owners on a stream";
    QUARANTINED: Counter "streamlease_quarantined_total" [] NONE
        "Entries that this consumer moved into quarantine";
    CLAIMS: Counter "streamlease_claims_total" ["result"] NONE
        "Claims of entries on the load balancer stream (LBS)";
    LOCKS: Counter "streamlease_locks_total" ["operation", "result"] NONE
        "Locks that were to be acquired, extended or released";
    HEARTBEATS: Counter "streamlease_heartbeats_total" ["result"] NONE
        "Heartbeats";
    OUTAGES: Counter "streamlease_outages_total" ["part"] NONE
        "Times that a part of the backend could not be reached";
    RECONNECTS: Counter "streamlease_reconnects_total" ["part"] NONE
        "Times that a part of the backend could be reached again";
    HINTS_RECEIVED: Counter "streamlease_hints_received_total" [] NONE
        "Hints received";
    HINTS_LOST: Counter "streamlease_hints_lost_total" [] NONE
        "Times that hints may have been missed, the start of each subscription included";
    RECOVERED: Counter "streamlease_recovered_entries_total" [] NONE
        "Entries that were left at the consumer's own name by an earlier process or a lost session";
    SUBMITTED: Counter "streamlease_submitted_streams_total" ["result"] NONE
        "Streams that a producer announced";
    ANNOUNCE_TO_LEASE: Histogram "streamlease_announce_to_lease_seconds" [] LONG
        "From the announcement of a fresh stream, by the server's clock, to its lease, by this one's";
    TAKEOVER: Histogram "streamlease_takeover_seconds" [] SHORT
        "From when this consumer heard of an owner's death to the lease of its stream";
    HANDOVER: Histogram "streamlease_handover_seconds" [] SHORT
        "From the hint that a stream was handed back to its lease";
    HOLD: Histogram "streamlease_hold_seconds" ["end"] LONG
        "For how long leases were held";
    CALL: Histogram "streamlease_call_seconds" ["operation", "result"] SHORT
        "Calls of the backend; a fetch waits up to 5 s for entries";
    MARGIN: Histogram "streamlease_heartbeat_margin_seconds" [] SHORT
        "How much longer leases would have been believed when a heartbeat was answered";
    OUTAGE: Histogram "streamlease_outage_seconds" ["part"] LONG
        "Outages that are over";
    LATE: Histogram "streamlease_late_seconds" [] SHORT
        "For how long the client's task did not run, if that was a quarter of the TTL or more";
    SUBMIT: Histogram "streamlease_submit_seconds" ["result"] SHORT
        "A producer's calls, with all retries";
    HELD: Gauge "streamlease_streams_held" [] NONE
        "Leases held";
    CAPACITY: Gauge "streamlease_capacity" [] NONE
        "Most leases that this consumer may hold";
    QUEUED: Gauge "streamlease_events_queued" [] NONE
        "Events that were not taken yet";
    EVENT_QUEUE: Gauge "streamlease_event_queue_capacity" [] NONE
        "Most events that may wait";
    MEMBERS: Gauge "streamlease_members" [] NONE
        "Live consumers of the service; NaN: unknown";
    SERVICE_WAITING: Gauge "streamlease_service_waiting" [] NONE
        "Streams of the whole service that no consumer has had; NaN: unknown";
    SERVICE_OLDEST: Gauge "streamlease_service_oldest_waiting_seconds" [] NONE
        "For how long the oldest of them has waited, 0 if there is none; NaN: unknown";
    SERVICE_PENDING: Gauge "streamlease_service_pending" [] NONE
        "Streams of the whole service that consumers have, held or not; NaN: unknown";
    SERVICE_QUARANTINED: Gauge "streamlease_service_quarantined" [] NONE
        "Entries in the quarantine of the service; NaN: unknown";
    SERVICE_PAUSED: Gauge "streamlease_service_paused" [] NONE
        "1 if the service is paused; NaN: unknown";
    REACHABLE: Gauge "streamlease_backend_reachable" ["part"] NONE
        "1 if this part of the backend can be reached, 0 if not; NaN: unknown";
}
