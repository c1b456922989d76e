//! Wrappers that lose, hold back or delay single requests and replies.
//!
//! ```
//! # use std::sync::Arc;
//! # use streamlease_core::{Result, Transport};
//! # use streamlease_testkit::faults::{FaultyTransport, TransportCall};
//! # async fn example(real: Arc<dyn Transport>) -> Result<()> {
//! let (transport, faults) = FaultyTransport::new(real);
//! // The next completion happens, and nobody hears of it.
//! faults.lose_reply(TransportCall::Complete);
//! // The next claim fails now, and executes when the test says so.
//! let claim = faults.run_late(TransportCall::Claim);
//! // … drive the code under test with `transport` …
//! # drop(transport);
//! claim.execute().await;
//! # Ok(())
//! # }
//! ```
//!
//! Faults of one kind of call are used up in the order they were set, one per
//! call; a call without one goes through. What fails, fails as
//! [`ErrorKind::Unavailable`](streamlease_core::ErrorKind).

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::{
    Acquire, AcquireOutcome, BeatOutcome, BoxFuture, ClaimOutcome, CompleteOutcome, ConsumerName,
    ConsumerState, Delivery, EntryId, Error, ErrorKind, Fenced, FetchRequest, Fetched,
    HandBackOutcome, HandBackRequest, LeaseRef, LockId, LockManager, LockScheme, LockState, Member,
    OpenOutcome, PendingIds, PendingPage, Quarantine, QuarantineOutcome, QuarantineRelease,
    Quarantined, Release, ReleaseOutcome, Result, Scope, Session, SessionId, StreamName,
    SubmitBatch, TakeOverOutcome, Transport,
};

/// What a test decides about the calls to come; `K` is the kind of call.
/// Clones control the same wrapper.
pub struct Faults<K> {
    script: Arc<Mutex<Script<K>>>,
}

struct Script<K> {
    next: BTreeMap<K, VecDeque<Fault>>,
    /// With which kind of error every call fails.
    broken: Option<ErrorKind>,
    calls: BTreeMap<K, u64>,
}

enum Fault {
    LoseRequest,
    LoseReply,
    Hold {
        arrived: Sender,
        released: Receiver,
    },
    RunLate {
        request: async_channel::Sender<BoxFuture<'static, ()>>,
    },
}

// Closed by dropping the sender: nothing is ever sent.
type Sender = async_channel::Sender<()>;
type Receiver = async_channel::Receiver<()>;

impl<K: Copy + Ord + Debug> Faults<K> {
    fn new() -> Self {
        let script = Script {
            next: BTreeMap::new(),
            broken: None,
            calls: BTreeMap::new(),
        };
        Self {
            script: Arc::new(Mutex::new(script)),
        }
    }

    /// The next such call fails without anything having happened.
    pub fn lose_request(&self, call: K) {
        self.add(call, Fault::LoseRequest);
    }

    /// The next such call happens, and fails.
    pub fn lose_reply(&self, call: K) {
        self.add(call, Fault::LoseReply);
    }

    /// The next such call waits before it happens, until it is released. If it
    /// is given up before, it never happens.
    pub fn hold(&self, call: K) -> HeldCall {
        let (arrived, has_arrived) = async_channel::bounded(1);
        let (release, released) = async_channel::bounded(1);
        self.add(call, Fault::Hold { arrived, released });
        HeldCall {
            has_arrived,
            release,
        }
    }

    /// The next such call fails at once, and happens when the test executes it:
    /// a request that was given up, and reaches the server later.
    pub fn run_late(&self, call: K) -> LateCall {
        let (send, request) = async_channel::bounded(1);
        self.add(call, Fault::RunLate { request: send });
        LateCall { request }
    }

    /// From now on every call fails without anything having happened, until
    /// [`repair`](Self::repair): the server is unreachable. Calls already under
    /// way go on.
    pub fn break_all(&self) {
        self.script().broken = Some(ErrorKind::Unavailable);
    }

    /// From now on every call is refused without anything having happened, until
    /// [`repair`](Self::repair): the rights are gone.
    pub fn refuse_all(&self) {
        self.script().broken = Some(ErrorKind::Denied);
    }

    /// Ends [`break_all`](Self::break_all) and [`refuse_all`](Self::refuse_all).
    pub fn repair(&self) {
        self.script().broken = None;
    }

    /// How many such calls there were, failed ones included.
    pub fn calls(&self, call: K) -> u64 {
        self.script().calls.get(&call).copied().unwrap_or(0)
    }

    fn add(&self, call: K, fault: Fault) {
        self.script().next.entry(call).or_default().push_back(fault);
    }

    fn script(&self) -> MutexGuard<'_, Script<K>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the call as the script says. `request` does nothing before it is polled.
    async fn apply<T: Send + 'static>(
        &self,
        call: K,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let fault = {
            let mut script = self.script();
            *script.calls.entry(call).or_default() += 1;
            if let Some(kind) = script.broken {
                return Err(Error::new(kind, format!("{call:?}: refused by the test")));
            }
            script.next.get_mut(&call).and_then(VecDeque::pop_front)
        };
        let lost = |what: &str| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("{call:?}: {what} by the test"),
            ))
        };
        match fault {
            None => request.await,
            Some(Fault::LoseRequest) => lost("request lost"),
            Some(Fault::LoseReply) => {
                let _ = request.await;
                lost("reply lost")
            }
            Some(Fault::Hold { arrived, released }) => {
                drop(arrived);
                let _ = released.recv().await;
                request.await
            }
            Some(Fault::RunLate { request: late }) => {
                // If the test has dropped its end, the request is just lost.
                let _ = late.try_send(Box::pin(async move {
                    let _ = request.await;
                }));
                lost("request delayed")
            }
        }
    }
}

impl<K> Clone for Faults<K> {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
        }
    }
}

impl<K> Debug for Faults<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

/// A call that waits; see [`Faults::hold`]. Dropping this releases it.
#[derive(Debug)]
#[must_use = "dropping it releases the call"]
pub struct HeldCall {
    has_arrived: Receiver,
    release: Sender,
}

impl HeldCall {
    /// Resolves once the call is there and waits.
    pub async fn arrived(&self) {
        let _ = self.has_arrived.recv().await;
    }

    /// Lets the call happen.
    pub fn release(self) {
        drop(self.release);
    }
}

/// A call that failed and has not happened yet; see [`Faults::run_late`].
/// Dropping this loses it.
#[derive(Debug)]
#[must_use = "dropping it loses the request"]
pub struct LateCall {
    request: async_channel::Receiver<BoxFuture<'static, ()>>,
}

impl LateCall {
    /// Whether the call was made, and failed.
    pub fn is_waiting(&self) -> bool {
        !self.request.is_empty()
    }

    /// Waits for the call to be made, if it was not yet, and lets it happen.
    pub async fn execute(self) {
        if let Ok(request) = self.request.recv().await {
            request.await;
        }
    }
}

/// Kinds of calls of a [`Transport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum TransportCall {
    Prepare,
    Submit,
    Fetch,
    ListPending,
    ListPendingIds,
    ListStranded,
    Claim,
    ClearFailures,
    Complete,
    HandBack,
    Quarantine,
    ForgetConsumer,
    Consumers,
    ListUndelivered,
    ListQuarantined,
    ReleaseQuarantined,
    DropQuarantined,
}

/// A [`Transport`] whose calls fail as [`Faults`] say.
#[derive(Debug)]
pub struct FaultyTransport {
    inner: Arc<dyn Transport>,
    faults: Faults<TransportCall>,
}

impl FaultyTransport {
    /// Wraps `inner`; without faults set, all calls go through.
    pub fn new(inner: Arc<dyn Transport>) -> (Arc<Self>, Faults<TransportCall>) {
        let faults = Faults::new();
        (
            Arc::new(Self {
                inner,
                faults: faults.clone(),
            }),
            faults,
        )
    }
}

/// Clones the arguments that are borrowed into a request that can outlive the
/// call, and makes it.
macro_rules! call {
    ($self:ident, $kind:expr, [$($arg:ident = $owned:expr),*], $method:ident($($pass:expr),*)) => {{
        let inner = $self.inner.clone();
        $(let $arg = $owned;)*
        $self.faults.apply($kind, async move { inner.$method($($pass),*).await }).await
    }};
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn prepare(&self) -> Result<()> {
        call!(self, TransportCall::Prepare, [], prepare())
    }

    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<EntryId>> {
        call!(
            self,
            TransportCall::Submit,
            [batch = batch.clone()],
            submit(&batch)
        )
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        call!(
            self,
            TransportCall::Fetch,
            [request = request.clone()],
            fetch(&request)
        )
    }

    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage> {
        call!(
            self,
            TransportCall::ListPending,
            [scope = scope.clone()],
            list_pending(&scope, limit)
        )
    }

    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        call!(
            self,
            TransportCall::ListPendingIds,
            [consumer = consumer.cloned()],
            list_pending_ids(consumer.as_ref(), after, limit)
        )
    }

    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        call!(
            self,
            TransportCall::ListStranded,
            [],
            list_stranded(after, limit)
        )
    }

    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        call!(
            self,
            TransportCall::Claim,
            [consumer = consumer.clone(), claims = claims.to_vec()],
            claim(&consumer, &claims)
        )
    }

    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()> {
        call!(
            self,
            TransportCall::ClearFailures,
            [entries = entries.to_vec()],
            clear_failures(&entries)
        )
    }

    async fn complete(
        &self,
        consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>> {
        call!(
            self,
            TransportCall::Complete,
            [consumer = consumer.clone(), entries = entries.to_vec()],
            complete(&consumer, &entries)
        )
    }

    async fn hand_back(
        &self,
        consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>> {
        call!(
            self,
            TransportCall::HandBack,
            [consumer = consumer.clone(), entries = entries.to_vec()],
            hand_back(&consumer, &entries)
        )
    }

    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>> {
        call!(
            self,
            TransportCall::Quarantine,
            [consumer = consumer.clone(), entries = entries.to_vec()],
            quarantine(&consumer, &entries)
        )
    }

    async fn forget_consumer(&self, consumer: &ConsumerName) -> Result<bool> {
        call!(
            self,
            TransportCall::ForgetConsumer,
            [consumer = consumer.clone()],
            forget_consumer(&consumer)
        )
    }

    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        call!(self, TransportCall::Consumers, [], consumers())
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        call!(
            self,
            TransportCall::ListUndelivered,
            [],
            list_undelivered(after, limit)
        )
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        call!(
            self,
            TransportCall::ListQuarantined,
            [],
            list_quarantined(after, limit)
        )
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        call!(
            self,
            TransportCall::ReleaseQuarantined,
            [entries = entries.to_vec()],
            release_quarantined(&entries)
        )
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        call!(
            self,
            TransportCall::DropQuarantined,
            [entries = entries.to_vec()],
            drop_quarantined(&entries)
        )
    }
}

/// Kinds of calls of a [`LockManager`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum LockCall {
    Open,
    Close,
    Acquire,
    Beat,
    Release,
    Inspect,
    TakeOver,
    Bury,
    Members,
    Records,
    Revoke,
}

/// A [`LockManager`] whose calls fail as [`Faults`] say.
#[derive(Debug)]
pub struct FaultyLocks {
    inner: Arc<dyn LockManager>,
    faults: Faults<LockCall>,
}

impl FaultyLocks {
    /// Wraps `inner`; without faults set, all calls go through.
    pub fn new(inner: Arc<dyn LockManager>) -> (Arc<Self>, Faults<LockCall>) {
        let faults = Faults::new();
        (
            Arc::new(Self {
                inner,
                faults: faults.clone(),
            }),
            faults,
        )
    }
}

#[async_trait]
impl LockManager for FaultyLocks {
    fn scheme(&self) -> LockScheme {
        self.inner.scheme()
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        call!(
            self,
            LockCall::Open,
            [session = session.clone()],
            open(&session)
        )
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        call!(
            self,
            LockCall::Close,
            [session = session.clone()],
            close(&session)
        )
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        call!(
            self,
            LockCall::Acquire,
            [session = session.clone(), requests = requests.to_vec()],
            acquire(&session, &requests)
        )
    }

    async fn beat(
        &self,
        session: &Session,
        leases: &[LeaseRef],
        want_sweep: Option<Duration>,
    ) -> Result<BeatOutcome> {
        call!(
            self,
            LockCall::Beat,
            [session = session.clone(), leases = leases.to_vec()],
            beat(&session, &leases, want_sweep)
        )
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        call!(
            self,
            LockCall::Release,
            [session = session.clone(), releases = releases.to_vec()],
            release(&session, &releases)
        )
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        call!(
            self,
            LockCall::Inspect,
            [locks = locks.to_vec()],
            inspect(&locks)
        )
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        call!(
            self,
            LockCall::TakeOver,
            [session = session.clone(), dead = dead.clone()],
            take_over(&session, &dead, max)
        )
    }

    async fn bury(&self, dead: &SessionId) -> Result<bool> {
        call!(self, LockCall::Bury, [dead = dead.clone()], bury(&dead))
    }

    async fn members(&self) -> Result<Vec<Member>> {
        call!(self, LockCall::Members, [], members())
    }

    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        call!(
            self,
            LockCall::Records,
            [session = session.clone(), after = after.cloned()],
            records(&session, after.as_ref(), max)
        )
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        call!(
            self,
            LockCall::Revoke,
            [streams = streams.to_vec()],
            revoke(&streams)
        )
    }
}
