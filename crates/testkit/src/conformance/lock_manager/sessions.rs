//! Dead sessions and who takes over; members, records, marks and turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{
    AcquireOutcome, Holder, LeaseRef, LockManager, LockState, OpenOutcome, ReleaseOutcome, Renew,
    RenewOutcome, Runtime, StreamName, TakeOverOutcome,
};

use super::super::behaviours;
use super::super::support::{PATIENCE, stream, streams, within};
use super::harness::{E0, Harness, LONG, SHORT, attempt, unopened};

behaviours!($ lock_manager_sessions!, lock_manager: Arc<dyn LockManager>, [
    dead_sessions_are_reported_until_they_are_removed if keeps_sessions,
    a_live_session_is_not_removed if keeps_sessions,
    a_take_over_leaves_the_living_alone if keeps_sessions,
    a_take_over_moves_a_dead_sessions_leases_in_pages if keeps_sessions,
    a_take_over_leaves_what_others_acquired_since if keeps_sessions,
    racing_take_overs_move_each_lease_once if keeps_sessions,
    a_late_acquire_replaces_no_lease_that_was_taken_over if has_session_leases,
    a_mark_does_not_survive_a_take_over if has_session_leases,
    a_release_by_a_session_that_is_gone_frees_nothing_of_others if keeps_sessions,
    a_session_that_was_taken_over_does_not_come_back if keeps_sessions,
    a_session_that_is_gone_takes_nothing_over if keeps_sessions,
    the_next_deadline_is_the_soonest_of_the_others if keeps_sessions,
    members_are_the_live_sessions if keeps_sessions,
    records_are_what_is_held if keeps_sessions,
    the_generation_stays_while_nothing_is_lost if keeps_sessions,
    a_revoked_lease_is_named_until_its_owner_releases_it if keeps_sessions,
    the_turn_to_sweep_comes_once_per_length_of_time,
]);

/// Whoever renews hears of every dead session, until somebody has cleared it away.
pub async fn dead_sessions_are_reported_until_they_are_removed(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (b, c) = (t.session("b", LONG).await, t.session("c", LONG).await);
    let later = t.session("a", SHORT + Duration::from_millis(100)).await;
    let a = t.session("a", SHORT).await;
    t.hold_all(&a, &streams("s", 2)).await;
    t.sessions()
        .close(&t.session("d", LONG).await.id)
        .await
        .expect("close");
    let closed = t.renewed(&b, &[]).await.dead;
    assert_eq!(
        closed.len(),
        1,
        "{closed:?}: a closed session is dead at once"
    );
    assert!(
        t.sessions().remove(&closed[0]).await.expect("remove"),
        "it held nothing"
    );

    t.outlast(SHORT + Duration::from_millis(100)).await;
    let dead = [a.id.clone(), later.id.clone()];
    for member in [&b, &c, &b] {
        assert_eq!(t.renewed(member, &[]).await.dead, dead, "oldest first");
    }
    if t.has_session_leases() {
        assert!(
            !t.sessions().remove(&a.id).await.expect("remove"),
            "it still holds two streams"
        );
        assert_eq!(t.renewed(&b, &[]).await.dead, dead);
    }
    assert_eq!(taken(&t, &b, &a.id, 10).await.1, 0);
    assert_eq!(t.renewed(&b, &[]).await.dead, dead, "dead until removed");
    for _ in 0..2 {
        assert!(
            t.sessions().remove(&a.id).await.expect("remove"),
            "nothing is left of it"
        );
        assert_eq!(t.renewed(&c, &[]).await.dead, dead[1..]);
    }
    assert_eq!(
        t.sessions()
            .open(&a)
            .await
            .expect("open of a removed session"),
        OpenOutcome::SessionGone
    );
}

/// Removing takes nothing from the living.
pub async fn a_live_session_is_not_removed(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let idle = t.session("idle", LONG).await;
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    for session in [&a, &idle] {
        let removed = t.sessions().remove(&session.id).await.expect("remove");
        assert!(!removed, "{} lives", session.id);
    }
    assert!(t.renewed(&a, &[held]).await.lost.is_empty());
    t.renewed(&idle, &[]).await;
    t.assert_refused(&b, &s, &a).await;
}

/// A take-over checks the deadline in the step that ends the session.
pub async fn a_take_over_leaves_the_living_alone(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let s = stream("s");
    let held = t.hold(&a, &s).await;
    match t.take_page(&b, &a.id, 10).await {
        TakeOverOutcome::Alive { remaining } => assert!(remaining <= LONG, "{remaining:?}"),
        other => panic!("{other:?}"),
    }
    assert!(
        t.renewed(&a, std::slice::from_ref(&held))
            .await
            .lost
            .is_empty()
    );
    t.assert_refused(&b, &s, &a).await;
    assert_eq!(t.release_one(&a, &held).await, ReleaseOutcome::Released);
}

/// Page by page, each lease with a new token.
pub async fn a_take_over_moves_a_dead_sessions_leases_in_pages(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let held = t.hold_all(&a, &streams("s", 7)).await;
    t.outlast(SHORT).await;
    if !t.has_session_leases() {
        // Every lock has ended by itself: nothing is left to be moved.
        assert_eq!(taken(&t, &b, &a.id, 10).await, (Vec::new(), 0));
        return;
    }
    let mut moved = Vec::new();
    for left in [4, 1, 0, 0] {
        let (leases, still) = taken(&t, &b, &a.id, 3).await;
        assert!(leases.len() <= 3, "{} of at most 3", leases.len());
        assert_eq!(still, left);
        moved.extend(leases);
    }
    let mut moved: BTreeMap<_, _> = moved
        .into_iter()
        .map(|lease| (lease.stream.clone(), lease))
        .collect();
    assert_eq!(moved.len(), held.len(), "each once");
    for old in &held {
        let new = moved.remove(&old.stream).expect("moved");
        assert_eq!(new.entry, old.entry, "it stays with its entry");
        assert!(new.token > old.token, "{new:?} after {old:?}");
        let LockState::Held(state) = t.state(&old.stream).await else {
            panic!("{old:?} is free")
        };
        assert_eq!(state.holder, Holder::Session(b.id.clone()));
        assert_eq!(t.release_one(&a, old).await, ReleaseOutcome::NotHeld);
        assert_eq!(t.release_one(&b, &new).await, ReleaseOutcome::Released);
    }
}

/// Who acquired a dead session's stream in the ordinary way is its owner.
pub async fn a_take_over_leaves_what_others_acquired_since(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b, c) = (
        t.session("a", SHORT).await,
        t.session("b", LONG).await,
        t.session("c", LONG).await,
    );
    let streams = streams("s", 3);
    t.hold_all(&a, &streams).await;
    t.outlast(SHORT).await;
    let acquired = t.hold(&b, &streams[1]).await;
    let (leases, left) = taken(&t, &c, &a.id, 10).await;
    assert_eq!(left, 0);
    assert!(
        leases.iter().all(|lease| lease.stream != streams[1]),
        "{leases:?}"
    );
    t.assert_refused(&c, &streams[1], &b).await;
    assert!(
        t.renewed(&b, std::slice::from_ref(&acquired))
            .await
            .lost
            .is_empty()
    );
    assert_eq!(t.release_one(&b, &acquired).await, ReleaseOutcome::Released);
    assert!(t.sessions().remove(&a.id).await.expect("remove"));
}

/// Survivors share the work out, and nobody gets what another one got.
pub async fn racing_take_overs_move_each_lease_once(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", SHORT).await;
    let streams = streams("s", 20);
    t.hold_all(&a, &streams).await;
    t.outlast(SHORT).await;
    let (send, receive) = async_channel::unbounded();
    for n in 0..4 {
        let survivor = t.session(&format!("survivor-{n}"), LONG).await;
        let (t, send, dead) = (t.clone(), send.clone(), a.id.clone());
        t.runtime.clone().spawn(Box::pin(async move {
            loop {
                let (leases, left) = taken(&t, &survivor, &dead, 2).await;
                for lease in leases {
                    let _ = send.send((survivor.clone(), lease)).await;
                }
                if left == 0 {
                    return;
                }
            }
        }));
    }
    drop(send);
    let mut owners: BTreeMap<StreamName, _> = BTreeMap::new();
    while let Ok((survivor, lease)) =
        within(&*t.runtime, "four survivors", PATIENCE, receive.recv()).await
    {
        let former = owners.insert(lease.stream, survivor);
        assert!(former.is_none(), "moved twice, first to {former:?}");
    }
    assert_eq!(
        owners.len(),
        if t.has_session_leases() {
            streams.len()
        } else {
            0
        }
    );
    for (stream, owner) in owners {
        let LockState::Held(state) = t.state(&stream).await else {
            panic!("{stream} is free")
        };
        assert_eq!(state.holder, Holder::Session(owner.id));
    }
}

/// A lease that was taken over counts as acquired with the greatest attempt of its new owner
/// so far. With a lower one, a request that was given up before the take-over and executes
/// after it would have the owner hold a token that renews and frees nothing.
pub async fn a_late_acquire_replaces_no_lease_that_was_taken_over(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let s = stream("s");
    t.hold(&a, &s).await;
    let given_up = attempt();
    // Refused or granted, an attempt counts.
    t.assert_refused(&b, &s, &a).await;
    t.outlast(SHORT).await;
    let (leases, _) = taken(&t, &b, &a.id, 10).await;
    for _ in 0..2 {
        let late = t.try_acquire_as(&b, &s, E0, given_up).await;
        assert!(matches!(late, AcquireOutcome::Held(_)), "{late:?}");
    }
    assert!(t.renewed(&b, &leases).await.lost.is_empty());
    // A later one does, as it does with any lease of its session.
    let later = t.hold(&b, &s).await;
    assert!(later.token > leases[0].token);
    assert_eq!(t.release_one(&b, &leases[0]).await, ReleaseOutcome::NotHeld);
    assert_eq!(t.release_one(&b, &later).await, ReleaseOutcome::Released);
}

/// A mark is of one lease, with its token. Who has taken over would give up what nobody
/// asked it for; and a new mark names the new lease.
pub async fn a_mark_does_not_survive_a_take_over(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let streams = streams("s", 2);
    t.hold_all(&a, &streams).await;
    let revoke = async || t.sessions().revoke(&streams[..1]).await.expect("revoke");
    assert_eq!(revoke().await, [true]);
    t.outlast(SHORT).await;
    let (mut leases, _) = taken(&t, &b, &a.id, 10).await;
    leases.sort();
    for _ in 0..2 {
        assert!(t.renewed(&b, &leases).await.revoked.is_empty());
    }
    let marked = leases.iter().find(|lease| lease.stream == streams[0]);
    let marked = marked.expect("moved").clone();
    assert_eq!(revoke().await, [true]);
    assert_eq!(
        t.renewed(&b, &leases).await.revoked,
        std::slice::from_ref(&marked)
    );
    assert_eq!(t.release_one(&b, &marked).await, ReleaseOutcome::Released);
    assert!(t.renewed(&b, &leases).await.revoked.is_empty());
}

/// It may clear its own record away. What others have acquired or taken over since is theirs,
/// and so is what another session holds, whatever token is named.
pub async fn a_release_by_a_session_that_is_gone_frees_nothing_of_others(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let c = t.session("c", LONG).await;
    let streams = streams("s", 3);
    let held = t.hold_all(&a, &streams).await;
    t.outlast(SHORT).await;
    let acquired = t.hold(&b, &streams[1]).await;
    let cleared = t.release_one(&a, &held[0]).await == ReleaseOutcome::Released;
    assert_eq!(t.state(&streams[0]).await, LockState::Free);
    assert_eq!(t.release_one(&a, &held[1]).await, ReleaseOutcome::NotHeld);
    if t.has_session_leases() {
        let (leases, _) = taken(&t, &b, &a.id, 10).await;
        let moved = |stream: &StreamName| leases.iter().any(|lease| lease.stream == *stream);
        assert!(moved(&streams[2]) && !moved(&streams[1]), "{leases:?}");
        assert!(!(cleared && moved(&streams[0])), "released, and moved");
        assert_eq!(t.release_one(&a, &held[2]).await, ReleaseOutcome::NotHeld);
        for gone in [&a, &c] {
            assert_eq!(
                t.release_one(gone, &acquired).await,
                ReleaseOutcome::NotHeld,
                "{} released what b holds",
                gone.id
            );
        }
        t.assert_refused(&c, &streams[2], &b).await;
    }
    t.assert_refused(&c, &streams[1], &b).await;
}

/// Being taken over is final, also before every lease is moved.
pub async fn a_session_that_was_taken_over_does_not_come_back(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", SHORT).await, t.session("b", LONG).await);
    let held = t.hold_all(&a, &streams("s", 3)).await;
    t.outlast(SHORT).await;
    taken(&t, &b, &a.id, 1).await;
    let opened = t.sessions().open(&a).await.expect("open");
    let renewed = t.renew_with(&a, &held).await;
    assert_eq!(opened, OpenOutcome::SessionGone);
    match renewed {
        RenewOutcome::SessionGone => {}
        RenewOutcome::Extended(reply) => {
            assert!(!t.has_session_leases(), "it came back");
            assert_eq!(reply.lost.len(), held.len());
        }
        other => panic!("{other:?}"),
    }
    for lease in &held {
        if let LockState::Held(state) = t.state(&lease.stream).await {
            assert_eq!(state.holder, Holder::Session(b.id.clone()));
        }
    }
}

/// Who is dead itself gets nothing.
pub async fn a_session_that_is_gone_takes_nothing_over(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b, c) = (
        t.session("a", SHORT).await,
        t.session("b", LONG).await,
        t.session("c", LONG).await,
    );
    let streams = streams("s", 3);
    t.hold_all(&a, &streams).await;
    t.sessions().close(&c.id).await.expect("close");
    t.outlast(SHORT).await;
    assert_eq!(
        t.take_page(&c, &a.id, 10).await,
        TakeOverOutcome::SessionGone
    );
    if t.has_session_leases() {
        let never = unopened("never", LONG);
        assert_eq!(
            t.take_page(&never, &a.id, 10).await,
            TakeOverOutcome::SessionGone
        );
        assert_eq!(
            taken(&t, &b, &a.id, 10).await.0.len(),
            streams.len(),
            "all are left for others"
        );
    }
}

/// So that everybody knows when to look, without being told.
pub async fn the_next_deadline_is_the_soonest_of_the_others(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let b = t.session("b", LONG).await;
    assert_eq!(
        t.renewed(&b, &[]).await.next_deadline,
        None,
        "there are no others"
    );
    let (near, far) = (LONG / 4, LONG / 2);
    let (c, a) = (t.session("c", far).await, t.session("a", near).await);
    let dead = t.session("dead", SHORT).await;
    let next = async || {
        t.renewed(&b, &[])
            .await
            .next_deadline
            .expect("there are others")
    };
    assert!(next().await <= SHORT);
    t.outlast(SHORT).await;
    let soonest = next().await;
    assert!(
        SHORT < soonest && soonest <= near,
        "{soonest:?}: the dead have none"
    );
    assert!(t.sessions().remove(&dead.id).await.expect("remove"));
    t.sessions().close(&a.id).await.expect("close");
    let soonest = next().await;
    assert!(near < soonest && soonest <= far, "{soonest:?}");
    t.renewed(&c, &[]).await;
    t.sessions().close(&c.id).await.expect("close");
    assert_eq!(
        t.renewed(&b, &[]).await.next_deadline,
        None,
        "its own is none"
    );
}

/// Neither the closed nor those whose deadline has passed.
pub async fn members_are_the_live_sessions(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let (b, c) = (t.session("b", LONG * 2).await, t.session("c", SHORT).await);
    let closed = t.session("d", LONG).await;
    t.sessions().close(&closed.id).await.expect("close");
    t.outlast(SHORT).await;
    assert!(!t.is_member(&c.id).await && !t.is_member(&closed.id).await);
    let members = t.sessions().members().await.expect("members");
    assert_eq!(members.len(), 2, "{members:?}");
    for session in [&a, &b] {
        let member = members
            .iter()
            .find(|member| member.session == session.id)
            .expect("a member");
        assert!(
            LONG / 2 < member.remaining && member.remaining <= session.ttl,
            "{member:?}"
        );
    }
    let counted = t.renewed(&a, &[]).await.members;
    assert!(counted == 2 || counted == 0, "{counted} live sessions of 2");
}

/// What a session reconciles with.
pub async fn records_are_what_is_held(runtime: Arc<dyn Runtime>, locks: Arc<dyn LockManager>) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let mut held = t.hold_all(&a, &streams("s", 5)).await;
    held.sort();
    let records = async |session: &streamlease_core::Session, after: Option<&StreamName>, max| {
        t.sessions()
            .records(&session.id, after, max)
            .await
            .expect("records")
    };
    let reply = t.renewed(&a, &held).await;
    if reply.on_record.is_none() {
        assert!(!t.has_session_leases(), "session leases are on record");
        assert!(records(&a, None, 10).await.is_empty());
        return;
    }
    assert_eq!(reply.on_record, Some(5));
    assert_eq!(t.renewed(&b, &[]).await.on_record, Some(0));
    assert_eq!(records(&a, None, 10).await, held);
    assert_eq!(records(&a, None, 2).await, held[..2]);
    assert_eq!(records(&a, Some(&held[1].stream), 2).await, held[2..4]);
    assert_eq!(records(&a, Some(&held[3].stream), 2).await, held[4..]);
    assert!(records(&a, Some(&held[4].stream), 2).await.is_empty());
    assert!(records(&b, None, 10).await.is_empty());
    assert!(records(&unopened("never", LONG), None, 10).await.is_empty());

    t.release_one(&a, &held[2]).await;
    // Again, with another attempt: one record, with the new token.
    held[0] = t.hold(&a, &held[0].stream.clone()).await;
    held.remove(2);
    assert_eq!(records(&a, None, 10).await, held);
    assert_eq!(t.renewed(&a, &held).await.on_record, Some(4));
}

/// Another number means that leases may be lost, and costs everybody a reading
/// of the record: not for what sessions do to each other. (That it changes when
/// the server loses something is for each backend's own tests to show.)
pub async fn the_generation_stays_while_nothing_is_lost(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let a = t.session("a", LONG).await;
    let generation = t.renewed(&a, &[]).await.generation;
    let held = t.hold_all(&a, &streams("s", 3)).await;
    assert_eq!(
        t.renewed(&a, &held).await.generation,
        generation,
        "acquired"
    );
    t.release_one(&a, &held[2]).await;
    t.sessions()
        .revoke(&[held[1].stream.clone()])
        .await
        .expect("revoke");
    let b = t.session("b", SHORT).await;
    assert_eq!(t.renewed(&b, &[]).await.generation, generation, "another's");
    t.hold(&b, &held[2].stream).await;
    t.outlast(SHORT).await;
    t.take_page(&a, &b.id, 10).await;
    t.sessions().remove(&b.id).await.expect("remove");
    let closed = t.session("c", LONG).await;
    t.sessions().close(&closed.id).await.expect("close");
    assert_eq!(t.renewed(&a, &held[..2]).await.generation, generation);
}

/// A mark frees nothing: the owner is told, again and again, until it lets go.
pub async fn a_revoked_lease_is_named_until_its_owner_releases_it(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let (a, b) = (t.session("a", LONG).await, t.session("b", LONG).await);
    let streams = streams("s", 2);
    let held = t.hold_all(&a, &streams).await;
    let asked = [streams[1].clone(), stream("never")];
    let marked = t.sessions().revoke(&asked).await.expect("revoke");
    if marked == [false, false] {
        assert!(!t.has_session_leases(), "session leases are on record");
        assert!(t.renewed(&a, &held).await.revoked.is_empty());
        return;
    }
    assert_eq!(marked, [true, false]);
    assert_eq!(
        t.sessions().revoke(&asked).await.expect("revoke again"),
        [true, false]
    );
    for _ in 0..3 {
        // A renewal does not acknowledge: its owner may not know of the lease yet.
        assert_eq!(t.renewed(&a, &held).await.revoked, held[1..]);
        assert!(
            t.renewed(&b, &[]).await.revoked.is_empty(),
            "told to somebody else"
        );
        t.assert_refused(&b, &streams[1], &a).await;
    }
    assert_eq!(t.release_one(&a, &held[1]).await, ReleaseOutcome::Released);
    assert!(t.renewed(&a, &held[..1]).await.revoked.is_empty());
    let new = t.hold(&b, &streams[1]).await;
    assert!(
        t.renewed(&b, std::slice::from_ref(&new))
            .await
            .revoked
            .is_empty(),
        "the mark was the former lease's"
    );
    t.assert_refused(&b, &streams[0], &a).await;
    t.release_one(&b, &new).await;
    let again = [held[0].clone(), t.hold(&a, &streams[1]).await];
    let revoked = t.renewed(&a, &again).await.revoked;
    assert!(
        revoked.is_empty(),
        "{revoked:?}: that lease was given up long ago"
    );
}

/// Of all members one gets it, and the next one when its time is over.
pub async fn the_turn_to_sweep_comes_once_per_length_of_time(
    runtime: Arc<dyn Runtime>,
    locks: Arc<dyn LockManager>,
) {
    let t = Harness::new(runtime, locks);
    let sessions = [t.session("a", LONG).await, t.session("b", LONG).await];
    // Long enough that a busy machine asks everybody within one turn.
    let turn = Duration::from_secs(2);
    for round in 0..2 {
        let mut turns = 0;
        for session in sessions.iter().chain(&sessions) {
            let outcome = t
                .renew(&Renew::new(session.clone(), []).want_sweep(Some(turn)))
                .await
                .expect("renew");
            let RenewOutcome::Extended(reply) = outcome else {
                panic!("{} is gone", session.id)
            };
            turns += u32::from(reply.sweep);
            assert!(!t.renewed(session, &[]).await.sweep, "nobody asked for it");
        }
        assert_eq!(turns, 1, "turns in round {round}");
        t.outlast(turn).await;
    }
}

/// A take-over that must not be refused: what was moved, and how many are left.
async fn taken(
    t: &Harness,
    session: &streamlease_core::Session,
    dead: &streamlease_core::SessionId,
    max: usize,
) -> (Vec<LeaseRef>, u64) {
    match t.take_page(session, dead, max).await {
        TakeOverOutcome::Taken { leases, left } => (leases, left),
        other => panic!("take-over of {dead} by {}: {other:?}", session.id),
    }
}
