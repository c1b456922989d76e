//! Calls that are never answered: nobody waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use log::Level;
use streamlease_core::Operation;
use streamlease_core::decorate::decorate;
use streamlease_core::{
    Backend, BackendProvider, BoxFuture, Error, ErrorKind, Hint, Lease, Notifier, Result, Runtime,
    ServiceName, Subscription, Timestamp,
};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, Node, lines};

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// Its server accepts connections and says nothing.
#[derive(Debug)]
struct Mute;

#[async_trait]
impl Notifier for Mute {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        std::future::pending().await
    }
}

#[test]
fn a_client_starts_without_hints_if_subscribing_is_never_answered() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        backend.notifier = std::sync::Arc::new(Mute);
        let begun = sim.now();
        let builder = fleet.builder("n").backend(Given(backend));
        let mut node = fleet.start_with(builder).await;
        assert!(sim.now() < begun + Duration::from_secs(10));
        fleet.submit(&["s"]).await;
        node.lease(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_completion_that_is_never_answered_is_repeated_soon_whatever_the_ttl() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let faults = Faults::new();
        backend.transport = decorate(backend.clone(), faults.clone()).transport;
        let held = faults.hold(Operation::Complete);
        let ttl = Duration::from_secs(3600);
        let builder = fleet.builder("n").ttl(ttl).backend(Given(backend));
        let mut node = fleet.start_with(builder).await;
        fleet.submit(&["s"]).await;
        let lease = node.lease(Duration::from_secs(1)).await;
        let begun = sim.now();
        lease.complete().await.unwrap();
        assert!(sim.now() < begun + Duration::from_secs(15));
        drop(held);
        fleet.assert_nothing_left().await;
    });
}

#[test]
fn a_client_starts_soon_whatever_the_ttl_if_opening_its_session_is_not_answered() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let faults = Faults::new();
        backend.locks = decorate(backend.clone(), faults.clone()).locks;
        let held = faults.hold(Operation::Open);
        let ttl = Duration::from_secs(3600);
        let builder = fleet.builder("n").ttl(ttl).backend(Given(backend));
        within(&sim, Duration::from_secs(15), fleet.start_with(builder)).await;
        drop(held);
    });
}

/// Drops the driver when told to, as executors do with a task that panics.
#[derive(Debug)]
struct Dropping {
    sim: SimRuntime,
    spawned: AtomicUsize,
    now: async_channel::Receiver<()>,
}

impl Runtime for Dropping {
    fn now(&self) -> Timestamp {
        self.sim.now()
    }

    fn suspended(&self) -> Duration {
        self.sim.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.sim.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // The first is the driver.
        if self.spawned.fetch_add(1, Ordering::Relaxed) > 0 {
            return self.sim.spawn(task);
        }
        let now = self.now.clone();
        let dropped = async move {
            let _ = now.recv().await;
        };
        self.sim
            .spawn(Box::pin(futures_lite::future::or(dropped, task)));
    }
}

/// Nobody extends its leases any more, and nobody would have said so.
#[test]
fn a_driver_that_its_executor_drops_takes_its_leases_and_calls_with_it() {
    for session_leases in [true, false] {
        let sim = SimRuntime::new(1);
        let fleet = Fleet::new(sim.clone(), session_leases);
        sim.block_on(async {
            let mut backend = fleet.backend.backend(&fleet.service).unwrap();
            let faults = Faults::new();
            backend.transport = decorate(backend.clone(), faults.clone()).transport;
            let (kill, now) = async_channel::bounded(1);
            let dropping = Dropping {
                sim: sim.clone(),
                spawned: AtomicUsize::new(0),
                now,
            };
            let builder = fleet.builder("n").runtime(dropping).backend(Given(backend));
            let (client, mut events) = builder.start().unwrap();
            client.started().await.unwrap();
            let mut leases = Vec::new();
            for name in ["s", "t"] {
                fleet.submit(&[name]).await;
                let event = within(&sim, Duration::from_secs(1), events.next()).await;
                let Some(streamlease_core::Event::StreamAdded(lease)) = event else {
                    panic!("{event:?}");
                };
                leases.push(lease);
            }
            let [one, other] = <[Lease; 2]>::try_from(leases).unwrap();
            let _held = faults.hold(Operation::Complete);
            let killing = async {
                fleet.sleep(Duration::from_millis(100)).await;
                kill.send(()).await.unwrap();
            };
            let completing = within(&sim, Duration::from_secs(1), one.complete());
            let (completed, ()) = futures_lite::future::zip(completing, killing).await;
            // It may have been executed.
            let unknown = completed.map_err(|error| error.kind());
            assert_eq!(unknown.unwrap_err(), ErrorKind::LeaseEnded);
            assert!(!other.is_valid());
            within(&sim, Duration::from_secs(1), other.lost()).await;
            assert!(other.complete().await.is_ok(), "nothing was done");
            // Nobody has to guess why there are no events any more.
            let last = events.next().await;
            let is_closed = |end: &streamlease_core::Termination| {
                end.error().map(streamlease_core::Error::kind) == Some(ErrorKind::Closed)
            };
            assert!(
                matches!(&last, Some(streamlease_core::Event::Terminated(end)) if is_closed(end)),
                "{last:?}"
            );
            assert!(events.next().await.is_none());
        });
    }
}

/// Every subscription breaks at once.
#[derive(Debug, Default)]
struct Flapping {
    subscribed: Arc<AtomicUsize>,
}

#[async_trait]
impl Notifier for Flapping {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        self.subscribed.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Broken))
    }
}

#[derive(Debug)]
struct Broken;

#[async_trait]
impl Subscription for Broken {
    async fn next(&mut self) -> Result<Hint> {
        Err(Error::new(ErrorKind::Unavailable, "made up"))
    }
}

/// Each new one makes its consumer send a heartbeat and list what it has.
#[test]
fn subscriptions_that_break_at_once_are_had_ever_more_rarely() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let mut backend = fleet.backend.backend(&fleet.service).unwrap();
        let subscribed = Arc::new(AtomicUsize::new(0));
        backend.notifier = Arc::new(Flapping {
            subscribed: subscribed.clone(),
        });
        let builder = fleet.builder("n").backend(Given(backend));
        let _node = fleet.start_with(builder).await;
        fleet.sleep(Duration::from_secs(60)).await;
        let subscribed = subscribed.load(Ordering::Relaxed);
        assert!((10..=20).contains(&subscribed), "{subscribed} in a minute");
    });
}

/// As executors do with a task that panics: every few of the driver's calls end
/// without a word.
#[derive(Debug)]
struct Panicky {
    sim: SimRuntime,
    spawned: AtomicUsize,
    every: usize,
}

impl Runtime for Panicky {
    fn now(&self) -> Timestamp {
        self.sim.now()
    }

    fn suspended(&self) -> Duration {
        self.sim.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.sim.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // The first is the driver.
        let nth = self.spawned.fetch_add(1, Ordering::Relaxed);
        match nth % self.every == 1 {
            true => drop(task),
            false => self.sim.spawn(task),
        }
    }
}

/// A lock manager that panics once must not leave its consumer without heartbeats for good.
#[test]
fn a_call_that_panics_is_an_error_and_no_call_that_is_never_answered() {
    for (every, session_leases) in [(3, true), (4, true), (5, false), (7, false)] {
        let sim = SimRuntime::new(1);
        let fleet = Fleet::new(sim.clone(), session_leases);
        sim.block_on(async {
            let panicky = Panicky {
                sim: sim.clone(),
                spawned: AtomicUsize::new(0),
                every,
            };
            let builder = fleet.builder("n").runtime(panicky);
            let (client, mut events) = builder.start().unwrap();
            let limit = Duration::from_secs(30);
            within(&sim, limit, client.started()).await.unwrap();
            for n in 0..50 {
                fleet.submit(&[&format!("s{n}")]).await;
                let event = within(&sim, limit, events.next()).await;
                let Some(streamlease_core::Event::StreamAdded(lease)) = event else {
                    panic!("{event:?}");
                };
                within(&sim, limit, lease.complete()).await.unwrap();
            }
            within(&sim, limit, client.shutdown()).await.unwrap();
        });
    }
}

/// Each message that the driver handles brings another, until it does something.
#[derive(Debug)]
struct Flood {
    sim: SimRuntime,
    lease: Mutex<Option<Lease>>,
    posts: AtomicUsize,
}

impl Runtime for Flood {
    fn now(&self) -> Timestamp {
        let lease = self.lease.lock().unwrap();
        if let Some(lease) = &*lease
            && self.posts.fetch_add(1, Ordering::Relaxed) < 1_000_000
        {
            lease.set_progress_timeout(None).unwrap();
        }
        self.sim.now()
    }

    fn suspended(&self) -> Duration {
        self.sim.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.sim.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let over = self.lease.lock().unwrap().take();
        drop(over);
        self.sim.spawn(task);
    }
}

#[test]
fn messages_without_end_do_not_keep_the_driver_from_its_work() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    sim.block_on(async {
        let flood = Arc::new(Flood {
            sim: sim.clone(),
            lease: Mutex::new(None),
            posts: AtomicUsize::new(0),
        });
        let (client, mut events) = fleet.builder("n").runtime(flood.clone()).start().unwrap();
        client.started().await.unwrap();
        let mut leases = Vec::new();
        for name in ["s", "t"] {
            fleet.submit(&[name]).await;
            match within(&sim, Duration::from_secs(1), events.next()).await {
                Some(streamlease_core::Event::StreamAdded(lease)) => leases.push(lease),
                other => panic!("{other:?}"),
            }
        }
        let [one, other] = <[Lease; 2]>::try_from(leases).unwrap();
        *flood.lease.lock().unwrap() = Some(one);
        let completing = within(&sim, Duration::from_secs(1), other.complete());
        completing.await.unwrap();
        let posts = flood.posts.load(Ordering::Relaxed);
        assert!((1..100_000).contains(&posts), "{posts} messages first");
    });
}

async fn within<T>(sim: &SimRuntime, limit: Duration, wanted: impl Future<Output = T>) -> T {
    let timeout = async {
        sim.sleep_until(sim.now() + limit).await;
        panic!("not within {limit:?}");
    };
    futures_lite::future::or(wanted, timeout).await
}

/// Whether the log has warned since the last time that a part cannot be reached.
fn has_warned(target: &str) -> bool {
    let is_warning = |line: &lines::Line| {
        line.level == Level::Warn && line.text.contains("cannot be reached, trying again")
    };
    lines::take(target).iter().any(is_warning)
}

/// At an arbitrary moment of a client that holds a stream, with TTLs of one and five seconds.
fn with_a_lease<F: Future<Output = ()>>(
    scenario: impl Fn(Fleet, Duration, Node, Lease, Faults) -> F,
) {
    lines::listen();
    for seed in 1..=20 {
        for session_leases in [true, false] {
            for ttl in [Duration::from_secs(1), Duration::from_secs(5)] {
                let sim = SimRuntime::new(seed);
                let fleet = Fleet::new(sim.clone(), session_leases);
                sim.block_on(async {
                    let backend = fleet.backend.backend(&fleet.service).unwrap();
                    let faults = Faults::new();
                    let backend = Given(decorate(backend, faults.clone()));
                    let builder = fleet.builder("n").ttl(ttl).backend(backend);
                    let mut node = fleet.start_with(builder.log_target("frozen")).await;
                    fleet.submit(&["s"]).await;
                    let lease = node.lease(ttl).await;
                    let moment = sim.random(ttl.as_nanos() as u64);
                    fleet.sleep(ttl + Duration::from_nanos(moment)).await;
                    assert!(!has_warned("frozen"));
                    scenario(fleet.clone(), ttl, node, lease, faults).await;
                });
            }
        }
    }
}

/// The second try came back as the lease ended: nobody had been told until then.
#[test]
fn a_server_that_answers_nothing_is_told_of_before_the_leases_are_lost() {
    with_a_lease(|fleet, ttl, node, lease, faults| async move {
        let node = &node;
        let _frozen = [
            Operation::Renew,
            Operation::Fetch,
            Operation::ListPendingIds,
        ]
        .map(|operation| [(); 20].map(|()| faults.hold(operation)));
        let mut was_told = false;
        let mut left = 0;
        while lease.is_valid() {
            was_told |= has_warned("frozen");
            left += u128::from(was_told);
            let health = node.client.health();
            assert_eq!(health.is_ready(), !was_told, "{health:?}");
            assert_eq!(health.unreachable_for.is_some(), was_told, "{health:?}");
            fleet.sleep(Duration::from_millis(1)).await;
        }
        // There is time to react.
        assert!(left > ttl.as_millis() / 5, "told {left} ms before");
    });
}

#[test]
fn one_heartbeat_without_an_answer_is_no_outage() {
    with_a_lease(|fleet, _, node, lease, faults| async move {
        let node = &node;
        let _lost = faults.hold(Operation::Renew);
        for _ in 0..10_000 {
            fleet.sleep(Duration::from_millis(1)).await;
            let health = node.client.health();
            assert!(lease.is_valid() && health.is_ready(), "{health:?}");
        }
        assert!(!has_warned("frozen"));
    });
}
