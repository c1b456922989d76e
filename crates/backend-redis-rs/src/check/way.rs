//! The way to the server: whether it can be reached, and whether it is the right one.

use streamlease_core::{Error, Finding, Severity};

use super::{finding, unknown};
use crate::connection::{Census, Server};
use crate::hello::Hello;

/// The oldest major version that is tested.
const OLDEST: u32 = 7;

/// What is found, and whether there is a server that more can be asked.
pub(super) async fn look(server: &Server) -> (Vec<Finding>, bool) {
    let mut findings = Vec::new();
    if let Some(census) = server.census().await {
        findings.push(those_who_are_asked(&census));
    }
    if let Err(error) = server.ping().await {
        findings.push(failed(server, &error));
        return (findings, false);
    }
    let hello = match Hello::of_server(server).await {
        Ok(hello) => hello,
        Err(error) => {
            findings.push(unknown("server", &error));
            return (findings, true);
        }
    };
    findings.push(what(server, &hello));
    findings.extend(version(&hello));
    if let Some(mode) = wrong_mode(server, &hello) {
        let is_there = mode.severity < Severity::Error;
        findings.push(mode);
        if !is_there {
            return (findings, false);
        }
    }
    findings.extend(role(&hello));
    (findings, true)
}

fn failed(server: &Server, error: &Error) -> Finding {
    let failed = Finding::of_error(error);
    match (failed.code, server.is_asked_for()) {
        ("unreachable", true) => failed.advise(
            "Is there a primary, or an owner, that accepts writes now? During a failover this \
             passes",
        ),
        _ => failed,
    }
}

/// Sentinels, or the nodes of a cluster.
fn those_who_are_asked(census: &Census) -> Finding {
    let (code, who, asked) = (census.who, census.who, census.asked);
    let answered = asked - census.errors.len();
    let mut message = format!("{answered} of {asked} {who} answer");
    match &census.owners[..] {
        [] => {}
        [owner] => message += &format!(", and name {owner}"),
        owners => message += &format!(", and do not agree: {}", owners.join(", ")),
    }
    for error in &census.errors {
        message += &format!("; {error}");
    }
    if answered == 0 || (code == SENTINELS && 2 * answered <= asked) {
        return finding(Severity::Error, code, message)
            .advise("Most of them have to answer; see that they run and can be reached from here");
    }
    if !census.errors.is_empty() {
        return finding(Severity::Warning, code, message).advise(
            "The others are enough for now. See why these do not answer, or take them out of \
             the URL",
        );
    }
    if census.owners.len() > 1 {
        return finding(Severity::Warning, code, message)
            .advise("A failover is under way, or they do not reach each other; look again");
    }
    if code == SENTINELS && asked < 3 {
        return finding(Severity::Warning, code, message)
            .advise("Run at least three, and name them all in the URL: one may be lost then");
    }
    finding(Severity::Ok, code, message)
}

/// As a census names them.
const SENTINELS: &str = "sentinels";

fn what(server: &Server, hello: &Hello) -> Finding {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
    let message = format!(
        "{} {} ({}) at {}",
        part(&hello.server),
        part(&hello.version),
        part(&hello.mode),
        server.endpoint()
    );
    finding(Severity::Info, "server", message)
}

fn version(hello: &Hello) -> Option<Finding> {
    let version = hello.version.as_deref()?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    (major < OLDEST).then(|| {
        let message = format!("version {version} is older than {OLDEST}.0 and is not tested");
        finding(Severity::Warning, "version", message).advise("Use Redis 7.0 or later, or Valkey")
    })
}

fn wrong_mode(server: &Server, hello: &Hello) -> Option<Finding> {
    match hello.mode.as_deref()? {
        "cluster" if !server.is_asked_for() => Some(
            finding(
                Severity::Warning,
                "mode",
                "it is a node of a cluster, and the URL leads to this one for ever",
            )
            .advise(
                "Use redis-cluster://host:6379,…, which finds the node that has the service and \
                 its successors",
            ),
        ),
        _ => None,
    }
}

fn role(hello: &Hello) -> Option<Finding> {
    match hello.role.as_deref()? {
        "master" => Some(finding(Severity::Ok, "role", "it is a primary")),
        role => Some(
            finding(
                Severity::Error,
                "role",
                format!("it is a {role}, which refuses writes: consumers wait"),
            )
            .advise(
                "Connect to the primary: by sentinels, by redis-cluster://, or by a name that \
                 leads to it",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use streamlease_core::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_what_is_older_than_what_is_tested_is_old() {
        for (text, is_old) in [
            ("6.2.14", true),
            ("7.0.15", false),
            ("9.1.2", false),
            ("10.0.0", false),
            ("unstable", false),
        ] {
            let hello = Hello {
                version: Some(text.to_owned()),
                ..Hello::default()
            };
            assert_eq!(version(&hello).is_some(), is_old, "{text}");
        }
        assert!(version(&Hello::default()).is_none(), "nobody says");
    }

    #[test]
    fn sentinels_count_by_the_majority_and_nodes_by_one() {
        let away = || Error::new(ErrorKind::Unavailable, "away");
        let (one, other) = ("a:1".to_owned(), "b:1".to_owned());
        for (who, owners, errors, severity) in [
            ("sentinels", vec![one.clone()], 0, Severity::Ok),
            ("sentinels", vec![one.clone()], 1, Severity::Warning),
            ("sentinels", vec![one.clone()], 2, Severity::Error),
            (
                "sentinels",
                vec![one.clone(), other.clone()],
                0,
                Severity::Warning,
            ),
            ("nodes", vec![one.clone()], 0, Severity::Ok),
            ("nodes", vec![one.clone()], 2, Severity::Warning),
            ("nodes", vec![], 3, Severity::Error),
        ] {
            let census = Census {
                who,
                asked: 3,
                owners: owners.clone(),
                errors: (0..errors).map(|_| away()).collect(),
            };
            let found = those_who_are_asked(&census);
            assert_eq!(
                found.severity, severity,
                "{who} {owners:?} {errors}: {found}"
            );
        }
        let census = Census {
            who: "sentinels",
            asked: 2,
            owners: vec![one],
            errors: Vec::new(),
        };
        assert_eq!(those_who_are_asked(&census).severity, Severity::Warning);
    }
}
