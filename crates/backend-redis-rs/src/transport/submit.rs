//! New entries: a batch of any size, in pieces, each appended once.

use std::sync::LazyLock;

use async_trait::async_trait;
use redis_rs::cmd;
use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{Result, SubmitBatch, SubmitOutcome, Submitter};

use super::{MEMORY, RedisTransport};
use crate::connection::{Call, Script, script};
use crate::decode;
use crate::locks::flatten;
use crate::pages::PAGE;

/// Up to how many bytes a batch goes over the connection of the other commands.
const SMALL: usize = 8 << 10;
/// Bytes of payload per script, beyond its last entry.
const PAGE_BYTES: usize = 64 << 10;
/// Ids asked for at once.
const ID_PAGE: usize = 2_000;

static SUBMIT: LazyLock<Script> = script!("lbs/announced", "lbs/submit");

/// A page of a batch, and how long it is.
struct Page {
    call: Call,
    items: usize,
    bytes: usize,
}

#[async_trait]
impl Submitter for RedisTransport {
    /// Appends what of the batch is not on the LBS yet.
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let payloads: Vec<String> = batch.announcements.iter().map(|a| a.encode()).collect();
        let what = self.what("submitting to");
        if payloads.iter().map(String::len).sum::<usize>() <= SMALL {
            let pages = self.submit_pages(batch, 0, &payloads);
            let (calls, items): (Vec<_>, Vec<_>) = pages
                .into_iter()
                .map(|page| (page.call, page.items))
                .unzip();
            let replies = self.server.run(&what, &SUBMIT, &calls).await?;
            let outcomes = flatten(items.into_iter().sum(), replies)?;
            return outcomes.into_iter().map(decode::submit_outcome).collect();
        }
        // On a slow link each attempt gets further than the one before.
        let mut outcomes = self.outcomes_of(batch.id).await?;
        outcomes.truncate(payloads.len());
        let mut pages = self
            .submit_pages(batch, outcomes.len(), &payloads[outcomes.len()..])
            .into_iter()
            .peekable();
        while pages.peek().is_some() {
            let (mut calls, mut items, mut bytes) = (Vec::new(), 0, 0);
            let most = self.writing.bytes();
            while let Some(page) =
                pages.next_if(|page| calls.is_empty() || bytes + page.bytes <= most)
            {
                (items, bytes) = (items + page.items, bytes + page.bytes);
                calls.push(page.call);
            }
            let piece = self.writing.begin();
            let replies = self.server.run_large(&what, &SUBMIT, &calls).await?;
            piece.answered(bytes);
            for outcome in flatten(items, replies)? {
                outcomes.push(decode::submit_outcome(outcome)?);
            }
        }
        Ok(outcomes)
    }
}

impl RedisTransport {
    /// `payloads` are those of the batch behind the first `before`.
    fn submit_pages(&self, batch: &SubmitBatch, before: usize, payloads: &[String]) -> Vec<Page> {
        let key = self.keys.batch(batch.id);
        let mut pages: Vec<Page> = Vec::new();
        let announcements = batch.announcements.iter().skip(before);
        for (index, (payload, announcement)) in payloads.iter().zip(announcements).enumerate() {
            let fits =
                |page: &&mut Page| page.items < PAGE && page.bytes + payload.len() <= PAGE_BYTES;
            let page = match pages.last_mut().filter(fits) {
                Some(page) => page,
                None => {
                    let mut call = Call::new();
                    call.key(&self.keys.lbs).key(&key).key(&self.keys.announced);
                    call.arg(&self.keys.group)
                        .arg((before + index).to_string())
                        .arg(MEMORY.as_millis().to_string())
                        .arg(PAYLOAD_FIELD)
                        .arg(if batch.if_absent { "1" } else { "" });
                    pages.push(Page {
                        call,
                        items: 0,
                        bytes: 0,
                    });
                    let last = pages.len() - 1;
                    &mut pages[last]
                }
            };
            page.call.arg(payload).arg(announcement.stream.as_str());
            page.items += 1;
            page.bytes += payload.len();
        }
        pages
    }

    /// What became of a batch so far.
    async fn outcomes_of(&self, batch: u128) -> Result<Vec<SubmitOutcome>> {
        let mut outcomes = Vec::new();
        loop {
            let mut command = cmd("LRANGE");
            command.arg(self.keys.batch(batch));
            let from = outcomes.len();
            command.arg(from).arg(from + ID_PAGE - 1);
            let what = self.what("submitting to");
            let page = decode::list(self.server.command_large(&what, &command).await?)?;
            let is_last = page.len() < ID_PAGE;
            for outcome in page {
                outcomes.push(decode::submit_outcome(outcome)?);
            }
            if is_last {
                return Ok(outcomes);
            }
        }
    }
}
