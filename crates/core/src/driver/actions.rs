//! Actions against the traits, and what is measured of them.

use crate::machine::{Action, Reply};
use crate::recorder::Attempt;
use crate::{
    AcquireOutcome, Backend, BeatOutcome, BoxFuture, ClaimOutcome, ConsumerName, FetchRequest,
    Recorder, ReleaseOutcome, Result,
};

pub(super) fn execute(
    action: Action,
    backend: Backend,
    consumer: ConsumerName,
) -> BoxFuture<'static, Result<Reply>> {
    let Backend {
        transport, locks, ..
    } = backend;
    Box::pin(async move {
        Ok(match action {
            Action::Prepare => {
                transport.prepare().await?;
                Reply::Prepared
            }
            Action::Fetch { max, wait } => Reply::Fetched(
                transport
                    .fetch(&FetchRequest {
                        consumer,
                        max,
                        wait,
                    })
                    .await?,
            ),
            Action::List { scope, limit } => {
                Reply::Listed(transport.list_pending(&scope, limit).await?)
            }
            Action::ListIds {
                consumer,
                after,
                limit,
            } => Reply::ListedIds(
                transport
                    .list_pending_ids(consumer.as_ref(), after, limit)
                    .await?,
            ),
            Action::ListStranded { after, limit } => {
                Reply::ListedIds(transport.list_stranded(after, limit).await?)
            }
            Action::Claim(claims) => Reply::Claimed(transport.claim(&consumer, &claims).await?),
            Action::ClearFailures(page) => {
                transport.clear_failures(&page).await?;
                Reply::FailuresCleared
            }
            Action::Complete(page) => Reply::Completed(transport.complete(&consumer, &page).await?),
            Action::HandBack(page) => {
                Reply::HandedBack(transport.hand_back(&consumer, &page).await?)
            }
            Action::Quarantine(page) => {
                Reply::Quarantined(transport.quarantine(&consumer, &page).await?)
            }
            Action::ForgetConsumer(name) => {
                Reply::Forgotten(transport.forget_consumer(&name).await?)
            }
            Action::Open(session) => Reply::Opened(locks.open(&session).await?),
            Action::Close(session) => {
                locks.close(&session).await?;
                Reply::Closed
            }
            Action::Acquire(session, requests) => {
                Reply::Acquired(locks.acquire(&session, &requests).await?)
            }
            Action::Beat {
                session,
                leases,
                want_sweep,
            } => Reply::Beaten(locks.beat(&session, &leases, want_sweep).await?),
            Action::Release(session, releases) => {
                Reply::Released(locks.release(&session, &releases).await?)
            }
            Action::Inspect(page) => Reply::Inspected(locks.inspect(&page).await?),
            Action::TakeOver { session, dead, max } => {
                Reply::TakenOver(locks.take_over(&session, &dead, max).await?)
            }
            Action::Bury(dead) => Reply::Buried(locks.bury(&dead).await?),
            Action::Members => Reply::Members(locks.members().await?),
            Action::Records {
                session,
                after,
                max,
            } => Reply::Records(locks.records(&session, after.as_ref(), max).await?),
        })
    })
}

pub(super) fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Prepare => "prepare",
        Action::Fetch { .. } => "fetch",
        Action::List { .. } => "list_pending",
        Action::ListIds { .. } => "list_pending_ids",
        Action::ListStranded { .. } => "list_stranded",
        Action::Claim(_) => "claim",
        Action::ClearFailures(_) => "clear_failures",
        Action::Complete(_) => "complete",
        Action::HandBack(_) => "hand_back",
        Action::Quarantine(_) => "quarantine",
        Action::ForgetConsumer(_) => "forget_consumer",
        Action::Open(_) => "open",
        Action::Close(_) => "close",
        Action::Acquire(..) => "acquire",
        Action::Beat { .. } => "beat",
        Action::Release(..) => "release",
        Action::Inspect(_) => "inspect",
        Action::TakeOver { .. } => "take_over",
        Action::Bury(_) => "bury",
        Action::Members => "members",
        Action::Records { .. } => "records",
    }
}

/// How many streams an action is about, for the measurements.
pub(super) fn size_of(action: &Action) -> usize {
    match action {
        Action::Claim(page) => page.len(),
        Action::Acquire(_, page) => page.len(),
        Action::Beat { leases, .. } => leases.len().max(1),
        Action::Release(_, page) => page.len(),
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
