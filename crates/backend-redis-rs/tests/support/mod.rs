//! A redis-server of one's own, and shorthands for the traits' arguments.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

/// A redis-server on a free port of 127.0.0.1, without persistence, killed on drop.
pub(crate) struct RedisServer {
    process: Child,
    pub(crate) port: u16,
    dir: PathBuf,
    args: Vec<String>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("streamlease-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        // Another process may take the port between our look and the server's start.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let process = spawn(port, &dir, &args);
            let mut server = Self {
                process,
                port,
                dir: dir.clone(),
                args: args.clone(),
            };
            if server.came_up() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed (package redis-server)?");
    }

    /// By its own log: that the port answers may be another test's server, which was faster.
    fn came_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            if log.contains("Ready to accept connections") {
                return true;
            }
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A plain connection, for looking and for playing somebody else.
    pub(crate) fn raw(&self) -> redis_rs::Connection {
        redis_rs::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap()
    }

    /// Runs one command, given as words.
    pub(crate) fn run<T: redis_rs::FromRedisValue>(&self, words: &[&str]) -> T {
        run(&mut self.raw(), words).unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Kills the server and starts it again, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.port, &self.dir, &self.args);
        assert!(self.came_up());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(port: u16, dir: &Path, args: &[String]) -> Child {
    let log = dir.join("log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(dir)
        .arg("--logfile")
        .arg(log)
        .args(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .expect("redis-server is needed (package redis-server)")
}

pub(crate) fn run<T: redis_rs::FromRedisValue>(
    connection: &mut redis_rs::Connection,
    words: &[&str],
) -> redis_rs::RedisResult<T> {
    let mut command = redis_rs::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query(connection)
}

/// Runs a test's body once under tokio and once under smol.
pub(crate) fn on_both<F: Future<Output = ()>>(body: impl Fn() -> F) {
    on_tokio(body());
    smol::block_on(body());
}

pub(crate) fn on_tokio(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(body);
}

/// Asks again until it is so, within ten seconds.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause(Duration::from_millis(2)).await;
    }
}

/// Lets others run while a condition is waited for.
pub(crate) async fn pause(time: Duration) {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep(time).await;
    } else {
        smol::Timer::after(time).await;
    }
}

/// `work`'s result; fails the test if it takes longer than ten seconds.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        pause(Duration::from_secs(10)).await;
        panic!("took longer than ten seconds")
    };
    futures_lite::future::or(work, late).await
}

pub(crate) async fn backend(server: &RedisServer, service: &str) -> Backend {
    backend_with(server, service, LockScheme::PerStream).await
}

pub(crate) async fn backend_with(
    server: &RedisServer,
    service: &str,
    scheme: LockScheme,
) -> Backend {
    let provider = RedisBackend::connect(server.url()).await.unwrap();
    provider
        .with_lock_scheme(scheme)
        .backend(&ServiceName::new(service).unwrap())
        .unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn consumer(identity: &str) -> ConsumerName {
    ConsumerName::from_identity(identity).unwrap()
}

pub(crate) fn session(identity: &str, nonce: u64, ttl_ms: u64) -> Session {
    Session {
        id: SessionId::new(consumer(identity), nonce),
        ttl: Duration::from_millis(ttl_ms),
    }
}

pub(crate) fn batch(id: u128, names: &[&str]) -> SubmitBatch {
    let announcements = names
        .iter()
        .map(|name| Announcement::new(stream(name), Info::NONE))
        .collect();
    SubmitBatch { id, announcements }
}

pub(crate) fn fetch(identity: &str, max: usize, wait_ms: u64) -> FetchRequest {
    FetchRequest {
        consumer: consumer(identity),
        max,
        wait: Duration::from_millis(wait_ms),
    }
}

pub(crate) fn fenced(entry: EntryId, token: u64) -> Fenced {
    Fenced {
        entry,
        token: FencingToken(token),
    }
}

pub(crate) fn acquire(name: &str, entry: EntryId, attempt: u64, floor: u64) -> Acquire {
    Acquire {
        stream: stream(name),
        entry,
        attempt,
        floor: FencingToken(floor),
    }
}

pub(crate) const ALL: Scope = Scope::All {
    after: EntryId::MIN,
};
