//! Lanes: the work that waits for each kind of step. A lane sends a page of
//! whatever waits for it as soon as its last page was answered, so that batches
//! fill under load and nothing waits when idle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Action, Backoff, Flight, Machine, PAGE};
use crate::{EntryId, Fenced, FencingToken, LeaseRef, StreamName, Timestamp};

/// How long at most something waits for completions that are under way, so that
/// it comes as one page with what they bring.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// Fewer releases than this are worth that.
const FEW_RELEASES: usize = 32;

/// Waiting work per kind of step.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) acquire: Lane,
    pub(super) claim: Lane,
    /// Claims of what is held already, so that it keeps looking fresh.
    pub(super) refresh: Lane,
    pub(super) complete: Lane,
    pub(super) hand_back: Lane,
    pub(super) quarantine: Lane,
    /// What is to be parked: with which token, and why.
    pub(super) parking: BTreeMap<EntryId, (FencingToken, String)>,
    pub(super) release: Lane,
    /// Releases that are not answered yet, to be announced or not. Until then
    /// their data streams are not acquired again ("late release").
    pub(super) releasing: BTreeMap<LeaseRef, bool>,
    /// Those of completed streams wait for others until then.
    pub(super) release_by: Timestamp,
}

/// One page at a time, so that the next fills up by what comes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: BTreeSet<EntryId>,
    pub(super) busy: bool,
    pub(super) backoff: Backoff,
}

impl Lane {
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<EntryId> {
        self.take_at_most(PAGE, now)
    }

    pub(super) fn take_at_most(&mut self, max: usize, now: Timestamp) -> Vec<EntryId> {
        let max = max.min(PAGE);
        if max == 0 || self.busy || self.queue.is_empty() || !self.backoff.is_ready(now) {
            return Vec::new();
        }
        self.busy = true;
        take_page(&mut self.queue, max)
    }

    pub(super) fn timeout(&self) -> Timestamp {
        if self.busy || self.queue.is_empty() {
            Timestamp::MAX
        } else {
            self.backoff.not_before
        }
    }

    fn is_idle(&self) -> bool {
        !self.busy && self.queue.is_empty()
    }
}

impl Lanes {
    /// `may_park`: whether what waits for quarantine waits for time, not for room.
    pub(super) fn timeout(&self, may_park: bool) -> Timestamp {
        let quarantine = match may_park {
            true => self.quarantine.timeout(),
            false => Timestamp::MAX,
        };
        let release = if self.release.busy || self.releasing.is_empty() {
            Timestamp::MAX
        } else if self.gathers_releases() {
            self.release.backoff.not_before.max(self.release_by)
        } else {
            self.release.backoff.not_before
        };
        [
            &self.acquire,
            &self.claim,
            &self.refresh,
            &self.complete,
            &self.hand_back,
        ]
        .iter()
        .map(|lane| lane.timeout())
        .fold(release.min(quarantine), Timestamp::min)
    }

    /// More releases will come of completions that are under way.
    fn gathers_releases(&self) -> bool {
        self.complete.busy && self.releasing.len() < FEW_RELEASES
    }

    pub(super) fn no_lock_op_open(&self) -> bool {
        self.acquire.is_idle() && self.releasing.is_empty()
    }

    /// Nothing is under way that a shutdown would have to wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.releasing.is_empty() && self.acquire.is_idle() && self.claim.is_idle()
    }

    pub(super) fn is_releasing(&self, stream: &StreamName) -> bool {
        self.releasing
            .range(first_lease_of(stream)..)
            .next()
            .is_some_and(|(lease, _)| lease.stream == *stream)
    }
}

impl Machine {
    pub(super) fn pump_lanes(&mut self) {
        let now = self.now;
        let page = self.lanes.acquire.take(now);
        if !page.is_empty() {
            self.send_acquire(page);
        }
        let page = self.lanes.claim.take(now);
        if !page.is_empty() {
            let page = self.with_tokens(page);
            self.act(Action::Claim(fenced(&page)), Flight::Claim(page));
        }
        let page = self.lanes.refresh.take(now);
        if !page.is_empty() {
            let page = self.with_tokens(page);
            self.act(Action::Claim(fenced(&page)), Flight::Refresh(page));
        }
        let page = self.lanes.complete.take(now);
        if !page.is_empty() {
            let page = self.with_tokens(page);
            self.act(Action::Complete(fenced(&page)), Flight::Complete(page));
        }
        let page = self.lanes.hand_back.take(now);
        if !page.is_empty() {
            self.send_hand_back(page);
        }
        let places = self.parking_places();
        let page = self.lanes.quarantine.take_at_most(places, now);
        if !page.is_empty() {
            self.send_quarantine(page);
        }
        let gathered = !self.lanes.gathers_releases() || self.lanes.release_by <= now;
        if gathered && !self.lanes.release.busy && self.lanes.release.backoff.is_ready(now) {
            self.send_release();
        }
    }

    /// The page with the token of each entry's lock, for the call's fence.
    fn with_tokens(&self, page: Vec<EntryId>) -> Vec<(EntryId, FencingToken)> {
        page.into_iter()
            .filter_map(|entry| Some((entry, self.items.get(entry)?.state.lock()?.token)))
            .collect()
    }
}

fn fenced(page: &[(EntryId, FencingToken)]) -> Vec<Fenced> {
    page.iter()
        .map(|&(entry, token)| Fenced { entry, token })
        .collect()
}

pub(super) fn still_locked<'a>(
    items: &'a super::Items,
    page: &'a [(EntryId, FencingToken)],
) -> impl Iterator<Item = EntryId> + 'a {
    page.iter()
        .filter(|(entry, token)| items.lock_with(*entry, *token).is_some())
        .map(|(entry, _)| *entry)
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

/// Streams are compared by name in several places; this is the least `LeaseRef` of one.
fn first_lease_of(stream: &StreamName) -> LeaseRef {
    LeaseRef {
        stream: stream.clone(),
        entry: EntryId::MIN,
        token: FencingToken::NONE,
    }
}
