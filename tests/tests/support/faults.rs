//! [`Faults`]: a backend that cannot be reached, loses replies, or holds a
//! call up, for one consumer of a world.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use streamlease_core::{
    Acquire, AcquireOutcome, Backend, BackendProvider, BeatOutcome, ClaimOutcome, CompleteOutcome,
    ConsumerName, ConsumerState, Delivery, EntryId, Error, ErrorKind, Fenced, FetchRequest,
    Fetched, HandBackOutcome, HandBackRequest, LeaseRef, LockId, LockManager, LockScheme,
    LockState, Member, OpenOutcome, PendingIds, PendingPage, Quarantine, QuarantineOutcome,
    QuarantineRelease, Quarantined, Release, ReleaseOutcome, Result, Scope, ServiceName, Session,
    SessionId, StreamName, SubmitBatch, TakeOverOutcome, Transport,
};

use super::Provider;

/// Stages faults of the backend it [wraps](Faults::wrap). Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    unreachable: bool,
    failed: usize,
    lose: BTreeMap<&'static str, usize>,
    lost: usize,
    hold: BTreeMap<&'static str, Gate>,
    hold_replies: BTreeMap<&'static str, Gate>,
}

#[derive(Debug, Clone)]
struct Gate {
    entered: Sender<()>,
    closed: Receiver<()>,
}

/// Holds calls up; dropping it lets them through.
#[derive(Debug)]
pub struct Hold {
    entered: Receiver<()>,
    _closed: Sender<()>,
}

fn gate() -> (Gate, Hold) {
    let (entered, entrances) = async_channel::unbounded();
    let (opener, closed) = async_channel::bounded(1);
    let hold = Hold {
        entered: entrances,
        _closed: opener,
    };
    (Gate { entered, closed }, hold)
}

impl Gate {
    async fn pass(&self) {
        let _ = self.entered.try_send(());
        // Nothing is ever sent: it ends when the hold is dropped.
        let _ = self.closed.recv().await;
    }
}

impl Hold {
    /// Resolves once a call has come.
    pub async fn entered(&self) {
        self.entered.recv().await.unwrap();
    }
}

impl Faults {
    pub fn wrap(&self, inner: Provider) -> Provider {
        Provider::new(FaultyProvider {
            inner,
            faults: self.clone(),
        })
    }

    /// From now on every call fails: what is under way executes, unheard.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.lock().unreachable = unreachable;
    }

    /// How many calls have failed for that reason.
    pub fn failed(&self) -> usize {
        self.lock().failed
    }

    /// The next `n` calls of `method` execute, but their replies are lost.
    pub fn lose_replies(&self, method: &'static str, n: usize) {
        self.lock().lose.insert(method, n);
    }

    /// How many replies have been lost so.
    pub fn lost(&self) -> usize {
        self.lock().lost
    }

    /// Calls of `method` wait before they are sent, until the hold is dropped.
    pub fn hold(&self, method: &'static str) -> Hold {
        let (gate, hold) = gate();
        self.lock().hold.insert(method, gate);
        hold
    }

    /// Calls of `method` execute, but their replies wait until the hold is dropped.
    pub fn hold_replies(&self, method: &'static str) -> Hold {
        let (gate, hold) = gate();
        self.lock().hold_replies.insert(method, gate);
        hold
    }

    async fn around<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.reach()?;
        let gate = self.lock().hold.get(method).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let reply = call.await;
        let gate = self.lock().hold_replies.get(method).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        self.reach()?;
        let mut state = self.lock();
        if let Some(left) = state.lose.get_mut(method).filter(|left| **left > 0) {
            *left -= 1;
            state.lost += 1;
            return Err(Error::new(ErrorKind::Unavailable, "the reply is lost"));
        }
        reply
    }

    fn reach(&self) -> Result<()> {
        let mut state = self.lock();
        if state.unreachable {
            state.failed += 1;
            return Err(Error::new(ErrorKind::Unavailable, "cannot be reached"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct FaultyProvider {
    inner: Provider,
    faults: Faults,
}

#[derive(Debug)]
struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    faults: Faults,
}

impl BackendProvider for FaultyProvider {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        let mut backend = self.inner.backend(service)?;
        backend.transport = Arc::new(Faulty {
            inner: backend.transport,
            faults: self.faults.clone(),
        });
        backend.locks = Arc::new(Faulty {
            inner: backend.locks,
            faults: self.faults.clone(),
        });
        Ok(backend)
    }
}

/// A trait whose methods pass their arguments on, with faults around them.
macro_rules! pass_on {
    (
        $trait:ident { $($own:tt)* }
        $(fn $method:ident($($arg:ident: $type:ty),*) -> $reply:ty;)+
    ) => {
        #[async_trait::async_trait]
        impl $trait for Faulty<dyn $trait> {
            $($own)*
            $(
                async fn $method(&self, $($arg: $type),*) -> Result<$reply> {
                    let call = self.inner.$method($($arg),*);
                    self.faults.around(stringify!($method), call).await
                }
            )+
        }
    };
}

pass_on! {
    Transport {}
    fn prepare() -> ();
    fn submit(batch: &SubmitBatch) -> Vec<EntryId>;
    fn fetch(request: &FetchRequest) -> Fetched;
    fn list_pending(scope: &Scope, limit: usize) -> PendingPage;
    fn list_pending_ids(consumer: Option<&ConsumerName>, after: EntryId, limit: usize) -> PendingIds;
    fn list_stranded(after: EntryId, limit: usize) -> PendingIds;
    fn claim(consumer: &ConsumerName, claims: &[Fenced]) -> Vec<ClaimOutcome>;
    fn clear_failures(entries: &[Fenced]) -> ();
    fn complete(consumer: &ConsumerName, entries: &[Fenced]) -> Vec<CompleteOutcome>;
    fn hand_back(consumer: &ConsumerName, entries: &[HandBackRequest]) -> Vec<HandBackOutcome>;
    fn quarantine(consumer: &ConsumerName, entries: &[Quarantine]) -> Vec<QuarantineOutcome>;
    fn forget_consumer(consumer: &ConsumerName) -> bool;
    fn consumers() -> Vec<ConsumerState>;
    fn list_undelivered(after: EntryId, limit: usize) -> Vec<Delivery>;
    fn list_quarantined(after: EntryId, limit: usize) -> Vec<Quarantined>;
    fn release_quarantined(entries: &[EntryId]) -> Vec<QuarantineRelease>;
    fn drop_quarantined(entries: &[EntryId]) -> Vec<bool>;
}

pass_on! {
    LockManager {
        fn scheme(&self) -> LockScheme {
            self.inner.scheme()
        }
    }
    fn open(session: &Session) -> OpenOutcome;
    fn close(session: &SessionId) -> ();
    fn acquire(session: &Session, requests: &[Acquire]) -> Vec<AcquireOutcome>;
    fn beat(session: &Session, leases: &[LeaseRef], want_sweep: Option<Duration>) -> BeatOutcome;
    fn release(session: &SessionId, releases: &[Release]) -> Vec<ReleaseOutcome>;
    fn inspect(locks: &[LockId]) -> Vec<LockState>;
    fn take_over(session: &Session, dead: &SessionId, max: usize) -> TakeOverOutcome;
    fn bury(dead: &SessionId) -> bool;
    fn members() -> Vec<Member>;
    fn records(session: &SessionId, after: Option<&StreamName>, max: usize) -> Vec<LeaseRef>;
    fn revoke(streams: &[StreamName]) -> Vec<bool>;
}
