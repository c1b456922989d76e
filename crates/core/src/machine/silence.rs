//! Handlers that make no progress: the process is healthy, its beats go on, and
//! yet nothing happens on a stream. With `max_silence` such a stream goes to
//! another consumer.

use std::time::Duration;

use super::items::State;
use super::{DisownReason, Machine};
use crate::{EntryId, FencingToken};

impl Machine {
    /// Looks at the lease's last progress when its limit may be over. Progress is
    /// reported by an atomic store that the machine does not see, so a time that
    /// has passed is compared with it, and moved.
    pub(super) fn listen(&mut self, entry: EntryId) {
        let Some(State::Held(holding)) = self.items.get_mut(entry).map(|item| &mut item.state)
        else {
            return;
        };
        if let Some(before) = holding.heard_until.take() {
            self.silences.remove(&(before, entry));
        }
        let (Some(limit), Some(belief)) = (holding.max_silence, &holding.belief) else {
            return;
        };
        // Nobody has taken it up yet: who has not begun is not silent (R10).
        let last_progress = belief.last_progress().unwrap_or(self.now);
        let at = last_progress + limit;
        holding.heard_until = Some(at);
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
        self.listen(entry);
    }

    pub(super) fn pump_silence(&mut self) {
        while let Some(&(at, entry)) = self.silences.first() {
            if at > self.now {
                break;
            }
            self.silences.pop_first();
            self.listen(entry);
            let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
                continue;
            };
            if holding.heard_until.is_none_or(|at| at > self.now) {
                continue;
            }
            // The handler is to stop before another consumer starts.
            if let Some(belief) = &holding.belief {
                belief.end();
            }
            // A handler that hangs has failed: an entry that makes every one
            // hang ends in quarantine.
            let limit = holding.max_silence.unwrap_or_default();
            let reason = format!("its handler reported no progress for {limit:?}");
            self.begin_hand_back(entry, Some(reason), Some(DisownReason::Silent));
        }
    }
}
