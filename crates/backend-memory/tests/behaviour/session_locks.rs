use std::time::Duration;

use streamlease_core::*;

use crate::fixture::*;

#[test]
fn a_late_heartbeat_does_not_revive_a_session() {
    let fx = Fixture::new();
    let a = fx.open("a", 1);
    fx.acquire(&a, "s", 1, 1);
    fx.clock.advance(TTL - TICK);
    fx.heartbeat(&a, &[]);
    fx.clock.advance(TTL);
    assert_eq!(fx.try_heartbeat(&a, &[]), RenewOutcome::SessionGone);
    assert_eq!(fx.inspect("s"), LockState::Free);
    assert_eq!(fx.try_acquire(&a, "t", 2, 2), AcquireOutcome::SessionGone);
}

#[test]
fn a_late_open_revives_no_session_dead_closed_or_removed() {
    let fx = Fixture::new();
    let reopen = |session: &Session| ready(fx.locks.sessions().unwrap().open(session)).unwrap();
    let dead = fx.open("a", 1);
    fx.clock.advance(TTL);
    assert_eq!(reopen(&dead), OpenOutcome::SessionGone);
    assert!(fx.remove(&dead));
    assert_eq!(reopen(&dead), OpenOutcome::SessionGone);
    let closed = fx.open("a", 2);
    ready(fx.locks.sessions().unwrap().close(&closed.id)).unwrap();
    assert_eq!(reopen(&closed), OpenOutcome::SessionGone);
    assert_eq!(fx.try_heartbeat(&closed, &[]), RenewOutcome::SessionGone);
    let never_opened = session("a", 3);
    ready(fx.locks.sessions().unwrap().close(&never_opened.id)).unwrap();
    assert_eq!(
        reopen(&never_opened),
        OpenOutcome::SessionGone,
        "the close overtook the open"
    );
}

#[test]
fn an_acquire_does_not_extend_the_session() {
    let fx = Fixture::new();
    let a = fx.open("a", 1);
    fx.clock.advance(TTL - TICK);
    fx.acquire(&a, "s", 1, 1);
    assert_eq!(fx.inspect("s"), LockState::Held(held(&a, TICK)));
    fx.clock.advance(TICK);
    assert_eq!(fx.inspect("s"), LockState::Free);
}

#[test]
fn an_acquire_is_idempotent_and_a_later_one_gets_a_new_token() {
    let fx = Fixture::new();
    let a = fx.open("a", 1);
    let first = fx.acquire(&a, "s", 1, 1);
    assert_eq!(fx.acquire(&a, "s", 1, 1), first);
    let second = fx.acquire(&a, "s", 1, 2);
    assert!(second.token > first.token);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::NotHeld);
    assert_eq!(fx.release(&a, &second), ReleaseOutcome::Released);
    assert_eq!(fx.release(&a, &second), ReleaseOutcome::NotHeld);
    assert_eq!(fx.heartbeat(&a, &[]).on_record, Some(0));
}

#[test]
fn an_abandoned_acquire_that_executes_late_takes_nothing_from_its_successor() {
    let fx = Fixture::new();
    let (a, d) = (fx.open("a", 1), fx.open("d", 1));
    fx.acquire(&a, "s", 1, 1);
    let second = fx.acquire(&a, "s", 1, 2);
    assert_eq!(
        fx.try_acquire(&a, "s", 1, 1),
        AcquireOutcome::Held(held(&a, TTL))
    );

    fx.acquire(&d, "t", 1, 1);
    assert!(matches!(
        fx.try_acquire(&a, "t", 1, 3),
        AcquireOutcome::Held(_)
    ));
    fx.clock.advance(TTL - TICK);
    fx.heartbeat(&a, &[]);
    fx.clock.advance(TICK);
    let TakeOverOutcome::Taken { leases, .. } = fx.take_over(&a, &d, 9) else {
        panic!()
    };
    fx.try_acquire(&a, "t", 1, 3);
    let on_record = ready(fx.locks.sessions().unwrap().records(&a.id, None, 9)).unwrap();
    assert_eq!(on_record, [second, leases[0].clone()]);
}

#[test]
fn a_data_stream_has_one_holder_whichever_entry_names_it() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let lease = fx.acquire(&a, "s", 1, 1);
    let refused = AcquireOutcome::Held(held(&a, TTL));
    assert_eq!(
        fx.try_acquire(&a, "s", 2, 2),
        refused,
        "the holder itself, for its second entry"
    );
    assert_eq!(fx.try_acquire(&b, "s", 1, 1), refused);
    assert_eq!(fx.try_acquire(&b, "s", 2, 2), refused);
    fx.release(&a, &lease);
    assert!(fx.acquire(&b, "s", 2, 3).token > lease.token);
}

#[test]
fn a_late_release_does_not_free_a_newer_acquisition() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let first = fx.acquire(&a, "s", 1, 1);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::Released);
    fx.acquire(&a, "s", 2, 2);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::NotHeld);
    assert_eq!(
        fx.try_acquire(&b, "s", 2, 1),
        AcquireOutcome::Held(held(&a, TTL))
    );
}

#[test]
fn tokens_exceed_the_callers_floor_and_follow_the_clock() {
    let fx = Fixture::new();
    let a = fx.open("a", 1);
    let first = fx.acquire(&a, "s", 1, 1).token;
    assert!(
        first.0 >= 1_000_000_000,
        "microseconds of the server's clock"
    );
    let floor = FencingToken(first.0 + 1_000_000);
    let request = Acquire::new(stream("t"), EntryId::new(2, 0), 2, floor);
    let outcome = ready(fx.locks.acquire(&a, &[request])).unwrap().remove(0);
    assert_eq!(outcome, AcquireOutcome::Acquired(FencingToken(floor.0 + 1)));
    assert!(fx.acquire(&a, "u", 3, 3).token.0 > floor.0 + 1);
    fx.memory.wipe(&fx.service);
    fx.clock.advance(Duration::from_secs(2));
    assert!(
        fx.acquire(&fx.open("b", 1), "u", 3, 1).token.0 > floor.0 + 2,
        "nor does a wipe set them back"
    );
}

#[test]
fn a_heartbeat_names_the_dead_until_they_are_removed_and_the_next_deadline_only_of_others_alive() {
    let fx = Fixture::new();
    let d1 = fx.open("d", 1);
    fx.clock.advance(TICK);
    let d2 = fx.open("d", 2);
    fx.clock.advance(TTL - TICK);
    let a = fx.open("a", 1);
    let reply = fx.heartbeat(&a, &[]);
    assert_eq!(
        (reply.dead, reply.next_deadline, reply.members),
        (vec![d1.id.clone()], Some(TICK), 2)
    );
    fx.clock.advance(TICK);
    let reply = fx.heartbeat(&a, &[]);
    assert_eq!(
        (reply.dead, reply.next_deadline, reply.members),
        (vec![d1.id.clone(), d2.id.clone()], None, 1)
    );
    assert!(fx.remove(&d1) && fx.remove(&d1));
    assert_eq!(fx.heartbeat(&a, &[]).dead, [d2.id]);
    assert!(!fx.remove(&a), "it lives");
    let members = ready(fx.locks.sessions().unwrap().members()).unwrap();
    assert_eq!(
        members,
        [Member {
            session: a.id,
            remaining: TTL
        }]
    );
}

#[test]
fn a_dead_sessions_leases_are_taken_over_in_pages_lowest_stream_first() {
    let fx = Fixture::new();
    let d = fx.open("d", 1);
    let had = ["c", "a", "b"].map(|name| fx.acquire(&d, name, 1, 1));
    fx.clock.advance(TTL - TICK);
    let a = fx.open("a", 1);
    assert_eq!(
        fx.take_over(&a, &d, 2),
        TakeOverOutcome::Alive { remaining: TICK }
    );
    fx.clock.advance(TICK);
    assert!(!fx.remove(&d), "it still holds something");
    let TakeOverOutcome::Taken { leases, left } = fx.take_over(&a, &d, 2) else {
        panic!()
    };
    let streams: Vec<_> = leases.iter().map(|lease| lease.stream.as_str()).collect();
    assert_eq!((streams, left), (vec!["a", "b"], 1));
    assert!(
        leases
            .iter()
            .all(|lease| had.iter().all(|old| lease.token > old.token))
    );
    assert_eq!(fx.inspect("a"), LockState::Held(held(&a, TTL - TICK)));
    assert_eq!(
        fx.release(&d, &had[1]),
        ReleaseOutcome::NotHeld,
        "the dead one's late release"
    );
    let TakeOverOutcome::Taken { leases, left: 0 } = fx.take_over(&a, &d, 2) else {
        panic!()
    };
    assert_eq!(leases[0].stream, stream("c"));
    assert!(fx.remove(&d));
    assert_eq!(
        fx.take_over(&a, &d, 2),
        TakeOverOutcome::Taken {
            leases: vec![],
            left: 0
        }
    );
    assert_eq!(fx.heartbeat(&a, &[]).on_record, Some(3));
    assert_eq!(fx.take_over(&d, &a, 2), TakeOverOutcome::SessionGone);
}

#[test]
fn what_a_dead_session_held_can_be_acquired_and_leaves_its_record() {
    let fx = Fixture::new();
    let d = fx.open("d", 1);
    let old = fx.acquire(&d, "s", 1, 1);
    fx.clock.advance(TTL);
    let a = fx.open("a", 1);
    assert!(fx.acquire(&a, "s", 1, 1).token > old.token);
    assert!(
        ready(fx.locks.sessions().unwrap().records(&d.id, None, 9))
            .unwrap()
            .is_empty()
    );
    assert!(fx.remove(&d));
}

#[test]
fn a_closed_session_is_dead_at_once() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    fx.acquire(&a, "s", 1, 1);
    ready(fx.locks.sessions().unwrap().close(&a.id)).unwrap();
    assert_eq!(fx.inspect("s"), LockState::Free);
    assert_eq!(fx.heartbeat(&b, &[]).dead, std::slice::from_ref(&a.id));
    assert!(matches!(
        fx.take_over(&b, &a, 9),
        TakeOverOutcome::Taken { left: 0, .. }
    ));
    assert!(matches!(fx.inspect("s"), LockState::Held(_)));
}

#[test]
fn revoking_only_marks() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let lease = fx.acquire(&a, "s", 1, 1);
    assert_eq!(
        ready(
            fx.locks
                .sessions()
                .unwrap()
                .revoke(&[stream("s"), stream("free")])
        )
        .unwrap(),
        [true, false]
    );
    for _ in 0..2 {
        assert_eq!(
            fx.heartbeat(&a, &[]).revoked,
            std::slice::from_ref(&lease),
            "in every heartbeat until released"
        );
        assert_eq!(
            fx.try_acquire(&b, "s", 1, 1),
            AcquireOutcome::Held(held(&a, TTL))
        );
    }
    assert!(fx.heartbeat(&b, &[]).revoked.is_empty());
    fx.release(&a, &lease);
    fx.acquire(&b, "s", 1, 2);
    assert!(fx.heartbeat(&a, &[]).revoked.is_empty() && fx.heartbeat(&b, &[]).revoked.is_empty());
}

#[test]
fn records_come_in_pages() {
    let fx = Fixture::new();
    let a = fx.open("a", 1);
    let held = ["a", "b", "c"].map(|name| fx.acquire(&a, name, 1, 1));
    let page = |after: Option<&StreamName>| {
        ready(fx.locks.sessions().unwrap().records(&a.id, after, 2)).unwrap()
    };
    assert_eq!(page(None), held[..2]);
    assert_eq!(page(Some(&stream("b"))), held[2..]);
    assert!(page(Some(&stream("c"))).is_empty());
}

#[test]
fn one_member_at_a_time_gets_the_turn_to_sweep() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let turn = TTL / 2;
    assert!(fx.wins_sweep(&a, turn));
    assert!(!fx.wins_sweep(&b, turn) && !fx.wins_sweep(&a, turn));
    fx.clock.advance(turn);
    assert!(fx.wins_sweep(&b, turn) && !fx.wins_sweep(&a, turn));
}
