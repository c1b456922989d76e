//! The arguments, checked before anything starts.

#[cfg(test)]
mod pages;
mod values;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand, ValueEnum};
use streamlease::{EntryId, Info, LockScheme, ServiceName, StreamName};

use self::values::{duration, entry, info, service, stream, submit_timeout};
pub(crate) use self::work::{Claim, Hold, OnStop, WorkArgs};
use crate::output::shortened;

/// Exactly one consumer per long-lived data stream, with failover, on Redis streams.
#[derive(Debug, Parser)]
#[command(name = "streamlease", version, about, max_term_width = 100, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    /// How much is told on standard error [default: $RUST_LOG, else warn]
    #[arg(long, value_name = "LEVEL", value_enum, global = true)]
    pub(crate) log: Option<LogLevel>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const ENVIRONMENT: &str = "\
Environment:
  STREAMLEASE_REDIS, REDIS_URL  URL of the server where --redis and --redis-file are not given;
                                the first that is set
  POD_NAME, POD_IP              who `work` is where --consumer is not given
  NO_COLOR                      if it is set, nothing is coloured on a terminal
  RUST_LOG                      what is logged where --log is not given: a level, or levels for
                                single parts, like warn,streamlease_core=debug
";

/// What the log tells. Each level has those before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    /// What needs somebody: this command cannot do its work
    Error,
    /// What went wrong and is tried again or made up for
    Warn,
    /// Each stream that changes hands, with consumer and token
    Info,
    /// Retries, lost races and what was decided why
    Debug,
    /// Every call of the server
    Trace,
}

impl LogLevel {
    pub(crate) fn filter(self) -> log::LevelFilter {
        match self {
            Self::Off => log::LevelFilter::Off,
            Self::Error => log::LevelFilter::Error,
            Self::Warn => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
            Self::Trace => log::LevelFilter::Trace,
        }
    }
}

/// Says what is wrong with the arguments, without all of a value that is very long.
pub(crate) fn say_wrong(mut err: clap::Error) -> ! {
    if let Some(ContextValue::String(value)) = err.get(ContextKind::InvalidValue) {
        let value = ContextValue::String(shortened(value, LONGEST_ECHO));
        err.insert(ContextKind::InvalidValue, value);
    }
    err.exit()
}

/// Characters of a wrong value that are shown: enough to recognize it.
const LONGEST_ECHO: usize = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Announce data streams; prints their entry ids, one a line
    Submit(SubmitArgs),
    /// Lease data streams, work on each, complete it
    #[command(after_help = work::HELP)]
    Work(WorkArgs),
    /// Show what is pending and at whom, the consumers and the quarantine
    Inspect(InspectArgs),
    /// Ask the owners of data streams to hand them back, so that others take them
    #[command(after_help = REVOKE_HELP)]
    Revoke(RevokeArgs),
    /// Withdraw announcements, and end streams that are held
    #[command(after_help = CANCEL_HELP)]
    Cancel(RevokeArgs),
    /// Stop a service from taking anything: what is held stays held
    #[command(after_help = PAUSE_HELP)]
    Pause(PauseArgs),
    /// Let a service that was paused take streams again
    Resume(ResumeArgs),
    /// Find out what is wrong with a server and a service; changes nothing
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Give an idle service the other kind of locks
    #[command(after_help = MIGRATE_HELP)]
    Migrate(MigrateArgs),
    /// List what is quarantined, announce it again, or throw it away
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Print what a shell needs to complete this command's arguments
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of this command, or write those of all subcommands to a directory
    Man {
        /// Where to write one page each, like streamlease-work.1
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Show each entry with its reason, failures and last owner, lowest id first
    List(ListArgs),
    /// Announce entries again, as they were; each gets a new id, and its failures count from 0
    Release(ChooseArgs),
    /// Remove entries for good
    Drop {
        #[command(flatten)]
        chosen: ChooseArgs,
        /// Do not ask before everything is dropped
        #[arg(long)]
        yes: bool,
    },
}

const REVOKE_HELP: &str = "\
An owner learns of it by its next heartbeat, within a third of its TTL. By then its lease is over: its \
program is killed, without a grace, and whoever has room takes the stream, perhaps the same consumer \
again. Ends with 1 if nobody holds one of the streams. Services with per-stream locks cannot do this.";

const CANCEL_HELP: &str = "\
Their entries are gone for good, in one fenced step each: nobody takes them up any more. An owner is \
told by its next heartbeat, within a third of its TTL, and its program is killed; with per-stream locks \
within a few TTLs, and a Go consumer works on to its end. What is in quarantine stays. Ends with 1 if \
one of the streams was not announced.";

const PAUSE_HELP: &str = "\
Once this has returned no consumer takes a stream, until `resume`: neither what is announced, nor what \
is handed back, nor what a dead consumer leaves. What is held is renewed, completed and handed back as \
ever. Consumers of the Go library, and of versions without pauses, go on taking. Pausing twice is no \
error.";

const COMPLETIONS_HELP: &str = "\
For bash: streamlease completions bash > /etc/bash_completion.d/streamlease";

const DOCTOR_HELP: &str = "\
Exit code: 0 if nothing has to be done, 3 if there are warnings, 1 if there are errors, 2 if an \
argument is wrong. docs/doctor.md explains each finding under its code.";

const MIGRATE_HELP: &str = "\
Stop all consumers of the service first: with live ones it is refused. A consumer of the Go \
library shows only by the streams it holds. Producers may go on. Nothing is lost: what is \
pending is taken up by the consumers that start afterwards.";

/// Which service, and where.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Redis server, like redis://user:password@host:6379/0; or redis-cluster://host,host,…, or
    /// redis-sentinel://host,host,…/MASTER. In a user name or a password write / as %2F, ? as %3F,
    /// # as %23, @ as %40, : as %3A and % as %25. Other users of this machine see arguments: leave a
    /// password to --redis-file or the environment [default: $STREAMLEASE_REDIS, else $REDIS_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// Read that URL from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    pub(crate) redis_file: Option<PathBuf>,
    /// Trust the certificates in this file (PEM) instead of the system's, with rediss://
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Show the server this certificate (PEM), with --key
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// User at the sentinels, with --sentinel-password-file; that of the URL is the server's
    #[arg(long, value_name = "NAME", requires = "sentinel_password_file")]
    pub(crate) sentinel_user: Option<String>,
    /// Password at the sentinels: the first line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) sentinel_password_file: Option<PathBuf>,
    /// Name of the service; its load balancer stream is this with `-input` behind
    #[arg(long, value_name = "S", value_parser = service)]
    pub(crate) service: ServiceName,
}

impl Target {
    /// Where the URL comes from, for messages.
    pub(crate) fn source(&self) -> &'static str {
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match (&self.redis, &self.redis_file) {
            (Some(_), _) => "--redis",
            (None, Some(_)) => "--redis-file",
            (None, None) => ["STREAMLEASE_REDIS", "REDIS_URL"]
                .into_iter()
                .find(is_set)
                .unwrap_or("--redis"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// What to tell about each stream, a JSON object; `@FILE`: what that file holds, `-`: what
    /// comes on standard input
    #[arg(long, value_name = "JSON", value_parser = info, allow_hyphen_values = true)]
    pub(crate) info: Option<InfoSource>,
    /// How long a server that is away is waited for, at most 5m: for so long it is sure to
    /// know which streams it has already
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = submit_timeout,
        allow_hyphen_values = true
    )]
    pub(crate) timeout: Duration,
    /// Any text that stands for a job: within five minutes each name is announced once with it,
    /// in whatever order and however many runs; a name that one run has twice, twice. The entry
    /// id of one from before stands with the words `already submitted`, also if it is gone since
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch_key: Option<String>,
    /// Announce only the streams that are not announced, in one step with looking; the entry id of
    /// one that is there already stands with the words `already announced`
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Print one JSON object per line, `submitted`, `already_announced` or `already_submitted`
    #[arg(long)]
    pub(crate) json: bool,
    /// Data streams. `-`, or none at all: names are read from standard input, one a line; a
    /// stream that is called so is given there
    #[arg(value_name = "NAME", value_parser = stream)]
    pub(crate) names: Vec<StreamName>,
}

/// Where an info is.
#[derive(Debug, Clone)]
pub(crate) enum InfoSource {
    Json(Info),
    File(PathBuf),
    StandardInput,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Show at most so many entries of each kind; all are counted
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Show only entries of this data stream; may be given again
    #[arg(long, value_name = "NAME", value_parser = stream)]
    pub(crate) stream: Vec<StreamName>,
    /// Show only entries of this kind; may be given again
    #[arg(long, value_name = "STATE", value_enum)]
    pub(crate) state: Vec<State>,
    /// Show the counts only: of everything, so --stream, --state and --limit do not go with it
    #[arg(long, conflicts_with_all = ["limit", "stream", "state"])]
    pub(crate) summary: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// At a consumer
    Pending,
    /// On the load balancer stream, and at nobody any more
    Stranded,
    /// Waits for a consumer
    Undelivered,
    Quarantined,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["entries", "all"]))]
pub(crate) struct ChooseArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Everything that is in quarantine now
    #[arg(long)]
    pub(crate) all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// Ids of entries, as `list` shows them
    #[arg(value_name = "ID", value_parser = entry)]
    pub(crate) entries: Vec<EntryId>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// Data streams
    #[arg(value_name = "NAME", value_parser = stream, required = true)]
    pub(crate) names: Vec<StreamName>,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Why, for people to read: shown by `inspect` and in the consumers' logs
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) reason: String,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// TTL of the consumers, by which it is judged what is slow
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) ttl: Duration,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The locks it is to have
    #[arg(long, value_enum)]
    pub(crate) to: Locks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Locks {
    /// Each stream has a lock of its own; the fleet may have Go consumers
    PerStream,
    /// A consumer has one deadline for all its streams, so that it may hold very many
    Session,
}

impl Locks {
    pub(crate) fn scheme(self) -> LockScheme {
        match self {
            Self::PerStream => LockScheme::PerStream,
            Self::Session => LockScheme::Session,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    Tokio,
    AsyncStd,
    Smol,
}
