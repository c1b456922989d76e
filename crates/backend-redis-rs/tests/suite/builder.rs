//! What a URL cannot say: credentials that change, those of sentinels, transports of the
//! application's own, time-outs.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use streamlease_backend_redis_rs::{
    CredentialProvider, Credentials, Dial, Link, RedisBackend, RedisBackendBuilder,
};
use streamlease_core::*;
use streamlease_tests::{Cluster, Sentinels};

use crate::support::*;

fn orders(provider: &RedisBackend) -> Backend {
    provider.backend(&service("orders")).unwrap()
}

/// A password that somebody changes, and how often it was asked for.
#[derive(Clone, Default)]
struct Vault {
    password: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
}

impl Vault {
    fn change(&self, server: &RedisServer, password: &str) {
        *self.password.lock().unwrap() = password.to_owned();
        let set = format!(">{password}");
        server.run::<()>(&[
            "ACL", "SETUSER", "app", "reset", "on", &set, "~*", "&*", "+@all",
        ]);
    }
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credentials(&self) -> Result<Credentials> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let password = self.password.lock().unwrap().clone();
        match &*password {
            "" => Err(Error::new(ErrorKind::Unavailable, "the vault is sealed")),
            _ => Ok(Credentials::new("app", password)),
        }
    }
}

#[test]
fn who_provides_credentials_is_asked_at_each_connect() {
    on_both(|| async {
        let server = RedisServer::start();
        let vault = Vault::default();
        let builder = RedisBackend::builder(server.url()).credentials(vault.clone());
        let provider = builder.build().unwrap();
        let backend = orders(&provider);
        let err = backend.transport.prepare().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.to_string().contains("the vault is sealed"), "{err}");

        vault.change(&server, "first");
        backend.transport.prepare().await.unwrap();
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        backend.notifier.subscribe().await.unwrap();
        assert_eq!(
            vault.asked.load(Ordering::Relaxed),
            4,
            "one failed, three made"
        );
        let list: String = server.run(&["CLIENT", "LIST"]);
        assert!(list.contains("user=app"), "{list}");

        // What is connected stays; what comes next is another.
        vault.change(&server, "second");
        backend.transport.prepare().await.unwrap();
        assert!(server.run::<u32>(&["CLIENT", "KILL", "USER", "app"]) > 0);
        let _ = backend.transport.prepare().await;
        backend.transport.prepare().await.unwrap();
        assert_eq!(vault.asked.load(Ordering::Relaxed), 5);
    });
}

#[test]
fn sentinels_and_servers_have_credentials_of_their_own() {
    on_both(|| async {
        let all = Sentinels::with(
            |server| server.config("user app on >pw ~* &* +@all"),
            |sentinel| {
                sentinel
                    .config("user asker on >secret -@all +auth +sentinel|get-master-addr-by-name")
            },
        );
        let url = all.url();
        let as_app = url.replace("://", "://app:pw@");
        // The servers' are not shown to the sentinels, which do not know them.
        RedisBackend::connect(&as_app).await.unwrap();
        let builder = || RedisBackend::builder(&as_app);
        let asker = |password: &str| Credentials::new("asker", password);
        let asking = builder().sentinel_credentials(asker("secret"));
        asking.connect().await.unwrap();
        let list: String = all.sentinel(0).run(&["CLIENT", "LIST"]);
        assert!(!list.contains("user=app"), "{list}");
        let wrong = builder().sentinel_credentials(asker("wrong"));
        let err = wrong.connect().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
        let from_vault = RedisBackend::builder(&url).credentials(Credentials::new("app", "pw"));
        orders(&from_vault.build().unwrap())
            .transport
            .prepare()
            .await
            .unwrap();
    });
}

/// Connects over a transport that the client crate knows nothing of, and counts.
#[derive(Clone, Default)]
struct Tunnel {
    dialed: Arc<Mutex<Vec<u16>>>,
}

#[async_trait]
impl Dial for Tunnel {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Link>> {
        self.dialed.lock().unwrap().push(port);
        Ok(Box::new(smol::net::TcpStream::connect((host, port)).await?))
    }
}

#[test]
fn a_transport_of_ones_own_carries_everything_also_to_nodes_that_were_found() {
    on_both(|| async {
        let cluster = Cluster::start();
        let tunnel = Tunnel::default();
        let builder = RedisBackend::builder(cluster.url()).dial(tunnel.clone());
        let backend = orders(&builder.build().unwrap());
        backend.transport.prepare().await.unwrap();
        let mut subscription = backend.notifier.subscribe().await.unwrap();
        let ids = submitted(&backend, &batch(1, &["s"])).await.unwrap();
        let fetched = backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        assert_eq!(fetched.entries[0].entry, ids[0]);
        let owner = cluster.node(cluster.owner_of("orders-input")).port();
        let dialed = tunnel.dialed.lock().unwrap().clone();
        let to_owner = dialed.iter().filter(|port| **port == owner).count();
        assert!(to_owner >= 3, "commands, reads, hints: {dialed:?}");
        backend
            .locks
            .sessions()
            .unwrap()
            .close(&session("a", 1, 1000).id)
            .await
            .unwrap();
        drop(backend);
        assert!(soon(subscription.next()).await.is_ok(), "a hint");
    });
}

#[test]
fn time_outs_are_kept_and_bounded() {
    on_both(|| async {
        let server = RedisServer::start();
        let limit = Duration::from_millis(300);
        let builder = RedisBackend::builder(server.url());
        let provider = builder
            .response_timeout(limit)
            .connect_timeout(limit)
            .build();
        let backend = orders(&provider.unwrap());
        backend.transport.prepare().await.unwrap();
        server.freeze();
        for what in ["no answer", "no connection"] {
            let began = Instant::now();
            let err = backend.transport.prepare().await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unavailable, "{what}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{what}: {:?}",
                began.elapsed()
            );
        }
        server.thaw();
    });
    for (name, limit) in [("connect_timeout", 0), ("response_timeout", 61_000)] {
        let limit = Duration::from_millis(limit);
        let builder = RedisBackend::builder("redis://h");
        let builder = match name {
            "connect_timeout" => builder.connect_timeout(limit),
            _ => builder.response_timeout(limit),
        };
        let err = builder.build().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config);
        assert!(err.to_string().contains(name), "{err}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_and_nothing_secret_is_shown() {
    let with = |url: &str| RedisBackend::builder(url);
    let fixed = || Credentials::new("me", "secret");
    let refused: Vec<(RedisBackendBuilder, &str)> = vec![
        (
            with("redis://me:secret@h").credentials(fixed()),
            "so has the builder",
        ),
        (
            with("redis://h").sentinel_credentials(fixed()),
            "no sentinels",
        ),
        (
            with("redis-cluster://h").sentinel_credentials(fixed()),
            "no sentinels",
        ),
        (with("redis://h").ca("x"), "no TLS"),
        (
            with("redis-cluster://h").client_certificate("x", "secret"),
            "no TLS",
        ),
        (with("unix:///s").dial(Tunnel::default()), "a file"),
    ];
    for (builder, why) in refused {
        let shown = format!("{builder:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let err = builder.build().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{err}");
        assert!(err.to_string().contains(why), "{err}");
        assert!(!err.to_string().contains("secret"), "{err}");
    }
    assert!(with("redis://me@h").credentials(fixed()).build().is_ok());
    assert!(!format!("{:?}", fixed()).contains("secret"));
}
