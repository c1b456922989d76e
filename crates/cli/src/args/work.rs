//! The arguments of `work`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use streamlease::spi::{LONGEST_GRACE, Settings, readable};
use streamlease::{ClaimMode, ConsumerName, Error, LockScheme, RetryPolicy};

use super::values::{address, duration, failures, hold};
use super::{Locks, RuntimeKind, Target};
use crate::exec::Graces;

pub(super) const HELP: &str = "\
SIGTERM, Ctrl-C, SIGQUIT or SIGHUP (unless it was ignored, as `nohup` does) hands everything back \
and exits with 0; a second one, but for SIGHUP, exits at once, with 1.

The program of --exec has STREAMLEASE_STREAM, STREAMLEASE_ENTRY, STREAMLEASE_TOKEN and \
STREAMLEASE_INFO (JSON, `null` without info; not set if it is too long for the environment) in its \
environment, and STREAMLEASE_INFO_FILE names a file with the info. Its stream is held until \
everything has ended that it started, unless that left the program's process group (setsid). \
Once this command stops, exit codes mean nothing, but for --on-stop by-exit-code: programs that \
were asked to stop end with any. If this process is killed with SIGKILL, the programs it runs go \
on: pass the token on to whatever they write to.";

#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Who this consumer is, unique in the service [default: $POD_NAME, else $POD_IP]
    #[arg(long, value_name = "ID")]
    pub(crate) consumer: Option<String>,
    /// How long a lease outlives its owner's last heartbeat: 200ms to 1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration,
        allow_hyphen_values = true
    )]
    pub(crate) ttl: Duration,
    /// What to do with streams whose owner is gone
    #[arg(long, value_enum, default_value_t = Claim::Auto)]
    pub(crate) claim: Claim,
    /// Most streams held at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = Settings::default().capacity,
        allow_hyphen_values = true
    )]
    pub(crate) capacity: usize,
    /// Give up when the server could not be reached and so many further tries in a row failed
    /// [default: never]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) retries: Option<u32>,
    /// After so many failures a stream is quarantined; or `never`
    #[arg(
        long,
        value_name = "N",
        default_value = "5",
        value_parser = failures,
        allow_hyphen_values = true
    )]
    pub(crate) quarantine_after: Failures,
    /// How soon after the start of its work an owner must die for that to count against the
    /// stream; 100ms to 1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = duration,
        allow_hyphen_values = true
    )]
    pub(crate) crash_window: Duration,
    /// A program that reports nothing for this long has failed: it is killed, and its stream
    /// goes to another. It reports by `touch "$STREAMLEASE_INFO_FILE"`; 10ms to 24h
    /// [default: no limit]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = duration,
        requires = "exec",
        allow_hyphen_values = true
    )]
    pub(crate) progress_timeout: Option<Duration>,
    /// Most events waiting to be told
    #[arg(
        long,
        value_name = "N",
        default_value_t = Settings::default().event_queue,
        allow_hyphen_values = true
    )]
    pub(crate) event_queue: usize,
    /// Answer /livez, /readyz and /metrics over HTTP at this address, e.g. localhost:8080
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) http: Option<String>,
    /// What a lease's life hangs on; all consumers of a service have the same
    #[arg(long, value_enum, default_value_t = Locks::Session)]
    pub(crate) locks: Locks,
    /// Work on each stream for this long, like 1s, or `forever`, then complete it
    #[arg(
        long,
        value_name = "TIME",
        default_value = "forever",
        value_parser = hold,
        allow_hyphen_values = true
    )]
    pub(crate) hold: Hold,
    /// What runs the tasks
    #[arg(long, value_enum, default_value_t = RuntimeKind::Tokio)]
    pub(crate) runtime: RuntimeKind,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// How long a program of --exec has between SIGTERM and SIGKILL when this command stops, and
    /// what it leaves behind has to end by itself
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration,
        allow_hyphen_values = true
    )]
    pub(crate) grace: Duration,
    /// How long a program has between SIGTERM and SIGKILL when its lease is not extended;
    /// SIGKILL comes when the lease ends [default: a quarter of the TTL, with session locks at
    /// most 5.25s]
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) lost_grace: Option<Duration>,
    /// What becomes of the stream of a program that ends after this command was told to stop
    #[arg(long, value_enum, default_value_t = OnStop::HandBack)]
    pub(crate) on_stop: OnStop,
    /// Run a program per stream instead of holding it; comes last, all that follows is its
    /// arguments. Exit code 0 completes the stream, anything else is a failure
    #[arg(
        long,
        value_names = ["CMD", "ARG"],
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with = "hold"
    )]
    pub(crate) exec: Option<Vec<OsString>>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    For(Duration),
    Forever,
}

/// How many failures a stream may have; `None`: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failures(pub(crate) Option<u32>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnStop {
    /// It is handed back, however the program ended
    HandBack,
    /// It is completed if the program ended with 0, else handed back
    ByExitCode,
}

/// What the arguments come to, together.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Who this consumer is.
    pub(crate) identity: String,
    pub(crate) graces: Graces,
}

impl WorkArgs {
    /// Checks what no single argument can tell.
    pub(crate) fn check(&self) -> Result<Checked, Error> {
        let mut settings = Settings::default();
        settings.ttl = self.ttl;
        settings.capacity = self.capacity;
        settings.claim = self.claim.mode();
        settings.quarantine_after = self.quarantine_after.0;
        settings.crash_window = self.crash_window;
        settings.progress_timeout = self.progress_timeout;
        settings.event_queue = self.event_queue;
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
        let graces = Graces {
            stop: self.grace,
            lost: self.lost_grace(&settings)?,
        };
        Ok(Checked { identity, graces })
    }

    /// When to give up on the server.
    pub(crate) fn retry(&self) -> RetryPolicy {
        self.retries
            .map_or(RetryPolicy::UNLIMITED, RetryPolicy::times)
    }

    /// A program must be dead before its lease is anybody else's, so its grace lies
    /// within the lease; and a lease that is well must never seem to need it.
    fn lost_grace(&self, settings: &Settings) -> Result<Duration, Error> {
        // What is left just before a heartbeat. It and its answer take a while, too.
        let mut left = settings.ttl - settings.margin() - settings.heartbeat_interval();
        if self.locks.scheme() == LockScheme::Session {
            // A new lease is believed for no longer than a restart holds others back,
            // until a heartbeat some seconds later has shown that it lasts.
            left = left.min(LONGEST_GRACE - Duration::from_secs(3));
        }
        let most = left * 3 / 4;
        match self.lost_grace {
            None => Ok((settings.ttl / 4).min(most)),
            Some(grace) if grace <= most => Ok(grace),
            Some(grace) => Err(Error::config(format!(
                "--lost-grace is {}; with a TTL of {} it must be at most {}, for a \
                 lease that is well ends in {} if the next heartbeat fails (--grace is for when \
                 this command stops)",
                readable(grace),
                readable(settings.ttl),
                readable(most),
                readable(left)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

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
        assert_eq!(args.quarantine_after.0, settings.quarantine_after);
        assert_eq!(args.crash_window, settings.crash_window);
        assert_eq!(args.event_queue, settings.event_queue);
        assert_eq!(
            (args.claim.mode(), args.hold),
            (settings.claim, Hold::Forever)
        );
        assert_eq!(args.check().unwrap().identity, "me");
    }

    #[test]
    fn the_time_from_sigterm_to_the_end_of_a_lease_is_a_quarter_of_the_ttl_with_a_bound() {
        for (ttl, locks, ms) in [
            ("200ms", "session", 50),
            ("200ms", "per-stream", 50),
            ("5s", "session", 1_250),
            ("20s", "session", 5_000),
            ("21s", "session", 5_250),
            ("60s", "session", 5_250),
            ("1h", "session", 5_250),
            ("60s", "per-stream", 15_000),
            ("1h", "per-stream", 900_000),
        ] {
            let args = ["--consumer", "me", "--ttl", ttl, "--locks", locks];
            let graces = work(&args).unwrap().check().unwrap().graces;
            assert_eq!(graces.lost, Duration::from_millis(ms), "{ttl} {locks}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (args, named) in [
            (["--ttl", "100ms"], "ttl"),
            (["--capacity", "0"], "capacity"),
            (["--consumer", "a/b"], "consumer identity"),
            (["--lost-grace", "3s"], "TTL of 5s"),
            (["--crash-window", "50ms"], "crash_window"),
            (["--event-queue", "0"], "event_queue"),
            (["--ttl=20s", "--lost-grace=8s"], "TTL of 20s"),
        ] {
            let mut all = vec!["--consumer", "me"];
            if args[0] == "--consumer" {
                all.clear();
            }
            all.extend(args);
            let err = work(&all).unwrap().check().unwrap_err().to_string();
            assert!(err.contains(named), "{err}");
        }
        // The word that this command has for none.
        let zero = work(&["--consumer", "me", "--quarantine-after", "0"]);
        let err = zero.unwrap_err().to_string();
        assert!(err.contains("give at least 1, or never"), "{err}");
    }
}
