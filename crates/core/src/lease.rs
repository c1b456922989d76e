//! [`Lease`]: one data stream, held by this consumer.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use event_listener::Event;
use futures_lite::future;

use crate::belief::Belief;
use crate::client::Handle;
use crate::machine::{Answer, Command, Completion, HandBack};
use crate::settings::check_progress_timeout;
use crate::{ConsumerName, EntryId, ErrorKind, FencingToken, Info, Result, StreamName, Timestamp};

/// A data stream that is yours until you end its lease or lose it.
///
/// Ask [`is_valid`](Self::is_valid) before you do anything that only the owner may do.
/// Stop when [`lost`](Self::lost) resolves. Give [`token`](Self::token) to each store that
/// you write to, before you read from it. A store that refuses lower tokens than it has seen is
/// safe even from an owner that was frozen in the middle of a write.
///
/// Dropping a lease hands the stream back. This does not count as a failure. So a handler
/// that returns early, with `?` for example, is tried again and again. Call
/// [`fail`](Self::fail) where the handler cannot do its work. If a panic drops the lease,
/// that counts as a failure.
pub struct Lease {
    pub(crate) entry: EntryId,
    pub(crate) stream: StreamName,
    pub(crate) info: Info,
    pub(crate) token: FencingToken,
    pub(crate) claimed_from: Option<ConsumerName>,
    pub(crate) failures: u32,
    pub(crate) belief: Arc<Belief>,
    pub(crate) handle: Handle,
    pub(crate) ending: Ending,
}

/// How many calls of the user end the lease: those that wait for an answer, and the one that
/// was told that it has ended.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    calls: AtomicUsize,
    fewer: Event,
}

/// One of them.
struct EndingCall<'a>(&'a Ending);

impl Ending {
    fn begin(&self) -> EndingCall<'_> {
        self.calls.fetch_add(1, Ordering::AcqRel);
        EndingCall(self)
    }
}

/// Nobody waits any more, or the lease is still held.
impl Drop for EndingCall<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
        self.0.fewer.notify(usize::MAX);
    }
}

impl Lease {
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

    /// Greater than the token of every earlier owner of this data stream.
    ///
    /// Put it down in your store first, in one step that refuses a lower one; then read where to
    /// go on, and give it to each write. An owner that reads first can read too early: the one
    /// before may still write. In SQL both are one statement:
    ///
    /// ```sql
    /// INSERT INTO progress (stream, token, position) VALUES ($1, $2, 0)
    /// ON CONFLICT (stream) DO UPDATE SET token = EXCLUDED.token
    ///     WHERE progress.token <= EXCLUDED.token
    /// RETURNING position
    /// ```
    ///
    /// No row: a later owner has been there. For a `BIGINT` there is
    /// [`as_i64`](FencingToken::as_i64). `docs/fencing.md` has the rest, and Redis, files and
    /// object stores.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Who owned it before, if another consumer did.
    pub fn claimed_from(&self) -> Option<&ConsumerName> {
        self.claimed_from.as_ref()
    }

    /// How many owners have failed on it before: said so by [`fail`](Self::fail), made no
    /// progress in time, or died. 0 at the first try.
    ///
    /// If this owner fails, too, and the number of failures reaches
    /// [`quarantine_after`](crate::ClientBuilder::quarantine_after), the entry is quarantined.
    /// So with the default of 5 this is the last try if `failures()` is 4.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the stream is still yours, by the clock at this moment.
    ///
    /// It turns false a margin (a tenth of the TTL, at least 50 ms) before anybody else can
    /// get the stream, whether or not the backend can be reached. It cannot see a pause of
    /// the whole machine that the machine's clock does not show. The token protects you
    /// then.
    pub fn is_valid(&self) -> bool {
        self.handle.now() < self.belief.until()
    }

    /// Until when [`is_valid`](Self::is_valid) stays true without a further heartbeat.
    pub fn valid_until(&self) -> Timestamp {
        self.belief.until()
    }

    /// Resolves once the stream is no longer yours, for any reason. Completing it and
    /// handing it back are among them. Cancel-safe.
    ///
    /// It goes by the clock, as [`is_valid`](Self::is_valid) does. So it resolves on time
    /// even if the client's own task is blocked, for example by a recorder.
    pub async fn lost(&self) {
        loop {
            let until = self.belief.until();
            if self.belief.is_over() || until <= self.handle.now() {
                return;
            }
            // A heartbeat may have moved it by then.
            let expired = self.handle.sleep_until(until);
            future::or(self.belief.over(), expired).await;
        }
    }

    /// As [`lost`](Self::lost), but not while its user waits for the answer of a call that
    /// ends it, and not after an answer that it has ended.
    pub(crate) async fn lost_unasked(&self) {
        loop {
            self.lost().await;
            let fewer = self.ending.fewer.listen();
            if self.ending.calls.load(Ordering::Acquire) == 0 {
                return;
            }
            fewer.await;
        }
    }

    /// Reports that work goes on.
    ///
    /// If [`progress_timeout`](crate::ClientBuilder::progress_timeout) is set and passes
    /// without progress, the stream is handed back. That counts as a failure, and this lease
    /// is lost with [`NoProgress`](crate::DisownReason::NoProgress). The time counts from
    /// when the lease was taken out of the [events](crate::Events). The call is one atomic
    /// store: it costs little enough for every message.
    pub fn progress(&self) {
        self.belief.report_progress(self.handle.now());
    }

    /// Sets the progress timeout of this lease alone. It counts from the last progress.
    /// `None`: no limit.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if it is out of bounds (10 ms to 24 h).
    pub fn set_progress_timeout(&self, limit: Option<Duration>) -> Result<()> {
        limit.map_or(Ok(()), check_progress_timeout)?;
        let (entry, token) = (self.entry, self.token);
        self.handle.post(Command::SetProgressTimeout {
            entry,
            token,
            limit,
        });
        Ok(())
    }

    /// Removes the finished stream's entry from the LBS for good.
    ///
    /// While the backend cannot be reached, the call waits.
    ///
    /// # Errors
    /// [`LeaseEnded`](crate::ErrorKind::LeaseEnded) if the lease expired while the call was
    /// in flight: whether the stream was completed is unknown. Another kind if the backend
    /// has refused for a TTL (for missing rights, for example): the lease is still yours.
    ///
    /// Cancel-safe: once polled, the completion goes on without the caller.
    pub async fn complete(&self) -> Result<Completion> {
        let (entry, token) = (self.entry, self.token);
        let complete = |call| Command::Complete { entry, token, call };
        self.ending(self.handle.complete(complete)).await
    }

    /// Hands the stream back with the work unfinished: another consumer continues at once.
    ///
    /// After any answer the lease is over. While the backend cannot be reached, the call
    /// waits, but no longer than until the lease expires.
    ///
    /// # Errors
    /// If the backend has refused for a TTL (for missing rights, for example): the lease is
    /// still yours.
    ///
    /// Cancel-safe: once polled, it goes on without the caller.
    pub async fn hand_back(&self) -> Result<HandBack> {
        self.end_unfinished(None).await
    }

    /// Like [`hand_back`](Self::hand_back), and counts as a failure with this reason.
    ///
    /// After [`quarantine_after`](crate::ClientBuilder::quarantine_after) failures the entry
    /// is quarantined. The last reasons are kept with the entry, the first 256 bytes of
    /// each. The quarantine shows them. Put the causes of an error into it: with
    /// [`Client::run`](crate::Client::run) an `Err` does.
    pub async fn fail(&self, reason: impl Into<String>) -> Result<HandBack> {
        self.end_unfinished(Some(bounded(reason.into()))).await
    }

    async fn end_unfinished(&self, failed: Option<String>) -> Result<HandBack> {
        let (entry, token) = (self.entry, self.token);
        let hand_back = |call| Command::HandBack {
            entry,
            token,
            failed,
            call: Some(call),
        };
        let answer = async {
            match self.handle.call(hand_back).await {
                Some(Ok(Answer::HandBack(hand_back))) => Ok(hand_back),
                Some(Err(error)) => Err(error),
                // The client has ended, and with it every lease.
                Some(Ok(_)) | None => Ok(HandBack::NotOwner),
            }
        };
        self.ending(answer).await
    }

    /// Whoever waits for `answer` is told by it what became of the lease, unless it says that
    /// the lease is still held.
    async fn ending<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let call = self.ending.begin();
        let answer = answer.await;
        if !matches!(&answer, Err(error) if error.kind() != ErrorKind::LeaseEnded) {
            // It counts for good: the lease is over.
            mem::forget(call);
        }
        answer
    }
}

/// The most bytes of a reason that are kept.
pub(crate) const LONGEST_REASON: usize = 256;

/// Cut at a character's end.
fn bounded(mut reason: String) -> String {
    let mut end = reason.len().min(LONGEST_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.belief.is_over() {
            let (entry, token) = (self.entry, self.token);
            // A handler that panics has failed. (Whoever panics with leases that nobody
            // has taken out of the events yet has not failed on those.)
            let taken_up = self.belief.last_progress().is_some();
            self.handle.post(Command::HandBack {
                entry,
                token,
                failed: (taken_up && std::thread::panicking())
                    .then(|| "its handler panicked".to_owned()),
                call: None,
            });
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("stream", &self.stream)
            .field("entry", &self.entry)
            .field("token", &self.token)
            .field("claimed_from", &self.claimed_from)
            .field("failures", &self.failures)
            .field("valid", &self.is_valid())
            .finish_non_exhaustive()
    }
}
