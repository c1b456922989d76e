//! [`decorate`]: something to do around every call of a backend, written once; and
//! [`Operation`], the calls' names.
//!
//! For traces, for measurements, for faults in a test: implement [`Decorator`], and the
//! methods of the backend's traits need not be repeated.
//!
//! ```
//! use streamlease_core::decorate::{Decorator, decorate};
//! use streamlease_core::{Backend, Operation, Result};
//!
//! /// Logs what fails.
//! #[derive(Debug, Clone)]
//! struct LogFailures;
//!
//! impl Decorator for LogFailures {
//!     async fn call<T: Send + 'static>(
//!         &self,
//!         operation: Operation,
//!         request: impl Future<Output = Result<T>> + Send + 'static,
//!     ) -> Result<T> {
//!         let result = request.await;
//!         if let Err(error) = &result {
//!             log::warn!("{operation} failed: {error}");
//!         }
//!         result
//!     }
//! }
//!
//! fn logged(backend: Backend) -> Backend {
//!     decorate(backend, LogFailures)
//! }
//! ```

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Acquire, AcquireOutcome, Admin, Backend, ClaimOutcome, CompleteOutcome, ConsumerName,
    ConsumerState, Delivery, EntryId, Error, ErrorKind, Fenced, FetchRequest, Fetched, Finding,
    HandBackOutcome, HandBackRequest, LeaseRef, LockId, LockManager, LockScheme, LockState, Member,
    Notifier, OpenOutcome, Pause, PendingIds, PendingPage, Quarantine, QuarantineOutcome,
    QuarantineRelease, Quarantined, Release, ReleaseOutcome, Renew, RenewOutcome, Result, Scope,
    ServiceCounts, Session, SessionId, Sessions, StreamName, SubmitBatch, SubmitOutcome, Submitter,
    Subscription, TakeOverOutcome, Transport,
};

/// What is done around the calls of a backend.
pub trait Decorator: Debug + Clone + Send + Sync + 'static {
    /// Makes the call, and returns its result or another one.
    ///
    /// `request` does nothing before it is polled. It owns what it needs, so it may be
    /// kept and run later, or never. Dropping the returned future drops the call.
    fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send;
}

/// The same backend, with all of its calls made through `decorator`; a subscription's
/// hints are not calls.
///
/// To decorate some parts only, replace the others by the fields of the backend that
/// was given.
pub fn decorate<D: Decorator>(backend: Backend, decorator: D) -> Backend {
    let Backend {
        transport,
        submitter,
        admin,
        locks,
        notifier,
        consumer_prefix,
    } = backend;
    Backend {
        transport: decorated(transport, &decorator),
        submitter: decorated(submitter, &decorator),
        admin: decorated(admin, &decorator),
        locks: decorated(locks, &decorator),
        notifier: decorated(notifier, &decorator),
        consumer_prefix,
    }
}

fn decorated<P: ?Sized, D: Decorator>(inner: Arc<P>, decorator: &D) -> Arc<Decorated<P, D>> {
    let decorator = decorator.clone();
    Arc::new(Decorated { inner, decorator })
}

#[derive(Debug)]
struct Decorated<P: ?Sized, D> {
    inner: Arc<P>,
    decorator: D,
}

macro_rules! operations {
    ($($variant:ident = $name:literal;)+) => {
        /// A method of one of the traits of a [`Backend`](crate::Backend), as logs,
        /// metrics and [decorators](Decorator) name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each is the trait method of the same name")]
        #[non_exhaustive]
        pub enum Operation {
            $($variant,)+
        }

        impl Operation {
            /// The method's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

operations! {
    // `Transport`
    Prepare = "prepare";
    Fetch = "fetch";
    ListPending = "list_pending";
    ListPendingIds = "list_pending_ids";
    ListStranded = "list_stranded";
    Claim = "claim";
    Keep = "keep";
    Paused = "paused";
    ClearFailures = "clear_failures";
    Complete = "complete";
    HandBack = "hand_back";
    Quarantine = "quarantine";
    RemoveConsumer = "remove_consumer";
    // `Submitter`
    Submit = "submit";
    // `Admin`
    Consumers = "consumers";
    ListUndelivered = "list_undelivered";
    Counts = "counts";
    ListQuarantined = "list_quarantined";
    ReleaseQuarantined = "release_quarantined";
    DropQuarantined = "drop_quarantined";
    Pause = "pause";
    Resume = "resume";
    Check = "check";
    // `LockManager`
    Acquire = "acquire";
    Renew = "renew";
    Release = "release";
    Inspect = "inspect";
    CheckLocks = "check";
    // `Sessions`
    Open = "open";
    Close = "close";
    TakeOver = "take_over";
    RemoveSession = "remove";
    Members = "members";
    Records = "records";
    Revoke = "revoke";
    // `Notifier`
    Subscribe = "subscribe";
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Implements a trait by handing each of its methods to the decorator, as a request that
/// owns copies of the arguments.
macro_rules! hand_on {
    (
        $trait:ident for $part:ident by $of:ident { $($own:tt)* }
        $($operation:ident: $method:ident($($arg:ident: $type:ty),*) -> $reply:ty, ($($pass:expr),*);)+
    ) => {
        #[async_trait]
        impl<D: Decorator> $trait for Decorated<dyn $part, D> {
            $($own)*
            $(
                async fn $method(&self, $($arg: $type),*) -> Result<$reply> {
                    let inner = self.inner.clone();
                    $(let $arg = $arg.to_owned();)*
                    let request = async move { $of(&*inner)?.$method($($pass),*).await };
                    self.decorator.call(Operation::$operation, request).await
                }
            )+
        }
    };
}

hand_on! {
    Transport for Transport by itself {
        async fn list_pending_ids(
            &self,
            consumer: Option<&ConsumerName>,
            after: EntryId,
            limit: usize,
        ) -> Result<PendingIds> {
            let (inner, consumer) = (self.inner.clone(), consumer.cloned());
            let request =
                async move { inner.list_pending_ids(consumer.as_ref(), after, limit).await };
            self.decorator.call(Operation::ListPendingIds, request).await
        }
    }
    Prepare: prepare() -> (), ();
    Fetch: fetch(request: &FetchRequest) -> Fetched, (&request);
    ListPending: list_pending(scope: &Scope, limit: usize) -> PendingPage, (&scope, limit);
    ListStranded: list_stranded(after: EntryId, limit: usize) -> PendingIds, (after, limit);
    Claim: claim(consumer: &ConsumerName, claims: &[Fenced]) -> Vec<ClaimOutcome>,
        (&consumer, &claims);
    Keep: keep(consumer: &ConsumerName, held: &[Fenced]) -> Vec<ClaimOutcome>,
        (&consumer, &held);
    Paused: paused() -> Option<Pause>, ();
    ClearFailures: clear_failures(entries: &[Fenced]) -> (), (&entries);
    Complete: complete(consumer: &ConsumerName, entries: &[Fenced]) -> Vec<CompleteOutcome>,
        (&consumer, &entries);
    HandBack: hand_back(consumer: &ConsumerName, entries: &[HandBackRequest]) -> Vec<HandBackOutcome>,
        (&consumer, &entries);
    Quarantine: quarantine(
        consumer: &ConsumerName, entries: &[Quarantine]
    ) -> Vec<QuarantineOutcome>, (&consumer, &entries);
    RemoveConsumer: remove_consumer(consumer: &ConsumerName) -> bool, (&consumer);
}

hand_on! {
    Submitter for Submitter by itself {}
    Submit: submit(batch: &SubmitBatch) -> Vec<SubmitOutcome>, (&batch);
}

hand_on! {
    Admin for Admin by itself {}
    Consumers: consumers() -> Vec<ConsumerState>, ();
    ListUndelivered: list_undelivered(after: EntryId, limit: usize) -> Vec<Delivery>,
        (after, limit);
    Counts: counts() -> ServiceCounts, ();
    ListQuarantined: list_quarantined(after: EntryId, limit: usize) -> Vec<Quarantined>,
        (after, limit);
    ReleaseQuarantined: release_quarantined(entries: &[EntryId]) -> Vec<QuarantineRelease>,
        (&entries);
    DropQuarantined: drop_quarantined(entries: &[EntryId]) -> Vec<bool>, (&entries);
    Pause: pause(reason: &str) -> bool, (&reason);
    Resume: resume() -> bool, ();
    Check: check() -> Vec<Finding>, ();
}

hand_on! {
    LockManager for LockManager by itself {
        fn sessions(&self) -> Option<&dyn Sessions> {
            self.inner.sessions().map(|_| self as &dyn Sessions)
        }
    }
    Acquire: acquire(session: &Session, requests: &[Acquire]) -> Vec<AcquireOutcome>,
        (&session, &requests);
    Renew: renew(renew: &Renew) -> RenewOutcome, (&renew);
    Release: release(session: &SessionId, releases: &[Release]) -> Vec<ReleaseOutcome>,
        (&session, &releases);
    Inspect: inspect(locks: &[LockId]) -> Vec<LockState>, (&locks);
    CheckLocks: check() -> Vec<Finding>, ();
}

hand_on! {
    Sessions for LockManager by sessions_of {
        fn scheme(&self) -> LockScheme {
            self.inner.scheme()
        }

        async fn records(
            &self,
            session: &SessionId,
            after: Option<&StreamName>,
            max: usize,
        ) -> Result<Vec<LeaseRef>> {
            let (inner, session, after) = (self.inner.clone(), session.clone(), after.cloned());
            let request = async move {
                sessions_of(&*inner)?.records(&session, after.as_ref(), max).await
            };
            self.decorator.call(Operation::Records, request).await
        }
    }
    Open: open(session: &Session) -> OpenOutcome, (&session);
    Close: close(session: &SessionId) -> (), (&session);
    TakeOver: take_over(session: &Session, dead: &SessionId, max: usize) -> TakeOverOutcome,
        (&session, &dead, max);
    RemoveSession: remove(dead: &SessionId) -> bool, (&dead);
    Members: members() -> Vec<Member>, ();
    Revoke: revoke(streams: &[StreamName]) -> Vec<bool>, (&streams);
}

hand_on! {
    Notifier for Notifier by itself {}
    Subscribe: subscribe() -> Box<dyn Subscription>, ();
}

fn itself<P: ?Sized>(part: &P) -> Result<&P> {
    Ok(part)
}

/// Only a lock manager that keeps sessions is asked for any.
fn sessions_of(locks: &dyn LockManager) -> Result<&dyn Sessions> {
    let gone = || {
        Error::new(
            ErrorKind::Protocol,
            "the lock manager keeps no sessions any more",
        )
    };
    locks.sessions().ok_or_else(gone)
}
