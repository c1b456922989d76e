//! The two servers, and what can happen to them: each has a clock of its own,
//! can be away, and can be again as it was some time ago.

use std::collections::VecDeque;
use std::time::Duration;

use streamlease_core::LockScheme;

use super::fault::Key;
use super::model::Mutant;
use super::model::lbs::Lbs;
use super::model::locks::Locks;
use super::refusals::{Needs, Refusals};
use crate::clock::{Time, ns};

/// Milliseconds since the Unix epoch at the start of a run.
const EPOCH_MS: i64 = 1_700_000_000_000;

pub(super) struct Servers {
    pub(super) lbs: Lbs,
    pub(super) locks: Locks,
    pub(super) lbs_down_until: Time,
    pub(super) locks_down_until: Time,
    pub(super) refusals: Refusals,
    lbs_clock_ms: i64,
    locks_clock_ms: i64,
    /// Earlier states of both.
    history: VecDeque<(Time, Locks, Lbs)>,
}

impl Servers {
    pub(super) fn new(scheme: LockScheme, mutant: Option<Mutant>) -> Self {
        Self {
            lbs: Lbs::new(mutant),
            locks: Locks::new(scheme, mutant),
            lbs_down_until: 0,
            locks_down_until: 0,
            refusals: Refusals::default(),
            lbs_clock_ms: EPOCH_MS,
            locks_clock_ms: EPOCH_MS,
            history: VecDeque::new(),
        }
    }

    /// From when on the LBS is there and does such calls; past if it does.
    pub(super) fn lbs_serves_from(&self, needs: Needs) -> Time {
        self.lbs_down_until.max(self.refusals.lbs_until(needs))
    }

    pub(super) fn locks_serve_from(&self, needs: Needs) -> Time {
        self.locks_down_until.max(self.refusals.locks_until(needs))
    }

    /// Everything that was refused is done again, and both are there.
    pub(super) fn heal(&mut self) {
        self.lbs_down_until = 0;
        self.locks_down_until = 0;
        self.refusals = Refusals::default();
    }

    /// What the LBS server's clock shows, in milliseconds.
    pub(super) fn lbs_now(&self, now: Time) -> u64 {
        (self.lbs_clock_ms + (now / 1_000_000) as i64).max(1) as u64
    }

    /// What the lock server's clock shows, in milliseconds.
    pub(super) fn locks_now(&self, now: Time) -> u64 {
        (self.locks_clock_ms + (now / 1_000_000) as i64).max(1) as u64
    }

    pub(super) fn step_lbs_clock(&mut self, by_ms: i64) {
        self.lbs_clock_ms += by_ms;
    }

    pub(super) fn step_locks_clock(&mut self, by_ms: i64) {
        self.locks_clock_ms += by_ms;
    }

    /// Keeps the states of now, and those of the last `length`.
    pub(super) fn remember(&mut self, now: Time, length: Duration) {
        let state = (now, self.locks.clone(), self.lbs.clone());
        self.history.push_back(state);
        let horizon = now.saturating_sub(ns(length));
        while self.history.front().is_some_and(|(at, ..)| *at < horizon) {
            self.history.pop_front();
        }
    }

    /// The lock server restarts, is away for `down`, and lost what was written
    /// in the last `lost`; whether there was anything to lose.
    pub(super) fn restart_locks(
        &mut self,
        now: Time,
        lost: Duration,
        down: Duration,
        longest_ttl: Duration,
    ) -> bool {
        self.locks_down_until = now + ns(down);
        let before = self.state_before(now, lost);
        let before = before.map(|(_, locks, _)| locks.clone());
        let loses = before.is_some();
        if let Some(locks) = before {
            self.locks = locks;
        }
        // The grace begins when the server is back.
        let back_at = self.locks_now(now) + down.as_millis() as u64;
        self.locks.restarted(back_at, longest_ttl);
        loses
    }

    /// The LBS is as it was so long ago, if that is known.
    pub(super) fn restore_lbs(&mut self, now: Time, lost: Duration) -> bool {
        let before = self.state_before(now, lost);
        let before = before.map(|(_, _, lbs)| lbs.clone());
        let known = before.is_some();
        if let Some(before) = before {
            let lbs = std::mem::replace(&mut self.lbs, before);
            self.lbs.estimate = lbs.estimate;
            self.lbs.waits_permille = lbs.waits_permille;
        }
        known
    }

    /// A key vanishes; whether it was there.
    pub(super) fn key_gone(
        &mut self,
        key: Key,
        nth: u64,
        now: Time,
        longest_ttl: Duration,
    ) -> bool {
        match key {
            Key::Tokens => self.lbs.lose_fences(),
            Key::Token => self.lbs.lose_fence(nth),
            _ => {
                let at = self.locks_now(now);
                self.locks.lose(key, nth, at, longest_ttl)
            }
        }
    }

    fn state_before(&self, now: Time, lost: Duration) -> Option<&(Time, Locks, Lbs)> {
        if lost.is_zero() {
            return None;
        }
        let from = now.saturating_sub(ns(lost));
        self.history.iter().find(|(at, ..)| *at >= from)
    }
}

/// Why a run in which that key vanished is not durable; `None`: nothing hangs on it.
pub(super) fn lossy_by(key: Key) -> Option<&'static str> {
    match key {
        Key::Turn | Key::Refused | Key::Marks | Key::Buried => None,
        Key::Tokens | Key::Token => Some(LOST_FENCES),
        _ => Some(LOST_WRITES),
    }
}

/// The lock server has forgotten something that was written.
pub(super) const LOST_WRITES: &str = "locks lost writes";

/// The LBS has forgotten which tokens it has seen.
pub(super) const LOST_FENCES: &str = "fencing records gone";
