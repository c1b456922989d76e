//! What is held, and its one end: refreshed, then completed, handed back,
//! quarantined or lost; last of all the lock is released (R4, R7, R12).

use super::control::closed;
use super::forgiving::Forgiving;
use super::items::{Ending, Holding, Item, Origin, State};
use super::lanes::{GATHER, Lane, Lanes, Parking, still_locked};
use super::{
    Action, Answer, CallId, Completion, DisownReason, End, Flight, Handover, Machine, Notice, Reply,
};
use crate::{
    ClaimOutcome, CompleteOutcome, EntryId, Error, ErrorKind, FencingToken, HandBack,
    HandBackOutcome, LeaseRef, Quarantine, QuarantineOutcome, Release, Result,
};

impl Machine {
    /// All Held entries, to be claimed again.
    pub(super) fn refresh_all(&mut self) {
        let held = self
            .items
            .iter()
            .filter(|(_, item)| matches!(item.state, State::Held(_)));
        self.lanes.refresh.queue = held.map(|(entry, _)| entry).collect();
    }

    pub(super) fn refresh_done(&mut self, page: &[(EntryId, FencingToken)], result: Result<Reply>) {
        let lane = &mut self.lanes.refresh;
        lane.busy = false;
        let outcomes = match result {
            Ok(Reply::Claimed(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                lane.queue.extend(still_locked(&self.items, page));
                lane.backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed("claim", &result);
            }
        };
        lane.backoff.succeed();
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
                _ => continue,
            };
            self.end(entry, end, Completion::NotOwner);
        }
    }

    pub(super) fn complete(&mut self, entry: EntryId, token: FencingToken, call: CallId) {
        let state = match self.items.get(entry).map(|item| &item.state) {
            Some(state) if state.lock().is_some_and(|lock| lock.token == token) => state,
            _ => return self.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
        };
        match state {
            State::Held(_) => {
                self.end_calls.entry(entry).or_default().push(call);
                self.set_ending(entry, Ending::Complete);
                self.lanes.complete.queue.insert(entry);
            }
            // Asked twice: both hear of the one outcome.
            State::Ending(_, Ending::Complete) => {
                self.end_calls.entry(entry).or_default().push(call);
            }
            _ => self.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
        }
    }

    /// An `Err` says that nobody knows.
    fn may_be_completed(&mut self, page: &[(EntryId, FencingToken)]) {
        for &(entry, token) in page {
            if let Some(item) = self.items.get_mut(entry)
                && let State::Ending(holding, _) = &mut item.state
                && holding.lock.token == token
            {
                holding.may_be_completed = true;
            }
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
            Err(error) if self.is_final(&error, |lanes| &mut lanes.complete) => {
                self.may_be_completed(page);
                for &(entry, token) in page {
                    self.completion_refused(entry, token, &error);
                }
                return self.step_failed("complete", &Err(error));
            }
            result => {
                self.may_be_completed(page);
                let again = still_locked(&self.items, page);
                self.lanes.complete.queue.extend(again);
                self.lanes
                    .complete
                    .backoff
                    .fail(self.now, self.settings.ttl, &mut self.rng);
                return self.step_failed("complete", &result);
            }
        };
        self.lanes.complete.succeed();
        // What waits already is not held up by more, unless it is being sent.
        let release_by = match self.lanes.releasing.is_empty() || self.lanes.release.busy {
            true => self.now + GATHER,
            false => self.lanes.release_by,
        };
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Ending(holding, Ending::Complete) = &item.state else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let (end, completion) = match outcome {
                CompleteOutcome::Completed => (End::Completed, Completion::Completed),
                CompleteOutcome::Gone => match gone(holding) {
                    End::Completed => (End::Completed, Completion::Completed),
                    end => (end, Completion::Gone),
                },
                CompleteOutcome::NotOwner { .. } => (
                    End::Disowned(DisownReason::Superseded),
                    Completion::NotOwner,
                ),
            };
            self.end(entry, end, completion);
        }
        self.lanes.release_by = release_by;
    }

    /// Whether users are to hear that what they asked for is refused: after a TTL of
    /// nothing else. Rights that are gone for a moment, or a server that is being
    /// replaced, are waited for like any outage. Whoever ends waits for nothing.
    fn is_final(&mut self, error: &Error, lane: impl Fn(&mut Lanes) -> &mut Lane) -> bool {
        if error.is_retryable() {
            return false;
        }
        let ttl = self.settings.ttl;
        let refused = lane(&mut self.lanes).refused_for(self.now, ttl);
        refused >= ttl || self.is_draining()
    }

    /// The server will not have it: the user keeps the lease, and hears why.
    fn completion_refused(&mut self, entry: EntryId, token: FencingToken, error: &Error) {
        if self.items.lock_with(entry, token).is_none() {
            return;
        }
        self.keep(entry, error);
        if self.is_draining() || self.is_dropped(entry) {
            self.begin_hand_back(entry, None, None);
        }
    }

    /// What was to end a lease was refused for good: it goes on.
    fn keep(&mut self, entry: EntryId, error: &Error) {
        let Some(item) = self.items.get_mut(entry) else {
            return;
        };
        let state = std::mem::replace(&mut item.state, State::Waiting { refused: 0 });
        item.state = match state {
            State::Ending(holding, _) => State::Held(holding),
            other => other,
        };
        // It waited for this answer, and goes on from here.
        if let Some(belief) = item.state.belief() {
            belief.report_progress(self.now);
        }
        self.listen(entry);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            self.answer(call, Err(Error::new(error.kind(), error.to_string())));
        }
    }

    pub(super) fn hand_back(
        &mut self,
        entry: EntryId,
        token: FencingToken,
        failed: Option<String>,
        call: Option<CallId>,
    ) {
        if let Some(item) = self.items.get_mut(entry)
            && let State::Held(holding) | State::Ending(holding, _) = &mut item.state
            && holding.lock.token == token
        {
            holding.is_dropped |= call.is_none();
        }
        let item = self.items.get(entry);
        let state = item
            .map(|item| &item.state)
            .filter(|state| state.lock().is_some_and(|lock| lock.token == token));
        match state {
            Some(State::Held(_)) => {
                self.end_calls.entry(entry).or_default().extend(call);
                self.begin_hand_back(entry, failed, None);
            }
            // Asked twice: both hear of the one outcome.
            Some(State::Ending(_, Ending::HandBack { .. })) => {
                self.end_calls.entry(entry).or_default().extend(call);
            }
            // Over already, or about to be: nothing is left to give up.
            _ => {
                if let Some(call) = call {
                    self.answer(call, Ok(Answer::Handover(Handover::NotOwner)));
                }
            }
        }
    }

    pub(super) fn revoke(&mut self, entry: EntryId) {
        match self.items.get(entry).map(|item| &item.state) {
            Some(State::Held(_)) => {
                self.begin_hand_back(entry, None, Some(DisownReason::Revoked));
            }
            // Not told to the user yet: just give it up.
            Some(State::Claiming { .. }) => {
                // Its claim may have been executed already, or be so later.
                if !self.lanes.claim.queue.remove(&entry) {
                    self.owe_present(entry);
                }
                self.shun(entry);
                self.forget(entry);
            }
            _ => {}
        }
    }

    pub(super) fn begin_hand_back(
        &mut self,
        entry: EntryId,
        failed: Option<String>,
        because: Option<DisownReason>,
    ) {
        let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
            return;
        };
        // With its last failure it is to be parked, and needs no rest before that.
        let limit = self.settings.quarantine_after;
        let is_last = limit.is_some_and(|limit| holding.failures.saturating_add(1) >= limit);
        let ending = Ending::HandBack {
            rests: failed.is_some() && !is_last,
            failed: failed.map(Into::into),
            because,
        };
        self.set_ending(entry, ending);
        self.lanes.hand_back.queue.insert(entry);
    }

    pub(super) fn send_hand_back(&mut self, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        for entry in page {
            let Some(State::Ending(holding, Ending::HandBack { failed, rests, .. })) =
                self.items.get(entry).map(|item| &item.state)
            else {
                continue;
            };
            entries.push(HandBack {
                entry,
                token: holding.lock.token,
                failed: failed.as_deref().map(ToOwned::to_owned),
                rests: *rests,
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
                if let Err(error) = &result
                    && self.is_final(error, |lanes| &mut lanes.hand_back)
                {
                    self.hand_backs_refused(page, error);
                }
                return self.step_failed("hand_back", &result);
            }
        };
        lane.succeed();
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            let Some(item) = self.items.get(entry) else {
                continue;
            };
            let State::Ending(holding, Ending::HandBack { because, .. }) = &item.state else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let end = match outcome {
                HandBackOutcome::HandedBack => because.map_or(End::HandedBack, End::Disowned),
                HandBackOutcome::Gone => gone(holding),
                HandBackOutcome::NotOwner { .. } => End::Disowned(DisownReason::Superseded),
            };
            self.shun(entry);
            self.end(entry, end, Completion::NotOwner);
        }
    }

    /// The server will not have it: whoever asked keeps the lease, and hears why.
    /// What nobody waits for, or must go, is tried until the lease runs out.
    fn hand_backs_refused(&mut self, page: &[(EntryId, FencingToken)], error: &Error) {
        for entry in still_locked(&self.items, page).collect::<Vec<_>>() {
            let state = self.items.get(entry).map(|item| &item.state);
            let because_asked = matches!(
                state,
                Some(State::Ending(_, Ending::HandBack { because: None, .. }))
            );
            let is_waited_for = self.end_calls.contains_key(&entry);
            if because_asked && is_waited_for && !self.is_draining() && !self.is_dropped(entry) {
                self.lanes.hand_back.queue.remove(&entry);
                self.keep(entry, error);
            }
        }
    }

    fn is_dropped(&self, entry: EntryId) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Held(holding) | State::Ending(holding, _)) if holding.is_dropped)
    }

    /// Who gave an entry up leaves it to the others for a TTL (R7).
    fn shun(&mut self, entry: EntryId) {
        let until = self.now + self.settings.ttl;
        self.shunned.insert(entry, until);
        self.recheck(until, entry);
    }

    /// Into quarantine, with or without a lease on it.
    pub(super) fn park(&mut self, entry: EntryId, parking: Parking) {
        self.lanes.parking.insert(entry, parking);
        self.lanes.quarantine.queue.insert(entry);
    }

    pub(super) fn send_quarantine(&mut self, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        let mut flight = Vec::with_capacity(page.len());
        for entry in page {
            if let Some(parking) = self.lanes.parking.get(&entry) {
                entries.push(Quarantine {
                    entry,
                    token: parking.token,
                    min_failures: parking.min_failures,
                    reason: parking.reason.clone(),
                });
                flight.push((entry, parking.clone()));
            }
        }
        self.quarantining += entries.len();
        self.act(Action::Quarantine(entries), Flight::Quarantine(flight));
    }

    pub(super) fn quarantine_done(
        &mut self,
        page: Vec<(EntryId, Parking)>,
        result: Result<Reply>,
        current: bool,
    ) {
        self.quarantining = self.quarantining.saturating_sub(page.len());
        let outcomes = match result {
            Ok(Reply::Quarantined(outcomes)) if outcomes.len() == page.len() => outcomes,
            result => {
                if current {
                    let lane = &mut self.lanes.quarantine;
                    lane.busy = false;
                    lane.queue.extend(page.iter().map(|(entry, ..)| *entry));
                    lane.backoff
                        .fail(self.now, self.settings.ttl, &mut self.rng);
                    self.step_failed("quarantine", &result);
                }
                return;
            }
        };
        if current {
            self.lanes.quarantine.busy = false;
            self.lanes.quarantine.backoff.succeed();
        }
        for ((entry, parking), outcome) in page.into_iter().zip(outcomes) {
            let token = parking.token;
            if outcome == QuarantineOutcome::Quarantined {
                self.notify_queued(Notice::Quarantined {
                    entry,
                    reason: parking.reason,
                    failures: parking.failures,
                });
            }
            if !current {
                continue;
            }
            // What was lost and taken again meanwhile goes its own way.
            if matches!(self.lanes.parking.get(&entry), Some(of) if of.token == token) {
                self.lanes.parking.remove(&entry);
            }
            if !self.is_parked(entry, token) {
                continue;
            }
            if outcome == QuarantineOutcome::FewerFailures {
                // An owner that was counted as dead lives: others may try the entry.
                self.set_ending(entry, Ending::hand_back(None));
                self.lanes.hand_back.queue.insert(entry);
            } else if let Some(item) = self.items.remove(entry) {
                self.release_lock_of(entry, &item, false);
            }
        }
    }

    fn is_parked(&self, entry: EntryId, token: FencingToken) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Ending(holding, Ending::Quarantine)) if holding.lock.token == token)
    }

    /// The one end of a lease (R12): the item goes, the user hears of it, the lock is released.
    pub(super) fn end(&mut self, entry: EntryId, end: End, completion: Completion) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        let handed_back = end == End::HandedBack || end == End::Disowned(DisownReason::Revoked);
        self.release_lock_of(entry, &item, handed_back);
        let handing_back = matches!(item.state, State::Ending(_, Ending::HandBack { .. }));
        // Who came after has counted this owner as dead.
        if end == End::Disowned(DisownReason::Superseded) && !handing_back {
            self.owe_one(entry, &item);
        }
        self.tell_end(entry, item, end);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            let answer = match handing_back {
                true => Answer::Handover(end.into()),
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
        // What waited to be done with this lease is not for the next one.
        self.lanes.claim.queue.remove(&entry);
        self.lanes.complete.queue.remove(&entry);
        self.lanes.hand_back.queue.remove(&entry);
        // An id that is another announcement's now is not to be touched.
        if reason != DisownReason::EntryGone {
            self.owe_one(entry, &item);
        }
        self.tell_lost(entry, item, reason);
        self.look_at_own();
    }

    /// One lease is over while others are not, although its lock may stand still: that
    /// is freed.
    pub(super) fn lapse(&mut self, entry: EntryId, reason: DisownReason) {
        if let Some(item) = self.items.get(entry)
            && let Some(lock) = item.state.lock()
        {
            let (stream, token) = (item.stream.clone(), lock.token);
            let lease = LeaseRef {
                stream,
                entry,
                token,
            };
            self.release(lease, true);
        }
        self.lose(entry, reason);
    }

    /// R1, a lost session, or the end of the client: everything is over at once.
    pub(super) fn disown_all(&mut self, reason: DisownReason) {
        for (entry, item) in std::mem::take(&mut self.items).into_items() {
            self.tell_lost(entry, item, reason);
        }
        self.lanes = Lanes::default();
        self.end_calls.clear();
        self.wakes.clear();
        self.silences.clear();
        self.no_room.clear();
        self.forgiving = Forgiving::default();
    }

    /// Nobody runs this machine any more: its leases are over.
    pub(crate) fn end_beliefs(&self) {
        for (_, item) in self.items.iter() {
            if let Some(belief) = item.state.belief() {
                belief.end();
            }
        }
    }

    fn tell_lost(&mut self, entry: EntryId, item: Item, reason: DisownReason) {
        let asked_completion = matches!(item.state, State::Ending(_, Ending::Complete));
        if let Origin::Call(call) = item.origin {
            let why = match reason {
                DisownReason::ClientStopped => closed(),
                _ => self.not_now(),
            };
            self.answer(call, Err(why));
        }
        self.tell_end(entry, item, End::Disowned(reason));
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            // A completion that is under way may have happened, or still may.
            let answer = match asked_completion {
                true => Err(Error::new(
                    ErrorKind::LeaseEnded,
                    "the lease ended while it was being completed; whether the entry was removed is unknown",
                )),
                false => Ok(Answer::Handover(Handover::NotOwner)),
            };
            self.answer(call, answer);
        }
    }

    fn tell_end(&mut self, entry: EntryId, item: Item, end: End) {
        let (State::Held(holding) | State::Ending(holding, _)) = item.state else {
            return;
        };
        if let Some(at) = holding.heard_until {
            self.silences.remove(&(at, entry));
        }
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

    pub(super) fn release_lock_of(&mut self, entry: EntryId, item: &Item, announce: bool) {
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
        // Not to be gathered, unless it is of a completion (see `complete_done`).
        self.lanes.release_by = self.now;
        self.lanes.releasing.insert(lease, announce);
    }

    pub(super) fn send_release(&mut self) {
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
            result => {
                let backoff = &mut self.lanes.release.backoff;
                backoff.fail(self.now, self.settings.ttl, &mut self.rng);
                self.step_failed("release", &result);
            }
        }
    }
}

/// How a lease ends whose entry is not on the LBS any more. It was believed all along,
/// so if a completion of it was tried, that was what removed it (R4).
fn gone(holding: &Holding) -> End {
    match holding.may_be_completed {
        true => End::Completed,
        false => End::Disowned(DisownReason::EntryGone),
    }
}
