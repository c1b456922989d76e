//! [`SimRuntime`]: one thread, virtual time, and an order of tasks that a seed decides.

mod executor;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use executor::{ROOT, Shared, Sleep};
use streamlease_core::{BoxFuture, Runtime, Timestamp};

/// A simulated [`Runtime`]: one thread, virtual time, and an order of tasks that a seed
/// decides.
///
/// ```
/// use std::time::Duration;
/// use streamlease_core::Runtime;
/// use streamlease_testkit::simulation::SimRuntime;
///
/// let sim = SimRuntime::new(7);
/// let start = sim.now();
/// sim.block_on(sim.sleep_until(start + Duration::from_secs(3600)));
/// assert_eq!(sim.now(), start + Duration::from_secs(3600));
/// ```
///
/// Time stands still while anything can run, and jumps to the next timer when
/// nothing can. So a test of an hour takes as long as its computing, and what
/// it sees depends on the seed alone.
///
/// It is the [`Runtime`] of whatever is not on a node of its own. Clones are the same
/// simulation.
#[derive(Clone)]
pub struct SimRuntime {
    shared: Arc<Shared>,
}

impl SimRuntime {
    /// A simulation; the same seed gives the same run. Its clock starts at some
    /// time after the origin.
    pub fn new(seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared::new(seed)),
        }
    }

    /// Runs `future`, and all tasks beside it, until `future` is done. Tasks
    /// that are not done by then go on in the next `block_on`.
    ///
    /// # Panics
    /// - when nothing can run and no timer is set: `future` would never end;
    /// - when it took 24 hours of virtual time, or a million steps without time
    ///   passing;
    /// - when a task panics, with that panic;
    /// - within another `block_on` of this simulation.
    ///
    /// The message has the seed and the time.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.shared.block_on(future)
    }

    /// Moves time ahead at once, past every timer on the way, as if nothing had
    /// been able to run meanwhile. What became due runs afterwards.
    pub fn advance(&self, by: Duration) {
        self.shared.advance(by);
    }

    /// A node: the [`Runtime`] of one simulated process, with a clock of its own.
    pub fn handle(&self) -> SimHandle {
        SimHandle {
            node: self.shared.add_node(),
            shared: self.shared.clone(),
        }
    }

    /// Drops the tasks that are not on a node of their own. They would live as
    /// long as the simulation, which they may hold themselves.
    pub(crate) fn end(&self) {
        self.shared.kill(ROOT);
    }

    /// The seed this simulation runs with.
    pub fn seed(&self) -> u64 {
        self.shared.seed()
    }

    /// A number below `bound` (which is at least 1), drawn from the simulation's seed.
    pub fn random(&self, bound: u64) -> u64 {
        self.shared.random(bound)
    }
}

impl Runtime for SimRuntime {
    fn now(&self) -> Timestamp {
        self.shared.now(ROOT)
    }

    /// Suspended is what the clock does not count here ([`SimHandle::stop_clock`]).
    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::new(self.shared.clone(), ROOT, deadline))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.shared.spawn(ROOT, task);
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime")
            .field("seed", &self.seed())
            .field("now", &self.now())
            .finish()
    }
}

/// One simulated process, made by [`SimRuntime::handle`]. Clones are the same one.
#[derive(Clone)]
pub struct SimHandle {
    shared: Arc<Shared>,
    node: usize,
}

impl SimHandle {
    /// Ends the process as `kill -9` does: its tasks are dropped where they
    /// stand, and new ones are dropped unrun. It does not come back.
    pub fn kill(&self) {
        self.shared.kill(self.node);
    }

    /// Stops the process as `SIGSTOP` does: none of its tasks runs, while time
    /// (its own clock included) goes on.
    pub fn freeze(&self) {
        self.shared.freeze(self.node);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.shared.thaw(self.node);
    }

    /// Sets this process's clock ahead of everybody else's.
    pub fn jump(&self, by: Duration) {
        self.shared.jump(self.node, by);
    }

    /// From now on this process's clock makes so many ticks (at least 1) per
    /// million of true ones.
    pub fn set_clock_rate(&self, rate: u64) {
        self.shared.set_rate(self.node, rate);
    }

    /// This process's clock does not count that time, as if its machine were
    /// suspended and the clock did not show it. [`freeze`](Self::freeze) it too.
    pub fn stop_clock(&self, length: Duration) {
        self.shared.stop_clock(self.node, length);
    }
}

impl Runtime for SimHandle {
    fn now(&self) -> Timestamp {
        self.shared.now(self.node)
    }

    /// Suspended is what the clock does not count here ([`SimHandle::stop_clock`]).
    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::new(self.shared.clone(), self.node, deadline))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.shared.spawn(self.node, task);
    }
}

impl fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHandle")
            .field("node", &self.node)
            .field("now", &self.now())
            .finish()
    }
}
