//! Who is dead, and who takes over what they left (R9, R11).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Recovery;
use crate::limits::{BETWEEN_SMALL_PAGES, DEADLINE_JITTER};
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::machine::leases::acquire::SOONEST;
use crate::machine::{DisownReason, LbsCall, LocksCall, PAGE, Reply};
use crate::{ConsumerName, LockScheme, Result, SessionId, TakeOverOutcome, Timestamp};

/// A consumer that is, or may be, dead; with the session that was, if it had one.
pub(crate) type SuspectKey = (ConsumerName, Option<SessionId>);

/// Passes over a suspect without a session; after those the sweep is enough.
const MOST_PASSES: u32 = 8;

/// Between two looks at what a dead one left that ended for want of room.
const FULL: Duration = Duration::from_millis(50);

/// How often the name of a dead consumer is tried to be removed.
const REMOVE_NAME_TRIES: u32 = 4;

/// Take-overs of fewer leases than this wait a little before the next.
const SMALL_PAGE: usize = 8;

/// For the heartbeat that tells of a death, and for the first page of a take-over.
pub(crate) const ASKING: Duration = Duration::from_millis(10);

/// Who has taken its share waits so long before it takes more: others may have
/// learnt of the death late, or be slow.
const OTHERS_FIRST: Duration = Duration::from_millis(40);

#[derive(Debug, Default)]
pub(crate) struct Orphans {
    suspects: BTreeMap<SuspectKey, Suspect>,
}

/// How far the take-over from a suspect has come.
#[derive(Debug)]
struct Suspect {
    stage: Stage,
    busy: bool,
    passes: u32,
    not_before: Timestamp,
    /// Leases it still has, as of the last take-over; not known before the first.
    left: u64,
    /// How many more are this consumer's share; `None` when that does not count
    /// (yet, or any more).
    share: Option<u64>,
    /// The others have been left their time.
    waited: bool,
    /// Everybody has heard of the death, and asked what is left, then.
    all_know_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its locks (session leases).
    TakeOver,
    /// Its pending list.
    List,
    /// Nothing is left: remove its traces.
    Remove,
    /// Its name in the group goes too, unless something is pending at it.
    RemoveName,
}

impl Suspect {
    fn needs_no_room(&self) -> bool {
        matches!(self.stage, Stage::Remove | Stage::RemoveName)
    }

    /// A page of `taken` leases came, and `left` are left. Decides how much more is this
    /// consumer's (`share`), and when its next page may be taken: not before
    /// `next_small_at` if pages are small, and from `others_first` on what others did not
    /// come for.
    fn page_taken(
        &mut self,
        taken: usize,
        left: u64,
        members: u64,
        (next_small_at, others_first): (Timestamp, Timestamp),
    ) {
        self.left = left;
        let is_first = self.share.is_none() && !self.waited;
        if !self.waited {
            // Whoever hears last asks last, and is to be told the same: until
            // everybody has asked, nobody takes more than the first page.
            if is_first && members > 1 {
                self.not_before = self.all_know_at;
            }
            let share = self
                .share
                .unwrap_or((left + taken as u64).div_ceil(members));
            self.share = Some(share.saturating_sub(taken as u64));
        }
        // Whoever learnt of it first has its share; the rest is the
        // others', if they come for it.
        if self.share == Some(0) && left > SMALL_PAGE as u64 && members > 1 {
            self.share = None;
            self.waited = true;
            // By then it is less; how much less is asked again.
            self.left = 0;
            self.not_before = others_first;
        }
        if left > 0 && taken < SMALL_PAGE && members > 1 && !is_first {
            self.not_before = self.not_before.max(next_small_at);
        }
    }
}

impl Orphans {
    pub(crate) fn start_over(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_dead(&self, session: &SessionId) -> bool {
        self.suspects
            .contains_key(&(session.consumer.clone(), Some(session.clone())))
    }

    #[cfg(test)]
    pub(crate) fn suspects(&self) -> usize {
        self.suspects.len()
    }

    /// Orphans are being taken right now.
    pub(crate) fn is_taking(&self) -> bool {
        let takes = |suspect: &Suspect| suspect.busy && suspect.stage != Stage::RemoveName;
        self.suspects.values().any(takes)
    }

    pub(crate) fn is_first_pass(&self, key: &SuspectKey) -> bool {
        self.suspects
            .get(key)
            .is_some_and(|suspect| suspect.passes == 0)
    }
}

impl Recovery {
    /// This consumer is dead, or its session is: take over what it left.
    pub(crate) fn suspect(
        &mut self,
        cx: &mut Cx,
        consumer: ConsumerName,
        session: Option<SessionId>,
    ) {
        let is_self = match &session {
            Some(id) => id == cx.session.id(),
            None => consumer == cx.consumer,
        };
        if is_self || cx.is_draining() {
            return;
        }
        let stage = match (cx.scheme, &session) {
            (LockScheme::Session, Some(_)) if !cx.is_manual() => Stage::TakeOver,
            _ => Stage::List,
        };
        let now = cx.now;
        let all_know_at = cx.peers.all_know_at.min(now + DEADLINE_JITTER + ASKING);
        if cx.is_manual()
            && !self
                .orphans
                .suspects
                .contains_key(&(consumer.clone(), session.clone()))
        {
            // Who lived a moment ago is not to count as alive (see `is_orphan`).
            self.members.ask_anew();
        }
        self.orphans
            .suspects
            .entry((consumer, session))
            .or_insert(Suspect {
                stage,
                busy: false,
                passes: 0,
                not_before: now,
                left: 0,
                share: None,
                waited: false,
                all_know_at,
            });
    }

    /// The dead, as a heartbeat tells of them. Who is full keeps none whom others have
    /// removed meanwhile: every heartbeat tells again of those who are not.
    pub(crate) fn told_dead(&mut self, cx: &mut Cx, leases: &Leases, dead: Vec<SessionId>) {
        if !cx.is_manual() && leases.room(cx) == 0 {
            self.orphans.suspects.retain(|(_, session), suspect| {
                suspect.busy || session.as_ref().is_none_or(|id| dead.contains(id))
            });
        }
        for session in dead {
            self.suspect(cx, session.consumer.clone(), Some(session));
        }
    }

    /// The next suspect whose pending list is to be looked at. Sends what the
    /// other stages need on the way.
    pub(crate) fn next_suspect(&mut self, cx: &mut Cx, leases: &Leases) -> Option<SuspectKey> {
        let ready: Vec<(SuspectKey, Stage, u64, Option<u64>)> = self
            .orphans
            .suspects
            .iter()
            .filter(|(_, suspect)| self.is_ready(cx, leases, suspect))
            .map(|(key, suspect)| (key.clone(), suspect.stage, suspect.left, suspect.share))
            .collect();
        for (key, stage, left, share) in ready {
            // Manual claiming takes only what is left without an entry, to release it.
            let max = match cx.is_manual() {
                true => PAGE,
                false => self.take_over_page(cx, left, share).min(leases.room(cx)),
            };
            if stage == Stage::TakeOver && max == 0 {
                continue;
            }
            if let Some(suspect) = self.orphans.suspects.get_mut(&key) {
                suspect.busy = true;
            }
            match (stage, &key.1) {
                (Stage::TakeOver, Some(dead)) => {
                    let session = cx.session.get();
                    let dead = dead.clone();
                    let places = if cx.is_manual() { 0 } else { max };
                    cx.budget.reserve(places);
                    cx.act(
                        LocksCall::TakeOver { session, dead, max },
                        Flight::TakeOver {
                            suspect: key,
                            places,
                        },
                    );
                }
                (Stage::Remove, Some(dead)) => {
                    cx.act(LocksCall::Remove(dead.clone()), Flight::Remove(key));
                }
                (Stage::RemoveName, _) => {
                    let call = LbsCall::RemoveConsumer(key.0.clone());
                    cx.act(call, Flight::RemoveName(Some(key)));
                }
                (Stage::Remove | Stage::TakeOver, None) => {
                    self.orphans.suspects.remove(&key);
                }
                (Stage::List, _) => return Some(key),
            }
        }
        None
    }

    /// R11: the first page only asks how much there is. Then everybody takes its
    /// share as fast as it can, and of what is over less and less, so that others
    /// get some, too.
    fn take_over_page(&self, cx: &Cx, left: u64, share: Option<u64>) -> usize {
        let page = share.unwrap_or(left / (2 * u64::from(cx.peers.members)));
        usize::try_from(page).unwrap_or(PAGE).clamp(1, PAGE)
    }

    /// When all are full, the dead wait here, and freed capacity serves them first.
    fn is_ready(&self, cx: &Cx, leases: &Leases, suspect: &Suspect) -> bool {
        let has_room = cx.is_manual() || leases.room(cx) > 0 || suspect.needs_no_room();
        !suspect.busy && suspect.not_before <= cx.now && has_room
    }

    pub(crate) fn suspect_timeout(&self, cx: &Cx, leases: &Leases) -> Timestamp {
        let has_room = cx.is_manual() || leases.room(cx) > 0;
        self.orphans
            .suspects
            .values()
            .filter(|suspect| !suspect.busy && (has_room || suspect.needs_no_room()))
            .map(|suspect| suspect.not_before)
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn take_over_done(
        &mut self,
        cx: &mut Cx,
        key: &SuspectKey,
        places: usize,
        (sent, valid_at_most): (Timestamp, Timestamp),
        result: Result<Reply>,
    ) {
        cx.budget.free(places);
        let retry_at = cx.now + cx.rng.jittered(cx.settings.ttl / 10);
        // Small pages leave the others time to come: they look up to 20 ms later.
        let next_small_at = cx.now + cx.rng.jittered(BETWEEN_SMALL_PAGES);
        let others_first = cx.now + OTHERS_FIRST;
        let members = u64::from(cx.peers.members);
        let manual = cx.is_manual();
        let Some(suspect) = self.orphans.suspects.get_mut(key) else {
            return;
        };
        suspect.busy = false;
        match result {
            Ok(Reply::TakenOver(TakeOverOutcome::Taken { leases, left })) => {
                suspect.page_taken(leases.len(), left, members, (next_small_at, others_first));
                if left == 0 {
                    suspect.stage = if manual { Stage::Remove } else { Stage::List };
                }
                for lease in leases {
                    cx.raise_floor(lease.token);
                    cx.effect(match manual {
                        true => Effect::GiveBack(lease),
                        false => Effect::TakenOver {
                            lease,
                            sent,
                            valid_at_most,
                        },
                    });
                }
            }
            Ok(Reply::TakenOver(TakeOverOutcome::Alive { .. })) => {
                self.orphans.suspects.remove(key);
            }
            Ok(Reply::TakenOver(TakeOverOutcome::SessionGone)) => {
                cx.effect(Effect::AbandonSession(DisownReason::Expired));
            }
            Ok(Reply::TakenOver(TakeOverOutcome::NotYet { retry_in })) => {
                suspect.not_before = cx.now + retry_in.max(SOONEST);
                cx.effect(Effect::LocksRestarted);
            }
            // Unknown: what was taken is found by its record (see `reconcile`).
            result => {
                suspect.not_before = retry_at;
                cx.step_done("take_over", result);
            }
        }
    }

    /// A look at everything pending at the suspect has ended; `unresolved`
    /// entries are not known to have a live owner yet.
    pub(crate) fn suspect_pass_done(
        &mut self,
        cx: &mut Cx,
        leases: &Leases,
        key: &SuspectKey,
        unresolved: usize,
    ) {
        // What there was no room for is gone for as soon as there is some, see
        // `is_ready`; many places that are freed one by one cost few looks.
        let is_full = !cx.is_manual() && leases.room(cx) == 0;
        let wait = match cx.is_manual() {
            true => cx.settings.sweep_interval(),
            false if is_full => cx.rng.jittered(FULL),
            false => cx.rng.jittered(cx.settings.ttl / 4),
        };
        let Some(suspect) = self.orphans.suspects.get_mut(key) else {
            return;
        };
        suspect.busy = false;
        suspect.passes += 1;
        if unresolved == 0 {
            suspect.stage = Stage::Remove;
        } else if key.1.is_none() && suspect.passes >= MOST_PASSES && !is_full {
            self.orphans.suspects.remove(key);
        } else {
            suspect.not_before = cx.now + wait;
        }
    }

    pub(crate) fn remove_done(&mut self, cx: &mut Cx, key: &SuspectKey, result: Result<Reply>) {
        let retry_at = cx.now + cx.rng.jittered(cx.settings.ttl / 4);
        let Some(suspect) = self.orphans.suspects.get_mut(key) else {
            return;
        };
        suspect.busy = false;
        match result {
            Ok(Reply::Removed(true)) => {
                if key.0 == cx.consumer {
                    self.orphans.suspects.remove(key);
                } else {
                    suspect.stage = Stage::RemoveName;
                    suspect.passes = 0;
                }
            }
            // It still holds locks of entries that are gone.
            Ok(Reply::Removed(false)) if cx.scheme == LockScheme::Session => {
                suspect.stage = Stage::TakeOver;
                suspect.not_before = retry_at;
            }
            // It lives: the lock server's clock was set back. What is held by it
            // is not to be waited for any more; if it dies again, heartbeats tell.
            Ok(Reply::Removed(false)) => {
                self.orphans.suspects.remove(key);
            }
            result => {
                suspect.not_before = retry_at;
                cx.step_done("remove", result);
            }
        }
    }

    /// It is tried a few times: a name that stays costs little, and nothing but the
    /// next shutdown, or death, under it would remove it.
    pub(crate) fn name_removed(&mut self, cx: &mut Cx, key: &SuspectKey, result: Result<Reply>) {
        let retry_at = cx.now + cx.rng.jittered(cx.settings.ttl / 4);
        let Some(suspect) = self.orphans.suspects.get_mut(key) else {
            return;
        };
        suspect.busy = false;
        suspect.passes += 1;
        suspect.not_before = retry_at;
        if result.is_ok() || suspect.passes >= REMOVE_NAME_TRIES {
            self.orphans.suspects.remove(key);
        }
        cx.step_done("remove_consumer", result);
    }
}
