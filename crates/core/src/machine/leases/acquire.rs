//! Into this consumer: admit → lock → fenced claim → added (R3, R4, R6).

use super::Leases;
use crate::machine::calls::Flight;
use crate::machine::cx::{Cx, Effect};
use crate::machine::recovery::takeover::Orphans;
use std::time::Duration;

use super::lanes::{Parking, claimed, outcomes, still_locked};
use super::table::{Ending, Holding, Lock, Origin, State};
use crate::belief::Belief;
use crate::machine::lifecycle::closed;
use crate::machine::{Action, Answer, CallId, ClaimResult, DisownReason, Notice, Reply};
use crate::{
    Acquire, AcquireOutcome, Announcement, ClaimOutcome, ConsumerName, EntryId, Error, ErrorKind,
    Failures, FencingToken, Held, Holder, Info, LeaseRef, LockScheme, Result, StreamName,
    Timestamp,
};

/// How often the lock of a handed-back stream is tried, 10 ms and doubling apart,
/// until it counts as somebody else's.
const HAND_BACK_TRIES: u32 = 6;

/// Until the next try at the soonest, whatever the lock server says.
pub(crate) const SOONEST: Duration = Duration::from_millis(10);

impl Leases {
    /// An entry that this consumer should work on, unless it is known already.
    pub(crate) fn admit(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        content: Announcement,
        origin: Origin,
    ) {
        self.late.forget_own(entry);
        self.id_is_of(cx, entry, Some(&content.stream));
        if self.items.contains(entry) {
            return;
        }
        if let Some(until) = self.cooldown.get(&entry) {
            if until > cx.now {
                cx.effect(Effect::Recheck(entry, until));
                return;
            }
            self.cooldown.cancel(&entry);
        }
        self.items
            .insert(entry, content.stream, content.info, origin);
        self.try_start(cx, entry);
    }

    pub(crate) fn admit_from(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        content: Announcement,
        origin: Origin,
        giver: Option<ConsumerName>,
    ) {
        self.admit(cx, entry, content, origin);
        if let Some(item) = self.items.get_mut(entry)
            && giver.is_some()
        {
            item.giver = giver;
        }
    }

    /// What was known of these is outdated: one that waits here for its turn
    /// had an owner meanwhile, may have failed once more, and is to rest then.
    pub(crate) fn reconsider(&mut self, entries: &[EntryId]) {
        for entry in entries {
            if let Some(item) = self.items.get(*entry)
                && matches!(item.state, State::Waiting { .. })
                && !matches!(item.origin, Origin::Call(_))
            {
                self.items.remove(*entry);
            }
        }
    }

    /// Into the acquire lane, if nothing stands against it.
    fn try_start(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Waiting { refused } = item.state else {
            return;
        };
        let (stream, origin) = (item.stream.clone(), item.origin);
        if self.items.active_entry(&stream).is_some() || self.lanes.is_releasing(&stream) {
            return self.wait_for_stream(cx, entry, origin);
        }
        if !matches!(origin, Origin::Call(_)) {
            match self.items.first_waiting(&stream) {
                Some(first) if first != entry => return self.wait_for_stream(cx, entry, origin),
                _ => {}
            }
        }
        if self.room(cx) == 0 {
            return match origin {
                Origin::Mine => {
                    self.no_room.insert(entry);
                }
                Origin::HandedBack | Origin::Orphan => {
                    self.items.remove(entry);
                    cx.effect(Effect::LeftBehind);
                    // There was room when it was seen. That nobody owns it is known
                    // already, and who had it may be buried before the next sweep.
                    if origin == Origin::Orphan {
                        cx.effect(Effect::Unowned(entry));
                        let soon = cx.rng.jittered(cx.settings.ttl / 4);
                        cx.effect(Effect::Recheck(entry, cx.now + soon));
                    }
                }
                Origin::Call(call) => {
                    self.items.remove(entry);
                    cx.answer(call, Ok(Answer::Claim(ClaimResult::Full)));
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
    fn wait_for_stream(&mut self, cx: &mut Cx, entry: EntryId, origin: Origin) {
        match origin {
            Origin::Call(call) => {
                self.items.remove(entry);
                cx.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
            }
            _ => {
                self.wake_at(cx.now + cx.settings.ttl, entry);
            }
        }
    }

    /// Tries a waiting item then, instead of whenever it was to be tried before.
    fn wake_at(&mut self, at: Timestamp, entry: EntryId) {
        if self.items.contains(entry) {
            self.wakes.set(entry, at);
        }
    }

    /// Something in the way of this data stream may be gone: its lowest waiting entry is next.
    pub(crate) fn wake_stream(&mut self, cx: &mut Cx, stream: &StreamName) {
        if self.items.inbound() > 0
            && let Some(entry) = self.items.active_entry(stream)
            && let Some(item) = self.items.get_mut(entry)
            && let State::Acquiring { freed, .. } = &mut item.state
        {
            *freed = true;
        }
        if let Some(entry) = self.items.first_waiting(stream) {
            self.try_start(cx, entry);
        }
    }

    pub(crate) fn pump_waiting(&mut self, cx: &mut Cx) {
        while self.cooldown.pop_due(cx.now).is_some() {}
        while let Some(entry) = self.wakes.pop_due(cx.now) {
            self.try_start(cx, entry);
        }
        while !self.no_room.is_empty()
            && self.room(cx) > 0
            && let Some(entry) = self.no_room.pop_first()
        {
            self.try_start(cx, entry);
        }
    }

    pub(crate) fn send_acquire(&mut self, cx: &mut Cx, page: Vec<EntryId>) {
        let mut requests = Vec::with_capacity(page.len());
        let mut flight = Vec::with_capacity(page.len());
        for entry in page {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Acquiring { attempt, .. } = item.state else {
                continue;
            };
            let (stream, floor) = (item.stream.clone(), cx.floor);
            requests.push(Acquire {
                stream,
                entry,
                attempt,
                floor,
            });
            flight.push((entry, attempt));
        }
        let session = cx.session.get();
        cx.act(Action::Acquire(session, requests), Flight::Acquire(flight));
    }

    pub(crate) fn acquire_done(
        &mut self,
        cx: &mut Cx,
        orphans: &Orphans,
        sent: Timestamp,
        capped: Timestamp,
        page: &[(EntryId, u64)],
        result: Result<Reply>,
    ) {
        let outcomes = outcomes("acquire", page.len(), result, |reply| match reply {
            Reply::Acquired(outcomes) => Some(outcomes),
            _ => None,
        });
        // Unknown, the same attempt is repeated until it is answered: only so can the
        // lock, if it was acquired, be found and kept.
        let again = page.iter().map(|(entry, _)| *entry);
        let outcomes = match self.lanes.acquire.settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => return cx.step_failed("acquire", error),
        };
        if outcomes.contains(&AcquireOutcome::SessionGone) {
            return cx.effect(Effect::AbandonSession(DisownReason::Expired));
        }
        let mut restarted = false;
        for (&(entry, _), outcome) in page.iter().zip(outcomes) {
            match outcome {
                AcquireOutcome::Acquired(token) => self.acquired(cx, entry, token, sent, capped),
                AcquireOutcome::Held(held) => self.refused(cx, orphans, entry, &held),
                AcquireOutcome::NotYet { retry_in } => {
                    restarted = true;
                    self.put_off(cx, entry, retry_in);
                }
                AcquireOutcome::SessionGone => {}
            }
        }
        if restarted {
            self.lock_server_restarted(cx);
        }
    }

    /// The lock server makes everybody wait; fetching too, so that nobody hoards
    /// entries meanwhile.
    fn put_off(&mut self, cx: &mut Cx, entry: EntryId, retry_in: Duration) {
        let at = cx.now + retry_in.max(SOONEST);
        self.items.set(entry, State::Waiting { refused: 0 });
        self.wake_at(at, entry);
        cx.effect(Effect::FetchNotBefore(at));
    }

    /// `capped`: how long it is believed at most, unless the record shows it.
    pub(crate) fn acquired(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        token: FencingToken,
        sent: Timestamp,
        capped: Timestamp,
    ) {
        cx.raise_floor(token);
        let Some(stream) = self.items.get(entry).map(|item| item.stream.clone()) else {
            return;
        };
        let lease = LeaseRef {
            stream,
            entry,
            token,
        };
        let deadline = match cx.scheme {
            LockScheme::PerStream => cx.believed_until(sent),
            LockScheme::Session => capped.min(self.fresh_until(cx, &lease, sent)),
        };
        let lock = Lock { token, deadline };
        self.items.set(entry, State::Claiming { lock });
        if !self.may_take(cx) || deadline <= cx.now {
            return self.forget(cx, entry);
        }
        if deadline < Timestamp::MAX {
            self.items.expires_at(deadline, entry);
        }
        if cx.scheme == LockScheme::Session {
            self.record.doubt(&lease, capped);
        } else {
            // If the answer was slow, the lock cannot wait for the next beat.
            cx.effect(Effect::HeartbeatBy(sent + cx.settings.heartbeat_interval()));
        }
        if !self.late.owes(entry) {
            self.lanes.claim.queue.insert(entry);
        }
    }

    /// A lease that came with a take-over: locked already, claimed next.
    pub(crate) fn adopt(&mut self, cx: &mut Cx, lease: LeaseRef, info: Info) {
        self.disclaim(&lease);
        if self.items.active_entry(&lease.stream).is_some() {
            return self.give_back(cx, lease);
        }
        // Handed back here a moment ago, by a session that could not release it any more (R7).
        if self.is_cooling_down(cx, lease.entry) {
            return self.release(cx, lease, true);
        }
        let capped = self.record.capped(&lease);
        // It may have waited here for its former owner to end.
        self.forget(cx, lease.entry);
        self.items
            .insert(lease.entry, lease.stream, info, Origin::Orphan);
        let now = cx.now;
        self.acquired(cx, lease.entry, lease.token, now, capped);
    }

    pub(crate) fn is_cooling_down(&self, cx: &Cx, entry: EntryId) -> bool {
        let until = self.cooldown.get(&entry);
        until.is_some_and(|until| until > cx.now)
    }

    /// Frees a lease that a take-over brought and that is not wanted, unless it
    /// is held already or an acquire is under way for its entry: the repeat of
    /// that acquire is answered with this very lease, which must then stand.
    /// Should it not be, the record shows one lease too many.
    pub(crate) fn give_back(&mut self, cx: &mut Cx, lease: LeaseRef) {
        self.disclaim(&lease);
        if self.items.active_entry(&lease.stream) != Some(lease.entry) {
            self.release(cx, lease, true);
        }
    }

    fn may_take(&self, cx: &Cx) -> bool {
        !cx.budget.is_receiver_dropped() && !cx.is_draining()
    }

    /// The lock is held by somebody else (or by this session under another entry).
    fn refused(&mut self, cx: &mut Cx, orphans: &Orphans, entry: EntryId, held: &Held) {
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
                cx.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
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
                Holder::Session(id) => orphans.is_dead(id),
                Holder::Foreign(_) => refused == 0,
            },
        };
        if !keep {
            self.items.remove(entry);
        } else if freed {
            self.try_start(cx, entry);
        } else {
            let wait = match origin {
                Origin::HandedBack => Duration::from_millis(10) * 2u32.pow(refused),
                _ => held.remaining.min(cx.settings.ttl),
            };
            let at = cx.now + wait.min(cx.settings.ttl) + cx.deadline_jitter();
            self.wake_at(at, entry);
        }
    }

    pub(crate) fn claim_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        // Unknown, it is tried again with the same token for as long as the lock is believed.
        let again = still_locked(&self.items, page);
        let outcomes = claimed(page.len(), result);
        let outcomes = match self.lanes.claim.settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => return cx.step_failed("claim", error),
        };
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            if self.items.lock_with(entry, token).is_none() {
                continue;
            }
            match outcome {
                ClaimOutcome::Claimed { from, failures } => self.claimed(cx, entry, from, failures),
                // Completed meanwhile, by whoever had it: no event (R3).
                ClaimOutcome::Gone => {
                    self.answer_claim(cx, entry, ClaimResult::Gone);
                    self.forget(cx, entry);
                }
                ClaimOutcome::Stale { seen } => self.claim_with_greater_token(cx, entry, seen),
            }
        }
    }

    pub(crate) fn claimed(
        &mut self,
        cx: &mut Cx,
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
            since: cx.now,
            belief: None,
            is_dropped: false,
            progress_timeout: cx.settings.progress_timeout,
            may_be_completed: false,
            failures: failures.count,
        };
        if !self.may_take(cx) {
            if let Origin::Call(call) = item.origin {
                self.items.set_origin(entry, Origin::Orphan);
                cx.answer(call, Err(self.not_now(cx)));
            }
            return self.give_away(entry, holding, Ending::hand_back(None));
        }
        let limit = cx.settings.quarantine_after;
        if limit.is_some_and(|limit| failures.count >= limit) {
            // The death that this claim counted may be none: its owner can have been cut
            // off, and takes it back as soon as it reaches the LBS. Until then it rests.
            if failures.counted_now
                && limit.is_some_and(|limit| failures.count.saturating_sub(1) < limit)
            {
                self.answer_claim(cx, entry, ClaimResult::HeldElsewhere);
                let ending = Ending::HandBack {
                    failed: None,
                    rests: true,
                    because: None,
                };
                return self.give_away(entry, holding, ending);
            }
            self.answer_claim(cx, entry, ClaimResult::Gone);
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
        let belief = Belief::new(lock.deadline, cx.session.belief());
        let (stream, info) = (item.stream.clone(), item.info.clone());
        holding.belief = Some(belief.clone());
        self.answer_claim(cx, entry, ClaimResult::Claimed);
        self.items.set_origin(entry, Origin::Mine);
        self.items.set(entry, State::Held(holding));
        self.listen(cx, entry);
        self.reset_failures_later(cx, entry, lock.token, failures.count);
        cx.notify_queued(Notice::Added {
            entry,
            stream,
            info,
            token: lock.token,
            claimed_from: from.filter(|from| *from != cx.consumer),
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
    fn claim_with_greater_token(&mut self, cx: &mut Cx, entry: EntryId, seen: FencingToken) {
        if seen >= FencingToken::LIMIT {
            // Nobody can have a greater one. It is looked at again when it is found again.
            self.forget(cx, entry);
            return;
        }
        cx.raise_floor(seen);
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
            self.release(cx, lease, false);
        }
        self.wake_at(cx.now + cx.settings.ttl, entry);
    }

    /// Gives up an item that the user never heard of, with its lock if it has one.
    pub(crate) fn forget(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        if let Origin::Call(call) = item.origin {
            cx.answer(call, Err(self.not_now(cx)));
        }
        self.release_lock_of(cx, entry, &item, true);
    }

    fn answer_claim(&mut self, cx: &mut Cx, entry: EntryId, result: ClaimResult) {
        let Some(Origin::Call(call)) = self.items.get(entry).map(|item| item.origin) else {
            return;
        };
        self.items.set_origin(entry, Origin::Orphan);
        cx.answer(call, Ok(Answer::Claim(result)));
    }

    /// What a claim is told that cannot be followed up.
    pub(crate) fn not_now(&self, cx: &Cx) -> Error {
        if cx.is_draining() {
            closed()
        } else if cx.budget.is_receiver_dropped() {
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
    pub(crate) fn claim_orphan(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        stream: StreamName,
        info: Info,
        call: CallId,
    ) {
        if !cx.is_open() || !self.may_take(cx) {
            return cx.answer(call, Err(self.not_now(cx)));
        }
        if self.items.contains(entry) {
            return cx.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
        }
        self.cooldown.cancel(&entry);
        self.admit(
            cx,
            entry,
            Announcement::new(stream, info),
            Origin::Call(call),
        );
    }
}
