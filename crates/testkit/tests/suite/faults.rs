//! What the fault-injecting wrappers lose, hold back and delay; and that they
//! change nothing where no fault is set.

use std::sync::Arc;

use futures_lite::future;
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    Announcement, Backend, BackendProvider, EntryId, ErrorKind, Info, LockManager, Operation,
    ServiceName, StreamName, SubmitBatch,
};
use streamlease_testkit::conformance::Behaviour;
use streamlease_testkit::faults::{Faults, FaultyBackend};
use streamlease_testkit::simulation::SimRuntime;

fn backend(sim: &SimRuntime) -> (Backend, Faults) {
    let memory = MemoryBackend::new(Arc::new(sim.clone()));
    let (faulty, faults) = FaultyBackend::new(memory);
    let service = ServiceName::new("orders").unwrap();
    (faulty.backend(&service).unwrap(), faults)
}

fn test<F: Future<Output = ()>>(run: impl FnOnce(Backend, Faults) -> F) {
    let sim = SimRuntime::new(1);
    let (backend, faults) = backend(&sim);
    sim.block_on(run(backend, faults));
}

fn batch() -> SubmitBatch {
    let announcement = Announcement::new(StreamName::new("s").unwrap(), Info::NONE);
    SubmitBatch::with_id(7, vec![announcement])
}

async fn there(backend: &Backend) -> usize {
    backend
        .admin
        .list_undelivered(EntryId::MIN, 10)
        .await
        .unwrap()
        .len()
}

#[test]
fn a_lost_request_has_not_happened() {
    test(async |backend, faults| {
        faults.lose_request(Operation::Submit);
        let err = backend.submitter.submit(&batch()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert_eq!(there(&backend).await, 0);
        backend.submitter.submit(&batch()).await.unwrap();
        assert_eq!(
            (there(&backend).await, faults.calls(Operation::Submit)),
            (1, 2)
        );
    });
}

#[test]
fn what_a_lost_reply_was_about_has_happened() {
    test(async |backend, faults| {
        faults.lose_reply(Operation::Submit);
        backend.submitter.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&backend).await, 1);
    });
}

#[test]
fn a_held_call_happens_when_it_is_released() {
    test(async |backend, faults| {
        let held = faults.hold(Operation::Submit);
        let batch = batch();
        let watch = async {
            held.arrived().await;
            assert_eq!(there(&backend).await, 0);
            held.release();
        };
        let (submitted, ()) = future::zip(backend.submitter.submit(&batch), watch).await;
        submitted.unwrap();
        assert_eq!(there(&backend).await, 1);
    });
}

#[test]
fn a_held_call_that_is_given_up_never_happens() {
    test(async |backend, faults| {
        let held = faults.hold(Operation::Submit);
        let batch = batch();
        let given_up = future::or(
            async { backend.submitter.submit(&batch).await.is_ok() },
            async {
                held.arrived().await;
                false
            },
        );
        assert!(!given_up.await);
        held.release();
        assert_eq!(there(&backend).await, 0);
    });
}

#[test]
fn a_late_call_fails_first_and_happens_when_told() {
    test(async |backend, faults| {
        let late = faults.run_late(Operation::Submit);
        assert!(!late.is_waiting());
        backend.submitter.submit(&batch()).await.unwrap_err();
        assert!(late.is_waiting());
        assert_eq!(there(&backend).await, 0);
        late.execute().await;
        assert_eq!(there(&backend).await, 1);
    });
}

#[test]
fn faults_are_used_up_in_order_by_calls_of_their_kind() {
    test(async |backend, faults| {
        faults.lose_request(Operation::Submit);
        faults.lose_reply(Operation::Submit);
        backend.transport.prepare().await.unwrap();
        backend.submitter.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&backend).await, 0);
        backend.submitter.submit(&batch()).await.unwrap_err();
        assert_eq!(there(&backend).await, 1);
        backend.submitter.submit(&batch()).await.unwrap();
    });
}

#[test]
fn a_broken_server_fails_everything_until_it_is_repaired() {
    test(async |backend, faults| {
        faults.break_all();
        for _ in 0..3 {
            backend.transport.prepare().await.unwrap_err();
            backend.submitter.submit(&batch()).await.unwrap_err();
        }
        faults.repair();
        assert_eq!(there(&backend).await, 0);
    });
}

#[test]
fn locks_lose_replies_as_well() {
    let sim = SimRuntime::new(1);
    let (backend, faults) = backend(&sim);
    faults.lose_reply(Operation::Members);
    sim.block_on(async {
        backend
            .locks
            .sessions()
            .unwrap()
            .members()
            .await
            .unwrap_err();
        assert!(
            backend
                .locks
                .sessions()
                .unwrap()
                .members()
                .await
                .unwrap()
                .is_empty()
        );
    });
    assert_eq!(faults.calls(Operation::Members), 2);
}

mod a_transport_without_faults {
    use super::*;

    fn run(behaviour: Behaviour<Backend>) {
        let sim = SimRuntime::new(1);
        let (backend, _faults) = backend(&sim);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), backend));
    }

    streamlease_testkit::transport_conformance!(run);
}

mod locks_without_faults {
    use super::*;

    fn run(behaviour: Behaviour<Arc<dyn LockManager>>) {
        let sim = SimRuntime::new(1);
        let (backend, _faults) = backend(&sim);
        sim.block_on(behaviour.run(Arc::new(sim.clone()), backend.locks));
    }

    streamlease_testkit::lock_manager_conformance!(run);
}
