//! This process, and the way from it to the server: how late its executor is, and how long
//! answers take.

use std::time::Duration;

use super::{Finding, PAGE, Severity};
use crate::{Backend, EntryId, ErrorKind, Result, Runtime, readable};

/// Naps of the executor that are measured, each that long.
const NAPS: u32 = 20;
const NAP: Duration = Duration::from_millis(10);

/// Calls that are measured, and for how long at most.
const CALLS: usize = 40;
const CALLS_FOR: Duration = Duration::from_secs(2);

/// What is late by a tenth of the TTL costs the margin by which an owner ends before its
/// lock. What is late by a third is as late as the next heartbeat.
fn severity(late: Duration, ttl: Duration) -> Severity {
    match late {
        late if late >= ttl / 3 => Severity::Error,
        late if late >= ttl / 10 => Severity::Warning,
        _ => Severity::Ok,
    }
}

/// How much later than it should a task runs: in its sleep, and from its start.
pub(super) async fn executor_lag(runtime: &dyn Runtime, ttl: Duration) -> Finding {
    let mut worst = Duration::ZERO;
    for _ in 0..NAPS {
        let due = runtime.now() + NAP;
        runtime.sleep_until(due).await;
        worst = worst.max(runtime.now().saturating_since(due));

        let began = runtime.now();
        let (tell, told) = async_channel::bounded::<()>(1);
        runtime.spawn(Box::pin(async move { drop(tell) }));
        // An executor that ends drops it as well.
        let _ = told.recv().await;
        worst = worst.max(runtime.now().saturating_since(began));
    }
    let severity = severity(worst, ttl);
    let message = format!("tasks of this process run at most {} late", readable(worst));
    let finding = Finding::new(severity, "executor-lag", message).explained_on(PAGE);
    match severity {
        Severity::Ok => finding,
        _ => finding.advise(
            "Handlers block the executor, or the machine has too much to do: heartbeats go out \
             late, and leases are lost. Give work that blocks threads of its own",
        ),
    }
}

/// How long the answers to a small call take. An error if there are none.
pub(super) async fn latency(
    backend: &Backend,
    runtime: &dyn Runtime,
    ttl: Duration,
) -> Result<Finding> {
    let mut times = Vec::new();
    let end = runtime.now() + CALLS_FOR;
    while times.len() < CALLS && (times.is_empty() || runtime.now() < end) {
        let began = runtime.now();
        let answer = backend.transport.list_pending_ids(None, EntryId::MIN, 1);
        match answer.await {
            Err(error) if error.kind() != ErrorKind::NotPrepared => return Err(error),
            _ => times.push(runtime.now().saturating_since(began)),
        }
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let severity = severity(worst, ttl);
    let message = format!(
        "an answer takes {}, the slowest of {} took {}",
        readable(median),
        times.len(),
        readable(worst)
    );
    let finding = Finding::new(severity, "latency", message).explained_on(PAGE);
    Ok(match severity {
        Severity::Ok => finding,
        _ => finding.advise(format!(
            "For a TTL of {} that is long. Look for slow commands (SLOWLOG GET), a full \
             machine or a slow network; or give consumers a longer TTL",
            readable(ttl)
        )),
    })
}
