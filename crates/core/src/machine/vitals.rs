//! [`Vitals`]: how a machine fares, for measurements and probes.

use super::Machine;
use super::cx::Phase;
use super::lifecycle::outages::Part;
use super::session::LastHeartbeat;
use crate::Timestamp;

/// A look at a machine, which costs nothing: it is taken each time its outputs are drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// Its session is open.
    pub(crate) has_session: bool,
    /// Until when the session is believed, if all leases hang on it.
    pub(crate) session_deadline: Option<Timestamp>,
    pub(crate) last_heartbeat: Option<LastHeartbeat>,
    /// Since when each part cannot be reached, by [`Part`].
    pub(crate) unreachable: [Option<Timestamp>; Part::ALL.len()],
    /// Whether each part can be reached, if that is known, by [`Part`].
    pub(crate) reachable: [Option<bool>; Part::ALL.len()],
    /// Streams held.
    pub(crate) held: usize,
    pub(crate) capacity: usize,
    /// Events that the user has not taken.
    pub(crate) queued: usize,
    pub(crate) event_queue: usize,
    /// Live consumers, if the backend tells.
    pub(crate) members: Option<u32>,
    /// It takes nothing more, because it ends or nobody reads its events.
    pub(crate) is_ending: bool,
    /// It takes nothing, because the service is paused.
    pub(crate) is_paused: bool,
}

impl Machine {
    pub(crate) fn vitals(&self) -> Vitals {
        let cx = &self.cx;
        let is_told = cx.peers.are_known && self.session.last_heartbeat.is_some();
        Vitals {
            has_session: cx.is_open() && cx.phase != Phase::Stopped,
            session_deadline: self.session.deadline(cx),
            last_heartbeat: self.session.last_heartbeat,
            unreachable: Part::ALL.map(|part| self.outages.since(part)),
            reachable: Part::ALL.map(|part| self.outages.is_reachable(cx, part)),
            held: self.held(),
            capacity: cx.settings.capacity,
            queued: cx.budget.undelivered(),
            event_queue: cx.settings.event_queue,
            members: is_told.then_some(cx.peers.members),
            is_paused: cx.is_paused,
            is_ending: cx.is_draining() || cx.budget.is_receiver_dropped(),
        }
    }
}
