//! [`Summary`]: the last line of a listing, and all of `inspect --summary`.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use streamlease::EntryId;
use streamlease::spi::{Backend, counted, readable};

use crate::output::{printable, unix_ms};

use super::{PAGE, Stop, Tables, consumers, ms, or_empty};

/// The last line: that the listing is complete.
#[derive(Default, Serialize)]
#[serde(tag = "event", rename = "summary")]
pub(super) struct Summary {
    pub(super) pending: usize,
    /// Shown where there are any: consumers take them up again by themselves.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) stranded: usize,
    pub(super) undelivered: usize,
    /// For how long the oldest of these has waited, if the server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_undelivered_ms: Option<u64>,
    pub(super) consumers: usize,
    pub(super) quarantined: usize,
    /// By `--limit`, of what was asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) left_out: usize,
    /// Shown while the service is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paused: Option<Paused>,
}

#[derive(Serialize)]
pub(super) struct Paused {
    /// Unix time in milliseconds, by the server's clock; `null` if it cannot be told.
    since: Option<u64>,
    reason: String,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The counts alone. The server has most of them, so that nobody reads a long list for them.
pub(super) async fn show(backend: &Backend, view: &mut Tables) -> Result<bool, Stop> {
    let counted = backend.admin.counts().await?;
    let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let mut counts = Summary {
        pending: size(counted.pending),
        undelivered: size(counted.waiting.unwrap_or_default()),
        oldest_undelivered_ms: counted.oldest_waiting.map(ms),
        quarantined: size(counted.quarantined),
        paused: paused(backend).await?,
        ..Summary::default()
    };
    let mut after = EntryId::MIN;
    while counted.waiting.is_none() {
        let page = or_empty(backend.admin.list_undelivered(after, PAGE).await)?;
        let Some(last) = page.last() else { break };
        after = last.entry;
        counts.undelivered += page.len();
    }
    let mut after = Some(EntryId::MIN);
    while let Some(from) = after {
        let page = or_empty(backend.transport.list_stranded(from, PAGE).await)?;
        after = page.next;
        counts.stranded += page.entries.len();
    }
    let (group, mut sessions) = consumers(backend).await?;
    let has_group = group.is_some();
    for consumer in group.unwrap_or_default() {
        sessions.remove(consumer.consumer.as_str());
        counts.consumers += 1;
    }
    counts.consumers += sessions.len();
    view.end(&counts, &counts.readable())?;
    Ok(has_group || counts.has_any())
}

/// `None` also where the server does not tell: a listing does not need it.
pub(super) async fn oldest_undelivered(backend: &Backend) -> Option<u64> {
    let counted = backend.admin.counts().await;
    counted.ok()?.oldest_waiting.map(ms)
}

pub(super) async fn paused(backend: &Backend) -> Result<Option<Paused>, Stop> {
    let pause = backend.transport.paused().await?;
    Ok(pause.map(|pause| Paused {
        since: pause.since_ms,
        reason: pause.reason,
    }))
}

impl fmt::Display for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service has been paused")?;
        if let Some(since) = self.since {
            let age = Duration::from_millis(unix_ms().saturating_sub(since));
            write!(f, " for {}", readable(age))?;
        }
        if !self.reason.is_empty() {
            write!(f, " ({})", printable(&self.reason))?;
        }
        write!(f, ": nothing is taken until it is resumed")
    }
}

impl Summary {
    /// The same for people, in one line or two.
    pub(super) fn readable(&self) -> String {
        match &self.paused {
            Some(paused) => format!("{self}\n{paused}"),
            None => self.to_string(),
        }
    }

    pub(super) fn has_any(&self) -> bool {
        let entries = self.pending + self.stranded + self.undelivered + self.quarantined;
        entries + self.consumers > 0 || self.paused.is_some()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stranded > 0 {
            write!(f, "{} stranded, ", self.stranded)?;
        }
        write!(
            f,
            "{} pending, {} undelivered",
            self.pending, self.undelivered
        )?;
        if let Some(ms) = self.oldest_undelivered_ms {
            let age = readable(Duration::from_millis(ms));
            write!(f, " (the oldest for {age})")?;
        }
        write!(
            f,
            ", {}, {} quarantined",
            counted(self.consumers, "consumer", "consumers"),
            self.quarantined
        )
    }
}
