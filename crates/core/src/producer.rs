//! [`Producer`]: announces data streams.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::limits::REPEATABLE;
use crate::machine::mix;
use crate::{
    Announcement, Attempt, BackendProvider, EntryId, Error, ErrorKind, Info, NoRecorder, Recorder,
    Result, RetryPolicy, Runtime, ServiceName, SubmitBatch, SubmitOutcome, Submitter,
};

/// How long a producer waits by default: about half a minute, in steps of at most 2 s.
const HALF_A_MINUTE: RetryPolicy = RetryPolicy {
    retries: Some(18),
    first: Duration::from_millis(100),
    max: Duration::from_secs(2),
};

/// Announces data streams on a service's load balancer stream (LBS).
///
/// A cheap handle; clones are the same producer.
#[derive(Debug, Clone)]
pub struct Producer {
    submitter: Arc<dyn Submitter>,
    runtime: Arc<dyn Runtime>,
    retry: RetryPolicy,
    /// It has worked once.
    answered: Arc<AtomicBool>,
    recorder: Arc<dyn Recorder>,
}

impl Producer {
    /// A producer for `service` on `backend`, which waits on `runtime`. Does no I/O.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the service name is invalid.
    pub fn new(
        service: impl AsRef<str>,
        backend: &dyn BackendProvider,
        runtime: impl Runtime,
    ) -> Result<Self> {
        let service = ServiceName::new(service)?;
        Ok(Self {
            submitter: backend.backend(&service)?.submitter,
            runtime: Arc::new(runtime),
            retry: HALF_A_MINUTE,
            answered: Arc::default(),
            recorder: Arc::new(NoRecorder),
        })
    }

    /// Where measurements go: [`Recorder::submitted`] is told of each call.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// When to give up on a backend that cannot be reached. By default the producer tries at
    /// least every 2 s, for about half a minute.
    ///
    /// Whatever the policy is, the producer gives a batch up five minutes after the first
    /// attempt that failed. That attempt may have worked, and later the LBS may no longer
    /// remember the batch. A repeat could then append it twice.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if a wait is out of bounds.
    pub fn retry(mut self, policy: RetryPolicy) -> Result<Self> {
        policy.validate()?;
        self.retry = policy;
        Ok(self)
    }

    /// Announces one data stream; see [`submit_batch`](Self::submit_batch).
    pub async fn submit(&self, stream: impl AsRef<str>, info: Info) -> Result<EntryId> {
        one(self.submit_all([(stream, info)]).await?)
    }

    /// Announces many data streams, in this order; see [`submit_batch`](Self::submit_batch).
    /// Each is an [`Announcement`], a name, or a name with its info:
    /// `producer.submit_all(["call-1", "call-2"])`.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if a name is invalid; then nothing is announced. Else as
    /// [`submit_batch`](Self::submit_batch).
    pub async fn submit_all<A>(
        &self,
        announcements: impl IntoIterator<Item = A>,
    ) -> Result<Vec<EntryId>>
    where
        A: TryInto<Announcement, Error: fmt::Display>,
    {
        let batch = SubmitBatch::new(valid(announcements)?)?;
        let outcomes = self.submit_batch(&batch).await?;
        Ok(outcomes.into_iter().map(SubmitOutcome::entry).collect())
    }

    /// Announces one data stream, unless it is announced: asking and announcing is one step,
    /// so of two producers that call this at once only one announces it.
    ///
    /// A data stream is announced while the LBS has an entry of it, whoever announced it (Go
    /// producers, too): until it is completed, cancelled or quarantined. What came back from the
    /// quarantine is announced again. The info of what is there already stays as it is.
    ///
    /// Of a stream that [`submit`](Self::submit) has announced twice the earlier entry may be
    /// overlooked once the later one is gone. It is announced once more then, and worked on
    /// again after its first end, by one owner at a time all the same.
    ///
    /// It costs more than [`submit`](Self::submit): on Redis 7 µs of the server's time for each
    /// stream, and up to 14 if it is there, instead of 2. What was announced by others since
    /// somebody asked last has to be read first, which takes 5 µs for each.
    ///
    /// # Errors
    /// As [`submit_batch`](Self::submit_batch).
    pub async fn submit_if_absent(
        &self,
        stream: impl AsRef<str>,
        info: Info,
    ) -> Result<SubmitOutcome> {
        one(self.submit_all_if_absent([(stream, info)]).await?)
    }

    /// Announces those of many data streams that are not announced, each as
    /// [`submit_if_absent`](Self::submit_if_absent). Of two with one name the second is there
    /// already. The rest is as with [`submit_all`](Self::submit_all).
    ///
    /// # Errors
    /// As [`submit_all`](Self::submit_all).
    pub async fn submit_all_if_absent<A>(
        &self,
        announcements: impl IntoIterator<Item = A>,
    ) -> Result<Vec<SubmitOutcome>>
    where
        A: TryInto<Announcement, Error: fmt::Display>,
    {
        let batch = SubmitBatch::new(valid(announcements)?)?.if_absent();
        self.submit_batch(&batch).await
    }

    /// Appends a batch to the LBS and returns what became of each announcement, in the order
    /// given.
    ///
    /// The producer waits for a server that is away, as the [retry policy](Self::retry) says.
    /// It also waits if the server refuses a call that has worked for this producer before.
    /// A repeat does not append again what was appended already.
    ///
    /// # Errors
    /// It is unknown whether the batch, or a part of it, was appended. Call again with the
    /// *same* batch: what is missing is appended. The LBS remembers a batch for at least five
    /// minutes after it was last sent (ten on Redis and in memory). Later the whole batch
    /// would be appended once more. [`submit`](Self::submit) and
    /// [`submit_all`](Self::submit_all) make a new batch each time.
    /// [`SubmitBatch::with_key`] makes one that another process can repeat.
    ///
    /// Dropping the future means the same: it may have happened.
    pub async fn submit_batch(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let begun = self.runtime.now();
        let result = self.submit_with_retries(batch).await;
        let took = self.runtime.now().saturating_since(begun);
        let ended = match result {
            Ok(_) => Attempt::Ok,
            Err(_) => Attempt::Error,
        };
        let streams = batch.announcements.len();
        let record = || self.recorder.submitted(ended, streams, took);
        if panic::catch_unwind(AssertUnwindSafe(record)).is_err() {
            log::warn!("the recorder has panicked; its measurements are not to be trusted");
        }
        result
    }

    async fn submit_with_retries(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let mut failed = 0;
        let mut first_failure = None;
        loop {
            let error = match self.submitter.submit(batch).await {
                Ok(outcomes) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(outcomes);
                }
                Err(error) => error,
            };
            let has_worked = self.answered.load(Ordering::Relaxed);
            let may_pass = error.is_retryable() || (error.is_refusal() && has_worked);
            if !may_pass {
                return Err(error);
            }
            failed += 1;
            let Some(wait) = self.retry.wait_after(failed) else {
                return Err(error);
            };
            let now = self.runtime.now();
            let again_at = now + jittered(wait, now.as_nanos());
            let first_failure = *first_failure.get_or_insert(now);
            if again_at.saturating_since(first_failure) >= REPEATABLE {
                return Err(error);
            }
            log::debug!("submitting failed, trying again: {error:?}");
            self.runtime.sleep_until(again_at).await;
        }
    }
}

fn valid<A>(announcements: impl IntoIterator<Item = A>) -> Result<Vec<Announcement>>
where
    A: TryInto<Announcement, Error: fmt::Display>,
{
    let is_invalid = |err: A::Error| Error::config(err.to_string());
    let announcements = announcements.into_iter();
    announcements
        .map(|one| one.try_into().map_err(is_invalid))
        .collect()
}

fn one<T>(of_one: Vec<T>) -> Result<T> {
    of_one.into_iter().next().ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            "one stream was submitted, but nothing came back",
        )
    })
}

/// Between half of `wait` and `wait`: producers that an outage stopped together are not to
/// come back together.
fn jittered(wait: Duration, seed: u64) -> Duration {
    let half = wait / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    half + Duration::from_nanos(mix(seed) % nanos.max(1))
}
