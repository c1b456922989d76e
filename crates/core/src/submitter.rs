//! [`Submitter`]: what producers need of the load balancer stream (LBS).
//!
//! # Contract
//! As of a [`Transport`](crate::transport), and besides:
//! - **Idempotence.** The batch's id makes a repeat append nothing, for at least five
//!   minutes after the batch was last sent, and gets the same answers: also which streams were
//!   there already, whatever has become of them since.
//! - **Only if absent.** A batch that asks for it appends no data stream that the LBS has an
//!   entry of, whoever appended that. To look and to append is one atomic step for each
//!   stream: of two such batches at once one appends it. Of two announcements of one stream in
//!   a batch the second finds the first. What was completed, cancelled or quarantined is not on
//!   the LBS; what came back from the quarantine is. Of a stream that was announced twice, by
//!   batches that did not ask, the earlier entry may be overlooked once the later one is gone.
//!   An entry that consumers cannot read may count as one of the stream that it seems to name.
//! - **Suite.** `streamlease_testkit::conformance::transport`.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::client::random;
use crate::{Announcement, EntryId, Result};

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
}

impl SubmitOutcome {
    /// The data stream's entry, whoever has announced it.
    pub const fn entry(self) -> EntryId {
        match self {
            Self::Announced(entry) | Self::AlreadyAnnounced(entry) => entry,
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
        }
    }

    /// A batch whose id follows from `key`, by which another process, or the same one
    /// after a crash, repeats it: a rerun of a job appends nothing twice.
    ///
    /// The key stands for the batch. Use it for the same announcements in the same order
    /// only: at a place where the LBS remembers an entry, that entry is the answer,
    /// whatever is announced there now; what stands behind the last such place, because
    /// the batch has grown, is appended. It remembers a batch for at least five minutes
    /// after it was last sent (ten on Redis and in memory); later the same key appends it
    /// anew. Keys count per service.
    pub fn with_key(key: impl AsRef<[u8]>, announcements: Vec<Announcement>) -> Self {
        Self::with_id(fnv1a(key.as_ref()), announcements)
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
/// an update finds its batch.
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

    /// A key that gave another id in the next version would append its batch twice.
    #[test]
    fn a_key_gives_the_same_batch_id_in_every_version() {
        for (key, id) in [
            ("", 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d),
            ("a", 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964),
            ("foobar", 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18_u128),
        ] {
            assert_eq!(SubmitBatch::with_key(key, Vec::new()).id, id, "{key}");
        }
    }
}
