//! SIGTERM and Ctrl-C: the first asks to stop, the second stops.

use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Failure;
use crate::exec::Programs;

/// The same signal so soon after the first is the same wish once more.
const SAME_WISH: Duration = Duration::from_millis(100);

/// From now on the first signal closes the returned channel, and a second one
/// kills the programs and ends the process.
///
/// A thread of its own waits for them, so that it works on every runtime, and
/// the second one even where everything else is stuck.
pub(crate) fn stop_on_signals(programs: Programs) -> Result<Receiver<()>, Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|err| Failure::other(format!("cannot listen to signals: {err}")))?;
    let (stop, stopped) = async_channel::bounded(1);
    thread::spawn(move || {
        let mut received = signals.forever();
        let first = received.next();
        let at = Instant::now();
        log::info!("told to stop: handing everything back");
        stop.close();
        // `timeout` and some supervisors signal the process and its group, which
        // is one wish that arrives twice.
        for signal in received {
            if Some(signal) != first || at.elapsed() >= SAME_WISH {
                programs.kill_all();
                std::process::exit(1);
            }
        }
    });
    Ok(stopped)
}
