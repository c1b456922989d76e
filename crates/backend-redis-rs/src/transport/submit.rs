//! New entries: a batch of any size, in pieces, each appended once.

use std::sync::LazyLock;

use async_trait::async_trait;
use redis_rs::cmd;
use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{EntryId, Result, SubmitBatch, Submitter};

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

static SUBMIT: LazyLock<Script> = script!("lbs/submit");

/// A page of a batch, and how long it is.
struct Page {
    call: Call,
    items: usize,
    bytes: usize,
}

#[async_trait]
impl Submitter for RedisTransport {
    /// Appends what of the batch is not on the LBS yet.
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<EntryId>> {
        let payloads: Vec<String> = batch.announcements.iter().map(|a| a.encode()).collect();
        let what = self.what("submitting to");
        if payloads.iter().map(String::len).sum::<usize>() <= SMALL {
            let pages = self.submit_pages(batch.id, 0, &payloads);
            let (calls, items): (Vec<_>, Vec<_>) = pages
                .into_iter()
                .map(|page| (page.call, page.items))
                .unzip();
            let replies = self.server.run(&what, &SUBMIT, &calls).await?;
            let ids = flatten(items.into_iter().sum(), replies)?;
            return ids.into_iter().map(decode::entry_id).collect();
        }
        // On a slow link each attempt gets further than the one before.
        let mut ids = self.ids_of(batch.id).await?;
        ids.truncate(payloads.len());
        let mut pages = self
            .submit_pages(batch.id, ids.len(), &payloads[ids.len()..])
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
            for id in flatten(items, replies)? {
                ids.push(decode::entry_id(id)?);
            }
        }
        Ok(ids)
    }
}

impl RedisTransport {
    fn submit_pages(&self, id: u128, before: usize, payloads: &[String]) -> Vec<Page> {
        let key = self.keys.batch(id);
        let mut pages: Vec<Page> = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            let fits =
                |page: &&mut Page| page.items < PAGE && page.bytes + payload.len() <= PAGE_BYTES;
            let page = match pages.last_mut().filter(fits) {
                Some(page) => page,
                None => {
                    let mut call = Call::new();
                    call.key(&self.keys.lbs).key(&key);
                    call.arg((before + index).to_string())
                        .arg(MEMORY.as_millis().to_string())
                        .arg(PAYLOAD_FIELD);
                    pages.push(Page {
                        call,
                        items: 0,
                        bytes: 0,
                    });
                    let last = pages.len() - 1;
                    &mut pages[last]
                }
            };
            page.call.arg(payload);
            page.items += 1;
            page.bytes += payload.len();
        }
        pages
    }

    /// What of a batch is on the LBS already.
    async fn ids_of(&self, batch: u128) -> Result<Vec<EntryId>> {
        let mut ids = Vec::new();
        loop {
            let mut command = cmd("LRANGE");
            command.arg(self.keys.batch(batch));
            command.arg(ids.len()).arg(ids.len() + ID_PAGE - 1);
            let what = self.what("submitting to");
            let page = decode::list(self.server.command_large(&what, &command).await?)?;
            let is_last = page.len() < ID_PAGE;
            for id in page {
                ids.push(decode::entry_id(id)?);
            }
            if is_last {
                return Ok(ids);
            }
        }
    }
}
