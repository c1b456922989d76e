//! One program per stream: `--exec`.
//!
//! Each program gets a process group of its own: a Ctrl-C at the terminal reaches
//! this process only, which then ends the programs in order, and signals reach what
//! a shell script has started, too. The lease ends when nobody of the group is left.

mod children;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use async_channel::Receiver;
use streamlease::Lease;

use self::children::Program;
use self::watch::Watch;
use crate::Failure;
use crate::runtime::AnyRuntime;

pub(crate) use self::children::Children;

/// How long a program has between SIGTERM and SIGKILL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Graces {
    /// When this command stops.
    pub(crate) stop: Duration,
    /// When its lease is not extended: SIGTERM comes so long before its end.
    pub(crate) lost: Duration,
}

/// How to run a program per stream.
#[derive(Debug)]
pub(crate) struct Exec {
    program: OsString,
    args: Vec<OsString>,
    graces: Graces,
    /// Standard output speaks JSON, so a program's goes to standard error.
    output_is_ours: bool,
    children: Children,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// By itself, before anybody asked it to.
    Ended(ExitStatus),
    /// It was told to stop because the command was.
    Stopped(ExitStatus),
    /// It was told to stop because its lease was about to end, which it did not then.
    Interrupted,
    /// It was ended because the lease was lost.
    Lost,
    /// It could not be started for this stream.
    BadStream(io::Error),
    /// It could not be started for reasons not of the stream's.
    CannotStart(io::Error),
}

impl Exec {
    /// Checks that there is such a program: were that found out stream by
    /// stream, each would go round all consumers in vain.
    pub(crate) fn new(
        command: Vec<OsString>,
        graces: Graces,
        json: bool,
        children: Children,
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
            graces,
            output_is_ours: json,
            children,
        })
    }

    /// Runs the program for a lease, until it has ended, the lease is lost or `stop`
    /// closes. When this returns, nothing of it runs any more.
    pub(crate) async fn run(
        &self,
        lease: &Lease,
        stop: &Receiver<()>,
        runtime: &AnyRuntime,
        labels: &str,
    ) -> Outcome {
        let program = match self.spawn(lease) {
            Ok(program) => program,
            Err(err) => match err.kind() {
                // A NUL in the name or the info, or more of it than a process may get.
                io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
                    return Outcome::BadStream(err);
                }
                _ => return Outcome::CannotStart(err),
            },
        };
        let watch = Watch {
            program,
            lease,
            stop,
            runtime,
            graces: self.graces,
            labels,
        };
        watch.run().await
    }

    fn spawn(&self, lease: &Lease) -> io::Result<Program> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env("STREAMLEASE_STREAM", lease.stream().as_str())
            .env("STREAMLEASE_ENTRY", lease.entry().to_string())
            .env("STREAMLEASE_TOKEN", lease.token().to_string())
            .env("STREAMLEASE_INFO", lease.info().as_json().unwrap_or("null"))
            .stdin(Stdio::null());
        if self.output_is_ours {
            command.stdout(io::stderr());
        }
        self.children.spawn(&mut command)
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
