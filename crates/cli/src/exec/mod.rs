//! One program per stream: `--exec`.
//!
//! Each program gets a process group of its own: a Ctrl-C at the terminal reaches
//! this process only, which then ends the programs in order, and signals reach what
//! a shell script has started, too. The lease ends when nobody of the group is left.

mod children;
mod info_file;
mod starter;
mod starts;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease::spi::readable;
use streamlease::{Lease, Runtime, Stopping, Timestamp};

use self::children::Program;
use self::info_file::InfoFile;
use self::starter::Starter;
use self::watch::Watch;
use crate::Failure;
use crate::runtime::AnyRuntime;
use crate::work::Loss;

pub(crate) use self::children::Children;
pub(crate) use self::info_file::InfoFiles;
pub(crate) use self::starts::Starts;

/// Longest `name=value` in an environment, with the zero byte behind it (Linux:
/// MAX_ARG_STRLEN).
const LONGEST_VARIABLE: usize = 128 * 1024;

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
    programs: Arc<Programs>,
    graces: Graces,
    starter: Starter,
}

/// How a program is started.
#[derive(Debug)]
struct Programs {
    program: OsString,
    args: Vec<OsString>,
    /// Standard output speaks JSON, so a program's goes to standard error.
    output_is_ours: bool,
    children: Children,
    infos: InfoFiles,
}

/// What a program is run for, and with.
pub(crate) struct Job<'a> {
    pub(crate) lease: &'a Lease,
    pub(crate) loss: &'a Loss,
    pub(crate) stopping: &'a Stopping,
    pub(crate) runtime: &'a AnyRuntime,
    pub(crate) starts: &'a Arc<Starts>,
    /// So long it waits for its turn to be started.
    pub(crate) patience: Duration,
    /// So long it may go on without having touched its file of info.
    pub(crate) progress_timeout: Option<Duration>,
    /// For logs.
    pub(crate) labels: &'a str,
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
    /// It could not be started for reasons not of the stream's, or was not before it
    /// was too late.
    NotStarted,
}

impl Exec {
    /// Checks that there is such a program: were that found out stream by
    /// stream, each would go round all consumers in vain.
    pub(crate) fn new(
        command: Vec<OsString>,
        graces: Graces,
        json: bool,
        children: Children,
        infos: InfoFiles,
    ) -> Result<Self, Failure> {
        let mut command = command.into_iter();
        let program = command.next().unwrap_or_default();
        if !can_be_found(&program) {
            return Err(Failure::usage(format!(
                "--exec: there is no executable file {program:?} (also not in PATH)"
            )));
        }
        let programs = Programs {
            program,
            args: command.collect(),
            output_is_ours: json,
            children,
            infos,
        };
        Ok(Self {
            programs: Arc::new(programs),
            graces,
            starter: Starter::new()?,
        })
    }

    /// Runs the program for a lease, until it has ended, the lease is lost or the
    /// command stops. When this returns, nothing of it runs any more; only if its start
    /// hung until the lease was lost, it is killed as soon as it is there.
    pub(crate) async fn run(&self, job: Job<'_>) -> Outcome {
        let give_up_at = job.runtime.now() + job.patience;
        loop {
            match self.try_to_start(&job, give_up_at).await {
                Tried::Started(program, info) => {
                    let running = job.starts.succeeded();
                    let watch = Watch {
                        program,
                        lease: job.lease,
                        loss: job.loss,
                        stopping: job.stopping,
                        runtime: job.runtime,
                        graces: self.graces,
                        labels: job.labels,
                    };
                    let reports = pass_progress_on(&job, &info);
                    let outcome = future::or(watch.run(), reports).await;
                    drop((running, info));
                    return outcome;
                }
                // A NUL in the name.
                Tried::Failed(err) if err.kind() == io::ErrorKind::InvalidInput => {
                    return Outcome::BadStream(err);
                }
                Tried::Failed(err) => job.starts.failed(&err),
                Tried::GivenUp(outcome) => return outcome,
            }
        }
    }

    async fn try_to_start(&self, job: &Job<'_>, give_up_at: Timestamp) -> Tried {
        let lost = async {
            job.lease.lost().await;
            Tried::GivenUp(Outcome::Lost)
        };
        let start = async {
            let too_late = async {
                job.runtime.sleep_until(give_up_at).await;
            };
            let stopped = async {
                job.stopping.requested().await;
            };
            let no_turn = async {
                future::or(stopped, too_late).await;
                false
            };
            let turn = async {
                job.starts.turn().await;
                true
            };
            match future::or(no_turn, turn).await {
                true if job.lease.is_valid() => self.start(job, give_up_at).await,
                true => Tried::GivenUp(Outcome::Lost),
                false => Tried::GivenUp(Outcome::NotStarted),
            }
        };
        // What has been started is to be watched until it is gone.
        future::or(start, lost).await
    }

    /// While a start is under way its stream is kept: were it handed back, the program
    /// could begin beside that of the next owner.
    async fn start(&self, job: &Job<'_>, give_up_at: Timestamp) -> Tried {
        let (programs, stream) = (self.programs.clone(), Stream::of(job.lease));
        let start = self.starter.begin(move || programs.start(&stream));
        let result = async {
            match start.result().await {
                Some(Ok((program, info))) => Tried::Started(program, info),
                Some(Err(err)) => Tried::Failed(err),
                None => Tried::Failed(io::Error::other("its start panicked")),
            }
        };
        let too_late = async {
            job.runtime.sleep_until(give_up_at).await;
            let limit = readable(job.patience);
            let message = format!("its start takes longer than {limit}");
            let err = io::Error::new(io::ErrorKind::TimedOut, message);
            job.starts.failed(&err);
            if !start.withdraw() {
                future::pending::<()>().await;
            }
            Tried::GivenUp(Outcome::NotStarted)
        };
        let stopped = async {
            job.stopping.requested().await;
            if !start.withdraw() {
                job.runtime.sleep(self.graces.stop).await;
                log::warn!("the start of a program hangs: {}", job.labels);
            }
            Tried::GivenUp(Outcome::NotStarted)
        };
        future::or(result, future::or(stopped, too_late)).await
    }
}

/// A program that touches its file of info goes on. Never ends.
async fn pass_progress_on<T>(job: &Job<'_>, info: &InfoFile) -> T {
    let Some(limit) = job.progress_timeout else {
        return future::pending().await;
    };
    let touched = || info.path().metadata().and_then(|meta| meta.modified()).ok();
    let mut last = touched();
    // It has begun now; waiting for its turn was not its own fault.
    job.lease.progress();
    loop {
        job.runtime.sleep(limit / 8).await;
        let now = touched();
        if now.is_some() && now != last {
            last = now;
            job.lease.progress();
        }
    }
}

/// What came of a try to start a program.
enum Tried {
    Started(Program, InfoFile),
    Failed(io::Error),
    GivenUp(Outcome),
}

/// What a program is told of its stream.
#[derive(Debug)]
struct Stream {
    name: String,
    entry: String,
    token: String,
    info: String,
}

impl Stream {
    fn of(lease: &Lease) -> Self {
        Self {
            name: lease.stream().as_str().to_owned(),
            entry: lease.entry().to_string(),
            token: lease.token().to_string(),
            info: lease.info().as_json().unwrap_or("null").to_owned(),
        }
    }
}

impl Programs {
    /// May hang.
    fn start(&self, stream: &Stream) -> io::Result<(Program, InfoFile)> {
        let file = self.infos.write(&stream.token, &stream.info)?;
        let command = || {
            let mut command = Command::new(&self.program);
            command
                .args(&self.args)
                .env("STREAMLEASE_STREAM", &stream.name)
                .env("STREAMLEASE_ENTRY", &stream.entry)
                .env("STREAMLEASE_TOKEN", &stream.token)
                .env("STREAMLEASE_INFO_FILE", file.path())
                .env_remove("STREAMLEASE_INFO")
                .stdin(Stdio::null());
            if self.output_is_ours {
                command.stdout(io::stderr());
            }
            command
        };
        if "STREAMLEASE_INFO=".len() + stream.info.len() < LONGEST_VARIABLE {
            let mut with_info = command();
            with_info.env("STREAMLEASE_INFO", &stream.info);
            match self.children.spawn(&mut with_info) {
                // Together with everything else it is too much.
                Err(err) if err.kind() == io::ErrorKind::ArgumentListTooLong => {}
                result => return Ok((result?, file)),
            }
        }
        Ok((self.children.spawn(&mut command())?, file))
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
