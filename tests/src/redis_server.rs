//! [`RedisServer`]: a redis-server of the test's own, which it may kill, freeze and restart.

use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::certificates::{Authority, Certificate};
use crate::wait::{eventually, eventually_blocking};

/// A server that does not answer by then will not.
const START_WITHIN: Duration = Duration::from_secs(15);

/// Replicas acknowledge what they have once a second.
const REPLICATED_WITHIN: Duration = Duration::from_secs(10);

/// Ports below the range that systems take for outgoing connections, so that a
/// port stays free between [`RedisServer::kill`] and [`RedisServer::start_again`].
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// How far below its port that for TLS is: so one says the other, and both can be written
/// into files before a server is there.
const TLS_BELOW: u16 = 5_000;

/// Names another server to run than redis-server: Valkey, or another version.
const BINARY: &str = "STREAMLEASE_REDIS_SERVER";

/// What a test that needs TLS says with a server that has none.
const NO_TLS: &str = "this server was built without TLS, which this test is about; leave such \
    tests out with: cargo nextest run -E 'not test(/tls/)'";

/// What a start says when the port was taken since we looked.
const PORT_TAKEN: &str = "Address already in use";

/// A redis-server on 127.0.0.1 that belongs to one test. It is stopped on drop:
/// exactly the process that was started, never another.
#[derive(Debug)]
pub struct RedisServer {
    dir: PathBuf,
    config: String,
    is_sentinel: bool,
    tls: Option<Tls>,
    port: u16,
    starts: u32,
    child: Option<Child>,
}

/// What a primary has written, and what each of its replicas has of that (bytes; nothing, if it
/// is not online).
#[derive(Debug, Default)]
struct Replication {
    written: u64,
    replicas: Vec<Option<u64>>,
}

impl Replication {
    fn is_at_replicas(&self, offset: u64) -> bool {
        !self.replicas.is_empty() && self.replicas.iter().all(|at| *at >= Some(offset))
    }
}

/// Settings of a [`RedisServer`].
#[derive(Debug, Clone, Default)]
pub struct RedisServerBuilder {
    append_only: bool,
    is_sentinel: bool,
    tls: Option<Tls>,
    lines: Vec<String>,
    files: Vec<(&'static str, String)>,
}

/// TLS of a server, a sentinel or a node of a cluster: on a port of its own beside the plain
/// one, over which the tests' own looks go.
#[derive(Debug, Clone)]
pub struct Tls {
    certificate: Certificate,
    trusted: String,
    asks_clients: bool,
    is_alone: bool,
}

impl Tls {
    /// With a good certificate, and without asking clients for one.
    pub fn of(authority: &Authority) -> Self {
        Self {
            certificate: authority.server(),
            trusted: authority.pem(),
            asks_clients: false,
            is_alone: false,
        }
    }

    /// Shows this certificate instead.
    pub fn showing(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    /// Lets those in only who show a certificate of the same authority.
    pub fn asking_clients(mut self) -> Self {
        self.asks_clients = true;
        self
    }

    /// Without the plain port: nothing but [`tls_url`](RedisServer::tls_url) leads to it.
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    fn write(&self, dir: &Path) {
        for (name, text) in [
            ("server.crt", &self.certificate.pem),
            ("server.key", &self.certificate.key),
            ("ca.crt", &self.trusted),
        ] {
            fs::write(dir.join(name), text).expect("writing a file into our own directory");
        }
    }

    fn config(&self) -> String {
        let asks = if self.asks_clients { "yes" } else { "no" };
        format!(
            "tls-cert-file server.crt\ntls-key-file server.key\ntls-ca-cert-file ca.crt\n\
             tls-auth-clients {asks}\ntls-replication yes\n\
             tls-cluster yes\n"
        )
    }
}

impl RedisServerBuilder {
    /// Speaks TLS, also to replicas and other nodes.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// On which port those reach it who work with it, and other servers: the one for TLS, if
    /// it has any.
    pub(crate) fn port_for_others(&self, port: u16) -> u16 {
        match &self.tls {
            Some(_) => port - TLS_BELOW,
            None => port,
        }
    }

    /// Keeps the data in an append-only file, so that it survives [`RedisServer::kill`]
    /// and [`RedisServer::start_again`]. Without it a restarted server is empty.
    pub fn append_only(mut self) -> Self {
        self.append_only = true;
        self
    }

    /// A line of redis.conf: `notify-keyspace-events KEA`, `requirepass secret`,
    /// `rename-command CONFIG ""`, `user alice on >secret ~* &* +@all -config`.
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// A sentinel, and no server.
    pub(crate) fn sentinel(mut self) -> Self {
        self.is_sentinel = true;
        self
    }

    /// A file in its directory at the first start.
    pub(crate) fn file(mut self, name: &'static str, content: String) -> Self {
        self.files.push((name, content));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// If redis-server is not installed, or does not start with this configuration.
    pub fn start(self) -> RedisServer {
        for _ in 0..20 {
            if let Some(server) = self.start_at(free_port()) {
                return server;
            }
        }
        panic!("redis-server found its port taken 20 times in a row");
    }

    /// The same on this port; `None` if it is taken.
    pub(crate) fn start_at(&self, port: u16) -> Option<RedisServer> {
        let dir = fresh_dir();
        let mut config = format!("bind 127.0.0.1\ndir {}\n", dir.display());
        // `appendfsync no` still writes before it replies; only a crash of the
        // machine, not of the process, can lose what was answered.
        config.push_str(match (self.is_sentinel, self.append_only) {
            (true, _) => "",
            (false, true) => "save \"\"\nappendonly yes\nappendfsync no\n",
            (false, false) => "save \"\"\nappendonly no\n",
        });
        if let Some(tls) = &self.tls {
            tls.write(&dir);
            config.push_str(&tls.config());
        }
        for line in &self.lines {
            let _ = writeln!(config, "{line}");
        }
        for (name, content) in &self.files {
            fs::write(dir.join(name), content).expect("writing a file into our own directory");
        }
        let mut server = RedisServer {
            dir,
            config,
            is_sentinel: self.is_sentinel,
            tls: self.tls.clone(),
            port,
            starts: 0,
            child: None,
        };
        match server.spawn() {
            Ok(()) => Some(server),
            Err(log) if log.contains(PORT_TAKEN) => None,
            Err(log) if has_no_tls(&log) => panic!("{NO_TLS}\n{log}"),
            Err(log) => panic!("redis-server did not start:\n{}\n{log}", server.config),
        }
    }
}

impl RedisServer {
    /// Starts a server without persistence and waits until it answers.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with settings of its own.
    pub fn builder() -> RedisServerBuilder {
        RedisServerBuilder::default()
    }

    /// Its port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its URL, database 0, no credentials.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port for TLS, on 127.0.0.1.
    ///
    /// # Panics
    /// If it has none.
    pub fn tls_port(&self) -> u16 {
        assert!(self.tls.is_some(), "a server without TLS");
        self.port_for_others()
    }

    /// Its URL over TLS, by the name `localhost`.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}/0", self.tls_port())
    }

    /// The port for TLS, if it has one, else the plain one.
    pub(crate) fn port_for_others(&self) -> u16 {
        match &self.tls {
            Some(_) => self.port - TLS_BELOW,
            None => self.port,
        }
    }

    /// Shows another certificate to those who connect from now on.
    pub fn show(&self, certificate: &Certificate) {
        for (name, text) in [
            ("server.crt", &certificate.pem),
            ("server.key", &certificate.key),
        ] {
            fs::write(self.dir.join(name), text).expect("writing a file into our own directory");
        }
        // Setting any of its files makes it read all of them.
        self.run::<()>(&["CONFIG", "SET", "tls-cert-file", "server.crt"]);
    }

    /// Its URL with credentials and database; an empty user is Redis' default user.
    pub fn url_with(&self, user: &str, password: &str, db: u32) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}/{db}", self.port)
    }

    /// The server's process id.
    ///
    /// # Panics
    /// If it was killed and not started again.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is not running").id()
    }

    /// A blocking connection for a test's own looks and meddling (database 0, no credentials).
    pub fn connection(&self) -> redis::Connection {
        self.connection_to(&self.url())
    }

    /// The same with a URL of [`url_with`](Self::url_with).
    pub fn connection_to(&self, url: &str) -> redis::Connection {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let connection = redis::Client::open(url)
                .and_then(|client| client.get_connection_with_timeout(START_WITHIN));
            match connection {
                Ok(connection) => return connection,
                // By a signal to us, of a debugger or a shell.
                Err(err) if is_interrupted(&err) && Instant::now() < deadline => {}
                Err(err) => panic!("cannot connect to {url}: {err}"),
            }
        }
    }

    /// Runs one command, given as words, on a connection of its own.
    ///
    /// # Panics
    /// If it fails, or its reply is no `T`.
    pub fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command
            .query(&mut self.connection())
            .unwrap_or_else(|err| panic!("{words:?}: {err}"))
    }

    /// Waits until its replicas, of which there is one at least, have all that it has written
    /// by now.
    ///
    /// That a link is up is not enough: a replica that has just been given the data is sent
    /// nothing more before its first acknowledgement, up to a second later. If the primary dies
    /// by then, all that it has acknowledged since is lost (`repl_start_cmd_stream_on_ack` in
    /// the source of Redis).
    pub async fn replicated(&self) {
        let are_online = async || self.replication().is_at_replicas(0);
        eventually("replicas that are online", REPLICATED_WITHIN, are_online).await;
        let written = self.write_something();
        let have_it = async || self.replication().is_at_replicas(written);
        eventually("replicas that have everything", REPLICATED_WITHIN, have_it).await;
    }

    /// The same for plain tests, with that many replicas.
    pub(crate) fn replicated_to(&self, replicas: usize) {
        let are_at = |written| {
            let now = self.replication();
            now.replicas.len() == replicas && now.is_at_replicas(written)
        };
        eventually_blocking("replicas that are online", REPLICATED_WITHIN, || are_at(0));
        let written = self.write_something();
        eventually_blocking("replicas that have everything", REPLICATED_WITHIN, || {
            are_at(written)
        });
    }

    /// Writes what changes nothing. Says how much is written then. A replica that was online
    /// before has that only once it has loaded all from before: newer servers say of one that is
    /// given the data that it has it.
    fn write_something(&self) -> u64 {
        self.run::<()>(&["FUNCTION", "FLUSH"]);
        self.replication().written
    }

    fn replication(&self) -> Replication {
        let info: String = self.run(&["INFO", "replication"]);
        let values = info.lines().filter_map(|line| line.trim().split_once(':'));
        let mut found = Replication::default();
        for (name, value) in values {
            if name == "master_repl_offset" {
                found.written = value.parse().expect("an offset");
            } else if name.starts_with("slave")
                && let Some((_, rest)) = value.split_once(",offset=")
            {
                let offset = rest.split(',').next().unwrap_or(rest);
                let offset = offset.parse().expect("an offset");
                let is_online = value.contains("state=online");
                found.replicas.push(is_online.then_some(offset));
            }
        }
        found
    }

    /// Kills it as a crash would (SIGKILL). Does nothing if it is not running.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have died already; either way it is reaped here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops all its doing without closing a connection (SIGSTOP), until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Starts a killed server again on the same port, with what its append-only
    /// file holds (nothing, if there is none), and waits until it answers.
    /// Kills it first if it is running.
    pub fn start_again(&mut self) {
        self.kill();
        // The port is outside the range of outgoing connections, but somebody
        // else's server may sit on it for a moment.
        let deadline = Instant::now() + START_WITHIN;
        loop {
            match self.spawn() {
                Ok(()) => return,
                Err(log) if log.contains(PORT_TAKEN) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(log) => panic!("redis-server did not start again:\n{log}"),
            }
        }
    }

    /// Like [`start_again`](Self::start_again), but the server comes back empty.
    pub fn start_empty(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(self.dir.join("appendonlydir"));
        let _ = fs::remove_file(self.dir.join("appendonly.aof"));
        self.start_again();
    }

    /// What the server has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("signalling our own child");
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join(format!("redis-{}.log", self.starts))
    }

    /// Starts the process and waits until it is ready; the log if it did not get there.
    fn spawn(&mut self) -> Result<(), String> {
        self.starts += 1;
        let log_file = self.log_file();
        let conf = self.dir.join("redis.conf");
        let mut text = format!("{}logfile {}\n", self.config, log_file.display());
        let is_plain_too = self.tls.as_ref().is_none_or(|tls| !tls.is_alone);
        let port = if is_plain_too { self.port } else { 0 };
        let _ = writeln!(text, "port {port}");
        if self.tls.is_some() {
            let _ = writeln!(text, "tls-port {}", self.tls_port());
        }
        fs::write(&conf, text).expect("writing redis.conf into our own directory");
        let binary = std::env::var_os(BINARY).unwrap_or_else(|| "redis-server".into());
        let child = Command::new(&binary)
            .arg(&conf)
            .args(self.is_sentinel.then_some("--sentinel"))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("stderr")).expect("a file in our own directory"))
            .spawn()
            .unwrap_or_else(|err| {
                panic!(
                    "cannot run {binary:?} ({err}); these tests need a real one. Install it: \
                     Debian and Ubuntu `apt-get install redis-server`, Fedora `dnf install redis`, \
                     Alpine `apk add redis`, Arch `pacman -S redis`, macOS `brew install redis`; \
                     or run tests/run.sh --install"
                )
            });
        self.child = Some(child);
        let deadline = Instant::now() + START_WITHIN;
        loop {
            // The log line tells that it is ours that owns the port, the PING that it answers.
            let log = self.log();
            let is_ours =
                log.contains("Ready to accept connections") || log.contains("Sentinel ID is");
            let ready = is_ours && self.answers_ping();
            if ready {
                return Ok(());
            }
            let exited = self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if exited || Instant::now() >= deadline {
                self.kill();
                let stderr = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
                return Err(format!("{stderr}{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answers_ping(&self) -> bool {
        if self.tls.as_ref().is_some_and(|tls| tls.is_alone) {
            let addr = (Ipv4Addr::LOCALHOST, self.tls_port()).into();
            return TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok();
        }
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&self.addr(), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut reply = [0; 64];
            let n = stream.read(&mut reply)?;
            // A server that wants credentials first is ready, too; one that is loading is not.
            Ok(["+PONG", "-NOAUTH", "-NOPERM"]
                .iter()
                .any(|ok| reply[..n].starts_with(ok.as_bytes())))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of the test's redis-server:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// In the words of Redis 7.0, and of later ones and Valkey.
fn has_no_tls(log: &str) -> bool {
    log.contains("'tls-") || log.contains("Failed finding TLS support")
}

fn is_interrupted(err: &redis::RedisError) -> bool {
    let source = std::error::Error::source(err);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::Interrupted)
}

/// A port on which nobody listens now, and which the system gives to nobody.
pub fn free_port() -> u16 {
    loop {
        let port = PORTS.start + u16::try_from(random() % PORTS.len() as u64).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn fresh_dir() -> PathBuf {
    let name = format!("streamlease-redis-{}-{:016x}", std::process::id(), random());
    let dir = Path::new(&std::env::temp_dir()).join(name);
    fs::create_dir(&dir).unwrap_or_else(|err| panic!("cannot create {}: {err}", dir.display()));
    dir
}

fn random() -> u64 {
    // The standard library's per-process random keys; good enough to avoid clashes.
    RandomState::new().hash_one(Instant::now())
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn get(server: &RedisServer) -> Value {
        redis::cmd("GET")
            .arg("k")
            .query(&mut server.connection())
            .unwrap()
    }

    fn set(server: &RedisServer) {
        redis::cmd("SET")
            .arg("k")
            .arg("v")
            .exec(&mut server.connection())
            .unwrap();
    }

    #[test]
    fn a_restarted_server_has_its_data_only_with_an_append_only_file() {
        let mut volatile = RedisServer::start();
        let mut kept = RedisServer::builder().append_only().start();
        for server in [&mut volatile, &mut kept] {
            set(server);
            server.kill();
            assert!(
                TcpStream::connect(server.addr()).is_err(),
                "still listening"
            );
            server.start_again();
        }
        assert_eq!(get(&volatile), Value::Nil);
        assert_eq!(get(&kept), Value::BulkString(b"v".to_vec()));
        kept.start_empty();
        assert_eq!(get(&kept), Value::Nil);
    }

    #[test]
    fn a_frozen_server_answers_only_after_the_thaw() {
        let server = RedisServer::start();
        let mut connection = server.connection();
        connection
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        server.freeze();
        let frozen = redis::cmd("PING").exec(&mut connection);
        assert!(frozen.is_err(), "it answered while frozen");
        server.thaw();
        redis::cmd("PING").exec(&mut server.connection()).unwrap();
    }

    #[test]
    fn users_passwords_and_renamed_commands_can_be_configured() {
        let server = RedisServer::builder()
            .config("requirepass geheim")
            .config("user worker on >pw ~* &* +@all -config")
            .config("notify-keyspace-events \"Kx\"")
            .start();
        let mut denied = redis::Client::open(server.url())
            .unwrap()
            .get_connection()
            .unwrap();
        assert!(redis::cmd("GET").arg("k").exec(&mut denied).is_err());
        let mut admin = server.connection_to(&server.url_with("", "geheim", 3));
        let flags: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg("notify-keyspace-events")
            .query(&mut admin)
            .unwrap();
        assert_eq!(flags[1], "xK");
        let mut worker = server.connection_to(&server.url_with("worker", "pw", 0));
        assert!(
            redis::cmd("CONFIG")
                .arg("GET")
                .arg("save")
                .exec(&mut worker)
                .is_err()
        );
        redis::cmd("SET")
            .arg("k")
            .arg("v")
            .exec(&mut worker)
            .unwrap();

        let server = RedisServer::builder()
            .config("rename-command CONFIG \"\"")
            .start();
        let err = redis::cmd("CONFIG")
            .arg("GET")
            .arg("save")
            .exec(&mut server.connection());
        assert!(err.unwrap_err().to_string().contains("unknown command"));
    }

    #[test]
    fn dropping_stops_exactly_the_own_server() {
        let other = RedisServer::start();
        let server = RedisServer::start();
        let (addr, dir) = (server.addr(), server.dir.clone());
        drop(server);
        assert!(TcpStream::connect(addr).is_err());
        assert!(!dir.exists());
        redis::cmd("PING").exec(&mut other.connection()).unwrap();
    }

    #[test]
    #[should_panic(expected = "did not start")]
    fn a_bad_configuration_is_reported_with_the_servers_words() {
        RedisServer::builder().config("no-such-setting 7").start();
    }
}
