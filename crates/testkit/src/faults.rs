//! [`FaultyBackend`]: a backend that loses, holds back or delays single requests and replies.
//!
//! ```
//! # use streamlease_core::{BackendProvider, Operation, Result};
//! # use streamlease_testkit::faults::FaultyBackend;
//! # async fn example(real: impl BackendProvider) -> Result<()> {
//! let (backend, faults) = FaultyBackend::new(real);
//! // The next completion happens, and nobody hears of it.
//! faults.lose_reply(Operation::Complete);
//! // The next claim fails now, and executes when the test says so.
//! let claim = faults.run_late(Operation::Claim);
//! // … drive the code under test with `backend` …
//! # drop(backend);
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

use streamlease_core::decorate::{Decorator, decorate};
use streamlease_core::{
    Backend, BackendProvider, BoxFuture, Error, ErrorKind, Operation, Result, ServiceName,
};

/// A backend whose calls fail as [`Faults`] say.
#[derive(Debug)]
pub struct FaultyBackend {
    inner: Arc<dyn BackendProvider>,
    faults: Faults,
}

impl FaultyBackend {
    /// Wraps `inner`; without faults set, all calls go through. All services share the
    /// faults.
    pub fn new(inner: impl BackendProvider) -> (Self, Faults) {
        let faults = Faults::new();
        let backend = Self {
            inner: Arc::new(inner),
            faults: faults.clone(),
        };
        (backend, faults)
    }
}

impl BackendProvider for FaultyBackend {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        Ok(decorate(self.inner.backend(service)?, self.faults.clone()))
    }
}

/// What a test decides about the calls to come. Clones control the same calls.
#[derive(Clone, Default)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    next: BTreeMap<Operation, VecDeque<Fault>>,
    /// With which kind of error every call fails.
    broken: Option<ErrorKind>,
    calls: BTreeMap<Operation, u64>,
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

impl Faults {
    /// For [`decorate`], where only some parts of a backend are to fail; else see
    /// [`FaultyBackend`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next such call fails without anything having happened.
    pub fn lose_request(&self, call: Operation) {
        self.add(call, Fault::LoseRequest);
    }

    /// The next such call happens, and fails.
    pub fn lose_reply(&self, call: Operation) {
        self.add(call, Fault::LoseReply);
    }

    /// The next such call waits before it happens, until it is released. If it
    /// is given up before, it never happens.
    pub fn hold(&self, call: Operation) -> HeldCall {
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
    pub fn run_late(&self, call: Operation) -> LateCall {
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
    pub fn calls(&self, call: Operation) -> u64 {
        self.script().calls.get(&call).copied().unwrap_or(0)
    }

    fn add(&self, call: Operation, fault: Fault) {
        self.script().next.entry(call).or_default().push_back(fault);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Decorator for Faults {
    /// Makes the call as the script says.
    async fn call<T: Send + 'static>(
        &self,
        call: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let fault = {
            let mut script = self.script();
            *script.calls.entry(call).or_default() += 1;
            if let Some(kind) = script.broken {
                return Err(Error::new(kind, format!("{call}: refused by the test")));
            }
            script.next.get_mut(&call).and_then(VecDeque::pop_front)
        };
        let lost = |what: &str| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("{call}: {what} by the test"),
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

impl Debug for Faults {
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
