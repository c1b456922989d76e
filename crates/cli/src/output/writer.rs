//! The thread that writes to standard output, and what there is to do if nobody reads.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease::Runtime;

use super::{Event, json_line};
use crate::runtime::AnyRuntime;

/// Lines that wait for the thread. Few, since whoever has a line here takes it as told.
const WAITING: usize = 64;

/// At the end, a reader that takes nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks how far the thread is, at the end.
const LOOK: Duration = Duration::from_millis(5);

/// The same while it is stuck.
const LOOK_SELDOM: Duration = Duration::from_millis(100);

/// Where events go. A thread of its own writes them, line by line, so that a
/// reader that takes its time blocks no executor, and with it no heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    lines: Sender<String>,
    json: bool,
    /// Closed once nothing is printed any more.
    given_up: Receiver<()>,
    count: Arc<Count>,
}

/// Lines, and those of them that are written.
#[derive(Debug, Default)]
struct Count {
    all: AtomicUsize,
    written: AtomicUsize,
    /// Why none is written any more.
    failed: OnceLock<String>,
}

/// A line that is about to be printed; dropped, it is not.
struct Printing<'a>(&'a Count);

/// The writing end of [`Events`].
#[derive(Debug)]
pub(crate) struct Writer {
    closed: Receiver<()>,
    give_up: Sender<()>,
    count: Arc<Count>,
}

impl Events {
    pub(crate) fn start(json: bool) -> (Self, Writer) {
        let (lines, to_write) = async_channel::bounded::<String>(WAITING);
        let (gone, closed) = async_channel::bounded::<()>(1);
        let (give_up, given_up) = async_channel::bounded::<()>(1);
        let count = Arc::new(Count::default());
        let counts = count.clone();
        thread::spawn(move || {
            let mut stdout = io::stdout().lock();
            while let Ok(line) = to_write.recv_blocking() {
                let written = stdout.write_all(line.as_bytes());
                if let Err(err) = written.and_then(|()| stdout.flush()) {
                    // Whoever prints goes on unheard.
                    let _ = counts.failed.set(match err.kind() {
                        io::ErrorKind::BrokenPipe => "standard output is closed".to_owned(),
                        _ => format!("standard output: {err}"),
                    });
                    break;
                }
                counts.written.fetch_add(1, Ordering::AcqRel);
            }
            drop(gone);
        });
        let events = Self {
            lines,
            json,
            given_up,
            count: count.clone(),
        };
        let writer = Writer {
            closed,
            give_up,
            count,
        };
        (events, writer)
    }

    /// Prints an event; waits while the reader of standard output is far behind.
    pub(crate) async fn print(&self, event: Event) {
        self.print_line(&self.line(&event)).await;
    }

    /// How an event is written.
    pub(crate) fn line(&self, event: &Event) -> String {
        if self.json {
            json_line(event)
        } else {
            event.readable() + "\n"
        }
    }

    /// The same as [`print`](Self::print). Dropped, it has printed nothing.
    pub(crate) async fn print_line(&self, line: &str) {
        let print = async {
            let printing = Printing::new(&self.count);
            // An error means that nobody reads any more.
            if self.lines.send(line.to_owned()).await.is_ok() {
                printing.accepted();
            }
        };
        let given_up = async {
            let _ = self.given_up.recv().await;
        };
        future::or(print, given_up).await;
    }

    /// Resolves once a line could be printed.
    pub(crate) async fn has_room(&self, runtime: &AnyRuntime) {
        while self.lines.is_full() {
            runtime.sleep(LOOK_SELDOM).await;
        }
    }
}

impl<'a> Printing<'a> {
    fn new(count: &'a Count) -> Self {
        count.all.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }

    fn accepted(self) {
        std::mem::forget(self);
    }
}

impl Drop for Printing<'_> {
    fn drop(&mut self) {
        self.0.all.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Count {
    fn written(&self) -> usize {
        self.written.load(Ordering::Acquire)
    }

    fn is_all_written(&self) -> bool {
        self.written() >= self.all.load(Ordering::Acquire)
    }
}

impl Writer {
    /// Resolves, with the reason, once nothing is written to standard output any more.
    pub(crate) fn closed(&self) -> impl Future<Output = String> + Send + 'static {
        let (closed, count) = (self.closed.clone(), self.count.clone());
        async move {
            let _ = closed.recv().await;
            count.failed.get().cloned().unwrap_or_default()
        }
    }

    /// Runs all that prints, and waits until all of it is written. Once `ending` is closed,
    /// it does so only as long as standard output takes something now and then.
    pub(crate) async fn finish<T>(
        &self,
        runtime: &AnyRuntime,
        ending: &Receiver<()>,
        all: impl Future<Output = T>,
    ) -> T {
        let written = async {
            let result = all.await;
            while !self.count.is_all_written() && !self.closed.is_closed() {
                if self.give_up.is_closed() {
                    break;
                }
                runtime.sleep(LOOK).await;
            }
            result
        };
        let patience = async {
            let _ = ending.recv().await;
            let mut progress = (self.count.written(), runtime.now());
            loop {
                runtime.sleep(LOOK).await;
                let written = self.count.written();
                if written != progress.0 || self.count.is_all_written() {
                    progress = (written, runtime.now());
                } else if runtime.now() >= progress.1 + PATIENCE {
                    break;
                }
            }
            log::warn!("standard output takes nothing: the last events are not told");
            self.give_up.close();
            // From here on nothing that is printed waits.
            future::pending().await
        };
        future::or(written, patience).await
    }
}
