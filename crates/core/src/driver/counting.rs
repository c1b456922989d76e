//! [`Counting`]: what the whole service has, for recorders that want it.
//!
//! Every consumer asks, and not who sweeps alone: a consumer that is full never gets the turn
//! to sweep, and what waits matters most when all are full.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use futures_lite::future;
use log::Level;

use super::{Driver, Measures, Shared, Voice};
use crate::machine::mix;
use crate::recorder::Attempt;
use crate::{
    Admin, ConsumerName, Error, ErrorKind, Operation, Recorder, Result, Runtime, ServiceCounts,
    readable,
};

/// Nobody needs it more often.
const LEAST_PACE: Duration = Duration::from_secs(1);

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Counting {
    admin: Arc<dyn Admin>,
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
    measures: Measures,
    voice: Voice,
    consumer: ConsumerName,
}

impl Driver {
    /// Counts at the recorder's pace, if it has one, until the client ends.
    pub(super) fn spawn_counting(&self, stop: Receiver<Infallible>) {
        let Some(pace) = self.measures.count_every() else {
            return;
        };
        let counting = Counting {
            admin: self.backend.admin.clone(),
            runtime: self.runtime.clone(),
            shared: self.shared.clone(),
            measures: self.measures.clone(),
            voice: self.voice.clone(),
            consumer: self.consumer.clone(),
        };
        self.runtime.spawn(Box::pin(async move {
            let stopped = async {
                let _ = stop.recv().await;
            };
            future::or(counting.run(pace.max(LEAST_PACE)), stopped).await;
        }));
    }
}

impl Counting {
    async fn run(self, pace: Duration) {
        let mut is_refused = false;
        let mut wait = self.up_to(pace / 4);
        loop {
            self.runtime.sleep_until(self.runtime.now() + wait).await;
            // Consumers that were started together are not to ask together for ever.
            wait = pace - self.up_to(pace / 4);
            if !self.is_reachable() {
                self.measures.counted(None);
                continue;
            }
            let result = self.ask().await;
            self.measures.counted(result.as_ref().ok());
            let was_refused = is_refused;
            is_refused = result.as_ref().is_err_and(Error::is_refusal);
            let Err(error) = result else { continue };
            let level = match is_refused && !was_refused {
                true => Level::Info,
                false => Level::Debug,
            };
            let consumer = &self.consumer;
            self.voice.say(level, || {
                format!(
                    "what waits in the service cannot be counted consumer={consumer}: {error:?}"
                )
            });
        }
    }

    async fn ask(&self) -> Result<ServiceCounts> {
        let sent = self.runtime.now();
        let overdue = async {
            self.runtime.sleep_until(sent + LIMIT).await;
            let limit = readable(LIMIT);
            let text = format!("no answer to {} within {limit}", Operation::Counts);
            Err(Error::new(ErrorKind::Unavailable, text))
        };
        let result = future::or(self.admin.counts(), overdue).await;
        let attempt = match result {
            Ok(_) => Attempt::Ok,
            Err(_) => Attempt::Error,
        };
        let took = self.runtime.now().saturating_since(sent);
        self.measures.call(Operation::Counts, attempt, took);
        result
    }

    /// A backend that is away has enough to do when it comes back.
    fn is_reachable(&self) -> bool {
        let pulse = self.shared.pulse();
        let vitals = pulse.as_ref().map(|pulse| &pulse.vitals);
        vitals.is_some_and(|now| now.has_session && now.unreachable.iter().all(Option::is_none))
    }

    fn up_to(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(mix(self.runtime.now().as_nanos()) % nanos)
    }
}

/// However the task ends: nobody corrects the last counts any more.
impl Drop for Counting {
    fn drop(&mut self) {
        self.measures.counted(None);
    }
}
