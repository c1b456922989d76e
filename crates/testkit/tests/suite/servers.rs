//! What can happen to the servers that real clients are simulated on, and on the
//! way to them.

use std::time::Duration;

use streamlease_core::{
    Acquire, AcquireOutcome, Announcement, Backend, BackendProvider, ConsumerName, EntryId,
    ErrorKind, FencingToken, FetchRequest, Hint, Info, LockId, LockScheme, LockState, Runtime,
    Scope, ServiceName, Session, SessionId, StreamName, SubmitBatch, SubmitOutcome,
};
use streamlease_testkit::simulation::Network;
use streamlease_testkit::simulation::SimRuntime;
use streamlease_testkit::simulation::fleet::{HintsAre, SimBackend, SimServers};

const SECOND: Duration = Duration::from_secs(1);

fn servers(seed: u64) -> (SimRuntime, SimServers) {
    let sim = SimRuntime::new(seed);
    let servers = SimServers::new(&sim, "orders", LockScheme::Session);
    (sim, servers)
}

fn parts(backend: &SimBackend) -> Backend {
    let service = ServiceName::new("orders").expect("a valid name");
    backend.backend(&service).expect("its own service")
}

fn stream(nth: u128) -> StreamName {
    StreamName::new(format!("s{nth}")).expect("a valid name")
}

fn batch(id: u128) -> SubmitBatch {
    SubmitBatch::with_id(id, vec![Announcement::new(stream(id), Info::NONE)])
}

async fn pass(sim: &SimRuntime, time: Duration) {
    sim.sleep_until(sim.now() + time).await;
}

/// A session that holds `s0`.
async fn hold(backend: &SimBackend) -> (Session, LockId) {
    let locks = parts(backend).locks;
    let session = Session::new(SessionId::new(ConsumerName::from_wire("a"), 1), 5 * SECOND);
    let sessions = locks.sessions().expect("it keeps sessions");
    sessions.open(&session).await.expect("open");
    let request = Acquire::new(stream(0), EntryId::new(1, 0), 1, FencingToken::NONE);
    let outcome = locks.acquire(&session, std::slice::from_ref(&request));
    let outcome = outcome.await.expect("acquire");
    assert!(matches!(outcome[..], [AcquireOutcome::Acquired(_)]));
    let (stream, entry) = (request.stream, request.entry);
    (session, LockId { stream, entry })
}

async fn is_free(backend: &SimBackend, lock: &LockId) -> bool {
    let states = parts(backend)
        .locks
        .inspect(std::slice::from_ref(lock))
        .await;
    states.expect("inspect") == [LockState::Free]
}

#[test]
fn a_lost_request_does_nothing_and_a_lost_reply_hides_what_was_done() {
    let (sim, servers) = servers(1);
    sim.block_on(async {
        let backend = servers.backend();
        let lbs = parts(&backend);
        backend.lose_requests(10 * SECOND);
        let lost = lbs
            .submitter
            .submit(&batch(1))
            .await
            .expect_err("nobody hears it");
        assert_eq!(lost.kind(), ErrorKind::Unavailable);
        assert_eq!(servers.left(), []);
        pass(&sim, 10 * SECOND).await;
        backend.lose_replies(10 * SECOND);
        lbs.submitter
            .submit(&batch(1))
            .await
            .expect_err("nobody answers");
        assert_eq!(servers.left().len(), 1);
        // Other backends are whole, and the repeat appends nothing.
        let outcomes = parts(&servers.backend()).submitter.submit(&batch(1)).await;
        let outcomes = outcomes.expect("submit").into_iter();
        let entries: Vec<_> = outcomes.map(SubmitOutcome::entry).collect();
        assert_eq!(entries, servers.left());
    });
}

#[test]
fn late_messages_are_overtaken() {
    let (sim, servers) = servers(2);
    servers.set_network(Network {
        lost: 0,
        late: 500,
        most_late: SECOND,
    });
    sim.block_on(async {
        let backend = servers.backend();
        for id in 0..20 {
            let lbs = parts(&backend);
            sim.spawn(Box::pin(async move {
                lbs.submitter
                    .submit(&batch(id))
                    .await
                    .expect("late is not lost");
            }));
            pass(&sim, Duration::from_millis(2)).await;
        }
        pass(&sim, 2 * SECOND).await;
        servers.heal();
        let lbs = parts(&backend);
        let listed = lbs.admin.list_undelivered(EntryId::MIN, 99).await;
        let listed = listed.expect("list_undelivered");
        let streams: Vec<_> = listed
            .into_iter()
            .map(|delivery| delivery.content.expect("readable").stream)
            .collect();
        let sent: Vec<_> = (0..20).map(stream).collect();
        assert_eq!(streams.len(), sent.len());
        assert_ne!(streams, sent, "none was overtaken");
    });
}

#[test]
fn a_request_arrives_although_its_sender_is_gone() {
    let (sim, servers) = servers(3);
    sim.block_on(async {
        let (process, lbs) = (sim.handle(), parts(&servers.backend()));
        let (sending, is_sending) = async_channel::bounded::<()>(1);
        process.spawn(Box::pin(async move {
            drop(sending);
            let _ = lbs.submitter.submit(&batch(1)).await;
        }));
        // The channel is closed within the poll that sends the request.
        let _ = is_sending.recv().await;
        process.kill();
        assert_eq!(servers.left(), []);
        pass(&sim, SECOND).await;
        assert_eq!(servers.left().len(), 1);
    });
}

#[test]
fn hints_are_silent_or_come_any_number_of_times() {
    let (sim, servers) = servers(4);
    sim.block_on(async {
        let backend = servers.backend();
        let mut hints = parts(&backend)
            .notifier
            .subscribe()
            .await
            .expect("subscribe");
        let mut heard = async |are| {
            servers.set_hints(are);
            for nth in 0..20 {
                let consumer = ConsumerName::from_wire("a");
                let session = SessionId::new(consumer, sim.random(u64::MAX) + nth);
                parts(&backend)
                    .locks
                    .sessions()
                    .unwrap()
                    .close(&session)
                    .await
                    .expect("close");
            }
            let mut heard = 0;
            loop {
                let next = async { Some(hints.next().await.expect("a hint")) };
                let silence = async {
                    pass(&sim, 5 * SECOND).await;
                    None
                };
                match futures_lite::future::or(next, silence).await {
                    Some(Hint::HolderGone(_)) => heard += 1,
                    Some(other) => panic!("{other:?}"),
                    None => return heard,
                }
            }
        };
        assert_eq!(heard(HintsAre::Silent).await, 0);
        assert_eq!(heard(HintsAre::Fine).await, 20);
        // 0, 1 or 2 times each.
        let bad = heard(HintsAre::Bad(SECOND)).await;
        assert!((10..=30).contains(&bad) && bad != 20, "{bad}");
    });
}

#[test]
fn a_lock_server_forgets_what_it_lost_and_nothing_else() {
    let (sim, servers) = servers(5);
    sim.block_on(async {
        let backend = servers.backend();
        // It has a state from before.
        pass(&sim, 3 * SECOND).await;
        let (_, lock) = hold(&backend).await;
        pass(&sim, SECOND).await;
        servers.restart_locks(Duration::ZERO, SECOND);
        let error = parts(&backend).locks.sessions().unwrap().members().await;
        assert_eq!(
            error.expect_err("it is down").kind(),
            ErrorKind::Unavailable
        );
        pass(&sim, SECOND).await;
        assert!(!is_free(&backend, &lock).await);
        assert!(servers.lossy().is_empty());
        servers.restart_locks(3 * SECOND, Duration::ZERO);
        assert!(is_free(&backend, &lock).await);
        assert!(!servers.lossy().is_empty());
    });
}

#[test]
fn a_restored_lbs_has_what_it_had() {
    let (sim, servers) = servers(6);
    sim.block_on(async {
        let lbs = parts(&servers.backend());
        assert!(!servers.restore_lbs(SECOND), "there was nothing yet");
        let first = lbs.submitter.submit(&batch(1)).await.expect("submit");
        pass(&sim, 2 * SECOND).await;
        lbs.submitter.submit(&batch(2)).await.expect("submit");
        assert_eq!(servers.left().len(), 2);
        assert!(servers.restore_lbs(SECOND));
        assert_eq!(servers.left(), [first[0].entry()]);
        assert!(!servers.lossy().is_empty());
        // It does not know the second batch any more.
        lbs.submitter.submit(&batch(2)).await.expect("submit");
        assert_eq!(servers.left().len(), 2);
    });
}

#[test]
fn a_clock_that_leaps_further_than_the_margin_costs_the_durable_class() {
    let (sim, servers) = servers(7);
    sim.block_on(async {
        // Its TTL is 5 s, the margin 500 ms, of which drift may take 150.
        hold(&servers.backend()).await;
        servers.step_locks_clock(-60_000);
        servers.step_locks_clock(300);
        assert!(servers.lossy().is_empty());
        // Together with the one before.
        servers.step_locks_clock(100);
        assert!(!servers.lossy().is_empty());
    });
}

#[test]
fn on_a_thin_link_replies_are_as_late_as_they_are_long_and_pages_are_short() {
    let (sim, servers) = servers(9);
    sim.block_on(async {
        let backend = servers.backend();
        let lbs = parts(&backend);
        lbs.transport.prepare().await.expect("prepare");
        for id in 1..=6 {
            lbs.submitter.submit(&batch(id)).await.expect("submit");
        }
        backend.narrow(SECOND / 10, 10 * SECOND);
        let consumer = ConsumerName::from_wire("a");
        let request = FetchRequest::new(consumer.clone(), 6, Duration::ZERO);
        let (mut fetched, asked) = (0, sim.now());
        while fetched < 6 {
            let page = lbs.transport.fetch(&request).await.expect("fetch").entries;
            assert_eq!(page.len(), 2, "a fifth of a second each");
            fetched += page.len();
        }
        let took = sim.now().saturating_since(asked);
        assert!(took > 6 * SECOND / 10 && took < 7 * SECOND / 10, "{took:?}");
        // A heartbeat waits for none of that, whoever reads.
        let (mut after, mut pages) = (EntryId::MIN, 0);
        loop {
            let scope = Scope::All { after };
            let heartbeat = async {
                let asked = sim.now();
                parts(&backend)
                    .locks
                    .sessions()
                    .unwrap()
                    .members()
                    .await
                    .expect("members");
                let took = sim.now().saturating_since(asked);
                assert!(took < SECOND / 100, "{took:?}");
            };
            let (page, ()) =
                futures_lite::future::zip(lbs.transport.list_pending(&scope, 6), heartbeat).await;
            pages += 1;
            match page.expect("list_pending").next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(pages, 3);
    });
}

#[test]
fn another_service_needs_its_own_servers() {
    let (_, servers) = servers(8);
    let other = ServiceName::new("calls").expect("a valid name");
    let error = servers
        .backend()
        .backend(&other)
        .expect_err("not its service");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("orders"), "{error}");
}
