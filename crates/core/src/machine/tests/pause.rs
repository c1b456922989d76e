//! A paused service: nothing is taken, what is held stays held, and all goes on at its end.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry, lease, pending_at, session_of};
use crate::machine::{Action, Answer, ClaimResult, End, Input, LbsCall, Notice, Part, Reply};
use crate::{
    ClaimMode, ClaimOutcome, CompleteOutcome, HandBackOutcome, Hint, LockScheme, Pause, Pending,
    TakeOverOutcome,
};

const MS: Duration = Duration::from_millis(1);

fn begin(harness: &mut Harness) {
    harness.pause = Some(Pause::new(Some(1), "because"));
    harness.input(Input::Hint(Hint::PauseChanged));
    harness.housekeep();
}

fn end(harness: &mut Harness) {
    harness.pause = None;
    harness.input(Input::Hint(Hint::PauseChanged));
    harness.housekeep();
}

/// A claim is refused; what the machine does about that is routine but for the release.
fn claim_refused(harness: &mut Harness) {
    harness.pause = Some(Pause::default());
    harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Paused]));
}

fn told(harness: &Harness) -> Vec<bool> {
    let told = |notice: &Notice| match notice {
        Notice::Paused(_) => Some(true),
        Notice::Resumed => Some(false),
        _ => None,
    };
    harness.notices.iter().filter_map(told).collect()
}

/// What is asked for in this time, with the routine answered, by name.
fn asked(harness: &mut Harness, time: Duration) -> Vec<String> {
    let mut asked = Vec::new();
    harness.pass_with(time, |harness| {
        for (_, action) in &harness.open {
            asked.push(action.operation().name().to_owned());
        }
        harness.housekeep();
    });
    asked
}

fn count(asked: &[String], name: &str) -> usize {
    asked.iter().filter(|asked| *asked == name).count()
}

#[test]
fn a_refused_claim_gives_its_lock_back_and_its_entry_is_taken_after_the_pause() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.fetched(1, "s");
        let token = harness.acquired();
        claim_refused(&mut harness);
        assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
        harness.housekeep();
        harness.live(TTL * 3);
        assert!(!harness.has("Acquire") && !harness.has("Fetch"));
        assert_eq!(told(&harness), [true]);
        end(&mut harness);
        assert_eq!(told(&harness), [true, false]);
        assert_eq!(harness.acquires(), [entry(1)], "{scheme:?}: at once");
        assert!(harness.has("Fetch"));
        assert!(harness.acquired() > token);
        harness.claimed();
        assert!(harness.owns(1));
    }
}

#[test]
fn a_claim_that_was_executed_before_the_pause_makes_an_owner() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    harness.acquired();
    begin(&mut harness);
    harness.claimed();
    assert!(harness.owns(1));
}

#[test]
fn in_a_pause_it_asks_every_third_of_a_ttl_and_fetches_and_takes_nothing() {
    for scheme in SCHEMES {
        let mut harness = Harness::cold(scheme, |_| {});
        harness.pause = Some(Pause::default());
        harness.housekeep();
        assert!(!harness.has("Fetch"), "{scheme:?}: it knows in time");
        let asked = asked(&mut harness, TTL * 10);
        let looks = count(&asked, "paused");
        assert!((30..=35).contains(&looks), "{looks} in ten TTLs");
        for name in ["fetch", "claim", "acquire", "take_over"] {
            assert_eq!(count(&asked, name), 0, "{scheme:?}: {name} of {asked:?}");
        }
        // Heartbeats, the look at its own part, and nothing that spins.
        assert!(asked.len() < 120, "{scheme:?}: {} calls", asked.len());
    }
}

/// Nothing else asks the LBS then.
#[test]
fn in_a_pause_it_shows_that_the_lbs_is_away_and_that_it_is_back() {
    let mut harness = Harness::new(LockScheme::Session);
    begin(&mut harness);
    let reachable = |harness: &Harness| harness.machine.vitals().reachable[Part::Lbs as usize];
    assert_eq!(reachable(&harness), Some(true));
    harness.pass_with(TTL, |harness| {
        while harness.has("Paused") {
            harness.fail("Paused");
        }
        harness.housekeep();
    });
    assert_eq!(reachable(&harness), Some(false));
    let told = |harness: &Harness, is_it: fn(&Notice) -> bool| {
        harness
            .notices
            .iter()
            .filter(|notice| is_it(notice))
            .count()
    };
    let away = |notice: &Notice| {
        matches!(
            notice,
            Notice::Unreachable {
                part: Part::Lbs,
                ..
            }
        )
    };
    let back = |notice: &Notice| {
        matches!(
            notice,
            Notice::Reached {
                part: Part::Lbs,
                ..
            }
        )
    };
    assert_eq!((told(&harness, away), told(&harness, back)), (1, 0));
    harness.live(TTL);
    assert_eq!(reachable(&harness), Some(true));
    assert_eq!((told(&harness, away), told(&harness, back)), (1, 1));
}

#[test]
fn without_a_pause_nothing_is_asked_but_once_at_the_start() {
    for scheme in SCHEMES {
        let mut harness = Harness::cold(scheme, |_| {});
        assert!(harness.has("Paused"), "beside the call that prepares");
        harness.housekeep();
        assert_eq!(count(&asked(&mut harness, TTL * 10), "paused"), 0);
        assert!(told(&harness).is_empty());
    }
}

#[test]
fn no_fetch_waits_for_the_answer_whether_the_service_is_paused() {
    let mut harness = Harness::cold(LockScheme::Session, |_| {});
    let (question, _) = harness.take("Paused");
    harness.housekeep();
    assert!(harness.has("Fetch"));
    harness.reply(question, Reply::Paused(Some(Pause::default())));
    harness.housekeep();
    assert!(!harness.has("Fetch"));
}

/// What is announced in a pause is for whoever fetches after it, also where the consumers of
/// now are replaced meanwhile.
#[test]
fn a_fetch_that_waits_is_given_up_and_what_it_brought_is_found_after_the_pause() {
    let mut harness = Harness::new(LockScheme::Session);
    assert!(harness.has("Fetch"));
    begin(&mut harness);
    assert!(!harness.has("Fetch"));
    harness.put_pending(pending_at("a", 1, "s"));
    end(&mut harness);
    assert_eq!(harness.acquires(), [entry(1)]);
    assert!(harness.has("Fetch"));
}

#[test]
fn an_answer_that_is_older_than_a_hint_is_not_believed() {
    for paused in [true, false] {
        let answer = |paused: bool| Reply::Paused(paused.then(Pause::default));
        let mut harness = Harness::new(LockScheme::Session);
        if !paused {
            begin(&mut harness);
            harness.pass(TTL / 3);
        } else {
            harness.input(Input::Hint(Hint::PauseChanged));
        }
        let before = told(&harness);
        // It changes while the answer is on its way.
        let (old, _) = harness.take("Paused");
        harness.input(Input::Hint(Hint::PauseChanged));
        harness.reply(old, answer(paused));
        assert_eq!(told(&harness), before);
        harness.answer("Paused", answer(!paused));
        assert_eq!(told(&harness).last().copied().unwrap_or(false), !paused);
        harness.pass(10 * MS);
        assert!(!harness.has("Paused"));
    }
}

#[test]
fn a_resume_whose_hint_came_before_the_refusal_is_not_missed() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    harness.acquired();
    // Paused, the claim refused, resumed; the hints were faster.
    harness.input(Input::Hint(Hint::PauseChanged));
    harness.input(Input::Hint(Hint::PauseChanged));
    harness.housekeep();
    harness.answer("Claim", Reply::Claimed(vec![ClaimOutcome::Paused]));
    harness.housekeep();
    harness.pass(100 * MS);
    assert_eq!(harness.acquires(), [entry(1)]);
}

#[test]
fn a_question_that_fails_is_asked_again_and_nothing_is_taken_meanwhile() {
    let mut harness = Harness::new(LockScheme::Session);
    begin(&mut harness);
    harness.pass(TTL / 3);
    for _ in 0..4 {
        harness.fail("Paused");
        harness.pass(TTL / 5);
        assert!(!harness.has("Fetch"));
    }
    end(&mut harness);
    harness.live(TTL / 5);
    assert_eq!(told(&harness), [true, false]);
    assert!(harness.has("Fetch"));
}

#[test]
fn what_is_held_goes_on_in_a_pause() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let first = harness.leased(1, "s");
        let second = harness.leased(2, "t");
        begin(&mut harness);
        // Long enough for entries to be claimed again (per-stream locks).
        harness.pass_with(TTL * 8, |harness| {
            harness.housekeep();
            while harness.has("Keep") {
                let kept = vec![ClaimOutcome::Paused; 2];
                harness.answer("Keep", Reply::Claimed(kept));
            }
        });
        assert!(harness.owns(1) && harness.owns(2), "{scheme:?}");
        harness.complete(1, first);
        let done = Reply::Completed(vec![CompleteOutcome::Completed]);
        harness.answer("Complete", done);
        assert_eq!(harness.ends(1), [End::Completed]);
        harness.hand_back(2, second);
        let back = Reply::HandedBack(vec![HandBackOutcome::HandedBack]);
        harness.answer("HandBack", back);
        assert_eq!(harness.ends(2), [End::HandedBack]);
    }
}

/// The sweep of a short pause may be long ago, and the next turn far away.
#[test]
fn what_others_gave_up_in_a_pause_is_taken_at_its_end_without_a_sweep() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        begin(&mut harness);
        let handed_back = Pending {
            handed_back: true,
            ..pending_at("b", 1, "s")
        };
        harness.put_pending(handed_back);
        harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        harness.live(TTL);
        assert!(harness.acquires().is_empty());
        end(&mut harness);
        harness.live(50 * MS);
        assert_eq!(harness.acquires(), [entry(1)], "{scheme:?}");
    }
}

#[test]
fn an_orphan_whose_claim_was_refused_is_taken_at_the_end_of_the_pause() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let handed_back = Pending {
            handed_back: true,
            ..pending_at("b", 1, "s")
        };
        harness.put_pending(handed_back);
        harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        harness.live(100 * MS);
        harness.acquired();
        claim_refused(&mut harness);
        harness.live(TTL);
        assert!(harness.acquires().is_empty());
        end(&mut harness);
        harness.live(50 * MS);
        assert_eq!(harness.acquires(), [entry(1)], "{scheme:?}");
    }
}

#[test]
fn who_died_in_a_pause_is_taken_over_after_it() {
    let mut harness = Harness::new(LockScheme::Session);
    begin(&mut harness);
    harness.put_pending(pending_at("b", 1, "s"));
    harness.heartbeat.dead = vec![session_of("b")];
    harness.live(TTL * 3);
    assert!(!harness.has("TakeOver"));
    end(&mut harness);
    harness.live(50 * MS);
    let leases = vec![lease("s", 1, 500)];
    harness.answer(
        "TakeOver",
        Reply::TakenOver(TakeOverOutcome::Taken { leases, left: 0 }),
    );
    harness.housekeep();
    harness.claimed();
    assert!(harness.owns(1));
}

#[test]
fn a_take_over_that_a_pause_overtook_goes_on_after_it() {
    for claim_is_first in [true, false] {
        let mut harness = Harness::new(LockScheme::Session);
        harness.put_pending(pending_at("b", 1, "s"));
        harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
        let taken = Reply::TakenOver(TakeOverOutcome::Taken {
            leases: vec![lease("s", 1, 500)],
            left: 0,
        });
        harness.heartbeat.on_record = None;
        if claim_is_first {
            harness.answer("TakeOver", taken);
            harness.housekeep();
            claim_refused(&mut harness);
            harness.housekeep();
        } else {
            begin(&mut harness);
            harness.answer("TakeOver", taken);
            harness.housekeep();
            if harness.has("Claim") {
                claim_refused(&mut harness);
            }
        }
        harness.live(TTL * 3);
        assert!(!harness.owns(1) && !harness.has("Claim"));
        end(&mut harness);
        harness.live(TTL);
        if harness.has("Acquire") {
            harness.acquired();
        }
        harness.claimed();
        assert!(harness.owns(1));
    }
}

#[test]
fn a_users_claim_is_told_that_the_service_is_paused() {
    for scheme in SCHEMES {
        let mut harness = Harness::with(scheme, |settings| {
            settings.claim = ClaimMode::Manual;
        });
        let paused = Answer::Claim(ClaimResult::Paused);
        let call = harness.claim(1, "s");
        let token = harness.acquired();
        claim_refused(&mut harness);
        assert_eq!(harness.answered(call), Some(&paused));
        assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
        harness.housekeep();
        let call = harness.claim(1, "s");
        assert_eq!(harness.answered(call), Some(&paused), "known by now");
        end(&mut harness);
        harness.claim(1, "s");
        assert_eq!(harness.acquires(), [entry(1)]);
    }
}

/// It may be executed after the pause, for an owner that has given its lock back.
#[test]
fn an_unanswered_claim_that_is_then_refused_is_handed_back() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    harness.fail("Claim");
    harness.pass(50 * MS);
    claim_refused(&mut harness);
    let sent = harness.take("HandBack").1;
    let Action::Lbs(LbsCall::HandBack(page)) = &sent else {
        panic!("{sent:?}");
    };
    assert_eq!((page[0].entry, page[0].token), (entry(1), token));
    assert!(page[0].failed.is_none());
}

#[test]
fn a_shutdown_in_a_pause_ends_with_what_was_fetched_and_never_taken() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.leased(1, "s");
        harness.fetched(2, "t");
        harness.acquired();
        claim_refused(&mut harness);
        harness.housekeep();
        let call = harness.shut_down();
        let back = Reply::HandedBack(vec![HandBackOutcome::HandedBack]);
        harness.answer("HandBack", back);
        harness.finish();
        assert_eq!(harness.answered(call), Some(&Answer::Stopped));
        assert_eq!(harness.ends(1), [End::HandedBack]);
    }
}

#[test]
fn a_claim_that_is_refused_amid_a_shutdown_does_not_keep_it_up() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.fetched(1, "s");
    let token = harness.acquired();
    harness.shut_down();
    claim_refused(&mut harness);
    assert_eq!(harness.releases(), [lease("s", 1, token.0)]);
    harness.finish();
}

#[test]
fn a_pause_that_flaps_costs_a_question_for_each_hint() {
    let mut harness = Harness::new(LockScheme::Session);
    let mut asked = 0;
    for round in 0..100 {
        harness.pause = (round % 2 == 0).then(Pause::default);
        harness.input(Input::Hint(Hint::PauseChanged));
        harness.pass_with(MS, |harness| {
            asked += usize::from(harness.has("Paused"));
            harness.housekeep();
        });
    }
    assert!(asked <= 100, "{asked}");
    assert!(harness.has("Fetch"));
}

/// Nothing runs in a pause, so nothing can show that it does no harm.
#[test]
fn in_a_pause_no_trial_is_passed() {
    const WINDOW: Duration = Duration::from_secs(2);
    for scheme in SCHEMES {
        let mut harness = Harness::cold(scheme, |_| {});
        harness.pause = Some(Pause::default());
        let own = harness.machine.cx.consumer.clone();
        // One more death, and they are quarantined.
        for n in 1..=3 {
            let mut pending = pending_at("a", n, &format!("s{n}"));
            pending.consumer = Some(own.clone());
            pending.token = crate::FencingToken(n);
            pending.failures = 3;
            pending.idle = Duration::from_secs(3_600);
            harness.pending.insert(pending.entry, pending);
        }
        harness.live(WINDOW * 20);
        assert!(!harness.has("Acquire"), "{scheme:?}");
        end(&mut harness);
        assert_eq!(harness.acquires().len(), 1, "{scheme:?}: one by one");
    }
}
