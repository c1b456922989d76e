//! `streamlease inspect`: what is pending and at whom, the consumers, the quarantine.
//!
//! It only looks: it makes no group, takes nothing, and leaves idle times and
//! delivery counts alone. Pages are printed as they come, so that a long list
//! takes no memory; what changes meanwhile may be shown twice or not at all.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use streamlease::spi::{
    Backend, ConsumerState, Delivery, Held, Holder, LockId, LockState, Member, Pending, Scope,
};
use streamlease::{
    Announcement, BackendProvider, EntryId, Error, ErrorKind, LockScheme, MalformedReason,
    Quarantined, Result,
};

use crate::Failure;
use crate::args::{InspectArgs, RuntimeKind};
use crate::output::{json_line, printable, raw_info};
use crate::runtime;

/// Entries looked at together.
const PAGE: usize = 500;

pub(crate) fn run(args: InspectArgs) -> std::result::Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect(&args.target).await?;
        let service = &args.target.service;
        if let Ok(Some(policy)) = backend.eviction_policy().await {
            eprintln!(
                "the server may evict keys (maxmemory-policy {policy}); set it to noeviction"
            );
        }
        let recorded = backend.recorded_lock_scheme(service).await?;
        // A group without that record was made by consumers of the wire format.
        let scheme = recorded.unwrap_or(LockScheme::PerStream);
        let backend = backend.with_lock_scheme(scheme).backend(service)?;
        let mut view = View::new(args.json);
        match show(&backend, &mut view).await {
            Ok(()) => Ok(()),
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

async fn show(backend: &Backend, view: &mut View) -> std::result::Result<(), Stop> {
    let mut counts = Summary::default();

    view.table(ENTRY_COLUMNS);
    let mut after = Some(EntryId::MIN);
    while let Some(from) = after {
        let scope = Scope::All { after: from };
        let page = or_empty(backend.transport.list_pending(&scope, PAGE).await)?;
        after = page.next;
        counts.pending += page.entries.len();
        for (pending, lock) in with_locks(backend, page.entries).await? {
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
        for (pending, lock) in with_locks(backend, stranded.collect()).await? {
            counts.stranded += 1;
            view.print(&pending_row(pending, lock))?;
        }
    }
    let mut after = EntryId::MIN;
    loop {
        let page = or_empty(backend.admin.list_undelivered(after, PAGE).await)?;
        let Some(last) = page.last() else { break };
        after = last.entry;
        counts.undelivered += page.len();
        for delivery in page {
            view.print(&undelivered_row(delivery))?;
        }
    }

    view.table(CONSUMER_COLUMNS);
    let mut sessions: BTreeMap<String, Member> = BTreeMap::new();
    if let Some(kept) = backend.locks.sessions() {
        for member in kept.members().await? {
            sessions.insert(member.session.consumer.to_string(), member);
        }
    }
    for consumer in or_empty(backend.admin.consumers().await)? {
        let session = sessions.remove(consumer.consumer.as_str());
        counts.consumers += 1;
        view.print(&consumer_row(Some(&consumer), session.as_ref()))?;
    }
    // Those that live, but have not asked the group for anything yet.
    for member in sessions.values() {
        counts.consumers += 1;
        view.print(&consumer_row(None, Some(member)))?;
    }

    view.table(QUARANTINE_COLUMNS);
    let mut after = EntryId::MIN;
    loop {
        let page = backend.admin.list_quarantined(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.entry;
        counts.quarantined += page.len();
        for quarantined in page {
            view.print(&quarantine_row(quarantined))?;
        }
    }
    view.end(&counts)?;
    Ok(())
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

const ENTRY_COLUMNS: &[(&str, usize)] = &[
    ("ENTRY", 17),
    ("STATE", 11),
    ("STREAM", 20),
    ("AT", 22),
    ("HOLDER", 22),
    ("LOCK", 8),
    ("IDLE", 8),
    ("DELIVERIES", 10),
    ("TOKEN", 16),
    ("NOTE", 0),
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
    idle_ms: Option<u64>,
    deliveries: u64,
    failures: u32,
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
        idle_ms: pending.consumer.is_some().then(|| ms(pending.idle)),
        deliveries: pending.deliveries,
        failures: pending.failures,
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
        notes.extend((self.failures > 0).then(|| format!("failures={}", self.failures)));
        vec![
            self.entry.clone(),
            self.state.into(),
            or_dash(self.stream.clone()),
            or_dash(self.consumer.clone()),
            or_dash(self.holder.clone()),
            or_dash(self.lock_ms.map(readable_ms)),
            or_dash(self.idle_ms.map(readable_ms)),
            self.deliveries.to_string(),
            or_dash((self.token > 0).then(|| self.token.to_string())),
            notes.join(", "),
        ]
    }
}

const CONSUMER_COLUMNS: &[(&str, usize)] = &[
    ("CONSUMER", 28),
    ("PENDING", 8),
    ("IDLE", 8),
    ("SESSION", 0),
];

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
            .map(|ms| format!("live for {}", readable_ms(ms)));
        vec![
            self.consumer.clone(),
            self.pending.to_string(),
            or_dash(self.idle_ms.map(readable_ms)),
            session.unwrap_or_else(|| "none".into()),
        ]
    }
}

const QUARANTINE_COLUMNS: &[(&str, usize)] = &[
    ("ENTRY", 17),
    ("FAILURES", 8),
    ("QUARANTINED BY", 28),
    ("REASON", 36),
    ("PAYLOAD", 0),
];

#[derive(Serialize)]
#[serde(tag = "event", rename = "quarantined")]
struct QuarantineRow {
    entry: String,
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
        let payload: Vec<String> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![
            self.entry.clone(),
            self.failures.to_string(),
            self.parked_by.clone(),
            self.reason.clone(),
            shortened(&payload.join(" "), 80),
        ]
    }
}

/// The last line: that the listing is complete.
#[derive(Default, Serialize)]
#[serde(tag = "event", rename = "summary")]
struct Summary {
    pending: usize,
    /// Shown where there are any: consumers take them up again by themselves.
    #[serde(skip_serializing_if = "is_zero")]
    stranded: usize,
    undelivered: usize,
    consumers: usize,
    quarantined: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

trait Row: Serialize {
    fn cells(&self) -> Vec<String>;
}

/// A table, or JSON lines.
struct View {
    json: bool,
    out: io::BufWriter<io::Stdout>,
    /// Tables begun so far, and whether the last one has its column names.
    tables: usize,
    begun: bool,
    columns: &'static [(&'static str, usize)],
}

impl View {
    fn new(json: bool) -> Self {
        let out = io::BufWriter::new(io::stdout());
        Self {
            json,
            out,
            tables: 0,
            begun: false,
            columns: &[],
        }
    }

    /// Begins a table, which is shown if it gets a row.
    fn table(&mut self, columns: &'static [(&'static str, usize)]) {
        (self.begun, self.columns) = (false, columns);
    }

    fn print(&mut self, row: &impl Row) -> io::Result<()> {
        if self.json {
            self.out.write_all(json_line(row).as_bytes())?;
            return self.out.flush();
        }
        if !self.begun {
            self.begun = true;
            self.tables += 1;
            if self.tables > 1 {
                writeln!(self.out)?;
            }
            let names: Vec<String> = self
                .columns
                .iter()
                .map(|(name, _)| (*name).into())
                .collect();
            self.line(&names)?;
        }
        let cells: Vec<String> = row.cells().iter().map(|cell| printable(cell)).collect();
        self.line(&cells)
    }

    fn line(&mut self, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (cell, (_, width)) in cells.iter().zip(self.columns) {
            line += &format!("{cell:width$}  ");
        }
        writeln!(self.out, "{}", line.trim_end())
    }

    fn end(&mut self, counts: &Summary) -> io::Result<()> {
        if self.json {
            self.out.write_all(json_line(counts).as_bytes())?;
        } else {
            if self.tables > 0 {
                writeln!(self.out)?;
            }
            if counts.stranded > 0 {
                write!(self.out, "{} stranded, ", counts.stranded)?;
            }
            writeln!(
                self.out,
                "{} pending, {} undelivered, {} consumers, {} quarantined",
                counts.pending, counts.undelivered, counts.consumers, counts.quarantined
            )?;
        }
        self.out.flush()
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn readable_ms(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms}ms"),
        10_000..600_000 => format!("{}s", ms / 1000),
        600_000..36_000_000 => format!("{}m", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
