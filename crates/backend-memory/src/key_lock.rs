//! [`MemoryKeyLock`]: plain keys, which core's `KeyLockManager` makes per-stream locks of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::{Hint, KeyAcquired, KeyHolder, KeyLock, KeyLockManager, Result, Timestamp};

use crate::service::Service;

#[derive(Debug)]
pub(crate) struct MemoryKeyLock {
    service: Arc<Service>,
}

impl MemoryKeyLock {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

/// Expired keys go when somebody looks at them, as whoever waits for one does.
pub(crate) type Keys = BTreeMap<String, Key>;

#[derive(Debug)]
pub(crate) struct Key {
    value: String,
    number: u64,
    deadline: Timestamp,
}

fn live<'a>(keys: &'a mut Keys, key: &str, now: Timestamp) -> Option<&'a mut Key> {
    if keys.get(key).is_some_and(|found| found.deadline <= now) {
        keys.remove(key);
    }
    keys.get_mut(key)
}

#[async_trait]
impl KeyLock for MemoryKeyLock {
    async fn acquire(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        floor: u64,
    ) -> Result<KeyAcquired> {
        Ok(self
            .service
            .step(|state, now| match live(&mut state.keys, key, now) {
                Some(found) if found.value == value => {
                    found.deadline = now + ttl;
                    KeyAcquired::Acquired(found.number)
                }
                Some(found) => KeyAcquired::Held(found.holder(now)),
                None => {
                    let number = state.tokens.mint(floor, now).0;
                    let made = Key {
                        value: value.into(),
                        number,
                        deadline: now + ttl,
                    };
                    state.keys.insert(key.into(), made);
                    KeyAcquired::Acquired(number)
                }
            }))
    }

    async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool> {
        Ok(self
            .service
            .step(|state, now| match live(&mut state.keys, key, now) {
                Some(found) if found.number == number => {
                    found.deadline = now + ttl;
                    true
                }
                _ => false,
            }))
    }

    async fn release(&self, key: &str, number: u64) -> Result<bool> {
        Ok(self.service.step(|state, now| {
            let held = live(&mut state.keys, key, now).is_some_and(|found| found.number == number);
            if held {
                state.keys.remove(key);
                if let Some(stream) = KeyLockManager::stream_of(key) {
                    state.publish(Hint::Freed(vec![stream]));
                }
            }
            held
        }))
    }

    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>> {
        Ok(self
            .service
            .step(|state, now| live(&mut state.keys, key, now).map(|found| found.holder(now))))
    }
}

impl Key {
    fn holder(&self, now: Timestamp) -> KeyHolder {
        KeyHolder {
            value: self.value.clone(),
            number: self.number,
            remaining: self.deadline.saturating_since(now),
        }
    }
}
