//! What a machine lost although it lives does not count against an entry.

use super::rig::{Rig, SCHEMES, TTL, consumer, entry, lease, pending_at};
use crate::machine::{Action, Answer, ClaimResult, Command, Input, LbsCall, Notice, Reply};
use crate::{
    ClaimOutcome, Failures, FencingToken, HandBackOutcome, HandBackRequest, LockScheme,
    QuarantineOutcome,
};

/// The page that is handed back, answered: to nobody is it a lease's end.
fn hand_backs(rig: &mut Rig) -> Vec<HandBackRequest> {
    let (id, action) = rig.take("HandBack");
    let Action::Lbs(LbsCall::HandBack(page)) = action else {
        panic!("{action:?}")
    };
    let outcomes = vec![HandBackOutcome::HandedBack; page.len()];
    rig.reply(id, Reply::HandedBack(outcomes));
    page
}

fn lost(scheme: LockScheme) -> (Rig, FencingToken) {
    let mut rig = Rig::new(scheme);
    let token = rig.leased(1, "s");
    rig.pass(TTL);
    assert!(!rig.owns(1));
    (rig, token)
}

#[test]
fn what_was_lost_with_a_session_while_nothing_was_answered_is_handed_back_late() {
    for scheme in SCHEMES {
        let (mut rig, token) = lost(scheme);
        // It goes on until the LBS answers.
        for _ in 0..5 {
            rig.fail("HandBack");
            rig.pass(TTL / 2);
        }
        rig.live(TTL / 10);
        let (notices, answered) = (rig.notices.len(), rig.answers.len());
        let expected = HandBackRequest {
            entry: entry(1),
            token,
            failed: None,
            rests: false,
        };
        assert_eq!(hand_backs(&mut rig), [expected]);
        assert_eq!((rig.notices.len(), rig.answers.len()), (notices, answered));
        rig.pass(TTL / 2);
        assert!(!rig.has("HandBack"), "answered once is enough");
    }
}

#[test]
fn what_was_held_when_the_capacity_was_lowered_is_handed_back_late_too() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        rig.input(Input::Command(Command::SetCapacity(0)));
        rig.pass(TTL);
        assert!(!rig.owns(1));
        let back = hand_backs(&mut rig);
        assert_eq!((back[0].entry, back[0].token), (entry(1), token));
    }
}

#[test]
fn a_process_that_stood_still_hands_nothing_back_late() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        rig.leased(1, "s");
        rig.jump(TTL);
        assert!(!rig.owns(1));
        rig.live(TTL * 3);
        assert!(!rig.has("HandBack"), "its handler may have blocked it");
    }
}

#[test]
fn time_for_which_the_machine_was_suspended_is_no_standing_still() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        rig.now = rig.now + TTL * 30;
        rig.input(Input::Suspended(TTL * 30));
        assert!(!rig.owns(1), "R1");
        let back = hand_backs(&mut rig);
        assert_eq!((back[0].entry, back[0].token), (entry(1), token));
    }
}

#[test]
fn a_single_lease_whose_lock_is_lost_is_handed_back_late() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        let other = rig.leased(2, "t");
        rig.beat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
        assert!(!rig.owns(1) && rig.owns(2));
        let back = hand_backs(&mut rig);
        assert_eq!((back.len(), back[0].token), (1, token));
        // Somebody else has claimed this one, and counted its owner as dead.
        let seen = FencingToken(other.0 + 9);
        rig.complete(2, other);
        let refused = crate::CompleteOutcome::NotOwner { seen };
        rig.answer("Complete", Reply::Completed(vec![refused]));
        assert!(!rig.owns(2));
        assert_eq!(hand_backs(&mut rig)[0].token, other);
    }
}

/// The next lease of the entry has a greater token, and its claim would count a death.
#[test]
fn an_entry_is_claimed_again_when_the_late_hand_back_is_answered() {
    let mut rig = Rig::new(LockScheme::PerStream);
    let token = rig.leased(1, "s");
    rig.beat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
    rig.fail("HandBack");
    rig.housekeep();
    let next = rig.acquired();
    rig.pass(TTL / 10);
    assert!(!rig.has("Claim"), "claimed before the hand back");
    assert_eq!(hand_backs(&mut rig)[0].token, token);
    rig.claimed();
    assert!(rig.owned.contains(&(entry(1), next)));
}

#[test]
fn a_handlers_failure_that_was_not_answered_is_said_late() {
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    let entry = entry(1);
    rig.call(|call| Command::HandBack {
        entry,
        token,
        failed: Some("bad input".into()),
        call: Some(call),
    });
    rig.fail("HandBack");
    rig.pass(TTL);
    let back = hand_backs(&mut rig);
    assert_eq!(back[0].failed.as_deref(), Some("bad input"));
    assert!(back[0].rests);
}

/// Its claim may have been executed, and its owner be counted as dead.
#[test]
fn a_revoked_lease_whose_claim_is_under_way_is_handed_back() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    let token = rig.acquired();
    rig.beat_with(|reply| reply.revoked = vec![lease("s", 1, token.0)]);
    assert_eq!(hand_backs(&mut rig)[0].token, token);
}

fn claimed(counted_now: bool, count: u32) -> Reply {
    let failures = Failures {
        count,
        counted_now,
        reasons: vec!["the last".into()],
    };
    Reply::Claimed(vec![ClaimOutcome::Claimed {
        from: Some(consumer("b")),
        failures,
    }])
}

/// What the last one of them is counted for may live, and say so as soon as it can.
#[test]
fn who_counts_the_last_death_lets_the_entry_rest_instead_of_parking_it() {
    for limit in [1, 5] {
        let mut rig = Rig::with(LockScheme::Session, |settings| {
            settings.quarantine_after = Some(limit);
        });
        rig.fetched(1, "s");
        rig.acquired();
        rig.answer("Claim", claimed(true, limit));
        assert!(!rig.has("Quarantine"));
        let back = hand_backs(&mut rig);
        assert!(back[0].rests && back[0].failed.is_none());
        assert!(
            !rig.notices
                .iter()
                .any(|n| matches!(n, Notice::Added { .. }))
        );
        // Nobody has taken it back until then.
        let at = rig.now;
        rig.put_pending(crate::Pending {
            handed_back: true,
            failures: limit,
            token: FencingToken(900),
            ..pending_at("b", 1, "s")
        });
        rig.input(Input::Hint(crate::Hint::HandedBack(vec![entry(1)])));
        rig.pass_with(TTL * 6, |rig| {
            rig.housekeep();
            if rig.has("Acquire") {
                assert!(rig.now >= at + TTL * 4, "no rest");
                rig.acquired();
                rig.answer("Claim", claimed(false, limit));
            }
        });
        let Action::Lbs(LbsCall::Quarantine(quarantined)) = rig.take("Quarantine").1 else {
            panic!()
        };
        assert!(quarantined[0].reason.ends_with("the last: the last"));
    }
}

/// The claim told of the last failure, and then its owner handed back late.
#[test]
fn what_has_failed_less_often_when_it_is_to_be_quarantined_goes_to_others() {
    let mut rig = Rig::with(LockScheme::Session, |settings| {
        settings.quarantine_after = Some(3);
    });
    rig.fetched(1, "s");
    rig.acquired();
    rig.answer("Claim", claimed(false, 4));
    rig.fail("Quarantine");
    rig.live(TTL / 5);
    let (id, action) = rig.take("Quarantine");
    let Action::Lbs(LbsCall::Quarantine(quarantined)) = action else {
        panic!()
    };
    assert_eq!(
        quarantined[0].min_failures, 3,
        "the limit, not what was counted"
    );
    let fewer = vec![QuarantineOutcome::FewerFailures];
    rig.reply(id, Reply::Quarantined(fewer));
    let back = hand_backs(&mut rig);
    assert!(!back[0].rests && back[0].failed.is_none());
    assert!(rig.has("Release"), "its lock is free");
    assert!(
        !rig.has("Quarantine"),
        "it is not to be quarantined any more"
    );
    let of_it = |n: &Notice| {
        matches!(
            n,
            Notice::Added { .. } | Notice::Quarantined { .. } | Notice::Ended { .. }
        )
    };
    assert!(!rig.notices.iter().any(of_it), "nobody heard of it");
}

/// A claim of a user is answered meanwhile.
#[test]
fn a_claim_of_what_is_to_rest_is_refused() {
    let mut rig = Rig::new(LockScheme::Session);
    let call = rig.claim(1, "s");
    rig.acquired();
    rig.answer("Claim", claimed(true, 5));
    let answer = rig.answers.get(&call).unwrap().as_ref().unwrap();
    assert_eq!(*answer, Answer::Claim(ClaimResult::HeldElsewhere));
}

/// What this consumer owned stays its own, though it was handed back for a moment.
#[test]
fn with_manual_claiming_what_was_handed_back_late_is_taken_again_unasked() {
    let mut rig = Rig::with(LockScheme::Session, |settings| {
        settings.claim = crate::ClaimMode::Manual;
    });
    let token = rig.leased(1, "s");
    rig.pass(TTL);
    let own = pending_at("a", 1, "s");
    rig.put_pending(crate::Pending {
        handed_back: true,
        token,
        ..own
    });
    assert_eq!(hand_backs(&mut rig)[0].token, token);
    rig.live(TTL);
    assert_eq!(rig.acquires(), [entry(1)]);
}
