//! Consumers and producers that are there before their server is, or while it restarts.
//! Without a `World`, whose server answers from the beginning.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use futures_lite::future;
use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{
    Announcement, Client, Event, Events, Info, Producer, Runtime, StreamName, SubmitBatch,
    SubmitOutcome,
};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{RedisServer, eventually_blocking, in_real_time};

/// Tests of these scenarios, each with a server of its own.
macro_rules! alone {
    ($($scenario:ident),+ $(,)?) => {
        mod redis_alone {
            $(
                #[test]
                fn $scenario() {
                    super::on_tokio(super::$scenario);
                }
            )+
        }
    };
}

alone!(
    who_starts_before_its_server_waits_for_it,
    who_starts_while_its_server_is_loading_waits_for_it,
    a_submit_across_a_restart_appends_each_stream_once,
);

const TTL: Duration = Duration::from_secs(1);

fn on_tokio(scenario: impl AsyncFn() + Sync) {
    in_real_time(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(scenario());
    });
}

fn start(url: &str) -> (Client, Events) {
    let builder = Client::builder("orders").consumer("a").ttl(TTL);
    let builder = builder.backend(RedisBackend::new(url).unwrap());
    builder.runtime(TokioRuntime::new()).start().unwrap()
}

async fn within<T>(bound: Duration, wanted: impl Future<Output = T>) -> Option<T> {
    let late = async {
        let runtime = TokioRuntime::new();
        runtime.sleep_until(runtime.now() + bound).await;
        None
    };
    future::or(async { Some(wanted.await) }, late).await
}

async fn is_given(events: &mut Events, stream: &str) {
    let event = within(Duration::from_secs(10), events.next()).await;
    match event.expect("an event in time") {
        Some(Event::StreamAdded(lease)) => assert_eq!(lease.stream().as_str(), stream),
        event => panic!("{event:?}"),
    }
}

/// A service and its server that are started together.
async fn who_starts_before_its_server_waits_for_it() {
    let mut server = RedisServer::start();
    server.kill();
    let url = server.url();
    let producing = tokio::spawn(async move {
        let backend = RedisBackend::new(url).unwrap();
        let producer = Producer::new("orders", &backend, TokioRuntime::new()).unwrap();
        producer.submit("s", Info::NONE).await.unwrap();
    });
    let (client, mut events) = start(&server.url());
    assert!(within(TTL * 3, client.started()).await.is_none());
    tokio::task::block_in_place(|| server.start_again());
    let started = within(TTL * 3, client.started()).await;
    started.expect("it has started").unwrap();
    is_given(&mut events, "s").await;
    producing.await.unwrap();
    client.shutdown().await.unwrap();
}

async fn who_starts_while_its_server_is_loading_waits_for_it() {
    let builder = RedisServer::builder()
        .config("key-load-delay 10000")
        .config("loading-process-events-interval-bytes 1024");
    let mut server = builder.start();
    let mut fill = redis::pipe();
    for n in 0..300 {
        fill.cmd("SET").arg(format!("k{n}")).arg("x".repeat(100));
    }
    let _: () = fill.query(&mut server.connection()).unwrap();
    let _: () = server.run(&["SAVE"]);
    server.kill();
    let url = server.url();
    // It waits until the server answers with something else than this.
    let loading = thread::spawn(move || {
        server.start_again();
        server
    });
    let is_loading = || {
        let connection = redis::Client::open(&*url).and_then(|c| c.get_connection());
        connection.is_ok_and(|mut connection| {
            let answer: redis::RedisResult<String> = redis::cmd("PING").query(&mut connection);
            answer.is_err_and(|err| err.code() == Some("LOADING"))
        })
    };
    tokio::task::block_in_place(|| {
        eventually_blocking("it loads", Duration::from_secs(10), is_loading);
    });
    let (client, mut events) = start(&url);
    assert!(within(TTL / 2, client.started()).await.is_none());
    let started = within(Duration::from_secs(15), client.started()).await;
    started.expect("it has started").unwrap();
    let backend = RedisBackend::new(&*url).unwrap();
    let producer = Producer::new("orders", &backend, TokioRuntime::new()).unwrap();
    producer.submit("s", Info::NONE).await.unwrap();
    is_given(&mut events, "s").await;
    client.shutdown().await.unwrap();
    drop(loading.join().unwrap());
}

/// What of it was appended before the server went is not appended again.
async fn a_submit_across_a_restart_appends_each_stream_once() {
    let mut server = RedisServer::builder().append_only().start();
    let backend = RedisBackend::new(server.url()).unwrap();
    let producer = Producer::new("orders", &backend, TokioRuntime::new()).unwrap();
    let announce = |n| Announcement::new(StreamName::new(format!("s{n}")).unwrap(), Info::NONE);
    let announcements: Vec<_> = (0..20_000).map(announce).collect();
    let batch = SubmitBatch::with_key("a job", announcements).unwrap();
    let submitting = tokio::spawn(async move { producer.submit_batch(&batch).await });
    let restarting = thread::spawn(move || {
        let appended = || server.run::<u64>(&["XLEN", "orders-input"]);
        eventually_blocking("some", Duration::from_secs(10), || appended() > 500);
        server.kill();
        server.start_again();
        server
    });
    let ids = submitting.await.unwrap().unwrap();
    let server = tokio::task::block_in_place(|| restarting.join().unwrap());
    assert_eq!(server.run::<usize>(&["XLEN", "orders-input"]), 20_000);
    let ids = ids.into_iter().map(SubmitOutcome::entry);
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 20_000);
}
