//! Lanes: the work that waits for each kind of step. A lane sends a page of
//! whatever waits for it as soon as its last page was answered, so that batches
//! fill under load and nothing waits when idle.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Leases;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::lifecycle::wrong_reply;
use crate::machine::pages::Lane;
use crate::machine::{LbsCall, PAGE, Reply};
use crate::{
    Announcement, EntryId, Fenced, FencingToken, HandBackOutcome, LeaseRef, MalformedReason,
    Result, StreamName, Timestamp,
};

/// How long at most something waits for completions that are under way, so that
/// it comes as one page with what they bring.
pub(crate) const GATHER: Duration = Duration::from_millis(10);

/// How long at most completions wait for those whom the last page has let go. Callers
/// that complete again at once, from a fixed number of tasks, would otherwise come in
/// two halves: one in the page under way, one in the next.
const GATHER_CALLERS: Duration = Duration::from_millis(1);

/// Fewer callers than this are not waited for: their pages are cheap.
const FEW_CALLERS: usize = 8;

/// Waiting work per kind of step.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) acquire: Lane,
    pub(crate) claim: Lane,
    /// Claims of what is held already, so that it keeps looking fresh.
    pub(crate) refresh: Lane,
    pub(crate) complete: Lane,
    pub(crate) gathering: Gathering,
    pub(crate) hand_back: Lane,
    pub(crate) quarantine: Lane,
    /// What is to be quarantined.
    pub(crate) to_quarantine: BTreeMap<EntryId, ToQuarantine>,
    pub(crate) release: Lane,
    /// Releases that are not answered yet, to be announced or not. Until then
    /// their data streams are not acquired again ("late release").
    pub(crate) releasing: BTreeMap<LeaseRef, bool>,
    /// Those of completed streams wait for others until then.
    pub(crate) release_by: Timestamp,
}

/// With which token an entry is to be quarantined, and why.
#[derive(Debug, Clone)]
pub(crate) struct ToQuarantine {
    pub(crate) token: FencingToken,
    /// With fewer than these on record it is not to be quarantined any more.
    pub(crate) min_failures: u32,
    /// Unless it cannot be read.
    pub(crate) content: Option<Announcement>,
    pub(crate) reason: String,
    /// Why the last of its owners failed.
    pub(crate) failures: Vec<String>,
}

impl ToQuarantine {
    pub(crate) fn unreadable(token: FencingToken, reason: &MalformedReason) -> Self {
        Self {
            token,
            min_failures: 0,
            content: None,
            reason: reason.to_string(),
            failures: Vec::new(),
        }
    }
}

/// Completions that are waited for, see [`GATHER_CALLERS`].
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// The page of completions that is under way.
    sent: usize,
    /// How many waited for an answer while it was, in the page or for the next.
    callers: usize,
    /// Meanwhile the lane is busy.
    until: Option<Timestamp>,
}

impl Lanes {
    /// `has_place`: whether what waits for quarantine waits for time, not for room.
    pub(crate) fn timeout(&self, has_place: bool) -> Timestamp {
        let quarantine = match has_place {
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
        .min(self.gathering.until.unwrap_or(Timestamp::MAX))
    }

    /// Holds the next page of completions back until as many are there as before, or
    /// for a moment.
    fn gather_completions(&mut self, now: Timestamp) {
        let Gathering {
            sent,
            callers,
            until,
        } = &mut self.gathering;
        if self.complete.busy && until.is_none() {
            *callers = *sent + self.complete.queue.len();
            return;
        }
        if *sent > 0 && *callers >= FEW_CALLERS {
            // The page has been answered just now.
            *until = Some(now + GATHER_CALLERS);
        }
        *sent = 0;
        let enough = self.complete.queue.len() >= (*callers).min(PAGE);
        if enough || until.is_some_and(|until| until <= now) {
            *until = None;
        }
        self.complete.busy = until.is_some();
    }

    /// More releases will come of completions that are under way.
    fn gathers_releases(&self) -> bool {
        self.complete.busy && self.releasing.len() < PAGE
    }

    pub(crate) fn no_lock_op_open(&self) -> bool {
        self.acquire.is_idle() && self.releasing.is_empty()
    }

    /// Nothing is under way that a shutdown would have to wait for.
    pub(crate) fn is_drained(&self) -> bool {
        self.releasing.is_empty() && self.acquire.is_idle() && self.claim.is_idle()
    }

    pub(crate) fn is_releasing(&self, stream: &StreamName) -> bool {
        self.releasing
            .range(first_lease_of(stream)..)
            .next()
            .is_some_and(|(lease, _)| lease.stream == *stream)
    }
}

impl Leases {
    pub(crate) fn pump_lanes(&mut self, cx: &mut Cx) {
        let now = cx.now;
        let page = self.lanes.acquire.take(now);
        if !page.is_empty() {
            self.send_acquire(cx, page);
        }
        let page = self.lanes.claim.take(now);
        if !page.is_empty() {
            let page = self.with_tokens(page);
            cx.act(LbsCall::Claim(fenced(&page)), Flight::Claim(page));
        }
        let page = self.lanes.refresh.take(now);
        if !page.is_empty() {
            let page = self.with_tokens(page);
            cx.act(LbsCall::Keep(fenced(&page)), Flight::Refresh(page));
        }
        self.lanes.gather_completions(now);
        let page = self.lanes.complete.take(now);
        if !page.is_empty() {
            self.lanes.gathering.sent = page.len();
            let page = self.with_tokens(page);
            cx.act(LbsCall::Complete(fenced(&page)), Flight::Complete(page));
        }
        let page = self.lanes.hand_back.take(now);
        if !page.is_empty() {
            self.send_hand_back(cx, page);
        }
        let places = self.quarantine_places(cx);
        let page = self.lanes.quarantine.take_at_most(places, now);
        if !page.is_empty() {
            self.send_quarantine(cx, page);
        }
        let gathered = !self.lanes.gathers_releases() || self.lanes.release_by <= now;
        if gathered && !self.lanes.release.busy && self.lanes.release.backoff.is_ready(now) {
            self.send_release(cx);
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

/// The outcomes of a call, if it was answered with one for each of `sent` entries.
pub(crate) fn outcomes<T>(
    call: &str,
    sent: usize,
    result: Result<Reply>,
    of: impl FnOnce(Reply) -> Option<Vec<T>>,
) -> Result<Vec<T>> {
    match of(result?) {
        Some(outcomes) if outcomes.len() == sent => Ok(outcomes),
        _ => Err(wrong_reply(call)),
    }
}

pub(crate) fn handed_back(sent: usize, result: Result<Reply>) -> Result<Vec<HandBackOutcome>> {
    outcomes("hand_back", sent, result, |reply| match reply {
        Reply::HandedBack(outcomes) => Some(outcomes),
        _ => None,
    })
}

pub(crate) fn still_locked<'a>(
    items: &'a super::Items,
    page: &'a [(EntryId, FencingToken)],
) -> impl Iterator<Item = EntryId> + 'a {
    page.iter()
        .filter(|(entry, token)| items.lock_with(*entry, *token).is_some())
        .map(|(entry, _)| *entry)
}

/// Streams are compared by name in several places; this is the least `LeaseRef` of one.
fn first_lease_of(stream: &StreamName) -> LeaseRef {
    LeaseRef {
        stream: stream.clone(),
        entry: EntryId::MIN,
        token: FencingToken::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers that complete, and again as soon as they are answered.
    #[derive(Default)]
    struct Callers {
        lanes: Lanes,
        completed: u64,
    }

    impl Callers {
        fn complete(&mut self, count: u64) {
            let ids = (self.completed..self.completed + count).map(|n| EntryId::new(n, 0));
            self.lanes.complete.queue.extend(ids);
            self.completed += count;
        }

        /// The size of the page that is sent now, if one is.
        fn sent(&mut self, at: u64) -> usize {
            let now = Timestamp::ZERO + Duration::from_micros(at);
            self.lanes.gather_completions(now);
            let page = self.lanes.complete.take(now).len();
            if page > 0 {
                self.lanes.gathering.sent = page;
            }
            page
        }

        fn answered(&mut self) {
            self.lanes.complete.busy = false;
        }
    }

    #[test]
    fn callers_that_complete_again_at_once_come_in_one_page() {
        let mut callers = Callers::default();
        callers.complete(8);
        assert_eq!(callers.sent(0), 8, "nobody has been answered yet");
        callers.complete(8);
        assert_eq!(callers.sent(10), 0, "one page at a time");
        callers.answered();
        assert_eq!(callers.sent(20), 0, "the first eight may come again");
        callers.complete(7);
        assert_eq!(callers.sent(30), 0);
        callers.complete(1);
        assert_eq!(callers.sent(40), 16);
        assert_eq!(callers.sent(50), 0);
    }

    #[test]
    fn callers_that_do_not_come_again_are_waited_for_a_moment_only() {
        let mut callers = Callers::default();
        callers.complete(8);
        callers.sent(0);
        callers.complete(8);
        callers.sent(10);
        callers.answered();
        assert_eq!(callers.sent(20), 0);
        let due = Timestamp::ZERO + Duration::from_micros(1_020);
        assert_eq!(callers.lanes.timeout(false), due);
        assert_eq!(callers.sent(1_020), 8);
        callers.answered();
        // Nobody is left; who comes later is not held up.
        assert_eq!(callers.sent(1_030), 0);
        assert_eq!(callers.sent(2_030), 0);
        assert_eq!(callers.lanes.timeout(false), Timestamp::MAX);
        callers.complete(1);
        assert_eq!(callers.sent(9_000), 1);
    }

    #[test]
    fn a_few_callers_are_not_waited_for() {
        let mut callers = Callers::default();
        callers.complete(4);
        callers.sent(0);
        callers.complete(3);
        callers.sent(10);
        callers.answered();
        assert_eq!(callers.sent(20), 3);
    }
}
