//! [`GoConsumer`]: what a consumer of the Go library does, command by command
//! as `docs/wire-format.md` has it, without any of our code.

use std::time::Duration;

use redis::{Commands, Connection, Value, cmd};
use streamlease_tests::RedisServer;

/// Lock TTL of the Go library.
pub const GO_TTL: Duration = Duration::from_secs(2);

/// A Go consumer on the service `orders`.
pub struct GoConsumer {
    redis: Connection,
    name: String,
}

impl GoConsumer {
    /// The consumer of the pod `pod`.
    pub fn new(server: &RedisServer, pod: &str) -> Self {
        Self {
            redis: server.connection(),
            name: format!("redis-consumer-{pod}"),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the group, as the first Go consumer does.
    pub fn create_group(&mut self) {
        cmd("XGROUP")
            .arg(&["CREATE", "orders-input", "orders-group", "$", "MKSTREAM"])
            .exec(&mut self.redis)
            .unwrap();
    }

    /// Announces a data stream, as the Go producer does; the entry's id.
    pub fn submit(&mut self, stream: &str, info: &str) -> String {
        let payload = format!("{{\"DataStreamName\":\"{stream}\",\"Info\":{info}}}");
        cmd("XADD")
            .arg(&["orders-input", "*", "lbs-input", &payload])
            .query(&mut self.redis)
            .unwrap()
    }

    /// Announces data streams and reads them in one step, before anybody else can.
    pub fn submit_and_read(&mut self, streams: &[String]) -> Vec<String> {
        let mut step = redis::pipe();
        step.atomic();
        for stream in streams {
            let payload = format!("{{\"DataStreamName\":\"{stream}\",\"Info\":null}}");
            step.cmd("XADD")
                .arg(&["orders-input", "*", "lbs-input", &payload]);
        }
        step.cmd("XREADGROUP")
            .arg(&["GROUP", "orders-group", &self.name])
            .arg(&["STREAMS", "orders-input", ">"]);
        let mut replies: Vec<Value> = step.query(&mut self.redis).unwrap();
        assert_ne!(replies.pop(), Some(Value::Nil), "somebody else read them");
        let id = |reply| redis::from_redis_value(reply).unwrap();
        replies.into_iter().map(id).collect()
    }

    /// Reads fresh entries; whether there was one.
    pub fn read(&mut self) -> bool {
        let reply: Value = cmd("XREADGROUP")
            .arg(&["GROUP", "orders-group", &self.name])
            .arg(&["STREAMS", "orders-input", ">"])
            .query(&mut self.redis)
            .unwrap();
        reply != Value::Nil
    }

    /// Takes the lock of an assignment; whether it was free.
    pub fn lock(&mut self, stream: &str, entry: &str) -> bool {
        let reply: Value = cmd("SET")
            .arg(lock_key(stream, entry))
            .arg(&self.name)
            .arg("NX")
            .arg("PX")
            .arg(GO_TTL.as_millis() as u64)
            .query(&mut self.redis)
            .unwrap();
        reply == Value::Okay
    }

    /// Extends it; whether it still was this consumer's.
    pub fn extend(&mut self, stream: &str, entry: &str) -> bool {
        let key = lock_key(stream, entry);
        let holder: Option<String> = self.redis.get(&key).unwrap();
        holder.as_ref() == Some(&self.name)
            && self.redis.pexpire(&key, GO_TTL.as_millis() as i64).unwrap()
    }

    /// Claims an entry that is idle for at least one heartbeat; whether it got it.
    pub fn claim(&mut self, entry: &str) -> bool {
        self.claim_idle_for(entry, Duration::from_secs(1))
    }

    /// Claims an entry that is idle for that long; whether it got it.
    pub fn claim_idle_for(&mut self, entry: &str, idle: Duration) -> bool {
        let reply: Vec<Value> = cmd("XCLAIM")
            .arg(&["orders-input", "orders-group", &self.name])
            .arg(idle.as_millis() as u64)
            .arg(entry)
            .query(&mut self.redis)
            .unwrap();
        !reply.is_empty()
    }

    /// What booting takes over: everything idle for over 40 s.
    pub fn boot(&mut self) -> usize {
        let reply: Vec<Value> = cmd("XAUTOCLAIM")
            .arg(&["orders-input", "orders-group", &self.name])
            .arg(&["40000", "0", "COUNT", "1000"])
            .query(&mut self.redis)
            .unwrap();
        match &reply[1] {
            Value::Array(entries) => entries.len(),
            other => panic!("{other:?}"),
        }
    }

    /// Completes: three steps, as there.
    pub fn complete(&mut self, stream: &str, entry: &str) {
        let key = lock_key(stream, entry);
        let holder: Option<String> = self.redis.get(&key).unwrap();
        assert_eq!(holder.as_deref(), Some(&*self.name), "not its lock");
        self.redis.del::<_, ()>(&key).unwrap();
        for (command, expected) in [
            (&["XACK", "orders-input", "orders-group", entry][..], 1),
            (&["XDEL", "orders-input", entry][..], 1),
        ] {
            let done: i64 = cmd(command[0])
                .arg(&command[1..])
                .query(&mut self.redis)
                .unwrap();
            assert_eq!(done, expected, "{command:?}");
        }
    }

    /// Who has the entry pending, and for how long it has been idle.
    pub fn pending(&mut self, entry: &str) -> Option<(String, Duration)> {
        let rows: Vec<(String, String, u64, u64)> = cmd("XPENDING")
            .arg(&["orders-input", "orders-group", entry, entry, "1"])
            .query(&mut self.redis)
            .unwrap();
        let (_, consumer, idle, _) = rows.into_iter().next()?;
        Some((consumer, Duration::from_millis(idle)))
    }

    /// The value of an assignment's lock.
    pub fn lock_value(&mut self, stream: &str, entry: &str) -> Option<String> {
        self.redis.get(lock_key(stream, entry)).unwrap()
    }
}

/// The lock key of one assignment.
pub fn lock_key(stream: &str, entry: &str) -> String {
    format!("{stream}<MUTEX_KEY_SEP>{entry}")
}
