//! The suite for [`Notifier`](streamlease_core::Notifier), and for the hints
//! that the LBS and the locks publish.
//!
//! Give each behaviour a whole [`Backend`] of a service that has never been
//! used. Hints may be lost or late, says their contract; on a quiet, healthy
//! server those of this suite must arrive all the same, and at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    Acquire, AcquireOutcome, Announcement, Backend, ConsumerName, EntryId, ErrorKind, Fenced,
    FencingToken, FetchRequest, HandBackRequest, Hint, Info, LeaseRef, OpenOutcome, Release,
    Runtime, Session, SessionId, StreamName, SubmitBatch, SubmitOutcome, Subscription,
};

use super::support::{PATIENCE, consumer, nonce, pass, stream, streams, unique, within};
use super::{behaviours, suite};

behaviours!($ notifier_behaviours!, notifier: Backend, [
    a_hand_back_is_announced,
    a_release_that_asks_for_it_is_announced,
    names_in_hints_are_whole,
    a_release_of_what_somebody_was_refused_is_announced,
    a_closed_session_is_announced,
    a_pause_and_its_end_are_announced,
    a_change_right_after_subscribing_is_heard,
    every_subscription_hears_every_hint,
    a_dropped_subscription_disturbs_no_other,
    giving_up_waiting_loses_no_hint,
    waiting_ends_with_the_hint,
    a_subscription_may_move_to_another_task,
    a_hint_comes_at_once,
    what_nobody_reads_is_kept_or_said_to_be_missed,
]);

suite!($ notifier_conformance!, notifier: Backend, [self: notifier_behaviours!]);

const TTL: Duration = Duration::from_secs(600);

/// With the entries that are free now.
pub async fn a_hand_back_is_announced(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    // The last is a page of a shutdown.
    for n in [1, 3, 200] {
        let handed_back: BTreeSet<_> = t.hand_back(n).await.into_iter().collect();
        t.hear_handed_back(&mut hints, handed_back).await;
    }
}

/// Also if nobody was refused it.
pub async fn a_release_that_asks_for_it_is_announced(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let a = t.session("a").await;
    for n in [1, 3, 100] {
        let streams = streams("s", n);
        let held = t.hold(&a, &streams).await;
        t.release(&a, held, true).await;
        t.hear_freed(&mut hints, streams).await;
    }
}

/// Whatever they contain, and however long they are.
pub async fn names_in_hints_are_whole(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let a = t.session("a").await;
    let base = format!("{:x}", unique());
    let names = [
        format!("{base}, {base}:{base}|{base}/1"),
        format!(" {base}\tand\n\"ümläut\" \0 \\ "),
        base.to_uppercase() + "X",
        format!("[{{{base}}}]"),
        base.clone() + &"y".repeat(300),
        base.clone() + &"z".repeat(StreamName::MAX_LEN - base.len()),
    ];
    let streams = names.map(|name| StreamName::new(name).expect("valid"));
    let held = t.hold(&a, &streams).await;
    t.release(&a, held, true).await;
    t.hear_freed(&mut hints, streams.to_vec()).await;
}

/// Also if the release does not ask for it: whoever was refused waits for it.
pub async fn a_release_of_what_somebody_was_refused_is_announced(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let (a, b) = (t.session("a").await, t.session("b").await);
    let (refused, twice) = (stream("refused"), stream("twice"));
    let mut held = t.hold(&a, &[refused.clone(), twice.clone()]).await;
    assert!(matches!(
        t.acquire(&b, &refused, E0).await,
        AcquireOutcome::Held(_)
    ));
    // A session that holds the stream for another entry waits as well.
    assert!(matches!(
        t.acquire(&a, &twice, E1).await,
        AcquireOutcome::Held(_)
    ));
    t.release(&a, vec![held.remove(0)], false).await;
    t.hear_freed(&mut hints, vec![refused]).await;
    t.release(&a, held, false).await;
    t.hear_freed(&mut hints, vec![twice]).await;
}

/// With the consumer whose session it was, where the backend keeps sessions.
pub async fn a_closed_session_is_announced(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let a = t.session("a").await;
    t.hold(&a, &[stream("s")]).await;
    let Some(sessions) = t.backend.locks.sessions() else {
        println!("skipped: keeps no sessions");
        return;
    };
    sessions.close(&a.id).await.expect("close");
    let gone = Hint::HolderGone(a.id.consumer.clone());
    t.hear(&mut hints, "HolderGone", |hint| *hint == gone).await;
}

/// Each time: a repeat is there because a hint may have been lost.
pub async fn a_pause_and_its_end_are_announced(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let admin = t.backend.admin.clone();
    let is_it = |hint: &Hint| *hint == Hint::PauseChanged;
    for _ in 0..2 {
        match admin.pause("a reason").await {
            Err(error) if error.kind() == ErrorKind::Environment => {
                println!("skipped: cannot pause services");
                return;
            }
            paused => paused.expect("pause"),
        };
        t.hear(&mut hints, "PauseChanged", is_it).await;
    }
    for _ in 0..2 {
        admin.resume().await.expect("resume");
        t.hear(&mut hints, "PauseChanged", is_it).await;
    }
}

/// Once `subscribe` has returned, nothing is too early.
pub async fn a_change_right_after_subscribing_is_heard(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    let t = Harness::new(runtime, backend).await;
    for _ in 0..10 {
        let entries = t.deliver(1).await;
        let mut hints = t.subscribe().await;
        t.hand_back_all(&entries).await;
        t.hear_handed_back(&mut hints, entries.into_iter().collect())
            .await;
    }
}

/// What one has heard is not gone for the others.
pub async fn every_subscription_hears_every_hint(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(t.subscribe().await);
    }
    let handed_back: BTreeSet<_> = t.hand_back(2).await.into_iter().collect();
    for hints in &mut subscriptions {
        t.hear_handed_back(hints, handed_back.clone()).await;
    }
}

/// It ends with itself only.
pub async fn a_dropped_subscription_disturbs_no_other(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let first = t.subscribe().await;
    let mut hints = t.subscribe().await;
    let mut third = t.subscribe().await;
    drop(first);
    // Also in the middle of waiting.
    let _ = future::poll_once(third.next()).await;
    drop(third);
    let handed_back = t.hand_back(2).await;
    t.hear_handed_back(&mut hints, handed_back.into_iter().collect())
        .await;
}

/// Dropping the future of `next`, at whatever moment, loses no hint.
pub async fn giving_up_waiting_loses_no_hint(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let mut missing = BTreeSet::new();
    let mut heard = BTreeSet::new();
    for round in 0..30_u64 {
        let entries = t.deliver(1).await;
        missing.extend(entries.iter().copied());
        let give_up = async {
            pass(&*t.runtime, Duration::from_millis(round % 3)).await;
            None
        };
        // The hand back goes on beside a `next` that is given up.
        let next = future::or(async { Some(hints.next().await) }, give_up);
        let (hint, ()) = future::zip(next, t.hand_back_all(&entries)).await;
        if let Some(hint) = hint {
            note_handed_back(&mut heard, hint.expect("next"));
        }
    }
    let all = async {
        while !missing.is_subset(&heard) {
            note_handed_back(&mut heard, hints.next().await.expect("next"));
        }
    };
    within(&*t.runtime, "the hint of every hand back", PATIENCE, all).await;
}

/// A `next` that waits is woken, by what happens in another task.
pub async fn waiting_ends_with_the_hint(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Arc::new(Harness::new(runtime, backend).await);
    let mut hints = t.subscribe().await;
    let (send, handed_back) = async_channel::bounded(1);
    let elsewhere = t.clone();
    t.runtime.spawn(Box::pin(async move {
        pass(&*elsewhere.runtime, Duration::from_millis(100)).await;
        let _ = send.send(elsewhere.hand_back(1).await).await;
    }));
    let mut heard = BTreeSet::new();
    while heard.is_empty() {
        let hint = within(&*t.runtime, "a hint", PATIENCE, hints.next()).await;
        note_handed_back(&mut heard, hint.expect("next"));
    }
    let handed_back = handed_back.recv().await.expect("the other task goes on");
    assert_eq!(heard, handed_back.into_iter().collect());
}

/// Whoever polled it last is woken.
pub async fn a_subscription_may_move_to_another_task(runtime: Arc<dyn Runtime>, backend: Backend) {
    let t = Arc::new(Harness::new(runtime, backend).await);
    let mut hints = t.subscribe().await;
    let entries = t.deliver(1).await;
    let _ = future::poll_once(hints.next()).await;
    let missing: BTreeSet<_> = entries.iter().copied().collect();
    let (send, waits) = async_channel::bounded(2);
    let elsewhere = t.clone();
    t.runtime.spawn(Box::pin(async move {
        let _ = send.send(()).await;
        elsewhere.hear_handed_back(&mut hints, missing).await;
        let _ = send.send(()).await;
    }));
    let _ = waits.recv().await;
    // So that it waits in `next` by then, if it has a turn.
    pass(&*t.runtime, Duration::from_millis(20)).await;
    t.hand_back_all(&entries).await;
    let heard = within(&*t.runtime, "the other task's hint", PATIENCE, waits.recv()).await;
    assert_eq!(heard, Ok(()));
}

/// It is there to be faster than a sweep. On a busy machine one of a few is.
pub async fn a_hint_comes_at_once(runtime: Arc<dyn Runtime>, backend: Backend) {
    const AT_ONCE: Duration = Duration::from_millis(300);
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let mut least = Duration::MAX;
    for _ in 0..10 {
        let entries = t.hand_back(1).await;
        let since = t.runtime.now();
        t.hear_handed_back(&mut hints, entries.into_iter().collect())
            .await;
        least = least.min(t.runtime.now().saturating_since(since));
        if least <= AT_ONCE {
            return;
        }
    }
    panic!("a hint takes {least:?} at least");
}

/// A subscription whose reader is slow may lose hints, but must not hide it;
/// nor may it hold up whoever publishes.
pub async fn what_nobody_reads_is_kept_or_said_to_be_missed(
    runtime: Arc<dyn Runtime>,
    backend: Backend,
) {
    const ROUNDS: usize = 2_000;
    let t = Harness::new(runtime, backend).await;
    let mut hints = t.subscribe().await;
    let a = t.session("a").await;
    let mut freed = BTreeSet::new();
    for round in 0..ROUNDS / 50 {
        let streams = streams(&format!("s{round}-"), 50);
        let held = t.hold(&a, &streams).await;
        // One hint each.
        for lease in held {
            t.release(&a, vec![lease], true).await;
        }
        freed.extend(streams);
    }
    let all = async {
        while !freed.is_empty() {
            match hints.next().await.expect("next") {
                Hint::Freed(streams) => streams.iter().for_each(|stream| {
                    freed.remove(stream);
                }),
                Hint::MayHaveMissed => break,
                _ => {}
            }
        }
    };
    within(&*t.runtime, "every hint, or MayHaveMissed", PATIENCE, all).await;
    // It goes on.
    let handed_back = t.hand_back(1).await;
    t.hear_handed_back(&mut hints, handed_back.into_iter().collect())
        .await;
}

const E0: EntryId = EntryId::new(1_700_000_000_000, 0);
const E1: EntryId = EntryId::new(1_700_000_000_000, 1);
const TOKEN: FencingToken = FencingToken(5);

fn note_handed_back(heard: &mut BTreeSet<EntryId>, hint: Hint) {
    if let Hint::HandedBack(entries) = hint {
        heard.extend(entries);
    }
}

struct Harness {
    runtime: Arc<dyn Runtime>,
    backend: Backend,
    consumer: ConsumerName,
}

impl Harness {
    async fn new(runtime: Arc<dyn Runtime>, backend: Backend) -> Self {
        backend.transport.prepare().await.expect("prepare");
        let consumer = consumer("a");
        Self {
            runtime,
            backend,
            consumer,
        }
    }

    async fn subscribe(&self) -> Box<dyn Subscription> {
        self.backend.notifier.subscribe().await.expect("subscribe")
    }

    /// So many entries, each claimed.
    async fn deliver(&self, n: usize) -> Vec<EntryId> {
        let announce = |stream| Announcement::new(stream, Info::NONE);
        let announcements = streams("s", n).into_iter().map(announce).collect();
        let batch = SubmitBatch::with_id(unique(), announcements);
        let submitted = self.backend.submitter.submit(&batch).await.expect("submit");
        let entries: Vec<EntryId> = submitted.into_iter().map(SubmitOutcome::entry).collect();
        let request = FetchRequest::new(self.consumer.clone(), n, Duration::ZERO);
        self.backend.transport.fetch(&request).await.expect("fetch");
        let claims: Vec<_> = entries
            .iter()
            .map(|entry| Fenced {
                entry: *entry,
                token: TOKEN,
            })
            .collect();
        self.backend
            .transport
            .claim(&self.consumer, &claims)
            .await
            .expect("claim");
        entries
    }

    async fn hand_back_all(&self, entries: &[EntryId]) {
        let back = |entry: &EntryId| HandBackRequest::new(*entry, TOKEN);
        let backs: Vec<_> = entries.iter().map(back).collect();
        self.backend
            .transport
            .hand_back(&self.consumer, &backs)
            .await
            .expect("hand_back");
    }

    async fn hand_back(&self, n: usize) -> Vec<EntryId> {
        let entries = self.deliver(n).await;
        self.hand_back_all(&entries).await;
        entries
    }

    async fn session(&self, identity: &str) -> Session {
        let session = Session::new(SessionId::new(consumer(identity), nonce()), TTL);
        if let Some(sessions) = self.backend.locks.sessions() {
            let opened = sessions.open(&session).await.expect("open");
            assert_eq!(opened, OpenOutcome::Opened);
        }
        session
    }

    async fn acquire(
        &self,
        session: &Session,
        stream: &StreamName,
        entry: EntryId,
    ) -> AcquireOutcome {
        let attempt = unique() as u32;
        let request = Acquire::new(stream.clone(), entry, attempt.into(), FencingToken::NONE);
        let mut outcomes = self
            .backend
            .locks
            .acquire(session, &[request])
            .await
            .expect("acquire");
        outcomes.pop().expect("one outcome")
    }

    async fn hold(&self, session: &Session, streams: &[StreamName]) -> Vec<LeaseRef> {
        let mut held = Vec::new();
        for stream in streams {
            let outcome = self.acquire(session, stream, E0).await;
            let AcquireOutcome::Acquired(token) = outcome else {
                panic!("{outcome:?}")
            };
            held.push(LeaseRef {
                stream: stream.clone(),
                entry: E0,
                token,
            });
        }
        held
    }

    async fn release(&self, session: &Session, held: Vec<LeaseRef>, announce: bool) {
        let releases: Vec<_> = held
            .into_iter()
            .map(|lease| Release::new(lease).announce(announce))
            .collect();
        self.backend
            .locks
            .release(&session.id, &releases)
            .await
            .expect("release");
    }

    /// Waits for a hint, past others.
    async fn hear(
        &self,
        hints: &mut Box<dyn Subscription>,
        what: &str,
        mut wanted: impl FnMut(&Hint) -> bool,
    ) {
        let heard = async {
            loop {
                let hint = hints.next().await.expect("next");
                if wanted(&hint) {
                    return;
                }
            }
        };
        within(&*self.runtime, &format!("the hint {what}"), PATIENCE, heard).await;
    }

    /// Waits until all of them were announced, in whichever hints.
    async fn hear_handed_back(
        &self,
        hints: &mut Box<dyn Subscription>,
        mut missing: BTreeSet<EntryId>,
    ) {
        self.hear(hints, "HandedBack", |hint| {
            if let Hint::HandedBack(entries) = hint {
                entries.iter().for_each(|entry| {
                    missing.remove(entry);
                });
            }
            missing.is_empty()
        })
        .await;
    }

    /// Waits until all of them were announced, in whichever hints.
    async fn hear_freed(&self, hints: &mut Box<dyn Subscription>, streams: Vec<StreamName>) {
        let mut missing: BTreeSet<_> = streams.into_iter().collect();
        self.hear(hints, "Freed", |hint| {
            if let Hint::Freed(streams) = hint {
                streams.iter().for_each(|stream| {
                    missing.remove(stream);
                });
            }
            missing.is_empty()
        })
        .await;
    }
}
