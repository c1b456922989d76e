//! Shorthands for what the tests share: both runtimes, a backend, the traits' arguments.

pub(crate) mod leases;
pub(crate) mod said;

use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;
pub(crate) use streamlease_tests::RedisServer;
use streamlease_tests::in_real_time;

/// Runs a test's body once under tokio and once under smol.
pub(crate) fn on_both<F: Future<Output = ()>>(body: impl Fn() -> F) {
    on_tokio(&body);
    on_smol(body);
}

/// In real time: an answer that takes two seconds is an error.
pub(crate) fn on_tokio<F: Future<Output = ()>>(body: impl Fn() -> F) {
    in_real_time(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(body());
    });
}

pub(crate) fn on_smol<F: Future<Output = ()>>(body: impl Fn() -> F) {
    in_real_time(|| smol::block_on(body()));
}

/// A server that has on disk what it answered, so that a restart loses nothing.
pub(crate) fn keeping_all() -> RedisServer {
    RedisServer::builder()
        .append_only()
        .config("appendfsync always")
        .start()
}

/// Asks again until it is so, within ten seconds.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause(Duration::from_millis(2)).await;
    }
}

/// Lets others run while a condition is waited for.
pub(crate) async fn pause(time: Duration) {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep(time).await;
    } else {
        smol::Timer::after(time).await;
    }
}

/// `work`'s result; fails the test if it takes longer than ten seconds.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        pause(Duration::from_secs(10)).await;
        panic!("took longer than ten seconds")
    };
    futures_lite::future::or(work, late).await
}

pub(crate) async fn backend(server: &RedisServer, service: &str) -> Backend {
    backend_with(server, service, LockScheme::PerStream).await
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// The backend of the service `orders`, not connected yet.
pub(crate) fn orders_at(url: &str) -> Backend {
    let provider = RedisBackend::new(url).unwrap();
    provider.backend(&service("orders")).unwrap()
}

pub(crate) async fn backend_with(
    server: &RedisServer,
    service: &str,
    scheme: LockScheme,
) -> Backend {
    let provider = RedisBackend::connect(server.url()).await.unwrap();
    provider
        .with_lock_scheme(scheme)
        .backend(&self::service(service))
        .unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn consumer(identity: &str) -> ConsumerName {
    ConsumerName::from_wire(format!("redis-consumer-{identity}"))
}

pub(crate) fn session(identity: &str, nonce: u64, ttl_ms: u64) -> Session {
    Session::new(
        SessionId::new(consumer(identity), nonce),
        Duration::from_millis(ttl_ms),
    )
}

pub(crate) fn batch(id: u128, names: &[&str]) -> SubmitBatch {
    let announcements = names
        .iter()
        .map(|name| Announcement::new(stream(name), Info::NONE))
        .collect();
    SubmitBatch::with_id(id, announcements)
}

/// The ids of a batch that announces whatever is there already.
pub(crate) async fn submitted(backend: &Backend, batch: &SubmitBatch) -> Result<Vec<EntryId>> {
    let outcomes = backend.submitter.submit(batch).await?;
    Ok(outcomes.into_iter().map(SubmitOutcome::entry).collect())
}

pub(crate) fn fetch(identity: &str, max: usize, wait_ms: u64) -> FetchRequest {
    FetchRequest::new(consumer(identity), max, Duration::from_millis(wait_ms))
}

pub(crate) fn fenced(entry: EntryId, token: u64) -> Fenced {
    Fenced {
        entry,
        token: FencingToken(token),
    }
}

pub(crate) fn acquire(name: &str, entry: EntryId, attempt: u64, floor: u64) -> Acquire {
    Acquire::new(stream(name), entry, attempt, FencingToken(floor))
}

pub(crate) const ALL: Scope = Scope::All {
    after: EntryId::MIN,
};
