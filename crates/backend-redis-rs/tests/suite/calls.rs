//! No script call keeps the server from everything else for long: each does no
//! more than a page, whatever there is. Counted in commands and in words that
//! they name, as `MONITOR` shows them, since time depends on the machine; the
//! benches report the time.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use streamlease_backend_redis_rs::RedisBackend;
use streamlease_core::*;

use crate::support::*;

const TTL: u64 = 60_000;
/// Items per script call, at most.
const PAGE: usize = 128;
/// Locks per call of those that only read or extend: heartbeats and inspections.
const LOCK_PAGE: usize = 250;
/// Items per script call that moves entries with their payload, into quarantine or out.
const QUARANTINE_PAGE: usize = 64;
/// Of everything: a few pages, the last one cut off.
const MANY: usize = 1_000;
/// Commands within one call. One takes a microsecond or two, …
const MOST_COMMANDS: usize = 1_000;
/// … on a stream up to five.
const MOST_ON_STREAMS: usize = 300;
/// Names, ids and values within one call, apart from payloads' contents.
const MOST_WORDS: usize = 4_000;

/// Sees what the server executes.
struct Watch<'a> {
    server: &'a RedisServer,
    lines: BufReader<TcpStream>,
    rounds: usize,
    /// The last call that was looked at.
    last: Done,
}

/// What one script call did.
#[derive(Debug, Clone, Default)]
struct Done {
    /// What the call itself was given.
    given: usize,
    commands: Vec<String>,
    words: usize,
}

impl<'a> Watch<'a> {
    fn new(server: &'a RedisServer) -> Self {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut ok = String::new();
        lines.read_line(&mut ok).unwrap();
        assert_eq!(ok.trim(), "+OK");
        Self {
            server,
            lines,
            rounds: 0,
            last: Done::default(),
        }
    }

    /// The script calls since the last look, in order.
    fn calls(&mut self) -> Vec<Done> {
        self.rounds += 1;
        let end = format!("end-of-round-{}", self.rounds);
        self.server.run::<()>(&["PING", &end]);
        let mut calls: Vec<Done> = Vec::new();
        loop {
            let mut line = Vec::new();
            self.lines.read_until(b'\n', &mut line).unwrap();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words = words_of(&line);
            if words.last() == Some(&end) {
                return calls;
            }
            let command = words[0].to_ascii_uppercase();
            if line.split(' ').nth(2) == Some("lua]") {
                let call = calls.last_mut().unwrap();
                call.commands.push(command);
                call.words += words.len() - 1;
            } else if command == "EVALSHA" || command == "EVAL" {
                calls.push(Done {
                    given: words.len() - 2,
                    ..Done::default()
                });
            }
        }
    }

    /// Checks that so many items took as few calls as their pages are, each of
    /// them within bounds.
    fn expect(&mut self, what: &str, items: usize, page: usize) {
        let calls = self.expect_short(what);
        assert_eq!(calls, items.div_ceil(page).max(1), "{what}: calls");
    }

    /// Checks that each call was within bounds. Returns how many there were.
    fn expect_short(&mut self, what: &str) -> usize {
        let calls = self.calls();
        let most = |count: fn(&Done) -> usize| calls.iter().map(count).max().unwrap_or(0);
        let commands = most(|call| call.commands.len());
        let on_streams = most(|call| call.commands.iter().filter(|c| c.starts_with('X')).count());
        let (words, given) = (most(|call| call.words), most(|call| call.given));
        println!(
            "{what}: {} calls, at most {given} words given, {commands} commands \
             ({on_streams} on streams) with {words} words",
            calls.len()
        );
        assert!(commands > 0, "{what}: the server has not shown what it did");
        assert!(commands <= MOST_COMMANDS, "{what}: {commands} commands");
        assert!(
            on_streams <= MOST_ON_STREAMS,
            "{what}: {on_streams} commands on streams"
        );
        assert!(words <= MOST_WORDS, "{what}: {words} words");
        assert!(given <= MOST_WORDS, "{what}: {given} words given");
        self.last = calls.last().cloned().unwrap_or_default();
        calls.len()
    }
}

/// The quoted words of a line of MONITOR.
fn words_of(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted => {
                words.push(std::mem::take(&mut word));
                quoted = false;
            }
            '"' => quoted = true,
            '\\' if quoted => word.extend(rest.next()),
            c if quoted => word.push(c),
            _ => {}
        }
    }
    words
}

/// A service with a session of ours, and MANY streams submitted and read by us.
struct Service<'a> {
    backend: Backend,
    me: Session,
    watch: Watch<'a>,
    streams: Vec<(StreamName, EntryId)>,
}

impl<'a> Service<'a> {
    async fn start(server: &'a RedisServer, scheme: LockScheme) -> Self {
        let backend = backend_with(server, "orders", scheme).await;
        backend.transport.prepare().await.unwrap();
        let me = session("me", 1, TTL);
        assert_eq!(
            backend.locks.sessions().unwrap().open(&me).await.unwrap(),
            OpenOutcome::Opened
        );
        Self {
            backend,
            me,
            watch: Watch::new(server),
            streams: Vec::new(),
        }
    }

    async fn submit_and_fetch(&mut self, id: u128) {
        let names: Vec<String> = (0..MANY).map(|n| format!("call-{n:06}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let transport = &self.backend.transport;
        self.watch.calls();
        let ids = submitted(&self.backend, &batch(id, &names)).await.unwrap();
        self.watch.expect("submit", MANY, PAGE);
        let fetched = transport.fetch(&fetch("me", MANY, 0)).await.unwrap();
        assert_eq!(fetched.entries.len(), MANY);
        let names = names.iter().map(|name| stream(name));
        self.streams = names.zip(ids).collect();
    }

    fn requests(&self, attempt: u64) -> Vec<Acquire> {
        let requests = self
            .streams
            .iter()
            .map(|(stream, entry)| Acquire::new(stream.clone(), *entry, attempt, FencingToken(0)));
        requests.collect()
    }

    async fn acquire(&mut self, attempt: u64) -> Vec<LeaseRef> {
        let requests = self.requests(attempt);
        let outcomes = self.backend.locks.acquire(&self.me, &requests).await;
        self.watch.expect("acquire", MANY, PAGE);
        let leases = requests.into_iter().zip(outcomes.unwrap());
        let leases = leases.map(|(request, outcome)| match outcome {
            AcquireOutcome::Acquired(token) => LeaseRef {
                stream: request.stream,
                entry: request.entry,
                token,
            },
            other => panic!("{other:?}"),
        });
        leases.collect()
    }

    async fn release(&mut self, leases: &[LeaseRef]) {
        let releases: Vec<Release> = leases
            .iter()
            .map(|lease| Release::new(lease.clone()).announce(true))
            .collect();
        let outcomes = self.backend.locks.release(&self.me.id, &releases).await;
        assert_eq!(outcomes.unwrap(), vec![ReleaseOutcome::Released; MANY]);
        self.watch.expect("release", MANY, PAGE);
    }

    async fn claim(&mut self, what: &str, leases: &[LeaseRef]) -> Vec<Fenced> {
        let claims = fenced_by(leases);
        let claimer = &self.me.id.consumer;
        let outcomes = self.backend.transport.claim(claimer, &claims).await;
        let claimed = |outcome: &ClaimOutcome| matches!(outcome, ClaimOutcome::Claimed { .. });
        assert!(outcomes.unwrap().iter().all(claimed));
        self.watch.expect(what, MANY, PAGE);
        claims
    }
}

fn fenced_by(leases: &[LeaseRef]) -> Vec<Fenced> {
    let fenced = leases.iter().map(|lease| Fenced {
        entry: lease.entry,
        token: lease.token,
    });
    fenced.collect()
}

/// Teaches a server our scripts: one that is not known takes a call more.
async fn warm_up(server: &RedisServer, scheme: LockScheme) {
    every_call(&backend_with(server, "warm-up", scheme).await).await;
}

async fn every_call(backend: &Backend) {
    let me = session("warmer", 1, TTL);
    let (locks, transport) = (&backend.locks, &backend.transport);
    let claimer = me.id.consumer.clone();
    transport.prepare().await.unwrap();
    locks.sessions().unwrap().open(&me).await.unwrap();
    let entry = submitted(backend, &batch(1, &["s"])).await.unwrap()[0];
    locks
        .acquire(&me, &[acquire("s", entry, 1, 0)])
        .await
        .unwrap();
    let lease = LeaseRef {
        stream: stream("s"),
        entry,
        token: FencingToken(1),
    };
    let release = Release::new(lease.clone());
    locks.release(&me.id, &[release]).await.unwrap();
    locks.inspect(&[lock_of(&lease)]).await.unwrap();
    locks.renew(&Renew::new(me.clone(), [])).await.unwrap();
    locks
        .sessions()
        .unwrap()
        .take_over(&me, &session("none", 1, TTL).id, 1)
        .await
        .unwrap();
    locks
        .sessions()
        .unwrap()
        .records(&me.id, None, 1)
        .await
        .unwrap();
    locks
        .sessions()
        .unwrap()
        .revoke(&[stream("s")])
        .await
        .unwrap();
    locks.sessions().unwrap().members().await.unwrap();
    let fenced = [fenced(entry, 1)];
    transport.claim(&claimer, &fenced).await.unwrap();
    transport.clear_failures(&fenced).await.unwrap();
    transport.list_pending(&ALL, 1).await.unwrap();
    let back = HandBackRequest::new(entry, FencingToken(1))
        .failed(Some("it was bad".into()))
        .rests(true);
    transport.hand_back(&claimer, &[back]).await.unwrap();
    let quarantine = Quarantine::new(entry, FencingToken(2), 0, "warm".to_owned());
    transport.quarantine(&claimer, &[quarantine]).await.unwrap();
    transport.complete(&claimer, &fenced).await.unwrap();
    backend
        .admin
        .list_quarantined(EntryId::MIN, 1)
        .await
        .unwrap();
    backend.admin.release_quarantined(&[entry]).await.unwrap();
    backend.admin.drop_quarantined(&[entry]).await.unwrap();
    transport.remove_consumer(&consumer("none")).await.unwrap();
    locks.sessions().unwrap().close(&me.id).await.unwrap();
}

fn lock_of(lease: &LeaseRef) -> LockId {
    LockId {
        stream: lease.stream.clone(),
        entry: lease.entry,
    }
}

/// Lists these, [`MANY`] at most, also where the machine is so slow that a listing ends before
/// its limit. Returns how many there were.
async fn list_pending(transport: &dyn Transport, scope: impl Fn(EntryId) -> Scope) -> usize {
    let (mut after, mut listed) = (EntryId::MIN, 0);
    loop {
        let page = transport.list_pending(&scope(after), MANY - listed).await;
        let page = page.unwrap();
        listed += page.entries.len();
        match page.next {
            Some(next) if listed < MANY => after = next,
            _ => return listed,
        }
    }
}

#[test]
fn no_call_of_the_transport_does_more_than_a_page() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::Session).await;
        let mut service = Service::start(&server, LockScheme::Session).await;
        let claimer = service.me.id.consumer.clone();
        let transport = service.backend.transport.clone();
        service.submit_and_fetch(2).await;

        let leases = service.acquire(1).await;
        let claims = service.claim("claim", &leases).await;
        let fresh = service.watch.last.clone();
        assert_eq!(
            fresh.commands,
            ["HMGET", "GET", "XCLAIM", "HSET"],
            "of what nobody has owned"
        );
        // The first look of a sweep also looks for left-over records.
        let all = |after| Scope::All { after };
        assert_eq!(list_pending(&*transport, all).await, MANY);
        service.watch.expect("list, tidied", MANY + PAGE, PAGE);
        let by_ids = |after| {
            let ids = claims.iter().map(|claim| claim.entry);
            Scope::Entries(ids.filter(|id| *id > after).collect())
        };
        assert_eq!(list_pending(&*transport, by_ids).await, MANY);
        service.watch.expect("list by ids", MANY, PAGE);

        let backs: Vec<HandBackRequest> = (claims.iter().enumerate())
            .map(|(n, claim)| {
                HandBackRequest::new(claim.entry, claim.token)
                    .failed((n % 2 == 0).then(|| "it was bad".repeat(25)))
                    .rests(n % 2 == 0)
            })
            .collect();
        transport.hand_back(&claimer, &backs).await.unwrap();
        service.watch.expect("hand back", MANY, PAGE);
        service.release(&leases).await;

        let leases = service.acquire(2).await;
        let claims = service.claim("claim of what failed", &leases).await;
        transport.clear_failures(&claims).await.unwrap();
        service.watch.expect("clear failures", MANY, PAGE);
        let outcomes = transport.complete(&claimer, &claims).await.unwrap();
        assert_eq!(outcomes, vec![CompleteOutcome::Completed; MANY]);
        service.watch.expect("complete", MANY, PAGE);
        let outcomes = transport.complete(&claimer, &claims).await.unwrap();
        assert_eq!(outcomes, vec![CompleteOutcome::Gone; MANY]);
        service.watch.expect("complete of what is gone", MANY, PAGE);
        let outcomes = transport.claim(&claimer, &claims).await.unwrap();
        assert_eq!(outcomes, vec![ClaimOutcome::Gone; MANY]);
        service.watch.expect("claim of what is gone", MANY, PAGE);
        service.release(&leases).await;
    });
}

#[test]
fn no_call_of_the_quarantine_does_more_than_a_page() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::Session).await;
        let mut service = Service::start(&server, LockScheme::Session).await;
        let claimer = service.me.id.consumer.clone();
        let transport = service.backend.transport.clone();
        for round in 2..4 {
            service.submit_and_fetch(round).await;
            let leases = service.acquire(round as u64).await;
            let claims = service.claim("claim", &leases).await;
            let quarantined: Vec<Quarantine> = (claims.iter())
                .map(|claim| Quarantine::new(claim.entry, claim.token, 0, "it fails".to_owned()))
                .collect();
            transport.quarantine(&claimer, &quarantined).await.unwrap();
            service.watch.expect("quarantine", MANY, QUARANTINE_PAGE);
            let quarantined = service
                .backend
                .admin
                .list_quarantined(EntryId::MIN, MANY)
                .await;
            assert_eq!(quarantined.unwrap().len(), MANY);
            service.watch.expect("list the quarantine", MANY, PAGE);
            let ids: Vec<EntryId> = claims.iter().map(|claim| claim.entry).collect();
            if round == 2 {
                service
                    .backend
                    .admin
                    .release_quarantined(&ids)
                    .await
                    .unwrap();
                service
                    .watch
                    .expect("release from it", MANY, QUARANTINE_PAGE);
                let fetched = transport.fetch(&fetch("me", MANY, 0)).await.unwrap();
                assert_eq!(fetched.entries.len(), MANY);
                service.release(&leases).await;
            } else {
                service.backend.admin.drop_quarantined(&ids).await.unwrap();
                service.watch.expect("drop", MANY, PAGE);
            }
        }
    });
}

#[test]
fn no_call_of_per_stream_locks_does_more_than_a_page() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::PerStream).await;
        let mut service = Service::start(&server, LockScheme::PerStream).await;
        let locks = service.backend.locks.clone();
        service.submit_and_fetch(2).await;
        let leases = service.acquire(1).await;
        let outcome = locks
            .renew(&Renew::new(service.me.clone(), leases.to_vec()))
            .await
            .unwrap();
        assert!(matches!(outcome, RenewOutcome::Extended(reply) if reply.lost.is_empty()));
        service.watch.expect("heartbeat", MANY, LOCK_PAGE);
        let ids: Vec<LockId> = leases.iter().map(lock_of).collect();
        locks.inspect(&ids).await.unwrap();
        service.watch.expect("inspect", MANY, LOCK_PAGE);

        let other = session("other", 1, TTL);
        locks.sessions().unwrap().open(&other).await.unwrap();
        service.watch.calls();
        let refused = locks.acquire(&other, &service.requests(1)).await.unwrap();
        assert!(
            refused
                .iter()
                .all(|outcome| matches!(outcome, AcquireOutcome::Held(_)))
        );
        service.watch.expect("refused acquire", MANY, PAGE);
        service.release(&leases).await;
    });
}

#[test]
fn no_call_of_session_leases_does_more_than_a_page() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::Session).await;
        let mut service = Service::start(&server, LockScheme::Session).await;
        let locks = service.backend.locks.clone();
        service.submit_and_fetch(2).await;
        let leases = service.acquire(1).await;
        let names: Vec<StreamName> = leases.iter().map(|lease| lease.stream.clone()).collect();
        let ids: Vec<LockId> = leases.iter().map(lock_of).collect();
        locks.inspect(&ids).await.unwrap();
        service.watch.expect("inspect", MANY, PAGE);
        let record = locks
            .sessions()
            .unwrap()
            .records(&service.me.id, None, MANY)
            .await
            .unwrap();
        assert_eq!(record.len(), MANY);
        service.watch.expect("record", MANY, PAGE);

        let other = session("other", 1, TTL);
        locks.sessions().unwrap().open(&other).await.unwrap();
        service.watch.calls();
        let refused = locks.acquire(&other, &service.requests(1)).await.unwrap();
        assert!(
            refused
                .iter()
                .all(|outcome| matches!(outcome, AcquireOutcome::Held(_)))
        );
        service.watch.expect("refused acquire", MANY, PAGE);

        // A heartbeat with marks tells of a part of them, and the next of the others.
        assert_eq!(
            locks.sessions().unwrap().revoke(&names).await.unwrap(),
            vec![true; MANY]
        );
        service.watch.expect("revoke", MANY, PAGE);
        let RenewOutcome::Extended(reply) = locks
            .renew(&Renew::new(service.me.clone(), []))
            .await
            .unwrap()
        else {
            panic!("the session is gone");
        };
        assert!((1..=PAGE + LOCK_PAGE).contains(&reply.revoked.len()));
        service.watch.expect("heartbeat with marks", 1, PAGE);
        // So it does if nothing of what is marked is held any more.
        server.run::<()>(&["DEL", "{orders-input}:owners"]);
        service.watch.calls();
        locks
            .renew(&Renew::new(service.me.clone(), []))
            .await
            .unwrap();
        service.watch.expect("heartbeat with stale marks", 1, PAGE);
    });
}

#[test]
fn a_dead_session_is_taken_over_a_page_a_call() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::Session).await;
        let mut service = Service::start(&server, LockScheme::Session).await;
        let locks = service.backend.locks.clone();
        service.submit_and_fetch(2).await;
        let leases = service.acquire(1).await;
        let names: Vec<StreamName> = leases.into_iter().map(|lease| lease.stream).collect();
        locks.sessions().unwrap().revoke(&names).await.unwrap();
        let heir = session("heir", 1, TTL);
        locks.sessions().unwrap().open(&heir).await.unwrap();
        locks
            .sessions()
            .unwrap()
            .close(&service.me.id)
            .await
            .unwrap();
        service.watch.calls();
        // Whatever is asked for.
        loop {
            let outcome = locks
                .sessions()
                .unwrap()
                .take_over(&heir, &service.me.id, MANY)
                .await
                .unwrap();
            let TakeOverOutcome::Taken { leases, left } = outcome else {
                panic!("{outcome:?}");
            };
            assert!(leases.len() <= PAGE);
            if left == 0 {
                break;
            }
        }
        service.watch.expect("take over", MANY, PAGE);
        // With marks that nobody has acted on: they are freed in the background.
        assert!(
            locks
                .sessions()
                .unwrap()
                .remove(&service.me.id)
                .await
                .unwrap()
        );
        let calls = service.watch.calls();
        let commands = &calls[0].commands;
        assert!(commands.contains(&"UNLINK".to_owned()), "{commands:?}");
        assert!(!commands.contains(&"DEL".to_owned()), "{commands:?}");
    });
}

#[test]
fn those_who_were_refused_are_forgotten_a_part_at_a_time() {
    for scheme in [LockScheme::Session, LockScheme::PerStream] {
        on_tokio(|| async {
            let server = RedisServer::start();
            let backend = backend_with(&server, "orders", scheme).await;
            let (a, b) = (session("a", 1, TTL), session("b", 1, TTL));
            for session in [&a, &b] {
                backend
                    .locks
                    .sessions()
                    .unwrap()
                    .open(session)
                    .await
                    .unwrap();
            }
            // Long ago.
            for n in 0..MANY {
                let old = format!("old-{n}");
                server.run::<()>(&["ZADD", "{orders-input}:refused", "1000", &old]);
            }
            let request = [acquire("call", EntryId::new(1, 0), 1, 0)];
            backend.locks.acquire(&a, &request).await.unwrap();
            let mut before = MANY + 1;
            while before > 1 {
                let refused = backend.locks.acquire(&b, &request).await.unwrap();
                assert!(matches!(refused[0], AcquireOutcome::Held(_)));
                let left: usize = server.run(&["ZCARD", "{orders-input}:refused"]);
                assert!(before - left <= 2 * PAGE, "{before} and then {left}");
                assert!(left < before, "it grows for ever");
                before = left;
            }
        });
    }
}

/// Consumers, not streams: not as many of them, but one call may go over all.
#[test]
fn no_call_over_all_sessions_is_long() {
    on_tokio(|| async {
        let server = RedisServer::start();
        warm_up(&server, LockScheme::Session).await;
        let mut service = Service::start(&server, LockScheme::Session).await;
        let locks = service.backend.locks.clone();
        let others: Vec<_> = (1..MANY)
            .map(|n| session(&format!("other-{n}"), 1, TTL))
            .collect();
        for other in &others {
            locks.sessions().unwrap().open(other).await.unwrap();
        }
        service.watch.calls();
        let members = locks.sessions().unwrap().members().await.unwrap();
        assert_eq!(members.len(), MANY);
        let calls = service.watch.expect_short("members");
        assert!((3..=2 * MANY / LOCK_PAGE).contains(&calls), "{calls}");

        // As after a restart: everybody's deadline begins anew.
        server.run::<()>(&["HSET", "{orders-input}:server", "run", "before"]);
        service.watch.calls();
        let RenewOutcome::Extended(reply) = locks
            .renew(&Renew::new(service.me.clone(), []))
            .await
            .unwrap()
        else {
            panic!("the session is gone");
        };
        assert_eq!(reply.members as usize, MANY);
        service.watch.expect("heartbeat after a restart", 1, PAGE);

        for who in others.iter().chain([&service.me]) {
            locks.sessions().unwrap().close(&who.id).await.unwrap();
        }
        service.watch.calls();
        let orders = ServiceName::new("orders").unwrap();
        let provider = RedisBackend::connect(server.url()).await.unwrap();
        let migrated = provider.migrate(&orders, LockScheme::PerStream).await;
        migrated.unwrap();
        service.watch.expect_short("migrate");
    });
}
