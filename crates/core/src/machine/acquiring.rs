//! Into this consumer: admit → lock → fenced claim → added (R3, R4, R6).

use std::time::Duration;

use super::control::closed;
use super::items::{Ending, Holding, Lock, Origin, State};
use super::lanes::{Parking, still_locked};
use super::{Action, Answer, CallId, ClaimResult, DisownReason, Flight, Machine, Notice, Reply};
use crate::belief::Belief;
use crate::{
    Acquire, AcquireOutcome, Announcement, ClaimOutcome, ConsumerName, EntryId, Error, ErrorKind,
    Failures, FencingToken, Held, Holder, Info, LeaseRef, LockScheme, Result, StreamName,
    Timestamp,
};

/// How often the lock of a handed-back stream is tried, 10 ms and doubling apart,
/// until it counts as somebody else's.
const HAND_BACK_TRIES: u32 = 6;

/// Until the next try at the soonest, whatever the lock server says.
pub(super) const SOONEST: Duration = Duration::from_millis(10);

impl Machine {
    /// An entry that this consumer should work on, unless it is known already.
    pub(super) fn admit(&mut self, entry: EntryId, content: Announcement, origin: Origin) {
        self.id_is_of(entry, Some(&content.stream));
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
        self.try_start(entry);
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
                    // There was room when it was seen. That nobody owns it is known
                    // already, and who had it may be buried before the next sweep.
                    if origin == Origin::Orphan {
                        self.remember_expired(entry);
                        let soon = self.rng.jittered(self.settings.ttl / 4);
                        self.recheck(self.now + soon, entry);
                    }
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
                self.wake_at(self.now + self.settings.ttl, entry);
            }
        }
    }

    /// Tries a waiting item then, instead of whenever it was to be tried before.
    fn wake_at(&mut self, at: Timestamp, entry: EntryId) {
        let Some(item) = self.items.get_mut(entry) else {
            return;
        };
        let before = std::mem::replace(&mut item.wake, at);
        self.wakes.remove(&(before, entry));
        self.wakes.insert((at, entry));
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

    pub(super) fn send_acquire(&mut self, page: Vec<EntryId>) {
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
        capped: Timestamp,
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
            result => {
                lane.queue.extend(page.iter().map(|(entry, _)| *entry));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed("acquire", &result);
            }
        };
        lane.backoff.succeed();
        if outcomes.contains(&AcquireOutcome::SessionGone) {
            return self.abandon_session(DisownReason::Expired);
        }
        let mut restarted = false;
        for (&(entry, _), outcome) in page.iter().zip(outcomes) {
            match outcome {
                AcquireOutcome::Acquired(token) => self.acquired(entry, token, sent, capped),
                AcquireOutcome::Held(held) => self.refused(entry, &held),
                AcquireOutcome::NotYet { retry_in } => {
                    restarted = true;
                    self.put_off(entry, retry_in);
                }
                AcquireOutcome::SessionGone => {}
            }
        }
        if restarted {
            self.lock_server_restarted();
        }
    }

    /// The lock server makes everybody wait; fetching too, so that nobody hoards
    /// entries meanwhile.
    fn put_off(&mut self, entry: EntryId, retry_in: Duration) {
        let at = self.now + retry_in.max(SOONEST);
        self.items.set(entry, State::Waiting { refused: 0 });
        self.wake_at(at, entry);
        self.fetch.not_before = self.fetch.not_before.max(at);
    }

    /// What is acquired from now on has a greater token. Not than what is none: a store's
    /// odd record of one entry would keep everything from being acquired.
    pub(super) fn raise_floor(&mut self, seen: FencingToken) {
        if seen < FencingToken::LIMIT {
            self.floor = self.floor.max(seen);
        }
    }

    /// `capped`: how long it is believed at most, unless the record shows it.
    pub(super) fn acquired(
        &mut self,
        entry: EntryId,
        token: FencingToken,
        sent: Timestamp,
        capped: Timestamp,
    ) {
        self.raise_floor(token);
        let Some(stream) = self.items.get(entry).map(|item| item.stream.clone()) else {
            return;
        };
        let lease = LeaseRef {
            stream,
            entry,
            token,
        };
        let deadline = match self.scheme {
            LockScheme::PerStream => self.believed_until(sent),
            LockScheme::Session => capped.min(self.fresh_until(&lease, sent)),
        };
        let lock = Lock { token, deadline };
        self.items.set(entry, State::Claiming { lock });
        if !self.may_take() || deadline <= self.now {
            return self.forget(entry);
        }
        if deadline < Timestamp::MAX {
            self.expires_at(deadline, entry);
        }
        if self.scheme == LockScheme::Session {
            self.sitting.record.doubt(&lease, capped);
        } else {
            // If the answer was slow, the lock cannot wait for the next beat.
            self.beat_by(sent + self.settings.beat_interval());
        }
        if !self.late.owes(entry) {
            self.lanes.claim.queue.insert(entry);
        }
    }

    /// A lease that came with a take-over: locked already, claimed next.
    pub(super) fn adopt(&mut self, lease: LeaseRef, info: Info) {
        if self.items.active_entry(&lease.stream).is_some() {
            return self.give_back(lease);
        }
        // Handed back here a moment ago, by a session that could not release it any more (R7).
        if self.is_shunned(lease.entry) {
            return self.release(lease, true);
        }
        let capped = self.sitting.record.capped(&lease);
        // It may have waited here for its former owner to end.
        self.forget(lease.entry);
        self.items
            .insert(lease.entry, lease.stream, info, Origin::Orphan);
        let now = self.now;
        self.acquired(lease.entry, lease.token, now, capped);
    }

    fn is_shunned(&self, entry: EntryId) -> bool {
        let until = self.shunned.get(&entry);
        until.is_some_and(|until| *until > self.now)
    }

    /// Frees a lease that a take-over brought and that is not wanted, unless it
    /// is held already or an acquire is under way for its entry: the repeat of
    /// that acquire is answered with this very lease, which must then stand.
    /// Should it not be, the record shows one lease too many.
    pub(super) fn give_back(&mut self, lease: LeaseRef) {
        if self.items.active_entry(&lease.stream) != Some(lease.entry) {
            self.release(lease, true);
        }
    }

    fn may_take(&self) -> bool {
        !self.deaf && !self.is_draining()
    }

    /// The lock is held by somebody else (or by this session under another entry).
    pub(super) fn refused(&mut self, entry: EntryId, held: &Held) {
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
            self.wake_at(at, entry);
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
                return self.step_failed("claim", &result);
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
                    self.forget(entry);
                }
                ClaimOutcome::Stale { seen } => self.claim_with_greater_token(entry, seen),
            }
        }
    }

    pub(super) fn claimed(
        &mut self,
        entry: EntryId,
        from: Option<ConsumerName>,
        failures: Failures,
    ) {
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
            is_dropped: false,
            max_silence: self.settings.max_silence,
            heard_until: None,
            may_be_completed: false,
            failures: failures.count,
        };
        if !self.may_take() {
            if let Origin::Call(call) = item.origin {
                self.items.set_origin(entry, Origin::Orphan);
                self.answer(call, Err(self.not_now()));
            }
            return self.give_away(entry, holding, Ending::hand_back(None));
        }
        let limit = self.settings.quarantine_after;
        if limit.is_some_and(|limit| failures.count >= limit) {
            // The death that this claim counted may be none: its owner can have been cut
            // off, and takes it back as soon as it reaches the LBS. Until then it rests.
            if failures.counted_now
                && limit.is_some_and(|limit| failures.count.saturating_sub(1) < limit)
            {
                self.answer_claim(entry, ClaimResult::HeldElsewhere);
                let ending = Ending::HandBack {
                    failed: None,
                    rests: true,
                    because: None,
                };
                return self.give_away(entry, holding, ending);
            }
            self.answer_claim(entry, ClaimResult::Gone);
            self.items
                .set(entry, State::Ending(holding, Ending::Quarantine));
            let mut reason = format!("{} owners failed on it", failures.count);
            if let Some(last) = failures.reasons.last() {
                reason = format!("{reason}, the last: {last}");
            }
            let parking = Parking {
                token: lock.token,
                min_failures: limit.unwrap_or(0),
                reason,
                failures: failures.reasons,
            };
            return self.park(entry, parking);
        }
        let belief = Belief::new(lock.deadline, self.sitting.belief.clone());
        let (stream, info) = (item.stream.clone(), item.info.clone());
        holding.belief = Some(belief.clone());
        self.answer_claim(entry, ClaimResult::Claimed);
        self.items.set_origin(entry, Origin::Mine);
        self.items.set(entry, State::Held(holding));
        self.listen(entry);
        self.forgive_later(entry, lock.token, failures.count);
        self.notify_queued(Notice::Added {
            entry,
            stream,
            info,
            token: lock.token,
            claimed_from: from.filter(|from| *from != self.consumer),
            belief,
        });
    }

    /// Hands an entry back that the user never heard of.
    fn give_away(&mut self, entry: EntryId, holding: Holding, ending: Ending) {
        self.items.set(entry, State::Ending(holding, ending));
        self.lanes.hand_back.queue.insert(entry);
    }

    /// The LBS has seen a greater token than the locks have minted (they lost
    /// writes, or live elsewhere): acquire once more, above it (R5).
    fn claim_with_greater_token(&mut self, entry: EntryId, seen: FencingToken) {
        if seen >= FencingToken::LIMIT {
            // Nobody can have a greater one. It is looked at again when it is found again.
            self.forget(entry);
            return;
        }
        self.raise_floor(seen);
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
            // Its answer wakes the stream's lowest entry, be it this one or not.
            self.release(lease, false);
        }
        self.wake_at(self.now + self.settings.ttl, entry);
    }

    /// Gives up an item that the user never heard of, with its lock if it has one.
    pub(super) fn forget(&mut self, entry: EntryId) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        if let Origin::Call(call) = item.origin {
            self.answer(call, Err(self.not_now()));
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

    /// What a claim is told that cannot be followed up.
    pub(super) fn not_now(&self) -> Error {
        if self.is_draining() {
            closed()
        } else if self.deaf {
            Error::new(
                ErrorKind::Closed,
                "the client's events were dropped, so it takes no more streams; build a new one",
            )
        } else {
            Error::new(
                ErrorKind::Unavailable,
                "the client has no session at the moment; try again when it is connected",
            )
        }
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
            return self.answer(call, Err(self.not_now()));
        }
        if self.items.contains(entry) {
            return self.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
        }
        self.shunned.remove(&entry);
        self.admit(entry, Announcement::new(stream, info), Origin::Call(call));
    }
}
