//! The server's clock, by that of this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis_rs::cmd;
use streamlease_core::{Finding, Result, Severity, readable};

use super::{finding, unknown};
use crate::connection::Server;
use crate::decode;

const CODE: &str = "clock";
/// No rule needs the clocks to agree; people who compare logs do. A clock that is set right
/// some day jumps by as much, and a jump forward lets leases end early.
const APART: Duration = Duration::from_secs(10);

pub(super) async fn look(server: &Server) -> Finding {
    match difference(server).await {
        Err(error) => unknown(CODE, &error),
        Ok((Duration::ZERO, _)) => finding(
            Severity::Ok,
            CODE,
            "the server's clock shows the same as this machine's",
        ),
        Ok((apart, ahead)) => {
            let direction = if ahead { "ahead of" } else { "behind" };
            let difference = readable(apart);
            let message = format!("the server's clock is {difference} {direction} this machine's");
            match apart >= APART {
                false => finding(Severity::Ok, CODE, message),
                true => finding(Severity::Warning, CODE, message).advise(
                    "Have both follow a time server. When the server's clock is set forward, \
                     leases end early",
                ),
            }
        }
    }
}

/// How far they are apart, and whether the server's is ahead.
async fn difference(server: &Server) -> Result<(Duration, bool)> {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    };
    let before = now();
    let reply = server.command("asking for the time", &cmd("TIME")).await?;
    let after = now();
    let [seconds, micros] = decode::tuple(reply)?;
    let part = |value| Ok(decode::text(value)?.parse::<u64>().unwrap_or_default());
    let theirs = Duration::from_secs(part(seconds)?);
    let theirs = theirs.saturating_add(Duration::from_micros(part(micros)?));
    // It was between these two.
    Ok(match (theirs < before, theirs > after) {
        (true, _) => (before.saturating_sub(theirs), false),
        (_, true) => (theirs.saturating_sub(after), true),
        _ => (Duration::ZERO, true),
    })
}
