//! Preparing, giving up, shutting down: R7, R8, R12.

use std::time::Duration;

use super::rig::{Rig, SCHEMES, TTL, delivery, held_by, session_of};
use crate::machine::{
    Answer, Command, Completion, DisownReason, End, HandBack, Input, Notice, Reply,
};
use crate::{
    AcquireOutcome, Error, ErrorKind, Fetched, HandBackOutcome, LockScheme, RetryPolicy, StreamName,
};

const MS: Duration = Duration::from_millis(1);

fn gave_up(rig: &Rig) -> bool {
    matches!(
        rig.notices.last(),
        Some(Notice::Terminated { error: Some(_) })
    )
}

fn policy(retries: Option<u32>) -> RetryPolicy {
    RetryPolicy {
        retries,
        ..RetryPolicy::UNLIMITED
    }
}

#[test]
fn the_retry_policy_decides_when_to_give_up() {
    for (retries, tries) in [(Some(0), 1), (Some(3), 4), (None, 30)] {
        let mut rig = Rig::cold(LockScheme::Session, |s| s.retry = policy(retries));
        let mut failed = 0;
        rig.pass_with(Duration::from_secs(20 * 60), |rig| {
            while rig.has("Prepare") {
                failed += 1;
                rig.fail("Prepare");
            }
        });
        assert_eq!(gave_up(&rig), retries.is_some(), "{retries:?}");
        match retries {
            Some(_) => assert_eq!(failed, tries, "{retries:?}"),
            None => assert!(failed >= tries, "waits at most 30 s: {failed}"),
        }
    }
}

#[test]
fn an_lbs_that_fails_for_good_is_given_up_though_the_locks_are_well() {
    let mut rig = Rig::with(LockScheme::Session, |s| s.retry = policy(Some(8)));
    let mut failed = 0;
    rig.pass_with(TTL * 60, |rig| {
        if rig.stopped {
            return;
        }
        rig.housekeep();
        while rig.has("Fetch") {
            failed += 1;
            rig.fail("Fetch");
        }
    });
    assert!(gave_up(&rig), "after {failed} fetches");
    // Those that came sooner than the policy says did not count.
    assert!(failed >= 9, "{failed}");
}

/// A client tries once per TTL at least. What the policy counts is further apart.
#[test]
fn tries_that_come_sooner_than_the_retry_policy_says_do_not_count() {
    let mut rig = Rig::cold(LockScheme::Session, |s| s.retry = policy(Some(8)));
    let began = rig.now;
    let (mut tries, mut given_up) = (0, None);
    rig.pass_with(Duration::from_secs(60), |rig| {
        while rig.has("Prepare") {
            tries += 1;
            rig.fail("Prepare");
        }
        if rig.stopped {
            given_up.get_or_insert(rig.now);
        }
    });
    // 100 ms, doubling eight times, each between half and all of it.
    let took = given_up.expect("it gives up").saturating_since(began);
    assert!(took > Duration::from_millis(12_700), "{took:?}");
    assert!(took < Duration::from_secs(27), "{took:?}");
    assert!(tries > 12, "{tries}: one per TTL");
}

#[test]
fn what_can_be_reached_again_makes_everything_be_tried_at_once() {
    type Sign = (&'static str, fn(&mut Rig));
    let signs: [Sign; 2] = [
        ("a beat", |rig| rig.answer_routine("Beat")),
        ("a subscription", |rig| {
            rig.input(Input::Hint(crate::Hint::MayHaveMissed));
        }),
    ];
    for (what, sign) in signs {
        let mut rig = Rig::with(LockScheme::Session, |s| s.ttl = Duration::from_secs(600));
        rig.answer("Fetch", Reply::Fetched(Fetched::default()));
        // Both are away, and each is tried ever more rarely.
        rig.pass_with(Duration::from_secs(200), |rig| {
            for name in ["Fetch", "Beat", "Prepare"] {
                while rig.has(name) {
                    rig.fail(name);
                }
            }
        });
        rig.pass_to_beat();
        assert!(!rig.has("Fetch"), "{what}");
        sign(&mut rig);
        rig.pass(20 * MS);
        assert!(rig.has("Fetch"), "{what}");
    }
}

#[test]
fn successes_start_the_count_anew() {
    let mut rig = Rig::with(LockScheme::Session, |s| s.retry = policy(Some(1)));
    for n in 0..10 {
        rig.fail("Fetch");
        rig.live(TTL);
        let fetched = Fetched {
            entries: vec![delivery(n, &format!("s{n}"))],
            backlog: 0,
        };
        rig.answer("Fetch", Reply::Fetched(fetched));
    }
    assert!(!rig.stopped);
}

#[test]
fn a_missing_group_is_made_again() {
    let mut rig = Rig::with(LockScheme::Session, |s| s.retry = policy(Some(0)));
    let token = rig.leased(1, "s");
    let gone = || Error::new(ErrorKind::NotPrepared, "NOGROUP");
    rig.fail_with("Fetch", gone());
    rig.answer("Prepare", Reply::Prepared);
    rig.housekeep();
    rig.live(TTL / 10);
    assert!(rig.has("Fetch"));
    rig.complete(1, token);
    rig.fail_with("Complete", gone());
    assert!(rig.has("Prepare"));
    assert!(!rig.stopped && rig.owns(1));
}

#[test]
fn a_refusal_for_good_at_the_start_ends_with_its_reason() {
    let mut rig = Rig::cold(LockScheme::Session, |_| {});
    rig.fail_with("Prepare", Error::new(ErrorKind::Incompatible, "scheme"));
    assert!(rig.stopped && gave_up(&rig));
}

#[test]
fn shutting_down_hands_back_and_says_so_last() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        rig.leased(1, "s");
        rig.fetched(2, "t");
        rig.fetched(3, "s");
        let calls = [rig.shut_down(), rig.shut_down()];
        assert!(!rig.has("Fetch"), "cancelled");
        assert!(rig.has("HandBack") && !rig.has("Complete"));
        // Locked after the shutdown began: handed back too, without an event.
        rig.acquired();
        assert_eq!(rig.releases().len(), 1);
        rig.finish();
        assert_eq!(rig.ends(1), [End::HandedBack], "{scheme:?}");
        assert!(matches!(
            rig.notices.last(),
            Some(Notice::Terminated { error: None })
        ));
        for call in calls {
            assert_eq!(rig.answered(call), Some(&Answer::Stopped));
        }
    }
}

#[test]
fn shutting_down_waits_for_nothing_that_it_does_not_hold() {
    let refused = || AcquireOutcome::Held(held_by(session_of("b"), TTL));
    let not_yet = || AcquireOutcome::NotYet { retry_in: TTL };
    for outcome in [refused, not_yet] as [fn() -> AcquireOutcome; 2] {
        let mut rig = Rig::new(LockScheme::Session);
        rig.fetched(1, "s");
        rig.shut_down();
        rig.answer("Acquire", Reply::Acquired(vec![outcome()]));
        rig.housekeep();
        assert!(rig.has("Close"), "{:?}", outcome());
    }
    // The same if a claim found the token too low.
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    rig.acquired();
    rig.shut_down();
    let seen = crate::FencingToken(900);
    let stale = crate::ClaimOutcome::Stale { seen };
    rig.answer("Claim", Reply::Claimed(vec![stale]));
    rig.housekeep();
    assert!(rig.has("Close"));
}

#[test]
fn shutting_down_ends_within_a_ttl_even_if_nothing_is_answered() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        rig.leased(2, "t");
        let completing = rig.complete(1, token);
        rig.shut_down();
        let start = rig.now;
        rig.pass_with(TTL, |rig| {
            while rig.has("Beat") {
                rig.answer_routine("Beat");
            }
        });
        assert!(
            rig.stopped,
            "{scheme:?}: {:?}",
            rig.now.saturating_since(start)
        );
        assert_eq!(rig.refused_with(completing), Some(ErrorKind::LeaseEnded));
        let stopped = End::Disowned(DisownReason::ClientStopped);
        assert_eq!((rig.ends(1), rig.ends(2)), (vec![stopped], vec![stopped]));
    }
}

#[test]
fn closing_and_forgetting_may_fail() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.shut_down();
    let began = rig.now;
    let mut tries = Vec::new();
    rig.pass_with(TTL / 4, |rig| {
        for name in ["Close", "ForgetConsumer"] {
            while rig.has(name) {
                tries.push(name);
                rig.fail(name);
            }
        }
        rig.housekeep();
    });
    // Each a few times, as long as the shutdown may take.
    let count = |name| tries.iter().filter(|tried| **tried == name).count();
    assert_eq!((count("Close"), count("ForgetConsumer")), (4, 4));
    assert!(rig.stopped);
    assert!(rig.now.saturating_since(began) <= TTL);
}

/// The name of who shut down, or died, while the server was away for a moment stayed in
/// the group for ever.
#[test]
fn a_name_that_could_not_be_removed_is_tried_again() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.shut_down();
    rig.fail("Close");
    rig.pass(TTL / 10);
    rig.answer("Close", Reply::Closed);
    rig.fail("ForgetConsumer");
    rig.pass(TTL / 10);
    rig.answer("ForgetConsumer", Reply::Forgotten(true));
    assert!(rig.stopped);

    let mut rig = Rig::new(LockScheme::Session);
    rig.beat_with(|reply| reply.dead = vec![session_of("b")]);
    let taken = crate::TakeOverOutcome::Taken {
        leases: Vec::new(),
        left: 0,
    };
    rig.answer("TakeOver", Reply::TakenOver(taken));
    rig.housekeep();
    rig.answer("Bury", Reply::Buried(true));
    rig.fail("ForgetConsumer");
    assert!(!rig.has("ForgetConsumer"));
    rig.live(TTL / 4);
    rig.answer("ForgetConsumer", Reply::Forgotten(true));
    rig.live(TTL * 2);
    assert!(!rig.has("ForgetConsumer") && !rig.has("Bury"));
}

#[test]
fn a_session_that_is_being_opened_when_the_shutdown_comes_is_closed_again() {
    for opened in [true, false] {
        let mut rig = Rig::cold(LockScheme::Session, |_| {});
        rig.answer("Prepare", Reply::Prepared);
        assert!(rig.has("Open"));
        rig.shut_down();
        assert!(!rig.stopped, "it may be open already");
        if opened {
            rig.answer_routine("Open");
            rig.finish();
        } else {
            rig.fail("Open");
        }
        assert!(rig.stopped);
        let end = rig.notices.last();
        assert!(matches!(end, Some(Notice::Terminated { error: None })));
    }
}

#[test]
fn a_session_that_dies_while_shutting_down_ends_it() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.shut_down();
    rig.jump(TTL - 200 * MS);
    assert!(rig.stopped);
    assert_eq!(rig.ends(1), [End::Disowned(DisownReason::Expired)]);
}

#[test]
fn after_the_end_every_call_is_answered_and_nothing_else_comes() {
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    rig.shut_down();
    let late = rig.take("HandBack").0;
    rig.pass(TTL * 2);
    assert!(rig.stopped);
    let notices = rig.notices.len();
    let not_owner = Answer::Completion(Completion::NotOwner);
    let call = rig.complete(1, token);
    assert_eq!(rig.answered(call), Some(&not_owner));
    let stream = StreamName::new("s").unwrap();
    let call = rig.call(|call| Command::CompleteStream { stream, call });
    assert_eq!(rig.answered(call), Some(&not_owner));
    let call = rig.hand_back(1, token);
    let not_owner = Answer::HandBack(HandBack::NotOwner);
    assert_eq!(rig.answered(call), Some(&not_owner));
    let call = rig.claim(9, "x");
    assert_eq!(rig.refused_with(call), Some(ErrorKind::Closed));
    let call = rig.shut_down();
    assert_eq!(rig.answered(call), Some(&Answer::Stopped));
    rig.reply(late, Reply::HandedBack(vec![HandBackOutcome::HandedBack]));
    rig.jump(TTL * 100);
    assert_eq!(rig.notices.len(), notices);
}

#[test]
fn a_fetch_that_was_cancelled_and_answered_all_the_same_takes_nothing() {
    let mut rig = Rig::new(LockScheme::Session);
    let (id, _) = rig.take("Fetch");
    rig.leased_by_listing(1, "s");
    rig.shut_down();
    let fetched = Fetched {
        entries: vec![delivery(2, "t")],
        backlog: 0,
    };
    rig.reply(id, Reply::Fetched(fetched));
    assert!(rig.acquires().is_empty());
    rig.finish();
}

#[test]
fn who_is_not_listened_to_takes_nothing_more_and_keeps_what_is_held() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.fetched(2, "t");
    let fetch = rig.take("Fetch").0;
    rig.input(Input::ReceiverDropped);
    rig.acquired();
    assert_eq!(rig.releases().len(), 1);
    let fetched = Fetched {
        entries: vec![delivery(3, "u")],
        backlog: 0,
    };
    rig.reply(fetch, Reply::Fetched(fetched));
    rig.live(TTL * 5);
    assert!(!rig.has("Fetch") && !rig.has("Acquire"));
    assert!(rig.owns(1) && !rig.owns(3));
}

/// It said that there was no session at the moment, and to try again.
#[test]
fn a_claim_of_a_client_that_takes_no_more_says_so() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.input(Input::ReceiverDropped);
    let deaf = rig.claim(1, "s");
    assert_eq!(rig.refused_with(deaf), Some(ErrorKind::Closed));
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(2, "t");
    rig.shut_down();
    let late = rig.claim(1, "s");
    assert_eq!(rig.refused_with(late), Some(ErrorKind::Closed));
    rig.finish();
}

/// A group that is missing however often it is made, in an LBS that is not what it
/// should be, was made every 10 ms for ever, whatever the policy said.
#[test]
fn a_group_that_is_missing_whenever_it_was_made_counts_as_a_failure() {
    for retries in [Some(0), Some(3), None] {
        let mut rig = Rig::with(LockScheme::Session, |s| s.retry = policy(retries));
        let mut fetches = 0;
        rig.pass_with(TTL * 60, |rig| {
            rig.housekeep();
            while rig.has("Fetch") {
                fetches += 1;
                rig.fail_with("Fetch", Error::new(ErrorKind::NotPrepared, "NOGROUP"));
                rig.housekeep();
            }
        });
        match retries {
            // The first is made again for nothing.
            Some(retries) => assert!(gave_up(&rig) && fetches == retries + 2, "{fetches}"),
            // About once per TTL.
            None => assert!(!rig.stopped && fetches < 120, "{fetches} in 60 TTLs"),
        }
    }
}

/// Operators see neither a single failure nor each of the hundreds that follow.
#[test]
fn an_outage_is_told_once_and_each_half_minute_and_so_is_its_end() {
    let mut rig = Rig::cold(LockScheme::Session, |_| {});
    let told = |rig: &Rig| {
        let unreachable = |notice: &&Notice| matches!(notice, Notice::Unreachable { .. });
        rig.notices.iter().filter(unreachable).count()
    };
    let failing = |rig: &mut Rig| {
        while rig.has("Prepare") {
            rig.fail("Prepare");
        }
    };
    failing(&mut rig);
    assert_eq!(told(&rig), 0, "it may be nothing");
    rig.pass_with(Duration::from_secs(20), failing);
    assert_eq!(told(&rig), 1);
    rig.pass_with(Duration::from_secs(180), failing);
    assert!((4..=7).contains(&told(&rig)), "{}", told(&rig));
    let before = told(&rig);
    rig.pass_with(Duration::from_secs(60), Rig::housekeep);
    let reached = rig.notices.iter().find_map(|notice| match notice {
        Notice::Reached { after, .. } => Some(*after),
        _ => None,
    });
    assert!(reached.is_some_and(|after| after >= Duration::from_secs(200)));
    assert_eq!(told(&rig), before);
}
