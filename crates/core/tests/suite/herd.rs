//! R11 under virtual time: what one consumer handed back, or left, N survivors share
//! out without falling over each other. Every call about locks takes its time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::*;
use streamlease_testkit::simulation::SimRuntime;

use crate::common::{Fleet, Node, TTL};

/// A [`LockManager`] as far away as a busy server, which counts refusals.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn LockManager>,
    sim: SimRuntime,
    refused: Arc<AtomicUsize>,
    kept: Option<Deadlines>,
}

/// Sessions beside per-stream locks, as Redis has them: until when each lives.
type Deadlines = Arc<Mutex<BTreeMap<SessionId, Timestamp>>>;

impl Slow {
    fn alive(&self, session: &Session) {
        if let Some(kept) = &self.kept {
            let until = self.sim.now() + session.ttl;
            kept.lock().unwrap().insert(session.id.clone(), until);
        }
    }

    async fn travel(&self) {
        let time = Duration::from_micros(500 + self.sim.random(3_000));
        self.sim.sleep_until(self.sim.now() + time).await;
    }
}

#[async_trait]
impl LockManager for Slow {
    fn sessions(&self) -> Option<&dyn Sessions> {
        let keeps = self.kept.is_some() || self.inner.sessions().is_some();
        keeps.then_some(self)
    }
    async fn acquire(&self, session: &Session, page: &[Acquire]) -> Result<Vec<AcquireOutcome>> {
        self.travel().await;
        let outcomes = self.inner.acquire(session, page).await?;
        let is_held = |outcome: &&AcquireOutcome| matches!(outcome, AcquireOutcome::Held(_));
        let refused = outcomes.iter().filter(is_held).count();
        self.refused.fetch_add(refused, Ordering::Relaxed);
        self.travel().await;
        Ok(outcomes)
    }
    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        self.travel().await;
        let session = &renew.session;
        let mut outcome = self.inner.renew(renew).await?;
        self.alive(session);
        if let (RenewOutcome::Extended(reply), Some(kept)) = (&mut outcome, &self.kept) {
            let (kept, now) = (kept.lock().unwrap(), self.sim.now());
            let (live, dead): (Vec<_>, Vec<_>) = kept.iter().partition(|(_, at)| **at > now);
            let others = live.iter().filter(|(id, _)| **id != session.id);
            reply.members = live.len() as u32;
            reply.dead = dead.into_iter().map(|(id, _)| id.clone()).collect();
            reply.next_deadline = others.map(|(_, at)| at.saturating_since(now)).min();
        }
        Ok(outcome)
    }
    async fn release(&self, session: &SessionId, page: &[Release]) -> Result<Vec<ReleaseOutcome>> {
        self.travel().await;
        self.inner.release(session, page).await
    }
    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        self.travel().await;
        self.inner.inspect(locks).await
    }
}

#[async_trait]
impl Sessions for Slow {
    fn scheme(&self) -> LockScheme {
        self.inner.scheme()
    }
    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        self.travel().await;
        self.alive(session);
        match self.inner.sessions() {
            Some(sessions) => sessions.open(session).await,
            None => Ok(OpenOutcome::Opened),
        }
    }
    async fn close(&self, session: &SessionId) -> Result<()> {
        self.travel().await;
        if let Some(kept) = &self.kept {
            kept.lock().unwrap().remove(session);
        }
        match self.inner.sessions() {
            Some(sessions) => sessions.close(session).await,
            None => Ok(()),
        }
    }
    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        self.travel().await;
        match self.inner.sessions() {
            Some(sessions) => sessions.take_over(session, dead, max).await,
            None => Ok(TakeOverOutcome::Taken {
                leases: Vec::new(),
                left: 0,
            }),
        }
    }
    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap().remove(dead);
        }
        match self.inner.sessions() {
            Some(sessions) => sessions.remove(dead).await,
            None => Ok(true),
        }
    }
    async fn members(&self) -> Result<Vec<Member>> {
        self.travel().await;
        let Some(kept) = &self.kept else {
            return self.inner.sessions().unwrap().members().await;
        };
        let now = self.sim.now();
        let member = |(id, at): (&SessionId, &Timestamp)| Member {
            session: id.clone(),
            remaining: at.saturating_since(now),
        };
        let members: Vec<_> = kept.lock().unwrap().iter().map(member).collect();
        let lives = |member: &Member| !member.remaining.is_zero();
        Ok(members.into_iter().filter(lives).collect())
    }
    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        match self.inner.sessions() {
            Some(sessions) => sessions.records(session, after, max).await,
            None => Ok(Vec::new()),
        }
    }
}

struct Herd {
    fleet: Fleet,
    refused: Arc<AtomicUsize>,
    kept: Option<Deadlines>,
}

impl Herd {
    async fn start(&self, name: &str, capacity: usize) -> Node {
        let inner = self
            .fleet
            .backend
            .backend(&self.fleet.service)
            .unwrap()
            .locks;
        let locks = Arc::new(Slow {
            inner,
            sim: self.fleet.sim.clone(),
            refused: self.refused.clone(),
            kept: self.kept.clone(),
        });
        let builder = self.fleet.builder(name).locks(locks).capacity(capacity);
        self.fleet.start_with(builder.event_queue(100_000)).await
    }

    /// Events until all of that number of streams have been taken: who has how
    /// many, and when the last one was.
    async fn taken(&self, nodes: &mut [Node], streams: usize) -> (Vec<usize>, Duration) {
        let began = self.fleet.sim.now();
        let mut leases: BTreeMap<usize, Vec<Lease>> = BTreeMap::new();
        let (mut count, mut last) = (0, began);
        while count < streams {
            let passed = self.fleet.sim.now().saturating_since(began);
            assert!(passed < TTL * 30, "{count} of {streams}");
            self.fleet.sleep(Duration::from_millis(1)).await;
            for (at, node) in nodes.iter_mut().enumerate() {
                while let Some(event) = node.events.try_next() {
                    if let Event::StreamAdded(lease) = event {
                        leases.entry(at).or_default().push(lease);
                        count += 1;
                        last = self.fleet.sim.now();
                    }
                }
            }
        }
        let shares = nodes.iter().enumerate();
        let shares = shares
            .map(|(at, _)| leases.get(&at).map_or(0, Vec::len))
            .collect();
        leases.into_values().flatten().for_each(std::mem::forget);
        (shares, last.saturating_since(began))
    }
}

/// What is known of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SessionLeases,
    PerStream,
    /// Plain keys, and no sessions beside them.
    NobodyKnows,
}

const KNOWN: [Kind; 2] = [Kind::SessionLeases, Kind::PerStream];

/// One consumer holds everything; then `go` makes it go. Returns the survivors'
/// shares, the time until the last stream was taken, and how many acquires were
/// refused for it.
fn gone<F: Future<Output = ()>>(
    seed: u64,
    kind: Kind,
    streams: usize,
    capacities: &[usize],
    go: impl Fn(Fleet, Node) -> F,
) -> (Vec<usize>, Duration, usize) {
    let sim = SimRuntime::new(seed);
    let herd = Herd {
        fleet: Fleet::new(sim.clone(), kind == Kind::SessionLeases),
        refused: Arc::default(),
        kept: (kind == Kind::PerStream).then(Deadlines::default),
    };
    sim.block_on(async move {
        let mut going = [herd.start("going", streams).await];
        let names: Vec<String> = (0..streams).map(|n| format!("call-{n}")).collect();
        for page in names.chunks(500) {
            let page: Vec<&str> = page.iter().map(String::as_str).collect();
            herd.fleet.submit(&page).await;
        }
        herd.taken(&mut going, streams).await;
        let mut staying = Vec::new();
        for (n, capacity) in capacities.iter().enumerate() {
            staying.push(herd.start(&format!("staying-{n}"), *capacity).await);
        }
        herd.fleet.sleep(TTL * 2).await;
        herd.refused.store(0, Ordering::Relaxed);
        let [going] = going;
        go(herd.fleet.clone(), going).await;
        let (shares, took) = herd.taken(&mut staying, streams).await;
        (shares, took, herd.refused.load(Ordering::Relaxed))
    })
}

async fn hand_back(fleet: Fleet, going: Node) {
    let client = going.client.clone();
    fleet.sim.spawn(Box::pin(async move {
        client.shutdown().await.unwrap();
        drop(going);
    }));
}

async fn die(_: Fleet, going: Node) {
    going.process.kill();
}

/// Which of the survivors hears first, and who is how late, differs by seed.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=24;

const STREAMS: usize = 1_000;
const FOUR: [usize; 4] = [STREAMS; 4];

fn assert_fair(shares: &[usize]) {
    let equal = STREAMS / shares.len();
    let fair = shares
        .iter()
        .all(|share| share.abs_diff(equal) * 5 <= equal);
    assert!(fair, "{shares:?}");
}

#[test]
fn what_is_handed_back_is_shared_out_with_few_refusals() {
    for kind in KNOWN {
        for seed in SEEDS {
            let (shares, took, refused) = gone(seed, kind, STREAMS, &FOUR, hand_back);
            println!("{kind:?}, seed {seed}: {shares:?} in {took:?}, {refused} refused");
            assert_fair(&shares);
            assert!(refused <= STREAMS / 4, "{refused} refused");
        }
    }
}

#[test]
fn what_the_dead_left_is_shared_out_with_few_refusals() {
    for kind in KNOWN {
        for seed in SEEDS {
            let (shares, took, refused) = gone(seed, kind, STREAMS, &FOUR, die);
            println!("{kind:?}, seed {seed}: {shares:?} in {took:?}, {refused} refused");
            assert_fair(&shares);
            assert!(refused <= STREAMS / 4, "{refused} refused");
        }
    }
}

/// Without a list of who lives there is no order; half as many refusals as
/// streams, where there would be one for each stream and survivor.
#[test]
fn who_does_not_know_the_others_looks_at_the_lock_first() {
    let kind = Kind::NobodyKnows;
    let (shares, took, refused) = gone(1, kind, STREAMS, &FOUR, hand_back);
    println!("{kind:?}: {shares:?} in {took:?}, {refused} refused");
    assert!(refused <= STREAMS / 2, "{refused} refused");
    let (shares, took, refused) = gone(1, kind, STREAMS, &FOUR, die);
    println!("{kind:?}: {shares:?} in {took:?}, {refused} refused");
    assert!(refused <= STREAMS / 2, "{refused} refused");
}

#[test]
fn a_hundred_streams_are_handed_over_within_fifty_milliseconds() {
    for kind in KNOWN {
        let (_, took, _) = gone(1, kind, 100, &[100; 4], hand_back);
        assert!(took <= Duration::from_millis(50), "{took:?}");
    }
}

/// Three of the four whose turn it would be can take next to nothing.
#[test]
fn who_is_full_leaves_its_share_to_others_at_once() {
    for kind in KNOWN {
        let capacities = [STREAMS, 1, 1, 1];
        let (shares, took, refused) = gone(1, kind, STREAMS, &capacities, hand_back);
        println!("{kind:?}: {shares:?} in {took:?}, {refused} refused");
        assert!(took <= Duration::from_millis(500), "{took:?}");
        assert!(refused <= STREAMS / 4, "{refused} refused");
    }
}
