//! `streamlease work`: leases streams, works on each, completes it.

mod hold;
mod intake;
mod ledger;
mod worker;

use std::sync::Arc;

use async_channel::Receiver;
use futures_lite::future;
use streamlease::{Client, Events as ClientEvents, Termination};

pub(crate) use self::intake::Intake;
use self::ledger::Ledger;
use self::worker::Worker;
use crate::args::{Hold, WorkArgs};
use crate::exec::{Children, Exec, InfoFiles, Starts};
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
    writer: Writer,
) -> Result<(), Failure> {
    let (client, mut events) = start(&args, identity, &runtime)?;
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
        writer.finish(&runtime, last).await;
        return Ok(ended?);
    };
    started?;
    let consumer = client.id().to_string();
    output.print(Event::Started { consumer }).await;

    let (stop_tasks, stopped) = async_channel::bounded(1);
    let (running, all_ended) = async_channel::bounded(1);
    let intake = Arc::new(Intake::new(client.clone(), args.capacity));
    let worker = Worker {
        client: client.clone(),
        claim: args.claim,
        job,
        on_stop: args.on_stop,
        runtime: runtime.clone(),
        output: output.clone(),
        ledger: Ledger::default(),
        starts: Starts::new(intake.clone(), runtime.clone()),
        intake,
        patience: args.ttl,
        stop: stopped,
    };
    let worker = Arc::new(worker);

    let (end, mut untold) = worker.serve(&mut events, &stop, &writer, &running).await;

    // No further streams are taken up now, and unread ones go back by themselves.
    untold.extend(worker.drain(&mut events));
    drop(events);
    stop_tasks.close();
    drop(running);

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
    // Also of a client that gives up while its programs are ended.
    let mut ended = Ok(());
    let last = async {
        for line in untold {
            output.print_line(&line).await;
        }
        // Nothing is ever sent; it closes when the last task has ended.
        let _ = all_ended.recv().await;
        ended = client.shutdown().await;
        output.print(Event::Terminated { reason }).await;
    };
    writer.finish(&runtime, last).await;
    result?;
    Ok(ended?)
}

/// Returns at once.
fn start(
    args: &WorkArgs,
    identity: String,
    runtime: &AnyRuntime,
) -> Result<(Client, ClientEvents), Failure> {
    let backend = crate::backend(&args.target)?.with_lock_scheme(args.locks.scheme());
    Ok(Client::builder(args.target.service.as_str())
        .consumer(identity)
        .backend(backend)
        .runtime(runtime.clone())
        .ttl(args.ttl)
        .claim_mode(args.claim.mode())
        .capacity(args.capacity)
        .retry(args.retry())
        .start()?)
}
