//! What is pending, and at whom: entries with all that is known of them, or their
//! ids alone.

use std::sync::{LazyLock, PoisonError};

use redis_rs::cmd;
use streamlease_core::{ConsumerName, EntryId, PendingIds, PendingPage, Result};

use super::{PAGE_BYTES, RedisTransport, add_span};
use crate::connection::{Call, Script, script};
use crate::decode;
use crate::error::protocol;
use crate::pages::PAGE;

/// Ids per listing of nothing but those: a third of a millisecond.
const ID_PAGE: usize = 1000;
pub(super) const GREATEST: EntryId = EntryId::new(u64::MAX, u64::MAX);
/// Fencing records looked at per sweep for whether their entry is still there.
const TIDY_PAGE: usize = 50;

static LIST_PENDING: LazyLock<Script> = script!("record", "list_pending");
static TIDY: LazyLock<Script> = script!("tidy");

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

    /// What is pending after an entry, at one consumer or at any.
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
        while let Some(after) = page.next.filter(|_| left > 0) {
            // Nothing comes after the greatest id, and Redis refuses to look there.
            if after == GREATEST {
                page.next = None;
                break;
            }
            let mut call = self.call();
            call.arg(&self.keys.group)
                .arg(PAGE_BYTES.to_string())
                .arg("page");
            call.arg(after.to_string()).arg(left.min(PAGE).to_string());
            if let Some(consumer) = consumer {
                call.arg(consumer.as_str());
            }
            let reply = self
                .server
                .run_one(&self.what("listing"), &LIST_PENDING, call)
                .await?;
            let (mut entries, next) = decode::pending_page(reply)?;
            // A cursor that does not move would have us ask for ever.
            if next.is_some_and(|next| next <= after) {
                return Err(protocol("a page of pending entries that leads back"));
            }
            left = left.saturating_sub(entries.len());
            page.entries.append(&mut entries);
            page.next = next;
        }
        Ok(page)
    }

    /// What is pending of these.
    pub(super) async fn pending_among(&self, ids: &[EntryId]) -> Result<PendingPage> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let calls: Vec<Call> = ids
            .chunks(PAGE)
            .map(|page| {
                let mut call = self.call();
                call.arg(&self.keys.group).arg(PAGE_BYTES.to_string());
                call.arg("ids");
                add_span(&mut call, page.iter().copied());
                call.args(page.iter().map(ToString::to_string));
                call
            })
            .collect();
        let mut entries = Vec::new();
        for reply in self
            .server
            .run(&self.what("looking up in"), &LIST_PENDING, &calls)
            .await?
        {
            entries.append(&mut decode::pending_page(reply)?.0);
        }
        Ok(PendingPage {
            entries,
            next: None,
        })
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
            let reply = self.server.command(&self.what("listing"), &command).await?;
            let mut ids = decode::pending_ids(reply)?;
            if ids.len() == count {
                page.next = ids.last().copied();
            }
            page.entries.append(&mut ids);
        }
        Ok(page)
    }
}
