//! [`Recorder`]: where measurements go.
//!
//! Labels are bounded: no data stream, entry or consumer name is ever one.
//! Every method has an empty body, so that a recorder overrides just what it
//! exports.
//!
//! The driver's task makes these calls. They must not block: meanwhile no heartbeat is sent,
//! and leases expire (their owners are still told on time). A panic is caught, and a
//! warning is logged once.
//!
//! The logger of the `log` crate may block, because a task of its own writes the lines. It
//! then blocks one thread of the executor. If the executor has only one thread, everything
//! waits.

use std::fmt::Debug;
use std::time::Duration;

use crate::DisownReason;

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

/// Receives measurements. The first nine are those the Go library's users know.
#[allow(unused_variables)]
pub trait Recorder: Debug + Send + Sync + 'static {
    /// The look at one's own pending entries at start (and after each lost session) found `entries`.
    fn startup_recovery(&self, entries: usize) {}
    /// `n` claims on the load balancer stream (LBS) ended like this.
    fn claim(&self, result: Attempt, n: usize) {}
    /// `n` locks were tried to be acquired.
    fn lock_acquire(&self, result: Attempt, n: usize) {}
    /// `n` leases were in a heartbeat that ended like this.
    fn lock_extend(&self, result: Attempt, n: usize) {}
    /// `n` locks were tried to be released.
    fn lock_release(&self, result: Attempt, n: usize) {}
    /// Work on a stream started (`StreamAdded`); `taken_over` from another consumer or not.
    fn stream_started(&self, taken_over: bool) {}
    /// Work on a stream ended after `held`.
    fn stream_ended(&self, end: EndKind, held: Duration) {}
    /// A hint was received.
    fn hint_received(&self) {}
    /// Hints were lost, or may have been.
    fn hint_dropped(&self) {}
    /// A malformed or ever-failing entry was quarantined.
    fn quarantined(&self) {}
    /// This many leases are held now.
    fn leases_held(&self, n: usize) {}
}

/// Records nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {}
