//! [`Trial`]: a fleet of processes that run your code, and what goes wrong around them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamlease_core::{
    Announcement, BoxFuture, Client, ClientBuilder, EntryId, Info, LockScheme, Producer, Runtime,
    StreamName, Timestamp, new_batch,
};

use super::servers::lock;
use super::{HintsAre, Ledger, Line, SimServers};
use crate::sim::{SimHandle, SimRuntime};
use crate::simulation::fault::{Amid, Fault};
use crate::simulation::network::Network;
use crate::simulation::plan::{LEAST_FAULTS, Plan, STATED_DRIFT};

const SERVICE: &str = "orders";

/// One run of your code under faults, all of it decided by its seed.
///
/// The fields may be changed before [`run`](Self::run). By the seed there are 3
/// to 5 processes, 20 to 34 data streams, 5 to 20 faults, a TTL between 300 ms
/// and 5 s, and one of the two lock schemes.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The seed.
    pub seed: u64,
    /// How leases hang together.
    pub scheme: LockScheme,
    /// The TTL of the clients; lengths of faults are drawn to fit it.
    pub ttl: Duration,
    /// How many processes run at first.
    pub processes: u64,
    /// What is announced, at drawn times. More comes with some faults.
    pub announcements: Vec<Announcement>,
    /// How bad the network is while there are faults.
    pub network: Network,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
    /// After that long the faults stop.
    pub trouble: Duration,
    /// Then everything has to be completed within that time: how long your
    /// handlers work, and a few minutes.
    pub patience: Duration,
    /// Whether to write down what happens.
    pub traced: bool,
}

/// One process of the fleet, to your code. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    ttl: Duration,
    sim: SimRuntime,
    handle: SimHandle,
    line: Line,
    ledger: Ledger,
    /// Closed when it is asked to stop.
    stop: async_channel::Receiver<()>,
    _open: async_channel::Sender<()>,
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Processes that were started.
    pub processes: u64,
    /// Announcements that had to be completed.
    pub announced: usize,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Why the run is not durable; see [`SimServers::lossy`].
    pub lossy: BTreeSet<&'static str>,
    /// From the end of the faults until everything was completed.
    pub settled: Duration,
    /// What should not have happened.
    pub violations: Vec<String>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

impl Outcome {
    /// # Panics
    /// If there are violations, with the seed and what went wrong in the run.
    pub fn assert_holds(&self) {
        assert!(
            self.violations.is_empty(),
            "seed {}, faults {:?}, lossy {:?}: {:#?}",
            self.seed,
            self.faults,
            self.lossy,
            self.violations
        );
    }
}

impl Process {
    /// Begins this process's client, with its consumer name, backend, runtime,
    /// seed and TTL. Nothing is quarantined for failing unless you set it: a
    /// crash counts as a failure, and here are many.
    pub fn client(&self) -> ClientBuilder {
        Client::builder(SERVICE)
            .consumer(&self.name)
            .backend(self.line.clone())
            .runtime(self.handle.clone())
            .seed(self.sim.random(u64::MAX))
            .ttl(self.ttl)
            .quarantine_after(None)
    }

    /// Its name; a process that is started again after a crash may have the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its tasks run on, with its clock.
    pub fn runtime(&self) -> &SimHandle {
        &self.handle
    }

    /// Its way to the servers, for a producer of its own.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// What its handlers write to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Resolves when the process is asked to stop, as by SIGTERM: shut its client
    /// down then ([`Client::done`]), and end. Another one comes under its name,
    /// whether or not it does.
    pub async fn asked_to_stop(&self) {
        let _ = self.stop.recv().await;
    }

    /// Runs a task in this process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(Box::pin(task));
    }

    /// Waits, by this process's clock.
    pub async fn sleep(&self, time: Duration) {
        self.handle.sleep_until(self.handle.now() + time).await;
    }

    /// A number below `bound` (at least 1), drawn from the seed.
    pub fn random(&self, bound: u64) -> u64 {
        self.sim.random(bound)
    }
}

impl Trial {
    /// The trial of a seed.
    pub fn of(seed: u64) -> Self {
        let plan = Plan::with(seed, strikes_real_clients);
        let streams = (0..plan.streams).map(stream);
        Self {
            seed,
            scheme: plan.scheme,
            ttl: plan.ttl,
            processes: plan.nodes,
            announcements: streams.map(|s| Announcement::new(s, Info::NONE)).collect(),
            network: plan.network(),
            faults: plan.faults,
            trouble: plan.trouble,
            patience: Duration::from_secs(600),
            traced: false,
        }
    }

    /// Runs `main` in each process: at first, and again after each crash. It
    /// gets a client from [`Process::client`], and works for as long as the
    /// process lives.
    ///
    /// # Panics
    /// With whatever `main` and its tasks panic; the seed is printed.
    pub fn run<F>(&self, main: impl Fn(Process) -> F) -> Outcome
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _told = TellsSeed(self.seed);
        let sim = SimRuntime::new(self.seed);
        let main = |process: Process| -> BoxFuture<'static, ()> { Box::pin(main(process)) };
        let servers = SimServers::new(&sim, SERVICE, self.scheme);
        let run = Run {
            trial: self,
            ledger: Ledger::new(&servers),
            began: sim.now(),
            sim: sim.clone(),
            main: &main,
            nodes: Vec::new(),
            started: 0,
            agenda: BTreeMap::new(),
            steps: 0,
            streams: self
                .announcements
                .iter()
                .map(|a| a.stream.clone())
                .collect(),
            announced: Arc::default(),
            faults: BTreeMap::new(),
            servers,
        };
        sim.block_on(run.run())
    }
}

/// What can happen to a client as it is, from without.
fn strikes_real_clients(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::ForeignFetch { .. }
            | Fault::ForeignClaim { .. }
            | Fault::SilentHandlers { .. }
            | Fault::SlowUser { .. }
    )
}

struct Run<'a> {
    trial: &'a Trial,
    sim: SimRuntime,
    servers: SimServers,
    ledger: Ledger,
    began: Timestamp,
    main: &'a dyn Fn(Process) -> BoxFuture<'static, ()>,
    /// Those that run.
    nodes: Vec<Process>,
    started: u64,
    /// What is to come, by time and by order of creation.
    agenda: BTreeMap<(Timestamp, u64), Step>,
    steps: u64,
    streams: Vec<StreamName>,
    announced: Arc<Mutex<Announced>>,
    faults: BTreeMap<&'static str, u64>,
}

/// What producers were told.
#[derive(Default)]
struct Announced {
    under_way: usize,
    entries: BTreeMap<EntryId, Announcement>,
    /// A fault took them off the LBS.
    removed: BTreeSet<EntryId>,
}

enum Step {
    Start(String),
    Thaw(SimHandle),
    Announce(Announcement),
    Fault(Fault),
    /// The network or the hints are as before.
    Calm,
}

impl Run<'_> {
    async fn run(mut self) -> Outcome {
        if self.trial.traced {
            self.servers.start_trace();
        }
        self.calm();
        for nth in 0..self.trial.processes {
            self.plan(Duration::ZERO, Step::Start(format!("c{nth}")));
        }
        for announcement in self.trial.announcements.clone() {
            let at = self.draw(self.trial.trouble);
            self.plan(at, Step::Announce(announcement));
        }
        for (at, fault) in &self.trial.faults {
            self.plan(*at, Step::Fault(*fault));
        }
        let healed = self.began + self.trial.trouble;
        while let Some(next) = self.agenda.first_entry() {
            let at = next.key().0.min(healed);
            self.sim.sleep_until(at).await;
            if at == healed {
                break;
            }
            let step = next.remove();
            self.step(step);
        }
        while self.struck() < LEAST_FAULTS.min(self.trial.faults.len()) {
            let node = self.sim.random(u64::MAX);
            let (same_name, after) = (true, self.trial.ttl / 4);
            self.step(Step::Fault(Fault::Crash {
                node,
                same_name,
                after,
            }));
        }
        self.heal();
        let healed = self.sim.now();
        let mut violations = Vec::new();
        if !self.settle(healed + self.trial.patience).await {
            let left = self.servers.left();
            violations.push(format!("not completed in time: {left:?}"));
        }
        let settled = self.sim.now().saturating_since(healed);
        violations.extend(self.ledger.violations());
        violations.extend(self.unfinished());
        // Nobody is heard any more, and whoever still works is gone.
        self.nodes.iter().for_each(|node| node.handle.kill());
        Outcome {
            seed: self.trial.seed,
            processes: self.started,
            announced: lock(&self.announced).entries.len(),
            faults: self.faults,
            lossy: self.servers.lossy(),
            settled,
            violations,
            trace: self.servers.trace(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(name) => self.start(name),
            Step::Thaw(handle) => handle.thaw(),
            Step::Announce(announcement) => self.announce(announcement),
            Step::Calm => self.calm(),
            Step::Fault(fault) => {
                self.servers.note(format_args!("{fault:?}"));
                if self.strike(fault) {
                    *self.faults.entry(fault.kind()).or_default() += 1;
                } else {
                    // Nothing was there for it yet.
                    self.plan_from_now(self.trial.ttl / 4, Step::Fault(fault));
                }
            }
        }
    }

    fn start(&mut self, name: String) {
        self.servers.note(format_args!("{name} starts"));
        let (open, stop) = async_channel::bounded(1);
        let process = Process {
            name,
            ttl: self.trial.ttl,
            sim: self.sim.clone(),
            handle: self.sim.handle(),
            line: self.servers.line(),
            ledger: self.ledger.clone(),
            stop,
            _open: open,
        };
        process.handle.spawn((self.main)(process.clone()));
        self.nodes.push(process);
        self.started += 1;
    }

    /// A producer that tries again until it is heard.
    fn announce(&self, announcement: Announcement) {
        let (sim, line) = (self.sim.clone(), self.servers.line());
        let announced = self.announced.clone();
        lock(&announced).under_way += 1;
        self.sim.spawn(Box::pin(async move {
            let producer = Producer::new(SERVICE, &line).expect("their own service");
            let mut batch = new_batch(vec![announcement.clone()]).expect("random numbers");
            loop {
                let entries = match producer.submit_batch(&batch).await {
                    Ok(entries) => entries,
                    Err(_) => {
                        sim.sleep_until(sim.now() + Duration::from_millis(100))
                            .await;
                        continue;
                    }
                };
                let announced = &mut *lock(&announced);
                if entries
                    .iter()
                    .any(|entry| announced.removed.contains(entry))
                {
                    batch = new_batch(vec![announcement.clone()]).expect("random numbers");
                    continue;
                }
                let entries = entries.into_iter();
                announced
                    .entries
                    .extend(entries.map(|entry| (entry, announcement.clone())));
                announced.under_way -= 1;
                return;
            }
        }));
    }

    /// Whether it struck.
    fn strike(&mut self, fault: Fault) -> bool {
        let process = match fault.process() {
            None => None,
            Some(draw) => match draw.checked_rem(self.nodes.len() as u64) {
                Some(nth) => Some(nth as usize),
                None => return false,
            },
        };
        match (fault, process) {
            (
                Fault::Crash {
                    same_name, after, ..
                },
                Some(nth),
            ) => {
                let process = self.nodes.swap_remove(nth);
                process.handle.kill();
                let name = match same_name {
                    true => process.name,
                    false => format!("c{}", self.started),
                };
                self.plan_from_now(after, Step::Start(name));
            }
            (Fault::Pause { length, .. }, Some(nth)) => self.pause(nth, length),
            (Fault::Suspend { length, .. }, Some(nth)) => self.suspend(nth, length),
            (
                Fault::Shutdown {
                    amid,
                    length,
                    after,
                    ..
                },
                Some(nth),
            ) => {
                match amid {
                    None => {}
                    Some(Amid::Pause) => self.pause(nth, length),
                    Some(Amid::Suspend) => self.suspend(nth, length),
                    Some(Amid::Partition) => {
                        self.nodes[nth].line.lose_requests(length);
                        self.nodes[nth].line.lose_replies(length);
                    }
                }
                self.nodes[nth].stop.close();
                let name = self.nodes[nth].name.clone();
                self.plan_from_now(after, Step::Start(name));
            }
            (Fault::Drift { rate, .. }, Some(nth)) => {
                if rate.abs_diff(1_000_000) > STATED_DRIFT {
                    self.servers.mark_lossy("clock drift");
                }
                self.nodes[nth].handle.set_clock_rate(rate);
            }
            (Fault::Twin { .. }, Some(nth)) => self.start(self.nodes[nth].name.clone()),
            (
                Fault::Partition {
                    requests,
                    replies,
                    length,
                    ..
                },
                Some(nth),
            ) => {
                let line = &self.nodes[nth].line;
                if requests {
                    line.lose_requests(length);
                }
                if replies {
                    line.lose_replies(length);
                }
            }
            (Fault::Storm { length }, _) => {
                let most_late = self.trial.network.most_late;
                self.servers.set_network(Network::storm(most_late));
                self.plan_from_now(length, Step::Calm);
            }
            (Fault::BadHints { length }, _) => {
                self.servers.set_hints(HintsAre::Bad(self.trial.ttl * 2));
                self.plan_from_now(length, Step::Calm);
            }
            (Fault::NoHints { length }, _) => {
                self.servers.set_hints(HintsAre::Silent);
                self.plan_from_now(length, Step::Calm);
            }
            (Fault::LocksRestart { lost, down }, _) => self.servers.restart_locks(lost, down),
            (Fault::LbsDown { down }, _) => self.servers.take_lbs_down(down),
            (Fault::LbsRestored { lost }, _) => return self.restore_lbs(lost),
            (Fault::GroupGone, _) => self.servers.destroy_group(),
            (Fault::LockClock { by_ms }, _) => self.servers.step_locks_clock(by_ms),
            (Fault::LbsClock { by_ms }, _) => self.servers.step_lbs_clock(by_ms),
            (Fault::Steal { nth }, _) => return self.servers.steal(nth),
            (Fault::Revoke { nth }, _) => return self.servers.revoke(nth),
            (Fault::Poison, _) => {
                self.servers.append_malformed();
            }
            (Fault::Burst { streams }, _) => {
                for _ in 0..streams {
                    let stream = stream(self.streams.len() as u64);
                    self.streams.push(stream.clone());
                    self.announce(Announcement::new(stream, Info::NONE));
                }
            }
            (Fault::Again { nth }, _) => {
                let Some(nth) = nth.checked_rem(self.streams.len() as u64) else {
                    return false;
                };
                let stream = self.streams[nth as usize].clone();
                self.announce(Announcement::new(stream, Info::NONE));
            }
            (other, _) => panic!("{other:?} cannot strike real clients"),
        }
        true
    }

    fn pause(&mut self, nth: usize, length: Duration) {
        let handle = self.nodes[nth].handle.clone();
        handle.freeze();
        self.plan_from_now(length, Step::Thaw(handle));
    }

    fn suspend(&mut self, nth: usize, length: Duration) {
        self.servers.mark_lossy("clock suspended");
        self.nodes[nth].handle.stop_clock(length);
        self.pause(nth, length);
    }

    /// What was announced since is announced again.
    fn restore_lbs(&mut self, lost: Duration) -> bool {
        let before = self.servers.left();
        let struck = self.servers.restore_lbs(lost);
        let after: BTreeSet<_> = self.servers.left().into_iter().collect();
        let gone = before.into_iter().filter(|entry| !after.contains(entry));
        for entry in gone {
            let announced = {
                let announced = &mut *lock(&self.announced);
                announced.removed.insert(entry);
                announced.entries.remove(&entry)
            };
            if let Some(announcement) = announced {
                self.announce(announcement);
            }
        }
        struck
    }

    fn struck(&self) -> usize {
        self.faults.values().sum::<u64>() as usize
    }

    fn calm(&self) {
        self.servers.set_network(self.trial.network);
        self.servers.set_hints(HintsAre::Fine);
    }

    /// The faults are over, and who was to come is there.
    fn heal(&mut self) {
        self.servers.note("healed");
        self.servers.heal();
        for node in &self.nodes {
            node.handle.set_clock_rate(1_000_000);
        }
        for step in std::mem::take(&mut self.agenda).into_values() {
            if let Step::Start(_) | Step::Thaw(_) | Step::Announce(_) = step {
                self.step(step);
            }
        }
    }

    /// Whether everything that was announced is off the LBS before the deadline.
    async fn settle(&self, deadline: Timestamp) -> bool {
        loop {
            let under_way = lock(&self.announced).under_way;
            if under_way == 0 && self.servers.left().is_empty() {
                return true;
            }
            if self.sim.now() > deadline {
                return false;
            }
            let soon = self.sim.now() + self.trial.ttl / 10;
            self.sim.sleep_until(soon).await;
        }
    }

    /// What is off the LBS and not parked: its work must be there.
    fn unfinished(&self) -> Vec<String> {
        let off: BTreeSet<_> = {
            let left = self.servers.left().into_iter();
            left.chain(self.servers.parked()).collect()
        };
        let announced = lock(&self.announced);
        let entries = announced.entries.iter();
        entries
            .filter(|(entry, _)| !off.contains(entry) && !self.ledger.is_finished(**entry))
            .map(|(entry, announcement)| {
                let stream = &announcement.stream;
                format!("completed, and its work not finished: {stream} ({entry})")
            })
            .collect()
    }

    fn draw(&self, below: Duration) -> Duration {
        Duration::from_micros(self.sim.random(below.as_micros() as u64))
    }

    fn plan(&mut self, at: Duration, step: Step) {
        self.steps += 1;
        self.agenda.insert((self.began + at, self.steps), step);
    }

    fn plan_from_now(&mut self, after: Duration, step: Step) {
        let now = self.sim.now().saturating_since(self.began);
        self.plan(now + after, step);
    }
}

fn stream(nth: u64) -> StreamName {
    StreamName::new(format!("s{nth}")).expect("not empty and short")
}

/// Says which seed it was, should anything panic.
struct TellsSeed(u64);

impl Drop for TellsSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the trial has seed {}", self.0);
        }
    }
}
