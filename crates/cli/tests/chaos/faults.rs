//! [`Fault`]: what can go wrong, and what class it makes of a round.

use std::time::Duration;

use crate::deployment::Mode;

/// For [`Fault::NoRights`]: not a right, but what a login needs.
pub(crate) const OTHER_PASSWORD: &str = ">another";

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// SIGKILL; another starts after `down`, under another name if `rename`.
    Kill {
        worker: usize,
        down: Duration,
        rename: bool,
    },
    /// SIGKILL, and the same name again at once.
    Restart {
        worker: usize,
    },
    /// SIGTERM; another starts `down` after it has exited.
    Terminate {
        worker: usize,
        down: Duration,
        rename: bool,
    },
    /// SIGSTOP for less than a TTL.
    StopShort {
        worker: usize,
        time: Duration,
    },
    /// SIGSTOP for longer than a TTL.
    StopLong {
        worker: usize,
        time: Duration,
    },
    /// SIGSTOP, the same name again at once, and then the first wakes up and
    /// lives on for a while.
    Twin {
        worker: usize,
        stopped: Duration,
        alive: Duration,
    },
    RedisRestart {
        down: Duration,
    },
    /// Like a machine that loses power: what is not on its disk yet is gone.
    RedisForgets {
        down: Duration,
        bytes: u64,
    },
    RedisFreeze {
        time: Duration,
    },
    CutAll {
        worker: usize,
    },
    CutReply {
        worker: usize,
        request: &'static str,
        bytes: usize,
    },
    Latency {
        worker: usize,
        latency: Duration,
        time: Duration,
    },
    Partition {
        worker: usize,
        time: Duration,
    },
    LoseReplies {
        worker: usize,
        time: Duration,
    },
    LoseRequests {
        worker: usize,
        time: Duration,
    },
    /// From the next request about an entry on: a claim or an end comes late,
    /// though the acquire before it did not.
    DelayEntry {
        worker: usize,
        time: Duration,
    },
    PartitionOfAll {
        time: Duration,
    },
    ScriptFlush,
    ClientKill {
        kind: &'static str,
    },
    FlushAll,
    /// The name leads to another server, a replica that has everything (`FAILOVER`), and
    /// the old one is its replica from then on, and keeps its connections. Nothing that
    /// was acknowledged is lost.
    FailOver,
    /// The same by hand: the replica is promoted as it is, and for a while the old one
    /// goes on accepting what is lost then.
    PromoteReplica {
        gap: Duration,
    },
    /// `maxmemory` below what is used, and `noeviction`: what needs memory is refused.
    /// A refusal loses nothing.
    FullMemory {
        time: Duration,
    },
    /// Writes are refused (NOREPLICAS), reads are not. A refusal loses nothing.
    RefuseWrites {
        time: Duration,
    },
    /// Others fill the memory, and Redis evicts whatever it likes.
    Evict {
        policy: &'static str,
        time: Duration,
    },
    /// One key of the service, by what is behind the hash tag.
    DeleteKey {
        key: &'static str,
    },
    /// The LBS itself, with its group.
    DeleteLbs,
    /// Something else stands in a fencing record.
    SpoilRecord,
    /// `XGROUP DELCONSUMER` of one that lives. Entries stay where they are on the LBS.
    ForgetLiving {
        worker: usize,
    },
    /// SIGKILL, and `XGROUP DELCONSUMER` before anybody has taken its entries over.
    ForgetDead {
        worker: usize,
    },
    /// `XACK` of what is pending, so many; acknowledged is not removed.
    Acknowledge {
        entries: usize,
    },
    /// `XGROUP DESTROY`, and `CREATE` at the end of the LBS, as one step.
    GroupAnew,
    /// `XGROUP SETID`, to `0` or `$`.
    SetId {
        id: &'static str,
    },
    /// A member of `sessions` that is no session.
    OddSession,
    /// An entry on the LBS that nobody can read.
    Malformed,
    /// The workers' user may not do something, or has another password. A refusal
    /// loses nothing.
    NoRights {
        rights: &'static str,
        /// This worker's user, or everybody's.
        worker: Option<usize>,
        time: Duration,
    },
    /// Redis is down; a worker starts; Redis comes back.
    StartBeforeServer {
        worker: usize,
        down: Duration,
    },
    /// Streams with large infos are announced, and all connections of a worker together
    /// get so many bytes per second; or each worker's.
    SlowLink {
        worker: Option<usize>,
        streams: usize,
        kilobytes: usize,
        rate: u32,
        time: Duration,
    },
    /// SIGKILL of the server that owns the service; it comes back so long after another one
    /// has taken its part.
    KillOwner {
        down: Duration,
    },
    /// SIGSTOP of it, until so long after that.
    FreezeOwner {
        time: Duration,
    },
    /// `CLUSTER FAILOVER`. Nothing that was acknowledged is lost.
    ReplaceByAgreement,
    /// `SENTINEL FAILOVER`: the old one accepts for a while what is lost then.
    ReplaceByHand,
    /// The slot of the service moves to another node, key by key.
    MoveSlot,
    /// Connections are cut, and new ones take long to make.
    SlowConnect {
        worker: usize,
        delay: Duration,
        time: Duration,
    },
}

/// Keys without which exclusion and the entries stand as they did: what decides is
/// elsewhere (`owners`, `tokens`, `sessions`, the LBS). They are in no other class for
/// that it is known where each is restored from: the scheme and the details from those
/// who live, the server from itself, the counter from the clock. Whose `leases` vanish
/// gives up what it held, and that is safe: in `owners` it stands until then.
pub(crate) const SPARE_KEYS: [&str; 8] = [
    "scheme",
    "server",
    "sessions:details",
    "sessions:buried",
    "sweep",
    "refused",
    "counter",
    "leases:*",
];

/// Keys without which others may own what is owned: lost writes, in effect.
pub(crate) const DECIDING_KEYS: [&str; 4] = ["owners", "tokens", "sessions", "lock:*"];

impl Fault {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "SIGKILL",
            Self::Restart { .. } => "SIGKILL and the same name at once",
            Self::Terminate { .. } => "SIGTERM",
            Self::StopShort { .. } => "SIGSTOP, shorter than the TTL",
            Self::StopLong { .. } => "SIGSTOP, longer than the TTL",
            Self::Twin { .. } => "SIGSTOP and the same name at once",
            Self::RedisRestart { .. } => "Redis killed and restarted",
            Self::RedisForgets { .. } => "Redis restarted without its last writes",
            Self::RedisFreeze { .. } => "Redis frozen",
            Self::CutAll { .. } => "connections cut",
            Self::CutReply { .. } => "connection cut in the middle of a reply",
            Self::Latency { .. } => "latency",
            Self::Partition { .. } => "partition",
            Self::LoseReplies { .. } => "replies held",
            Self::LoseRequests { .. } => "requests held",
            Self::DelayEntry { .. } => "requests held, from one about an entry on",
            Self::PartitionOfAll { .. } => "partition of all",
            Self::ScriptFlush => "SCRIPT FLUSH",
            Self::ClientKill { .. } => "CLIENT KILL",
            Self::FlushAll => "FLUSHALL",
            Self::FailOver => "role change behind a name, by FAILOVER",
            Self::PromoteReplica { .. } => "role change behind a name, writes lost",
            Self::FullMemory { .. } => "full memory",
            Self::RefuseWrites { .. } => "writes refused",
            Self::Evict { .. } => "keys evicted",
            Self::DeleteKey { key } => match *key {
                "scheme" => "key deleted: scheme",
                "server" => "key deleted: server",
                "sessions:details" => "key deleted: sessions:details",
                "sessions:buried" => "key deleted: sessions:buried",
                "sweep" => "key deleted: sweep",
                "refused" => "key deleted: refused",
                "counter" => "key deleted: counter",
                "leases:*" => "key deleted: leases",
                "owners" => "key deleted: owners",
                "tokens" => "key deleted: tokens",
                "sessions" => "key deleted: sessions",
                _ => "key deleted: locks",
            },
            Self::DeleteLbs => "key deleted: the LBS",
            Self::SpoilRecord => "a fencing record spoiled",
            Self::ForgetLiving { .. } => "DELCONSUMER of one that lives",
            Self::ForgetDead { .. } => "DELCONSUMER of a dead one",
            Self::Acknowledge { .. } => "XACK by an operator",
            Self::GroupAnew => "group destroyed and made anew at $",
            Self::SetId { id: "0" } => "group set to 0",
            Self::SetId { .. } => "group set to $",
            Self::OddSession => "an odd member of sessions",
            Self::Malformed => "a malformed entry",
            Self::NoRights {
                rights: OTHER_PASSWORD,
                ..
            } => "another password",
            Self::NoRights { .. } => "rights gone",
            Self::StartBeforeServer { .. } => "start before the server",
            Self::SlowLink { .. } => "large infos on a slow link",
            Self::SlowConnect { .. } => "slow connect",
            Self::KillOwner { .. } => "owner killed",
            Self::FreezeOwner { .. } => "owner frozen",
            Self::ReplaceByAgreement => "owner replaced by agreement",
            Self::ReplaceByHand => "owner replaced by hand",
            Self::MoveSlot => "slot moved",
        }
    }

    /// Whether it can happen where Redis is so.
    pub(crate) fn suits(&self, mode: Mode) -> bool {
        match self {
            Self::KillOwner { .. } | Self::FreezeOwner { .. } => mode != Mode::Name,
            Self::ReplaceByAgreement | Self::MoveSlot => mode == Mode::Cluster,
            Self::ReplaceByHand => mode == Mode::Sentinel,
            // No proxy is on the way, and no server is the only one.
            Self::Kill { .. }
            | Self::Restart { .. }
            | Self::Terminate { .. }
            | Self::StopShort { .. }
            | Self::StopLong { .. }
            | Self::Twin { .. }
            | Self::ScriptFlush
            | Self::ClientKill { .. }
            | Self::ForgetLiving { .. }
            | Self::ForgetDead { .. }
            | Self::Acknowledge { .. }
            | Self::SetId { .. }
            | Self::OddSession
            | Self::Malformed => true,
            _ => mode == Mode::Name,
        }
    }

    /// Whether somebody may lose leases by it that does not die of it: who cannot reach
    /// the server for long, is stopped, or sees writes forgotten. What is left are limits
    /// and orders with which every heartbeat could go on.
    pub(crate) fn may_cost_leases(&self) -> bool {
        !matches!(
            self,
            Self::Kill { .. }
                | Self::Restart { .. }
                | Self::Terminate { .. }
                | Self::ScriptFlush
                | Self::FullMemory { .. }
                | Self::ForgetLiving { .. }
                | Self::ForgetDead { .. }
                | Self::Acknowledge { .. }
                | Self::GroupAnew
                | Self::SetId { .. }
                | Self::OddSession
                | Self::Malformed
                | Self::SlowLink { .. }
        ) && !matches!(self, Self::DeleteKey { key } if SPARE_KEYS.contains(key) && *key != "leases:*")
    }

    /// Whether what it takes away was acknowledged.
    pub(crate) fn is_lossy(&self) -> bool {
        match self {
            Self::RedisForgets { .. }
            | Self::FlushAll
            | Self::PromoteReplica { .. }
            | Self::KillOwner { .. }
            | Self::FreezeOwner { .. }
            | Self::ReplaceByHand
            | Self::Evict { .. }
            | Self::DeleteLbs
            | Self::SpoilRecord => true,
            Self::DeleteKey { key } => DECIDING_KEYS.contains(key),
            _ => false,
        }
    }
}
