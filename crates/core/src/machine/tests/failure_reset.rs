//! Failures of earlier owners are forgotten once the stream has done no harm for long.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry};
use crate::machine::{Action, LbsCall, Reply};
use crate::{ClaimOutcome, CompleteOutcome, Failures, Fenced, FencingToken, LockScheme};

const LONG: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(1);

fn harness(scheme: LockScheme) -> Harness {
    Harness::with(scheme, |settings| {
        settings.forget_failures_after = LONG;
        settings.crash_window = WINDOW;
        settings.quarantine_after = None;
    })
}

fn leased_after(harness: &mut Harness, n: u64, failures: u32) -> FencingToken {
    harness.fetched(n, &format!("s{n}"));
    let token = harness.acquired();
    harness.claimed_after(failures);
    token
}

#[test]
fn who_holds_a_stream_for_long_clears_its_failures_once() {
    for scheme in SCHEMES {
        let mut harness = harness(scheme);
        let failed = leased_after(&mut harness, 1, 4);
        leased_after(&mut harness, 2, 0);
        harness.live(LONG - Duration::from_millis(1));
        assert!(!harness.has("ClearFailures"), "{scheme:?}: too early");
        harness.live(Duration::from_millis(1));
        let action = harness.answer("ClearFailures", Reply::FailuresCleared);
        let Action::Lbs(LbsCall::ClearFailures(page)) = action else {
            unreachable!()
        };
        let owner = Fenced {
            entry: entry(1),
            token: failed,
        };
        assert_eq!(page, [owner], "{scheme:?}");
        harness.live(LONG * 2);
        assert!(!harness.has("ClearFailures"), "{scheme:?}: again");
    }
}

#[test]
fn clearing_failures_is_repeated_until_it_is_answered() {
    for scheme in SCHEMES {
        let mut harness = harness(scheme);
        leased_after(&mut harness, 1, 1);
        harness.live(LONG);
        for _ in 0..3 {
            harness.fail("ClearFailures");
            assert!(!harness.has("ClearFailures"), "{scheme:?}: at once");
            harness.live(TTL);
        }
        harness.answer("ClearFailures", Reply::FailuresCleared);
        harness.live(LONG);
        assert!(!harness.has("ClearFailures"), "{scheme:?}");
    }
}

#[test]
fn a_lease_that_has_ended_clears_nothing() {
    for scheme in SCHEMES {
        let mut harness = harness(scheme);
        let token = leased_after(&mut harness, 1, 1);
        harness.live(LONG / 2);
        harness.complete(1, token);
        let gone = Reply::Completed(vec![CompleteOutcome::Completed]);
        harness.answer("Complete", gone);
        harness.pending.clear();
        leased_after(&mut harness, 2, 1);
        harness.live(LONG / 2);
        assert!(!harness.has("ClearFailures"), "{scheme:?}");
        harness.live(LONG / 2);
        assert!(harness.has("ClearFailures"), "{scheme:?}");
    }
}

#[test]
fn deaths_are_forgotten_after_the_crash_window_unless_an_owner_has_reported_a_failure() {
    for scheme in SCHEMES {
        for (count, deaths, held) in [
            (1, 1, WINDOW),
            (4, 4, WINDOW),
            (9, 5, WINDOW),
            (2, 1, LONG),
            (9, 4, LONG),
        ] {
            let mut harness = harness(scheme);
            harness.fetched(1, "s1");
            harness.acquired();
            let failures = Failures {
                count,
                deaths,
                ..Failures::default()
            };
            let claimed = ClaimOutcome::Claimed {
                from: None,
                failures,
            };
            harness.answer("Claim", Reply::Claimed(vec![claimed]));
            harness.live(held - Duration::from_millis(1));
            assert!(!harness.has("ClearFailures"), "{scheme:?} {count} {deaths}");
            harness.live(Duration::from_millis(1));
            assert!(harness.has("ClearFailures"), "{scheme:?} {count} {deaths}");
        }
    }
}
