//! `streamlease work`: leases streams, works on each, completes it.

mod hold;
mod intake;
mod losses;
mod telling;
mod worker;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_channel::Receiver;
use futures_lite::future;
use streamlease::{Client, Error, Event as ClientEvent, Events as ClientEvents, Run};

pub(crate) use self::intake::Intake;
pub(crate) use self::losses::Loss;
use self::telling::Telling;
use self::worker::Worker;
use crate::args::{Hold, WorkArgs};
use crate::exec::{Children, Exec, InfoFiles, Starts};
use crate::http::Http;
use crate::output::{Event, Events, Writer};
use crate::runtime::{self, AnyRuntime};
use crate::{Failure, signals};

pub(crate) fn run(args: WorkArgs) -> Result<(), Failure> {
    let checked = args.check()?;
    let children = Children::adopt()?;
    let infos = InfoFiles::default();
    let job = match &args.exec {
        Some(command) => Job::Run(Exec::new(
            command.clone(),
            checked.graces,
            args.json,
            children.clone(),
            infos.clone(),
        )?),
        None => Job::Hold(args.hold),
    };
    let remains = infos.clone();
    let stop = signals::stop_on_signals(move || {
        children.kill_all();
        remains.remove_all();
    })?;
    let (output, writer) = Events::start(args.json);
    let result = runtime::block_on(args.runtime, |runtime| {
        work(args, checked.identity, job, runtime, stop, output, writer)
    });
    infos.remove_all();
    result
}

/// What is done with a stream.
#[derive(Debug)]
enum Job {
    Hold(Hold),
    Run(Exec),
}

/// Why the work ends.
#[derive(Debug)]
enum Stop {
    ToldToStop,
    /// Why it takes nothing any more.
    OutputClosed(String),
}

/// Work ends by itself once it is told to: programs have their own graces, and what is left
/// of one that does not die is for this process to keep from others.
const NO_LIMIT: Duration = Duration::MAX;

async fn work(
    args: WorkArgs,
    identity: String,
    job: Job,
    runtime: AnyRuntime,
    stop: Receiver<()>,
    output: Events,
    writer: Writer,
) -> Result<(), Failure> {
    let service = args.target.service.as_str();
    let http = args.http.as_deref();
    let http = http.map(|address| Http::listen(address, service));
    let http = http.transpose()?;
    let (client, events) = start(&args, identity, &runtime, http.as_ref())?;
    if let Some(http) = http {
        let failed = |err| Failure::other(format!("cannot start a thread for --http: {err}"));
        http.serve(client.clone()).map_err(failed)?;
    }
    let starting = async { Some(client.started().await) };
    let told_to_stop = async {
        let _ = stop.recv().await;
        None
    };
    let Some(started) = future::or(starting, told_to_stop).await else {
        // It may have a session and streams already.
        let ended = client.shutdown().await;
        let reason = "shut down before it had started".to_owned();
        let last = output.print(Event::Terminated { reason });
        writer.finish(&runtime, &stop, last).await;
        return Ok(ended?);
    };
    started?;
    let consumer = client.id().to_string();
    output.print(Event::Started { consumer }).await;

    let (end, ending) = async_channel::bounded(1);
    let intake = Arc::new(Intake::new(client.clone(), args.capacity));
    let telling = Telling::new(output.clone(), intake.clone(), runtime.clone(), args.ttl);
    let worker = Arc::new(Worker {
        client: client.clone(),
        claim: args.claim,
        job,
        on_stop: args.on_stop,
        runtime: runtime.clone(),
        output: output.clone(),
        telling,
        starts: Starts::new(intake, runtime.clone()),
        losses: Arc::default(),
        patience: args.ttl,
        progress_timeout: args.progress_timeout,
        ending: ending.clone(),
    });

    let why: Arc<OnceLock<Stop>> = Arc::default();
    let (closed, told, ends) = (writer.closed(), why.clone(), end.clone());
    let until = async move {
        let told_to_stop = async {
            let _ = stop.recv().await;
            Stop::ToldToStop
        };
        let output_closed = async { Stop::OutputClosed(closed.await) };
        let _ = told.set(future::or(told_to_stop, output_closed).await);
        ends.close();
    };
    let (others, to_tell) = async_channel::unbounded();
    let losses = worker.losses.clone();
    let options = Run::until(until)
        .grace(NO_LIMIT)
        .drop_when_lost(false)
        .on_event(move |event| {
            match &event {
                ClientEvent::Terminated(_) => {
                    end.close();
                }
                ClientEvent::StreamDisowned(disowned) => losses.tell(disowned),
                _ => {}
            }
            // Whoever tells of them is there until this is dropped.
            let _ = others.try_send(event);
        });
    let run = client.run(events, options, |lease, stopping| {
        worker.clone().work_on(lease, stopping)
    });
    let last = async {
        let (ran, ()) = future::zip(run, worker.clone().tell_of(to_tell)).await;
        let (reason, result) = outcome(ran, why.get());
        output.print(Event::Terminated { reason }).await;
        result
    };
    writer.finish(&runtime, &ending, last).await
}

/// What is said of the end, and what this command ends with.
fn outcome(ran: Result<(), Error>, why: Option<&Stop>) -> (String, Result<(), Failure>) {
    let reason = match (ran, why) {
        (Err(error), _) => format!("gave up: {error}"),
        (Ok(()), Some(Stop::OutputClosed(why))) => {
            format!("{why}: nobody hears of the streams any more")
        }
        (Ok(()), Some(Stop::ToldToStop) | None) => return ("shut down".to_owned(), Ok(())),
    };
    (reason.clone(), Err(Failure::other(reason)))
}

/// Returns at once.
fn start(
    args: &WorkArgs,
    identity: String,
    runtime: &AnyRuntime,
    http: Option<&Http>,
) -> Result<(Client, ClientEvents), Failure> {
    let backend = crate::backend(&args.target)?.with_lock_scheme(args.locks.scheme());
    let mut builder = Client::builder(args.target.service.as_str());
    if let Some(http) = http {
        builder = builder.recorder(http.recorder());
    }
    Ok(builder
        .consumer(identity)
        .backend(backend)
        .runtime(runtime.clone())
        .ttl(args.ttl)
        .claim_mode(args.claim.mode())
        .capacity(args.capacity)
        .quarantine_after(args.quarantine_after.0)
        .crash_window(args.crash_window)
        .progress_timeout(args.progress_timeout)
        .event_queue(args.event_queue)
        .retry(args.retry())
        .start()?)
}
