use streamlease_core::*;

use crate::fixture::*;

#[test]
fn each_lease_has_a_deadline_of_its_own() {
    let fx = Fixture::per_stream_locks();
    assert_eq!(fx.locks.scheme(), LockScheme::PerStream);
    let a = fx.open("a", 1);
    let renewed = fx.acquire(&a, "renewed", 1, 1);
    let forgotten = fx.acquire(&a, "forgotten", 2, 2);
    fx.clock.advance(TTL - TICK);
    assert!(
        fx.heartbeat(&a, std::slice::from_ref(&renewed))
            .lost
            .is_empty()
    );
    fx.clock.advance(TICK);
    assert_eq!(fx.inspect("renewed"), LockState::Held(held(&a, TTL - TICK)));
    assert_eq!(fx.inspect("forgotten"), LockState::Free);
    let reply = fx.heartbeat(&a, &[renewed, forgotten.clone()]);
    assert_eq!(reply.lost, [forgotten], "a late heartbeat revives nothing");
    assert_eq!((reply.members, reply.on_record), (0, None));
}

#[test]
fn a_repeated_acquire_has_the_same_token_and_sets_the_deadline_anew() {
    let fx = Fixture::per_stream_locks();
    let a = fx.open("a", 1);
    let first = fx.acquire(&a, "s", 1, 1);
    fx.clock.advance(TTL - TICK);
    assert_eq!(fx.acquire(&a, "s", 1, 1), first);
    assert_eq!(fx.inspect("s"), LockState::Held(held(&a, TTL)));
    let second = fx.acquire(&a, "s", 1, 2);
    assert!(second.token > first.token);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::NotHeld);
    assert_eq!(fx.heartbeat(&a, std::slice::from_ref(&first)).lost, [first]);
    assert!(fx.heartbeat(&a, &[second]).lost.is_empty());
}

#[test]
fn an_abandoned_acquire_that_executes_late_takes_nothing_from_its_successor() {
    let fx = Fixture::per_stream_locks();
    let a = fx.open("a", 1);
    fx.acquire(&a, "s", 1, 1);
    let second = fx.acquire(&a, "s", 1, 2);
    assert_eq!(
        fx.try_acquire(&a, "s", 1, 1),
        AcquireOutcome::Held(held(&a, TTL))
    );
    assert!(fx.heartbeat(&a, &[second]).lost.is_empty());
}

#[test]
fn a_data_stream_has_one_holder_whichever_entry_names_it() {
    let fx = Fixture::per_stream_locks();
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
    fx.clock.advance(TTL);
    assert!(fx.acquire(&b, "s", 1, 3).token > lease.token);
    assert_eq!(fx.heartbeat(&a, std::slice::from_ref(&lease)).lost, [lease]);
}

#[test]
fn a_late_release_does_not_free_a_newer_acquisition() {
    let fx = Fixture::per_stream_locks();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let first = fx.acquire(&a, "s", 1, 1);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::Released);
    // The same value again, as after an abandoned acquire that executes late.
    fx.acquire(&a, "s", 1, 1);
    assert_eq!(fx.release(&a, &first), ReleaseOutcome::NotHeld);
    assert_eq!(
        fx.try_acquire(&b, "s", 1, 1),
        AcquireOutcome::Held(held(&a, TTL))
    );
}

#[test]
fn any_manager_of_the_service_releases_a_lease_by_its_token() {
    let fx = Fixture::per_stream_locks();
    let a = fx.open("a", 1);
    let lease = fx.acquire(&a, "s", 1, 1);
    let other = fx.memory.backend(&fx.service).unwrap().locks;
    let release = Release::new(lease);
    assert_eq!(
        ready(other.release(&a.id, &[release])).unwrap(),
        [ReleaseOutcome::Released]
    );
    assert_eq!(fx.inspect("s"), LockState::Free);
}

#[test]
fn two_services_do_not_share_their_locks() {
    let fx = Fixture::per_stream_locks();
    let a = fx.open("a", 1);
    fx.acquire(&a, "s", 1, 1);
    let other = fx
        .memory
        .backend(&ServiceName::new("other").unwrap())
        .unwrap()
        .locks;
    let lock = LockId {
        stream: stream("s"),
        entry: EntryId::new(1, 0),
    };
    assert_eq!(ready(other.inspect(&[lock])).unwrap(), [LockState::Free]);
}

#[test]
fn plain_keys_keep_no_sessions() {
    let fx = Fixture::per_stream_locks();
    assert!(fx.locks.sessions().is_none());
    assert_eq!(fx.locks.scheme(), LockScheme::PerStream);
}

#[test]
fn one_member_at_a_time_gets_the_turn_to_sweep() {
    let fx = Fixture::per_stream_locks();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    assert!(fx.wins_sweep(&a, TTL));
    assert!(!fx.wins_sweep(&b, TTL) && !fx.wins_sweep(&a, TTL));
    fx.clock.advance(TTL);
    assert!(fx.wins_sweep(&b, TTL) && !fx.wins_sweep(&a, TTL));
}

#[test]
fn a_release_is_announced() {
    let fx = Fixture::per_stream_locks();
    let a = fx.open("a", 1);
    let lease = fx.acquire(&a, "s", 1, 1);
    let mut hints = ready(fx.notifier.subscribe()).unwrap();
    fx.release(&a, &lease);
    assert_eq!(ready(hints.next()).unwrap(), Hint::Freed(vec![stream("s")]));
}
