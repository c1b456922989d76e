//! How each fault is injected.

use std::time::Duration;

use streamlease_core::{Error, ErrorKind, Hint, Timestamp};

use super::{Event, World, trace, unavailable};
use crate::clock::ns;
use crate::simulation::fault::{Amid, Fault, Key, Refused};
use crate::simulation::model::Mutant;
use crate::simulation::plan::STATED_DRIFT;
use crate::simulation::refusals::Needs;
use crate::simulation::servers::{LOST_WRITES, lossy_by};

impl World {
    pub(super) fn fault(&mut self, nth: usize) {
        if self.faults_over {
            return;
        }
        let fault = self.plan.faults[nth].1;
        if !self.inject_counted(&format!("FAULT {nth}"), fault) {
            // Nothing was there for it yet.
            self.push(self.now + ns(self.plan.ttl / 4), Event::Fault(nth));
        }
    }

    /// Returns whether there was anything for it.
    pub(super) fn inject_counted(&mut self, label: &str, fault: Fault) -> bool {
        trace!(self, "{label} {fault:?}");
        self.steps += 1;
        let injected = self.inject(fault);
        if injected {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
        injected
    }

    pub(super) fn injected(&self) -> usize {
        self.faults.values().sum::<u64>() as usize
    }

    fn inject(&mut self, fault: Fault) -> bool {
        match fault.process() {
            Some(draw) => match self.pick(draw, fault) {
                Some(node) => self.inject_process(node, fault),
                None => return false,
            },
            None => return self.inject_the_rest(fault),
        }
        true
    }

    /// One of those that run, also if it is about to stop; among them, one to
    /// which the fault makes a difference.
    fn pick(&self, draw: u64, fault: Fault) -> Option<usize> {
        let fits = |node: &usize| {
            let n = &self.nodes[*node];
            match fault {
                Fault::Shutdown { .. } => !n.leaving,
                Fault::HangingHandlers { .. } => {
                    n.settings.progress_timeout.is_some() && self.checker.views(*node) > 0
                }
                _ => true,
            }
        };
        let fitting: Vec<_> = self.alive().filter(fits).collect();
        let nth = draw.checked_rem(fitting.len() as u64)?;
        fitting.get(nth as usize).copied()
    }

    fn inject_process(&mut self, node: usize, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Crash {
                same_name, after, ..
            } => {
                let name = match same_name {
                    true => self.nodes[node].name.clone(),
                    false => self.new_name(),
                };
                self.crash(node);
                self.push(now + ns(after), Event::Start(name));
            }
            Fault::Pause { length, .. } => self.pause(node, length),
            Fault::Suspend { length, .. } => self.suspend(node, length),
            Fault::Shutdown {
                amid,
                length,
                after,
                ..
            } => {
                match amid {
                    None => {}
                    Some(Amid::Pause) => self.pause(node, length),
                    Some(Amid::Suspend) => self.suspend(node, length),
                    Some(Amid::Partition) => self.partition(node, true, true, length),
                }
                self.shut_down(node);
                let name = self.nodes[node].name.clone();
                self.push(now + ns(after), Event::Start(name));
            }
            Fault::Twin { .. } => self.push(now, Event::Start(self.nodes[node].name.clone())),
            Fault::Partition {
                requests,
                replies,
                length,
                ..
            } => self.partition(node, requests, replies, length),
            Fault::Drift { rate, .. } => {
                if rate.abs_diff(1_000_000) > STATED_DRIFT {
                    self.checker.lossy.insert("clock drift");
                }
                self.nodes[node].clock.set_rate(now, rate);
                if self.nodes[node].paused_until <= now {
                    // Its timers are set for the old rate.
                    self.nodes[node].wake_at = Timestamp::ZERO;
                    self.feed(node, None);
                }
            }
            Fault::Capacity { streams, .. } => self.push(now, Event::SetCapacity(node, streams)),
            Fault::HangingHandlers { length, .. } => {
                self.nodes[node].hang_until = now + ns(length);
            }
            Fault::SlowUser { length, .. } => self.nodes[node].slow_until = now + ns(length),
            Fault::Demoted { length, .. } => self.nodes[node].demoted_until = now + ns(length),
            Fault::SlowConnect { length, .. } => {
                self.nodes[node].connects_until = now + ns(length);
                self.drop_connection(node, None);
            }
            Fault::ThinLink { each, length, .. } => {
                self.nodes[node].link.narrow(now, each, length);
            }
            _ => {}
        }
    }

    fn inject_the_rest(&mut self, fault: Fault) -> bool {
        let now = self.now;
        match fault {
            Fault::Storm { length } => self.storm_until = now + ns(length),
            Fault::BadHints { length } => self.bad_hints_until = now + ns(length),
            Fault::NoHints { length } => self.no_hints_until = now + ns(length),
            Fault::LocksRestart { lost, down } => self.restart_locks(lost, down),
            Fault::LbsDown { down } => {
                self.servers.lbs_down_until = now + ns(down);
                self.fail_waiters(|| unavailable("the server went down"));
            }
            Fault::LbsRestored { lost } => return self.restore_lbs(lost),
            Fault::GroupGone => {
                self.servers.lbs.destroy_group();
                self.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
            }
            Fault::LockClock { by_ms } => {
                self.servers.step_locks_clock(by_ms);
                self.set_back_ms += (-by_ms).max(0);
                self.checker
                    .lock_clock_steps(Duration::from_nanos(now), by_ms);
            }
            Fault::LbsClock { by_ms } => {
                self.servers.step_lbs_clock(by_ms);
                self.set_back_ms += (-by_ms).max(0);
            }
            Fault::Steal { nth } => return self.foreign_steal(nth),
            Fault::ForeignFetch { renews, completes } => {
                return self.foreign_fetch(renews, completes);
            }
            Fault::ForeignClaim {
                nth,
                renews,
                completes,
            } => return self.foreign_claim(nth, renews, completes),
            Fault::Poison | Fault::Again { .. }
                if self.servers.lbs_serves_from(Needs::Announce) > now =>
            {
                return false;
            }
            Fault::Poison => self.append(None),
            Fault::Burst { streams } => (0..streams).for_each(|_| self.submit_new()),
            Fault::Again { nth } => {
                let Some(nth) = nth.checked_rem(self.streams.len() as u64) else {
                    return false;
                };
                let stream = self.streams[nth as usize].clone();
                self.append(Some(stream));
            }
            Fault::Revoke { nth } => return self.servers.locks.revoke(nth).is_some(),
            Fault::BacklogLies(estimate) => self.servers.lbs.estimate = estimate,
            Fault::FetchesComeBack { permille } => self.servers.lbs.waits_permille = permille,
            Fault::Refuses { of, what, length } => {
                self.servers.refusals.begin(of, what, now + ns(length));
                if of.lbs() && matches!(what, Refused::Writes | Refused::Everything) {
                    self.fail_waiters(|| unavailable("UNBLOCKED: it was demoted"));
                }
            }
            Fault::ConsumerRemoved { nth } => {
                let injected = self.servers.lbs.remove_consumer(nth);
                self.checker.stranded(&self.servers.lbs);
                return injected;
            }
            Fault::Acknowledged { nth } => {
                let injected = self.servers.lbs.acknowledge(nth);
                self.checker.stranded(&self.servers.lbs);
                return injected;
            }
            Fault::GroupAtTheEnd => {
                self.servers.lbs.make_group_at_the_end();
                self.checker.stranded(&self.servers.lbs);
                self.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
            }
            Fault::ServicePaused { length } => return self.pause_service(length),
            Fault::KeyGone { key, nth } => return self.key_gone(key, nth),
            _ => {}
        }
        true
    }

    fn pause(&mut self, node: usize, length: Duration) {
        let until = (self.now + ns(length)).max(self.nodes[node].paused_until);
        self.nodes[node].paused_until = until;
        if self.mutant == Some(Mutant::ClockStops) {
            self.nodes[node].clock.stop_until(self.now, until);
        }
    }

    fn suspend(&mut self, node: usize, length: Duration) {
        let until = (self.now + ns(length)).max(self.nodes[node].paused_until);
        self.nodes[node].paused_until = until;
        self.nodes[node].clock.stop_until(self.now, until);
        self.checker.lossy.insert("clock suspended");
    }

    fn partition(&mut self, node: usize, requests: bool, replies: bool, length: Duration) {
        let until = self.now + ns(length);
        if requests {
            self.nodes[node].requests_lost_until = until;
        }
        if replies {
            self.nodes[node].replies_lost_until = until;
        }
    }

    fn restart_locks(&mut self, lost: Duration, down: Duration) {
        let longest_ttl = self.checker.longest_ttl;
        let servers = &mut self.servers;
        if servers.restart_locks(self.now, lost, down, longest_ttl) {
            self.checker.lossy.insert(LOST_WRITES);
        }
    }

    /// Who wants it tries again if the server does not answer.
    fn pause_service(&mut self, length: Duration) -> bool {
        if self.servers.lbs_serves_from(Needs::Add) > self.now {
            return false;
        }
        let until = (self.now + ns(length)).max(self.service_paused_until);
        self.service_paused_until = until;
        let now = self.servers.lbs_now(self.now);
        self.servers.lbs.begin_pause("drawn", now);
        self.checker.is_paused = true;
        self.publish(vec![Hint::PauseChanged]);
        self.push(until, Event::Resume);
        true
    }

    pub(super) fn resume_service(&mut self) {
        let at = self.servers.lbs_serves_from(Needs::Write);
        let at = at.max(self.service_paused_until);
        if at > self.now {
            return self.push(at, Event::Resume);
        }
        if self.checker.is_paused {
            trace!(self, "the service is resumed");
            self.checker.is_paused = false;
            self.servers.lbs.end_pause();
            self.publish(vec![Hint::PauseChanged]);
        }
    }

    /// What depends on a key that vanished is as if its server had lost writes.
    fn key_gone(&mut self, key: Key, nth: u64) -> bool {
        let (now, ttl) = (self.now, self.checker.longest_ttl);
        let injected = self.servers.key_gone(key, nth, now, ttl);
        if injected && let Some(why) = lossy_by(key) {
            self.checker.lossy.insert(why);
        }
        injected
    }

    fn restore_lbs(&mut self, lost: Duration) -> bool {
        if !self.servers.restore_lbs(self.now, lost) {
            return false;
        }
        // Who has paused or resumed the service looks whether it still is.
        let now = self.servers.lbs_now(self.now);
        match self.checker.is_paused {
            true => self.servers.lbs.begin_pause("drawn", now),
            false => self.servers.lbs.end_pause(),
        };
        self.checker.restored(&self.servers.lbs);
        self.fail_waiters(|| unavailable("the server went down"));
        self.serve_waiters();
        true
    }
}
