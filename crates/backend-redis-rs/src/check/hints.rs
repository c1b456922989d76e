//! Whether hints arrive, and whether the server tells of keys that expire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_lite::StreamExt;
use redis_rs::cmd;
use streamlease_core::{ErrorKind, Finding, LockScheme, Result, Severity, readable};

use super::{finding, unknown};
use crate::connection::Server;
use crate::keys::Keys;
use crate::notifier::{flags, merge_flags};
use crate::timer;

/// How long each step may take.
const WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn look(server: &Server, keys: &Keys, scheme: LockScheme) -> Vec<Finding> {
    let mut findings = vec![hints(server, keys).await];
    if scheme == LockScheme::PerStream {
        findings.push(expired_keys(server).await);
    }
    findings
}

async fn hints(server: &Server, keys: &Keys) -> Finding {
    const CODE: &str = "hints";
    let advice = "Consumers go by deadlines alone: what others hand back they notice later. \
                  Grant the channel, and +publish +subscribe";
    match come_back(server, keys).await {
        Ok(Some(after)) => {
            let message = format!("a hint came back after {}", readable(after));
            finding(Severity::Ok, CODE, message)
        }
        Ok(None) => finding(
            Severity::Warning,
            CODE,
            format!("a hint on {} did not come back", keys.hints),
        )
        .advise(advice),
        Err(error) => finding(Severity::Warning, CODE, error.to_string()).advise(advice),
    }
}

/// How long a message takes from here to here.
async fn come_back(server: &Server, keys: &Keys) -> Result<Option<Duration>> {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    };
    let (_lifetime, mut sink, mut stream) = server.pubsub().await?;
    match timer::within(WITHIN, sink.subscribe(&*keys.hints)).await {
        None => return Ok(None),
        Some(subscribed) => subscribed.map_err(|err| server.failed("subscribing", err))?,
    }
    // No hint begins with this letter, so that consumers pass it by.
    let payload = format!("D{:x}", now().as_nanos());
    let mut publish = cmd("PUBLISH");
    publish.arg(&keys.hints).arg(&payload);
    let began = now();
    server.command("publishing", &publish).await?;
    let heard = async {
        while let Some(message) = stream.next().await {
            if message.get_payload_bytes() == payload.as_bytes() {
                return true;
            }
        }
        false
    };
    let heard = timer::within(WITHIN, heard).await;
    Ok((heard == Some(true)).then(|| now().saturating_sub(began)))
}

async fn expired_keys(server: &Server) -> Finding {
    const CODE: &str = "expired-keys";
    match flags(server).await {
        Ok(flags) if merge_flags(&flags).is_none() => {
            finding(Severity::Ok, CODE, "the server tells of keys that expire")
        }
        Ok(flags) => finding(
            Severity::Info,
            CODE,
            format!(
                "the server does not tell of keys that expire (notify-keyspace-events {flags:?})"
            ),
        )
        .advise(
            "A consumer sets the flags at its start, if it has the right to CONFIG SET. Without \
             them failover goes by deadlines, which takes a little longer",
        ),
        Err(error) if error.kind() == ErrorKind::Unavailable => unknown(CODE, &error),
        Err(error) => unknown(CODE, &error).advise(
            "Nobody may look at the flags. Failover goes by deadlines if the server does not \
             tell of keys that expire; set notify-keyspace-events to Kx where that is possible",
        ),
    }
}
