//! [`Transport`]: the load balancer stream (LBS), and the first resource that
//! fencing protects.
//!
//! # Contract
//! - **Expected outcomes are values.** Losing a race or finding an entry gone
//!   is `Ok(outcome)`. An `Err` means *unknown*: the operation may have happened in
//!   part, in full, or not at all, and it may still happen later, because an abandoned
//!   request can execute late.
//! - **Idempotence.** After an `Err` every operation can be repeated with the
//!   same arguments. The result is as if it had been called once.
//! - **Fencing (R4).** For each entry that is not completed, the transport remembers
//!   the greatest token it has seen. It checks and updates it in one atomic step with the
//!   operation:
//!   - A claim needs a token ≥ the remembered one. If the entry was handed back with the
//!     remembered token, a claim needs a greater one. The claim moves the entry to the
//!     claimer from whichever consumer has it pending, or from nobody if the group was
//!     created anew.
//!   - Complete, hand back and quarantine need a token ≥ the remembered one, whichever
//!     consumer has the entry pending. So `FencingToken::NONE` fits only entries that
//!     nobody has ever claimed.
//!   - A remembered value that is not below [`FencingToken::LIMIT`] was not written by
//!     this library. It counts as a record that cannot be read: who acquired the entry
//!     before is refused, who acquires it from now on is not.
//!
//!   A refused operation changes nothing, with one exception: a hand back that comes too
//!   late takes a failure back (see the next point).
//! - **Failures.** For each entry that is not completed, the transport counts how often
//!   owners failed on it, in the same atomic steps. A failure belongs to a token, and
//!   no token counts twice:
//!   - A hand back with `failed` counts a failure of its own token, with that reason.
//!   - A claim with a token greater than the remembered one counts a failure of the
//!     remembered token: its owner has died, unless it had handed the entry back. The
//!     reason names the consumer that had the entry pending, if there was one.
//!   - An owner that was not dead hands back late, with its lower token. Then its death is
//!     no longer counted; if it says that it failed, that failure takes the place.
//!
//!   The reasons of the last five failures are kept as they were given, and only these
//!   five can be taken back. They survive claims and go into quarantine with the entry.
//! - **Pauses.** While the service is [paused](crate::Admin::pause) a claim that would make
//!   a new owner, with a token greater than the remembered one, is answered with
//!   [`ClaimOutcome::Paused`] and changes nothing: no failure counts, and the entry stays
//!   pending where it is. That is decided in the same atomic step. All else goes on:
//!   claims with the remembered token, [`keep`](Transport::keep), complete, hand back and
//!   quarantine. A transport that passes claims on to another one passes on `keep` and
//!   [`paused`](Transport::paused), too.
//! - **Nothing vanishes (R7).** Only `complete` and `quarantine` remove an entry from the
//!   LBS. Only an [`Admin`](crate::Admin) removes it from quarantine. A new group
//!   starts at the very first entry.
//! - **Batches are pages, not transactions.** Results are positional, one per
//!   argument. Each entry is atomic on its own. An implementation may split a large
//!   batch to suit its server.
//! - **Reads come in bounded pieces.** Infos can be long and links slow. So a fetch may
//!   deliver less than there is, and a listing less than its `limit`, but never nothing
//!   while there is something. [`PendingPage::next`] says where the next page starts. A
//!   page without it is the last one; where a listing has no `next`, an empty page is.
//! - **Cancel-safety.** Dropping a future has the meaning of `Err`: unknown. A `fetch` that
//!   was dropped, or failed, may have delivered entries; they are found with
//!   [`list_pending`](Transport::list_pending).
//! - **Concurrency.** All methods may run at once, on one value or many. A
//!   blocking `fetch` delays no other call.
//! - **Hints.** `hand_back` publishes [`Hint::HandedBack`](crate::Hint) in the
//!   same step.
//! - **Suite.** `streamlease_testkit::conformance::transport`.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Announcement, ConsumerName, EntryId, FencingToken, MalformedReason, Result};

/// The LBS of one service. See the [module docs](self) for the contract.
#[async_trait]
pub trait Transport: Debug + Send + Sync + 'static {
    /// Makes the stream and its group if they are missing, the group at the
    /// first entry. Called at start and after [`ErrorKind::NotPrepared`](crate::ErrorKind).
    async fn prepare(&self) -> Result<()>;

    /// Delivers entries that no consumer has had, at most `max`, to `consumer`.
    /// If there are none, waits up to `wait` for the first and then returns
    /// (with an empty page if none came). `wait` zero returns at once.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;

    /// One page of pending entries, lowest id first, at most `limit`.
    ///
    /// Looking changes neither idle times nor delivery counts. An entry that is
    /// pending but deleted from the stream is dropped from the pending list
    /// instead of being returned.
    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage>;

    /// One page of the ids of pending entries greater than `after`, lowest
    /// first, at most `limit`: those of one consumer, or of all.
    ///
    /// Reads no entry, and so costs the server a small part of what
    /// [`list_pending`](Self::list_pending) costs. It is for callers that know most of the
    /// entries. Entries that are pending but deleted from the stream may be among them.
    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds>;

    /// One page of the ids of entries greater than `after`, lowest first, at most
    /// `limit`, that are on the LBS, were delivered, and are pending at nobody: an
    /// operator removed a consumer's name or acknowledged them, or made the group anew
    /// behind them. Nobody would ever look for these otherwise.
    ///
    /// A page may be short, even empty, and not be the last: only `next` tells. Where
    /// nothing is known of what was delivered, entries behind the last pending one may
    /// be left out.
    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds>;

    /// Makes `consumer` the one that has each entry pending, fenced by its
    /// token, and resets the entry's idle time. Claiming again with the same
    /// token is how an owner keeps an entry, and takes it back if it was moved.
    ///
    /// Counts a failure if the entry had a lower token that was never handed
    /// back: its owner has died.
    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>>;

    /// Claims again what the consumer holds: as [`claim`](Self::claim), but never answered
    /// with `Paused`. An owner whose fencing record was lost has it again, and keeps what
    /// it holds in a pause.
    ///
    /// A transport that cannot be paused may leave it to `claim`.
    async fn keep(&self, consumer: &ConsumerName, held: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        self.claim(consumer, held).await
    }

    /// Whether the service is paused, and what is known of that. Needs no group.
    ///
    /// A transport that cannot be paused may leave it out: it never is.
    async fn paused(&self) -> Result<Option<Pause>> {
        Ok(None)
    }

    /// Sets the failures of entries to 0, because an owner has held them for long enough. An
    /// entry that has another token by now, was handed back or is gone is left alone.
    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()>;

    /// Removes finished entries for good.
    async fn complete(
        &self,
        consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>>;

    /// Hands entries back unfinished. They can be claimed at once, by greater tokens only.
    ///
    /// A hand back that comes too late, after a greater token, is answered with
    /// `NotOwner`. It takes back the failure that was counted as its owner's death, because
    /// the owner lives. If the entry is handed back at that moment, the hint is published
    /// again: with fewer failures the entry need not rest so long.
    async fn hand_back(
        &self,
        consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>>;

    /// Moves entries into quarantine with payload and reason, in one step with removing them.
    ///
    /// The caller read the entry's failures earlier. An owner whose death was one of them
    /// may have handed back late since. Then fewer failures are on record than
    /// [`min_failures`](Quarantine::min_failures), and the entry stays.
    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>>;

    /// Removes the consumer's name from the group if it has nothing pending, in
    /// the same step. `true` if the name is not there afterwards.
    async fn remove_consumer(&self, consumer: &ConsumerName) -> Result<bool>;
}

/// What to fetch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchRequest {
    /// Who asks.
    pub consumer: ConsumerName,
    /// At most this many entries (at least 1).
    pub max: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
}

impl FetchRequest {
    /// Asks for up to `max` entries for `consumer`, and waits up to `wait` for the first.
    pub fn new(consumer: ConsumerName, max: usize, wait: Duration) -> Self {
        Self {
            consumer,
            max,
            wait,
        }
    }
}

/// What a fetch brought.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Entries now pending at the caller, lowest id first.
    pub entries: Vec<Delivery>,
    /// How many entries nobody has had yet, after this fetch; an estimate, 0 if unknown.
    pub backlog: u64,
}

/// An entry and what it says, if that can be read.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The entry.
    pub entry: EntryId,
    /// Its payload, or why there is none.
    pub content: Result<Announcement, MalformedReason>,
}

/// Which pending entries to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, with ids greater than `after`.
    All {
        /// Exclusive lower bound; [`EntryId::MIN`] at first.
        after: EntryId,
    },
    /// Those of one consumer, with ids greater than `after`.
    Consumer {
        /// Whose.
        consumer: ConsumerName,
        /// Exclusive lower bound; [`EntryId::MIN`] at first.
        after: EntryId,
    },
    /// Only these. An entry that is neither pending nor [stranded](Transport::list_stranded)
    /// is left out. `limit` does not apply. If the page has a [`next`](PendingPage::next),
    /// entries greater than that were not looked at.
    Entries(Vec<EntryId>),
}

/// A page of pending entries.
#[derive(Debug, Clone, Default)]
pub struct PendingPage {
    /// The entries, lowest id first.
    pub entries: Vec<Pending>,
    /// Where the next page starts (pass it as `after`); `None` if this was the last.
    pub next: Option<EntryId>,
}

/// A page of the ids of entries that are pending, or stranded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingIds {
    /// The entries, lowest id first.
    pub entries: Vec<EntryId>,
    /// Where the next page starts (pass it as `after`); `None` if this was the last.
    pub next: Option<EntryId>,
}

/// One entry that is pending: delivered, and neither completed nor quarantined.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The entry.
    pub entry: EntryId,
    /// At whom it is pending; `None` if it is [stranded](Transport::list_stranded).
    pub consumer: Option<ConsumerName>,
    /// Time since it was last delivered or claimed; zero if that is not known. What was
    /// [handed back](Self::handed_back) is made to look idle, so that anybody takes it: the true
    /// time is not known then.
    pub idle: Duration,
    /// How often it was delivered, as the server counts. Informational.
    pub deliveries: u64,
    /// Greatest token seen, [`FencingToken::NONE`] if it was never claimed with one.
    pub token: FencingToken,
    /// Whether the owner with that token handed it back.
    pub handed_back: bool,
    /// How many owners failed on it.
    pub failures: u32,
    /// Why the last ones failed, oldest first, at most [`KEPT_REASONS`].
    pub reasons: Vec<String>,
    /// Its payload, or why there is none.
    pub content: Result<Announcement, MalformedReason>,
}

/// An entry with the token of who acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// The entry.
    pub entry: EntryId,
    /// The actor's token.
    pub token: FencingToken,
}

/// One entry to hand back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandBackRequest {
    /// The entry.
    pub entry: EntryId,
    /// The owner's token.
    pub token: FencingToken,
    /// Why work on it failed, if it did. It counts towards quarantine.
    pub failed: Option<String>,
    /// Whether its idle time starts at zero, so that the entry rests: consumers wait until
    /// it has been idle for some time. Otherwise its idle time is set so long that the next
    /// consumer takes it at once.
    pub rests: bool,
}

impl HandBackRequest {
    /// Hands `entry` back, for everybody to take at once, with no failure to count.
    pub fn new(entry: EntryId, token: FencingToken) -> Self {
        Self {
            entry,
            token,
            failed: None,
            rests: false,
        }
    }

    /// Sets [`failed`](Self::failed).
    #[must_use]
    pub fn failed(mut self, reason: Option<String>) -> Self {
        self.failed = reason;
        self
    }

    /// Sets [`rests`](Self::rests).
    #[must_use]
    pub fn rests(mut self, rests: bool) -> Self {
        self.rests = rests;
        self
    }
}

/// How often owners have failed on an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// How often.
    pub count: u32,
    /// Whether this claim counted the last of them, as the death of the owner before. That
    /// owner may still live, and take it back. A repeat of the claim gives the same answer.
    pub counted_now: bool,
    /// How many of those whose reasons are kept are deaths: claims counted them, and no owner
    /// has said why. The others were reported by the owners.
    pub deaths: u32,
    /// Why the last ones failed, oldest first, at most [`KEPT_REASONS`].
    pub reasons: Vec<String>,
}

impl Failures {
    /// Whether all whose reasons are kept are deaths.
    pub(crate) fn are_deaths(&self) -> bool {
        self.count > 0 && self.deaths as usize == (self.count as usize).min(KEPT_REASONS)
    }
}

/// So many, of which no more is known.
impl From<u32> for Failures {
    fn from(count: u32) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }
}

/// Of how many failures the reasons are kept.
pub const KEPT_REASONS: usize = 5;

/// One entry to move into quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The entry.
    pub entry: EntryId,
    /// The actor's token; [`FencingToken::NONE`] for entries that could not be read.
    pub token: FencingToken,
    /// How many failures must be on record, 0 for entries that could not be read.
    pub min_failures: u32,
    /// Why, for people to read.
    pub reason: String,
}

impl Quarantine {
    /// Moves `entry` into quarantine if `min_failures` are on record for it.
    pub fn new(
        entry: EntryId,
        token: FencingToken,
        min_failures: u32,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            entry,
            token,
            min_failures,
            reason: reason.into(),
        }
    }
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimOutcome {
    /// The entry is pending at the claimer.
    Claimed {
        /// At which consumer it was pending just before; `None` if at none. If no owner is
        /// on record for the entry, a backend may name the claimer: a consumer that only
        /// fetched an entry never owned it.
        from: Option<ConsumerName>,
        /// How many owners have failed on it so far.
        failures: Failures,
    },
    /// The entry is no longer on the LBS.
    Gone,
    /// A greater token (or, after a hand back, this one) was seen: nothing changed.
    Stale {
        /// The remembered token.
        seen: FencingToken,
    },
    /// The service is [paused](crate::Admin::pause), and this would have made a new owner:
    /// nothing changed.
    Paused,
}

/// A pause of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pause {
    /// Since when, in milliseconds of the server's clock since the Unix epoch; `None` if
    /// that cannot be told.
    pub since_ms: Option<u64>,
    /// Why, as whoever paused it said; may be empty.
    pub reason: String,
}

impl Pause {
    /// A pause since then, for this reason.
    pub fn new(since_ms: Option<u64>, reason: impl Into<String>) -> Self {
        Self {
            since_ms,
            reason: reason.into(),
        }
    }
}

/// How a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompleteOutcome {
    /// The entry is removed.
    Completed,
    /// The entry was not on the LBS any more.
    Gone,
    /// A greater token was seen: nothing changed.
    NotOwner {
        /// The remembered token.
        seen: FencingToken,
    },
}

/// How a hand back ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandBackOutcome {
    /// The entry is free to be claimed.
    HandedBack,
    /// The entry was not on the LBS any more.
    Gone,
    /// A greater token was seen: nothing changed.
    NotOwner {
        /// The remembered token.
        seen: FencingToken,
    },
}

/// How a quarantining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineOutcome {
    /// The entry is quarantined, and off the LBS.
    Quarantined,
    /// The entry was not on the LBS any more.
    Gone,
    /// Fewer failures than that are on record, for one was taken back: nothing changed.
    FewerFailures,
    /// A greater token was seen: nothing changed.
    NotOwner {
        /// The remembered token.
        seen: FencingToken,
    },
}
