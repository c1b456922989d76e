//! What a `Recorder` is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamlease_core::decorate::decorate;
use streamlease_core::recorder::{Attempt, EndKind, Load, Started};
use streamlease_core::{
    Backend, BackendProvider, Client, Info, Operation, Part, Producer, Recorder, Result,
    ServiceName, StreamOrigin,
};
use streamlease_testkit::faults::Faults;

use crate::common::{Fleet, TTL, everywhere};

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Kept>);

#[derive(Debug, Default, Clone)]
struct Kept {
    started: Vec<Started>,
    ended: Vec<(EndKind, Duration)>,
    calls: Vec<(Operation, Attempt, Duration)>,
    heartbeats: Vec<(Attempt, Option<Duration>)>,
    unreachable: Vec<Part>,
    reached: Vec<(Part, Duration)>,
    states: Vec<Load>,
    submitted: Vec<(Attempt, usize)>,
    recovered: Vec<usize>,
}

impl Told {
    fn kept(&self) -> Kept {
        self.0.lock().unwrap().clone()
    }
}

impl Recorder for Told {
    fn startup_recovery(&self, entries: usize) {
        self.0.lock().unwrap().recovered.push(entries);
    }
    fn stream_started(&self, started: &Started) {
        self.0.lock().unwrap().started.push(*started);
    }
    fn stream_ended(&self, end: EndKind, held: Duration) {
        self.0.lock().unwrap().ended.push((end, held));
    }
    fn call(&self, operation: Operation, result: Attempt, took: Duration) {
        let call = (operation, result, took);
        self.0.lock().unwrap().calls.push(call);
    }
    fn heartbeat(&self, result: Attempt, left: Option<Duration>) {
        self.0.lock().unwrap().heartbeats.push((result, left));
    }
    fn unreachable(&self, part: Part) {
        self.0.lock().unwrap().unreachable.push(part);
    }
    fn reached(&self, part: Part, after: Duration) {
        self.0.lock().unwrap().reached.push((part, after));
    }
    fn load(&self, load: &Load) {
        self.0.lock().unwrap().states.push(*load);
    }
    fn submitted(&self, result: Attempt, streams: usize, _: Duration) {
        self.0.lock().unwrap().submitted.push((result, streams));
    }
}

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

fn told(fleet: &Fleet) -> (Arc<Told>, streamlease_core::ClientBuilder) {
    let told = Arc::new(Told::default());
    let builder = fleet.builder("n").recorder(told.clone());
    (told, builder)
}

#[test]
fn a_fresh_stream_is_told_of_with_the_time_of_its_announcement() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        let entry = fleet.producer().submit("s", Info::NONE).await.unwrap();
        let lease = node.lease(TTL).await;
        fleet.sleep(TTL).await;
        lease.complete().await.unwrap();
        let kept = told.kept();
        let [started] = kept.started[..] else {
            panic!("{:?}", kept.started)
        };
        assert_eq!(started.origin, StreamOrigin::Fresh);
        assert_eq!(started.announced_at, Duration::from_millis(entry.ms));
        assert_eq!(started.free_for, None);
        let [(EndKind::Completed, held)] = kept.ended[..] else {
            panic!("{:?}", kept.ended)
        };
        assert!(held >= TTL && held < TTL * 2, "{held:?}");
        let held: Vec<_> = kept.states.iter().map(|state| state.held).collect();
        assert!(held.contains(&1) && held.last() == Some(&0), "{held:?}");
    });
}

#[test]
fn a_take_over_is_told_of_with_the_time_since_the_death_was_known() {
    everywhere(|fleet| async move {
        let mut dying = fleet.start("m").await;
        fleet.submit(&["s"]).await;
        let _lease = dying.lease(TTL).await;
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        fleet.sleep(TTL).await;
        dying.process.kill();
        node.lease(TTL * 6).await;
        fleet.sleep(Duration::from_millis(1)).await;
        let started = told.kept().started;
        assert_eq!(started[0].origin, StreamOrigin::TakenOver, "{started:?}");
        // Without sessions a hint may have told, or a look at the lock.
        if fleet.session_leases {
            let free_for = started[0].free_for.unwrap();
            assert!(free_for < TTL / 4, "{free_for:?}");
        }
    });
}

#[test]
fn a_hand_over_is_told_of_with_the_time_since_the_hand_back() {
    everywhere(|fleet| async move {
        let mut giver = fleet.start("m").await;
        fleet.submit(&["s"]).await;
        let lease = giver.lease(TTL).await;
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        fleet.sleep(TTL).await;
        lease.hand_back().await.unwrap();
        node.lease(TTL).await;
        fleet.sleep(Duration::from_millis(1)).await;
        let started = told.kept().started;
        assert_eq!(started[0].origin, StreamOrigin::HandedBack, "{started:?}");
        assert!(started[0].free_for.unwrap() < TTL / 4, "{started:?}");
    });
}

#[test]
fn each_heartbeat_tells_how_much_time_was_left() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["s"]).await;
        let _lease = node.lease(TTL).await;
        fleet.sleep(TTL * 10).await;
        let left: Vec<_> = told.kept().heartbeats;
        assert!(left.len() >= 25, "three per TTL: {left:?}");
        for (result, left) in &left[left.len() - 20..] {
            assert_eq!(*result, Attempt::Ok);
            assert!(
                left.is_some_and(|left| left > TTL / 2 && left < TTL),
                "{left:?}"
            );
        }
    });
}

#[test]
fn calls_are_told_of_with_their_time_and_outages_with_their_length() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let backend = decorate(backend, faults.clone());
        let node = fleet.start_with(builder.backend(Given(backend))).await;
        fleet.sleep(TTL).await;
        let kept = told.kept();
        for operation in [Operation::Prepare, Operation::Renew] {
            let is_it = |call: &(Operation, Attempt, Duration)| {
                call.0 == operation && call.1 == Attempt::Ok && call.2 < TTL
            };
            assert!(
                kept.calls.iter().any(is_it),
                "{operation}: {:?}",
                kept.calls
            );
        }
        assert_eq!(kept.unreachable, []);
        faults.break_all();
        fleet.sleep(TTL * 3).await;
        faults.repair();
        fleet.sleep(TTL * 4).await;
        let kept = told.kept();
        assert!(
            kept.unreachable.contains(&Part::Locks),
            "{:?}",
            kept.unreachable
        );
        assert!(kept.heartbeats.iter().any(|beat| beat.0 == Attempt::Error));
        let (_, after) = kept
            .reached
            .iter()
            .find(|(part, _)| *part == Part::Locks)
            .unwrap();
        assert!(*after > TTL * 2 && *after < TTL * 7, "{after:?}");
        assert_eq!(kept.unreachable.len(), kept.reached.len());
        drop(node);
    });
}

#[test]
fn the_queue_the_capacity_and_the_members_are_told_of() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder.capacity(5).event_queue(9)).await;
        fleet.submit(&["s", "t"]).await;
        fleet.sleep(TTL).await;
        let state = *told.kept().states.last().unwrap();
        assert_eq!((state.held, state.capacity), (2, 5));
        assert_eq!((state.queued, state.event_queue), (2, 9));
        assert_eq!(state.members, fleet.session_leases.then_some(1));
        let _leases = [node.lease(TTL).await, node.lease(TTL).await];
        fleet.sleep(TTL).await;
        assert_eq!(told.kept().states.last().unwrap().queued, 0);
    });
}

#[test]
fn a_producer_tells_of_each_call_how_it_ended() {
    everywhere(|fleet| async move {
        let told = Arc::new(Told::default());
        let producer: Producer = fleet.producer().recorder(told.clone());
        producer.submit("s", Info::NONE).await.unwrap();
        assert_eq!(told.kept().submitted, [(Attempt::Ok, 1)]);
        let _: Option<Client> = None;
    });
}

/// Each look at its own entries counted all that it held, every two TTLs.
#[test]
fn only_what_an_earlier_life_has_left_is_recovered_and_counted_once() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["s", "t", "u"]).await;
        let leases = [
            node.lease(TTL).await,
            node.lease(TTL).await,
            node.lease(TTL).await,
        ];
        fleet.sleep(TTL * 20).await;
        assert_eq!(told.kept().recovered, [0], "it was fresh");

        // Another life of that name goes on with what the first one had.
        node.process.kill();
        drop(leases);
        let (told, builder) = self::told(&fleet);
        let mut node = fleet.start_with(builder).await;
        let _again = [
            node.lease(TTL * 6).await,
            node.lease(TTL * 6).await,
            node.lease(TTL * 6).await,
        ];
        fleet.sleep(TTL * 20).await;
        assert_eq!(told.kept().recovered, [3]);
    });
}

#[test]
fn what_a_lost_session_held_is_recovered_by_the_next_one() {
    everywhere(|fleet| async move {
        let (told, builder) = told(&fleet);
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["s", "t"]).await;
        let _lost = [node.lease(TTL).await, node.lease(TTL).await];
        node.process.freeze();
        fleet.sleep(TTL * 2).await;
        node.process.thaw();
        fleet.sleep(TTL * 20).await;
        assert_eq!(told.kept().recovered, [0, 2]);
    });
}
