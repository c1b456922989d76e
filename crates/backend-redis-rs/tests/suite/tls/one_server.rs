//! One server: everything works as without TLS.

use std::io::{self, Read};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_rustls::TlsConnector;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use streamlease_backend_redis_rs::{Dial, Link, RedisBackend};
use streamlease_core::*;
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{Authority, RedisServer, Tls};

use super::{consumer, next_lease, on_each, start, trusting};
use crate::conformance;
use crate::support::{on_both, on_smol, on_tokio, soon};

/// One stream, from its announcement to its end.
async fn lives(provider: RedisBackend, runtime: Arc<dyn Runtime>) {
    let producer = Producer::new("orders", &provider, runtime.clone()).unwrap();
    let (client, mut events) = consumer(provider, runtime, Duration::from_secs(2));
    soon(client.started()).await.unwrap();
    producer.submit("s", Info::NONE).await.unwrap();
    let lease = next_lease(&mut events).await;
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    soon(client.shutdown()).await.unwrap();
}

#[test]
fn a_lease_lives_and_ends_over_tls_with_an_own_authority() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority));
        let provider = trusting(server.tls_url(), &authority).connect().await;
        lives(provider.unwrap(), runtime).await;
    });
}

#[test]
fn no_plain_port_is_needed_by_name_or_by_address() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority).alone());
        let by_name = server.tls_url();
        let by_address = by_name.replace("localhost", "127.0.0.1");
        for url in [by_name, by_address] {
            let provider = trusting(url, &authority).connect().await;
            lives(provider.unwrap(), runtime.clone()).await;
        }
    });
}

#[test]
fn who_shows_a_client_certificate_is_let_in_where_it_is_asked_for() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority).asking_clients());
        let client = authority.client();
        let builder = trusting(server.tls_url(), &authority);
        let provider = builder.client_certificate(client.pem, client.key).connect();
        lives(provider.await.unwrap(), runtime).await;
    });
}

#[test]
fn a_server_that_knows_tls_1_2_only_will_do() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let builder = RedisServer::builder().config("tls-protocols TLSv1.2");
        let server = builder.tls(Tls::of(&authority)).start();
        let provider = trusting(server.tls_url(), &authority).connect().await;
        lives(provider.unwrap(), runtime).await;
    });
}

#[test]
fn the_name_is_sent_in_the_clear_for_proxies_to_choose_by_and_an_address_is_not() {
    on_both(|| async {
        for (host, is_sent) in [("localhost", true), ("127.0.0.1", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            // Hangs up after the first words.
            let hello = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 5];
                stream.read_exact(&mut head).unwrap();
                let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
                stream.read_exact(&mut hello).unwrap();
                hello
            });
            let err = RedisBackend::connect(format!("rediss://{host}:{port}")).await;
            assert_eq!(err.unwrap_err().kind(), ErrorKind::Unavailable);
            let hello = hello.join().unwrap();
            let has = hello
                .windows(host.len())
                .any(|part| part == host.as_bytes());
            assert_eq!(has, is_sent, "{host}");
        }
    });
}

async fn conforms(runtime: Arc<dyn Runtime>, scheme: LockScheme) {
    let authority = Authority::new();
    let server = start(Tls::of(&authority).asking_clients());
    let client = authority.client();
    let builder = trusting(server.tls_url(), &authority).client_certificate(client.pem, client.key);
    let provider = || builder.clone().build().unwrap().with_lock_scheme(scheme);
    conformance::conforms(provider, runtime).await;
}

#[test]
fn session_leases_conform_over_tls_on_tokio() {
    on_tokio(|| async { conforms(Arc::new(TokioRuntime::new()), LockScheme::Session).await });
}

#[test]
fn session_leases_conform_over_tls_on_smol() {
    on_smol(|| conforms(Arc::new(SmolRuntime::new()), LockScheme::Session));
}

#[test]
fn per_stream_locks_conform_over_tls_on_tokio() {
    on_tokio(|| async { conforms(Arc::new(TokioRuntime::new()), LockScheme::PerStream).await });
}

#[test]
fn per_stream_locks_conform_over_tls_on_smol() {
    on_smol(|| conforms(Arc::new(SmolRuntime::new()), LockScheme::PerStream));
}

/// TLS of the application's own.
#[derive(Clone)]
struct OwnTls {
    connector: TlsConnector,
    dialed: Arc<Mutex<Vec<u16>>>,
}

impl OwnTls {
    fn new(authority: &Authority) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            connector: Arc::new(config).into(),
            dialed: Arc::default(),
        }
    }
}

#[async_trait]
impl Dial for OwnTls {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Link>> {
        self.dialed.lock().unwrap().push(port);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = smol::net::TcpStream::connect((host, port)).await?;
        Ok(Box::new(self.connector.connect(name, stream).await?))
    }
}

#[test]
fn who_dials_brings_the_tls_too_and_the_url_does_not_ask_for_it() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority).alone());
        let own = OwnTls::new(&authority);
        let url = server.tls_url().replace("rediss://", "redis://");
        let builder = RedisBackend::builder(&url).dial(own.clone());
        lives(builder.connect().await.unwrap(), runtime).await;
        let dialed = own.dialed.lock().unwrap().clone();
        assert!(dialed.len() >= 2, "{dialed:?}");
        assert!(dialed.iter().all(|port| *port == server.tls_port()));
        // Nobody would lay it over those links: nothing goes out in the clear unnoticed.
        let err = RedisBackend::builder(server.tls_url()).dial(own).build();
        let err = err.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config);
        assert!(err.to_string().contains("you dial"), "{err}");
        // What goes wrong in there is told apart as it is here.
        let other = OwnTls::new(&Authority::new());
        let err = RedisBackend::builder(&url).dial(other).connect().await;
        assert_eq!(err.unwrap_err().kind(), ErrorKind::Denied);
    });
}
