//! What waits for one kind of call, and is sent a page at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cx::Cx;
use super::{Backoff, PAGE};
use crate::{EntryId, Result, Timestamp};

/// One page at a time, so that the next fills up by what comes meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) queue: BTreeSet<EntryId>,
    pub(crate) busy: bool,
    pub(crate) backoff: Backoff,
    /// When the server began to refuse, and when it did last.
    refused: Option<(Timestamp, Timestamp)>,
}

impl Lane {
    #[inline]
    pub(crate) fn take(&mut self, now: Timestamp) -> Vec<EntryId> {
        self.take_at_most(PAGE, now)
    }

    #[inline]
    pub(crate) fn take_at_most(&mut self, max: usize, now: Timestamp) -> Vec<EntryId> {
        // Mostly there is nothing, and each lane is asked for each input.
        match self.queue.is_empty() {
            true => Vec::new(),
            false => self.take_page(max.min(PAGE), now),
        }
    }

    fn take_page(&mut self, max: usize, now: Timestamp) -> Vec<EntryId> {
        if max == 0 || self.busy || !self.backoff.is_ready(now) {
            return Vec::new();
        }
        self.busy = true;
        take_page(&mut self.queue, max)
    }

    /// It was refused now; for how long it has been, with no pause of `pause`.
    pub(crate) fn refused_for(&mut self, now: Timestamp, pause: Duration) -> Duration {
        let goes_on = |(_, last): &(Timestamp, Timestamp)| now < *last + pause;
        let since = self.refused.filter(goes_on).map_or(now, |(since, _)| since);
        self.refused = Some((since, now));
        now.saturating_since(since)
    }

    fn succeed(&mut self) {
        self.backoff.succeed();
        self.refused = None;
    }

    /// The page that was sent is answered. If not with its outcomes, `again` waits again,
    /// longer each time.
    pub(crate) fn settle<T>(
        &mut self,
        cx: &mut Cx,
        outcomes: Result<Vec<T>>,
        again: impl IntoIterator<Item = EntryId>,
    ) -> Result<Vec<T>> {
        self.busy = false;
        match &outcomes {
            Ok(_) => self.succeed(),
            Err(_) => {
                self.queue.extend(again);
                self.backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
            }
        }
        outcomes
    }

    #[inline]
    pub(crate) fn timeout(&self) -> Timestamp {
        if self.busy || self.queue.is_empty() {
            Timestamp::MAX
        } else {
            self.backoff.not_before
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.busy && self.queue.is_empty()
    }
}

/// The page of a lane: lowest entry ids first.
fn take_page<T: Ord + Clone>(queue: &mut BTreeSet<T>, max: usize) -> Vec<T> {
    let rest = queue.iter().nth(max).cloned();
    let page = match rest {
        Some(rest) => {
            let rest = queue.split_off(&rest);
            std::mem::replace(queue, rest)
        }
        None => std::mem::take(queue),
    };
    page.into_iter().collect()
}
