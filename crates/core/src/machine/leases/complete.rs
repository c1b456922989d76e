//! Completing: the one way off the LBS that its owner wishes (R4, R7).

use super::Leases;
use super::ending::gone;
use super::lanes::{GATHER, outcomes, still_locked};
use super::table::{Ending, State};
use crate::machine::cx::Cx;
use crate::machine::{Answer, CallId, Completion, DisownReason, End, Reply};
use crate::{CompleteOutcome, EntryId, Error, FencingToken, Result};

impl Leases {
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
}
