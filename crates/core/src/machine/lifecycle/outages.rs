//! Parts of the backend that cannot be used for a while: when to try them again, when to
//! give up, and what the user hears of it (R8).

use std::fmt;
use std::time::Duration;

use crate::machine::calls::Flight;
use crate::machine::cx::{Cx, Phase};
use crate::machine::effects::Effect;
use crate::machine::{LbsCall, Notice, Reply};
use crate::{Error, ErrorKind, Result, Timestamp};

/// What the LBS and the locks live on may be two systems: that one answers
/// says nothing about the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The LBS itself.
    Lbs,
    /// The LBS' group, missing whenever it has been made: only a fetch shows that
    /// it stands.
    Group,
    /// The lock manager.
    Locks,
}

impl Part {
    /// In the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Lbs, Self::Group, Self::Locks];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lbs => "the LBS",
            Self::Group => "the consumer group",
            Self::Locks => "the locks",
        })
    }
}

/// The calls without which nothing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vital {
    Prepare,
    Fetch,
    Open,
    Heartbeat,
}

impl Vital {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Fetch => "fetch",
            Self::Open => "open",
            Self::Heartbeat => "heartbeat",
        }
    }

    fn part(self) -> Part {
        match self {
            Self::Prepare | Self::Fetch => Part::Lbs,
            Self::Open | Self::Heartbeat => Part::Locks,
        }
    }
}

/// A part of the backend cannot be used at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    /// Attempts that have failed in a row, as the retry policy counts them.
    failed: u32,
    /// When the policy's next attempt is due; what fails before does not count.
    counts_at: Timestamp,
    /// When the next attempt is due.
    retry_at: Timestamp,
    since: Timestamp,
    /// It is one for sure, although just one attempt may have failed.
    is_sure: bool,
    /// When the user was told last.
    told: Option<Timestamp>,
}

impl Outage {
    /// No attempt counts, and the next one is due.
    fn none_yet(now: Timestamp) -> Self {
        Self {
            failed: 0,
            counts_at: now,
            retry_at: now,
            since: now,
            is_sure: false,
            told: None,
        }
    }
}

/// Between two notices of an outage that goes on.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What is known of each part of the backend.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    /// By [`Part`].
    outages: [Option<Outage>; 3],
    /// Which calls have ever worked, by [`Vital`].
    answered: [bool; 4],
    /// When a refusal was told last.
    refusal_told: Option<Timestamp>,
    /// Whether the LBS and its group stand, as far as is known.
    pub(crate) prepared: bool,
}

impl Outages {
    pub(crate) fn pump(&self, cx: &mut Cx) {
        if cx.is_draining() || !self.may_retry(cx) {
            return;
        }
        if !self.prepared && !cx.calls.awaits(|flight| matches!(flight, Flight::Prepare)) {
            cx.act(LbsCall::Prepare, Flight::Prepare);
        }
        if self.prepared && cx.session.is_closed() {
            cx.effect(Effect::OpenSession);
        }
    }

    pub(crate) fn prepare_done(&mut self, cx: &mut Cx, result: Result<()>) {
        match result {
            Ok(()) => self.prepared = true,
            Err(error) => self.failed(cx, Vital::Prepare, error),
        }
    }

    /// The retry of prepare or open; if it is due already, it is under way.
    pub(crate) fn timeout(&self, cx: &Cx) -> Timestamp {
        match cx.phase {
            Phase::Running if self.retry_at() > cx.now => self.retry_at(),
            _ => Timestamp::MAX,
        }
    }

    /// When the backend may be tried again after an outage; long past if there is none.
    pub(crate) fn retry_at(&self) -> Timestamp {
        let outages = self.outages.iter().flatten();
        let latest = outages.map(|outage| outage.retry_at).max();
        latest.unwrap_or(Timestamp::ZERO)
    }

    pub(crate) fn may_retry(&self, cx: &Cx) -> bool {
        self.retry_at() <= cx.now
    }

    /// Since when calls of this part fail, if more than one in a row has, or heartbeats for
    /// long.
    pub(crate) fn since(&self, part: Part) -> Option<Timestamp> {
        let outage = self.outages[part as usize]?;
        // One failure is no outage yet.
        (outage.failed > 1 || outage.is_sure).then_some(outage.since)
    }

    /// Whether this part can be reached, as far as its calls tell. `None` if none has been
    /// answered yet, or none is made at the moment: without a session nobody asks the LBS, and
    /// of the group only fetches tell.
    pub(crate) fn is_reachable(&self, cx: &Cx, part: Part) -> Option<bool> {
        if self.since(part).is_some() {
            return Some(false);
        }
        let is_known = match part {
            Part::Lbs => self.has_answered(Vital::Prepare) && cx.is_open(),
            Part::Group => {
                self.has_answered(Vital::Fetch) && self.is_reachable(cx, Part::Lbs) == Some(true)
            }
            Part::Locks => self.has_answered(Vital::Open),
        };
        is_known.then_some(true)
    }

    pub(crate) fn worked(&mut self, cx: &mut Cx, call: Vital) {
        self.answered[call as usize] = true;
        let mut was_out = self.reached(cx, call.part());
        if call == Vital::Fetch {
            was_out |= self.reached(cx, Part::Group);
        }
        if was_out {
            self.retry_soon(cx);
        }
    }

    /// The LBS was asked, while nothing is fetched from it. Two failures in a row are an
    /// outage; they cost nothing of the retry policy's patience, and keep nothing waiting.
    pub(crate) fn lbs_asked(&mut self, cx: &mut Cx, result: &Result<Reply>) {
        match result {
            Ok(_) => {
                if self.reached(cx, Part::Lbs) {
                    self.retry_soon(cx);
                }
            }
            Err(error) if error.is_retryable() => {
                let outage = &mut self.outages[Part::Lbs as usize];
                if outage.is_some() {
                    self.unreachable(cx, Part::Lbs, error.clone());
                } else {
                    *outage = Some(Outage::none_yet(cx.now));
                }
            }
            Err(_) => {}
        }
    }

    /// Something can be reached again: what else was out may be, too.
    pub(crate) fn retry_soon(&mut self, cx: &mut Cx) {
        let soon = cx.now + cx.deadline_jitter();
        for outage in self.outages.iter_mut().flatten() {
            outage.retry_at = outage.retry_at.min(soon);
        }
    }

    pub(crate) fn has_answered(&self, call: Vital) -> bool {
        self.answered[call as usize]
    }

    /// Whether it was out before.
    fn reached(&mut self, cx: &mut Cx, part: Part) -> bool {
        let Some(outage) = self.outages[part as usize].take() else {
            return false;
        };
        if outage.told.is_some() {
            let after = cx.now.saturating_since(outage.since);
            cx.notify(Notice::Reached { part, after });
        }
        true
    }

    /// One of the calls without which nothing goes on has failed: wait, then
    /// try again, or give up as the retry policy says (R8).
    ///
    /// A call that is refused before it has ever worked is a mistake in the setup, and
    /// the end. One that has worked will again: rights come back, a server is replaced.
    pub(crate) fn failed(&mut self, cx: &mut Cx, call: Vital, error: Error) {
        let is_missing = error.kind() == ErrorKind::NotPrepared;
        if is_missing {
            self.prepared = false;
        } else if !error.is_retryable() && !self.has_answered(call) {
            return cx.effect(Effect::Stop(Some(error)));
        }
        let refusal_told = self.tell_refusal(cx, call.name(), &error);
        let part = if is_missing { Part::Group } else { call.part() };
        let outage = self.outages[part as usize];
        // However long the policy waits, after about a TTL it is tried again: a client
        // that could not reach its server for long is to be back soon.
        let soon = cx.now + cx.rng.jittered(cx.settings.ttl);
        if let Some(outage) = &mut self.outages[part as usize] {
            if refusal_told {
                outage.told = Some(cx.now);
            }
            if outage.retry_at > cx.now {
                return;
            }
            if outage.counts_at > cx.now {
                outage.retry_at = outage.counts_at.min(soon);
                return;
            }
        }
        // A missing group is made again at once; one that is missing still counts.
        let failed = match outage {
            None if is_missing => {
                self.outages[part as usize] = Some(Outage::none_yet(cx.now));
                return;
            }
            None => 1,
            Some(outage) => outage.failed + 1,
        };
        let Some(wait) = cx.settings.retry.wait_after(failed) else {
            return cx.effect(Effect::Stop(Some(error)));
        };
        let mut told = outage.and_then(|outage| outage.told);
        if refusal_told {
            told = Some(cx.now);
        }
        // One failure is no outage yet.
        if failed > 1 && error.is_retryable() && told.is_none_or(|told| told + TELL_AGAIN <= cx.now)
        {
            told = Some(cx.now);
            cx.notify(Notice::Unreachable { part, error });
        }
        let counts_at = cx.now + cx.rng.jittered(wait);
        self.outages[part as usize] = Some(Outage {
            failed,
            counts_at,
            retry_at: counts_at.min(soon),
            since: outage.map_or(cx.now, |outage| outage.since),
            is_sure: outage.is_some_and(|outage| outage.is_sure),
            told,
        });
    }

    /// This part, of which a call has failed, has not answered for so long that it is out,
    /// whether or not another attempt has failed as the policy counts them.
    pub(crate) fn unreachable(&mut self, cx: &mut Cx, part: Part, error: Error) {
        let Some(outage) = &mut self.outages[part as usize] else {
            return;
        };
        outage.is_sure = true;
        let again = |told: Timestamp| told + TELL_AGAIN <= cx.now;
        if outage.told.is_none_or(again) && error.is_retryable() {
            outage.told = Some(cx.now);
            cx.notify(Notice::Unreachable { part, error });
        }
    }

    /// A step of `name` failed; all that matters beyond its own retry is a lost group,
    /// and that somebody hears of a refusal.
    pub(crate) fn step_failed(&mut self, cx: &mut Cx, name: &'static str, error: &Error) {
        if error.kind() == ErrorKind::NotPrepared {
            self.prepared = false;
        }
        self.tell_refusal(cx, name, error);
    }

    /// One warning names a refusal, not one for each try of each step; another while it
    /// goes on. Whether it was told now.
    fn tell_refusal(&mut self, cx: &mut Cx, call: &'static str, error: &Error) -> bool {
        let again = |told: Timestamp| told + TELL_AGAIN <= cx.now;
        if error.is_retryable() || !self.refusal_told.is_none_or(again) {
            return false;
        }
        self.refusal_told = Some(cx.now);
        let error = error.clone();
        cx.notify(Notice::Refused { call, error });
        true
    }
}
