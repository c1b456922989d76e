//! [`Action`]: what the machine asks of the backend, and with which method of a trait it is
//! done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Acquire, AcquireOutcome, Backend, ClaimOutcome, CompleteOutcome, ConsumerName, EntryId, Fenced,
    FetchRequest, Fetched, HandBackOutcome, HandBackRequest, LeaseRef, LockId, LockManager,
    LockScheme, LockState, Member, OpenOutcome, Operation, Pause, PendingIds, PendingPage,
    Quarantine, QuarantineOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Result, Scope,
    Session, SessionId, Sessions, StreamName, TakeOverOutcome, Transport,
};

/// Something to do against a trait.
#[derive(Debug, Clone)]
pub enum Action {
    /// Against the [`Transport`](crate::Transport).
    Lbs(LbsCall),
    /// Against the [`LockManager`](crate::LockManager).
    Locks(LocksCall),
}

impl Action {
    /// Makes the call. `consumer` is who asks.
    pub(crate) async fn execute(self, backend: Backend, consumer: ConsumerName) -> Result<Reply> {
        match self {
            Self::Lbs(call) => call.ask(&*backend.transport, consumer).await,
            Self::Locks(call) => call.ask(&*backend.locks).await,
        }
    }

    /// The trait's method.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Lbs(call) => call.operation(),
            Self::Locks(call) => call.operation(),
        }
    }
}

impl From<LbsCall> for Action {
    fn from(call: LbsCall) -> Self {
        Self::Lbs(call)
    }
}

impl From<LocksCall> for Action {
    fn from(call: LocksCall) -> Self {
        Self::Locks(call)
    }
}

/// A call of the [`Transport`](crate::Transport).
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each is the trait method of the same name with its arguments"
)]
pub enum LbsCall {
    Prepare,
    Fetch {
        max: usize,
        wait: Duration,
    },
    List {
        scope: Scope,
        limit: usize,
    },
    ListIds {
        consumer: Option<ConsumerName>,
        after: EntryId,
        limit: usize,
    },
    ListStranded {
        after: EntryId,
        limit: usize,
    },
    Claim(Vec<Fenced>),
    Keep(Vec<Fenced>),
    Paused,
    ClearFailures(Vec<Fenced>),
    Complete(Vec<Fenced>),
    HandBack(Vec<HandBackRequest>),
    Quarantine(Vec<Quarantine>),
    RemoveConsumer(ConsumerName),
}

impl LbsCall {
    fn operation(&self) -> Operation {
        match self {
            Self::Prepare => Operation::Prepare,
            Self::Fetch { .. } => Operation::Fetch,
            Self::List { .. } => Operation::ListPending,
            Self::ListIds { .. } => Operation::ListPendingIds,
            Self::ListStranded { .. } => Operation::ListStranded,
            Self::Claim(_) => Operation::Claim,
            Self::Keep(_) => Operation::Keep,
            Self::Paused => Operation::Paused,
            Self::ClearFailures(_) => Operation::ClearFailures,
            Self::Complete(_) => Operation::Complete,
            Self::HandBack(_) => Operation::HandBack,
            Self::Quarantine(_) => Operation::Quarantine,
            Self::RemoveConsumer(_) => Operation::RemoveConsumer,
        }
    }

    async fn ask(self, lbs: &dyn Transport, consumer: ConsumerName) -> Result<Reply> {
        Ok(match self {
            Self::Prepare => {
                lbs.prepare().await?;
                Reply::Prepared
            }
            Self::Fetch { max, wait } => Reply::Fetched(
                lbs.fetch(&FetchRequest {
                    consumer,
                    max,
                    wait,
                })
                .await?,
            ),
            Self::List { scope, limit } => Reply::Listed(lbs.list_pending(&scope, limit).await?),
            Self::ListIds {
                consumer,
                after,
                limit,
            } => Reply::ListedIds(
                lbs.list_pending_ids(consumer.as_ref(), after, limit)
                    .await?,
            ),
            Self::ListStranded { after, limit } => {
                Reply::ListedIds(lbs.list_stranded(after, limit).await?)
            }
            Self::Claim(claims) => Reply::Claimed(lbs.claim(&consumer, &claims).await?),
            Self::Keep(held) => Reply::Claimed(lbs.keep(&consumer, &held).await?),
            Self::Paused => Reply::Paused(lbs.paused().await?),
            Self::ClearFailures(page) => {
                lbs.clear_failures(&page).await?;
                Reply::FailuresCleared
            }
            Self::Complete(page) => Reply::Completed(lbs.complete(&consumer, &page).await?),
            Self::HandBack(page) => Reply::HandedBack(lbs.hand_back(&consumer, &page).await?),
            Self::Quarantine(page) => Reply::Quarantined(lbs.quarantine(&consumer, &page).await?),
            Self::RemoveConsumer(name) => Reply::ConsumerRemoved(lbs.remove_consumer(&name).await?),
        })
    }
}

/// A call of the [`LockManager`](crate::LockManager).
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each is the trait method of the same name with its arguments"
)]
pub enum LocksCall {
    Open(Session),
    Close(SessionId),
    Acquire(Session, Vec<Acquire>),
    Renew {
        session: Session,
        leases: Arc<[LeaseRef]>,
        want_sweep: Option<Duration>,
    },
    Release(SessionId, Vec<Release>),
    Inspect(Vec<LockId>),
    TakeOver {
        session: Session,
        dead: SessionId,
        max: usize,
    },
    Remove(SessionId),
    Members,
    Records {
        session: SessionId,
        after: Option<StreamName>,
        max: usize,
    },
}

impl LocksCall {
    fn operation(&self) -> Operation {
        match self {
            Self::Open(_) => Operation::Open,
            Self::Close(_) => Operation::Close,
            Self::Acquire(..) => Operation::Acquire,
            Self::Renew { .. } => Operation::Renew,
            Self::Release(..) => Operation::Release,
            Self::Inspect(_) => Operation::Inspect,
            Self::TakeOver { .. } => Operation::TakeOver,
            Self::Remove(_) => Operation::RemoveSession,
            Self::Members => Operation::Members,
            Self::Records { .. } => Operation::Records,
        }
    }

    async fn ask(self, locks: &dyn LockManager) -> Result<Reply> {
        let sessions = locks.sessions().unwrap_or(&NoSessions);
        Ok(match self {
            Self::Open(session) => Reply::Opened(sessions.open(&session).await?),
            Self::Close(session) => {
                sessions.close(&session).await?;
                Reply::Closed
            }
            Self::Acquire(session, requests) => {
                Reply::Acquired(locks.acquire(&session, &requests).await?)
            }
            Self::Renew {
                session,
                leases,
                want_sweep,
            } => {
                let renew = Renew::new(session, leases).want_sweep(want_sweep);
                Reply::Renewed(locks.renew(&renew).await?)
            }
            Self::Release(session, releases) => {
                Reply::Released(locks.release(&session, &releases).await?)
            }
            Self::Inspect(page) => Reply::Inspected(locks.inspect(&page).await?),
            Self::TakeOver { session, dead, max } => {
                Reply::TakenOver(sessions.take_over(&session, &dead, max).await?)
            }
            Self::Remove(dead) => Reply::Removed(sessions.remove(&dead).await?),
            Self::Members => Reply::Members(sessions.members().await?),
            Self::Records {
                session,
                after,
                max,
            } => Reply::Records(sessions.records(&session, after.as_ref(), max).await?),
        })
    }
}

/// What an action brought.
#[derive(Debug)]
#[allow(
    missing_docs,
    reason = "each is the result of the action of the same name"
)]
pub enum Reply {
    Prepared,
    Fetched(Fetched),
    Listed(PendingPage),
    ListedIds(PendingIds),
    Claimed(Vec<ClaimOutcome>),
    Paused(Option<Pause>),
    FailuresCleared,
    Completed(Vec<CompleteOutcome>),
    HandedBack(Vec<HandBackOutcome>),
    Quarantined(Vec<QuarantineOutcome>),
    ConsumerRemoved(bool),
    Opened(OpenOutcome),
    Closed,
    Acquired(Vec<AcquireOutcome>),
    Renewed(RenewOutcome),
    Released(Vec<ReleaseOutcome>),
    Inspected(Vec<LockState>),
    TakenOver(TakeOverOutcome),
    Removed(bool),
    Members(Vec<Member>),
    Records(Vec<LeaseRef>),
}

/// The sessions of a lock manager that keeps none: nobody is ever known to live, nor to
/// be dead.
#[derive(Debug)]
struct NoSessions;

#[async_trait]
impl Sessions for NoSessions {
    fn scheme(&self) -> LockScheme {
        LockScheme::PerStream
    }

    async fn open(&self, _session: &Session) -> Result<OpenOutcome> {
        Ok(OpenOutcome::Opened)
    }

    async fn close(&self, _session: &SessionId) -> Result<()> {
        Ok(())
    }

    async fn take_over(
        &self,
        _session: &Session,
        _dead: &SessionId,
        _max: usize,
    ) -> Result<TakeOverOutcome> {
        Ok(TakeOverOutcome::Taken {
            leases: Vec::new(),
            left: 0,
        })
    }

    async fn remove(&self, _dead: &SessionId) -> Result<bool> {
        Ok(true)
    }

    async fn members(&self) -> Result<Vec<Member>> {
        Ok(Vec::new())
    }
}
