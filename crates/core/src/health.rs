//! [`Health`]: how a client fares, for probes.

use std::time::Duration;

use crate::Timestamp;
use crate::driver::Pulse;

/// How a client fares at this moment, from [`Client::health`](crate::Client::health).
///
/// For the probes of an orchestrator (Kubernetes and the like):
///
/// - **Liveness:** [`is_live`](Self::is_live). It is false if only a restart helps: the
///   client has ended, or its task has not run for a TTL. It stays true while the backend
///   cannot be reached. A restart would not help then, and would cost leases.
/// - **Readiness:** [`is_ready`](Self::is_ready). It is false while the client can take no
///   streams: it has no session, cannot reach a part of its backend, or is ending. Nothing
///   is sent to a consumer, so nothing is kept from one that is not ready. But a rolling
///   update waits for it, and does not go on with a version that cannot reach its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The client has not ended. It has ended after a shutdown, when it gave up, and when
    /// its task was dropped.
    pub running: bool,
    /// Its session is open, and believed to be alive.
    pub session_alive: bool,
    /// For how long a part of the backend has not been reached, counted from the first of
    /// the calls that failed in a row; one alone does not count, unless it is a heartbeat and
    /// none has been answered for a third of a TTL since. So it is told before leases are lost.
    /// That the load balancer stream (LBS) can be reached again shows when a fetch ends, up to
    /// five seconds later.
    pub unreachable_for: Option<Duration>,
    /// How long ago the last heartbeat of this session was answered.
    pub last_heartbeat: Option<Duration>,
    /// How much longer the leases would have been believed if that heartbeat had not been
    /// answered. With the default of three heartbeats per TTL it is a little more than half
    /// of the TTL. The smaller it is, the closer the leases were to being lost.
    pub margin: Option<Duration>,
    /// For how long what is held is believed if nothing more is answered. `None` without a
    /// session, and with per-stream locks, where each lease has its own deadline.
    pub believed_for: Option<Duration>,
    /// By how much the client's task is late. It looks at the clock several times per TTL,
    /// so that this is next to nothing, unless something blocks the executor.
    pub late_by: Duration,
    /// Streams held.
    pub held: usize,
    /// Most streams that it may hold.
    pub capacity: usize,
    /// Live consumers of the service, this one included; `None` if that is not known.
    pub members: Option<u32>,
    /// It takes no more streams, because it is shutting down or its events were dropped.
    pub ending: bool,
    /// Its service is paused, as far as it knows: it takes nothing until that is over. That
    /// keeps nobody from being ready.
    pub paused: bool,
    ttl: Duration,
}

impl Health {
    pub(crate) fn of(pulse: Option<Pulse>, now: Timestamp, ttl: Duration) -> Self {
        let ended = Self {
            running: false,
            session_alive: false,
            unreachable_for: None,
            last_heartbeat: None,
            margin: None,
            believed_for: None,
            late_by: Duration::ZERO,
            held: 0,
            capacity: 0,
            members: None,
            ending: true,
            paused: false,
            ttl,
        };
        let Some(Pulse { vitals, due }) = pulse else {
            return ended;
        };
        let since = |at: Timestamp| now.saturating_since(at);
        let believed_for = vitals.session_deadline.map(|at| at.saturating_since(now));
        let last_heartbeat = vitals.last_heartbeat.map(|last| since(last.at));
        let is_believed =
            believed_for != Some(Duration::ZERO) && last_heartbeat.is_none_or(|ago| ago < ttl);
        let unreachable = vitals.unreachable.into_iter().flatten().min();
        Self {
            running: true,
            session_alive: vitals.has_session && is_believed,
            unreachable_for: unreachable.map(since),
            last_heartbeat,
            margin: vitals.last_heartbeat.and_then(|last| last.left),
            believed_for,
            late_by: since(due),
            held: vitals.held,
            capacity: vitals.capacity,
            members: vitals.members,
            ending: vitals.is_ending,
            paused: vitals.is_paused,
            ttl,
        }
    }

    /// Whether a restart would not help; for liveness probes.
    pub fn is_live(&self) -> bool {
        self.running && self.late_by < self.ttl
    }

    /// Whether it can take streams; for readiness probes.
    pub fn is_ready(&self) -> bool {
        self.is_live() && self.session_alive && self.unreachable_for.is_none() && !self.ending
    }
}
