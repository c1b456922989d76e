//! `progress_timeout`: a handler that makes no progress loses its stream although its
//! process is healthy.

use std::time::Duration;

use streamlease_core::{DisownReason, Event, Runtime};

use crate::common::{TTL, everywhere};

const SOON: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(7);

#[test]
fn a_handler_without_progress_loses_its_stream_to_another_although_its_process_is_healthy() {
    everywhere(|fleet| async move {
        let builder = fleet.builder("a").progress_timeout(Some(LIMIT));
        let mut a = fleet.start_with(builder).await;
        fleet.submit(&["s"]).await;
        let lease = a.lease(SOON).await;
        let mut b = fleet.start("b").await;
        // Progress keeps it, however long that takes.
        for _ in 0..5 {
            fleet.sleep(LIMIT - SOON).await;
            assert!(lease.is_valid());
            lease.progress();
        }
        let since = fleet.sim.now();
        lease.lost().await;
        let silent = fleet.sim.now().saturating_since(since);
        assert!(silent >= LIMIT && silent < LIMIT + SOON, "after {silent:?}");
        assert!(!lease.is_valid());
        // It counts as a failure, the first: the stream rests for a quarter of the TTL.
        let next = b.lease(TTL / 4 + SOON).await;
        assert!(next.token() > lease.token());
        match a.event(SOON).await {
            Event::StreamDisowned(disowned) => {
                assert_eq!(disowned.reason(), DisownReason::NoProgress);
            }
            other => panic!("{other:?}"),
        }
        next.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn one_lease_can_have_a_limit_of_its_own_and_lift_it() {
    everywhere(|fleet| async move {
        let mut a = fleet.start("a").await;
        fleet.submit(&["s", "t"]).await;
        let (s, t) = (a.lease(SOON).await, a.lease(SOON).await);
        assert!(
            s.set_progress_timeout(Some(Duration::from_millis(1)))
                .is_err()
        );
        s.set_progress_timeout(Some(LIMIT)).unwrap();
        t.set_progress_timeout(Some(LIMIT)).unwrap();
        t.set_progress_timeout(None).unwrap();
        fleet.sleep(LIMIT + SOON).await;
        assert!(!s.is_valid());
        fleet.sleep(TTL * 10).await;
        assert!(t.is_valid());
    });
}

#[test]
fn a_stream_on_which_every_handler_hangs_ends_in_quarantine() {
    everywhere(|fleet| async move {
        let builder = fleet.builder("a").progress_timeout(Some(TTL));
        let mut a = fleet.start_with(builder.quarantine_after(Some(2))).await;
        fleet.submit(&["s"]).await;
        let mut hung = Vec::new();
        loop {
            match a.event(TTL * 10).await {
                Event::StreamAdded(lease) => hung.push(lease),
                Event::StreamDisowned(_) => {}
                Event::Quarantined(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(hung.len(), 2);
        fleet.sleep(SOON).await;
        fleet.assert_nothing_left().await;
    });
}
