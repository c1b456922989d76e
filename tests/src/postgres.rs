//! [`PostgresServer`]: a PostgreSQL server of the test's own.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// A server that does not answer by then will not.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Where Debian has its versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A PostgreSQL server that belongs to one test, on a socket in a directory of its own. It is
/// stopped on drop: exactly the process that was started, never another.
#[derive(Debug)]
pub struct PostgresServer {
    dir: PathBuf,
    child: Child,
}

impl PostgresServer {
    /// Starts one, without anything in it.
    ///
    /// # Panics
    /// If there is no PostgreSQL here; the message says how to get it.
    pub fn start() -> Self {
        let bin = programs();
        let unique = RandomState::new().hash_one(std::process::id());
        let dir = std::env::temp_dir().join(format!("streamlease-postgres-{unique:016x}"));
        fs::create_dir(&dir).expect("a new directory in the temporary one");
        // It refuses to run as root.
        let user = geteuid().is_root().then(unprivileged);
        let command = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command.current_dir(&dir).stdin(Stdio::null());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        if let Some((uid, gid)) = user {
            chown(&dir, Some(uid), Some(gid)).expect("root may");
        }
        let initdb = [
            "-A",
            "trust",
            "-U",
            "test",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        let made = command("initdb")
            .arg("-D")
            .arg(dir.join("data"))
            .args(initdb)
            .output();
        let made = made.expect("initdb is there");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb failed: {said}");

        let log = fs::File::create(dir.join("log")).expect("a file in a directory of our own");
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(dir.join("data"));
        postgres.arg("-k").arg(&dir).args(["-h", ""]);
        let fast = ["fsync=off", "full_page_writes=off", "shared_buffers=32MB"];
        for setting in fast {
            postgres.args(["-c", setting]);
        }
        let output = log.try_clone().expect("a file can be cloned");
        let child = postgres.stdout(output).stderr(log).spawn();
        let child = child.expect("postgres is there");
        let server = Self {
            dir: dir.clone(),
            child,
        };
        server.wait_until_ready(&command);
        server
    }

    fn wait_until_ready(&self, command: &impl Fn(&str) -> Command) {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let mut asked = command("pg_isready");
            let asked = asked
                .arg("-h")
                .arg(&self.dir)
                .stdout(Stdio::null())
                .status();
            if asked.expect("pg_isready is there").success() {
                return;
            }
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "postgres is not up: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How clients reach it, as key-value pairs.
    pub fn url(&self) -> String {
        format!("host={} user=test dbname=postgres", self.dir.display())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // At once: nothing in it is needed any more. It ends the processes that it has started.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The directory of the newest version's programs.
fn programs() -> PathBuf {
    let has_it = |bin: &Path| bin.join("initdb").exists() && bin.join("postgres").exists();
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions
        .filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .filter(|(_, bin)| has_it(bin))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|bin| has_it(bin));
    let newest = versions.pop().map(|(_, bin)| bin).or(in_path);
    newest.expect(
        "there is no PostgreSQL, which this test is about; install the package `postgresql`, or \
         run tests/run.sh --install",
    )
}

/// Somebody else's ids to run it with: the package's user, or nobody's.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("every Unix has it");
    let ids = |name: &str| {
        let user = users
            .lines()
            .find(|user| user.split(':').next() == Some(name))?;
        let mut fields = user.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .expect("a user beside root")
}
