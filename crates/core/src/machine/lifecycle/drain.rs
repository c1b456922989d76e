//! Shutting down (R7): hand everything back, close the session, remove the name.

use crate::machine::calls::Flight;
use crate::machine::cx::{Cx, Leaving, Phase};
use crate::machine::effects::Effect;
use crate::machine::leases::Leases;
use crate::machine::{
    Answer, Backoff, CallId, Command, Completion, HandBack, LbsCall, LocksCall, Reply,
};
use crate::{Result, Timestamp};

use super::closed;

/// How often each of the last two steps is tried.
const LEAVING_TRIES: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Drain {
    shutdown_calls: Vec<CallId>,
    /// Between the tries of the last steps.
    leaving: Backoff,
}

impl Drain {
    /// Whether the shutdown begins with this call.
    pub(crate) fn begin(&mut self, cx: &mut Cx, call: Option<CallId>) -> bool {
        self.shutdown_calls.extend(call);
        if cx.is_draining() {
            return false;
        }
        cx.phase = Phase::Draining {
            until: cx.now + cx.settings.ttl,
            step: Leaving::HandingBack,
        };
        true
    }

    /// Without a session nothing is held, and past the bound TTLs do the rest. A session
    /// that is being opened is closed again, so that nobody waits for its end.
    pub(crate) fn pump_bound(&self, cx: &mut Cx) {
        if let Phase::Draining { until, .. } = cx.phase
            && (until <= cx.now || cx.session.is_closed())
        {
            cx.effect(Effect::Stop(None));
        }
    }

    /// Once nothing is held any more, the session is closed (which tells the
    /// others), then the name removed if nothing is pending at it.
    pub(crate) fn pump(&mut self, cx: &mut Cx, leases: &Leases) {
        let Phase::Draining { until, step } = cx.phase else {
            return;
        };
        match step {
            Leaving::HandingBack if leases.are_drained() => {
                let step = Leaving::Closing;
                cx.phase = Phase::Draining { until, step };
                self.send(cx, step);
            }
            Leaving::HandingBack => {}
            _ if self.leaving.is_ready(cx.now) && !is_sent(cx) => self.send(cx, step),
            _ => {}
        }
    }

    fn send(&self, cx: &mut Cx, step: Leaving) {
        match step {
            Leaving::HandingBack => {}
            Leaving::Closing => {
                let session = cx.session.id().clone();
                cx.act(LocksCall::Close(session), Flight::Close);
            }
            Leaving::RemovingName => {
                let consumer = cx.consumer.clone();
                cx.act(LbsCall::RemoveConsumer(consumer), Flight::RemoveName(None));
            }
        }
    }

    pub(crate) fn close_done(&mut self, cx: &mut Cx, result: &Result<Reply>) {
        if self.is_tried_again(cx, result) {
            return;
        }
        self.leaving = Backoff::default();
        if let Phase::Draining { until, .. } = cx.phase {
            let step = Leaving::RemovingName;
            cx.phase = Phase::Draining { until, step };
            self.send(cx, step);
        }
    }

    pub(crate) fn own_name_removed(&mut self, cx: &mut Cx, result: &Result<Reply>) {
        if !self.is_tried_again(cx, result) {
            cx.effect(Effect::Stop(None));
        }
    }

    /// A few times, and not past the bound of the shutdown: then TTLs do the rest.
    fn is_tried_again(&mut self, cx: &mut Cx, result: &Result<Reply>) -> bool {
        if result.is_ok() {
            return false;
        }
        self.leaving.fail(cx.now, cx.settings.ttl, &mut cx.rng);
        self.leaving.failures < LEAVING_TRIES
    }

    /// The end: whoever asked for it hears of it.
    pub(crate) fn stopped(&mut self, cx: &mut Cx) {
        for call in std::mem::take(&mut self.shutdown_calls) {
            cx.answer(call, Ok(Answer::Stopped));
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx) -> Timestamp {
        match cx.phase {
            Phase::Draining { until, step } => match step {
                Leaving::HandingBack => until,
                _ if is_sent(cx) => until,
                _ => until.min(self.leaving.not_before),
            },
            Phase::Running | Phase::Stopped => Timestamp::MAX,
        }
    }

    /// After the end: nobody waits for ever.
    pub(crate) fn answer_late(&self, cx: &mut Cx, command: Command) {
        match command {
            Command::Complete { call, .. } | Command::CompleteStream { call, .. } => {
                cx.answer(call, Ok(Answer::Completion(Completion::NotOwner)));
            }
            Command::HandBack {
                call: Some(call), ..
            } => cx.answer(call, Ok(Answer::HandBack(HandBack::NotOwner))),
            Command::Shutdown { call: Some(call) } => cx.answer(call, Ok(Answer::Stopped)),
            Command::Claim { call, .. } => cx.answer(call, Err(closed())),
            Command::HandBack { call: None, .. }
            | Command::Shutdown { call: None }
            | Command::SetProgressTimeout { .. }
            | Command::SetCapacity(_) => {}
        }
    }
}

fn is_sent(cx: &Cx) -> bool {
    cx.calls
        .awaits(|flight| matches!(flight, Flight::Close | Flight::RemoveName(None)))
}
