//! Manual claiming: what is reported has no owner, and can be claimed (R11).

use std::time::Duration;

use super::rig::{Rig, SCHEMES, TTL, entry, held_by, pending_at, session_of, stream};
use crate::machine::{Input, Notice};
use crate::{ClaimMode, EntryId, FencingToken, Hint, LockScheme, Member, Pending};

fn manual(scheme: LockScheme, event_queue: usize) -> Rig {
    Rig::with(scheme, |settings| {
        settings.claim = ClaimMode::Manual;
        settings.event_queue = event_queue;
    })
}

fn handed_back(rig: &mut Rig, n: u64, name: &str) {
    rig.put_pending(Pending {
        handed_back: true,
        ..pending_at("b", n, name)
    });
}

fn hint_handed_back(rig: &mut Rig, entries: &[u64]) {
    let entries = entries.iter().copied().map(entry).collect();
    rig.input(Input::Hint(Hint::HandedBack(entries)));
    rig.housekeep();
}

fn reported(rig: &Rig) -> Vec<EntryId> {
    let entry = |notice: &Notice| match notice {
        Notice::Expired { entry, .. } => Some(*entry),
        _ => None,
    };
    rig.notices.iter().filter_map(entry).collect()
}

#[test]
fn what_another_took_while_its_report_waited_for_room_is_not_reported() {
    for scheme in SCHEMES {
        let mut rig = manual(scheme, 1);
        for (n, name) in [(1, "s"), (2, "t"), (3, "u"), (4, "v")] {
            handed_back(&mut rig, n, name);
        }
        hint_handed_back(&mut rig, &[1, 2, 3, 4]);
        assert_eq!(reported(&rig), [entry(1)], "the queue holds one");
        // Another has taken the second, and completed the third.
        rig.put_pending(pending_at("c", 2, "t"));
        rig.locks.insert(stream("t"), held_by(session_of("c"), TTL));
        rig.pending.remove(&entry(3));
        for _ in 0..4 {
            rig.input(Input::EventsTaken(1));
            rig.housekeep();
        }
        assert_eq!(reported(&rig), [entry(1), entry(4)], "{scheme:?}");
    }
}

#[test]
fn an_expired_lock_that_another_took_before_the_look_is_not_reported() {
    for scheme in SCHEMES {
        let mut rig = manual(scheme, 100);
        rig.put_pending(pending_at("c", 1, "s"));
        rig.locks.insert(stream("s"), held_by(session_of("c"), TTL));
        let expired = || {
            Input::Hint(Hint::LockExpired {
                stream: stream("s"),
                entry: entry(1),
            })
        };
        rig.input(expired());
        rig.housekeep();
        assert!(reported(&rig).is_empty(), "{scheme:?}: it is held");
        rig.locks.clear();
        rig.input(expired());
        rig.housekeep();
        assert_eq!(reported(&rig), [entry(1)], "{scheme:?}: it is free");
    }
}

#[test]
fn what_is_handed_back_is_reported_when_its_lock_is_free() {
    for scheme in SCHEMES {
        let mut rig = manual(scheme, 100);
        handed_back(&mut rig, 1, "s");
        rig.locks.insert(stream("s"), held_by(session_of("b"), TTL));
        hint_handed_back(&mut rig, &[1]);
        assert!(reported(&rig).is_empty(), "{scheme:?}: not released yet");
        rig.locks.clear();
        rig.input(Input::Hint(Hint::Freed(vec![stream("s")])));
        rig.housekeep();
        assert_eq!(reported(&rig), [entry(1)], "{scheme:?}");
    }
}

#[test]
fn what_is_handed_back_is_reported_soon_though_the_hint_of_its_release_is_lost() {
    let mut rig = manual(LockScheme::Session, 100);
    handed_back(&mut rig, 1, "s");
    rig.locks.insert(stream("s"), held_by(session_of("b"), TTL));
    hint_handed_back(&mut rig, &[1]);
    rig.locks.clear();
    rig.live(Duration::from_millis(50));
    assert_eq!(reported(&rig), [entry(1)]);
}

#[test]
fn what_one_that_restarted_under_a_dead_ones_name_has_just_fetched_is_not_reported() {
    for scheme in SCHEMES {
        let mut rig = manual(scheme, 100);
        // Delivered to the one that lives, and not locked yet.
        rig.put_pending(pending_at("b", 1, "s"));
        let now = crate::SessionId::new(crate::ConsumerName::from_identity("b").unwrap(), 78);
        rig.members = vec![Member {
            session: now,
            remaining: TTL,
        }];
        rig.beat_with(|reply| reply.dead = vec![session_of("b")]);
        rig.housekeep();
        rig.live(TTL / 2);
        assert!(reported(&rig).is_empty(), "{scheme:?}");
        // R9: it does not know of it, or is full.
        rig.live(TTL * 3);
        assert!(reported(&rig).contains(&entry(1)), "{scheme:?}");
    }
}

/// Who claimed it gave it up at once: that is another end than the one reported before.
#[test]
fn what_is_handed_back_again_is_reported_again_at_once() {
    let mut rig = manual(LockScheme::Session, 100);
    for token in [0, 5, 6] {
        rig.put_pending(Pending {
            handed_back: true,
            token: FencingToken(token),
            ..pending_at("b", 1, "s")
        });
        hint_handed_back(&mut rig, &[1]);
    }
    assert_eq!(reported(&rig).len(), 3);
    hint_handed_back(&mut rig, &[1]);
    assert_eq!(reported(&rig).len(), 3, "nothing has happened since");
}

#[test]
fn orphans_without_number_are_not_remembered_while_nobody_takes_events() {
    let mut rig = manual(LockScheme::Session, 1);
    for first in (1..=12_000).step_by(250) {
        let entries: Vec<u64> = (first..first + 250).collect();
        for &n in &entries {
            handed_back(&mut rig, n, &format!("s{n}"));
        }
        hint_handed_back(&mut rig, &entries);
        rig.pending.clear();
    }
    let waiting = rig.machine.recovery.reports.waiting();
    assert!((5_000..=10_000).contains(&waiting), "{waiting}");
}
