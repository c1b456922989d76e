//! [`in_real_time`]: tests whose deadlines pass on the machine's own clock.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How late a thread that sleeps may wake up on a machine that does its work. A
/// quarter of the shortest time that a test has for something.
const STILL: Duration = Duration::from_millis(100);

/// How many tasks may want to run at a time, for each processor. Our own suite
/// comes to about two: a failure in it counts.
const CROWD: f64 = 4.0;

/// Between two looks at the clock.
const STEP: Duration = Duration::from_millis(10);

/// So often a test is run, whatever the machine does.
const RUNS: u32 = 5;

/// Runs a test in which leases of a second or less must live, or must end, as
/// time passes.
///
/// Such a test says nothing if the machine stood still for part of a TTL
/// meanwhile, or had far more to do than it can: then a lease rightly ends. So
/// one that fails is run again, from its beginning, if a thread beside it that
/// did nothing but sleep was woken late, or if most of the time others waited for
/// a processor. A failure on a machine that does its work is a failure at once,
/// and one that comes back each time is one, too. What is to hold *while*
/// machines stand still is checked elsewhere: by the simulation, in virtual time,
/// and by chaos.
pub fn in_real_time<T>(test: impl Fn() -> T) -> T {
    repeated_if_excused(test, || {
        let watch = Watch::start();
        move || watch.stop().excuse()
    })
}

/// `watch` begins to watch the machine; what it returns ends that and tells what
/// was wrong with the machine.
fn repeated_if_excused<T, W>(test: impl Fn() -> T, watch: impl Fn() -> W) -> T
where
    W: FnOnce() -> Option<String>,
{
    let mut runs = 1;
    loop {
        let excuse = watch();
        let result = catch_unwind(AssertUnwindSafe(&test));
        match (result, excuse()) {
            (Ok(result), _) => return result,
            (Err(_), Some(excuse)) if runs < RUNS => {
                runs += 1;
                eprintln!("it failed while {excuse}: run {runs}");
            }
            (Err(panic), _) => resume_unwind(panic),
        }
    }
}

/// A thread that looks how the machine does.
struct Watch {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By how much the thread was woken late at worst.
    latest: Duration,
    /// How many tasks wanted to run, all looks together.
    wanted: u64,
    looks: u32,
}

impl Watch {
    fn start() -> Self {
        let over = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let over = over.clone();
            move || {
                let mut seen = Seen::default();
                loop {
                    let due = Instant::now() + STEP;
                    thread::sleep(STEP);
                    seen.latest = seen.latest.max(due.elapsed());
                    if let Some(wanted) = runnable() {
                        seen.wanted += wanted;
                        seen.looks += 1;
                    }
                    if over.load(Ordering::Relaxed) {
                        return seen;
                    }
                }
            }
        });
        Self { over, thread }
    }

    fn stop(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        // It has no way to panic.
        self.thread.join().unwrap_or_default()
    }
}

impl Seen {
    /// What was wrong with the machine, if anything.
    fn excuse(&self) -> Option<String> {
        if self.latest > STILL {
            return Some(format!("the machine stood still for {:?}", self.latest));
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let wanted = self.wanted as f64 / f64::from(self.looks.max(1));
        (wanted > processors as f64 * CROWD)
            .then(|| format!("{wanted:.1} tasks wanted to run on {processors} processors"))
    }
}

/// How many tasks of the whole machine run or want to, where Linux tells.
fn runnable() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let (runnable, _) = text.split(' ').nth(3)?.split_once('/')?;
    runnable.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_failure_counts_unless_the_machine_had_its_share() {
        let runs = AtomicU32::new(0);
        let test = || {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(run >= 3, "run {run}");
            run
        };
        let busy = || || Some("it was busy".to_owned());
        assert_eq!(repeated_if_excused(test, busy), 3);
        runs.store(0, Ordering::Relaxed);
        let idle = || repeated_if_excused(test, || || None);
        let result = catch_unwind(AssertUnwindSafe(idle));
        assert!(result.is_err(), "a failure passed for one of the machine's");
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[test]
    #[should_panic(expected = "always")]
    fn what_fails_each_time_fails() {
        repeated_if_excused(|| panic!("always"), || || Some("it was busy".to_owned()));
    }

    #[test]
    fn standing_still_and_a_crowd_are_excuses() {
        let seen = |latest, wanted| Seen {
            latest,
            wanted,
            looks: 10,
        };
        assert_eq!(seen(STILL, 10).excuse(), None);
        assert!(seen(STILL * 2, 10).excuse().is_some());
        assert!(seen(STILL, 1_000_000).excuse().is_some());
    }

    #[test]
    fn the_machine_is_looked_at_until_the_end() {
        let seen = Watch::start().stop();
        assert!(seen.latest > Duration::ZERO, "{seen:?}");
        assert_eq!(seen.looks > 0, runnable().is_some(), "{seen:?}");
    }
}
