//! [`in_real_time`]: tests whose deadlines pass on the machine's own clock.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How late a thread that sleeps may wake up on a machine that does its work. A
/// quarter of the shortest time that a test has for something.
const STILL: Duration = Duration::from_millis(100);

/// Between two looks at the clock.
const STEP: Duration = Duration::from_millis(10);

/// So often a test is run, whatever the machine does.
const RUNS: u32 = 5;

/// Runs a test in which leases of a second or less must live, or must end, as
/// time passes.
///
/// Such a test says nothing if the machine stood still for part of a TTL
/// meanwhile: then a lease rightly ends. So one that fails is run again, from its
/// beginning, if a thread beside it that did nothing but sleep was woken late. A
/// failure on a machine that went on is a failure at once, and one that comes
/// back each time is one, too. What is to hold *while* machines stand still is
/// checked elsewhere: by the simulation, in virtual time, and by chaos.
pub fn in_real_time<T>(test: impl Fn() -> T) -> T {
    repeated_if_late(test, Watch::start)
}

fn repeated_if_late<T>(test: impl Fn() -> T, watch: impl Fn() -> Watch) -> T {
    let mut runs = 1;
    loop {
        let watch = watch();
        let result = catch_unwind(AssertUnwindSafe(&test));
        let late = watch.stop();
        match result {
            Ok(result) => return result,
            Err(_) if late > STILL && runs < RUNS => {
                runs += 1;
                eprintln!("it failed while the machine stood still for {late:?}: run {runs}");
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// A thread that looks how late it is woken.
struct Watch {
    latest: Arc<Mutex<Duration>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let (latest, over) = (
            Arc::<Mutex<Duration>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let thread = thread::spawn({
            let (latest, over) = (latest.clone(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    let due = Instant::now() + STEP;
                    thread::sleep(STEP);
                    let late = due.elapsed();
                    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
                    *latest = late.max(*latest);
                }
            }
        });
        Self {
            latest,
            over,
            thread: Some(thread),
        }
    }

    /// By how much it was woken late at worst.
    fn stop(mut self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no way to panic.
            let _ = thread.join();
        }
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A watch that says so.
    fn late(by: Duration) -> Watch {
        Watch {
            latest: Arc::new(Mutex::new(by)),
            over: Arc::default(),
            thread: None,
        }
    }

    #[test]
    fn a_failure_counts_unless_the_machine_stood_still() {
        let runs = AtomicU32::new(0);
        let test = || {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(run >= 3, "run {run}");
            run
        };
        assert_eq!(repeated_if_late(test, || late(STILL * 2)), 3);
        runs.store(0, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| repeated_if_late(test, || late(STILL))));
        assert!(result.is_err(), "a failure passed for one of the machine's");
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[test]
    #[should_panic(expected = "always")]
    fn what_fails_each_time_fails() {
        repeated_if_late(|| panic!("always"), || late(STILL * 2));
    }

    #[test]
    fn a_watch_notices_that_time_has_passed() {
        let watch = Watch::start();
        thread::sleep(STEP * 5);
        assert!(watch.stop() > Duration::ZERO);
    }
}
