//! What the fault-injecting wrappers lose, hold back and delay; and that they
//! change nothing where no fault is set.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use futures_lite::future;
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    Announcement, Backend, BackendProvider, EntryId, ErrorKind, Info, LockManager, ServiceName,
    StreamName, SubmitBatch, Transport,
};
use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::faults::{Faults, FaultyLocks, FaultyTransport, LockCall, TransportCall};
use streamlease_testkit::simulation::SimRuntime;

fn backend(sim: &SimRuntime) -> Backend {
    let service = ServiceName::new("orders").unwrap();
    MemoryBackend::new(Arc::new(sim.clone()))
        .backend(&service)
        .unwrap()
}

fn test<F: Future<Output = ()>>(
    run: impl FnOnce(Arc<FaultyTransport>, Faults<TransportCall>) -> F,
) {
    let sim = SimRuntime::new(1);
    let (transport, faults) = FaultyTransport::new(backend(&sim).transport);
    sim.block_on(run(transport, faults));
}

fn batch() -> SubmitBatch {
    let announcement = Announcement::new(StreamName::new("s").unwrap(), Info::NONE);
    SubmitBatch {
        id: 7,
        announcements: vec![announcement],
    }
}

async fn there(transport: &FaultyTransport) -> usize {
    transport
        .list_undelivered(EntryId::MIN, 10)
        .await
        .unwrap()
        .len()
}

#[test]
fn a_lost_request_has_not_happened() {
    test(async |transport, faults| {
        faults.lose_request(TransportCall::Submit);
        let err = transport.submit(&batch()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert_eq!(there(&transport).await, 0);
        transport.submit(&batch()).await.unwrap();
        assert_eq!(
            (there(&transport).await, faults.calls(TransportCall::Submit)),
            (1, 2)
        );
    });
}

#[test]
fn what_a_lost_reply_was_about_has_happened() {
    test(async |transport, faults| {
        faults.lose_reply(TransportCall::Submit);
        transport.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&transport).await, 1);
    });
}

#[test]
fn a_held_call_happens_when_it_is_released() {
    test(async |transport, faults| {
        let held = faults.hold(TransportCall::Submit);
        let batch = batch();
        let watch = async {
            held.arrived().await;
            assert_eq!(there(&transport).await, 0);
            held.release();
        };
        let (submitted, ()) = future::zip(transport.submit(&batch), watch).await;
        submitted.unwrap();
        assert_eq!(there(&transport).await, 1);
    });
}

#[test]
fn a_held_call_that_is_given_up_never_happens() {
    test(async |transport, faults| {
        let held = faults.hold(TransportCall::Submit);
        let batch = batch();
        let given_up = future::or(async { transport.submit(&batch).await.is_ok() }, async {
            held.arrived().await;
            false
        });
        assert!(!given_up.await);
        held.release();
        assert_eq!(there(&transport).await, 0);
    });
}

#[test]
fn a_late_call_fails_first_and_happens_when_told() {
    test(async |transport, faults| {
        let late = faults.run_late(TransportCall::Submit);
        assert!(!late.is_waiting());
        transport.submit(&batch()).await.unwrap_err();
        assert!(late.is_waiting());
        assert_eq!(there(&transport).await, 0);
        late.execute().await;
        assert_eq!(there(&transport).await, 1);
    });
}

#[test]
fn faults_are_used_up_in_order_by_calls_of_their_kind() {
    test(async |transport, faults| {
        faults.lose_request(TransportCall::Submit);
        faults.lose_reply(TransportCall::Submit);
        transport.prepare().await.unwrap();
        transport.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&transport).await, 0);
        transport.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&transport).await, 1);
        transport.submit(&batch()).await.unwrap();
    });
}

#[test]
fn a_broken_server_fails_everything_until_it_is_repaired() {
    test(async |transport, faults| {
        faults.break_all();
        for _ in 0..3 {
            transport.prepare().await.unwrap_err();
            transport.submit(&batch()).await.unwrap_err();
        }
        faults.repair();
        assert_eq!(there(&transport).await, 0);
    });
}

#[test]
fn locks_lose_replies_as_well() {
    let sim = SimRuntime::new(1);
    let (locks, faults) = FaultyLocks::new(backend(&sim).locks);
    faults.lose_reply(LockCall::Members);
    sim.block_on(async {
        locks.members().await.unwrap_err();
        assert!(locks.members().await.unwrap().is_empty());
    });
    assert_eq!(faults.calls(LockCall::Members), 2);
}

mod a_transport_without_faults {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn Transport>>) {
        let sim = SimRuntime::new(1);
        let (transport, _faults) = FaultyTransport::new(backend(&sim).transport);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), transport));
    }

    streamlease_testkit::transport_conformance!(run);
}

mod locks_without_faults {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
        let sim = SimRuntime::new(1);
        let (locks, _faults) = FaultyLocks::new(backend(&sim).locks);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), locks));
    }

    streamlease_testkit::lock_manager_conformance!(run);
}
