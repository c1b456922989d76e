//! A runtime with bugs: the simulated one, and what each bug makes of its clock, its sleeps and
//! its tasks. What only shows beside real time has a clock of the machine.

mod clock;
mod sleeps;
mod tasks;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use streamlease_core::{BoxFuture, Runtime, Timestamp};
use streamlease_testkit::conformance::{self, Behaviour};
use streamlease_testkit::simulation::SimRuntime;

use self::sleeps::Timers;
use self::tasks::Tasks;
use super::{assert_right, planted, table_of_runs};

planted! { Bug:
    Safety ClockGoesBack = "each seventh reading is a millisecond behind",
    Safety ClockIsSetBack = "once a second the clock is set back by 20 ms",
    Safety ClockStands = "the clock stands",
    Safety ClockIsSlow = "the clock counts nine tenths of the time",
    Delay ClockIsFast = "the clock counts twice the time",
    Safety ClockIsOfTheLastWake = "the clock is read when a sleep is polled, and shows that until the next one",
    Safety ClockMissesBlocking = "time in which nobody reads the clock for 100 ms does not count",
    Safety ClockIsCoarse = "the clock shows multiples of 100 ms",
    Safety ClockIsInSeconds = "the clock shows whole seconds",
    Allowed("that is a fifth of the least margin")
        ClockIsCoarseALittle = "the clock shows multiples of 10 ms",
    Allowed("after a suspension a right one does so, too")
        ClockJumpsOnce = "the clock jumps ten minutes ahead, once",
    Allowed("a runtime chooses the origin of its clock")
        ClockBeginsAtZero = "the clock begins at zero",
    Safety ClockIsPerTask = "the clock of a task begins when it is spawned",
    Safety ClockIsBehindOnThreads = "on another thread the clock is a second behind",
    Delay ClockIsAheadOnThreads = "on another thread the clock is a second ahead",
    Delay NowPanicsOnThreads = "on another thread the clock cannot be read",
    Delay NowPanicsInADrop = "while a task is dropped the clock cannot be read",
    Delay SuspendedGoesBack = "the time suspended is forgotten when it was told",
    Delay SuspendedIsTwice = "the time suspended grows by more than the clock",
    Delay SuspendedIsTheClock = "all time counts as suspended",
    Delay SuspendedIsHalfTheClock = "half of all time counts as suspended",
    Delay SuspendedIsPerTask = "in a task the time suspended is another one",
    Delay SuspendedIsPerThread = "on another thread the time suspended is zero",
    Delay SuspendedPanicsOnThreads = "on another thread the time suspended cannot be read",
    Allowed("where it starts does not matter")
        SuspendedBeginsAnywhere = "the time suspended begins at a year",
    Delay SleepEndsALittleEarly = "sleeps end a millisecond early",
    Delay SleepEndsHalfway = "sleeps end after half of their time",
    Delay SleepEndsAtOnce = "sleeps are over when they begin",
    Delay LongSleepEndsAtTheSlice = "sleeps end after half a second at most",
    Safety SleepIsLateByALittle = "sleeps end 60 ms late",
    Safety SleepIsLate = "sleeps end a second late",
    Safety SleepIsLateByAFifth = "sleeps take a fifth longer",
    Safety SleepIsRoundedUp = "sleeps end at whole seconds",
    Safety SleepIsOfWholeSlices = "sleeps take multiples of half a second",
    Safety SleepNeverEnds = "no sleep ends",
    Safety LongSleepNeverEnds = "no sleep of over a second ends",
    Safety SleepIsNeverWoken = "the end of a sleep wakes nobody",
    Safety SleepKeepsItsFirstWaker = "the end of a sleep wakes who polled it first",
    Safety SleepForgetsItsWaker = "the end of a sleep that was polled twice wakes nobody",
    Safety SleepBeginsWhenPolled = "a sleep takes its time from its first poll on",
    Safety SleepEndsWithItsTask = "when the task that made a sleep is gone, its end wakes nobody",
    Safety SleepsToOneMomentAreOne = "of sleeps to one moment only the last one wakes anybody",
    Safety DroppedSleepTakesOthers = "a sleep that is dropped takes those to the same moment with it",
    Safety DroppedSleepHoldsUp = "to drop a sleep takes until its deadline",
    Delay DroppedSleepGoesOn = "a sleep that is dropped goes on in the background",
    Safety SleepHoldsUpAll = "while one sleeps nothing runs",
    Safety SleepsAreInTurn = "a sleep ends after all that were made before it",
    Safety SleepsAreLimited = "of more than 1,000 sleeps at a time the others wake nobody",
    Safety SleepIntoThePastWaits = "a sleep into the past takes 100 ms",
    Safety SleepIntoThePastNeverEnds = "a sleep into the past never ends",
    Delay SleepIntoThePastPanics = "a sleep into the past is a subtraction with overflow",
    Allowed("whoever awaits it goes on at once")
        SleepIntoThePastYields = "a sleep into the past lets others run first",
    Delay FarDeadlineIsSigned = "the milliseconds until a deadline are 32 bits with a sign",
    Delay FarDeadlineWraps = "the milliseconds until a deadline are 32 bits",
    Delay FarDeadlineWrapsIn64 = "the nanoseconds until a deadline are 64 bits",
    Delay FarDeadlinePanics = "a deadline in more than 292 years is an overflow",
    Delay DeadlineAtTheEndPanics = "a deadline at the end of time is an overflow",
    Delay DeadlineAtTheEndComes = "a sleep until the end of time is over at once",
    Delay SleepPanicsOnThreads = "on another thread no sleep can be made",
    Delay SleepPollPanicsOnThreads = "on another thread no sleep can be polled",
    Delay SleepDropPanicsOnThreads = "on another thread no sleep can be dropped",
    Delay SleepPanicsInADrop = "while a task is dropped no sleep can be made",
    Delay SpawnDoesNothing = "tasks are dropped",
    Delay SpawnPanicsOnThreads = "on another thread nothing can be spawned",
    Delay SpawnOnThreadsIsLost = "what another thread spawns is dropped",
    Delay SpawnInADropIsLost = "what is spawned while a task is dropped is dropped",
    Allowed("so it has started at once")
        SpawnPollsAtOnce = "to spawn a task polls it there and then",
    Delay TaskStartsLate = "tasks start 100 ms late",
    Delay TaskStartsWithTheNext = "a task starts when the next one is spawned",
    Delay TaskIsDroppedWhenItWaits = "a task that waits is dropped",
    Delay TaskIsDroppedAfterASecond = "a task is dropped after a second",
    Delay TaskIsNeverDropped = "a task that has ended keeps what it held",
    Delay TaskIsDroppedLate = "a task that has ended is dropped when the next one ends",
    Delay TaskIsPolledAfterItsEnd = "a task that has ended and was woken is polled again",
    Allowed("a future must expect that")
        TaskIsPolledForNothing = "tasks are polled again though nobody woke them",
    Delay TasksEndWithTheirParent = "a task is dropped when the one that spawned it ends",
    Delay TasksRunInTurn = "a task begins when the one before it has ended",
    Delay TasksAreLimited = "with 1,000 tasks the next waits until one ends",
    Delay TasksAreDroppedBeyond = "of more than 2,000 tasks at a time the others are dropped",
    Safety BusyTaskStarvesOthers = "a task runs as long as it can",
    Safety WakesInAPollAreLost = "a task that is woken while it runs is not polled again",
    Safety WakesFromThreadsAreLost = "no other thread can wake a task",
    Safety WakesAreLate = "a task that is woken runs 100 ms later",
    Delay WakeAfterTheEndPanics = "to wake a task that has ended is a panic",
    Delay HandlersDoNotRun = "handlers are dropped",
    Delay HandlersRunInTurn = "a handler begins when the one before it has ended",
    Delay HandlersEndWithTheirParent = "a handler is dropped when the task that spawned it ends",
    Delay HandlerPanicsOnThreads = "on another thread no handler can be spawned",
}

/// What shows only on a clock of the machine.
const BESIDE_THE_MACHINE: [Bug; 4] = [
    Bug::ClockIsSlow,
    Bug::ClockIsFast,
    Bug::ClockIsOfTheLastWake,
    Bug::ClockMissesBlocking,
];

#[derive(Clone)]
struct Broken {
    inner: Arc<Inner>,
}

struct Inner {
    bug: Option<Bug>,
    sim: SimRuntime,
    home: ThreadId,
    origin: Timestamp,
    /// On the machine's clock, if it goes by that one.
    began: Option<Instant>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    readings: u32,
    /// When the machine's clock was read last, and what of it was counted.
    last: Duration,
    counted: Duration,
    timers: Timers,
    tasks: Tasks,
}

impl Broken {
    fn new(seed: u64, bug: Option<Bug>, is_real: bool) -> Self {
        tasks::forget_all();
        let sim = SimRuntime::new(seed);
        let inner = Inner {
            bug,
            home: thread::current().id(),
            origin: sim.now(),
            sim,
            began: is_real.then(Instant::now),
            state: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.inner.bug == Some(bug)
    }

    fn sim(&self) -> &SimRuntime {
        &self.inner.sim
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics there if the bug is this one, without a word of it: threads have no hook.
    fn fails_on_threads(&self, bug: Bug) {
        if self.is(bug) && self.is_elsewhere() {
            std::panic::resume_unwind(Box::new("there is no runtime on this thread"));
        }
    }

    fn fails_in_a_drop(&self, bug: Bug) {
        assert!(
            !(self.is(bug) && tasks::is_dropping()),
            "there is no runtime while a task is dropped"
        );
    }

    fn is_elsewhere(&self) -> bool {
        thread::current().id() != self.inner.home
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Broken").field(&self.inner.bug).finish()
    }
}

impl Runtime for Broken {
    fn now(&self) -> Timestamp {
        self.fails_on_threads(Bug::NowPanicsOnThreads);
        self.fails_in_a_drop(Bug::NowPanicsInADrop);
        self.read_clock()
    }

    fn suspended(&self) -> Duration {
        self.fails_on_threads(Bug::SuspendedPanicsOnThreads);
        self.read_suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.fails_on_threads(Bug::SleepPanicsOnThreads);
        self.fails_in_a_drop(Bug::SleepPanicsInADrop);
        self.sleep(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.fails_on_threads(Bug::SpawnPanicsOnThreads);
        self.start(task);
    }

    fn spawn_handler(&self, task: BoxFuture<'static, ()>) {
        self.fails_on_threads(Bug::HandlerPanicsOnThreads);
        self.start_handler(task);
    }
}

fn run(behaviour: &Behaviour<()>, seed: u64, bug: Option<Bug>) {
    let is_real = bug.is_some_and(|bug| BESIDE_THE_MACHINE.contains(&bug));
    run_on(Broken::new(seed, bug, is_real), behaviour);
}

fn run_on(runtime: Broken, behaviour: &Behaviour<()>) {
    let sim = runtime.sim().clone();
    sim.block_on(behaviour.run(Arc::new(runtime), ()));
}

/// Behaviours with thousands of tasks, and one that takes its time on a clock of the machine.
const LONG: [&str; 3] = [
    "the_clock_never_goes_back",
    "many_tasks_all_run",
    "many_tasks_can_wait_at_once",
];

#[test]
fn what_is_wrong_with_a_runtime_is_found() {
    let mut behaviours = conformance::runtime::behaviours();
    // What takes longest last: most bugs are found before.
    behaviours.sort_by_key(|behaviour| LONG.contains(&behaviour.name()));
    assert_right(&table_of_runs("Runtime", &behaviours, run, Bug::ALL));
}

/// Else what is found of those bugs is what is wrong with the clock of all of them.
#[test]
fn a_clock_of_the_machine_without_a_bug_keeps_pace_with_it() {
    let behaviours = conformance::runtime::behaviours();
    let keeps_pace = |it: &&Behaviour<()>| it.name() == "the_clock_keeps_pace_with_time";
    let keeps_pace = behaviours.iter().find(keeps_pace).expect("it is listed");
    run_on(Broken::new(0, None, true), keeps_pace);
}
