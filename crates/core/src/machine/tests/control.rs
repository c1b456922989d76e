//! Preparing, giving up, shutting down: R7, R8, R12.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, delivery, held_by, session_of};
use crate::machine::{
    Answer, Command, Completion, DisownReason, End, HandBack, Input, Notice, Reply,
};
use crate::{
    AcquireOutcome, Error, ErrorKind, Fetched, HandBackOutcome, LockScheme, RetryPolicy, StreamName,
};

const MS: Duration = Duration::from_millis(1);

fn gave_up(harness: &Harness) -> bool {
    matches!(
        harness.notices.last(),
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
        let mut harness = Harness::cold(LockScheme::Session, |s| s.retry = policy(retries));
        let mut failed = 0;
        harness.pass_with(Duration::from_secs(20 * 60), |harness| {
            while harness.has("Prepare") {
                failed += 1;
                harness.fail("Prepare");
            }
        });
        assert_eq!(gave_up(&harness), retries.is_some(), "{retries:?}");
        match retries {
            Some(_) => assert_eq!(failed, tries, "{retries:?}"),
            None => assert!(failed >= tries, "waits at most 30 s: {failed}"),
        }
    }
}

#[test]
fn an_lbs_that_fails_for_good_is_given_up_though_the_locks_are_well() {
    let mut harness = Harness::with(LockScheme::Session, |s| s.retry = policy(Some(8)));
    let mut failed = 0;
    harness.pass_with(TTL * 60, |harness| {
        if harness.stopped {
            return;
        }
        harness.housekeep();
        while harness.has("Fetch") {
            failed += 1;
            harness.fail("Fetch");
        }
    });
    assert!(gave_up(&harness), "after {failed} fetches");
    // Those that came sooner than the policy says did not count.
    assert!(failed >= 9, "{failed}");
}

/// A client tries once per TTL at least. What the policy counts is further apart.
#[test]
fn tries_that_come_sooner_than_the_retry_policy_says_do_not_count() {
    let mut harness = Harness::cold(LockScheme::Session, |s| s.retry = policy(Some(8)));
    let began = harness.now;
    let (mut tries, mut given_up) = (0, None);
    harness.pass_with(Duration::from_secs(60), |harness| {
        while harness.has("Prepare") {
            tries += 1;
            harness.fail("Prepare");
        }
        if harness.stopped {
            given_up.get_or_insert(harness.now);
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
    type Sign = (&'static str, fn(&mut Harness));
    let signs: [Sign; 2] = [
        ("a heartbeat", |harness| harness.answer_routine("Renew")),
        ("a subscription", |harness| {
            harness.input(Input::Hint(crate::Hint::MayHaveMissed));
        }),
    ];
    for (what, sign) in signs {
        let mut harness = Harness::with(LockScheme::Session, |s| s.ttl = Duration::from_secs(600));
        harness.answer("Fetch", Reply::Fetched(Fetched::default()));
        // Both are away, and each is tried ever more rarely.
        harness.pass_with(Duration::from_secs(200), |harness| {
            for name in ["Fetch", "Renew", "Prepare"] {
                while harness.has(name) {
                    harness.fail(name);
                }
            }
        });
        harness.pass_to_heartbeat();
        assert!(!harness.has("Fetch"), "{what}");
        sign(&mut harness);
        harness.pass(20 * MS);
        assert!(harness.has("Fetch"), "{what}");
    }
}

#[test]
fn successes_start_the_count_anew() {
    let mut harness = Harness::with(LockScheme::Session, |s| s.retry = policy(Some(1)));
    for n in 0..10 {
        harness.fail("Fetch");
        harness.live(TTL);
        let fetched = Fetched {
            entries: vec![delivery(n, &format!("s{n}"))],
            backlog: 0,
        };
        harness.answer("Fetch", Reply::Fetched(fetched));
    }
    assert!(!harness.stopped);
}

#[test]
fn a_missing_group_is_made_again() {
    let mut harness = Harness::with(LockScheme::Session, |s| s.retry = policy(Some(0)));
    let token = harness.leased(1, "s");
    let gone = || Error::new(ErrorKind::NotPrepared, "NOGROUP");
    harness.fail_with("Fetch", gone());
    harness.answer("Prepare", Reply::Prepared);
    harness.housekeep();
    harness.live(TTL / 10);
    assert!(harness.has("Fetch"));
    harness.complete(1, token);
    harness.fail_with("Complete", gone());
    assert!(harness.has("Prepare"));
    assert!(!harness.stopped && harness.owns(1));
}

#[test]
fn a_refusal_for_good_at_the_start_ends_with_its_reason() {
    let mut harness = Harness::cold(LockScheme::Session, |_| {});
    harness.fail_with("Prepare", Error::new(ErrorKind::Incompatible, "scheme"));
    assert!(harness.stopped && gave_up(&harness));
}

#[test]
fn shutting_down_hands_back_and_says_so_last() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.leased(1, "s");
        harness.fetched(2, "t");
        harness.fetched(3, "s");
        let calls = [harness.shut_down(), harness.shut_down()];
        assert!(!harness.has("Fetch"), "cancelled");
        assert!(harness.has("HandBack") && !harness.has("Complete"));
        // Locked after the shutdown began: handed back too, without an event.
        harness.acquired();
        assert_eq!(harness.releases().len(), 1);
        harness.finish();
        assert_eq!(harness.ends(1), [End::HandedBack], "{scheme:?}");
        assert!(matches!(
            harness.notices.last(),
            Some(Notice::Terminated { error: None })
        ));
        for call in calls {
            assert_eq!(harness.answered(call), Some(&Answer::Stopped));
        }
    }
}

#[test]
fn shutting_down_waits_for_nothing_that_it_does_not_hold() {
    let refused = || AcquireOutcome::Held(held_by(session_of("b"), TTL));
    let not_yet = || AcquireOutcome::NotYet { retry_in: TTL };
    for outcome in [refused, not_yet] as [fn() -> AcquireOutcome; 2] {
        let mut harness = Harness::new(LockScheme::Session);
        harness.fetched(1, "s");
        harness.shut_down();
        harness.answer("Acquire", Reply::Acquired(vec![outcome()]));
        harness.housekeep();
        assert!(harness.has("Close"), "{:?}", outcome());
    }
    // The same if a claim found the token too low.
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    harness.acquired();
    harness.shut_down();
    let seen = crate::FencingToken(900);
    let stale = crate::ClaimOutcome::Stale { seen };
    harness.answer("Claim", Reply::Claimed(vec![stale]));
    harness.housekeep();
    assert!(harness.has("Close"));
}

#[test]
fn shutting_down_ends_within_a_ttl_even_if_nothing_is_answered() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.leased(2, "t");
        let completing = harness.complete(1, token);
        harness.shut_down();
        let start = harness.now;
        harness.pass_with(TTL, |harness| {
            while harness.has("Renew") {
                harness.answer_routine("Renew");
            }
        });
        assert!(
            harness.stopped,
            "{scheme:?}: {:?}",
            harness.now.saturating_since(start)
        );
        assert_eq!(
            harness.refused_with(completing),
            Some(ErrorKind::LeaseEnded)
        );
        let stopped = End::Disowned(DisownReason::ClientStopped);
        assert_eq!(
            (harness.ends(1), harness.ends(2)),
            (vec![stopped.clone()], vec![stopped])
        );
    }
}

#[test]
fn closing_and_forgetting_may_fail() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.shut_down();
    let began = harness.now;
    let mut tries = Vec::new();
    harness.pass_with(TTL / 4, |harness| {
        for name in ["Close", "RemoveConsumer"] {
            while harness.has(name) {
                tries.push(name);
                harness.fail(name);
            }
        }
        harness.housekeep();
    });
    // Each a few times, as long as the shutdown may take.
    let count = |name| tries.iter().filter(|tried| **tried == name).count();
    assert_eq!((count("Close"), count("RemoveConsumer")), (4, 4));
    assert!(harness.stopped);
    assert!(harness.now.saturating_since(began) <= TTL);
}

/// The name of who shut down, or died, while the server was away for a moment stayed in
/// the group for ever.
#[test]
fn a_name_that_could_not_be_removed_is_tried_again() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.shut_down();
    harness.fail("Close");
    harness.pass(TTL / 10);
    harness.answer("Close", Reply::Closed);
    harness.fail("RemoveConsumer");
    harness.pass(TTL / 10);
    harness.answer("RemoveConsumer", Reply::ConsumerRemoved(true));
    assert!(harness.stopped);

    let mut harness = Harness::new(LockScheme::Session);
    harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
    let taken = crate::TakeOverOutcome::Taken {
        leases: Vec::new(),
        left: 0,
    };
    harness.answer("TakeOver", Reply::TakenOver(taken));
    harness.housekeep();
    harness.answer("Remove", Reply::Removed(true));
    harness.fail("RemoveConsumer");
    assert!(!harness.has("RemoveConsumer"));
    harness.live(TTL / 4);
    harness.answer("RemoveConsumer", Reply::ConsumerRemoved(true));
    harness.live(TTL * 2);
    assert!(!harness.has("RemoveConsumer") && !harness.has("Remove"));
}

#[test]
fn a_session_that_is_being_opened_when_the_shutdown_comes_is_closed_again() {
    for opened in [true, false] {
        let mut harness = Harness::cold(LockScheme::Session, |_| {});
        harness.answer("Prepare", Reply::Prepared);
        assert!(harness.has("Open"));
        harness.shut_down();
        assert!(!harness.stopped, "it may be open already");
        if opened {
            harness.answer_routine("Open");
            harness.finish();
        } else {
            harness.fail("Open");
        }
        assert!(harness.stopped);
        let end = harness.notices.last();
        assert!(matches!(end, Some(Notice::Terminated { error: None })));
    }
}

#[test]
fn a_session_that_dies_while_shutting_down_ends_it() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.shut_down();
    harness.jump(TTL - 200 * MS);
    assert!(harness.stopped);
    assert_eq!(harness.ends(1), [End::Disowned(DisownReason::Expired)]);
}

#[test]
fn after_the_end_every_call_is_answered_and_nothing_else_comes() {
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    harness.shut_down();
    let late = harness.take("HandBack").0;
    harness.pass(TTL * 2);
    assert!(harness.stopped);
    let notices = harness.notices.len();
    let not_owner = Answer::Completion(Completion::NotOwner);
    let call = harness.complete(1, token);
    assert_eq!(harness.answered(call), Some(&not_owner));
    let stream = StreamName::new("s").unwrap();
    let call = harness.call(|call| Command::CompleteStream { stream, call });
    assert_eq!(harness.answered(call), Some(&not_owner));
    let call = harness.hand_back(1, token);
    let not_owner = Answer::HandBack(HandBack::NotOwner);
    assert_eq!(harness.answered(call), Some(&not_owner));
    let call = harness.claim(9, "x");
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Closed));
    let call = harness.shut_down();
    assert_eq!(harness.answered(call), Some(&Answer::Stopped));
    harness.reply(late, Reply::HandedBack(vec![HandBackOutcome::HandedBack]));
    harness.jump(TTL * 100);
    assert_eq!(harness.notices.len(), notices);
}

#[test]
fn a_fetch_that_was_cancelled_and_answered_all_the_same_takes_nothing() {
    let mut harness = Harness::new(LockScheme::Session);
    let (id, _) = harness.take("Fetch");
    harness.leased_by_listing(1, "s");
    harness.shut_down();
    let fetched = Fetched {
        entries: vec![delivery(2, "t")],
        backlog: 0,
    };
    harness.reply(id, Reply::Fetched(fetched));
    assert!(harness.acquires().is_empty());
    harness.finish();
}

#[test]
fn who_is_not_listened_to_takes_nothing_more_and_keeps_what_is_held() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.fetched(2, "t");
    let fetch = harness.take("Fetch").0;
    harness.input(Input::ReceiverDropped);
    harness.acquired();
    assert_eq!(harness.releases().len(), 1);
    let fetched = Fetched {
        entries: vec![delivery(3, "u")],
        backlog: 0,
    };
    harness.reply(fetch, Reply::Fetched(fetched));
    harness.live(TTL * 5);
    assert!(!harness.has("Fetch") && !harness.has("Acquire"));
    assert!(harness.owns(1) && !harness.owns(3));
}

/// It said that there was no session at the moment, and to try again.
#[test]
fn a_claim_of_a_client_that_takes_no_more_says_so() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.input(Input::ReceiverDropped);
    let call = harness.claim(1, "s");
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Closed));
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(2, "t");
    harness.shut_down();
    let late = harness.claim(1, "s");
    assert_eq!(harness.refused_with(late), Some(ErrorKind::Closed));
    harness.finish();
}

/// A group that is missing however often it is made, in an LBS that is not what it
/// should be, was made every 10 ms for ever, whatever the policy said.
#[test]
fn a_group_that_is_missing_whenever_it_was_made_counts_as_a_failure() {
    for retries in [Some(0), Some(3), None] {
        let mut harness = Harness::with(LockScheme::Session, |s| s.retry = policy(retries));
        let mut fetches = 0;
        harness.pass_with(TTL * 60, |harness| {
            harness.housekeep();
            while harness.has("Fetch") {
                fetches += 1;
                harness.fail_with("Fetch", Error::new(ErrorKind::NotPrepared, "NOGROUP"));
                harness.housekeep();
            }
        });
        match retries {
            // The first is made again for nothing.
            Some(retries) => assert!(gave_up(&harness) && fetches == retries + 2, "{fetches}"),
            // About once per TTL.
            None => assert!(!harness.stopped && fetches < 120, "{fetches} in 60 TTLs"),
        }
    }
}

/// Operators see neither a single failure nor each of the hundreds that follow.
#[test]
fn an_outage_is_told_once_and_each_half_minute_and_so_is_its_end() {
    let mut harness = Harness::cold(LockScheme::Session, |_| {});
    let told = |harness: &Harness| {
        let unreachable = |notice: &&Notice| matches!(notice, Notice::Unreachable { .. });
        harness.notices.iter().filter(unreachable).count()
    };
    let failing = |harness: &mut Harness| {
        while harness.has("Prepare") {
            harness.fail("Prepare");
        }
    };
    failing(&mut harness);
    assert_eq!(told(&harness), 0, "it may be nothing");
    harness.pass_with(Duration::from_secs(20), failing);
    assert_eq!(told(&harness), 1);
    harness.pass_with(Duration::from_secs(180), failing);
    assert!((4..=7).contains(&told(&harness)), "{}", told(&harness));
    let before = told(&harness);
    harness.pass_with(Duration::from_secs(60), Harness::housekeep);
    let reached = harness.notices.iter().find_map(|notice| match notice {
        Notice::Reached { after, .. } => Some(*after),
        _ => None,
    });
    assert!(reached.is_some_and(|after| after >= Duration::from_secs(200)));
    assert_eq!(told(&harness), before);
}
