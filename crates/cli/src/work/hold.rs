//! One stream, from its lease to its end.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_lite::future;
use streamlease::{Completion, Error, HandBack, Lease, Stopping};

use super::Job;
use super::losses::Loss;
use super::worker::Worker;
use crate::args::{Hold, OnStop};
use crate::exec::{self, Exec, Outcome};
use crate::output::{Event, Failed, HeldStream};

impl Worker {
    /// One stream that was told of, until its end is.
    pub(super) async fn hold(&self, lease: &Lease, loss: &Loss, stopping: &Stopping) {
        let held = HeldStream::from(lease);
        let work = async {
            match &self.job {
                Job::Hold(hold) => self.pass_time(*hold, lease, stopping).await,
                Job::Run(exec) => self.run_program(exec, lease, loss, stopping).await,
            }
        };
        // A loss is told at once: a program may take a while to die of it.
        let told_of_loss = AtomicBool::new(false);
        let lost = async {
            lease.lost().await;
            self.tell_of_loss(&held, loss).await;
            told_of_loss.store(true, Ordering::Relaxed);
            future::pending().await
        };
        let end = future::or(work, lost).await;
        match end {
            _ if told_of_loss.load(Ordering::Relaxed) => {}
            Finish::Lost => self.tell_of_loss(&held, loss).await,
            Finish::Complete => match lease.complete().await {
                Ok(completion) => {
                    let outcome = outcome(completion);
                    self.output.print(Event::done(&held, outcome)).await;
                }
                Err(err) => self.not_completed(lease, loss, &held, &err).await,
            },
            Finish::HandBack { failed } => self.hand_back(lease, loss, &held, failed).await,
        }
    }

    async fn pass_time(&self, hold: Hold, lease: &Lease, stopping: &Stopping) -> Finish {
        let work = async {
            match hold {
                Hold::For(time) => self.runtime.sleep(time).await,
                Hold::Forever => future::pending().await,
            }
            Finish::Complete
        };
        let lost = async {
            lease.lost().await;
            Finish::Lost
        };
        let stopped = async {
            stopping.requested().await;
            Finish::HandBack { failed: None }
        };
        future::or(lost, future::or(stopped, work)).await
    }

    async fn run_program(
        &self,
        exec: &Exec,
        lease: &Lease,
        loss: &Loss,
        stopping: &Stopping,
    ) -> Finish {
        let (stream, consumer, token) = (lease.stream(), self.client.id(), lease.token());
        let labels = format!("stream={stream} consumer={consumer} token={token}");
        let program = exec::Job {
            lease,
            loss,
            stopping,
            runtime: &self.runtime,
            starts: &self.starts,
            patience: self.patience,
            progress_timeout: self.progress_timeout,
            labels: &labels,
        };
        match exec.run(program).await {
            Outcome::Ended(status) if status.success() => Finish::Complete,
            Outcome::Ended(status) => {
                log::warn!("the program failed ({status}): {labels}");
                let failed = Failed {
                    reason: format!("the program failed ({status})"),
                    exit_code: status.code(),
                };
                Finish::HandBack {
                    failed: Some(failed),
                }
            }
            Outcome::Stopped(status) if self.on_stop == OnStop::ByExitCode && status.success() => {
                Finish::Complete
            }
            Outcome::Stopped(_) | Outcome::Interrupted | Outcome::NotStarted => {
                Finish::HandBack { failed: None }
            }
            Outcome::Lost => Finish::Lost,
            Outcome::BadStream(err) => {
                log::warn!("the program cannot be run for this stream: {err}: {labels}");
                let failed = Failed {
                    reason: format!("the program cannot be run for it: {err}"),
                    exit_code: None,
                };
                Finish::HandBack {
                    failed: Some(failed),
                }
            }
        }
    }

    async fn not_completed(&self, lease: &Lease, loss: &Loss, held: &HeldStream, err: &Error) {
        log::warn!(
            "not completed: {err}: stream={} token={}",
            lease.stream(),
            lease.token()
        );
        if lease.is_valid() {
            self.hand_back(lease, loss, held, None).await;
        } else {
            self.tell_of_loss(held, loss).await;
        }
    }

    async fn hand_back(
        &self,
        lease: &Lease,
        loss: &Loss,
        held: &HeldStream,
        failed: Option<Failed>,
    ) {
        let result = match &failed {
            Some(failed) => lease.fail(failed.reason.as_str()).await,
            None => lease.hand_back().await,
        };
        if let Err(err) = &result {
            // Dropped, it is tried again for as long as the client lives.
            log::warn!(
                "not handed back: {err}: stream={} token={}",
                lease.stream(),
                lease.token()
            );
        }
        let event = match (result, failed) {
            (Ok(HandBack::HandedBack), Some(failed)) => Event::failed(held, failed),
            (Ok(HandBack::HandedBack), None) => Event::handed_back(held),
            _ => return self.tell_of_loss(held, loss).await,
        };
        self.output.print(event).await;
    }

    async fn tell_of_loss(&self, held: &HeldStream, loss: &Loss) {
        let reason = loss.reason(&self.runtime).await;
        self.output.print(Event::disowned(held, reason)).await;
    }
}

/// How the work on a stream ended.
enum Finish {
    Complete,
    HandBack { failed: Option<Failed> },
    Lost,
}

fn outcome(completion: Completion) -> &'static str {
    match completion {
        Completion::Completed => "completed",
        Completion::NotOwner => "not_owner",
        Completion::Gone => "gone",
        _ => "unknown",
    }
}
