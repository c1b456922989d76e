//! The session in which calls are made now.

use std::sync::Arc;
use std::time::Duration;

use crate::belief::SessionBelief;
use crate::machine::Rng;
use crate::{ConsumerName, Session, SessionId, Timestamp};

/// Id, number and belief change together: what hangs on one session says nothing about
/// the next, and no id is used twice.
#[derive(Debug)]
pub(crate) struct CurrentSession {
    session: Session,
    /// Counts the sessions of this machine. What an earlier one asked for changes nothing.
    number: u64,
    status: Status,
    /// What is believed of everything that hangs on it.
    belief: Arc<SessionBelief>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Closed,
    Opening,
    Open,
}

impl CurrentSession {
    pub(crate) fn new(consumer: ConsumerName, ttl: Duration, rng: &mut Rng) -> Self {
        Self {
            session: Session {
                id: SessionId::new(consumer, rng.next()),
                ttl,
            },
            number: 0,
            status: Status::Closed,
            belief: SessionBelief::new(Timestamp::MAX),
        }
    }

    /// Another one, whose id was never used.
    pub(crate) fn replace(&mut self, rng: &mut Rng) {
        self.number += 1;
        self.session.id = SessionId::new(self.session.id.consumer.clone(), rng.next());
        self.status = Status::Closed;
        self.belief = SessionBelief::new(Timestamp::MAX);
    }

    pub(crate) fn get(&self) -> Session {
        self.session.clone()
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.session.id
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_open(&self) -> bool {
        self.status == Status::Open
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.status == Status::Closed
    }

    pub(crate) fn opening(&mut self) {
        self.status = Status::Opening;
    }

    pub(crate) fn opened(&mut self) {
        self.status = Status::Open;
    }

    /// It could not be opened. It is opened again: what happened of it is its own.
    pub(crate) fn open_failed(&mut self) {
        self.status = Status::Closed;
    }

    pub(crate) fn believe_until(&self, until: Timestamp) {
        self.belief.set(until);
    }

    /// For a lease that hangs on it.
    pub(crate) fn belief(&self) -> Arc<SessionBelief> {
        self.belief.clone()
    }
}
