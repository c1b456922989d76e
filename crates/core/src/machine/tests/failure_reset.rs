//! Failures of earlier owners are forgotten once the stream has done no harm for long.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry};
use crate::machine::{Action, LbsCall, Reply};
use crate::{CompleteOutcome, Fenced, FencingToken, LockScheme};

const LONG: Duration = Duration::from_secs(5);

fn harness(scheme: LockScheme) -> Harness {
    Harness::with(scheme, |settings| settings.forget_failures_after = LONG)
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
