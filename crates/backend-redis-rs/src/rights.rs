//! [`Rights`]: what an ACL user must be granted, and what of it a user has.
//!
//! This is the one list of it. The docs show it, the conformance suites pass with exactly
//! this (`tests/least_privilege.rs`), and a consumer looks at its start whether it has it: a
//! user who may run one command of a script and not the next leaves half of its work behind.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use streamlease_core::{Error, ErrorKind, LockScheme, Result, ServiceName};

use crate::RedisBackend;
use crate::connection::{Call, Script, Server, script};
use crate::decode;
use crate::error::protocol;
use crate::keys::{Keys, keyspace_channel, wire_lock_keys, wire_lock_pattern};

static RIGHTS: LazyLock<Script> = script!("rights");

/// Each command as an example that is right but for its names. `KEY` stands for each of the
/// keys, `CHANNEL` for each of the channels, `HINTS` and `LOCKS` for one of these. In lower
/// case, so that no one on the way who looks for a command takes a question for it.
const COMMANDS: &[&str] = &[
    "eval script 0",
    "evalsha hash 0",
    "ping",
    "subscribe CHANNEL",
    "get KEY",
    "set KEY v",
    "exists KEY",
    "unlink KEY",
    "pexpire KEY 1",
    "pttl KEY",
    "time",
    "info",
    "publish HINTS hint",
    "hget KEY f",
    "hmget KEY f",
    "hset KEY f v",
    "hdel KEY f",
    "hexists KEY f",
    "hlen KEY",
    "hrandfield KEY",
    "hscan KEY 0",
    "zadd KEY 1 m",
    "zcard KEY",
    "zcount KEY 0 1",
    "zrange KEY 0 1",
    "zrangebyscore KEY 0 1",
    "zrangebylex KEY - +",
    "zrem KEY m",
    "zremrangebyscore KEY 0 1",
    "zscore KEY m",
    "zscan KEY 0",
    "llen KEY",
    "lrange KEY 0 1",
    "rpush KEY v",
    "xadd KEY * f v",
    "xlen KEY",
    "xack KEY g 1",
    "xdel KEY 1",
    "xclaim KEY g c 0 1",
    "xpending KEY g",
    "xrange KEY - +",
    "xreadgroup group g c streams KEY >",
    "xgroup create KEY g 0",
    "xgroup delconsumer KEY g c",
    "xinfo groups KEY",
    "xinfo consumers KEY g",
];

/// What session leases need in addition.
const SESSION: &[&str] = &["hsetnx KEY f v"];

/// What per-stream locks need in addition.
const PER_STREAM: &[&str] = &[
    "mget KEY",
    "del KEY",
    "psubscribe LOCKS",
    "config get parameter",
    "config set parameter v",
];

/// What is done without where it is missing; so are all channels.
const OPTIONAL: &[&str] = &[
    "+info",
    "+hrandfield",
    "+xlen",
    "+publish",
    "+subscribe",
    "+psubscribe",
    "+config|get",
    "+config|set",
];

/// What a user has to be granted for one service and one kind of locks.
#[derive(Debug)]
pub(crate) struct Rights {
    keys: Vec<Object>,
    channels: Vec<Object>,
    commands: Vec<&'static str>,
    /// What the connection is made with; nothing can be looked at without it.
    more: Vec<&'static str>,
}

/// What a rule with a pattern grants.
#[derive(Debug)]
struct Object {
    rule: String,
    example: String,
}

/// One question to the server.
#[derive(Debug)]
struct Check<'a> {
    rule: String,
    on: Option<&'a Object>,
    words: Vec<String>,
}

/// What a user has of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// How many commands were looked at; 0 if the server does not tell.
    pub(crate) commands: usize,
    /// The rules without which nothing works.
    pub(crate) missing: Vec<String>,
    /// Those without which something is done without.
    pub(crate) done_without: Vec<String>,
    /// Commands that the server does not have, at least not by this name.
    pub(crate) unknown: Vec<String>,
}

impl RedisBackend {
    /// The ACL rules of a user that may do what consumers and producers of `service` do with
    /// these locks, and nothing else: the words behind `ACL SETUSER name on >password`.
    /// Those of per-stream locks are enough for [`migrate`](Self::migrate), too.
    pub fn acl_rules(&self, service: &ServiceName) -> Vec<String> {
        let (db, is_cluster) = (self.servers.any().db(), self.servers.is_cluster());
        Rights::new(&Keys::new(service), self.scheme, db, is_cluster).rules()
    }
}

impl Rights {
    pub(crate) fn new(keys: &Keys, scheme: LockScheme, db: i64, is_cluster: bool) -> Self {
        let object = |kind: char, pattern: &str, example: &str| Object {
            rule: format!("{kind}{pattern}"),
            example: example.to_owned(),
        };
        let mut rights = Self {
            keys: vec![
                object('~', &literally(&keys.lbs), &keys.lbs),
                object('~', &(literally(&keys.space) + "*"), &keys.leases),
            ],
            channels: vec![object('&', &literally(&keys.hints), &keys.hints)],
            commands: COMMANDS.to_vec(),
            more: Vec::new(),
        };
        if scheme == LockScheme::Session {
            rights.commands.extend(SESSION);
        } else {
            let (locks, told) = (wire_lock_keys(), wire_lock_pattern(db));
            let probe = keyspace_channel(db, &keys.probe);
            rights.keys.push(object('~', &locks, &locks));
            rights.channels.push(object('&', &told, &told));
            rights
                .channels
                .push(object('&', &literally(&probe), &probe));
            rights.commands.extend(PER_STREAM);
        }
        if db != 0 {
            rights.more.push("+select");
        }
        if is_cluster {
            rights.more.push("+cluster|slots");
        }
        rights
    }

    /// All of them.
    pub(crate) fn rules(&self) -> Vec<String> {
        let of = |object: &Object| object.rule.clone();
        let mut rules: Vec<_> = self.keys.iter().map(of).collect();
        // Some servers let a new user hear everything.
        rules.push("resetchannels".to_owned());
        rules.extend(self.channels.iter().map(of));
        rules.extend(self.commands.iter().map(|command| rule(command)));
        rules.extend(self.more.iter().map(|rule| (*rule).to_owned()));
        rules
    }

    /// Asks which of them the user of the connection has; by a script, which touches nothing.
    pub(crate) async fn look(&self, server: &Server) -> Result<Granted> {
        let checks = self.checks();
        let mut call = Call::new();
        for check in &checks {
            call.arg(check.words.len().to_string()).args(&check.words);
        }
        let what = "looking at the rights";
        let answers = match server.run_one(what, &RIGHTS, call).await {
            // Not even that much.
            Err(err) if err.kind() == ErrorKind::Denied => {
                let hint = format!("{err}; all that is needed: {}", grant(&self.rules()));
                return Err(Error::new(ErrorKind::Denied, hint));
            }
            answers => decode::bytes(answers?)?,
        };
        match answers.len() {
            0 => Ok(Granted::default()),
            count if count == checks.len() => Ok(sum_up(&checks, &answers)),
            _ => Err(protocol("another number of rights")),
        }
    }

    fn checks(&self) -> Vec<Check<'_>> {
        let mut checks = Vec::new();
        for command in &self.commands {
            let stands_for = |word: &str| match word {
                "KEY" => Some(&self.keys[..]),
                "CHANNEL" => Some(&self.channels[..]),
                "HINTS" => self.channels.get(..1),
                "LOCKS" => self.channels.get(1..2),
                _ => None,
            };
            let check = |on: Option<&'_ Object>| -> Vec<String> {
                let word = |word: &str| match (on, stands_for(word)) {
                    (Some(object), Some(_)) => object.example.clone(),
                    _ => word.to_owned(),
                };
                command.split(' ').map(word).collect()
            };
            let rule = rule(command);
            match command.split(' ').find_map(stands_for) {
                None => checks.push(Check {
                    rule,
                    on: None,
                    words: check(None),
                }),
                Some(objects) => checks.extend(objects.iter().map(|object| Check {
                    rule: rule.clone(),
                    on: Some(object),
                    words: check(Some(object)),
                })),
            }
        }
        checks
    }
}

/// Which rules are missing. A refused command says neither whether it is refused itself nor
/// whether its key is; others on that key, and it on other keys, tell.
fn sum_up(checks: &[Check<'_>], answers: &[u8]) -> Granted {
    let answered = || checks.iter().zip(answers.iter().copied());
    let granted: BTreeSet<&str> = answered()
        .filter(|(_, answer)| *answer == b'1')
        .map(|(check, _)| &*check.rule)
        .collect();
    let reached: BTreeSet<&str> = answered()
        .filter(|(_, answer)| *answer == b'1')
        .filter_map(|(check, _)| Some(&*check.on?.rule))
        .collect();
    let mut seen = BTreeSet::new();
    let mut sum = Granted::default();
    for (check, answer) in answered() {
        let object = check.on.map(|object| &*object.rule);
        let is_command_granted = granted.contains(&*check.rule);
        let is_reached = object.is_none_or(|object| reached.contains(object));
        sum.commands += usize::from(seen.insert(&*check.rule));
        match answer {
            b'1' => continue,
            b'?' => {
                push_once(&mut sum.unknown, &check.rule[1..]);
                continue;
            }
            _ => {}
        }
        if let Some(object) = object
            // Nothing can be told of commands that have nothing to be used on.
            && (is_command_granted || !reached.iter().any(|known| known[..1] == object[..1]))
        {
            let rules = match object.starts_with('&') {
                true => &mut sum.done_without,
                false => &mut sum.missing,
            };
            push_once(rules, object);
        }
        if !is_command_granted && is_reached {
            let rules = match OPTIONAL.contains(&&*check.rule) {
                true => &mut sum.done_without,
                false => &mut sum.missing,
            };
            push_once(rules, &check.rule);
        }
    }
    sum
}

fn push_once(list: &mut Vec<String>, item: &str) {
    if !list.iter().any(|known| known == item) {
        list.push(item.to_owned());
    }
}

/// At a consumer's start, before it does anything by halves: an error that names all that is
/// missing; a warning of what is done without.
pub(crate) async fn check(server: &Server, keys: &Keys, scheme: LockScheme) -> Result<()> {
    let rights = Rights::new(keys, scheme, server.db(), false);
    let granted = match rights.look(server).await {
        Err(err) if matches!(err.kind(), ErrorKind::Denied | ErrorKind::Unavailable) => {
            return Err(err);
        }
        // Whatever stands in front of the server does not know how to tell.
        Err(err) => {
            log::debug!("{err}");
            return Ok(());
        }
        Ok(granted) => granted,
    };
    let endpoint = server.endpoint();
    if !granted.missing.is_empty() {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{endpoint}: the user lacks rights without which a consumer of {} cannot work; \
                 grant them: {}",
                keys.lbs,
                grant(&granted.missing)
            ),
        ));
    }
    if !granted.done_without.is_empty() {
        log::info!(
            "{endpoint}: the user lacks rights that are done without (restarts of the server \
             may go unnoticed, failover goes by deadlines, names of finished streams are kept); \
             to grant them: {}",
            grant(&granted.done_without)
        );
    }
    Ok(())
}

/// The command that grants these rules to a user.
pub(crate) fn grant(rules: &[String]) -> String {
    format!("ACL SETUSER <user> {}", rules.join(" "))
}

/// `+get` of `get KEY`, `+xgroup|create` of `xgroup create KEY g 0`.
fn rule(command: &str) -> String {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    match (name, words.next()) {
        ("xgroup" | "xinfo" | "config", Some(part)) => format!("+{name}|{part}"),
        _ => format!("+{name}"),
    }
}

/// A pattern that this alone fits.
fn literally(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(scheme: LockScheme) -> Rights {
        let service = ServiceName::new("orders").unwrap();
        Rights::new(&Keys::new(&service), scheme, 0, false)
    }

    /// The answers of a server to a user with these rules and no others, as far as they are
    /// whole keys, channels and commands.
    fn looked(rights: &Rights, granted: impl Fn(&str) -> bool) -> Granted {
        let checks = rights.checks();
        let answers: Vec<u8> = checks
            .iter()
            .map(|check| {
                let on = check.on.is_none_or(|object| granted(&object.rule));
                if on && granted(&check.rule) {
                    b'1'
                } else {
                    b'0'
                }
            })
            .collect();
        sum_up(&checks, &answers)
    }

    #[test]
    fn whatever_single_rule_is_missing_is_named_and_no_other() {
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            let rights = rights(scheme);
            for rule in rights.rules() {
                if rule == "resetchannels" {
                    continue;
                }
                let sum = looked(&rights, |granted| granted != rule);
                let named = [sum.missing, sum.done_without].concat();
                assert_eq!(named, [rule], "{scheme:?}");
            }
            let all = looked(&rights, |_| true);
            assert!(all.missing.is_empty() && all.done_without.is_empty());
            assert_eq!(all.commands, rights.commands.len());
        }
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let sum = looked(&rights(LockScheme::Session), |rule| {
            !["+hset", "+xadd", "+info", "&{orders-input}:hints"].contains(&rule)
        });
        assert_eq!(sum.missing, ["+hset", "+xadd"]);
        assert_eq!(sum.done_without, ["&{orders-input}:hints", "+info"]);
        // With no key that may be touched nobody can tell which commands are granted.
        let sum = looked(&rights(LockScheme::Session), |rule| !rule.starts_with('~'));
        assert_eq!(sum.missing, ["~orders-input", "~{orders-input}:*"]);
    }

    #[test]
    fn only_what_is_done_without_is_optional_and_each_is_a_rule() {
        let rules = rights(LockScheme::PerStream).rules();
        for rule in OPTIONAL {
            assert!(rules.iter().any(|known| known == rule), "{rule}");
        }
    }

    #[test]
    fn names_with_characters_of_patterns_stand_for_themselves() {
        assert_eq!(literally("a*[b]?\\{c}"), "a\\*\\[b\\]\\?\\\\{c}");
    }

    #[test]
    fn a_database_and_a_cluster_need_their_own_rights() {
        let service = ServiceName::new("orders").unwrap();
        let rights = Rights::new(&Keys::new(&service), LockScheme::PerStream, 3, true);
        let rules = rights.rules();
        assert!(rules.contains(&"+select".to_owned()), "{rules:?}");
        assert!(rules.contains(&"+cluster|slots".to_owned()), "{rules:?}");
        let channel = "&__keyspace@3__:{orders-input}:probe".to_owned();
        assert!(rules.contains(&channel), "{rules:?}");
    }
}
