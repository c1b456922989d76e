//! [`Announcer`]: a producer in a thread of its own, which lets no outage stop it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use streamlease::{
    Announcement, Info, Producer, RedisBackend, SmolRuntime, StreamName, SubmitBatch, SubmitOutcome,
};

use crate::plan::Work;

#[derive(Debug)]
pub(crate) struct Announcer {
    orders: Sender<Vec<Work>>,
    shared: Arc<Shared>,
    ordered: usize,
}

#[derive(Debug, Default)]
struct Shared {
    announced: Mutex<Vec<Announced>>,
    abandoned: AtomicBool,
}

/// An entry whose id has come back.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    pub(crate) work: Work,
    pub(crate) entry: String,
    /// When it was first sent.
    pub(crate) since: Instant,
}

impl Announcer {
    pub(crate) fn start(redis: String, service: &'static str) -> Self {
        let (orders, to_do) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let working = shared.clone();
        thread::spawn(move || {
            smol::block_on(working.serve(&redis, service, &to_do));
        });
        Self {
            orders,
            shared,
            ordered: 0,
        }
    }

    /// Announces these, as soon as Redis can be reached.
    pub(crate) fn announce(&mut self, works: Vec<Work>) {
        self.ordered += works.len();
        // It only ends with this.
        let _ = self.orders.send(works);
    }

    /// What has been announced so far.
    pub(crate) fn announced(&self) -> Vec<Announced> {
        self.shared.announced().clone()
    }

    /// Whether everything that was ordered is.
    pub(crate) fn is_done(&self) -> bool {
        self.shared.announced().len() == self.ordered
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn announced(&self) -> MutexGuard<'_, Vec<Announced>> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, redis: &str, service: &str, orders: &Receiver<Vec<Work>>) {
        let mut producer = None;
        while let Ok(works) = orders.recv() {
            let announcements = works
                .iter()
                .map(|work| {
                    Announcement::new(
                        StreamName::new(&work.stream).unwrap(),
                        Info::from_json(&work.info).unwrap(),
                    )
                })
                .collect();
            // The same batch until it is answered: then it is there exactly once.
            let batch = SubmitBatch::new(announcements).unwrap();
            let since = Instant::now();
            while !self.abandoned.load(Ordering::Relaxed) {
                match submit(&mut producer, redis, service, &batch).await {
                    Ok(entries) => {
                        let announced = works.into_iter().zip(entries);
                        self.announced().extend(announced.map(|(work, entry)| {
                            let entry = entry.to_string();
                            Announced { work, entry, since }
                        }));
                        break;
                    }
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            }
        }
    }
}

async fn submit(
    producer: &mut Option<Producer>,
    redis: &str,
    service: &str,
    batch: &SubmitBatch,
) -> streamlease::Result<Vec<streamlease::EntryId>> {
    let producer = match producer {
        Some(producer) => producer,
        None => producer.insert(Producer::new(
            service,
            &RedisBackend::connect(redis).await?,
            SmolRuntime::new(),
        )?),
    };
    let outcomes = producer.submit_batch(batch).await?;
    Ok(outcomes.into_iter().map(SubmitOutcome::entry).collect())
}
