//! What a server tells of itself, for `client.check()` and `streamlease doctor`.
//!
//! Nothing is written. One message that no consumer understands is published, to see whether
//! it comes back.

mod clock;
mod hints;
mod info;
mod keys;
mod restarts;
mod way;

use streamlease_core::{Error, ErrorKind, FINDINGS_PAGE, Finding, LockScheme, Severity};

use crate::connection::Server;
use crate::keys::Keys;
use crate::rights::{Rights, grant};

/// All that is found; the first that cannot be passed by is the last.
pub(crate) async fn look(server: &Server, keys: &Keys, scheme: LockScheme) -> Vec<Finding> {
    let (mut findings, is_there) = way::look(server).await;
    if !is_there {
        return findings;
    }
    findings.push(rights(server, keys, scheme).await);
    findings.extend(info::look(server).await);
    findings.push(clock::look(server).await);
    findings.extend(hints::look(server, keys, scheme).await);
    findings.extend(keys::look(server, keys, scheme).await);
    if scheme == LockScheme::Session {
        findings.push(restarts::look(server, keys).await);
    }
    findings
}

fn finding(severity: Severity, code: &'static str, message: impl Into<String>) -> Finding {
    Finding::new(severity, code, message).explained_on(FINDINGS_PAGE)
}

/// What could not be looked at.
fn unknown(code: &'static str, error: &Error) -> Finding {
    let message = format!("not known: {error}");
    match error.kind() {
        ErrorKind::Denied => finding(Severity::Info, code, message)
            .advise("To have it looked at, grant the right that the message names"),
        _ => finding(Severity::Info, code, message),
    }
}

async fn rights(server: &Server, keys: &Keys, scheme: LockScheme) -> Finding {
    const CODE: &str = "rights";
    let rights = Rights::new(keys, scheme, server.db(), server.is_cluster());
    let granted = match rights.look(server).await {
        Ok(granted) => granted,
        Err(error) if error.kind() == ErrorKind::Denied => {
            return finding(Severity::Error, CODE, error.to_string())
                .advise(grant(&rights.rules()));
        }
        Err(error) if error.kind() == ErrorKind::Incompatible => {
            let message = "the server runs no scripts (EVAL, EVALSHA), and nothing works without";
            return finding(Severity::Error, CODE, message).advise(
                "Some services have none on some of their plans: use another plan, or a server \
                 that has them",
            );
        }
        Err(error) => return unknown(CODE, &error),
    };
    let named = |what: &str, names: &[String]| format!("{what}: {}", names.join(" "));
    if !granted.missing.is_empty() {
        let all = [&granted.missing[..], &granted.done_without].concat();
        return finding(Severity::Error, CODE, named("missing", &all)).advise(grant(&all));
    }
    if !granted.unknown.is_empty() {
        let message = named("the server does not know the commands", &granted.unknown);
        return finding(Severity::Warning, CODE, message).advise(
            "Were they renamed, or does the service block them? Without CONFIG, INFO and the \
             channels consumers work; without others they do not",
        );
    }
    if !granted.done_without.is_empty() {
        let message = named("done without", &granted.done_without);
        return finding(Severity::Warning, CODE, message).advise(grant(&granted.done_without));
    }
    match granted.commands {
        0 => finding(Severity::Info, CODE, "not known: the server cannot tell"),
        count => finding(
            Severity::Ok,
            CODE,
            format!("all {count} commands are granted"),
        ),
    }
}
