//! Each request, reply and hint travels on its own: it is delayed or lost by
//! its own draw, whatever became of those before it, so that any may overtake
//! any other.

use std::time::Duration;

use streamlease_core::Hint;
use streamlease_core::limits::time_limit;
use streamlease_core::machine::{Action, ActionId, LbsCall, LocksCall, Reply};

use super::client::Sent;
use super::{Event, World, trace, unavailable};
use crate::clock::{SECOND, Time, ns};
use crate::simulation::model::Mutant;
use crate::simulation::network::{Network, TRAVEL};

impl World {
    pub(super) fn send(&mut self, node: usize, id: ActionId, action: Action) {
        trace!(self, "n{node} sends {id:?} {action:?}");
        let now = self.now;
        let n = &mut self.nodes[node];
        let sent = n.clock.read(now);
        n.awaited.insert(id, Sent::of(sent, now, &action));
        // As the driver limits them.
        if matches!(action, Action::Lbs(LbsCall::Fetch { .. })) {
            self.checker.fetches(node, sent);
        }
        let n = &mut self.nodes[node];
        let limit = time_limit(&action, n.settings.ttl);
        let give_up = n.clock.when(sent + limit, now);
        let cut = n.requests_lost_until > now;
        if self.mutant == Some(Mutant::PauseHasNoEnd)
            && matches!(action, Action::Lbs(LbsCall::Paused))
            && n.knows_of_pause
        {
            return;
        }
        self.push(give_up, Event::GiveUp(node, id));
        if self.mutant == Some(Mutant::SlowUserStopsHeartbeats)
            && matches!(action, Action::Locks(LocksCall::Renew { .. }))
            && self.nodes[node].slow_until > now
        {
            return;
        }
        let connected = now.max(self.nodes[node].connects_until);
        match self.travel(node).filter(|_| !cut) {
            // Who has given up by then has nothing to send any more.
            Some(_) if connected >= give_up => {}
            Some(delay) => self.push(connected + delay, Event::Execute(node, id, action)),
            None => {
                self.messages.requests_lost += 1;
                self.break_connection(node, id, give_up);
            }
        }
    }

    /// How long a message travels; `None` if it is lost.
    fn travel(&mut self, node: usize) -> Option<Time> {
        let network = match (self.faults_over, self.storm_until > self.now) {
            (true, _) => Network::QUIET,
            (false, true) => Network::storm(self.plan.most_late()),
            (false, false) => self.plan.network(),
        };
        network.travel(&mut self.nodes[node].rng).map(ns)
    }

    /// A lost message is noticed by nobody, or at some time until then.
    fn break_connection(&mut self, node: usize, id: ActionId, give_up: Time) {
        if self.nodes[node].rng.permille(300) {
            let at = self.now
                + self.nodes[node]
                    .rng
                    .below(give_up.saturating_sub(self.now) + 1);
            let result = Err(unavailable("the connection broke"));
            self.push(at, Event::Reply(node, id, result));
        }
    }

    pub(super) fn answer(
        &mut self,
        node: usize,
        id: ActionId,
        result: streamlease_core::Result<Reply>,
    ) {
        let lost = self.nodes[node].replies_lost_until > self.now;
        let sent = self.now + self.carry(node, &result);
        match self.travel(node).filter(|_| !lost) {
            Some(delay) => self.push(sent + delay, Event::Reply(node, id, result)),
            None => {
                self.messages.replies_lost += 1;
                self.break_connection(node, id, self.now + SECOND);
            }
        }
    }

    pub(super) fn publish(&mut self, hints: Vec<Hint>) {
        if self.no_hints_until > self.now {
            return;
        }
        let bad = self.bad_hints_until > self.now;
        let most = if bad { self.plan.ttl * 2 } else { TRAVEL };
        for hint in hints {
            for node in 0..self.nodes.len() {
                let n = &mut self.nodes[node];
                let no_reply_until = n.replies_lost_until.max(n.demoted_until);
                if !n.runs || no_reply_until.max(n.connects_until) > self.now {
                    continue;
                }
                let times = if bad { n.rng.below(3) } else { 1 };
                for _ in 0..times {
                    let delay = ns(self.nodes[node].rng.between(Duration::ZERO, most));
                    self.push(self.now + delay, Event::Hint(node, hint.clone()));
                }
            }
        }
    }
}
