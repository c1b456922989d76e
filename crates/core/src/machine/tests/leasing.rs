//! From the fetch to the one end: R3, R4, R6, R7, R8, R12.

use std::time::Duration;

use super::rig::{
    Rig, SCHEMES, TTL, consumer, delivery, entry, held_by, lease, pending_at, session_of,
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

fn added(rig: &Rig) -> usize {
    let is_added = |notice: &&Notice| matches!(notice, Notice::Added { .. });
    rig.notices.iter().filter(is_added).count()
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
        let mut rig = Rig::new(scheme);
        rig.fetched(1, "s");
        let token = rig.acquired();
        assert_eq!(added(&rig), 0, "not before the claim");
        rig.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Gone]));
        assert_eq!(added(&rig), 0);
        assert_eq!(rig.releases(), [lease("s", 1, token.0)]);
    }
}

#[test]
fn an_unanswered_acquire_is_repeated_with_its_attempt_and_a_later_one_has_another() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    let first = rig.fail("Acquire");
    rig.pass(TTL / 5);
    let (id, again) = rig.take("Acquire");
    assert_eq!(attempt(&first), attempt(&again));
    let held = held_by(session_of("b"), 100 * MS);
    rig.reply(id, Reply::Acquired(vec![AcquireOutcome::Held(held)]));
    rig.live(TTL);
    let later = rig.take("Acquire").1;
    assert!(attempt(&later) > attempt(&first));
}

#[test]
fn late_release() {
    // A completes e0; the release is not answered. e1 of the same data stream
    // is there already, and must not be acquired before it is.
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    rig.fetched(2, "s");
    rig.complete(1, token);
    let done = Reply::Completed(vec![CompleteOutcome::Completed]);
    rig.answer("Complete", done);
    assert_eq!(rig.releases(), [lease("s", 1, token.0)]);
    for _ in 0..5 {
        rig.fail("Release");
        rig.input(Input::Hint(Hint::Freed(vec![super::rig::stream("s")])));
        assert!(!rig.has("Acquire"), "a late release would free it");
        rig.pass_with(TTL / 5, |rig| {
            while rig.has("Beat") {
                rig.answer_routine("Beat");
            }
        });
        assert_eq!(rig.releases(), [lease("s", 1, token.0)], "repeated");
    }
    let done = Reply::Released(vec![ReleaseOutcome::NotHeld]);
    rig.answer("Release", done);
    assert_eq!(rig.acquires(), [entry(2)]);
    assert!(rig.acquired() > token);
}

#[test]
fn late_fetch() {
    let mut rig = Rig::new(LockScheme::Session);
    // The fetch is given up; its entries are looked for; there are none yet.
    rig.fail("Fetch");
    let (id, list) = rig.take("ListIds");
    let nothing = rig.routine(&list).unwrap();
    // It executes while the listing's reply is on the way, and is given up again.
    rig.put_pending(pending_at("a", 1, "s"));
    rig.input(Input::Hint(Hint::MayHaveMissed));
    rig.reply(id, nothing);
    rig.housekeep();
    assert_eq!(
        rig.acquires(),
        [entry(1)],
        "a look that was asked for is due"
    );

    // Nobody asks, and it executes long after: the periodic look finds it.
    rig.put_pending(pending_at("a", 2, "t"));
    rig.acquired();
    rig.claimed();
    rig.live(TTL * 2 + TTL);
    assert_eq!(rig.acquires(), [entry(2)]);
}

#[test]
fn what_is_pending_here_is_looked_at_again_if_r1_strikes_during_the_look() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.input(Input::Hint(Hint::MayHaveMissed));
    let page = PendingIds {
        entries: vec![entry(1)],
        next: Some(entry(1)),
    };
    rig.answer("ListIds", Reply::ListedIds(page));
    let (second_page, _) = rig.take("ListIds");
    rig.jump(TTL * 2);
    rig.housekeep();
    rig.reply(second_page, Reply::ListedIds(PendingIds::default()));
    rig.housekeep();
    assert_eq!(rig.acquires(), [entry(1)]);
}

#[test]
fn late_claim_after_hand_back() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    let token = rig.acquired();
    let Action::Lbs(LbsCall::Claim(first)) = rig.fail("Claim") else {
        unreachable!()
    };
    rig.pass(TTL / 5);
    let (id, again) = rig.take("Claim");
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
    rig.reply(id, Reply::Claimed(vec![outcome]));
    let call = rig.hand_back(1, token);
    rig.answer(
        "HandBack",
        Reply::HandedBack(vec![HandBackOutcome::HandedBack]),
    );
    let handed_back = Answer::HandBack(HandBack::HandedBack);
    assert_eq!(rig.answered(call), Some(&handed_back));
    assert_eq!(rig.ends(1), [End::HandedBack]);
    // If the first one did put it back here, it is found here.
    rig.live(TTL * 4);
    assert_eq!(rig.acquires(), [entry(1)]);
}

#[test]
fn who_handed_back_leaves_it_to_others_for_a_ttl() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        rig.hand_back(1, token);
        rig.answer(
            "HandBack",
            Reply::HandedBack(vec![HandBackOutcome::HandedBack]),
        );
        rig.put_pending(crate::Pending {
            handed_back: true,
            token,
            ..pending_at("a", 1, "s")
        });
        rig.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        rig.input(Input::Hint(Hint::MayHaveMissed));
        rig.live(TTL - MS);
        assert!(rig.acquires().is_empty(), "{scheme:?}");
        // Nobody else did.
        rig.live(TTL / 2);
        assert_eq!(rig.acquires(), [entry(1)], "{scheme:?}");
        assert!(rig.acquired() > token);
    }
}

#[test]
fn a_second_entry_waits_and_is_tried_on_the_release_and_each_ttl() {
    let mut rig = Rig::with(LockScheme::Session, |settings| settings.capacity = 2);
    let token = rig.leased(1, "s");
    rig.fetched(3, "s");
    rig.fetched(2, "s");
    assert!(rig.acquires().is_empty());
    assert!(
        rig.has("Fetch"),
        "those that wait count against no capacity"
    );
    rig.pending.remove(&entry(1));
    rig.complete(1, token);
    let done = Reply::Completed(vec![CompleteOutcome::Completed]);
    rig.answer("Complete", done);
    rig.housekeep();
    assert_eq!(rig.acquires(), [entry(2)], "lowest entry first");
    rig.refused(held_by(session_of("b"), TTL * 10));
    let mut tries = 0;
    rig.pass_with(TTL * 4, |rig| {
        rig.housekeep();
        while rig.has("Acquire") {
            tries += 1;
            rig.refused(held_by(session_of("b"), TTL * 10));
        }
    });
    assert!((3..=5).contains(&tries), "{tries} tries in four TTLs");
    rig.input(Input::Hint(Hint::Freed(vec![super::rig::stream("s")])));
    assert_eq!(rig.acquires(), [entry(2)]);
}

#[test]
fn a_full_consumer_gathers_room_for_a_page_but_not_for_long() {
    let completed = || Reply::Completed(vec![CompleteOutcome::Completed]);
    for in_time in [true, false] {
        let mut rig = Rig::with(LockScheme::Session, |settings| settings.capacity = 16);
        let page = (1..=16).map(|n| delivery(n, &format!("s{n}"))).collect();
        let (entries, backlog) = (page, 1_000);
        rig.answer("Fetch", Reply::Fetched(Fetched { entries, backlog }));
        rig.acquired_page();
        rig.housekeep();
        assert!(!rig.has("Fetch"), "full");
        let token = |n: u64| {
            let lease = rig.owned.iter().find(|(e, _)| *e == entry(n));
            lease.map(|(_, token)| *token).unwrap()
        };
        let (one, two) = (token(1), token(2));
        rig.complete(1, one);
        rig.complete(2, two);
        rig.answer("Complete", completed());
        assert!(!rig.has("Fetch"), "the second will be worth waiting for");
        assert!(rig.releases().is_empty(), "and its release, too");
        let max = match in_time {
            true => {
                rig.answer("Complete", completed());
                2
            }
            false => {
                rig.pass(10 * MS);
                1
            }
        };
        assert_eq!(rig.releases().len(), max);
        match rig.take("Fetch").1 {
            Action::Lbs(LbsCall::Fetch { max: asked, .. }) => assert_eq!(asked, max),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_hints_about_a_waiting_entry_leave_one_wake() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.fetched(2, "s");
    for _ in 0..1_000 {
        rig.now = rig.now + MS / 10;
        rig.input(Input::Hint(Hint::Freed(vec![super::rig::stream("s")])));
    }
    assert_eq!(rig.machine.leases.wakes.len(), 1);
}

#[test]
fn full_waiter() {
    // B waits with a second entry of A's data stream, then fills up. A frees it.
    let mut rig = Rig::with(LockScheme::Session, |settings| settings.capacity = 1);
    rig.fetched(1, "s");
    rig.refused(held_by(session_of("b"), TTL * 10));
    rig.leased(2, "t");
    rig.input(Input::Hint(Hint::Freed(vec![super::rig::stream("s")])));
    rig.live(TTL * 3);
    assert!(!rig.has("Acquire"), "no room, and no spinning");
    rig.live(TTL * 10);

    // The other side of it: it is at live B, unlocked for a TTL, and A has room.
    let mut rig = Rig::new(LockScheme::Session);
    rig.put_pending(pending_at("b", 1, "s"));
    rig.beat.sweep = true;
    rig.members = vec![crate::Member {
        session: session_of("b"),
        remaining: TTL,
    }];
    let start = rig.now;
    while !rig.has("Acquire") {
        assert!(rig.now < start + TTL * 4, "never taken");
        rig.live(TTL / 10);
    }
    assert!(rig.now >= start + TTL, "left alone for a TTL");
    assert_eq!(rig.acquires(), [entry(1)]);
}

#[test]
fn many_looks_at_an_entry_leave_one_more_look() {
    let mut rig = Rig::new(LockScheme::PerStream);
    rig.put_pending(pending_at("b", 1, "s"));
    rig.beat.sweep = true;
    rig.locks
        .insert(super::rig::stream("s"), held_by(session_of("b"), TTL));
    rig.live(TTL * 30);
    assert_eq!(rig.machine.recovery.scanner.rechecks(), 1);
}

#[test]
fn a_greater_token_on_the_lbs_is_gone_above() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    let token = rig.acquired();
    let seen = FencingToken(9_000);
    rig.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
    assert_eq!(rig.releases(), [lease("s", 1, token.0)]);
    rig.housekeep();
    let Action::Locks(LocksCall::Acquire(_, page)) = rig.take("Acquire").1 else {
        unreachable!()
    };
    assert_eq!(page[0].floor, seen);
    assert_eq!(added(&rig), 0);
}

/// Nobody could go above it: it must not become the floor of all that is acquired.
#[test]
fn a_token_that_cannot_be_one_is_no_floor_and_is_not_tried_for_at_once_again() {
    for seen in [FencingToken::LIMIT, FencingToken(u64::MAX)] {
        let mut rig = Rig::new(LockScheme::Session);
        rig.fetched(1, "s");
        let token = rig.acquired();
        rig.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
        assert_eq!(rig.releases(), [lease("s", 1, token.0)]);
        rig.housekeep();
        assert!(rig.acquires().is_empty(), "it would be refused again");
        rig.fetched(2, "t");
        let Action::Locks(LocksCall::Acquire(_, page)) = rig.take("Acquire").1 else {
            unreachable!()
        };
        assert_eq!(page.len(), 1);
        assert_eq!(page[0].floor, token);
    }
}

#[test]
fn a_repeated_complete_that_finds_the_entry_gone_completed_it() {
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    let calls = [rig.complete(1, token), rig.complete(1, token)];
    rig.fail("Complete");
    assert!(rig.answers.is_empty());
    rig.pass(TTL / 5);
    let gone = || Reply::Completed(vec![CompleteOutcome::Gone]);
    rig.answer("Complete", gone());
    for call in calls {
        let completed = Answer::Completion(Completion::Completed);
        assert_eq!(rig.answered(call), Some(&completed));
    }
    assert_eq!(rig.ends(1), [End::Completed]);

    // Gone at the first try: somebody else's doing.
    let token = rig.leased(2, "t");
    let call = rig.complete(2, token);
    rig.answer("Complete", gone());
    let answer = Answer::Completion(Completion::Gone);
    assert_eq!(rig.answered(call), Some(&answer));
    assert_eq!(rig.ends(2), [End::Disowned(DisownReason::EntryGone)]);
}

#[test]
fn handing_back_says_whether_it_was() {
    let asked = |outcome| {
        let mut rig = Rig::new(LockScheme::Session);
        let token = rig.leased(1, "s");
        let calls = [rig.hand_back(1, token), rig.hand_back(1, token)];
        rig.answer("HandBack", Reply::HandedBack(vec![outcome]));
        let late = rig.hand_back(1, token);
        let over = Answer::HandBack(HandBack::NotOwner);
        assert_eq!(rig.answered(late), Some(&over), "it ended before");
        let answers = calls.map(|call| rig.answered(call).cloned());
        assert_eq!(answers[0], answers[1], "of one end");
        (answers[0].clone().unwrap(), rig.ends(1))
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
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    let call = rig.hand_back(1, token);
    rig.jump(TTL);
    let not_owner = Answer::HandBack(HandBack::NotOwner);
    assert_eq!(rig.answered(call), Some(&not_owner));
    assert_eq!(rig.ends(1), [End::Disowned(DisownReason::Expired)]);
}

#[test]
fn a_hand_back_that_is_refused_for_good_leaves_the_lease_and_says_so() {
    let mut rig = Rig::with(LockScheme::Session, |settings| {
        settings.progress_timeout = Some(TTL * 2);
    });
    let token = rig.leased(1, "s");
    let call = rig.hand_back(1, token);
    rig.fail("HandBack");
    rig.pass(TTL / 5);
    assert!(rig.answers.is_empty(), "that may pass");
    let denied = || Error::new(ErrorKind::Denied, "no rights");
    refuse_for_long(&mut rig, "HandBack");
    assert_eq!(rig.refused_with(call), Some(ErrorKind::Denied));
    assert!(rig.owns(1));
    rig.live(TTL);
    assert!(rig.owns(1) && !rig.has("HandBack"), "goes on as before");
    let completed = rig.complete(1, token);
    refuse_for_long(&mut rig, "Complete");
    assert_eq!(rig.refused_with(completed), Some(ErrorKind::Denied));

    // Its handler is listened to still; and what must go is tried again.
    rig.live(TTL * 3);
    assert!(rig.has("HandBack"), "silent for longer than its limit");
    rig.fail_with("HandBack", denied());
    rig.pass(TTL / 5);
    assert!(rig.has("HandBack"));
}

/// As long as users are not told of a refusal, and a little more.
fn refuse_for_long(rig: &mut Rig, name: &str) {
    rig.pass_with(TTL + TTL / 2, |rig| {
        rig.housekeep();
        while rig.has(name) {
            rig.fail_with(name, Error::new(ErrorKind::Denied, "no rights"));
        }
    });
}

#[test]
fn a_completion_that_r1_overtakes_says_that_it_is_unknown() {
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    let call = rig.complete(1, token);
    let late = rig.take("Complete").0;
    rig.jump(TTL);
    assert_eq!(rig.refused_with(call), Some(ErrorKind::LeaseEnded));
    assert_eq!(rig.ends(1), [End::Disowned(DisownReason::Expired)]);
    rig.reply(late, Reply::Completed(vec![CompleteOutcome::Completed]));
    assert_eq!(rig.ends(1).len(), 1);
}

#[test]
fn a_refused_completion_leaves_the_lease_to_the_user() {
    let mut rig = Rig::new(LockScheme::Session);
    let token = rig.leased(1, "s");
    let call = rig.complete(1, token);
    refuse_for_long(&mut rig, "Complete");
    assert_eq!(rig.refused_with(call), Some(ErrorKind::Denied));
    assert!(rig.owns(1));
    rig.complete(1, token);
    // While the client ends nobody is left to decide: it is handed back.
    rig.shut_down();
    rig.fail_with("Complete", Error::new(ErrorKind::Denied, "no rights"));
    assert!(rig.has("HandBack"));
}

#[test]
fn a_malformed_entry_is_parked_and_reading_goes_on() {
    let mut rig = Rig::new(LockScheme::Session);
    let bad = Delivery {
        entry: entry(1),
        content: Err(MalformedReason::InfoNotAnObject),
    };
    let fetched = Fetched {
        entries: vec![bad, delivery(2, "t")],
        backlog: 0,
    };
    rig.answer("Fetch", Reply::Fetched(fetched));
    assert!(rig.has("Fetch") && rig.has("Acquire"));
    rig.fail("Quarantine");
    rig.pass(TTL / 5);
    let quarantined = Reply::Quarantined(vec![QuarantineOutcome::Quarantined]);
    rig.answer("Quarantine", quarantined);
    let is_quarantined = |n: &&Notice| matches!(n, Notice::Quarantined { .. });
    assert_eq!(rig.notices.iter().filter(is_quarantined).count(), 1);
}

#[test]
fn an_entry_that_keeps_failing_is_parked_without_an_event_of_its_own() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(1, "s");
    let token = rig.acquired();
    let outcome = ClaimOutcome::Claimed {
        from: Some(consumer("b")),
        failures: 5.into(),
    };
    rig.answer("Claim", Reply::Claimed(vec![outcome]));
    assert_eq!(added(&rig), 0);
    let quarantined = Reply::Quarantined(vec![QuarantineOutcome::Quarantined]);
    rig.answer("Quarantine", quarantined);
    assert_eq!(rig.releases(), [lease("s", 1, token.0)]);
}

#[test]
fn a_restarted_lock_server_is_waited_for_without_hoarding() {
    let mut rig = Rig::new(LockScheme::Session);
    let not_yet = || vec![AcquireOutcome::NotYet { retry_in: TTL }];
    for n in 1..=2 {
        // The second fetch was under way already.
        rig.fetched(n, &format!("s{n}"));
        rig.answer("Acquire", Reply::Acquired(not_yet()));
    }
    rig.pass_with(TTL - MS, |rig| {
        rig.housekeep();
        if rig.has("Records") {
            rig.answer("Records", Reply::Records(Vec::new()));
        }
        assert!(!rig.has("Acquire") && !rig.has("Fetch"));
    });
    rig.live(MS * 10);
    rig.acquired_page();
    assert_eq!(added(&rig), 2);
    assert!(rig.has("Fetch"));
}

#[test]
fn claims_of_users_are_answered_once_whatever_happens() {
    let held = || held_by(session_of("b"), TTL);
    let mut rig = Rig::with(LockScheme::Session, |settings| {
        settings.claim = crate::ClaimMode::Manual;
    });
    // Held elsewhere, gone, claimed.
    let call = rig.claim(1, "s");
    rig.refused(held());
    let elsewhere = Answer::Claim(ClaimResult::HeldElsewhere);
    assert_eq!(rig.answered(call), Some(&elsewhere));
    let call = rig.claim(2, "t");
    rig.acquired();
    rig.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Gone]));
    assert_eq!(rig.answered(call), Some(&Answer::Claim(ClaimResult::Gone)));
    let call = rig.claim(3, "u");
    rig.acquired();
    assert!(rig.answered(call).is_none());
    rig.claimed();
    let claimed = Answer::Claim(ClaimResult::Claimed);
    assert_eq!(rig.answered(call), Some(&claimed));
    // R1 strikes meanwhile.
    let call = rig.claim(4, "v");
    rig.jump(TTL * 2);
    assert_eq!(rig.refused_with(call), Some(ErrorKind::Unavailable));
    rig.take("Acquire");
    let call = rig.claim(4, "v");
    assert_eq!(rig.refused_with(call), Some(ErrorKind::Unavailable));
    rig.housekeep();
    // The client ends at each of the steps.
    let acquiring = rig.claim(5, "w");
    rig.shut_down();
    rig.refused(held());
    assert!(rig.answers.contains_key(&acquiring));
    rig.finish();

    for step in 0..3 {
        let mut rig = Rig::new(LockScheme::Session);
        let call = rig.claim(1, "s");
        if step == 0 {
            let not_yet = AcquireOutcome::NotYet { retry_in: TTL };
            rig.answer("Acquire", Reply::Acquired(vec![not_yet]));
        } else {
            rig.acquired();
        }
        rig.shut_down();
        if step == 2 {
            rig.claimed();
        }
        rig.finish();
        assert_eq!(rig.refused_with(call), Some(ErrorKind::Closed));
    }
}

/// The caller waited no longer, and dropped the lease while the completion was
/// under way: nobody could have ended it any more.
#[test]
fn a_lease_dropped_while_its_end_is_under_way_is_handed_back_if_that_is_refused() {
    for (end, asked_first) in [("Complete", true), ("HandBack", true), ("HandBack", false)] {
        let mut rig = Rig::new(LockScheme::Session);
        let token = rig.leased(1, "s");
        let entry = entry(1);
        match end {
            _ if !asked_first => {}
            "Complete" => drop(rig.complete(1, token)),
            _ => drop(rig.hand_back(1, token)),
        }
        rig.input(Input::Command(Command::HandBack {
            entry,
            token,
            failed: None,
            call: None,
        }));
        match end {
            "Complete" => refuse_for_long(&mut rig, end),
            _ => {
                rig.fail_with(end, Error::new(ErrorKind::Denied, "made up"));
                rig.pass(TTL / 4);
            }
        }
        let handed_back = vec![HandBackOutcome::HandedBack];
        rig.answer("HandBack", Reply::HandedBack(handed_back));
        assert_eq!(
            rig.ends(1),
            [End::HandedBack],
            "{end}, asked: {asked_first}"
        );
    }
}

/// It waited for the lowest entry of its stream to begin and end, which vanished.
#[test]
fn what_waits_for_a_greater_token_is_tried_again_whatever_becomes_of_the_other_entry() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.fetched(2, "s");
    rig.acquired();
    // The same stream's earlier entry turns up here, and waits.
    rig.put_pending(pending_at("a", 1, "s"));
    rig.input(Input::Hint(Hint::MayHaveMissed));
    rig.housekeep();
    let seen = FencingToken(5_000);
    rig.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Stale { seen }]));
    rig.housekeep();
    assert_eq!(rig.acquires(), [entry(1)]);
    rig.refused(held_by(session_of("b"), TTL));
    // It goes to another consumer, by way of a third.
    rig.pending.remove(&entry(1));
    rig.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
    rig.live(TTL + TTL / 20);
    assert_eq!(rig.acquires(), [entry(2)], "forgotten");
}

/// The lease was lost while its entry was being quarantined, and taken again: the late
/// answer to the quarantining threw the new one away, lock and all.
#[test]
fn a_late_answer_to_a_parking_ends_no_later_lease() {
    let mut rig = Rig::new(LockScheme::PerStream);
    rig.fetched(1, "s");
    let token = rig.acquired();
    let outcome = ClaimOutcome::Claimed {
        from: None,
        failures: 5.into(),
    };
    rig.answer("Claim", Reply::Claimed(vec![outcome]));
    rig.beat_with(|reply| reply.lost = vec![lease("s", 1, token.0)]);
    rig.housekeep();
    assert_eq!(rig.acquires(), [entry(1)]);
    let seen = FencingToken(token.0 + 1);
    let refused = vec![QuarantineOutcome::NotOwner { seen }];
    rig.answer("Quarantine", Reply::Quarantined(refused));
    rig.acquired();
    rig.handed_back_late();
    rig.claimed();
    assert!(rig.owns(1));
}
