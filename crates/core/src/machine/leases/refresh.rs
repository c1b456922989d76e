//! What is held is claimed again, so that it keeps looking fresh to consumers that know
//! nothing of locks, and so that an LBS that lost its fencing records has them again (R4).

use std::time::Duration;

use super::Leases;
use super::ending::gone;
use super::table::State;
use crate::machine::cx::Cx;
use crate::machine::{Completion, DisownReason, End, Reply};
use crate::{ClaimOutcome, EntryId, FencingToken, LockScheme, Result, Timestamp};

/// How often owners claim their entries again with per-stream locks: well below
/// the 40 s after which a booting Go consumer takes what looks idle.
pub(super) const REFRESH: Duration = Duration::from_secs(10);

impl Leases {
    pub(crate) fn pump_refresh(&mut self, cx: &Cx) {
        if self.refresh_due <= cx.now && self.refreshes(cx) {
            self.refresh_due = cx.now + REFRESH;
            self.refresh_all();
        }
    }

    pub(super) fn refresh_timeout(&self, cx: &Cx) -> Timestamp {
        match self.refreshes(cx) {
            true => self.refresh_due,
            false => Timestamp::MAX,
        }
    }

    fn refreshes(&self, cx: &Cx) -> bool {
        cx.scheme == LockScheme::PerStream && !cx.is_draining()
    }

    /// All Held entries, to be claimed again.
    pub(crate) fn refresh_all(&mut self) {
        let held = self
            .items
            .iter()
            .filter(|(_, item)| matches!(item.state, State::Held(_)));
        self.lanes.refresh.queue = held.map(|(entry, _)| entry).collect();
    }

    pub(crate) fn refresh_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        let outcomes = self.settle_claims(cx, |lanes| &mut lanes.refresh, page, result);
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Held(holding) = &item.state else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let end = match outcome {
                ClaimOutcome::Gone => gone(holding),
                // Only a hand back makes a token stale that nobody has gone above.
                ClaimOutcome::Stale { seen } if seen == token => End::HandedBack,
                ClaimOutcome::Stale { .. } => End::Disowned(DisownReason::Superseded),
                // (Not in a pause either: these claims are of an owner.)
                ClaimOutcome::Claimed { .. } | ClaimOutcome::Paused => continue,
            };
            self.end(cx, entry, end, Completion::NotOwner);
        }
    }
}
