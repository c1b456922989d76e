//! Watching a program: it ends before its lease does.

use std::process::ExitStatus;
use std::time::Duration;

use futures_lite::future;
use rustix::process::Signal;
use streamlease::{DisownReason, Lease, Runtime, Stopping, Timestamp};

use super::children::Program;
use super::{Graces, Outcome};
use crate::runtime::AnyRuntime;
use crate::work::Loss;

/// Between two looks whether a process group is empty, growing up to the other.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// What SIGKILL does not end for so long waits for a device, or has died and lacks a
/// parent that waits for it.
const KILLED_LONG_AGO: Duration = Duration::from_secs(5);

/// Who signals a whole unit reaches the program and this process at about the same
/// time. So the end of a program counts only after the time in which that signal would
/// have reached us. After a success this time is short: it delays every program.
const WAIT_AFTER_SUCCESS: Duration = Duration::from_millis(50);
const WAIT_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Why the program was sent SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// This command was told to stop.
    Stopped,
    /// The lease was not extended for long.
    Expiring,
    /// It has ended, but what it had started had not.
    LeftOver,
}

/// One program, its lease, and what has been done to end it.
pub(super) struct Watch<'a> {
    pub(super) program: Program,
    pub(super) lease: &'a Lease,
    pub(super) loss: &'a Loss,
    pub(super) stopping: &'a Stopping,
    pub(super) runtime: &'a AnyRuntime,
    pub(super) graces: Graces,
    /// For logs.
    pub(super) labels: &'a str,
}

#[derive(Debug, Default)]
struct Progress {
    /// The program itself has ended, so, then.
    exited: Option<(ExitStatus, Timestamp)>,
    told: Option<(Why, Timestamp)>,
    killed: Option<Timestamp>,
    lost: bool,
    /// Why it was killed for a loss is still to be said.
    to_say: bool,
    said_that_it_stays: bool,
}

impl Watch<'_> {
    /// Until nobody of the program's group is left; ends them when it is time.
    pub(super) async fn run(mut self) -> Outcome {
        let mut progress = Progress::default();
        let mut look = LOOK_FIRST;
        loop {
            let due = self.act(&mut progress);
            if self.is_over(&mut progress) {
                if progress.to_say {
                    self.say_killed(self.loss.reason(self.runtime).await);
                }
                return self.outcome(&progress).await;
            }
            let wake_at = if progress.exited.is_some() {
                let next = self.runtime.now() + look;
                look = (look * 2).min(LOOK_LAST);
                due.map_or(next, |due| due.min(next))
            } else {
                // A heartbeat may have moved it meanwhile.
                due.unwrap_or_else(|| self.runtime.now() + LOOK_LAST)
            };
            self.wait(&mut progress, wake_at).await;
        }
    }

    /// Sends the signals that are due; when the next may be, if nothing happens before.
    fn act(&self, progress: &mut Progress) -> Option<Timestamp> {
        let now = self.runtime.now();
        let believed = self.lease.valid_until();
        if now >= believed && !progress.lost {
            progress.lost = true;
            if progress.killed.is_none() {
                // Whoever has it next may begin a margin from now, or has begun: also if an
                // operator took it, for it was released at once then.
                progress.killed = Some(now);
                progress.to_say = true;
                self.program.signal(Signal::KILL);
            }
        }
        if progress.killed.is_some() {
            return None;
        }
        let Some((_, at)) = progress.told else {
            let warned = believed - self.graces.lost;
            if now >= warned {
                log::warn!(
                    "ending a program early, for its lease is not extended: {}",
                    self.labels
                );
                self.tell(progress, Why::Expiring, now);
                return Some(believed);
            }
            let linger = progress.exited.map(|(_, at)| at + self.graces.stop);
            if linger.is_some_and(|linger| now >= linger) {
                log::warn!(
                    "the program has ended, but not what it started: {}",
                    self.labels
                );
                self.tell(progress, Why::LeftOver, now);
                return Some(believed);
            }
            return Some(linger.map_or(warned, |linger| linger.min(warned)));
        };
        let grace_ends = at + self.graces.stop;
        if now >= grace_ends {
            self.kill(progress, now, "it did not end within its grace");
            return None;
        }
        Some(grace_ends.min(believed))
    }

    fn tell(&self, progress: &mut Progress, why: Why, now: Timestamp) {
        progress.told = Some((why, now));
        self.program.signal(Signal::TERM);
    }

    fn kill(&self, progress: &mut Progress, now: Timestamp, why: &str) {
        if progress.killed.is_none() {
            log::warn!("killing a program: {why}: {}", self.labels);
            progress.killed = Some(now);
            self.program.signal(Signal::KILL);
        }
    }

    fn say_killed(&self, reason: Option<DisownReason>) {
        let labels = self.labels;
        match reason {
            Some(why @ (DisownReason::Revoked | DisownReason::Cancelled)) => {
                log::info!("killing a program: its lease is over: {why}: {labels}");
            }
            Some(why) => log::warn!("killing a program: its lease is lost: {why}: {labels}"),
            None => log::warn!("killing a program: its lease is lost: {labels}"),
        }
    }

    async fn wait(&self, progress: &mut Progress, wake_at: Timestamp) {
        enum Wake {
            Exited(ExitStatus),
            Stop,
            Look,
            Reason(Option<DisownReason>),
        }
        let exited = async {
            match progress.exited {
                None => Wake::Exited(self.program.exit().await),
                Some(_) => future::pending().await,
            }
        };
        let stopped = async {
            if progress.told.is_some() {
                future::pending::<()>().await;
            }
            self.stopping.requested().await;
            Wake::Stop
        };
        let lost = async {
            if progress.lost {
                future::pending::<()>().await;
            }
            self.lease.lost().await;
            Wake::Look
        };
        let look = async {
            self.runtime.sleep_until(wake_at).await;
            Wake::Look
        };
        let reason = async {
            if !progress.to_say {
                future::pending::<()>().await;
            }
            Wake::Reason(self.loss.reason(self.runtime).await)
        };
        let lost = future::or(reason, lost);
        match future::or(future::or(exited, stopped), future::or(lost, look)).await {
            Wake::Exited(status) => progress.exited = Some((status, self.runtime.now())),
            Wake::Stop => self.tell(progress, Why::Stopped, self.runtime.now()),
            Wake::Look => {}
            Wake::Reason(reason) => {
                progress.to_say = false;
                self.say_killed(reason);
            }
        }
    }

    /// Whether nobody writes any more who could be kept from it.
    fn is_over(&mut self, progress: &mut Progress) -> bool {
        if progress.exited.is_some() && self.program.is_gone() {
            return true;
        }
        let long_ago = progress
            .killed
            .is_some_and(|at| self.runtime.now() >= at + KILLED_LONG_AGO);
        if !long_ago {
            return false;
        }
        if self.program.only_zombies_are_left() {
            return true;
        }
        if !progress.said_that_it_stays {
            progress.said_that_it_stays = true;
            log::error!(
                "process group {} lives on after SIGKILL: {}",
                self.program.id(),
                self.labels
            );
        }
        // The stream is kept from others, for as long as this command may.
        progress.lost || self.stopping.is_requested()
    }

    async fn outcome(&self, progress: &Progress) -> Outcome {
        match (progress.exited, progress.told) {
            _ if progress.lost => Outcome::Lost,
            (Some((status, _)), Some((Why::Stopped, _))) => Outcome::Stopped(status),
            (Some((status, _)), Some((Why::LeftOver, _)) | None) => self.outcome_of(status).await,
            (_, Some((Why::Expiring, _))) | (None, _) => Outcome::Interrupted,
        }
    }

    /// It ended by itself, unless somebody ends us as well.
    async fn outcome_of(&self, status: ExitStatus) -> Outcome {
        let stopped = async {
            self.stopping.requested().await;
            Outcome::Stopped(status)
        };
        let by_itself = async {
            let wait = if status.success() {
                WAIT_AFTER_SUCCESS
            } else {
                WAIT_AFTER_FAILURE
            };
            self.runtime.sleep(wait).await;
            Outcome::Ended(status)
        };
        future::or(stopped, by_itself).await
    }
}
