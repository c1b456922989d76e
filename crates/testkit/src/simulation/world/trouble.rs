//! How each fault strikes.

use std::time::Duration;

use streamlease_core::{Error, ErrorKind, Timestamp};

use super::clock::{Time, ns};
use super::{Event, World, trace, unavailable};
use crate::simulation::fault::{Amid, Fault};
use crate::simulation::model::Mutant;
use crate::simulation::model::lbs::Lbs;
use crate::simulation::model::locks::Locks;
use crate::simulation::plan::STATED_DRIFT;

impl World {
    pub(super) fn fault(&mut self, nth: usize) {
        if self.calm {
            return;
        }
        let fault = self.plan.faults[nth].1;
        if !self.strike_counted(&format!("FAULT {nth}"), fault) {
            // Nothing was there for it yet.
            self.push(self.now + ns(self.plan.ttl / 4), Event::Fault(nth));
        }
    }

    /// Whether it struck.
    pub(super) fn strike_counted(&mut self, label: &str, fault: Fault) -> bool {
        trace!(self, "{label} {fault:?}");
        self.steps += 1;
        let struck = self.strike(fault);
        if struck {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
        struck
    }

    pub(super) fn struck(&self) -> usize {
        self.faults.values().sum::<u64>() as usize
    }

    fn strike(&mut self, fault: Fault) -> bool {
        match fault.process() {
            Some(draw) => match self.pick(draw, fault) {
                Some(node) => self.strike_process(node, fault),
                None => return false,
            },
            None => return self.strike_the_rest(fault),
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
                Fault::SilentHandlers { .. } => {
                    n.settings.max_silence.is_some() && self.checker.views(*node) > 0
                }
                _ => true,
            }
        };
        let fitting: Vec<_> = self.alive().filter(fits).collect();
        let nth = draw.checked_rem(fitting.len() as u64)?;
        fitting.get(nth as usize).copied()
    }

    fn strike_process(&mut self, node: usize, fault: Fault) {
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
            Fault::SilentHandlers { length, .. } => {
                self.nodes[node].silent_until = now + ns(length);
            }
            Fault::SlowUser { length, .. } => self.nodes[node].slow_until = now + ns(length),
            _ => {}
        }
    }

    fn strike_the_rest(&mut self, fault: Fault) -> bool {
        let now = self.now;
        match fault {
            Fault::Storm { length } => self.storm_until = now + ns(length),
            Fault::BadHints { length } => self.bad_hints_until = now + ns(length),
            Fault::NoHints { length } => self.no_hints_until = now + ns(length),
            Fault::LocksRestart { lost, down } => self.restart_locks(lost, down),
            Fault::LbsDown { down } => {
                self.lbs_down_until = now + ns(down);
                self.fail_waiters(|| unavailable("the server went down"));
            }
            Fault::LbsRestored { lost } => return self.restore_lbs(lost),
            Fault::GroupGone => {
                self.lbs.destroy_group();
                self.fail_waiters(|| Error::new(ErrorKind::NotPrepared, "UNBLOCKED"));
            }
            Fault::LockClock { by_ms } => {
                self.locks_clock_ms += by_ms;
                self.set_back_ms += (-by_ms).max(0);
                self.checker
                    .lock_clock_steps(Duration::from_nanos(now), by_ms);
            }
            Fault::LbsClock { by_ms } => {
                self.lbs_clock_ms += by_ms;
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
            Fault::Poison | Fault::Again { .. } if self.lbs_down_until > now => return false,
            Fault::Poison => self.append(None),
            Fault::Burst { streams } => (0..streams).for_each(|_| self.submit_new()),
            Fault::Again { nth } => {
                let Some(nth) = nth.checked_rem(self.streams.len() as u64) else {
                    return false;
                };
                let stream = self.streams[nth as usize].clone();
                self.append(Some(stream));
            }
            Fault::Revoke { nth } => return self.locks.revoke(nth).is_some(),
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
        self.locks_down_until = self.now + ns(down);
        if let Some((_, locks, _)) = self.state_before(lost) {
            self.locks = locks.clone();
            self.checker.lossy.insert("locks lost writes");
        }
        // The grace begins when the server is back.
        let back_at = self.locks_now() + down.as_millis() as u64;
        self.locks.restarted(back_at, self.checker.longest_ttl);
    }

    fn restore_lbs(&mut self, lost: Duration) -> bool {
        let Some((_, _, lbs)) = self.state_before(lost) else {
            return false;
        };
        self.lbs = lbs.clone();
        self.checker.restored(&self.lbs);
        self.fail_waiters(|| unavailable("the server went down"));
        self.serve_waiters();
        true
    }

    /// The servers' state of so long ago.
    fn state_before(&self, lost: Duration) -> Option<&(Time, Locks, Lbs)> {
        if lost.is_zero() {
            return None;
        }
        let from = self.now.saturating_sub(ns(lost));
        self.history.iter().find(|(at, ..)| *at >= from)
    }
}
