//! What the log says of each [`Notice`]: here the lines about streams are made.

use log::Level;

use super::Driver;
use super::voice::Line;
use crate::machine::{DisownReason, End, Notice};
use crate::{ConsumerName, readable};

impl Driver {
    pub(super) fn say<L: Into<Line>>(&self, level: Level, line: impl FnOnce(&ConsumerName) -> L) {
        self.voice.say(level, || line(&self.consumer));
    }

    pub(super) fn log(&self, notice: &Notice) {
        use Level::{Error, Info, Warn};
        match notice {
            Notice::Started => self.say(Info, |c| format!("reading consumer={c}")),
            Notice::Unreachable { part, error } => self.say(Warn, |c| {
                format!("{part} cannot be reached, trying again consumer={c}: {error:?}")
            }),
            Notice::Refused { call, error } => self.say(Warn, |c| {
                format!("{call} is refused, trying again consumer={c}: {error:?}")
            }),
            Notice::Paused(pause) => self.say(Info, |c| {
                let why = match &*pause.reason {
                    "" => String::new(),
                    reason => format!(" ({reason:?})"),
                };
                format!(
                    "the service is paused{why}: nothing is taken until it is resumed consumer={c}"
                )
            }),
            Notice::Resumed => self.say(Info, |c| {
                format!("the service is resumed: streams are taken again consumer={c}")
            }),
            Notice::Reached { part, after } => self.say(Info, |c| {
                let after = readable(*after);
                format!("{part} can be reached again after {after} consumer={c}")
            }),
            Notice::Late { by } => self.say(Warn, |c| {
                format!(
                    "the client's task did not run for {}, with a TTL of {}: \
                     does a handler block a thread of the runtime? consumer={c}",
                    readable(*by),
                    readable(self.ttl)
                )
            }),
            Notice::Recovered { .. } => {}
            Notice::Added {
                entry,
                stream,
                token,
                claimed_from,
                ..
            } => self.say(Info, |c| {
                let from = claimed_from.as_ref().map_or("", |from| from.as_str());
                let text = format!(
                    "leased stream={stream} consumer={c} token={token} entry={entry} from={from}"
                );
                Line::new(text).stream(stream).entry(*entry).token(*token)
            }),
            Notice::Ended {
                entry,
                stream,
                token,
                end,
                ..
            } => {
                use DisownReason::{Cancelled, ClientStopped, Revoked};
                let level = match end {
                    // Somebody asked for it.
                    End::Disowned(Cancelled | ClientStopped | Revoked) => Info,
                    // Against everybody's will.
                    End::Disowned(_) => Warn,
                    _ => Info,
                };
                self.say(level, |c| {
                    let text = format!(
                        "ended stream={stream} consumer={c} token={token} entry={entry} end={end:?}"
                    );
                    Line::new(text).stream(stream).entry(*entry).token(*token)
                });
            }
            Notice::Expired { entry, stream, .. } => self.say(Info, |c| {
                let text = format!("orphaned stream={stream} consumer={c} entry={entry}");
                Line::new(text).stream(stream).entry(*entry)
            }),
            Notice::Quarantined {
                entry,
                content,
                reason,
                ..
            } => self.say(Warn, |c| {
                let stream = content.as_ref().map(|of| &of.stream);
                let name = stream.map_or("", |stream| stream.as_str());
                let text =
                    format!("quarantined stream={name} consumer={c} entry={entry}: {reason}");
                let line = Line::new(text).entry(*entry);
                match stream {
                    Some(stream) => line.stream(stream),
                    None => line,
                }
            }),
            Notice::Terminated { error: Some(error) } => {
                self.say(Error, |c| format!("gave up consumer={c}: {error:?}"));
            }
            Notice::Terminated { error: None } => {
                self.say(Info, |c| format!("stopped consumer={c}"))
            }
        }
    }
}
