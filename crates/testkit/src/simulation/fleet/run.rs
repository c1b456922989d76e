//! How a trial goes: processes, producers and faults, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamlease_core::{
    Announcement, BoxFuture, EntryId, Info, Producer, Runtime, StreamName, SubmitBatch,
    SubmitOutcome, Timestamp,
};

use super::servers::lock;
use super::trial::stream;
use super::{HintsAre, Ledger, Outcome, Process, SimServers, Trial};
use crate::simulation::SimRuntime;
use crate::simulation::fault::{Amid, Fault};
use crate::simulation::network::Network;
use crate::simulation::plan::{LEAST_FAULTS, STATED_DRIFT};

/// What each process runs.
pub(super) type Main<'a> = &'a dyn Fn(Process) -> BoxFuture<'static, ()>;

pub(super) struct Run<'a> {
    trial: &'a Trial,
    sim: SimRuntime,
    servers: SimServers,
    ledger: Ledger,
    began: Timestamp,
    main: Main<'a>,
    /// Those that run.
    nodes: Vec<Process>,
    started: u64,
    /// What is to come, by time and by order of creation.
    agenda: BTreeMap<(Timestamp, u64), Step>,
    steps: u64,
    streams: Vec<StreamName>,
    announced: Arc<Mutex<Announced>>,
    faults: BTreeMap<&'static str, u64>,
    storm_until: Timestamp,
    bad_hints_until: Timestamp,
    no_hints_until: Timestamp,
    /// By the number of the process's backend.
    frozen_until: BTreeMap<usize, Timestamp>,
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
    Thaw(Process),
    Announce(Announcement),
    Fault(Fault),
    /// A storm may be over, or the hints be as before.
    Weather,
}

impl<'a> Run<'a> {
    pub(super) fn new(trial: &'a Trial, sim: &SimRuntime, main: Main<'a>) -> Self {
        let servers = SimServers::with_mutant(sim, Trial::SERVICE, trial.scheme, trial.mutant);
        // Whether a program is started again that ended is not the trial's.
        servers.spare_the_new();
        Self {
            trial,
            ledger: Ledger::new(&servers),
            began: sim.now(),
            sim: sim.clone(),
            main,
            nodes: Vec::new(),
            started: 0,
            agenda: BTreeMap::new(),
            steps: 0,
            streams: trial
                .announcements
                .iter()
                .map(|a| a.stream.clone())
                .collect(),
            announced: Arc::default(),
            faults: BTreeMap::new(),
            storm_until: sim.now(),
            bad_hints_until: sim.now(),
            no_hints_until: sim.now(),
            frozen_until: BTreeMap::new(),
            servers,
        }
    }

    pub(super) async fn run(mut self) -> Outcome {
        if self.trial.traced {
            self.servers.start_trace();
        }
        self.weather();
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
        let least = LEAST_FAULTS.min(self.trial.faults.len());
        while self.injected() < least && !self.nodes.is_empty() {
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
        if !self.converge(healed + self.trial.patience).await {
            let left = self.servers.left();
            violations.push(format!("not completed in time: {left:?}"));
        }
        let convergence = self.sim.now().saturating_since(healed);
        violations.extend(self.ledger.violations());
        violations.extend(self.unfinished());
        // Nobody is heard any more, and whoever still works is gone.
        self.nodes.iter().for_each(|node| node.runtime().kill());
        Outcome {
            seed: self.trial.seed,
            processes: self.started,
            announced: lock(&self.announced).entries.len(),
            faults: self.faults,
            lossy: self.servers.lossy(),
            convergence,
            violations,
            trace: self.servers.trace(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(name) => self.start(name),
            Step::Thaw(process) => {
                let until = self.frozen_until.get(&process.backend().number);
                if until.is_none_or(|until| *until <= self.sim.now()) {
                    process.runtime().thaw();
                }
            }
            Step::Announce(announcement) => self.announce(announcement),
            Step::Weather => self.weather(),
            Step::Fault(fault) => {
                self.servers.note(format_args!("{fault:?}"));
                if self.inject(fault) {
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
        let process = Process::new(name, self.trial.ttl, &self.sim, &self.servers, &self.ledger);
        process.runtime().spawn((self.main)(process.clone()));
        self.nodes.push(process);
        self.started += 1;
    }

    /// A producer that tries again until it is heard.
    fn announce(&self, announcement: Announcement) {
        let (sim, backend) = (self.sim.clone(), self.servers.backend());
        let announced = self.announced.clone();
        lock(&announced).under_way += 1;
        self.sim.spawn(Box::pin(async move {
            let producer =
                Producer::new(Trial::SERVICE, &backend, sim.clone()).expect("their own service");
            let mut batch = SubmitBatch::new(vec![announcement.clone()]).expect("random numbers");
            loop {
                let entries: Vec<EntryId> = match producer.submit_batch(&batch).await {
                    Ok(outcomes) => outcomes.into_iter().map(SubmitOutcome::entry).collect(),
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
                    batch = SubmitBatch::new(vec![announcement.clone()]).expect("random numbers");
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

    /// Returns whether there was anything for it.
    fn inject(&mut self, fault: Fault) -> bool {
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
                process.runtime().kill();
                let name = match same_name {
                    true => process.name().to_owned(),
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
                        self.nodes[nth].backend().lose_requests(length);
                        self.nodes[nth].backend().lose_replies(length);
                    }
                }
                self.nodes[nth].stop();
                let name = self.nodes[nth].name().to_owned();
                self.plan_from_now(after, Step::Start(name));
            }
            (Fault::Drift { rate, .. }, Some(nth)) => {
                if rate.abs_diff(1_000_000) > STATED_DRIFT {
                    self.servers.mark_lossy("clock drift");
                }
                self.nodes[nth].runtime().set_clock_rate(rate);
            }
            (Fault::Twin { .. }, Some(nth)) => self.start(self.nodes[nth].name().to_owned()),
            (
                Fault::Partition {
                    requests,
                    replies,
                    length,
                    ..
                },
                Some(nth),
            ) => {
                let backend = self.nodes[nth].backend();
                if requests {
                    backend.lose_requests(length);
                }
                if replies {
                    backend.lose_replies(length);
                }
            }
            (Fault::Storm { length }, _) => {
                self.storm_until = self.blow(self.storm_until, length);
            }
            (Fault::BadHints { length }, _) => {
                self.bad_hints_until = self.blow(self.bad_hints_until, length);
            }
            (Fault::NoHints { length }, _) => {
                self.no_hints_until = self.blow(self.no_hints_until, length);
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
            (Fault::BacklogLies(estimate), _) => self.servers.tell_backlog(estimate),
            (Fault::FetchesComeBack { permille }, _) => {
                self.servers.let_fetches_come_back(permille);
            }
            (Fault::Refuses { of, what, length }, _) => self.servers.refuse(of, what, length),
            (Fault::Demoted { length, .. }, Some(nth)) => self.nodes[nth].backend().demote(length),
            (Fault::ThinLink { each, length, .. }, Some(nth)) => {
                self.nodes[nth].backend().narrow(each, length);
            }
            (Fault::SlowConnect { length, .. }, Some(nth)) => {
                self.nodes[nth].backend().connect_slowly(length);
            }
            (Fault::ConsumerRemoved { nth }, _) => return self.servers.remove_consumer(nth),
            (Fault::Acknowledged { nth }, _) => return self.servers.acknowledge(nth),
            (Fault::GroupAtTheEnd, _) => self.servers.make_group_at_the_end(),
            (Fault::KeyGone { key, nth }, _) => return self.servers.lose_key(key, nth),
            (Fault::Again { nth }, _) => {
                let Some(nth) = nth.checked_rem(self.streams.len() as u64) else {
                    return false;
                };
                let stream = self.streams[nth as usize].clone();
                self.announce(Announcement::new(stream, Info::NONE));
            }
            (other, _) => panic!("{other:?} cannot be injected for real clients"),
        }
        true
    }

    fn pause(&mut self, nth: usize, length: Duration) {
        let process = self.nodes[nth].clone();
        let until = self.sim.now() + length;
        let frozen_until = self.frozen_until.entry(process.backend().number);
        let frozen_until = frozen_until.or_insert(until);
        *frozen_until = until.max(*frozen_until);
        process.runtime().freeze();
        self.plan_from_now(length, Step::Thaw(process));
    }

    fn suspend(&mut self, nth: usize, length: Duration) {
        self.servers.mark_lossy("clock suspended");
        self.nodes[nth].runtime().stop_clock(length);
        self.pause(nth, length);
    }

    /// What was announced since is announced again.
    fn restore_lbs(&mut self, lost: Duration) -> bool {
        let before = self.servers.left();
        let injected = self.servers.restore_lbs(lost);
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
        injected
    }

    fn injected(&self) -> usize {
        self.faults.values().sum::<u64>() as usize
    }

    /// Bad weather of one kind, for so long or for as long as it was to be.
    fn blow(&mut self, until: Timestamp, length: Duration) -> Timestamp {
        self.plan_from_now(Duration::ZERO, Step::Weather);
        self.plan_from_now(length, Step::Weather);
        until.max(self.sim.now() + length)
    }

    fn weather(&self) {
        let now = self.sim.now();
        let network = self.trial.network;
        self.servers.set_network(match self.storm_until > now {
            true => Network::storm(network.most_late),
            false => network,
        });
        let hints = match self.no_hints_until > now {
            true => HintsAre::Silent,
            false if self.bad_hints_until > now => HintsAre::Bad(self.trial.ttl * 2),
            false => HintsAre::Fine,
        };
        self.servers.set_hints(hints);
    }

    /// The faults are over, and who was to come is there.
    fn heal(&mut self) {
        self.servers.note("healed");
        self.servers.heal();
        self.frozen_until.clear();
        for node in &self.nodes {
            node.runtime().set_clock_rate(1_000_000);
        }
        for step in std::mem::take(&mut self.agenda).into_values() {
            if let Step::Start(_) | Step::Thaw(_) | Step::Announce(_) = step {
                self.step(step);
            }
        }
    }

    /// Whether everything that was announced is off the LBS before the deadline.
    async fn converge(&self, deadline: Timestamp) -> bool {
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

    /// What is off the LBS and not quarantined: its work must be there.
    fn unfinished(&self) -> Vec<String> {
        if !self.ledger.knows_of_work() {
            return Vec::new();
        }
        let off: BTreeSet<_> = {
            let left = self.servers.left().into_iter();
            left.chain(self.servers.quarantined()).collect()
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
