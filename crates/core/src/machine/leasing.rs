//! A stream's way through this consumer: lock → fenced claim → added → one end
//! (R3, R4, R6, R12). Each step is a lane that sends a page of whatever waits
//! for it as soon as its last page was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::items::{Ending, Holding, Item, Lock, Origin, State};
use super::rng::mix;
use super::{
    Action, Answer, Backoff, CallId, ClaimResult, Completion, DisownReason, End, Flight, Machine,
    Notice, Reply, first_lease_of, take_page,
};
use crate::belief::Belief;
use crate::{
    Acquire, AcquireOutcome, Announcement, ClaimOutcome, CompleteOutcome, ConsumerName, EntryId,
    Error, ErrorKind, Fenced, FencingToken, HandBack, HandBackOutcome, Held, Holder, Info,
    LeaseRef, LockScheme, Quarantine, QuarantineOutcome, Release, Result, StreamName, Timestamp,
};

/// How often the lock of a handed-back stream is tried, 10 ms and doubling apart,
/// until it counts as somebody else's.
const HAND_BACK_TRIES: u32 = 6;

/// Waiting work per kind of step.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) acquire: Lane,
    claim: Lane,
    /// Claims of what is held already, so that it keeps looking fresh.
    pub(super) refresh: Lane,
    complete: Lane,
    hand_back: Lane,
    quarantine: Lane,
    /// What is to be parked: with which token, and why.
    parking: BTreeMap<EntryId, (FencingToken, String)>,
    release: Lane,
    /// Releases that are not answered yet, to be announced or not. Until then
    /// their data streams are not acquired again ("late release").
    releasing: BTreeMap<LeaseRef, bool>,
}

/// One page at a time, so that the next fills up by what comes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: BTreeSet<EntryId>,
    busy: bool,
    backoff: Backoff,
}

impl Lane {
    fn take(&mut self, now: Timestamp) -> Vec<EntryId> {
        if self.busy || self.queue.is_empty() || !self.backoff.is_ready(now) {
            return Vec::new();
        }
        self.busy = true;
        take_page(&mut self.queue)
    }

    fn timeout(&self) -> Timestamp {
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
    pub(super) fn timeout(&self) -> Timestamp {
        let release = if self.release.busy || self.releasing.is_empty() {
            Timestamp::MAX
        } else {
            self.release.backoff.not_before
        };
        [
            &self.acquire,
            &self.claim,
            &self.refresh,
            &self.complete,
            &self.hand_back,
            &self.quarantine,
        ]
        .iter()
        .map(|lane| lane.timeout())
        .fold(release, Timestamp::min)
    }

    pub(super) fn no_lock_op_open(&self) -> bool {
        self.acquire.is_idle() && self.releasing.is_empty()
    }

    /// Nothing is under way that a shutdown would have to wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.releasing.is_empty() && self.acquire.is_idle() && self.claim.is_idle()
    }

    fn is_releasing(&self, stream: &StreamName) -> bool {
        self.releasing
            .range(first_lease_of(stream)..)
            .next()
            .is_some_and(|(lease, _)| lease.stream == *stream)
    }
}

// --- in: admit, acquire, claim ------------------------------------------------------------

impl Machine {
    /// An entry that this consumer should work on, unless it is known already.
    pub(super) fn admit(&mut self, entry: EntryId, content: Announcement, origin: Origin) {
        if self.items.contains(entry) {
            return;
        }
        if let Some(&until) = self.shunned.get(&entry) {
            if until > self.now {
                self.recheck(until, entry);
                return;
            }
            self.shunned.remove(&entry);
        }
        self.items
            .insert(entry, content.stream, content.info, origin);
        match origin {
            Origin::Mine | Origin::Call(_) => self.try_start(entry),
            Origin::HandedBack | Origin::Orphan => {
                let delay = self.turn_delay(entry, origin);
                if delay.is_zero() {
                    self.try_start(entry);
                } else {
                    self.wakes.insert((self.now + delay, entry));
                }
            }
        }
    }

    /// R11: each orphan is gone for at once by about one survivor; the others
    /// come a little later, for what that one did not take. Survivors learn of a
    /// death within 20 ms of each other, and of a hand back at the same moment.
    fn turn_delay(&mut self, entry: EntryId, origin: Origin) -> Duration {
        let draw = mix(entry.ms ^ mix(entry.seq ^ self.sitting.session.id.nonce));
        if draw.is_multiple_of(u64::from(self.sitting.members)) {
            return Duration::ZERO;
        }
        let (least, more) = if origin == Origin::Orphan {
            (20, 20)
        } else {
            (5, 10)
        };
        Duration::from_millis(least) + self.rng.up_to(Duration::from_millis(more))
    }

    /// Into the acquire lane, if nothing stands against it.
    fn try_start(&mut self, entry: EntryId) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Waiting { refused } = item.state else {
            return;
        };
        let (stream, origin) = (item.stream.clone(), item.origin);
        if self.items.active_entry(&stream).is_some() || self.lanes.is_releasing(&stream) {
            return self.wait_for_stream(entry, origin);
        }
        if !matches!(origin, Origin::Call(_)) {
            match self.items.first_waiting(&stream) {
                Some(first) if first != entry => return self.wait_for_stream(entry, origin),
                _ => {}
            }
        }
        if self.room() == 0 {
            return match origin {
                Origin::Mine => {
                    self.no_room.insert(entry);
                }
                Origin::HandedBack | Origin::Orphan => {
                    self.items.remove(entry);
                    self.looking.left_behind = true;
                }
                Origin::Call(call) => {
                    self.items.remove(entry);
                    self.answer(call, Ok(Answer::Claim(ClaimResult::Full)));
                }
            };
        }
        self.last_attempt += 1;
        self.items.set(
            entry,
            State::Acquiring {
                attempt: self.last_attempt,
                refused,
                freed: false,
            },
        );
        self.lanes.acquire.queue.insert(entry);
    }

    /// R6: woken by the end of what is in the way, at the latest after a TTL.
    fn wait_for_stream(&mut self, entry: EntryId, origin: Origin) {
        match origin {
            Origin::Call(call) => {
                self.items.remove(entry);
                self.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
            }
            _ => {
                self.wakes.insert((self.now + self.settings.ttl, entry));
            }
        }
    }

    /// Something in the way of this data stream may be gone: its lowest waiting entry is next.
    pub(super) fn wake_stream(&mut self, stream: &StreamName) {
        if let Some(entry) = self.items.active_entry(stream)
            && let Some(item) = self.items.get_mut(entry)
            && let State::Acquiring { freed, .. } = &mut item.state
        {
            *freed = true;
        }
        if let Some(entry) = self.items.first_waiting(stream) {
            self.try_start(entry);
        }
    }

    pub(super) fn pump_waiting(&mut self) {
        while let Some(&(at, entry)) = self.wakes.first() {
            if at > self.now {
                break;
            }
            self.wakes.pop_first();
            self.try_start(entry);
        }
        while self.room() > 0 {
            let Some(entry) = self.no_room.pop_first() else {
                break;
            };
            self.try_start(entry);
        }
    }

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
        let page = self.lanes.quarantine.take(now);
        if !page.is_empty() {
            self.send_quarantine(page);
        }
        if !self.lanes.release.busy && self.lanes.release.backoff.is_ready(now) {
            self.send_release();
        }
    }

    fn send_acquire(&mut self, page: Vec<EntryId>) {
        let mut requests = Vec::with_capacity(page.len());
        let mut flight = Vec::with_capacity(page.len());
        for entry in page {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Acquiring { attempt, .. } = item.state else {
                continue;
            };
            let (stream, floor) = (item.stream.clone(), self.floor);
            requests.push(Acquire {
                stream,
                entry,
                attempt,
                floor,
            });
            flight.push((entry, attempt));
        }
        self.sitting.ops += 1;
        let session = self.sitting.session.clone();
        self.act(Action::Acquire(session, requests), Flight::Acquire(flight));
    }

    pub(super) fn acquire_done(
        &mut self,
        sent: Timestamp,
        page: &[(EntryId, u64)],
        result: Result<Reply>,
    ) {
        self.sitting.ops += 1;
        let lane = &mut self.lanes.acquire;
        lane.busy = false;
        let outcomes = match result {
            Ok(Reply::Acquired(outcomes)) if outcomes.len() == page.len() => outcomes,
            // Unknown. The same attempt is repeated until it is answered: only
            // so can the lock, if it was acquired, be found and kept.
            _ => {
                lane.queue.extend(page.iter().map(|(entry, _)| *entry));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return;
            }
        };
        lane.backoff.succeed();
        if outcomes.contains(&AcquireOutcome::SessionGone) {
            return self.abandon_session(DisownReason::Expired);
        }
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, AcquireOutcome::NotYet { .. }))
        {
            self.lock_server_restarted();
        }
        for (&(entry, _), outcome) in page.iter().zip(outcomes) {
            match outcome {
                AcquireOutcome::Acquired(token) => self.acquired(entry, token, sent),
                AcquireOutcome::Held(held) => self.refused(entry, &held),
                AcquireOutcome::NotYet { retry_in } => {
                    self.items.set(entry, State::Waiting { refused: 0 });
                    self.wakes.insert((self.now + retry_in, entry));
                }
                AcquireOutcome::SessionGone => {}
            }
        }
    }

    fn acquired(&mut self, entry: EntryId, token: FencingToken, sent: Timestamp) {
        self.floor = self.floor.max(token);
        let deadline = match self.scheme {
            LockScheme::PerStream => self.believed_until(sent),
            LockScheme::Session => Timestamp::MAX,
        };
        let lock = Lock { token, deadline };
        self.items.set(entry, State::Claiming { lock });
        if !self.may_take() || deadline <= self.now {
            return self.drop_locked(entry);
        }
        if self.scheme == LockScheme::PerStream {
            self.sitting.expiries.insert((deadline, entry));
        }
        self.lanes.claim.queue.insert(entry);
    }

    /// A lease that came with a take-over: locked already, claimed next.
    pub(super) fn adopt(&mut self, lease: LeaseRef, info: Info) {
        if self.items.active_entry(&lease.stream).is_some() {
            return self.release(lease, true);
        }
        // It may have waited here for its former owner to end.
        self.items.remove(lease.entry);
        self.items
            .insert(lease.entry, lease.stream, info, Origin::Orphan);
        let now = self.now;
        self.acquired(lease.entry, lease.token, now);
    }

    fn may_take(&self) -> bool {
        !self.deaf && !self.is_draining()
    }

    /// The lock is held by somebody else (or by this session under another entry).
    fn refused(&mut self, entry: EntryId, held: &Held) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Acquiring { refused, freed, .. } = item.state else {
            return;
        };
        let (origin, giver) = (item.origin, item.giver.clone());
        self.items.set(
            entry,
            State::Waiting {
                refused: refused + 1,
            },
        );
        let holder = match &held.holder {
            Holder::Session(id) => id.consumer.as_str(),
            Holder::Foreign(name) => name,
        };
        let keep = match origin {
            Origin::Call(call) => {
                self.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
                false
            }
            // Somebody else took what was given up. If they fail, that is told,
            // and then it rests.
            _ if giver.is_some_and(|giver| giver.as_str() != holder) => false,
            Origin::Mine => true,
            // Who hands back releases right after: the hint was faster.
            Origin::HandedBack => refused < HAND_BACK_TRIES,
            // A dead holder's lock can outlive its session by a little.
            Origin::Orphan => match &held.holder {
                Holder::Session(id) => self.orphans.is_dead(id),
                Holder::Foreign(_) => refused == 0,
            },
        };
        if !keep {
            self.items.remove(entry);
        } else if freed {
            self.try_start(entry);
        } else {
            let wait = match origin {
                Origin::HandedBack => Duration::from_millis(10) * 2u32.pow(refused),
                _ => held.remaining.min(self.settings.ttl),
            };
            let at = self.now + wait.min(self.settings.ttl) + self.deadline_jitter();
            self.wakes.insert((at, entry));
        }
    }

    pub(super) fn claim_done(&mut self, page: &[(EntryId, FencingToken)], result: Result<Reply>) {
        let lane = &mut self.lanes.claim;
        lane.busy = false;
        let outcomes = match result {
            Ok(Reply::Claimed(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                // Unknown: tried again with the same token for as long as the lock is believed.
                let items = &self.items;
                lane.queue.extend(still_locked(items, page));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed(&result);
            }
        };
        lane.backoff.succeed();
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            if self.items.lock_with(entry, token).is_none() {
                continue;
            }
            match outcome {
                ClaimOutcome::Claimed { from, failures } => self.claimed(entry, from, failures),
                // Completed meanwhile, by whoever had it: no event (R3).
                ClaimOutcome::Gone => {
                    self.answer_claim(entry, ClaimResult::Gone);
                    self.drop_locked(entry);
                }
                ClaimOutcome::Stale { seen } => self.claim_with_greater_token(entry, seen),
            }
        }
    }

    fn claimed(&mut self, entry: EntryId, from: Option<ConsumerName>, failures: u32) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Claiming { lock } = item.state else {
            return;
        };
        let mut holding = Holding {
            lock,
            since: self.now,
            belief: None,
        };
        if !self.may_take() {
            let ending = Ending::HandBack {
                failed: false,
                revoked: false,
            };
            self.items.set(entry, State::Ending(holding, ending));
            self.lanes.hand_back.queue.insert(entry);
            return;
        }
        if self
            .settings
            .quarantine_after
            .is_some_and(|limit| failures >= limit)
        {
            self.answer_claim(entry, ClaimResult::Gone);
            self.items
                .set(entry, State::Ending(holding, Ending::Quarantine));
            let reason = format!("{failures} owners failed on it");
            return self.park(entry, lock.token, reason);
        }
        let belief = Belief::new(lock.deadline, self.sitting.belief.clone());
        let (stream, info) = (item.stream.clone(), item.info.clone());
        holding.belief = Some(belief.clone());
        self.answer_claim(entry, ClaimResult::Claimed);
        self.items.set_origin(entry, Origin::Mine);
        self.items.set(entry, State::Held(holding));
        self.notify_queued(Notice::Added {
            entry,
            stream,
            info,
            token: lock.token,
            claimed_from: from.filter(|from| *from != self.consumer),
            belief,
        });
    }

    /// The LBS has seen a greater token than the locks have minted (they lost
    /// writes, or live elsewhere): acquire once more, above it (R5).
    fn claim_with_greater_token(&mut self, entry: EntryId, seen: FencingToken) {
        self.floor = self.floor.max(seen);
        let Some(old) = self.items.set(entry, State::Waiting { refused: 0 }) else {
            return;
        };
        let Some(item) = self.items.get(entry) else {
            return;
        };
        if let Some(lock) = old.lock() {
            let lease = LeaseRef {
                stream: item.stream.clone(),
                entry,
                token: lock.token,
            };
            self.release(lease, false);
        }
    }

    /// Gives up a lock that the user never heard of.
    fn drop_locked(&mut self, entry: EntryId) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        if let Origin::Call(call) = item.origin {
            self.answer(call, Err(not_now()));
        }
        self.release_lock_of(entry, &item, true);
    }

    fn answer_claim(&mut self, entry: EntryId, result: ClaimResult) {
        let Some(Origin::Call(call)) = self.items.get(entry).map(|item| item.origin) else {
            return;
        };
        self.items.set_origin(entry, Origin::Orphan);
        self.answer(call, Ok(Answer::Claim(result)));
    }

    /// A user's claim of an orphan.
    pub(super) fn claim_orphan(
        &mut self,
        entry: EntryId,
        stream: StreamName,
        info: Info,
        call: CallId,
    ) {
        if !self.sitting.is_open() || !self.may_take() {
            return self.answer(call, Err(not_now()));
        }
        if self.items.contains(entry) {
            return self.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
        }
        self.shunned.remove(&entry);
        self.admit(entry, Announcement::new(stream, info), Origin::Call(call));
    }

    // --- held: refresh -----------------------------------------------------------------

    pub(super) fn refresh_done(&mut self, page: &[(EntryId, FencingToken)], result: Result<Reply>) {
        let lane = &mut self.lanes.refresh;
        lane.busy = false;
        let outcomes = match result {
            Ok(Reply::Claimed(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                lane.queue.extend(still_locked(&self.items, page));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed(&result);
            }
        };
        lane.backoff.succeed();
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let is_held = matches!(&item.state, State::Held(h) if h.lock.token == token);
            let reason = match outcome {
                ClaimOutcome::Gone if is_held => DisownReason::EntryGone,
                ClaimOutcome::Stale { .. } if is_held => DisownReason::Superseded,
                _ => continue,
            };
            self.end(entry, End::Disowned(reason), Completion::NotOwner);
        }
    }

    // --- out: complete, hand back, quarantine, release ------------------------------------

    pub(super) fn complete(&mut self, entry: EntryId, token: FencingToken, call: CallId) {
        let state = match self.items.get(entry).map(|item| &item.state) {
            Some(state) if state.lock().is_some_and(|lock| lock.token == token) => state,
            _ => return self.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
        };
        match state {
            State::Held(_) => {
                self.end_calls.entry(entry).or_default().push(call);
                self.set_ending(entry, Ending::Complete { retried: false });
                self.lanes.complete.queue.insert(entry);
            }
            // Asked twice: both hear of the one outcome.
            State::Ending(_, Ending::Complete { .. }) => {
                self.end_calls.entry(entry).or_default().push(call);
            }
            _ => self.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
        }
    }

    fn set_ending(&mut self, entry: EntryId, ending: Ending) {
        // `Waiting` is a stand-in for the blink in which the holding moves over.
        if let Some(item) = self.items.get_mut(entry) {
            let state = std::mem::replace(&mut item.state, State::Waiting { refused: 0 });
            item.state = match state {
                State::Held(holding) | State::Ending(holding, _) => State::Ending(holding, ending),
                other => other,
            };
        }
    }

    pub(super) fn complete_done(
        &mut self,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        self.lanes.complete.busy = false;
        let outcomes = match result {
            Ok(Reply::Completed(outcomes)) if outcomes.len() == page.len() => outcomes,
            Err(error) if !error.is_retryable() => {
                for &(entry, token) in page {
                    self.completion_refused(entry, token, &error);
                }
                return;
            }
            result => {
                for entry in still_locked(&self.items, page).collect::<Vec<_>>() {
                    self.set_ending(entry, Ending::Complete { retried: true });
                    self.lanes.complete.queue.insert(entry);
                }
                self.lanes
                    .complete
                    .backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed(&result);
            }
        };
        self.lanes.complete.backoff.succeed();
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Ending(holding, Ending::Complete { retried }) = &item.state else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let (end, completion) = match outcome {
                CompleteOutcome::Completed => (End::Completed, Completion::Completed),
                // The lease was believed all along, so it was the earlier try that removed it.
                CompleteOutcome::Gone if *retried => (End::Completed, Completion::Completed),
                CompleteOutcome::Gone => (End::Disowned(DisownReason::EntryGone), Completion::Gone),
                CompleteOutcome::NotOwner { .. } => (
                    End::Disowned(DisownReason::Superseded),
                    Completion::NotOwner,
                ),
            };
            self.end(entry, end, completion);
        }
    }

    /// The server will not have it: the user keeps the lease, and hears why.
    fn completion_refused(&mut self, entry: EntryId, token: FencingToken, error: &Error) {
        if self.items.lock_with(entry, token).is_none() {
            return;
        }
        if let Some(item) = self.items.get_mut(entry) {
            let state = std::mem::replace(&mut item.state, State::Waiting { refused: 0 });
            item.state = match state {
                State::Ending(holding, _) => State::Held(holding),
                other => other,
            };
        }
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            self.answer(call, Err(Error::new(error.kind(), error.to_string())));
        }
    }

    pub(super) fn hand_back(
        &mut self,
        entry: EntryId,
        token: FencingToken,
        failed: bool,
        call: Option<CallId>,
    ) {
        let is_held = matches!(
            self.items.get(entry).map(|item| &item.state),
            Some(State::Held(holding)) if holding.lock.token == token
        );
        if is_held {
            self.end_calls.entry(entry).or_default().extend(call);
            self.begin_hand_back(entry, failed, false);
        } else if let Some(call) = call {
            // Over already, or about to be: nothing is left to give up.
            self.answer(call, Ok(Answer::HandedBack));
        }
    }

    pub(super) fn revoke(&mut self, entry: EntryId) {
        match self.items.get(entry).map(|item| &item.state) {
            Some(State::Held(_)) => self.begin_hand_back(entry, false, true),
            // Not told to the user yet: just give it up.
            Some(State::Claiming { .. }) => self.drop_locked(entry),
            _ => {}
        }
    }

    pub(super) fn begin_hand_back(&mut self, entry: EntryId, failed: bool, revoked: bool) {
        self.set_ending(entry, Ending::HandBack { failed, revoked });
        self.lanes.hand_back.queue.insert(entry);
    }

    fn send_hand_back(&mut self, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        for entry in page {
            let Some(State::Ending(holding, Ending::HandBack { failed, .. })) =
                self.items.get(entry).map(|item| &item.state)
            else {
                continue;
            };
            entries.push(HandBack {
                entry,
                token: holding.lock.token,
                failed: *failed,
            });
        }
        let flight = entries.iter().map(|e| (e.entry, e.token)).collect();
        self.act(Action::HandBack(entries), Flight::HandBack(flight));
    }

    pub(super) fn hand_back_done(
        &mut self,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        let lane = &mut self.lanes.hand_back;
        lane.busy = false;
        let outcomes = match result {
            Ok(Reply::HandedBack(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                lane.queue.extend(still_locked(&self.items, page));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed(&result);
            }
        };
        lane.backoff.succeed();
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Ending(holding, Ending::HandBack { revoked, .. }) = &item.state else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let end = match outcome {
                HandBackOutcome::HandedBack if *revoked => End::Disowned(DisownReason::Revoked),
                HandBackOutcome::HandedBack => End::HandedBack,
                HandBackOutcome::Gone => End::Disowned(DisownReason::EntryGone),
                HandBackOutcome::NotOwner { .. } => End::Disowned(DisownReason::Superseded),
            };
            // Who handed back leaves it to the others for a TTL (R7).
            let until = self.now + self.settings.ttl;
            self.shunned.insert(entry, until);
            self.recheck(until, entry);
            self.end(entry, end, Completion::NotOwner);
        }
    }

    /// Into quarantine, with or without a lease on it.
    pub(super) fn park(&mut self, entry: EntryId, token: FencingToken, reason: String) {
        self.lanes.parking.insert(entry, (token, reason));
        self.lanes.quarantine.queue.insert(entry);
    }

    fn send_quarantine(&mut self, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        for entry in page {
            if let Some((token, reason)) = self.lanes.parking.get(&entry) {
                entries.push(Quarantine {
                    entry,
                    token: *token,
                    reason: reason.clone(),
                });
            }
        }
        let flight = entries
            .iter()
            .map(|q| (q.entry, q.reason.clone()))
            .collect();
        self.act(Action::Quarantine(entries), Flight::Quarantine(flight));
    }

    pub(super) fn quarantine_done(
        &mut self,
        page: Vec<(EntryId, String)>,
        result: Result<Reply>,
        current: bool,
    ) {
        let outcomes = match result {
            Ok(Reply::Quarantined(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                if current {
                    let lane = &mut self.lanes.quarantine;
                    lane.busy = false;
                    lane.queue.extend(page.iter().map(|(entry, _)| *entry));
                    lane.backoff
                        .fail(self.now, self.settings.ttl, &mut self.rng);
                    self.step_failed(&result);
                }
                return;
            }
        };
        if current {
            self.lanes.quarantine.busy = false;
            self.lanes.quarantine.backoff.succeed();
        }
        for ((entry, reason), outcome) in page.into_iter().zip(outcomes) {
            if outcome == QuarantineOutcome::Quarantined {
                self.notify_queued(Notice::Quarantined { entry, reason });
            }
            if current {
                self.lanes.parking.remove(&entry);
                if let Some(item) = self.items.remove(entry) {
                    self.release_lock_of(entry, &item, false);
                }
            }
        }
    }

    /// The one end of a lease (R12): the item goes, the user hears of it, the lock is released.
    pub(super) fn end(&mut self, entry: EntryId, end: End, completion: Completion) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        let handed_back = end == End::HandedBack || end == End::Disowned(DisownReason::Revoked);
        self.release_lock_of(entry, &item, handed_back);
        let handing_back = matches!(item.state, State::Ending(_, Ending::HandBack { .. }));
        self.tell_end(entry, item, end);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            let answer = match handing_back {
                true => Answer::HandedBack,
                false => Answer::Completion(completion),
            };
            self.answer(call, Ok(answer));
        }
    }

    /// The lock is not held any more: nothing to release, and the entry may be
    /// pending here still, so it is looked for.
    pub(super) fn lose(&mut self, entry: EntryId, reason: DisownReason) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        self.tell_lost(entry, item, reason);
        self.look_at_own();
    }

    /// R1, a lost session, or the end of the client: everything is over at once.
    pub(super) fn disown_all(&mut self, reason: DisownReason) {
        for (entry, item) in std::mem::take(&mut self.items).into_items() {
            self.tell_lost(entry, item, reason);
        }
        self.lanes = Lanes::default();
        self.end_calls.clear();
        self.wakes.clear();
        self.no_room.clear();
    }

    fn tell_lost(&mut self, entry: EntryId, item: Item, reason: DisownReason) {
        let asked_completion = matches!(item.state, State::Ending(_, Ending::Complete { .. }));
        if let Origin::Call(call) = item.origin {
            self.answer(call, Err(not_now()));
        }
        self.tell_end(entry, item, End::Disowned(reason));
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            // A completion that is under way may have happened, or still may.
            let answer = match asked_completion {
                true => Err(Error::new(
                    ErrorKind::LeaseEnded,
                    "the lease ended while it was being completed; whether the entry was removed is unknown",
                )),
                false => Ok(Answer::HandedBack),
            };
            self.answer(call, answer);
        }
    }

    fn tell_end(&mut self, entry: EntryId, item: Item, end: End) {
        let (State::Held(holding) | State::Ending(holding, _)) = item.state else {
            return;
        };
        let Some(belief) = holding.belief else { return };
        belief.end();
        let held = self.now.saturating_since(holding.since);
        let (stream, token) = (item.stream, holding.lock.token);
        if matches!(end, End::Disowned(_)) {
            self.undelivered += 1;
        }
        self.notify(Notice::Ended {
            entry,
            stream,
            token,
            end,
            held,
        });
    }

    fn release_lock_of(&mut self, entry: EntryId, item: &Item, announce: bool) {
        if let Some(lock) = item.state.lock() {
            let lease = LeaseRef {
                stream: item.stream.clone(),
                entry,
                token: lock.token,
            };
            self.release(lease, announce);
        }
    }

    /// Frees a lock; repeated until answered.
    pub(super) fn release(&mut self, lease: LeaseRef, announce: bool) {
        self.lanes.releasing.insert(lease, announce);
    }

    fn send_release(&mut self) {
        let releases: Vec<Release> = self
            .lanes
            .releasing
            .iter()
            .take(super::PAGE)
            .map(|(lease, &announce)| Release {
                lease: lease.clone(),
                announce,
            })
            .collect();
        if releases.is_empty() {
            return;
        }
        self.lanes.release.busy = true;
        self.sitting.ops += 1;
        let flight = releases
            .iter()
            .map(|release| release.lease.clone())
            .collect();
        let session = self.sitting.session.id.clone();
        self.act(Action::Release(session, releases), Flight::Release(flight));
    }

    pub(super) fn release_done(&mut self, page: &[LeaseRef], result: Result<Reply>) {
        self.sitting.ops += 1;
        self.lanes.release.busy = false;
        match result {
            // Released or not held: either way it is not ours any more.
            Ok(Reply::Released(outcomes)) if outcomes.len() == page.len() => {
                self.lanes.release.backoff.succeed();
                for lease in page {
                    self.lanes.releasing.remove(lease);
                    self.wake_stream(&lease.stream);
                }
            }
            _ => self
                .lanes
                .release
                .backoff
                .fail(self.now, self.settings.ttl, &mut self.rng),
        }
    }

    /// The page with the token of each entry's lock, for the call's fence.
    fn with_tokens(&self, page: Vec<EntryId>) -> Vec<(EntryId, FencingToken)> {
        page.into_iter()
            .filter_map(|entry| Some((entry, self.items.get(entry)?.state.lock()?.token)))
            .collect()
    }

    /// All Held entries, to be claimed again.
    pub(super) fn refresh_all(&mut self) {
        let held = self
            .items
            .iter()
            .filter(|(_, item)| matches!(item.state, State::Held(_)));
        self.lanes.refresh.queue = held.map(|(entry, _)| entry).collect();
    }
}

fn fenced(page: &[(EntryId, FencingToken)]) -> Vec<Fenced> {
    page.iter()
        .map(|&(entry, token)| Fenced { entry, token })
        .collect()
}

fn still_locked<'a>(
    items: &'a super::Items,
    page: &'a [(EntryId, FencingToken)],
) -> impl Iterator<Item = EntryId> + 'a {
    page.iter()
        .filter(|(entry, token)| items.lock_with(*entry, *token).is_some())
        .map(|(entry, _)| *entry)
}

fn not_now() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the client has no session at the moment; try again when it is connected",
    )
}
