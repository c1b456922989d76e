//! [`Submitter`]: what producers need of the load balancer stream (LBS).
//!
//! # Contract
//! As of a [`Transport`](crate::transport), and besides:
//! - **Idempotence.** The batch's id makes a repeat append nothing, for at least five
//!   minutes after the batch was last sent, and gets the same answers: also which streams were
//!   there already, whatever has become of them since.
//! - **Keys.** Of a batch with a key each announcement is remembered by itself, as
//!   [`remembered_as`](SubmitBatch::remembered_as) says, for at least five minutes after it was
//!   last sent. What is remembered is not appended, whatever stands before or behind it now. The
//!   batch that has appended it gets the same answer again; others are answered
//!   [`AlreadySubmitted`](SubmitOutcome::AlreadySubmitted). The place in the batch counts for
//!   nothing, and the batch's id only says whose answer it was.
//! - **Only if absent.** A batch that asks for it appends no data stream that the LBS has an
//!   entry of, whoever appended that. To look and to append is one atomic step for each
//!   stream: of two such batches at once one appends it. Of two announcements of one stream in
//!   a batch the second finds the first. What was completed, cancelled or quarantined is not on
//!   the LBS; what came back from the quarantine is. Of a stream that was announced twice, by
//!   batches that did not ask, the earlier entry may be overlooked once the later one is gone.
//!   An entry that consumers cannot read may count as one of the stream that it seems to name.
//! - **Suite.** `streamlease_testkit::conformance::transport`.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;

use crate::client::random;
use crate::{Announcement, EntryId, Error, ErrorKind, Result, StreamName};

/// The LBS of one service, as producers use it. See the [module docs](self) for the contract.
#[async_trait]
pub trait Submitter: Debug + Send + Sync + 'static {
    /// Appends announcements; returns what became of each, in the order given. Of a batch that
    /// is remembered, what stands behind its last place is appended and nothing else.
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>>;
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitOutcome {
    /// It was appended, with this id.
    Announced(EntryId),
    /// Nothing was appended: the LBS had this entry of the data stream already. Only if the
    /// batch is to announce [what is absent](SubmitBatch::if_absent).
    AlreadyAnnounced(EntryId),
    /// Nothing was appended: another batch with the same [key](SubmitBatch::with_key) has
    /// announced this data stream, as this entry. It may be gone since.
    AlreadySubmitted(EntryId),
}

impl SubmitOutcome {
    /// The data stream's entry, whoever has announced it.
    pub const fn entry(self) -> EntryId {
        match self {
            Self::Announced(entry)
            | Self::AlreadyAnnounced(entry)
            | Self::AlreadySubmitted(entry) => entry,
        }
    }
}

/// Announcements to append together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubmitBatch {
    /// Drawn anew for each batch; a repeat with the same id appends nothing.
    pub id: u128,
    /// What to append, in this order.
    pub announcements: Vec<Announcement>,
    /// Announce only the data streams that are not on the LBS; see
    /// [`if_absent`](Self::if_absent).
    pub if_absent: bool,
    /// What stands for the job that this batch is of; see [`with_key`](Self::with_key).
    pub key: Option<u128>,
}

impl SubmitBatch {
    /// A batch with an id of its own, to be appended once however often it is sent.
    ///
    /// # Errors
    /// [`Environment`](crate::ErrorKind::Environment) if the operating system gives no random
    /// numbers.
    pub fn new(announcements: Vec<Announcement>) -> Result<Self> {
        let id = (u128::from(random()?) << 64) | u128::from(random()?);
        Ok(Self::with_id(id, announcements))
    }

    /// A batch with this id, which the caller has drawn.
    pub fn with_id(id: u128, announcements: Vec<Announcement>) -> Self {
        Self {
            id,
            announcements,
            if_absent: false,
            key: None,
        }
    }

    /// A batch that another process, or the same one after a crash, can repeat: a rerun of a
    /// job with the same key announces nothing twice.
    ///
    /// With one key each *name* is announced once, in whatever order and in however many
    /// batches: if names were added or moved, what is new is appended and nothing else. A name
    /// that stands twice in one batch is announced twice. The info counts for nothing: what is
    /// remembered keeps the info that it was announced with.
    ///
    /// The LBS remembers a name for at least five minutes after it was last sent with the key
    /// (ten on Redis and in memory); later the same key announces it anew. That costs Redis some
    /// 230 bytes and the name for each, for so long. Keys count per service.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the key is empty;
    /// [`Environment`](ErrorKind::Environment) if the operating system gives no random
    /// numbers.
    pub fn with_key(key: impl AsRef<[u8]>, announcements: Vec<Announcement>) -> Result<Self> {
        let key = key.as_ref();
        if key.is_empty() {
            let text = "the key of a batch is empty; give one that stands for the job";
            return Err(Error::new(ErrorKind::Config, text));
        }
        let mut batch = Self::new(announcements)?;
        batch.key = Some(fnv1a(key));
        Ok(batch)
    }

    /// As what the LBS remembers each announcement, if the batch has a key: the key, how often
    /// the name stands before it in the batch, and the name.
    pub fn remembered_as(&self) -> Option<Vec<String>> {
        let key = self.key?;
        let mut seen: BTreeMap<&StreamName, usize> = BTreeMap::new();
        let streams = self.announcements.iter().map(|a| &a.stream);
        let text = |stream| {
            let times = seen.entry(stream).or_default();
            let text = format!("{key:032x}:{times}:{stream}");
            *times += 1;
            text
        };
        Some(streams.map(text).collect())
    }

    /// The same batch, of which only the data streams are announced that are not announced,
    /// as [`Producer::submit_if_absent`](crate::Producer::submit_if_absent) says.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.if_absent = true;
        self
    }
}

/// FNV-1a of 128 bits: the same everywhere and in every version, so that a rerun after
/// an update finds its names.
fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Info;

    /// A key that gave another text in the next version would announce its names twice.
    #[test]
    fn a_key_remembers_names_by_the_same_text_in_every_version() {
        for (key, id) in [
            ("a", 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964),
            ("foobar", 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18_u128),
        ] {
            let batch = SubmitBatch::with_key(key, Vec::new()).expect("a key");
            assert_eq!(batch.key, Some(id), "{key}");
        }
        let announce = |name| Announcement::new(StreamName::new(name).expect(name), Info::NONE);
        let names = ["s", "t", "s", "1:s"].map(announce).to_vec();
        let batch = SubmitBatch::with_key("a", names).expect("a key");
        let key = "d228cb696f1a8caf78912b704e4a8964";
        assert_eq!(
            batch.remembered_as().expect("it has a key"),
            ["0:s", "0:t", "1:s", "0:1:s"].map(|text| format!("{key}:{text}"))
        );
        assert_eq!(SubmitBatch::with_id(1, Vec::new()).remembered_as(), None);
    }

    #[test]
    fn an_empty_key_is_refused() {
        let error = SubmitBatch::with_key("", Vec::new()).expect_err("no key");
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
