//! What is held, and its one end: refreshed, then completed, handed back,
//! quarantined or lost; last of all the lock is released (R4, R7, R12).

use super::Leases;
use super::failure_reset::FailureReset;
use super::lanes::{GATHER, Lanes, Parking, claimed, handed_back, outcomes, still_locked};
use super::table::{Ending, Holding, Item, Origin, State};
use crate::machine::calls::Flight;
use crate::machine::cx::{Cx, Effect};
use crate::machine::lifecycle::closed;
use crate::machine::pages::Lane;
use crate::machine::{
    Action, Answer, CallId, Completion, DisownReason, End, HandBack, Notice, Reply,
};
use crate::{
    ClaimOutcome, CompleteOutcome, EntryId, Error, ErrorKind, FencingToken, HandBackOutcome,
    HandBackRequest, LeaseRef, Quarantine, QuarantineOutcome, Release, Result,
};

impl Leases {
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
        let again = still_locked(&self.items, page);
        let outcomes = claimed(page.len(), result);
        let outcomes = match self.lanes.refresh.settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => return cx.step_failed("claim", error),
        };
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
            self.end(cx, entry, end, Completion::NotOwner);
        }
    }

    pub(crate) fn complete(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        token: FencingToken,
        call: CallId,
    ) {
        let state = match self.items.get(entry).map(|item| &item.state) {
            Some(state) if state.lock().is_some_and(|lock| lock.token == token) => state,
            _ => {
                return cx.answer(call, Ok(Answer::Completion(Completion::NotOwner)));
            }
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
            _ => cx.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
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

    pub(crate) fn complete_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        let outcomes = outcomes("complete", page.len(), result, |reply| match reply {
            Reply::Completed(outcomes) => Some(outcomes),
            _ => None,
        });
        if let Err(error) = &outcomes {
            self.may_be_completed(page);
            if self.is_final(cx, error, |lanes| &mut lanes.complete) {
                self.lanes.complete.busy = false;
                for &(entry, token) in page {
                    self.completion_refused(cx, entry, token, error);
                }
                return cx.step_failed("complete", error.clone());
            }
        }
        let again = still_locked(&self.items, page);
        let outcomes = match self.lanes.complete.settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => return cx.step_failed("complete", error),
        };
        // What waits already is not held up by more, unless it is being sent.
        let release_by = match self.lanes.releasing.is_empty() || self.lanes.release.busy {
            true => cx.now + GATHER,
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
            self.end(cx, entry, end, completion);
        }
        self.lanes.release_by = release_by;
    }

    /// Whether users are to hear that what they asked for is refused: after a TTL of
    /// nothing else. Rights that are gone for a moment, or a server that is being
    /// replaced, are waited for like any outage. Whoever ends waits for nothing.
    fn is_final(
        &mut self,
        cx: &mut Cx,
        error: &Error,
        lane: impl Fn(&mut Lanes) -> &mut Lane,
    ) -> bool {
        if error.is_retryable() {
            return false;
        }
        let ttl = cx.settings.ttl;
        let refused = lane(&mut self.lanes).refused_for(cx.now, ttl);
        refused >= ttl || cx.is_draining()
    }

    /// The server will not have it: the user keeps the lease, and hears why.
    fn completion_refused(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        token: FencingToken,
        error: &Error,
    ) {
        if self.items.lock_with(entry, token).is_none() {
            return;
        }
        self.keep(cx, entry, error);
        if cx.is_draining() || self.is_dropped(entry) {
            self.begin_hand_back(cx, entry, None, None);
        }
    }

    /// What was to end a lease was refused for good: it goes on.
    fn keep(&mut self, cx: &mut Cx, entry: EntryId, error: &Error) {
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
            belief.report_progress(cx.now);
        }
        self.listen(cx, entry);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            cx.answer(call, Err(error.clone()));
        }
    }

    pub(crate) fn hand_back(
        &mut self,
        cx: &mut Cx,
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
                self.begin_hand_back(cx, entry, failed, None);
            }
            // Asked twice: both hear of the one outcome.
            Some(State::Ending(_, Ending::HandBack { .. })) => {
                self.end_calls.entry(entry).or_default().extend(call);
            }
            // Over already, or about to be: nothing is left to give up.
            _ => {
                if let Some(call) = call {
                    cx.answer(call, Ok(Answer::HandBack(HandBack::NotOwner)));
                }
            }
        }
    }

    pub(crate) fn revoke(&mut self, cx: &mut Cx, entry: EntryId) {
        match self.items.get(entry).map(|item| &item.state) {
            Some(State::Held(_)) => {
                self.begin_hand_back(cx, entry, None, Some(DisownReason::Revoked));
            }
            // Not told to the user yet: just give it up.
            Some(State::Claiming { .. }) => {
                // Its claim may have been executed already, or be so later.
                if !self.lanes.claim.queue.remove(&entry) {
                    self.owe_present(cx, entry);
                }
                self.cool_down(cx, entry);
                self.forget(cx, entry);
            }
            _ => {}
        }
    }

    pub(crate) fn begin_hand_back(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        failed: Option<String>,
        because: Option<DisownReason>,
    ) {
        let Some(State::Held(holding)) = self.items.get(entry).map(|item| &item.state) else {
            return;
        };
        // With its last failure it is to be parked, and needs no rest before that.
        let limit = cx.settings.quarantine_after;
        let is_last = limit.is_some_and(|limit| holding.failures.saturating_add(1) >= limit);
        let ending = Ending::HandBack {
            rests: failed.is_some() && !is_last,
            failed: failed.map(Into::into),
            because,
        };
        self.set_ending(entry, ending);
        self.lanes.hand_back.queue.insert(entry);
    }

    pub(crate) fn send_hand_back(&mut self, cx: &mut Cx, page: Vec<EntryId>) {
        let mut entries = Vec::with_capacity(page.len());
        for entry in page {
            let Some(State::Ending(holding, Ending::HandBack { failed, rests, .. })) =
                self.items.get(entry).map(|item| &item.state)
            else {
                continue;
            };
            entries.push(HandBackRequest {
                entry,
                token: holding.lock.token,
                failed: failed.as_deref().map(ToOwned::to_owned),
                rests: *rests,
            });
        }
        let flight = entries.iter().map(|e| (e.entry, e.token)).collect();
        cx.act(Action::HandBack(entries), Flight::HandBack(flight));
    }

    pub(crate) fn hand_back_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        let outcomes = handed_back(page.len(), result);
        let again = still_locked(&self.items, page);
        let outcomes = match self.lanes.hand_back.settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                if self.is_final(cx, &error, |lanes| &mut lanes.hand_back) {
                    self.hand_backs_refused(cx, page, &error);
                }
                return cx.step_failed("hand_back", error);
            }
        };
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
            self.cool_down(cx, entry);
            self.end(cx, entry, end, Completion::NotOwner);
        }
    }

    /// The server will not have it: whoever asked keeps the lease, and hears why.
    /// What nobody waits for, or must go, is tried until the lease runs out.
    fn hand_backs_refused(&mut self, cx: &mut Cx, page: &[(EntryId, FencingToken)], error: &Error) {
        for entry in still_locked(&self.items, page).collect::<Vec<_>>() {
            let state = self.items.get(entry).map(|item| &item.state);
            let because_asked = matches!(
                state,
                Some(State::Ending(_, Ending::HandBack { because: None, .. }))
            );
            let is_waited_for = self.end_calls.contains_key(&entry);
            if because_asked && is_waited_for && !cx.is_draining() && !self.is_dropped(entry) {
                self.lanes.hand_back.queue.remove(&entry);
                self.keep(cx, entry, error);
            }
        }
    }

    fn is_dropped(&self, entry: EntryId) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Held(holding) | State::Ending(holding, _)) if holding.is_dropped)
    }

    /// Who gave an entry up leaves it to the others for a TTL (R7).
    fn cool_down(&mut self, cx: &mut Cx, entry: EntryId) {
        let until = cx.now + cx.settings.ttl;
        self.cooldown.set(entry, until);
        cx.effect(Effect::Recheck(entry, until));
    }

    /// Into quarantine, with or without a lease on it.
    pub(crate) fn park(&mut self, entry: EntryId, parking: Parking) {
        self.lanes.parking.insert(entry, parking);
        self.lanes.quarantine.queue.insert(entry);
    }

    pub(crate) fn send_quarantine(&mut self, cx: &mut Cx, page: Vec<EntryId>) {
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
        cx.budget.quarantine_sent(entries.len());
        cx.act(Action::Quarantine(entries), Flight::Quarantine(flight));
    }

    pub(crate) fn quarantine_done(
        &mut self,
        cx: &mut Cx,
        page: Vec<(EntryId, Parking)>,
        result: Result<Reply>,
        current: bool,
    ) {
        cx.budget.quarantine_answered(page.len());
        let mut outcomes = outcomes("quarantine", page.len(), result, |reply| match reply {
            Reply::Quarantined(outcomes) => Some(outcomes),
            _ => None,
        });
        if current {
            let again = page.iter().map(|(entry, ..)| *entry);
            outcomes = self.lanes.quarantine.settle(cx, outcomes, again);
        }
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) if current => return cx.step_failed("quarantine", error),
            Err(_) => return,
        };
        for ((entry, parking), outcome) in page.into_iter().zip(outcomes) {
            let token = parking.token;
            if outcome == QuarantineOutcome::Quarantined {
                cx.notify_queued(Notice::Quarantined {
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
                self.release_lock_of(cx, entry, &item, false);
            }
        }
    }

    fn is_parked(&self, entry: EntryId, token: FencingToken) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Ending(holding, Ending::Quarantine)) if holding.lock.token == token)
    }

    /// The one end of a lease (R12): the item goes, the user hears of it, the lock is released.
    pub(crate) fn end(&mut self, cx: &mut Cx, entry: EntryId, end: End, completion: Completion) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        let handed_back = end == End::HandedBack || end == End::Disowned(DisownReason::Revoked);
        self.release_lock_of(cx, entry, &item, handed_back);
        let handing_back = matches!(item.state, State::Ending(_, Ending::HandBack { .. }));
        // Who came after has counted this owner as dead.
        if end == End::Disowned(DisownReason::Superseded) && !handing_back {
            self.owe_one(cx, entry, &item);
        }
        self.tell_end(cx, entry, item, end);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            let answer = match handing_back {
                true => Answer::HandBack(end.into()),
                false => Answer::Completion(completion),
            };
            cx.answer(call, Ok(answer));
        }
    }

    /// The lock is not held any more: nothing to release, and the entry may be
    /// pending here still, so it is looked for.
    pub(crate) fn lose(&mut self, cx: &mut Cx, entry: EntryId, reason: DisownReason) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        // What waited to be done with this lease is not for the next one.
        self.lanes.claim.queue.remove(&entry);
        self.lanes.complete.queue.remove(&entry);
        self.lanes.hand_back.queue.remove(&entry);
        // An id that is another announcement's now is not to be touched.
        if reason != DisownReason::EntryGone {
            self.owe_one(cx, entry, &item);
        }
        self.tell_lost(cx, entry, item, reason);
        cx.effect(Effect::RescanOwn);
    }

    /// One lease is over while others are not, although its lock may stand still: that
    /// is freed.
    pub(crate) fn lapse(&mut self, cx: &mut Cx, entry: EntryId, reason: DisownReason) {
        if let Some(item) = self.items.get(entry)
            && let Some(lock) = item.state.lock()
        {
            let (stream, token) = (item.stream.clone(), lock.token);
            let lease = LeaseRef {
                stream,
                entry,
                token,
            };
            self.release(cx, lease, true);
        }
        self.lose(cx, entry, reason);
    }

    /// R1, a lost session, or the end of the client: everything is over at once.
    pub(crate) fn disown_all(&mut self, cx: &mut Cx, reason: DisownReason) {
        for (entry, item) in std::mem::take(&mut self.items).into_items() {
            self.tell_lost(cx, entry, item, reason);
        }
        self.lanes = Lanes::default();
        self.end_calls.clear();
        self.wakes.clear();
        self.silences.clear();
        self.no_room.clear();
        self.failure_reset = FailureReset::default();
    }

    /// Nobody runs this machine any more: its leases are over.
    pub(crate) fn end_beliefs(&self) {
        for (_, item) in self.items.iter() {
            if let Some(belief) = item.state.belief() {
                belief.end();
            }
        }
    }

    fn tell_lost(&mut self, cx: &mut Cx, entry: EntryId, item: Item, reason: DisownReason) {
        let asked_completion = matches!(item.state, State::Ending(_, Ending::Complete));
        if let Origin::Call(call) = item.origin {
            let why = match reason {
                DisownReason::ClientStopped => closed(),
                _ => self.not_now(cx),
            };
            cx.answer(call, Err(why));
        }
        self.tell_end(cx, entry, item, End::Disowned(reason));
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            // A completion that is under way may have happened, or still may.
            let answer = match asked_completion {
                true => Err(Error::new(
                    ErrorKind::LeaseEnded,
                    "the lease ended while it was being completed; whether the entry was removed is unknown",
                )),
                false => Ok(Answer::HandBack(HandBack::NotOwner)),
            };
            cx.answer(call, answer);
        }
    }

    fn tell_end(&mut self, cx: &mut Cx, entry: EntryId, item: Item, end: End) {
        let (State::Held(holding) | State::Ending(holding, _)) = item.state else {
            return;
        };
        self.silences.cancel(&entry);
        let Some(belief) = holding.belief else { return };
        belief.end();
        let held = cx.now.saturating_since(holding.since);
        let (stream, token) = (item.stream, holding.lock.token);
        if matches!(end, End::Disowned(_)) {
            cx.budget.queued();
        }
        cx.notify(Notice::Ended {
            entry,
            stream,
            token,
            end,
            held,
        });
    }

    pub(crate) fn release_lock_of(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        item: &Item,
        announce: bool,
    ) {
        if let Some(lock) = item.state.lock() {
            let lease = LeaseRef {
                stream: item.stream.clone(),
                entry,
                token: lock.token,
            };
            self.release(cx, lease, announce);
        }
    }

    /// Frees a lock; repeated until answered.
    pub(crate) fn release(&mut self, cx: &mut Cx, lease: LeaseRef, announce: bool) {
        // Not to be gathered, unless it is of a completion (see `complete_done`).
        self.lanes.release_by = cx.now;
        self.lanes.releasing.insert(lease, announce);
    }

    pub(crate) fn send_release(&mut self, cx: &mut Cx) {
        let releases: Vec<Release> = self
            .lanes
            .releasing
            .iter()
            .take(crate::machine::PAGE)
            .map(|(lease, &announce)| Release {
                lease: lease.clone(),
                announce,
            })
            .collect();
        if releases.is_empty() {
            return;
        }
        self.lanes.release.busy = true;
        let flight = releases
            .iter()
            .map(|release| release.lease.clone())
            .collect();
        let session = cx.session.id().clone();
        cx.act(Action::Release(session, releases), Flight::Release(flight));
    }

    pub(crate) fn release_done(&mut self, cx: &mut Cx, page: &[LeaseRef], result: Result<Reply>) {
        self.lanes.release.busy = false;
        match result {
            // Released or not held: either way it is not ours any more.
            Ok(Reply::Released(outcomes)) if outcomes.len() == page.len() => {
                self.lanes.release.backoff.succeed();
                for lease in page {
                    self.lanes.releasing.remove(lease);
                    self.wake_stream(cx, &lease.stream);
                }
            }
            result => {
                let backoff = &mut self.lanes.release.backoff;
                backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
                cx.step_done("release", result);
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
