//! Streams whose owners fail: rests between the tries, quarantine, the way back;
//! and handing back, which is no failure. On the memory backend, under virtual
//! time, with both lock schemes.

use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    BackendProvider, ClaimMode, ClientBuilder, EntryId, Event, Lease, QuarantineAdmin,
    QuarantineRelease, Quarantined, Runtime, Scope, Timestamp,
};

use crate::common::{Fleet, Node, TTL, everywhere};

const SOON: Duration = Duration::from_millis(200);
/// A bound for everything that comes after a rest.
const LONG: Duration = Duration::from_secs(60);

fn patient(builder: ClientBuilder) -> ClientBuilder {
    builder.quarantine_after(None)
}

/// What the documentation says, for the TTL of these tests.
fn rest(failures: u32) -> Duration {
    (Duration::from_millis(500) * 2u32.pow(failures - 1)).min(Duration::from_secs(30))
}

fn now(fleet: &Fleet) -> Timestamp {
    fleet.sim.now()
}

async fn next_lease(a: &mut Node, b: &mut Node) -> Lease {
    future::or(a.lease(LONG), b.lease(LONG)).await
}

async fn in_quarantine(fleet: &Fleet) -> Vec<Quarantined> {
    let admin = QuarantineAdmin::new("orders", &fleet.backend).unwrap();
    admin.all().await.unwrap()
}

#[test]
fn retries_after_failures_are_ever_further_apart() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(patient(fleet.builder("a"))).await;
        let mut b = fleet.start_with(patient(fleet.builder("b"))).await;
        // Who fails leaves it to others for a TTL: with three, one is always there.
        let mut c = fleet.start_with(patient(fleet.builder("c"))).await;
        fleet.submit(&["s"]).await;
        let mut lease = future::or(next_lease(&mut a, &mut b), c.lease(LONG)).await;
        for n in 1..=8 {
            // Shorter than the others wait for their turn. (At the very instant
            // of the take, they may be on their way to it already.)
            fleet.sleep(Duration::from_millis(1)).await;
            let failed = now(&fleet);
            lease.fail("it was bad").await.unwrap();
            lease = future::or(next_lease(&mut a, &mut b), c.lease(LONG)).await;
            let rested = now(&fleet).saturating_since(failed);
            assert!(
                rested >= rest(n) && rested <= rest(n) + SOON,
                "{rested:?} after failure {n}"
            );
        }
        lease.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_sole_consumer_lets_its_failing_stream_rest_too() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(patient(fleet.builder("a"))).await;
        fleet.submit(&["s"]).await;
        let mut lease = a.lease(SOON).await;
        for n in 1..=6 {
            let failed = now(&fleet);
            lease.fail("it was bad").await.unwrap();
            lease = a.lease(LONG).await;
            let rested = now(&fleet).saturating_since(failed);
            // It leaves what it handed back to others for a TTL.
            assert!(
                rested >= rest(n).max(TTL) && rested <= rest(n).max(TTL) + SOON,
                "{rested:?} after failure {n}"
            );
        }
    });
}

#[test]
fn a_stream_that_crashes_its_owners_rests_but_the_first_failovers_are_as_fast_as_any() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(patient(fleet.builder("a0"))).await;
        let mut b = fleet.start_with(patient(fleet.builder("b0"))).await;
        fleet.submit(&["s"]).await;
        std::mem::forget(next_lease(&mut a, &mut b).await);
        for n in 1..=6 {
            let crashed = now(&fleet);
            let lease = if held_by(&fleet, &a).await {
                a.process.kill();
                a = fleet
                    .start_with(patient(fleet.builder(&format!("a{n}"))))
                    .await;
                next_lease(&mut a, &mut b).await
            } else {
                b.process.kill();
                b = fleet
                    .start_with(patient(fleet.builder(&format!("b{n}"))))
                    .await;
                next_lease(&mut a, &mut b).await
            };
            std::mem::forget(lease);
            let rested = now(&fleet).saturating_since(crashed);
            let least = if n <= 2 { TTL / 2 } else { rest(n) };
            assert!(
                rested >= least && rested <= rest(n).max(TTL) + SOON,
                "{rested:?} after crash {n}"
            );
        }
    });
}

async fn held_by(fleet: &Fleet, node: &Node) -> bool {
    let backend = fleet.backend.backend(&fleet.service).unwrap();
    let all = Scope::All {
        after: EntryId::MIN,
    };
    let page = backend.transport.list_pending(&all, 9).await.unwrap();
    page.entries[0].consumer.as_ref() == Some(node.client.id())
}

#[test]
fn a_consumer_that_crashes_and_comes_back_under_its_name_lets_the_stream_rest() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(patient(fleet.builder("a"))).await;
        fleet.submit(&["s"]).await;
        std::mem::forget(a.lease(SOON).await);
        for n in 1..=6 {
            let crashed = now(&fleet);
            a.process.kill();
            a = fleet.start_with(patient(fleet.builder("a"))).await;
            std::mem::forget(a.lease(LONG).await);
            let rested = now(&fleet).saturating_since(crashed);
            assert!(
                rested >= rest(n) && rested <= rest(n).max(TTL) + SOON,
                "{rested:?} after crash {n}"
            );
        }
    });
}

#[test]
fn with_manual_claiming_a_failed_stream_is_reported_when_it_has_rested() {
    everywhere(|fleet| async move {
        let manual = |builder: ClientBuilder| builder.claim_mode(ClaimMode::Manual);
        let mut a = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        for n in 1..=3 {
            let lease = a.lease(LONG).await;
            lease.fail("it was bad").await.unwrap();
            if n < 3 {
                continue;
            }
            // Rests go by what the LBS says, so one who comes now keeps to them.
            let failed = now(&fleet);
            let mut m = fleet.start_with(manual(fleet.builder("m"))).await;
            a.process.kill();
            let event = m.event(LONG).await;
            assert!(matches!(event, Event::StreamExpired(_)), "{event:?}");
            assert!(now(&fleet).saturating_since(failed) >= rest(3));
        }
    });
}

#[test]
fn after_the_fifth_failure_the_entry_is_quarantined_with_count_and_last_owner() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        let mut b = fleet.start("b").await;
        fleet.submit(&["s"]).await;
        let started = now(&fleet);
        // Longer ones are cut, at a character's end; a handler that panics has failed too.
        let long = "ü".repeat(129);
        for reason in ["", "no such tenant", "say, 5:x", &long] {
            let lease = next_lease(&mut a, &mut b).await;
            lease.fail(reason).await.unwrap();
        }
        let lease = next_lease(&mut a, &mut b).await;
        let panicking = std::panic::AssertUnwindSafe(|| {
            let _lease = lease;
            std::panic::resume_unwind(Box::new("boom"));
        });
        std::panic::catch_unwind(panicking).unwrap_err();
        let failed_last = now(&fleet);
        let event = future::or(a.event(LONG), b.event(LONG)).await;
        let Event::Quarantined(quarantined) = event else {
            panic!("{event:?}")
        };
        let reasons = quarantined.failures();
        assert!(reasons[0].is_empty() || reasons[0] == "its owner gave no reason");
        let expected = [
            "no such tenant",
            "say, 5:x",
            &long[..256],
            "its handler panicked",
        ];
        assert_eq!(reasons[1..], expected);
        // What is quarantined next need not rest first (8 s); but both have just
        // failed, and leave it to others for a TTL.
        let took = now(&fleet).saturating_since(failed_last);
        assert!(took <= TTL + SOON, "quarantined after {took:?}");
        assert!(now(&fleet).saturating_since(started) < LONG);
        fleet.assert_nothing_left().await;
        let kept = in_quarantine(&fleet).await;
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].failures, 5);
        assert_eq!(kept[0].reason, quarantined.reason());
        let last = "5 owners failed on it, the last: its handler panicked";
        assert_eq!(kept[0].reason, last);
        assert_eq!(kept[0].reasons, reasons);
        assert_eq!(kept[0].content().unwrap().stream.as_str(), "s");
        assert!([a.client.id(), b.client.id()].contains(&&kept[0].last_owner));
    });
}

/// A stream that lives for months sees crashes that are not its fault.
#[test]
fn crashes_that_are_long_past_do_not_count() {
    everywhere(|fleet| async move {
        let start = async |n: u32| {
            let builder = fleet.builder(&format!("a{n}"));
            fleet.start_with(builder.quarantine_after(Some(3))).await
        };
        let mut a = start(0).await;
        fleet.submit(&["s"]).await;
        let mut lease = a.lease(SOON).await;
        for n in 1..10 {
            // The second crash of two comes soon after the first.
            if n % 2 == 1 {
                fleet.sleep(Duration::from_secs(601)).await;
                assert!(lease.is_valid());
            }
            a.process.kill();
            a = start(n).await;
            lease = a.lease(LONG).await;
        }
        lease.complete().await.unwrap();
        fleet.assert_nothing_left().await;
        assert!(in_quarantine(&fleet).await.is_empty());
    });
}

#[test]
fn without_a_limit_nothing_is_quarantined_however_often_it_fails() {
    everywhere(|fleet| async move {
        let mut a = fleet.start_with(patient(fleet.builder("a"))).await;
        fleet.submit(&["s"]).await;
        for _ in 0..20 {
            a.lease(LONG).await.fail("it was bad").await.unwrap();
        }
        assert!(in_quarantine(&fleet).await.is_empty());
        a.lease(LONG).await.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_quarantined_stream_is_released_and_worked_on_or_dropped() {
    everywhere(|fleet| async move {
        let mut a = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(1)))
            .await;
        fleet.submit(&["s1", "s2"]).await;
        for _ in 0..2 {
            a.lease(SOON).await.fail("it was bad").await.unwrap();
        }
        for _ in 0..2 {
            let event = a.event(LONG).await;
            assert!(matches!(event, Event::Quarantined(_)), "{event:?}");
        }
        fleet.sleep(SOON).await;
        let admin = QuarantineAdmin::new("orders", &fleet.backend).unwrap();
        let page = admin.page(EntryId::MIN, 1).await.unwrap();
        let all = admin.all().await.unwrap();
        assert_eq!((page.len(), all.len()), (1, 2));
        assert_eq!(page[0], all[0]);

        assert_eq!(admin.drop(&[all[1].entry]).await.unwrap(), [true]);
        let released = admin.release(&[all[0].entry, all[1].entry]).await.unwrap();
        let [QuarantineRelease::Released(new), QuarantineRelease::Gone] = released[..] else {
            panic!("{released:?}")
        };
        let lease = a.lease(SOON).await;
        assert_eq!(lease.entry(), new);
        assert_eq!(lease.stream(), &all[0].content().unwrap().stream);
        lease.complete().await.unwrap();
        fleet.assert_nothing_left().await;
        assert!(admin.all().await.unwrap().is_empty());
    });
}

#[test]
fn what_is_handed_back_others_have_at_once_and_it_is_no_failure() {
    everywhere(|fleet| async move {
        let strict = |name| fleet.builder(name).quarantine_after(Some(1));
        let mut a = fleet.start_with(strict("a")).await;
        let mut b = fleet.start_with(strict("b")).await;
        fleet.submit(&["s"]).await;
        let mut lease = next_lease(&mut a, &mut b).await;
        for _ in 0..10 {
            // Who handed back leaves it to others for a TTL.
            fleet.sleep(TTL * 2).await;
            let (token, handed_back) = (lease.token(), now(&fleet));
            lease.hand_back().await.unwrap();
            lease = next_lease(&mut a, &mut b).await;
            assert!(lease.token() > token);
            let took = now(&fleet).saturating_since(handed_back);
            assert!(took <= Duration::from_millis(50), "{took:?}");
        }
        lease.complete().await.unwrap();
        assert!(in_quarantine(&fleet).await.is_empty());
    });
}

/// The commonest bug of a handler was no failure, and went round for ever.
#[test]
fn a_handler_that_panics_has_failed() {
    everywhere(|fleet| async move {
        let mut a = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(2)))
            .await;
        fleet.submit(&["s"]).await;
        for _ in 0..2 {
            let lease = a.lease(LONG).await;
            let handler = std::panic::AssertUnwindSafe(move || {
                let _lease = lease;
                panic!("as handlers do");
            });
            std::panic::catch_unwind(handler).unwrap_err();
        }
        let event = a.event(LONG).await;
        assert!(matches!(event, Event::Quarantined(_)), "{event:?}");
        assert_eq!(in_quarantine(&fleet).await[0].failures, 2);
    });
}

/// Nobody has worked on what still waits in the queue.
#[test]
fn a_panic_fails_no_stream_that_nobody_has_taken_up() {
    everywhere(|fleet| async move {
        let a = fleet.start("a").await;
        fleet.submit(&["s1", "s2"]).await;
        fleet.sleep(SOON).await;
        let panicking = std::panic::AssertUnwindSafe(move || {
            let _node = a;
            std::panic::resume_unwind(Box::new("the main loop"));
        });
        std::panic::catch_unwind(panicking).unwrap_err();
        let mut c = fleet.start("c").await;
        for _ in 0..2 {
            std::mem::forget(c.lease(LONG).await);
        }
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let all = Scope::All {
            after: EntryId::MIN,
        };
        let page = backend.transport.list_pending(&all, 9).await.unwrap();
        let failures: Vec<_> = page.entries.iter().map(|entry| entry.failures).collect();
        assert_eq!(failures, [0, 0]);
    });
}
