//! The two servers: when calls are executed, and what waits there.

use std::time::Duration;

use streamlease_core::machine::{Action, ActionId, LbsCall, LocksCall, Reply};
use streamlease_core::{
    Announcement, ClaimOutcome, EntryId, Error, Hint, Info, MalformedReason, Quarantine,
    StreamName, TakeOverOutcome,
};

use super::{Event, World, trace, unavailable};
use crate::clock::{Time, ns};
use crate::simulation::checker::TICK;
use crate::simulation::link::Size;
use crate::simulation::model::Mutant;
use crate::simulation::refusals::Needs;

/// A blocking fetch that waits at the server.
pub(super) struct Waiter {
    pub(super) node: usize,
    pub(super) id: ActionId,
    max: usize,
}

impl World {
    pub(super) fn execute(&mut self, node: usize, id: ActionId, action: Action) {
        self.steps += 1;
        let n = &mut self.nodes[node];
        self.messages.requests_overtaken += u64::from(n.executed > Some(id));
        self.messages.executed_late += u64::from(!n.awaited.contains_key(&id));
        n.executed = n.executed.max(Some(id));
        let at_locks = matches!(action, Action::Locks(_));
        let down_until = if at_locks {
            self.servers.locks_down_until
        } else {
            self.servers.lbs_down_until
        };
        if down_until > self.now {
            return self.answer(node, id, Err(unavailable("the server is down")));
        }
        if self.nodes[node].demoted_until > self.now {
            return self.answer(node, id, Err(unavailable("READONLY: it was demoted")));
        }
        let refusals = &self.servers.refusals;
        if let Some(error) = refusals.refuse(at_locks, needs(&action), self.now) {
            let claims = match &action {
                Action::Lbs(LbsCall::Claim(claims))
                    if self.mutant == Some(Mutant::RefusedIsDone) =>
                {
                    claims.len()
                }
                _ => return self.answer(node, id, Err(error)),
            };
            let (from, failures) = (None, 0);
            let done = vec![
                ClaimOutcome::Claimed {
                    from,
                    failures: failures.into()
                };
                claims
            ];
            return self.answer(node, id, Ok(Reply::Claimed(done)));
        }
        if let Action::Lbs(LbsCall::Fetch { max, wait }) = action {
            let max = self.fits(node, max);
            return self.fetch(node, id, max, wait);
        }
        let failures = self.failures_before(&action);
        let mut hints = Vec::new();
        let mut result = self.call_server(node, &action, &mut hints);
        if let Ok(Reply::Listed(page)) = &mut result {
            self.nodes[node].link.shorten(self.now, page);
        }
        trace!(
            self,
            "executed for n{node} {id:?} {}: {result:?}",
            name(&action)
        );
        if let Ok(reply) = &result {
            let now = Duration::from_nanos(self.now);
            if let Reply::Quarantined(outcomes) = reply {
                let limit = self.nodes[node].settings.quarantine_after;
                self.checker.quarantined(&failures, outcomes, limit);
            }
            self.checker
                .executed(now, node, &action, reply, &self.servers.lbs);
            if matches!(action, Action::Lbs(LbsCall::RemoveConsumer(_))) {
                self.checker.check_pending(&self.servers.lbs);
            }
        }
        self.publish(hints);
        self.answer(node, id, result);
    }

    /// Of the entries that are to be quarantined.
    fn failures_before(&self, action: &Action) -> Vec<(EntryId, u32)> {
        let Action::Lbs(LbsCall::Quarantine(entries)) = action else {
            return Vec::new();
        };
        let failures = |wanted: &Quarantine| {
            let failures = self.servers.lbs.failures(wanted.entry);
            (wanted.entry, failures)
        };
        entries.iter().map(failures).collect()
    }

    pub(super) fn call_server(
        &mut self,
        node: usize,
        action: &Action,
        hints: &mut Vec<Hint>,
    ) -> streamlease_core::Result<Reply> {
        let (locks_now, lbs_now) = (
            self.servers.locks_now(self.now),
            self.servers.lbs_now(self.now),
        );
        let (lbs, locks) = (&mut self.servers.lbs, &mut self.servers.locks);
        match action {
            Action::Lbs(call) => lbs.answer(call, &self.nodes[node].name, lbs_now, hints),
            Action::Locks(call) => Ok(locks.answer(call, locks_now, hints)),
        }
    }

    /// As many entries as a fetch asks for: on a thin link mostly no more than come
    /// soon, but their length is a guess.
    fn fits(&mut self, node: usize, max: usize) -> usize {
        let n = &mut self.nodes[node];
        match n.link.piece(self.now) {
            Some(piece) if n.rng.permille(700) => max.min(piece),
            _ => max,
        }
    }

    /// By how much the reply is late because of what it carries.
    pub(super) fn carry(&mut self, node: usize, result: &streamlease_core::Result<Reply>) -> Time {
        let size = result.as_ref().map_or(Size::Items(1), size);
        let shared = self.mutant == Some(Mutant::InfosAmongHeartbeats);
        self.nodes[node].link.delay(self.now, size, shared)
    }

    pub(super) fn fetch(&mut self, node: usize, id: ActionId, max: usize, wait: Duration) {
        match self.servers.lbs.undelivered() {
            Ok(0) if !wait.is_zero() => {
                self.waiters.push(Waiter { node, id, max });
                let waits = self.servers.lbs.waits(wait);
                self.push(self.now + ns(waits), Event::WaitOver(node, id));
            }
            Ok(_) => self.deliver(node, id, max),
            Err(error) => self.answer(node, id, Err(error)),
        }
    }

    pub(super) fn deliver(&mut self, node: usize, id: ActionId, max: usize) {
        let now = self.servers.lbs_now(self.now);
        let result = self
            .servers
            .lbs
            .fetch(&self.nodes[node].name, max, now)
            .map(Reply::Fetched);
        trace!(self, "delivered to n{node} {id:?}: {result:?}");
        self.answer(node, id, result);
    }

    pub(super) fn wait_over(&mut self, node: usize, id: ActionId) {
        let waits = |w: &Waiter| w.node == node && w.id == id;
        if self.waiters.iter().any(waits) {
            self.waiters.retain(|w| !waits(w));
            self.answer(node, id, Ok(Reply::Fetched(self.servers.lbs.nothing())));
        }
    }

    /// Something was appended: who waits longest gets it, even if nobody is
    /// there any more to read the answer.
    pub(super) fn serve_waiters(&mut self) {
        while !self.waiters.is_empty() && self.servers.lbs.undelivered().is_ok_and(|n| n > 0) {
            self.steps += 1;
            let Waiter { node, id, max } = self.waiters.remove(0);
            self.deliver(node, id, max);
        }
    }

    pub(super) fn fail_waiters(&mut self, error: impl Fn() -> Error) {
        for Waiter { node, id, .. } in std::mem::take(&mut self.waiters) {
            self.answer(node, id, Err(error()));
        }
    }

    pub(super) fn submit_new(&mut self) {
        let stream = stream_name(self.streams.len());
        self.streams.push(stream.clone());
        self.append(Some(stream));
    }

    pub(super) fn append(&mut self, stream: Option<StreamName>) {
        let from = self.servers.lbs_serves_from(Needs::Announce);
        if from > self.now {
            // A producer that tries again until it is heard.
            if stream.is_some() {
                self.streams.pop();
                self.unsubmitted += 1;
                self.push(from, Event::Submit);
            }
            return;
        }
        self.steps += 1;
        let payload = match &stream {
            Some(stream) => Ok(Announcement::new(stream.clone(), Info::NONE)),
            None => Err(MalformedReason::NotJson),
        };
        let entry = self
            .servers
            .lbs
            .append(payload, self.servers.lbs_now(self.now));
        trace!(self, "{entry} announces {stream:?}");
        self.checker.submitted(entry, stream);
        self.serve_waiters();
    }

    pub(super) fn sample(&mut self) {
        let (draw, now) = (self.rng.next(), self.servers.locks_now(self.now));
        let mut hints = Vec::new();
        self.servers.locks.sample(draw, now, &mut hints);
        self.publish(hints);
        if self.keeps_history && !self.faults_over {
            self.servers.remember(self.now, self.plan.ttl);
        }
        self.check_processes();
        self.checker.check_pending(&self.servers.lbs);
        let next = self.now + ns(self.plan.ttl / 20);
        self.push(next, Event::Sample);
    }

    /// Also without an input of theirs: time passes.
    fn check_processes(&mut self) {
        let (nodes, now) = (&self.nodes, self.now);
        let local = |n: usize| nodes[n].clock.read(now);
        self.checker.check_overlaps(&local);
        // Who just woke up has not been told yet.
        let woken_by = now.saturating_sub(ns(TICK));
        for node in (0..nodes.len()).filter(|n| nodes[*n].runs && nodes[*n].paused_until < woken_by)
        {
            self.checker.check_told(node, local(node));
        }
    }
}

fn needs(action: &Action) -> Needs {
    match action {
        Action::Lbs(LbsCall::List { .. } | LbsCall::ListIds { .. })
        | Action::Locks(LocksCall::Inspect(_) | LocksCall::Members | LocksCall::Records { .. }) => {
            Needs::Read
        }
        Action::Lbs(LbsCall::Fetch { .. } | LbsCall::Complete(_) | LbsCall::RemoveConsumer(_))
        | Action::Locks(LocksCall::Release(..) | LocksCall::Close(_)) => Needs::Write,
        _ => Needs::Add,
    }
}

/// What a reply carries.
fn size(reply: &Reply) -> Size {
    match reply {
        Reply::Fetched(fetched) => Size::Entries(fetched.entries.len()),
        Reply::Listed(page) => Size::Entries(page.entries.len()),
        Reply::ListedIds(ids) => Size::Items(ids.entries.len()),
        Reply::Claimed(outcomes) => Size::Items(outcomes.len()),
        Reply::Acquired(outcomes) => Size::Items(outcomes.len()),
        Reply::Inspected(states) => Size::Items(states.len()),
        Reply::TakenOver(TakeOverOutcome::Taken { leases, .. }) => Size::Items(leases.len()),
        Reply::Records(leases) => Size::Items(leases.len()),
        _ => Size::Items(1),
    }
}

fn stream_name(nth: usize) -> StreamName {
    match StreamName::new(format!("s{nth}")) {
        Ok(name) => name,
        Err(_) => unreachable!("not empty and short"),
    }
}

fn name(action: &Action) -> String {
    let text = match action {
        Action::Lbs(call) => format!("{call:?}"),
        Action::Locks(call) => format!("{call:?}"),
    };
    text.split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}
