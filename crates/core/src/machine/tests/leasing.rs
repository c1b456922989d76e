//! From the fetch to the one end: R3, R4, R6, R7, R8, R12.

use std::time::Duration;

use super::harness::{
    Harness, SCHEMES, TTL, consumer, delivery, entry, held_by, lease, pending_at, session_of,
};
use crate::machine::{
    Action, Answer, ClaimResult, Command, Completion, DisownReason, End, HandBack, Input, LbsCall,
    LocksCall, Notice, Reply,
};
use crate::{
    AcquireOutcome, ClaimOutcome, CompleteOutcome, Delivery, Error, ErrorKind, FencingToken,
    Fetched, HandBackOutcome, Hint, LockScheme, MalformedReason, PendingIds, QuarantineOutcome,
    ReleaseOutcome,
};

const MS: Duration = Duration::from_millis(1);

fn added(harness: &Harness) -> usize {
    let is_added = |notice: &&Notice| matches!(notice, Notice::Added { .. });
    harness.notices.iter().filter(is_added).count()
}

fn attempt(action: &Action) -> u64 {
    match action {
        Action::Locks(LocksCall::Acquire(_, page)) => page[0].attempt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fresh_entry_that_is_gone_is_released_without_an_event() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.fetched(1, "s");
        let token = harness.acquired();
        assert_eq!(added(&harness), 0, "not before the claim");
        harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Gone]));
        assert_eq!(added(&harness), 0);
        assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
    }
}

#[test]
fn an_unanswered_acquire_is_repeated_with_its_attempt_and_a_later_one_has_another() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let first = harness.fail("Acquire");
    harness.pass(TTL / 5);
    let (id, again) = harness.take("Acquire");
    assert_eq!(attempt(&first), attempt(&again));
    let held = held_by(session_of("b"), 100 * MS);
    harness.reply(id, Reply::Acquired(vec![AcquireOutcome::Held(held)]));
    harness.live(TTL);
    let later = harness.take("Acquire").1;
    assert!(attempt(&later) > attempt(&first));
}

#[test]
fn late_release() {
    // A completes e0; the release is not answered. e1 of the same data stream
    // is there already, and must not be acquired before it is.
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    harness.fetched(2, "s");
    harness.complete(1, token);
    let done = Reply::Completed(vec![CompleteOutcome::Completed]);
    harness.answer("Complete", done);
    assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
    for _ in 0..5 {
        harness.fail("Release");
        harness.input(Input::Hint(Hint::Freed(vec![super::harness::stream("s")])));
        assert!(!harness.has("Acquire"), "a late release would free it");
        harness.pass_with(TTL / 5, |harness| {
            while harness.has("Renew") {
                harness.answer_routine("Renew");
            }
        });
        assert_eq!(harness.releases(), [lease("s", 1, token.0)], "repeated");
    }
    let done = Reply::Released(vec![ReleaseOutcome::NotHeld]);
    harness.answer("Release", done);
    assert_eq!(harness.acquires(), [entry(2)]);
    assert!(harness.acquired() > token);
}

#[test]
fn late_fetch() {
    let mut harness = Harness::new(LockScheme::Session);
    // The fetch is given up; its entries are looked for; there are none yet.
    harness.fail("Fetch");
    let (id, list) = harness.take("ListIds");
    let nothing = harness.routine(&list).unwrap();
    // It executes while the listing's reply is on the way, and is given up again.
    harness.put_pending(pending_at("a", 1, "s"));
    harness.input(Input::Hint(Hint::MayHaveMissed));
    harness.reply(id, nothing);
    harness.housekeep();
    assert_eq!(
        harness.acquires(),
        [entry(1)],
        "a look that was asked for is due"
    );

    // Nobody asks, and it executes long after: the periodic look finds it.
    harness.put_pending(pending_at("a", 2, "t"));
    harness.acquired();
    harness.claimed();
    harness.live(TTL * 2 + TTL);
    assert_eq!(harness.acquires(), [entry(2)]);
}

#[test]
fn what_is_pending_here_is_looked_at_again_if_r1_strikes_during_the_look() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.input(Input::Hint(Hint::MayHaveMissed));
    let page = PendingIds {
        entries: vec![entry(1)],
        next: Some(entry(1)),
    };
    harness.answer("ListIds", Reply::ListedIds(page));
    let (second_page, _) = harness.take("ListIds");
    harness.jump(TTL * 2);
    harness.housekeep();
    harness.reply(second_page, Reply::ListedIds(PendingIds::default()));
    harness.housekeep();
    assert_eq!(harness.acquires(), [entry(1)]);
}

#[test]
fn late_claim_after_hand_back() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    let Action::Lbs(LbsCall::Claim(first)) = harness.fail("Claim") else {
        unreachable!()
    };
    harness.pass(TTL / 5);
    let (id, again) = harness.take("Claim");
    let Action::Lbs(LbsCall::Claim(again)) = again else {
        unreachable!()
    };
    assert_eq!(
        first, again,
        "the same token, so that the LBS can refuse it"
    );
    let outcome = ClaimOutcome::Claimed {
        from: None,
        failures: 0.into(),
    };
    harness.reply(id, Reply::Claimed(vec![outcome]));
    let call = harness.hand_back(1, token);
    harness.answer(
        "HandBack",
        Reply::HandedBack(vec![HandBackOutcome::HandedBack]),
    );
    let handed_back = Answer::HandBack(HandBack::HandedBack);
    assert_eq!(harness.answered(call), Some(&handed_back));
    assert_eq!(harness.ends(1), [End::HandedBack]);
    // If the first one did put it back here, it is found here.
    harness.live(TTL * 4);
    assert_eq!(harness.acquires(), [entry(1)]);
}

#[test]
fn who_handed_back_leaves_it_to_others_for_a_ttl() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.hand_back(1, token);
        harness.answer(
            "HandBack",
            Reply::HandedBack(vec![HandBackOutcome::HandedBack]),
        );
        harness.put_pending(crate::Pending {
            handed_back: true,
            token,
            ..pending_at("a", 1, "s")
        });
        harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        harness.input(Input::Hint(Hint::MayHaveMissed));
        harness.live(TTL - MS);
        assert!(harness.acquires().is_empty(), "{scheme:?}");
        // Nobody else did.
        harness.live(TTL / 2);
        assert_eq!(harness.acquires(), [entry(1)], "{scheme:?}");
        assert!(harness.acquired() > token);
    }
}

#[test]
fn a_second_entry_waits_and_is_tried_on_the_release_and_each_ttl() {
    let mut harness = Harness::with(LockScheme::Session, |settings| settings.capacity = 2);
    let token = harness.leased(1, "s");
    harness.fetched(3, "s");
    harness.fetched(2, "s");
    assert!(harness.acquires().is_empty());
    assert!(
        harness.has("Fetch"),
        "those that wait count against no capacity"
    );
    harness.pending.remove(&entry(1));
    harness.complete(1, token);
    let done = Reply::Completed(vec![CompleteOutcome::Completed]);
    harness.answer("Complete", done);
    harness.housekeep();
    assert_eq!(harness.acquires(), [entry(2)], "lowest entry first");
    harness.refused(held_by(session_of("b"), TTL * 10));
    let mut tries = 0;
    harness.pass_with(TTL * 4, |harness| {
        harness.housekeep();
        while harness.has("Acquire") {
            tries += 1;
            harness.refused(held_by(session_of("b"), TTL * 10));
        }
    });
    assert!((3..=5).contains(&tries), "{tries} tries in four TTLs");
    harness.input(Input::Hint(Hint::Freed(vec![super::harness::stream("s")])));
    assert_eq!(harness.acquires(), [entry(2)]);
}

#[test]
fn a_full_consumer_gathers_room_for_a_page_but_not_for_long() {
    let completed = || Reply::Completed(vec![CompleteOutcome::Completed]);
    for in_time in [true, false] {
        let mut harness = Harness::with(LockScheme::Session, |settings| settings.capacity = 16);
        let page = (1..=16).map(|n| delivery(n, &format!("s{n}"))).collect();
        let (entries, backlog) = (page, 1_000);
        harness.answer("Fetch", Reply::Fetched(Fetched { entries, backlog }));
        harness.acquired_page();
        harness.housekeep();
        assert!(!harness.has("Fetch"), "full");
        let token = |n: u64| {
            let lease = harness.owned.iter().find(|(e, _)| *e == entry(n));
            lease.map(|(_, token)| *token).unwrap()
        };
        let (one, two) = (token(1), token(2));
        harness.complete(1, one);
        harness.complete(2, two);
        harness.answer("Complete", completed());
        assert!(
            !harness.has("Fetch"),
            "the second will be worth waiting for"
        );
        assert!(harness.releases().is_empty(), "and its release, too");
        let max = match in_time {
            true => {
                harness.answer("Complete", completed());
                2
            }
            false => {
                harness.pass(10 * MS);
                1
            }
        };
        assert_eq!(harness.releases().len(), max);
        match harness.take("Fetch").1 {
            Action::Lbs(LbsCall::Fetch { max: asked, .. }) => assert_eq!(asked, max),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_hints_about_a_waiting_entry_leave_one_wake() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.fetched(2, "s");
    for _ in 0..1_000 {
        harness.now = harness.now + MS / 10;
        harness.input(Input::Hint(Hint::Freed(vec![super::harness::stream("s")])));
    }
    assert_eq!(harness.machine.leases.wakes.len(), 1);
}

#[test]
fn full_waiter() {
    // B waits with a second entry of A's data stream, then fills up. A frees it.
    let mut harness = Harness::with(LockScheme::Session, |settings| settings.capacity = 1);
    harness.fetched(1, "s");
    harness.refused(held_by(session_of("b"), TTL * 10));
    harness.leased(2, "t");
    harness.input(Input::Hint(Hint::Freed(vec![super::harness::stream("s")])));
    harness.live(TTL * 3);
    assert!(!harness.has("Acquire"), "no room, and no spinning");
    harness.live(TTL * 10);

    // The other side of it: it is at live B, unlocked for a TTL, and A has room.
    let mut harness = Harness::new(LockScheme::Session);
    harness.put_pending(pending_at("b", 1, "s"));
    harness.heartbeat.sweep = true;
    harness.members = vec![crate::Member {
        session: session_of("b"),
        remaining: TTL,
    }];
    let start = harness.now;
    while !harness.has("Acquire") {
        assert!(harness.now < start + TTL * 4, "never taken");
        harness.live(TTL / 10);
    }
    assert!(harness.now >= start + TTL, "left alone for a TTL");
    assert_eq!(harness.acquires(), [entry(1)]);
}

#[test]
fn many_looks_at_an_entry_leave_one_more_look() {
    let mut harness = Harness::new(LockScheme::PerStream);
    harness.put_pending(pending_at("b", 1, "s"));
    harness.heartbeat.sweep = true;
    harness
        .locks
        .insert(super::harness::stream("s"), held_by(session_of("b"), TTL));
    harness.live(TTL * 30);
    assert_eq!(harness.machine.recovery.scanner.rechecks(), 1);
}

#[test]
fn a_greater_token_on_the_lbs_is_gone_above() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    let seen = FencingToken(9_000);
    harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
    assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
    harness.housekeep();
    let Action::Locks(LocksCall::Acquire(_, page)) = harness.take("Acquire").1 else {
        unreachable!()
    };
    assert_eq!(page[0].floor, seen);
    assert_eq!(added(&harness), 0);
}

/// Nobody could go above it: it must not become the floor of all that is acquired.
#[test]
fn a_token_that_cannot_be_one_is_no_floor_and_is_not_tried_for_at_once_again() {
    for seen in [FencingToken::LIMIT, FencingToken(u64::MAX)] {
        let mut harness = Harness::new(LockScheme::Session);
        harness.fetched(1, "s");
        let token = harness.acquired();
        harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
        assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
        harness.housekeep();
        assert!(harness.acquires().is_empty(), "it would be refused again");
        harness.fetched(2, "t");
        let Action::Locks(LocksCall::Acquire(_, page)) = harness.take("Acquire").1 else {
            unreachable!()
        };
        assert_eq!(page.len(), 1);
        assert_eq!(page[0].floor, token);
    }
}

#[test]
fn a_repeated_complete_that_finds_the_entry_gone_completed_it() {
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    let calls = [harness.complete(1, token), harness.complete(1, token)];
    harness.fail("Complete");
    assert!(harness.answers.is_empty());
    harness.pass(TTL / 5);
    let gone = || Reply::Completed(vec![CompleteOutcome::Gone]);
    harness.answer("Complete", gone());
    for call in calls {
        let completed = Answer::Completion(Completion::Completed);
        assert_eq!(harness.answered(call), Some(&completed));
    }
    assert_eq!(harness.ends(1), [End::Completed]);

    // Gone at the first try: somebody else's doing.
    let token = harness.leased(2, "t");
    let call = harness.complete(2, token);
    harness.answer("Complete", gone());
    let answer = Answer::Completion(Completion::Gone);
    assert_eq!(harness.answered(call), Some(&answer));
    assert_eq!(harness.ends(2), [End::Disowned(DisownReason::EntryGone)]);
}

#[test]
fn handing_back_says_whether_it_was() {
    let asked = |outcome| {
        let mut harness = Harness::new(LockScheme::Session);
        let token = harness.leased(1, "s");
        let calls = [harness.hand_back(1, token), harness.hand_back(1, token)];
        harness.answer("HandBack", Reply::HandedBack(vec![outcome]));
        let late = harness.hand_back(1, token);
        let over = Answer::HandBack(HandBack::NotOwner);
        assert_eq!(harness.answered(late), Some(&over), "it ended before");
        let answers = calls.map(|call| harness.answered(call).cloned());
        assert_eq!(answers[0], answers[1], "of one end");
        (answers[0].clone().unwrap(), harness.ends(1))
    };
    let seen = FencingToken(900);
    let lost = |reason| vec![End::Disowned(reason)];
    for (outcome, hand_back, ends) in [
        (
            HandBackOutcome::HandedBack,
            HandBack::HandedBack,
            vec![End::HandedBack],
        ),
        (
            HandBackOutcome::NotOwner { seen },
            HandBack::NotOwner,
            lost(DisownReason::Superseded),
        ),
        (
            HandBackOutcome::Gone,
            HandBack::Gone,
            lost(DisownReason::EntryGone),
        ),
    ] {
        assert_eq!(asked(outcome), (Answer::HandBack(hand_back), ends));
    }

    // Lost while it was under way.
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    let call = harness.hand_back(1, token);
    harness.jump(TTL);
    let not_owner = Answer::HandBack(HandBack::NotOwner);
    assert_eq!(harness.answered(call), Some(&not_owner));
    assert_eq!(harness.ends(1), [End::Disowned(DisownReason::Expired)]);
}

#[test]
fn a_hand_back_that_is_refused_for_good_leaves_the_lease_and_says_so() {
    let mut harness = Harness::with(LockScheme::Session, |settings| {
        settings.progress_timeout = Some(TTL * 2);
    });
    let token = harness.leased(1, "s");
    let call = harness.hand_back(1, token);
    harness.fail("HandBack");
    harness.pass(TTL / 5);
    assert!(harness.answers.is_empty(), "that may pass");
    let denied = || Error::new(ErrorKind::Denied, "no rights");
    refuse_for_long(&mut harness, "HandBack");
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Denied));
    assert!(harness.owns(1));
    harness.live(TTL);
    assert!(
        harness.owns(1) && !harness.has("HandBack"),
        "goes on as before"
    );
    let completed = harness.complete(1, token);
    refuse_for_long(&mut harness, "Complete");
    assert_eq!(harness.refused_with(completed), Some(ErrorKind::Denied));

    // Its handler is listened to still; and what must go is tried again.
    harness.live(TTL * 3);
    assert!(harness.has("HandBack"), "silent for longer than its limit");
    harness.fail_with("HandBack", denied());
    harness.pass(TTL / 5);
    assert!(harness.has("HandBack"));
}

/// As long as users are not told of a refusal, and a little more.
fn refuse_for_long(harness: &mut Harness, name: &str) {
    harness.pass_with(TTL + TTL / 2, |harness| {
        harness.housekeep();
        while harness.has(name) {
            harness.fail_with(name, Error::new(ErrorKind::Denied, "no rights"));
        }
    });
}

#[test]
fn a_completion_that_r1_overtakes_says_that_it_is_unknown() {
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    let call = harness.complete(1, token);
    let late = harness.take("Complete").0;
    harness.jump(TTL);
    assert_eq!(harness.refused_with(call), Some(ErrorKind::LeaseEnded));
    assert_eq!(harness.ends(1), [End::Disowned(DisownReason::Expired)]);
    harness.reply(late, Reply::Completed(vec![CompleteOutcome::Completed]));
    assert_eq!(harness.ends(1).len(), 1);
}

#[test]
fn a_refused_completion_leaves_the_lease_to_the_user() {
    let mut harness = Harness::new(LockScheme::Session);
    let token = harness.leased(1, "s");
    let call = harness.complete(1, token);
    refuse_for_long(&mut harness, "Complete");
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Denied));
    assert!(harness.owns(1));
    harness.complete(1, token);
    // While the client ends nobody is left to decide: it is handed back.
    harness.shut_down();
    harness.fail_with("Complete", Error::new(ErrorKind::Denied, "no rights"));
    assert!(harness.has("HandBack"));
}

#[test]
fn a_malformed_entry_is_quarantined_and_reading_goes_on() {
    let mut harness = Harness::new(LockScheme::Session);
    let bad = Delivery {
        entry: entry(1),
        content: Err(MalformedReason::InfoNotAnObject),
    };
    let fetched = Fetched {
        entries: vec![bad, delivery(2, "t")],
        backlog: 0,
    };
    harness.answer("Fetch", Reply::Fetched(fetched));
    assert!(harness.has("Fetch") && harness.has("Acquire"));
    harness.fail("Quarantine");
    harness.pass(TTL / 5);
    let quarantined = Reply::Quarantined(vec![QuarantineOutcome::Quarantined]);
    harness.answer("Quarantine", quarantined);
    let is_quarantined = |n: &&Notice| matches!(n, Notice::Quarantined { .. });
    assert_eq!(harness.notices.iter().filter(is_quarantined).count(), 1);
}

#[test]
fn an_entry_that_keeps_failing_is_quarantined_without_an_event_of_its_own() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    let outcome = ClaimOutcome::Claimed {
        from: Some(consumer("b")),
        failures: 5.into(),
    };
    harness.answer("Claim", Reply::Claimed(vec![outcome]));
    assert_eq!(added(&harness), 0);
    let quarantined = Reply::Quarantined(vec![QuarantineOutcome::Quarantined]);
    harness.answer("Quarantine", quarantined);
    assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
}

#[test]
fn a_restarted_lock_server_is_waited_for_without_hoarding() {
    let mut harness = Harness::new(LockScheme::Session);
    let not_yet = || vec![AcquireOutcome::NotYet { retry_in: TTL }];
    for n in 1..=2 {
        // The second fetch was under way already.
        harness.fetched(n, &format!("s{n}"));
        harness.answer("Acquire", Reply::Acquired(not_yet()));
    }
    harness.pass_with(TTL - MS, |harness| {
        harness.housekeep();
        if harness.has("Records") {
            harness.answer("Records", Reply::Records(Vec::new()));
        }
        assert!(!harness.has("Acquire") && !harness.has("Fetch"));
    });
    harness.live(MS * 10);
    harness.acquired_page();
    assert_eq!(added(&harness), 2);
    assert!(harness.has("Fetch"));
}

#[test]
fn claims_of_users_are_answered_once_whatever_happens() {
    let held = || held_by(session_of("b"), TTL);
    let mut harness = Harness::with(LockScheme::Session, |settings| {
        settings.claim = crate::ClaimMode::Manual;
    });
    // Held elsewhere, gone, claimed.
    let call = harness.claim(1, "s");
    harness.refused(held());
    let elsewhere = Answer::Claim(ClaimResult::HeldElsewhere);
    assert_eq!(harness.answered(call), Some(&elsewhere));
    let call = harness.claim(2, "t");
    harness.acquired();
    harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Gone]));
    assert_eq!(
        harness.answered(call),
        Some(&Answer::Claim(ClaimResult::Gone))
    );
    let call = harness.claim(3, "u");
    harness.acquired();
    assert!(harness.answered(call).is_none());
    harness.claimed();
    let claimed = Answer::Claim(ClaimResult::Claimed);
    assert_eq!(harness.answered(call), Some(&claimed));
    // R1 ends the lease meanwhile.
    let call = harness.claim(4, "v");
    harness.jump(TTL * 2);
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Unavailable));
    harness.take("Acquire");
    let call = harness.claim(4, "v");
    assert_eq!(harness.refused_with(call), Some(ErrorKind::Unavailable));
    harness.housekeep();
    // The client ends at each of the steps.
    let acquiring = harness.claim(5, "w");
    harness.shut_down();
    harness.refused(held());
    assert!(harness.answers.contains_key(&acquiring));
    harness.finish();

    for step in 0..3 {
        let mut harness = Harness::new(LockScheme::Session);
        let call = harness.claim(1, "s");
        if step == 0 {
            let not_yet = AcquireOutcome::NotYet { retry_in: TTL };
            harness.answer("Acquire", Reply::Acquired(vec![not_yet]));
        } else {
            harness.acquired();
        }
        harness.shut_down();
        if step == 2 {
            harness.claimed();
        }
        harness.finish();
        assert_eq!(harness.refused_with(call), Some(ErrorKind::Closed));
    }
}

/// The caller waited no longer, and dropped the lease while the completion was
/// under way: nobody could have ended it any more.
#[test]
fn a_lease_dropped_while_its_end_is_under_way_is_handed_back_if_that_is_refused() {
    for (end, asked_first) in [("Complete", true), ("HandBack", true), ("HandBack", false)] {
        let mut harness = Harness::new(LockScheme::Session);
        let token = harness.leased(1, "s");
        let entry = entry(1);
        match end {
            _ if !asked_first => {}
            "Complete" => drop(harness.complete(1, token)),
            _ => drop(harness.hand_back(1, token)),
        }
        harness.input(Input::Command(Command::HandBack {
            entry,
            token,
            failed: None,
            call: None,
        }));
        match end {
            "Complete" => refuse_for_long(&mut harness, end),
            _ => {
                harness.fail_with(end, Error::new(ErrorKind::Denied, "made up"));
                harness.pass(TTL / 4);
            }
        }
        let handed_back = vec![HandBackOutcome::HandedBack];
        harness.answer("HandBack", Reply::HandedBack(handed_back));
        assert_eq!(
            harness.ends(1),
            [End::HandedBack],
            "{end}, asked: {asked_first}"
        );
    }
}

/// It waited for the lowest entry of its stream to begin and end, which vanished.
#[test]
fn what_waits_for_a_greater_token_is_tried_again_whatever_becomes_of_the_other_entry() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(2, "s");
    harness.acquired();
    // The same stream's earlier entry turns up here, and waits.
    harness.put_pending(pending_at("a", 1, "s"));
    harness.input(Input::Hint(Hint::MayHaveMissed));
    harness.housekeep();
    let seen = FencingToken(5_000);
    harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
    harness.housekeep();
    assert_eq!(harness.acquires(), [entry(1)]);
    harness.refused(held_by(session_of("b"), TTL));
    // It goes to another consumer, by way of a third.
    harness.pending.remove(&entry(1));
    harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
    harness.live(TTL + TTL / 20);
    assert_eq!(harness.acquires(), [entry(2)], "forgotten");
}

/// The lease was lost while its entry was being quarantined, and taken again: the late
/// answer to the quarantining threw the new one away, lock and all.
#[test]
fn a_late_answer_to_a_quarantining_ends_no_later_lease() {
    let mut harness = Harness::new(LockScheme::PerStream);
    harness.fetched(1, "s");
    let token = harness.acquired();
    let outcome = ClaimOutcome::Claimed {
        from: None,
        failures: 5.into(),
    };
    harness.answer("Claim", Reply::Claimed(vec![outcome]));
    harness.heartbeat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
    harness.housekeep();
    assert_eq!(harness.acquires(), [entry(1)]);
    let seen = FencingToken(token.0 + 1);
    let refused = vec![QuarantineOutcome::NotOwner { seen }];
    harness.answer("Quarantine", Reply::Quarantined(refused));
    harness.acquired();
    harness.handed_back_late();
    harness.claimed();
    assert!(harness.owns(1));
}
