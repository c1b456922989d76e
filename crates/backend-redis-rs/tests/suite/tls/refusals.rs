//! What is wrong with certificates and ports is said at once, with what would be right, and
//! is no outage.

use std::time::{Duration, Instant};

use streamlease_backend_redis_rs::{RedisBackend, RedisBackendBuilder};
use streamlease_core::*;
use streamlease_tests::{Authority, Certificate, RedisServer, Tls};

use super::{consumer, next_lease, on_each, start, trusting};
use crate::support::{eventually, on_both, soon};

/// The error of a start, which nobody waits for longer than for an answer.
async fn refused(builder: RedisBackendBuilder, kind: ErrorKind, right: &str) {
    let began = Instant::now();
    let err = builder.connect().await.unwrap_err();
    assert_eq!(err.kind(), kind, "{err}");
    assert!(err.to_string().contains(right), "{right}: {err}");
    assert!(!err.is_retryable(), "{err}");
    assert!(!err.to_string().contains("KEY-----\n"), "{err}");
    assert!(began.elapsed() < Duration::from_secs(2), "{err}");
}

#[test]
fn a_server_whose_certificate_will_not_do_is_denied() {
    on_both(|| async {
        let authority = Authority::new();
        let good = start(Tls::of(&authority));
        let stranger = Authority::new();
        let issuer = "that of its authority";
        refused(
            trusting(good.tls_url(), &stranger),
            ErrorKind::Denied,
            issuer,
        )
        .await;
        // Nor does the system trust it.
        let by_system = RedisBackend::builder(good.tls_url());
        refused(by_system, ErrorKind::Denied, issuer).await;
        for (certificate, right) in [
            (authority.expired_server(), "has expired"),
            (authority.server_named(&["elsewhere"]), "the name"),
        ] {
            let server = start(Tls::of(&authority).showing(certificate));
            let builder = trusting(server.tls_url(), &authority);
            refused(builder, ErrorKind::Denied, right).await;
        }
        let by_name_only = authority.server_named(&["localhost"]);
        let server = start(Tls::of(&authority).showing(by_name_only));
        let url = server.tls_url().replace("localhost", "127.0.0.1");
        refused(trusting(url, &authority), ErrorKind::Denied, "the address").await;
    });
}

#[test]
fn a_client_whose_certificate_will_not_do_is_denied() {
    on_both(|| async {
        let authority = Authority::new();
        for protocols in ["TLSv1.2", "TLSv1.2 TLSv1.3"] {
            let server = RedisServer::builder()
                .config(format!("tls-protocols \"{protocols}\""))
                .tls(Tls::of(&authority).asking_clients())
                .start();
            let builder = || trusting(server.tls_url(), &authority);
            refused(builder(), ErrorKind::Denied, "client_certificate").await;
            for (certificate, right) in [
                (Authority::new().client(), "does not accept"),
                (authority.expired_client(), "has expired"),
            ] {
                let Certificate { pem, key } = certificate;
                let builder = builder().client_certificate(pem, key);
                refused(builder, ErrorKind::Denied, right).await;
            }
        }
    });
}

#[test]
fn what_is_no_certificate_and_a_key_of_another_one_are_settings_errors() {
    on_both(|| async {
        let authority = Authority::new();
        let server = start(Tls::of(&authority));
        let (one, other) = (authority.client(), authority.client());
        let url = server.tls_url();
        let garbled = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
        let with = |pem: &str, key: &str| trusting(&url, &authority).client_certificate(pem, key);
        for (builder, right) in [
            (RedisBackend::builder(&url).ca("x"), "the CA"),
            (RedisBackend::builder(&url).ca(garbled), "not usable"),
            (RedisBackend::builder(&url).ca(one.key.clone()), "the CA"),
            (with("x", &one.key), "the client certificate"),
            (with(&one.pem, "x"), "the client's key"),
            (with(&one.key, &one.pem), "the client certificate"),
            (with(&one.pem, &other.key), "does not belong"),
        ] {
            refused(builder, ErrorKind::Config, right).await;
        }
    });
}

#[test]
fn tls_to_a_plain_port_and_the_other_way_round_are_settings_errors() {
    on_both(|| async {
        let authority = Authority::new();
        let server = start(Tls::of(&authority));
        let (plain, tls) = (server.port(), server.tls_port());
        for kind in ["", "-cluster", "-sentinel"] {
            let name = if kind == "-sentinel" { "/mymaster" } else { "" };
            let url = format!("rediss{kind}://localhost:{plain}{name}");
            let builder = trusting(url, &authority);
            refused(builder, ErrorKind::Config, "answers without TLS").await;
            let url = format!("redis{kind}://localhost:{tls}{name}");
            let builder = RedisBackend::builder(url);
            refused(builder, ErrorKind::Config, "speaks TLS").await;
        }
        // One that wants a password first says so to anybody.
        let guarded = RedisServer::builder().config("requirepass pw").start();
        let url = format!("rediss://:pw@localhost:{}", guarded.port());
        let builder = trusting(url, &authority);
        refused(builder, ErrorKind::Config, "answers without TLS").await;
        // And one that says nothing at all is away.
        guarded.freeze();
        let url = format!("rediss://localhost:{}", guarded.port());
        let builder = trusting(url, &authority).connect_timeout(Duration::from_secs(2));
        let err = builder.connect().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        guarded.thaw();
    });
}

#[test]
fn a_client_that_is_refused_at_its_start_ends() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority));
        let provider = trusting(server.tls_url(), &Authority::new()).build();
        let (client, _events) = consumer(provider.unwrap(), runtime, Duration::from_secs(2));
        let err = soon(client.started()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    });
}

#[test]
fn a_certificate_that_expires_while_a_client_and_a_producer_work_ends_neither() {
    on_each(async |runtime| {
        let authority = Authority::new();
        let server = start(Tls::of(&authority));
        let provider = trusting(server.tls_url(), &authority).build().unwrap();
        let producer = Producer::new("orders", &provider, runtime.clone()).unwrap();
        let (client, mut events) = consumer(provider.clone(), runtime, Duration::from_secs(1));
        soon(client.started()).await.unwrap();
        producer.submit("before", Info::NONE).await.unwrap();
        next_lease(&mut events).await.complete().await.unwrap();

        server.show(&authority.expired_server());
        // What is connected stays; who has to connect anew cannot.
        let kill = ["CLIENT", "KILL", "TYPE", "normal"];
        server.run::<()>(&kill);
        let connect = || trusting(server.tls_url(), &authority).connect();
        let err = connect().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
        let during = producer.submit("during", Info::NONE);
        let renew = async {
            // Longer than a TTL: everything has been tried, and more than once.
            crate::support::pause(Duration::from_millis(1500)).await;
            server.show(&authority.server());
        };
        let (entry, ()) = soon(futures_lite::future::zip(during, renew)).await;
        let lease = next_lease(&mut events).await;
        assert_eq!(lease.entry(), entry.unwrap());
        lease.complete().await.unwrap();
        eventually("nothing is left", || {
            server.run::<usize>(&["XLEN", "orders-input"]) == 0
        })
        .await;
        soon(client.shutdown()).await.unwrap();
    });
}
