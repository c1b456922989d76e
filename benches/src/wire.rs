//! The reference: one stream at a time, as the Go library does it (`docs/wire-format.md`). One SET NX
//! per stream, one task and timer per stream, failover on expiry events alone;
//! unlock, XACK and XDEL one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use redis::{AsyncConnectionConfig, Client, RedisResult, Script, Value, cmd};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

const SEPARATOR: &str = "<MUTEX_KEY_SEP>";
const EXTEND: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                      return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";
const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                      return redis.call('DEL', KEYS[1]) end return 0";

/// A consumer; clones are the same one.
#[derive(Debug, Clone)]
pub struct WireConsumer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: MultiplexedConnection,
    lbs: String,
    group: String,
    name: String,
    ttl: Duration,
    extend: Script,
    unlock: Script,
    added: UnboundedSender<WireLease>,
    lost: AtomicU64,
    failed_claims: AtomicU64,
}

/// A stream that is held; it is renewed until it is completed.
#[derive(Debug)]
pub struct WireLease {
    entry: String,
    lock: String,
    heart: AbortHandle,
    /// When it was added.
    pub at: Instant,
}

impl WireConsumer {
    /// Starts reading, and taking over on expiry events. The server must send
    /// them (`notify-keyspace-events Kx`).
    pub async fn start(
        url: &str,
        service: &str,
        name: &str,
        ttl: Duration,
    ) -> (Self, UnboundedReceiver<WireLease>) {
        let client = Client::open(url).unwrap();
        // An overloaded server is slow, not gone.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let connect = || client.get_multiplexed_async_connection_with_config(&config);
        let (added, leases) = unbounded_channel();
        let shared = Arc::new(Shared {
            connection: connect().await.unwrap(),
            lbs: format!("{service}-input"),
            group: format!("{service}-group"),
            name: name.to_owned(),
            ttl,
            extend: Script::new(EXTEND),
            unlock: Script::new(UNLOCK),
            added,
            lost: AtomicU64::new(0),
            failed_claims: AtomicU64::new(0),
        });
        let consumer = Self { shared };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&consumer.shared.lbs);
        create.arg(&consumer.shared.group).arg("0").arg("MKSTREAM");
        // BUSYGROUP: another consumer has made it.
        let _: RedisResult<()> = create
            .query_async(&mut consumer.shared.connection.clone())
            .await;
        let mut events = client.get_async_pubsub().await.unwrap();
        let pattern = format!("__keyspace@0__:*{SEPARATOR}*");
        events.psubscribe(pattern).await.unwrap();
        tokio::spawn(consumer.clone().take_over(events));
        tokio::spawn(consumer.clone().read(connect().await.unwrap()));
        (consumer, leases)
    }

    /// How many leases were found lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// How many claims others had won.
    pub fn failed_claims(&self) -> u64 {
        self.shared.failed_claims.load(Ordering::Relaxed)
    }

    async fn read(self, mut connection: MultiplexedConnection) {
        let shared = &self.shared;
        loop {
            let mut read = cmd("XREADGROUP");
            read.arg("GROUP").arg(&shared.group).arg(&shared.name);
            read.arg("BLOCK").arg(100).arg("STREAMS");
            read.arg(&shared.lbs).arg(">");
            let Ok(reply) = read.query_async(&mut connection).await else {
                return;
            };
            let reply: Option<StreamReadReply> = reply;
            for key in reply.into_iter().flat_map(|reply| reply.keys) {
                for entry in key.ids {
                    let Some(Value::BulkString(payload)) = entry.map.get("lbs-input") else {
                        continue;
                    };
                    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
                    let stream = payload["DataStreamName"].as_str().unwrap();
                    let lock = format!("{stream}{SEPARATOR}{}", entry.id);
                    self.lock(entry.id, lock).await;
                }
            }
        }
    }

    async fn take_over(self, events: redis::aio::PubSub) {
        let mut events = events.into_on_message();
        while let Some(message) = events.next().await {
            let payload: String = message.get_payload().unwrap();
            let Some((_, lock)) = message.get_channel_name().split_once(':') else {
                continue;
            };
            if payload != "expired" {
                continue;
            }
            let Some((_, entry)) = lock.rsplit_once(SEPARATOR) else {
                continue;
            };
            let shared = &self.shared;
            let mut claim = cmd("XCLAIM");
            claim.arg(&shared.lbs).arg(&shared.group).arg(&shared.name);
            claim.arg((shared.ttl / 2).as_millis() as u64).arg(entry);
            let claimed: RedisResult<Vec<Value>> =
                claim.query_async(&mut shared.connection.clone()).await;
            if claimed.is_ok_and(|claimed| !claimed.is_empty()) {
                self.lock(entry.to_owned(), lock.to_owned()).await;
            } else {
                shared.failed_claims.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn lock(&self, entry: String, lock: String) {
        let shared = &self.shared;
        let mut set = cmd("SET");
        set.arg(&lock).arg(&shared.name).arg("NX");
        set.arg("PX").arg(shared.ttl.as_millis() as u64);
        let set: RedisResult<Option<String>> =
            set.query_async(&mut shared.connection.clone()).await;
        if !matches!(set, Ok(Some(_))) {
            shared.failed_claims.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let heart = tokio::spawn(renew(self.shared.clone(), lock.clone())).abort_handle();
        let at = Instant::now();
        // Nobody listens any more when the benchmark is over.
        let _ = shared.added.send(WireLease {
            entry,
            lock,
            heart,
            at,
        });
    }

    /// Unlocks, acknowledges and deletes.
    pub async fn complete(&self, lease: WireLease) {
        lease.heart.abort();
        let shared = &self.shared;
        let mut connection = shared.connection.clone();
        let mut unlock = shared.unlock.key(&lease.lock);
        unlock.arg(&shared.name);
        let _: i64 = unlock.invoke_async(&mut connection).await.unwrap();
        let mut ack = cmd("XACK");
        ack.arg(&shared.lbs).arg(&shared.group).arg(&lease.entry);
        let _: i64 = ack.query_async(&mut connection).await.unwrap();
        let mut delete = cmd("XDEL");
        delete.arg(&shared.lbs).arg(&lease.entry);
        let _: i64 = delete.query_async(&mut connection).await.unwrap();
    }
}

async fn renew(shared: Arc<Shared>, lock: String) {
    let mut connection = shared.connection.clone();
    loop {
        tokio::time::sleep(shared.ttl / 2).await;
        let mut extend = shared.extend.key(&lock);
        extend.arg(&shared.name).arg(shared.ttl.as_millis() as u64);
        let extended: RedisResult<i64> = extend.invoke_async(&mut connection).await;
        if !matches!(extended, Ok(1)) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}
