//! [`Fleet`]: the workers, who has to leave, and who comes instead.
//!
//! It is the supervisor of a cluster in small: a worker that is gone is replaced,
//! one that could not start is started again.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;
use streamlease_tests::{JsonProcess, Proxy, Signal};

use crate::SERVICE;
use crate::plan::{Locks, WORKERS};
use crate::servers::{PASSWORD, user};

/// By then every kind of call of a new worker has been answered once, so that what is
/// refused later is no longer taken for a wrong configuration.
const STARTING: Duration = Duration::from_secs(2);

/// What a worker is started with.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) ttl: Duration,
    pub(crate) locks: Locks,
    pub(crate) ledger: String,
    /// Where Redis is, if no proxy leads there.
    pub(crate) url: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    recipe: Recipe,
    posts: Vec<Post>,
    leaving: Vec<Leaving>,
    pub(crate) gone: Vec<Gone>,
    /// Started while its user had no rights, and so ended.
    pub(crate) failed_starts: u64,
    pub(crate) violations: Vec<String>,
}

/// A place for one worker, with its own way to Redis.
#[derive(Debug)]
struct Post {
    proxy: Proxy,
    name: String,
    renamed: u32,
    worker: Option<Worker>,
    /// Whether its user lacks rights.
    is_denied: bool,
    /// From when on a successor may start.
    open_at: Option<Instant>,
}

#[derive(Debug)]
struct Worker {
    name: String,
    process: JsonProcess,
    /// Whether SIGSTOP has ever kept it from looking at its clock.
    was_stopped: bool,
    since: Instant,
    /// Whether its user lacked rights when it started.
    was_denied: bool,
}

#[derive(Debug)]
struct Leaving {
    worker: Worker,
    /// By when it has to be gone; without, it has not been asked to go.
    deadline: Option<Instant>,
    /// Whose post is free once it is gone, and when and under which name.
    post: Option<(usize, Duration, bool)>,
}

/// A worker that has ended: what it said.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) exit: String,
    pub(crate) was_stopped: bool,
    /// By SIGKILL, and so without a word.
    pub(crate) was_killed: bool,
    pub(crate) events: Vec<Value>,
    pub(crate) not_json: Vec<String>,
    pub(crate) stderr: String,
}

impl Fleet {
    pub(crate) fn start(recipe: Recipe, server: SocketAddr) -> Self {
        let posts = (0..WORKERS).map(|number| Post {
            proxy: Proxy::start(server),
            name: format!("w{number}"),
            renamed: 0,
            worker: None,
            is_denied: false,
            open_at: Some(Instant::now()),
        });
        let mut fleet = Self {
            recipe,
            posts: posts.collect(),
            leaving: Vec::new(),
            gone: Vec::new(),
            failed_starts: 0,
            violations: Vec::new(),
        };
        fleet.look();
        fleet
    }

    pub(crate) fn proxy(&self, post: usize) -> &Proxy {
        &self.posts[post].proxy
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.posts.iter().map(|post| &post.proxy)
    }

    /// Who works there, or is going to.
    pub(crate) fn name(&self, post: usize) -> &str {
        &self.posts[post].name
    }

    /// The post's user lacks rights, until [`allow`](Self::allow).
    pub(crate) fn deny(&mut self, post: usize) {
        let post = &mut self.posts[post];
        post.is_denied = true;
        if let Some(worker) = &mut post.worker {
            worker.was_denied |= worker.since.elapsed() < STARTING;
        }
    }

    /// All users have all rights.
    pub(crate) fn allow(&mut self) {
        for post in &mut self.posts {
            post.is_denied = false;
        }
    }

    /// SIGKILL; a successor after `down`. Who it was, if there was anybody.
    pub(crate) fn kill(&mut self, post: usize, down: Duration, rename: bool) -> Option<String> {
        let worker = self.posts[post].worker.take()?;
        let name = worker.name.clone();
        worker.process.signal(Signal::KILL);
        self.leaving.push(Leaving {
            worker,
            deadline: Some(Instant::now() + Duration::from_secs(10)),
            post: None,
        });
        self.free(post, down, rename);
        Some(name)
    }

    /// SIGTERM; a successor `down` after it has gone.
    pub(crate) fn terminate(&mut self, post: usize, down: Duration, rename: bool) -> bool {
        let Some(worker) = self.posts[post].worker.take() else {
            return false;
        };
        worker.process.signal(Signal::TERM);
        let deadline = Some(self.time_to_leave());
        self.leaving.push(Leaving {
            worker,
            deadline,
            post: Some((post, down, rename)),
        });
        true
    }

    /// SIGSTOP. Its process id, for [`go_on`](Self::go_on).
    pub(crate) fn stop(&mut self, post: usize) -> Option<u32> {
        let worker = self.posts[post].worker.as_mut()?;
        worker.was_stopped = true;
        worker.process.signal(Signal::STOP);
        Some(worker.process.pid())
    }

    /// SIGSTOP, and another of the same name takes its post at once.
    pub(crate) fn double(&mut self, post: usize) -> Option<u32> {
        let mut worker = self.posts[post].worker.take()?;
        worker.was_stopped = true;
        worker.process.signal(Signal::STOP);
        let pid = worker.process.pid();
        self.leaving.push(Leaving {
            worker,
            deadline: None,
            post: None,
        });
        self.free(post, Duration::ZERO, false);
        Some(pid)
    }

    /// SIGCONT, if it is there still.
    pub(crate) fn go_on(&mut self, pid: u32) {
        if let Some(worker) = self.find(pid) {
            worker.process.signal(Signal::CONT);
        }
    }

    /// SIGTERM to one that [`double`](Self::double) has put aside.
    pub(crate) fn dismiss(&mut self, pid: u32) {
        let deadline = self.time_to_leave();
        for leaving in &mut self.leaving {
            if leaving.worker.process.pid() == pid {
                leaving.worker.process.signal(Signal::TERM);
                leaving.deadline = Some(deadline);
            }
        }
    }

    /// Notes who has gone, and fills free posts.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        self.see_off(now);
        for post in 0..self.posts.len() {
            if let Some(mut worker) = self.posts[post].worker.take() {
                match worker.process.exited() {
                    Some(status) => {
                        self.unasked(worker, status);
                        self.free(post, Duration::from_millis(200), false);
                    }
                    None => self.posts[post].worker = Some(worker),
                }
            }
            if self.posts[post].open_at.is_some_and(|at| at <= now) {
                self.posts[post].open_at = None;
                self.posts[post].worker = Some(self.spawn(post));
            }
        }
    }

    /// Whether everybody who was asked to go has gone.
    pub(crate) fn has_converged(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Ends everybody in order, and returns what all have ever said.
    pub(crate) fn finish(mut self) -> Self {
        for post in 0..self.posts.len() {
            self.terminate(post, Duration::ZERO, false);
            self.posts[post].open_at = None;
        }
        while !self.leaving.is_empty() {
            self.see_off(Instant::now());
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn see_off(&mut self, now: Instant) {
        for mut leaving in std::mem::take(&mut self.leaving) {
            if let Some(status) = leaving.worker.process.exited() {
                if let Some((post, down, rename)) = leaving.post {
                    self.free(post, down, rename);
                }
                match leaving.deadline {
                    Some(_) => self.gone.push(Gone::new(leaving.worker, status)),
                    None => self.unasked(leaving.worker, status),
                }
                continue;
            }
            if leaving.deadline.is_some_and(|deadline| deadline < now) {
                self.violations.push(format!(
                    "consumer={} does not end though told to: pid={}",
                    leaving.worker.name,
                    leaving.worker.process.pid()
                ));
                leaving.worker.process.signal(Signal::KILL);
                leaving.deadline = Some(now + Duration::from_secs(60));
            }
            self.leaving.push(leaving);
        }
    }

    /// Nobody asked it to end. It may, if from its start on it has no rights: that
    /// somebody has to mend. Everything else it has to wait for.
    fn unasked(&mut self, worker: Worker, exit: ExitStatus) {
        let was_denied = worker.was_denied;
        let gone = Gone::new(worker, exit);
        if was_denied {
            self.failed_starts += 1;
        } else {
            self.violations.push(format!(
                "consumer={} ended by itself ({}): {}",
                gone.name, gone.exit, gone.stderr
            ));
        }
        self.gone.push(gone);
    }

    fn find(&mut self, pid: u32) -> Option<&mut Worker> {
        let posts = self.posts.iter_mut().filter_map(|p| p.worker.as_mut());
        let leaving = self.leaving.iter_mut().map(|l| &mut l.worker);
        posts
            .chain(leaving)
            .find(|worker| worker.process.pid() == pid)
    }

    fn free(&mut self, post: usize, down: Duration, rename: bool) {
        let post_now = &mut self.posts[post];
        post_now.open_at = Some(Instant::now() + down);
        if rename {
            post_now.renamed += 1;
            post_now.name = format!("w{post}-{}", post_now.renamed);
        }
    }

    /// Longest stop, its own trying for a TTL with the programs' grace, and a slow machine.
    fn time_to_leave(&self) -> Instant {
        Instant::now() + self.recipe.ttl * 5 + Duration::from_secs(15)
    }

    fn spawn(&self, post: usize) -> Worker {
        let name = self.posts[post].name.clone();
        let locks = match self.recipe.locks {
            Locks::PerStream => "per-stream",
            Locks::Session => "session",
        };
        let (user, addr) = (user(post), self.posts[post].proxy.addr());
        let redis = match &self.recipe.url {
            Some(url) => url.replacen("://", &format!("://{user}:{PASSWORD}@"), 1),
            None => format!("redis://{user}:{PASSWORD}@{addr}/0"),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamlease"));
        command
            .args(["work", "--json", "--service", SERVICE, "--consumer", &name])
            .args(["--redis", &redis])
            .args(["--ttl", &format!("{}ms", self.recipe.ttl.as_millis())])
            .args(["--locks", locks])
            // What one of them leaves behind is more than another takes over at once.
            .args(["--capacity", if post == 1 { "12" } else { "4" }])
            .args(["--grace", "500ms"])
            .args(["--runtime", ["tokio", "async-std", "smol"][post % 3]])
            .args(["--claim", if post == 3 { "manual" } else { "auto" }])
            .arg("--exec")
            .arg(std::env::current_exe().unwrap())
            .args(["--program", &self.recipe.ledger])
            .env("RUST_LOG", "info");
        Worker {
            name,
            process: JsonProcess::spawn(&mut command),
            since: Instant::now(),
            was_stopped: false,
            was_denied: self.posts[post].is_denied,
        }
    }
}

impl Gone {
    fn new(worker: Worker, exit: ExitStatus) -> Self {
        let process = worker.process;
        Self {
            name: worker.name,
            pid: process.pid(),
            exit: exit.to_string(),
            was_stopped: worker.was_stopped,
            was_killed: exit.signal() == Some(Signal::KILL.as_raw()),
            events: process.final_events(Duration::from_secs(10)),
            not_json: process.not_json(),
            stderr: process.stderr(),
        }
    }
}
