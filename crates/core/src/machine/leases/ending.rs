//! The one end of a lease (R12): as its user wished, or against their will. Its item goes,
//! the user hears of it, and whoever waited for it is answered.

use super::Leases;
use super::failure_reset::FailureReset;
use super::lanes::Lanes;
use super::table::{Ending, Holding, Item, Origin, State};
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::lifecycle::closed;
use crate::machine::pages::Lane;
use crate::machine::{Answer, Completion, DisownReason, End, HandBack, Notice};
use crate::{EntryId, Error, ErrorKind, LeaseRef};

impl Leases {
    pub(super) fn set_ending(&mut self, entry: EntryId, ending: Ending) {
        // `Waiting` is a stand-in for the blink in which the holding moves over.
        if let Some(item) = self.items.get_mut(entry) {
            let state = std::mem::replace(&mut item.state, State::Waiting { refused: 0 });
            item.state = match state {
                State::Held(holding) | State::Ending(holding, _) => State::Ending(holding, ending),
                other => other,
            };
        }
    }

    /// Whether users are to hear that what they asked for is refused: after a TTL of
    /// nothing else. Rights that are gone for a moment, or a server that is being
    /// replaced, are waited for like any outage. Whoever ends waits for nothing.
    pub(super) fn is_final(
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

    /// What was to end a lease was refused for good: it goes on.
    pub(super) fn keep(&mut self, cx: &mut Cx, entry: EntryId, error: &Error) {
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
        self.watch_progress(cx, entry);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            cx.answer(call, Err(error.clone()));
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
                self.drop_item(cx, entry);
            }
            _ => {}
        }
    }

    /// The one end of a lease (R12): the item goes, the user hears of it, the lock is released.
    pub(crate) fn end(&mut self, cx: &mut Cx, entry: EntryId, end: End, completion: Completion) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        let handed_back = matches!(
            end,
            End::HandedBack | End::Failed(_) | End::Disowned(DisownReason::Revoked)
        );
        self.release_lock_of(cx, entry, &item, handed_back);
        let handing_back = matches!(item.state, State::Ending(_, Ending::HandBack { .. }));
        // Who came after has counted this owner as dead.
        if end == End::Disowned(DisownReason::Superseded) && !handing_back {
            self.owe_one(cx, entry, &item);
        }
        let answer = match handing_back {
            true => Answer::HandBack((&end).into()),
            false => Answer::Completion(completion),
        };
        self.tell_end(cx, entry, item, end);
        for call in self.end_calls.remove(&entry).unwrap_or_default() {
            cx.answer(call, Ok(answer.clone()));
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
    pub(crate) fn lose_and_release(&mut self, cx: &mut Cx, entry: EntryId, reason: DisownReason) {
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
    pub(crate) fn lose_all(&mut self, cx: &mut Cx, reason: DisownReason) {
        for (entry, item) in std::mem::take(&mut self.items).into_items() {
            self.tell_lost(cx, entry, item, reason);
        }
        self.lanes = Lanes::default();
        self.end_calls.clear();
        self.wakes.clear();
        self.progress_due.clear();
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
        self.progress_due.cancel(&entry);
        let Some(belief) = holding.belief else { return };
        belief.end();
        let held = cx.now.saturating_since(holding.since);
        let (stream, info, token) = (item.stream, item.info, holding.lock.token);
        if matches!(end, End::Disowned(_)) {
            cx.budget.queued();
        }
        cx.notify(Notice::Ended {
            entry,
            stream,
            info,
            token,
            end,
            held,
        });
    }
}

/// How a lease ends whose entry is not on the LBS any more. It was believed all along,
/// so if a completion of it was tried, that was what removed it (R4).
pub(super) fn gone(holding: &Holding) -> End {
    match holding.may_be_completed {
        true => End::Completed,
        false => End::Disowned(DisownReason::EntryGone),
    }
}
