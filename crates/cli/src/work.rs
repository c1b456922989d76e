//! `streamlease work`: leases streams, works on each, completes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease::{
    ClaimResult, Client, Completion, Error, Event as ClientEvent, Events as ClientEvents, Handover,
    Lease, Orphan, Termination,
};

use crate::args::{Claim, Hold, WorkArgs};
use crate::exec::{Exec, Outcome, Programs};
use crate::output::{Event, Events, HeldStream, Writer};
use crate::runtime::{self, AnyRuntime};
use crate::{Failure, signals};

pub(crate) fn run(args: WorkArgs) -> Result<(), Failure> {
    let identity = args.check()?;
    let programs = Programs::default();
    let job = match &args.exec {
        Some(command) => Job::Run(Exec::new(
            command.clone(),
            args.grace,
            args.json,
            programs.clone(),
        )?),
        None => Job::Hold(args.hold),
    };
    let stop = signals::stop_on_signals(programs)?;
    let (output, writer) = Events::start(args.json);
    let result = runtime::block_on(args.runtime, |runtime| {
        work(args, identity, job, runtime, stop, output, &writer)
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

    /// One stream, from its lease to its end.
    async fn hold(&self, lease: Lease) {
        let held = HeldStream::from(&lease);
        let end = match &self.job {
            Job::Hold(hold) => self.pass_time(*hold, &lease).await,
            Job::Run(exec) => self.run_program(exec, &lease).await,
        };
        match end {
            Finish::Lost => self.disowned(held).await,
            // It was lost before its work ended, and that has been told.
            _ if !self.ledger.begin_end(&held) => {}
            Finish::Complete => match lease.complete().await {
                Ok(completion) => {
                    self.ledger.end(&held);
                    self.output
                        .print(Event::done(&held, outcome(completion)))
                        .await;
                }
                Err(err) => self.not_completed(&lease, held, &err).await,
            },
            Finish::HandBack { failed } => self.hand_back(&lease, held, failed).await,
        }
    }

    async fn pass_time(&self, hold: Hold, lease: &Lease) -> Finish {
        let work = async {
            match hold {
                Hold::For(time) => self.runtime.sleep(time).await,
                Hold::Forever => future::pending().await,
            }
            Finish::Complete
        };
        let lost = async {
            lease.lost().await;
            Finish::Lost
        };
        let stopped = async {
            let _ = self.stop.recv().await;
            Finish::HandBack { failed: false }
        };
        future::or(lost, future::or(stopped, work)).await
    }

    async fn run_program(&self, exec: &Exec, lease: &Lease) -> Finish {
        let (stream, consumer, token) = (lease.stream(), self.client.id(), lease.token());
        let labels = format!("stream={stream} consumer={consumer} token={token}");
        match exec.run(lease, &self.stop, &self.runtime).await {
            Outcome::Exited(status) | Outcome::Stopped(status) if status.success() => {
                Finish::Complete
            }
            Outcome::Exited(status) => {
                log::warn!("the program failed ({status}): {labels}");
                Finish::HandBack { failed: true }
            }
            Outcome::Stopped(_) => Finish::HandBack { failed: false },
            Outcome::Lost => Finish::Lost,
            Outcome::BadStream(err) => {
                log::warn!("the program cannot be run for this stream: {err}: {labels}");
                Finish::HandBack { failed: true }
            }
            Outcome::CannotStart(err) => {
                log::error!("the program cannot be run: {err}: {labels}");
                Finish::HandBack { failed: false }
            }
        }
    }

    async fn not_completed(&self, lease: &Lease, held: HeldStream, err: &Error) {
        log::warn!(
            "not completed: {err}: stream={} token={}",
            lease.stream(),
            lease.token()
        );
        if lease.is_valid() {
            self.hand_back(lease, held, false).await;
        } else {
            self.ledger.end(&held);
            self.output.print(Event::disowned(&held)).await;
        }
    }

    async fn hand_back(&self, lease: &Lease, held: HeldStream, failed: bool) {
        let result = if failed {
            lease.fail().await
        } else {
            lease.hand_back().await
        };
        let disowned = self.ledger.end(&held);
        if let Err(err) = &result {
            // Dropped, it is tried again for as long as the client lives.
            log::warn!(
                "not handed back: {err}: stream={} token={}",
                lease.stream(),
                lease.token()
            );
        }
        match result {
            Ok(Handover::HandedBack) if !disowned => {
                self.output.print(Event::handed_back(&held)).await;
            }
            _ => self.output.print(Event::disowned(&held)).await,
        }
    }

    /// Tells that a stream was lost, unless its end has been told, or will be.
    async fn disowned(&self, held: HeldStream) {
        if self.ledger.lose(&held) {
            self.output.print(Event::disowned(&held)).await;
        }
    }
}

/// How the work on a stream ended.
enum Finish {
    Complete,
    HandBack { failed: bool },
    Lost,
}

fn outcome(completion: Completion) -> &'static str {
    match completion {
        Completion::Completed => "completed",
        Completion::NotOwner => "not_owner",
        Completion::Gone => "gone",
        _ => "unknown",
    }
}

/// What is held, so that each stream's end is told exactly once, whoever
/// hears of it first: its task, or the reader of events.
#[derive(Debug, Default)]
struct Ledger {
    held: Mutex<BTreeMap<HeldStream, Phase>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Held,
    /// Its task is completing it or handing it back, and will tell.
    Ending {
        disowned: bool,
    },
}

impl Ledger {
    fn add(&self, held: HeldStream) {
        self.lock().insert(held, Phase::Held);
    }

    /// Its task is about to end it; `false` if its end has been told already.
    fn begin_end(&self, held: &HeldStream) -> bool {
        match self.lock().get_mut(held) {
            Some(phase) => {
                *phase = Phase::Ending { disowned: false };
                true
            }
            None => false,
        }
    }

    /// The end is about to be told; whether it was reported lost meanwhile.
    fn end(&self, held: &HeldStream) -> bool {
        matches!(
            self.lock().remove(held),
            None | Some(Phase::Ending { disowned: true })
        )
    }

    /// Whether the caller is to tell.
    fn lose(&self, held: &HeldStream) -> bool {
        let mut all = self.lock();
        match all.get_mut(held) {
            Some(Phase::Held) => {
                all.remove(held);
                true
            }
            Some(Phase::Ending { disowned }) => {
                *disowned = true;
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<HeldStream, Phase>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
