//! A clock that stands still until told otherwise, and short words for what tests say often.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future::{self, block_on};
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    Acquire, AcquireOutcome, Admin, Announcement, Backend, BackendProvider, BoxFuture,
    ClaimOutcome, CompleteOutcome, ConsumerName, EntryId, Fenced, FencingToken, FetchRequest,
    Fetched, HandBackOutcome, HandBackRequest, Held, Holder, Info, LeaseRef, LockId, LockManager,
    LockState, Notifier, OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Renewal,
    Runtime, Scope, ServiceName, Session, SessionId, StreamName, SubmitBatch, SubmitOutcome,
    Submitter, TakeOverOutcome, Timestamp, Transport,
};

pub(crate) const TTL: Duration = Duration::from_secs(5);
pub(crate) const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Default)]
pub(crate) struct ManualRuntime(Arc<Mutex<Clock>>);

#[derive(Default)]
struct Clock {
    now: Timestamp,
    sleepers: Vec<Waker>,
}

impl ManualRuntime {
    pub(crate) fn advance(&self, by: Duration) {
        let mut clock = self.0.lock().unwrap();
        clock.now = clock.now + by;
        let sleepers = std::mem::take(&mut clock.sleepers);
        drop(clock);
        sleepers.into_iter().for_each(Waker::wake);
    }
}

impl Runtime for ManualRuntime {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().now
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        Box::pin(future::poll_fn(move |cx| {
            let mut clock = clock.lock().unwrap();
            if clock.now >= deadline {
                return Poll::Ready(());
            }
            clock.sleepers.push(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        std::thread::spawn(move || block_on(task));
    }
}

impl fmt::Debug for ManualRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManualRuntime")
    }
}

/// One service of a server in memory.
pub(crate) struct Fixture {
    pub(crate) clock: ManualRuntime,
    pub(crate) memory: MemoryBackend,
    pub(crate) service: ServiceName,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) submitter: Arc<dyn Submitter>,
    pub(crate) admin: Arc<dyn Admin>,
    pub(crate) locks: Arc<dyn LockManager>,
    pub(crate) notifier: Arc<dyn Notifier>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::on(MemoryBackend::new)
    }

    pub(crate) fn per_stream_locks() -> Self {
        Self::on(MemoryBackend::per_stream_locks)
    }

    fn on(server: impl Fn(Arc<dyn Runtime>) -> MemoryBackend) -> Self {
        let clock = ManualRuntime::default();
        clock.advance(Duration::from_secs(1_000));
        let memory = server(Arc::new(clock.clone()));
        let service = ServiceName::new("orders").unwrap();
        let Backend {
            transport,
            submitter,
            admin,
            locks,
            notifier,
            ..
        } = memory.backend(&service).unwrap();
        ready(transport.prepare()).unwrap();
        Self {
            clock,
            memory,
            service,
            transport,
            submitter,
            admin,
            locks,
            notifier,
        }
    }

    pub(crate) fn submit(&self, names: &[&str]) -> Vec<EntryId> {
        self.submit_batch(fresh_batch_id(), names)
    }

    pub(crate) fn submit_batch(&self, id: u128, names: &[&str]) -> Vec<EntryId> {
        let announce = |name: &&str| Announcement::new(stream(name), Info::NONE);
        let announcements = names.iter().map(announce).collect();
        let batch = SubmitBatch::with_id(id, announcements);
        let outcomes = ready(self.submitter.submit(&batch)).unwrap();
        outcomes.into_iter().map(SubmitOutcome::entry).collect()
    }

    /// Fetches without waiting.
    pub(crate) fn fetch(&self, who: &str, max: usize) -> Vec<EntryId> {
        ids(&ready(self.transport.fetch(&request(who, max, Duration::ZERO))).unwrap())
    }

    pub(crate) fn claim(&self, who: &str, entry: EntryId, token: u64) -> ClaimOutcome {
        let claims = [fenced(entry, token)];
        let outcome = ready(self.transport.claim(&consumer(who), &claims));
        match outcome.unwrap().remove(0) {
            // The conformance suite looks at the reasons.
            ClaimOutcome::Claimed { from, failures } => ClaimOutcome::Claimed {
                from,
                failures: failures.count.into(),
            },
            refused => refused,
        }
    }

    pub(crate) fn complete(&self, who: &str, entry: EntryId, token: u64) -> CompleteOutcome {
        let entries = [fenced(entry, token)];
        ready(self.transport.complete(&consumer(who), &entries))
            .unwrap()
            .remove(0)
    }

    pub(crate) fn hand_back(
        &self,
        who: &str,
        entry: EntryId,
        token: u64,
        failed: bool,
    ) -> HandBackOutcome {
        let entries = [HandBackRequest::new(entry, FencingToken(token))
            .failed(failed.then(|| "it was bad".to_owned()))
            .rests(failed)];
        ready(self.transport.hand_back(&consumer(who), &entries))
            .unwrap()
            .remove(0)
    }

    /// What is pending at the consumer.
    pub(crate) fn pending(&self, who: &str) -> Vec<EntryId> {
        let scope = Scope::Consumer {
            consumer: consumer(who),
            after: EntryId::MIN,
        };
        let page = ready(self.transport.list_pending(&scope, 1_000)).unwrap();
        page.entries.iter().map(|pending| pending.entry).collect()
    }

    pub(crate) fn open(&self, who: &str, nonce: u64) -> Session {
        let session = session(who, nonce);
        if let Some(sessions) = self.locks.sessions() {
            assert_eq!(ready(sessions.open(&session)).unwrap(), OpenOutcome::Opened);
        }
        session
    }

    pub(crate) fn try_acquire(
        &self,
        by: &Session,
        name: &str,
        entry: u64,
        attempt: u64,
    ) -> AcquireOutcome {
        let floor = FencingToken::NONE;
        let request = Acquire::new(stream(name), EntryId::new(entry, 0), attempt, floor);
        ready(self.locks.acquire(by, &[request])).unwrap().remove(0)
    }

    pub(crate) fn acquire(&self, by: &Session, name: &str, entry: u64, attempt: u64) -> LeaseRef {
        match self.try_acquire(by, name, entry, attempt) {
            AcquireOutcome::Acquired(token) => lease(name, entry, token),
            other => panic!("{} did not get {name}: {other:?}", by.id),
        }
    }

    pub(crate) fn release(&self, by: &Session, lease: &LeaseRef) -> ReleaseOutcome {
        let releases = [Release::new(lease.clone())];
        ready(self.locks.release(&by.id, &releases))
            .unwrap()
            .remove(0)
    }

    pub(crate) fn try_heartbeat(&self, by: &Session, leases: &[LeaseRef]) -> RenewOutcome {
        ready(self.locks.renew(&Renew::new(by.clone(), leases.to_vec()))).unwrap()
    }

    pub(crate) fn heartbeat(&self, by: &Session, leases: &[LeaseRef]) -> Renewal {
        match self.try_heartbeat(by, leases) {
            RenewOutcome::Extended(reply) => reply,
            other => panic!("{}: {other:?}", by.id),
        }
    }

    pub(crate) fn wins_sweep(&self, by: &Session, turn: Duration) -> bool {
        match ready(
            self.locks
                .renew(&Renew::new(by.clone(), []).want_sweep(Some(turn))),
        )
        .unwrap()
        {
            RenewOutcome::Extended(reply) => reply.sweep,
            other => panic!("{}: {other:?}", by.id),
        }
    }

    pub(crate) fn inspect(&self, name: &str) -> LockState {
        let lock = LockId {
            stream: stream(name),
            entry: EntryId::new(1, 0),
        };
        ready(self.locks.inspect(&[lock])).unwrap().remove(0)
    }

    pub(crate) fn take_over(&self, by: &Session, dead: &Session, max: usize) -> TakeOverOutcome {
        ready(self.locks.sessions().unwrap().take_over(by, &dead.id, max)).unwrap()
    }

    pub(crate) fn remove(&self, dead: &Session) -> bool {
        ready(self.locks.sessions().unwrap().remove(&dead.id)).unwrap()
    }
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn consumer(who: &str) -> ConsumerName {
    ConsumerName::from_identity(who).unwrap()
}

pub(crate) fn session(who: &str, nonce: u64) -> Session {
    Session::new(SessionId::new(consumer(who), nonce), TTL)
}

pub(crate) fn lease(name: &str, entry: u64, token: FencingToken) -> LeaseRef {
    LeaseRef {
        stream: stream(name),
        entry: EntryId::new(entry, 0),
        token,
    }
}

pub(crate) fn held(by: &Session, remaining: Duration) -> Held {
    Held {
        holder: Holder::Session(by.id.clone()),
        remaining,
    }
}

pub(crate) fn fenced(entry: EntryId, token: u64) -> Fenced {
    Fenced {
        entry,
        token: FencingToken(token),
    }
}

pub(crate) fn request(who: &str, max: usize, wait: Duration) -> FetchRequest {
    FetchRequest::new(consumer(who), max, wait)
}

pub(crate) fn ids(fetched: &Fetched) -> Vec<EntryId> {
    fetched
        .entries
        .iter()
        .map(|delivery| delivery.entry)
        .collect()
}

/// Polls once, and says what came of it.
pub(crate) fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    block_on(future::poll_once(future))
}

/// What the future resolves to; a memory lets nobody wait without need.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    poll(future).expect("still pending")
}

/// A batch id not used before.
fn fresh_batch_id() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    NEXT.fetch_add(1, Ordering::Relaxed).into()
}
