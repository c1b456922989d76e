//! Actions against the traits, and what is measured of them.

use crate::machine::{Action, LbsCall, LocksCall, Reply};
use crate::recorder::Attempt;
use crate::{
    AcquireOutcome, Backend, BeatOutcome, BoxFuture, ClaimOutcome, ConsumerName, FetchRequest,
    LockManager, Recorder, ReleaseOutcome, Result, Transport,
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
        LbsCall::ForgetConsumer(name) => Reply::Forgotten(lbs.forget_consumer(&name).await?),
    })
}

async fn ask_locks(call: LocksCall, locks: &dyn LockManager) -> Result<Reply> {
    Ok(match call {
        LocksCall::Open(session) => Reply::Opened(locks.open(&session).await?),
        LocksCall::Close(session) => {
            locks.close(&session).await?;
            Reply::Closed
        }
        LocksCall::Acquire(session, requests) => {
            Reply::Acquired(locks.acquire(&session, &requests).await?)
        }
        LocksCall::Beat {
            session,
            leases,
            want_sweep,
        } => Reply::Beaten(locks.beat(&session, &leases, want_sweep).await?),
        LocksCall::Release(session, releases) => {
            Reply::Released(locks.release(&session, &releases).await?)
        }
        LocksCall::Inspect(page) => Reply::Inspected(locks.inspect(&page).await?),
        LocksCall::TakeOver { session, dead, max } => {
            Reply::TakenOver(locks.take_over(&session, &dead, max).await?)
        }
        LocksCall::Bury(dead) => Reply::Buried(locks.bury(&dead).await?),
        LocksCall::Members => Reply::Members(locks.members().await?),
        LocksCall::Records {
            session,
            after,
            max,
        } => Reply::Records(locks.records(&session, after.as_ref(), max).await?),
    })
}

/// How many streams an action is about, for the measurements.
pub(super) fn size_of(action: &Action) -> usize {
    match action {
        Action::Lbs(LbsCall::Claim(page)) => page.len(),
        Action::Locks(LocksCall::Acquire(_, page)) => page.len(),
        Action::Locks(LocksCall::Beat { leases, .. }) => leases.len().max(1),
        Action::Locks(LocksCall::Release(_, page)) => page.len(),
        _ => 1,
    }
}

type Method = fn(&dyn Recorder, Attempt, usize);

/// What is to be recorded of an action that has ended so, once its reply is passed on.
pub(super) fn measured(
    name: &str,
    size: usize,
    result: &Result<Reply>,
) -> impl FnOnce(&dyn Recorder) + use<> {
    let method: Option<Method> = match name {
        "claim" => Some(|recorder, attempt, n| recorder.claim(attempt, n)),
        "acquire" => Some(|recorder, attempt, n| recorder.lock_acquire(attempt, n)),
        "beat" => Some(|recorder, attempt, n| recorder.lock_extend(attempt, n)),
        "release" => Some(|recorder, attempt, n| recorder.lock_release(attempt, n)),
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
        Ok(Reply::Beaten(BeatOutcome::Extended(reply))) => {
            Some(size.saturating_sub(reply.lost.len()))
        }
        Ok(Reply::Beaten(BeatOutcome::SessionGone)) => Some(0),
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
