//! A worker: the part of this example that your program has too.

use std::sync::Arc;
use std::time::Duration;

use async_channel::Sender;
use streamlease::{Completion, ConsumerName, Event, Events, Lease, Runtime};
use streamlease_examples::Process;

use crate::audit::Audit;
use crate::ledger::{Ledger, PARTS, Refused};
use crate::timeline::Timeline;

/// So long it takes to work on one part of a call.
const PART: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) timeline: Timeline,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) _alive: Sender<()>,
}

impl Worker {
    /// Takes what comes: a task for each call.
    pub(crate) async fn run(self, mut events: Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::StreamAdded(lease) => {
                    let lease = Arc::new(lease);
                    self.audit.claimed(self.name, &lease);
                    self.process.run(self.clone().work(lease));
                }
                Event::StreamDisowned(lost) => {
                    let call = lost.stream();
                    self.say(format!(
                        "is told that {call} is no longer its: {}",
                        lost.reason()
                    ));
                }
                Event::Terminated(end) => self.say(format!("ends: {end}")),
                other => self.say(format!("{other:?}")),
            }
        }
    }

    /// Works on one call until it is finished, or somebody else's.
    async fn work(self, lease: Arc<Lease>) {
        let call = lease.stream();
        // The ledger says how far the previous owner got.
        let Ok(done) = self.ledger.open(call, lease.token()) else {
            return self.say(format!("is too late for {call}"));
        };
        match lease.claimed_from() {
            Some(before) => self.say(format!(
                "takes over {call} from {}, after part {done} of {PARTS}",
                short(before)
            )),
            None => self.say(format!("leases {call}")),
        }
        for part in done..PARTS {
            if !lease.is_valid() {
                return self.say(format!("stops: {call} is not its own any more"));
            }
            // This is where the work is done, and where a process may freeze
            // without noticing: after the check above, before the write below.
            self.process.sleep_until(self.process.now() + PART).await;
            self.audit.look();
            if let Err(Refused) = self.ledger.write(call, lease.token(), part) {
                return self.say(format!(
                    "writes to {call}, and is REFUSED by the ledger: its token is out of date"
                ));
            }
        }
        match lease.complete().await {
            Ok(Completion::Completed) => {
                self.audit.completed(call);
                self.say(format!("completes {call}"));
            }
            Ok(_) => self.say(format!("is too late to complete {call}")),
            Err(err) => self.say(format!("does not know whether {call} is completed: {err}")),
        }
    }

    fn say(&self, what: String) {
        self.timeline.say(self.name, what);
    }
}

/// Without what the backend puts in front of an identity.
fn short(consumer: &ConsumerName) -> &str {
    let name = consumer.as_str();
    let identity = name.find("worker-").unwrap_or(0);
    &name[identity..]
}
