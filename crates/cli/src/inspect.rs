//! `streamlease inspect`: what is pending and at whom, the consumers, the quarantine.
//!
//! It only looks: it makes no group, takes nothing, and leaves idle times and
//! delivery counts alone. What changes meanwhile may be shown twice or not at all.

mod summary;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use streamlease::spi::{
    Backend, ConsumerState, Delivery, Held, Holder, LockId, LockState, Member, Pending, Scope,
    counted, readable,
};
use streamlease::{
    Announcement, BackendProvider, EntryId, Error, ErrorKind, MalformedReason, Quarantined, Result,
    StreamName,
};

use self::summary::Summary;
use crate::Failure;
use crate::args::{InspectArgs, RuntimeKind, State};
use crate::output::{Row, Tables, note, raw_info};
use crate::quarantine::{COLUMNS as QUARANTINE_COLUMNS, Parked};
use crate::runtime;
use crate::service::{say_unknown, with_its_locks};

/// Entries looked at together.
const PAGE: usize = 500;

pub(crate) fn run(args: InspectArgs) -> std::result::Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect(&args.target).await?;
        let service = &args.target.service;
        if let Ok(Some(policy)) = backend.eviction_policy().await {
            note(&format!(
                "the server may evict keys (maxmemory-policy {policy}); set it to noeviction"
            ));
        }
        let recorded = backend.recorded_lock_scheme(service).await?;
        let backend = with_its_locks(&backend, service).await?.backend(service)?;
        let mut view = Tables::new(args.json);
        let wanted = Wanted(&args);
        match show(&backend, &wanted, &mut view).await {
            Ok(false) if recorded.is_none() => {
                say_unknown(service);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(Stop::Output(err)) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(Stop::Output(err)) => Err(Failure::other(format!("standard output: {err}"))),
            Err(Stop::Backend(err)) => Err(err.into()),
        }
    })
}

/// Why the printing ends early.
enum Stop {
    Backend(Error),
    Output(io::Error),
}

impl From<Error> for Stop {
    fn from(err: Error) -> Self {
        Self::Backend(err)
    }
}

impl From<io::Error> for Stop {
    fn from(err: io::Error) -> Self {
        Self::Output(err)
    }
}

/// What is shown of what there is.
struct Wanted<'a>(&'a InspectArgs);

impl Wanted<'_> {
    /// Whether tables other than those of entries are.
    fn everything(&self) -> bool {
        self.0.stream.is_empty() && self.0.state.is_empty()
    }

    /// Those of a page that are shown.
    fn of<T>(
        &self,
        state: State,
        so_far: &mut Shown,
        page: Vec<T>,
        name: impl Fn(&T) -> Option<StreamName>,
    ) -> Vec<T> {
        let args = self.0;
        if !(args.state.is_empty() || args.state.contains(&state)) {
            return Vec::new();
        }
        let is_wanted = |entry: &T| {
            args.stream.is_empty() || name(entry).is_some_and(|name| args.stream.contains(&name))
        };
        let mut chosen: Vec<T> = page.into_iter().filter(is_wanted).collect();
        let most = args.limit.unwrap_or(usize::MAX) - so_far.shown;
        so_far.left_out += chosen.len().saturating_sub(most);
        chosen.truncate(most);
        so_far.shown += chosen.len();
        chosen
    }
}

/// Of one kind of entries.
#[derive(Default)]
struct Shown {
    shown: usize,
    /// By the limit.
    left_out: usize,
}

fn name_in(content: &Result<Announcement, MalformedReason>) -> Option<StreamName> {
    content.as_ref().ok().map(|said| said.stream.clone())
}

/// Whether there is anything, be it a group without consumers.
async fn show(
    backend: &Backend,
    wanted: &Wanted<'_>,
    view: &mut Tables,
) -> std::result::Result<bool, Stop> {
    if wanted.0.summary {
        return summary::show(backend, view).await;
    }
    let mut counts = Summary::default();
    let mut shown: [Shown; 4] = Default::default();

    view.table(ENTRY_COLUMNS)?;
    let mut after = Some(EntryId::MIN);
    while let Some(from) = after {
        let scope = Scope::All { after: from };
        let page = or_empty(backend.transport.list_pending(&scope, PAGE).await)?;
        after = page.next;
        counts.pending += page.entries.len();
        let name = |pending: &Pending| name_in(&pending.content);
        let entries = wanted.of(State::Pending, &mut shown[0], page.entries, name);
        for (pending, lock) in with_locks(backend, entries).await? {
            view.print(&pending_row(pending, lock))?;
        }
    }
    let mut after = Some(EntryId::MIN);
    while let Some(from) = after {
        let page = or_empty(backend.transport.list_stranded(from, PAGE).await)?;
        after = page.next;
        let scope = Scope::Entries(page.entries);
        let page = or_empty(backend.transport.list_pending(&scope, PAGE).await)?;
        // Somebody may have claimed it meanwhile.
        let stranded = page.entries.into_iter().filter(|p| p.consumer.is_none());
        let stranded: Vec<_> = stranded.collect();
        counts.stranded += stranded.len();
        let name = |pending: &Pending| name_in(&pending.content);
        let stranded = wanted.of(State::Stranded, &mut shown[1], stranded, name);
        for (pending, lock) in with_locks(backend, stranded).await? {
            view.print(&pending_row(pending, lock))?;
        }
    }
    let mut after = EntryId::MIN;
    loop {
        let page = or_empty(backend.admin.list_undelivered(after, PAGE).await)?;
        let Some(last) = page.last() else { break };
        after = last.entry;
        counts.undelivered += page.len();
        let name = |delivery: &Delivery| name_in(&delivery.content);
        for delivery in wanted.of(State::Undelivered, &mut shown[2], page, name) {
            view.print(&undelivered_row(delivery))?;
        }
    }

    view.table(CONSUMER_COLUMNS)?;
    let (consumers, mut sessions) = consumers(backend).await?;
    let has_group = consumers.is_some();
    for consumer in consumers.unwrap_or_default() {
        let session = sessions.remove(consumer.consumer.as_str());
        counts.consumers += 1;
        if wanted.everything() {
            view.print(&consumer_row(Some(&consumer), session.as_ref()))?;
        }
    }
    // Those that live, but have not asked the group for anything yet.
    for member in sessions.values() {
        counts.consumers += 1;
        if wanted.everything() {
            view.print(&consumer_row(None, Some(member)))?;
        }
    }

    view.table(QUARANTINE_COLUMNS)?;
    let mut after = EntryId::MIN;
    loop {
        let page = backend.admin.list_quarantined(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.entry;
        counts.quarantined += page.len();
        let name = |quarantined: &Quarantined| name_in(&quarantined.content());
        for quarantined in wanted.of(State::Quarantined, &mut shown[3], page, name) {
            view.print(&quarantine_row(quarantined))?;
        }
    }
    counts.paused = summary::paused(backend).await?;
    counts.oldest_undelivered_ms = summary::oldest_undelivered(backend).await;
    counts.left_out = shown.iter().map(|shown| shown.left_out).sum();
    view.end(&counts, &counts.readable())?;
    let found: usize = shown.iter().map(|shown| shown.shown + shown.left_out).sum();
    if found == 0 && !wanted.everything() {
        note("no entry is as --stream and --state say");
    }
    if counts.left_out > 0 {
        let entries = counted(counts.left_out, "entry", "entries");
        note(&format!(
            "--limit left out {entries} of those that were asked for"
        ));
    }
    Ok(has_group || counts.has_any())
}

/// Those of the group, if there is one, and the live sessions by the consumer's name.
async fn consumers(
    backend: &Backend,
) -> Result<(Option<Vec<ConsumerState>>, BTreeMap<String, Member>)> {
    let mut sessions = BTreeMap::new();
    if let Some(kept) = backend.locks.sessions() {
        for member in kept.members().await? {
            sessions.insert(member.session.consumer.to_string(), member);
        }
    }
    let consumers = match backend.admin.consumers().await {
        Err(err) if err.kind() == ErrorKind::NotPrepared => None,
        consumers => Some(consumers?),
    };
    Ok((consumers, sessions))
}

/// A service that nobody has used yet has nothing, which is no error.
fn or_empty<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(err) if err.kind() == ErrorKind::NotPrepared => Ok(T::default()),
        other => other,
    }
}

async fn with_locks(
    backend: &Backend,
    entries: Vec<Pending>,
) -> Result<Vec<(Pending, Option<LockState>)>> {
    let locks: Vec<LockId> = entries
        .iter()
        .filter_map(|pending| {
            let stream = pending.content.as_ref().ok()?.stream.clone();
            let entry = pending.entry;
            Some(LockId { stream, entry })
        })
        .collect();
    let mut states = backend.locks.inspect(&locks).await?.into_iter();
    // An entry that cannot be read has no name, and so no lock.
    let pair = |pending: Pending| {
        let lock = pending.content.is_ok().then(|| states.next()).flatten();
        (pending, lock)
    };
    Ok(entries.into_iter().map(pair).collect())
}

const ENTRY_COLUMNS: &[&str] = &[
    "ENTRY",
    "STATE",
    "STREAM",
    "AT",
    "HOLDER",
    "LOCK",
    "IDLE",
    "DELIVERIES",
    "TOKEN",
    "NOTE",
];

#[derive(Serialize)]
#[serde(tag = "event", rename = "entry")]
struct EntryRow {
    entry: String,
    /// `pending`, `stranded` (on the LBS and pending at nobody) or `undelivered`.
    state: &'static str,
    /// `null` if the entry cannot be read.
    stream: Option<String>,
    info: Option<Box<RawValue>>,
    /// Why it cannot be read.
    malformed: Option<String>,
    /// At whom it is pending.
    consumer: Option<String>,
    /// Who holds its lock; `null` if nobody does.
    holder: Option<String>,
    lock_live: bool,
    /// For how long the lock is live still.
    lock_ms: Option<u64>,
    /// `null` if it is handed back, or at nobody: how long, is not known then.
    idle_ms: Option<u64>,
    deliveries: u64,
    failures: u32,
    /// Why the last owners failed, oldest first.
    reasons: Vec<String>,
    token: u64,
    handed_back: bool,
}

fn pending_row(pending: Pending, lock: Option<LockState>) -> EntryRow {
    let held = match lock {
        Some(LockState::Held(held)) => Some(held),
        _ => None,
    };
    let state = match &pending.consumer {
        Some(_) => "pending",
        None => "stranded",
    };
    EntryRow {
        consumer: pending.consumer.as_ref().map(ToString::to_string),
        lock_live: held.is_some(),
        lock_ms: held.as_ref().map(|held| ms(held.remaining)),
        holder: held.map(holder),
        // What is handed back is made to look idle, so that anybody takes it at once.
        idle_ms: (pending.consumer.is_some() && !pending.handed_back).then(|| ms(pending.idle)),
        deliveries: pending.deliveries,
        failures: pending.failures,
        reasons: pending.reasons,
        token: pending.token.0,
        handed_back: pending.handed_back,
        ..EntryRow::new(state, pending.entry, pending.content)
    }
}

fn undelivered_row(delivery: Delivery) -> EntryRow {
    EntryRow::new("undelivered", delivery.entry, delivery.content)
}

fn holder(held: Held) -> String {
    match held.holder {
        Holder::Session(session) => session.consumer.to_string(),
        Holder::Foreign(name) => name,
    }
}

impl EntryRow {
    fn new(
        state: &'static str,
        entry: EntryId,
        content: Result<Announcement, MalformedReason>,
    ) -> Self {
        let (stream, info, malformed) = match content {
            Ok(said) => (Some(said.stream.to_string()), raw_info(&said.info), None),
            Err(reason) => (None, None, Some(reason.to_string())),
        };
        Self {
            entry: entry.to_string(),
            state,
            stream,
            info,
            malformed,
            consumer: None,
            holder: None,
            lock_live: false,
            lock_ms: None,
            idle_ms: None,
            deliveries: 0,
            failures: 0,
            reasons: Vec::new(),
            token: 0,
            handed_back: false,
        }
    }
}

impl Row for EntryRow {
    fn cells(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.malformed.clone());
        notes.extend(self.handed_back.then(|| "handed back".to_owned()));
        notes.extend((self.failures > 0).then(|| match self.reasons.last() {
            Some(last) => format!("failures={}, the last: {last}", self.failures),
            None => format!("failures={}", self.failures),
        }));
        vec![
            self.entry.clone(),
            self.state.into(),
            or_dash(self.stream.clone()),
            or_dash(self.consumer.clone()),
            or_dash(self.holder.clone()),
            or_dash(self.lock_ms.map(in_words)),
            or_dash(self.idle_ms.map(in_words)),
            self.deliveries.to_string(),
            or_dash((self.token > 0).then(|| self.token.to_string())),
            notes.join(", "),
        ]
    }
}

const CONSUMER_COLUMNS: &[&str] = &["CONSUMER", "PENDING", "IDLE", "SESSION"];

#[derive(Serialize)]
#[serde(tag = "event", rename = "consumer")]
struct ConsumerRow {
    consumer: String,
    pending: u64,
    idle_ms: Option<u64>,
    /// For how long its session is live still; `null` if it has none (dead, or a Go consumer).
    session_ms: Option<u64>,
}

fn consumer_row(state: Option<&ConsumerState>, session: Option<&Member>) -> ConsumerRow {
    let name = state
        .map(|state| &state.consumer)
        .or(session.map(|member| &member.session.consumer));
    ConsumerRow {
        consumer: name.map(ToString::to_string).unwrap_or_default(),
        pending: state.map_or(0, |state| state.pending),
        idle_ms: state.map(|state| ms(state.idle)),
        session_ms: session.map(|member| ms(member.remaining)),
    }
}

impl Row for ConsumerRow {
    fn cells(&self) -> Vec<String> {
        let session = self
            .session_ms
            .map(|ms| format!("live for {}", in_words(ms)));
        vec![
            self.consumer.clone(),
            self.pending.to_string(),
            or_dash(self.idle_ms.map(in_words)),
            session.unwrap_or_else(|| "none".into()),
        ]
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename = "quarantined")]
struct QuarantineRow {
    entry: String,
    /// `null` if the entry cannot be read.
    stream: Option<String>,
    reason: String,
    failures: u32,
    parked_by: String,
    /// Unix time in milliseconds, by the server's clock.
    parked_at: u64,
    /// What the entry held, names and values; bytes that are not UTF-8 are replaced.
    fields: Vec<(String, String)>,
}

fn quarantine_row(quarantined: Quarantined) -> QuarantineRow {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    QuarantineRow {
        entry: quarantined.entry.to_string(),
        stream: name_in(&quarantined.content()).map(|name| name.to_string()),
        reason: quarantined.reason,
        failures: quarantined.failures,
        parked_by: quarantined.last_owner.to_string(),
        parked_at: quarantined.at_ms,
        fields: quarantined
            .fields
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
    }
}

impl Row for QuarantineRow {
    fn cells(&self) -> Vec<String> {
        Parked {
            entry: &self.entry,
            stream: self.stream.as_deref(),
            parked_at: self.parked_at,
            failures: self.failures,
            by: &self.parked_by,
            reason: &self.reason,
            fields: &self.fields,
        }
        .cells()
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn in_words(ms: u64) -> String {
    readable(Duration::from_millis(ms)).to_string()
}
