//! Who holds a data stream, and with which token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamlease_core::{
    Acquire, AcquireOutcome, FencingToken, LockId, LockManager, LockState, Release, ReleaseOutcome,
    Runtime, StreamName,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, pass, stream, streams, unique, within};
use super::harness::{E0, E1, Harness, LONG, assert_holder, attempt, lease, request};

behaviours!($ lock_manager_leases!, lock_manager: Arc<dyn LockManager>, [
    the_scheme_is_always_the_same,
    a_held_stream_is_refused_whatever_the_entry,
    a_session_holds_a_stream_for_one_entry,
    a_stream_twice_in_one_page_is_held_once,
    an_acquire_can_be_repeated,
    another_attempt_gets_a_greater_token_and_the_old_one_frees_nothing,
    an_earlier_attempt_that_executes_late_changes_nothing,
    tokens_grow_over_successive_owners,
    tokens_grow_past_the_floor,
    a_released_stream_is_free,
    a_release_can_be_repeated,
    a_release_with_another_token_changes_nothing,
    a_late_release_does_not_free_a_newer_acquisition,
    racing_acquires_give_each_stream_to_one_session,
    inspection_says_who_holds_a_lock_and_for_how_long,
    streams_are_told_apart_whatever_their_names,
    streams_are_told_apart_however_much_alike_and_long_their_names,
    results_are_positional,
    large_batches_are_answered_whole,
    dropped_calls_can_be_repeated,
]);

/// A client decides by it, once.
pub async fn the_scheme_is_always_the_same(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let before = t.scheme();
    let a = t.session("a", LONG).await;
    t.hold(&a, &stream("s")).await;
    assert_eq!(t.scheme(), before);
}

/// The lock is the data stream's: an other announcement of it is no way around.
pub async fn a_held_stream_is_refused_whatever_the_entry(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    t.hold(&a, &s).await;
    for entry in [E0, E1] {
        let outcome = t.try_acquire(&b, &s, entry).await;
        let AcquireOutcome::Held(held) = outcome else {
            panic!("{outcome:?}")
        };
        assert_holder(&held, &a);
        assert!(held.remaining > Duration::ZERO);
    }
    // Another incarnation of the same consumer is another holder.
    let a2 = t.session("a", LONG).await;
    t.assert_refused(&a2, &s, &a).await;
}

/// A second announcement waits for the first, also at the consumer that has it.
pub async fn a_session_holds_a_stream_for_one_entry(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let s = stream("s");
    let first = t.hold(&a, &s).await;
    let outcome = t.try_acquire(&a, &s, E1).await;
    let AcquireOutcome::Held(held) = outcome else {
        panic!("held for two entries: {outcome:?}")
    };
    assert_holder(&held, &a);
    // The refusal left the first lease as it was.
    assert_eq!(t.release_one(&a, &first).await, ReleaseOutcome::Released);
    assert!(matches!(
        t.try_acquire(&a, &s, E1).await,
        AcquireOutcome::Acquired(_)
    ));
}

/// Each item of a page is for itself, and sees those before it.
pub async fn a_stream_twice_in_one_page_is_held_once(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let s = stream("s");
    let outcomes = t
        .acquire_page(&a, &[request(&s, E0), request(&s, E1)])
        .await;
    let held = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, AcquireOutcome::Acquired(_)));
    assert_eq!(held.count(), 1, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .any(|outcome| matches!(outcome, AcquireOutcome::Held(_))),
        "{outcomes:?}"
    );
}

/// The repeat of an acquire whose reply was lost is answered with its token.
pub async fn an_acquire_can_be_repeated(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let attempt = attempt();
    let first = t.hold_as(&a, &s, attempt).await;
    for _ in 0..3 {
        assert_eq!(t.hold_as(&a, &s, attempt).await, first);
    }
    t.assert_refused(&b, &s, &a).await;
    assert_eq!(
        t.hold_as(&a, &s, attempt).await,
        first,
        "after others were refused"
    );
    assert_eq!(t.release_one(&a, &first).await, ReleaseOutcome::Released);
    t.hold(&b, &s).await;
}

/// Not a repeat: the holder starts over, and what it had ends.
pub async fn another_attempt_gets_a_greater_token_and_the_old_one_frees_nothing(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let first = t.hold(&a, &s).await;
    let second = t.hold(&a, &s).await;
    assert!(second.token > first.token, "{second:?} after {first:?}");
    assert_eq!(t.release_one(&a, &first).await, ReleaseOutcome::NotHeld);
    t.assert_refused(&b, &s, &a).await;
    assert_eq!(t.release_one(&a, &second).await, ReleaseOutcome::Released);
    t.hold(&b, &s).await;
}

/// An owner's attempts grow. A copy of an earlier one that was given up and
/// executes late must not take the lease from its successor: the owner would
/// know a token that renews and frees nothing.
pub async fn an_earlier_attempt_that_executes_late_changes_nothing(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let earlier = attempt();
    let first = t.hold_as(&a, &s, earlier).await;
    t.release_one(&a, &first).await;
    let held = t.hold(&a, &s).await;
    let late = t.try_acquire_as(&a, &s, E0, earlier).await;
    assert!(
        !matches!(late, AcquireOutcome::Acquired(token) if token != held.token),
        "{late:?} while {held:?} is held"
    );
    assert!(
        t.renewed(&a, std::slice::from_ref(&held))
            .await
            .lost
            .is_empty()
    );
    t.assert_refused(&b, &s, &a).await;
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::Released);
}

/// Whoever holds it, and however often it changes hands.
pub async fn tokens_grow_over_successive_owners(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let sessions = [
        t.session("a", LONG).await,
        t.session("b", LONG).await,
        t.session("a", LONG).await,
    ];
    let s = stream("s");
    let mut last = FencingToken::NONE;
    for _ in 0..4 {
        for session in &sessions {
            let held = t.hold(session, &s).await;
            assert!(held.token > last, "{held:?} after {last:?}");
            last = held.token;
            assert_eq!(
                t.release_one(session, &held).await,
                ReleaseOutcome::Released
            );
        }
    }
}

/// What a caller has seen elsewhere (on the LBS, say) counts like a token of before.
pub async fn tokens_grow_past_the_floor(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let first = t.hold(&a, &s).await;
    t.release_one(&a, &first).await;
    // Some minutes ahead, for a server that counts microseconds.
    let floor = FencingToken(first.token.0 + 1_000_000_000);
    let acquire = Acquire::new(s.clone(), E0, attempt(), floor);
    for _ in 0..2 {
        let outcomes = t.acquire_page(&a, std::slice::from_ref(&acquire)).await;
        let AcquireOutcome::Acquired(token) = outcomes[0] else {
            panic!("{outcomes:?}")
        };
        assert!(token > floor, "{token} with floor {floor}");
        let second = lease(&s, E0, token);
        assert_eq!(t.hold_as(&a, &s, acquire.attempt).await, second, "a repeat");
    }
    let second = t.hold_as(&a, &s, acquire.attempt).await;
    assert_eq!(t.release_one(&a, &second).await, ReleaseOutcome::Released);
    let third = t.hold(&b, &s).await;
    assert!(third.token > second.token, "{third:?} after {second:?}");
    t.release_one(&b, &third).await;
    // Nanoseconds, which no floating-point number tells apart, and next to the greatest.
    let greatest = FencingToken::LIMIT.0 - 1_001;
    for floor in [1_800_000_000_000_000_001, greatest].map(FencingToken) {
        let acquire = Acquire::new(s.clone(), E0, attempt(), floor);
        let outcomes = t.acquire_page(&a, &[acquire]).await;
        let AcquireOutcome::Acquired(token) = outcomes[0] else {
            panic!("{outcomes:?}")
        };
        assert!(token > floor, "{token} with floor {floor}");
        t.release_one(&a, &lease(&s, E0, token)).await;
        let next = t.hold(&b, &s).await;
        assert!(next.token > token, "{next:?} after {token}");
        t.release_one(&b, &next).await;
    }
}

/// Free at once, for everybody.
pub async fn a_released_stream_is_free(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    for announce in [false, true] {
        let s = stream("s");
        let held = t.hold(&a, &s).await;
        let release = Release::new(held).announce(announce);
        let outcomes = t.release(&a.id, &[release]).await.expect("release");
        assert_eq!(outcomes, [ReleaseOutcome::Released]);
        assert_eq!(t.state(&s).await, LockState::Free);
        t.hold(&b, &s).await;
    }
}

/// The repeat of a release frees nothing that came after it.
pub async fn a_release_can_be_repeated(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::Released);
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::NotHeld);
    t.hold(&b, &s).await;
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::NotHeld);
    t.assert_refused(&a, &s, &b).await;
}

/// A release frees what it names.
pub async fn a_release_with_another_token_changes_nothing(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    for token in [0, held.token.0 - 1, held.token.0 + 1] {
        let other = lease(&s, E0, FencingToken(token));
        assert_eq!(t.release_one(&a, &other).await, ReleaseOutcome::NotHeld);
    }
    let never = lease(&stream("never"), E0, held.token);
    assert_eq!(t.release_one(&a, &never).await, ReleaseOutcome::NotHeld);
    t.assert_refused(&b, &s, &a).await;
}

/// A completes one entry and its release times out and is forgotten; A acquires
/// the same data stream for another entry; then the old release executes.
pub async fn a_late_release_does_not_free_a_newer_acquisition(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let old = t.hold(&a, &s).await;
    t.release_one(&a, &old).await;
    let outcome = t.try_acquire(&a, &s, E1).await;
    let AcquireOutcome::Acquired(token) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(token > old.token);
    assert_eq!(t.release_one(&a, &old).await, ReleaseOutcome::NotHeld);
    t.assert_refused(&b, &s, &a).await;
    assert_eq!(
        t.release_one(&a, &lease(&s, E1, token)).await,
        ReleaseOutcome::Released
    );
}

/// Ten sessions ask for the same twenty streams at once.
pub async fn racing_acquires_give_each_stream_to_one_session(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let streams = streams("s", 20);
    let (send, receive) = async_channel::unbounded();
    for n in 0..10 {
        let session = t.session(&format!("racer-{n}"), LONG).await;
        let mut page: Vec<_> = streams.iter().map(|stream| request(stream, E0)).collect();
        page.rotate_left(n);
        let (t, send) = (t.clone(), send.clone());
        t.runtime.clone().spawn(Box::pin(async move {
            let outcomes = t.acquire_page(&session, &page).await;
            let _ = send.send((session, page, outcomes)).await;
        }));
    }
    drop(send);
    let mut owners: BTreeMap<StreamName, _> = BTreeMap::new();
    while let Ok((session, page, outcomes)) =
        within(&*t.runtime, "ten racers", PATIENCE, receive.recv()).await
    {
        for (acquire, outcome) in page.into_iter().zip(outcomes) {
            match outcome {
                AcquireOutcome::Acquired(_) => {
                    let former = owners.insert(acquire.stream, session.clone());
                    assert!(former.is_none(), "held by {former:?} and {}", session.id);
                }
                AcquireOutcome::Held(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(owners.len(), streams.len(), "somebody gets each");
    for (stream, owner) in owners {
        let state = t.state(&stream).await;
        let LockState::Held(held) = state else {
            panic!("{stream} is {state:?}")
        };
        assert_holder(&held, &owner);
    }
}

/// Looking changes nothing, and what is seen is true.
pub async fn inspection_says_who_holds_a_lock_and_for_how_long(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG / 2).await);
    let streams = streams("s", 4);
    t.hold(&a, &streams[0]).await;
    t.hold(&b, &streams[2]).await;
    let page: Vec<_> = streams
        .iter()
        .map(|stream| LockId {
            stream: stream.clone(),
            entry: E0,
        })
        .collect();
    let look = async || {
        let states = t.inspect(&page).await.expect("inspect");
        let [
            LockState::Held(first),
            LockState::Free,
            LockState::Held(third),
            LockState::Free,
        ] = &states[..]
        else {
            panic!("{states:?}");
        };
        assert_holder(first, &a);
        assert_holder(third, &b);
        first.remaining
    };
    let before = look().await;
    // Nobody has let half the time pass yet.
    assert!(before > LONG / 2, "{before:?} of {LONG:?}");
    pass(&*t.runtime, Duration::from_millis(200)).await;
    let after = look().await;
    assert!(
        after <= before - Duration::from_millis(190),
        "{before:?}, 200 ms later {after:?}"
    );
    assert!(t.inspect(&[]).await.expect("inspect").is_empty());
}

/// Names may contain whatever a backend uses to take them apart.
pub async fn streams_are_told_apart_whatever_their_names(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let base = format!("{:x}", unique());
    let names = [
        base.clone(),
        format!("{base}<MUTEX_KEY_SEP>{E0}"),
        format!("{base}/1"),
        format!("{base}:{E0}"),
        format!("{base} with space"),
        format!("{{{base}}}"),
        format!("{base}\n\"ümläut\""),
        format!("{base}*?[x]"),
        base.to_uppercase() + "X",
        base + "x",
    ];
    let streams: Vec<_> = names
        .iter()
        .map(|name| StreamName::new(name).expect("valid"))
        .collect();
    let held = t.hold_all(&a, &streams).await;
    for (n, lease) in held.iter().enumerate() {
        assert_eq!(
            t.release_one(&a, lease).await,
            ReleaseOutcome::Released,
            "{:?}",
            lease.stream
        );
        for (m, stream) in streams.iter().enumerate() {
            let free = matches!(t.state(stream).await, LockState::Free);
            assert_eq!(
                free,
                m <= n,
                "{stream:?} when {:?} was released",
                lease.stream
            );
        }
    }
}

/// No key is cut at either end, trimmed, or compared by what people take for equal.
pub async fn streams_are_told_apart_however_much_alike_and_long_their_names(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let names: BTreeSet<String> = LENGTHS.into_iter().flat_map(look_alikes).collect();
    let streams: Vec<_> = names
        .iter()
        .map(|name| StreamName::new(name).expect("valid"))
        .collect();
    let mut held = Vec::new();
    for page in streams.chunks(100) {
        let locks = page.iter().map(|stream| LockId {
            stream: stream.clone(),
            entry: E0,
        });
        let states = t.inspect(&locks.collect::<Vec<_>>()).await;
        for (stream, state) in page.iter().zip(states.expect("inspect")) {
            assert_eq!(state, LockState::Free, "{:?}", shown(stream));
        }
        // Of two that are one to the store, the first is lost to the second by now.
        held.extend(t.hold_all(&a, page).await);
    }
    assert!(t.renewed(&a, &held).await.lost.is_empty());
    let releases: Vec<_> = held.iter().cloned().map(Release::new).collect();
    let outcomes = t.release(&a.id, &releases).await.expect("release");
    for (lease, outcome) in held.iter().zip(outcomes) {
        let stream = shown(&lease.stream);
        assert_eq!(outcome, ReleaseOutcome::Released, "{stream:?}");
        assert_eq!(t.state(&lease.stream).await, LockState::Free, "{stream:?}");
    }
}

/// Around what stores cut keys at, and the longest there are.
const LENGTHS: [usize; 9] = [1, 32, 64, 128, 255, 512, 1_024, 2_048, StreamName::MAX_LEN];

/// Names of about so many bytes that differ in little: at the start, at the end, or by what
/// a store may not see.
fn look_alikes(len: usize) -> Vec<String> {
    let fill = "x".repeat(len - 1);
    let mut names = vec![format!("{fill}x"), format!("{fill}y"), format!("y{fill}")];
    // Each pair is one text to a collation, a normalisation or a trim.
    const PAIRS: [(&str, &str); 14] = [
        ("e", "E"),
        ("e", "é"),
        ("é", "e\u{301}"),
        ("ß", "ss"),
        ("ﬁ", "fi"),
        ("Σ", "ς"),
        ("K", "\u{212a}"),
        ("i", "ı"),
        ("1", "01"),
        ("a", "a "),
        ("a", " a"),
        ("a", "a\u{0}"),
        ("a", "a\n"),
        ("a", "a\u{200b}"),
    ];
    for (one, other) in PAIRS {
        for text in [one, other] {
            let room = len.saturating_sub(text.len());
            let fill = &fill[..room.min(fill.len())];
            names.push(format!("{fill}{text}"));
            names.push(format!("{text}{fill}"));
        }
    }
    names
}

/// Its ends, for a message.
fn shown(stream: &StreamName) -> String {
    let name: Vec<char> = stream.as_str().chars().collect();
    let first: String = name.iter().take(10).collect();
    let last: String = name.iter().rev().take(10).rev().collect();
    format!("{first}…{last} ({} bytes)", stream.as_str().len())
}

/// One outcome per argument, in their order, whatever became of the others.
pub async fn results_are_positional(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let streams = streams("s", 4);
    let taken = t.hold(&a, &streams[1]).await;
    let page: Vec<_> = streams.iter().map(|stream| request(stream, E0)).collect();
    let outcomes = t.acquire_page(&b, &page).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        let held = matches!(outcome, AcquireOutcome::Held(_));
        assert_eq!(held, n == 1, "{outcomes:?}");
    }
    let releases: Vec<_> = outcomes
        .iter()
        .zip(&streams)
        .map(|(outcome, stream)| match outcome {
            AcquireOutcome::Acquired(token) => lease(stream, E0, *token),
            _ => lease(stream, E0, FencingToken::NONE),
        })
        .map(Release::new)
        .collect();
    let outcomes = t.release(&b.id, &releases).await.expect("release");
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome == ReleaseOutcome::NotHeld, n == 1, "{outcomes:?}");
    }
    assert_eq!(t.release_one(&a, &taken).await, ReleaseOutcome::Released);
    assert!(t.acquire_page(&a, &[]).await.is_empty());
    assert!(t.release(&a.id, &[]).await.expect("release").is_empty());
    if let Some(sessions) = t.locks.sessions() {
        assert!(sessions.revoke(&[]).await.expect("revoke").is_empty());
    }
}

/// A page may be larger than what a server does at a time.
pub async fn large_batches_are_answered_whole(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let streams = streams("s", 1_200);
    let held = t.hold_all(&a, &streams).await;
    assert_eq!(held.len(), streams.len());
    let reply = t.renewed(&a, &held).await;
    assert!(reply.lost.is_empty(), "{} lost", reply.lost.len());
    // Every other one is somebody else's when all are asked for.
    let releases: Vec<_> = held
        .iter()
        .step_by(2)
        .map(|lease| Release::new(lease.clone()))
        .collect();
    let outcomes = t.release(&a.id, &releases).await.expect("release");
    assert_eq!(outcomes, vec![ReleaseOutcome::Released; releases.len()]);
    let locks: Vec<_> = streams
        .iter()
        .map(|stream| LockId {
            stream: stream.clone(),
            entry: E0,
        })
        .collect();
    let states = t.inspect(&locks).await.expect("inspect");
    assert_eq!(states.len(), streams.len());
    let page: Vec<_> = streams.iter().map(|stream| request(stream, E0)).collect();
    let outcomes = t.acquire_page(&b, &page).await;
    for n in 0..streams.len() {
        assert_eq!(
            states[n] == LockState::Free,
            n % 2 == 0,
            "lock {n} is {:?}",
            states[n]
        );
        let acquired = matches!(outcomes[n], AcquireOutcome::Acquired(_));
        assert_eq!(acquired, n % 2 == 0, "acquire {n} is {:?}", outcomes[n]);
    }
}

/// Whatever a dropped call has done or still does, its repeat ends well.
pub async fn dropped_calls_can_be_repeated(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    for drop_after in [0, 0, 1, 2] {
        let s = stream("s");
        let page = [request(&s, E0)];
        let attempt = page[0].attempt;
        abandon(&t, drop_after, t.acquire(&a, &page)).await;
        let held = t.hold_as(&a, &s, attempt).await;
        t.assert_refused(&b, &s, &a).await;

        let leases = [held.clone()];
        abandon(&t, drop_after, t.renew_with(&a, &leases)).await;
        assert!(t.renewed(&a, &leases).await.lost.is_empty());

        let releases = [Release::new(held.clone()).announce(true)];
        abandon(&t, drop_after, t.release(&a.id, &releases)).await;
        t.release_one(&a, &held).await;
        t.hold(&b, &s).await;
    }
}

/// Polls `call` at least once and drops it after `ms` if it is not done by then.
async fn abandon<T>(t: &Harness, ms: u64, call: impl Future<Output = T>) {
    let call = async {
        call.await;
    };
    let end = async {
        if ms > 0 {
            pass(&*t.runtime, Duration::from_millis(ms)).await;
        }
    };
    future::or(call, end).await;
}
