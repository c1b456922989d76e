//! `streamlease quarantine`: what is in quarantine, and what shall become of it.

use std::io::{self, IsTerminal};

use serde::Serialize;
use serde_json::value::RawValue;
use streamlease::{EntryId, QuarantineAdmin, QuarantineRelease, Quarantined};

use crate::Failure;
use crate::args::{ChooseArgs, ListArgs, QuarantineCommand, RuntimeKind, Target};
use crate::output::{json_line, print, printable, raw_info};
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
    let backend = crate::connect(target).await?;
    Ok(QuarantineAdmin::new(target.service.as_str(), &backend)?)
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let out = Out { json: args.json };
    let mut after = EntryId::MIN;
    loop {
        let page = admin.page(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.entry;
        if !out.print(page.iter().map(Line::quarantined))? {
            return Ok(());
        }
    }
}

async fn release(args: ChooseArgs) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let out = Out { json: args.json };
    let mut missed = 0;
    for page in chosen(&admin, &args).await?.chunks(PAGE) {
        let releases = admin.release(page).await?;
        let lines = page.iter().zip(&releases);
        // Whether somebody reads it or not, all of it is released.
        out.print(lines.map(|(entry, release)| Line::released(*entry, *release)))?;
        let released = |release: &&_| matches!(release, QuarantineRelease::Released(_));
        missed += releases.len() - releases.iter().filter(released).count();
    }
    all_found(missed, &args)
}

async fn drop_entries(args: ChooseArgs, yes: bool) -> Result<(), Failure> {
    let admin = connect(&args.target).await?;
    let out = Out { json: args.json };
    let mut missed = 0;
    let chosen = chosen(&admin, &args).await?;
    let asks = args.all && !yes && !chosen.is_empty() && io::stdin().is_terminal();
    if asks && !confirmed(chosen.len())? {
        return Err(Failure::other("nothing was dropped"));
    }
    for page in chosen.chunks(PAGE) {
        let drops = admin.drop(page).await?;
        let lines = page.iter().zip(&drops);
        out.print(lines.map(|(entry, dropped)| Line::dropped(*entry, *dropped)))?;
        missed += drops.iter().filter(|dropped| !**dropped).count();
    }
    all_found(missed, &args)
}

/// Asks whoever sits at the terminal.
fn confirmed(entries: usize) -> Result<bool, Failure> {
    eprint!("Drop {entries} entries for good? They cannot be had back. [y/N] ");
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
    Ok(all.iter().map(|quarantined| quarantined.entry).collect())
}

/// Somebody else may be at it, too: only what was named must be there.
fn all_found(missed: usize, args: &ChooseArgs) -> Result<(), Failure> {
    match missed {
        0 => Ok(()),
        _ if args.all => Ok(()),
        _ => Err(Failure::other(format!(
            "{missed} of {} entries were not found in quarantine, or cannot be released",
            args.entries.len()
        ))),
    }
}

/// What is printed of one entry.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Quarantined {
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
    },
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
    fn quarantined(quarantined: &Quarantined) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stream, info, malformed) = match quarantined.content() {
            Ok(said) => (Some(said.stream.to_string()), raw_info(&said.info), None),
            Err(reason) => (None, None, Some(reason.to_string())),
        };
        let fields = quarantined.fields.iter();
        Self::Quarantined {
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
            Self::Quarantined {
                entry,
                stream,
                reason,
                failures,
                reasons,
                last_owner,
                ..
            } => {
                let failed = match reasons.is_empty() {
                    true => String::new(),
                    false => format!(" reasons={}", printable(&reasons.join("; "))),
                };
                format!(
                    "quarantined: entry={entry} stream={} failures={failures} last_owner={} reason={}{failed}",
                    printable(stream.as_deref().unwrap_or("-")),
                    printable(last_owner),
                    printable(reason)
                )
            }
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
}

impl Out {
    /// `false` if nobody reads any more.
    fn print(&self, lines: impl Iterator<Item = Line>) -> Result<bool, Failure> {
        let text: String = lines
            .map(|line| match self.json {
                true => json_line(&line),
                false => line.readable() + "\n",
            })
            .collect();
        print(&text)
    }
}
