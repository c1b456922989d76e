//! The quarantine, and what operators look at.

use std::sync::LazyLock;

use async_trait::async_trait;
use redis_rs::cmd;
use streamlease_core::{
    Admin, ConsumerState, Delivery, EntryId, Finding, QuarantineRelease, Quarantined, Result,
    ServiceCounts,
};

use super::pace::Allowance;
use super::{MEMORY, QUARANTINE_BYTES, QUARANTINE_PAGE, RedisTransport, pending};
use crate::check;
use crate::connection::{Call, Script, script};
use crate::decode::{self, QuarantinePage};
use crate::error::protocol;
use crate::keys::index_member;
use crate::locks::flatten;
use crate::pages::PAGE;

static COUNTS: LazyLock<Script> = script!("lib/base", "lbs/group", "lbs/counts");
static LIST_QUARANTINED: LazyLock<Script> = script!(beyond_full: "lbs/list_quarantined");
static RELEASE_QUARANTINED: LazyLock<Script> = script!("lib/base", "lbs/release_quarantined");
static DROP_QUARANTINED: LazyLock<Script> = script!("lbs/drop_quarantined");

// However full the server's memory is: then operators may need it.
static PAUSE: LazyLock<Script> = script!(beyond_full: "lib/base", "lbs/pause");
static RESUME: LazyLock<Script> = script!("lib/base", "lbs/resume");

#[async_trait]
impl Admin for RedisTransport {
    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(check::look(&self.server, &self.keys, self.scheme).await)
    }

    async fn pause(&self, reason: &str) -> Result<bool> {
        let mut call = Call::new();
        call.key(&self.keys.paused).key(&self.keys.hints);
        call.arg(reason);
        let what = self.what("pausing");
        let reply = self.server.run_one(&what, &PAUSE, call).await?;
        Ok(decode::number(reply)? == 1)
    }

    async fn resume(&self) -> Result<bool> {
        let mut call = Call::new();
        call.key(&self.keys.paused).key(&self.keys.hints);
        let what = self.what("resuming");
        let reply = self.server.run_one(&what, &RESUME, call).await?;
        Ok(decode::number(reply)? == 1)
    }

    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        let mut command = cmd("XINFO");
        command
            .arg("CONSUMERS")
            .arg(&self.keys.lbs)
            .arg(&self.keys.group);
        let reply = self
            .server
            .command(&self.what("inspecting"), &command)
            .await?;
        decode::list(reply)?
            .into_iter()
            .map(decode::consumer_state)
            .collect()
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        let read_up_to = self
            .group_state()
            .await?
            .map_or(EntryId::MIN, |state| state.last_delivered);
        let mut found: Vec<Delivery> = Vec::new();
        let mut allowance = Allowance::new();
        while found.len() < limit.max(1) {
            let after = found
                .last()
                .map_or(after.max(read_up_to), |last| last.entry);
            // Nothing comes after the greatest id, and Redis refuses to look there.
            if after == pending::GREATEST {
                break;
            }
            let count = self.fetched_at_once(limit.max(1) - found.len());
            let mut command = cmd("XRANGE");
            command
                .arg(&self.keys.lbs)
                .arg(format!("({after}"))
                .arg("+");
            command.arg("COUNT").arg(count);
            let what = self.what("listing");
            let reply = self.server.command_large(&what, &command).await?;
            let bytes = decode::size(&reply);
            let page = decode::list(reply)?;
            let is_last = page.len() < count;
            self.note_fetched(page.len(), bytes);
            for entry in page {
                found.push(decode::delivery(entry)?);
            }
            if is_last || allowance.is_used_up(bytes) {
                break;
            }
        }
        Ok(found)
    }

    async fn counts(&self) -> Result<ServiceCounts> {
        let mut call = Call::new();
        call.key(&self.keys.lbs)
            .key(&self.keys.quarantine)
            .key(&self.keys.paused);
        call.arg(&self.keys.group);
        let what = self.what("counting");
        decode::service_counts(self.server.run_one(&what, &COUNTS, call).await?)
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        let what = self.what("listing the quarantine of");
        let mut found: Vec<Quarantined> = Vec::new();
        let mut allowance = Allowance::new();
        // Where the mending of the index goes on, and how often it came to its end.
        let (mut mending, mut ends) = (Vec::new(), 0);
        while found.len() < limit {
            let after = found.last().map_or(after, |last| last.entry);
            let mut call = self.quarantine_call();
            call.arg(index_member(after))
                .arg((limit - found.len()).min(PAGE).to_string())
                .arg(self.reading.bytes().to_string())
                .arg(&mending);
            let reply = self.read_large(&what, &LIST_QUARANTINED, call).await?;
            let bytes = decode::size(&reply);
            let rows = match decode::quarantine_page(reply)? {
                QuarantinePage::Rows(rows) => rows,
                QuarantinePage::Mending(next) => {
                    // Once more: the server was restarted meanwhile, perhaps. More often
                    // does not help, and what is listed counts more than the rest.
                    ends += u32::from(next.is_empty());
                    mending = if ends < 2 { next } else { b"done".to_vec() };
                    continue;
                }
            };
            if rows.is_empty() {
                break;
            }
            for row in rows {
                // A cursor that does not move would have us ask for ever.
                if row.entry <= after {
                    return Err(protocol("a page of the quarantine that leads back"));
                }
                found.push(row);
            }
            if allowance.is_used_up(bytes) {
                break;
            }
        }
        Ok(found)
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        let call = |page: &[EntryId]| {
            let mut call = self.quarantine_call();
            call.key(&self.keys.lbs);
            call.arg(MEMORY.as_millis().to_string())
                .arg(QUARANTINE_BYTES.to_string());
            for entry in page {
                call.key(self.keys.released(*entry));
                call.arg(entry.to_string()).arg(index_member(*entry));
            }
            call
        };
        let pages = entries.chunks(QUARANTINE_PAGE);
        let doing = "releasing from the quarantine of";
        self.in_pieces(doing, &RELEASE_QUARANTINED, pages, call)
            .await?
            .into_iter()
            .map(decode::quarantine_release)
            .collect()
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        let calls: Vec<Call> = entries
            .chunks(PAGE)
            .map(|page| {
                let mut call = self.quarantine_call();
                for entry in page {
                    call.arg(entry.to_string()).arg(index_member(*entry));
                }
                call
            })
            .collect();
        let what = self.what("dropping from the quarantine of");
        let replies = self.server.run(&what, &DROP_QUARANTINED, &calls).await?;
        flatten(entries.len(), replies)?
            .into_iter()
            .map(|reply| Ok(decode::number(reply)? == 1))
            .collect()
    }
}

impl RedisTransport {
    /// A call of one of the scripts that work on the quarantine.
    fn quarantine_call(&self) -> Call {
        let mut call = Call::new();
        call.key(&self.keys.quarantine)
            .key(&self.keys.quarantine_index);
        call
    }
}
