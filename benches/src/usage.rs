//! What a Redis server or a process has used so far.

use std::time::Duration;

use redis::Connection;
use streamlease_tests::RedisServer;

/// What a server has done since it started.
#[derive(Debug, Clone, Copy)]
pub struct RedisUsage {
    /// CPU time of its main thread, network included.
    pub cpu: Duration,
    /// Commands, those inside of scripts included.
    pub commands: u64,
    /// Calls of scripts: what is done in pages.
    pub scripts: u64,
    /// Reads of the group.
    pub fetches: u64,
}

impl RedisUsage {
    /// Asks the server.
    pub fn of(server: &RedisServer) -> Self {
        let mut connection = server.connection();
        let cpu = info(&mut connection, "cpu");
        let seconds =
            field(&cpu, "used_cpu_user_main_thread") + field(&cpu, "used_cpu_sys_main_thread");
        let stats = info(&mut connection, "stats");
        let calls = info(&mut connection, "commandstats");
        Self {
            cpu: Duration::from_secs_f64(seconds),
            commands: field(&stats, "total_commands_processed") as u64,
            scripts: calls_of(&calls, "evalsha"),
            fetches: calls_of(&calls, "xreadgroup"),
        }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            commands: self.commands - earlier.commands,
            scripts: self.scripts - earlier.scripts,
            fetches: self.fetches - earlier.fetches,
        }
    }
}

fn info(connection: &mut Connection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query(connection).unwrap()
}

fn field(info: &str, name: &str) -> f64 {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(key, _)| *key == name);
    let (_, value) = values
        .next()
        .unwrap_or_else(|| panic!("INFO has no {name}"));
    value.trim().parse().unwrap()
}

/// How often a command was called; 0 if never.
fn calls_of(info: &str, command: &str) -> u64 {
    let start = format!("cmdstat_{command}:calls=");
    let calls = info.lines().find_map(|line| line.strip_prefix(&start));
    let calls = calls.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// What this process has used since it started.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUsage {
    /// CPU time of all its threads.
    pub cpu: Duration,
    /// Resident memory now, in bytes.
    pub resident: u64,
}

impl ProcessUsage {
    /// Reads `/proc/self`.
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        // Behind the name, which may hold anything: utime and stime are fields 14 and 15.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let field = |n: usize| -> u64 {
            let mut fields = rest.split_whitespace();
            fields.nth(n - 3).unwrap().parse().unwrap()
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib: u64 = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap()
            .parse()
            .unwrap();
        Self {
            // USER_HZ is 100 wherever Linux runs.
            cpu: Duration::from_millis((field(14) + field(15)) * 10),
            resident: kib * 1024,
        }
    }
}
