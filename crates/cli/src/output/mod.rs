//! Standard output: the JSON protocol, or the same as readable lines.

mod table;
mod writer;

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::RawValue;
use streamlease::spi;
use streamlease::{DisownReason, EntryId, FencingToken, Info, Lease, Orphan, QuarantinedEntry};

use crate::Failure;

pub(crate) use self::table::{Row, Tables, shortened};
pub(crate) use self::writer::{Events, Writer};

/// What `work` reports. With `--json`: `{"ts":<unix ms>,"event":"stream_added",…}`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Started {
        consumer: String,
    },
    StreamAdded {
        stream: String,
        entry: String,
        token: u64,
        info: Option<Box<RawValue>>,
        claimed_from: Option<String>,
    },
    StreamExpired {
        stream: String,
        entry: String,
        owner: Option<String>,
    },
    StreamDisowned {
        stream: String,
        entry: String,
        token: u64,
        /// The same words as in metrics; `null` if the client did not say it.
        reason: Option<&'static str>,
    },
    StreamDone {
        stream: String,
        entry: String,
        token: u64,
        outcome: &'static str,
    },
    StreamHandedBack {
        stream: String,
        entry: String,
        token: u64,
    },
    /// Handed back, because the work failed.
    StreamFailed {
        stream: String,
        entry: String,
        token: u64,
        reason: String,
        /// Of the program; `None` if a signal ended it, or it was none that failed.
        exit_code: Option<i32>,
    },
    Quarantined {
        /// `null` if the entry cannot be read.
        stream: Option<String>,
        entry: String,
        reason: String,
        /// Why the last of its owners failed, oldest first.
        reasons: Vec<String>,
    },
    Terminated {
        reason: String,
    },
}

impl Event {
    pub(crate) fn added(lease: &Lease) -> Self {
        Self::StreamAdded {
            stream: lease.stream().to_string(),
            entry: lease.entry().to_string(),
            token: lease.token().0,
            info: raw_info(lease.info()),
            claimed_from: lease.claimed_from().map(ToString::to_string),
        }
    }

    pub(crate) fn expired(orphan: &Orphan) -> Self {
        Self::StreamExpired {
            stream: orphan.stream().to_string(),
            entry: orphan.entry().to_string(),
            owner: orphan.owner().map(ToString::to_string),
        }
    }

    pub(crate) fn quarantined(quarantined: &QuarantinedEntry) -> Self {
        Self::Quarantined {
            stream: quarantined.stream().map(ToString::to_string),
            entry: quarantined.entry().to_string(),
            reason: quarantined.reason().to_owned(),
            reasons: quarantined.failures().to_vec(),
        }
    }

    pub(crate) fn disowned(held: &HeldStream, reason: Option<DisownReason>) -> Self {
        let (stream, entry, token) = held.parts();
        Self::StreamDisowned {
            stream,
            entry,
            token,
            reason: reason.map(|reason| reason.as_str()),
        }
    }

    pub(crate) fn done(held: &HeldStream, outcome: &'static str) -> Self {
        let (stream, entry, token) = held.parts();
        Self::StreamDone {
            stream,
            entry,
            token,
            outcome,
        }
    }

    pub(crate) fn handed_back(held: &HeldStream) -> Self {
        let (stream, entry, token) = held.parts();
        Self::StreamHandedBack {
            stream,
            entry,
            token,
        }
    }

    pub(crate) fn failed(held: &HeldStream, failed: Failed) -> Self {
        let (stream, entry, token) = held.parts();
        Self::StreamFailed {
            stream,
            entry,
            token,
            reason: failed.reason,
            exit_code: failed.exit_code,
        }
    }

    /// The same for people. Labels are spelled as in the logs.
    fn readable(&self) -> String {
        match self {
            Self::Started { consumer } => format!("started: consumer={}", printable(consumer)),
            Self::StreamAdded {
                stream,
                entry,
                token,
                info,
                claimed_from,
            } => {
                let mut line = format!("added: {}", labels(stream, entry, *token));
                if let Some(from) = claimed_from {
                    line += &format!(" claimed_from={}", printable(from));
                }
                if let Some(info) = info {
                    line += &format!(" info={}", printable(info.get()));
                }
                line
            }
            Self::StreamExpired {
                stream,
                entry,
                owner,
            } => format!(
                "expired: stream={} entry={entry} owner={}",
                printable(stream),
                printable(owner.as_deref().unwrap_or("-"))
            ),
            Self::StreamDisowned {
                stream,
                entry,
                token,
                reason,
            } => format!(
                "disowned: {} reason={}",
                labels(stream, entry, *token),
                reason.unwrap_or("-")
            ),
            Self::StreamDone {
                stream,
                entry,
                token,
                outcome,
            } => format!("{outcome}: {}", labels(stream, entry, *token)),
            Self::StreamHandedBack {
                stream,
                entry,
                token,
            } => format!("handed back: {}", labels(stream, entry, *token)),
            Self::StreamFailed {
                stream,
                entry,
                token,
                reason,
                ..
            } => format!(
                "failed: {} reason={}",
                labels(stream, entry, *token),
                printable(reason)
            ),
            Self::Quarantined {
                stream,
                entry,
                reason,
                reasons,
            } => {
                let stream = printable(stream.as_deref().unwrap_or("-"));
                let mut line = format!("quarantined: stream={stream} entry={entry}");
                line += &format!(" reason={}", printable(reason));
                if !reasons.is_empty() {
                    line += &format!(" reasons={}", printable(&reasons.join("; ")));
                }
                line
            }
            Self::Terminated { reason } => format!("terminated: {}", printable(reason)),
        }
    }
}

fn labels(stream: &str, entry: &str, token: u64) -> String {
    format!("stream={} entry={entry} token={token}", printable(stream))
}

/// Why the work on a stream failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) reason: String,
    pub(crate) exit_code: Option<i32>,
}

/// What names a lease after it is over.
#[derive(Debug)]
pub(crate) struct HeldStream {
    stream: String,
    entry: EntryId,
    token: FencingToken,
}

impl HeldStream {
    fn parts(&self) -> (String, String, u64) {
        (self.stream.clone(), self.entry.to_string(), self.token.0)
    }
}

impl From<&Lease> for HeldStream {
    fn from(lease: &Lease) -> Self {
        Self {
            stream: lease.stream().to_string(),
            entry: lease.entry(),
            token: lease.token(),
        }
    }
}

/// Writes to standard output; `false` if nobody reads any more.
pub(crate) fn print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(Failure::other(format!("standard output: {err}"))),
    }
}

/// Standard output of what is done to its end whether or not it can be told of.
#[derive(Default)]
pub(crate) struct Told(Option<Failure>);

impl Told {
    pub(crate) fn print(&mut self, text: &str) {
        if let Err(failure) = print(text) {
            self.0.get_or_insert(failure);
        }
    }

    /// What kept it from telling, but for readers that have gone.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}

/// A note for people, on standard error. If that takes nothing, what was asked for goes on.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// An object with the time in front, on one line.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => format!("{{\"ts\":{},{}\n", unix_ms(), &json[1..]),
        // Strings, numbers and checked JSON always can be written.
        Err(err) => {
            log::error!("cannot write as JSON: {err}");
            String::new()
        }
    }
}

/// Info as it was written, on one line.
pub(crate) fn raw_info(info: &Info) -> Option<Box<RawValue>> {
    // Inside of JSON strings line breaks are escaped, so these are between tokens.
    let json = info.as_json()?.replace(['\n', '\r'], " ");
    RawValue::from_string(json).ok()
}

/// Text for a terminal: a name must not be able to command it.
pub(crate) fn printable(text: &str) -> String {
    spi::printable(text).to_string()
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> HeldStream {
        HeldStream {
            stream: "call \u{1b}[2J".into(),
            entry: EntryId::new(7, 1),
            token: FencingToken(9),
        }
    }

    #[test]
    fn events_are_one_line_with_time_and_kind_first() {
        let info = Info::from_json("{\"a\":\n 1.50}").unwrap();
        let added = Event::StreamAdded {
            stream: "s".into(),
            entry: "7-1".into(),
            token: u64::MAX,
            info: raw_info(&info),
            claimed_from: None,
        };
        let line = json_line(&added);
        let rest = line.split_once(',').unwrap().1;
        assert_eq!(
            rest,
            "\"event\":\"stream_added\",\"stream\":\"s\",\"entry\":\"7-1\",\
             \"token\":18446744073709551615,\"info\":{\"a\":  1.50},\"claimed_from\":null}\n"
        );
        assert!(line.starts_with("{\"ts\":1"), "{line}");
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        let line = Event::done(&held(), "completed").readable();
        assert_eq!(line, "completed: stream=call \\u{1b}[2J entry=7-1 token=9");
    }
}
