//! What a client finds when it looks at its service and its process; virtual time, the
//! memory backend.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::decorate::{Decorator, decorate};
use streamlease_core::*;
use streamlease_testkit::faults::Faults;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, TTL, everywhere};

/// Sleeps and tasks of this one are late.
#[derive(Debug, Clone)]
struct LateRuntime(SimRuntime, Duration);

impl Runtime for LateRuntime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn suspended(&self) -> Duration {
        self.0.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline + self.1)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

/// All calls take that long.
#[derive(Debug, Clone)]
struct Slow(SimRuntime, Duration);

impl Decorator for Slow {
    async fn call<T: Send + 'static>(
        &self,
        _: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.0.sleep_until(self.0.now() + self.1).await;
        request.await
    }
}

fn found<'a>(report: &'a Report, code: &str) -> &'a Finding {
    let mut findings = report.findings.iter();
    let finding = findings.find(|finding| finding.code == code);
    finding.unwrap_or_else(|| panic!("no {code} in {report:#?}"))
}

impl Fleet {
    fn parts(&self) -> Backend {
        self.backend.backend(&self.service).unwrap()
    }

    async fn report(&self) -> Report {
        Report::of(&self.parts(), &self.sim, TTL).await
    }
}

#[test]
fn a_client_at_work_finds_nothing_wrong() {
    everywhere(|fleet| async move {
        let mut node = fleet.start("a").await;
        fleet.submit(&["s"]).await;
        let lease = node.lease(TTL).await;
        let report = node.client.check().await;
        assert_eq!(report.worst(), Severity::Info, "{report:#?}");
        for code in [
            "executor-lag",
            "latency",
            "unowned",
            "stranded",
            "quarantine",
        ] {
            assert_eq!(found(&report, code).severity, Severity::Ok, "{code}");
        }
        let members = &found(&report, "members").message;
        assert!(members.ends_with(": 1 (a)"), "{members}");
        let locks = &found(&report, "locks").message;
        assert_eq!(locks.contains("session"), fleet.session_leases, "{locks}");
        for finding in &report.findings {
            let link = finding.link.as_deref().unwrap();
            assert!(link.ends_with(&format!("#{}", finding.code)), "{link}");
        }
        assert!(lease.is_valid());
    });
}

#[test]
fn looking_makes_nothing() {
    everywhere(|fleet| async move {
        let report = fleet.report().await;
        found(&report, "unused");
        assert_eq!(report.worst(), Severity::Info, "{report:#?}");
        // Still nobody has.
        found(&fleet.report().await, "unused");

        // With a group, and without.
        fleet.submit(&["s"]).await;
        for prepared in [false, true] {
            let report = fleet.report().await;
            let members = found(&report, "members");
            assert_eq!(members.severity, Severity::Warning, "{members}");
            assert!(members.advice.is_some());
            if !prepared {
                fleet.parts().transport.prepare().await.unwrap();
            }
        }
        let undelivered = fleet.parts().admin.list_undelivered(EntryId::MIN, 9).await;
        assert_eq!(undelivered.unwrap().len(), 1);
        assert_eq!(fleet.parts().admin.consumers().await.unwrap(), []);
    });
}

#[test]
fn an_executor_that_is_late_shows_against_the_ttl() {
    for (late, severity) in [
        (TTL / 20, Severity::Ok),
        (TTL / 8, Severity::Warning),
        (TTL / 2, Severity::Error),
    ] {
        let fleet = Fleet::new(SimRuntime::new(1), true);
        fleet.sim.block_on(async {
            let runtime = LateRuntime(fleet.sim.clone(), late);
            let report = Report::of(&fleet.parts(), &runtime, TTL).await;
            assert_eq!(
                found(&report, "executor-lag").severity,
                severity,
                "{late:?}"
            );
        });
    }
}

#[test]
fn a_backend_that_is_slow_shows_against_the_ttl() {
    for (slow, severity) in [
        (TTL / 20, Severity::Ok),
        (TTL / 8, Severity::Warning),
        (TTL / 2, Severity::Error),
    ] {
        let fleet = Fleet::new(SimRuntime::new(1), true);
        fleet.sim.block_on(async {
            let backend = decorate(fleet.parts(), Slow(fleet.sim.clone(), slow));
            let report = Report::of(&backend, &fleet.sim, TTL).await;
            let latency = found(&report, "latency");
            assert_eq!(latency.severity, severity, "{slow:?}: {latency}");
            assert_eq!(latency.advice.is_some(), severity > Severity::Ok);
        });
    }
}

#[test]
fn a_backend_that_cannot_be_reached_is_a_finding_and_the_last() {
    everywhere(|fleet| async move {
        let faults = Faults::new();
        let backend = decorate(fleet.parts(), faults.clone());
        faults.break_all();
        let report = Report::of(&backend, &fleet.sim, TTL).await;
        let last = report.findings.last().unwrap();
        assert_eq!((last.code, last.severity), ("unreachable", Severity::Error));
        assert!(last.advice.is_some());
        // The LBS, and the locks, which may be elsewhere.
        let count = report.count(Severity::Error);
        assert_eq!(count, 2, "{report:#?}");
    });
}

/// Of a server that hangs in the middle of it.
#[test]
fn a_call_that_is_never_answered_ends_the_look_all_the_same() {
    for call in [Operation::ListPendingIds, Operation::ListUndelivered] {
        everywhere(async |fleet| {
            let faults = Faults::new();
            let backend = decorate(fleet.parts(), faults.clone());
            let _held = faults.hold(call);
            let began = fleet.sim.now();
            let report = Report::of(&backend, &fleet.sim, TTL).await;
            let took = fleet.sim.now().saturating_since(began);
            assert!(took < Duration::from_secs(70), "{call}: {took:?}");
            assert_eq!(
                found(&report, "unreachable").severity,
                Severity::Error,
                "{call}"
            );
        });
    }
}

#[test]
fn what_is_in_quarantine_is_told_with_its_reason() {
    everywhere(|fleet| async move {
        let mut node = fleet
            .start_with(fleet.builder("a").quarantine_after(Some(1)))
            .await;
        fleet.submit(&["s"]).await;
        node.lease(TTL).await.fail("no such file").await.unwrap();
        fleet.sleep(TTL).await;
        let quarantine = found(&fleet.report().await, "quarantine").clone();
        assert_eq!(quarantine.severity, Severity::Warning);
        assert!(quarantine.message.contains("no such file"), "{quarantine}");
    });
}

/// Locks in another system, which has something to say of itself.
#[derive(Debug)]
struct Telling(Arc<dyn LockManager>);

#[async_trait]
impl LockManager for Telling {
    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        self.0.acquire(session, requests).await
    }

    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        self.0.renew(renew).await
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        self.0.release(session, releases).await
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        self.0.inspect(locks).await
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        let finding = Finding::new(Severity::Error, "alarm", "the store is out of space");
        Ok(vec![
            finding
                .advise("Compact it")
                .explained_on("https://locks.example/alarms"),
        ])
    }
}

#[test]
fn a_lock_backend_tells_what_only_it_knows_with_a_link_of_its_own() {
    let fleet = Fleet::new(SimRuntime::new(1), false);
    fleet.sim.block_on(async {
        let mut backend = fleet.parts();
        backend.locks = Arc::new(Telling(backend.locks));
        // Through a decorator, too.
        let backend = decorate(backend, Faults::new());
        let report = Report::of(&backend, &fleet.sim, TTL).await;
        let alarm = found(&report, "alarm");
        assert_eq!(
            alarm.link.as_deref(),
            Some("https://locks.example/alarms#alarm")
        );
        assert_eq!(report.worst(), Severity::Error);
        assert_eq!(alarm.to_string(), "error alarm: the store is out of space");
    });
}
