//! Fetching: what a server says about its backlog is a hint.

use std::time::Duration;

use super::harness::{Harness, SCHEMES, TTL, delivery};
use crate::machine::{Action, LbsCall, Reply};
use crate::{Fetched, LockScheme};

/// The next fetch: how many it asks for, and how long it waits.
fn asked(harness: &Harness) -> (usize, Duration) {
    let fetch = |action: &Action| match action {
        Action::Lbs(LbsCall::Fetch { max, wait }) => Some((*max, *wait)),
        _ => None,
    };
    let found = harness.open.iter().find_map(|(_, action)| fetch(action));
    found.expect("a fetch")
}

fn answer(harness: &mut Harness, entries: std::ops::Range<u64>, backlog: u64) {
    let entries = entries.map(|n| delivery(n, &format!("s{n}"))).collect();
    harness.answer("Fetch", Reply::Fetched(Fetched { entries, backlog }));
}

/// `lag` stays above 0 for ever once entries were removed before their delivery.
#[test]
fn a_backlog_that_is_not_there_keeps_no_fetch_from_blocking() {
    for scheme in SCHEMES {
        let mut harness = Harness::new(scheme);
        answer(&mut harness, 1..2, 1_000);
        assert_eq!(asked(&harness).1, Duration::ZERO, "there may be more");
        answer(&mut harness, 2..3, 1_000);
        for _ in 0..20 {
            let wait = asked(&harness).1;
            assert!(wait >= Duration::from_secs(5), "{scheme:?}: {wait:?}");
            harness.live(wait);
            answer(&mut harness, 0..0, 1_000);
        }
    }
}

/// Some servers, forks and proxies answer a blocking read at once.
#[test]
fn fetches_that_never_block_come_at_most_ten_times_a_second() {
    for backlog in [0, 1_000] {
        let mut harness = Harness::new(LockScheme::Session);
        let mut fetches = 0;
        harness.pass_with(Duration::from_secs(60), |harness| {
            while harness.has("Fetch") {
                fetches += 1;
                assert!(fetches <= 10_000, "without an end");
                answer(harness, 0..0, backlog);
            }
            harness.housekeep();
        });
        // The very first one is not to wait.
        assert!((300..=601).contains(&fetches), "{fetches} in a minute");
    }
}

#[test]
fn what_comes_is_fetched_at_once_also_after_a_fetch_that_did_not_block() {
    let mut harness = Harness::new(LockScheme::Session);
    answer(&mut harness, 1..2, 0);
    assert_eq!(asked(&harness), (2, Duration::ZERO));
    answer(&mut harness, 0..0, 0);
    assert!(asked(&harness).1 > Duration::ZERO, "no pause between them");
}

/// What the server counts too much would be taken for a backlog: the first to
/// come would take a burst for itself.
#[test]
fn pages_are_shares_of_what_the_backlog_is_above_what_is_not_there() {
    let mut harness = Harness::with(LockScheme::Session, |s| s.capacity = 10_000);
    answer(&mut harness, 1..2, 8_000);
    assert_eq!(
        asked(&harness).0,
        500,
        "an eighth for each of two, at most 500"
    );
    // Nothing is left, it says 7,990: so many too many.
    answer(&mut harness, 2..12, 7_990);
    assert_eq!(asked(&harness).0, 1, "waits for one");
    answer(&mut harness, 12..13, 8_150);
    assert_eq!(asked(&harness), (10, Duration::ZERO));
    // It has been put right meanwhile.
    answer(&mut harness, 13..23, 0);
    answer(&mut harness, 0..0, 0);
    answer(&mut harness, 23..24, 320);
    assert_eq!(asked(&harness).0, 20);
    harness.live(TTL);
}
