//! `streamlease doctor`: what is as it should be with a server and a service, and what is not.
//!
//! It only looks. A server that cannot be reached is a finding and no error.

use std::time::Duration;

use serde::Serialize;
use streamlease::spi::{Backend, Settings};
use streamlease::{
    BackendProvider, Finding, LockScheme, RedisBackend, Report, ServiceName, Severity,
};

use crate::args::{DoctorArgs, RuntimeKind};
use crate::output::{json_line, print, printable};
use crate::{Failure, runtime};

/// Who asks waits at a terminal.
const CONNECT: Duration = Duration::from_secs(4);

/// The exit code: 0 if nothing has to be done, 3 if there are warnings, 1 if there are errors.
pub(crate) fn run(args: DoctorArgs) -> Result<u8, Failure> {
    let mut settings = Settings::default();
    settings.ttl = args.ttl;
    settings.validate()?;
    let mut code = 0;
    runtime::block_on(RuntimeKind::Tokio, |runtime| {
        let code = &mut code;
        async move {
            let redis = crate::settings(&args.target)?.connect_timeout(CONNECT);
            let redis = redis
                .build()
                .map_err(|err| crate::of_redis(&args.target, err))?;
            let backend = backend(&redis, &args.target.service).await?;
            let report = Report::of(&backend, &runtime, args.ttl).await;
            // Whether somebody reads it or not, the exit code says it.
            print(&match args.json {
                true => json(&report),
                false => readable(&report),
            })?;
            *code = match report.worst() {
                Severity::Error => 1,
                Severity::Warning => 3,
                _ => 0,
            };
            Ok(())
        }
    })?;
    Ok(code)
}

/// With the locks that the service has, as far as that can be known.
async fn backend(redis: &RedisBackend, service: &ServiceName) -> streamlease::Result<Backend> {
    let with = |scheme| redis.clone().with_lock_scheme(scheme).backend(service);
    match redis.recorded_lock_scheme(service).await {
        Ok(Some(scheme)) => with(scheme),
        Err(_) => with(LockScheme::Session),
        Ok(None) => match with(LockScheme::PerStream) {
            // A group without that record was made by consumers of the wire format.
            Ok(wire) if wire.admin.consumers().await.is_ok() => Ok(wire),
            _ => with(LockScheme::Session),
        },
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename = "finding")]
struct Line<'a> {
    severity: &'static str,
    code: &'static str,
    message: &'a str,
    advice: Option<&'a str>,
    link: Option<&'a str>,
}

/// The last line: that the report is complete.
#[derive(Serialize)]
#[serde(tag = "event", rename = "summary")]
struct Summary {
    errors: usize,
    warnings: usize,
    infos: usize,
    ok: usize,
}

impl Summary {
    fn of(report: &Report) -> Self {
        Self {
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            infos: report.count(Severity::Info),
            ok: report.count(Severity::Ok),
        }
    }
}

fn json(report: &Report) -> String {
    let line = |finding: &Finding| {
        json_line(&Line {
            severity: finding.severity.name(),
            code: finding.code,
            message: &finding.message,
            advice: finding.advice.as_deref(),
            link: finding.link.as_deref(),
        })
    };
    let mut lines: String = report.findings.iter().map(line).collect();
    lines += &json_line(&Summary::of(report));
    lines
}

/// One line each, and below it what to do, if something is to be done.
fn readable(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (severity, code) = (finding.severity, finding.code);
        text += &format!("{severity:8}{code:14}{}\n", printable(&finding.message));
        if severity < Severity::Warning {
            continue;
        }
        for more in [&finding.advice, &finding.link].into_iter().flatten() {
            text += &format!("{:22}{}\n", "", printable(more));
        }
    }
    let Summary {
        errors,
        warnings,
        infos,
        ok,
    } = Summary::of(report);
    text + &format!("\nerrors: {errors}, warnings: {warnings}, infos: {infos}, ok: {ok}\n")
}
