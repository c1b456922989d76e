//! An operator asks an owner to hand a stream back: it is told, and another one goes on.

use std::time::Duration;

use streamlease_core::{DisownReason, ErrorKind, Event, Info, LeaseAdmin, StreamName};
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, TTL};

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

#[test]
fn a_revoked_stream_goes_to_another_consumer_within_a_heartbeat() {
    for seed in 1..=20 {
        let sim = SimRuntime::new(seed);
        let fleet = Fleet::new(sim.clone(), true);
        sim.block_on(async {
            let mut a = fleet.start("a").await;
            let info = Info::from_json("{\"at\":7}").unwrap();
            let announced = [("s", info.clone())];
            fleet.producer().submit_all(announced).await.unwrap();
            let old = a.lease(TTL).await;
            let mut b = fleet.start("b").await;
            // So that it can only go to the other one.
            a.client.set_capacity(0).unwrap();
            let admin = LeaseAdmin::new("orders", &fleet.backend).unwrap();
            let asked = [stream("s"), stream("never")];
            assert_eq!(admin.revoke(&asked).await.unwrap(), [true, false]);

            let event = a.event(TTL / 3 + Duration::from_millis(100)).await;
            let Event::StreamDisowned(told) = event else {
                panic!("{event:?}")
            };
            assert_eq!(told.reason(), DisownReason::Revoked);
            assert_eq!(told.info(), &info);
            assert!(!old.is_valid());
            let new = b.lease(TTL).await;
            assert!(new.token() > old.token());
            assert_eq!(admin.revoke(&asked[1..]).await.unwrap(), [false]);
            new.complete().await.unwrap();
            fleet.assert_nothing_left().await;
        });
    }
}

#[test]
fn locks_of_each_stream_cannot_be_revoked() {
    let fleet = Fleet::new(SimRuntime::new(1), false);
    let refused = LeaseAdmin::new("orders", &fleet.backend).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    assert!(refused.to_string().contains("session leases"), "{refused}");
}
