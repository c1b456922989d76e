//! What runs the functions that pages of `docs/` show without a program around them: in memory.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender, bounded};
use futures_lite::future;
use streamlease::spi::{BoxFuture, Recorder, Started, StreamOrigin};
use streamlease::{
    Client, ClientBuilder, Event, Events, Info, MemoryBackend, Producer, Result, TokioRuntime,
};

use crate::Process;

/// Has a client run on one announced stream, until the future that is given to `run` resolves:
/// when the stream is leased.
///
/// # Panics
/// If that fails.
pub fn on_one_stream<F>(run: impl FnOnce(Client, Events, BoxFuture<'static, ()>) -> F)
where
    F: Future<Output = Result<()>>,
{
    block_on(async {
        let memory = announced().await?;
        let (leased, stop) = Leased::new(StreamOrigin::Fresh);
        let (client, events) = client(&memory, "worker-1").recorder(leased).start()?;
        run(client, events, stop).await
    });
}

/// Gives `run` a client of a service where a consumer has died with a stream in its hands. Ends
/// when that stream is leased again.
///
/// # Panics
/// If that fails.
pub fn after_a_death<F>(run: impl FnOnce(ClientBuilder) -> F)
where
    F: Future<Output = Result<()>>,
{
    block_on(async {
        let memory = announced().await?;
        let first = Process::new(Arc::new(TokioRuntime::new()));
        let (_client, mut events) = client(&memory, "worker-1").runtime(first.clone()).start()?;
        while !matches!(events.next().await, Some(Event::StreamAdded(_))) {}
        first.kill();
        let (leased, taken_over) = Leased::new(StreamOrigin::TakenOver);
        let taken_over = async {
            taken_over.await;
            Ok(())
        };
        future::or(
            run(client(&memory, "worker-2").recorder(leased)),
            taken_over,
        )
        .await
    });
}

async fn announced() -> Result<MemoryBackend> {
    let memory = MemoryBackend::new(TokioRuntime::new());
    let producer = Producer::new("calls", &memory, TokioRuntime::new())?;
    producer.submit("call-1", Info::NONE).await?;
    Ok(memory)
}

fn client(memory: &MemoryBackend, name: &str) -> ClientBuilder {
    Client::builder("calls")
        .consumer(name)
        .backend(memory.clone())
        .runtime(TokioRuntime::new())
        .ttl(Duration::from_secs(1))
}

fn block_on(run: impl Future<Output = Result<()>>) {
    let runtime = tokio::runtime::Runtime::new().expect("threads of its own");
    let bound = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        panic!("it does not end");
    };
    let ended = runtime.block_on(future::or(run, bound));
    ended.expect("it ends without an error");
}

/// Hears of the lease of a stream with that origin.
#[derive(Debug)]
struct Leased {
    origin: StreamOrigin,
    tell: Sender<()>,
}

impl Leased {
    fn new(origin: StreamOrigin) -> (Arc<Self>, BoxFuture<'static, ()>) {
        let (tell, told): (_, Receiver<()>) = bounded(1);
        let leased = Arc::new(Self { origin, tell });
        let told = Box::pin(async move {
            let _ = told.recv().await;
        });
        (leased, told)
    }
}

impl Recorder for Leased {
    fn stream_started(&self, started: &Started) {
        if started.origin == self.origin {
            let _ = self.tell.try_send(());
        }
    }
}
