//! `streamlease submit`: announces data streams and prints their entry ids.

use std::io::{self, BufRead, IsTerminal, Write};
use std::{fmt, fs, thread};

use async_channel::Receiver;
use streamlease::{Announcement, EntryId, Error, Info, Producer, StreamName};

use crate::Failure;
use crate::args::{InfoSource, RuntimeKind, SubmitArgs};
use crate::runtime::{self, AnyRuntime};

/// Most announcements sent together.
const BATCH: usize = 500;

pub(crate) fn run(args: SubmitArgs) -> Result<(), Failure> {
    let info_on_stdin = matches!(args.info, Some(InfoSource::StandardInput));
    if args.names.is_empty() && info_on_stdin {
        return Err(Failure::usage(
            "with --info - standard input is the info; name the data streams as arguments",
        ));
    }
    if args.names.is_empty() && io::stdin().is_terminal() {
        return Err(Failure::usage(
            "no data stream is named; give NAME…, or names on standard input, one a line",
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
    Info::from_json(&json).map_err(|err| failed(&err))
}

async fn submit(args: SubmitArgs, info: Info, runtime: AnyRuntime) -> Result<(), Failure> {
    let backend = crate::connect(&args.target).await?;
    let producer = Producer::new(args.target.service.as_str(), &backend, runtime)?;
    let mut progress = Progress {
        producer,
        info,
        submitted: 0,
    };
    if args.names.is_empty() {
        let lines = read_names();
        while let Ok(first) = lines.recv().await {
            // What is there already goes together; nothing waits for more.
            let mut batch = vec![first?];
            while let Some(Ok(next)) = (batch.len() < BATCH).then(|| lines.try_recv()) {
                match next {
                    Ok(name) => batch.push(name),
                    Err(err) => {
                        progress.submit(batch).await?;
                        return Err(err.into());
                    }
                }
            }
            progress.submit(batch).await?;
        }
    } else {
        for batch in args.names.chunks(BATCH) {
            progress.submit(batch.to_vec()).await?;
        }
    }
    Ok(())
}

struct Progress {
    producer: Producer,
    info: Info,
    submitted: usize,
}

impl Progress {
    async fn submit(&mut self, names: Vec<StreamName>) -> Result<(), Failure> {
        let announcements = names
            .into_iter()
            .map(|name| Announcement::new(name, self.info.clone()))
            .collect();
        match self.producer.submit_all(announcements).await {
            Ok(entries) => {
                self.submitted += entries.len();
                print(&entries);
                Ok(())
            }
            Err(err) => {
                let mut failure = Failure::from(err);
                let before = self.submitted;
                failure.message += &format!(
                    "; {before} streams were submitted before, and of the next ones it is unknown"
                );
                Err(failure)
            }
        }
    }
}

fn print(entries: &[EntryId]) {
    let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    let mut stdout = io::stdout().lock();
    // If nobody reads the ids, the streams shall be submitted all the same.
    let _ = stdout
        .write_all(lines.as_bytes())
        .and_then(|()| stdout.flush());
}

/// The names on standard input, read by a thread because that blocks. Empty
/// lines are left out.
fn read_names() -> Receiver<Result<StreamName, Error>> {
    let (send, names) = async_channel::bounded(2 * BATCH);
    thread::spawn(move || {
        for (number, line) in (1..).zip(io::stdin().lock().lines()) {
            let name = line
                .map_err(|err| err.to_string())
                .and_then(|line| match line.as_str() {
                    "" => Ok(None),
                    name => StreamName::new(name)
                        .map(Some)
                        .map_err(|err| err.to_string()),
                })
                .map_err(|err| Error::config(format!("standard input, line {number}: {err}")))
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
