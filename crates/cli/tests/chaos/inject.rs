//! How each fault is done, and how it ends.

use std::time::{Duration, Instant};

use redis::{RedisResult, Value};

use crate::SERVICE;
use crate::deployment::ASKED_AGAIN;
use crate::faults::{Fault, OTHER_PASSWORD};
use crate::plan::{WORKERS, Work};
use crate::round::{Round, Task};
use crate::servers::{key, user};

/// Between two looks at a change of roles.
const STEP: Duration = Duration::from_millis(20);

/// How far a change of roles has come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RoleChange {
    /// The replica does not have everything yet. Without a gap: nothing may be lost.
    Sync {
        gap: Option<Duration>,
        until: Instant,
    },
    /// It was asked for and is decided soon.
    Asked,
    /// The old one becomes a replica.
    Demote,
}

impl Round<'_> {
    /// Whether it could be done: nobody is killed twice.
    pub(crate) fn inject(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Kill {
                worker,
                down,
                rename,
            } => return self.fleet.kill(worker, down, rename).is_some(),
            Fault::Restart { worker } => {
                return self.fleet.kill(worker, Duration::ZERO, false).is_some();
            }
            Fault::Terminate {
                worker,
                down,
                rename,
            } => return self.fleet.terminate(worker, down, rename),
            Fault::StopShort { worker, time } | Fault::StopLong { worker, time } => {
                let Some(pid) = self.fleet.stop(worker) else {
                    return false;
                };
                self.later(time, Task::GoOn(pid));
            }
            Fault::Twin {
                worker,
                stopped,
                alive,
            } => {
                let Some(pid) = self.fleet.double(worker) else {
                    return false;
                };
                self.later(stopped, Task::GoOn(pid));
                self.later(stopped + alive, Task::Dismiss(pid));
            }
            Fault::CutAll { worker } => self.fleet.proxy(worker).cut_all(),
            Fault::CutReply {
                worker,
                request,
                bytes,
            } => self.fleet.proxy(worker).cut_reply_to(request, bytes),
            Fault::Latency {
                worker,
                latency,
                time,
            } => {
                self.fleet.proxy(worker).set_latency(latency);
                self.later(time, Task::NoLatency(worker));
            }
            Fault::Partition { worker, time } => {
                self.fleet.proxy(worker).partition();
                self.later(time, Task::Heal(worker));
            }
            Fault::LoseReplies { worker, time } => {
                self.fleet.proxy(worker).hold_replies();
                self.later(time, Task::Heal(worker));
            }
            Fault::LoseRequests { worker, time } => {
                self.fleet.proxy(worker).hold_requests();
                self.later(time, Task::Heal(worker));
            }
            Fault::DelayEntry { worker, time } => {
                // The key that claims, completions and hand backs have in common.
                self.fleet.proxy(worker).hold_requests_from(":tokens");
                self.later(time, Task::Heal(worker));
            }
            Fault::PartitionOfAll { time } => {
                self.fleet.proxies().for_each(|proxy| proxy.partition());
                self.later(time, Task::HealAll);
            }
            Fault::SlowConnect {
                worker,
                delay,
                time,
            } => {
                let proxy = self.fleet.proxy(worker);
                proxy.set_connect_delay(delay);
                proxy.cut_all();
                self.later(time, Task::FastConnect(worker));
            }
            Fault::SlowLink {
                worker,
                streams,
                kilobytes,
                rate,
                time,
            } => {
                for worker in worker.map_or(0..WORKERS, |worker| worker..worker + 1) {
                    self.fleet.proxy(worker).set_rate(Some(rate));
                    self.later(time, Task::FastLink(worker));
                }
                let works = (0..streams)
                    .map(|n| self.large_work(n, kilobytes))
                    .collect();
                self.producer.announce(works);
            }
            // The others are Redis', and need it.
            _ if !self.servers.answers() => return false,
            // Which of the two would come back as what is not for this test to say.
            Fault::RedisRestart { .. }
            | Fault::RedisForgets { .. }
            | Fault::RedisFreeze { .. }
            | Fault::StartBeforeServer { .. }
                if self.servers.is_changing_roles =>
            {
                return false;
            }
            Fault::RedisRestart { down } => {
                self.servers.master().kill();
                self.servers.is_up = false;
                self.later(down, Task::RedisUp);
            }
            Fault::RedisForgets { down, bytes } => {
                self.servers.kill_and_forget(bytes);
                self.servers.is_up = false;
                self.later(down, Task::RedisUp);
            }
            Fault::RedisFreeze { time } => {
                self.servers.master().freeze();
                self.servers.is_frozen = true;
                self.later(time, Task::Thaw);
            }
            Fault::StartBeforeServer { worker, down } => {
                let Some(_) = self.fleet.kill(worker, Duration::ZERO, false) else {
                    return false;
                };
                self.servers.master().kill();
                self.servers.is_up = false;
                self.later(down, Task::RedisUp);
            }
            Fault::KillOwner { .. }
            | Fault::FreezeOwner { .. }
            | Fault::ReplaceByAgreement
            | Fault::ReplaceByHand
            | Fault::MoveSlot => return self.trouble_owner(fault),
            Fault::FailOver => return self.begin_role_change(None),
            Fault::PromoteReplica { gap } => return self.begin_role_change(Some(gap)),
            order => return self.order(order).unwrap_or(false),
        }
        true
    }

    /// Waits until another one is the owner: what comes meanwhile comes late.
    fn trouble_owner(&mut self, fault: Fault) -> bool {
        let Some(deployment) = &mut self.servers.deployment else {
            return false;
        };
        // Nobody could take its part.
        if !deployment.is_whole() {
            return false;
        }
        let owner = deployment.owner();
        match fault {
            Fault::KillOwner { down } => {
                deployment.server_mut(owner).kill();
                deployment.owner_after(owner);
                self.later(down, Task::NodeUp(owner));
                self.lost_now();
            }
            Fault::FreezeOwner { time } => {
                deployment.server(owner).freeze();
                deployment.owner_after(owner);
                self.later(time, Task::NodeThaw(owner));
                self.lost_now();
            }
            Fault::ReplaceByHand => {
                deployment.fail_over();
                self.later(ASKED_AGAIN, Task::Lost);
            }
            Fault::ReplaceByAgreement => deployment.fail_over(),
            Fault::MoveSlot => return deployment.move_slot(),
            other => unreachable!("{other:?} is no trouble of an owner"),
        }
        true
    }

    /// What an operator does at the server. An error: it was refused.
    fn order(&mut self, fault: Fault) -> RedisResult<bool> {
        let (lbs, group) = (format!("{SERVICE}-input"), format!("{SERVICE}-group"));
        let servers = &self.servers;
        match fault {
            Fault::ScriptFlush => servers.order::<()>(&["SCRIPT", "FLUSH"])?,
            Fault::ClientKill { kind } => {
                servers.order::<()>(&["CLIENT", "KILL", "TYPE", kind])?;
            }
            Fault::FlushAll => {
                servers.order::<()>(&["FLUSHALL"])?;
                self.lost_now();
            }
            Fault::FullMemory { time } => {
                self.limit_memory("noeviction", -50_000)?;
                self.later(time, Task::Restore);
            }
            Fault::RefuseWrites { time } => {
                servers.order::<()>(&["CONFIG", "SET", "min-replicas-to-write", "5"])?;
                self.later(time, Task::Restore);
            }
            Fault::Evict { policy, time } => {
                self.limit_memory(policy, 300_000)?;
                self.later(Duration::ZERO, Task::Press(Instant::now() + time));
            }
            Fault::DeleteKey { key } => return self.delete(key),
            Fault::DeleteLbs => {
                servers.order::<()>(&["DEL", &lbs])?;
                self.lost_now();
            }
            Fault::SpoilRecord => {
                let tokens = key("tokens");
                let entries: Vec<String> = servers.order(&["HKEYS", &tokens])?;
                let Some(entry) = entries.first() else {
                    return Ok(false);
                };
                servers.order::<()>(&["HSET", &tokens, entry, "garbage:x:y:z"])?;
            }
            Fault::ForgetLiving { worker } => {
                let name = format!("redis-consumer-{}", self.fleet.name(worker));
                servers.order::<()>(&["XGROUP", "DELCONSUMER", &lbs, &group, &name])?;
            }
            Fault::ForgetDead { worker } => {
                let Some(name) = self.fleet.kill(worker, self.plan.ttl * 2, true) else {
                    return Ok(false);
                };
                let name = format!("redis-consumer-{name}");
                // The kill counts, even if the order is refused.
                let _: RedisResult<Value> =
                    servers.order(&["XGROUP", "DELCONSUMER", &lbs, &group, &name]);
            }
            Fault::Acknowledge { entries } => {
                let count = entries.to_string();
                let pending: Vec<(String, String, u64, u64)> =
                    servers.order(&["XPENDING", &lbs, &group, "-", "+", &count])?;
                let ids = pending.iter().map(|(id, ..)| id.as_str());
                let words: Vec<_> = ["XACK", &lbs, &group].into_iter().chain(ids).collect();
                if pending.is_empty() {
                    return Ok(false);
                }
                servers.order::<()>(&words)?;
            }
            Fault::GroupAnew => {
                // As one: a worker that found no group would make one that begins at 0.
                let lua = "redis.call('XGROUP', 'DESTROY', KEYS[1], KEYS[2]) \
                           redis.call('XGROUP', 'CREATE', KEYS[1], KEYS[2], '$')";
                servers.script::<()>(lua, &[&lbs, &group])?;
            }
            Fault::SetId { id } => {
                servers.order::<()>(&["XGROUP", "SETID", &lbs, &group, id])?;
            }
            Fault::OddSession => {
                servers.order::<()>(&["ZADD", &key("sessions"), "9000000000000000", "oops"])?;
            }
            Fault::Malformed => {
                servers.order::<()>(&["XADD", &lbs, "*", "lbs-input", "{\"DataStreamName\":7"])?;
            }
            Fault::NoRights {
                rights,
                worker,
                time,
            } => {
                let workers = worker.map_or(0..WORKERS, |worker| worker..worker + 1);
                for worker in workers {
                    self.fleet.deny(worker);
                    let user = user(worker);
                    let words = ["ACL", "SETUSER", &user, rights];
                    let words = match rights {
                        OTHER_PASSWORD => &["ACL", "SETUSER", &user, "resetpass", rights][..],
                        _ => &words[..],
                    };
                    servers.order::<()>(words)?;
                    if rights == OTHER_PASSWORD {
                        servers.order::<()>(&["CLIENT", "KILL", "USER", &user])?;
                    }
                }
                self.later(time, Task::Restore);
            }
            other => unreachable!("{other:?} is no order"),
        }
        Ok(true)
    }

    fn limit_memory(&self, policy: &str, room: i64) -> RedisResult<()> {
        let info: String = self.servers.order(&["INFO", "memory"])?;
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        let used: i64 = used.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let limit = (used + room).to_string();
        self.servers
            .order::<()>(&["CONFIG", "SET", "maxmemory-policy", policy])?;
        self.servers.order(&["CONFIG", "SET", "maxmemory", &limit])
    }

    /// Others use the server as their cache.
    pub(crate) fn press(&mut self, until: Instant) {
        if !self.servers.answers() {
            return self.later(STEP, Task::Press(until));
        }
        // What may be evicted is not always enough.
        let _: RedisResult<Value> = self.servers.script(
            "for i = 1, 200 do \
               redis.call('SET', 'cache:' .. math.random(1e9), string.rep('x', 1000)) \
             end",
            &[],
        );
        if Instant::now() < until {
            self.later(STEP, Task::Press(until));
            return;
        }
        let _: RedisResult<Value> = self.servers.script(
            "for _, key in ipairs(redis.call('KEYS', 'cache:*')) do \
               redis.call('UNLINK', key) \
             end",
            &[],
        );
        self.later(Duration::ZERO, Task::Restore);
        self.lost_now();
    }

    /// Whether there was one.
    fn delete(&self, name: &str) -> RedisResult<bool> {
        let mut patterns = vec![key(name).replace('[', "\\[")];
        if name == "lock:*" {
            patterns.push("*<MUTEX_KEY_SEP>*".into());
        }
        let mut keys: Vec<String> = Vec::new();
        for pattern in &patterns {
            keys.extend(self.servers.order::<Vec<String>>(&["KEYS", pattern])?);
        }
        let words = std::iter::once("DEL").chain(keys.iter().map(String::as_str));
        match keys.len() {
            0 => Ok(false),
            _ => Ok(self.servers.order::<u64>(&words.collect::<Vec<_>>())? > 0),
        }
    }

    /// Whatever was acknowledged before may be gone.
    pub(crate) fn lost_now(&mut self) {
        self.losses.push(Instant::now());
        let lbs = self.lbs();
        self.announce_again(&lbs);
    }

    fn begin_role_change(&mut self, gap: Option<Duration>) -> bool {
        if self.servers.is_changing_roles {
            return false;
        }
        self.servers.begin_replica();
        self.servers.is_changing_roles = true;
        let until = Instant::now() + Duration::from_secs(5);
        self.later(STEP, Task::ChangeRoles(RoleChange::Sync { gap, until }));
        true
    }

    pub(crate) fn change_roles(&mut self, step: RoleChange) {
        let again = Some((STEP, step));
        let next = match step {
            RoleChange::Sync { until, .. } if Instant::now() > until => {
                self.note("the roles stay, as the replica does not get ready");
                None
            }
            _ if !self.servers.answers() => again,
            RoleChange::Sync { .. } if !self.servers.has_replica() => again,
            RoleChange::Sync { gap: None, .. } => match self.servers.ask_for_failover() {
                Ok(()) => Some((STEP, RoleChange::Asked)),
                Err(_) => again,
            },
            RoleChange::Sync { gap: Some(gap), .. } => {
                self.servers.promote();
                self.turn();
                Some((gap, RoleChange::Demote))
            }
            RoleChange::Asked => match self.servers.has_failed_over() {
                None => again,
                Some(true) => {
                    self.turn();
                    None
                }
                Some(false) => {
                    self.note("the roles stay, as the replica did not take over");
                    None
                }
            },
            RoleChange::Demote => {
                self.servers.begin_replica();
                self.note("the old master is a replica");
                self.lost_now();
                None
            }
        };
        match next {
            Some((after, step)) => self.later(after, Task::ChangeRoles(step)),
            None => self.servers.is_changing_roles = false,
        }
    }

    fn turn(&mut self) {
        let addr = self.servers.turn();
        self.fleet
            .proxies()
            .for_each(|proxy| proxy.set_target(addr));
        self.note("the name leads to the new master");
    }

    /// Called so after the time, as each is announced once.
    fn large_work(&self, number: usize, kilobytes: usize) -> Work {
        let stream = format!("large-{}-{number}", self.began.elapsed().as_millis());
        // So long that its worker may die with it.
        let time = self.plan.ttl;
        Work::new(stream, [time, time], 2, 0, kilobytes * 1024)
    }
}
