//! An LBS that lost its last announcements, and whose clock was set back (or whose
//! replica's is behind), gives their ids to others: seed 216946 of the simulation.

use super::rig::{Rig, SCHEMES, TTL, entry, lease, pending_at, session_of, stream};
use crate::machine::{DisownReason, End, Input, Notice, Reply};
use crate::{Hint, LeaseRef, LockScheme, MalformedReason, Pending, StreamName, TakeOverOutcome};

const GONE: End = End::Disowned(DisownReason::EntryGone);

/// The leases of a dead one are taken over, and their entries read.
fn taken_over(rig: &mut Rig, leases: Vec<LeaseRef>) {
    rig.beat_with(|reply| reply.dead = vec![session_of("b")]);
    let taken = TakeOverOutcome::Taken { leases, left: 0 };
    rig.answer("TakeOver", Reply::TakenOver(taken));
    while !rig.machine.leases.adopting.is_empty() {
        let look = if rig.has("List") { "List" } else { "Members" };
        rig.answer_routine(look);
    }
}

fn added(rig: &Rig) -> Vec<StreamName> {
    let added = |notice: &Notice| match notice {
        Notice::Added { stream, .. } => Some(stream.clone()),
        _ => None,
    };
    rig.notices.iter().filter_map(added).collect()
}

#[test]
fn a_lease_whose_id_is_another_announcements_is_not_adopted() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.put_pending(pending_at("b", 1, "t"));
    taken_over(&mut rig, vec![lease("s", 1, 500)]);
    assert!(!rig.has("Claim"));
    assert_eq!(rig.releases(), [lease("s", 1, 500)]);
    rig.live(TTL / 10);
    // What has the id now is an orphan like any other.
    assert_eq!(rig.acquires(), [entry(1)]);
    rig.acquired();
    rig.claimed();
    assert_eq!(added(&rig), [stream("t")]);
}

#[test]
fn of_two_leases_with_one_id_that_which_fits_is_adopted_and_the_other_released() {
    for order in [[0, 1], [1, 0]] {
        let mut rig = Rig::new(LockScheme::Session);
        rig.put_pending(pending_at("b", 1, "t"));
        let both = [lease("s", 1, 500), lease("t", 1, 501)];
        taken_over(&mut rig, order.map(|nth: usize| both[nth].clone()).to_vec());
        let mut released = rig.releases();
        rig.answer_routine("Release");
        released.extend(rig.releases());
        assert!(released.contains(&both[0]), "{released:?}");
        rig.live(TTL / 10);
        if rig.has("Acquire") {
            rig.acquired();
        }
        rig.claimed();
        assert_eq!(added(&rig), [stream("t")]);
    }
}

#[test]
fn a_lease_ends_when_another_that_has_its_id_is_taken_over() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.put_pending(pending_at("b", 1, "t"));
    taken_over(&mut rig, vec![lease("t", 1, 500)]);
    assert_eq!(rig.ends(1), [GONE]);
    rig.claimed();
    assert_eq!(added(&rig), [stream("s"), stream("t")]);
}

#[test]
fn a_lease_ends_when_its_id_is_seen_to_be_another_announcements() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        rig.leased(1, "s");
        rig.put_pending(pending_at("b", 1, "t"));
        rig.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
        rig.housekeep();
        assert_eq!(rig.ends(1), [GONE], "{scheme:?}");
        assert!(!rig.machine.leases.items.contains(entry(1)) || rig.has("Acquire"));
    }
}

#[test]
fn a_lease_ends_when_its_id_is_seen_to_be_of_something_that_cannot_be_read() {
    let mut rig = Rig::new(LockScheme::Session);
    rig.leased(1, "s");
    rig.put_pending(Pending {
        content: Err(MalformedReason::NotJson),
        ..pending_at("a", 1, "t")
    });
    rig.input(Input::Hint(Hint::HandedBack(vec![entry(1)])));
    rig.housekeep();
    assert_eq!(rig.ends(1), [GONE]);
    assert!(rig.has("Quarantine"));
}

#[test]
fn a_lease_ends_when_its_id_is_fetched_with_another_stream() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        rig.leased(1, "s");
        rig.fetched(1, "t");
        assert_eq!(rig.ends(1), [GONE], "{scheme:?}");
        rig.acquired();
        rig.claimed();
        assert_eq!(added(&rig), [stream("s"), stream("t")]);
    }
}

#[test]
fn an_acquire_under_way_is_not_answered_to_another_stream_of_its_id() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        rig.fetched(1, "s");
        let (id, _) = rig.take("Acquire");
        rig.fetched(1, "t");
        assert!(!rig.has("Acquire"), "it waits for that answer");
        rig.reply(
            id,
            Reply::Acquired(vec![crate::AcquireOutcome::Acquired(crate::FencingToken(
                200,
            ))]),
        );
        rig.claimed();
        // It is looked at again, and told.
        rig.live(TTL);
        assert_eq!(rig.ends(1), [GONE], "{scheme:?}");
    }
}
