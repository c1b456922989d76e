//! What `INFO` tells: memory, persistence, replicas.

use redis_rs::cmd;
use streamlease_core::{Finding, Result, Severity};

use super::{finding, unknown};
use crate::connection::Server;
use crate::decode;
use crate::eviction::policy_in;

/// A replica that has said nothing for so many seconds is behind.
const LAG: u64 = 5;

pub(super) async fn look(server: &Server) -> Vec<Finding> {
    let info = match ask(server).await {
        Ok(text) => Info(text),
        Err(error) => return vec![unknown("info", &error)],
    };
    let mut findings = vec![eviction(&info)];
    findings.extend(memory(&info));
    findings.extend(persistence(&info));
    findings.extend(replicas(&info, server.is_asked_for()));
    findings
}

async fn ask(server: &Server) -> Result<String> {
    let what = "asking for the server's state";
    decode::text(server.command(what, &cmd("INFO")).await?)
}

struct Info(String);

impl Info {
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().map(str::trim_end);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    /// Each as one line: `slave0:ip=…`.
    fn replicas(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().map(str::trim_end);
        lines.filter_map(|line| {
            let (name, replica) = line.split_once(':')?;
            let index = name.strip_prefix("slave")?;
            index.parse::<u64>().is_ok().then_some(replica)
        })
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

fn eviction(info: &Info) -> Finding {
    const CODE: &str = "eviction";
    match policy_in(&info.0) {
        None => finding(Severity::Ok, CODE, "the server evicts no keys"),
        Some(policy) => finding(
            Severity::Warning,
            CODE,
            format!("the server may evict keys (maxmemory-policy {policy})"),
        )
        .advise(
            "Set maxmemory-policy to noeviction, or give streamlease a server of its own: an \
             evicted key costs leases, and can lose announcements",
        ),
    }
}

fn memory(info: &Info) -> Option<Finding> {
    const CODE: &str = "memory";
    let (used, most) = (info.number("used_memory")?, info.number("maxmemory")?);
    if most == 0 {
        return Some(finding(Severity::Ok, CODE, "no limit is set"));
    }
    let percent = used.saturating_mul(100) / most;
    let message = format!("{percent} % of maxmemory is used");
    let advice = "When it is full, nothing is submitted and nothing released from quarantine; \
                  owners go on. Raise maxmemory, or see what fills it";
    Some(match percent {
        0..90 => finding(Severity::Ok, CODE, message),
        90..100 => finding(Severity::Warning, CODE, message).advise(advice),
        _ => finding(Severity::Error, CODE, message).advise(advice),
    })
}

fn persistence(info: &Info) -> Option<Finding> {
    const CODE: &str = "persistence";
    let has_log = info.number("aof_enabled")? == 1;
    let failed = |field: &str| info.field(field) == Some("err");
    let fails = match (has_log, failed("aof_last_write_status")) {
        (true, true) => Some("the last write to the append-only file failed"),
        _ if failed("rdb_last_bgsave_status") => Some("the last snapshot failed"),
        _ => None,
    };
    if let Some(message) = fails {
        return Some(finding(Severity::Error, CODE, message).advise(
            "Is the disk full? The server may refuse writes until it is written (MISCONF)",
        ));
    }
    Some(match has_log {
        true => finding(Severity::Ok, CODE, "there is an append-only file"),
        false => finding(Severity::Warning, CODE, "there is no append-only file").advise(
            "A restart loses what was written since the last snapshot, or all without \
             snapshots. Set appendonly yes",
        ),
    })
}

/// `is_followed`: consumers follow the primary to its successor.
fn replicas(info: &Info, is_followed: bool) -> Vec<Finding> {
    let (Some("master"), Some(count)) = (info.field("role"), info.number("connected_slaves"))
    else {
        return Vec::new();
    };
    // Where nobody takes over, that there is nobody may be meant so.
    let severity = match is_followed {
        true => Severity::Warning,
        false => Severity::Info,
    };
    let mut findings = Vec::new();
    let behind = info.replicas().filter(|replica| is_behind(replica)).count();
    let message = format!("connected replicas: {count}");
    findings.push(match (count, behind) {
        (0, _) => finding(severity, "replicas", "there is no replica")
            .advise("Nobody takes over when the server is lost; have at least one replica"),
        (_, 0) => finding(Severity::Ok, "replicas", message),
        _ => finding(
            Severity::Warning,
            "replicas",
            format!("{message}, {behind} of them behind"),
        )
        .advise("What it has not got is lost if it takes over now. See its log and its network"),
    });
    // The field is there if the setting is.
    match info.number("min_slaves_good_slaves") {
        Some(0) => findings.push(
            finding(
                Severity::Error,
                "min-replicas",
                "no replica keeps up, and the server refuses writes for that",
            )
            .advise("Bring a replica back, or lower min-replicas-to-write"),
        ),
        Some(good) => findings.push(finding(
            Severity::Ok,
            "min-replicas",
            format!("writes need replicas, and {good} keep up"),
        )),
        None if count > 0 => findings.push(
            finding(
                severity,
                "min-replicas",
                "a primary that lost all its replicas goes on accepting writes",
            )
            .advise(
                "Set min-replicas-to-write 1 and min-replicas-max-lag 1 on all servers: what a \
                 primary accepts after it was replaced is lost",
            ),
        ),
        None => {}
    }
    findings
}

/// `ip=…,port=…,state=online,offset=…,lag=0`
fn is_behind(replica: &str) -> bool {
    let field = |name: &str| {
        let mut fields = replica.split(',').filter_map(|field| field.split_once('='));
        fields
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    };
    let lag = field("lag").and_then(|lag| lag.parse::<u64>().ok());
    field("state") != Some("online") || lag.is_some_and(|lag| lag >= LAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> Info {
        Info(lines.join("\r\n"))
    }

    fn severities(findings: &[Finding]) -> Vec<(&str, Severity)> {
        let of = |finding: &Finding| (finding.code, finding.severity);
        findings.iter().map(of).collect()
    }

    #[test]
    fn full_memory_is_told_before_and_when_it_hinders() {
        for (used, most, severity) in [
            ("500", "0", Severity::Ok),
            ("500", "1000", Severity::Ok),
            ("900", "1000", Severity::Warning),
            ("1000", "1000", Severity::Error),
            ("1200", "1000", Severity::Error),
        ] {
            let info = info(&[
                &format!("used_memory:{used}"),
                "used_memory_human:x",
                &format!("maxmemory:{most}"),
            ]);
            assert_eq!(
                memory(&info).unwrap().severity,
                severity,
                "{used} of {most}"
            );
        }
        assert!(memory(&info(&["# Memory"])).is_none());
    }

    #[test]
    fn what_a_restart_would_lose_and_what_cannot_be_written_is_told() {
        for (lines, severity) in [
            (
                &["aof_enabled:1", "aof_last_write_status:ok"][..],
                Severity::Ok,
            ),
            (
                &["aof_enabled:1", "aof_last_write_status:err"],
                Severity::Error,
            ),
            (
                &["aof_enabled:0", "rdb_last_bgsave_status:ok"],
                Severity::Warning,
            ),
            (
                &["aof_enabled:0", "rdb_last_bgsave_status:err"],
                Severity::Error,
            ),
        ] {
            assert_eq!(
                persistence(&info(lines)).unwrap().severity,
                severity,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn replicas_that_are_missing_or_behind_are_told() {
        use Severity::*;
        let online = "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=0";
        let behind = "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=7";
        let joining = "slave0:ip=127.0.0.1,port=1,state=send_bulk,offset=0,lag=0";
        let good = "min_slaves_good_slaves:1";
        for (lines, is_followed, found) in [
            (
                &["connected_slaves:0"][..],
                true,
                &[("replicas", Warning)][..],
            ),
            (&["connected_slaves:0"], false, &[("replicas", Info)]),
            (
                // Whatever a server says is read in no time.
                &["connected_slaves:18446744073709551615", online],
                true,
                &[("replicas", Ok), ("min-replicas", Warning)],
            ),
            (
                &["connected_slaves:1", online],
                true,
                &[("replicas", Ok), ("min-replicas", Warning)],
            ),
            (
                &["connected_slaves:1", online],
                false,
                &[("replicas", Ok), ("min-replicas", Info)],
            ),
            (
                &["connected_slaves:1", online, good],
                true,
                &[("replicas", Ok), ("min-replicas", Ok)],
            ),
            (
                &["connected_slaves:1", behind, good],
                true,
                &[("replicas", Warning), ("min-replicas", Ok)],
            ),
            (
                &["connected_slaves:1", joining, "min_slaves_good_slaves:0"],
                true,
                &[("replicas", Warning), ("min-replicas", Error)],
            ),
        ] {
            let text = [&["role:master"], lines].concat();
            let text: Vec<_> = text.to_vec();
            let findings = replicas(&super::Info(text.join("\r\n")), is_followed);
            assert_eq!(severities(&findings), found, "{lines:?}");
        }
        let replica = info(&["role:slave", "connected_slaves:0"]);
        assert!(replicas(&replica, true).is_empty());
    }
}
