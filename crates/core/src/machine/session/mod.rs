//! One session after the other: open it, keep it alive, believe in it (R1, R2).

pub(crate) mod current;
pub(crate) mod heartbeat;

use std::time::Duration;

use self::heartbeat::Round;
use super::calls::Flight;
use super::cx::Cx;
use super::effects::Effect;
use super::lifecycle::outages::Vital;
use super::{Action, DisownReason, LocksCall};
use crate::{Error, LockScheme, OpenOutcome, Result, Timestamp};

/// This consumer's current session, and what the machine believes of it.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// With session leases, everything held is believed until then.
    deadline: Timestamp,
    next_heartbeat: Timestamp,
    is_sent: bool,
    round: Round,
    /// Heartbeats fail: none was answered since the first that did.
    is_silent: bool,
    /// If none is answered until then, that is an outage, and why the first one failed.
    unanswered: Option<(Timestamp, Error)>,
    /// Heartbeats in a row that said that a deadline is now, and brought no new death.
    in_vain: u32,
    pub(super) last_heartbeat: Option<LastHeartbeat>,
}

/// The last heartbeat that was answered, for measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastHeartbeat {
    /// Counts those of the session.
    number: u64,
    /// When it was answered.
    pub(crate) at: Timestamp,
    /// How much longer what it extended would have been believed without it; `None` if it
    /// extended nothing.
    pub(crate) left: Option<Duration>,
}

impl SessionState {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            deadline: Timestamp::MAX,
            next_heartbeat: now,
            is_sent: false,
            round: Round {
                began: now,
                left: Vec::new(),
            },
            is_silent: false,
            unanswered: None,
            in_vain: 0,
            last_heartbeat: None,
        }
    }

    /// Until when the session is believed, if all leases hang on it.
    pub(crate) fn deadline(&self, cx: &Cx) -> Option<Timestamp> {
        (cx.scheme == LockScheme::Session && cx.is_open()).then_some(self.deadline)
    }

    /// A heartbeat was answered, which extended what was believed until `deadline`.
    pub(crate) fn heartbeat_answered(&mut self, now: Timestamp, deadline: Option<Timestamp>) {
        let last = self.last_heartbeat.map_or(0, |last| last.number);
        self.last_heartbeat = Some(LastHeartbeat {
            number: last + 1,
            at: now,
            left: deadline.map(|at| at.saturating_since(now)),
        });
    }

    /// R1: has the belief in the session run out? (With per-stream locks each lease has
    /// a deadline of its own.)
    pub(crate) fn has_run_out(&self, cx: &Cx) -> bool {
        cx.scheme == LockScheme::Session && cx.is_open() && self.deadline <= cx.now
    }

    pub(crate) fn open(&self, cx: &mut Cx) {
        cx.session.opening();
        cx.act(
            Action::Locks(LocksCall::Open(cx.session.get())),
            Flight::Open,
        );
    }

    pub(crate) fn open_done(&mut self, cx: &mut Cx, sent: Timestamp, result: Result<OpenOutcome>) {
        match result {
            Ok(OpenOutcome::Opened) => {
                let until = cx.believed_until(sent);
                if until <= cx.now {
                    return cx.effect(Effect::AbandonSession(DisownReason::Expired));
                }
                cx.session.opened();
                // The first heartbeat tells at once who is dead and how many we are.
                self.next_heartbeat = cx.now;
                if cx.scheme == LockScheme::Session {
                    self.deadline = until;
                    cx.session.believe_until(until);
                }
            }
            Ok(OpenOutcome::SessionGone) => {
                cx.effect(Effect::AbandonSession(DisownReason::Expired));
            }
            Err(error) => {
                cx.session.open_failed();
                if !cx.is_draining() {
                    cx.effect(Effect::VitalFailed(Vital::Open, error));
                }
            }
        }
    }

    pub(crate) fn timeout(&self, cx: &Cx) -> Timestamp {
        let expiry = match cx.scheme {
            LockScheme::Session => self.deadline,
            LockScheme::PerStream => Timestamp::MAX,
        };
        let heartbeat = match self.is_sent || cx.is_leaving() {
            true => Timestamp::MAX,
            false => self.next_heartbeat,
        };
        let unanswered = self.unanswered.as_ref();
        let unanswered = unanswered.map_or(Timestamp::MAX, |(until, _)| *until);
        expiry.min(heartbeat).min(unanswered)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::machine::leases::Leases;
    use crate::machine::recovery::Recovery;
    use crate::machine::{Config, Output};
    use crate::{ConsumerName, ErrorKind, RenewOutcome, Renewal, Settings};

    const TTL: Duration = Duration::from_secs(10);

    /// A session, and what it sees of the rest of a machine: nothing is held.
    struct Harness {
        cx: Cx,
        session: SessionState,
        leases: Leases,
        recovery: Recovery,
    }

    impl Harness {
        fn new() -> Self {
            let config = Config {
                consumer: ConsumerName::from_wire("a"),
                settings: Settings {
                    ttl: TTL,
                    ..Settings::default()
                },
                scheme: LockScheme::Session,
                seed: 7,
            };
            let now = Timestamp::from_millis(1_000_000);
            Self {
                cx: Cx::new(config, now),
                session: SessionState::new(now),
                leases: Leases::new(now),
                recovery: Recovery::new(now),
            }
        }

        fn open_after(&mut self, time: Duration) {
            let sent = self.cx.now;
            self.session.open(&mut self.cx);
            self.cx.now = sent + time;
            let opened = Ok(OpenOutcome::Opened);
            self.session.open_done(&mut self.cx, sent, opened);
        }

        /// The actions that were sent since.
        fn sent(&mut self) -> Vec<Action> {
            let outputs = self.cx.outputs.drain(..);
            let action = |output| match output {
                Output::Action(_, action) => Some(action),
                _ => None,
            };
            outputs.filter_map(action).collect()
        }

        fn effects(&mut self) -> Vec<Effect> {
            self.cx.effects.drain(..).collect()
        }

        fn heartbeat(&mut self, result: Result<RenewOutcome>) {
            let sent = self.cx.now;
            let (leases, recovery) = (&self.leases, &self.recovery);
            self.session.pump_heartbeat(&mut self.cx, leases, recovery);
            let named = Arc::from([]);
            self.session.heartbeat_done(
                &mut self.cx,
                (leases, recovery),
                (sent, named, None),
                result,
            );
        }
    }

    fn extended() -> Result<RenewOutcome> {
        Ok(RenewOutcome::Extended(Renewal {
            members: 1,
            ..Renewal::default()
        }))
    }

    #[test]
    fn a_session_is_believed_from_when_its_opening_was_sent() {
        let mut harness = Harness::new();
        let sent = harness.cx.now;
        harness.open_after(TTL / 10);
        assert!(matches!(
            harness.sent()[..],
            [Action::Locks(LocksCall::Open(_))]
        ));
        assert!(harness.cx.is_open() && harness.effects().is_empty());
        let margin = harness.cx.settings.margin();
        harness.cx.now = sent + TTL - margin - Duration::from_millis(1);
        assert!(!harness.session.has_run_out(&harness.cx));
        harness.cx.now = sent + TTL - margin;
        assert!(harness.session.has_run_out(&harness.cx));
    }

    #[test]
    fn a_session_whose_opening_took_as_long_as_it_lasts_is_abandoned() {
        let mut harness = Harness::new();
        harness.open_after(TTL);
        assert!(matches!(harness.effects()[..], [Effect::AbandonSession(_)]));
        assert!(!harness.cx.is_open());
    }

    #[test]
    fn a_heartbeat_prolongs_the_belief_and_the_next_follows_a_third_of_a_ttl_later() {
        let mut harness = Harness::new();
        harness.open_after(Duration::ZERO);
        harness.cx.now = harness.cx.now + TTL / 2;
        harness.effects();
        let before = harness.session.deadline;
        harness.heartbeat(extended());
        assert_eq!(
            harness.session.deadline,
            harness.cx.believed_until(harness.cx.now)
        );
        let [Effect::Heartbeat(heartbeat)] = &harness.effects()[..] else {
            panic!("its news are for the other parts")
        };
        assert_eq!(heartbeat.deadline_before, before);
        let next = harness.cx.now + harness.cx.settings.heartbeat_interval();
        assert_eq!(harness.session.timeout(&harness.cx), next);
    }

    #[test]
    fn a_failed_heartbeat_costs_nothing_and_is_tried_again_soon() {
        let mut harness = Harness::new();
        harness.open_after(Duration::ZERO);
        let before = harness.session.deadline;
        harness.heartbeat(Err(Error::new(ErrorKind::Unavailable, "gone")));
        assert_eq!(harness.session.deadline, before);
        assert!(matches!(
            harness.effects()[..],
            [Effect::VitalFailed(Vital::Heartbeat, _)]
        ));
        assert!(harness.session.timeout(&harness.cx) <= harness.cx.now + TTL / 10);
    }

    #[test]
    fn a_session_that_is_gone_at_the_server_is_abandoned() {
        let mut harness = Harness::new();
        harness.open_after(Duration::ZERO);
        harness.heartbeat(Ok(RenewOutcome::SessionGone));
        assert!(matches!(harness.effects()[..], [Effect::AbandonSession(_)]));
    }
}
