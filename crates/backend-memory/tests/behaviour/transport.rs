use std::time::Duration;

use streamlease_core::*;

use crate::fixture::*;

fn claimed(from: &str, failures: u32) -> ClaimOutcome {
    ClaimOutcome::Claimed {
        from: Some(consumer(from)),
        failures: failures.into(),
    }
}

#[test]
fn the_group_starts_at_the_very_first_entry() {
    let fx = Fixture::new();
    fx.memory.wipe(&fx.service);
    let early = fx.submit(&["a", "b"]);
    let unprepared = ready(fx.transport.fetch(&request("w", 1, Duration::ZERO)));
    assert_eq!(unprepared.unwrap_err().kind(), ErrorKind::NotPrepared);
    ready(fx.transport.prepare()).unwrap();
    let fetched = ready(fx.transport.fetch(&request("w", 1, Duration::ZERO))).unwrap();
    assert_eq!((ids(&fetched), fetched.backlog), (early[..1].to_vec(), 1));
    ready(fx.transport.prepare()).unwrap();
    assert_eq!(
        fx.fetch("w", 9),
        early[1..],
        "preparing again changes nothing"
    );
}

#[test]
fn a_repeated_submit_batch_appends_nothing() {
    let fx = Fixture::new();
    let ids = fx.submit_batch(7, &["a", "b"]);
    fx.clock.advance(Duration::from_secs(300));
    assert_eq!(fx.submit_batch(7, &["a", "b"]), ids);
    assert_eq!(fx.fetch("w", 9), ids);
    assert_ne!(
        fx.submit_batch(8, &["a", "b"]),
        ids,
        "another batch is another batch"
    );
}

#[test]
fn a_batch_is_remembered_from_when_it_was_last_sent() {
    let fx = Fixture::new();
    let ids = fx.submit_batch(7, &["a"]);
    for _ in 0..3 {
        fx.clock.advance(Duration::from_secs(400));
        assert_eq!(fx.submit_batch(7, &["a"]), ids);
    }
    fx.clock.advance(Duration::from_secs(700));
    assert_ne!(fx.submit_batch(7, &["a"]), ids);
}

#[test]
fn entry_ids_grow_within_a_millisecond_and_after_removals() {
    let fx = Fixture::new();
    let first = fx.submit(&["a", "b"]);
    assert!(first[0] < first[1] && EntryId::MIN < first[0]);
    fx.complete("w", first[1], 0);
    assert!(fx.submit(&["c"])[0] > first[1]);
}

#[test]
fn a_waiting_fetch_gets_what_is_submitted_and_an_unanswered_one_ends_in_time() {
    let fx = Fixture::new();
    let asked = request("w", 5, TTL);
    let mut fetch = fx.transport.fetch(&asked);
    assert!(poll(&mut fetch).is_none());
    let submitted = fx.submit(&["a"]);
    assert_eq!(ids(&ready(fetch).unwrap()), submitted);

    let mut fetch = fx.transport.fetch(&asked);
    assert!(poll(&mut fetch).is_none());
    fx.clock.advance(TTL - TICK);
    assert!(poll(&mut fetch).is_none(), "not before its time");
    fx.clock.advance(TICK);
    assert!(ready(fetch).unwrap().entries.is_empty());
}

#[test]
fn waiting_fetches_are_served_in_the_order_they_came() {
    let fx = Fixture::new();
    let asked = ["w1", "w2", "w3"].map(|who| request(who, 1, TTL));
    let mut fetches = asked.each_ref().map(|asked| fx.transport.fetch(asked));
    for fetch in &mut fetches {
        assert!(poll(fetch).is_none());
    }
    let submitted = fx.submit(&["a", "b"]);
    assert!(poll(&mut fetches[2]).is_none());
    assert_eq!(
        ids(&poll(&mut fetches[1]).unwrap().unwrap()),
        submitted[1..]
    );
    assert_eq!(
        ids(&poll(&mut fetches[0]).unwrap().unwrap()),
        submitted[..1]
    );
}

#[test]
fn a_fetch_that_is_never_polled_again_delays_nobody() {
    let fx = Fixture::new();
    let asked = request("stalled", 1, TTL);
    let mut stalled = fx.transport.fetch(&asked);
    assert!(poll(&mut stalled).is_none());
    let submitted = fx.submit(&["a", "b"]);
    assert_eq!(fx.fetch("w", 9), submitted[1..]);
    drop(stalled);
    assert_eq!(
        fx.pending("stalled"),
        submitted[..1],
        "delivered, though nobody read the answer"
    );
}

#[test]
fn a_dropped_fetch_gives_its_place_up() {
    let fx = Fixture::new();
    let asked = request("gone", 1, TTL);
    let mut fetch = fx.transport.fetch(&asked);
    assert!(poll(&mut fetch).is_none());
    drop(fetch);
    let submitted = fx.submit(&["a"]);
    assert_eq!(fx.fetch("w", 9), submitted);
}

#[test]
fn a_waiting_fetch_fails_when_the_group_goes() {
    let fx = Fixture::new();
    let asked = request("w", 1, TTL);
    let mut fetch = fx.transport.fetch(&asked);
    assert!(poll(&mut fetch).is_none());
    fx.memory.wipe(&fx.service);
    assert_eq!(ready(fetch).unwrap_err().kind(), ErrorKind::NotPrepared);
}

#[test]
fn a_claim_with_a_greater_token_takes_from_whoever_has_the_entry() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);

    assert_eq!(
        fx.claim("w2", entry, 10),
        claimed("w1", 0),
        "never owned before: no failure"
    );
    assert_eq!(
        fx.claim("w3", entry, 11),
        claimed("w2", 1),
        "w2 never handed it back"
    );
    assert_eq!(
        fx.claim("w3", entry, 11),
        claimed("w3", 1),
        "the repeat counts nothing"
    );
    assert_eq!(
        fx.claim("w2", entry, 10),
        ClaimOutcome::Stale {
            seen: FencingToken(11)
        }
    );
    assert_eq!((fx.pending("w2"), fx.pending("w3")), (vec![], vec![entry]));
    assert_eq!(fx.claim("w3", EntryId::new(1, 1), 12), ClaimOutcome::Gone);
}

#[test]
fn a_claim_resets_the_idle_time_and_a_look_does_not() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w", 1);
    let idle = || {
        let page = ready(fx.transport.list_pending(&Scope::Entries(vec![entry]), 1)).unwrap();
        page.entries[0].idle
    };
    fx.clock.advance(TTL);
    assert_eq!((idle(), idle()), (TTL, TTL));
    fx.claim("w", entry, 1);
    assert_eq!(idle(), Duration::ZERO);
}

#[test]
fn a_late_claim_after_a_hand_back_changes_nothing() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    assert_eq!(
        fx.hand_back("w1", entry, 10, false),
        HandBackOutcome::HandedBack
    );
    assert_eq!(
        fx.claim("w1", entry, 10),
        ClaimOutcome::Stale {
            seen: FencingToken(10)
        }
    );
    let page = ready(fx.transport.list_pending(&Scope::Entries(vec![entry]), 1)).unwrap();
    assert!(page.entries[0].handed_back);
    assert_eq!(
        fx.claim("w2", entry, 11),
        claimed("w1", 0),
        "handed back in good order: no failure"
    );
}

#[test]
fn a_failed_hand_back_counts_once_however_often_it_is_repeated() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    fx.hand_back("w1", entry, 10, true);
    fx.hand_back("w1", entry, 10, true);
    assert_eq!(fx.claim("w2", entry, 11), claimed("w1", 1));
    let refused = HandBackOutcome::NotOwner {
        seen: FencingToken(11),
    };
    assert_eq!(fx.hand_back("w1", entry, 10, true), refused);
    assert_eq!(fx.claim("w2", entry, 11), claimed("w2", 1));
}

#[test]
fn completing_with_a_lower_token_is_not_owner() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    fx.claim("w2", entry, 11);
    assert_eq!(
        fx.complete("w1", entry, 10),
        CompleteOutcome::NotOwner {
            seen: FencingToken(11)
        }
    );
    assert_eq!(fx.pending("w2"), [entry], "nothing changed");
    assert_eq!(fx.complete("w2", entry, 11), CompleteOutcome::Completed);
    assert_eq!(fx.complete("w2", entry, 11), CompleteOutcome::Gone);
    assert!(fx.pending("w2").is_empty());
}

#[test]
fn the_right_token_completes_wherever_the_entry_is_pending() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    fx.memory.destroy_group(&fx.service);
    ready(fx.transport.prepare()).unwrap();
    assert_eq!(fx.fetch("w2", 1), [entry], "a new group delivers all again");
    assert_eq!(fx.complete("w1", entry, 10), CompleteOutcome::Completed);
    assert!(fx.pending("w2").is_empty());
}

#[test]
fn an_owner_claims_its_entry_from_nobody_once_the_group_is_new() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    fx.memory.destroy_group(&fx.service);
    ready(fx.transport.prepare()).unwrap();
    assert_eq!(
        fx.claim("w1", entry, 10),
        ClaimOutcome::Claimed {
            from: None,
            failures: 0.into()
        }
    );
    assert_eq!(fx.pending("w1"), [entry]);
}

#[test]
fn poison_is_delivered_with_its_reason_and_quarantined_with_its_fields() {
    let fx = Fixture::new();
    let fields = vec![
        (b"\xff".to_vec(), b"x".to_vec()),
        (b"lbs-input".to_vec(), b"[]".to_vec()),
    ];
    let poison = fx.memory.submit_raw(&fx.service, fields.clone());
    let good = fx.submit(&["a"])[0];
    let fetched = ready(fx.transport.fetch(&request("w", 9, Duration::ZERO))).unwrap();
    assert_eq!(ids(&fetched), [poison, good]);
    assert_eq!(fetched.entries[0].content, Err(MalformedReason::WrongShape));

    let quarantine = [Quarantine::new(poison, FencingToken::NONE, 0, "bad")];
    let quarantine = || {
        ready(fx.transport.quarantine(&consumer("w"), &quarantine))
            .unwrap()
            .remove(0)
    };
    assert_eq!(quarantine(), QuarantineOutcome::Quarantined);
    assert_eq!(quarantine(), QuarantineOutcome::Gone);
    assert_eq!(fx.pending("w"), [good]);
    let quarantined = ready(fx.admin.list_quarantined(EntryId::MIN, 9)).unwrap();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(
        (
            quarantined[0].entry,
            &quarantined[0].reason[..],
            &quarantined[0].fields
        ),
        (poison, "bad", &fields)
    );
    assert_eq!(quarantined[0].at_ms, 1_000_000);
}

#[test]
fn an_owned_entry_is_not_quarantined_by_a_lower_token() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w1", 1);
    fx.claim("w1", entry, 10);
    let quarantine = [Quarantine::new(entry, FencingToken(9), 0, "old")];
    let outcome = ready(fx.transport.quarantine(&consumer("w2"), &quarantine))
        .unwrap()
        .remove(0);
    assert_eq!(
        outcome,
        QuarantineOutcome::NotOwner {
            seen: FencingToken(10)
        }
    );
    assert_eq!(fx.pending("w1"), [entry]);
}

#[test]
fn pages_of_pending_entries_follow_on_without_gaps() {
    let fx = Fixture::new();
    let all = fx.submit(&["a", "b", "c", "d", "e"]);
    fx.fetch("w1", 3);
    fx.fetch("w2", 1);
    let list = |scope: Scope| {
        let page = ready(fx.transport.list_pending(&scope, 2)).unwrap();
        (
            page.entries
                .iter()
                .map(|pending| pending.entry)
                .collect::<Vec<_>>(),
            page.next,
        )
    };
    assert_eq!(
        list(Scope::All {
            after: EntryId::MIN
        }),
        (all[..2].to_vec(), Some(all[1]))
    );
    assert_eq!(
        list(Scope::All { after: all[1] }),
        (all[2..4].to_vec(), None)
    );
    let of = |who, after| Scope::Consumer {
        consumer: consumer(who),
        after,
    };
    assert_eq!(
        list(of("w1", EntryId::MIN)),
        (all[..2].to_vec(), Some(all[1]))
    );
    assert_eq!(list(of("w1", all[1])), (vec![all[2]], None));
    assert_eq!(list(of("unknown", EntryId::MIN)), (vec![], None));
    let some = Scope::Entries(vec![all[4], all[3], all[0], all[2]]);
    assert_eq!(
        list(some),
        (vec![all[0], all[2], all[3]], None),
        "no limit, none that is not pending"
    );
    let undelivered = ready(fx.admin.list_undelivered(EntryId::MIN, 9)).unwrap();
    assert_eq!(
        undelivered
            .iter()
            .map(|delivery| delivery.entry)
            .collect::<Vec<_>>(),
        all[4..]
    );
}

#[test]
fn a_consumer_is_removed_only_with_nothing_pending() {
    let fx = Fixture::new();
    let entry = fx.submit(&["a"])[0];
    fx.fetch("w", 1);
    let forget = || ready(fx.transport.remove_consumer(&consumer("w"))).unwrap();
    assert!(!forget());
    assert_eq!(ready(fx.admin.consumers()).unwrap()[0].pending, 1);
    fx.complete("w", entry, 0);
    assert!(forget());
    assert!(ready(fx.admin.consumers()).unwrap().is_empty());
    assert!(forget(), "it is not there afterwards");
}
