//! The task that hears hints.

use std::convert::Infallible;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use log::Level;

use super::{Arrival, Driver, LastWord};
use crate::{Error, ErrorKind, Hint, readable};

/// A subscription that takes longer has failed: `Client::started` waits for the first one.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(5);

/// Until the next try after the first failure; doubling up to the same limit.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(100);

impl Driver {
    /// Subscribes, passes hints on, and does so anew after every failure.
    pub(super) fn spawn_subscription(&self, arrive: Sender<Arrival>, stop: Receiver<Infallible>) {
        let notifier = self.backend.notifier.clone();
        let runtime = self.runtime.clone();
        let (consumer, voice) = (self.consumer.clone(), self.voice.clone());
        let longest_wait = SUBSCRIBE_LIMIT.min(self.ttl).max(SUBSCRIBE_AGAIN);
        let last_word = LastWord {
            arrive: arrive.clone(),
            about: None,
            said: false,
        };
        self.runtime.spawn(Box::pin(async move {
            // Hints are not needed; `Client::started` waits for the first try.
            let _last_word = last_word;
            let listen = async {
                let mut wait = SUBSCRIBE_AGAIN;
                loop {
                    let overdue = async {
                        runtime.sleep_until(runtime.now() + SUBSCRIBE_LIMIT).await;
                        Err(Error::new(
                            ErrorKind::Unavailable,
                            format!("no subscription within {}", readable(SUBSCRIBE_LIMIT)),
                        ))
                    };
                    match future::or(notifier.subscribe(), overdue).await {
                        Ok(mut subscription) => {
                            let since = runtime.now();
                            let _ = arrive.try_send(Arrival::SubscriptionTried);
                            let _ = arrive.try_send(Arrival::Hint(Hint::MayHaveMissed));
                            let error = loop {
                                match subscription.next().await {
                                    Ok(hint) => {
                                        let _ = arrive.try_send(Arrival::Hint(hint));
                                    }
                                    Err(error) => break error,
                                }
                            };
                            voice.say(Level::Debug, || {
                                format!("hints interrupted consumer={consumer}: {error:?}")
                            });
                            // Each new one makes the machine look around, so those
                            // that break at once are to come ever more rarely.
                            if runtime.now().saturating_since(since) >= SUBSCRIBE_LIMIT {
                                wait = SUBSCRIBE_AGAIN;
                            }
                        }
                        Err(error) => {
                            let _ = arrive.try_send(Arrival::SubscriptionTried);
                            voice.say(Level::Debug, || {
                                format!("no hints for now consumer={consumer}: {error:?}")
                            });
                            // Whoever waits for a server is to have hints soon after it is back.
                            wait = wait.min(longest_wait);
                        }
                    }
                    runtime.sleep_until(runtime.now() + wait).await;
                    wait = (wait * 2).min(SUBSCRIBE_LIMIT);
                }
            };
            let stopped = async {
                let _ = stop.recv().await;
            };
            future::or(listen, stopped).await;
        }));
    }
}
