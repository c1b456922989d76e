//! The keys of the service: which ones should be there and are not.

use redis_rs::{Pipeline, Value};
use streamlease_core::{Finding, LockScheme, Result, Severity};

use super::{finding, unknown};
use crate::connection::Server;
use crate::decode;
use crate::keys::Keys;
use crate::locks::{other_scheme, scheme_name};

const CODE: &str = "keys";

/// What is there.
struct Seen {
    scheme: Option<String>,
    group: bool,
    sessions: bool,
    owners: bool,
    tokens: bool,
    details: bool,
    /// What has a type that it must not have.
    wrong: Vec<String>,
}

pub(super) async fn look(server: &Server, keys: &Keys, scheme: LockScheme) -> Vec<Finding> {
    let seen = match see(server, keys).await {
        Ok(seen) => seen,
        Err(error) => return vec![unknown(CODE, &error)],
    };
    let mut findings = Vec::new();
    if !seen.wrong.is_empty() {
        let message = format!("of a wrong type: {}", seen.wrong.join(", "));
        findings.push(finding(Severity::Error, CODE, message).advise(
            "Something else writes there. Delete the key, or give one of the two another name",
        ));
    }
    if let Some(recorded) = seen.scheme.as_deref()
        && recorded != scheme_name(scheme)
    {
        let message = other_scheme(&keys.lbs, scheme, Some(recorded)).to_string();
        findings.push(
            finding(Severity::Error, "lock-scheme", message)
                .advise("Consumers with the other locks end at their start. Give all the same"),
        );
    }
    let missing = missing(&seen, keys, scheme);
    if !missing.is_empty() {
        let message = format!("missing: {}", missing.join(", "));
        findings.push(finding(Severity::Warning, CODE, message).advise(
            "Somebody deleted or evicted it, or the server came back without its data. \
             Consumers make it anew, but what was in it is lost: submit again what is not \
             announced any more. See the findings about eviction and persistence",
        ));
    } else if seen.wrong.is_empty() {
        findings.push(finding(Severity::Ok, CODE, "no key is missing"));
    }
    findings
}

/// What the service has used, and is not there.
fn missing<'a>(seen: &Seen, keys: &'a Keys, scheme: LockScheme) -> Vec<&'a str> {
    let mut missing = Vec::new();
    let was_used = seen.scheme.is_some() || seen.owners || seen.sessions;
    if was_used && !seen.group {
        missing.push(&*keys.lbs);
    }
    if scheme == LockScheme::Session {
        if seen.scheme.is_none() && (seen.owners || seen.details) {
            missing.push(&keys.scheme);
        }
        // A heartbeat leaves marks in these, and in the details what its TTL is.
        if seen.sessions {
            for (is_there, key) in [
                (seen.owners, &keys.owners),
                (seen.tokens, &keys.tokens),
                (seen.details, &keys.details),
            ] {
                if !is_there {
                    missing.push(key);
                }
            }
        }
    }
    missing
}

async fn see(server: &Server, keys: &Keys) -> Result<Seen> {
    let what = "looking for keys";
    let mut ask = Pipeline::new();
    ask.cmd("GET").arg(&keys.scheme);
    ask.cmd("XINFO").arg("GROUPS").arg(&keys.lbs);
    ask.cmd("ZCARD").arg(&keys.sessions);
    ask.cmd("HEXISTS").arg(&keys.owners).arg("");
    ask.cmd("HEXISTS").arg(&keys.tokens).arg("");
    ask.cmd("HLEN").arg(&keys.details);
    ask.cmd("HLEN").arg(&keys.announced);
    ask.cmd("HLEN").arg(&keys.quarantine);
    ask.cmd("ZCARD").arg(&keys.quarantine_index);
    let mut replies = server.pipeline(what, &ask).await?.into_iter();
    let mut wrong = Vec::new();
    let mut next = |key: &str| {
        Ok(match decode::next(&mut replies)? {
            Value::ServerError(err) if err.code() == "WRONGTYPE" => {
                wrong.push(key.to_owned());
                Value::Nil
            }
            reply => reply,
        })
    };
    let scheme = match server.checked(what, next(&keys.scheme)?)? {
        Value::Nil => None,
        name => Some(decode::text(name)?),
    };
    let group = match next(&keys.lbs)? {
        Value::Nil => false,
        // No such key.
        Value::ServerError(err) if err.code() == "ERR" => false,
        reply => decode::group_state(server.checked(what, reply)?, &keys.group)?.is_some(),
    };
    let mut is_some = |key: &str| -> Result<bool> {
        Ok(match server.checked(what, next(key)?)? {
            Value::Nil => false,
            count => decode::number(count)? > 0,
        })
    };
    let (sessions, owners) = (is_some(&keys.sessions)?, is_some(&keys.owners)?);
    let (tokens, details) = (is_some(&keys.tokens)?, is_some(&keys.details)?);
    for key in [&keys.announced, &keys.quarantine, &keys.quarantine_index] {
        is_some(key)?;
    }
    Ok(Seen {
        scheme,
        group,
        sessions,
        owners,
        tokens,
        details,
        wrong,
    })
}
