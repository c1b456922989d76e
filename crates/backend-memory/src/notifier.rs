//! [`MemoryNotifier`]: the hints that the other two publish.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use async_trait::async_trait;
use streamlease_core::{Hint, Notifier, Result, Subscription};

use crate::service::Service;

/// Hints a subscription keeps for a reader that does not come. Beyond it they
/// give way to one `MayHaveMissed`, which makes the reader look at everything.
const BUFFERED: usize = 1_024;

#[derive(Debug)]
pub(crate) struct MemoryNotifier {
    service: Arc<Service>,
}

impl MemoryNotifier {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let id = self.service.step(|state, _| state.subscribers.add());
        Ok(Box::new(MemorySubscription {
            service: self.service.clone(),
            id,
        }))
    }
}

#[derive(Debug)]
struct MemorySubscription {
    service: Arc<Service>,
    id: u64,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Hint> {
        poll_fn(|cx| {
            self.service.step(
                |state, _| match state.subscribers.next(self.id, cx.waker()) {
                    Some(hint) => Poll::Ready(Ok(hint)),
                    None => Poll::Pending,
                },
            )
        })
        .await
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        self.service
            .step(|state, _| state.subscribers.remove(self.id));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    all: BTreeMap<u64, Subscriber>,
    next_id: u64,
    woken: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Subscriber {
    hints: VecDeque<Hint>,
    waker: Option<Waker>,
}

impl Subscribers {
    fn add(&mut self) -> u64 {
        self.next_id += 1;
        self.all.insert(self.next_id, Subscriber::default());
        self.next_id
    }

    fn remove(&mut self, id: u64) {
        self.all.remove(&id);
    }

    fn next(&mut self, id: u64, waker: &Waker) -> Option<Hint> {
        let subscriber = self.all.get_mut(&id)?;
        let hint = subscriber.hints.pop_front();
        subscriber.waker = hint.is_none().then(|| waker.clone());
        hint
    }

    pub(crate) fn publish(&mut self, hint: Hint) {
        for subscriber in self.all.values_mut() {
            if subscriber.hints.len() >= BUFFERED {
                subscriber.hints.clear();
                subscriber.hints.push_back(Hint::MayHaveMissed);
            }
            subscriber.hints.push_back(hint.clone());
            self.woken.extend(subscriber.waker.take());
        }
    }

    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }
}
