//! Fencing in an object store (S3, Google Cloud Storage, Azure Blob Storage, and whatever speaks
//! like them): a worker keeps there how far it got, the next owner goes on from there, and a stale
//! owner changes nothing.
//!
//! ```text
//! cargo run --example fencing_object_store
//! cargo test --example fencing_object_store    # by 200 fleets under faults
//! ```
//!
//! One object per data stream has the token and the position. It is written on the condition that
//! it is still what was looked at: a conditional put. The store here is in memory. Another one is
//! another value for [`Progress::new`], as `AmazonS3Builder::from_env().build()?`.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use streamlease::spi::BoxFuture;
use streamlease::{
    Client, FencingToken, Info, MemoryBackend, Producer, Run, StreamName, TokioRuntime,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How far the work on data streams is.
struct Progress {
    store: Arc<dyn ObjectStore>,
}

impl Progress {
    fn new(store: impl ObjectStore) -> Self {
        Self {
            store: Arc::new(store),
        }
    }

    /// Puts the token down, and the new position if there is one. Says what the position is;
    /// nothing if a later owner goes on. An error says nothing, and the same may be asked again.
    async fn step(
        &self,
        stream: &StreamName,
        token: FencingToken,
        to: Option<u64>,
    ) -> Result<Option<u64>, Failure> {
        let object = Path::from_iter(["progress", stream.as_str()]);
        loop {
            let (seen, position, as_it_was) = self.look(&object).await?;
            if token < seen {
                return Ok(None);
            }
            let position = to.unwrap_or(position);
            let text = format!("{token} {position}");
            let put = self.store.put_opts(&object, text.into(), as_it_was.into());
            match put.await {
                Ok(_) => return Ok(Some(position)),
                // Somebody was faster. Look again: who it was decides.
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The token and the position that are there, and the condition that they still are.
    async fn look(&self, object: &Path) -> Result<(FencingToken, u64, PutMode), Failure> {
        let found = match self.store.get(object).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok((FencingToken(0), 0, PutMode::Create)),
            Err(error) => return Err(error.into()),
        };
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let (token, position) = parse(&found.bytes().await?)?;
        Ok((token, position, PutMode::Update(version)))
    }
}

fn parse(text: &[u8]) -> Result<(FencingToken, u64), Failure> {
    let text = std::str::from_utf8(text)?;
    let (token, position) = text.split_once(' ').ok_or("no token and position")?;
    Ok((FencingToken(token.parse()?), position.parse()?))
}

const NAMES: [&str; 2] = ["call-1", "call-2"];

/// How much work there is in a stream.
const PARTS: u64 = 5;

/// The handler. `sleep` stands for the work on a part, too.
async fn handle(
    progress: &Progress,
    stream: &StreamName,
    token: FencingToken,
    sleep: impl Fn(Duration) -> BoxFuture<'static, ()>,
) -> Result<(), Failure> {
    let mut to = None;
    loop {
        let step = match progress.step(stream, token, to).await {
            Ok(step) => step,
            Err(error) => {
                // No failure of the stream: it would be the same with each.
                eprintln!("the store is away: {error}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let position = step.ok_or("fenced: a later owner goes on")?;
        if position == PARTS {
            return Ok(());
        }
        println!("{stream}, part {position}, with token {token}");
        sleep(Duration::from_millis(100)).await;
        to = Some(position + 1);
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    work(Progress::new(object_store::memory::InMemory::new())).await
}

/// Announces two streams, and works until both are done. Streams and leases are in memory here.
async fn work(progress: Progress) -> Result<(), Failure> {
    let progress = Arc::new(progress);
    let backend = MemoryBackend::new(TokioRuntime::new());
    let producer = Producer::new("fenced", &backend, TokioRuntime::new())?;
    for name in NAMES {
        producer.submit(name, Info::NONE).await?;
    }
    let client = Client::builder("fenced")
        .consumer("worker-1")
        .backend(backend);
    let (client, events) = client.runtime(TokioRuntime::new()).start()?;
    let (done, all_done) = async_channel::bounded::<()>(2);
    let until = Run::until(async move {
        for _ in 0..2 {
            let _ = all_done.recv().await;
        }
    });
    let run = client.run(events, until, move |lease, _stopping| {
        let (progress, done) = (progress.clone(), done.clone());
        async move {
            let sleep = |time| -> BoxFuture<'static, ()> { Box::pin(tokio::time::sleep(time)) };
            handle(&progress, lease.stream(), lease.token(), sleep).await?;
            let _ = done.send(()).await;
            Ok::<_, Failure>(())
        }
    });
    Ok(run.await?)
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use futures_lite::stream::Boxed;
    use object_store::memory::InMemory;
    use object_store::*;
    use streamlease::{Event, Lease};
    use streamlease_testkit::simulation::fleet::{Outcome, Process, Trial};

    use super::*;

    /// What is wrong with a recipe.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Mistake {
        None,
        /// A put is taken whatever is there.
        NoCondition,
        /// Whoever begins reads only, and its first write puts the token down.
        ReadsFirst,
    }

    /// The store as one owner reaches it: requests and answers take their time, and some answers
    /// are lost.
    #[derive(Debug)]
    struct Link {
        store: Arc<InMemory>,
        process: Process,
        lease: Arc<Lease>,
        mistake: Mistake,
        /// The position that was read last.
        position: AtomicU64,
    }

    impl Link {
        async fn latency(&self) {
            let time = Duration::from_millis(self.process.random(30));
            self.process.sleep(time).await;
        }

        async fn answer<T>(&self, answer: Result<T>) -> Result<T> {
            self.latency().await;
            match self.process.random(20) {
                0 => Err(Error::Generic {
                    store: "link",
                    source: "no answer".into(),
                }),
                _ => answer,
            }
        }
    }

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("link")
        }
    }

    #[async_trait]
    impl ObjectStore for Link {
        async fn get_opts(&self, object: &Path, options: GetOptions) -> Result<GetResult> {
            self.latency().await;
            if let Ok(found) = self.store.get(object).await {
                let (_, position) = parse(&found.bytes().await?).unwrap();
                self.position.store(position, Ordering::Relaxed);
            }
            self.answer(self.store.get_opts(object, options).await)
                .await
        }

        async fn put_opts(
            &self,
            object: &Path,
            text: PutPayload,
            mut options: PutOptions,
        ) -> Result<PutResult> {
            self.latency().await;
            let (token, position) = parse(&Vec::from_iter(text.iter().flatten().copied())).unwrap();
            let (ledger, stream) = (self.process.ledger(), self.lease.stream());
            if self.mistake == Mistake::ReadsFirst
                && position == self.position.load(Ordering::Relaxed)
            {
                ledger.was_read(stream, token);
                return Ok(PutResult {
                    e_tag: None,
                    version: None,
                    extensions: Extensions::default(),
                });
            }
            if self.mistake == Mistake::NoCondition {
                options.mode = PutMode::Overwrite;
            }
            let put = self.store.put_opts(object, text, options).await;
            // In the step in which the store took it.
            if put.is_ok() {
                ledger.was_written(stream, token);
                if position == PARTS {
                    ledger.was_finished(stream, token, self.lease.entry());
                }
            }
            self.answer(put).await
        }

        async fn put_multipart_opts(
            &self,
            object: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.store.put_multipart_opts(object, options).await
        }

        fn delete_stream(&self, objects: Boxed<Result<Path>>) -> Boxed<Result<Path>> {
            self.store.delete_stream(objects)
        }

        fn list(&self, prefix: Option<&Path>) -> Boxed<Result<ObjectMeta>> {
            self.store.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.store.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.store.copy_opts(from, to, options).await
        }
    }

    async fn worker(process: Process, store: Arc<InMemory>, mistake: Mistake) {
        let client = process.client().capacity(8).start();
        let (_client, mut events) = client.unwrap();
        while let Some(event) = events.next().await {
            let Event::StreamAdded(lease) = event else {
                continue;
            };
            let (lease, works) = (Arc::new(lease), process.clone());
            let progress = Progress::new(Link {
                store: store.clone(),
                process: process.clone(),
                lease: lease.clone(),
                mistake,
                position: AtomicU64::new(0),
            });
            process.spawn(async move {
                let sleep = |time: Duration| -> BoxFuture<'static, ()> {
                    let process = works.clone();
                    let time = Duration::from_millis(process.random(3 * time.as_millis() as u64));
                    Box::pin(async move { process.sleep(time).await })
                };
                let done = handle(&progress, lease.stream(), lease.token(), sleep).await;
                if done.is_ok() {
                    let _ = lease.complete().await;
                }
            });
        }
    }

    fn trial(seed: u64, mistake: Mistake) -> Outcome {
        let store = Arc::new(InMemory::new());
        let mut trial = Trial::of(seed);
        // Few, so that what goes wrong goes wrong with each; and many seeds.
        trial.announcements.truncate(6);
        trial.run(|process| worker(process, store.clone(), mistake))
    }

    #[test]
    fn two_hundred_seeds_hold() {
        for seed in 1..=200 {
            trial(seed, Mistake::None).assert_holds();
        }
    }

    #[test]
    fn a_put_without_a_condition_and_a_token_that_only_writes_put_down_are_found() {
        for mistake in [Mistake::NoCondition, Mistake::ReadsFirst] {
            let bad = |seed: &u64| !trial(*seed, mistake).violations.is_empty();
            let found = (1..=200).find(bad);
            println!("{mistake:?}: found by seed {found:?}");
            assert!(found.is_some(), "{mistake:?} is not found");
        }
    }

    #[tokio::test]
    async fn a_greater_token_refuses_lower_ones_and_the_same_can_come_again() {
        let progress = Progress::new(InMemory::new());
        let stream = StreamName::new("a stream/with *all*").unwrap();
        let step = async |token, to| {
            let step = progress.step(&stream, FencingToken(token), to).await;
            step.unwrap()
        };
        assert_eq!(step(9, None).await, Some(0));
        assert_eq!(step(9, Some(1)).await, Some(1));
        assert_eq!(step(9, Some(1)).await, Some(1), "its answer was lost");
        assert_eq!(step(10, None).await, Some(1));
        assert_eq!(step(9, Some(2)).await, None);
        assert_eq!(step(9, None).await, None);
        assert_eq!(step(10, Some(2)).await, Some(2));
    }

    #[tokio::test]
    async fn the_program_works() {
        let store = Arc::new(InMemory::new());
        work(Progress {
            store: store.clone(),
        })
        .await
        .unwrap();
        for name in NAMES {
            let object = Path::from_iter(["progress", name]);
            let text = store.get(&object).await.unwrap().bytes().await.unwrap();
            assert_eq!(parse(&text).unwrap().1, PARTS);
        }
    }
}
