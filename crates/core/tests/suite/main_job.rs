//! The main job on the memory backend, under virtual time, with both lock schemes.

use std::time::Duration;

use streamlease_core::{ClaimMode, ClaimResult, Completion, DisownReason, Event, Info, StreamName};

use crate::common::{Node, TTL, everywhere};

const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_stream_is_leased_worked_and_completed() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        let info = Info::from_json("{\"k\":1}").unwrap();
        fleet
            .producer()
            .submit("call-1", info.clone())
            .await
            .unwrap();
        let lease = a.lease(SOON).await;
        assert_eq!((lease.stream().as_str(), lease.info()), ("call-1", &info));
        assert!(lease.is_valid());
        fleet.sleep(TTL * 5).await;
        assert!(lease.is_valid(), "heartbeats keep it");
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
        assert!(!lease.is_valid());
        lease.lost().await;
        assert_eq!(lease.complete().await.unwrap(), Completion::NotOwner);
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn streams_submitted_before_any_consumer_existed_are_delivered() {
    everywhere(|fleet| async move {
        fleet.submit(&["a", "b", "c"]).await;
        let mut node = fleet.start("a").await;
        for _ in 0..3 {
            node.lease(SOON).await.complete().await.unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_dead_consumers_streams_are_taken_over_and_completed() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s1", "s2", "s3"]).await;
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let lease = a.lease(SOON).await;
            tokens.push((lease.stream().clone(), lease.token()));
            std::mem::forget(lease);
        }
        let mut b = fleet.start("b").await;
        fleet.sleep(TTL * 2).await;
        a.process.kill();
        let killed = fleet.sim.clone();
        let since = streamlease_core::Runtime::now(&killed);
        for _ in 0..3 {
            let lease = b.lease(TTL * 2).await;
            let (_, old) = tokens.iter().find(|(s, _)| s == lease.stream()).unwrap();
            assert!(lease.token() > *old);
            // Its identity: what Redis puts in front of it is no matter of this backend.
            assert_eq!(lease.claimed_from().map(|c| c.as_str()), Some("a"));
            assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
        }
        let took = streamlease_core::Runtime::now(&killed).saturating_since(since);
        assert!(took <= TTL + Duration::from_millis(100), "took {took:?}");
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_stalled_owner_loses_its_lease_first_and_cannot_complete() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        let stale = a.lease(SOON).await;
        let mut b = fleet.start("b").await;
        fleet.sleep(TTL).await;
        a.process.freeze();
        let lease = b.lease(TTL * 2).await;
        assert!(
            !stale.is_valid(),
            "believed until after the next owner had it"
        );
        fleet.sleep(TTL * 20).await;
        a.process.thaw();
        match a.event(SOON).await {
            Event::StreamDisowned(disowned) => {
                assert_eq!(disowned.reason(), DisownReason::Expired);
                assert_eq!(disowned.token(), stale.token());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(stale.complete().await.unwrap(), Completion::NotOwner);
        assert!(lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
        assert!(
            a.try_event(TTL * 5).await.is_none(),
            "nothing is worked on twice"
        );
    });
}

#[test]
fn shutdown_hands_back_and_another_continues_at_once() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s1", "s2"]).await;
        let held = [a.lease(SOON).await, a.lease(SOON).await];
        let mut b = fleet.start("b").await;
        fleet.sleep(TTL).await;
        a.client.shutdown().await.unwrap();
        assert!(held.iter().all(|lease| !lease.is_valid()));
        match a.event(SOON).await {
            Event::Terminated(termination) => assert!(termination.is_shutdown()),
            other => panic!("{other:?}"),
        }
        assert!(a.events.next().await.is_none());
        for _ in 0..2 {
            b.lease(Duration::from_millis(100))
                .await
                .complete()
                .await
                .unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn dropping_a_lease_hands_it_back_and_its_owner_gets_it_again_if_nobody_else_does() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        let first = a.lease(SOON).await;
        let token = first.token();
        drop(first);
        assert!(
            a.try_event(TTL - SOON).await.is_none(),
            "left to others for a TTL"
        );
        let again = a.lease(TTL * 2).await;
        assert!(again.token() > token);
        again.complete().await.unwrap();
    });
}

#[test]
fn the_same_stream_submitted_twice_has_one_owner_at_a_time() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        let mut b = fleet.start("b").await;
        fleet.submit(&["s", "s"]).await;
        let (first, second) = (a.try_event(TTL).await, b.try_event(TTL).await);
        let mut leases = first.into_iter().chain(second).map(|event| match event {
            Event::StreamAdded(lease) => lease,
            other => panic!("{other:?}"),
        });
        let lease = leases.next().unwrap();
        assert!(leases.next().is_none(), "two owners");
        lease.complete().await.unwrap();
        let next = next_lease(&mut a, &mut b, SOON).await;
        assert!(next.token() > lease.token());
        next.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}

async fn next_lease(a: &mut Node, b: &mut Node, within: Duration) -> streamlease_core::Lease {
    futures_lite::future::or(a.lease(within), b.lease(within)).await
}

#[test]
fn a_sole_consumer_that_restarts_gets_its_streams_back() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s1", "s2"]).await;
        std::mem::forget([a.lease(SOON).await, a.lease(SOON).await]);
        a.process.kill();
        let mut again = fleet.start("a").await;
        for _ in 0..2 {
            again.lease(TTL * 2).await.complete().await.unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn manual_claiming_reports_orphans_and_one_of_many_claims_succeeds() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        std::mem::forget(a.lease(SOON).await);
        let mut others = Vec::new();
        for i in 0..10 {
            let builder = fleet
                .builder(&format!("m{i}"))
                .claim_mode(ClaimMode::Manual);
            others.push(fleet.start_with(builder).await);
        }
        fleet.sleep(TTL).await;
        a.process.kill();
        let mut orphans = Vec::new();
        for other in &mut others {
            let Event::StreamExpired(orphan) = other.event(TTL * 4).await else {
                panic!()
            };
            assert_eq!(orphan.stream(), &StreamName::new("s").unwrap());
            orphans.push(orphan);
        }
        let mut claimed = 0;
        for (other, orphan) in others.iter_mut().zip(orphans) {
            match other.client.claim(&orphan).await.unwrap() {
                ClaimResult::Claimed => {
                    claimed += 1;
                    let lease = loop {
                        match other.event(SOON).await {
                            Event::StreamAdded(lease) => break lease,
                            Event::StreamExpired(_) => {}
                            event => panic!("{event:?}"),
                        }
                    };
                    assert!(lease.claimed_from().is_some());
                    std::mem::forget(lease);
                }
                ClaimResult::HeldElsewhere => {}
                result => panic!("{result:?}"),
            }
        }
        assert_eq!(claimed, 1);
    });
}

#[test]
fn capacity_is_never_exceeded_and_freed_capacity_is_used() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(fleet.builder("a").capacity(2)).await;
        fleet.submit(&["s1", "s2", "s3", "s4"]).await;
        let mut held = vec![a.lease(SOON).await, a.lease(SOON).await];
        assert!(
            a.try_event(TTL * 3).await.is_none(),
            "more than its capacity"
        );
        for _ in 0..2 {
            held.remove(0).complete().await.unwrap();
            held.push(a.lease(TTL * 3).await);
        }
        for lease in held {
            lease.complete().await.unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_lowered_capacity_takes_nothing_away_and_a_raised_one_is_used_at_once() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(fleet.builder("a").capacity(2)).await;
        fleet.submit(&["s1", "s2", "s3", "s4"]).await;
        let mut held = vec![a.lease(SOON).await, a.lease(SOON).await];
        let error = a.client.set_capacity(10_000_001).unwrap_err().to_string();
        assert!(error.contains("between 1 and 10000000"), "{error}");
        a.client.set_capacity(1).unwrap();
        held.remove(0).complete().await.unwrap();
        assert!(a.try_event(TTL * 3).await.is_none(), "one is held already");
        assert!(held[0].is_valid());
        // Paused, it takes nothing even where it holds nothing.
        a.client.set_capacity(0).unwrap();
        held.remove(0).complete().await.unwrap();
        assert!(a.try_event(TTL * 3).await.is_none(), "it is paused");
        a.client.set_capacity(3).unwrap();
        for _ in 0..2 {
            held.push(a.lease(SOON).await);
        }
        for lease in held {
            lease.complete().await.unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_slow_receiver_loses_no_lease_and_no_event() {
    everywhere(|fleet| async move {
        let names: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
        fleet
            .submit(&names.iter().map(String::as_str).collect::<Vec<_>>())
            .await;
        let mut a = fleet.start_with(fleet.builder("a").event_queue(3)).await;
        fleet.sleep(TTL * 10).await;
        for _ in 0..20 {
            let lease = a.lease(TTL * 3).await;
            assert!(lease.is_valid());
            lease.complete().await.unwrap();
        }
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn poison_entries_are_quarantined_and_reading_goes_on() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        for payload in [
            &b"hello"[..],
            b"[]",
            b"{}",
            b"{\"DataStreamName\":\"\"}",
            b"\xff",
        ] {
            let fields = vec![(b"lbs-input".to_vec(), payload.to_vec())];
            fleet.backend.submit_raw(&fleet.service, fields);
        }
        fleet
            .backend
            .submit_raw(&fleet.service, vec![(b"other".to_vec(), b"{}".to_vec())]);
        fleet.submit(&["good"]).await;
        let (mut quarantined, mut completed) = (0, 0);
        while (quarantined, completed) != (6, 1) {
            match a.event(SOON).await {
                Event::Quarantined(_) => quarantined += 1,
                Event::StreamAdded(lease) => {
                    lease.complete().await.unwrap();
                    completed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        fleet.sleep(SOON).await;
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn an_entry_whose_owners_keep_failing_is_quarantined() {
    everywhere(|fleet| async move {
        let mut a = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(2)))
            .await;
        let mut b = fleet
            .start_with(fleet.builder("b").quarantine_after(Some(2)))
            .await;
        fleet.submit(&["s"]).await;
        for _ in 0..2 {
            next_lease(&mut a, &mut b, TTL * 3)
                .await
                .fail("it was bad")
                .await
                .unwrap();
        }
        let event = futures_lite::future::or(a.event(TTL * 4), b.event(TTL * 4)).await;
        assert!(matches!(event, Event::Quarantined(_)), "{event:?}");
        fleet.sleep(SOON).await;
        fleet.assert_nothing_left().await;
    });
}

/// The fetch that was under way brought streams to somebody who could give them to nobody.
#[test]
fn who_takes_no_more_events_takes_no_more_streams() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s0"]).await;
        let held = a.lease(SOON).await;
        let mut b = fleet.start("b").await;
        drop(a.events);
        // What is on its way at that very moment may still arrive here.
        fleet.sleep(Duration::from_millis(10)).await;
        for name in ["s1", "s2", "s3"] {
            fleet.submit(&[name]).await;
            b.lease(SOON).await.complete().await.unwrap();
        }
        fleet.sleep(TTL * 2).await;
        assert!(held.is_valid());
        held.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}
