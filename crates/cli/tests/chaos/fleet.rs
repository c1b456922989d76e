//! [`Fleet`]: the workers, who has to leave, and who comes instead.
//!
//! It is the supervisor of a cluster in small: a worker that is gone is replaced,
//! one that could not start is started again.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamlease_tests::{JsonProcess, Proxy, RedisServer, Signal};

use crate::SERVICE;
use crate::plan::{Locks, WORKERS};

/// What a worker is started with.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) ttl: Duration,
    pub(crate) locks: Locks,
    pub(crate) ledger: String,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    recipe: Recipe,
    posts: Vec<Post>,
    leaving: Vec<Leaving>,
    pub(crate) gone: Vec<Gone>,
    /// Started while Redis could not be reached, and so ended.
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
    /// From when on a successor may start.
    open_at: Option<Instant>,
}

#[derive(Debug)]
struct Worker {
    name: String,
    process: JsonProcess,
    /// Whether SIGSTOP has ever kept it from looking at its clock.
    was_stopped: bool,
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
    pub(crate) events: Vec<Value>,
    pub(crate) not_json: Vec<String>,
    pub(crate) stderr: String,
}

impl Fleet {
    pub(crate) fn start(recipe: Recipe, server: &RedisServer) -> Self {
        let posts = (0..WORKERS).map(|number| Post {
            proxy: Proxy::start(server.addr()),
            name: format!("w{number}"),
            renamed: 0,
            worker: None,
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

    /// SIGKILL; a successor after `down`. Whether there was anybody.
    pub(crate) fn kill(&mut self, post: usize, down: Duration, rename: bool) -> bool {
        let Some(worker) = self.posts[post].worker.take() else {
            return false;
        };
        worker.process.signal(Signal::KILL);
        self.leaving.push(Leaving {
            worker,
            deadline: Some(Instant::now() + Duration::from_secs(10)),
            post: None,
        });
        self.free(post, down, rename);
        true
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
                        self.unasked(worker, status.to_string());
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
    pub(crate) fn is_settled(&self) -> bool {
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
                    Some(_) => self
                        .gone
                        .push(Gone::new(leaving.worker, status.to_string())),
                    None => self.unasked(leaving.worker, status.to_string()),
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

    /// Nobody asked it to end. Before it has started it may, as Redis cannot be reached.
    fn unasked(&mut self, worker: Worker, exit: String) {
        let gone = Gone::new(worker, exit);
        if gone.events.is_empty() {
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamlease"));
        command
            .args(["work", "--json", "--service", SERVICE, "--consumer", &name])
            .args(["--redis", &self.posts[post].proxy.url()])
            .args(["--ttl", &format!("{}ms", self.recipe.ttl.as_millis())])
            .args(["--locks", locks])
            .args(["--capacity", "4", "--grace", "500ms"])
            .args(["--runtime", ["tokio", "async-std", "smol"][post % 3]])
            .args(["--claim", if post == 3 { "manual" } else { "auto" }])
            .arg("--exec")
            .arg(std::env::current_exe().unwrap())
            .args(["--program", &self.recipe.ledger])
            .env("RUST_LOG", "info");
        Worker {
            name,
            process: JsonProcess::spawn(&mut command),
            was_stopped: false,
        }
    }
}

impl Gone {
    fn new(worker: Worker, exit: String) -> Self {
        let process = worker.process;
        Self {
            name: worker.name,
            pid: process.pid(),
            exit,
            was_stopped: worker.was_stopped,
            events: process.final_events(Duration::from_secs(10)),
            not_json: process.not_json(),
            stderr: process.stderr(),
        }
    }
}
