//! What is done with each event: what is leased is told of and then worked on.

use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use futures_lite::future;
use streamlease::{ClaimResult, Client, Done, Event as ClientEvent, Lease, Orphan, Stopping};

use super::Job;
use super::losses::Losses;
use super::telling::Telling;
use crate::args::{Claim, OnStop};
use crate::exec::Starts;
use crate::output::{Event, Events};
use crate::runtime::AnyRuntime;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) claim: Claim,
    pub(super) job: Job,
    pub(super) on_stop: OnStop,
    pub(super) runtime: AnyRuntime,
    pub(super) output: Events,
    pub(super) telling: Arc<Telling>,
    pub(super) starts: Arc<Starts>,
    pub(super) losses: Arc<Losses>,
    /// So long a stream that is held waits for its program to start.
    pub(super) patience: Duration,
    pub(super) progress_timeout: Option<Duration>,
    /// Closed once the work is about to end.
    pub(super) ending: Receiver<()>,
}

impl Worker {
    /// One stream, from its lease to its end. It ends the lease itself, so as to tell how
    /// that went.
    ///
    /// What nobody hears of goes back.
    pub(super) async fn work_on(self: Arc<Self>, lease: Arc<Lease>, stopping: Stopping) -> Done {
        let loss = self.losses.watch(&lease);
        let line = self.output.line(&Event::added(&lease));
        let told = self.telling.tell(&line);
        let too_late = async {
            future::or(stopping.requested(), lease.lost()).await;
            false
        };
        if future::or(told, too_late).await {
            self.hold(&lease, &loss, &stopping).await;
        }
        Done::HandBack
    }

    /// Tells of all other events, in order, until there are no more.
    pub(super) async fn tell_of(self: Arc<Self>, events: Receiver<ClientEvent>) {
        while let Ok(event) = events.recv().await {
            match event {
                ClientEvent::StreamExpired(orphan) => self.expired(orphan).await,
                ClientEvent::Quarantined(quarantined) => {
                    let event = Event::quarantined(&quarantined);
                    self.telling.tell_surely(&self.output.line(&event)).await;
                }
                // Told by whoever works on it, and at the end.
                ClientEvent::StreamDisowned(_) | ClientEvent::Terminated(_) => {}
                other => log::debug!("an event this command does not know: {other:?}"),
            }
        }
    }

    async fn expired(self: &Arc<Self>, orphan: Orphan) {
        let line = self.output.line(&Event::expired(&orphan));
        match self.claim {
            // It is reported again.
            Claim::Manual if !self.telling.tell(&line).await || self.ending.is_closed() => {}
            Claim::Manual => {
                let worker = self.clone();
                self.runtime
                    .start(async move { worker.claim(orphan).await });
            }
            Claim::Auto | Claim::Off => self.telling.tell_surely(&line).await,
        }
    }

    async fn claim(&self, orphan: Orphan) {
        let (stream, consumer) = (orphan.stream(), self.client.id());
        match self.client.claim(&orphan).await {
            // It arrives as `StreamAdded`.
            Ok(ClaimResult::Claimed) => {}
            Ok(result) => {
                log::debug!("not claimed ({result:?}): stream={stream} consumer={consumer}")
            }
            Err(_) if self.ending.is_closed() => {}
            // It is reported again at the next sweep.
            Err(err) => log::warn!("claiming failed: {err}: stream={stream} consumer={consumer}"),
        }
    }
}
