//! [`Voice`]: what the driver logs.
//!
//! A logger may block: on a pipe that nobody reads, on a full disk. So lines are written
//! by a task of their own, and neither heartbeats nor the end of a lease wait for it.

use std::convert::Infallible;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use log::Level;

use crate::Runtime;

/// The default target of the lines.
pub(crate) const TARGET: &str = "streamlease_core::driver";

/// Most lines that wait for a logger that blocks; what comes then is counted only.
const MOST_WAITING: usize = 65_536;

/// Lines between which others may run.
const AT_ONCE: usize = 64;

/// Longest that the end waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(crate) struct Voice {
    lines: Sender<Line>,
    lost: Arc<AtomicU64>,
}

/// What was said and is to be written.
#[derive(Debug)]
pub(crate) struct Lines {
    waiting: Receiver<Line>,
    lost: Arc<AtomicU64>,
    target: String,
}

#[derive(Debug)]
enum Line {
    Said(Level, String),
    /// Everything before it is written once this is dropped.
    Mark(#[expect(dead_code, reason = "what counts is that it is dropped")] Sender<Infallible>),
}

impl Voice {
    pub(crate) fn new(target: String) -> (Self, Lines) {
        let (lines, waiting) = async_channel::bounded(MOST_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let unwritten = Lines {
            waiting,
            lost: lost.clone(),
            target,
        };
        (Self { lines, lost }, unwritten)
    }

    /// Never waits.
    pub(crate) fn say(&self, level: Level, line: impl FnOnce() -> String) {
        // Not whether this logger wants it: to ask it may block.
        if level > log::max_level() {
            return;
        }
        if let Err(err) = self.lines.try_send(Line::Said(level, line()))
            && err.is_full()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Resolves once everything is written that was said until now, or after a while.
    pub(super) async fn finish(&self, runtime: &dyn Runtime) {
        let written = async {
            let (mark, passed) = async_channel::bounded(1);
            // An error means that nobody writes any more.
            let _ = self.lines.send(Line::Mark(mark)).await;
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
            let Line::Said(level, line) = line else {
                continue;
            };
            write(&self.target, level, &line);
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                write(
                    &self.target,
                    Level::Warn,
                    &format!("{lost} lines are missing here: the logger was too slow"),
                );
            }
            written = written.wrapping_add(1);
            if written.is_multiple_of(AT_ONCE) {
                future::yield_now().await;
            }
        }
    }
}

/// A logger that panics costs its line.
fn write(target: &str, level: Level, line: &str) {
    let written = panic::catch_unwind(AssertUnwindSafe(|| {
        log::log!(target: target, level, "{line}");
    }));
    drop(written);
}
