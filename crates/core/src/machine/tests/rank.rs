//! Whose turn it is, and whose death a watched lock tells of (R9, R11).

use std::collections::BTreeSet;
use std::time::Duration;

use super::rig::{Rig, TTL, consumer, entry, held_by, pending_at, session_of, stream};
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
    let mut rig = Rig::cold(LockScheme::PerStream, |_| {});
    rig.beat.members = 0;
    for (n, name) in [(1, "s"), (2, "t")] {
        rig.put_pending(pending_at("c", n, name));
        rig.locks
            .insert(stream(name), held_by(session_of("c"), TTL));
    }
    rig.housekeep();
    rig.live(TTL / 2);
    // The first goes to another consumer, which lives.
    rig.put_pending(pending_at("b", 1, "s"));
    rig.locks.insert(stream("s"), held_by(session_of("b"), TTL));
    rig.live(TTL);
    // Now its former owner dies, with the second.
    rig.live(TTL / 4);
    rig.locks.remove(&stream("t"));
    rig.live(TTL + 100 * MS);
    assert_eq!(rig.acquires(), [entry(2)], "its deadline was not looked at");
}

/// A restarted consumer of the same name took its streams up again. Those who had
/// waited for their turn looked at its locks for as long as it held them.
#[test]
fn a_turn_is_over_when_the_former_owners_name_holds_the_stream_for_good() {
    let mut rig = Rig::cold(LockScheme::PerStream, |_| {});
    rig.beat.members = 6;
    rig.members = ["a", "b", "d", "e", "f", "g"].map(member).to_vec();
    rig.housekeep();
    rig.live(TTL);
    let restarted = SessionId::new(consumer("c"), 78);
    for n in 1..=20 {
        let name = format!("s{n}");
        rig.put_pending(pending_at("c", n, &name));
        rig.locks
            .insert(stream(&name), held_by(restarted.clone(), TTL / 2));
    }
    rig.input(Input::Hint(Hint::HolderGone(consumer("c"))));
    rig.live(TTL);
    let mut looks = 0;
    rig.pass_with(TTL * 20, |rig| looks += housekeep_counting_looks(rig));
    // A sweep looks at them, too.
    assert!(looks <= 20 * 20, "{looks} looks at 20 locks in 20 TTLs");
}

/// How many locks were looked at.
fn housekeep_counting_looks(rig: &mut Rig) -> usize {
    let mut looks = 0;
    while let Some(at) = rig
        .open
        .iter()
        .position(|(_, action)| rig.routine(action).is_some())
    {
        let (id, action) = rig.open.remove(at);
        if let Action::Locks(LocksCall::Inspect(locks)) = &action {
            looks += locks.len();
        }
        let reply = rig.routine(&action).unwrap();
        rig.reply(id, reply);
    }
    looks
}

/// What the dead left, and what hints named, was read again and again, one long info
/// after the other, before a turn that had come long ago was looked at.
#[test]
fn turns_come_although_what_the_dead_left_is_slow_to_read() {
    let mut rig = Rig::cold(LockScheme::PerStream, |_| {});
    rig.beat.members = 3;
    rig.members = ["a", "b", "d"].map(member).to_vec();
    rig.housekeep();
    rig.live(TTL);
    rig.beat.dead = vec![session_of("c")];
    for n in 1..=12 {
        let name = format!("s{n}");
        rig.put_pending(pending_at("c", n, &name));
        let (stream, entry) = (stream(&name), entry(n));
        rig.input(Input::Hint(Hint::LockExpired { stream, entry }));
    }
    rig.most_listed = 1;
    let mut taken = BTreeSet::new();
    let began = rig.now;
    while rig.now < began + TTL * 8 {
        rig.pass_with(TTL / 6, |rig| {
            while let Some(at) = rig.open.iter().position(|(_, a)| is_quick(rig, a)) {
                let (id, action) = rig.open.remove(at);
                let reply = match &action {
                    Action::Locks(LocksCall::Acquire(_, requests)) => {
                        let held = held_by(session_of("b"), TTL);
                        for request in requests {
                            let (entry, stream) = (request.entry, request.stream.clone());
                            taken.insert(entry);
                            rig.pending.remove(&entry);
                            rig.locks.insert(stream, held.clone());
                        }
                        Reply::Acquired(vec![AcquireOutcome::Held(held); requests.len()])
                    }
                    action => rig.routine(action).unwrap(),
                };
                rig.reply(id, reply);
            }
        });
        if rig.has("List") {
            rig.answer_routine("List");
        }
    }
    assert_eq!(taken, (1..=12).map(entry).collect());

    fn is_quick(rig: &Rig, action: &Action) -> bool {
        match action {
            Action::Lbs(LbsCall::List { .. }) => false,
            Action::Locks(LocksCall::Acquire(..)) => true,
            action => rig.routine(action).is_some(),
        }
    }
}
