//! [`Voice`]: what the driver logs.
//!
//! A logger may block: on a pipe that nobody reads, on a full disk. So lines are written
//! by a task of their own, and neither heartbeats nor the end of a lease wait for it.
//!
//! What a line is about stands in its text, to be searched for, and in its keys (`service`,
//! `consumer`, `stream`, `entry`, `token`), for loggers that show them apart. Both are without
//! what would end a line or command a terminal, whatever names and reasons are: most loggers
//! write keys as they are, too.

use std::convert::Infallible;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};

use crate::{ConsumerName, EntryId, FencingToken, Runtime, ServiceName, StreamName, printable};

/// The default target of the lines.
pub(crate) const TARGET: &str = "streamlease_core::driver";

/// About how many lines wait for a logger that blocks; what comes then is counted only.
const MOST_WAITING: usize = 65_536;

/// Lines between which others may run.
const AT_ONCE: usize = 64;

/// Longest that the end waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(crate) struct Voice {
    lines: Sender<Queued>,
    lost: Arc<AtomicU64>,
}

/// What was said and is to be written.
#[derive(Debug)]
pub(crate) struct Lines {
    waiting: Receiver<Queued>,
    lost: Arc<AtomicU64>,
    client: Named,
}

/// Whose lines they are.
#[derive(Debug)]
struct Named {
    target: String,
    service: ServiceName,
    consumer: ConsumerName,
}

/// What is said, and of which stream.
#[derive(Debug)]
pub(crate) struct Line {
    text: String,
    stream: Option<StreamName>,
    entry: Option<EntryId>,
    token: Option<FencingToken>,
}

impl Line {
    pub(crate) fn new(text: String) -> Self {
        Self {
            text,
            stream: None,
            entry: None,
            token: None,
        }
    }

    pub(crate) fn stream(mut self, stream: &StreamName) -> Self {
        self.stream = Some(stream.clone());
        self
    }

    pub(crate) fn entry(mut self, entry: EntryId) -> Self {
        self.entry = Some(entry);
        self
    }

    pub(crate) fn token(mut self, token: FencingToken) -> Self {
        self.token = Some(token);
        self
    }
}

/// Of the client alone.
impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[derive(Debug)]
enum Queued {
    Said(Level, Line),
    /// Everything before it is written once this is dropped.
    Mark(#[expect(dead_code, reason = "what counts is that it is dropped")] Sender<Infallible>),
}

impl Voice {
    pub(crate) fn new(
        target: String,
        service: ServiceName,
        consumer: ConsumerName,
    ) -> (Self, Lines) {
        // A bounded one would take memory for all of them at once.
        let (lines, waiting) = async_channel::unbounded();
        let lost = Arc::new(AtomicU64::new(0));
        let unwritten = Lines {
            waiting,
            lost: lost.clone(),
            client: Named {
                target,
                service,
                consumer,
            },
        };
        (Self { lines, lost }, unwritten)
    }

    /// Never waits.
    pub(crate) fn say<L: Into<Line>>(&self, level: Level, line: impl FnOnce() -> L) {
        // Not whether this logger wants it: to ask it may block.
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        if self.lines.len() >= MOST_WAITING {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // An error means that nobody writes any more.
        let _ = self.lines.try_send(Queued::Said(level, line().into()));
    }

    /// Resolves once everything is written that was said until now, or after a while.
    pub(super) async fn finish(&self, runtime: &dyn Runtime) {
        let written = async {
            let (mark, passed) = async_channel::bounded(1);
            let _ = self.lines.try_send(Queued::Mark(mark));
            let _ = passed.recv().await;
        };
        let too_long = runtime.sleep_until(runtime.now() + LAST_LINES);
        future::or(written, too_long).await;
    }
}

impl Lines {
    /// Ends when the last clone of its [`Voice`] is dropped.
    pub(super) async fn write(self) {
        let mut written = 0_usize;
        while let Ok(line) = self.waiting.recv().await {
            let Queued::Said(level, line) = line else {
                continue;
            };
            self.client.write(level, &line);
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.client.write(
                    Level::Warn,
                    &format!("lines are missing here: {lost}; the logger was too slow").into(),
                );
            }
            written = written.wrapping_add(1);
            if written.is_multiple_of(AT_ONCE) {
                future::yield_now().await;
            }
        }
    }
}

impl Named {
    /// A logger that panics costs its line.
    fn write(&self, level: Level, line: &Line) {
        let stream = line.stream.as_ref().map(printable);
        let keys = Keys {
            client: self,
            line,
            stream: stream.map(|stream| stream.to_string()),
        };
        let written = panic::catch_unwind(AssertUnwindSafe(|| {
            if level > log::max_level() {
                return;
            }
            // As `log!` does it, with keys that are not the same for all lines.
            log::logger().log(
                &Record::builder()
                    .target(&self.target)
                    .level(level)
                    .args(format_args!("{}", printable(&line.text)))
                    .module_path_static(Some(module_path!()))
                    .file_static(Some(file!()))
                    .line(Some(line!()))
                    .key_values(&keys)
                    .build(),
            );
        }));
        drop(written);
    }
}

#[derive(Debug)]
struct Keys<'a> {
    client: &'a Named,
    line: &'a Line,
    stream: Option<String>,
}

impl Source for Keys<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let Self {
            client,
            line,
            stream,
        } = self;
        let mut visit = |key, value| visitor.visit_pair(Key::from_str(key), value);
        visit("service", client.service.as_str().into())?;
        visit("consumer", client.consumer.as_str().into())?;
        if let Some(stream) = stream {
            visit("stream", stream.as_str().into())?;
        }
        if let Some(entry) = &line.entry {
            visit("entry", Value::from_display(entry))?;
        }
        if let Some(token) = line.token {
            visit("token", token.get().into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_logger_that_blocks_cannot_take_is_counted_and_never_waited_for() {
        log::set_max_level(log::LevelFilter::Info);
        let service = ServiceName::new("s").unwrap();
        let consumer = ConsumerName::from_wire("c");
        let (voice, lines) = Voice::new(TARGET.to_owned(), service, consumer);
        for n in 0..MOST_WAITING + 10 {
            voice.say(Level::Info, || n.to_string());
        }
        assert_eq!(lines.waiting.len(), MOST_WAITING);
        assert_eq!(lines.lost.load(Ordering::Relaxed), 10);
    }
}
