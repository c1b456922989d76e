//! Logs and errors go to standard error; `--log`, else `RUST_LOG`, says how much (default:
//! warnings).
//!
//! A thread of its own writes them. Nobody else waits for standard error: it may be a
//! pipe that nobody reads, and a driver that waited for a line could not renew.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::LevelFilter;
use streamlease::spi::printable;

/// Lines that wait to be written; what comes on top is dropped, and counted.
const WAITING: usize = 1024;

/// At the end, a reader that takes nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The log. Dropped, it waits until all is written, or standard error takes nothing for
/// a while.
#[derive(Debug)]
pub(crate) struct Log(Lines);

/// What the logger and panics write to.
#[derive(Debug, Clone)]
struct Lines {
    lines: SyncSender<Vec<u8>>,
    count: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    accepted: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// `level`: what was asked for on the command line.
pub(crate) fn start(level: Option<LevelFilter>) -> Log {
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
                let ts = now();
                let _ = writeln!(
                    stderr,
                    "{ts} WARN  streamlease: lines of this log were dropped: {dropped}; standard \
                     error took nothing"
                );
            }
            counts.written.fetch_add(1, Ordering::AcqRel);
        }
    });
    let lines = Lines { lines, count };
    let mut logger = match level {
        Some(level) => {
            let mut logger = env_logger::Builder::new();
            logger.filter_level(level);
            logger
        }
        None => env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")),
    };
    logger
        .target(env_logger::Target::Pipe(Box::new(lines.clone())))
        .format(|out, record| {
            let (ts, level) = (now(), record.level());
            // Whoever says it: no name and no server's text makes a line of its own.
            let said = printable(record.args());
            writeln!(out, "{ts} {level:5} {}: {said}", record.target())
        })
        .init();
    let log = Log(lines.clone());
    // The usual hook writes to standard error itself.
    panic::set_hook(Box::new(move |panic| lines.say(&told(panic))));
    log
}

/// In UTC, as `2026-11-29T12:00:00.000Z`.
fn now() -> impl Display {
    humantime::format_rfc3339_millis(SystemTime::now())
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let (ts, thread) = (now(), thread::current());
    let name = thread.name().unwrap_or("without a name");
    let mut told = format!("{ts} ERROR streamlease: thread '{name}' {panic}\n");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        told += &format!("{backtrace}\n");
    }
    told
}

impl Log {
    /// Writes this as it is.
    pub(crate) fn say(&self, text: &str) {
        self.0.say(text);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Lines {
    fn say(&self, text: &str) {
        match self.lines.try_send(text.as_bytes().to_vec()) {
            Ok(()) => self.count.accepted.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.count.dropped.fetch_add(1, Ordering::AcqRel),
        };
    }

    fn finish(&self) {
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

impl Write for Lines {
    /// One call is one line: the logger writes each with one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{self, Child, Command, Stdio};

    use super::*;

    /// Set where this program is run once more, to panic.
    const PANICS: &str = "STREAMLEASE_TEST_PANICS";

    const GOES_ON: i32 = 7;

    #[test]
    fn a_panic_waits_for_no_reader_of_standard_error() {
        if std::env::var_os(PANICS).is_some() {
            panic_and_go_on();
        }
        let _alone = crate::alone();
        let (input, unread) = full_pipe();
        let panics = spawn(
            "a_panic_waits_for_no_reader_of_standard_error",
            input.into(),
        );
        assert_eq!(exit_code(panics), Some(GOES_ON));
        drop(unread);
    }

    #[test]
    fn a_panic_is_told_on_standard_error() {
        if std::env::var_os(PANICS).is_some() {
            panic_and_go_on();
        }
        let _alone = crate::alone();
        let mut panics = spawn("a_panic_is_told_on_standard_error", Stdio::piped());
        let mut stderr = panics.stderr.take().unwrap();
        assert_eq!(exit_code(panics), Some(GOES_ON));
        let mut told = String::new();
        stderr.read_to_string(&mut told).unwrap();
        let line = told.lines().find(|line| line.contains("ERROR streamlease"));
        let line = line.unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains("thread 'driver' panicked at"), "{told}");
        assert!(told.contains("on purpose"), "{told}");
    }

    fn panic_and_go_on() -> ! {
        let log = start(None);
        let driver = thread::Builder::new().name("driver".into());
        let driver = driver.spawn(|| panic!("on purpose")).unwrap();
        assert!(driver.join().is_err());
        drop(log);
        process::exit(GOES_ON);
    }

    /// A test of this module, alone, in a process of its own.
    fn spawn(test: &str, stderr: Stdio) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("logging::tests::{test}"), "--nocapture"])
            .env(PANICS, "yes")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    fn exit_code(mut child: Child) -> Option<i32> {
        let give_up_at = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() >= give_up_at {
                child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap().code()
    }

    /// What takes nothing any more, and its other end.
    fn full_pipe() -> (OwnedFd, UnixStream) {
        let (mut input, output) = UnixStream::pair().unwrap();
        input.set_nonblocking(true).unwrap();
        for size in [4096, 1] {
            while input.write(&vec![b'x'; size]).is_ok() {}
        }
        input.set_nonblocking(false).unwrap();
        (input.into(), output)
    }
}
