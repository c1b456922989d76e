//! [`Event`]s: what a client tells its user, in order, and [`Events`], which yields them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use async_channel::{Receiver, TryRecvError};
use futures_lite::{Stream, StreamExt};

use crate::client::Handle;
use crate::driver::{Message, Shared};
use crate::machine::DisownReason;
use crate::{
    Announcement, ConsumerName, EntryId, Error, ErrorKind, FencingToken, Info, Lease, StreamName,
};

/// What happened.
///
/// Each data stream has one `StreamAdded` and then exactly one end: you completed it,
/// you handed it back, or you get `StreamDisowned`. No event comes after `Terminated`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A stream is yours now: work on it, then complete it or hand it back.
    StreamAdded(Lease),
    /// With manual claiming: a stream has no owner. The event is repeated at every sweep
    /// until somebody takes the stream, with [`Client::claim`](crate::Client::claim).
    StreamExpired(Orphan),
    /// You have lost a lease: stop working on its stream.
    StreamDisowned(Disowned),
    /// An entry could not be worked on and was quarantined.
    Quarantined(QuarantinedEntry),
    /// The client has ended.
    Terminated(Termination),
}

/// Yields a client's events. Also a [`Stream`].
///
/// A slow reader loses nothing: when the event queue is full, no further
/// streams are taken, and those held stay held. When it is dropped, the client
/// takes no further streams, and hands back those whose `StreamAdded` was not read.
#[derive(Debug)]
pub struct Events {
    /// Boxed, because a receiver is not `Unpin` and `Events` shall be.
    events: Pin<Box<Receiver<Event>>>,
    shared: Arc<Shared>,
    handle: Handle,
    ended: bool,
}

impl Events {
    pub(crate) fn new(events: Receiver<Event>, shared: Arc<Shared>, handle: Handle) -> Self {
        Self {
            events: Box::pin(events),
            shared,
            handle,
            ended: false,
        }
    }

    /// Whether they are those of the client with this state.
    pub(crate) fn are_of(&self, client: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, client)
    }

    /// The next event; `None` after `Terminated`, and only then. Cancel-safe: no event is
    /// lost by dropping the future.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }

    /// The next event if one is waiting.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.events.try_recv() {
            Ok(event) => event,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => self.terminated(),
        };
        self.taken(&event);
        Some(event)
    }

    /// The client takes no further streams, as when this is dropped; what else it has to
    /// tell still comes.
    pub(crate) fn take_no_streams(&self) {
        self.handle.send(Message::TakeNoStreams);
    }

    /// What the client's task would have said, had it run to its end.
    fn terminated(&self) -> Event {
        Event::Terminated(self.shared.termination())
    }

    fn taken(&mut self, event: &Event) {
        self.ended = matches!(event, Event::Terminated(_));
        if let Event::StreamAdded(lease) = event {
            // `progress_timeout` counts from here.
            lease.progress();
        }
        // The driver takes the whole count at once, so one message is enough.
        if self.shared.taken.fetch_add(1, Ordering::AcqRel) == 0 {
            self.handle.send(Message::EventsTaken);
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = match ready!(self.events.as_mut().poll_next(cx)) {
            Some(event) => event,
            None => self.terminated(),
        };
        self.taken(&event);
        Poll::Ready(Some(event))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Unread leases are handles too: as long as they lay here, the client would live.
        self.events.close();
        while let Ok(event) = self.events.try_recv() {
            drop(event);
        }
    }
}

/// A stream without an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    entry: EntryId,
    stream: StreamName,
    info: Info,
    owner: Option<ConsumerName>,
}

impl Orphan {
    pub(crate) fn new(
        entry: EntryId,
        stream: StreamName,
        info: Info,
        owner: Option<ConsumerName>,
    ) -> Self {
        Self {
            entry,
            stream,
            info,
            owner,
        }
    }

    /// The data stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Its entry on the load balancer stream (LBS).
    pub fn entry(&self) -> EntryId {
        self.entry
    }

    /// What the producer said about it.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The consumer at which it is pending, if there is one.
    pub fn owner(&self) -> Option<&ConsumerName> {
        self.owner.as_ref()
    }
}

/// A lease that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disowned {
    entry: EntryId,
    stream: StreamName,
    info: Info,
    token: FencingToken,
    reason: DisownReason,
}

impl Disowned {
    pub(crate) fn new(
        entry: EntryId,
        stream: StreamName,
        info: Info,
        token: FencingToken,
        reason: DisownReason,
    ) -> Self {
        Self {
            entry,
            stream,
            info,
            token,
            reason,
        }
    }

    /// The data stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// What the producer said about it.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Its entry on the LBS.
    pub fn entry(&self) -> EntryId {
        self.entry
    }

    /// The lost lease's token.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Why it was lost.
    pub fn reason(&self) -> DisownReason {
        self.reason
    }
}

/// An entry that was quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedEntry {
    entry: EntryId,
    content: Option<Announcement>,
    reason: String,
    failures: Vec<String>,
}

impl QuarantinedEntry {
    pub(crate) fn new(
        entry: EntryId,
        content: Option<Announcement>,
        reason: String,
        failures: Vec<String>,
    ) -> Self {
        Self {
            entry,
            content,
            reason,
            failures,
        }
    }

    /// The entry's id on the LBS.
    pub fn entry(&self) -> EntryId {
        self.entry
    }

    /// The data stream; `None` if the entry could not be read.
    pub fn stream(&self) -> Option<&StreamName> {
        self.content.as_ref().map(|content| &content.stream)
    }

    /// What the producer said about it; `None` if the entry could not be read.
    pub fn info(&self) -> Option<&Info> {
        self.content.as_ref().map(|content| &content.info)
    }

    /// Why it was quarantined. It may be a handler's text: print it with `{:?}`, which escapes
    /// what would command a terminal.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Why its last owners failed, oldest first, at most
    /// [`KEPT_REASONS`](crate::KEPT_REASONS). Empty if the entry could not be read.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

/// Why a client has ended.
#[derive(Debug, Clone)]
pub struct Termination {
    error: Option<Error>,
}

impl Termination {
    pub(crate) fn new(error: Option<Error>) -> Self {
        Self { error }
    }

    /// What made the client give up; `None` if it was shut down.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether it ended because it was asked to.
    pub fn is_shutdown(&self) -> bool {
        self.error.is_none()
    }

    /// What made the client give up as an error, for `?`.
    ///
    /// # Errors
    /// See [`error`](Self::error).
    pub fn into_result(self) -> crate::Result<()> {
        self.error.map_or(Ok(()), Err)
    }

    /// The same error once more, for whoever else waits.
    pub(crate) fn to_error(&self) -> Error {
        match &self.error {
            Some(error) => error.clone(),
            None => Error::new(
                ErrorKind::Closed,
                "the client was shut down before it had started",
            ),
        }
    }
}

impl std::fmt::Display for Termination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => write!(f, "gave up: {error}"),
            None => f.write_str("shut down"),
        }
    }
}
