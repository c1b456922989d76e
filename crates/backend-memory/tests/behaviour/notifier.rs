use streamlease_core::*;

use crate::fixture::*;

#[test]
fn a_waiting_subscription_hears_of_hand_backs_and_closed_sessions() {
    let fx = Fixture::new();
    let mut hints = ready(fx.notifier.subscribe()).unwrap();
    let mut next = hints.next();
    assert!(poll(&mut next).is_none());
    let entry = fx.submit(&["s"])[0];
    fx.fetch("w", 1);
    fx.claim("w", entry, 10);
    fx.hand_back("w", entry, 10, false);
    assert_eq!(ready(next).unwrap(), Hint::HandedBack(vec![entry]));
    fx.hand_back("w", entry, 9, false);
    let a = fx.open("a", 1);
    ready(fx.locks.sessions().unwrap().close(&a.id)).unwrap();
    assert_eq!(
        ready(hints.next()).unwrap(),
        Hint::HolderGone(consumer("a")),
        "refused: no hint"
    );
    ready(fx.locks.sessions().unwrap().close(&a.id)).unwrap();
    assert!(poll(hints.next()).is_none(), "closed already");
}

#[test]
fn a_release_is_announced_to_whoever_was_refused_and_on_request() {
    let fx = Fixture::new();
    let (a, b) = (fx.open("a", 1), fx.open("b", 1));
    let mut hints = ready(fx.notifier.subscribe()).unwrap();
    let [wanted, unwanted, announced] =
        ["wanted", "unwanted", "announced"].map(|name| fx.acquire(&a, name, 1, 1));
    fx.try_acquire(&b, "wanted", 1, 1);
    let release = |lease, announce| Release::new(lease).announce(announce);
    let releases = [
        release(wanted, false),
        release(unwanted, false),
        release(announced, true),
    ];
    ready(fx.locks.release(&a.id, &releases)).unwrap();
    let freed = vec![stream("wanted"), stream("announced")];
    assert_eq!(ready(hints.next()).unwrap(), Hint::Freed(freed));
    assert!(poll(hints.next()).is_none());
}

#[test]
fn a_reader_that_does_not_come_loses_hints_but_learns_of_it() {
    let fx = Fixture::new();
    let mut hints = ready(fx.notifier.subscribe()).unwrap();
    let entry = fx.submit(&["s"])[0];
    fx.fetch("w", 1);
    for token in 1..=1_025 {
        fx.hand_back("w", entry, token, false);
    }
    assert_eq!(ready(hints.next()).unwrap(), Hint::MayHaveMissed);
    assert_eq!(ready(hints.next()).unwrap(), Hint::HandedBack(vec![entry]));
    assert!(poll(hints.next()).is_none());
}

#[test]
fn dropping_the_future_of_next_loses_no_hint() {
    let fx = Fixture::new();
    let mut hints = ready(fx.notifier.subscribe()).unwrap();
    assert!(poll(hints.next()).is_none());
    fx.memory.wipe(&fx.service);
    assert_eq!(ready(hints.next()).unwrap(), Hint::MayHaveMissed);
}
