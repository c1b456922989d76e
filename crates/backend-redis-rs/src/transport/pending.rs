//! What is pending, and at whom: entries with all that is known of them, or their
//! ids alone.

use std::sync::{LazyLock, PoisonError};

use redis_rs::cmd;
use streamlease_core::limits::ID_PAGE;
use streamlease_core::payload::{MAX_PAYLOAD_BYTES, PAYLOAD_FIELD};
use streamlease_core::{ConsumerName, EntryId, Error, Pending, PendingIds, PendingPage, Result};

use super::pace::Allowance;
use super::{RedisTransport, add_span};
use crate::connection::{Call, Script, script};
use crate::decode;
use crate::error::protocol;
use crate::pages::PAGE;

/// Gaps of the pending list per look for what is stranded: half a millisecond.
const GAPS: usize = 500;
/// Most of those per look. Their payloads are read on the way.
const MOST_STRANDED: usize = 32;
pub(super) const GREATEST: EntryId = EntryId::new(u64::MAX, u64::MAX);
/// Fencing records looked at per sweep for whether their entry is still there.
const TIDY_PAGE: usize = 50;

static LIST_PENDING: LazyLock<Script> =
    script!("lib/base", "lbs/record", "lbs/group", "lbs/list_pending");
static LIST_STRANDED: LazyLock<Script> = script!("lbs/group", "lbs/list_stranded");
static TIDY: LazyLock<Script> = script!("lbs/tidy");

impl RedisTransport {
    /// Removes some records of entries that consumers which know no records removed.
    pub(super) async fn tidy(&self) -> Result<()> {
        let cursor = || {
            self.tidy_cursor
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let mut call = self.call();
        call.arg(&*cursor()).arg(TIDY_PAGE.to_string());
        let reply = self
            .server
            .run_one(&self.what("tidying"), &TIDY, call)
            .await?;
        let next = decode::bytes(reply)?;
        *cursor() = next;
        Ok(())
    }

    /// What is pending after an entry, at one consumer or at any: a page that is short
    /// if its entries are long.
    pub(super) async fn pending_page(
        &self,
        after: EntryId,
        limit: usize,
        consumer: Option<&ConsumerName>,
    ) -> Result<PendingPage> {
        let mut page = PendingPage {
            entries: Vec::new(),
            next: Some(after),
        };
        let mut left = limit;
        let mut allowance = Allowance::new();
        while let Some(after) = page.next.filter(|_| left > 0) {
            // Nothing comes after the greatest id, and Redis refuses to look there.
            if after == GREATEST {
                page.next = None;
                break;
            }
            let mut call = self.listing_call();
            call.arg("page");
            call.arg(after.to_string()).arg(left.min(PAGE).to_string());
            if let Some(consumer) = consumer {
                call.arg(consumer.as_str());
            }
            let (mut entries, next, bytes) = self.list("listing", call).await?;
            // A cursor that does not move would have us ask for ever.
            if next.is_some_and(|next| next <= after) {
                return Err(leads_back());
            }
            left = left.saturating_sub(entries.len());
            page.entries.append(&mut entries);
            page.next = next;
            if allowance.is_used_up(bytes) && !page.entries.is_empty() {
                break;
            }
        }
        Ok(page)
    }

    /// What is pending of these, or of the first of them if they are long.
    pub(super) async fn pending_among(&self, ids: &[EntryId]) -> Result<PendingPage> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut page = PendingPage::default();
        let mut left = &ids[..];
        let mut allowance = Allowance::new();
        while !left.is_empty() {
            let mut asked = &left[..left.len().min(PAGE)];
            let mut call = self.listing_call();
            call.arg("ids");
            add_span(&mut call, asked.iter().copied());
            call.args(asked.iter().map(ToString::to_string));
            let (mut entries, next, bytes) = self.list("looking up in", call).await?;
            if let Some(next) = next {
                asked = &asked[..asked.partition_point(|id| *id <= next)];
            }
            let Some(last) = asked.last() else {
                return Err(leads_back());
            };
            left = &left[asked.len()..];
            page.entries.append(&mut entries);
            if allowance.is_used_up(bytes) && !left.is_empty() {
                page.next = Some(*last);
                break;
            }
        }
        Ok(page)
    }

    fn listing_call(&self) -> Call {
        let mut call = self.call();
        call.arg(self.reading.bytes().to_string())
            .arg(PAYLOAD_FIELD)
            .arg(MAX_PAYLOAD_BYTES.to_string());
        call
    }

    /// One piece of a listing: its entries, where to go on, and how many bytes it had.
    async fn list(
        &self,
        doing: &str,
        call: Call,
    ) -> Result<(Vec<Pending>, Option<EntryId>, usize)> {
        let reply = self
            .read_large(&self.what(doing), &LIST_PENDING, call)
            .await?;
        let bytes = decode::size(&reply);
        let (entries, next) = decode::pending_page(reply)?;
        Ok((entries, next, bytes))
    }

    /// The same of ids alone.
    pub(super) async fn pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let mut page = PendingIds {
            entries: Vec::new(),
            next: Some(after),
        };
        while let Some(after) = page.next.filter(|_| page.entries.len() < limit) {
            page.next = None;
            if after == GREATEST {
                break;
            }
            let count = (limit - page.entries.len()).min(ID_PAGE);
            let mut command = cmd("XPENDING");
            command.arg(&self.keys.lbs).arg(&self.keys.group);
            command.arg(format!("({after}")).arg("+").arg(count);
            if let Some(consumer) = consumer {
                command.arg(consumer.as_str());
            }
            let reply = self
                .server
                .command_large(&self.what("listing"), &command)
                .await?;
            let mut ids = decode::pending_ids(reply)?;
            if ids.len() == count {
                page.next = ids.last().copied();
            }
            page.entries.append(&mut ids);
        }
        Ok(page)
    }

    /// Of what was delivered and is on the LBS, what is pending at nobody.
    pub(super) async fn stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        if after == GREATEST {
            return Ok(PendingIds::default());
        }
        let mut call = Call::new();
        call.key(&self.keys.lbs).arg(&self.keys.group);
        call.arg(after.to_string())
            .arg(limit.clamp(1, MOST_STRANDED).to_string())
            .arg(GAPS.to_string());
        let what = self.what("looking for what is stranded on");
        let reply = self.server.run_one(&what, &LIST_STRANDED, call).await?;
        let page = decode::stranded(reply)?;
        // A cursor that does not move would have us ask for ever.
        if page.next.is_some_and(|next| next <= after) {
            return Err(protocol("a page of stranded entries that leads back"));
        }
        Ok(page)
    }
}

fn leads_back() -> Error {
    protocol("a page of pending entries that leads back")
}
