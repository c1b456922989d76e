//! The kinds of things that go wrong.

use std::time::Duration;

/// One thing that goes wrong. `node` counts among those that run at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A process is gone, and another one comes later: under its name or a new one.
    Crash {
        /// Which.
        node: u64,
        /// Whether the next one has its name.
        same_name: bool,
        /// When the next one starts.
        after: Duration,
    },
    /// A process stands still, and wakes up late.
    Pause {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// The same, and its clock does not count the time.
    Suspend {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// A process is asked to stop, perhaps in the middle of something else;
    /// another one comes later.
    Shutdown {
        /// Which.
        node: u64,
        /// What else happens to it at the same time.
        amid: Option<Amid>,
        /// For how long.
        length: Duration,
        /// When the next one starts.
        after: Duration,
    },
    /// Another process starts under the name of one that runs.
    Twin {
        /// Which.
        node: u64,
    },
    /// Requests, replies or both of a process are lost.
    Partition {
        /// Which.
        node: u64,
        /// Whether requests are lost.
        requests: bool,
        /// Whether replies are lost.
        replies: bool,
        /// For how long.
        length: Duration,
    },
    /// Messages of everybody are lost or late.
    Storm {
        /// For how long.
        length: Duration,
    },
    /// Hints are lost, doubled and late.
    BadHints {
        /// For how long.
        length: Duration,
    },
    /// No hint comes.
    NoHints {
        /// For how long.
        length: Duration,
    },
    /// The lock server restarts, without its last writes.
    LocksRestart {
        /// How much it lost.
        lost: Duration,
        /// For how long it is away.
        down: Duration,
    },
    /// The LBS is away for a while.
    LbsDown {
        /// For how long.
        down: Duration,
    },
    /// The LBS is as it was then.
    LbsRestored {
        /// How much it lost.
        lost: Duration,
    },
    /// Somebody removes the consumer group.
    GroupGone,
    /// The lock server's clock steps.
    LockClock {
        /// By how many milliseconds.
        by_ms: i64,
    },
    /// The LBS server's clock steps.
    LbsClock {
        /// By how many milliseconds.
        by_ms: i64,
    },
    /// A process's clock runs at another rate.
    Drift {
        /// Which.
        node: u64,
        /// Ticks per million of true ones.
        rate: u64,
    },
    /// A foreign consumer takes a pending entry and dies.
    Steal {
        /// Which entry.
        nth: u64,
    },
    /// A foreign consumer fetches an entry, locks it and works on it.
    ForeignFetch {
        /// For how long it goes on renewing.
        renews: Duration,
        /// Whether it then completes the entry; else it dies.
        completes: bool,
    },
    /// A foreign consumer takes a pending entry whose lock is free, locks it
    /// and works on it (per-stream locks).
    ForeignClaim {
        /// Which entry, of those that it may take.
        nth: u64,
        /// For how long it goes on renewing.
        renews: Duration,
        /// Whether it then completes the entry; else it dies.
        completes: bool,
    },
    /// An entry that nobody can read.
    Poison,
    /// Many streams at once: everybody is full.
    Burst {
        /// How many.
        streams: u64,
    },
    /// A data stream is announced once more.
    Again {
        /// Which.
        nth: u64,
    },
    /// An operator revokes a lease.
    Revoke {
        /// Which.
        nth: u64,
    },
    /// A process may hold more or fewer streams from now on.
    Capacity {
        /// Which.
        node: u64,
        /// How many.
        streams: usize,
    },
    /// The handlers of a process that has a progress timeout do nothing.
    HangingHandlers {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// The user of a process takes no events.
    SlowUser {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// From now on the LBS is wrong about how much nobody has had yet.
    BacklogLies(Estimate),
    /// From now on a fetch that finds nothing comes back early, and empty.
    FetchesComeBack {
        /// Of its wait, so many thousandths have passed by then.
        permille: u64,
    },
    /// A server refuses calls for a while.
    Refuses {
        /// Which of the two.
        of: Of,
        /// Which calls.
        what: Refused,
        /// For how long.
        length: Duration,
    },
    /// A process is connected to a server that was demoted, and answers all with errors
    /// until it is connected anew.
    Demoted {
        /// Which.
        node: u64,
        /// For how long.
        length: Duration,
    },
    /// A process's link is thin: replies take the longer the more they carry.
    ThinLink {
        /// Which.
        node: u64,
        /// How long an entry with its info takes.
        each: Duration,
        /// For how long it is thin.
        length: Duration,
    },
    /// A process's connection is gone, and it takes long to make another.
    SlowConnect {
        /// Which.
        node: u64,
        /// How long.
        length: Duration,
    },
    /// An operator removes a consumer's name, and what is pending at it is pending at
    /// nobody (XGROUP DELCONSUMER).
    ConsumerRemoved {
        /// Which, of those at which something is pending.
        nth: u64,
    },
    /// An operator acknowledges a pending entry (XACK), which stays on the LBS.
    Acknowledged {
        /// Which.
        nth: u64,
    },
    /// An operator makes the group anew, at the end of the LBS.
    GroupAtTheEnd,
    /// An operator pauses the service, and resumes it later.
    ServicePaused {
        /// How much later.
        length: Duration,
    },
    /// A key of the service is evicted, or deleted by somebody.
    KeyGone {
        /// Which.
        key: Key,
        /// Of those that there are several of: which.
        nth: u64,
    },
}

/// What a server says of how many entries nobody has had yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Estimate {
    /// The truth.
    #[default]
    True,
    /// So many more, for ever: they were removed before they were delivered.
    TooMany(u64),
    /// Half of them.
    TooFew,
    /// None, always.
    None,
}

/// Which of the two servers; they may be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// That which has the LBS.
    Lbs,
    /// That which has the locks.
    Locks,
    /// They are one.
    Both,
}

impl Of {
    pub(super) fn lbs(self) -> bool {
        self != Self::Locks
    }

    pub(super) fn locks(self) -> bool {
        self != Self::Lbs
    }
}

/// What a server does not do for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It takes no announcements: its memory is full, and it keeps to the contract.
    Announcements,
    /// It adds nothing, not even what is needed to finish something: its memory is full,
    /// and it lets no script go beyond.
    Additions,
    /// It writes nothing: its disk is full, it has too few replicas, or was made one.
    Writes,
    /// Its answer to everything is that somebody has taken the right to it.
    Everything,
}

/// A key of the service that can vanish alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Who lives, and until when.
    Sessions,
    /// The same of one of them.
    Session,
    /// Whose each data stream is (session leases).
    Owners,
    /// What one session holds (session leases).
    Leases,
    /// Which leases an operator revokes.
    Marks,
    /// The counter from which tokens are minted.
    Counter,
    /// Whose turn it is to sweep.
    Turn,
    /// Which sessions were removed for good.
    Buried,
    /// Which data streams somebody waits for.
    Refused,
    /// The lock of a data stream (per-stream locks).
    StreamLock,
    /// The same as the wire knows it (per-stream locks).
    WireLock,
    /// The fencing records of the LBS.
    Tokens,
    /// One of those.
    Token,
}

impl Key {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Sessions => "key gone: sessions",
            Self::Session => "key gone: a session",
            Self::Owners => "key gone: owners",
            Self::Leases => "key gone: a session's leases",
            Self::Marks => "key gone: marks",
            Self::Counter => "key gone: counter",
            Self::Turn => "key gone: sweep turn",
            Self::Buried => "key gone: buried",
            Self::Refused => "key gone: refused",
            Self::StreamLock => "key gone: a stream's lock",
            Self::WireLock => "key gone: a wire lock",
            Self::Tokens => "key gone: tokens",
            Self::Token => "key gone: a token",
        }
    }
}

/// What else happens to a process that is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amid {
    /// It stands still, and learns of it when it wakes up.
    Pause,
    /// The same, and its clock does not count the time.
    Suspend,
    /// Its requests and replies are lost.
    Partition,
}

impl Fault {
    /// The draw for the process that it is about, if it is about one.
    pub(super) fn process(&self) -> Option<u64> {
        match self {
            Self::Crash { node, .. }
            | Self::Pause { node, .. }
            | Self::Suspend { node, .. }
            | Self::Shutdown { node, .. }
            | Self::Twin { node }
            | Self::Partition { node, .. }
            | Self::Drift { node, .. }
            | Self::Capacity { node, .. }
            | Self::Demoted { node, .. }
            | Self::SlowConnect { node, .. }
            | Self::ThinLink { node, .. }
            | Self::HangingHandlers { node, .. }
            | Self::SlowUser { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Whether it brings an earlier state back.
    pub(super) fn looks_back(&self) -> bool {
        match self {
            Self::LbsRestored { .. } => true,
            Self::LocksRestart { lost, .. } => !lost.is_zero(),
            _ => false,
        }
    }

    /// Its name, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash {
                same_name: true, ..
            } => "crash, same name",
            Self::Crash { .. } => "crash, new name",
            Self::Pause { .. } => "pause",
            Self::Suspend { .. } => "suspended clock",
            Self::Shutdown { amid, .. } => match amid {
                None => "shutdown",
                Some(Amid::Pause) => "shutdown, paused",
                Some(Amid::Suspend) => "shutdown, suspended",
                Some(Amid::Partition) => "shutdown, cut off",
            },
            Self::Twin { .. } => "twin name",
            Self::Partition {
                requests: true,
                replies: true,
                ..
            } => "partition",
            Self::Partition { requests: true, .. } => "requests lost",
            Self::Partition { .. } => "replies lost",
            Self::Storm { .. } => "network storm",
            Self::BadHints { .. } => "bad hints",
            Self::NoHints { .. } => "no hints",
            Self::LocksRestart { lost, .. } if lost.is_zero() => "locks restart",
            Self::LocksRestart { .. } => "locks lose writes",
            Self::LbsDown { .. } => "LBS down",
            Self::LbsRestored { .. } => "LBS restored",
            Self::GroupGone => "group gone",
            Self::LockClock { by_ms } if *by_ms < 0 => "lock clock back",
            Self::LockClock { .. } => "lock clock forward",
            Self::LbsClock { .. } => "LBS clock steps",
            Self::Drift { .. } => "clock drift",
            Self::Steal { .. } => "foreign steals and dies",
            Self::ForeignFetch {
                completes: true, ..
            } => "foreign fetches and completes",
            Self::ForeignFetch { .. } => "foreign fetches and dies",
            Self::ForeignClaim {
                completes: true, ..
            } => "foreign claims and completes",
            Self::ForeignClaim { .. } => "foreign claims and dies",
            Self::Poison => "poison",
            Self::Burst { .. } => "burst",
            Self::Again { .. } => "announced again",
            Self::Revoke { .. } => "forced release",
            Self::Capacity { .. } => "capacity change",
            Self::HangingHandlers { .. } => "hanging handlers",
            Self::SlowUser { .. } => "slow user",
            Self::BacklogLies(estimate) => match estimate {
                Estimate::True => "backlog told right",
                Estimate::TooMany(_) => "backlog told too high",
                Estimate::TooFew => "backlog told too low",
                Estimate::None => "backlog told to be nothing",
            },
            Self::FetchesComeBack { .. } => "fetches come back early",
            Self::Refuses { of, what, .. } => match (what, of) {
                (Refused::Announcements, _) => "memory full",
                (Refused::Additions, Of::Lbs) => "LBS adds nothing",
                (Refused::Additions, Of::Locks) => "locks add nothing",
                (Refused::Additions, Of::Both) => "both add nothing",
                (Refused::Writes, Of::Lbs) => "LBS refuses writes",
                (Refused::Writes, Of::Locks) => "locks refuse writes",
                (Refused::Writes, Of::Both) => "both refuse writes",
                (Refused::Everything, Of::Lbs) => "rights to the LBS gone",
                (Refused::Everything, Of::Locks) => "rights to the locks gone",
                (Refused::Everything, Of::Both) => "all rights gone",
            },
            Self::Demoted { .. } => "demoted server",
            Self::SlowConnect { .. } => "slow connect",
            Self::ThinLink { .. } => "thin link",
            Self::ConsumerRemoved { .. } => "consumer removed",
            Self::Acknowledged { .. } => "acknowledged by hand",
            Self::GroupAtTheEnd => "group made at the end",
            Self::ServicePaused { .. } => "service paused",
            Self::KeyGone { key, .. } => key.kind(),
        }
    }
}
