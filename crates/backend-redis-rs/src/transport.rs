//! [`RedisTransport`]: the LBS as a Redis stream with a consumer group.
//!
//! Whatever changes an entry is a script that compares its fencing record first,
//! in pages, so that no call blocks the server for long. What may be large, entries
//! with their payloads, goes in pieces whose length follows from how long they take
//! (`pace`), on connections of their own: no heartbeat waits behind them. Here: the steps
//! of an entry; `pending`: what is pending, and at whom; `submit`: new entries; `admin`: the
//! quarantine, and what operators look at.

mod admin;
mod pace;
mod pending;
mod submit;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use redis_rs::{Pipeline, Value, cmd};
use streamlease_core::limits::{FETCH_PAGE, HANDED_BACK_IDLE, REPEATABLE};
use streamlease_core::{
    ClaimOutcome, CompleteOutcome, ConsumerName, EntryId, Failures, Fenced, FencingToken,
    FetchRequest, Fetched, HandBackOutcome, HandBackRequest, LockScheme, Pause, PendingIds,
    PendingPage, Quarantine, QuarantineOutcome, Result, Scope, Transport,
};

use self::pace::Pace;
use crate::connection::{Call, Script, Server, script};
use crate::decode::{self, GroupState};
use crate::error::{of_wrong_type, protocol};
use crate::eviction;
use crate::hello;
use crate::keys::{Keys, index_member};
use crate::locks::{digits, flatten, other_scheme, scheme_name};
use crate::pages::pages_without_repeats;
use crate::rights;

/// Entries per fetch, for the same reason.
const MOST_FETCHED: usize = 1000;
const _: () = assert!(MOST_FETCHED >= FETCH_PAGE);
/// About how many bytes a fetch may bring.
const FETCHED_BYTES: usize = 128 << 10;
/// As how long an entry counts as long as none was seen. Consumers fetch one at first.
const UNSEEN_ENTRY: usize = FETCHED_BYTES / MOST_FETCHED;
/// Entries per script that moves them with their payload, into quarantine or out:
/// 12 µs each.
const QUARANTINE_PAGE: usize = 64;
/// Most bytes of payload per such script, beyond its last entry: that is one or two
/// milliseconds.
const QUARANTINE_BYTES: usize = 256 << 10;
/// How long a batch's id, and as what a quarantined entry came back, is remembered.
/// Twice what is promised, so that no repeat comes too late.
const MEMORY: Duration = REPEATABLE.saturating_mul(2);

static PREPARE: LazyLock<Script> = script!(beyond_full: "lbs/prepare");
static CLAIM: LazyLock<Script> = script!(beyond_full: "lib/base", "lbs/record", "lbs/claim");
static CLEAR_FAILURES: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lbs/record",
    "lbs/clear_failures"
);
static COMPLETE: LazyLock<Script> = script!("lib/base", "lbs/record", "lbs/complete");
static HAND_BACK: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lbs/record",
    "lbs/hand_back"
);
static QUARANTINE: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lbs/record",
    "lbs/quarantine"
);
static REMOVE_CONSUMER: LazyLock<Script> = script!("lbs/remove_consumer");

/// The LBS of one service.
#[derive(Debug)]
pub(crate) struct RedisTransport {
    server: Arc<Server>,
    keys: Arc<Keys>,
    /// What this backend's locks are; on record with the group.
    scheme: LockScheme,
    /// Where the next look for left-over fencing records goes on.
    tidy_cursor: Mutex<Vec<u8>>,
    /// Whether it has worked: before that the rights are looked at, and after that a warning
    /// says what the server is set to. Rights that go later come back, too.
    was_prepared: AtomicBool,
    /// What is read, and what is written.
    reading: Pace,
    writing: Pace,
    /// About how long an entry is that was fetched of late.
    entry_bytes: AtomicUsize,
}

impl RedisTransport {
    pub(crate) fn new(server: Arc<Server>, keys: Arc<Keys>, scheme: LockScheme) -> Self {
        Self {
            server,
            keys,
            scheme,
            tidy_cursor: Mutex::new(b"0".to_vec()),
            was_prepared: AtomicBool::new(false),
            reading: Pace::new(),
            writing: Pace::new(),
            entry_bytes: AtomicUsize::new(UNSEEN_ENTRY),
        }
    }

    /// A call with what every script that works on entries is given.
    fn call(&self) -> Call {
        let mut call = Call::new();
        call.key(&self.keys.lbs).key(&self.keys.tokens);
        call.arg(&self.keys.group);
        call
    }

    fn what(&self, doing: &str) -> String {
        format!("{doing} {}", self.keys.lbs)
    }

    /// Runs a script over pages of items and reads one outcome per item.
    async fn paged<T, O>(
        &self,
        doing: &str,
        script: &Script,
        pages: Vec<&[T]>,
        fill: impl Fn(&mut Call, &[T]),
        read: impl Fn(Value) -> Result<O>,
    ) -> Result<Vec<O>> {
        let count = pages.iter().map(|page| page.len()).sum();
        let calls: Vec<Call> = pages
            .into_iter()
            .map(|page| {
                let mut call = self.call();
                fill(&mut call, page);
                call
            })
            .collect();
        let replies = self.server.run(&self.what(doing), script, &calls).await?;
        flatten(count, replies)?.into_iter().map(read).collect()
    }

    /// Claims entries; as one who `keeps` what it holds, or as a new owner.
    async fn claim_pages(
        &self,
        doing: &str,
        consumer: &ConsumerName,
        claims: &[Fenced],
        keeps: bool,
    ) -> Result<Vec<ClaimOutcome>> {
        let pages = pages_without_repeats(claims, |claim| claim.entry);
        let fill = |call: &mut Call, page: &[Fenced]| {
            call.key(&self.keys.paused);
            call.arg(consumer.as_str());
            // Consumers of the wire format own entries without a fencing record.
            call.arg(match self.scheme {
                LockScheme::Session => "1",
                LockScheme::PerStream => "0",
            });
            call.arg(if keeps { "1" } else { "0" });
            add_span(call, page.iter().map(|claim| claim.entry));
            add_fenced(call, page);
        };
        let read = |reply| claimed(consumer, reply);
        self.paged(doing, &CLAIM, pages, fill, read).await
    }

    /// Runs a script that stops when it has moved enough, until it has done all pages.
    /// How long entries are only the server knows.
    async fn in_pieces<'a, T: 'a>(
        &self,
        doing: &str,
        script: &Script,
        pages: impl Iterator<Item = &'a [T]>,
        call: impl Fn(&[T]) -> Call,
    ) -> Result<Vec<Value>> {
        let what = self.what(doing);
        let mut replies = Vec::new();
        for page in pages {
            let mut rest = page;
            while !rest.is_empty() {
                let reply = self.server.run_one(&what, script, call(rest)).await?;
                let done = decode::list(reply)?;
                // None would have us ask for ever.
                if done.is_empty() || done.len() > rest.len() {
                    return Err(protocol("another number of outcomes"));
                }
                rest = &rest[done.len()..];
                replies.extend(done);
            }
        }
        Ok(replies)
    }

    /// What the group is like; `None` if there is no such group.
    async fn group_state(&self) -> Result<Option<GroupState>> {
        let reply = self
            .server
            .command(&self.what("inspecting"), &self.info_groups())
            .await?;
        decode::group_state(reply, &self.keys.group)
    }

    /// How many entries a fetch may bring: XREADGROUP counts entries and not bytes, and
    /// reading them one by one in a script costs the server four times as much. So
    /// by how long they were of late. What is too much all the same is delivered
    /// although its reply comes too late, and found by listing, in pieces.
    fn fetched_at_once(&self, max: usize) -> usize {
        let each = self.entry_bytes.load(Ordering::Relaxed).max(1);
        let fits = FETCHED_BYTES / each;
        max.min(fits).clamp(1, MOST_FETCHED)
    }

    fn note_fetched(&self, entries: usize, bytes: usize) {
        let Some(each) = bytes.checked_div(entries) else {
            return;
        };
        let before = self.entry_bytes.load(Ordering::Relaxed);
        // Forgets slowly: long ones may come among short ones.
        let now = each.max(before - before / 8);
        self.entry_bytes.store(now, Ordering::Relaxed);
    }

    /// Runs a script once whose reply is large.
    async fn read_large(&self, what: &str, script: &Script, call: Call) -> Result<Value> {
        let piece = self.reading.begin();
        let calls = std::slice::from_ref(&call);
        let reply = self.server.run_large(what, script, calls).await?.pop();
        let reply = reply.ok_or_else(|| protocol("no reply"))?;
        piece.answered(decode::size(&reply));
        Ok(reply)
    }

    fn info_groups(&self) -> redis_rs::Cmd {
        let mut command = cmd("XINFO");
        command.arg("GROUPS").arg(&self.keys.lbs);
        command
    }
}

#[async_trait]
impl Transport for RedisTransport {
    async fn prepare(&self) -> Result<()> {
        if self.scheme == LockScheme::PerStream {
            hello::refuse_per_stream_locks(&self.server).await?;
        }
        if !self.was_prepared.load(Ordering::Relaxed) {
            rights::check(&self.server, &self.keys, self.scheme).await?;
        }
        let mut call = Call::new();
        call.key(&self.keys.lbs).key(&self.keys.scheme);
        call.key(&self.keys.owners)
            .key(&self.keys.server)
            .key(&self.keys.details);
        call.arg(&self.keys.group).arg(scheme_name(self.scheme));
        let what = self.what("preparing");
        let reply = self.server.run_one(&what, &PREPARE, call).await?;
        let (word, mut rest) = decode::outcome(reply)?;
        let recorded = match &*word {
            "ok" => {
                if !self.was_prepared.swap(true, Ordering::Relaxed) {
                    eviction::warn(&self.server).await;
                }
                return Ok(());
            }
            "wire" => None,
            "other" => Some(decode::text(decode::next(&mut rest)?)?),
            _ => return Err(protocol("an unknown outcome of preparing")),
        };
        Err(other_scheme(
            &self.keys.lbs,
            self.scheme,
            recorded.as_deref(),
        ))
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(&self.keys.group)
            .arg(request.consumer.as_str());
        read.arg("COUNT").arg(self.fetched_at_once(request.max));
        if !request.wait.is_zero() {
            // BLOCK 0 would wait for ever.
            read.arg("BLOCK").arg(
                u64::try_from(request.wait.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1),
            );
        }
        read.arg("STREAMS").arg(&self.keys.lbs).arg(">");
        let mut pipeline = Pipeline::new();
        pipeline.add_command(read).add_command(self.info_groups());
        let what = self.what("reading");
        let mut replies = self
            .server
            .alone(&what, &pipeline, request.wait)
            .await?
            .into_iter();
        let entries = replies.next().ok_or_else(|| protocol("no reply"))?;
        let entries = self.server.checked(&what, entries)?;
        let bytes = decode::size(&entries);
        let entries = decode::fetched(entries)?;
        self.note_fetched(entries.len(), bytes);
        // Only an estimate: without the right to ask, or on an odd answer, it is unknown.
        let state = replies
            .next()
            .and_then(|reply| decode::group_state(reply, &self.keys.group).ok());
        let backlog = state.flatten().and_then(|state| state.lag).unwrap_or(0);
        Ok(Fetched { entries, backlog })
    }

    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage> {
        match scope {
            Scope::All { after } => {
                // Once per sweep: where it starts.
                if *after == EntryId::MIN {
                    self.tidy().await?;
                }
                self.pending_page(*after, limit, None).await
            }
            Scope::Consumer { consumer, after } => {
                self.pending_page(*after, limit, Some(consumer)).await
            }
            Scope::Entries(ids) => self.pending_among(ids).await,
        }
    }

    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        if consumer.is_none() && after == EntryId::MIN {
            self.tidy().await?;
        }
        self.pending_ids(consumer, after, limit).await
    }

    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        self.stranded(after, limit).await
    }

    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        self.claim_pages("claiming from", consumer, claims, false)
            .await
    }

    async fn keep(&self, consumer: &ConsumerName, held: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        self.claim_pages("keeping entries of", consumer, held, true)
            .await
    }

    async fn paused(&self) -> Result<Option<Pause>> {
        let mut get = cmd("GET");
        get.arg(&self.keys.paused);
        let what = self.what("looking for a pause of");
        let reply = self.server.command(&what, &get).await;
        decode::pause(reply.map_err(|err| match err.kind() {
            streamlease_core::ErrorKind::Incompatible => {
                of_wrong_type(&what, &self.keys.paused, "string")
            }
            _ => err,
        })?)
    }

    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()> {
        let calls: Vec<Call> = pages_without_repeats(entries, |owner| owner.entry)
            .into_iter()
            .map(|page| {
                let mut call = self.call();
                add_fenced(&mut call, page);
                call
            })
            .collect();
        let what = self.what("clearing failures on");
        self.server.run(&what, &CLEAR_FAILURES, &calls).await?;
        Ok(())
    }

    async fn complete(
        &self,
        _consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>> {
        let pages = pages_without_repeats(entries, |fenced| fenced.entry);
        let fill = |call: &mut Call, page: &[Fenced]| {
            add_fenced(call, page);
        };
        let read = |reply| {
            Ok(match ended(reply)? {
                Ended::Done => CompleteOutcome::Completed,
                Ended::Gone => CompleteOutcome::Gone,
                Ended::NotOwner(seen) => CompleteOutcome::NotOwner { seen },
            })
        };
        self.paged("completing on", &COMPLETE, pages, fill, read)
            .await
    }

    async fn hand_back(
        &self,
        consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>> {
        let pages = pages_without_repeats(entries, |back| back.entry);
        let fill = |call: &mut Call, page: &[HandBackRequest]| {
            call.key(&self.keys.hints);
            call.arg(consumer.as_str());
            call.arg(HANDED_BACK_IDLE.as_millis().to_string());
            add_span(call, page.iter().map(|back| back.entry));
            call.args(page.iter().map(|back| back.entry.to_string()));
            call.args(page.iter().map(|back| digits(back.token)));
            call.args(page.iter().map(|back| if back.rests { "1" } else { "0" }));
            call.args(page.iter().map(reason_of));
        };
        let read = |reply| {
            Ok(match ended(reply)? {
                Ended::Done => HandBackOutcome::HandedBack,
                Ended::Gone => HandBackOutcome::Gone,
                Ended::NotOwner(seen) => HandBackOutcome::NotOwner { seen },
            })
        };
        self.paged("handing back to", &HAND_BACK, pages, fill, read)
            .await
    }

    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>> {
        let pages = pages_without_repeats(entries, |item| item.entry)
            .into_iter()
            .flat_map(|page| page.chunks(QUARANTINE_PAGE));
        let call = |page: &[Quarantine]| {
            let mut call = self.call();
            call.key(&self.keys.quarantine)
                .key(&self.keys.quarantine_index);
            call.arg(consumer.as_str())
                .arg(QUARANTINE_BYTES.to_string());
            call.args(page.iter().map(|item| item.entry.to_string()));
            call.args(page.iter().map(|item| digits(item.token)));
            call.args(page.iter().map(|item| item.min_failures.to_string()));
            call.args(page.iter().map(|item| &item.reason));
            call.args(page.iter().map(|item| index_member(item.entry)));
            call
        };
        let read = |reply| {
            if reply == Value::Int(2) {
                return Ok(QuarantineOutcome::FewerFailures);
            }
            Ok(match ended(reply)? {
                Ended::Done => QuarantineOutcome::Quarantined,
                Ended::Gone => QuarantineOutcome::Gone,
                Ended::NotOwner(seen) => QuarantineOutcome::NotOwner { seen },
            })
        };
        self.in_pieces("quarantining from", &QUARANTINE, pages, call)
            .await?
            .into_iter()
            .map(read)
            .collect()
    }

    async fn remove_consumer(&self, consumer: &ConsumerName) -> Result<bool> {
        let mut call = Call::new();
        call.key(&self.keys.lbs)
            .arg(&self.keys.group)
            .arg(consumer.as_str());
        let reply = self
            .server
            .run_one(&self.what("removing a consumer of"), &REMOVE_CONSUMER, call)
            .await?;
        Ok(decode::number(reply)? == 1)
    }
}

/// The least and the greatest id of a page.
fn add_span(call: &mut Call, ids: impl Iterator<Item = EntryId> + Clone) {
    let (low, high) = (ids.clone().min(), ids.max());
    call.arg(low.unwrap_or(EntryId::MIN).to_string());
    call.arg(high.unwrap_or(EntryId::MIN).to_string());
}

fn add_fenced(call: &mut Call, page: &[Fenced]) {
    call.args(page.iter().map(|fenced| fenced.entry.to_string()));
    call.args(page.iter().map(|fenced| digits(fenced.token)));
}

/// The reply to one item of `claim.lua`.
pub(crate) fn claimed(claimer: &ConsumerName, reply: Value) -> Result<ClaimOutcome> {
    if reply == Value::Int(0) {
        return Ok(ClaimOutcome::Claimed {
            from: Some(claimer.clone()),
            failures: Failures::default(),
        });
    }
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "claimed" => {
            let count = decode::small(decode::next(&mut rest)?)?;
            let from = match decode::next(&mut rest)? {
                Value::Nil => None,
                name => Some(decode::consumer(name)?),
            };
            let counted_now = decode::number(decode::next(&mut rest)?)? != 0;
            let deaths = decode::small(decode::next(&mut rest)?)?;
            let failures = Failures {
                count,
                counted_now,
                deaths,
                reasons: rest.map(decode::text).collect::<Result<_>>()?,
            };
            Ok(ClaimOutcome::Claimed { from, failures })
        }
        "gone" => Ok(ClaimOutcome::Gone),
        "paused" => Ok(ClaimOutcome::Paused),
        "stale" => Ok(ClaimOutcome::Stale {
            seen: refused_by(rest)?,
        }),
        _ => Err(protocol("an unknown outcome of a claim")),
    }
}

/// The token that a lower one was refused for.
fn refused_by(mut rest: std::vec::IntoIter<Value>) -> Result<FencingToken> {
    let seen = decode::token(decode::next(&mut rest)?)?;
    if let Some(entry) = rest.next() {
        warn_of_unreadable(decode::entry_id(entry)?);
    }
    Ok(seen)
}

/// The scripts have replaced the record; it is told once.
pub(crate) fn warn_of_unreadable(entry: EntryId) {
    log::warn!(
        entry:% = entry;
        "somebody has overwritten the fencing record of {entry}: \
         it cannot be read, and only owners that come from now on are let in"
    );
}

/// The scripts tell a failure by its reason.
fn reason_of(back: &HandBackRequest) -> &str {
    match back.failed.as_deref() {
        None => "",
        Some("") => "its owner gave no reason",
        Some(reason) => reason,
    }
}

/// How anything that ends an assignment went.
pub(crate) enum Ended {
    Done,
    Gone,
    NotOwner(FencingToken),
}

pub(crate) fn ended(reply: Value) -> Result<Ended> {
    match reply {
        Value::Int(1) => return Ok(Ended::Done),
        Value::Int(0) => return Ok(Ended::Gone),
        _ => {}
    }
    let (word, rest) = decode::outcome(reply)?;
    match &*word {
        "not_owner" => Ok(Ended::NotOwner(refused_by(rest)?)),
        _ => Err(protocol("an unknown outcome")),
    }
}
