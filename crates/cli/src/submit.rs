//! `streamlease submit`: announces data streams and prints their entry ids.

mod bar;

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal};
use std::time::Duration;
use std::{fmt, fs, thread};

use async_channel::Receiver;
use futures_lite::future;
use indicatif::ProgressBar;
use serde::Serialize;
use streamlease::spi::readable;
use streamlease::{
    Announcement, Error, ErrorKind, Info, Producer, RetryPolicy, Runtime, StreamName, SubmitBatch,
    SubmitOutcome,
};

use crate::Failure;
use crate::args::{InfoSource, RuntimeKind, SubmitArgs, Target};
use crate::output::{Told, json_line};
use crate::runtime::{self, AnyRuntime};

/// Most announcements sent together.
const BATCH: usize = 500;

/// Between two tries, doubling up to the other.
const REST_FIRST: Duration = Duration::from_millis(50);
const REST_LAST: Duration = Duration::from_secs(1);

pub(crate) fn run(mut args: SubmitArgs) -> Result<(), Failure> {
    match args.names.as_slice() {
        [name] if name.as_str() == "-" => args.names.clear(),
        names if names.iter().any(|name| name.as_str() == "-") => {
            return Err(Failure::usage(
                "`-` stands for all names, on standard input; give it alone",
            ));
        }
        _ if !args.names.is_empty() => {}
        _ if io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "no data stream is named; give NAME…, or names on standard input, one a line",
            ));
        }
        _ => {}
    }
    let info_on_stdin = matches!(args.info, Some(InfoSource::StandardInput));
    if args.names.is_empty() && info_on_stdin {
        return Err(Failure::usage(
            "with --info - standard input is the info; name the data streams as arguments",
        ));
    }
    let info = args.info.clone().map_or(Ok(Info::NONE), read_info)?;
    runtime::block_on(RuntimeKind::Tokio, |runtime| submit(args, info, runtime))
}

/// What there is to tell about the streams, wherever it is.
fn read_info(source: InfoSource) -> Result<Info, Failure> {
    let (name, json) = match source {
        InfoSource::Json(info) => return Ok(info),
        InfoSource::File(path) => (path.display().to_string(), fs::read_to_string(path)),
        InfoSource::StandardInput => (
            "standard input".to_owned(),
            io::read_to_string(io::stdin().lock()),
        ),
    };
    let failed = |err: &dyn fmt::Display| Failure::usage(format!("--info: {name}: {err}"));
    let json = json.map_err(|err| failed(&err))?;
    Info::from_json(crate::without_bom(&json)).map_err(|err| failed(&err))
}

async fn submit(args: SubmitArgs, info: Info, runtime: AnyRuntime) -> Result<(), Failure> {
    let backend = crate::backend(&args.target)?;
    // Tried once here: how long it goes on is this command's to know.
    let producer = Producer::new(args.target.service.as_str(), &backend, runtime.clone())?
        .retry(RetryPolicy::NONE)?;
    let all = (!args.names.is_empty()).then_some(args.names.len());
    let mut progress = Progress {
        producer,
        target: args.target,
        bar: bar::new(all, BATCH),
        runtime,
        info,
        timeout: args.timeout,
        key: args.batch_key,
        seen: BTreeMap::new(),
        if_absent: args.if_absent,
        json: args.json,
        submitted: 0,
        told: Told::default(),
    };
    if args.names.is_empty() {
        let lines = read_names();
        while let Ok(first) = lines.recv().await {
            let mut batch = vec![first.map_err(|err| progress.failed(err.into(), 0))?];
            while batch.len() < BATCH {
                // What is there already; nothing waits for more.
                match lines.try_recv() {
                    Ok(Ok(name)) => batch.push(name),
                    Ok(Err(err)) => {
                        progress.submit(batch).await?;
                        return Err(progress.failed(err.into(), 0));
                    }
                    Err(_) => break,
                }
            }
            progress.submit(batch).await?;
        }
    } else {
        for batch in args.names.chunks(BATCH) {
            progress.submit(batch.to_vec()).await?;
        }
    }
    progress.bar.finish_and_clear();
    let told = std::mem::take(&mut progress.told).finish();
    told.map_err(|failure| progress.failed(failure, 0))
}

struct Progress {
    producer: Producer,
    target: Target,
    bar: ProgressBar,
    runtime: AnyRuntime,
    info: Info,
    timeout: Duration,
    key: Option<String>,
    /// How often each name came so far, if there is a key.
    seen: BTreeMap<StreamName, usize>,
    if_absent: bool,
    json: bool,
    submitted: usize,
    /// If the ids cannot be printed, the streams shall be submitted all the same.
    told: Told,
}

impl Progress {
    async fn submit(&mut self, names: Vec<StreamName>) -> Result<(), Failure> {
        let announcements = names
            .into_iter()
            .map(|name| Announcement::new(name, self.info.clone()))
            .collect();
        let Some(key) = self.key.clone() else {
            return self.announce(SubmitBatch::new(announcements)?).await;
        };
        for (times, announcements) in self.by_occurrence(announcements) {
            // No argument has a zero byte, so no other key is like this one.
            let key = match times {
                0 => key.clone(),
                n => format!("{key}\0{n}"),
            };
            self.announce(SubmitBatch::with_key(key, announcements)?)
                .await?;
        }
        Ok(())
    }

    /// Split where the number changes of times that the name came before in this run: a name
    /// that comes twice is announced twice, also where the names are sent in other batches.
    fn by_occurrence(&mut self, all: Vec<Announcement>) -> Vec<(usize, Vec<Announcement>)> {
        let mut parts: Vec<(usize, Vec<Announcement>)> = Vec::new();
        for announcement in all {
            let seen = self.seen.entry(announcement.stream.clone()).or_default();
            match parts.last_mut() {
                Some((times, part)) if times == seen => part.push(announcement),
                _ => parts.push((*seen, vec![announcement])),
            }
            *seen += 1;
        }
        parts
    }

    async fn announce(&mut self, mut batch: SubmitBatch) -> Result<(), Failure> {
        batch.if_absent = self.if_absent;
        let outcomes = self.submit_batch(&batch).await?;
        self.submitted += outcomes.len();
        let text = self.text(&batch, &outcomes);
        let told = &mut self.told;
        self.bar.suspend(|| told.print(&text));
        self.bar
            .inc(u64::try_from(outcomes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn text(&self, batch: &SubmitBatch, outcomes: &[SubmitOutcome]) -> String {
        let announced = batch.announcements.iter().zip(outcomes);
        let lines = announced.map(|(a, outcome)| Line::new(a.stream.as_str(), *outcome));
        match self.json {
            true => lines.map(|line| json_line(&line)).collect(),
            false => lines.map(|line| line.readable()).collect(),
        }
    }

    /// The same batch again and again, which appends nothing twice, until it is
    /// answered or time is up.
    async fn submit_batch(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>, Failure> {
        let give_up_at = self.runtime.now() + self.timeout;
        let mut rest = REST_FIRST;
        let mut last_error = None;
        // Of these it is not known, once one of the tries may have been executed.
        let mut unknown = 0;
        loop {
            let overdue = async {
                self.runtime.sleep_until(give_up_at).await;
                None
            };
            let answer = async { Some(self.producer.submit_batch(batch).await) };
            let answer = future::or(answer, overdue).await;
            if !matches!(&answer, Some(Err(err)) if was_refused(err)) {
                unknown = batch.announcements.len();
            }
            match answer {
                Some(Ok(outcomes)) => return Ok(outcomes),
                Some(Err(err)) => {
                    // What has worked before will work again, unless it is this batch.
                    let again = err.is_retryable()
                        || (self.submitted > 0 && err.kind() != ErrorKind::Config);
                    if !again {
                        return Err(self.failed(crate::of_redis(&self.target, err), unknown));
                    }
                    if last_error.is_none() {
                        log::warn!("submitting failed, trying again: {err}");
                    }
                    last_error = Some(err);
                }
                None => {}
            }
            if self.runtime.now() + rest >= give_up_at {
                let err = last_error.unwrap_or_else(|| {
                    Error::new(
                        ErrorKind::Unavailable,
                        format!("no answer within {}", readable(self.timeout)),
                    )
                });
                return Err(self.failed(crate::of_redis(&self.target, err), unknown));
            }
            self.runtime.sleep(rest).await;
            rest = (rest * 2).min(REST_LAST);
        }
    }

    /// The same with what became of the streams; of the next `unknown` ones nobody knows.
    fn failed(&self, mut failure: Failure, unknown: usize) -> Failure {
        self.bar.finish_and_clear();
        let standing = standing(self.submitted, unknown, self.key.as_deref());
        if !standing.is_empty() {
            // Servers end what they say in various ways.
            let said = failure.message.trim_end_matches('.');
            failure.message = format!("{said}{standing}");
        }
        failure
    }
}

/// Whether nothing of the batch can have been submitted by the try that was answered so.
fn was_refused(err: &Error) -> bool {
    err.is_nothing_done() || matches!(err.kind(), ErrorKind::Config | ErrorKind::Environment)
}

/// What became of the streams, to stand behind an error.
fn standing(submitted: usize, unknown: usize, key: Option<&str>) -> String {
    if submitted == 0 && unknown == 0 {
        return String::new();
    }
    let sent = match unknown {
        0 => String::new(),
        1 if submitted == 0 => " Whether the stream was submitted is not known.".to_owned(),
        n if submitted == 0 => {
            format!(" Whether the first {n} streams were submitted is not known.")
        }
        1 => " Whether the next one was submitted is not known.".to_owned(),
        n => format!(" Whether the next {n} were submitted is not known."),
    };
    let mut text = match submitted {
        0 => format!(".{sent}"),
        1 => format!(". 1 stream was submitted.{sent}"),
        n => format!(". {n} streams were submitted.{sent}"),
    };
    if let Some(key) = key {
        text += &format!(
            " The same again with --batch-key {key} within five minutes submits the rest."
        );
    }
    text
}

/// What is printed of one stream.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Submitted { stream: &'a str, entry: String },
    AlreadyAnnounced { stream: &'a str, entry: String },
    AlreadySubmitted { stream: &'a str, entry: String },
}

impl<'a> Line<'a> {
    fn new(stream: &'a str, outcome: SubmitOutcome) -> Self {
        let entry = outcome.entry().to_string();
        match outcome {
            SubmitOutcome::AlreadyAnnounced(_) => Self::AlreadyAnnounced { stream, entry },
            SubmitOutcome::AlreadySubmitted(_) => Self::AlreadySubmitted { stream, entry },
            _ => Self::Submitted { stream, entry },
        }
    }

    /// The same for people, and for scripts: the entry id first.
    fn readable(&self) -> String {
        match self {
            Self::Submitted { entry, .. } => format!("{entry}\n"),
            Self::AlreadyAnnounced { entry, .. } => format!("{entry} already announced\n"),
            Self::AlreadySubmitted { entry, .. } => format!("{entry} already submitted\n"),
        }
    }
}

fn named_by(number: u64, line: &str) -> &str {
    match number {
        1 => crate::without_bom(line),
        _ => line,
    }
}

/// The names on standard input, read by a thread because that blocks. Empty
/// lines are left out.
fn read_names() -> Receiver<Result<StreamName, Error>> {
    let (send, names) = async_channel::bounded(2 * BATCH);
    thread::spawn(move || {
        for (number, line) in (1..).zip(io::stdin().lock().lines()) {
            let at_line = |kind, err: &dyn fmt::Display| {
                Error::new(kind, format!("standard input, line {number}: {err}"))
            };
            let name = line
                .map_err(|err| match err.kind() {
                    // What was written there is no text.
                    io::ErrorKind::InvalidData => at_line(ErrorKind::Config, &err),
                    _ => at_line(ErrorKind::Environment, &err),
                })
                .and_then(|line| match named_by(number, &line) {
                    "" => Ok(None),
                    name => StreamName::new(name)
                        .map(Some)
                        .map_err(|err| at_line(err.kind(), &err)),
                })
                .transpose();
            let Some(name) = name else { continue };
            let stop = name.is_err();
            if send.send_blocking(name).is_err() || stop {
                return;
            }
        }
    });
    names
}
