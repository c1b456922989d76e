//! [`Sentinels`]: a primary with replicas, and sentinels that replace it.

use std::time::Duration;

use crate::redis_server::{RedisServer, RedisServerBuilder, free_port};
use crate::wait::{eventually_blocking, wait_for_blocking};

/// The name under which the sentinels know the primary.
const NAME: &str = "mymaster";
/// Sentinels that wait for less replace a primary, once more, that only has a busy machine.
const DOWN_AFTER_MS: u32 = 2000;
/// Within this a test's fleet is up, has replaced its primary, or has failed.
const WITHIN: Duration = Duration::from_secs(20);

/// Three servers and three sentinels of one test's own, each stopped on drop.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts them and waits until the replicas follow and the sentinels agree.
    pub fn start() -> Self {
        Self::with(|server| server, |sentinel| sentinel)
    }

    /// The same with settings of the servers' own, and of the sentinels'.
    pub fn with(
        settings: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
        of_sentinels: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
    ) -> Self {
        let server = || settings(RedisServer::builder().config("repl-diskless-sync-delay 0"));
        let primary = server().start();
        let replica_of = format!("replicaof 127.0.0.1 {}", primary.port_for_others());
        let mut servers = vec![primary];
        for _ in 0..2 {
            servers.push(server().config(&replica_of).start());
        }
        let ports: Vec<u16> = servers.iter().map(RedisServer::port_for_others).collect();
        let sentinels = sentinels_of(&ports, of_sentinels);
        let all = Self { servers, sentinels };
        let what = "replicas that follow, and sentinels that agree";
        eventually_blocking(what, WITHIN, || {
            // The primary counts those that are still being sent everything, too.
            let mut replicas = all.servers[1..].iter();
            let have_all = replicas.all(|replica| {
                let info: String = replica.run(&["INFO", "replication"]);
                info.contains("master_link_status:up")
            });
            let quorum = redis::cmd("SENTINEL")
                .arg("CKQUORUM")
                .arg(NAME)
                .query::<String>(&mut all.sentinels[0].connection());
            have_all && quorum.is_ok_and(|said| said.starts_with("OK 3"))
        });
        all.servers[0].replicated_to(2);
        all
    }

    /// The URL that names all sentinels.
    pub fn url(&self) -> String {
        let addresses = self.sentinels.iter().map(|one| one.addr().to_string());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        format!("redis-sentinel://{addresses}/{NAME}")
    }

    /// The same over TLS.
    pub fn tls_url(&self) -> String {
        let ports = self.sentinels.iter().map(RedisServer::tls_port);
        let addresses: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("rediss-sentinel://{}/{NAME}", addresses.join(","))
    }

    /// The servers, the first primary first. Which one is it now the sentinels know.
    pub fn server(&self, index: usize) -> &RedisServer {
        &self.servers[index]
    }

    /// The same, to kill and to start it.
    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[index]
    }

    /// One of the sentinels.
    pub fn sentinel(&self, index: usize) -> &RedisServer {
        &self.sentinels[index]
    }

    /// The same, to kill and to start it.
    pub fn sentinel_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.sentinels[index]
    }

    /// Which server most of the sentinels that answer name the primary.
    pub fn primary(&self) -> usize {
        wait_for_blocking("sentinels that agree on a primary", WITHIN, || {
            let named: Vec<usize> = self
                .sentinels
                .iter()
                .filter_map(|sentinel| self.named_by(sentinel))
                .collect();
            let votes = |server: &usize| named.iter().filter(|other| *other == server).count();
            (0..self.servers.len()).find(|server| 2 * votes(server) > named.len())
        })
    }

    fn named_by(&self, sentinel: &RedisServer) -> Option<usize> {
        let limit = Duration::from_millis(300);
        let client = redis::Client::open(sentinel.url()).ok()?;
        let mut connection = client.get_connection_with_timeout(limit).ok()?;
        connection.set_read_timeout(Some(limit)).ok()?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(NAME);
        let (_, port): (String, u16) = ask.query(&mut connection).ok()?;
        let mut servers = self.servers.iter();
        servers.position(|server| server.port_for_others() == port)
    }

    /// Has the sentinels replace the primary, which knows nothing of it and goes on
    /// accepting writes; returns which one it is then.
    pub fn fail_over(&self) -> usize {
        let before = self.primary();
        self.sentinels[0].run::<()>(&["SENTINEL", "FAILOVER", NAME]);
        self.primary_after(before)
    }

    /// Waits until another one than `before` is named.
    pub fn primary_after(&self, before: usize) -> usize {
        wait_for_blocking("another primary", WITHIN, || {
            Some(self.primary()).filter(|primary| *primary != before)
        })
    }
}

fn sentinels_of(
    servers: &[u16],
    settings: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
) -> Vec<RedisServer> {
    // They know each other from their files, which is faster than to find out.
    let id = |index: usize| format!("{:040x}", 0x900 + index);
    for _ in 0..20 {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let with_settings = settings(RedisServer::builder());
        let started: Vec<RedisServer> = (0..3)
            .map_while(|index| {
                let mut builder = RedisServer::builder().sentinel();
                let mut line = |text: String| {
                    builder = std::mem::take(&mut builder).config(format!("sentinel {text}"));
                };
                line(format!("myid {}", id(index)));
                line(format!("monitor {NAME} 127.0.0.1 {} 2", servers[0]));
                line(format!("down-after-milliseconds {NAME} {DOWN_AFTER_MS}"));
                line(format!("failover-timeout {NAME} 5000"));
                for replica in &servers[1..] {
                    line(format!("known-replica {NAME} 127.0.0.1 {replica}"));
                }
                for (other, port) in ports
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != index)
                {
                    let id = id(other);
                    let port = with_settings.port_for_others(*port);
                    line(format!("known-sentinel {NAME} 127.0.0.1 {port} {id}"));
                }
                settings(builder).start_at(ports[index])
            })
            .collect();
        if started.len() == ports.len() {
            return started;
        }
    }
    panic!("no three free ports in 20 tries");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Tls};

    #[test]
    fn a_killed_primary_is_replaced_and_comes_back_as_a_replica() {
        let mut all = Sentinels::start();
        assert_eq!(all.primary(), 0);
        all.server_mut(0).kill();
        let second = all.primary_after(0);
        assert_ne!(second, 0);
        all.server_mut(0).start_again();
        eventually_blocking("the new primary accepts writes", WITHIN, || {
            let connection = &mut all.server(second).connection();
            redis::cmd("SET").arg("k").arg("v").exec(connection).is_ok()
        });
    }

    #[test]
    fn sentinels_and_servers_that_speak_tls_replace_a_primary() {
        let authority = Authority::new();
        let tls = || Tls::of(&authority).asking_clients();
        let mut all = Sentinels::with(|server| server.tls(tls()), |sentinel| sentinel.tls(tls()));
        all.server_mut(0).kill();
        assert_ne!(all.primary_after(0), 0);
    }
}
