//! The arguments, checked before anything starts.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use streamlease::{
    ClaimMode, ConsumerName, EntryId, Error, Info, LockScheme, ServiceName, Settings, StreamName,
};

/// Exactly one consumer per long-lived data stream, with failover, on Redis streams.
#[derive(Debug, Parser)]
#[command(name = "streamlease", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Announce data streams; prints their entry ids, one a line
    Submit(SubmitArgs),
    /// Lease data streams, work on each, complete it
    #[command(after_help = WORK_HELP)]
    Work(WorkArgs),
    /// Show what is pending and at whom, the consumers and the quarantine
    Inspect(InspectArgs),
    /// Give an idle service the other kind of locks
    #[command(after_help = MIGRATE_HELP)]
    Migrate(MigrateArgs),
    /// List what is quarantined, announce it again, or throw it away
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Show each entry with its reason, failures and last owner, lowest id first
    List(InspectArgs),
    /// Announce entries again, as they were; each gets a new id, and its failures count from 0
    Release(ChooseArgs),
    /// Remove entries for good
    Drop(ChooseArgs),
}

const WORK_HELP: &str = "\
SIGTERM or Ctrl-C hands everything back and exits with 0; a second one exits at once, with 1.

The program of --exec has STREAMLEASE_STREAM, STREAMLEASE_ENTRY, STREAMLEASE_TOKEN and \
STREAMLEASE_INFO (JSON, `null` without info) in its environment. If this process is killed with \
SIGKILL, the programs it runs go on: pass the token on to whatever they write to.";

const MIGRATE_HELP: &str = "\
Stop all consumers of the service first: with live ones it is refused. A consumer of the Go \
library shows only by the streams it holds. Producers may go on. Nothing is lost: what is \
pending is taken up by the consumers that start afterwards.";

/// Which service, and where.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Redis server, like redis://user:password@host:6379/0
    #[arg(long, value_name = "URL")]
    pub(crate) redis: String,
    /// Name of the service; its load balancer stream is this with `-input` behind
    #[arg(long, value_name = "S", value_parser = service)]
    pub(crate) service: ServiceName,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// What to tell about each stream, a JSON object
    #[arg(long, value_name = "JSON", value_parser = info)]
    pub(crate) info: Option<Info>,
    /// Data streams; without any, names are read from standard input, one a line
    #[arg(value_name = "NAME", value_parser = stream)]
    pub(crate) names: Vec<StreamName>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Who this consumer is, unique in the service [default: $POD_NAME, else $POD_IP]
    #[arg(long, value_name = "ID")]
    pub(crate) consumer: Option<String>,
    /// How long a lease outlives its owner's last beat: 200ms to 1h
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// What to do with streams whose owner is gone
    #[arg(long, value_enum, default_value_t = Claim::Auto)]
    pub(crate) claim: Claim,
    /// Most streams held at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = Settings::default().capacity,
        allow_negative_numbers = true
    )]
    pub(crate) capacity: usize,
    /// What a lease's life hangs on; all consumers of a service have the same
    #[arg(long, value_enum, default_value_t = Locks::Session)]
    pub(crate) locks: Locks,
    /// Work on each stream for this long, like 1s, or `forever`, then complete it
    #[arg(long, value_name = "TIME", default_value = "forever", value_parser = hold)]
    pub(crate) hold: Hold,
    /// What runs the tasks
    #[arg(long, value_enum, default_value_t = RuntimeKind::Tokio)]
    pub(crate) runtime: RuntimeKind,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// How long a program of --exec has between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) grace: Duration,
    /// Run a program per stream instead of holding it; comes last, all that follows is its
    /// arguments. Exit code 0 completes the stream, anything else hands it back; losing the
    /// lease sends SIGTERM, and SIGKILL after --grace
    #[arg(
        long,
        value_names = ["CMD", "ARG"],
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with = "hold"
    )]
    pub(crate) exec: Option<Vec<OsString>>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
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
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The locks it is to have
    #[arg(long, value_enum)]
    pub(crate) to: Locks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Claim {
    /// Claim them as there is room
    Auto,
    /// Claim each when `stream_expired` is reported
    Manual,
    /// Only report them
    Off,
}

impl Claim {
    pub(crate) fn mode(self) -> ClaimMode {
        match self {
            Self::Auto => ClaimMode::Automatic,
            Self::Manual | Self::Off => ClaimMode::Manual,
        }
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    For(Duration),
    Forever,
}

impl WorkArgs {
    /// Checks what no single argument can tell; the identity of this consumer.
    pub(crate) fn check(&self) -> Result<String, Error> {
        let mut settings = Settings::default();
        settings.ttl = self.ttl;
        settings.capacity = self.capacity;
        settings.claim = self.claim.mode();
        settings.validate()?;
        let from_env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let identity = self
            .consumer
            .clone()
            .or_else(|| from_env("POD_NAME"))
            .or_else(|| from_env("POD_IP"))
            .ok_or_else(|| {
                Error::config(
                    "this consumer has no identity; give --consumer ID, \
                     or set POD_NAME or POD_IP in the environment",
                )
            })?;
        ConsumerName::from_identity(&identity)?;
        Ok(identity)
    }
}

fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|err| err.to_string())
}

fn stream(text: &str) -> Result<StreamName, String> {
    StreamName::new(text).map_err(|err| err.to_string())
}

fn entry(text: &str) -> Result<EntryId, String> {
    text.parse().map_err(|err: Error| err.to_string())
}

fn info(text: &str) -> Result<Info, String> {
    Info::from_json(text).map_err(|err| err.to_string())
}

fn hold(text: &str) -> Result<Hold, String> {
    match text {
        "forever" => Ok(Hold::Forever),
        _ => duration(text)
            .map(Hold::For)
            .map_err(|err| err + ", or forever"),
    }
}

/// A number with a unit: `500ms`, `2s`, `1.5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = text.split_at(unit_at);
        let unit = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let digits_only = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number: f64 = number.parse().ok().filter(|_| digits_only)?;
        // Whole milliseconds: what is smaller means nothing to any setting.
        let ms = (number * unit * 1000.0).round();
        Duration::try_from_secs_f64(ms / 1000.0)
            .ok()
            .filter(|d| d.as_secs() <= MAX_SECS)
    };
    parse().ok_or_else(|| "give a number and a unit, like 500ms, 2s, 5m or 1h".to_owned())
}

/// A hundred years; more than that overflows clocks.
const MAX_SECS: u64 = 100 * 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn work(args: &[&str]) -> Result<WorkArgs, clap::Error> {
        let base = [
            "streamlease",
            "work",
            "--redis",
            "redis://h",
            "--service",
            "s",
        ];
        let cli = Cli::try_parse_from(base.iter().chain(args))?;
        match cli.command {
            Command::Work(args) => Ok(args),
            _ => panic!("not work"),
        }
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "2",
            "s",
            "-1s",
            "+1s",
            "2 s",
            "2d",
            "1e3s",
            "nans",
            "infs",
            "2sec",
            "99999999h",
            "1.2.3s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?} parsed");
        }
        assert_eq!(hold("forever"), Ok(Hold::Forever));
        assert!(hold("never").unwrap_err().contains("forever"));
    }

    #[test]
    fn all_that_follows_exec_is_the_programs() {
        let args = work(&[
            "--json",
            "--exec",
            "sh",
            "-c",
            "echo --json",
            "--grace",
            "x",
        ])
        .unwrap();
        let exec = args.exec.unwrap();
        assert_eq!(exec, ["sh", "-c", "echo --json", "--grace", "x"]);
        assert!(args.json);
        let err = work(&["--hold", "1s", "--exec", "true"])
            .unwrap_err()
            .to_string();
        assert!(err.contains("--hold"), "{err}");
        assert!(work(&["--exec"]).is_err());
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let args = work(&["--consumer", "me"]).unwrap();
        let settings = Settings::default();
        assert_eq!((args.ttl, args.capacity), (settings.ttl, settings.capacity));
        assert_eq!(
            (args.claim.mode(), args.hold),
            (settings.claim, Hold::Forever)
        );
        assert_eq!(args.check().unwrap(), "me");
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (args, named) in [
            (["--ttl", "100ms"], "ttl"),
            (["--capacity", "0"], "capacity"),
            (["--consumer", "a/b"], "consumer identity"),
        ] {
            let mut all = vec!["--consumer", "me"];
            if args[0] == "--consumer" {
                all.clear();
            }
            all.extend(args);
            let err = work(&all).unwrap().check().unwrap_err().to_string();
            assert!(err.contains(named), "{err}");
        }
    }
}
