//! [`Admin`]: what operators need of the load balancer stream (LBS).
//!
//! # Contract
//! As of a [`Transport`](crate::transport), and besides:
//! - **Idempotence.** [`release_quarantined`](Admin::release_quarantined) never appends
//!   twice. For at least five minutes its repeat also finds the new entry's id.
//! - **Pause.** Once [`pause`](Admin::pause) has returned, no claim makes a new owner until
//!   [`resume`](Admin::resume) is called; see the contract of [`Transport`](crate::transport).
//!   A pause has no end of its own. Both publish [`Hint::PauseChanged`](crate::Hint) in the
//!   same step, a repeat too: it may be there because a hint was lost.
//! - **Check.** [`check`](Admin::check) changes nothing. A finding has a code of lower case
//!   letters and hyphens that stays the same, and an advice if something is wrong.
//! - **Counts.** [`counts`](Admin::counts) costs the store the same however much there is,
//!   and changes nothing. Each consumer may ask every few seconds.
//! - **Suite.** `streamlease_testkit::conformance::transport`.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Announcement, ConsumerName, Delivery, EntryId, Error, ErrorKind, Finding, MalformedReason,
    Result,
};

/// The LBS of one service, as operators use it. See the [module docs](self) for the contract.
#[async_trait]
pub trait Admin: Debug + Send + Sync + 'static {
    /// The group's consumers.
    async fn consumers(&self) -> Result<Vec<ConsumerState>>;

    /// Entries after `after` that no consumer has had yet, at most `limit`. For
    /// inspection. Only an empty page is the last one.
    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>>;

    /// How much there is, without a look at each entry: for metrics. Without a group all
    /// that was announced waits.
    async fn counts(&self) -> Result<ServiceCounts>;

    /// Quarantined entries with ids greater than `after`, at most `limit`, lowest id
    /// first. Only an empty page is the last one.
    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>>;

    /// Appends the fields of quarantined entries to the LBS again, as they were,
    /// each in one step with taking it out of the quarantine. Without a group,
    /// too. The new entries have failed nobody yet.
    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>>;

    /// Removes quarantined entries for good. `true` for each that this call
    /// removed; a repeat says `false`.
    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>>;

    /// Pauses the service: until it is resumed nothing is taken, neither what is fresh nor
    /// what others have left, and what is held stays held. `reason` is for people to read.
    ///
    /// `true` if this call began the pause; in one that lasts already nothing changes, not
    /// even the reason. Needs no group: a service can be paused before its first consumer.
    ///
    /// # Errors
    /// [`ErrorKind::Environment`] from a backend that cannot pause services.
    async fn pause(&self, reason: &str) -> Result<bool> {
        let _ = reason;
        Err(cannot_pause())
    }

    /// Ends the pause. `true` if this call ended one.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    async fn resume(&self) -> Result<bool> {
        Err(cannot_pause())
    }

    /// What only the store knows of itself: whether it can be reached, may do all that is
    /// needed, and is set up well. It changes nothing, and an error is a finding, too. A
    /// store that has nothing to say leaves this out.
    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

/// How much there is of a service at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceCounts {
    /// Entries that no consumer has had yet. `None` if the store cannot say it without
    /// counting them: Redis cannot while one that was withdrawn lies among them.
    pub waiting: Option<u64>,
    /// For how long the oldest of them has waited, by the store's clock. `None` if there is
    /// none, and only then.
    pub oldest_waiting: Option<Duration>,
    /// Entries that are pending at a consumer, whether or not it lives and holds a lease.
    pub pending: u64,
    /// Entries in quarantine.
    pub quarantined: u64,
    /// Whether the service is paused.
    pub is_paused: bool,
}

impl ServiceCounts {
    /// What a store has counted, in a service that is not paused.
    pub fn new(
        waiting: Option<u64>,
        oldest_waiting: Option<Duration>,
        pending: u64,
        quarantined: u64,
    ) -> Self {
        Self {
            waiting,
            oldest_waiting,
            pending,
            quarantined,
            is_paused: false,
        }
    }

    /// Sets [`is_paused`](Self::is_paused).
    #[must_use]
    pub fn paused(mut self, is_paused: bool) -> Self {
        self.is_paused = is_paused;
        self
    }
}

fn cannot_pause() -> Error {
    Error::new(
        ErrorKind::Environment,
        "this backend cannot pause services: its transport does not implement it",
    )
}

/// How the release of a quarantined entry ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineRelease {
    /// It is on the LBS again, under this id.
    Released(EntryId),
    /// It is not in quarantine; or it was released too long ago for the new id
    /// to be remembered.
    Gone,
    /// What the quarantine keeps of it cannot be appended; it stays there.
    Unreadable,
}

/// A consumer as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name.
    pub consumer: ConsumerName,
    /// How many entries are pending at it.
    pub pending: u64,
    /// Time since it last asked for something, as the server counts.
    pub idle: Duration,
}

/// A quarantined entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The id it had on the LBS.
    pub entry: EntryId,
    /// Why it was quarantined.
    pub reason: String,
    /// How many owners had failed on it.
    pub failures: u32,
    /// Why the last of them failed, oldest first, at most [`KEPT_REASONS`](crate::KEPT_REASONS).
    pub reasons: Vec<String>,
    /// The consumer that quarantined it: its last owner, or who found that it cannot be read.
    pub last_owner: ConsumerName,
    /// When, in milliseconds of the server's clock since the Unix epoch.
    pub at_ms: u64,
    /// Its fields as they were, names and values, unread.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Quarantined {
    /// What it says, or why that cannot be read.
    pub fn content(&self) -> Result<Announcement, MalformedReason> {
        let fields = self.fields.iter();
        Announcement::from_fields(fields.map(|(name, value)| (&**name, &**value)))
    }
}

impl Debug for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantined")
            .field("entry", &self.entry)
            .field("reason", &self.reason)
            .field("failures", &self.failures)
            .field("reasons", &self.reasons)
            .field("last_owner", &self.last_owner)
            .field("at_ms", &self.at_ms)
            .field("fields", &self.fields.len())
            .finish()
    }
}
