//! Handlers that block their threads: nobody should, and many do.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use streamlease_backend_memory::MemoryBackend;
use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{
    BackendProvider, Client, Done, EntryId, Info, Lease, LockScheme, Producer, Run, Scope,
    ServiceName, Stopping,
};
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{RedisServer, in_real_time};

const TTL: Duration = Duration::from_millis(500);

type Provider = Arc<dyn BackendProvider>;

/// Tests of a scenario that is given a function which makes two backends, one for the client
/// and one for everybody else.
macro_rules! with_a_thread_for_the_client {
    ($($scenario:ident,)+) => {
        $(
            mod $scenario {
                use super::*;

                #[test]
                fn in_memory() {
                    in_real_time(|| {
                        super::$scenario(|own| {
                            let memory = Arc::new(MemoryBackend::new(own));
                            (memory.clone(), memory)
                        });
                    });
                }

                #[test]
                fn on_redis_with_session_leases() {
                    on_redis(LockScheme::Session);
                }

                #[test]
                fn on_redis_with_per_stream_locks() {
                    on_redis(LockScheme::PerStream);
                }

                fn on_redis(scheme: LockScheme) {
                    in_real_time(|| {
                        let server = RedisServer::start();
                        let connect = || {
                            let redis = RedisBackend::new(server.url()).unwrap();
                            Arc::new(redis.with_lock_scheme(scheme))
                        };
                        super::$scenario(|_| (connect(), connect()));
                    });
                }
            }
        )+
    };
}

with_a_thread_for_the_client!(handlers_that_block_every_thread_lose_nothing,);

/// Two handlers block both threads of a runtime for three TTLs.
fn handlers_that_block_every_thread_lose_nothing(
    backends: impl FnOnce(TokioRuntime) -> (Provider, Provider),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work(backends));
}

async fn work(backends: impl FnOnce(TokioRuntime) -> (Provider, Provider)) {
    let own = TokioRuntime::own_thread().unwrap();
    let (of_client, of_others) = backends(own.clone());
    let producer = Producer::new("orders", &of_others, TokioRuntime::new()).unwrap();
    let client = Client::builder("orders").consumer("a").ttl(TTL);
    let (client, events) = client.backend(of_client).runtime(own).start().unwrap();
    client.started().await.unwrap();
    for name in ["s", "t"] {
        producer.submit(name, Info::NONE).await.unwrap();
    }
    let (say, said) = async_channel::unbounded();
    let handler = move |lease: Arc<Lease>, _: Stopping| {
        let say = say.clone();
        async move {
            thread::sleep(TTL * 3);
            say.send((thread::current().id(), lease.is_valid()))
                .await
                .unwrap();
            Done::Complete
        }
    };
    let (tell, told) = async_channel::bounded(1);
    let stop = async move {
        let both = [said.recv().await.unwrap(), said.recv().await.unwrap()];
        tell.send(both).await.unwrap();
    };
    client.run(events, Run::until(stop), handler).await.unwrap();
    let [one, other] = told.recv().await.unwrap();
    assert!(one.1 && other.1, "a lease was lost");
    assert_ne!(one.0, other.0, "a thread was free all along");
    // Completed, so by their owner.
    let service = ServiceName::new("orders").unwrap();
    let backend = of_others.backend(&service).unwrap();
    let all = Scope::All {
        after: EntryId::MIN,
    };
    let left = backend.transport.list_pending(&all, 10).await.unwrap();
    assert!(left.entries.is_empty(), "{left:?}");
}
