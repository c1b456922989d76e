//! [`Cluster`]: three primaries with a replica each, whose slots move and whose nodes die.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::redis_server::{RedisServer, RedisServerBuilder, free_port};
use crate::wait::{eventually_blocking, wait_for_blocking};

/// How long a node may be silent before the others count it as failed (ms). Less takes a
/// busy machine for a dead one.
const NODE_TIMEOUT_MS: u32 = 1000;
/// Within this a test's cluster is up, has replaced a node, or has failed.
const WITHIN: Duration = Duration::from_secs(20);
/// What the nodes 0, 1 and 2 have at the start; 3, 4 and 5 are their replicas.
const SLOTS: [RangeInclusive<u16>; 3] = [0..=5460, 5461..=10922, 10923..=16383];

/// Six nodes of one test's own, each stopped on drop.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<RedisServer>,
}

/// What a node knows of another one.
#[derive(Debug)]
struct Known {
    port: u16,
    is_primary: bool,
    slots: Vec<RangeInclusive<u16>>,
}

impl Cluster {
    /// Starts it and waits until all slots are served and the replicas follow.
    pub fn start() -> Self {
        Self::with(|node| node)
    }

    /// The same with settings of the nodes' own.
    pub fn with(settings: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        let cluster = (0..20).find_map(|_| Self::try_start(&settings));
        let cluster = cluster.expect("no twelve free ports in 20 tries");
        eventually_blocking("a cluster that is up", WITHIN, || {
            let nodes = cluster.nodes.iter();
            let mut infos = nodes.map(|node| node.run::<String>(&["CLUSTER", "INFO"]));
            let are_up = infos.all(|info| info.contains("cluster_state:ok"));
            let mut replicas = cluster.nodes[3..].iter();
            are_up
                && replicas.all(|replica| {
                    let info: String = replica.run(&["INFO", "replication"]);
                    info.contains("master_link_status:up")
                })
        });
        for primary in &cluster.nodes[..3] {
            primary.replicated_to(1);
        }
        cluster
    }

    /// `None` if a port was taken.
    fn try_start(settings: &impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Option<Self> {
        // Beside the default, the ports of the bus may lie where outgoing connections are.
        let ports: Vec<(u16, u16)> = (0..6).map(|_| (free_port(), free_port())).collect();
        let with_settings = settings(RedisServer::builder());
        let of_each_other = ports
            .iter()
            .map(|(port, bus)| (with_settings.port_for_others(*port), *bus));
        let of_each_other: Vec<(u16, u16)> = of_each_other.collect();
        let nodes = (0..ports.len()).map(|index| {
            let node = RedisServer::builder()
                .file("nodes.conf", nodes_conf(&of_each_other, index))
                .config("cluster-enabled yes")
                .config("cluster-config-file nodes.conf")
                .config(format!("cluster-port {}", ports[index].1))
                .config(format!("cluster-node-timeout {NODE_TIMEOUT_MS}"))
                .config("repl-diskless-sync-delay 0");
            settings(node).start_at(ports[index].0)
        });
        // Those that have started already are stopped if one cannot.
        Some(Self {
            nodes: nodes.collect::<Option<_>>()?,
        })
    }

    /// The URL that names the three primaries of the start.
    pub fn url(&self) -> String {
        let addresses = self.nodes[..3].iter().map(|node| node.addr().to_string());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        format!("redis-cluster://{addresses}")
    }

    /// The same over TLS.
    pub fn tls_url(&self) -> String {
        let ports = self.nodes[..3].iter().map(RedisServer::tls_port);
        let addresses: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("rediss-cluster://{}", addresses.join(","))
    }

    /// One of the nodes: 0 to 2 are the primaries of the start, 3 to 5 their replicas.
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    /// The same, to kill and to start it.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a cluster has nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The slot of a key, as the nodes say.
    pub fn slot_of(&self, key: &str) -> u16 {
        self.ask(&["CLUSTER", "KEYSLOT", key])
    }

    /// The slots that one of the first three nodes has at the start.
    pub fn slots_of(&self, node: usize) -> RangeInclusive<u16> {
        SLOTS[node].clone()
    }

    /// Which node has this key's slot, by the account of one that answers.
    pub fn owner_of(&self, key: &str) -> usize {
        let slot = self.slot_of(key);
        wait_for_blocking("a node that knows the slot's owner", WITHIN, || {
            let known = self.known()?;
            let owner = known
                .iter()
                .find(|node| node.slots.iter().any(|slots| slots.contains(&slot)))?;
            self.index_of(owner)
        })
    }

    /// Waits until another one than `before` has it and accepts writes.
    pub fn owner_after(&self, key: &str, before: usize) -> usize {
        wait_for_blocking("another owner", WITHIN, || {
            let owner = Some(self.owner_of(key)).filter(|owner| *owner != before)?;
            let mut connection = self.try_connection(owner)?;
            // A write that changes nothing here: no key of ours has a time to live.
            let write = redis::cmd("PERSIST").arg(key).exec(&mut connection);
            write.is_ok().then_some(owner)
        })
    }

    /// A replica of this key's owner takes its part, by agreement. Returns it.
    pub fn fail_over(&self, key: &str) -> usize {
        let before = self.owner_of(key);
        let owner = &self.nodes[before];
        let id: String = owner.run(&["CLUSTER", "MYID"]);
        // One that has lost its owner for a moment refuses.
        eventually_blocking("a replica that takes the owner's part", WITHIN, || {
            let replicas: Vec<String> = owner.run(&["CLUSTER", "REPLICAS", &id]);
            let known = replicas.iter().filter_map(|line| known_in(line));
            let mut living = known.filter_map(|node| self.try_connection(self.index_of(&node)?));
            living.any(|mut replica| {
                let mut order = redis::cmd("CLUSTER");
                order.arg("FAILOVER").exec(&mut replica).is_ok()
            })
        });
        self.owner_after(key, before)
    }

    /// Begins to move a slot, as tools do: both nodes know of it, and no key was moved yet.
    pub fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), |index: usize| -> String {
            self.nodes[index].run(&["CLUSTER", "MYID"])
        });
        let (source, target) = (id(from), id(to));
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source];
        once_heard(&mut self.nodes[to].connection(), &importing);
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target];
        once_heard(&mut self.nodes[from].connection(), &migrating);
    }

    /// Moves these keys of a slot that is being moved.
    pub fn move_keys(&self, from: usize, to: usize, keys: &[String]) {
        let port = self.nodes[to].port_for_others().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        if !keys.is_empty() {
            self.nodes[from].run::<()>(&words);
        }
    }

    /// Ends the move of a slot all of whose keys were moved.
    pub fn end_the_move(&self, slot: u16, to: usize) {
        let id: String = self.nodes[to].run(&["CLUSTER", "MYID"]);
        let slot = slot.to_string();
        let words = ["CLUSTER", "SETSLOT", &slot, "NODE", &id];
        once_heard(&mut self.nodes[to].connection(), &words);
        for node in self.primaries().into_iter().filter(|index| *index != to) {
            once_heard(&mut self.nodes[node].connection(), &words);
        }
    }

    /// Moves slots with all of their keys: one slot at a time, and of each a few keys at a
    /// time; or all at once, where the servers can do that (Valkey 9).
    pub fn move_slots(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        let info: String = self.nodes[from].run(&["INFO", "server"]);
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("valkey_version:"));
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        if major.is_some_and(|major: u32| major >= 9) {
            return self.move_at_once(&slots, from, to);
        }
        // With connections of its own: a whole node's slots are thousands.
        let mut source = self.nodes[from].connection();
        let mut target = self.nodes[to].connection();
        let others = self.primaries().into_iter().filter(|node| *node != to);
        let mut others: Vec<_> = others.map(|node| self.nodes[node].connection()).collect();
        let id = |node: usize| self.nodes[node].run::<String>(&["CLUSTER", "MYID"]);
        let (source_id, target_id) = (id(from), id(to));
        for slot in slots {
            let slot = slot.to_string();
            let set = |state: &str, node: &str| {
                ["CLUSTER", "SETSLOT", &slot, state, node].map(str::to_owned)
            };
            once_heard(&mut target, &set("IMPORTING", &source_id));
            once_heard(&mut source, &set("MIGRATING", &target_id));
            loop {
                let mut keys = redis::cmd("CLUSTER");
                keys.arg("GETKEYSINSLOT").arg(&slot).arg(3);
                let keys: Vec<String> = keys.query(&mut source).expect("the keys of a slot");
                if keys.is_empty() {
                    break;
                }
                self.move_keys(from, to, &keys);
            }
            once_heard(&mut target, &set("NODE", &target_id));
            for other in &mut others {
                once_heard(other, &set("NODE", &target_id));
            }
        }
    }

    fn move_at_once(&self, slots: &RangeInclusive<u16>, from: usize, to: usize) {
        let (first, last) = (slots.start().to_string(), slots.end().to_string());
        let id: String = self.nodes[to].run(&["CLUSTER", "MYID"]);
        let order = [
            "CLUSTER",
            "MIGRATESLOTS",
            "SLOTSRANGE",
            &first,
            &last,
            "NODE",
            &id,
        ];
        once_heard(&mut self.nodes[from].connection(), &order);
        eventually_blocking("the slots are there", WITHIN, || {
            let known = self.known().unwrap_or_default();
            let owner = known
                .iter()
                .find(|node| node.slots.iter().any(|range| range.contains(slots.start())));
            owner.and_then(|node| self.index_of(node)) == Some(to)
        });
    }

    /// The nodes that are primaries now, by the account of one that answers.
    pub fn primaries(&self) -> Vec<usize> {
        wait_for_blocking("a node that knows the primaries", WITHIN, || {
            let known = self.known()?;
            let primaries = known
                .iter()
                .filter(|node| node.is_primary && !node.slots.is_empty());
            Some(primaries.filter_map(|node| self.index_of(node)).collect())
        })
    }

    fn index_of(&self, known: &Known) -> Option<usize> {
        self.nodes.iter().position(|node| node.port() == known.port)
    }

    /// What the node knows that has heard of the latest change.
    fn known(&self) -> Option<Vec<Known>> {
        let accounts = (0..self.nodes.len()).filter_map(|index| {
            let mut connection = self.try_connection(index)?;
            let text = redis::cmd("CLUSTER")
                .arg("NODES")
                .query::<String>(&mut connection);
            let info = redis::cmd("CLUSTER")
                .arg("INFO")
                .query::<String>(&mut connection);
            let epoch = info.ok()?.lines().find_map(|line| {
                let epoch = line.trim().strip_prefix("cluster_current_epoch:")?;
                epoch.parse::<u64>().ok()
            })?;
            Some((epoch, text.ok()?))
        });
        let (_, text) = accounts.max_by_key(|(epoch, _)| *epoch)?;
        Some(text.lines().filter_map(known_in).collect())
    }

    fn try_connection(&self, index: usize) -> Option<redis::Connection> {
        let limit = Duration::from_millis(300);
        let client = redis::Client::open(self.nodes[index].url()).ok()?;
        let connection = client.get_connection_with_timeout(limit).ok()?;
        connection.set_read_timeout(Some(limit)).ok()?;
        Some(connection)
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        wait_for_blocking("a node that answers", WITHIN, || {
            let mut command = redis::Cmd::new();
            words.iter().for_each(|word| {
                command.arg(*word);
            });
            (0..self.nodes.len()).find_map(|index| {
                let mut connection = self.try_connection(index)?;
                command.query(&mut connection).ok()
            })
        })
    }
}

/// Gives a node an order about another one, which it refuses until it has heard that that
/// one is a primary now.
fn once_heard(node: &mut redis::Connection, words: &[impl AsRef<str> + std::fmt::Debug]) {
    eventually_blocking(
        &format!("an order that is taken: {words:?}"),
        WITHIN,
        || {
            let mut command = redis::Cmd::new();
            words.iter().for_each(|word| {
                command.arg(word.as_ref());
            });
            command.exec(node).is_ok()
        },
    );
}

fn nodes_conf(ports: &[(u16, u16)], myself: usize) -> String {
    let mut conf = String::new();
    for (index, (port, bus)) in ports.iter().enumerate() {
        let me = if index == myself { "myself," } else { "" };
        let id = format!("{:040x}", index + 1);
        let _ = match SLOTS.get(index) {
            Some(slots) => {
                let (first, last, epoch) = (slots.start(), slots.end(), index + 1);
                writeln!(
                    conf,
                    "{id} 127.0.0.1:{port}@{bus} {me}master - 0 0 {epoch} connected {first}-{last}"
                )
            }
            None => {
                let epoch = index - 2;
                writeln!(
                    conf,
                    "{id} 127.0.0.1:{port}@{bus} {me}slave {epoch:040x} 0 0 {epoch} connected"
                )
            }
        };
    }
    conf + "vars currentEpoch 3 lastVoteEpoch 0\n"
}

/// A line of CLUSTER NODES.
fn known_in(line: &str) -> Option<Known> {
    let mut words = line.split(' ');
    let address = words.nth(1)?.split('@').next()?;
    let port = address.rsplit_once(':')?.1.parse().ok()?;
    let flags = words.next()?;
    let slots = words.skip(5).filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    Some(Known {
        port,
        is_primary: flags.contains("master"),
        slots: slots.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Tls};

    #[test]
    fn a_killed_owner_is_replaced_and_a_slot_moves_with_its_keys() {
        let mut cluster = Cluster::start();
        let key = "{orders-input}:k";
        let (slot, owner) = (cluster.slot_of(key), cluster.owner_of(key));
        cluster.node(owner).run::<()>(&["SET", key, "v"]);
        let other = (owner + 1) % 3;
        cluster.move_slots(slot..=slot, owner, other);
        assert_eq!(cluster.owner_after(key, owner), other);
        assert_eq!(cluster.node(other).run::<String>(&["GET", key]), "v");
        cluster.node_mut(other).kill();
        let replica = cluster.owner_after(key, other);
        assert!(replica >= 3);
        cluster.node_mut(other).start_again();
        eventually_blocking("the former owner follows", WITHIN, || {
            let info: String = cluster.node(other).run(&["INFO", "replication"]);
            info.contains("master_link_status:up")
        });
        assert_eq!(cluster.fail_over(key), other);
        assert_eq!(cluster.node(other).run::<String>(&["GET", key]), "v");
    }

    #[test]
    fn nodes_that_speak_tls_find_and_replace_each_other() {
        let authority = Authority::new();
        let mut cluster = Cluster::with(|node| node.tls(Tls::of(&authority).asking_clients()));
        let owner = cluster.owner_of("k");
        cluster.node_mut(owner).kill();
        assert!(cluster.owner_after("k", owner) >= 3);
    }
}
