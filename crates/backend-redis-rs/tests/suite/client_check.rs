//! `client.check()` on a server, on both runtimes, and on an executor that handlers block.

use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::{Client, Finding, Report, Runtime, Severity};
use streamlease_runtime_smol::SmolRuntime;
use streamlease_runtime_tokio::TokioRuntime;
use streamlease_tests::{RedisServer, in_real_time};

const TTL: Duration = Duration::from_secs(3);

fn found<'a>(report: &'a Report, code: &str) -> &'a Finding {
    let mut findings = report.findings.iter();
    let finding = findings.find(|finding| finding.code == code);
    finding.unwrap_or_else(|| panic!("no {code} in {report:#?}"))
}

/// What a client finds that has started.
async fn looked(server: &RedisServer, runtime: impl Runtime) -> Report {
    let builder = Client::builder("orders").consumer("one").ttl(TTL);
    let backend = RedisBackend::new(server.url()).unwrap();
    let (client, _events) = builder.backend(backend).runtime(runtime).start().unwrap();
    client.started().await.unwrap();
    let report = client.check().await;
    client.shutdown().await.unwrap();
    report
}

#[test]
fn a_client_on_either_runtime_finds_nothing_wrong_with_a_server_that_is_well() {
    in_real_time(|| {
        let server = RedisServer::builder().append_only().start();
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let reports = [
            tokio.block_on(async { looked(&server, TokioRuntime::new()).await }),
            smol::block_on(looked(&server, SmolRuntime::new())),
        ];
        for report in reports {
            assert_eq!(report.worst(), Severity::Info, "{report:#?}");
            assert!(report.count(Severity::Ok) > 10, "{report:#?}");
            let members = found(&report, "members").message.clone();
            assert!(members.contains("redis-consumer-one"), "{members}");
        }
    });
}

#[test]
fn handlers_that_block_the_executor_show() {
    in_real_time(|| {
        let server = RedisServer::builder().append_only().start();
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let report = tokio.block_on(async {
            tokio::spawn(async {
                loop {
                    // What no handler should do.
                    std::thread::sleep(TTL / 8);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            looked(&server, TokioRuntime::new()).await
        });
        let lag = found(&report, "executor-lag");
        assert_eq!(lag.severity, Severity::Warning, "{lag}");
        assert!(lag.advice.as_deref().unwrap().contains("block"), "{lag}");
    });
}
