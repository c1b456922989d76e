//! [`Recorder`]: where measurements go.
//!
//! Labels are bounded: no data stream, entry or consumer name is ever one.
//! Every method has an empty body, so that a recorder overrides just what it
//! exports.
//!
//! The client's tasks make these calls. They must not block: meanwhile no heartbeat is sent,
//! and leases expire (their owners are still told on time). A panic is caught, and a
//! warning is logged once.
//!
//! The logger of the `log` crate may block, because a task of its own writes the lines. It
//! then blocks one thread of the executor. If the executor has only one thread, everything
//! waits.

use std::fmt::Debug;
use std::time::Duration;

use crate::machine::Vitals;
use crate::{DisownReason, Operation, Part, ServiceCounts, StreamOrigin};

/// How an attempt ended: the one label most measurements have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Attempt {
    /// It did what it was to do.
    Ok,
    /// An expected other outcome: held elsewhere, already gone, a higher token.
    Refused,
    /// The outcome is unknown.
    Error,
}

/// Why work on a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// Completed.
    Completed,
    /// Handed back.
    HandedBack,
    /// Handed back because the work failed; see [`Lease::fail`](crate::Lease::fail).
    Failed,
    /// Lost, for this reason.
    Disowned(DisownReason),
}

/// A lease that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Started {
    /// How the stream became free.
    pub origin: StreamOrigin,
    /// When it was announced, as its entry id says: on Redis the time since 1970 by the
    /// server's clock.
    pub announced_at: Duration,
    /// For how long this consumer knew that it was free: since the hint that it was handed
    /// back, or since it heard that the owner is dead. `None` if it is fresh, or if nothing
    /// told (a sweep found it).
    pub free_for: Option<Duration>,
    /// Whether the owner before died, and its death counts as a failure of the stream: another
    /// failure is on record. A death alone does not count: it happens to all that a process
    /// holds, and is forgotten when the next owner has worked on the stream for the crash window.
    pub death_counts: bool,
}

impl Started {
    pub(crate) fn new(
        origin: StreamOrigin,
        announced_at: Duration,
        free_for: Option<Duration>,
        death_counts: bool,
    ) -> Self {
        Self {
            origin,
            announced_at,
            free_for,
            death_counts,
        }
    }
}

/// How much a client holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Leases held.
    pub held: usize,
    /// Most leases that it may hold.
    pub capacity: usize,
    /// Events that were not taken from [`Events`](crate::Events).
    pub queued: usize,
    /// Most events that may wait there.
    pub event_queue: usize,
    /// Live consumers of the service, this one included; `None` if the backend does not tell.
    pub members: Option<u32>,
}

impl Load {
    /// That of a client that has ended.
    pub(crate) const NONE: Self = Self {
        held: 0,
        capacity: 0,
        queued: 0,
        event_queue: 0,
        members: None,
    };
}

impl From<&Vitals> for Load {
    fn from(vitals: &Vitals) -> Self {
        Self {
            held: vitals.held,
            capacity: vitals.capacity,
            queued: vitals.queued,
            event_queue: vitals.event_queue,
            members: vitals.members,
        }
    }
}

/// Receives measurements. The first nine are those the Go library's users know.
#[allow(unused_variables)]
pub trait Recorder: Debug + Send + Sync + 'static {
    /// The look at one's own pending entries at start (and after each lost session) found
    /// `entries` that the client did not hold, and goes for. Later looks are not told of.
    fn startup_recovery(&self, entries: usize) {}
    /// `n` claims on the load balancer stream (LBS) ended like this.
    fn claim(&self, result: Attempt, n: usize) {}
    /// `n` locks were tried to be acquired.
    fn lock_acquire(&self, result: Attempt, n: usize) {}
    /// `n` leases were in a heartbeat that ended like this.
    fn lock_extend(&self, result: Attempt, n: usize) {}
    /// `n` locks were tried to be released.
    fn lock_release(&self, result: Attempt, n: usize) {}
    /// Work on a stream started (`StreamAdded`).
    fn stream_started(&self, started: &Started) {}
    /// Work on a stream ended after `held`.
    fn stream_ended(&self, end: EndKind, held: Duration) {}
    /// A hint was received.
    fn hint_received(&self) {}
    /// Hints were lost, or may have been.
    fn hint_dropped(&self) {}
    /// A malformed or ever-failing entry was quarantined.
    fn quarantined(&self) {}
    /// A call of the backend ended like this (`Ok` or `Error`) after `took`. A `fetch` waits
    /// for entries, up to [`LONGEST_FETCH`](crate::limits::LONGEST_FETCH).
    fn call(&self, operation: Operation, result: Attempt, took: Duration) {}
    /// A heartbeat ended like this; `Refused`: the session is gone. `left` is how much longer
    /// the leases would have been believed without it; `None` if nothing was extended.
    fn heartbeat(&self, result: Attempt, left: Option<Duration>) {}
    /// Calls of this part of the backend fail: more than one in a row has, or heartbeats for a
    /// third of a TTL.
    fn unreachable(&self, part: Part) {}
    /// This part of the backend answers again, so long after the first failure.
    fn reached(&self, part: Part, after: Duration) {}
    /// Whether this part of the backend can be reached, as of now. `None`: unknown. Nothing was
    /// asked of it yet, nothing is asked at the moment, or the client has ended.
    fn reachable(&self, part: Part, is_reachable: Option<bool>) {}
    /// The client's task did not run for so long: its process stood still, or something
    /// blocks the executor.
    fn late(&self, by: Duration) {}
    /// What is held and queued has changed to this. When the client has ended, all is 0 and
    /// nothing known.
    fn load(&self, load: &Load) {}
    /// How often a client is to count what there is in its whole service, and to tell it by
    /// [`counted`](Self::counted). `None`: never. It takes no less than a second, and up to a
    /// quarter off at random.
    fn count_every(&self) -> Option<Duration> {
        None
    }
    /// What there is in the service. `None`: that is unknown from now on. The backend cannot
    /// be reached or refuses to tell, or the client has ended.
    fn counted(&self, counts: Option<&ServiceCounts>) {}
    /// A producer's call to announce so many `streams` ended like this (`Ok` or `Error`),
    /// with all its retries, after `took`.
    fn submitted(&self, result: Attempt, streams: usize, took: Duration) {}
}

/// Records nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {}
