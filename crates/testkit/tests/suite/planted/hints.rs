//! A notifier with bugs: the one in memory, and what each bug makes of its hints.
//!
//! Neither safety nor liveness depends on a hint, so none of these bugs endangers safety: what is
//! not heard of is found by a sweep, later.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use async_channel::Receiver;
use async_trait::async_trait;
use futures_lite::future;
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::decorate::{Decorator, decorate};
use streamlease_core::{
    Backend, BackendProvider, ConsumerName, EntryId, Error, ErrorKind, Hint, Notifier, Operation,
    Result, Runtime, ServiceName, StreamName, Subscription, Timestamp,
};
use streamlease_testkit::conformance;
use streamlease_testkit::simulation::SimRuntime;

use super::{assert_right, planted, table};

planted! { Bug:
    Delay HintsAreLost = "no hint comes",
    Delay FirstIsLost = "the first hint of a subscription is lost",
    Delay OnlyTheFirstComes = "a subscription has one hint",
    Delay EachSecondIsLost = "each second hint is lost",
    Delay HandBacksAreSilent = "nothing is said of what is handed back",
    Delay ReleasesAreSilent = "nothing is said of what is released",
    Delay ClosedSessionsAreSilent = "nothing is said of closed sessions",
    Delay PausesAreSilent = "nothing is said of pauses",
    Delay PauseIsToldOnce = "a pause that is repeated is not told again",
    Delay ResumeIsSilent = "a pause is told, its end is not",
    Delay HandedBackIsExpired = "what is handed back is told as a lock that expired",
    Delay HandedBackIsMissed = "what is handed back is told as a hint that was missed",
    Delay FreedIsMissed = "what is released is told as a hint that was missed",
    Delay HolderGoneIsMissed = "a closed session is told as a hint that was missed",
    Delay PauseIsMissed = "a pause is told as a hint that was missed",
    Delay EntriesAreOthers = "the entries of a hint are others",
    Delay OnlyTheFirstEntry = "of the entries of a hint the first is told",
    Delay OnlyTheLastEntry = "of the entries of a hint the last is told",
    Delay EntriesAreLeftOut = "a hand back is told without its entries",
    Delay EntriesAreCut = "a hint has 64 entries at most",
    Delay EntriesLoseTheirNumber = "of an entry's id the milliseconds are told",
    Delay StreamsAreOthers = "the data streams of a hint are another service's",
    Delay OnlyTheFirstStream = "of the data streams of a hint the first is told",
    Delay OnlyTheLastStream = "of the data streams of a hint the last is told",
    Delay StreamsAreLeftOut = "a release is told without its data streams",
    Delay StreamsAreCut = "a hint has 64 data streams at most",
    Delay NamesAreCut = "names in hints are cut at 255 bytes",
    Delay LongNamesAreLeftOut = "names of over 1,024 bytes are left out of hints",
    Delay NamesAreTrimmed = "white space around a name is lost in hints",
    Delay NamesFoldCase = "names in hints are in lower case",
    Delay NamesAreAscii = "what is not ASCII is a question mark in hints",
    Delay NamesAreTakenApart = "names in hints are taken apart at commas",
    Delay NamesEndAtNul = "names in hints end at the first NUL",
    Delay ConsumerIsAnother = "the consumer of a closed session is another one",
    Delay WaitsForTheNext = "a hint comes when the next one is there",
    Delay ComesAMinuteLater = "a hint comes a minute later",
    Delay ComesLate = "a hint comes 400 ms later",
    Allowed("whoever hears it twice looks twice")
        ComesTwice = "each hint comes twice",
    Allowed("nobody relies on their order")
        ComesInAnotherOrder = "of two hints that are there the later one comes first",
    Allowed("whoever hears it looks around in vain")
        ComesForNothing = "with each hint others come that are about nothing",
    Delay OnlyOneSubscription = "there can be one subscription at a time",
    Delay OnlyTheFirstSubscription = "the first subscription hears, later ones do not",
    Delay OnlyTheLastSubscription = "the latest subscription hears, earlier ones do not",
    Delay EachHintIsForOne = "who hears a hint first has it alone",
    Delay SubscriptionsEndTogether = "with a subscription that is dropped all end",
    Delay DroppedSubscriptionSilencesOthers = "with a subscription that is dropped all fall silent",
    Delay SubscriptionIsLate = "a subscription begins a millisecond after it was made",
    Delay SubscriptionBeginsWhenAsked = "a subscription begins with the first wait for a hint",
    Delay SecondSubscriptionFails = "who has subscribed once cannot do so again",
    Delay LostWhileNobodyWaits = "hints are lost while nobody waits for them",
    Delay LostWhenGivenUp = "a hint that is on its way is lost when its wait is given up",
    Delay EndsWhenGivenUp = "a wait that is given up ends the subscription",
    Delay NobodyIsWoken = "a hint that comes wakes nobody",
    Delay WakesWhoPolledFirst = "a hint that comes wakes who waited first",
    Delay OverflowIsSilent = "hints that were dropped are not said to be missed",
    Delay OverflowIsTheEnd = "after hints that were missed no other comes",
    Delay PublisherIsHeldUp = "with 1,000 hints that nobody reads nothing more is released",
    Delay NextFails = "each wait after the first ends with an error",
}

#[derive(Debug, Clone)]
struct Broken {
    bug: Option<Bug>,
    sim: SimRuntime,
    notifier: Arc<dyn Notifier>,
    shared: Arc<Mutex<Shared>>,
}

/// What subscriptions know of each other.
#[derive(Debug, Default)]
struct Shared {
    made: u64,
    alive: BTreeSet<u64>,
    is_over: bool,
    heard: Vec<(u64, Hint)>,
    released: usize,
}

#[derive(Debug)]
struct Heard {
    broken: Broken,
    number: u64,
    inner: Option<Box<dyn Subscription>>,
    /// The one that is still to be made.
    later: Receiver<Box<dyn Subscription>>,
    /// What is to be told, and from when on.
    told: VecDeque<(Timestamp, Hint)>,
    kept: Option<Hint>,
    count: u64,
    waker: Option<Waker>,
    is_over: bool,
}

impl Broken {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what.to_owned())
}

#[async_trait]
impl Notifier for Broken {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let number = {
            let mut shared = self.shared();
            let is_refused = match self.bug {
                Some(Bug::OnlyOneSubscription) => !shared.alive.is_empty(),
                Some(Bug::SecondSubscriptionFails) => shared.made > 0,
                _ => false,
            };
            if is_refused {
                return Err(over("there is a subscription"));
            }
            shared.made += 1;
            let number = shared.made;
            shared.alive.insert(number);
            number
        };
        let (send, later) = async_channel::bounded(1);
        let mut inner = None;
        match self.bug {
            Some(Bug::SubscriptionBeginsWhenAsked) => {}
            Some(Bug::SubscriptionIsLate) => {
                let broken = self.clone();
                self.sim.spawn(Box::pin(async move {
                    let soon = broken.sim.now() + Duration::from_millis(1);
                    broken.sim.sleep_until(soon).await;
                    if let Ok(subscription) = broken.notifier.subscribe().await {
                        let _ = send.send(subscription).await;
                    }
                }));
            }
            _ => inner = Some(self.notifier.subscribe().await?),
        }
        Ok(Box::new(Heard {
            broken: self.clone(),
            number,
            inner,
            later,
            told: VecDeque::new(),
            kept: None,
            count: 0,
            waker: None,
            is_over: false,
        }))
    }
}

#[async_trait]
impl Subscription for Heard {
    async fn next(&mut self) -> Result<Hint> {
        if self.inner.is_none() {
            let inner = match self.broken.bug {
                Some(Bug::SubscriptionIsLate) => self.later.recv().await.map_err(|_| over("gone")),
                _ => self.broken.notifier.subscribe().await,
            };
            self.inner = Some(inner?);
        }
        match self.broken.bug {
            Some(Bug::LostWhileNobodyWaits) => {
                let inner = self.inner.as_mut().expect("made");
                while future::poll_once(inner.next()).await.is_some() {}
            }
            Some(Bug::NextFails) if self.count > 0 => return Err(over("it has ended")),
            Some(Bug::EndsWhenGivenUp) if self.is_over => return Err(over("it has ended")),
            _ => {}
        }
        // Stays so if this is dropped.
        self.is_over |= self.broken.is(Bug::EndsWhenGivenUp);
        loop {
            if self.broken.is(Bug::SubscriptionsEndTogether) && self.broken.shared().is_over {
                return Err(over("it has ended"));
            }
            if let Some((at, _)) = self.told.front() {
                self.broken.sim.sleep_until(*at).await;
                if let Some((_, hint)) = self.told.pop_front() {
                    self.is_over &= !self.broken.is(Bug::EndsWhenGivenUp);
                    return Ok(hint);
                }
            }
            let hint = self.pull().await?;
            if self.broken.is(Bug::LostWhenGivenUp) {
                let soon = self.broken.sim.now() + Duration::from_millis(1);
                self.broken.sim.sleep_until(soon).await;
            }
            let told = self.tells(hint);
            self.count += 1;
            let late = match self.broken.bug {
                Some(Bug::ComesAMinuteLater) => Duration::from_secs(60),
                Some(Bug::ComesLate) => Duration::from_millis(400),
                _ => Duration::ZERO,
            };
            let at = self.broken.sim.now() + late;
            self.told.extend(told.into_iter().map(|hint| (at, hint)));
            self.broken.shared().released = 0;
        }
    }
}

impl Heard {
    async fn pull(&mut self) -> Result<Hint> {
        let (bug, first) = (self.broken.bug, &mut self.waker);
        let inner = self.inner.as_mut().expect("made");
        poll_fn(|cx| {
            let waker = match bug {
                Some(Bug::NobodyIsWoken) => Waker::noop(),
                Some(Bug::WakesWhoPolledFirst) => first.get_or_insert_with(|| cx.waker().clone()),
                _ => cx.waker(),
            };
            inner.next().as_mut().poll(&mut Context::from_waker(waker))
        })
        .await
    }

    /// What is told of a hint.
    fn tells(&mut self, hint: Hint) -> Vec<Hint> {
        if !self.is_heard(&hint) {
            return Vec::new();
        }
        match (self.broken.bug, &hint) {
            (Some(Bug::WaitsForTheNext), _) => self.kept.replace(hint).into_iter().collect(),
            (Some(Bug::ComesTwice), _) => vec![hint.clone(), hint],
            (Some(Bug::ComesForNothing), _) => {
                let nothing = Hint::HandedBack(vec![EntryId::new(1, 1)]);
                let nobody = Hint::HolderGone(ConsumerName::from_wire("nobody"));
                vec![nobody, hint, nothing, Hint::PauseChanged]
            }
            (Some(Bug::ComesInAnotherOrder), _) => {
                let inner = self.inner.as_mut().expect("made");
                let mut nobody = Context::from_waker(Waker::noop());
                let later = match inner.next().as_mut().poll(&mut nobody) {
                    std::task::Poll::Ready(Ok(later)) => Some(later),
                    _ => None,
                };
                later.into_iter().chain([hint]).collect()
            }
            (Some(Bug::HandedBackIsExpired), Hint::HandedBack(entries)) => {
                let stream = StreamName::new("unknown").expect("short");
                let expired = |entry: &EntryId| Hint::LockExpired {
                    stream: stream.clone(),
                    entry: *entry,
                };
                entries.iter().map(expired).collect()
            }
            _ => vec![self.changed(hint)],
        }
    }

    fn is_heard(&mut self, hint: &Hint) -> bool {
        let shared = &mut *self.broken.shared();
        let Some(bug) = self.broken.bug else {
            return true;
        };
        !match bug {
            Bug::HintsAreLost => true,
            Bug::FirstIsLost => self.count == 0,
            Bug::OnlyTheFirstComes => self.count > 0,
            Bug::EachSecondIsLost => self.count % 2 == 1,
            Bug::HandBacksAreSilent => matches!(hint, Hint::HandedBack(_)),
            Bug::ReleasesAreSilent => matches!(hint, Hint::Freed(_)),
            Bug::ClosedSessionsAreSilent => matches!(hint, Hint::HolderGone(_)),
            Bug::PausesAreSilent => *hint == Hint::PauseChanged,
            Bug::PauseIsToldOnce => *hint == Hint::PauseChanged && self.count % 2 == 1,
            Bug::ResumeIsSilent => *hint == Hint::PauseChanged && self.count > 1,
            Bug::OnlyTheFirstSubscription => self.number != 1,
            Bug::OnlyTheLastSubscription => self.number != shared.made,
            Bug::EachHintIsForOne => {
                let this = (self.count, hint.clone());
                let is_heard = shared.heard.contains(&this);
                shared.heard.push(this);
                is_heard
            }
            Bug::DroppedSubscriptionSilencesOthers => shared.is_over,
            Bug::OverflowIsSilent => *hint == Hint::MayHaveMissed,
            Bug::OverflowIsTheEnd => {
                let is_over = self.is_over;
                self.is_over |= *hint == Hint::MayHaveMissed;
                is_over
            }
            _ => false,
        }
    }

    fn changed(&self, hint: Hint) -> Hint {
        let Some(bug) = self.broken.bug else {
            return hint;
        };
        match (bug, hint) {
            (Bug::HandedBackIsMissed, Hint::HandedBack(_))
            | (Bug::FreedIsMissed, Hint::Freed(_))
            | (Bug::HolderGoneIsMissed, Hint::HolderGone(_))
            | (Bug::PauseIsMissed, Hint::PauseChanged) => Hint::MayHaveMissed,
            (Bug::ConsumerIsAnother, Hint::HolderGone(_)) => {
                Hint::HolderGone(ConsumerName::from_wire("another"))
            }
            (_, Hint::HandedBack(entries)) => Hint::HandedBack(changed_entries(bug, entries)),
            (_, Hint::Freed(streams)) => Hint::Freed(changed_streams(bug, streams)),
            (_, hint) => hint,
        }
    }
}

fn changed_entries(bug: Bug, mut entries: Vec<EntryId>) -> Vec<EntryId> {
    match bug {
        Bug::EntriesAreOthers => entries.iter_mut().for_each(|entry| entry.seq += 1_000),
        Bug::OnlyTheFirstEntry => entries.truncate(1),
        Bug::OnlyTheLastEntry => drop(entries.drain(..entries.len().saturating_sub(1))),
        Bug::EntriesAreLeftOut => entries.clear(),
        Bug::EntriesAreCut => entries.truncate(64),
        Bug::EntriesLoseTheirNumber => entries.iter_mut().for_each(|entry| entry.seq = 0),
        _ => {}
    }
    entries
}

fn changed_streams(bug: Bug, mut streams: Vec<StreamName>) -> Vec<StreamName> {
    match bug {
        Bug::OnlyTheFirstStream => streams.truncate(1),
        Bug::OnlyTheLastStream => drop(streams.drain(..streams.len().saturating_sub(1))),
        Bug::StreamsAreLeftOut => streams.clear(),
        Bug::StreamsAreCut => streams.truncate(64),
        Bug::LongNamesAreLeftOut => streams.retain(|stream| stream.as_str().len() <= 1_024),
        _ => {}
    }
    let names = streams.iter().map(StreamName::as_str);
    let names: Vec<String> = match bug {
        Bug::StreamsAreOthers => names.map(|name| format!("another-{name}")).collect(),
        Bug::NamesAreCut => names.map(|name| name.chars().take(255).collect()).collect(),
        Bug::NamesAreTrimmed => names.map(|name| name.trim().to_owned()).collect(),
        Bug::NamesFoldCase => names.map(str::to_lowercase).collect(),
        Bug::NamesAreAscii => names
            .map(|name| name.replace(|c: char| !c.is_ascii(), "?"))
            .collect(),
        Bug::NamesAreTakenApart => names
            .flat_map(|name| name.split(',').map(str::to_owned))
            .collect(),
        Bug::NamesEndAtNul => names
            .map(|name| name.split('\0').next().unwrap_or_default().to_owned())
            .collect(),
        _ => return streams,
    };
    let names = names.into_iter().map(StreamName::new);
    names.map(|name| name.expect("valid")).collect()
}

impl Drop for Heard {
    fn drop(&mut self) {
        let shared = &mut *self.broken.shared();
        shared.alive.remove(&self.number);
        shared.is_over = true;
    }
}

/// Holds releases up.
impl Decorator for Broken {
    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if operation == Operation::Release && self.is(Bug::PublisherIsHeldUp) {
            self.shared().released += 1;
            while self.shared().released > 1_000 {
                let soon = self.sim.now() + Duration::from_millis(100);
                self.sim.sleep_until(soon).await;
            }
        }
        request.await
    }
}

fn backend(sim: &SimRuntime, bug: Option<Bug>) -> Backend {
    let memory = MemoryBackend::new(Arc::new(sim.clone()));
    let service = ServiceName::new("orders").expect("a valid name");
    let inner = memory.backend(&service).expect("its own service");
    let broken = Broken {
        bug,
        sim: sim.clone(),
        notifier: inner.notifier.clone(),
        shared: Arc::default(),
    };
    let mut backend = decorate(inner, broken.clone());
    backend.notifier = Arc::new(broken);
    backend
}

/// Thousands of hints.
const LONG: &str = "what_nobody_reads_is_kept_or_said_to_be_missed";

#[test]
fn what_is_wrong_with_hints_is_found() {
    let mut behaviours = conformance::notifier::behaviours();
    // What takes longest last: most bugs are found before.
    behaviours.sort_by_key(|behaviour| behaviour.name() == LONG);
    assert_right(&table("Notifier", &behaviours, backend, Bug::ALL));
}
