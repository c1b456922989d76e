//! One round: a server, a fleet, a producer and a ledger, faults, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use redis::Value;
use streamlease_tests::{Proxy, RedisServer};

use crate::SERVICE;
use crate::check;
use crate::fleet::{Fleet, Recipe};
use crate::ledger::Ledger;
use crate::plan::{Class, Fault, Plan, Work};
use crate::producer::{Announced, Announcer};

/// What came of a round.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) announced: usize,
    pub(crate) completed: usize,
    pub(crate) parked: usize,
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
    pub(crate) settled: Duration,
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
        self.parked += other.parked;
        self.takeovers += other.takeovers;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed_starts += other.failed_starts;
        self.cut += other.cut;
        self.looks += other.looks;
        self.overlap = self.overlap.max(other.overlap);
        self.settled = self.settled.max(other.settled);
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
    pub(crate) lbs: &'a Lbs,
}

/// What the LBS holds.
#[derive(Debug, Default)]
pub(crate) struct Lbs {
    pub(crate) entries: BTreeSet<String>,
    pub(crate) pending: u64,
    pub(crate) parked: BTreeSet<String>,
}

/// Something that is to be done later.
#[derive(Debug)]
enum Task {
    Announce(Vec<Work>),
    Inject(Fault),
    GoOn(u32),
    Dismiss(u32),
    Heal(usize),
    HealAll,
    NoLatency(usize),
    RedisUp,
    Thaw,
}

struct Round<'a> {
    plan: &'a Plan,
    began: Instant,
    server: RedisServer,
    is_up: bool,
    is_frozen: bool,
    ledger: Ledger,
    fleet: Fleet,
    producer: Announcer,
    agenda: Vec<(Instant, Task)>,
    losses: Vec<Instant>,
    faults: BTreeMap<&'static str, u64>,
    story: Vec<(Instant, String)>,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut round = Round::start(plan);
    round.rage();
    round.calm();
    let settled = round.settle();
    round.finish(settled)
}

impl<'a> Round<'a> {
    fn start(plan: &'a Plan) -> Self {
        let fsync = match plan.class {
            Class::Durable => "appendfsync always",
            Class::Lossy => "appendfsync everysec",
        };
        let server = RedisServer::builder().append_only().config(fsync).start();
        let ledger = Ledger::start((plan.class == Class::Durable).then(|| server.url()));
        let recipe = Recipe {
            ttl: plan.ttl,
            locks: plan.locks,
            ledger: ledger.addr().to_string(),
        };
        let fleet = Fleet::start(recipe, &server);
        let producer = Announcer::start(server.url(), SERVICE);
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
            is_up: true,
            is_frozen: false,
            agenda: announcing.chain(faults).collect(),
            server,
            ledger,
            fleet,
            producer,
            losses: Vec::new(),
            faults: BTreeMap::new(),
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
    fn calm(&mut self) {
        self.note("the faults stop");
        for (_, task) in std::mem::take(&mut self.agenda) {
            // What has not begun does not begin.
            if !matches!(task, Task::Inject(_)) {
                self.perform(task);
            }
        }
        for proxy in self.fleet.proxies() {
            proxy.set_latency(Duration::ZERO);
            proxy.heal();
        }
    }

    /// Waits until everything is completed, but no longer than the bound.
    fn settle(&mut self) -> Duration {
        let from = Instant::now();
        let mut announced_again = false;
        let bound = self.plan.bound();
        while from.elapsed() < bound {
            self.fleet.look();
            if self.producer.is_done() && self.fleet.is_settled() {
                let lbs = self.lbs();
                if self.plan.class == Class::Lossy && !announced_again {
                    announced_again = true;
                    self.announce_again(&lbs);
                } else if lbs.entries.is_empty() && lbs.pending == 0 {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let settled = from.elapsed();
        self.note(&format!("settled after {settled:?}"));
        settled
    }

    fn finish(self, settled: Duration) -> Outcome {
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
        outcome.settled = settled;
        if !outcome.violations.is_empty() || !outcome.lost.is_empty() {
            let log = self.ledger.books().log.clone();
            outcome.story = check::story(self.began, &self.story, &log, &fleet);
            outcome.story += &format!("\nRedis:\n{}", self.server.log());
        }
        outcome
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Announce(works) => self.producer.announce(works),
            Task::Inject(fault) => {
                let text = format!("{fault:?}");
                let kind = fault.kind();
                if self.inject(fault) {
                    *self.faults.entry(kind).or_default() += 1;
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
            Task::RedisUp => {
                self.server.start_again();
                (self.is_up, self.is_frozen) = (true, false);
                if self.plan.class == Class::Lossy {
                    self.losses.push(Instant::now());
                }
                self.note("Redis is up again");
            }
            Task::Thaw => {
                if self.is_up && self.is_frozen {
                    self.server.thaw();
                    self.is_frozen = false;
                    self.note("Redis is thawed");
                }
            }
        }
    }

    /// Whether it could be done: nobody is killed twice.
    fn inject(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Kill {
                worker,
                down,
                rename,
            } => return self.fleet.kill(worker, down, rename),
            Fault::Restart { worker } => return self.fleet.kill(worker, Duration::ZERO, false),
            Fault::Terminate {
                worker,
                down,
                rename,
            } => return self.fleet.terminate(worker, down, rename),
            Fault::StopShort { worker, time } | Fault::StopLong { worker, time } => {
                let Some(pid) = self.fleet.stop(worker) else {
                    return false;
                };
                self.later(time, Task::GoOn(pid));
            }
            Fault::Twin {
                worker,
                stopped,
                alive,
            } => {
                let Some(pid) = self.fleet.double(worker) else {
                    return false;
                };
                self.later(stopped, Task::GoOn(pid));
                self.later(stopped + alive, Task::Dismiss(pid));
            }
            Fault::CutAll { worker } => self.fleet.proxy(worker).cut_all(),
            Fault::CutReply {
                worker,
                request,
                bytes,
            } => self.fleet.proxy(worker).cut_reply_to(request, bytes),
            Fault::Latency {
                worker,
                latency,
                time,
            } => {
                self.fleet.proxy(worker).set_latency(latency);
                self.later(time, Task::NoLatency(worker));
            }
            Fault::Partition { worker, time } => {
                self.fleet.proxy(worker).partition();
                self.later(time, Task::Heal(worker));
            }
            Fault::LoseReplies { worker, time } => {
                self.fleet.proxy(worker).hold_replies();
                self.later(time, Task::Heal(worker));
            }
            Fault::LoseRequests { worker, time } => {
                self.fleet.proxy(worker).hold_requests();
                self.later(time, Task::Heal(worker));
            }
            Fault::PartitionOfAll { time } => {
                self.fleet.proxies().for_each(|proxy| proxy.partition());
                self.later(time, Task::HealAll);
            }
            // The others are Redis', and need it.
            _ if !self.is_up || self.is_frozen => return false,
            Fault::RedisRestart { down } => {
                self.server.kill();
                self.is_up = false;
                self.later(down, Task::RedisUp);
            }
            Fault::RedisForgets { down, bytes } => {
                let log = self.append_only_file();
                self.server.kill();
                self.is_up = false;
                let left = log.metadata().unwrap().len().saturating_sub(bytes);
                log.set_len(left).unwrap();
                self.later(down, Task::RedisUp);
            }
            Fault::RedisFreeze { time } => {
                self.server.freeze();
                self.is_frozen = true;
                self.later(time, Task::Thaw);
            }
            Fault::ScriptFlush => self.order(&["SCRIPT", "FLUSH"]),
            Fault::ClientKill { kind } => self.order(&["CLIENT", "KILL", "TYPE", kind]),
            Fault::FlushAll => {
                self.order(&["FLUSHALL"]);
                self.losses.push(Instant::now());
                self.announce_again(&Lbs::default());
            }
        }
        true
    }

    /// Announces anew what is not on the LBS though it is not finished.
    fn announce_again(&mut self, lbs: &Lbs) {
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
            if finished || lbs.entries.contains(entry) || lbs.parked.contains(entry) {
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

    fn lbs(&self) -> Lbs {
        let mut redis = self.server.connection();
        let lbs = format!("{SERVICE}-input");
        let entries: Vec<(String, Value)> = redis::cmd("XRANGE")
            .arg(&[&lbs, "-", "+"])
            .query(&mut redis)
            .unwrap();
        // Without the group nothing is pending.
        let pending: Vec<Value> = redis::cmd("XPENDING")
            .arg(&[&lbs, &format!("{SERVICE}-group")])
            .query(&mut redis)
            .unwrap_or_default();
        let parked = redis::cmd("HKEYS")
            .arg(format!("{{{lbs}}}:quarantine"))
            .query(&mut redis)
            .unwrap();
        Lbs {
            entries: entries.into_iter().map(|(id, _)| id).collect(),
            pending: match pending.first() {
                Some(Value::Int(n)) => u64::try_from(*n).unwrap(),
                _ => 0,
            },
            parked,
        }
    }

    fn order(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        // CLIENT KILL spares whoever gives the order.
        command.exec(&mut self.server.connection()).unwrap();
    }

    /// The one that Redis appends to.
    fn append_only_file(&self) -> File {
        let (_, dir): (String, String) = redis::cmd("CONFIG")
            .arg(&["GET", "dir"])
            .query(&mut self.server.connection())
            .unwrap();
        let mut files: Vec<_> = std::fs::read_dir(format!("{dir}/appendonlydir"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .collect();
        files.sort();
        let last = files.last().unwrap();
        File::options().write(true).open(last).unwrap()
    }

    fn later(&mut self, after: Duration, task: Task) {
        self.agenda.push((Instant::now() + after, task));
    }

    fn note(&mut self, text: &str) {
        self.story.push((Instant::now(), text.to_owned()));
    }
}
