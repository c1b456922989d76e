//! Handlers that make no progress: the process is healthy, its heartbeats go on, and
//! yet nothing happens on a stream. With `progress_timeout` such a stream goes to
//! another consumer.

use super::Leases;
use crate::machine::cx::Cx;
use std::time::Duration;

use super::table::State;
use crate::belief::Belief;
use crate::machine::DisownReason;
use crate::{EntryId, FencingToken, Timestamp, readable};

/// The one door through which the machine sees what did not come in as an input: when a
/// handler reported progress last.
///
/// Handlers report as often as they like and from any thread, so a report is an atomic store
/// (`Belief::report_progress`). As an input, each would cost a run of the driver through the
/// machine. Looked at only when a progress timeout is due, it costs nothing before. A run can
/// be replayed all the same: reports carry the time of the clock that the inputs carry.
struct ProgressDoor<'a>(&'a Belief);

impl ProgressDoor<'_> {
    /// `None` as long as nobody has taken the lease up.
    fn last_report(&self) -> Option<Timestamp> {
        self.0.last_progress()
    }
}

impl Leases {
    /// Looks at the lease's last progress when its limit may be over. A report is no
    /// input, so a time that has passed is compared with the last one, and moved.
    pub(crate) fn watch_progress(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
            return;
        };
        self.progress_due.cancel(&entry);
        let (Some(limit), Some(belief)) = (holding.progress_timeout, &holding.belief) else {
            return;
        };
        // Nobody has taken it up yet: who has not begun is not silent (R10).
        let last_progress = ProgressDoor(belief).last_report().unwrap_or(cx.now);
        self.progress_due.set(entry, last_progress + limit);
    }

    pub(crate) fn set_progress_timeout(
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
        self.watch_progress(cx, entry);
    }

    pub(crate) fn pump_progress(&mut self, cx: &mut Cx) {
        while let Some(entry) = self.progress_due.pop_due(cx.now) {
            self.watch_progress(cx, entry);
            let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
                continue;
            };
            if self.progress_due.get(&entry).is_none_or(|at| at > cx.now) {
                continue;
            }
            // The handler is to stop before another consumer starts.
            if let Some(belief) = &holding.belief {
                belief.end();
            }
            // A handler that hangs has failed: an entry that makes every one
            // hang ends in quarantine.
            let limit = holding.progress_timeout.unwrap_or_default();
            let reason = format!("its handler reported no progress for {}", readable(limit));
            self.begin_hand_back(cx, entry, Some(reason), Some(DisownReason::NoProgress));
        }
    }
}
