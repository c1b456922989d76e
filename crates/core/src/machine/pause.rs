//! Whether the service is paused, as far as is known here, and when that is asked.
//!
//! The gate is the claim: while the service is paused the transport refuses every claim that
//! would make a new owner. What is known here only keeps this consumer from trying in vain,
//! and has it go on once the pause is over. So it may be wrong for a while. It is asked at the
//! start, when a hint or a refused claim tells of a change, and in a pause every third of a
//! TTL: a lost hint costs no more than that. Without a pause nothing is asked.

use super::calls::Flight;
use super::cx::Cx;
use super::effects::Effect;
use super::lifecycle::outages::Outages;
use super::{Backoff, LbsCall, Notice, Reply};
use crate::{Pause, Result, Timestamp};

#[derive(Debug)]
pub(crate) struct Pauses {
    asking: bool,
    /// Something told of a change since that was asked: the answer may be older.
    outdated: bool,
    due: Timestamp,
    backoff: Backoff,
    /// The user has heard of the pause.
    told: bool,
    /// How often in a row a claim was refused, and the answer then was that there is no pause.
    contradictions: u32,
    refused: bool,
}

impl Pauses {
    /// Asked at once, beside the call that prepares: the answer is mostly there before the
    /// first fetch, and none waits for it.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            asking: false,
            outdated: false,
            due: now,
            backoff: Backoff::default(),
            told: false,
            contradictions: 0,
            refused: false,
        }
    }

    pub(crate) fn pump(&mut self, cx: &mut Cx, outages: &Outages) {
        let is_due = self.due <= cx.now && self.backoff.is_ready(cx.now);
        if self.asking || !is_due || cx.is_draining() || !outages.may_retry(cx) {
            return;
        }
        self.asking = true;
        self.outdated = false;
        self.due = Timestamp::MAX;
        cx.act(LbsCall::Paused, Flight::Paused);
    }

    /// There may have been a change.
    pub(crate) fn ask(&mut self, cx: &Cx) {
        self.outdated = true;
        self.due = cx.now;
    }

    /// A claim was refused. That it was may be older than the end of the pause.
    pub(crate) fn refused(&mut self, cx: &mut Cx) {
        set(cx, true);
        self.refused = true;
        self.ask(cx);
    }

    pub(crate) fn answered(&mut self, cx: &mut Cx, result: Result<Reply>) {
        self.asking = false;
        match result {
            Ok(Reply::Paused(pause)) => {
                self.backoff.succeed();
                if !self.outdated {
                    self.slow_down(cx, pause.is_some());
                    self.learn(cx, pause);
                }
            }
            result => {
                self.backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
                self.due = cx.now;
                cx.step_done("paused", result);
            }
        }
    }

    /// Once in a row is a pause that has just ended. A transport that refuses claims for a pause
    /// that it does not tell of is asked ever less often.
    fn slow_down(&mut self, cx: &mut Cx, is_paused: bool) {
        let is_contradiction = std::mem::take(&mut self.refused) && !is_paused;
        self.contradictions = match is_contradiction {
            true => self.contradictions.saturating_add(1),
            false => 0,
        };
        for _ in 1..self.contradictions.min(10) {
            self.backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
        }
    }

    fn learn(&mut self, cx: &mut Cx, pause: Option<Pause>) {
        let is_news = self.told != pause.is_some();
        self.told = pause.is_some();
        set(cx, pause.is_some());
        match pause {
            Some(pause) => {
                let interval = cx.settings.heartbeat_interval();
                // Not all at the same moment, although they have learnt of it at one.
                self.due = cx.now + interval - cx.rng.up_to(interval / 8);
                if is_news {
                    cx.notify(Notice::Paused(pause));
                }
            }
            None if is_news => cx.notify(Notice::Resumed),
            None => {}
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx, outages: &Outages) -> Timestamp {
        if self.asking || cx.is_draining() {
            return Timestamp::MAX;
        }
        let due = self.due.max(self.backoff.not_before);
        let due = due.max(outages.retry_at());
        // What is due already has been sent.
        if due > cx.now { due } else { Timestamp::MAX }
    }
}

fn set(cx: &mut Cx, is_paused: bool) {
    match (std::mem::replace(&mut cx.is_paused, is_paused), is_paused) {
        (false, true) => cx.effect(Effect::Paused),
        (true, false) => cx.effect(Effect::Resumed),
        _ => {}
    }
}
