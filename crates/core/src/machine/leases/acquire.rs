//! Locking: a page of acquires, and what their answers bring; leases that a take-over
//! brought are locked already (R3, R5, R6).

use std::time::Duration;

use super::Leases;
use super::lanes::outcomes;
use super::table::{Lock, Origin, State};
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::recovery::takeover::Orphans;
use crate::machine::{Answer, ClaimResult, DisownReason, LocksCall, Reply};
use crate::{
    Acquire, AcquireOutcome, EntryId, FencingToken, Held, Holder, Info, LeaseRef, LockScheme,
    Result, Timestamp,
};

/// How often the lock of a handed-back stream is tried, 10 ms and doubling apart,
/// until it counts as somebody else's.
const HAND_BACK_TRIES: u32 = 6;

/// Until the next try at the soonest, whatever the lock server says.
pub(crate) const SOONEST: Duration = Duration::from_millis(10);

impl Leases {
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
        cx.act(
            LocksCall::Acquire(session, requests),
            Flight::Acquire(flight),
        );
    }

    pub(crate) fn acquire_done(
        &mut self,
        cx: &mut Cx,
        orphans: &Orphans,
        sent: Timestamp,
        valid_at_most: Timestamp,
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
                AcquireOutcome::Acquired(token) => {
                    self.acquired(cx, entry, token, sent, valid_at_most)
                }
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

    /// `valid_at_most`: how long it is believed at most, unless the record shows it.
    pub(crate) fn acquired(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        token: FencingToken,
        sent: Timestamp,
        valid_at_most: Timestamp,
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
            LockScheme::Session => valid_at_most.min(self.fresh_until(cx, &lease, sent)),
        };
        let lock = Lock { token, deadline };
        let unanswered = false;
        self.items.set(entry, State::Claiming { lock, unanswered });
        if !self.may_take(cx) || deadline <= cx.now {
            return self.drop_item(cx, entry);
        }
        if deadline < Timestamp::MAX {
            self.items.expires_at(deadline, entry);
        }
        if cx.scheme == LockScheme::Session {
            self.record.limit(&lease, valid_at_most);
        } else {
            // If the answer was slow, the lock cannot wait for the next heartbeat.
            cx.effect(Effect::HeartbeatBy(sent + cx.settings.heartbeat_interval()));
        }
        if !self.late.owes(entry) {
            self.lanes.claim.queue.insert(entry);
        }
    }

    /// A lease that came with a take-over: locked already, claimed next.
    pub(crate) fn adopt(&mut self, cx: &mut Cx, lease: LeaseRef, info: Info) {
        self.no_longer_adopting(&lease);
        if self.items.active_entry(&lease.stream).is_some() {
            return self.give_back(cx, lease);
        }
        // Handed back here a moment ago, by a session that could not release it any more (R7).
        if self.is_cooling_down(cx, lease.entry) {
            return self.release(cx, lease, true);
        }
        let valid_at_most = self.record.valid_at_most(&lease);
        // It may have waited here for its former owner to end.
        self.drop_item(cx, lease.entry);
        self.items
            .insert(lease.entry, lease.stream, info, Origin::Orphan);
        let now = cx.now;
        self.acquired(cx, lease.entry, lease.token, now, valid_at_most);
    }

    /// Frees a lease that a take-over brought and that is not wanted, unless it
    /// is held already or an acquire is under way for its entry: the repeat of
    /// that acquire is answered with this very lease, which must then stand.
    /// Should it not be, the record shows one lease too many.
    pub(crate) fn give_back(&mut self, cx: &mut Cx, lease: LeaseRef) {
        self.no_longer_adopting(&lease);
        if self.items.active_entry(&lease.stream) != Some(lease.entry) {
            self.release(cx, lease, true);
        }
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

    /// Drops an item that the user never heard of, with its lock if it has one.
    pub(crate) fn drop_item(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(item) = self.items.remove(entry) else {
            return;
        };
        if let Origin::Call(call) = item.origin {
            cx.answer(call, Err(self.not_now(cx)));
        }
        self.release_lock_of(cx, entry, &item, true);
    }
}
