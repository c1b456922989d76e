//! Handlers that make no progress: the process is healthy, its beats go on, and
//! yet nothing happens on a stream. With `progress_timeout` such a stream goes to
//! another consumer.

use super::Leases;
use crate::machine::cx::Cx;
use std::time::Duration;

use super::table::State;
use crate::machine::DisownReason;
use crate::{EntryId, FencingToken};

impl Leases {
    /// Looks at the lease's last progress when its limit may be over. Progress is
    /// reported by an atomic store that the machine does not see, so a time that
    /// has passed is compared with it, and moved.
    pub(crate) fn listen(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
            return;
        };
        self.silences.cancel(&entry);
        let (Some(limit), Some(belief)) = (holding.progress_timeout, &holding.belief) else {
            return;
        };
        // Nobody has taken it up yet: who has not begun is not silent (R10).
        let last_progress = belief.last_progress().unwrap_or(cx.now);
        self.silences.set(entry, last_progress + limit);
    }

    pub(crate) fn limit_silence(
        &mut self,
        cx: &mut Cx,
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
        holding.progress_timeout = limit;
        self.listen(cx, entry);
    }

    pub(crate) fn pump_silence(&mut self, cx: &mut Cx) {
        while let Some(entry) = self.silences.pop_due(cx.now) {
            self.listen(cx, entry);
            let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
                continue;
            };
            if self.silences.get(&entry).is_none_or(|at| at > cx.now) {
                continue;
            }
            // The handler is to stop before another consumer starts.
            if let Some(belief) = &holding.belief {
                belief.end();
            }
            // A handler that hangs has failed: an entry that makes every one
            // hang ends in quarantine.
            let limit = holding.progress_timeout.unwrap_or_default();
            let reason = format!("its handler reported no progress for {limit:?}");
            self.begin_hand_back(cx, entry, Some(reason), Some(DisownReason::NoProgress));
        }
    }
}
