//! Handlers that make no progress: the process is healthy, its beats go on, and
//! yet nothing happens on a stream. With `max_silence` such a stream goes to
//! another consumer.

use std::time::Duration;

use super::items::State;
use super::{DisownReason, Machine};
use crate::{EntryId, FencingToken, Timestamp};

impl Machine {
    /// Looks at the lease's last progress at that time. Progress is reported by
    /// an atomic store that the machine does not see, so a time that has passed
    /// is compared with it, and moved.
    pub(super) fn listen_until(&mut self, at: Timestamp, entry: EntryId) {
        self.silences.insert((at, entry));
    }

    pub(super) fn limit_silence(
        &mut self,
        entry: EntryId,
        token: FencingToken,
        limit: Option<Duration>,
    ) {
        let Some(item) = self.items.get_mut(entry) else {
            return;
        };
        let State::Held(holding) = &mut item.state else {
            return;
        };
        if holding.lock.token != token {
            return;
        }
        holding.max_silence = limit;
        let progress = holding.belief.as_ref().map(|belief| belief.last_progress());
        if let (Some(limit), Some(progress)) = (limit, progress) {
            self.listen_until(progress + limit, entry);
        }
    }

    pub(super) fn pump_silence(&mut self) {
        while let Some(&(at, entry)) = self.silences.first() {
            if at > self.now {
                break;
            }
            self.silences.pop_first();
            let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
                continue;
            };
            let (Some(limit), Some(belief)) = (holding.max_silence, &holding.belief) else {
                continue;
            };
            let due = belief.last_progress() + limit;
            if due > self.now {
                self.listen_until(due, entry);
                continue;
            }
            // The handler is to stop before another consumer starts.
            belief.end();
            // A handler that hangs has failed: an entry that makes every one
            // hang ends in quarantine.
            self.begin_hand_back(entry, true, Some(DisownReason::Silent));
        }
    }
}
