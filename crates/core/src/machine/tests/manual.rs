//! Manual claiming: what is reported has no owner, and can be claimed (R11).

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, entry, held_by, pending_at, session_of, stream};
use crate::machine::{Input, Notice};
use crate::{ClaimMode, EntryId, FencingToken, Hint, LockScheme, Member, Pending};

fn manual(scheme: LockScheme, event_queue: usize) -> Harness {
    Harness::with(scheme, |settings| {
        settings.claim = ClaimMode::Manual;
        settings.event_queue = event_queue;
    })
}

fn handed_back(harness: &mut Harness, n: u64, name: &str) {
    harness.put_pending(Pending {
        handed_back: true,
        ..pending_at("b", n, name)
    });
}

fn hint_handed_back(harness: &mut Harness, entries: &[u64]) {
    let entries = entries.iter().copied().map(entry).collect();
    harness.input(Input::Hint(Hint::HandedBack(entries)));
    harness.housekeep();
}

fn reported(harness: &Harness) -> Vec<EntryId> {
    let entry = |notice: &Notice| match notice {
        Notice::Expired { entry, .. } => Some(*entry),
        _ => None,
    };
    harness.notices.iter().filter_map(entry).collect()
}

#[test]
fn what_another_took_while_its_report_waited_for_room_is_not_reported() {
    for scheme in SCHEMES {
        let mut harness = manual(scheme, 1);
        for (n, name) in [(1, "s"), (2, "t"), (3, "u"), (4, "v")] {
            handed_back(&mut harness, n, name);
        }
        hint_handed_back(&mut harness, &[1, 2, 3, 4]);
        assert_eq!(reported(&harness), [entry(1)], "the queue holds one");
        // Another has taken the second, and completed the third.
        harness.put_pending(pending_at("c", 2, "t"));
        harness
            .locks
            .insert(stream("t"), held_by(session_of("c"), TTL));
        harness.pending.remove(&entry(3));
        for _ in 0..4 {
            harness.input(Input::EventsTaken(1));
            harness.housekeep();
        }
        assert_eq!(reported(&harness), [entry(1), entry(4)], "{scheme:?}");
    }
}

#[test]
fn an_expired_lock_that_another_took_before_the_look_is_not_reported() {
    for scheme in SCHEMES {
        let mut harness = manual(scheme, 100);
        harness.put_pending(pending_at("c", 1, "s"));
        harness
            .locks
            .insert(stream("s"), held_by(session_of("c"), TTL));
        let expired = || {
            Input::Hint(Hint::LockExpired {
                stream: stream("s"),
                entry: entry(1),
            })
        };
        harness.input(expired());
        harness.housekeep();
        assert!(reported(&harness).is_empty(), "{scheme:?}: it is held");
        harness.locks.clear();
        harness.input(expired());
        harness.housekeep();
        assert_eq!(reported(&harness), [entry(1)], "{scheme:?}: it is free");
    }
}

#[test]
fn what_is_handed_back_is_reported_when_its_lock_is_free() {
    for scheme in SCHEMES {
        let mut harness = manual(scheme, 100);
        handed_back(&mut harness, 1, "s");
        harness
            .locks
            .insert(stream("s"), held_by(session_of("b"), TTL));
        hint_handed_back(&mut harness, &[1]);
        assert!(
            reported(&harness).is_empty(),
            "{scheme:?}: not released yet"
        );
        harness.locks.clear();
        harness.input(Input::Hint(Hint::Freed(vec![stream("s")])));
        harness.housekeep();
        assert_eq!(reported(&harness), [entry(1)], "{scheme:?}");
    }
}

#[test]
fn what_is_handed_back_is_reported_soon_though_the_hint_of_its_release_is_lost() {
    let mut harness = manual(LockScheme::Session, 100);
    handed_back(&mut harness, 1, "s");
    harness
        .locks
        .insert(stream("s"), held_by(session_of("b"), TTL));
    hint_handed_back(&mut harness, &[1]);
    harness.locks.clear();
    harness.live(Duration::from_millis(50));
    assert_eq!(reported(&harness), [entry(1)]);
}

#[test]
fn what_one_that_restarted_under_a_dead_ones_name_has_just_fetched_is_not_reported() {
    for scheme in SCHEMES {
        let mut harness = manual(scheme, 100);
        // Delivered to the one that lives, and not locked yet.
        harness.put_pending(pending_at("b", 1, "s"));
        let now = crate::SessionId::new(crate::ConsumerName::from_identity("b").unwrap(), 78);
        harness.members = vec![Member {
            session: now,
            remaining: TTL,
        }];
        harness.heartbeat_with(|reply| reply.dead = vec![session_of("b")]);
        harness.housekeep();
        harness.live(TTL / 2);
        assert!(reported(&harness).is_empty(), "{scheme:?}");
        // R9: it does not know of it, or is full.
        harness.live(TTL * 3);
        assert!(reported(&harness).contains(&entry(1)), "{scheme:?}");
    }
}

/// Who claimed it gave it up at once: that is another end than the one reported before.
#[test]
fn what_is_handed_back_again_is_reported_again_at_once() {
    let mut harness = manual(LockScheme::Session, 100);
    for token in [0, 5, 6] {
        harness.put_pending(Pending {
            handed_back: true,
            token: FencingToken(token),
            ..pending_at("b", 1, "s")
        });
        hint_handed_back(&mut harness, &[1]);
    }
    assert_eq!(reported(&harness).len(), 3);
    hint_handed_back(&mut harness, &[1]);
    assert_eq!(reported(&harness).len(), 3, "nothing has happened since");
}

#[test]
fn orphans_without_number_are_not_remembered_while_nobody_takes_events() {
    let mut harness = manual(LockScheme::Session, 1);
    for first in (1..=12_000).step_by(250) {
        let entries: Vec<u64> = (first..first + 250).collect();
        for &n in &entries {
            handed_back(&mut harness, n, &format!("s{n}"));
        }
        hint_handed_back(&mut harness, &entries);
        harness.pending.clear();
    }
    let waiting = harness.machine.recovery.reports.waiting();
    assert!((5_000..=10_000).contains(&waiting), "{waiting}");
}
