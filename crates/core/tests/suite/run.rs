//! [`Client::run`]: what it makes of a handler's outcome, of a lost lease and of a stop.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    Backend, BackendProvider, ClaimMode::Manual, ConsumerName, Done, ErrorKind, Event, RetryPolicy,
    Run, Runtime, ServiceName, Timestamp,
};
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimHandle;

use crate::common::{Node, TTL, everywhere};

const LONG: Duration = Duration::from_secs(60);

/// Resolves at that time.
fn at(process: &SimHandle, after: Duration) -> impl Future<Output = ()> + Send + 'static {
    process.sleep_until(process.now() + after)
}

/// Tells when it is dropped.
struct Dropped(Arc<Mutex<Option<Timestamp>>>, SimHandle);

impl Drop for Dropped {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = Some(self.1.now());
    }
}

#[test]
fn each_outcome_ends_its_lease_and_a_panic_is_a_failure_with_its_words() {
    everywhere(async |fleet| {
        fleet
            .submit(&["fine", "returns", "fails", "panics", "early", "handed"])
            .await;
        let Node {
            process,
            client,
            events,
        } = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(2)))
            .await;
        let calls: Mutex<BTreeMap<String, usize>> = Mutex::default();
        let stop = at(&process, LONG * 5);
        let handler = |lease: Arc<streamlease_core::Lease>, _| {
            let name = lease.stream().to_string();
            *calls.lock().unwrap().entry(name.clone()).or_default() += 1;
            if name == "early" {
                panic!("it made no future");
            }
            async move {
                match &*name {
                    "fine" => Done::from(()),
                    "returns" => Done::from(Ok::<(), String>(())),
                    "fails" => Done::from(Err::<(), _>("no such codec")),
                    "handed" if lease.claimed_from().is_none() => {
                        Done::from(Ok::<_, String>(Done::HandBack))
                    }
                    "handed" => Done::Complete,
                    _ => panic!("index out of {}", "bounds"),
                }
            }
        };
        // Handed back, it comes from this consumer itself again: another one takes it.
        let mut b = fleet.start_with(fleet.builder("b").capacity(1)).await;
        let other = async {
            loop {
                if let Event::StreamAdded(lease) = b.event(LONG * 10).await
                    && lease.stream().as_str() == "handed"
                {
                    lease.complete().await.unwrap();
                }
            }
        };
        let ran = client.run(events, Run::until(stop), handler);
        future::or(ran, other).await.unwrap();
        b.client.shutdown().await.unwrap();
        fleet.assert_nothing_left().await;
        let calls = calls.into_inner().unwrap();
        assert!(calls["fine"] <= 1 && calls["returns"] <= 1, "{calls:?}");
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let quarantined = backend
            .admin
            .list_quarantined(streamlease_core::EntryId::MIN, 10)
            .await
            .unwrap();
        let said: BTreeSet<_> = quarantined
            .iter()
            .flat_map(|entry| entry.reasons.iter().map(String::as_str))
            .collect();
        let expected = [
            "its handler panicked: index out of bounds",
            "its handler panicked: it made no future",
            "no such codec",
        ];
        assert_eq!(said, BTreeSet::from(expected));
        assert_eq!(quarantined.len(), 3, "{quarantined:?}");
    });
}

#[test]
fn a_handler_is_dropped_when_its_lease_is_lost_or_only_told_if_wished() {
    for drops in [true, false] {
        everywhere(async |fleet| {
            let faults = Faults::new();
            let backend = fleet.backend.backend(&fleet.service).unwrap();
            let cut = streamlease_core::decorate::decorate(backend, faults.clone());
            let node = fleet
                .start_with(fleet.builder("a").backend(Given(cut)))
                .await;
            fleet.submit(&["s"]).await;
            let (dropped, told) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
            let handler = |lease: Arc<streamlease_core::Lease>, _| {
                let guard = Dropped(dropped.clone(), node.process.clone());
                let (process, told) = (node.process.clone(), told.clone());
                async move {
                    lease.lost().await;
                    *told.lock().unwrap() = Some(process.now());
                    future::pending::<()>().await;
                    drop(guard);
                }
            };
            let broken_at = fleet.sim.now() + TTL;
            let breaking = async {
                fleet.sim.sleep_until(broken_at).await;
                faults.break_all();
                future::pending::<()>().await;
            };
            let stop = at(&node.process, TTL * 5);
            let options = Run::until(stop).grace(Duration::ZERO).drop_when_lost(drops);
            let ran = async {
                node.client
                    .run(node.events, options, handler)
                    .await
                    .unwrap();
            };
            future::or(ran, breaking).await;
            let (dropped, told) = (dropped.lock().unwrap().unwrap(), *told.lock().unwrap());
            let lost_by = broken_at + TTL;
            match drops {
                true => assert!(dropped <= lost_by && told.is_none(), "{dropped:?} {told:?}"),
                false => assert!(told.unwrap() <= lost_by && dropped > lost_by, "{told:?}"),
            }
        });
    }
}

/// It sees the answer, and what stands behind the call is run.
#[test]
fn a_handler_that_ends_its_lease_itself_runs_to_its_end() {
    everywhere(async |fleet| {
        let names = ["completes", "hands back", "fails"];
        fleet.submit(&names).await;
        let node = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(1)))
            .await;
        let went_on: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let handler = |lease: Arc<streamlease_core::Lease>, _| {
            let went_on = went_on.clone();
            async move {
                match lease.stream().as_str() {
                    "hands back" if lease.claimed_from().is_none() => {
                        lease.hand_back().await.map(drop).unwrap();
                    }
                    "fails" => lease.fail("no such codec").await.map(drop).unwrap(),
                    _ => lease.complete().await.map(drop).unwrap(),
                }
                went_on.lock().unwrap().insert(lease.stream().to_string());
            }
        };
        let stop = at(&node.process, LONG);
        node.client
            .run(node.events, Run::until(stop), handler)
            .await
            .unwrap();
        let went_on = went_on.lock().unwrap().clone();
        assert_eq!(went_on, names.map(String::from).into());
    });
}

/// A call that it no longer waits for tells it nothing.
#[test]
fn a_handler_that_gives_up_a_call_is_dropped_when_its_lease_is_lost() {
    everywhere(async |fleet| {
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let cut = streamlease_core::decorate::decorate(backend, faults.clone());
        let node = fleet
            .start_with(fleet.builder("a").backend(Given(cut)))
            .await;
        fleet.submit(&["s"]).await;
        let dropped = Arc::new(Mutex::new(None));
        let handler = |lease: Arc<streamlease_core::Lease>, _| {
            let guard = Dropped(dropped.clone(), node.process.clone());
            let (process, faults) = (node.process.clone(), faults.clone());
            async move {
                faults.break_all();
                let too_late = at(&process, TTL / 10);
                future::or(async { drop(lease.complete().await) }, too_late).await;
                future::pending::<()>().await;
                drop(guard);
            }
        };
        let stop = at(&node.process, TTL * 5);
        let options = Run::until(stop).grace(Duration::ZERO);
        let ran = node.client.run(node.events, options, handler).await;
        ran.unwrap();
        let dropped = dropped.lock().unwrap().unwrap();
        assert!(dropped <= fleet.sim.now() - TTL * 2, "{dropped:?}");
    });
}

#[test]
fn a_stop_tells_handlers_waits_for_them_and_hands_the_rest_back() {
    everywhere(async |fleet| {
        let node = fleet.start("a").await;
        fleet.submit(&["quick", "slow", "deaf"]).await;
        let began = fleet.sim.now();
        let grace = Duration::from_secs(5);
        let process = node.process.clone();
        let handler = |lease: Arc<streamlease_core::Lease>,
                       stopping: streamlease_core::Stopping| {
            let process = process.clone();
            async move {
                match lease.stream().as_str() {
                    "deaf" => future::pending().await,
                    name => {
                        stopping.requested().await;
                        assert!(stopping.is_requested());
                        let wait = Duration::from_secs(if name == "slow" { 3 } else { 0 });
                        process.sleep_until(process.now() + wait).await;
                    }
                }
            }
        };
        let stop = at(&node.process, TTL);
        let late = async {
            fleet
                .sim
                .sleep_until(began + TTL + Duration::from_secs(1))
                .await;
            // Nobody is there for it.
            fleet.submit(&["late"]).await;
            future::pending::<streamlease_core::Result<()>>().await
        };
        let ran = node
            .client
            .run(node.events, Run::until(stop).grace(grace), handler);
        future::or(ran, late).await.unwrap();
        let took = fleet.sim.now().saturating_since(began + TTL);
        assert!(
            took >= grace && took < grace + Duration::from_secs(1),
            "{took:?}"
        );
        let mut b = fleet.start("b").await;
        let mut names: Vec<_> = Vec::new();
        for _ in 0..2 {
            // At once: both were handed back, or never taken.
            let lease = b.lease(Duration::from_millis(500)).await;
            names.push(lease.stream().to_string());
            lease.complete().await.unwrap();
        }
        names.sort();
        assert_eq!(names, ["deaf", "late"]);
        fleet.assert_nothing_left().await;
    });
}

/// Whoever works on in the grace hears of a loss, and why, as before the stop.
#[test]
fn what_is_lost_in_the_grace_is_told_with_its_reason() {
    everywhere(async |fleet| {
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let cut = streamlease_core::decorate::decorate(backend, faults.clone());
        let builder = fleet.builder("a").backend(Given(cut)).claim_mode(Manual);
        let node = fleet.start_with(builder).await;
        fleet.submit(&["cancelled", "expires"]).await;
        let handler = |lease: Arc<streamlease_core::Lease>, _| async move {
            lease.lost().await;
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let options = Run::until(async move { stopped.recv().await })
            .grace(LONG)
            .drop_when_lost(false)
            .on_event(move |event| {
                let what = match event {
                    Event::StreamDisowned(lost) => {
                        format!("{} {}", lost.stream(), lost.reason().as_str())
                    }
                    Event::StreamExpired(orphan) => format!("{} expired", orphan.stream()),
                    other => panic!("{other:?}"),
                };
                told.lock().unwrap().push(what);
            });
        let course = async {
            while node.client.health().held < 2 {
                fleet.sleep(TTL / 10).await;
            }
            stop.close();
            // What is announced or lost its owner from here on is not for this client.
            fleet.sleep(TTL / 10).await;
            assert!(node.client.health().ending);
            fleet.submit(&["late"]).await;
            let mut doomed = fleet.start("b").await;
            let late = doomed.lease(TTL).await;
            doomed.process.kill();
            drop(late);
            let name = streamlease_core::StreamName::new("cancelled").unwrap();
            let canceller = streamlease_core::Canceller::new("orders", &fleet.backend).unwrap();
            canceller.cancel(&[name]).await.unwrap();
            while seen.lock().unwrap().is_empty() {
                fleet.sleep(TTL / 10).await;
            }
            faults.break_all();
        };
        let ran = node.client.run(node.events, options, handler);
        let _ = future::zip(ran, course).await;
        let by_operator = match fleet.session_leases {
            true => "cancelled cancelled",
            false => "cancelled entry_gone",
        };
        assert_eq!(*seen.lock().unwrap(), [by_operator, "expires expired"]);
    });
}

#[test]
fn who_gives_up_makes_run_fail_and_who_is_shut_down_does_not() {
    everywhere(async |fleet| {
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let broken = streamlease_core::decorate::decorate(backend, faults.clone());
        faults.break_all();
        let builder = fleet.builder("a").retry(RetryPolicy::NONE);
        let (client, events) = builder
            .backend(Given(broken))
            .runtime(fleet.sim.handle())
            .start()
            .unwrap();
        let ran = client.run(events, Run::forever(), |_, _| async {}).await;
        assert_eq!(ran.unwrap_err().kind(), ErrorKind::Unavailable);
        let err = client.shutdown().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);

        let node = fleet.start("b").await;
        let shut_down = async {
            fleet.sleep(TTL).await;
            node.client.shutdown().await.unwrap();
            future::pending().await
        };
        let ran = node
            .client
            .run(node.events, Run::forever(), |_, _| async {});
        future::or(ran, shut_down).await.unwrap();

        // Its executor drops its task, and nobody says `Terminated`.
        let node = fleet.start("c").await;
        let killed = async {
            fleet.sleep(TTL).await;
            node.process.kill();
            future::pending().await
        };
        let ran = node
            .client
            .run(node.events, Run::forever(), |_, _| async {});
        let err = future::or(ran, killed).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Closed);
    });
}

#[test]
fn an_end_that_nobody_asked_for_is_an_error_of_shutdown_and_the_last_event() {
    everywhere(async |fleet| {
        let mut node = fleet.start("a").await;
        node.client.shutdown().await.unwrap();
        let Event::Terminated(end) = node.event(TTL).await else {
            panic!("another event")
        };
        end.into_result().unwrap();
        assert!(node.events.next().await.is_none());
        node.client.shutdown().await.unwrap();

        // Its executor drops its task, which says nothing any more.
        for at_once in [true, false] {
            let mut node = fleet.start("b").await;
            node.process.kill();
            let event = match at_once {
                true => node.events.try_next(),
                false => node.try_event(TTL).await,
            };
            let Some(Event::Terminated(end)) = event else {
                panic!("{event:?}")
            };
            assert_eq!(end.into_result().unwrap_err().kind(), ErrorKind::Closed);
            assert!(node.events.next().await.is_none() && node.events.try_next().is_none());
            let err = node.client.shutdown().await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Closed);
        }
    });
}

#[test]
fn who_asks_for_them_is_told_of_the_events_that_bring_no_lease() {
    everywhere(async |fleet| {
        let (tell, told) = async_channel::unbounded();
        let mut doomed = fleet.start("b").await;
        fleet.submit(&["orphan"]).await;
        let lease = doomed.lease(TTL).await;
        doomed.process.kill();
        let faults = Faults::new();
        let backend = fleet.backend.backend(&fleet.service).unwrap();
        let cut = streamlease_core::decorate::decorate(backend, faults.clone());
        let builder = fleet.builder("a").backend(Given(cut)).claim_mode(Manual);
        let builder = builder.quarantine_after(Some(2)).retry(RetryPolicy::NONE);
        let (client, events) = builder.runtime(fleet.sim.handle()).start().unwrap();
        let handler = |lease: Arc<streamlease_core::Lease>, _| {
            let tell = tell.clone();
            async move {
                if lease.stream().as_str() == "fails" {
                    return Done::Fail("it had to".into());
                }
                // Its answer arrives.
                let completion = lease.complete().await.unwrap();
                tell.try_send(format!("{} {completion:?}", lease.stream()))
                    .unwrap();
                Done::HandBack
            }
        };
        let (to, from) = async_channel::unbounded();
        let options = Run::forever()
            .drop_when_lost(false)
            .on_event(move |event| to.try_send(event).unwrap());
        let seen = Mutex::new(BTreeSet::new());
        let claims = async {
            while let Ok(event) = from.recv().await {
                let what = match event {
                    Event::StreamExpired(orphan) => {
                        client.claim(&orphan).await.unwrap();
                        format!("{} expired", orphan.stream())
                    }
                    Event::Quarantined(entry) => entry.failures().join(" and "),
                    Event::Terminated(end) => {
                        assert!(!end.is_shutdown());
                        "terminated".to_owned()
                    }
                    other => panic!("{other:?}"),
                };
                seen.lock().unwrap().insert(what);
            }
        };
        let course = async {
            fleet.submit(&["fails", "ends itself"]).await;
            while told.len() < 2 || !seen.lock().unwrap().contains("it had to and it had to") {
                fleet.sleep(TTL).await;
            }
            faults.break_all();
        };
        let ran = client.run(events, options, handler);
        let ((ran, ()), ()) = future::zip(future::zip(ran, claims), course).await;
        assert_eq!(ran.unwrap_err().kind(), ErrorKind::Unavailable);
        let seen = seen.into_inner().unwrap();
        let expected = [
            "fails expired",
            "it had to and it had to",
            "orphan expired",
            "terminated",
        ]
        .map(String::from);
        assert_eq!(seen, BTreeSet::from(expected));
        drop(lease);
        let mut completed: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        completed.sort();
        assert_eq!(completed, ["ends itself Completed", "orphan Completed"]);
    });
}

#[test]
fn dropping_it_drops_the_handlers_and_hands_back() {
    everywhere(async |fleet| {
        let node = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        let (begun, ended) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let handler = |_, _| {
            begun.fetch_add(1, Ordering::Relaxed);
            let ended = ended.clone();
            async move {
                future::pending::<()>().await;
                ended.store(true, Ordering::Relaxed);
            }
        };
        // It hears of the hand back.
        let b = async {
            fleet.sleep(TTL / 2).await;
            let b = fleet.start("b").await;
            fleet.sleep(TTL / 2).await;
            b
        };
        let ran = async {
            let _ = node.client.run(node.events, Run::forever(), handler).await;
            unreachable!("it runs for ever");
        };
        let mut b = future::or(ran, b).await;
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        let lease = b.lease(Duration::from_millis(500)).await;
        assert_eq!(
            lease.claimed_from().map(ConsumerName::as_str),
            Some(node.client.id().as_str())
        );
        lease.complete().await.unwrap();
        assert!(!ended.load(Ordering::Relaxed));
    });
}

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> streamlease_core::Result<Backend> {
        Ok(self.0.clone())
    }
}

/// An error with a cause, as `thiserror` makes them; `true`: its own text ends with the cause's.
#[derive(Debug)]
struct Caused(&'static str, Option<Box<Caused>>, bool);

impl std::fmt::Display for Caused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.1, self.2) {
            (Some(cause), true) => write!(f, "{}: {cause}", self.0),
            _ => f.write_str(self.0),
        }
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.1.as_deref()?)
    }
}

#[test]
fn the_reason_of_a_failure_names_its_causes_once() {
    let caused = |tells| {
        let refused = Caused("connection refused", None, false);
        let store = Caused("the store is away", Some(Box::new(refused)), tells);
        Caused("saving the call", Some(Box::new(store)), false)
    };
    let all = "saving the call: the store is away: connection refused";
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(caused(false));
    for (done, reason) in [
        (Done::from(Err::<(), _>(caused(false))), all),
        (Done::from(Err::<(), _>(caused(true))), all),
        (Done::from(Err::<Done, _>(boxed)), all),
        (Done::from(Err::<(), _>("no such codec")), "no such codec"),
        (Done::from(Err::<(), _>("a text".to_owned())), "a text"),
    ] {
        assert_eq!(done, Done::Fail(reason.to_owned()));
    }
}

#[test]
fn the_events_of_another_client_are_refused_at_once() {
    everywhere(async |fleet| {
        let a = fleet.start("a").await;
        let b = fleet.start("b").await;
        let begun = a.process.now();
        let stop = Run::until(at(&a.process, TTL));
        let ran = a.client.run(b.events, stop, async |_, _| ());
        let error = ran.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("another client's"), "{error}");
        assert_eq!(a.process.now(), begun);
        // A clone is the same client.
        let stop = Run::until(at(&a.process, TTL));
        let clone = a.client.clone();
        clone.run(a.events, stop, async |_, _| ()).await.unwrap();
    });
}

/// It leaves what it gave up to others, also if there are none.
#[test]
fn alone_a_worker_has_back_what_failed_or_was_handed_back_after_a_ttl() {
    everywhere(async |fleet| {
        fleet.submit(&["fails", "handed"]).await;
        let node = fleet.start("a").await;
        let begun: Mutex<BTreeMap<String, Vec<Timestamp>>> = Mutex::default();
        let handler = |lease: Arc<streamlease_core::Lease>, _| {
            let name = lease.stream().to_string();
            let mut begun = begun.lock().unwrap();
            let begun = begun.entry(name.clone()).or_default();
            begun.push(node.process.now());
            let is_again = begun.len() > 1;
            async move {
                match &*name {
                    _ if is_again => Done::Complete,
                    "fails" => Done::Fail("for now".to_owned()),
                    _ => Done::HandBack,
                }
            }
        };
        let stop = Run::until(at(&node.process, TTL * 4));
        node.client.run(node.events, stop, handler).await.unwrap();
        for (name, at) in &*begun.lock().unwrap() {
            let after = at[1].saturating_since(at[0]);
            assert!(after >= TTL && after < TTL * 3 / 2, "{name}: {after:?}");
        }
    });
}
