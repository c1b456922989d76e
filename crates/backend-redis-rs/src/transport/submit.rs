//! New entries: a batch of any size, in pieces, each appended once.

use std::iter::Peekable;
use std::sync::LazyLock;

use async_trait::async_trait;
use redis_rs::{Value, cmd};
use streamlease_core::payload::PAYLOAD_FIELD;
use streamlease_core::{Error, ErrorKind, Result, SubmitBatch, SubmitOutcome, Submitter};

use super::{MEMORY, RedisTransport};
use crate::connection::{Call, Script, script, unless};
use crate::decode;
use crate::error::protocol;
use crate::locks::flatten;
use crate::pages::PAGE;

/// Up to how many bytes a batch goes over the connection of the other commands.
const SMALL: usize = 8 << 10;
/// Bytes of payload per script, beyond its last entry.
const PAGE_BYTES: usize = 64 << 10;
/// Ids asked for at once.
const ID_PAGE: usize = 2_000;

static SUBMIT: LazyLock<Script> = script!(looks_first: "lbs/batch", "lbs/submit");
static SUBMIT_ABSENT: LazyLock<Script> =
    script!(looks_first: "lbs/batch", "lbs/announced", "lbs/submit_absent");
static SUBMIT_KEYED: LazyLock<Script> = script!(looks_first: "lbs/keyed", "lbs/submit");
static SUBMIT_KEYED_ABSENT: LazyLock<Script> =
    script!(looks_first: "lbs/keyed", "lbs/announced", "lbs/submit_absent");

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

/// What is sent.
struct Sent<'a> {
    batch: &'a SubmitBatch,
    payloads: Vec<String>,
    /// If it has a key, the Redis keys at which its names are remembered.
    names: Option<Vec<String>>,
    script: &'static Script,
}

/// A page of a batch, and how long it is.
struct Page {
    call: Call,
    items: usize,
    bytes: usize,
}

/// What is sent of a batch at once.
#[derive(Default)]
struct Piece {
    calls: Vec<Call>,
    items: usize,
    bytes: usize,
}

#[async_trait]
impl Submitter for RedisTransport {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let key_of = |name: &String| self.keys.named(name);
        let names = batch.remembered_as();
        let sent = Sent {
            batch,
            payloads: batch.announcements.iter().map(|a| a.encode()).collect(),
            script: match (names.is_some(), batch.if_absent) {
                (false, false) => &SUBMIT,
                (false, true) => &SUBMIT_ABSENT,
                (true, false) => &SUBMIT_KEYED,
                (true, true) => &SUBMIT_KEYED_ABSENT,
            },
            names: names.map(|names| names.iter().map(key_of).collect()),
        };
        let (mut tries, mut was_any_done) = (0, false);
        loop {
            let appended = self.append(&sent).await;
            match appended.map_err(|err| unless(was_any_done, err))? {
                Progress::Done(outcomes) => return Ok(outcomes),
                Progress::Part => was_any_done = true,
                Progress::Unread if tries < TRIES => {
                    tries += 1;
                    let read = self.read_announced(&sent).await;
                    read.map_err(|err| unless(was_any_done, err))?;
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
    async fn append(&self, sent: &Sent<'_>) -> Result<Progress> {
        let what = self.what("submitting to");
        let payloads = &sent.payloads;
        if payloads.iter().map(String::len).sum::<usize>() <= SMALL {
            let pages = self.submit_pages(sent, 0..payloads.len(), payloads);
            let (calls, items): (Vec<_>, Vec<_>) = pages
                .into_iter()
                .map(|page| (page.call, page.items))
                .unzip();
            let replies = self.server.run(&what, sent.script, &calls).await?;
            return became(items.into_iter().sum(), replies);
        }
        // On a slow link each attempt gets further than the one before.
        let mut outcomes = match &sent.names {
            Some(_) => self.known_names(sent).await?,
            None => self.known_places(sent).await?,
        };
        let missing = (0..).zip(&outcomes).filter(|(_, known)| known.is_none());
        let missing: Vec<usize> = missing.map(|(index, _)| index).collect();
        let mut places = missing.iter();
        let mut pages = self
            .submit_pages(sent, missing.iter().copied(), payloads)
            .into_iter()
            .peekable();
        let mut was_any_done = false;
        while pages.peek().is_some() {
            let piece = self.next_piece(&mut pages);
            let began = self.writing.begin();
            let replies = self
                .server
                .run_large(&what, sent.script, &piece.calls)
                .await
                .map_err(|err| unless(was_any_done, err))?;
            was_any_done = true;
            began.answered(piece.bytes);
            match became(piece.items, replies)? {
                Progress::Done(more) => {
                    for (outcome, place) in more.into_iter().zip(places.by_ref()) {
                        outcomes[*place] = Some(outcome);
                    }
                }
                not_yet => return Ok(not_yet),
            }
        }
        let outcomes: Option<Vec<_>> = outcomes.into_iter().collect();
        let none = || protocol("too few outcomes");
        outcomes.map(Progress::Done).ok_or_else(none)
    }

    /// As many pages as the link takes at once, one at least.
    fn next_piece(&self, pages: &mut Peekable<impl Iterator<Item = Page>>) -> Piece {
        let mut piece = Piece::default();
        let most = self.writing.bytes();
        while let Some(page) =
            pages.next_if(|page| piece.calls.is_empty() || piece.bytes + page.bytes <= most)
        {
            piece.items += page.items;
            piece.bytes += page.bytes;
            piece.calls.push(page.call);
        }
        piece
    }

    /// Has the server read which data streams are announced, in short steps.
    async fn read_announced(&self, sent: &Sent<'_>) -> Result<()> {
        let what = self.what("reading the announcements of");
        let calls: Vec<Call> = (0..READS).map(|_| self.submit_call(sent, 0)).collect();
        for _ in 0..MOST_ROUNDS {
            let replies = self.server.run(&what, sent.script, &calls).await?;
            if replies.iter().any(|reply| !matches!(reply, Value::Int(_))) {
                return Ok(());
            }
        }
        Err(self.too_much_is_announced())
    }

    fn submit_call(&self, sent: &Sent<'_>, before: usize) -> Call {
        let batch = sent.batch;
        let mut call = Call::new();
        call.key(&self.keys.lbs);
        if sent.names.is_none() {
            call.key(self.keys.batch(batch.id));
        }
        if batch.if_absent {
            call.key(&self.keys.announced);
        }
        call.arg(&self.keys.group);
        match sent.names {
            Some(_) => call.arg(format!("{:032x}", batch.id)),
            None => call.arg(before.to_string()),
        };
        call.arg(MEMORY.as_millis().to_string()).arg(PAYLOAD_FIELD);
        call
    }

    /// Pages of these places of the batch, in this order, with what stands there.
    fn submit_pages(
        &self,
        sent: &Sent<'_>,
        places: impl IntoIterator<Item = usize>,
        payloads: &[String],
    ) -> Vec<Page> {
        let mut pages: Vec<Page> = Vec::new();
        for place in places {
            let payload = payloads.get(place).map_or("", String::as_str);
            let key = sent.names.as_ref().map(|names| &names[place]);
            let bytes = payload.len() + key.map_or(0, String::len);
            let fits = |page: &&mut Page| page.items < PAGE && page.bytes + bytes <= PAGE_BYTES;
            let page = match pages.last_mut().filter(fits) {
                Some(page) => page,
                None => {
                    pages.push(Page {
                        call: self.submit_call(sent, place),
                        items: 0,
                        bytes: 0,
                    });
                    let last = pages.len() - 1;
                    &mut pages[last]
                }
            };
            if let Some(key) = key {
                page.call.key(key);
            }
            page.call.arg(payload);
            page.items += 1;
            page.bytes += bytes;
        }
        pages
    }

    /// What became of the names of a batch with a key so far.
    async fn known_names(&self, sent: &Sent<'_>) -> Result<Vec<Option<SubmitOutcome>>> {
        let what = self.what("submitting to");
        // Without payloads the script only reads.
        let count = sent.payloads.len();
        let asked = Sent {
            batch: &SubmitBatch::with_id(sent.batch.id, Vec::new()),
            payloads: Vec::new(),
            names: sent.names.clone(),
            script: &SUBMIT_KEYED,
        };
        let pages = self.submit_pages(&asked, 0..count, &[]);
        let mut pages = pages.into_iter().peekable();
        let mut known = Vec::with_capacity(count);
        while pages.peek().is_some() {
            let piece = self.next_piece(&mut pages);
            let replies = self
                .server
                .run_large(&what, asked.script, &piece.calls)
                .await?;
            for outcome in flatten(piece.items, replies)? {
                known.push(match outcome {
                    Value::Nil => None,
                    outcome => Some(decode::submit_outcome(outcome)?),
                });
            }
        }
        Ok(known)
    }

    /// What became of a batch without a key so far.
    async fn known_places(&self, sent: &Sent<'_>) -> Result<Vec<Option<SubmitOutcome>>> {
        let mut known = self.outcomes_of(sent.batch.id).await?;
        let count = sent.payloads.len();
        known.truncate(count);
        if known.len() == count {
            // It is remembered from now on.
            let call = self.submit_call(sent, 0);
            let what = self.what("submitting to");
            self.server.run(&what, &SUBMIT, &[call]).await?;
        }
        let mut known: Vec<_> = known.into_iter().map(Some).collect();
        known.resize(count, None);
        Ok(known)
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
