//! Actions against the traits, and what is measured of them.

use async_trait::async_trait;

use crate::machine::{Action, LbsCall, LocksCall, Reply};
use crate::recorder::Attempt;
use crate::{
    AcquireOutcome, Backend, BoxFuture, ClaimOutcome, ConsumerName, FetchRequest, LockManager,
    LockScheme, Member, OpenOutcome, Operation, Recorder, ReleaseOutcome, Renew, RenewOutcome,
    Result, Session, SessionId, Sessions, TakeOverOutcome, Transport,
};

pub(super) fn execute(
    action: Action,
    backend: Backend,
    consumer: ConsumerName,
) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        match action {
            Action::Lbs(call) => ask_lbs(call, &*backend.transport, consumer).await,
            Action::Locks(call) => ask_locks(call, &*backend.locks).await,
        }
    })
}

async fn ask_lbs(call: LbsCall, lbs: &dyn Transport, consumer: ConsumerName) -> Result<Reply> {
    Ok(match call {
        LbsCall::Prepare => {
            lbs.prepare().await?;
            Reply::Prepared
        }
        LbsCall::Fetch { max, wait } => Reply::Fetched(
            lbs.fetch(&FetchRequest {
                consumer,
                max,
                wait,
            })
            .await?,
        ),
        LbsCall::List { scope, limit } => Reply::Listed(lbs.list_pending(&scope, limit).await?),
        LbsCall::ListIds {
            consumer,
            after,
            limit,
        } => Reply::ListedIds(
            lbs.list_pending_ids(consumer.as_ref(), after, limit)
                .await?,
        ),
        LbsCall::ListStranded { after, limit } => {
            Reply::ListedIds(lbs.list_stranded(after, limit).await?)
        }
        LbsCall::Claim(claims) => Reply::Claimed(lbs.claim(&consumer, &claims).await?),
        LbsCall::ClearFailures(page) => {
            lbs.clear_failures(&page).await?;
            Reply::FailuresCleared
        }
        LbsCall::Complete(page) => Reply::Completed(lbs.complete(&consumer, &page).await?),
        LbsCall::HandBack(page) => Reply::HandedBack(lbs.hand_back(&consumer, &page).await?),
        LbsCall::Quarantine(page) => Reply::Quarantined(lbs.quarantine(&consumer, &page).await?),
        LbsCall::RemoveConsumer(name) => Reply::ConsumerRemoved(lbs.remove_consumer(&name).await?),
    })
}

async fn ask_locks(call: LocksCall, locks: &dyn LockManager) -> Result<Reply> {
    let sessions = locks.sessions().unwrap_or(&NoSessions);
    Ok(match call {
        LocksCall::Open(session) => Reply::Opened(sessions.open(&session).await?),
        LocksCall::Close(session) => {
            sessions.close(&session).await?;
            Reply::Closed
        }
        LocksCall::Acquire(session, requests) => {
            Reply::Acquired(locks.acquire(&session, &requests).await?)
        }
        LocksCall::Renew {
            session,
            leases,
            want_sweep,
        } => {
            let renew = Renew::new(session, leases).want_sweep(want_sweep);
            Reply::Renewed(locks.renew(&renew).await?)
        }
        LocksCall::Release(session, releases) => {
            Reply::Released(locks.release(&session, &releases).await?)
        }
        LocksCall::Inspect(page) => Reply::Inspected(locks.inspect(&page).await?),
        LocksCall::TakeOver { session, dead, max } => {
            Reply::TakenOver(sessions.take_over(&session, &dead, max).await?)
        }
        LocksCall::Remove(dead) => Reply::Removed(sessions.remove(&dead).await?),
        LocksCall::Members => Reply::Members(sessions.members().await?),
        LocksCall::Records {
            session,
            after,
            max,
        } => Reply::Records(sessions.records(&session, after.as_ref(), max).await?),
    })
}

/// How many streams an action is about, for the measurements.
pub(super) fn size_of(action: &Action) -> usize {
    match action {
        Action::Lbs(LbsCall::Claim(page)) => page.len(),
        Action::Locks(LocksCall::Acquire(_, page)) => page.len(),
        Action::Locks(LocksCall::Renew { leases, .. }) => leases.len().max(1),
        Action::Locks(LocksCall::Release(_, page)) => page.len(),
        _ => 1,
    }
}

type Method = fn(&dyn Recorder, Attempt, usize);

/// What is to be recorded of an action that has ended so, once its reply is passed on.
pub(super) fn measured(
    operation: Operation,
    size: usize,
    result: &Result<Reply>,
) -> impl FnOnce(&dyn Recorder) + use<> {
    let method: Option<Method> = match operation {
        Operation::Claim => Some(|recorder, attempt, n| recorder.claim(attempt, n)),
        Operation::Acquire => Some(|recorder, attempt, n| recorder.lock_acquire(attempt, n)),
        Operation::Renew => Some(|recorder, attempt, n| recorder.lock_extend(attempt, n)),
        Operation::Release => Some(|recorder, attempt, n| recorder.lock_release(attempt, n)),
        _ => None,
    };
    let ok = match result {
        Ok(Reply::Claimed(outcomes)) => Some(count(outcomes, |o| {
            matches!(o, ClaimOutcome::Claimed { .. })
        })),
        Ok(Reply::Acquired(outcomes)) => Some(count(outcomes, |o| {
            matches!(o, AcquireOutcome::Acquired(_))
        })),
        Ok(Reply::Released(outcomes)) => Some(count(outcomes, |o| *o == ReleaseOutcome::Released)),
        Ok(Reply::Renewed(RenewOutcome::Extended(reply))) => {
            Some(size.saturating_sub(reply.lost.len()))
        }
        Ok(Reply::Renewed(RenewOutcome::SessionGone)) => Some(0),
        Ok(_) | Err(_) => None,
    };
    let has_failed = result.is_err();
    move |recorder| {
        let Some(method) = method else { return };
        if has_failed {
            return method(recorder, Attempt::Error, size);
        }
        let Some(ok) = ok else { return };
        if ok > 0 {
            method(recorder, Attempt::Ok, ok);
        }
        if size > ok {
            method(recorder, Attempt::Refused, size - ok);
        }
    }
}

fn count<T>(outcomes: &[T], is_ok: impl Fn(&T) -> bool) -> usize {
    outcomes.iter().filter(|outcome| is_ok(outcome)).count()
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
