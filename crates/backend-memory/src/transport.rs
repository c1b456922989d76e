//! [`MemoryTransport`]: the LBS behind the trait, and the fetches that wait for entries.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_lite::future;
use streamlease_core::{
    Admin, ClaimOutcome, CompleteOutcome, ConsumerName, ConsumerState, Delivery, EntryId, Fenced,
    FetchRequest, Fetched, HandBackOutcome, HandBackRequest, Hint, Pause, PendingIds, PendingPage,
    Quarantine, QuarantineOutcome, QuarantineRelease, Quarantined, Result, Scope, ServiceCounts,
    SubmitBatch, SubmitOutcome, Submitter, Timestamp, Transport,
};

use crate::lbs::Lbs;
use crate::service::{Service, not_prepared};

#[derive(Debug)]
pub(crate) struct MemoryTransport {
    service: Arc<Service>,
}

impl MemoryTransport {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn prepare(&self) -> Result<()> {
        self.service.step(|state, _| state.lbs.prepare());
        Ok(())
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        enum Begun {
            Done(Fetched),
            Waiting { ticket: u64, until: Timestamp },
        }
        let begun = self.service.step(|state, now| {
            let fetched = state.lbs.deliver(&request.consumer, request.max, now)?;
            if fetched.entries.is_empty() && !request.wait.is_zero() {
                let ticket = state.waiters.add(request);
                return Ok(Begun::Waiting {
                    ticket,
                    until: now + request.wait,
                });
            }
            Ok(Begun::Done(fetched))
        });
        let (ticket, until) = match begun? {
            Begun::Done(fetched) => return Ok(fetched),
            Begun::Waiting { ticket, until } => (ticket, until),
        };
        let waiting = Waiting {
            service: &self.service,
            ticket,
        };
        let answered = poll_fn(|cx| waiting.poll(cx));
        let timed_out = async {
            self.service.runtime.sleep_until(until).await;
            // Entries may have come between the last poll and now.
            waiting.leave().unwrap_or_else(|| Ok(Fetched::default()))
        };
        future::or(answered, timed_out).await
    }

    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage> {
        self.service
            .step(|state, now| state.lbs.list_pending(scope, limit, now))
    }

    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        self.service
            .step(|state, _| state.lbs.list_pending_ids(consumer, after, limit))
    }

    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        self.service
            .step(|state, _| state.lbs.list_stranded(after, limit))
    }

    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        self.service
            .step(|state, now| state.lbs.claim(consumer, claims, false, now))
    }

    async fn keep(&self, consumer: &ConsumerName, held: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        self.service
            .step(|state, now| state.lbs.claim(consumer, held, true, now))
    }

    async fn paused(&self) -> Result<Option<Pause>> {
        Ok(self.service.step(|state, _| state.lbs.paused()))
    }

    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()> {
        self.service.step(|state, _| {
            for entry in entries {
                state.lbs.clear_failures(*entry);
            }
        });
        Ok(())
    }

    async fn complete(
        &self,
        _consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>> {
        Ok(self.service.step(|state, _| {
            entries
                .iter()
                .map(|entry| state.lbs.complete(*entry))
                .collect()
        }))
    }

    async fn hand_back(
        &self,
        _consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>> {
        Ok(self.service.step(|state, now| {
            let mut freed = Vec::new();
            let outcomes = entries
                .iter()
                .map(|entry| state.lbs.hand_back(entry, &mut freed, now))
                .collect();
            if !freed.is_empty() {
                state.publish(Hint::HandedBack(freed));
            }
            outcomes
        }))
    }

    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>> {
        Ok(self.service.step(|state, now| {
            entries
                .iter()
                .map(|entry| state.lbs.quarantine(consumer, entry, now))
                .collect()
        }))
    }

    async fn remove_consumer(&self, consumer: &ConsumerName) -> Result<bool> {
        Ok(self
            .service
            .step(|state, _| state.lbs.remove_consumer(consumer)))
    }
}

#[async_trait]
impl Submitter for MemoryTransport {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        Ok(self.service.step(|state, now| {
            let ids = state.lbs.submit(batch, now);
            state.serve_fetches(now);
            ids
        }))
    }
}

#[async_trait]
impl Admin for MemoryTransport {
    async fn pause(&self, reason: &str) -> Result<bool> {
        Ok(self.service.step(|state, now| {
            state.publish(Hint::PauseChanged);
            state.lbs.begin_pause(reason, now)
        }))
    }

    async fn resume(&self) -> Result<bool> {
        Ok(self.service.step(|state, _| {
            state.publish(Hint::PauseChanged);
            state.lbs.end_pause()
        }))
    }

    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        self.service.step(|state, now| state.lbs.consumers(now))
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        Ok(self
            .service
            .step(|state, _| state.lbs.list_undelivered(after, limit)))
    }

    async fn counts(&self) -> Result<ServiceCounts> {
        Ok(self.service.step(|state, now| state.lbs.counts(now)))
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        Ok(self
            .service
            .step(|state, _| state.lbs.list_quarantined(after, limit)))
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        Ok(self.service.step(|state, now| {
            let releases = entries.iter();
            let releases = releases.map(|entry| state.lbs.release_quarantined(*entry, now));
            let releases = releases.collect();
            state.serve_fetches(now);
            releases
        }))
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        Ok(self.service.step(|state, _| {
            let entries = entries.iter();
            entries
                .map(|entry| state.lbs.drop_quarantined(*entry))
                .collect()
        }))
    }
}

/// The fetches that wait, in the order they came.
///
/// Entries are handed to them in the step that adds the entries, as Redis does
/// it: the first to wait is the first to be served, and one whose task is not
/// polled any more delays nobody. What a fetch was handed and never returned,
/// because it was dropped, is pending all the same.
#[derive(Default)]
pub(crate) struct Waiters {
    queue: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    woken: Vec<Waker>,
}

struct Waiter {
    consumer: ConsumerName,
    max: usize,
    answer: Option<Result<Fetched>>,
    waker: Option<Waker>,
}

impl Waiters {
    fn add(&mut self, request: &FetchRequest) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let consumer = request.consumer.clone();
        self.queue.insert(
            ticket,
            Waiter {
                consumer,
                max: request.max,
                answer: None,
                waker: None,
            },
        );
        ticket
    }

    /// Hands out what there is.
    pub(crate) fn serve(&mut self, lbs: &mut Lbs, now: Timestamp) {
        for waiter in self
            .queue
            .values_mut()
            .filter(|waiter| waiter.answer.is_none())
        {
            if lbs.undelivered() == 0 {
                break;
            }
            waiter.answer = Some(lbs.deliver(&waiter.consumer, waiter.max, now));
            self.woken.extend(waiter.waker.take());
        }
    }

    /// Ends all of them: the group is gone.
    pub(crate) fn fail(&mut self) {
        for waiter in self
            .queue
            .values_mut()
            .filter(|waiter| waiter.answer.is_none())
        {
            waiter.answer = Some(Err(not_prepared()));
            self.woken.extend(waiter.waker.take());
        }
    }

    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }
}

/// A fetch's place in the queue, given up when it is dropped.
struct Waiting<'a> {
    service: &'a Service,
    ticket: u64,
}

impl Waiting<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Fetched>> {
        self.service
            .step(|state, _| match state.waiters.queue.get_mut(&self.ticket) {
                Some(waiter) => match waiter.answer.take() {
                    Some(answer) => Poll::Ready(answer),
                    None => {
                        waiter.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                },
                None => Poll::Pending,
            })
    }

    fn leave(&self) -> Option<Result<Fetched>> {
        self.service
            .step(|state, _| state.waiters.queue.remove(&self.ticket)?.answer)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
