//! Handlers that make no progress.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry};
use crate::CompleteOutcome;
use crate::machine::{Command, Input, Reply};

/// Simulated seeds 378 and 472: with per-stream locks the heartbeat extended the
/// belief in a lease whose `lost()` had fired, while its hand back was under way.
#[test]
fn a_lease_without_progress_is_not_revived_by_the_next_heartbeat() {
    for scheme in SCHEMES {
        let mut harness =
            Harness::with(scheme, |settings| settings.progress_timeout = Some(TTL / 2));
        harness.leased(1, "s");
        harness.take_up(1);
        harness.pass_with(TTL / 2, |harness| {
            if harness.has("Renew") {
                harness.heartbeat_with(|_| {});
            }
        });
        assert!(harness.has("HandBack"), "{scheme:?}: not given up");
        assert!(
            harness.belief(1).is_over(),
            "{scheme:?}: lost() has not fired"
        );
        harness.heartbeat_with(|_| {});
        assert!(harness.belief(1).is_over(), "{scheme:?}: believed again");
    }
}

/// It was counted from when the limit was set.
#[test]
fn a_progress_timeout_counts_from_the_last_progress() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.take_up(1);
        let answering = |harness: &mut Harness| {
            if harness.has("Renew") {
                harness.heartbeat_with(|_| {});
            }
        };
        harness.pass_with(TTL / 2, answering);
        harness.input(Input::Command(Command::SetProgressTimeout {
            entry: entry(1),
            token,
            limit: Some(TTL * 3 / 4),
        }));
        harness.pass_with(TTL / 4 - Duration::from_millis(1), answering);
        assert!(!harness.has("HandBack"), "{scheme:?}: too early");
        harness.pass_with(Duration::from_millis(1), answering);
        assert!(harness.has("HandBack"), "{scheme:?}: too late");
    }
}

/// A slow receiver lost streams that no handler had seen, each counted as a failure.
#[test]
fn the_progress_timeout_counts_from_when_the_lease_was_taken_up() {
    for scheme in SCHEMES {
        let mut harness =
            Harness::with(scheme, |settings| settings.progress_timeout = Some(TTL / 2));
        harness.leased(1, "s");
        let answering = |harness: &mut Harness| {
            if harness.has("Renew") {
                harness.heartbeat_with(|_| {});
            }
        };
        harness.pass_with(TTL * 3 + TTL / 8, answering);
        assert!(
            harness.ends(1).is_empty() && !harness.has("HandBack"),
            "{scheme:?}"
        );
        harness.take_up(1);
        harness.pass_with(TTL / 2 - Duration::from_millis(1), answering);
        assert!(!harness.has("HandBack"), "{scheme:?}: too early");
        harness.pass_with(Duration::from_millis(1), answering);
        assert!(harness.has("HandBack"), "{scheme:?}: too late");
    }
}

/// What came due only in an hour was remembered for that hour, however short the
/// streams.
#[test]
fn streams_that_have_ended_leave_nothing_behind() {
    for scheme in SCHEMES {
        let hour = Duration::from_secs(3600);
        let mut harness = Harness::with(scheme, |settings| settings.progress_timeout = Some(hour));
        for n in 1..=100 {
            let token = harness.leased(n, "s");
            harness.input(Input::Command(Command::SetProgressTimeout {
                entry: entry(n),
                token,
                limit: Some(hour * 2),
            }));
            harness.complete(n, token);
            let done = vec![CompleteOutcome::Completed];
            harness.answer("Complete", Reply::Completed(done));
            harness.pending.clear();
            harness.input(Input::EventsTaken(1));
            harness.housekeep();
        }
        assert_eq!(harness.machine.leases.progress_due.len(), 0, "{scheme:?}");
    }
}
