//! Whose turn it is, and whose death a watched lock tells of (R9, R11).

use std::collections::BTreeSet;
use std::time::Duration;

use super::harness::{Harness, TTL, consumer, entry, held_by, pending_at, session_of, stream};
use crate::machine::{Action, Input, LbsCall, LocksCall, Reply};
use crate::{AcquireOutcome, Hint, LockScheme, Member, SessionId};

const MS: Duration = Duration::from_millis(1);

fn member(name: &str) -> Member {
    Member {
        session: session_of(name),
        remaining: TTL,
    }
}

/// Consumers without sessions are watched by one lock each. When that stream was
/// handed over, nobody watched its former owner any more.
#[test]
fn who_gave_its_watched_stream_away_is_watched_by_another() {
    let mut harness = Harness::cold(LockScheme::PerStream, |_| {});
    harness.heartbeat.members = 0;
    for (n, name) in [(1, "s"), (2, "t")] {
        harness.put_pending(pending_at("c", n, name));
        harness
            .locks
            .insert(stream(name), held_by(session_of("c"), TTL));
    }
    harness.housekeep();
    harness.live(TTL / 2);
    // The first goes to another consumer, which lives.
    harness.put_pending(pending_at("b", 1, "s"));
    harness
        .locks
        .insert(stream("s"), held_by(session_of("b"), TTL));
    harness.live(TTL);
    // Now its former owner dies, with the second.
    harness.live(TTL / 4);
    harness.locks.remove(&stream("t"));
    harness.live(TTL + 100 * MS);
    assert_eq!(
        harness.acquires(),
        [entry(2)],
        "its deadline was not looked at"
    );
}

/// A restarted consumer of the same name took its streams up again. Those who had
/// waited for their turn looked at its locks for as long as it held them.
#[test]
fn a_turn_is_over_when_the_former_owners_name_holds_the_stream_for_good() {
    let mut harness = Harness::cold(LockScheme::PerStream, |_| {});
    harness.heartbeat.members = 6;
    harness.members = ["a", "b", "d", "e", "f", "g"].map(member).to_vec();
    harness.housekeep();
    harness.live(TTL);
    let restarted = SessionId::new(consumer("c"), 78);
    for n in 1..=20 {
        let name = format!("s{n}");
        harness.put_pending(pending_at("c", n, &name));
        harness
            .locks
            .insert(stream(&name), held_by(restarted.clone(), TTL / 2));
    }
    harness.input(Input::Hint(Hint::HolderGone(consumer("c"))));
    harness.live(TTL);
    let mut looks = 0;
    harness.pass_with(TTL * 20, |harness| {
        looks += housekeep_counting_looks(harness)
    });
    // A sweep looks at them, too.
    assert!(looks <= 20 * 20, "{looks} looks at 20 locks in 20 TTLs");
}

/// How many locks were looked at.
fn housekeep_counting_looks(harness: &mut Harness) -> usize {
    let mut looks = 0;
    while let Some(at) = harness
        .open
        .iter()
        .position(|(_, action)| harness.routine(action).is_some())
    {
        let (id, action) = harness.open.remove(at);
        if let Action::Locks(LocksCall::Inspect(locks)) = &action {
            looks += locks.len();
        }
        let reply = harness.routine(&action).unwrap();
        harness.reply(id, reply);
    }
    looks
}

/// What the dead left, and what hints named, was read again and again, one long info
/// after the other, before a turn that had come long ago was looked at.
#[test]
fn turns_come_although_what_the_dead_left_is_slow_to_read() {
    let mut harness = Harness::cold(LockScheme::PerStream, |_| {});
    harness.heartbeat.members = 3;
    harness.members = ["a", "b", "d"].map(member).to_vec();
    harness.housekeep();
    harness.live(TTL);
    harness.heartbeat.dead = vec![session_of("c")];
    for n in 1..=12 {
        let name = format!("s{n}");
        harness.put_pending(pending_at("c", n, &name));
        let (stream, entry) = (stream(&name), entry(n));
        harness.input(Input::Hint(Hint::LockExpired { stream, entry }));
    }
    harness.most_listed = 1;
    let mut taken = BTreeSet::new();
    let began = harness.now;
    while harness.now < began + TTL * 8 {
        harness.pass_with(TTL / 6, |harness| {
            while let Some(at) = harness.open.iter().position(|(_, a)| is_quick(harness, a)) {
                let (id, action) = harness.open.remove(at);
                let reply = match &action {
                    Action::Locks(LocksCall::Acquire(_, requests)) => {
                        let held = held_by(session_of("b"), TTL);
                        for request in requests {
                            let (entry, stream) = (request.entry, request.stream.clone());
                            taken.insert(entry);
                            harness.pending.remove(&entry);
                            harness.locks.insert(stream, held.clone());
                        }
                        Reply::Acquired(vec![AcquireOutcome::Held(held); requests.len()])
                    }
                    action => harness.routine(action).unwrap(),
                };
                harness.reply(id, reply);
            }
        });
        if harness.has("List") {
            harness.answer_routine("List");
        }
    }
    assert_eq!(taken, (1..=12).map(entry).collect());

    fn is_quick(harness: &Harness, action: &Action) -> bool {
        match action {
            Action::Lbs(LbsCall::List { .. }) => false,
            Action::Locks(LocksCall::Acquire(..)) => true,
            action => harness.routine(action).is_some(),
        }
    }
}
