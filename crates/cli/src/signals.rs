//! SIGTERM, Ctrl-C and a terminal that goes away: the first asks to stop, the second stops.
//!
//! What is not listened to and ends a process by default ends this one without its
//! programs, as SIGKILL does.

use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Failure;

/// The same signal so soon after the first is the same wish once more.
const SAME_WISH: Duration = Duration::from_millis(100);

/// From now on the first signal closes the returned channel, and a second one
/// calls `at_once` and ends the process.
///
/// A thread of its own waits for them, so that it works on every runtime, and
/// the second one even where everything else is stuck.
pub(crate) fn stop_on_signals(
    at_once: impl FnOnce() + Send + 'static,
) -> Result<Receiver<()>, Failure> {
    let mut wanted = vec![SIGTERM, SIGINT];
    // `nohup` is for those who want to go on.
    wanted.extend(
        [SIGHUP, SIGQUIT]
            .iter()
            .filter(|signal| !is_ignored(**signal)),
    );
    let mut signals = Signals::new(wanted)
        .map_err(|err| Failure::other(format!("cannot listen to signals: {err}")))?;
    let (stop, stopped) = async_channel::bounded(1);
    thread::spawn(move || {
        let mut received = signals.forever();
        let mut first = received.next();
        let mut at = Instant::now();
        stop.close();
        log::info!("told to stop: handing everything back");
        // `timeout` and some supervisors signal the process and its group, which
        // is one wish that arrives twice. SIGHUP only goes with others: a terminal and
        // its shell both send it, and session managers send it beside SIGTERM.
        for signal in received {
            if signal == SIGHUP || (Some(signal) == first && at.elapsed() < SAME_WISH) {
                continue;
            }
            if first == Some(SIGHUP) {
                (first, at) = (Some(signal), Instant::now());
                continue;
            }
            break;
        }
        at_once();
        std::process::exit(1);
    });
    Ok(stopped)
}

/// Whether this process was started with that signal ignored. Only Linux tells
/// without `unsafe`.
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
    })
}
