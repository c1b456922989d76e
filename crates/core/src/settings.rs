//! [`Settings`]: each with its default, its setter and its bounds, validated in one place.

use std::time::Duration;

use crate::{ClientBuilder, Error, Result};

/// What happens to streams whose owner is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ClaimMode {
    /// They are claimed as there is room. No `StreamExpired` is reported.
    #[default]
    Automatic,
    /// They are reported as `StreamExpired`; [`Client::claim`](crate::Client::claim) takes them.
    Manual,
}

/// When to give up after failed attempts to reach the backend.
///
/// A client waits no longer than about its TTL between attempts. So it is back soon after
/// the server is. Attempts that are made sooner than the waits given here do not count as
/// retries.
///
/// If the server refuses a call (missing rights, a wrong type of key) that has never worked,
/// the client ends, whatever the policy is: somebody has to correct something. A call that
/// has worked before is retried like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many attempts in a row may fail after the first; `None`: any number.
    pub retries: Option<u32>,
    /// Wait before the first retry.
    pub first: Duration,
    /// The longest wait. Waits double up to this; a client's waits are no longer than its
    /// TTL.
    pub max: Duration,
}

impl RetryPolicy {
    /// Never gives up.
    pub const UNLIMITED: Self = Self {
        retries: None,
        first: Duration::from_millis(100),
        max: Duration::from_secs(30),
    };

    /// Gives up at the first failure.
    pub const NONE: Self = Self {
        retries: Some(0),
        ..Self::UNLIMITED
    };

    /// Gives up when `n` retries in a row have failed.
    pub const fn times(n: u32) -> Self {
        Self {
            retries: Some(n),
            ..Self::UNLIMITED
        }
    }

    /// The same with these waits: `first` before the first retry, then doubling up to `max`.
    ///
    /// `first` is 1 ms to 1 h, and `max` at least `first`; whoever is given the policy checks.
    #[must_use]
    pub const fn with_waits(self, first: Duration, max: Duration) -> Self {
        Self { first, max, ..self }
    }

    /// How long to wait after that many failures in a row; `None`: give up.
    pub(crate) fn wait_after(&self, failed: u32) -> Option<Duration> {
        if self.retries.is_some_and(|retries| failed > retries) {
            return None;
        }
        let doubled = 2u32.saturating_pow(failed.saturating_sub(1));
        Some(self.first.saturating_mul(doubled).min(self.max))
    }

    /// Checks the bounds of `first` and `max`.
    pub(crate) fn validate(&self) -> Result<()> {
        let first = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !first.contains(&self.first) {
            return Err(out_of_bounds("retry.first", self.first, "1ms", "1h"));
        }
        if self.max < self.first {
            return Err(Error::config(format!(
                "retry.max is {:?}; it must be at least retry.first, {:?}",
                self.max, self.first
            )));
        }
        Ok(())
    }
}

/// All settings of a client. [`ClientBuilder`](crate::ClientBuilder) has a method for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long a lease outlives its owner's last heartbeat. 200 ms to 1 h, default 5 s.
    pub ttl: Duration,
    /// Automatic or manual claiming.
    pub claim: ClaimMode,
    /// Most streams held at once. 1 to 10,000,000, default 1,000.
    pub capacity: usize,
    /// Most events waiting for the receiver. 1 to 1,000,000, default 1,024.
    pub event_queue: usize,
    /// When to give up.
    pub retry: RetryPolicy,
    /// How many owners may fail on an entry before it is quarantined; `None`: any number.
    /// Default 5. After each failure the entry rests, see [`rest`](Self::rest).
    pub quarantine_after: Option<u32>,
    /// How long an owner must hold an entry before earlier failures no longer count.
    /// 1 s to 30 days, default 10 min, as in Kubernetes' restart backoff.
    pub forget_failures_after: Duration,
    /// How soon after the start of its work an owner must die for the death to count against
    /// the entry. 100 ms to 1 h, default 2 s.
    pub crash_window: Duration,
    /// How long a handler may go without [`Lease::progress`](crate::Lease::progress)
    /// before its stream is handed back; `None` (default): for ever. 10 ms to 24 h.
    pub progress_timeout: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            claim: ClaimMode::Automatic,
            capacity: 1_000,
            event_queue: 1_024,
            retry: RetryPolicy::UNLIMITED,
            quarantine_after: Some(5),
            forget_failures_after: Duration::from_secs(600),
            crash_window: Duration::from_secs(2),
            progress_timeout: None,
        }
    }
}

/// The settings.
impl ClientBuilder {
    /// How long a lease outlives its owner's last heartbeat: 200 ms to 1 h, default 5 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// Whether orphans are claimed automatically (default) or reported.
    pub fn claim_mode(mut self, mode: ClaimMode) -> Self {
        self.settings.claim = mode;
        self
    }

    /// Most streams held at once: 1 to 10,000,000, default 1,000.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.settings.capacity = capacity;
        self
    }

    /// Most events waiting to be read: 1 to 1,000,000, default 1,024.
    pub fn event_queue(mut self, events: usize) -> Self {
        self.settings.event_queue = events;
        self
    }

    /// When to give up on a backend that cannot be reached. Default: never.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// How many owners may fail on an entry before it is quarantined; `None`: any number.
    /// Default 5.
    ///
    /// An owner has failed if it calls [`Lease::fail`](crate::Lease::fail), if it reports
    /// no progress for [`progress_timeout`](Self::progress_timeout), or if its process ends
    /// without handing back, or is blocked by a handler for longer than a TTL. The count
    /// belongs to the entry. It starts at 0 again once an owner has held the entry for
    /// [`forget_failures_after`](Self::forget_failures_after).
    pub fn quarantine_after(mut self, failures: Option<u32>) -> Self {
        self.settings.quarantine_after = failures;
        self
    }

    /// How long an owner must hold an entry before earlier failures no longer count.
    /// 1 s to 30 days, default 10 min.
    ///
    /// Streams that live for months see crashes that they did not cause. If owners fail
    /// only after they have held an entry for longer than this, it is never quarantined.
    pub fn forget_failures_after(mut self, held: Duration) -> Self {
        self.settings.forget_failures_after = held;
        self
    }

    /// How soon after the start of its work an owner must die for the death to count against
    /// the entry: 100 ms to 1 h. Default: 2 s.
    ///
    /// When a process dies, nobody knows which of its streams was the cause, if any was. Once
    /// an owner has worked on an entry for this long, the deaths before it no longer count, so
    /// that a process that is killed again and again puts nothing into quarantine. An entry
    /// after whose start two owners or more have died is tried together with few others, after
    /// each further death with fewer, and at last alone: a client begins to work on more such
    /// entries only when this time has passed. So the one that kills is found.
    ///
    /// With a [`quarantine_after`](Self::quarantine_after) of 1 or 2 nothing is tried alone:
    /// then a death may quarantine entries that were only held beside the one that killed.
    ///
    /// An entry that needs longer to kill its owner is never quarantined for that. Give a
    /// longer time if yours do.
    pub fn crash_window(mut self, window: Duration) -> Self {
        self.settings.crash_window = window;
        self
    }

    /// How long a handler may go without [`Lease::progress`](crate::Lease::progress)
    /// before its stream is handed back: 10 ms to 24 h. Default: for ever.
    /// Taking the lease out of the [`Events`](crate::Events) is its first progress.
    pub fn progress_timeout(mut self, limit: Option<Duration>) -> Self {
        self.settings.progress_timeout = limit;
        self
    }
}

impl Settings {
    /// Checks every bound; the error names the setting, its value and the bound.
    pub fn validate(&self) -> Result<()> {
        let ttl = Duration::from_millis(200)..=Duration::from_secs(3600);
        if !ttl.contains(&self.ttl) {
            return Err(out_of_bounds("ttl", self.ttl, "200ms", "1h"));
        }
        check_capacity(self.capacity)?;
        if !(1..=1_000_000).contains(&self.event_queue) {
            return Err(out_of_bounds("event_queue", self.event_queue, 1, 1_000_000));
        }
        if let Some(progress_timeout) = self.progress_timeout {
            check_progress_timeout(progress_timeout)?;
        }
        self.retry.validate()?;
        let forget = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
        if !forget.contains(&self.forget_failures_after) {
            let after = self.forget_failures_after;
            return Err(out_of_bounds(
                "forget_failures_after",
                after,
                "1s",
                "30 days",
            ));
        }
        let window = Duration::from_millis(100)..=Duration::from_secs(3600);
        if !window.contains(&self.crash_window) {
            return Err(out_of_bounds(
                "crash_window",
                self.crash_window,
                "100ms",
                "1h",
            ));
        }
        if self.quarantine_after == Some(0) {
            return Err(Error::config(
                "quarantine_after is 0; give at least 1, or None to never quarantine failing entries",
            ));
        }
        Ok(())
    }

    /// How much earlier than its lock a lease ends for its owner (R1): a tenth of the TTL, at
    /// least 50 ms.
    pub fn margin(&self) -> Duration {
        (self.ttl / 10).max(Duration::from_millis(50))
    }

    /// Time between heartbeats.
    pub fn heartbeat_interval(&self) -> Duration {
        self.ttl / 3
    }

    /// The least time between sweeps. It grows with the number of pending entries, so that
    /// sweeps stay a small part of the server's work.
    pub fn sweep_interval(&self) -> Duration {
        self.ttl * 2
    }

    /// How long an entry at a consumer without a session must be idle to be an orphan (R9).
    pub fn foreign_grace(&self) -> Duration {
        self.ttl.max(Duration::from_secs(5))
    }

    /// How long an entry rests after its `failures`-th failure, from when it was
    /// last claimed or failed: a quarter of the TTL, doubling with each failure,
    /// at most 30 s.
    ///
    /// The first two crashes delay no failover, because it takes two thirds of a TTL to
    /// notice a crash. A handler that fails at once, again and again, costs its fleet less
    /// each time. With the defaults all five tries, and the rests between them, take less
    /// than a minute.
    pub fn rest(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let rest = self.ttl / 4 * 2u32.pow(doublings.min(16));
        rest.min(Duration::from_secs(30))
    }
}

impl Settings {
    /// How long an entry rests before it is quarantined for a death that may be an error: its
    /// owner may only be cut off from the server, and has this time to come back and say so.
    /// Four TTLs, at most a minute or one TTL, and never less than [`rest`](Self::rest).
    pub(crate) fn rest_before_quarantine(&self, failures: u32) -> Duration {
        let most = self.ttl.max(Duration::from_secs(60));
        (self.ttl * 4).min(most).max(self.rest(failures))
    }
}

/// The bounds of `capacity`, at the start or later.
pub(crate) fn check_capacity(capacity: usize) -> Result<()> {
    match (1..=10_000_000).contains(&capacity) {
        true => Ok(()),
        false => Err(out_of_bounds("capacity", capacity, 1, 10_000_000)),
    }
}

/// The bounds of `progress_timeout`, for a client or one lease.
pub(crate) fn check_progress_timeout(progress_timeout: Duration) -> Result<()> {
    let bounds = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
    match bounds.contains(&progress_timeout) {
        true => Ok(()),
        false => Err(out_of_bounds(
            "progress_timeout",
            progress_timeout,
            "10ms",
            "24h",
        )),
    }
}

fn out_of_bounds(
    setting: &str,
    value: impl std::fmt::Debug,
    min: impl std::fmt::Display,
    max: impl std::fmt::Display,
) -> Error {
    Error::config(format!(
        "{setting} is {value:?}; it must be between {min} and {max}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_bound() {
        let with_ttl = |ttl| Settings {
            ttl,
            ..Default::default()
        };
        let settings = with_ttl(Duration::from_secs(4));
        let rests = [0, 1, 2, 3, 6, u32::MAX].map(|failures| settings.rest(failures).as_secs());
        assert_eq!(rests, [0, 1, 2, 4, 30, 30]);
        let settings = with_ttl(Duration::from_secs(3600));
        assert_eq!(settings.rest(1), Duration::from_secs(30));
        assert_eq!(settings.rest(u32::MAX), Duration::from_secs(30));
        let settings = with_ttl(Duration::from_millis(200));
        assert_eq!(settings.rest(2), Duration::from_millis(100));
    }

    #[test]
    fn defaults_are_valid_and_every_bound_is_named() {
        Settings::default().validate().unwrap();
        for (settings, name) in [
            (
                Settings {
                    ttl: Duration::from_millis(199),
                    ..Default::default()
                },
                "ttl is 199ms",
            ),
            (
                Settings {
                    capacity: 0,
                    ..Default::default()
                },
                "capacity is 0",
            ),
            (
                Settings {
                    event_queue: 0,
                    ..Default::default()
                },
                "event_queue is 0",
            ),
            (
                Settings {
                    progress_timeout: Some(Duration::from_millis(9)),
                    ..Default::default()
                },
                "progress_timeout is 9ms",
            ),
            (
                Settings {
                    quarantine_after: Some(0),
                    ..Default::default()
                },
                "quarantine_after is 0",
            ),
            (
                Settings {
                    forget_failures_after: Duration::from_millis(999),
                    ..Default::default()
                },
                "forget_failures_after is 999ms",
            ),
            (
                Settings {
                    retry: RetryPolicy {
                        max: Duration::ZERO,
                        ..RetryPolicy::NONE
                    },
                    ..Default::default()
                },
                "retry.max",
            ),
        ] {
            let err = settings.validate().unwrap_err().to_string();
            assert!(err.starts_with(name), "{err}");
        }
    }
}
