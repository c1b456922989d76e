//! What users bring and the driver calls: a logger or recorder that blocks or panics.
//! On tokio with several threads, in real time: what blocks, blocks one of them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fmt;
use std::future::Future;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use streamlease_backend_memory::MemoryBackend;
use streamlease_core::decorate::decorate;
use streamlease_core::{
    Backend, BackendProvider, Client, Completion, Event, Events, Info, Lease, Load, Producer,
    Recorder, Result, ServiceName, Started,
};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_testkit::faults::Faults;

const TTL: Duration = Duration::from_secs(1);

/// Blocks whoever passes, while it is shut.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        while *is_shut {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            is_shut = self.opened.wait(is_shut).unwrap();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn shut(&self) {
        *self.is_shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_shut.lock().unwrap() = false;
        self.opened.notify_all();
    }

    async fn is_waited_at(&self) {
        while self.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Given(Backend);

impl BackendProvider for Given {
    fn backend(&self, _: &ServiceName) -> Result<Backend> {
        Ok(self.0.clone())
    }
}

/// A client with this recorder, and its locks, which can be cut off.
async fn start(recorder: Arc<dyn Recorder>) -> (Client, Events, Producer, Faults) {
    let memory = MemoryBackend::new(TokioRuntime::new());
    let producer = Producer::new("orders", &memory, TokioRuntime::new()).unwrap();
    let service = ServiceName::new("orders").unwrap();
    let mut backend = memory.backend(&service).unwrap();
    let faults = Faults::new();
    backend.locks = decorate(backend.clone(), faults.clone()).locks;
    let builder = Client::builder("orders").consumer("a").ttl(TTL);
    let builder = builder.backend(Given(backend)).recorder(recorder);
    let (client, events) = builder.runtime(TokioRuntime::new()).start().unwrap();
    client.started().await.unwrap();
    (client, events, producer, faults)
}

async fn within<T>(bound: Duration, what: &str, wanted: impl Future<Output = T>) -> T {
    let wanted = tokio::time::timeout(bound, wanted).await;
    wanted.unwrap_or_else(|_| panic!("not within {bound:?}: {what}"))
}

async fn lease(events: &mut Events) -> Lease {
    match within(TTL * 3, "a lease", events.next()).await {
        Some(Event::StreamAdded(lease)) => lease,
        other => panic!("{other:?}"),
    }
}

fn on_threads(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(4).enable_time().build().unwrap();
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| runtime.block_on(test)));
    // Dropping it would wait for a thread that is blocked for ever.
    runtime.shutdown_background();
    if let Err(cause) = result {
        panic::resume_unwind(cause);
    }
}

struct Log(Gate);

static LOG: std::sync::LazyLock<Log> = std::sync::LazyLock::new(|| Log(Gate::default()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        self.0.pass();
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        self.0.pass();
    }

    fn flush(&self) {}
}

/// Standard error of a process whose parent has stopped reading.
#[test]
fn a_logger_that_blocks_keeps_nobody_from_hearing_of_the_end_of_a_lease() {
    log::set_logger(&*LOG).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    on_threads(async {
        let (client, mut events, producer, locks) =
            start(Arc::new(streamlease_core::recorder::NoRecorder)).await;
        producer.submit("s", Info::NONE).await.unwrap();
        let lost = lease(&mut events).await;
        LOG.0.shut();
        producer.submit("t", Info::NONE).await.unwrap();
        let kept = lease(&mut events).await;
        LOG.0.is_waited_at().await;
        // Heartbeats go on, and so does work.
        tokio::time::sleep(TTL * 2).await;
        assert!(lost.is_valid() && kept.is_valid());
        let completed = within(TTL, "a completion", kept.complete()).await;
        assert_eq!(completed.unwrap(), Completion::Completed);
        locks.break_all();
        within(TTL * 2, "lost", lost.lost()).await;
        let event = within(TTL, "its event", events.next()).await;
        assert!(matches!(event, Some(Event::StreamDisowned(_))), "{event:?}");
        locks.repair();
        within(TTL * 2, "the end", client.shutdown()).await.unwrap();
        LOG.0.open();
    });
}

/// Blocks when it is told of a second lease. What it is told of the first one may come
/// after the lease itself.
#[derive(Debug, Default)]
struct Blocking(Gate, AtomicUsize);

impl Recorder for Blocking {
    fn stream_started(&self, _: &Started) {
        if self.1.fetch_add(1, Ordering::Relaxed) > 0 {
            self.0.pass();
        }
    }
}

/// It must not; but who holds a lease is told on time even so.
#[test]
fn a_recorder_that_blocks_the_driver_keeps_lost_from_resolving_no_longer_than_belief() {
    on_threads(async {
        let recorder = Arc::new(Blocking::default());
        recorder.0.shut();
        let (_client, mut events, producer, _) = start(recorder.clone()).await;
        producer.submit("s", Info::NONE).await.unwrap();
        let held = lease(&mut events).await;
        producer.submit("t", Info::NONE).await.unwrap();
        // The event goes before what is recorded of it.
        let other = lease(&mut events).await;
        within(TTL, "it blocks", recorder.0.is_waited_at()).await;
        within(TTL * 2, "lost", held.lost()).await;
        assert!(!held.is_valid());
        within(TTL, "lost, too", other.lost()).await;
        recorder.0.open();
    });
}

#[derive(Debug, Default)]
struct Panicking(AtomicBool);

impl Panicking {
    fn panic(&self) {
        self.0.store(true, Ordering::Relaxed);
        panic!("a recorder that panics");
    }
}

impl Recorder for Panicking {
    fn startup_recovery(&self, _: usize) {
        self.panic();
    }
    fn claim(&self, _: streamlease_core::recorder::Attempt, _: usize) {
        self.panic();
    }
    fn lock_acquire(&self, _: streamlease_core::recorder::Attempt, _: usize) {
        self.panic();
    }
    fn stream_started(&self, _: &Started) {
        self.panic();
    }
    fn stream_ended(&self, _: streamlease_core::recorder::EndKind, _: Duration) {
        self.panic();
    }
    fn hint_received(&self) {
        self.panic();
    }
    fn load(&self, _: &Load) {
        self.panic();
    }
}

/// It ended the client, and the events just stopped.
#[test]
fn a_recorder_that_panics_ends_no_client() {
    on_threads(async {
        let recorder = Arc::new(Panicking::default());
        let (client, mut events, producer, _) = start(recorder.clone()).await;
        for n in 0..3 {
            producer.submit(format!("s{n}"), Info::NONE).await.unwrap();
            let lease = lease(&mut events).await;
            let completed = within(TTL, "a completion", lease.complete()).await;
            assert_eq!(completed.unwrap(), Completion::Completed);
        }
        assert!(recorder.0.load(Ordering::Relaxed));
        within(TTL * 2, "the end", client.shutdown()).await.unwrap();
        let event = within(TTL, "the last event", events.next()).await;
        assert!(matches!(event, Some(Event::Terminated(end)) if end.is_shutdown()));
    });
}
