//! [`MemoryLocks`]: session leases, one deadline for everything a session holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::{
    Acquire, AcquireOutcome, EntryId, FencingToken, Held, Hint, Holder, LeaseRef, LockId,
    LockManager, LockScheme, LockState, Member, OpenOutcome, Release, ReleaseOutcome, Renew,
    RenewOutcome, Renewal, Result, Session, SessionId, Sessions, StreamName, TakeOverOutcome,
    Timestamp,
};

use crate::service::{REMEMBERED, Service, State, Tokens};

#[derive(Debug)]
pub(crate) struct MemoryLocks {
    service: Arc<Service>,
}

impl MemoryLocks {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

/// The sessions, and what is on record for them.
#[derive(Default)]
pub(crate) struct SessionTable {
    /// Every session that is not removed.
    sessions: BTreeMap<SessionId, SessionState>,
    /// The same by deadline: those up to now are dead.
    deadlines: BTreeSet<(Timestamp, SessionId)>,
    leases: BTreeMap<StreamName, Lease>,
    /// Sessions that are over and removed, so that a late open revives none.
    over: BTreeSet<SessionId>,
    over_ages: VecDeque<(Timestamp, SessionId)>,
    sweep_turn_ends: Timestamp,
}

struct SessionState {
    deadline: Timestamp,
    /// The greatest attempt of its acquires, whatever came of them.
    last_attempt: u64,
    streams: BTreeSet<StreamName>,
    revoked: BTreeSet<StreamName>,
}

struct Lease {
    session: SessionId,
    entry: EntryId,
    token: FencingToken,
    attempt: u64,
    /// Somebody was refused it, and wants to hear when it is free.
    refused: bool,
}

#[async_trait]
impl LockManager for MemoryLocks {
    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        Ok(self.service.step(|state, now| {
            let State {
                sessions, tokens, ..
            } = state;
            requests
                .iter()
                .map(|request| sessions.acquire(&session.id, request, tokens, now))
                .collect()
        }))
    }

    // No leases: with one deadline for them all, there is nothing to say of each.
    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let Renew {
            session,
            want_sweep,
            ..
        } = renew;
        Ok(self
            .service
            .step(|state, now| state.sessions.renew(session, *want_sweep, now)))
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        Ok(self.service.step(|state, _| {
            let mut freed = Vec::new();
            let mut outcomes = Vec::with_capacity(releases.len());
            for Release {
                lease, announce, ..
            } in releases
            {
                let released = state.sessions.release(session, lease);
                if released
                    .as_ref()
                    .is_some_and(|had| had.refused || *announce)
                {
                    freed.push(lease.stream.clone());
                }
                outcomes.push(match released {
                    Some(_) => ReleaseOutcome::Released,
                    None => ReleaseOutcome::NotHeld,
                });
            }
            if !freed.is_empty() {
                state.publish(Hint::Freed(freed));
            }
            outcomes
        }))
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        Ok(self.service.step(|state, now| {
            let holder = |lock: &LockId| state.sessions.holder(&lock.stream, now);
            locks
                .iter()
                .map(|lock| holder(lock).map_or(LockState::Free, LockState::Held))
                .collect()
        }))
    }
}

#[async_trait]
impl Sessions for MemoryLocks {
    fn scheme(&self) -> LockScheme {
        LockScheme::Session
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        Ok(self
            .service
            .step(|state, now| state.sessions.open(session, now)))
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        self.service.step(|state, now| {
            if state.sessions.close(session, now) {
                state.publish(Hint::HolderGone(session.consumer.clone()));
            }
        });
        Ok(())
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        Ok(self.service.step(|state, now| {
            let State {
                sessions, tokens, ..
            } = state;
            sessions.take_over(&session.id, dead, max, tokens, now)
        }))
    }

    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        Ok(self
            .service
            .step(|state, now| state.sessions.remove(dead, now)))
    }

    async fn members(&self) -> Result<Vec<Member>> {
        Ok(self.service.step(|state, now| state.sessions.members(now)))
    }

    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        Ok(self
            .service
            .step(|state, _| state.sessions.records(session, after, max)))
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        Ok(self.service.step(|state, _| {
            streams
                .iter()
                .map(|stream| state.sessions.revoke(stream))
                .collect()
        }))
    }
}

impl SessionTable {
    fn open(&mut self, session: &Session, now: Timestamp) -> OpenOutcome {
        if !self.sessions.contains_key(&session.id) && !self.over.contains(&session.id) {
            let opened = SessionState {
                deadline: now + session.ttl,
                last_attempt: 0,
                streams: BTreeSet::new(),
                revoked: BTreeSet::new(),
            };
            self.deadlines.insert((opened.deadline, session.id.clone()));
            self.sessions.insert(session.id.clone(), opened);
            return OpenOutcome::Opened;
        }
        if self.extend(session, now) {
            OpenOutcome::Opened
        } else {
            OpenOutcome::SessionGone
        }
    }

    /// Sets the deadline anew, unless it has passed: that is final.
    fn extend(&mut self, session: &Session, now: Timestamp) -> bool {
        if !self.lives(&session.id, now) {
            return false;
        }
        self.set_deadline(&session.id, now + session.ttl);
        true
    }

    fn lives(&self, session: &SessionId, now: Timestamp) -> bool {
        self.sessions
            .get(session)
            .is_some_and(|state| state.deadline > now)
    }

    fn set_deadline(&mut self, session: &SessionId, deadline: Timestamp) {
        if let Some(state) = self.sessions.get_mut(session) {
            self.deadlines.remove(&(state.deadline, session.clone()));
            self.deadlines.insert((deadline, session.clone()));
            state.deadline = deadline;
        }
    }

    /// Whether anything changed.
    fn close(&mut self, session: &SessionId, now: Timestamp) -> bool {
        if !self.sessions.contains_key(session) {
            // Its open may still be under way.
            self.remember_as_over(session, now);
            return false;
        }
        let lived = self.lives(session, now);
        if lived {
            self.set_deadline(session, now);
        }
        lived
    }

    fn acquire(
        &mut self,
        session: &SessionId,
        request: &Acquire,
        tokens: &mut Tokens,
        now: Timestamp,
    ) -> AcquireOutcome {
        if !self.lives(session, now) {
            return AcquireOutcome::SessionGone;
        }
        if let Some(own) = self.sessions.get_mut(session) {
            own.last_attempt = own.last_attempt.max(request.attempt);
        }
        if let Some(held) = self.holder(&request.stream, now)
            && let Some(lease) = self.leases.get_mut(&request.stream)
        {
            let same = lease.session == *session && lease.entry == request.entry;
            if same && lease.attempt == request.attempt {
                return AcquireOutcome::Acquired(lease.token);
            }
            // An attempt lower than the lease's is an abandoned request that
            // executes late: it must not take the lease from its successor.
            if !same || request.attempt < lease.attempt {
                lease.refused = true;
                return AcquireOutcome::Held(held);
            }
        }
        let token = tokens.mint(request.floor.0, now);
        self.record(
            &request.stream,
            session,
            request.entry,
            token,
            request.attempt,
        );
        AcquireOutcome::Acquired(token)
    }

    /// Who holds the data stream, if that one still lives.
    fn holder(&self, stream: &StreamName, now: Timestamp) -> Option<Held> {
        let lease = self.leases.get(stream)?;
        let deadline = self.sessions.get(&lease.session)?.deadline;
        (deadline > now).then(|| Held {
            holder: Holder::Session(lease.session.clone()),
            remaining: deadline.saturating_since(now),
        })
    }

    /// Puts the lease on record for the session, and takes it from whoever had it.
    fn record(
        &mut self,
        stream: &StreamName,
        session: &SessionId,
        entry: EntryId,
        token: FencingToken,
        attempt: u64,
    ) {
        let before = self.take_off_record(stream);
        if let Some(state) = self.sessions.get_mut(session) {
            state.streams.insert(stream.clone());
            let refused = before.is_some_and(|lease| lease.refused);
            let lease = Lease {
                session: session.clone(),
                entry,
                token,
                attempt,
                refused,
            };
            self.leases.insert(stream.clone(), lease);
        }
    }

    /// Takes the data stream's lease off the record, with its mark.
    fn take_off_record(&mut self, stream: &StreamName) -> Option<Lease> {
        let lease = self.leases.remove(stream)?;
        if let Some(state) = self.sessions.get_mut(&lease.session) {
            state.streams.remove(stream);
            state.revoked.remove(stream);
        }
        Some(lease)
    }

    fn renew(
        &mut self,
        session: &Session,
        want_sweep: Option<Duration>,
        now: Timestamp,
    ) -> RenewOutcome {
        if !self.extend(session, now) {
            return RenewOutcome::SessionGone;
        }
        let Some(own) = self.sessions.get(&session.id) else {
            return RenewOutcome::SessionGone;
        };
        let dead: Vec<SessionId> = self.dead(now).map(|(_, id)| id.clone()).collect();
        let next_deadline = self.living(now).find(|(_, id)| *id != session.id);
        let sweep = want_sweep.filter(|_| self.sweep_turn_ends <= now);
        let mut reply = Renewal::default();
        let revoked = own.revoked.iter();
        reply.revoked = revoked
            .filter_map(|stream| self.lease_ref(stream))
            .collect();
        reply.next_deadline = next_deadline.map(|(deadline, _)| deadline.saturating_since(now));
        reply.members = u32::try_from(self.sessions.len() - dead.len()).unwrap_or(u32::MAX);
        reply.dead = dead;
        reply.on_record = Some(own.streams.len() as u64);
        reply.sweep = sweep.is_some();
        // Its generation is 0 for ever: what it loses, it loses together with all sessions.
        if let Some(turn) = sweep {
            self.sweep_turn_ends = now + turn;
        }
        RenewOutcome::Extended(reply)
    }

    /// Those whose deadline has passed, oldest first.
    fn dead(&self, now: Timestamp) -> impl Iterator<Item = &(Timestamp, SessionId)> {
        self.deadlines
            .iter()
            .take_while(move |(deadline, _)| *deadline <= now)
    }

    fn living(&self, now: Timestamp) -> impl Iterator<Item = &(Timestamp, SessionId)> {
        self.deadlines
            .iter()
            .skip_while(move |(deadline, _)| *deadline <= now)
    }

    fn lease_ref(&self, stream: &StreamName) -> Option<LeaseRef> {
        let &Lease { entry, token, .. } = self.leases.get(stream)?;
        Some(LeaseRef {
            stream: stream.clone(),
            entry,
            token,
        })
    }

    /// A dead session may release, too: what it held is free for others already.
    fn release(&mut self, session: &SessionId, release: &LeaseRef) -> Option<Lease> {
        let lease = self.leases.get(&release.stream)?;
        let held = lease.session == *session && lease.token == release.token;
        if held {
            self.take_off_record(&release.stream)
        } else {
            None
        }
    }

    fn take_over(
        &mut self,
        session: &SessionId,
        dead: &SessionId,
        max: usize,
        tokens: &mut Tokens,
        now: Timestamp,
    ) -> TakeOverOutcome {
        let Some(last_attempt) = self.sessions.get(session).map(|own| own.last_attempt) else {
            return TakeOverOutcome::SessionGone;
        };
        if !self.lives(session, now) {
            return TakeOverOutcome::SessionGone;
        }
        let Some(state) = self.sessions.get(dead) else {
            return TakeOverOutcome::Taken {
                leases: Vec::new(),
                left: 0,
            };
        };
        if state.deadline > now {
            return TakeOverOutcome::Alive {
                remaining: state.deadline.saturating_since(now),
            };
        }
        let left = state.streams.len().saturating_sub(max) as u64;
        let page: Vec<StreamName> = state.streams.iter().take(max).cloned().collect();
        let mut leases = Vec::with_capacity(page.len());
        for stream in page {
            if let Some(had) = self.lease_ref(&stream) {
                let token = tokens.mint(had.token.0, now);
                // With the attempt of its latest acquire, so that an earlier
                // one that executes late cannot replace this lease.
                self.record(&stream, session, had.entry, token, last_attempt);
                leases.push(LeaseRef { token, ..had });
            }
        }
        TakeOverOutcome::Taken { leases, left }
    }

    fn remove(&mut self, dead: &SessionId, now: Timestamp) -> bool {
        match self.sessions.get(dead) {
            Some(state) if state.deadline > now || !state.streams.is_empty() => false,
            Some(state) => {
                self.deadlines.remove(&(state.deadline, dead.clone()));
                self.sessions.remove(dead);
                self.remember_as_over(dead, now);
                true
            }
            None => true,
        }
    }

    /// Remembers of a session only that it is over, and that for a while only.
    fn remember_as_over(&mut self, session: &SessionId, now: Timestamp) {
        while let Some((since, _)) = self.over_ages.front()
            && now.saturating_since(*since) > REMEMBERED
        {
            if let Some((_, id)) = self.over_ages.pop_front() {
                self.over.remove(&id);
            }
        }
        if self.over.insert(session.clone()) {
            self.over_ages.push_back((now, session.clone()));
        }
    }

    fn members(&self, now: Timestamp) -> Vec<Member> {
        let member = |(deadline, id): &(Timestamp, SessionId)| Member {
            session: id.clone(),
            remaining: deadline.saturating_since(now),
        };
        self.living(now).map(member).collect()
    }

    fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Vec<LeaseRef> {
        let Some(state) = self.sessions.get(session) else {
            return Vec::new();
        };
        let from = (after.map_or(Unbounded, Excluded), Unbounded);
        let streams = state.streams.range::<StreamName, _>(from);
        streams
            .take(max)
            .filter_map(|stream| self.lease_ref(stream))
            .collect()
    }

    fn revoke(&mut self, stream: &StreamName) -> bool {
        let Some(lease) = self.leases.get(stream) else {
            return false;
        };
        if let Some(state) = self.sessions.get_mut(&lease.session) {
            state.revoked.insert(stream.clone());
        }
        true
    }
}
