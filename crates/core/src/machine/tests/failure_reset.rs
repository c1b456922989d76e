//! Failures of earlier owners are forgotten once the stream has done no harm for long.

use std::time::Duration;

use super::rig::{Rig, SCHEMES, TTL, entry};
use crate::machine::{Action, LbsCall, Reply};
use crate::{CompleteOutcome, Fenced, FencingToken, LockScheme};

const LONG: Duration = Duration::from_secs(5);

fn rig(scheme: LockScheme) -> Rig {
    Rig::with(scheme, |settings| settings.forget_failures_after = LONG)
}

fn leased_after(rig: &mut Rig, n: u64, failures: u32) -> FencingToken {
    rig.fetched(n, &format!("s{n}"));
    let token = rig.acquired();
    rig.claimed_after(failures);
    token
}

#[test]
fn who_holds_a_stream_for_long_clears_its_failures_once() {
    for scheme in SCHEMES {
        let mut rig = rig(scheme);
        let failed = leased_after(&mut rig, 1, 4);
        leased_after(&mut rig, 2, 0);
        rig.live(LONG - Duration::from_millis(1));
        assert!(!rig.has("ClearFailures"), "{scheme:?}: too early");
        rig.live(Duration::from_millis(1));
        let action = rig.answer("ClearFailures", Reply::FailuresCleared);
        let Action::Lbs(LbsCall::ClearFailures(page)) = action else {
            unreachable!()
        };
        let owner = Fenced {
            entry: entry(1),
            token: failed,
        };
        assert_eq!(page, [owner], "{scheme:?}");
        rig.live(LONG * 2);
        assert!(!rig.has("ClearFailures"), "{scheme:?}: again");
    }
}

#[test]
fn clearing_failures_is_repeated_until_it_is_answered() {
    for scheme in SCHEMES {
        let mut rig = rig(scheme);
        leased_after(&mut rig, 1, 1);
        rig.live(LONG);
        for _ in 0..3 {
            rig.fail("ClearFailures");
            assert!(!rig.has("ClearFailures"), "{scheme:?}: at once");
            rig.live(TTL);
        }
        rig.answer("ClearFailures", Reply::FailuresCleared);
        rig.live(LONG);
        assert!(!rig.has("ClearFailures"), "{scheme:?}");
    }
}

#[test]
fn a_lease_that_has_ended_clears_nothing() {
    for scheme in SCHEMES {
        let mut rig = rig(scheme);
        let token = leased_after(&mut rig, 1, 1);
        rig.live(LONG / 2);
        rig.complete(1, token);
        let gone = Reply::Completed(vec![CompleteOutcome::Completed]);
        rig.answer("Complete", gone);
        rig.pending.clear();
        leased_after(&mut rig, 2, 1);
        rig.live(LONG / 2);
        assert!(!rig.has("ClearFailures"), "{scheme:?}");
        rig.live(LONG / 2);
        assert!(rig.has("ClearFailures"), "{scheme:?}");
    }
}
