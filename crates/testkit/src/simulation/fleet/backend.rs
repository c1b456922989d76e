//! [`SimBackend`]: the backend of one process, which has a way of its own to the servers.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_lite::future;
use streamlease_core::{
    Acquire, AcquireOutcome, Admin, Backend, BackendProvider, ClaimOutcome, CompleteOutcome,
    ConsumerName, ConsumerState, Delivery, EntryId, Error, ErrorKind, Fenced, FetchRequest,
    Fetched, HandBackOutcome, HandBackRequest, Hint, LeaseRef, LockId, LockManager, LockScheme,
    LockState, Member, Notifier, OpenOutcome, Pause, PendingIds, PendingPage, Quarantine,
    QuarantineOutcome, QuarantineRelease, Quarantined, Release, ReleaseOutcome, Renew,
    RenewOutcome, Result, Runtime, Scope, ServiceCounts, ServiceName, Session, SessionId, Sessions,
    StreamName, SubmitBatch, SubmitOutcome, Submitter, Subscription, TakeOverOutcome, Transport,
};

use super::servers::{HintsAre, Server, Shared, State, lock, unavailable};
use crate::clock::{Time, ns};
use crate::simulation::link::{Link, Size};
use crate::simulation::network::Network;
use crate::simulation::rng::Rng;

/// A connection without an answer is given up after that, and a fetch's after
/// its wait and that. So also calls that nobody limits come to an end.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// One process's way to [`SimServers`](super::SimServers): the backend of its
/// client, or of a producer. Clones are the same backend.
#[derive(Debug, Clone)]
pub struct SimBackend {
    pub(super) number: usize,
    shared: Arc<Shared>,
    pub(super) state: Arc<Mutex<SimBackendState>>,
}

#[derive(Debug)]
pub(super) struct SimBackendState {
    rng: Rng,
    requests_lost_until: Time,
    replies_lost_until: Time,
    demoted_until: Time,
    connects_until: Time,
    link: Link,
    /// Calls that have been answered at least once.
    worked: BTreeSet<&'static str>,
}

impl SimBackend {
    pub(super) fn new(number: usize, shared: Arc<Shared>) -> Self {
        let state = SimBackendState {
            rng: Rng::new(shared.sim.random(u64::MAX)),
            requests_lost_until: 0,
            replies_lost_until: 0,
            demoted_until: 0,
            connects_until: 0,
            link: Link::default(),
            worked: BTreeSet::new(),
        };
        Self {
            number,
            shared,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Its requests are lost for so long.
    pub fn lose_requests(&self, length: Duration) {
        lock(&self.state).requests_lost_until = self.shared.now() + ns(length);
    }

    /// Replies and hints to it are lost for so long.
    pub fn lose_replies(&self, length: Duration) {
        lock(&self.state).replies_lost_until = self.shared.now() + ns(length);
    }

    /// Its server was demoted, and answers everything with an error until it is connected
    /// anew, after so long.
    pub fn demote(&self, length: Duration) {
        lock(&self.state).demoted_until = self.shared.now() + ns(length);
    }

    /// Its connection is gone, and making another takes so long; what is asked meanwhile
    /// waits for that.
    pub fn connect_slowly(&self, length: Duration) {
        lock(&self.state).connects_until = self.shared.now() + ns(length);
    }

    /// Its link is thin for so long: an entry with its info takes `each`, and everything
    /// else as much less as it is shorter. Infos come beside the rest, in short pages.
    pub fn narrow(&self, each: Duration, length: Duration) {
        let now = self.shared.now();
        lock(&self.state).link.narrow(now, each, length);
    }

    /// One request, its execution, and its reply. Once polled, all of it
    /// happens: the network is nobody's process.
    async fn call<T: Debug + Send + 'static>(
        &self,
        server: Server,
        name: &'static str,
        operation: impl FnOnce(&mut State, u64, &mut Vec<Hint>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let backend = self.clone();
        self.on_the_network(name, async move {
            backend.request().await?;
            let result = backend
                .shared
                .execute(server, name, backend.number, operation);
            backend.reply(Size::Items(1)).await?;
            result
        })
        .await
    }

    async fn lbs<T: Debug + Send + 'static>(
        &self,
        name: &'static str,
        operation: impl FnOnce(&mut State, u64, &mut Vec<Hint>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(Server::Lbs, name, operation).await
    }

    async fn locks<T: Debug + Send + 'static>(
        &self,
        name: &'static str,
        operation: impl FnOnce(&mut State, u64, &mut Vec<Hint>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(Server::Locks, name, operation).await
    }

    async fn on_the_network<T: Send + 'static>(
        &self,
        name: &'static str,
        trip: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = async_channel::bounded(1);
        let backend = self.clone();
        self.shared.sim.spawn(Box::pin(async move {
            let result = trip.await.map_err(|error| backend.refused(name, error));
            let worked = result.is_ok();
            if answer.try_send(result).is_ok() && worked {
                lock(&backend.state).worked.insert(name);
            }
        }));
        let gone = |_| Err(unavailable("the simulation has ended"));
        answered.recv().await.unwrap_or_else(gone)
    }

    fn refused(&self, name: &'static str, error: Error) -> Error {
        let is_new = !lock(&self.state).worked.contains(name);
        match error.kind() {
            ErrorKind::Denied if is_new && self.shared.state().spares_the_new() => {
                unavailable("nobody is there")
            }
            _ => error,
        }
    }

    async fn request(&self) -> Result<()> {
        let now = self.shared.now();
        let (cut, demoted, connects) = {
            let state = lock(&self.state);
            let (cut, demoted) = (state.requests_lost_until > now, state.demoted_until > now);
            (cut, demoted, state.connects_until.saturating_sub(now))
        };
        if connects > 0 {
            let sim = &self.shared.sim;
            sim.sleep_until(sim.now() + Duration::from_nanos(connects))
                .await;
        }
        self.travel(cut).await?;
        match demoted {
            true => Err(unavailable("READONLY: it was demoted")),
            false => Ok(()),
        }
    }

    async fn reply(&self, size: Size) -> Result<()> {
        let now = self.shared.now();
        let (cut, late) = {
            let state = &mut *lock(&self.state);
            let cut = state.replies_lost_until > now;
            (cut, state.link.delay(now, size, false))
        };
        if late > 0 {
            let sim = &self.shared.sim;
            sim.sleep_until(sim.now() + Duration::from_nanos(late))
                .await;
        }
        self.travel(cut).await
    }

    /// A lost message is noticed at some time until it is given up.
    async fn travel(&self, cut: bool) -> Result<()> {
        let network = self.shared.state().network;
        let (arrives, delay) = {
            let rng = &mut lock(&self.state).rng;
            match network.travel(rng).filter(|_| !cut) {
                Some(delay) => (true, delay),
                None => (false, rng.between(Duration::ZERO, GIVEN_UP)),
            }
        };
        let sim = &self.shared.sim;
        sim.sleep_until(sim.now() + delay).await;
        match arrives {
            true => Ok(()),
            false => Err(unavailable("the connection broke")),
        }
    }
}

impl SimBackendState {
    pub(super) fn mend(&mut self) {
        self.requests_lost_until = 0;
        self.replies_lost_until = 0;
        self.demoted_until = 0;
        self.connects_until = 0;
        self.link = Link::default();
    }

    /// When a hint arrives here, and how often.
    pub(super) fn hint_delays(
        &mut self,
        now: Time,
        network: &Network,
        hints: HintsAre,
    ) -> Vec<Duration> {
        let rng = &mut self.rng;
        let times = match hints {
            _ if self.replies_lost_until.max(self.demoted_until) > now => 0,
            _ if self.connects_until > now => 0,
            HintsAre::Silent => 0,
            HintsAre::Fine => 1,
            HintsAre::Bad(_) => rng.below(3),
        };
        let mut arrives = |_| {
            let travels = network.travel(rng)?;
            match hints {
                HintsAre::Bad(most) => Some(travels + rng.between(Duration::ZERO, most)),
                _ => Some(travels),
            }
        };
        (0..times).filter_map(&mut arrives).collect()
    }
}

impl BackendProvider for SimBackend {
    fn backend(&self, service: &ServiceName) -> Result<Backend> {
        let theirs = &self.shared.service;
        if service != theirs {
            return Err(Error::config(format!(
                "these servers are simulated for the service {theirs}; {service} needs its own"
            )));
        }
        let backend = Arc::new(self.clone());
        Ok(Backend::new(backend.clone(), backend.clone(), backend))
    }
}

#[async_trait]
impl Transport for SimBackend {
    async fn prepare(&self) -> Result<()> {
        self.lbs("prepare", |state, _, _| {
            state.servers.lbs.prepare();
            Ok(())
        })
        .await
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let FetchRequest {
            consumer,
            max,
            wait,
            ..
        } = request.clone();
        let backend = self.clone();
        self.on_the_network("fetch", async move {
            backend.request().await?;
            let shared = &backend.shared;
            let fits = lock(&backend.state).link.piece(shared.now());
            let max = fits.unwrap_or(max).min(max);
            let (answer, answered) = async_channel::bounded(1);
            let now = shared.sim.now();
            let begin = |state: &mut State, at, _: &mut Vec<Hint>| {
                let nothing = state.servers.lbs.undelivered()? == 0;
                if nothing && !wait.is_zero() {
                    return Ok(Err(state.wait(consumer, max, answer)));
                }
                Ok(Ok(state.servers.lbs.fetch(&consumer, max, at)?))
            };
            let result = match shared.execute(Server::Lbs, "fetch", backend.number, begin) {
                Err(error) => Err(error),
                Ok(Ok(fetched)) => Ok(fetched),
                Ok(Err(ticket)) => {
                    let answer = async { answered.recv().await.ok() };
                    let waits = shared.state().servers.lbs.waits(wait);
                    let over = async {
                        shared.sim.sleep_until(now + waits).await;
                        None
                    };
                    let answer = future::or(answer, over).await;
                    shared.state().leave(ticket);
                    // It may have come between the two.
                    let answer = answer.or_else(|| answered.try_recv().ok());
                    let nothing = || Ok(shared.state().servers.lbs.nothing());
                    let fetched = answer.unwrap_or_else(nothing);
                    shared.note(format_args!(
                        "backend {} fetched: {fetched:?}",
                        backend.number
                    ));
                    fetched
                }
            };
            let brought = result.as_ref().map_or(0, |fetched| fetched.entries.len());
            backend.reply(Size::Entries(brought)).await?;
            result
        })
        .await
    }

    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage> {
        let (scope, backend) = (scope.clone(), self.clone());
        self.on_the_network("list_pending", async move {
            backend.request().await?;
            let (shared, link) = (&backend.shared, lock(&backend.state).link);
            let list = |state: &mut State, at, _: &mut Vec<Hint>| {
                let mut page = state.servers.lbs.list(&scope, limit, at)?;
                link.shorten(shared.now(), &mut page);
                Ok(page)
            };
            let result = shared.execute(Server::Lbs, "list_pending", backend.number, list);
            let brought = result.as_ref().map_or(0, |page| page.entries.len());
            backend.reply(Size::Entries(brought)).await?;
            result
        })
        .await
    }

    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let consumer = consumer.cloned();
        self.lbs("list_pending_ids", move |state, _, _| {
            let lbs = &state.servers.lbs;
            lbs.list_ids(consumer.as_ref(), after, limit)
        })
        .await
    }

    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        self.lbs("list_stranded", move |state, _, _| {
            state.servers.lbs.list_stranded(after, limit)
        })
        .await
    }

    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        let (consumer, claims) = (consumer.clone(), claims.to_vec());
        self.lbs("claim", move |state, at, _| {
            state.servers.lbs.claim(&consumer, &claims, false, at)
        })
        .await
    }

    async fn keep(&self, consumer: &ConsumerName, held: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        let (consumer, held) = (consumer.clone(), held.to_vec());
        self.lbs("keep", move |state, at, _| {
            state.servers.lbs.claim(&consumer, &held, true, at)
        })
        .await
    }

    async fn paused(&self) -> Result<Option<Pause>> {
        self.lbs("paused", |state, _, _| Ok(state.servers.lbs.pause.clone()))
            .await
    }

    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()> {
        let entries = entries.to_vec();
        self.lbs("clear_failures", move |state, _, _| {
            state.servers.lbs.clear_failures(&entries);
            Ok(())
        })
        .await
    }

    async fn complete(
        &self,
        _consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>> {
        let entries = entries.to_vec();
        self.lbs("complete", move |state, _, _| {
            Ok(state.servers.lbs.complete(&entries))
        })
        .await
    }

    async fn hand_back(
        &self,
        consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>> {
        let (consumer, entries) = (consumer.clone(), entries.to_vec());
        self.lbs("hand_back", move |state, at, hints| {
            let lbs = &mut state.servers.lbs;
            Ok(lbs.hand_back(&consumer, &entries, at, hints))
        })
        .await
    }

    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>> {
        let (consumer, entries) = (consumer.clone(), entries.to_vec());
        self.lbs("quarantine", move |state, at, _| {
            Ok(state.servers.lbs.quarantine(&consumer, &entries, at))
        })
        .await
    }

    async fn remove_consumer(&self, consumer: &ConsumerName) -> Result<bool> {
        let consumer = consumer.clone();
        self.lbs("remove_consumer", move |state, _, _| {
            Ok(state.servers.lbs.remove_unused(&consumer))
        })
        .await
    }
}

#[async_trait]
impl Submitter for SimBackend {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        let batch = batch.clone();
        self.lbs("submit", move |state, at, _| {
            let ids = state.servers.lbs.submit(&batch, at);
            state.serve_waiters(at);
            Ok(ids)
        })
        .await
    }
}

#[async_trait]
impl Admin for SimBackend {
    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        self.lbs("consumers", |state, at, _| state.servers.lbs.consumers(at))
            .await
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        self.lbs("list_undelivered", move |state, _, _| {
            Ok(state.servers.lbs.list_undelivered(after, limit))
        })
        .await
    }

    async fn counts(&self) -> Result<ServiceCounts> {
        self.lbs("counts", |state, at, _| Ok(state.servers.lbs.counts(at)))
            .await
    }

    async fn pause(&self, reason: &str) -> Result<bool> {
        let reason = reason.to_owned();
        self.lbs("pause", move |state, at, hints| {
            hints.push(Hint::PauseChanged);
            Ok(state.servers.lbs.begin_pause(&reason, at))
        })
        .await
    }

    async fn resume(&self) -> Result<bool> {
        self.lbs("resume", |state, _, hints| {
            hints.push(Hint::PauseChanged);
            Ok(state.servers.lbs.end_pause())
        })
        .await
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        self.lbs("list_quarantined", move |state, _, _| {
            Ok(state.servers.lbs.list_quarantined(after, limit))
        })
        .await
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        let entries = entries.to_vec();
        self.lbs("release_quarantined", move |state, at, _| {
            let releases = state.servers.lbs.release_quarantined(&entries, at);
            state.serve_waiters(at);
            Ok(releases)
        })
        .await
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        let entries = entries.to_vec();
        self.lbs("drop_quarantined", move |state, _, _| {
            Ok(state.servers.lbs.drop_quarantined(&entries))
        })
        .await
    }
}

#[async_trait]
impl LockManager for SimBackend {
    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        let (session, requests) = (session.clone(), requests.to_vec());
        self.locks("acquire", move |state, at, hints| {
            let locks = &mut state.servers.locks;
            Ok(locks.acquire(&session, &requests, at, hints))
        })
        .await
    }

    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let Renew {
            session,
            leases,
            want_sweep,
            ..
        } = renew;
        let (session, leases, want_sweep) = (session.clone(), leases.clone(), *want_sweep);
        self.locks("renew", move |state, at, _| {
            let locks = &mut state.servers.locks;
            Ok(locks.renew(&session, &leases, want_sweep, at))
        })
        .await
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        let (session, releases) = (session.clone(), releases.to_vec());
        self.locks("release", move |state, at, hints| {
            let locks = &mut state.servers.locks;
            Ok(locks.release(&session, &releases, at, hints))
        })
        .await
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        let ids = locks.to_vec();
        self.locks("inspect", move |state, at, hints| {
            Ok(state.servers.locks.inspect(&ids, at, hints))
        })
        .await
    }
}

#[async_trait]
impl Sessions for SimBackend {
    fn scheme(&self) -> LockScheme {
        self.shared.scheme
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        let session = session.clone();
        self.locks("open", move |state, at, _| {
            state.saw_ttl(session.ttl);
            Ok(state.servers.locks.open(&session, at))
        })
        .await
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        let session = session.clone();
        self.locks("close", move |state, at, hints| {
            state.servers.locks.close(&session, at, hints);
            Ok(())
        })
        .await
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        let (session, dead) = (session.id.clone(), dead.clone());
        self.locks("take_over", move |state, at, _| {
            Ok(state.servers.locks.take_over(&session, &dead, max, at))
        })
        .await
    }

    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        let dead = dead.clone();
        self.locks("remove", move |state, at, _| {
            Ok(state.servers.locks.remove(&dead, at))
        })
        .await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.locks("members", |state, at, _| {
            Ok(state.servers.locks.members(at))
        })
        .await
    }

    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        let (session, after) = (session.clone(), after.cloned());
        self.locks("records", move |state, _, _| {
            let locks = &state.servers.locks;
            Ok(locks.records(&session, after.as_ref(), max))
        })
        .await
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        let streams = streams.to_vec();
        self.locks("revoke", move |state, _, _| {
            Ok(state.servers.locks.revoke_streams(&streams))
        })
        .await
    }
}

#[async_trait]
impl Notifier for SimBackend {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let backend = self.state.clone();
        let hints = self
            .locks("subscribe", move |state, _, _| {
                let (to, hints) = async_channel::unbounded();
                state.subscribe(backend, to);
                Ok(hints)
            })
            .await?;
        Ok(Box::new(Hints(hints)))
    }
}

#[derive(Debug)]
struct Hints(async_channel::Receiver<Hint>);

#[async_trait]
impl Subscription for Hints {
    async fn next(&mut self) -> Result<Hint> {
        let ended = |_| unavailable("the subscription has ended");
        self.0.recv().await.map_err(ended)
    }
}
