//! `streamlease quarantine`: what is in quarantine, and what shall become of it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use streamlease::spi::{counted, readable};
use streamlease::{EntryId, QuarantineAdmin, QuarantineRelease, Quarantined};

use crate::Failure;
use crate::args::{ChooseArgs, ListArgs, QuarantineCommand, RuntimeKind, Target};
use crate::output::{Row, Tables, Told, json_line, note, printable, raw_info, unix_ms};
use crate::runtime;

/// Entries dealt with together.
const PAGE: usize = 500;

pub(crate) fn run(command: QuarantineCommand) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        match command {
            QuarantineCommand::List(args) => list(args).await,
            QuarantineCommand::Release(args) => release(args).await,
            QuarantineCommand::Drop { chosen, yes } => drop_entries(chosen, yes).await,
        }
    })
}

async fn connect(target: &Target) -> Result<QuarantineAdmin, Failure> {
    let backend = crate::connect_to_service(target).await?;
    Ok(QuarantineAdmin::new(target.service.as_str(), &backend)?)
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let mut tables = Tables::new(args.json);
    let mut after = EntryId::MIN;
    let mut ended = tables.table(COLUMNS);
    while ended.is_ok() {
        let page = admin.page(after, PAGE).await?;
        let Some(last) = page.last() else {
            if after == EntryId::MIN {
                say_empty(&args.target);
            }
            ended = tables.finish();
            break;
        };
        after = last.entry;
        let mut lines = page.iter().map(Listed::from);
        ended = lines.try_for_each(|line| tables.print(&line));
    }
    match ended {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("standard output: {err}")))
        }
        _ => Ok(()),
    }
}

fn say_empty(target: &Target) {
    let service = printable(target.service.as_str());
    note(&format!("the quarantine of service {service} is empty"));
}

async fn release(args: ChooseArgs) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let mut out = Out::new(args.json);
    let mut missed = 0;
    for page in chosen(&admin, &args).await?.chunks(PAGE) {
        let releases = admin.release(page).await?;
        let lines = page.iter().zip(&releases);
        // Whether it can be told or not, all of it is released.
        out.print(lines.map(|(entry, release)| Line::released(*entry, *release)));
        let released = |release: &&_| matches!(release, QuarantineRelease::Released(_));
        missed += releases.len() - releases.iter().filter(released).count();
    }
    out.told.finish()?;
    all_found(missed, &args)
}

async fn drop_entries(args: ChooseArgs, yes: bool) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let mut out = Out::new(args.json);
    let mut missed = 0;
    let chosen = chosen(&admin, &args).await?;
    let asks = args.all && !yes && !chosen.is_empty() && io::stdin().is_terminal();
    if asks && !confirmed(chosen.len())? {
        return Err(Failure::other("nothing was dropped"));
    }
    for page in chosen.chunks(PAGE) {
        let drops = admin.drop(page).await?;
        let lines = page.iter().zip(&drops);
        out.print(lines.map(|(entry, dropped)| Line::dropped(*entry, *dropped)));
        missed += drops.iter().filter(|dropped| !**dropped).count();
    }
    out.told.finish()?;
    all_found(missed, &args)
}

/// Asks whoever sits at the terminal.
fn confirmed(entries: usize) -> Result<bool, Failure> {
    let (entries, them) = match entries {
        1 => ("1 entry".to_owned(), "It"),
        _ => (counted(entries, "entry", "entries"), "They"),
    };
    let question = format!("Drop {entries} for good? {them} cannot be had back. [y/N] ");
    // Who cannot be asked has not said yes.
    io::stderr()
        .write_all(question.as_bytes())
        .map_err(|err| Failure::other(format!("standard error: {err}")))?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|err| Failure::other(format!("standard input: {err}")))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// With --all, what is there now: what is quarantined again meanwhile stays.
async fn chosen(admin: &QuarantineAdmin, args: &ChooseArgs) -> Result<Vec<EntryId>, Failure> {
    if !args.all {
        return Ok(args.entries.clone());
    }
    let all = admin.all().await?;
    if all.is_empty() {
        say_empty(&args.target);
    }
    Ok(all.iter().map(|quarantined| quarantined.entry).collect())
}

/// Somebody else may be at it, too: only what was named must be there.
fn all_found(missed: usize, args: &ChooseArgs) -> Result<(), Failure> {
    match missed {
        0 => Ok(()),
        _ if args.all => Ok(()),
        _ => Err(Failure::other(format!(
            "not found in quarantine, or not to be released: {missed} of {}",
            counted(args.entries.len(), "entry", "entries")
        ))),
    }
}

/// The table of what is in quarantine.
pub(crate) const COLUMNS: &[&str] = &[
    "ENTRY",
    "STREAM",
    "AGE",
    "FAILURES",
    "QUARANTINED BY",
    "PAYLOAD",
    // The last one is not cut.
    "REASON",
];

/// A line of it.
pub(crate) struct Parked<'a> {
    pub(crate) entry: &'a str,
    pub(crate) stream: Option<&'a str>,
    pub(crate) parked_at: u64,
    pub(crate) failures: u32,
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) fields: &'a [(String, String)],
}

impl Parked<'_> {
    pub(crate) fn cells(&self) -> Vec<String> {
        let age = Duration::from_millis(unix_ms().saturating_sub(self.parked_at));
        let fields = self.fields.iter();
        let payload: Vec<String> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![
            self.entry.to_owned(),
            self.stream.unwrap_or("-").to_owned(),
            readable(age).to_string(),
            self.failures.to_string(),
            self.by.to_owned(),
            payload.join(" "),
            self.reason.to_owned(),
        ]
    }
}

/// What is printed of one entry that is in quarantine.
#[derive(Serialize)]
#[serde(tag = "event", rename = "quarantined")]
struct Listed {
    entry: String,
    /// `null` if the entry cannot be read.
    stream: Option<String>,
    info: Option<Box<RawValue>>,
    /// Why it cannot be read.
    malformed: Option<String>,
    reason: String,
    failures: u32,
    /// Why the last of its owners failed, oldest first.
    reasons: Vec<String>,
    last_owner: String,
    /// Unix time in milliseconds, by the server's clock.
    parked_at: u64,
    /// What the entry held, names and values; bytes that are not UTF-8 are replaced.
    fields: Vec<(String, String)>,
}

impl From<&Quarantined> for Listed {
    fn from(quarantined: &Quarantined) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stream, info, malformed) = match quarantined.content() {
            Ok(said) => (Some(said.stream.to_string()), raw_info(&said.info), None),
            Err(reason) => (None, None, Some(reason.to_string())),
        };
        let fields = quarantined.fields.iter();
        Self {
            entry: quarantined.entry.to_string(),
            stream,
            info,
            malformed,
            reason: quarantined.reason.clone(),
            failures: quarantined.failures,
            reasons: quarantined.reasons.clone(),
            last_owner: quarantined.last_owner.to_string(),
            parked_at: quarantined.at_ms,
            fields: fields
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
        }
    }
}

impl Row for Listed {
    fn cells(&self) -> Vec<String> {
        Parked {
            entry: &self.entry,
            stream: self.stream.as_deref(),
            parked_at: self.parked_at,
            failures: self.failures,
            by: &self.last_owner,
            reason: &self.reason,
            fields: &self.fields,
        }
        .cells()
    }
}

/// What is printed of one that was to leave it.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Released {
        entry: String,
        /// The id under which it is on the LBS again.
        new_entry: String,
    },
    Dropped {
        entry: String,
    },
    NotQuarantined {
        entry: String,
    },
    Unreadable {
        entry: String,
    },
}

impl Line {
    fn released(entry: EntryId, release: QuarantineRelease) -> Self {
        let entry = entry.to_string();
        match release {
            QuarantineRelease::Released(new) => Self::Released {
                entry,
                new_entry: new.to_string(),
            },
            QuarantineRelease::Gone => Self::NotQuarantined { entry },
            // Unreadable, or another reason why it stays in the quarantine.
            _ => Self::Unreadable { entry },
        }
    }

    fn dropped(entry: EntryId, dropped: bool) -> Self {
        let entry = entry.to_string();
        match dropped {
            true => Self::Dropped { entry },
            false => Self::NotQuarantined { entry },
        }
    }

    /// The same for people.
    fn readable(&self) -> String {
        match self {
            Self::Released { entry, new_entry } => {
                format!("released: entry={entry} new_entry={new_entry}")
            }
            Self::Dropped { entry } => format!("dropped: entry={entry}"),
            Self::NotQuarantined { entry } => format!("not quarantined: entry={entry}"),
            Self::Unreadable { entry } => {
                format!("unreadable: entry={entry} (its record is damaged; it stays)")
            }
        }
    }
}

struct Out {
    json: bool,
    told: Told,
}

impl Out {
    fn new(json: bool) -> Self {
        Self {
            json,
            told: Told::default(),
        }
    }

    fn print(&mut self, lines: impl Iterator<Item = Line>) {
        let text: String = lines
            .map(|line| match self.json {
                true => json_line(&line),
                false => line.readable() + "\n",
            })
            .collect();
        self.told.print(&text);
    }
}
