//! Logs and errors go to standard error; `RUST_LOG` says how much (default: warnings).
//!
//! A thread of its own writes them. Nobody else waits for standard error: it may be a
//! pipe that nobody reads, and a driver that waited for a line could not beat.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::output;

/// Lines that wait to be written; what comes on top is dropped, and counted.
const WAITING: usize = 1024;

/// At the end, a reader that takes nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the logger writes to.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: SyncSender<Vec<u8>>,
    count: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    accepted: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

pub(crate) fn start() -> Log {
    let (lines, to_write) = sync_channel::<Vec<u8>>(WAITING);
    let count = Arc::new(Count::default());
    let counts = count.clone();
    thread::spawn(move || {
        for line in to_write {
            let mut stderr = io::stderr().lock();
            // It may be closed; there is nobody else to tell.
            let _ = stderr.write_all(&line);
            let dropped = counts.dropped.swap(0, Ordering::AcqRel);
            if dropped > 0 {
                let ts = output::unix_ms();
                let _ = writeln!(
                    stderr,
                    "{ts} WARN  streamlease: {dropped} lines of this log were dropped: \
                     standard error took nothing"
                );
            }
            counts.written.fetch_add(1, Ordering::AcqRel);
        }
    });
    let log = Log { lines, count };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .target(env_logger::Target::Pipe(Box::new(log.clone())))
        .format(|out, record| {
            let (ts, level) = (output::unix_ms(), record.level());
            writeln!(out, "{ts} {level:5} {}: {}", record.target(), record.args())
        })
        .init();
    log
}

impl Log {
    /// Writes this as it is.
    pub(crate) fn say(&self, text: &str) {
        match self.lines.try_send(text.as_bytes().to_vec()) {
            Ok(()) => self.count.accepted.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.count.dropped.fetch_add(1, Ordering::AcqRel),
        };
    }

    /// Waits until all is written, or standard error takes nothing for a while.
    pub(crate) fn finish(&self) {
        let mut progress = (u64::MAX, Instant::now());
        loop {
            let written = self.count.written.load(Ordering::Acquire);
            if written >= self.count.accepted.load(Ordering::Acquire) {
                return;
            }
            if written != progress.0 {
                progress = (written, Instant::now());
            } else if progress.1.elapsed() >= PATIENCE {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for Log {
    /// One call is one line: the logger writes each with one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
