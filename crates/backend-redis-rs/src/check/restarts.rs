//! What session leases have on record about restarts of the server.

use std::time::Duration;

use redis_rs::{Pipeline, Value};
use streamlease_core::{Finding, Result, Severity, readable};

use super::{finding, unknown};
use crate::connection::Server;
use crate::decode;
use crate::keys::Keys;

const CODE: &str = "restarts";
/// What is longer than that nobody has written who knows what it means.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) async fn look(server: &Server, keys: &Keys) -> Finding {
    let (grace, doubted) = match see(server, keys).await {
        Ok(seen) => seen,
        Err(error) => return unknown(CODE, &error),
    };
    if !doubted.is_zero() {
        let message = "the server's run id changes too often to be that of one server";
        return finding(Severity::Warning, CODE, message).advise(
            "Several processes answer INFO, as behind some proxies, or the server is restarted \
             again and again. Restarts go unnoticed until the run id has been the same for a \
             minute: connect to the server itself, or find out why it restarts",
        );
    }
    match grace {
        Duration::ZERO => finding(Severity::Ok, CODE, "no restart holds new leases back"),
        grace => {
            let message = format!(
                "new leases are held back for {} more: the server was restarted, or its clock \
                 was set forward, or keys are gone",
                readable(grace)
            );
            finding(Severity::Info, CODE, message)
        }
    }
}

/// For how long new leases are held back, and for how long run ids are not believed.
async fn see(server: &Server, keys: &Keys) -> Result<(Duration, Duration)> {
    let what = "looking at what is known of restarts";
    let mut ask = Pipeline::new();
    ask.cmd("TIME");
    ask.cmd("HMGET")
        .arg(&keys.server)
        .arg("calm")
        .arg("several");
    let mut replies = server.pipeline(what, &ask).await?.into_iter();
    let time = server.checked(what, decode::next(&mut replies)?)?;
    let known = server.checked(what, decode::next(&mut replies)?)?;
    let [seconds, _] = decode::tuple(time)?;
    let seconds: u64 = decode::text(seconds)?.parse().unwrap_or_default();
    let now = seconds.saturating_mul(1000);
    let [grace, doubted] = decode::tuple(known)?;
    let left = |until: Value| -> Result<Duration> {
        if until == Value::Nil {
            return Ok(Duration::ZERO);
        }
        let until: u64 = decode::text(until)?.parse().unwrap_or_default();
        let left = Duration::from_millis(until.saturating_sub(now));
        Ok(if left <= LONGEST {
            left
        } else {
            Duration::ZERO
        })
    };
    Ok((left(grace)?, left(doubted)?))
}
