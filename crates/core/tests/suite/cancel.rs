//! An operator cancels data streams: their entries are gone, and owners are told.

use streamlease_core::{Canceller, Completion, DisownReason, Event, LeaseAdmin, StreamName};

use crate::common::{TTL, everywhere};

#[test]
fn what_is_cancelled_is_gone_whether_it_waits_or_is_held_and_its_owner_is_told() {
    everywhere(async |fleet| {
        let names = ["held", "waits", "stays", "never"].map(|name| StreamName::new(name).unwrap());
        let canceller = Canceller::new("orders", &fleet.backend).unwrap();
        // Nobody has made the group yet.
        assert_eq!(canceller.cancel(&names[..1]).await.unwrap(), [vec![]]);
        let mut a = fleet.start_with(fleet.builder("a").capacity(1)).await;
        fleet.submit(&["held"]).await;
        let lease = a.lease(TTL).await;
        fleet.submit(&["waits", "held", "stays"]).await;
        let asked = [names[0].clone(), names[1].clone(), names[3].clone()];
        let cancelled = canceller.cancel(&asked).await.unwrap();
        let counts = [cancelled[0].len(), cancelled[1].len(), cancelled[2].len()];
        assert_eq!(counts, [2, 1, 0]);
        assert!(cancelled[0].contains(&lease.entry()));
        // What it does too late changes nothing.
        let event = a.event(TTL * 10).await;
        let Event::StreamDisowned(told) = event else {
            panic!("{event:?}")
        };
        assert_eq!(told.stream(), &names[0]);
        // Nobody can be asked of per-stream locks, so all that is known is that it is gone.
        let reason = match LeaseAdmin::new("orders", &fleet.backend) {
            Ok(_) => DisownReason::Cancelled,
            Err(_) => DisownReason::EntryGone,
        };
        assert_eq!(told.reason(), reason);
        assert!(!lease.is_valid());
        assert_eq!(lease.complete().await.unwrap(), Completion::NotOwner);
        let left = a.lease(TTL * 10).await;
        assert_eq!(left.stream(), &names[2]);
        assert_eq!(
            canceller.cancel(&asked).await.unwrap(),
            [vec![], vec![], vec![]]
        );
        left.complete().await.unwrap();
        fleet.assert_nothing_left().await;
    });
}
