//! What goes into the machine and what comes out of it.
//!
//! All of it can be printed and made up, so that a run can be replayed.

use std::sync::Arc;
use std::time::Duration;

use super::lifecycle::outages::Part;
use crate::action::{Action, Reply};
use crate::belief::Belief;
use crate::{
    Announcement, ConsumerName, EntryId, Error, FencingToken, Hint, Info, Pause, Result,
    StreamName, Timestamp,
};

/// Names one action, so that its reply finds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionId(pub u64);

/// Names one call of a user, so that its answer finds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Everything that can happen to the machine.
#[derive(Debug)]
pub enum Input {
    /// An action ended.
    Done(ActionId, Result<Reply>),
    /// A hint arrived.
    Hint(Hint),
    /// A user asks for something.
    Command(Command),
    /// The user took this many events out of the queue.
    EventsTaken(usize),
    /// The machine (the computer) was suspended for so long since the last input; the
    /// clock has counted it. Given before anything else that happened meanwhile.
    Suspended(Duration),
    /// Nobody will ever take a stream again, or any event: take no further streams.
    ReceiverDropped,
}

/// What users ask for.
#[derive(Debug)]
pub enum Command {
    /// Finish a lease for good.
    Complete {
        /// The lease's entry.
        entry: EntryId,
        /// The lease's token.
        token: FencingToken,
        /// Whom to answer.
        call: CallId,
    },
    /// Finish the lease of a data stream, whichever entry it has.
    CompleteStream {
        /// The data stream.
        stream: StreamName,
        /// Whom to answer.
        call: CallId,
    },
    /// Hand a lease back unfinished.
    HandBack {
        /// The lease's entry.
        entry: EntryId,
        /// The lease's token.
        token: FencingToken,
        /// Why work on it failed, if it did.
        failed: Option<String>,
        /// Whom to answer, if anybody waits for it.
        call: Option<CallId>,
    },
    /// Change the progress timeout of one lease.
    SetProgressTimeout {
        /// The lease's entry.
        entry: EntryId,
        /// The lease's token.
        token: FencingToken,
        /// The limit; `None`: none.
        limit: Option<Duration>,
    },
    /// Hold at most so many streams from now on.
    SetCapacity(usize),
    /// Take an orphan.
    Claim {
        /// Its entry.
        entry: EntryId,
        /// Its data stream.
        stream: StreamName,
        /// Its info.
        info: Info,
        /// Whom to answer.
        call: CallId,
    },
    /// Hand everything back and stop.
    Shutdown {
        /// Whom to answer once stopped.
        call: Option<CallId>,
    },
}

/// What comes out of the machine. Poll until it says [`Timeout`](Output::Timeout) or
/// [`Stopped`](Output::Stopped).
#[derive(Debug)]
pub enum Output {
    /// Do this and report with [`Input::Done`], in whichever order actions end.
    Action(ActionId, Action),
    /// Drop this action; no reply is awaited any more.
    Cancel(ActionId),
    /// Tell the user.
    Notice(Notice),
    /// Answer a call.
    Answer(CallId, Result<Answer>),
    /// Nothing more now: wait for an input, or call `handle_timeout` at this time.
    Timeout(Timestamp),
    /// The machine has ended; nothing will come any more.
    Stopped,
}

/// What users are told without asking.
#[derive(Debug)]
pub enum Notice {
    /// The session is open and fetching has begun; comes once.
    Started,
    /// A session has looked at what is pending at this consumer's own name.
    Recovered {
        /// How many entries it found there that it did not hold.
        entries: usize,
    },
    /// A stream is leased.
    Added {
        /// Its entry.
        entry: EntryId,
        /// The data stream.
        stream: StreamName,
        /// The producer's info.
        info: Info,
        /// The lease's token.
        token: FencingToken,
        /// Who had it before, if somebody else did.
        claimed_from: Option<ConsumerName>,
        /// How it became free.
        origin: StreamOrigin,
        /// How many owners have failed on it before.
        failures: u32,
        /// Whether the owner just before died, and that counts as a failure of the stream:
        /// others have failed on it, too, so its death is on record until it is shown harmless.
        death_counts: bool,
        /// Until when the lease is believed.
        belief: Arc<Belief>,
    },
    /// A lease has ended. Told to the user only if it ended against their will.
    Ended {
        /// Its entry.
        entry: EntryId,
        /// The data stream.
        stream: StreamName,
        /// The producer's info.
        info: Info,
        /// The lease's token.
        token: FencingToken,
        /// How.
        end: End,
        /// For how long it was held.
        held: Duration,
    },
    /// Manual claiming: a stream has no owner.
    Expired {
        /// Its entry.
        entry: EntryId,
        /// The data stream.
        stream: StreamName,
        /// The producer's info.
        info: Info,
        /// At whom it is pending.
        owner: Option<ConsumerName>,
    },
    /// An entry was quarantined.
    Quarantined {
        /// The entry.
        entry: EntryId,
        /// The data stream and what its producer said, unless the entry cannot be read.
        content: Option<Announcement>,
        /// Why.
        reason: String,
        /// Why the last of its owners failed, oldest first.
        failures: Vec<String>,
    },
    /// The machine was called too late by so much: its process did not run.
    Late {
        /// By how much, without the time for which the computer was suspended.
        by: Duration,
    },
    /// A part of the backend has failed several times in a row, and is tried again.
    /// Told once, and every half a minute that it lasts.
    Unreachable {
        /// Which.
        part: Part,
        /// How it failed last.
        error: Error,
    },
    /// The server refuses a call that it will not allow, or cannot do, for now: missing
    /// rights, a wrong type of key. It is tried again. Told once, for whichever call
    /// comes first, and every half a minute that there are any.
    Refused {
        /// The method of the trait.
        call: &'static str,
        /// With which words.
        error: Error,
    },
    /// The service is paused: nothing is taken until it is resumed.
    Paused(Pause),
    /// The service is paused no more.
    Resumed,
    /// It answers again.
    Reached {
        /// Which.
        part: Part,
        /// How long after the first failure.
        after: Duration,
    },
    /// The last one. `error` says why, unless it was asked for.
    Terminated {
        /// Why the machine gave up; `None` after a shutdown.
        error: Option<Error>,
    },
}

/// How a stream became free for its new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StreamOrigin {
    /// It has had no owner before.
    Fresh,
    /// Its owner handed it back, or failed on it.
    HandedBack,
    /// Its owner died, or was moved out of the way.
    TakenOver,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As the user wished: finished for good.
    Completed,
    /// As the user wished: handed back.
    HandedBack,
    /// Handed back, because the work failed for this reason.
    Failed(String),
    /// Against the user's will.
    Disowned(DisownReason),
}

/// Why a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DisownReason {
    /// It could not be extended in time.
    Expired,
    /// Its lock is gone or somebody else's.
    LockLost,
    /// A later owner has it.
    Superseded,
    /// Its entry is no longer on the LBS.
    EntryGone,
    /// An operator asked for it: another consumer goes on.
    Revoked,
    /// An operator asked for it, and its entry is no longer on the LBS: nobody goes on. Known
    /// with session leases only, and not if the owner looks for the entry before it is asked; it
    /// is `EntryGone` then.
    Cancelled,
    /// Its handler reported no progress for longer than `progress_timeout`.
    NoProgress,
    /// The client gave up (see its `Terminated`).
    ClientStopped,
}

impl DisownReason {
    /// In a word that stays the same, for labels and machines: `lock_lost`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::LockLost => "lock_lost",
            Self::Superseded => "superseded",
            Self::EntryGone => "entry_gone",
            Self::Revoked => "revoked",
            Self::Cancelled => "cancelled",
            Self::NoProgress => "no_progress",
            Self::ClientStopped => "client_stopped",
        }
    }
}

/// In a sentence for people.
impl std::fmt::Display for DisownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "the lease could not be extended in time",
            Self::LockLost => "the lock is gone or somebody else's",
            Self::Superseded => "a later owner has the stream",
            Self::EntryGone => "the entry is no longer on the LBS",
            Self::Revoked => "an operator asked for it",
            Self::Cancelled => "an operator withdrew the announcement",
            Self::NoProgress => "its handler reported no progress in time",
            Self::ClientStopped => "the client stopped",
        })
    }
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Complete` and `CompleteStream`.
    Completion(Completion),
    /// To `HandBack`.
    HandBack(HandBack),
    /// To `Claim`.
    Claim(ClaimResult),
    /// To `Shutdown`.
    Stopped,
}

/// How completing a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Completion {
    /// The stream is finished and off the LBS.
    Completed,
    /// The lease is no longer held here; nothing was changed.
    NotOwner,
    /// The stream's entry was no longer on the LBS.
    Gone,
}

/// How handing a stream back ended. The lease is over in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandBack {
    /// The stream waits for another consumer.
    HandedBack,
    /// The lease had ended otherwise, or did so before this was answered: it was
    /// lost (its `StreamDisowned` says why), or is completed or handed back already.
    NotOwner,
    /// The stream's entry was no longer on the LBS.
    Gone,
}

impl From<&End> for HandBack {
    fn from(end: &End) -> Self {
        match end {
            End::HandedBack | End::Failed(_) => Self::HandedBack,
            End::Completed | End::Disowned(DisownReason::EntryGone | DisownReason::Cancelled) => {
                Self::Gone
            }
            End::Disowned(_) => Self::NotOwner,
        }
    }
}

/// How claiming an orphan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClaimResult {
    /// It is leased; the lease arrives as `StreamAdded`.
    Claimed,
    /// Somebody (this client included) holds it.
    HeldElsewhere,
    /// Its entry is no longer on the LBS.
    Gone,
    /// This client holds as many streams as its capacity allows.
    Full,
    /// The service is paused: nothing is taken until it is resumed.
    Paused,
}
