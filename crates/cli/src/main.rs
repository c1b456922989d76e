//! The `streamlease` command: announce data streams, work on them, look at them,
//! and at those that nobody could work on.
//!
//! Exit codes: 0 all went well, 2 wrong usage (an argument or setting is
//! invalid; the message names it), 1 everything else. `doctor` has 3 for warnings.

mod args;
mod cancel;
mod doctor;
mod exec;
mod http;
mod inspect;
mod logging;
mod manual;
mod migrate;
mod output;
mod pause;
mod quarantine;
mod revoke;
mod runtime;
mod service;
mod signals;
mod submit;
mod work;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use streamlease::{Credentials, RedisBackend, RedisBackendBuilder};
use streamlease::{Error, ErrorKind};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    // Ends by itself, with 2, where the arguments are wrong.
    let cli = Cli::try_parse().unwrap_or_else(|err| args::say_wrong(err));
    let log = logging::start(cli.log.map(args::LogLevel::filter));
    let result = match cli.command {
        Command::Submit(args) => submit::run(args),
        Command::Work(args) => work::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Quarantine(command) => quarantine::run(command),
        Command::Revoke(args) => revoke::run(args),
        Command::Cancel(args) => cancel::run(args),
        Command::Pause(args) => pause::pause(args),
        Command::Resume(args) => pause::resume(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(dir.as_deref()),
        Command::Doctor(args) => match doctor::run(args) {
            Ok(code) => return ExitCode::from(code),
            Err(failure) => Err(failure),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log.say(&format!("error: {failure}\n"));
            ExitCode::from(failure.code)
        }
    }
}

/// Unit tests that start processes do so one after the other: some wait for everything
/// below this process, and so for the others' children.
#[cfg(test)]
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Why the command ends with something else than 0.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Wrong arguments: exit code 2.
    fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }

    /// Anything else: exit code 1.
    fn other(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(err) = cause {
            let text = err.to_string();
            // Many errors repeat what caused them.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = err.source();
        }
        match error.kind() {
            ErrorKind::Config => Self::usage(message),
            _ => Self::other(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&output::printable(&self.message))
    }
}

/// The server that the arguments name. It need not be up yet.
fn backend(target: &args::Target) -> Result<RedisBackend, Failure> {
    settings(target)?
        .build()
        .map_err(|err| of_redis(target, err))
}

/// What the arguments say about it.
fn settings(target: &args::Target) -> Result<RedisBackendBuilder, Failure> {
    let read = |flag: &str, path: &Path| {
        std::fs::read(path)
            .map_err(|err| Failure::usage(format!("{flag}: cannot read {}: {err}", path.display())))
    };
    let mut builder = RedisBackend::builder(url(target)?);
    if let Some(ca) = &target.ca {
        builder = builder.ca(read("--ca", ca)?);
    }
    if let (Some(cert), Some(key)) = (&target.cert, &target.key) {
        builder = builder.client_certificate(read("--cert", cert)?, read("--key", key)?);
    }
    if let Some(file) = &target.sentinel_password_file {
        let flag = "--sentinel-password-file";
        let text = String::from_utf8(read(flag, file)?)
            .map_err(|_| Failure::usage(format!("{flag}: {} is no text", file.display())))?;
        let password = without_bom(&text).lines().next().unwrap_or_default();
        builder = builder.sentinel_credentials(match &target.sentinel_user {
            Some(user) => Credentials::new(user, password),
            None => Credentials::password(password),
        });
    }
    Ok(builder)
}

/// The server that the arguments name, if it answers.
async fn connect(target: &args::Target) -> Result<RedisBackend, Failure> {
    let backend = settings(target)?.connect().await;
    backend.map_err(|err| of_redis(target, err))
}

/// The same, for what is done to a service that there should be, with its locks.
async fn connect_to_service(target: &args::Target) -> Result<RedisBackend, Failure> {
    let backend = connect(target).await?;
    service::note_if_unknown(&backend, &target.service).await;
    Ok(service::with_its_locks(&backend, &target.service).await?)
}

fn of_redis(target: &args::Target, err: Error) -> Failure {
    let (failure, source) = (Failure::from(err), target.source());
    Failure {
        message: format!("{source}: {failure}"),
        ..failure
    }
}

/// Some editors put a mark in front of a text that says it is UTF-8.
fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The URL that the arguments or the environment give.
fn url(target: &args::Target) -> Result<String, Failure> {
    if let Some(url) = &target.redis {
        return Ok(url.clone());
    }
    let source = target.source();
    let Some(file) = &target.redis_file else {
        return std::env::var(source).map_err(|_| {
            Failure::usage(
                "no server is named; give --redis URL or --redis-file FILE, or set \
                 STREAMLEASE_REDIS or REDIS_URL in the environment",
            )
        });
    };
    let text = std::fs::read(file).map_err(|err| {
        Failure::usage(format!("{source}: cannot read {}: {err}", file.display()))
    })?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::usage(format!("{source}: {} is no text", file.display())))?;
    match without_bom(&text).lines().next().map(str::trim) {
        Some(url) if !url.is_empty() => Ok(url.to_owned()),
        _ => Err(Failure::usage(format!(
            "{source}: there is no URL in the first line of {}",
            file.display()
        ))),
    }
}
