//! What a machine lost although it lives does not count against an entry.

use super::harness::{Harness, SCHEMES, TTL, consumer, entry, lease, pending_at};
use crate::machine::{Action, Answer, ClaimResult, Command, Input, LbsCall, Notice, Reply};
use crate::{
    ClaimOutcome, Failures, FencingToken, HandBackOutcome, HandBackRequest, LockScheme,
    QuarantineOutcome,
};

/// The page that is handed back, answered: to nobody is it a lease's end.
fn hand_backs(harness: &mut Harness) -> Vec<HandBackRequest> {
    let (id, action) = harness.take("HandBack");
    let Action::Lbs(LbsCall::HandBack(page)) = action else {
        panic!("{action:?}")
    };
    let outcomes = vec![HandBackOutcome::HandedBack; page.len()];
    harness.reply(id, Reply::HandedBack(outcomes));
    page
}

fn lost(scheme: LockScheme) -> (Harness, FencingToken) {
    let mut harness = Harness::new(scheme);
    let token = harness.leased(1, "s");
    harness.pass(TTL);
    assert!(!harness.owns(1));
    (harness, token)
}

#[test]
fn what_was_lost_with_a_session_while_nothing_was_answered_is_handed_back_late() {
    for scheme in SCHEMES {
        let (mut harness, token) = lost(scheme);
        // It goes on until the LBS answers.
        for _ in 0..5 {
            harness.fail("HandBack");
            harness.pass(TTL / 2);
        }
        harness.live(TTL / 10);
        let (notices, answered) = (harness.notices.len(), harness.answers.len());
        let expected = HandBackRequest {
            entry: entry(1),
            token,
            failed: None,
            rests: false,
        };
        assert_eq!(hand_backs(&mut harness), [expected]);
        assert_eq!(
            (harness.notices.len(), harness.answers.len()),
            (notices, answered)
        );
        harness.pass(TTL / 2);
        assert!(!harness.has("HandBack"), "answered once is enough");
    }
}

#[test]
fn what_was_held_when_the_capacity_was_lowered_is_handed_back_late_too() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.input(Input::Command(Command::SetCapacity(0)));
        harness.pass(TTL);
        assert!(!harness.owns(1));
        let back = hand_backs(&mut harness);
        assert_eq!((back[0].entry, back[0].token), (entry(1), token));
    }
}

#[test]
fn a_process_that_stood_still_hands_nothing_back_late() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.leased(1, "s");
        harness.jump(TTL);
        assert!(!harness.owns(1));
        harness.live(TTL * 3);
        assert!(!harness.has("HandBack"), "its handler may have blocked it");
    }
}

#[test]
fn time_for_which_the_machine_was_suspended_is_no_standing_still() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.now = harness.now + TTL * 30;
        harness.input(Input::Suspended(TTL * 30));
        assert!(!harness.owns(1), "R1");
        let back = hand_backs(&mut harness);
        assert_eq!((back[0].entry, back[0].token), (entry(1), token));
    }
}

#[test]
fn a_single_lease_whose_lock_is_lost_is_handed_back_late() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        let other = harness.leased(2, "t");
        harness.heartbeat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
        assert!(!harness.owns(1) && harness.owns(2));
        let back = hand_backs(&mut harness);
        assert_eq!((back.len(), back[0].token), (1, token));
        // Somebody else has claimed this one, and counted its owner as dead.
        let seen = FencingToken(other.0 + 9);
        harness.complete(2, other);
        let refused = crate::CompleteOutcome::NotOwner { seen };
        harness.answer("Complete", Reply::Completed(vec![refused]));
        assert!(!harness.owns(2));
        assert_eq!(hand_backs(&mut harness)[0].token, other);
    }
}

/// The next lease of the entry has a greater token, and its claim would count a death.
#[test]
fn an_entry_is_claimed_again_when_the_late_hand_back_is_answered() {
    let mut harness = Harness::new(LockScheme::PerStream);
    let token = harness.leased(1, "s");
    harness.heartbeat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
    harness.fail("HandBack");
    harness.housekeep();
    let next = harness.acquired();
    harness.pass(TTL / 10);
    assert!(!harness.has("Claim"), "claimed before the hand back");
    assert_eq!(hand_backs(&mut harness)[0].token, token);
    harness.claimed();
    assert!(harness.owned.contains(&(entry(1), next)));
}

#[test]
fn a_handlers_failure_that_was_not_answered_is_said_late() {
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    let entry = entry(1);
    harness.call(|call| Command::HandBack {
        entry,
        token,
        failed: Some("bad input".into()),
        call: Some(call),
    });
    harness.fail("HandBack");
    harness.pass(TTL);
    let back = hand_backs(&mut harness);
    assert_eq!(back[0].failed.as_deref(), Some("bad input"));
    assert!(back[0].rests);
}

/// Its claim may have been executed, and its owner be counted as dead.
#[test]
fn a_revoked_lease_whose_claim_is_under_way_is_handed_back() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    harness.heartbeat_with(|reply| reply.revoked = vec![lease("s", 1, token.0)]);
    assert_eq!(hand_backs(&mut harness)[0].token, token);
}

fn claimed(counted_now: bool, count: u32) -> Reply {
    let failures = Failures {
        count,
        counted_now,
        deaths: u32::from(counted_now),
        reasons: vec!["the last".into()],
    };
    Reply::Claimed(vec![ClaimOutcome::Claimed {
        from: Some(consumer("b")),
        failures,
    }])
}

/// What the last one of them is counted for may live, and say so as soon as it can.
#[test]
fn who_counts_the_last_death_lets_the_entry_rest_instead_of_quarantining_it() {
    for limit in [1, 5] {
        let mut harness = Harness::with(LockScheme::Session, |settings| {
            settings.quarantine_after = Some(limit);
        });
        harness.fetched(1, "s");
        harness.acquired();
        harness.answer("Claim", claimed(true, limit));
        assert!(!harness.has("Quarantine"));
        let back = hand_backs(&mut harness);
        assert!(back[0].rests && back[0].failed.is_none());
        assert!(
            !harness
                .notices
                .iter()
                .any(|n| matches!(n, Notice::Added { .. }))
        );
        // Nobody has taken it back until then.
        let at = harness.now;
        harness.put_pending(crate::Pending {
            handed_back: true,
            failures: limit,
            token: FencingToken(900),
            ..pending_at("b", 1, "s")
        });
        harness.input(Input::Hint(crate::Hint::HandedBack(vec![entry(1)])));
        harness.pass_with(TTL * 6, |harness| {
            harness.housekeep();
            if harness.has("Acquire") {
                assert!(harness.now >= at + TTL * 4, "no rest");
                harness.acquired();
                harness.answer("Claim", claimed(false, limit));
            }
        });
        let Action::Lbs(LbsCall::Quarantine(quarantined)) = harness.take("Quarantine").1 else {
            panic!()
        };
        assert!(quarantined[0].reason.ends_with("the last: the last"));
    }
}

/// The claim told of the last failure, and then its owner handed back late.
#[test]
fn what_has_failed_less_often_when_it_is_to_be_quarantined_goes_to_others() {
    let mut harness = Harness::with(LockScheme::Session, |settings| {
        settings.quarantine_after = Some(3);
    });
    harness.fetched(1, "s");
    harness.acquired();
    harness.answer("Claim", claimed(false, 4));
    harness.fail("Quarantine");
    harness.live(TTL / 5);
    let (id, action) = harness.take("Quarantine");
    let Action::Lbs(LbsCall::Quarantine(quarantined)) = action else {
        panic!()
    };
    assert_eq!(
        quarantined[0].min_failures, 3,
        "the limit, not what was counted"
    );
    let fewer = vec![QuarantineOutcome::FewerFailures];
    harness.reply(id, Reply::Quarantined(fewer));
    let back = hand_backs(&mut harness);
    assert!(!back[0].rests && back[0].failed.is_none());
    assert!(harness.has("Release"), "its lock is free");
    assert!(
        !harness.has("Quarantine"),
        "it is not to be quarantined any more"
    );
    let of_it = |n: &Notice| {
        matches!(
            n,
            Notice::Added { .. } | Notice::Quarantined { .. } | Notice::Ended { .. }
        )
    };
    assert!(!harness.notices.iter().any(of_it), "nobody heard of it");
}

/// A claim of a user is answered meanwhile.
#[test]
fn a_claim_of_what_is_to_rest_is_refused() {
    let mut harness = Harness::new(LockScheme::Session);
    let call = harness.claim(1, "s");
    harness.acquired();
    harness.answer("Claim", claimed(true, 5));
    let answer = harness.answers.get(&call).unwrap().as_ref().unwrap();
    assert_eq!(*answer, Answer::Claim(ClaimResult::HeldElsewhere));
}

/// What this consumer owned stays its own, though it was handed back for a moment.
#[test]
fn with_manual_claiming_what_was_handed_back_late_is_taken_again_unasked() {
    let mut harness = Harness::with(LockScheme::Session, |settings| {
        settings.claim = crate::ClaimMode::Manual;
    });
    let token = harness.leased(1, "s");
    harness.pass(TTL);
    let own = pending_at("a", 1, "s");
    harness.put_pending(crate::Pending {
        handed_back: true,
        token,
        ..own
    });
    assert_eq!(hand_backs(&mut harness)[0].token, token);
    harness.live(TTL);
    assert_eq!(harness.acquires(), [entry(1)]);
}
