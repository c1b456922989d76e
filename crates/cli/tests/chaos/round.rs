//! One round: a server, a fleet, a producer and a ledger, faults, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use redis::Value;
use streamlease_tests::Proxy;

use crate::SERVICE;
use crate::check;
use crate::deployment::Mode;
use crate::faults::Fault;
use crate::fleet::{Fleet, Recipe};
use crate::inject::RoleChange;
use crate::ledger::Ledger;
use crate::plan::{Class, Plan, Work};
use crate::producer::{Announced, Announcer};
use crate::servers::{Servers, key};

/// What came of a round.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) announced: usize,
    pub(crate) completed: usize,
    pub(crate) quarantined: usize,
    pub(crate) takeovers: usize,
    pub(crate) accepted: u64,
    pub(crate) refused: usize,
    pub(crate) failed_starts: u64,
    /// Connections that the proxies cut, all at once or in the middle of a reply.
    pub(crate) cut: u64,
    /// Ends of work at which the LBS was looked at.
    pub(crate) looks: u64,
    /// Longest time that two said they had the same stream.
    pub(crate) overlap: Duration,
    /// How long after the faults everything was completed.
    pub(crate) converged: Duration,
    pub(crate) lost: Vec<String>,
    pub(crate) violations: Vec<String>,
    /// What was said and done, in order; for whoever has to find out.
    pub(crate) story: String,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Self) {
        for (kind, n) in other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        self.announced += other.announced;
        self.completed += other.completed;
        self.quarantined += other.quarantined;
        self.takeovers += other.takeovers;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed_starts += other.failed_starts;
        self.cut += other.cut;
        self.looks += other.looks;
        self.overlap = self.overlap.max(other.overlap);
        self.converged = self.converged.max(other.converged);
        self.lost.extend(other.lost);
        self.violations.extend(other.violations);
    }
}

/// What the checks look at.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) class: Class,
    pub(crate) ttl: Duration,
    pub(crate) announced: &'a [Announced],
    pub(crate) ledger: &'a Ledger,
    pub(crate) fleet: &'a Fleet,
    /// When Redis may have lost data: what was announced before may be gone.
    pub(crate) losses: &'a [Instant],
    /// Whether nothing has happened for which somebody that lives may lose a lease.
    pub(crate) leases_were_safe: bool,
    pub(crate) lbs: &'a Lbs,
}

/// What the LBS holds.
#[derive(Debug, Default)]
pub(crate) struct Lbs {
    pub(crate) entries: BTreeSet<String>,
    pub(crate) pending: u64,
    pub(crate) quarantined: BTreeSet<String>,
}

impl Lbs {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.pending == 0
    }
}

/// Something that is to be done later.
#[derive(Debug)]
pub(crate) enum Task {
    Announce(Vec<Work>),
    Inject(Fault),
    GoOn(u32),
    Dismiss(u32),
    Heal(usize),
    HealAll,
    NoLatency(usize),
    FastConnect(usize),
    FastLink(usize),
    RedisUp,
    Thaw,
    ChangeRoles(RoleChange),
    /// Fill the memory until then.
    Press(Instant),
    /// Limits, rights and settings are as at the start.
    Restore,
    /// A former owner comes back.
    NodeUp(usize),
    NodeThaw(usize),
    /// What was acknowledged until now may be gone.
    Lost,
}

pub(crate) struct Round<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) began: Instant,
    pub(crate) servers: Servers,
    ledger: Ledger,
    pub(crate) fleet: Fleet,
    pub(crate) producer: Announcer,
    pub(crate) agenda: Vec<(Instant, Task)>,
    pub(crate) losses: Vec<Instant>,
    faults: BTreeMap<&'static str, u64>,
    leases_were_safe: bool,
    story: Vec<(Instant, String)>,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut round = Round::start(plan);
    round.rage();
    round.stop_faults();
    let converged = round.converge();
    round.finish(converged)
}

impl<'a> Round<'a> {
    fn start(plan: &'a Plan) -> Self {
        let servers = Servers::start(plan.class, plan.mode);
        let is_looked_at = plan.class == Class::Durable && plan.mode == Mode::Name;
        let ledger = Ledger::start(is_looked_at.then(|| servers.url()));
        let recipe = Recipe {
            ttl: plan.ttl,
            locks: plan.locks,
            ledger: ledger.addr().to_string(),
            url: (plan.mode != Mode::Name).then(|| servers.url()),
        };
        let fleet = Fleet::start(recipe, servers.addr());
        let producer = Announcer::start(servers.url(), SERVICE);
        let began = Instant::now();
        let announcing = plan
            .submissions
            .iter()
            .map(|(at, works)| (began + *at, Task::Announce(works.clone())));
        let faults = plan
            .faults
            .iter()
            .map(|(at, fault)| (began + *at, Task::Inject(fault.clone())));
        Self {
            plan,
            began,
            agenda: announcing.chain(faults).collect(),
            servers,
            ledger,
            fleet,
            producer,
            losses: Vec::new(),
            faults: BTreeMap::new(),
            leases_were_safe: plan.class == Class::Durable,
            story: Vec::new(),
        }
    }

    /// Until the time of the faults is over.
    fn rage(&mut self) {
        while self.began.elapsed() < self.plan.length {
            let now = Instant::now();
            let (due, later) = std::mem::take(&mut self.agenda)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            self.agenda = later;
            let mut due: Vec<_> = due;
            due.sort_by_key(|(at, _)| *at);
            for (_, task) in due {
                self.perform(task);
            }
            self.fleet.look();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends every fault.
    fn stop_faults(&mut self) {
        self.note("the faults stop");
        // What has not begun does not begin.
        self.agenda
            .retain(|(_, task)| !matches!(task, Task::Inject(_)));
        // Some end step by step, and some need a server that answers.
        while !self.agenda.is_empty() {
            let mut agenda = std::mem::take(&mut self.agenda);
            agenda.sort_by_key(|(at, _)| *at);
            for (at, task) in agenda {
                // No fault, but until when one may cost something.
                match task {
                    Task::Lost if at > Instant::now() => self.agenda.push((at, task)),
                    task => self.perform(task),
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.perform(Task::Restore);
        for proxy in self.fleet.proxies() {
            proxy.set_latency(Duration::ZERO);
            proxy.set_connect_delay(Duration::ZERO);
            proxy.set_rate(None);
            proxy.heal();
        }
    }

    /// Waits until everything is completed, but no longer than the bound.
    fn converge(&mut self) -> Duration {
        let from = Instant::now();
        let mut announced_again = false;
        let bound = self.plan.bound();
        while from.elapsed() < bound {
            self.fleet.look();
            if self.producer.is_done() && self.fleet.has_converged() {
                let lbs = self.lbs();
                if self.plan.class == Class::Lossy && !announced_again {
                    announced_again = true;
                    self.announce_again(&lbs);
                } else if lbs.is_empty() {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let converged = from.elapsed();
        self.note(&format!("converged after {converged:?}"));
        converged
    }

    fn finish(self, converged: Duration) -> Outcome {
        // Looked at before everybody hands back.
        let lbs = self.lbs();
        let fleet = self.fleet.finish();
        let announced = self.producer.announced();
        let evidence = Evidence {
            class: self.plan.class,
            ttl: self.plan.ttl,
            announced: &announced,
            ledger: &self.ledger,
            fleet: &fleet,
            losses: &self.losses,
            leases_were_safe: self.leases_were_safe,
            lbs: &lbs,
        };
        let mut outcome = check::check(&evidence);
        if !self.producer.is_done() {
            let violation = "the producer could not announce everything in time";
            outcome.violations.push(violation.into());
        }
        outcome.faults = self.faults;
        outcome.failed_starts = fleet.failed_starts;
        outcome.cut = fleet.proxies().map(Proxy::cut).sum();
        outcome.converged = converged;
        if !outcome.violations.is_empty() || !outcome.lost.is_empty() {
            let log = self.ledger.books().log.clone();
            outcome.story = check::story(self.began, &self.story, &log, &fleet);
            outcome.story += &format!("\nRedis:\n{}", self.servers.log());
        }
        outcome
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Announce(works) => self.producer.announce(works),
            Task::Inject(fault) => {
                let text = format!("{fault:?}");
                let kind = fault.kind();
                let costs = fault.may_cost_leases();
                if self.inject(fault) {
                    *self.faults.entry(kind).or_default() += 1;
                    self.leases_were_safe &= !costs;
                    self.note(&text);
                }
            }
            Task::GoOn(pid) => {
                self.note(&format!("SIGCONT to {pid}"));
                self.fleet.go_on(pid);
            }
            Task::Dismiss(pid) => self.fleet.dismiss(pid),
            Task::Heal(worker) => {
                self.note(&format!("the way of w{worker} is healed"));
                self.fleet.proxy(worker).heal();
            }
            Task::HealAll => {
                self.note("all ways are healed");
                self.fleet.proxies().for_each(|proxy| proxy.heal());
            }
            Task::NoLatency(worker) => self.fleet.proxy(worker).set_latency(Duration::ZERO),
            Task::FastConnect(worker) => {
                self.fleet.proxy(worker).set_connect_delay(Duration::ZERO);
            }
            Task::FastLink(worker) => self.fleet.proxy(worker).set_rate(None),
            Task::ChangeRoles(step) => self.change_roles(step),
            Task::Press(until) => self.press(until),
            Task::NodeUp(index) => {
                if let Some(deployment) = &mut self.servers.deployment {
                    deployment.server_mut(index).start_again();
                }
                self.note(&format!("server {index} is up again"));
            }
            Task::NodeThaw(index) => {
                if let Some(deployment) = &self.servers.deployment {
                    let loses_for = deployment.thaw(index);
                    self.note(&format!("server {index} is thawed"));
                    self.later(loses_for, Task::Lost);
                }
            }
            Task::Lost => self.lost_now(),
            Task::Restore if !self.servers.answers() => {
                self.later(Duration::from_millis(50), Task::Restore);
            }
            Task::Restore => {
                self.servers.restore_settings().unwrap();
                self.fleet.allow();
                self.note("limits, rights and settings are as at the start");
            }
            Task::RedisUp => {
                self.servers.master().start_again();
                (self.servers.is_up, self.servers.is_frozen) = (true, false);
                if self.plan.class == Class::Lossy {
                    self.losses.push(Instant::now());
                }
                self.note("Redis is up again");
            }
            Task::Thaw => {
                if self.servers.is_up && self.servers.is_frozen {
                    self.servers.master().thaw();
                    self.servers.is_frozen = false;
                    self.note("Redis is thawed");
                }
            }
        }
    }

    /// Announces anew what is not on the LBS though it is not finished.
    pub(crate) fn announce_again(&mut self, lbs: &Lbs) {
        let announced = self.producer.announced();
        let mut missing: BTreeMap<&str, &Work> = BTreeMap::new();
        for Announced { work, .. } in &announced {
            missing.insert(&work.stream, work);
        }
        let books = self.ledger.books();
        for Announced { work, entry, .. } in &announced {
            let finished = books
                .entries
                .get(entry)
                .is_some_and(|entry| entry.finished_by.is_some());
            if finished || lbs.entries.contains(entry) || lbs.quarantined.contains(entry) {
                missing.remove(work.stream.as_str());
            }
        }
        drop(books);
        let works: Vec<_> = missing.into_values().cloned().collect();
        self.note(&format!("{} are announced again", works.len()));
        if !works.is_empty() {
            self.producer.announce(works);
        }
    }

    pub(crate) fn lbs(&self) -> Lbs {
        let lbs = format!("{SERVICE}-input");
        // Ids alone: infos may be large.
        let lua = "local ids = {} \
                   for i, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do \
                     ids[i] = entry[1] \
                   end \
                   return ids";
        let group = format!("{SERVICE}-group");
        // Without the group nothing is pending.
        let pending: Vec<Value> = self
            .servers
            .order(&["XPENDING", &lbs, &group])
            .unwrap_or_default();
        Lbs {
            entries: self.servers.script(lua, &[&lbs]).unwrap(),
            pending: match pending.first() {
                Some(Value::Int(n)) => u64::try_from(*n).unwrap(),
                _ => 0,
            },
            quarantined: self.servers.order(&["HKEYS", &key("quarantine")]).unwrap(),
        }
    }

    pub(crate) fn later(&mut self, after: Duration, task: Task) {
        self.agenda.push((Instant::now() + after, task));
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.story.push((Instant::now(), text.to_owned()));
    }
}
