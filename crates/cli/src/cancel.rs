//! `streamlease cancel`: withdraws announcements.

use std::collections::BTreeSet;

use serde::Serialize;
use streamlease::spi::counted;
use streamlease::{Canceller, EntryId, QuarantineAdmin, RedisBackend, StreamName};

use crate::Failure;
use crate::args::{RevokeArgs, RuntimeKind};
use crate::output::{json_line, note, print, printable};
use crate::runtime;

pub(crate) fn run(args: RevokeArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect_to_service(&args.target).await?;
        let service = args.target.service.as_str();
        let canceller = Canceller::new(service, &backend)?;
        let cancelled = canceller.cancel(&args.names).await?;
        let mut text = String::new();
        for (stream, entries) in args.names.iter().zip(&cancelled) {
            let line = Line::new(stream.to_string(), entries);
            text += &match args.json {
                true => json_line(&line),
                false => line.readable() + "\n",
            };
        }
        print(&text)?;
        let pairs = args.names.iter().zip(&cancelled);
        let missed: Vec<_> = pairs.filter(|(_, entries)| entries.is_empty()).collect();
        if !missed.is_empty() {
            let missed = missed.iter().map(|(stream, _)| *stream).collect();
            // Who may cancel need not have the rights to look.
            if let Err(err) = hint_at_quarantine(service, &backend, missed).await {
                log::debug!("cannot see what is in quarantine: {err}");
            }
        }
        match cancelled
            .iter()
            .filter(|entries| entries.is_empty())
            .count()
        {
            0 => Ok(()),
            missed => Err(Failure::other(format!(
                "not announced: {missed} of {}",
                counted(args.names.len(), "stream", "streams")
            ))),
        }
    })
}

/// What is in quarantine is not announced, and is not for this command.
async fn hint_at_quarantine(
    service: &str,
    backend: &RedisBackend,
    missed: BTreeSet<&StreamName>,
) -> streamlease::Result<()> {
    for parked in QuarantineAdmin::new(service, backend)?.all().await? {
        let Ok(content) = parked.content() else {
            continue;
        };
        if missed.contains(&content.stream) {
            let (stream, entry) = (printable(content.stream.as_str()), parked.entry);
            note(&format!(
                "in quarantine: stream={stream} entry={entry}; `quarantine drop {entry}` removes it"
            ));
        }
    }
    Ok(())
}

/// What is printed of one stream.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Cancelled {
        stream: String,
        entries: Vec<String>,
    },
    NotAnnounced {
        stream: String,
    },
}

impl Line {
    fn new(stream: String, entries: &[EntryId]) -> Self {
        match entries {
            [] => Self::NotAnnounced { stream },
            _ => Self::Cancelled {
                stream,
                entries: entries.iter().map(ToString::to_string).collect(),
            },
        }
    }

    /// The same for people.
    fn readable(&self) -> String {
        match self {
            Self::Cancelled { stream, entries } => format!(
                "cancelled: stream={} entries={}",
                printable(stream),
                entries.join(",")
            ),
            Self::NotAnnounced { stream } => {
                format!("not announced: stream={}", printable(stream))
            }
        }
    }
}
