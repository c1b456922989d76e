//! Numbers that more than one crate relies on. Each stands here only: core keeps to it,
//! and backends, the simulation and its checks are built on it.
//!
//! [`LONGEST_GRACE`](crate::LONGEST_GRACE) is a promise of lock managers and stands there.

use std::time::Duration;

use crate::machine::{Action, LbsCall, LocksCall};

/// The most data streams in one call of a backend. A script over so many takes Redis
/// well under 2 ms. A backend that cuts calls into pages makes none shorter than this,
/// so that each call is one step.
pub const PAGE: usize = 120;

/// The most entries that one fetch asks for, so that all who have room share a burst.
pub const FETCH_PAGE: usize = 500;

/// Ids per call that lists nothing but ids: a third of a millisecond of Redis' time.
pub const ID_PAGE: usize = 1_000;

/// Longest wait of one fetch. Only a bound: an entry ends the wait at once.
pub const LONGEST_FETCH: Duration = Duration::from_secs(5);

/// A consumer looks at a deadline of another one at most so long after it has passed.
pub const DEADLINE_JITTER: Duration = Duration::from_millis(20);

/// Between two take-overs from the same dead consumer that brought little, at most.
pub const BETWEEN_SMALL_PAGES: Duration = Duration::from_millis(20);

/// Between the consumer of one rank and that of the next: what an acquire and the
/// inspection before it take on a busy server.
pub const RANK_STEP: Duration = Duration::from_millis(30);

/// From this rank on all go together, so that the last does not wait for ever.
pub const LAST_RANK: u32 = 3;

/// The consumer of the last rank goes for what another one left at most so long after
/// it has heard of it.
pub const LATEST_RANK: Duration = RANK_STEP
    .saturating_mul(LAST_RANK)
    .saturating_add(DEADLINE_JITTER);

/// A load balancer stream (LBS) remembers a batch, and as what a quarantined entry came
/// back, for at least this long: after it a repeated call may do its work again.
pub const REPEATABLE: Duration = Duration::from_secs(300);

/// How idle an entry looks that was handed back: longer than any consumer waits that
/// goes by idle time (Go consumers: 40 s).
pub const HANDED_BACK_IDLE: Duration = Duration::from_secs(3_600);

/// The longest wait for an answer, beside what a fetch waits for entries.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// How long the driver of a consumer with this TTL waits for the answer to an action.
/// No answer counts as an error, early enough for a retry before its leases end (R1).
#[doc(hidden)]
pub fn time_limit(action: &Action, ttl: Duration) -> Duration {
    let at_least = |ms, limit: Duration| limit.clamp(Duration::from_millis(ms), LONGEST_ANSWER);
    match action {
        Action::Locks(LocksCall::Renew { .. }) | Action::Locks(LocksCall::Open(_)) => {
            at_least(50, ttl / 4)
        }
        Action::Lbs(LbsCall::Fetch { wait, .. }) => *wait + at_least(2_000, ttl),
        // One long info may take its time; no lease depends on it.
        Action::Lbs(LbsCall::List { .. }) => at_least(2_000, ttl),
        _ => at_least(500, ttl / 2),
    }
}
