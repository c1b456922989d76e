//! [`Belief`]: until when a lease is believed, readable at any time from any thread (R1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_listener::Event;

use crate::Timestamp;

/// Shared by the machine, which moves it, and the user's [`Lease`](crate::Lease), which reads it.
///
/// A lease is believed until the earlier of its own deadline (per-stream locks)
/// and its session's (session leases); the one that does not apply is "never".
#[derive(Debug)]
pub struct Belief {
    own: AtomicU64,
    session: Arc<SessionBelief>,
    /// When the handler last reported progress; 0 until it has the lease.
    progress: AtomicU64,
    over: Event,
}

/// Until when a session is believed; shared by all its leases.
#[derive(Debug)]
pub(crate) struct SessionBelief(AtomicU64);

impl SessionBelief {
    pub(crate) fn new(until: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(until.as_nanos())))
    }

    pub(crate) fn set(&self, until: Timestamp) {
        self.0.store(until.as_nanos(), Ordering::Release);
    }
}

impl Belief {
    pub(crate) fn new(own: Timestamp, session: Arc<SessionBelief>) -> Arc<Self> {
        Arc::new(Self {
            own: AtomicU64::new(own.as_nanos()),
            session,
            progress: AtomicU64::new(0),
            over: Event::new(),
        })
    }

    /// What is over stays over: a heartbeat may extend a lock whose lease is being handed back.
    pub(crate) fn set(&self, until: Timestamp) {
        if !self.is_over() {
            self.own.store(until.as_nanos(), Ordering::Release);
        }
    }

    /// The lease is over, whatever the clock says: nobody may believe in it any more.
    pub(crate) fn end(&self) {
        self.own.store(0, Ordering::Release);
        self.over.notify(usize::MAX);
    }

    /// The lease's handler goes on, at this time of its process's clock. First
    /// called when the lease reaches its user: until then no progress is due.
    pub fn report_progress(&self, now: Timestamp) {
        self.progress
            .store(now.as_nanos().max(1), Ordering::Release);
    }

    /// `None` as long as the lease waits to be taken up.
    pub(crate) fn last_progress(&self) -> Option<Timestamp> {
        let progress = self.progress.load(Ordering::Acquire);
        (progress > 0).then(|| Timestamp::from_nanos(progress))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.own.load(Ordering::Acquire) == 0
    }

    /// Until when the lease is believed, on its process's clock; the origin once it is over.
    pub fn until(&self) -> Timestamp {
        let own = self.own.load(Ordering::Acquire);
        Timestamp::from_nanos(own.min(self.session.0.load(Ordering::Acquire)))
    }

    /// Resolves once the lease is over. Cancel-safe.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            let listener = self.over.listen();
            if self.is_over() {
                return;
            }
            listener.await;
        }
    }
}
