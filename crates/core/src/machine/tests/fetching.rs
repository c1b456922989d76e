//! Fetching: what a server says about its backlog is a hint.

use std::time::Duration;

use super::rig::{Rig, SCHEMES, TTL, delivery};
use crate::machine::{Action, LbsCall, Reply};
use crate::{Fetched, LockScheme};

/// The next fetch: how many it asks for, and how long it waits.
fn asked(rig: &Rig) -> (usize, Duration) {
    let fetch = |action: &Action| match action {
        Action::Lbs(LbsCall::Fetch { max, wait }) => Some((*max, *wait)),
        _ => None,
    };
    let found = rig.open.iter().find_map(|(_, action)| fetch(action));
    found.expect("a fetch")
}

fn answer(rig: &mut Rig, entries: std::ops::Range<u64>, backlog: u64) {
    let entries = entries.map(|n| delivery(n, &format!("s{n}"))).collect();
    rig.answer("Fetch", Reply::Fetched(Fetched { entries, backlog }));
}

/// `lag` stays above 0 for ever once entries were removed before their delivery.
#[test]
fn a_backlog_that_is_not_there_keeps_no_fetch_from_blocking() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        answer(&mut rig, 1..2, 1_000);
        assert_eq!(asked(&rig).1, Duration::ZERO, "there may be more");
        answer(&mut rig, 2..3, 1_000);
        for _ in 0..20 {
            let wait = asked(&rig).1;
            assert!(wait >= Duration::from_secs(5), "{scheme:?}: {wait:?}");
            rig.live(wait);
            answer(&mut rig, 0..0, 1_000);
        }
    }
}

/// Some servers, forks and proxies answer a blocking read at once.
#[test]
fn fetches_that_never_block_come_at_most_ten_times_a_second() {
    for backlog in [0, 1_000] {
        let mut rig = Rig::new(LockScheme::Session);
        let mut fetches = 0;
        rig.pass_with(Duration::from_secs(60), |rig| {
            while rig.has("Fetch") {
                fetches += 1;
                assert!(fetches <= 10_000, "without an end");
                answer(rig, 0..0, backlog);
            }
            rig.housekeep();
        });
        // The very first one is not to wait.
        assert!((300..=601).contains(&fetches), "{fetches} in a minute");
    }
}

#[test]
fn what_comes_is_fetched_at_once_also_after_a_fetch_that_did_not_block() {
    let mut rig = Rig::new(LockScheme::Session);
    answer(&mut rig, 1..2, 0);
    assert_eq!(asked(&rig), (2, Duration::ZERO));
    answer(&mut rig, 0..0, 0);
    assert!(asked(&rig).1 > Duration::ZERO, "no pause between them");
}

/// What the server counts too much would be taken for a backlog: the first to
/// come would take a burst for itself.
#[test]
fn pages_are_shares_of_what_the_backlog_is_above_what_is_not_there() {
    let mut rig = Rig::with(LockScheme::Session, |s| s.capacity = 10_000);
    answer(&mut rig, 1..2, 8_000);
    assert_eq!(asked(&rig).0, 500, "an eighth for each of two, at most 500");
    // Nothing is left, it says 7,990: so many too many.
    answer(&mut rig, 2..12, 7_990);
    assert_eq!(asked(&rig).0, 1, "waits for one");
    answer(&mut rig, 12..13, 8_150);
    assert_eq!(asked(&rig), (10, Duration::ZERO));
    // It has been put right meanwhile.
    answer(&mut rig, 13..23, 0);
    answer(&mut rig, 0..0, 0);
    answer(&mut rig, 23..24, 320);
    assert_eq!(asked(&rig).0, 20);
    rig.live(TTL);
}
