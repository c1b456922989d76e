//! Handing back: the lease is given up, and another consumer continues (R7).

use super::Leases;
use super::ending::gone;
use super::lanes::{handed_back, still_locked};
use super::table::{Ending, Item, State};
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::{Answer, CallId, Completion, DisownReason, End, HandBack, LbsCall, Reply};
use crate::{EntryId, Error, FencingToken, HandBackOutcome, HandBackRequest, Result};

impl Leases {
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
            // Over already, or about to be: nothing is left to hand back.
            _ => {
                if let Some(call) = call {
                    cx.answer(call, Ok(Answer::HandBack(HandBack::NotOwner)));
                }
            }
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
        // With its last failure it is to be quarantined, and needs no rest before that.
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
        cx.act(LbsCall::HandBack(entries), Flight::HandBack(flight));
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
            let State::Ending(
                holding,
                Ending::HandBack {
                    because, failed, ..
                },
            ) = &item.state
            else {
                continue;
            };
            if holding.lock.token != token {
                continue;
            }
            let end = match outcome {
                HandBackOutcome::HandedBack => match (because, failed) {
                    (Some(because), _) => End::Disowned(*because),
                    (None, Some(reason)) => End::Failed(reason.to_string()),
                    (None, None) => End::HandedBack,
                },
                HandBackOutcome::Gone => match (gone(holding), because) {
                    (End::Disowned(_), Some(DisownReason::Revoked)) => {
                        End::Disowned(DisownReason::Cancelled)
                    }
                    (end, _) => end,
                },
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

    pub(super) fn is_dropped(&self, entry: EntryId) -> bool {
        let state = self.items.get(entry).map(|item| &item.state);
        matches!(state, Some(State::Held(holding) | State::Ending(holding, _)) if holding.is_dropped)
    }

    /// Who gave an entry up leaves it to the others for a TTL (R7).
    pub(super) fn cool_down(&mut self, cx: &mut Cx, entry: EntryId) {
        let until = cx.now + cx.settings.ttl;
        self.cooldown.set(entry, until);
        cx.effect(Effect::Recheck(entry, until));
    }

    pub(crate) fn is_cooling_down(&self, cx: &Cx, entry: EntryId) -> bool {
        let until = self.cooldown.get(&entry);
        until.is_some_and(|until| until > cx.now)
    }

    /// A shutdown begins. What is locked or about to be is given up when the answer is there.
    pub(crate) fn hand_back_all(&mut self, cx: &mut Cx) {
        let is_held = |item: &Item| matches!(item.state, State::Held(_));
        let held = self.items.iter().filter(|(_, item)| is_held(item));
        for entry in held.map(|(entry, _)| entry).collect::<Vec<_>>() {
            self.begin_hand_back(cx, entry, None, None);
        }
    }
}
