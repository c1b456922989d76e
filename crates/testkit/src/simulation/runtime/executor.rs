//! Tasks, timers and nodes of one simulation, behind one mutex.
//!
//! No waker and no future is woken, polled or dropped under the mutex: any of
//! the three may call back in here.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use streamlease_core::{BoxFuture, Timestamp};

use crate::clock::{Clock, Time, ns};

/// The node of whatever is on no node of its own.
pub(super) const ROOT: usize = 0;

/// The id of `block_on`'s own future.
const MAIN: u64 = 0;

/// Not the origin, so that code that takes the origin for "now" shows.
const START: Timestamp = Timestamp::from_millis(1_000_000);

/// Longest virtual time of one `block_on`. With timers that set themselves
/// again, waiting for what never comes would otherwise not end.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Most steps without time passing.
const MOST_STEPS: u32 = 1_000_000;

pub(super) struct Shared {
    seed: u64,
    state: Mutex<State>,
}

struct State {
    random: u64,
    now: Timestamp,
    nodes: Vec<Node>,
    tasks: BTreeMap<u64, Task>,
    last_task: u64,
    ready: Vec<u64>,
    timers: BTreeMap<(Timestamp, u64), Waker>,
    last_timer: u64,
    running: bool,
}

struct Node {
    clock: Clock,
    mode: Mode,
    /// Tasks that could run if the node were not frozen.
    parked: Vec<u64>,
}

#[derive(PartialEq)]
enum Mode {
    Running,
    Frozen,
    Dead,
}

struct Task {
    node: usize,
    /// Not here while it is being polled; never here for `block_on`'s own.
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
    /// Whether it is in `ready` or in its node's `parked`.
    queued: bool,
}

impl Node {
    fn new(now: Timestamp) -> Self {
        Self {
            clock: Clock {
                at: now.as_nanos(),
                local: now.as_nanos(),
                rate: 1_000_000,
            },
            mode: Mode::Running,
            parked: Vec::new(),
        }
    }
}

impl Shared {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            now: START,
            nodes: vec![Node::new(START)],
            tasks: BTreeMap::new(),
            last_task: MAIN,
            ready: Vec::new(),
            timers: BTreeMap::new(),
            last_timer: 0,
            running: false,
        };
        Self {
            seed,
            state: Mutex::new(state),
        }
    }

    pub(super) fn block_on<T>(self: &Arc<Self>, future: impl Future<Output = T>) -> T {
        let _running = Running::enter(self);
        let limit = self.state().now + LONGEST;
        let mut future = pin!(future);
        let mut steps = 0;
        loop {
            let Some((id, task, waker)) = self.next_ready() else {
                self.next_timer(limit);
                steps = 0;
                continue;
            };
            steps += 1;
            if steps > MOST_STEPS {
                panic!("{}: tasks go on running without time passing", self.place());
            }
            let mut cx = Context::from_waker(&waker);
            match task {
                None => {
                    if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                        return output;
                    }
                }
                Some(mut task) => {
                    let done = task.as_mut().poll(&mut cx).is_ready();
                    self.put_back(id, task, done);
                }
            }
        }
    }

    /// A task that can run, any of them; its future unless it is `block_on`'s own.
    fn next_ready(&self) -> Option<(u64, Option<BoxFuture<'static, ()>>, Waker)> {
        let mut state = self.state();
        if state.ready.is_empty() {
            return None;
        }
        let choices = state.ready.len() as u64;
        let choice = state.draw(choices) as usize;
        let id = state.ready.swap_remove(choice);
        // What is ready has a task: both are removed together.
        let task = state.tasks.get_mut(&id).expect("a ready task exists");
        task.queued = false;
        Some((id, task.future.take(), task.waker.clone()))
    }

    fn put_back(&self, id: u64, future: BoxFuture<'static, ()>, done: bool) {
        let mut state = self.state();
        // The task is not there if its node was killed from within it.
        let dropped = match state.tasks.get_mut(&id) {
            Some(task) if !done => {
                task.future = Some(future);
                return;
            }
            _ => (state.forget(id), future),
        };
        drop(state);
        drop(dropped);
    }

    /// Goes to the time of the next timer and wakes whoever waits for it.
    fn next_timer(&self, limit: Timestamp) {
        let mut state = self.state();
        let next = state.timers.first_key_value().map(|((at, _), _)| *at);
        match next {
            Some(at) if at <= limit => state.now = state.now.max(at),
            Some(at) => {
                drop(state);
                panic!(
                    "{}: nothing can run, and the next timer is at {at:?}, beyond {LONGEST:?}",
                    self.place()
                );
            }
            None => {
                drop(state);
                panic!(
                    "{}: nothing can run and no timer is set: this never ends",
                    self.place()
                );
            }
        }
        let due = state.due();
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    pub(super) fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now + by;
        let due = state.due();
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    pub(super) fn spawn(self: &Arc<Self>, node: usize, future: BoxFuture<'static, ()>) {
        let mut state = self.state();
        if state.nodes[node].mode == Mode::Dead {
            drop(state);
            drop(future);
            return;
        }
        state.last_task += 1;
        let id = state.last_task;
        let waker = self.waker(id);
        let task = Task {
            node,
            future: Some(future),
            waker,
            queued: false,
        };
        state.tasks.insert(id, task);
        state.queue(id);
    }

    pub(super) fn add_node(&self) -> usize {
        let mut state = self.state();
        let now = state.now;
        state.nodes.push(Node::new(now));
        state.nodes.len() - 1
    }

    pub(super) fn kill(&self, node: usize) {
        let mut state = self.state();
        state.nodes[node].mode = Mode::Dead;
        state.nodes[node].parked.clear();
        let tasks = mem::take(&mut state.tasks);
        let (dead, alive): (BTreeMap<_, _>, _) =
            tasks.into_iter().partition(|(_, task)| task.node == node);
        state.tasks = alive;
        state.ready.retain(|id| !dead.contains_key(id));
        drop(state);
        drop(dead);
    }

    pub(super) fn freeze(&self, node: usize) {
        let state = &mut *self.state();
        if state.nodes[node].mode == Mode::Running {
            state.nodes[node].mode = Mode::Frozen;
            let tasks = &state.tasks;
            let (parked, ready) = mem::take(&mut state.ready)
                .into_iter()
                .partition(|id| tasks.get(id).is_some_and(|task| task.node == node));
            state.nodes[node].parked = parked;
            state.ready = ready;
        }
    }

    pub(super) fn thaw(&self, node: usize) {
        let state = &mut *self.state();
        if state.nodes[node].mode == Mode::Frozen {
            state.nodes[node].mode = Mode::Running;
            state.ready.append(&mut state.nodes[node].parked);
        }
    }

    pub(super) fn jump(&self, node: usize, by: Duration) {
        self.change_clock(node, |clock, _| clock.local += by.as_nanos() as u64);
    }

    pub(super) fn set_rate(&self, node: usize, rate: u64) {
        self.change_clock(node, |clock, now| clock.set_rate(now, rate.max(1)));
    }

    pub(super) fn stop_clock(&self, node: usize, length: Duration) {
        self.change_clock(node, |clock, now| {
            let until = (now + ns(length)).max(clock.at);
            clock.stop_until(now, until);
        });
    }

    fn change_clock(&self, node: usize, change: impl FnOnce(&mut Clock, Time)) {
        let mut state = self.state();
        let now = state.now.as_nanos();
        change(&mut state.nodes[node].clock, now);
        // Timers of that node are due at other times now: let all of them look again.
        let timers = mem::take(&mut state.timers);
        drop(state);
        timers.into_values().for_each(Waker::wake);
    }

    pub(super) fn now(&self, node: usize) -> Timestamp {
        self.state().local(node)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn random(&self, bound: u64) -> u64 {
        self.state().draw(bound)
    }

    fn wake(&self, id: u64) {
        self.state().queue(id);
    }

    fn waker(self: &Arc<Self>, id: u64) -> Waker {
        let shared = Arc::downgrade(self);
        Waker::from(Arc::new(TaskWaker { shared, id }))
    }

    fn place(&self) -> String {
        let state = self.state();
        let waiting = state.tasks.keys().filter(|id| **id != MAIN).count();
        let frozen: usize = state.nodes.iter().map(|node| node.parked.len()).sum();
        format!(
            "simulation with seed {} at {:?}, {waiting} tasks spawned and not done, {frozen} frozen",
            self.seed, state.now
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a task fails the test anyhow; the state itself is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn local(&self, node: usize) -> Timestamp {
        self.nodes[node].clock.read(self.now.as_nanos())
    }

    fn queue(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if !mem::replace(&mut task.queued, true) {
            let node = &mut self.nodes[task.node];
            match node.mode {
                Mode::Running => self.ready.push(id),
                Mode::Frozen => node.parked.push(id),
                Mode::Dead => {}
            }
        }
    }

    fn forget(&mut self, id: u64) -> Option<Task> {
        self.ready.retain(|ready| *ready != id);
        for node in &mut self.nodes {
            node.parked.retain(|parked| *parked != id);
        }
        self.tasks.remove(&id)
    }

    fn due(&mut self) -> Vec<Waker> {
        let later = self.timers.split_off(&(self.now, u64::MAX));
        mem::replace(&mut self.timers, later)
            .into_values()
            .collect()
    }

    /// SplitMix64: small, and the same on every machine and for ever.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// Marks the simulation as running, with `block_on`'s own future as a task.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn enter(shared: &'a Arc<Shared>) -> Self {
        let waker = shared.waker(MAIN);
        let mut state = shared.state();
        if mem::replace(&mut state.running, true) {
            drop(state);
            panic!("{}: block_on within block_on", shared.place());
        }
        let task = Task {
            node: ROOT,
            future: None,
            waker,
            queued: false,
        };
        state.tasks.insert(MAIN, task);
        state.queue(MAIN);
        Self(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running = false;
        let main = state.forget(MAIN);
        drop(state);
        drop(main);
    }
}

struct TaskWaker {
    shared: Weak<Shared>,
    id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.wake(self.id);
        }
    }
}

/// Resolves once its node's clock has reached the deadline.
pub(super) struct Sleep {
    shared: Arc<Shared>,
    node: usize,
    deadline: Timestamp,
    timer: Option<(Timestamp, u64)>,
}

impl Sleep {
    pub(super) fn new(shared: Arc<Shared>, node: usize, deadline: Timestamp) -> Self {
        Self {
            shared,
            node,
            deadline,
            timer: None,
        }
    }

    fn cancel(&mut self) {
        if let Some(timer) = self.timer.take() {
            let waker = self.shared.state().timers.remove(&timer);
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.cancel();
        let waker = cx.waker().clone();
        let this = &mut *self;
        let mut state = this.shared.state();
        if state.local(this.node) >= this.deadline {
            return Poll::Ready(());
        }
        state.last_timer += 1;
        let clock = &state.nodes[this.node].clock;
        let at = clock.when(this.deadline, state.now.as_nanos());
        let timer = (Timestamp::from_nanos(at), state.last_timer);
        state.timers.insert(timer, waker);
        this.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}
