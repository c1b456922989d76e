//! A lock manager with the calls the suite makes most, one stream at a time.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamlease_core::{
    Acquire, AcquireOutcome, EntryId, FencingToken, Held, Holder, LeaseRef, LockId, LockManager,
    LockScheme, LockState, OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Renewal,
    Runtime, Session, SessionId, Sessions, StreamName, TakeOverOutcome,
};

use super::super::support::{Patience, consumer, nonce, pass};

/// For sessions whose end is waited for.
pub(super) const SHORT: Duration = Duration::from_millis(400);

/// For sessions that outlive any test.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// By how much a server may round a deadline.
const ROUNDING: Duration = Duration::from_millis(50);

pub(super) const E0: EntryId = EntryId::new(1_700_000_000_000, 0);
pub(super) const E1: EntryId = EntryId::new(1_700_000_000_000, 1);

/// Dereferences to the lock manager itself.
#[derive(Clone)]
pub(super) struct Harness {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) locks: Arc<dyn LockManager>,
}

impl Deref for Harness {
    type Target = dyn LockManager;

    fn deref(&self) -> &Self::Target {
        &*self.locks
    }
}

impl Harness {
    pub(super) fn new(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) -> Self {
        Self { runtime, locks }
    }

    /// Whether leases live as long as their session.
    pub(super) fn has_session_leases(&self) -> bool {
        self.scheme() == LockScheme::Session
    }

    /// For behaviours with `if keeps_sessions`.
    pub(super) fn sessions(&self) -> &dyn Sessions {
        self.locks.sessions().expect("the backend keeps sessions")
    }

    pub(super) async fn is_member(&self, session: &SessionId) -> bool {
        let members = self.sessions().members().await.expect("members");
        members.iter().any(|member| member.session == *session)
    }

    /// A session, open if the backend keeps any.
    pub(super) async fn session(&self, identity: &str, ttl: Duration) -> Session {
        let session = unopened(identity, ttl);
        if let Some(sessions) = self.locks.sessions() {
            let outcome = sessions.open(&session).await.expect("open");
            assert_eq!(outcome, OpenOutcome::Opened);
        }
        session
    }

    /// Acquires a page, again as long as the server says that it is not yet time.
    pub(super) async fn acquire_page(
        &self,
        session: &Session,
        page: &[Acquire],
    ) -> Vec<AcquireOutcome> {
        let mut patience =
            Patience::new(&*self.runtime, "an acquire that is not refused as not yet");
        loop {
            let outcomes = self.acquire(session, page).await.expect("acquire");
            assert_eq!(outcomes.len(), page.len(), "one outcome per request");
            if !outcomes
                .iter()
                .any(|outcome| matches!(outcome, AcquireOutcome::NotYet { .. }))
            {
                return outcomes;
            }
            patience.wait().await;
        }
    }

    pub(super) async fn try_acquire(
        &self,
        session: &Session,
        stream: &StreamName,
        entry: EntryId,
    ) -> AcquireOutcome {
        self.try_acquire_as(session, stream, entry, attempt()).await
    }

    /// The acquire of this attempt: a repeat, if it was made before.
    pub(super) async fn try_acquire_as(
        &self,
        session: &Session,
        stream: &StreamName,
        entry: EntryId,
        attempt: u64,
    ) -> AcquireOutcome {
        let request = Acquire::new(stream.clone(), entry, attempt, FencingToken::NONE);
        let outcomes = self.acquire_page(session, &[request]).await;
        outcomes.into_iter().next().expect("there is one")
    }

    /// Acquires the stream for `E0`, which must succeed.
    pub(super) async fn hold(&self, session: &Session, stream: &StreamName) -> LeaseRef {
        self.hold_as(session, stream, attempt()).await
    }

    /// The same with the acquire of this attempt: a repeat, if it was made before.
    pub(super) async fn hold_as(
        &self,
        session: &Session,
        stream: &StreamName,
        attempt: u64,
    ) -> LeaseRef {
        let outcome = self.try_acquire_as(session, stream, E0, attempt).await;
        let AcquireOutcome::Acquired(token) = outcome else {
            panic!("acquire of a free stream by {}: {outcome:?}", session.id);
        };
        assert!(token > FencingToken::NONE);
        lease(stream, E0, token)
    }

    /// Acquires all of them, which must succeed.
    pub(super) async fn hold_all(
        &self,
        session: &Session,
        streams: &[StreamName],
    ) -> Vec<LeaseRef> {
        let page: Vec<_> = streams.iter().map(|stream| request(stream, E0)).collect();
        let outcomes = self.acquire_page(session, &page).await;
        let held = streams
            .iter()
            .zip(outcomes)
            .map(|(stream, outcome)| match outcome {
                AcquireOutcome::Acquired(token) => lease(stream, E0, token),
                other => panic!("acquire of {stream}: {other:?}"),
            });
        held.collect()
    }

    /// Asserts that `session` is refused the stream, because `holder` has it.
    pub(super) async fn assert_refused(
        &self,
        session: &Session,
        stream: &StreamName,
        holder: &Session,
    ) {
        let outcome = self.try_acquire(session, stream, E0).await;
        let AcquireOutcome::Held(held) = outcome else {
            panic!("acquire of a stream that {} holds: {outcome:?}", holder.id);
        };
        assert_holder(&held, holder);
    }

    pub(super) async fn release_one(&self, session: &Session, lease: &LeaseRef) -> ReleaseOutcome {
        let release = Release::new(lease.clone());
        let outcomes = self
            .release(&session.id, &[release])
            .await
            .expect("release");
        assert_eq!(outcomes.len(), 1, "one outcome per release");
        outcomes[0]
    }

    pub(super) async fn state(&self, stream: &StreamName) -> LockState {
        let lock = LockId {
            stream: stream.clone(),
            entry: E0,
        };
        let states = self.inspect(&[lock]).await.expect("inspect");
        assert_eq!(states.len(), 1, "one state per lock");
        states.into_iter().next().expect("there is one")
    }

    /// Renews for the session, which holds `leases`, as the scheme wants it.
    pub(super) async fn renew_with(&self, session: &Session, leases: &[LeaseRef]) -> RenewOutcome {
        let leases = if self.has_session_leases() {
            &[]
        } else {
            leases
        };
        let renew = Renew::new(session.clone(), leases.to_vec());
        self.renew(&renew).await.expect("renew")
    }

    /// A renewal that must extend the session.
    pub(super) async fn renewed(&self, session: &Session, leases: &[LeaseRef]) -> Renewal {
        match self.renew_with(session, leases).await {
            RenewOutcome::Extended(reply) => reply,
            other => panic!("{}: {other:?}", session.id),
        }
    }

    /// Takes a page over, again as long as the server says that it is not yet time.
    pub(super) async fn take_page(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> TakeOverOutcome {
        let mut patience =
            Patience::new(&*self.runtime, "a take-over that is not refused as not yet");
        loop {
            match self
                .sessions()
                .take_over(session, dead, max)
                .await
                .expect("take_over")
            {
                TakeOverOutcome::NotYet { .. } => patience.wait().await,
                outcome => return outcome,
            }
        }
    }

    /// Lets time pass until a deadline of `ttl` that was set before this call is
    /// over on any server's clock.
    pub(super) async fn outlast(&self, ttl: Duration) {
        pass(&*self.runtime, ttl + ROUNDING).await;
    }
}

/// A session nobody has opened.
pub(super) fn unopened(identity: &str, ttl: Duration) -> Session {
    Session::new(SessionId::new(consumer(identity), nonce()), ttl)
}

/// An attempt that was not made before. Attempts grow, as a client's do.
pub(super) fn attempt() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A request of an attempt of its own.
pub(super) fn request(stream: &StreamName, entry: EntryId) -> Acquire {
    Acquire::new(stream.clone(), entry, attempt(), FencingToken::NONE)
}

pub(super) fn lease(stream: &StreamName, entry: EntryId, token: FencingToken) -> LeaseRef {
    LeaseRef {
        stream: stream.clone(),
        entry,
        token,
    }
}

pub(super) fn assert_holder(held: &Held, holder: &Session) {
    assert_eq!(held.holder, Holder::Session(holder.id.clone()));
    assert!(
        held.remaining <= holder.ttl,
        "{held:?}, ttl {:?}",
        holder.ttl
    );
}
