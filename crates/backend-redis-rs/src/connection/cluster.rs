//! [`Slot`]: which node of a cluster has a slot.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use redis_rs::{Value, cmd};
use streamlease_core::{Error, ErrorKind, Result};

use super::address::Address;
use super::connector::Connector;
use super::route::Census;
use crate::error::{from_redis, from_server, protocol, timed_out};
use crate::{decode, timer};

/// How long another answer is waited for, when the only ones so far name a node that was
/// just silent, or none.
const PREFER_WITHIN: Duration = Duration::from_millis(300);
/// How long a node's answer may take, from connecting to it on.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// For how long a node is doubted that did not answer as the owner does. By then all others
/// have heard of a failover; if there was none, another failure begins it anew.
const DOUBTED_FOR: Duration = Duration::from_secs(10);
/// Nodes that are asked at once, at most.
const ASKED: usize = 32;

/// The nodes of a cluster, as far as they are known; shared by all its slots.
pub(crate) struct Nodes {
    connector: Connector,
    /// Those of the URL, which are asked for ever: whatever was seen later may be gone.
    seeds: Vec<Address>,
    /// Those that other nodes have named, the latest first.
    seen: Mutex<Vec<Address>>,
}

/// What a node says of a slot.
#[derive(Debug, PartialEq, Eq)]
enum Account {
    Owner(Address),
    /// Nobody serves it.
    Unserved,
    /// It may not say, or cannot; but it will tell who has a key that it is asked for.
    Silent(Address),
}

/// The owner of one slot, and what speaks against whom.
pub(crate) struct Slot {
    number: u16,
    nodes: Arc<Nodes>,
    /// Who was found last, and did not answer, or not as the owner does; and when that was.
    doubted: Mutex<Option<(Address, Instant)>>,
    /// Whom the last one has named with MOVED.
    told: Mutex<Option<Address>>,
    /// Which of the nodes that do not say it is tried next.
    turn: AtomicUsize,
}

impl Nodes {
    pub(crate) fn new(seeds: Vec<Address>, connector: Connector) -> Self {
        Self {
            connector,
            seeds,
            seen: Mutex::default(),
        }
    }

    fn known(&self) -> Vec<Address> {
        let mut known = self.seeds.clone();
        for node in lock(&self.seen).iter() {
            if !known.contains(node) {
                known.push(node.clone());
            }
        }
        known.truncate(ASKED.max(self.seeds.len()));
        known
    }

    fn saw(&self, nodes: impl IntoIterator<Item = Address>) {
        let mut seen = lock(&self.seen);
        for node in nodes {
            seen.retain(|known| *known != node);
            seen.insert(0, node);
        }
        seen.truncate(ASKED);
    }

    /// What each node says, as the answers come.
    fn ask(self: &Arc<Self>, slot: u16) -> Receiver<Result<Account>> {
        let (tell, answers) = async_channel::unbounded();
        for node in self.known() {
            let (nodes, tell) = (self.clone(), tell.clone());
            timer::spawn(async move {
                let what = format!("asking {node} for the owner of slot {slot}");
                let answer = timer::within(ANSWER_WITHIN, nodes.ask_one(&what, &node, slot)).await;
                let late = || Err(from_redis(&what, timed_out()));
                // Nobody may wait for it any more.
                let _ = tell.try_send(answer.unwrap_or_else(late));
            });
        }
        answers
    }

    async fn ask_one(&self, what: &str, node: &Address, slot: u16) -> Result<Account> {
        let to = self.connector.at(node);
        let mut connection = self.connector.commands(what, &to, None).await?;
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let reply = connection.send_packed_command(&question).await;
        match reply.map_err(|err| from_redis(what, err))? {
            Value::ServerError(err) => {
                let detail = err.details().unwrap_or_default();
                let err = from_server(what, &err);
                if detail.contains("cluster support disabled") {
                    return Err(Error::config(format!(
                        "{err}: it is no cluster, so its URL begins with redis://"
                    )));
                }
                match err.kind() {
                    ErrorKind::Denied | ErrorKind::Incompatible => {
                        Ok(Account::Silent(node.clone()))
                    }
                    _ => Err(err),
                }
            }
            reply => {
                let (owner, nodes) = read(reply, node, slot)?;
                self.saw(nodes);
                Ok(owner.map_or(Account::Unserved, Account::Owner))
            }
        }
    }
}

/// The owner of `slot`, and all nodes that are named.
fn read(reply: Value, asked: &Address, slot: u16) -> Result<(Option<Address>, Vec<Address>)> {
    let (mut owner, mut nodes) = (None, Vec::new());
    for range in decode::list(reply)? {
        let mut parts = decode::list(range)?.into_iter();
        let first = decode::number(decode::next(&mut parts)?)?;
        let last = decode::number(decode::next(&mut parts)?)?;
        // The primary is the first.
        for (index, node) in parts.enumerate() {
            let Some(address) = node_of(node, asked)? else {
                continue;
            };
            if index == 0 && (first..=last).contains(&i64::from(slot)) {
                owner = Some(address.clone());
            }
            if !nodes.contains(&address) {
                nodes.push(address);
            }
        }
    }
    Ok((owner, nodes))
}

/// `None`: it has no name that could be used.
fn node_of(node: Value, asked: &Address) -> Result<Option<Address>> {
    let mut parts = decode::list(node)?.into_iter();
    let host = match decode::next(&mut parts)? {
        Value::Nil => String::new(),
        host => decode::text(host)?,
    };
    let port = decode::number(decode::next(&mut parts)?)?;
    let port = u16::try_from(port).map_err(|_| protocol("a node's port"))?;
    let host = match &*host {
        // By the specification: at the address where this was answered.
        "" => asked.host.clone(),
        "?" => return Ok(None),
        _ => host,
    };
    Ok((port != 0).then_some(Address { host, port }))
}

impl Slot {
    pub(crate) fn new(number: u16, nodes: Arc<Nodes>) -> Self {
        Self {
            number,
            nodes,
            doubted: Mutex::default(),
            told: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Who has it. All nodes are asked at once; the first answer counts that does not name
    /// the one that is doubted: not all have heard of a failover yet.
    pub(super) async fn owner(&self) -> Result<Address> {
        if let Some(told) = lock(&self.told).take() {
            return Ok(told);
        }
        let doubted = self.doubted(Instant::now());
        let answers = self.nodes.ask(self.number);
        let began = Instant::now();
        let (mut second_best, mut silent) = (None, Vec::new());
        let (mut unserved, mut errors) = (false, Vec::new());
        loop {
            let has_some = second_best.is_some() || !silent.is_empty() || unserved;
            let patience = match has_some {
                true => PREFER_WITHIN.saturating_sub(began.elapsed()),
                false => ANSWER_WITHIN * 2,
            };
            let Some(Ok(answer)) = timer::within(patience, answers.recv()).await else {
                break;
            };
            match answer {
                Ok(Account::Owner(owner)) if Some(&owner) != doubted.as_ref() => return Ok(owner),
                Ok(Account::Owner(owner)) => second_best = Some(owner),
                Ok(Account::Unserved) => unserved = true,
                Ok(Account::Silent(node)) => silent.push(node),
                Err(err) => errors.push(err),
            }
        }
        if let Some(owner) = second_best {
            return Ok(owner);
        }
        // Any will do, though none may say it: it names the owner with MOVED.
        if !silent.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            return Ok(silent.swap_remove(turn % silent.len()));
        }
        if unserved {
            let slot = self.number;
            let message =
                format!("no node of the cluster serves slot {slot}: it is down, or in parts");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        // What will not pass says more than that another one is away.
        let telling = errors.iter().position(|err| !err.is_retryable());
        match errors.is_empty() {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                "no node of the cluster answers",
            )),
            false => Err(errors.swap_remove(telling.unwrap_or(0))),
        }
    }

    /// What each known node says.
    pub(super) async fn census(&self) -> Census {
        let mut census = Census::of("nodes");
        let answers = self.nodes.ask(self.number);
        while let Ok(answer) = answers.recv().await {
            census.count(answer.map(|account| match account {
                Account::Owner(owner) => Some(owner.to_string()),
                Account::Unserved => Some("no owner".to_owned()),
                Account::Silent(_) => None,
            }));
        }
        census
    }

    /// That one did not answer, or not as the owner does.
    pub(super) fn doubt(&self, node: Address) {
        *lock(&self.doubted) = Some((node, Instant::now()));
    }

    fn doubted(&self, now: Instant) -> Option<Address> {
        let doubted = lock(&self.doubted);
        let (node, since) = doubted.as_ref()?;
        (now.saturating_duration_since(*since) < DOUBTED_FOR).then(|| node.clone())
    }

    /// What a node has said with MOVED: the slot, and who has it.
    /// Returns whether that can be used.
    pub(super) fn moved(&self, detail: &str, by: &Address) -> bool {
        let Some(mut owner) = detail.split(' ').nth(1).and_then(Address::parse) else {
            return false;
        };
        if owner.host.is_empty() {
            owner.host.clone_from(&by.host);
        }
        if owner.host == "?" || owner == *by {
            return false;
        }
        self.nodes.saw([owner.clone()]);
        *lock(&self.told) = Some(owner);
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![
            host,
            Value::Int(port),
            text("id"),
            Value::Array(vec![]),
        ])
    }

    #[test]
    fn the_first_node_of_a_range_has_it_and_a_missing_host_is_the_one_that_answered() {
        let reply = || {
            Value::Array(vec![
                Value::Array(vec![
                    Value::Int(0),
                    Value::Int(5460),
                    node(text("10.0.0.1"), 7000),
                    node(text("10.0.0.4"), 7003),
                ]),
                Value::Array(vec![
                    Value::Int(5461),
                    Value::Int(16383),
                    node(Value::Nil, 7001),
                    node(text("?"), 7004),
                ]),
            ])
        };
        let asked = address("seed:7000");
        let (owner, nodes) = read(reply(), &asked, 5460).unwrap();
        assert_eq!(owner, Some(address("10.0.0.1:7000")));
        assert_eq!(nodes.len(), 3, "{nodes:?}");
        let (owner, _) = read(reply(), &asked, 5461).unwrap();
        assert_eq!(owner, Some(address("seed:7001")));
        let gap = Value::Array(vec![]);
        assert_eq!(read(gap, &asked, 1).unwrap(), (None, vec![]));
    }

    fn slot() -> Slot {
        let template = redis_rs::IntoConnectionInfo::into_connection_info("redis://h").unwrap();
        let connector = Connector::new(template, None, None);
        Slot::new(
            3300,
            Arc::new(Nodes::new(vec![address("seed:1")], connector)),
        )
    }

    /// Its slot may come back to it, and each lookup would wait for somebody who names
    /// another one.
    #[test]
    fn a_doubt_is_over_when_all_have_heard_of_a_failover() {
        let slot = slot();
        assert_eq!(slot.doubted(Instant::now()), None);
        slot.doubt(address("a:1"));
        assert_eq!(slot.doubted(Instant::now()), Some(address("a:1")));
        assert_eq!(slot.doubted(Instant::now() + DOUBTED_FOR), None);
    }

    #[test]
    fn whom_moved_names_is_who_has_it() {
        let slot = slot();
        for (detail, told) in [
            ("3300 10.0.0.2:7700", Some(address("10.0.0.2:7700"))),
            ("3300 :7700", Some(address("by:7700"))),
            ("3300 ?:7700", None),
            ("3300", None),
            ("", None),
        ] {
            assert_eq!(slot.moved(detail, &address("by:1")), told.is_some());
            assert_eq!(lock(&slot.told).take(), told, "{detail}");
        }
        assert_eq!(
            slot.nodes.known().first(),
            Some(&address("seed:1")),
            "for ever"
        );
        assert_eq!(slot.nodes.known().len(), 3);
    }
}
