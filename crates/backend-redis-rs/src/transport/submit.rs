//! New entries: a batch of any size, in pieces, each appended once.

use std::sync::LazyLock;

use async_trait::async_trait;
use redis_rs::{Value, cmd};
use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{Error, ErrorKind, Result, SubmitBatch, SubmitOutcome, Submitter};

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

static SUBMIT: LazyLock<Script> = script!("lbs/batch", "lbs/submit");
static SUBMIT_ABSENT: LazyLock<Script> = script!("lbs/batch", "lbs/announced", "lbs/submit_absent");

/// How often a batch is sent anew because others announce faster than it is read which.
const TRIES: usize = 10;
/// How many steps that read are sent together, a millisecond each at most; and how often.
const READS: usize = 4;
const MOST_ROUNDS: usize = 10_000;

/// How far a batch has come.
enum Progress {
    /// This became of all.
    Done(Vec<SubmitOutcome>),
    /// Some more was done. The next try goes on.
    Part,
    /// What is announced has to be read first.
    Unread,
}

/// A page of a batch, and how long it is.
struct Page {
    call: Call,
    items: usize,
    bytes: usize,
}

#[async_trait]
impl Submitter for RedisTransport {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let payloads: Vec<String> = batch.announcements.iter().map(|a| a.encode()).collect();
        let mut tries = 0;
        loop {
            match self.append(batch, &payloads).await? {
                Progress::Done(outcomes) => return Ok(outcomes),
                Progress::Part => {}
                Progress::Unread if tries < TRIES => {
                    tries += 1;
                    self.read_announced(batch).await?;
                }
                Progress::Unread => return Err(self.too_much_is_announced()),
            }
        }
    }
}

impl RedisTransport {
    /// What was read is kept, so another call goes on there.
    fn too_much_is_announced(&self) -> Error {
        let what = self.what("submitting to");
        let text = format!("{what}: more is announced than can be read meanwhile");
        Error::new(ErrorKind::Unavailable, text)
    }

    /// Appends what of the batch is not on the LBS yet.
    async fn append(&self, batch: &SubmitBatch, payloads: &[String]) -> Result<Progress> {
        let script = if batch.if_absent {
            &SUBMIT_ABSENT
        } else {
            &SUBMIT
        };
        let what = self.what("submitting to");
        if payloads.iter().map(String::len).sum::<usize>() <= SMALL {
            let pages = self.submit_pages(batch, 0, payloads);
            let (calls, items): (Vec<_>, Vec<_>) = pages
                .into_iter()
                .map(|page| (page.call, page.items))
                .unzip();
            let replies = self.server.run(&what, script, &calls).await?;
            return became(items.into_iter().sum(), replies);
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
            let replies = self.server.run_large(&what, script, &calls).await?;
            piece.answered(bytes);
            match became(items, replies)? {
                Progress::Done(more) => outcomes.extend(more),
                not_yet => return Ok(not_yet),
            }
        }
        Ok(Progress::Done(outcomes))
    }

    /// Has the server read which data streams are announced, in short steps.
    async fn read_announced(&self, batch: &SubmitBatch) -> Result<()> {
        let what = self.what("reading the announcements of");
        let calls: Vec<Call> = (0..READS).map(|_| self.submit_call(batch, 0)).collect();
        for _ in 0..MOST_ROUNDS {
            let replies = self.server.run(&what, &SUBMIT_ABSENT, &calls).await?;
            if replies.iter().any(|reply| !matches!(reply, Value::Int(_))) {
                return Ok(());
            }
        }
        Err(self.too_much_is_announced())
    }

    fn submit_call(&self, batch: &SubmitBatch, before: usize) -> Call {
        let mut call = Call::new();
        call.key(&self.keys.lbs).key(self.keys.batch(batch.id));
        if batch.if_absent {
            call.key(&self.keys.announced);
        }
        call.arg(&self.keys.group)
            .arg(before.to_string())
            .arg(MEMORY.as_millis().to_string())
            .arg(PAYLOAD_FIELD);
        call
    }

    fn submit_pages(&self, batch: &SubmitBatch, before: usize, payloads: &[String]) -> Vec<Page> {
        let mut pages: Vec<Page> = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            let fits =
                |page: &&mut Page| page.items < PAGE && page.bytes + payload.len() <= PAGE_BYTES;
            let page = match pages.last_mut().filter(fits) {
                Some(page) => page,
                None => {
                    pages.push(Page {
                        call: self.submit_call(batch, before + index),
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

/// What became of so many announcements.
fn became(count: usize, replies: Vec<Value>) -> Result<Progress> {
    // Behind a page of which some was done the others were not.
    if replies.contains(&Value::Int(1)) {
        return Ok(Progress::Part);
    }
    if replies.iter().any(|reply| matches!(reply, Value::Int(_))) {
        return Ok(Progress::Unread);
    }
    let outcomes = flatten(count, replies)?.into_iter();
    let outcomes = outcomes
        .map(decode::submit_outcome)
        .collect::<Result<_>>()?;
    Ok(Progress::Done(outcomes))
}
