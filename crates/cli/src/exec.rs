//! One program per stream: `--exec`.
//!
//! Programs are run with async-process, which waits for them on threads of its
//! own and so works on every runtime. Each gets a process group of its own: a
//! Ctrl-C at the terminal reaches this process only, which then ends the
//! programs in order, and signals reach what a shell script has started, too.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::Receiver;
use async_process::{Child, Command};
use futures_lite::future;
use rustix::process::{Pid, Signal, kill_process_group};
use streamlease::Lease;

use crate::Failure;
use crate::runtime::AnyRuntime;

/// The programs that run right now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    groups: Arc<Mutex<BTreeSet<u32>>>,
}

/// How to run a program per stream.
#[derive(Debug)]
pub(crate) struct Exec {
    program: OsString,
    args: Vec<OsString>,
    grace: Duration,
    /// Standard output speaks JSON, so a program's goes to standard error.
    output_is_ours: bool,
    programs: Programs,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// By itself, before anybody asked it to.
    Exited(ExitStatus),
    /// It was told to stop because the command was.
    Stopped(ExitStatus),
    /// It was told to stop because the lease was lost.
    Lost,
    /// It could not be started for this stream.
    BadStream(io::Error),
    /// It could not be started, or watched, for reasons not of the stream's.
    CannotStart(io::Error),
}

impl Exec {
    /// Checks that there is such a program: were that found out stream by
    /// stream, each would go round all consumers in vain.
    pub(crate) fn new(
        command: Vec<OsString>,
        grace: Duration,
        json: bool,
        programs: Programs,
    ) -> Result<Self, Failure> {
        let mut command = command.into_iter();
        let program = command.next().unwrap_or_default();
        if !can_be_found(&program) {
            return Err(Failure::usage(format!(
                "--exec: there is no executable file {program:?} (also not in PATH)"
            )));
        }
        Ok(Self {
            program,
            args: command.collect(),
            grace,
            output_is_ours: json,
            programs,
        })
    }

    /// Runs the program for a lease, until it ends, the lease is lost or `stop` closes.
    /// When this returns, the program runs no more.
    pub(crate) async fn run(
        &self,
        lease: &Lease,
        stop: &Receiver<()>,
        runtime: &AnyRuntime,
    ) -> Outcome {
        let mut child = match self.spawn(lease) {
            Ok(child) => child,
            Err(err) => match err.kind() {
                // A NUL in the name or the info, or more of it than a process may get.
                io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
                    return Outcome::BadStream(err);
                }
                _ => return Outcome::CannotStart(err),
            },
        };
        let group = child.id();
        self.programs.lock().insert(group);
        let outcome = self.watch(&mut child, lease, stop, runtime).await;
        self.programs.lock().remove(&group);
        outcome
    }

    async fn watch(
        &self,
        child: &mut Child,
        lease: &Lease,
        stop: &Receiver<()>,
        runtime: &AnyRuntime,
    ) -> Outcome {
        enum Wake {
            Exited(io::Result<ExitStatus>),
            Lost,
            Stop,
        }
        let exited = async { Wake::Exited(child.status().await) };
        let lost = async {
            lease.lost().await;
            Wake::Lost
        };
        let stopped = async {
            // It is never sent to, only closed.
            let _ = stop.recv().await;
            Wake::Stop
        };
        match future::or(exited, future::or(lost, stopped)).await {
            Wake::Exited(Ok(status)) => Outcome::Exited(status),
            Wake::Exited(Err(err)) => {
                signal_group(child.id(), Signal::KILL);
                Outcome::CannotStart(err)
            }
            Wake::Lost => {
                if let Err(err) = self.end(child, runtime).await {
                    log::warn!("cannot tell how program {} ended: {err}", child.id());
                }
                Outcome::Lost
            }
            Wake::Stop => match self.end(child, runtime).await {
                Ok(status) => Outcome::Stopped(status),
                Err(err) => Outcome::CannotStart(err),
            },
        }
    }

    /// SIGTERM, and SIGKILL after the grace period.
    async fn end(&self, child: &mut Child, runtime: &AnyRuntime) -> io::Result<ExitStatus> {
        let group = child.id();
        signal_group(group, Signal::TERM);
        let graceful = async { Some(child.status().await) };
        let too_long = async {
            runtime.sleep(self.grace).await;
            None
        };
        if let Some(status) = future::or(graceful, too_long).await {
            return status;
        }
        log::warn!(
            "program {group} did not end within {:?}: killing it",
            self.grace
        );
        signal_group(group, Signal::KILL);
        child.status().await
    }

    fn spawn(&self, lease: &Lease) -> io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env("STREAMLEASE_STREAM", lease.stream().as_str())
            .env("STREAMLEASE_ENTRY", lease.entry().to_string())
            .env("STREAMLEASE_TOKEN", lease.token().to_string())
            .env("STREAMLEASE_INFO", lease.info().as_json().unwrap_or("null"))
            .process_group(0);
        let mut command = Command::from(command);
        command.stdin(Stdio::null());
        if self.output_is_ours {
            command.stdout(io::stderr());
        }
        command.spawn()
    }
}

impl Programs {
    /// Kills what still runs, at once.
    pub(crate) fn kill_all(&self) {
        for &group in self.lock().iter() {
            signal_group(group, Signal::KILL);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_group(group: u32, signal: Signal) {
    let group = i32::try_from(group).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // An error means that nothing of the group is left.
        let _ = kill_process_group(group, signal);
    }
}

/// Whether running `program` can work: it is a path to an executable file, or
/// one is found in PATH.
fn can_be_found(program: &OsString) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &Path| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.is_empty() {
        return false;
    }
    if Path::new(program).components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        return executable(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| executable(&dir.join(program)))
}
