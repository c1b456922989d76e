//! The backend goes away, is late, or refuses; virtual time, the memory backend.
use std::time::Duration;

use streamlease_core::Operation;
use streamlease_core::decorate::decorate;
use streamlease_core::{
    Announcement, Backend, BackendProvider, ErrorKind, Event, Info, Producer, Result, RetryPolicy,
    Runtime, ServiceName, StreamName, SubmitBatch, SubmitOutcome,
};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, Node};

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// The way to the backend, which can be cut.
struct Way {
    transport: Faults,
    locks: Faults,
}

impl Way {
    fn of(fleet: &Fleet) -> (Given, Self) {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let transport_faults = Faults::new();
        let lock_faults = Faults::new();
        let faulty = decorate(backend.clone(), transport_faults.clone());
        backend.transport = faulty.transport;
        backend.submitter = faulty.submitter;
        backend.locks = decorate(backend.clone(), lock_faults.clone()).locks;
        let way = Self {
            transport: transport_faults,
            locks: lock_faults,
        };
        (Given(backend), way)
    }

    fn cut(&self) {
        self.transport.break_all();
        self.locks.break_all();
    }

    fn mend(&self) {
        self.transport.repair();
        self.locks.repair();
    }
}

async fn next_lease(node: &mut Node, within: Duration) -> streamlease_core::Lease {
    loop {
        match node.event(within).await {
            Event::StreamAdded(lease) => return lease,
            Event::StreamDisowned(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// It came back when a backoff of up to 30 s had run out, whatever its TTL.
#[test]
fn after_a_long_outage_work_goes_on_within_a_few_ttls() {
    let ttl = Duration::from_secs(1);
    for seed in 1..=10 {
        for session_leases in [true, false] {
            let sim = SimRuntime::new(seed);
            let fleet = Fleet::new(sim.clone(), session_leases);
            sim.block_on(async {
                let (given, way) = Way::of(&fleet);
                let builder = fleet.builder("n").ttl(ttl).backend(given);
                let mut node = fleet.start_with(builder).await;
                fleet.submit(&["s"]).await;
                let lost = node.lease(ttl).await;
                way.cut();
                fleet.sleep(Duration::from_secs(40)).await;
                assert!(!lost.is_valid());
                way.mend();
                let since = sim.now();
                let again = next_lease(&mut node, ttl * 3).await;
                assert!(again.token() > lost.token());
                let took = sim.now().saturating_since(since);
                assert!(took <= ttl * 3, "{took:?}");
            });
        }
    }
}

fn announcements(names: &[&str]) -> Vec<Announcement> {
    let announce = |name: &&str| Announcement::new(StreamName::new(name).unwrap(), Info::NONE);
    names.iter().map(announce).collect()
}

#[test]
fn a_producer_waits_an_outage_out_and_appends_nothing_twice() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let (given, way) = Way::of(&fleet);
        let producer = Producer::new("orders", &given, sim.clone()).unwrap();
        let began = sim.now();
        // The first try is executed and its reply lost; the next ones find nobody.
        way.transport.lose_reply(Operation::Submit);
        let mending = async {
            while way.transport.calls(Operation::Submit) == 0 {
                fleet.sleep(Duration::from_millis(1)).await;
            }
            way.cut();
            fleet.sleep(Duration::from_secs(20)).await;
            way.mend();
        };
        let submitting = producer.submit_all(announcements(&["s", "t"]));
        let (entries, ()) = futures_lite::future::zip(submitting, mending).await;
        let entries = entries.unwrap();
        let took = sim.now().saturating_since(began);
        assert!(took < Duration::from_secs(23), "{took:?}");
        let tries = way.transport.calls(Operation::Submit);
        assert!((8..=30).contains(&tries), "{tries} in 20 s");
        let _node = fleet.start("n").await;
        assert_eq!(fleet.left().await, entries, "once each");
    });
}

#[test]
fn a_producer_gives_up_as_its_retry_policy_says() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let (given, way) = Way::of(&fleet);
        way.cut();
        let producer = Producer::new("orders", &given, sim.clone()).unwrap();
        let began = sim.now();
        let error = producer.submit("s", Info::NONE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let took = sim.now().saturating_since(began);
        let expected = Duration::from_secs(14)..Duration::from_secs(31);
        assert!(expected.contains(&took), "{took:?}");

        let none = producer.clone().retry(RetryPolicy::NONE).unwrap();
        let began = sim.now();
        none.submit("s", Info::NONE).await.unwrap_err();
        assert_eq!(sim.now(), began);
        let wrong = RetryPolicy::UNLIMITED.with_waits(Duration::ZERO, Duration::from_secs(1));
        let error = producer.retry(wrong).unwrap_err();
        assert!(
            error.to_string().starts_with("retry.first is 0ns"),
            "{error}"
        );
    });
}

/// The first try may have worked, and later the LBS may have forgotten the batch.
#[test]
fn a_producer_gives_up_while_the_lbs_is_sure_to_remember_the_batch() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let (given, way) = Way::of(&fleet);
        way.cut();
        let producer = Producer::new("orders", &given, sim.clone()).unwrap();
        let producer = producer.retry(RetryPolicy::UNLIMITED).unwrap();
        let began = sim.now();
        producer.submit("s", Info::NONE).await.unwrap_err();
        let took = sim.now().saturating_since(began);
        let expected = Duration::from_secs(240)..=Duration::from_secs(300);
        assert!(expected.contains(&took), "{took:?}");
    });
}

/// A job that is run again, by another process, with the key that it was given.
#[test]
fn a_lost_answer_announces_nothing_twice_and_is_told_as_announced() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let (given, way) = Way::of(&fleet);
        let producer = Producer::new("orders", &given, sim.clone()).unwrap();
        way.transport.lose_reply(Operation::Submit);
        let outcome = producer.submit_if_absent("s", Info::NONE).await.unwrap();
        assert!(
            matches!(outcome, SubmitOutcome::Announced(_)),
            "{outcome:?}"
        );
        assert_eq!(way.transport.calls(Operation::Submit), 2);
        let there = SubmitOutcome::AlreadyAnnounced(outcome.entry());
        let again = producer.submit_all_if_absent(["s", "t"]).await.unwrap();
        assert_eq!(again[0], there);
        assert!(matches!(again[1], SubmitOutcome::Announced(_)), "{again:?}");
        let _node = fleet.start("n").await;
        assert_eq!(fleet.left().await.len(), 2);
    });
}

#[test]
fn a_batch_that_is_submitted_again_by_its_key_doubles_nothing() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let names = ["s", "t", "u"];
        let batch = || SubmitBatch::with_key("import-2026-11-28", announcements(&names)).unwrap();
        let first = fleet.producer().submit_batch(&batch()).await.unwrap();
        let again = fleet.producer().submit_batch(&batch()).await.unwrap();
        let told = |outcome: &SubmitOutcome| SubmitOutcome::AlreadySubmitted(outcome.entry());
        assert_eq!(again, first.iter().map(told).collect::<Vec<_>>());
        let other = SubmitBatch::with_key("import-2026-11-29", announcements(&names)).unwrap();
        let other = fleet.producer().submit_batch(&other).await.unwrap();
        assert!(other.iter().all(|entry| !first.contains(entry)));
        // Others before it, and in another order.
        let more = announcements(&["v", "u", "s", "t"]);
        let more = SubmitBatch::with_key("import-2026-11-28", more).unwrap();
        let more = fleet.producer().submit_batch(&more).await.unwrap();
        assert!(matches!(more[0], SubmitOutcome::Announced(_)), "{more:?}");
        assert_eq!(more[1..], [again[2], again[0], again[1]]);
        let _node = fleet.start("n").await;
        assert_eq!(fleet.left().await.len(), 7);
    });
}

/// What it was never allowed is an error at once, what it has done before an outage.
#[test]
fn a_producer_waits_for_a_refusal_only_if_it_has_worked_before() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let (given, way) = Way::of(&fleet);
        let producer = Producer::new("orders", &given, sim.clone()).unwrap();
        way.transport.refuse_all();
        let began = sim.now();
        let error = producer.submit("s", Info::NONE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(sim.now(), began);
        way.mend();
        producer.submit("s", Info::NONE).await.unwrap();
        way.transport.refuse_all();
        let mending = async {
            fleet.sleep(Duration::from_secs(5)).await;
            way.mend();
        };
        let submitting = producer.submit("t", Info::NONE);
        let (submitted, ()) = futures_lite::future::zip(submitting, mending).await;
        submitted.unwrap();
    });
}

/// Subscribing is never answered, so that starting takes as long as it may.
#[derive(Debug)]
struct Mute;

#[async_trait::async_trait]
impl streamlease_core::Notifier for Mute {
    async fn subscribe(&self) -> Result<Box<dyn streamlease_core::Subscription>> {
        std::future::pending().await
    }
}

/// What it had taken by then was left to time out with its session, when the process
/// ended right after.
#[test]
fn a_start_that_is_given_up_hands_back_what_it_had_and_closes_its_session() {
    for (session_leases, by_shutdown) in [(true, true), (true, false), (false, true)] {
        let sim = SimRuntime::new(1);
        let fleet = Fleet::new(sim.clone(), session_leases);
        sim.block_on(async {
            let mut backend = fleet.backend.backend(&fleet.service).unwrap();
            let locks = backend.locks.clone();
            backend.notifier = std::sync::Arc::new(Mute);
            fleet.submit(&["s", "t"]).await;
            let process = sim.handle();
            let builder = fleet.builder("n").ttl(Duration::from_secs(60));
            let builder = builder.runtime(process.clone()).backend(Given(backend));
            let (client, events) = builder.start().unwrap();
            let starting = async {
                client.started().await.unwrap();
                panic!("it starts without hints, later");
            };
            let given_up = fleet.sleep(Duration::from_secs(1));
            futures_lite::future::or(given_up, starting).await;
            // Per-stream locks in memory keep no sessions.
            if let Some(sessions) = locks.sessions() {
                assert_eq!(sessions.members().await.unwrap().len(), 1);
            }
            if by_shutdown {
                client.shutdown().await.unwrap();
                let told = client.started().await.unwrap_err();
                assert_eq!(told.kind(), ErrorKind::Closed, "{told}");
            } else {
                drop((client, events));
                fleet.sleep(Duration::from_millis(100)).await;
            }
            if let Some(sessions) = locks.sessions() {
                assert_eq!(sessions.members().await.unwrap(), []);
            }
            let mut other = fleet.start("o").await;
            for _ in 0..2 {
                other.lease(Duration::from_secs(1)).await;
            }
        });
    }
}
