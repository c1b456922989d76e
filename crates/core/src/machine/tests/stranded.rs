//! What is on the LBS and pending at nobody: operators took it from the group.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry, held_by, lease, pending_at, session_of};
use crate::machine::{Action, LbsCall, Reply};
use crate::{LockScheme, Member, TakeOverOutcome};

fn at_nobody(n: u64, name: &str) -> crate::Pending {
    crate::Pending {
        consumer: None,
        ..pending_at("a", n, name)
    }
}

#[test]
fn what_was_taken_from_under_its_owner_is_claimed_again() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let token = harness.leased(1, "s");
        harness.leased(2, "kept");
        harness.put_pending(at_nobody(1, "s"));
        harness.live(TTL * 3);
        let (_, claim) = harness.take("Keep");
        let Action::Lbs(LbsCall::Keep(page)) = claim else {
            panic!("{claim:?}");
        };
        assert_eq!(page.len(), 1, "{scheme:?}: only what is missing");
        assert_eq!((page[0].entry, page[0].token), (entry(1), token));
        assert!(harness.owns(1) && harness.owns(2));
    }
}

#[test]
fn a_sweep_finds_what_is_at_nobody() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.put_pending(at_nobody(1, "s"));
    harness.heartbeat.sweep = true;
    harness.live(TTL);
    assert_eq!(harness.acquires(), [entry(1)]);
    harness.acquired();
    harness.claimed();
    assert!(harness.owns(1));
}

/// A consumer of the wire format acknowledges, and then deletes.
#[test]
fn with_per_stream_locks_it_must_be_at_nobody_for_a_while() {
    let mut harness = Harness::new(LockScheme::PerStream);
    harness.heartbeat.sweep = true;
    harness.put_pending(at_nobody(1, "s"));
    harness.live(TTL * 2);
    assert!(harness.acquires().is_empty(), "too early");
    harness.live(Duration::from_secs(5));
    assert_eq!(harness.acquires(), [entry(1)]);
}

#[test]
fn what_somebody_holds_is_left_to_its_owner() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        let session = session_of("b");
        harness.members = vec![Member {
            session: session.clone(),
            remaining: TTL,
        }];
        harness.put_pending(at_nobody(1, "s"));
        harness
            .locks
            .insert(super::harness::stream("s"), held_by(session, TTL));
        harness.heartbeat.sweep = true;
        harness.live(TTL * 6);
        assert!(harness.acquires().is_empty(), "{scheme:?}");
    }
}

#[test]
fn a_lease_that_a_take_over_brought_is_adopted_though_its_entry_is_at_nobody() {
    let mut harness = Harness::new(LockScheme::Session);
    harness.put_pending(at_nobody(2, "t"));
    harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
    let taken = Reply::TakenOver(TakeOverOutcome::Taken {
        leases: vec![lease("t", 2, 500)],
        left: 0,
    });
    harness.answer("TakeOver", taken);
    harness.housekeep();
    let (id, claim) = harness.take("Claim");
    let Action::Lbs(LbsCall::Claim(page)) = &claim else {
        panic!("{claim:?}");
    };
    assert_eq!(page[0].entry, entry(2));
    harness.open.push((id, claim));
    harness.claimed();
    assert!(harness.owns(2));
}
