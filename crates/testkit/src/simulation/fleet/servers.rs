//! [`SimServers`]: the model of both servers, for real clients in virtual time.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_channel::Sender;
use streamlease_core::{
    ConsumerName, EntryId, Error, ErrorKind, Fetched, Hint, LockScheme, MalformedReason, Result,
    Runtime, ServiceName, Timestamp,
};

use super::backend::{SimBackend, SimBackendState};
use crate::clock::{Time, ns};
use crate::simulation::SimRuntime;
use crate::simulation::fault::{Estimate, Key, Of, Refused};
use crate::simulation::model::Mutant;
use crate::simulation::network::Network;
use crate::simulation::plan::STATED_DRIFT;
use crate::simulation::refusals::Needs;
use crate::simulation::servers::{LOST_WRITES, Servers, lossy_by};

/// Between two looks of the server at what has expired.
const SAMPLES: Duration = Duration::from_millis(100);

/// Earlier states are kept for that long: no restart loses more.
const KEPT: Duration = Duration::from_secs(10);

/// The load balancer stream (LBS) and the lock server of one service, and the network to them: the
/// model that [`simulation`](crate::simulation) has, for real
/// [`Client`](streamlease_core::Client)s and [`Producer`](streamlease_core::Producer)s
/// under [`SimRuntime`]. Clones are the same servers.
///
/// Each process has a [`backend`](Self::backend) of its own.
/// Each request, reply and hint travels on its own, as [`Network`] says, and
/// arrives whatever has become of who sent it.
#[derive(Debug, Clone)]
pub struct SimServers {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) sim: SimRuntime,
    pub(super) service: ServiceName,
    pub(super) scheme: LockScheme,
    began: Timestamp,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) servers: Servers,
    pub(super) network: Network,
    pub(super) hints: HintsAre,
    waiters: Vec<Waiter>,
    last_ticket: u64,
    subscribers: Vec<Subscriber>,
    backends: Vec<Arc<Mutex<SimBackendState>>>,
    longest_ttl: Duration,
    shortest_ttl: Duration,
    /// When the lock server's clock went forward, and by how many milliseconds.
    leaps: Vec<(Time, u64)>,
    set_back: bool,
    lossy: BTreeSet<&'static str>,
    /// Rights are gone only for calls that were answered before.
    spares_the_new: bool,
    trace: Option<Vec<String>>,
}

/// How it stands with the hints, beside what the network does to any message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HintsAre {
    /// Each arrives once.
    #[default]
    Fine,
    /// Each arrives not at all, once or twice, and up to so much later.
    Bad(Duration),
    /// None arrives.
    Silent,
}

/// A blocking fetch that waits at the server.
struct Waiter {
    ticket: u64,
    consumer: ConsumerName,
    max: usize,
    answer: Sender<Result<Fetched>>,
}

struct Subscriber {
    backend: Arc<Mutex<SimBackendState>>,
    hints: Sender<Hint>,
}

/// Which of the two a call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Lbs,
    Locks,
}

impl SimServers {
    /// Servers of `service` with nothing in them, and a network that is quiet.
    ///
    /// # Panics
    /// If the service's name is not a valid one.
    pub fn new(sim: &SimRuntime, service: &str, scheme: LockScheme) -> Self {
        Self::with_mutant(sim, service, scheme, None)
    }

    pub(super) fn with_mutant(
        sim: &SimRuntime,
        service: &str,
        scheme: LockScheme,
        mutant: Option<Mutant>,
    ) -> Self {
        let service = match ServiceName::new(service) {
            Ok(service) => service,
            Err(error) => panic!("{error}"),
        };
        let state = State {
            servers: Servers::new(scheme, mutant),
            network: Network::QUIET,
            hints: HintsAre::Fine,
            waiters: Vec::new(),
            last_ticket: 0,
            subscribers: Vec::new(),
            backends: Vec::new(),
            longest_ttl: Duration::ZERO,
            shortest_ttl: Duration::MAX,
            leaps: Vec::new(),
            set_back: false,
            lossy: BTreeSet::new(),
            spares_the_new: false,
            trace: None,
        };
        let shared = Arc::new(Shared {
            sim: sim.clone(),
            service,
            scheme,
            began: sim.now(),
            state: Mutex::new(state),
        });
        sim.spawn(Box::pin(sample(sim.clone(), Arc::downgrade(&shared))));
        Self { shared }
    }

    /// The way of one process to these servers: its backend. Give each its own.
    pub fn backend(&self) -> SimBackend {
        let number = self.shared.state().backends.len();
        let backend = SimBackend::new(number, self.shared.clone());
        self.shared.state().backends.push(backend.state.clone());
        backend
    }

    /// How bad the network is from now on.
    pub fn set_network(&self, network: Network) {
        self.shared.state().network = network;
    }

    /// How it stands with the hints from now on.
    pub fn set_hints(&self, hints: HintsAre) {
        self.shared.state().hints = hints;
    }

    /// The lock server restarts, is away for `down`, and has lost what was
    /// written in the last `lost` (at most ten seconds).
    pub fn restart_locks(&self, lost: Duration, down: Duration) {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        let ttl = state.longest_ttl;
        if state.servers.restart_locks(now, lost, down, ttl) {
            state.lossy.insert(LOST_WRITES);
        }
        // Whoever listened there has to subscribe anew.
        state.subscribers.clear();
    }

    /// The LBS is away for so long.
    pub fn take_lbs_down(&self, down: Duration) {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        state.servers.lbs_down_until = now + ns(down);
        state.fail_waiters(|| unavailable("the server went down"));
    }

    /// The LBS is as it was so long ago (at most ten seconds); `false` if it
    /// was not there yet. What was announced since is gone, what was completed
    /// since is there again.
    pub fn restore_lbs(&self, lost: Duration) -> bool {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        let known = state.servers.restore_lbs(now, lost);
        if known {
            state.lossy.insert("LBS restored");
            state.fail_waiters(|| unavailable("the server went down"));
        }
        known
    }

    /// Somebody removes the consumer group.
    pub fn destroy_group(&self) {
        let state = &mut *self.shared.state();
        state.servers.lbs.destroy_group();
        state.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
    }

    /// The lock server's clock steps.
    pub fn step_locks_clock(&self, by_ms: i64) {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        state.servers.step_locks_clock(by_ms);
        let ttl = ns(state.longest_ttl);
        state.set_back |= by_ms < 0;
        state.leaps.push((now, by_ms.max(0) as u64));
        state.leaps.retain(|(at, _)| at + ttl >= now);
        let leapt: u64 = state.leaps.iter().map(|(_, by)| by).sum();
        // A lease is believed so much less than its lock lasts, of which clocks
        // of clients may take a part; and servers count whole milliseconds.
        let margin = (state.shortest_ttl / 10).max(Duration::from_millis(50));
        let drift = state.shortest_ttl / 1_000_000 * STATED_DRIFT as u32;
        let borne = margin - drift.min(margin) - Duration::from_millis(2);
        if u128::from(leapt) > borne.as_millis() {
            state.lossy.insert("lock clock leapt");
        }
    }

    /// The LBS server's clock steps.
    pub fn step_lbs_clock(&self, by_ms: i64) {
        self.shared.state().servers.step_lbs_clock(by_ms);
    }

    /// An entry that nobody can read.
    pub fn append_malformed(&self) -> EntryId {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        let at = state.servers.lbs_now(now);
        let entry = state.servers.lbs.append(Err(MalformedReason::NotJson), at);
        state.serve_waiters(at);
        entry
    }

    /// A consumer of another make takes the `nth` pending entry and dies;
    /// `false` if nothing is pending.
    pub fn steal(&self, nth: u64) -> bool {
        let now = self.shared.now();
        let servers = &mut self.shared.state().servers;
        let at = servers.lbs_now(now);
        let thief = ConsumerName::from_wire("go-thief");
        servers.lbs.steal(&thief, nth, at)
    }

    /// An operator marks the `nth` lease on record to be released; `false` if
    /// there is none, as with per-stream locks.
    pub fn revoke(&self, nth: u64) -> bool {
        self.shared.state().servers.locks.revoke(nth).is_some()
    }

    /// An operator removes a consumer's name, the `nth` of those at which something is
    /// pending, which is pending at nobody then; `false` if there is none.
    pub fn remove_consumer(&self, nth: u64) -> bool {
        self.shared.state().servers.lbs.remove_consumer(nth)
    }

    /// An operator acknowledges the `nth` pending entry, which stays on the LBS.
    pub fn acknowledge(&self, nth: u64) -> bool {
        self.shared.state().servers.lbs.acknowledge(nth)
    }

    /// An operator makes the group anew, at the end of the LBS.
    pub fn make_group_at_the_end(&self) {
        let state = &mut *self.shared.state();
        state.servers.lbs.make_group_at_the_end();
        state.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
    }

    /// A server refuses calls for so long although it is there.
    pub fn refuse(&self, of: Of, what: Refused, length: Duration) {
        let until = self.shared.now() + ns(length);
        let state = &mut *self.shared.state();
        state.servers.refusals.begin(of, what, until);
        if of.lbs() && matches!(what, Refused::Writes | Refused::Everything) {
            state.fail_waiters(|| unavailable("UNBLOCKED: it was demoted"));
        }
    }

    /// Whose rights are gone ends if a call is refused to it that has never worked: that
    /// is a mistake in its setup. From now on such a call finds nobody there instead.
    pub(super) fn spare_the_new(&self) {
        self.shared.state().spares_the_new = true;
    }

    /// A key of the service is evicted, or deleted by somebody: the `nth` where there
    /// are several; `false` if there is none.
    pub fn lose_key(&self, key: Key, nth: u64) -> bool {
        let now = self.shared.now();
        let state = &mut *self.shared.state();
        let ttl = state.longest_ttl;
        let lost = state.servers.key_gone(key, nth, now, ttl);
        if lost {
            state.lossy.extend(lossy_by(key));
        }
        lost
    }

    /// What the LBS says from now on of how much nobody has had yet.
    pub fn tell_backlog(&self, estimate: Estimate) {
        self.shared.state().servers.lbs.estimate = estimate;
    }

    /// A fetch that finds nothing comes back from now on when so many thousandths of
    /// its wait have passed.
    pub fn let_fetches_come_back(&self, permille: u64) {
        self.shared.state().servers.lbs.waits_permille = permille;
    }

    /// Both servers are there, all backends are whole, and the network is quiet.
    pub fn heal(&self) {
        let state = &mut *self.shared.state();
        state.network = Network::QUIET;
        state.hints = HintsAre::Fine;
        state.servers.heal();
        for backend in &state.backends {
            lock(backend).mend();
        }
    }

    /// What is announced and not completed or quarantined, as the LBS has it.
    pub fn left(&self) -> Vec<EntryId> {
        self.shared.state().servers.lbs.entries().collect()
    }

    /// What is in quarantine, as the LBS has it.
    pub fn quarantined(&self) -> Vec<EntryId> {
        let state = self.shared.state();
        let quarantined = state.servers.lbs.list_quarantined(EntryId::MIN, usize::MAX);
        quarantined
            .into_iter()
            .map(|quarantined| quarantined.entry)
            .collect()
    }

    /// What happened that costs the promises that hold only in durable runs
    /// (see GUARANTEES.md); empty: none of it.
    pub fn lossy(&self) -> BTreeSet<&'static str> {
        self.shared.state().lossy.clone()
    }

    /// Whether tokens may come again (R5): the lock server lost writes, and its
    /// clock was set back.
    pub(super) fn tokens_may_come_again(&self) -> bool {
        let state = self.shared.state();
        state.set_back && state.lossy.contains(LOST_WRITES)
    }

    /// The run is not durable, for another reason than these servers: the clock
    /// of a process was stopped, or ran at a rate off by more than 3 %.
    pub fn mark_lossy(&self, why: &'static str) {
        self.shared.state().lossy.insert(why);
    }

    /// Writes down from now on what the servers are asked and what they answer.
    pub fn start_trace(&self) {
        self.shared.state().trace.get_or_insert_default();
    }

    /// What was written down since [`start_trace`](Self::start_trace).
    pub fn trace(&self) -> Vec<String> {
        self.shared.state().trace.clone().unwrap_or_default()
    }

    /// Adds a backend of one's own.
    pub fn note(&self, what: impl fmt::Display) {
        self.shared.note(what);
    }
}

impl Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimServers")
            .field("service", &self.service)
            .field("scheme", &self.scheme)
            .field("sim", &self.sim)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Nanoseconds on the one true clock since these servers are there.
    pub(super) fn now(&self) -> Time {
        ns(self.sim.now().saturating_since(self.began))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn note(&self, what: impl fmt::Display) {
        let now = self.now();
        self.state().note(now, what);
    }

    /// One call is executed, with the server's time and a place for its hints.
    pub(super) fn execute<T: Debug>(
        &self,
        server: Server,
        call: &'static str,
        from: usize,
        operation: impl FnOnce(&mut State, u64, &mut Vec<Hint>) -> Result<T>,
    ) -> Result<T> {
        let now = self.now();
        let state = &mut *self.state();
        let (down_until, at) = match server {
            Server::Lbs => (state.servers.lbs_down_until, state.servers.lbs_now(now)),
            Server::Locks => (state.servers.locks_down_until, state.servers.locks_now(now)),
        };
        let mut hints = Vec::new();
        let (refusals, at_locks) = (&state.servers.refusals, server == Server::Locks);
        let refused = refusals.refuse(at_locks, needs(call), now);
        let result = match (down_until > now, refused) {
            (true, _) => Err(unavailable("the server is down")),
            (false, Some(error)) => Err(error),
            (false, None) => operation(state, at, &mut hints),
        };
        state.note(now, format_args!("backend {from} {call}: {result:?}"));
        self.publish(state, hints);
        result
    }

    /// A hint goes to everybody who listens.
    fn publish(&self, state: &mut State, hints: Vec<Hint>) {
        let now = self.sim.now();
        for hint in hints {
            state.subscribers.retain(|to| !to.hints.is_closed());
            for to in &state.subscribers {
                let backend = &mut *lock(&to.backend);
                for delay in backend.hint_delays(self.now(), &state.network, state.hints) {
                    let (sim, to, hint) = (self.sim.clone(), to.hints.clone(), hint.clone());
                    self.sim.spawn(Box::pin(async move {
                        sim.sleep_until(now + delay).await;
                        let _ = to.try_send(hint);
                    }));
                }
            }
        }
    }
}

/// What a call of that name asks of its server.
fn needs(call: &str) -> Needs {
    match call {
        "list_pending" | "list_pending_ids" | "consumers" | "list_undelivered" | "counts"
        | "list_quarantined" | "inspect" | "members" | "records" | "subscribe" => Needs::Read,
        "submit" | "release_quarantined" => Needs::Announce,
        "fetch" | "complete" | "release" | "close" | "remove_consumer" | "drop_quarantined" => {
            Needs::Write
        }
        _ => Needs::Add,
    }
}

impl State {
    fn note(&mut self, now: Time, what: impl fmt::Display) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} {what}", now as f64 / 1e9));
        }
    }

    pub(super) fn spares_the_new(&self) -> bool {
        self.spares_the_new
    }

    pub(super) fn saw_ttl(&mut self, ttl: Duration) {
        self.longest_ttl = self.longest_ttl.max(ttl);
        self.shortest_ttl = self.shortest_ttl.min(ttl);
    }

    pub(super) fn subscribe(&mut self, backend: Arc<Mutex<SimBackendState>>, hints: Sender<Hint>) {
        self.subscribers.push(Subscriber { backend, hints });
    }

    /// Puts a fetch among those that wait; the number is for leaving.
    pub(super) fn wait(
        &mut self,
        consumer: ConsumerName,
        max: usize,
        answer: Sender<Result<Fetched>>,
    ) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.waiters.push(Waiter {
            ticket,
            consumer,
            max,
            answer,
        });
        ticket
    }

    pub(super) fn leave(&mut self, ticket: u64) {
        self.waiters.retain(|waiter| waiter.ticket != ticket);
    }

    /// Something was appended: who waits longest gets it, even if nobody is
    /// there any more to read the answer.
    pub(super) fn serve_waiters(&mut self, at: u64) {
        while !self.waiters.is_empty() && self.servers.lbs.undelivered().is_ok_and(|n| n > 0) {
            let waiter = self.waiters.remove(0);
            let fetched = self.servers.lbs.fetch(&waiter.consumer, waiter.max, at);
            let _ = waiter.answer.try_send(fetched);
        }
    }

    fn fail_waiters(&mut self, error: impl Fn() -> Error) {
        for waiter in std::mem::take(&mut self.waiters) {
            let _ = waiter.answer.try_send(Err(error()));
        }
    }
}

/// What the servers do without being asked, as long as they are there.
async fn sample(sim: SimRuntime, shared: Weak<Shared>) {
    loop {
        sim.sleep_until(sim.now() + SAMPLES).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (now, draw) = (shared.now(), sim.random(u64::MAX));
        let state = &mut *shared.state();
        let at = state.servers.locks_now(now);
        let mut hints = Vec::new();
        state.servers.locks.sample(draw, at, &mut hints);
        state.servers.remember(now, KEPT);
        shared.publish(state, hints);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic fails the test anyhow; the state itself is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn unavailable(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what)
}
