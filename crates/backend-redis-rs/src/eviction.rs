//! Whether the server may remove keys of a service when its memory is full.

use redis_rs::cmd;
use streamlease_core::{Result, printable};

use crate::RedisBackend;
use crate::connection::Server;
use crate::decode;

impl RedisBackend {
    /// The server's eviction policy, if by it the server may remove keys of its own
    /// accord: any but `noeviction`, with a limit to its memory. A service survives
    /// the loss of each key, but at the price of leases, and of announcements if it is
    /// the LBS. `volatile-…` policies remove per-stream locks, and what makes a repeated
    /// submit harmless. On a cluster that is the policy of one node; all should have the
    /// same. A client warns of the one that has its service.
    ///
    /// # Errors
    /// As any command's; [`Denied`](streamlease_core::ErrorKind::Denied) without the
    /// right to `INFO`.
    pub async fn eviction_policy(&self) -> Result<Option<String>> {
        policy(&self.servers.any()).await
    }
}

/// Says it loudly, where it may ask.
pub(crate) async fn warn(server: &Server) {
    if let Ok(Some(policy)) = policy(server).await {
        let policy = printable(policy);
        log::warn!(
            "{}: the server may evict keys (maxmemory-policy {policy}), which costs leases and \
             can lose announcements; set it to noeviction, or give streamlease a server of its own",
            server.endpoint()
        );
    }
}

async fn policy(server: &Server) -> Result<Option<String>> {
    let mut info = cmd("INFO");
    info.arg("memory");
    let reply = server
        .command("asking for the eviction policy", &info)
        .await?;
    Ok(policy_in(&decode::text(reply)?))
}

pub(crate) fn policy_in(info: &str) -> Option<String> {
    let field = |name: &str| {
        let mut lines = info.lines().map(str::trim_end);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let policy = field("maxmemory_policy")?;
    let is_limited = field("maxmemory") != Some("0");
    (is_limited && policy != "noeviction").then(|| policy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::policy_in;

    #[test]
    fn only_a_policy_that_may_remove_something_is_one() {
        let info = |limit: &str, policy: &str| {
            format!(
                "# Memory\r\nmaxmemory:{limit}\r\nmaxmemory_human:x\r\nmaxmemory_policy:{policy}\r\n"
            )
        };
        assert_eq!(policy_in(&info("1024", "noeviction")), None);
        assert_eq!(policy_in(&info("0", "allkeys-lru")), None);
        let lru = policy_in(&info("1024", "allkeys-lru"));
        assert_eq!(lru.as_deref(), Some("allkeys-lru"));
        assert_eq!(policy_in("# Memory\r\n"), None);
    }
}
