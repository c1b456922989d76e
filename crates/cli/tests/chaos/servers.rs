//! [`Servers`]: the Redis that everybody uses, the one that may take its place, and
//! the name by which those find it whose own way nothing happens to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use redis::{FromRedisValue, RedisResult, Value};
use streamlease_tests::{Proxy, RedisServer, RedisServerBuilder};

use crate::SERVICE;
use crate::deployment::{Deployment, Mode};
use crate::plan::{Class, WORKERS};

/// Of every worker's user.
pub(crate) const PASSWORD: &str = "pw";

/// An order that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Servers {
    /// The second is there once a role change needs it.
    all: Vec<RedisServer>,
    master: usize,
    class: Class,
    name: Proxy,
    /// Instead of these two.
    pub(crate) deployment: Option<Deployment>,
    pub(crate) is_up: bool,
    pub(crate) is_frozen: bool,
    pub(crate) is_changing_roles: bool,
}

impl Servers {
    pub(crate) fn start(class: Class, mode: Mode) -> Self {
        let deployment = Deployment::start(mode, |server| with_users(class, server));
        let (name, all) = match &deployment {
            None => {
                let first = start(class);
                (Proxy::start(first.addr()), vec![first])
            }
            Some(deployment) => (Proxy::start(deployment.server(0).addr()), Vec::new()),
        };
        Self {
            name,
            all,
            deployment,
            master: 0,
            class,
            is_up: true,
            is_frozen: false,
            is_changing_roles: false,
        }
    }

    /// Where whoever suffers no faults of the network of its own finds Redis.
    pub(crate) fn url(&self) -> String {
        match &self.deployment {
            Some(deployment) => deployment.url(),
            None => self.name.url(),
        }
    }

    /// The one whose word counts.
    pub(crate) fn addr(&self) -> SocketAddr {
        match &self.deployment {
            Some(deployment) => deployment.server(0).addr(),
            None => self.all[self.master].addr(),
        }
    }

    pub(crate) fn master(&mut self) -> &mut RedisServer {
        &mut self.all[self.master]
    }

    /// Whether it can be given orders.
    pub(crate) fn answers(&self) -> bool {
        self.is_up && !self.is_frozen
    }

    /// Gives an order to the master.
    pub(crate) fn order<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        match &self.deployment {
            Some(deployment) => deployment.order(|owner| order(owner, words)),
            None => order(&self.all[self.master], words),
        }
    }

    pub(crate) fn script<T: FromRedisValue>(&self, lua: &str, keys: &[&str]) -> RedisResult<T> {
        let count = keys.len().to_string();
        let words: Vec<&str> = ["EVAL", lua, &count]
            .into_iter()
            .chain(keys.iter().copied())
            .collect();
        self.order(&words)
    }

    /// The other one begins to be, or is, its replica.
    pub(crate) fn begin_replica(&mut self) {
        if self.all.len() == 1 {
            self.all.push(start(self.class));
        }
        let port = self.all[self.master].port().to_string();
        let _: Value = order(self.other(), &["REPLICAOF", "127.0.0.1", &port]).unwrap();
    }

    /// Whether the replica has everything, on its disk, too.
    pub(crate) fn has_replica(&self) -> bool {
        let info: BTreeMap<String, String> = order::<String>(self.other(), &["INFO"])
            .unwrap()
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let is = |name: &str, value: &str| info.get(name).is_some_and(|found| found == value);
        is("master_link_status", "up")
            && is("aof_enabled", "1")
            && is("aof_rewrite_in_progress", "0")
            && is("aof_rewrite_scheduled", "0")
    }

    /// Asks for a change of roles without a loss.
    pub(crate) fn ask_for_failover(&self) -> RedisResult<()> {
        let port = self.other().port().to_string();
        let _: Value = self.order(&["FAILOVER", "TO", "127.0.0.1", &port, "TIMEOUT", "1500"])?;
        Ok(())
    }

    /// `Some(true)` once the other one is the master; `None` as long as that is open.
    pub(crate) fn has_failed_over(&self) -> Option<bool> {
        if is_master(self.other()) {
            return Some(true);
        }
        let info: String = self.order(&["INFO", "replication"]).ok()?;
        info.contains("master_failover_state:no-failover")
            .then_some(false)
            .filter(|_| is_master(&self.all[self.master]))
    }

    /// The replica stops being one.
    pub(crate) fn promote(&self) {
        let _: Value = order(self.other(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    }

    /// From now on the name means the other one.
    pub(crate) fn turn(&mut self) -> SocketAddr {
        self.master = 1 - self.master;
        self.name.set_target(self.addr());
        self.addr()
    }

    /// What is known of an operator's settings is as it was at the start.
    pub(crate) fn restore_settings(&self) -> RedisResult<()> {
        for server in &self.all {
            for (name, value) in [
                ("maxmemory", "0"),
                ("maxmemory-policy", "noeviction"),
                ("min-replicas-to-write", "0"),
            ] {
                let _: Value = order(server, &["CONFIG", "SET", name, value])?;
            }
            for worker in 0..WORKERS {
                let password = format!(">{PASSWORD}");
                let words = [
                    "ACL",
                    "SETUSER",
                    &user(worker),
                    "reset",
                    "on",
                    &password,
                    "~*",
                    "&*",
                    "+@all",
                ];
                let _: Value = order(server, &words)?;
            }
        }
        Ok(())
    }

    /// Kills it, and cuts the end of its append-only file off.
    pub(crate) fn kill_and_forget(&mut self, bytes: u64) {
        let log = self.append_only_file();
        self.master().kill();
        log.set_len(end_of_transaction(&log, bytes)).unwrap();
    }

    /// What both have said.
    pub(crate) fn log(&self) -> String {
        match &self.deployment {
            Some(deployment) => deployment.log(),
            None => self.all.iter().map(RedisServer::log).collect(),
        }
    }

    fn other(&self) -> &RedisServer {
        &self.all[1 - self.master]
    }

    /// The one that Redis appends to.
    fn append_only_file(&self) -> File {
        let (_, dir): (String, String) = self.order(&["CONFIG", "GET", "dir"]).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(format!("{dir}/appendonlydir"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .collect();
        files.sort();
        let last = files.last().unwrap();
        File::options().read(true).write(true).open(last).unwrap()
    }
}

pub(crate) fn user(worker: usize) -> String {
    format!("w{worker}")
}

/// A key of the service beside the LBS.
pub(crate) fn key(name: &str) -> String {
    format!("{{{SERVICE}-input}}:{name}")
}

fn start(class: Class) -> RedisServer {
    let server = RedisServer::builder().config("repl-diskless-sync-delay 0");
    with_users(class, server).start()
}

fn with_users(class: Class, builder: RedisServerBuilder) -> RedisServerBuilder {
    let fsync = match class {
        Class::Durable => "appendfsync always",
        Class::Lossy => "appendfsync everysec",
    };
    let mut builder = builder.append_only().config(fsync);
    for worker in 0..WORKERS {
        let user = user(worker);
        builder = builder.config(format!("user {user} on >{PASSWORD} ~* &* +@all"));
    }
    builder
}

pub(crate) fn order<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> RedisResult<T> {
    let connection = server.connection();
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut connection = connection;
    let mut command = redis::cmd(words[0]);
    // CLIENT KILL spares whoever gives the order.
    command.arg(&words[1..]).query(&mut connection)
}

fn is_master(server: &RedisServer) -> bool {
    let role: RedisResult<Vec<Value>> = order(server, &["ROLE"]);
    matches!(role.as_deref(), Ok([Value::BulkString(role), ..]) if role == b"master")
}

/// Where the last whole transaction ends if so many bytes are lost. Redis 7.0 goes on
/// behind half a transaction, and at the start after that cannot read the next one.
fn end_of_transaction(mut log: &File, lost: u64) -> u64 {
    const END: &[u8] = b"$4\r\nEXEC\r\n";
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).unwrap();
    let left = bytes.len().saturating_sub(lost as usize);
    let end = bytes[..left]
        .windows(END.len())
        .rposition(|part| part.eq_ignore_ascii_case(END));
    end.map_or(0, |at| (at + END.len()) as u64)
}
