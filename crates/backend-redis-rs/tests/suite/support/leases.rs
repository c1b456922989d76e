//! Shorthands for tests of session leases.

use std::time::Duration;

use streamlease_core::*;

use super::*;

pub(crate) const TTL: u64 = 60_000;
pub(crate) const SHORT: u64 = 300;
pub(crate) const E1: EntryId = EntryId::new(1_700_000_000_000, 0);

pub(crate) async fn sessions(server: &RedisServer) -> Backend {
    backend_with(server, "orders", LockScheme::Session).await
}

pub(crate) async fn opened(backend: &Backend, identity: &str, ttl_ms: u64) -> Session {
    let session = session(identity, 1, ttl_ms);
    let outcome = backend
        .locks
        .sessions()
        .unwrap()
        .open(&session)
        .await
        .unwrap();
    assert_eq!(outcome, OpenOutcome::Opened);
    session
}

pub(crate) async fn try_acquire(
    backend: &Backend,
    session: &Session,
    request: Acquire,
) -> AcquireOutcome {
    let outcomes = backend.locks.acquire(session, &[request]).await.unwrap();
    outcomes.into_iter().next().unwrap()
}

pub(crate) async fn acquired(backend: &Backend, session: &Session, name: &str) -> LeaseRef {
    match try_acquire(backend, session, acquire(name, E1, 1, 0)).await {
        AcquireOutcome::Acquired(token) => LeaseRef {
            stream: stream(name),
            entry: E1,
            token,
        },
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn all_acquired(
    backend: &Backend,
    session: &Session,
    count: usize,
) -> Vec<LeaseRef> {
    let mut leases = Vec::new();
    let requests: Vec<Acquire> = (0..count)
        .map(|n| acquire(&format!("call-{n:06}"), E1, 1, 0))
        .collect();
    for page in requests.chunks(120) {
        let outcomes = backend.locks.acquire(session, page).await.unwrap();
        for (request, outcome) in page.iter().zip(outcomes) {
            let AcquireOutcome::Acquired(token) = outcome else {
                panic!("{outcome:?}")
            };
            leases.push(LeaseRef {
                stream: request.stream.clone(),
                entry: E1,
                token,
            });
        }
    }
    leases
}

pub(crate) async fn heartbeat(backend: &Backend, session: &Session) -> Renewal {
    match backend
        .locks
        .renew(&Renew::new(session.clone(), []))
        .await
        .unwrap()
    {
        RenewOutcome::Extended(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn is_gone(backend: &Backend, session: &Session) -> bool {
    let outcome = backend
        .locks
        .renew(&Renew::new(session.clone(), []))
        .await
        .unwrap();
    outcome == RenewOutcome::SessionGone
}

pub(crate) async fn release_all(
    backend: &Backend,
    session: &Session,
    leases: &[LeaseRef],
) -> usize {
    let releases: Vec<Release> = leases
        .iter()
        .map(|lease| Release::new(lease.clone()))
        .collect();
    let mut released = 0;
    for page in releases.chunks(120) {
        let outcomes = backend.locks.release(&session.id, page).await.unwrap();
        released += outcomes
            .iter()
            .filter(|outcome| **outcome == ReleaseOutcome::Released)
            .count();
    }
    released
}

pub(crate) async fn took(
    backend: &Backend,
    session: &Session,
    dead: &Session,
) -> (Vec<LeaseRef>, u64) {
    match backend
        .locks
        .sessions()
        .unwrap()
        .take_over(session, &dead.id, 120)
        .await
    {
        Ok(TakeOverOutcome::Taken { leases, left }) => (leases, left),
        other => panic!("{other:?}"),
    }
}

/// Waits until the session's deadline has passed on the server.
pub(crate) async fn outlived(backend: &Backend, session: &Session) {
    loop {
        let members = backend.locks.sessions().unwrap().members().await.unwrap();
        if !members.iter().any(|member| member.session == session.id) {
            return;
        }
        pause(Duration::from_millis(5)).await;
    }
}
