//! What a restart may still lose is not believed for longer than the restart holds
//! everybody else back.

use std::time::Duration;

use super::harness::{Harness, lease, pending_at, session_of};
use crate::machine::{DisownReason, End, Input, Reply};
use crate::{Hint, LONGEST_GRACE, LockScheme, TakeOverOutcome, Timestamp};

const LONG: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
const EXPIRED: End = End::Disowned(DisownReason::Expired);

fn with_a_long_ttl() -> Harness {
    let mut harness = Harness::with(LockScheme::Session, |settings| settings.ttl = LONG);
    harness.heartbeat_with(|_| {});
    harness
}

/// No heartbeat is answered.
fn silence(harness: &mut Harness, time: Duration) {
    harness.pass_with(time, |harness| {
        while harness.has("Renew") {
            harness.fail("Renew");
        }
    });
}

#[test]
fn what_no_heartbeat_has_shown_to_last_is_believed_no_longer_than_a_restart_holds_back() {
    let mut harness = with_a_long_ttl();
    harness.leased(1, "s");
    let acquired = harness.now;
    assert!(harness.belief(1).until() < acquired + LONGEST_GRACE);
    silence(&mut harness, LONGEST_GRACE);
    assert_eq!(harness.ends(1), [EXPIRED]);
}

#[test]
fn a_heartbeat_a_little_later_lets_it_last() {
    let mut harness = with_a_long_ttl();
    harness.leased(1, "s");
    // Too early: what the server answered may not be on disk.
    harness.pass(SECOND);
    harness.input(Input::Hint(Hint::MayHaveMissed));
    harness.heartbeat_with(|_| {});
    assert!(harness.belief(1).until() < harness.now + LONGEST_GRACE);
    // One more is due in time for both, wherever the interval would have it.
    harness.leased(2, "t");
    harness.live(3 * SECOND);
    for n in [1, 2] {
        assert!(harness.belief(n).until() > harness.now + LONG / 2, "{n}");
    }
    silence(&mut harness, LONG / 2);
    assert!(harness.owns(1) && harness.owns(2));
}

#[test]
fn a_heartbeat_that_tells_of_a_restart_does_not_let_it_last() {
    let mut harness = with_a_long_ttl();
    let token = harness.leased(1, "s");
    let until = harness.belief(1).until();
    harness.pass(3 * SECOND);
    harness.heartbeat_with(|reply| reply.generation = 2);
    assert_eq!(harness.belief(1).until(), until);
    // It is on record after it, and the next heartbeat tells of no other.
    harness.heartbeat.generation = 2;
    harness.answer("Records", Reply::Records(vec![lease("s", 1, token.0)]));
    harness.live(3 * SECOND);
    assert!(harness.belief(1).until() > harness.now + LONG / 2);
}

#[test]
fn what_a_take_over_brought_is_fresh_as_well() {
    let mut harness = with_a_long_ttl();
    harness.put_pending(pending_at("b", 2, "t"));
    harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
    let sent: Timestamp = harness.now;
    let taken = Reply::TakenOver(TakeOverOutcome::Taken {
        leases: vec![lease("t", 2, 500)],
        left: 0,
    });
    harness.pass(SECOND);
    harness.answer("TakeOver", taken);
    harness.housekeep();
    harness.claimed();
    assert!(harness.belief(2).until() < sent + LONGEST_GRACE);
}
