//! What a client's user does with events and leases.

use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::{Belief, CallId, Command, Input};
use streamlease_core::{EntryId, Error, ErrorKind, FencingToken, Info, StreamName};

use super::{Event, World, trace};
use crate::clock::ns;
use crate::simulation::model::Mutant;

/// An event that the user has not taken.
pub(super) enum Waiting {
    Added(EntryId, FencingToken, StreamName, Arc<Belief>),
    Expired(EntryId, StreamName, Info),
    Other,
}

impl World {
    pub(super) fn user_acts(&mut self, node: usize, event: Event) {
        match event {
            Event::Take(_) => self.take_event(node),
            Event::Progress(_, entry, token, belief) => {
                self.progress(node, entry, token, belief);
            }
            Event::Work(_, entry, token, stream) => self.finish_work(node, entry, token, stream),
            Event::Claim(_, entry, stream, info) => self.claim(node, entry, stream, info),
            _ => {}
        }
    }

    pub(super) fn take_soon(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if n.taking || n.events.is_empty() {
            return;
        }
        n.taking = true;
        let at = self.now + ns(n.rng.between(Duration::ZERO, Duration::from_millis(3)));
        let at = at.max(n.slow_until);
        self.push(at, Event::Take(node));
    }

    fn take_event(&mut self, node: usize) {
        self.nodes[node].taking = false;
        if self.nodes[node].slow_until > self.now {
            return self.take_soon(node);
        }
        let Some(event) = self.nodes[node].events.pop_front() else {
            return;
        };
        match event {
            Waiting::Added(entry, token, stream, belief) => {
                self.checker.took(node);
                self.begin_work(node, entry, token, stream, belief);
            }
            Waiting::Expired(entry, stream, info) => {
                self.checker.took(node);
                if self.faults_over || self.nodes[node].rng.permille(800) {
                    let most = Duration::from_millis(20);
                    let at = self.now + ns(self.nodes[node].rng.between(Duration::ZERO, most));
                    self.push(at, Event::Claim(node, entry, stream, info));
                }
            }
            Waiting::Other => {}
        }
        let taken = match self.mutant {
            Some(Mutant::TakenTwice) => 2,
            _ => 1,
        };
        self.feed(node, Some(Input::EventsTaken(taken)));
        self.take_soon(node);
    }

    fn begin_work(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        stream: StreamName,
        belief: Arc<Belief>,
    ) {
        let ttl = self.plan.ttl;
        let n = &mut self.nodes[node];
        let most = if self.faults_over { ttl / 2 } else { ttl * 3 };
        let work = ns(n.rng.between(Duration::ZERO, most));
        let write = (n.rng.permille(500)).then(|| ns(n.rng.between(Duration::ZERO, ttl)));
        // Some leases get a limit of their own.
        let limit = (n.rng.permille(60)).then(|| n.rng.between(ttl / 4, ttl * 2));
        let reports = n.settings.progress_timeout.or(limit);
        if let Some(write) = write {
            let write_at = self.now + write;
            self.push(write_at, Event::Write(node, stream.clone(), token));
        }
        if !self.endless {
            self.push(self.now + work, Event::Work(node, entry, token, stream));
        }
        // Taking it up is its handler's first progress, as with `Events`.
        let local = self.nodes[node].clock.read(self.now);
        belief.report_progress(local);
        self.checker.progress(node, entry, token, local);
        if let Some(limit) = limit {
            self.checker
                .sets_progress_timeout(node, entry, token, limit);
            let command = Command::SetProgressTimeout {
                entry,
                token,
                limit: Some(limit),
            };
            self.feed(node, Some(Input::Command(command)));
        }
        if reports.is_some() {
            self.progress(node, entry, token, belief);
        }
    }

    /// Its handler says that it goes on, often enough; unless it hangs.
    fn progress(&mut self, node: usize, entry: EntryId, token: FencingToken, belief: Arc<Belief>) {
        let Some(limit) = self.checker.progress_timeout_of(node, entry, token) else {
            return;
        };
        let n = &self.nodes[node];
        let (hangs, local) = (n.hang_until > self.now, n.clock.read(self.now));
        if !hangs || self.mutant == Some(Mutant::HangingIsProgress) {
            belief.report_progress(local);
        }
        if !hangs {
            self.checker.progress(node, entry, token, local);
        }
        let next = self.now + ns(limit / 3);
        self.push(next, Event::Progress(node, entry, token, belief));
    }

    fn finish_work(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        stream: StreamName,
    ) {
        let hang_until = self.nodes[node].hang_until;
        if hang_until > self.now {
            return self.push(hang_until, Event::Work(node, entry, token, stream));
        }
        let draw = self.nodes[node].rng.below(20);
        let call = self.call(node);
        let asked = (entry, token, stream.clone());
        self.nodes[node].asked.insert(call, asked);
        self.checker.asked_to_end(node, entry, token);
        let command = match draw {
            0 | 1 if !self.faults_over => Command::HandBack {
                entry,
                token,
                failed: (draw == 0).then(|| "drawn".to_owned()),
                call: Some(call),
            },
            2 => {
                self.checker.asked_complete_stream(node, &stream);
                Command::CompleteStream { stream, call }
            }
            _ => {
                self.checker.asked_to_complete(node, entry, token);
                Command::Complete { entry, token, call }
            }
        };
        trace!(self, "n{node}'s user asks {command:?}");
        self.feed(node, Some(Input::Command(command)));
    }

    /// Who is refused what it asks for has its lease still, and asks again.
    pub(super) fn answered(&mut self, node: usize, call: CallId, error: Option<Error>) {
        let Some((entry, token, stream)) = self.nodes[node].asked.remove(&call) else {
            return;
        };
        if error.is_some_and(|error| error.kind() == ErrorKind::Denied) {
            let at = self.now + ns(self.plan.ttl / 2);
            self.push(at, Event::Work(node, entry, token, stream));
        }
    }

    fn claim(&mut self, node: usize, entry: EntryId, stream: StreamName, info: Info) {
        let call = self.call(node);
        self.checker.claimed_by_hand(node, entry);
        let command = Command::Claim {
            entry,
            stream,
            info,
            call,
        };
        self.feed(node, Some(Input::Command(command)));
    }
}
