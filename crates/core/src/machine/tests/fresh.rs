//! What a restart may still lose is not believed for longer than the restart holds
//! everybody else back.

use std::time::Duration;

use super::rig::{Rig, lease, pending_at, session_of};
use crate::machine::{DisownReason, End, Input, Reply};
use crate::{Hint, LONGEST_CALM, LockScheme, TakeOverOutcome, Timestamp};

const LONG: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
const EXPIRED: End = End::Disowned(DisownReason::Expired);

fn with_a_long_ttl() -> Rig {
    let mut rig = Rig::with(LockScheme::Session, |settings| settings.ttl = LONG);
    rig.beat_with(|_| {});
    rig
}

/// No beat is answered.
fn silence(rig: &mut Rig, time: Duration) {
    rig.pass_with(time, |rig| {
        while rig.has("Beat") {
            rig.fail("Beat");
        }
    });
}

#[test]
fn what_no_beat_has_shown_to_last_is_believed_no_longer_than_a_restart_holds_back() {
    let mut rig = with_a_long_ttl();
    rig.leased(1, "s");
    let acquired = rig.now;
    assert!(rig.belief(1).until() < acquired + LONGEST_CALM);
    silence(&mut rig, LONGEST_CALM);
    assert_eq!(rig.ends(1), [EXPIRED]);
}

#[test]
fn a_beat_a_little_later_lets_it_last() {
    let mut rig = with_a_long_ttl();
    rig.leased(1, "s");
    // Too early: what the server answered may not be on disk.
    rig.pass(SECOND);
    rig.input(Input::Hint(Hint::MayHaveMissed));
    rig.beat_with(|_| {});
    assert!(rig.belief(1).until() < rig.now + LONGEST_CALM);
    // One more is due in time for both, wherever the interval would have it.
    rig.leased(2, "t");
    rig.live(3 * SECOND);
    for n in [1, 2] {
        assert!(rig.belief(n).until() > rig.now + LONG / 2, "{n}");
    }
    silence(&mut rig, LONG / 2);
    assert!(rig.owns(1) && rig.owns(2));
}

#[test]
fn a_beat_that_tells_of_a_restart_does_not_let_it_last() {
    let mut rig = with_a_long_ttl();
    let token = rig.leased(1, "s");
    let until = rig.belief(1).until();
    rig.pass(3 * SECOND);
    rig.beat_with(|reply| reply.generation = 2);
    assert_eq!(rig.belief(1).until(), until);
    // It is on record after it, and the next beat tells of no other.
    rig.beat.generation = 2;
    rig.answer("Records", Reply::Records(vec![lease("s", 1, token.0)]));
    rig.live(3 * SECOND);
    assert!(rig.belief(1).until() > rig.now + LONG / 2);
}

#[test]
fn what_a_take_over_brought_is_fresh_as_well() {
    let mut rig = with_a_long_ttl();
    rig.put_pending(pending_at("b", 2, "t"));
    rig.beat_with(|reply| reply.dead = vec![session_of("b")]);
    let sent: Timestamp = rig.now;
    let taken = Reply::TakenOver(TakeOverOutcome::Taken {
        leases: vec![lease("t", 2, 500)],
        left: 0,
    });
    rig.pass(SECOND);
    rig.answer("TakeOver", taken);
    rig.housekeep();
    rig.claimed();
    assert!(rig.belief(2).until() < sent + LONGEST_CALM);
}
