//! The fenced claim of what is locked, after which the lease is the user's (R3, R4, R5).

use super::Leases;
use super::lanes::{Lanes, ToQuarantine, outcomes, still_locked};
use super::table::{Ending, Holding, Origin, State};
use crate::belief::Belief;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::pages::Lane;
use crate::machine::{Answer, ClaimResult, Notice, Reply, StreamOrigin};
use crate::readable::counted;
use crate::{
    Announcement, ClaimOutcome, ConsumerName, EntryId, Failures, FencingToken, LeaseRef, Result,
};

impl Leases {
    pub(crate) fn claim_done(
        &mut self,
        cx: &mut Cx,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) {
        let outcomes = self.settle_claims(cx, |lanes| &mut lanes.claim, page, result);
        for (&(entry, token), outcome) in page.iter().zip(outcomes) {
            if self.items.lock_with(entry, token).is_none() {
                continue;
            }
            match outcome {
                ClaimOutcome::Claimed { from, failures } => self.claimed(cx, entry, from, failures),
                // Completed meanwhile, by whoever had it: no event (R3).
                ClaimOutcome::Gone => {
                    self.answer_claim(cx, entry, ClaimResult::Gone);
                    self.drop_item(cx, entry);
                }
                ClaimOutcome::Stale { seen } => self.claim_with_greater_token(cx, entry, seen),
                ClaimOutcome::Paused => self.put_back(cx, entry),
            }
        }
    }

    /// What a page of claims was answered with. If with nothing, it waits again.
    pub(super) fn settle_claims(
        &mut self,
        cx: &mut Cx,
        lane: impl Fn(&mut Lanes) -> &mut Lane,
        page: &[(EntryId, FencingToken)],
        result: Result<Reply>,
    ) -> Vec<ClaimOutcome> {
        // Unknown, it is tried again with the same token for as long as the lock is believed.
        let again = still_locked(&self.items, page);
        let outcomes = outcomes("claim", page.len(), result, |reply| match reply {
            Reply::Claimed(outcomes) => Some(outcomes),
            _ => None,
        });
        match lane(&mut self.lanes).settle(cx, outcomes, again) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                for &(entry, token) in page {
                    self.may_execute_late(entry, token);
                }
                cx.step_failed("claim", error);
                Vec::new()
            }
        }
    }

    /// What became of its claim is unknown.
    fn may_execute_late(&mut self, entry: EntryId, token: FencingToken) {
        if let Some(item) = self.items.get_mut(entry)
            && let State::Claiming { lock, unanswered } = &mut item.state
            && lock.token == token
        {
            *unanswered = true;
        }
    }

    /// The service is paused: the lock is given back, and the entry waits for room, as what
    /// comes in a pause does.
    fn put_back(&mut self, cx: &mut Cx, entry: EntryId) {
        cx.effect(Effect::ClaimPaused);
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Claiming { lock, unanswered } = item.state else {
            return;
        };
        let (stream, token) = (item.stream.clone(), lock.token);
        // An earlier try of it may be executed after the pause still, for an owner that is
        // none. Whoever comes next would count it as dead.
        if unanswered {
            self.owe_present(cx, entry);
        }
        if !self.may_take(cx) {
            return self.drop_item(cx, entry);
        }
        if matches!(self.items.get(entry), Some(item) if matches!(item.origin, Origin::Call(_))) {
            self.answer_claim(cx, entry, ClaimResult::Paused);
            return self.drop_item(cx, entry);
        }
        self.items.set(entry, State::Waiting { refused: 0 });
        let lease = LeaseRef {
            stream,
            entry,
            token,
        };
        // Its answer wakes the stream's lowest entry, be it this one or not.
        self.release(cx, lease, true);
        self.wake_at(cx.now + cx.settings.ttl, entry);
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
        let State::Claiming { lock, .. } = item.state else {
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
            let content = Announcement::new(item.stream.clone(), item.info.clone());
            self.answer_claim(cx, entry, ClaimResult::Gone);
            self.items
                .set(entry, State::Ending(holding, Ending::Quarantine));
            let owners = counted(failures.count, "owner", "owners");
            let mut reason = format!("{owners} failed on it");
            if let Some(last) = failures.reasons.last() {
                reason = format!("{reason}, the last: {last}");
            }
            let wanted = ToQuarantine {
                token: lock.token,
                min_failures: limit.unwrap_or(0),
                content: Some(content),
                reason,
                failures: failures.reasons,
            };
            return self.quarantine(entry, wanted);
        }
        let belief = Belief::new(lock.deadline, cx.session.belief());
        let (stream, info) = (item.stream.clone(), item.info.clone());
        let is_handed_back = item.giver.is_some() || item.origin == Origin::HandedBack;
        let from = from.filter(|from| *from != cx.consumer);
        let origin = match (failures.counted_now, is_handed_back, &from) {
            (false, true, _) => StreamOrigin::HandedBack,
            (true, ..) | (_, _, Some(_)) => StreamOrigin::TakenOver,
            (false, false, None) => StreamOrigin::Fresh,
        };
        // One death happens to everything that a process holds, and is forgotten.
        let death_counts = failures.counted_now && failures.count > 1;
        holding.belief = Some(belief.clone());
        self.answer_claim(cx, entry, ClaimResult::Claimed);
        self.items.set_origin(entry, Origin::Mine);
        self.items.set(entry, State::Held(holding));
        self.watch_progress(cx, entry);
        self.reset_failures_later(cx, entry, lock.token, &failures);
        cx.notify_queued(Notice::Added {
            entry,
            stream,
            info,
            token: lock.token,
            claimed_from: from,
            origin,
            failures: failures.count,
            death_counts,
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
            self.drop_item(cx, entry);
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

    fn answer_claim(&mut self, cx: &mut Cx, entry: EntryId, result: ClaimResult) {
        let Some(Origin::Call(call)) = self.items.get(entry).map(|item| item.origin) else {
            return;
        };
        self.items.set_origin(entry, Origin::Orphan);
        cx.answer(call, Ok(Answer::Claim(result)));
    }
}
