//! `streamlease work`: leases streams, works on each, completes it.

mod hold;
mod ledger;

use std::sync::Arc;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease::{
    ClaimResult, Client, Event as ClientEvent, Events as ClientEvents, Orphan, Termination,
};

use self::ledger::Ledger;
use crate::args::{Claim, Hold, OnStop, WorkArgs};
use crate::exec::{Children, Exec};
use crate::output::{Event, Events, Writer};
use crate::runtime::{self, AnyRuntime};
use crate::{Failure, signals};

pub(crate) fn run(args: WorkArgs) -> Result<(), Failure> {
    let checked = args.check()?;
    let children = Children::adopt()?;
    let job = match &args.exec {
        Some(command) => Job::Run(Exec::new(
            command.clone(),
            checked.graces,
            args.json,
            children.clone(),
        )?),
        None => Job::Hold(args.hold),
    };
    let stop = signals::stop_on_signals(children)?;
    let (output, writer) = Events::start(args.json);
    let result = runtime::block_on(args.runtime, |runtime| {
        work(args, checked.identity, job, runtime, stop, output, &writer)
    });
    writer.finish();
    result
}

/// What is done with a stream.
#[derive(Debug)]
enum Job {
    Hold(Hold),
    Run(Exec),
}

/// Why the work ends.
enum End {
    ToldToStop,
    OutputClosed,
    Terminated(Termination),
}

async fn work(
    args: WorkArgs,
    identity: String,
    job: Job,
    runtime: AnyRuntime,
    stop: Receiver<()>,
    output: Events,
    writer: &Writer,
) -> Result<(), Failure> {
    let starting = async { Some(start(&args, identity, &runtime).await) };
    let told_to_stop = async {
        let _ = stop.recv().await;
        None
    };
    // Whoever starts holds nothing yet: there is nothing to hand back.
    let Some(started) = future::or(starting, told_to_stop).await else {
        let reason = "shut down before it had started".to_owned();
        output.print(Event::Terminated { reason }).await;
        return Ok(());
    };
    let (client, mut events) = started?;
    let consumer = client.id().to_string();
    output.print(Event::Started { consumer }).await;

    let (stop_tasks, stopped) = async_channel::bounded(1);
    let (running, all_ended) = async_channel::bounded(1);
    let worker = Worker {
        client: client.clone(),
        claim: args.claim,
        job,
        on_stop: args.on_stop,
        runtime,
        output: output.clone(),
        ledger: Ledger::default(),
        stop: stopped,
    };
    let worker = Arc::new(worker);

    let end = worker.serve(&mut events, &stop, writer, &running).await;

    // No further streams are taken up now, and unread ones go back by themselves.
    worker.drain(&mut events).await;
    drop(events);
    stop_tasks.close();
    drop(running);
    // Nothing is ever sent; it closes when the last task has ended.
    let _ = all_ended.recv().await;
    client.done().await?;

    let (reason, result) = match end {
        End::ToldToStop => ("shut down".to_owned(), Ok(())),
        End::OutputClosed => {
            let reason = "standard output is closed: nobody hears of the streams any more";
            (reason.to_owned(), Err(Failure::other(reason)))
        }
        End::Terminated(termination) if termination.is_shutdown() => {
            (termination.to_string(), Ok(()))
        }
        End::Terminated(termination) => {
            let reason = termination.to_string();
            (reason.clone(), Err(Failure::other(reason)))
        }
    };
    output.print(Event::Terminated { reason }).await;
    result
}

async fn start(
    args: &WorkArgs,
    identity: String,
    runtime: &AnyRuntime,
) -> Result<(Client, ClientEvents), Failure> {
    let backend = crate::connect(&args.target).await?;
    let backend = backend.with_lock_scheme(args.locks.scheme());
    let client = Client::builder(args.target.service.as_str())
        .consumer(identity)
        .backend(backend)
        .runtime(runtime.clone())
        .ttl(args.ttl)
        .claim_mode(args.claim.mode())
        .capacity(args.capacity)
        .build()?;
    let events = client.start().await?;
    Ok((client, events))
}

#[derive(Debug)]
struct Worker {
    client: Client,
    claim: Claim,
    job: Job,
    on_stop: OnStop,
    runtime: AnyRuntime,
    output: Events,
    ledger: Ledger,
    /// Closed when the tasks are to stop.
    stop: Receiver<()>,
}

impl Worker {
    /// Serves events until there is a reason to stop. Tasks hold a clone of `running`.
    async fn serve(
        self: &Arc<Self>,
        events: &mut ClientEvents,
        stop: &Receiver<()>,
        writer: &Writer,
        running: &Sender<()>,
    ) -> End {
        enum Wake {
            Event(Option<ClientEvent>),
            End(End),
        }
        loop {
            let told_to_stop = async {
                let _ = stop.recv().await;
                Wake::End(End::ToldToStop)
            };
            let output_closed = async {
                writer.closed().await;
                Wake::End(End::OutputClosed)
            };
            let event = async { Wake::Event(events.next().await) };
            match future::or(told_to_stop, future::or(output_closed, event)).await {
                Wake::Event(Some(ClientEvent::Terminated(termination))) => {
                    return End::Terminated(termination);
                }
                Wake::Event(Some(event)) => self.take(event, running).await,
                // Nothing comes after `Terminated`, which ended the loop.
                Wake::Event(None) => return End::ToldToStop,
                Wake::End(end) => return end,
            }
        }
    }

    /// Takes what has come already, but begins nothing.
    async fn drain(&self, events: &mut ClientEvents) {
        while let Some(event) = events.try_next() {
            // A lease that is dropped goes back; nobody has heard of it.
            if let ClientEvent::StreamDisowned(disowned) = event {
                self.disowned((&disowned).into()).await;
            }
        }
    }

    async fn take(self: &Arc<Self>, event: ClientEvent, running: &Sender<()>) {
        match event {
            ClientEvent::StreamAdded(lease) => {
                self.ledger.add((&lease).into());
                self.output.print(Event::added(&lease)).await;
                let (worker, running) = (self.clone(), running.clone());
                self.runtime.start(async move {
                    worker.hold(lease).await;
                    drop(running);
                });
            }
            ClientEvent::StreamExpired(orphan) => {
                self.output.print(Event::expired(&orphan)).await;
                if self.claim == Claim::Manual {
                    let (worker, running) = (self.clone(), running.clone());
                    self.runtime.start(async move {
                        worker.claim(orphan).await;
                        drop(running);
                    });
                }
            }
            ClientEvent::StreamDisowned(disowned) => self.disowned((&disowned).into()).await,
            ClientEvent::Quarantined(parked) => {
                let (entry, reason) = (parked.entry().to_string(), parked.reason().to_owned());
                self.output
                    .print(Event::Quarantined { entry, reason })
                    .await;
            }
            other => log::debug!("an event this command does not know: {other:?}"),
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
            // It is reported again at the next sweep.
            Err(err) => log::warn!("claiming failed: {err}: stream={stream} consumer={consumer}"),
        }
    }
}
