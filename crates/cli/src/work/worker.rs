//! Serving events: what is leased is told of and worked on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease::{
    ClaimResult, Client, Event as ClientEvent, Events as ClientEvents, Lease, Orphan, Runtime,
};

use super::intake::Intake;
use super::ledger::Ledger;
use super::{End, Job};
use crate::args::{Claim, OnStop};
use crate::exec::Starts;
use crate::output::{Event, Events, Writer};
use crate::runtime::AnyRuntime;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) claim: Claim,
    pub(super) job: Job,
    pub(super) on_stop: OnStop,
    pub(super) runtime: AnyRuntime,
    pub(super) output: Events,
    pub(super) ledger: Ledger,
    pub(super) intake: Arc<Intake>,
    pub(super) starts: Arc<Starts>,
    /// So long a stream that is held waits to be told of, or for its program to start.
    pub(super) patience: Duration,
    /// Closed when the tasks are to stop.
    pub(super) stop: Receiver<()>,
}

/// What standard output is to take before anything else is told.
#[derive(Debug)]
struct Untold {
    line: String,
    then: Then,
}

/// What is done about an event once it is told.
#[derive(Debug)]
enum Then {
    Nothing,
    /// Works on it. Dropped, it goes back: nobody has heard of it.
    Begin(Lease),
    /// Claims it. Dropped, it is reported again.
    Claim(Orphan),
}

impl Untold {
    /// Whether it must be told although nobody listens now.
    fn must_be_told(&self) -> bool {
        matches!(self.then, Then::Nothing)
    }
}

impl Worker {
    /// Serves events until there is a reason to stop; what could not be told until
    /// then. Tasks hold a clone of `running`.
    ///
    /// A stream that is held is worked on once it is told of. While standard output
    /// takes nothing, no further event is taken; and if that lasts, what is held
    /// without anybody's knowing goes back, and nothing more is taken.
    pub(super) async fn serve(
        self: &Arc<Self>,
        events: &mut ClientEvents,
        stop: &Receiver<()>,
        writer: &Writer,
        running: &Sender<()>,
    ) -> (End, Vec<String>) {
        enum Wake {
            Event(Option<ClientEvent>),
            Told,
            Stuck,
            End(End),
        }
        let mut untold: VecDeque<Untold> = VecDeque::new();
        let mut stuck = false;
        let mut stuck_at = self.runtime.now();
        let end = loop {
            let told_to_stop = async {
                let _ = stop.recv().await;
                Wake::End(End::ToldToStop)
            };
            let output_closed = async {
                writer.closed().await;
                Wake::End(End::OutputClosed)
            };
            let told = async {
                match untold.front() {
                    Some(next) => self.output.print_line(&next.line).await,
                    None if stuck => self.output.has_room(&self.runtime).await,
                    None => future::pending().await,
                }
                Wake::Told
            };
            let event = async {
                if !untold.is_empty() && !stuck {
                    future::pending::<()>().await;
                }
                Wake::Event(events.next().await)
            };
            let too_long = async {
                if untold.is_empty() || stuck {
                    future::pending::<()>().await;
                }
                self.runtime.sleep_until(stuck_at).await;
                Wake::Stuck
            };
            let ended = future::or(told_to_stop, output_closed);
            let wake = future::or(ended, future::or(told, future::or(event, too_long))).await;
            match wake {
                Wake::End(end) => break end,
                Wake::Event(Some(ClientEvent::Terminated(termination))) => {
                    break End::Terminated(termination);
                }
                // Nothing comes after `Terminated`, which ended the loop.
                Wake::Event(None) => break End::ToldToStop,
                Wake::Event(Some(event)) => {
                    if untold.is_empty() {
                        stuck_at = self.runtime.now() + self.patience;
                    }
                    let next = self.take(event);
                    untold.extend(next.filter(|next| !stuck || next.must_be_told()));
                }
                Wake::Told => {
                    stuck_at = self.runtime.now() + self.patience;
                    if let Some(Untold { then, .. }) = untold.pop_front() {
                        self.proceed(then, running);
                    }
                    if stuck && untold.is_empty() {
                        stuck = false;
                        log::warn!("standard output is read again");
                        self.intake.told();
                    }
                }
                Wake::Stuck => {
                    stuck = true;
                    log::warn!(
                        "standard output takes nothing: no further streams are taken, and \
                         what is not told of goes back"
                    );
                    self.intake.cannot_tell();
                    untold.retain(Untold::must_be_told);
                }
            }
        };
        let untold = untold.into_iter().filter(Untold::must_be_told);
        (end, untold.map(|untold| untold.line).collect())
    }

    /// What there is to tell of an event.
    fn take(&self, event: ClientEvent) -> Option<Untold> {
        let (event, then) = match event {
            ClientEvent::StreamAdded(lease) => (Event::added(&lease), Then::Begin(lease)),
            ClientEvent::StreamExpired(orphan) => {
                let event = Event::expired(&orphan);
                match self.claim {
                    Claim::Manual => (event, Then::Claim(orphan)),
                    Claim::Auto | Claim::Off => (event, Then::Nothing),
                }
            }
            ClientEvent::StreamDisowned(disowned) => {
                let held = (&disowned).into();
                if !self.ledger.lose(&held) {
                    return None;
                }
                (Event::disowned(&held), Then::Nothing)
            }
            ClientEvent::Quarantined(quarantined) => {
                let (entry, reason) = (
                    quarantined.entry().to_string(),
                    quarantined.reason().to_owned(),
                );
                (Event::Quarantined { entry, reason }, Then::Nothing)
            }
            other => {
                log::debug!("an event this command does not know: {other:?}");
                return None;
            }
        };
        let line = self.output.line(&event);
        Some(Untold { line, then })
    }

    fn proceed(self: &Arc<Self>, then: Then, running: &Sender<()>) {
        let (worker, running) = (self.clone(), running.clone());
        match then {
            Then::Nothing => {}
            Then::Begin(lease) => {
                self.ledger.add((&lease).into());
                self.runtime.start(async move {
                    worker.hold(lease).await;
                    drop(running);
                });
            }
            Then::Claim(orphan) => self.runtime.start(async move {
                worker.claim(orphan).await;
                drop(running);
            }),
        }
    }

    /// What has come already, of what must be told. Begins nothing.
    pub(super) fn drain(&self, events: &mut ClientEvents) -> Vec<String> {
        std::iter::from_fn(|| events.try_next())
            .filter_map(|event| self.take(event))
            .filter(Untold::must_be_told)
            .map(|untold| untold.line)
            .collect()
    }

    async fn claim(&self, orphan: Orphan) {
        let (stream, consumer) = (orphan.stream(), self.client.id());
        match self.client.claim(&orphan).await {
            // It arrives as `StreamAdded`.
            Ok(ClaimResult::Claimed) => {}
            Ok(result) => {
                log::debug!("not claimed ({result:?}): stream={stream} consumer={consumer}")
            }
            // It is reported again at the next sweep.
            Err(err) => log::warn!("claiming failed: {err}: stream={stream} consumer={consumer}"),
        }
    }
}
