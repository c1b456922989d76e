//! An LBS that lost its last announcements, and whose clock was set back (or whose
//! replica's is behind), gives their ids to others: seed 216946 of the simulation.

use super::harness::{Harness, SCHEMES, TTL, entry, lease, pending_at, session_of, stream};
use crate::machine::{DisownReason, End, Input, Notice, Reply};
use crate::{Hint, LeaseRef, LockScheme, MalformedReason, Pending, StreamName, TakeOverOutcome};

const GONE: End = End::Disowned(DisownReason::EntryGone);

/// The leases of a dead one are taken over, and their entries read.
fn taken_over(harness: &mut Harness, leases: Vec<LeaseRef>) {
    harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
    let taken = TakeOverOutcome::Taken { leases, left: 0 };
    harness.answer("TakeOver", Reply::TakenOver(taken));
    while !harness.machine.leases.adopting.is_empty() {
        let look = if harness.has("List") {
            "List"
        } else {
            "Members"
        };
        harness.answer_routine(look);
    }
}

fn added(harness: &Harness) -> Vec<StreamName> {
    let added = |notice: &Notice| match notice {
        Notice::Added { stream, .. } => Some(stream.clone()),
        _ => None,
    };
    harness.notices.iter().filter_map(added).collect()
}

#[test]
fn a_lease_whose_id_is_another_announcements_is_not_adopted() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.put_pending(pending_at("b", 1, "t"));
    taken_over(&mut harness, vec![lease("s", 1, 500)]);
    assert!(!harness.has("Claim"));
    assert_eq!(harness.releases(), [lease("s", 1, 500)]);
    harness.live(TTL / 10);
    // What has the id now is an orphan like any other.
    assert_eq!(harness.acquires(), [entry(1)]);
    harness.acquired();
    harness.claimed();
    assert_eq!(added(&harness), [stream("t")]);
}

#[test]
fn of_two_leases_with_one_id_that_which_fits_is_adopted_and_the_other_released() {
    for order in [[0, 1], [1, 0]] {
        let mut harness = Harness::new(LockScheme::Session);
        harness.put_pending(pending_at("b", 1, "t"));
        let both = [lease("s", 1, 500), lease("t", 1, 501)];
        taken_over(
            &mut harness,
            order.map(|nth: usize| both[nth].clone()).to_vec(),
        );
        let mut released = harness.releases();
        harness.answer_routine("Release");
        released.extend(harness.releases());
        assert!(released.contains(&both[0]), "{released:?}");
        harness.live(TTL / 10);
        if harness.has("Acquire") {
            harness.acquired();
        }
        harness.claimed();
        assert_eq!(added(&harness), [stream("t")]);
    }
}

#[test]
fn a_lease_ends_when_another_that_has_its_id_is_taken_over() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.put_pending(pending_at("b", 1, "t"));
    taken_over(&mut harness, vec![lease("t", 1, 500)]);
    assert_eq!(harness.ends(1), [GONE]);
    harness.claimed();
    assert_eq!(added(&harness), [stream("s"), stream("t")]);
}

#[test]
fn a_lease_ends_when_its_id_is_seen_to_be_another_announcements() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.leased(1, "s");
        harness.put_pending(pending_at("b", 1, "t"));
        harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        harness.housekeep();
        assert_eq!(harness.ends(1), [GONE], "{scheme:?}");
        assert!(!harness.machine.leases.items.contains(entry(1)) || harness.has("Acquire"));
    }
}

#[test]
fn a_lease_ends_when_its_id_is_seen_to_be_of_something_that_cannot_be_read() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.leased(1, "s");
    harness.put_pending(Pending {
        content: Err(MalformedReason::NotJson),
        ..pending_at("a", 1, "t")
    });
    harness.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
    harness.housekeep();
    assert_eq!(harness.ends(1), [GONE]);
    assert!(harness.has("Quarantine"));
}

#[test]
fn a_lease_ends_when_its_id_is_fetched_with_another_stream() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.leased(1, "s");
        harness.fetched(1, "t");
        assert_eq!(harness.ends(1), [GONE], "{scheme:?}");
        harness.acquired();
        harness.claimed();
        assert_eq!(added(&harness), [stream("s"), stream("t")]);
    }
}

#[test]
fn an_acquire_under_way_is_not_answered_to_another_stream_of_its_id() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        harness.fetched(1, "s");
        let (id, _) = harness.take("Acquire");
        harness.fetched(1, "t");
        assert!(!harness.has("Acquire"), "it waits for that answer");
        harness.reply(
            id,
            Reply::Acquired(vec![crate::AcquireOutcome::Acquired(crate::FencingToken(
                200,
            ))]),
        );
        harness.claimed();
        // It is looked at again, and told.
        harness.live(TTL);
        assert_eq!(harness.ends(1), [GONE], "{scheme:?}");
    }
}
