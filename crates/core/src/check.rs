//! [`Report`]: what is as it should be with a service, its server and this process, and
//! what is not.
//!
//! Looking changes nothing: no consumer is made, and nothing is acquired. What only a
//! backend can know it says by [`Admin::check`](crate::Admin::check) and
//! [`LockManager::check`](crate::LockManager::check); the rest is found by calls that every
//! backend has.

mod process;
mod service;

use std::fmt;
use std::time::Duration;

use futures_lite::future;

use crate::{Backend, BoxFuture, Error, ErrorKind, Result, Runtime, printable, readable};

/// Where each finding of ours is explained, under its code.
#[doc(hidden)]
pub const PAGE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/doctor.md");

/// Nothing more needs to be asked of whom this is said.
const UNREACHABLE: &str = "unreachable";

/// How long a backend may take for each step.
const LIMIT: Duration = Duration::from_secs(60);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It was looked at, and is as it should be.
    Ok,
    /// A fact, or something that could not be looked at. Nothing has to be done.
    Info,
    /// It works, but something is lost or takes long in cases that will come.
    Warning,
    /// Something does not work now.
    Error,
}

impl Severity {
    /// The word for it: `ok`, `info`, `warning` or `error`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at; the same word in all versions, for programs to go by.
    pub code: &'static str,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// Where more is said of it.
    pub link: Option<String>,
}

impl Finding {
    /// A finding without advice and link.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            advice: None,
            link: None,
        }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same with the heading on `page` that has the code as its text.
    #[must_use]
    pub fn explained_on(mut self, page: &str) -> Self {
        self.link = Some(format!("{page}#{}", self.code));
        self
    }

    /// That a call failed, with what helps by the kind of its error.
    pub fn of_error(error: &Error) -> Self {
        let (code, advice) = match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Busy => (
                UNREACHABLE,
                "Is the server up, and are host, port and TLS right? Consumers wait for it",
            ),
            ErrorKind::Denied => (
                "denied",
                "Check what the message is about: user and password, the user's rights, or the \
                 certificates of server and client",
            ),
            ErrorKind::Config | ErrorKind::Environment => {
                ("settings", "Correct the setting that the message names")
            }
            ErrorKind::Incompatible => (
                "incompatible",
                "Use a server, or a service, that is of the expected kind",
            ),
            _ => (
                "not-understood",
                "Is it a Redis or Valkey server, and does nothing stand in front of it that \
                 changes its answers?",
            ),
        };
        Self::new(Severity::Error, code, error.to_string())
            .advise(advice)
            .explained_on(PAGE)
    }
}

/// `error eviction: the server may evict keys`, in one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = printable(&self.message);
        write!(f, "{} {}: {message}", self.severity, self.code)
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// In the order in which it was looked at: this process, the server, the service.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks at a service on `backend`, from a process with `runtime`, for consumers with
    /// this TTL. Takes about a second, and ten if the server does not answer.
    ///
    /// Never fails: what cannot be reached is a finding. Dropping the future ends it.
    pub async fn of(backend: &Backend, runtime: &dyn Runtime, ttl: Duration) -> Self {
        let mut findings = vec![process::executor_lag(runtime, ttl).await];
        findings.extend(asked(runtime, backend.admin.check()).await);
        findings.extend(asked(runtime, backend.locks.check()).await);
        let mut report = Self { findings };
        if report
            .findings
            .iter()
            .any(|found| found.code == UNREACHABLE)
        {
            return report;
        }
        match within(runtime, process::latency(backend, runtime, ttl)).await {
            Ok(finding) => report.findings.push(finding),
            // Nothing more will be answered; a backend may have said why.
            Err(error) => {
                if report.worst() < Severity::Error {
                    report.findings.push(Finding::of_error(&error));
                }
                return report;
            }
        }
        let service = within(runtime, service::look(backend)).await;
        report
            .findings
            .extend(service.unwrap_or_else(|error| vec![Finding::of_error(&error)]));
        report
    }

    /// The severity of the worst finding.
    pub fn worst(&self) -> Severity {
        let severities = self.findings.iter().map(|finding| finding.severity);
        severities.max().unwrap_or(Severity::Ok)
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        let of_it = self.findings.iter().filter(|f| f.severity == severity);
        of_it.count()
    }
}

async fn asked(runtime: &dyn Runtime, check: BoxFuture<'_, Result<Vec<Finding>>>) -> Vec<Finding> {
    let found = within(runtime, check).await;
    found.unwrap_or_else(|error| vec![Finding::of_error(&error)])
}

/// A backend may never answer.
async fn within<T>(runtime: &dyn Runtime, look: impl Future<Output = Result<T>>) -> Result<T> {
    let late = async {
        runtime.sleep_until(runtime.now() + LIMIT).await;
        let message = format!("the backend has not answered for {}", readable(LIMIT));
        Err(Error::new(ErrorKind::Unavailable, message))
    };
    future::or(look, late).await
}
