//! The lock server, in both schemes: keys with a time to live, or sessions with
//! a deadline for everything they hold.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamlease_core::machine::{LocksCall, Reply};
use streamlease_core::{
    Acquire, AcquireOutcome, EntryId, FencingToken, Held, Hint, Holder, LONGEST_GRACE, LeaseRef,
    LockId, LockScheme, LockState, Member, OpenOutcome, Release, ReleaseOutcome, RenewOutcome,
    Renewal, Session, SessionId, StreamName, TakeOverOutcome,
};

use super::Mutant;

/// How long a Go consumer's lock lasts.
pub(in super::super) const FOREIGN_TTL_MS: u64 = 2_000;

#[derive(Debug, Clone)]
pub(in super::super) struct Locks {
    scheme: LockScheme,
    mutant: Option<Mutant>,
    /// Deadlines in milliseconds of the server's clock.
    sessions: BTreeMap<SessionId, u64>,
    /// Sessions that are over and removed: a late open revives none.
    removed: BTreeSet<SessionId>,
    counter: u64,
    sweep_until: u64,
    /// Data streams that somebody was refused.
    refused: BTreeSet<StreamName>,
    /// Acquires and take-overs wait until then, after a restart (session leases).
    quiet_until: u64,
    /// When the server was last started, as far as sessions go by it.
    started_at: u64,

    /// Per-stream locks: what our consumers agree on, one key per data stream.
    stream_keys: BTreeMap<StreamName, Key>,
    /// Per-stream locks: what Go consumers know, one key per assignment.
    wire_keys: BTreeMap<(StreamName, EntryId), Key>,

    /// Session leases.
    leases: BTreeMap<StreamName, Lease>,
    last_attempts: BTreeMap<SessionId, u64>,
    marked: BTreeSet<StreamName>,
    /// Sessions whose leases vanished, and how often.
    disturbed: BTreeMap<SessionId, u64>,
}

#[derive(Debug, Clone)]
struct Key {
    /// `None`: a foreign consumer's.
    ours: Option<Lease>,
    expires_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    session: SessionId,
    entry: EntryId,
    token: FencingToken,
    attempt: u64,
}

impl Lease {
    fn is(&self, session: &SessionId, lease: &LeaseRef) -> bool {
        self.session == *session && self.entry == lease.entry && self.token == lease.token
    }
}

fn ms(d: Duration) -> u64 {
    d.as_millis() as u64
}

impl Locks {
    pub(in super::super) fn new(scheme: LockScheme, mutant: Option<Mutant>) -> Self {
        Self {
            scheme,
            mutant,
            sessions: BTreeMap::new(),
            removed: BTreeSet::new(),
            counter: 0,
            sweep_until: 0,
            refused: BTreeSet::new(),
            quiet_until: 0,
            started_at: 0,
            stream_keys: BTreeMap::new(),
            wire_keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_attempts: BTreeMap::new(),
            marked: BTreeSet::new(),
            disturbed: BTreeMap::new(),
        }
    }

    /// What a consumer asks for.
    pub(in super::super) fn answer(
        &mut self,
        call: &LocksCall,
        now: u64,
        hints: &mut Vec<Hint>,
    ) -> Reply {
        match call {
            LocksCall::Open(session) => Reply::Opened(self.open(session, now)),
            LocksCall::Close(session) => {
                self.close(session, now, hints);
                Reply::Closed
            }
            LocksCall::Acquire(session, requests) => {
                Reply::Acquired(self.acquire(session, requests, now, hints))
            }
            LocksCall::Renew {
                session,
                leases,
                want_sweep,
            } => Reply::Renewed(self.renew(session, leases, *want_sweep, now)),
            LocksCall::Release(session, releases) => {
                Reply::Released(self.release(session, releases, now, hints))
            }
            LocksCall::Inspect(ids) => Reply::Inspected(self.inspect(ids, now, hints)),
            LocksCall::TakeOver { session, dead, max } => {
                Reply::TakenOver(self.take_over(&session.id, dead, *max, now))
            }
            LocksCall::Remove(dead) => Reply::Removed(self.remove(dead, now)),
            LocksCall::Members => Reply::Members(self.members(now)),
            LocksCall::Records {
                session,
                after,
                max,
            } => Reply::Records(self.records(session, after.as_ref(), *max)),
        }
    }

    /// The server was restarted (with a state from then): live owners renew first.
    pub(in super::super) fn restarted(&mut self, now: u64, ttl: Duration) {
        if self.scheme == LockScheme::Session {
            self.quiet_until = now + ms(ttl.min(LONGEST_GRACE));
            self.started_at = now.max(self.started_at + 1);
        }
    }

    fn lives(&self, session: &SessionId, now: u64) -> bool {
        self.sessions
            .get(session)
            .is_some_and(|deadline| *deadline > now)
    }

    // --- foreign consumers, operators, the server itself -------------------------------

    /// A Go consumer's SET NX, or its extension, of a wire key; whether it has it.
    /// (That library makes a missing key again when it extends.)
    pub(in super::super) fn foreign_lock(
        &mut self,
        stream: &StreamName,
        entry: EntryId,
        now: u64,
    ) -> bool {
        let id = (stream.clone(), entry);
        let key = self.wire_keys.get(&id).filter(|key| key.expires_ms > now);
        if key.is_some_and(|key| key.ours.is_some()) {
            return false;
        }
        let key = Key {
            ours: None,
            expires_ms: now + FOREIGN_TTL_MS,
        };
        self.wire_keys.insert(id, key);
        true
    }

    pub(in super::super) fn foreign_unlock(&mut self, stream: &StreamName, entry: EntryId) {
        self.wire_keys.remove(&(stream.clone(), entry));
    }

    /// Whether anybody has the wire's lock of this entry.
    pub(in super::super) fn is_locked(
        &self,
        stream: &StreamName,
        entry: EntryId,
        now: u64,
    ) -> bool {
        let key = self.wire_keys.get(&(stream.clone(), entry));
        key.is_some_and(|key| key.expires_ms > now)
    }

    /// Marks one of the leases on record to be released.
    pub(in super::super) fn revoke(&mut self, nth: u64) -> Option<StreamName> {
        let nth = nth.checked_rem(self.leases.len() as u64)?;
        let stream = self.leases.keys().nth(nth as usize)?.clone();
        self.marked.insert(stream.clone());
        Some(stream)
    }

    /// The same for those of these data streams; whether each was on record.
    pub(in super::super) fn revoke_streams(&mut self, streams: &[StreamName]) -> Vec<bool> {
        let mut mark = |stream: &StreamName| {
            let on_record = self.leases.contains_key(stream);
            if on_record {
                self.marked.insert(stream.clone());
            }
            on_record
        };
        streams.iter().map(&mut mark).collect()
    }

    /// Expiry by sampling: a few of the keys whose time is over go, and say so.
    pub(in super::super) fn sample(&mut self, draw: u64, now: u64, hints: &mut Vec<Hint>) {
        self.stream_keys.retain(|_, key| key.expires_ms > now);
        let expired = self
            .wire_keys
            .iter()
            .filter(|(_, key)| key.expires_ms <= now);
        let expired: Vec<_> = expired.map(|(id, _)| id.clone()).collect();
        for (at, id) in expired.into_iter().enumerate() {
            if (draw >> (at % 64)) & 3 == 0 {
                self.touch(&id.0, id.1, now, hints);
            }
        }
    }

    /// A command on a key whose time is over removes it and fires the event.
    fn touch(&mut self, stream: &StreamName, entry: EntryId, now: u64, hints: &mut Vec<Hint>) {
        if self
            .stream_keys
            .get(stream)
            .is_some_and(|key| key.expires_ms <= now)
        {
            self.stream_keys.remove(stream);
        }
        let id = (stream.clone(), entry);
        if self
            .wire_keys
            .get(&id)
            .is_some_and(|key| key.expires_ms <= now)
        {
            self.wire_keys.remove(&id);
            hints.push(Hint::LockExpired {
                stream: stream.clone(),
                entry,
            });
        }
    }

    // --- sessions ---------------------------------------------------------------------

    pub(in super::super) fn open(&mut self, session: &Session, now: u64) -> OpenOutcome {
        let over = self.removed.contains(&session.id)
            || (self.sessions.contains_key(&session.id) && !self.lives(&session.id, now));
        if over {
            return OpenOutcome::SessionGone;
        }
        self.sessions
            .insert(session.id.clone(), now + ms(session.ttl));
        OpenOutcome::Opened
    }

    pub(in super::super) fn close(&mut self, session: &SessionId, now: u64, hints: &mut Vec<Hint>) {
        if self.removed.contains(session) {
            return;
        }
        let deadline = self.sessions.entry(session.clone()).or_insert(now);
        *deadline = now.min(*deadline);
        hints.push(Hint::HolderGone(session.consumer.clone()));
    }

    pub(in super::super) fn renew(
        &mut self,
        session: &Session,
        leases: &[LeaseRef],
        want_sweep: Option<Duration>,
        now: u64,
    ) -> RenewOutcome {
        let id = &session.id;
        if !self.lives(id, now) {
            return RenewOutcome::SessionGone;
        }
        let deadline = now + ms(session.ttl);
        self.sessions.insert(id.clone(), deadline);
        let mut reply = Renewal::default();
        for lease in leases {
            let wire = (lease.stream.clone(), lease.entry);
            let held = |key: Option<&Key>| {
                let key = key.filter(|key| key.expires_ms > now);
                key.and_then(|key| key.ours.as_ref())
                    .is_some_and(|ours| ours.is(id, lease))
            };
            let per_entry = self.mutant == Some(Mutant::LockPerEntry);
            let has_stream_key = per_entry || held(self.stream_keys.get(&lease.stream));
            if !has_stream_key || !held(self.wire_keys.get(&wire)) {
                reply.lost.push(lease.clone());
                continue;
            }
            for key in [
                self.stream_keys.get_mut(&lease.stream),
                self.wire_keys.get_mut(&wire),
            ] {
                key.into_iter().for_each(|key| key.expires_ms = deadline);
            }
        }
        if self.mutant != Some(Mutant::HeartbeatsAreSilent) {
            let mut dead: Vec<_> = self.sessions.iter().filter(|(_, at)| **at <= now).collect();
            dead.sort_by_key(|(_, at)| **at);
            reply.dead = dead
                .into_iter()
                .take(16)
                .map(|(id, _)| id.clone())
                .collect();
            let others = self
                .sessions
                .iter()
                .filter(|(other, at)| *other != id && **at > now);
            reply.next_deadline = others.map(|(_, at)| Duration::from_millis(at - now)).min();
        }
        let members = self.sessions.values().filter(|at| **at > now).count();
        reply.members = members as u32;
        if let Some(turn) = want_sweep.filter(|_| self.sweep_until <= now) {
            self.sweep_until = now + ms(turn);
            reply.sweep = true;
        }
        if self.scheme == LockScheme::Session {
            reply.generation = self.generation(id);
            let own = self.leases.iter().filter(|(_, lease)| lease.session == *id);
            reply.on_record = match self.mutant {
                Some(Mutant::LossIsSilent) => None,
                _ => Some(own.clone().count() as u64),
            };
            let marked = own.filter(|(stream, _)| self.marked.contains(*stream));
            reply.revoked = marked
                .map(|(stream, lease)| lease_ref(stream, lease))
                .collect();
        }
        RenewOutcome::Extended(reply)
    }

    pub(in super::super) fn take_over(
        &mut self,
        session: &SessionId,
        dead: &SessionId,
        max: usize,
        now: u64,
    ) -> TakeOverOutcome {
        if !self.lives(session, now) {
            return TakeOverOutcome::SessionGone;
        }
        if self.quiet_until > now {
            return TakeOverOutcome::NotYet {
                retry_in: Duration::from_millis(self.quiet_until - now),
            };
        }
        if self.lives(dead, now) {
            let remaining = Duration::from_millis(self.sessions[dead] - now);
            return TakeOverOutcome::Alive { remaining };
        }
        let all: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.session == *dead)
            .collect();
        let max = match self.mutant {
            Some(Mutant::TakesEverything) => usize::MAX,
            _ => max,
        };
        let left = all.len().saturating_sub(max) as u64;
        let page: Vec<_> = all
            .into_iter()
            .take(max)
            .map(|(s, l)| (s.clone(), l.clone()))
            .collect();
        let mut leases = Vec::new();
        for (stream, had) in page {
            let token = self.mint(had.token, now);
            let attempt = self.last_attempts.get(session).copied().unwrap_or(0);
            let lease = Lease {
                session: session.clone(),
                token,
                attempt,
                entry: had.entry,
            };
            leases.push(lease_ref(&stream, &lease));
            self.marked.remove(&stream);
            self.leases.insert(stream, lease);
        }
        TakeOverOutcome::Taken { leases, left }
    }

    pub(in super::super) fn remove(&mut self, dead: &SessionId, now: u64) -> bool {
        if self.lives(dead, now) || self.leases.values().any(|lease| lease.session == *dead) {
            return false;
        }
        if self.sessions.remove(dead).is_some() {
            self.removed.insert(dead.clone());
        }
        true
    }

    pub(in super::super) fn members(&self, now: u64) -> Vec<Member> {
        let live = self.sessions.iter().filter(|(_, at)| **at > now);
        live.map(|(id, at)| Member {
            session: id.clone(),
            remaining: Duration::from_millis(at - now),
        })
        .collect()
    }

    pub(in super::super) fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Vec<LeaseRef> {
        let own = self.leases.iter().filter(|(stream, lease)| {
            lease.session == *session && after.is_none_or(|after| *stream > after)
        });
        own.take(max)
            .map(|(stream, lease)| lease_ref(stream, lease))
            .collect()
    }

    // --- leases -----------------------------------------------------------------------

    fn mint(&mut self, floor: FencingToken, now: u64) -> FencingToken {
        self.counter = match self.mutant {
            Some(Mutant::TokensRestart) => self.counter + 1,
            _ => (self.counter + 1).max(now * 1_000).max(floor.0 + 1),
        };
        FencingToken(self.counter)
    }

    pub(in super::super) fn acquire(
        &mut self,
        session: &Session,
        requests: &[Acquire],
        now: u64,
        hints: &mut Vec<Hint>,
    ) -> Vec<AcquireOutcome> {
        if !self.lives(&session.id, now) {
            return vec![AcquireOutcome::SessionGone; requests.len()];
        }
        if let Some(last) = requests.iter().map(|request| request.attempt).max() {
            let seen = self.last_attempts.entry(session.id.clone()).or_default();
            *seen = last.max(*seen);
        }
        if self.quiet_until > now {
            let retry_in = Duration::from_millis(self.quiet_until - now);
            return vec![AcquireOutcome::NotYet { retry_in }; requests.len()];
        }
        let one = |request: &Acquire| match self.scheme {
            LockScheme::Session => self.acquire_lease(&session.id, request, now),
            LockScheme::PerStream => {
                self.touch(&request.stream, request.entry, now, hints);
                self.acquire_keys(session, request, now)
            }
        };
        requests.iter().map(one).collect()
    }

    fn acquire_lease(
        &mut self,
        session: &SessionId,
        request: &Acquire,
        now: u64,
    ) -> AcquireOutcome {
        let holder = self
            .leases
            .get(&request.stream)
            .filter(|lease| self.lives(&lease.session, now));
        let per_entry = self.mutant == Some(Mutant::LockPerEntry);
        let holder = holder.filter(|lease| !per_entry || lease.entry == request.entry);
        if let Some(lease) = holder {
            let same = lease.session == *session && lease.entry == request.entry;
            if same && lease.attempt == request.attempt {
                return AcquireOutcome::Acquired(lease.token);
            }
            if !same || request.attempt < lease.attempt {
                let remaining = self.told_remaining(self.sessions[&lease.session], now);
                let holder = Holder::Session(lease.session.clone());
                self.refused.insert(request.stream.clone());
                return AcquireOutcome::Held(Held { holder, remaining });
            }
        }
        let token = self.mint(request.floor, now);
        self.marked.remove(&request.stream);
        let lease = Lease {
            session: session.clone(),
            entry: request.entry,
            token,
            attempt: request.attempt,
        };
        self.leases.insert(request.stream.clone(), lease);
        AcquireOutcome::Acquired(token)
    }

    fn acquire_keys(&mut self, session: &Session, request: &Acquire, now: u64) -> AcquireOutcome {
        let wire_id = (request.stream.clone(), request.entry);
        let stream_key = self.stream_keys.get(&request.stream);
        let wire_key = self.wire_keys.get(&wire_id);
        let (mut in_the_way, mut repeated) = (None, None);
        if let Some(key) = stream_key.filter(|_| self.mutant != Some(Mutant::LockPerEntry)) {
            match &key.ours {
                Some(ours) if ours.session == session.id && ours.entry == request.entry => {
                    if request.attempt < ours.attempt {
                        in_the_way = Some(key);
                    } else if request.attempt == ours.attempt
                        && wire_key.and_then(|wire| wire.ours.as_ref()) == Some(ours)
                    {
                        repeated = Some(ours.token);
                    }
                }
                _ => in_the_way = Some(key),
            }
        }
        if in_the_way.is_none() && repeated.is_none() {
            let own = |key: &&Key| {
                key.ours
                    .as_ref()
                    .is_some_and(|ours| ours.session == session.id)
            };
            let ignores = self.mutant == Some(Mutant::ForeignLocksIgnored);
            in_the_way = wire_key.filter(|key| !(own(key) || ignores && key.ours.is_none()));
        }
        if let Some(key) = in_the_way {
            let holder = match &key.ours {
                Some(ours) => Holder::Session(ours.session.clone()),
                None => Holder::Foreign("go".into()),
            };
            let remaining = self.told_remaining(key.expires_ms, now);
            self.refused.insert(request.stream.clone());
            return AcquireOutcome::Held(Held { holder, remaining });
        }
        let token = repeated.unwrap_or_else(|| self.mint(request.floor, now));
        let lease = Lease {
            session: session.id.clone(),
            entry: request.entry,
            token,
            attempt: request.attempt,
        };
        let key = Key {
            ours: Some(lease),
            expires_ms: now + ms(session.ttl),
        };
        self.stream_keys.insert(request.stream.clone(), key.clone());
        self.wire_keys.insert(wire_id, key);
        AcquireOutcome::Acquired(token)
    }

    fn told_remaining(&self, until: u64, now: u64) -> Duration {
        match self.mutant {
            Some(Mutant::HeldForNoTime) => Duration::ZERO,
            _ => Duration::from_millis(until.saturating_sub(now)),
        }
    }

    pub(in super::super) fn release(
        &mut self,
        session: &SessionId,
        releases: &[Release],
        now: u64,
        hints: &mut Vec<Hint>,
    ) -> Vec<ReleaseOutcome> {
        let mut freed = Vec::new();
        let mut outcomes = Vec::with_capacity(releases.len());
        for Release {
            lease, announce, ..
        } in releases
        {
            let released = match self.scheme {
                LockScheme::Session => self.take_off_record(session, lease),
                LockScheme::PerStream => {
                    self.touch(&lease.stream, lease.entry, now, hints);
                    self.delete_keys(session, lease)
                }
            };
            if released && (self.refused.remove(&lease.stream) || *announce) {
                freed.push(lease.stream.clone());
            }
            outcomes.push(match released {
                true => ReleaseOutcome::Released,
                false => ReleaseOutcome::NotHeld,
            });
        }
        if !freed.is_empty() {
            hints.push(Hint::Freed(freed));
        }
        outcomes
    }

    fn take_off_record(&mut self, session: &SessionId, lease: &LeaseRef) -> bool {
        let held = self.leases.get(&lease.stream);
        let held = held.is_some_and(|held| held.session == *session && held.token == lease.token);
        if held {
            self.leases.remove(&lease.stream);
            self.marked.remove(&lease.stream);
        }
        held
    }

    fn delete_keys(&mut self, session: &SessionId, lease: &LeaseRef) -> bool {
        let ours = |key: Option<&Key>| {
            key.and_then(|key| key.ours.as_ref())
                .is_some_and(|ours| ours.is(session, lease))
        };
        let wire_id = (lease.stream.clone(), lease.entry);
        let stream_key = ours(self.stream_keys.get(&lease.stream));
        let wire_key = ours(self.wire_keys.get(&wire_id));
        if stream_key {
            self.stream_keys.remove(&lease.stream);
        }
        if wire_key {
            self.wire_keys.remove(&wire_id);
        }
        stream_key || wire_key
    }

    pub(in super::super) fn inspect(
        &mut self,
        locks: &[LockId],
        now: u64,
        hints: &mut Vec<Hint>,
    ) -> Vec<LockState> {
        locks
            .iter()
            .map(|lock| self.inspect_one(lock, now, hints))
            .collect()
    }

    fn inspect_one(&mut self, lock: &LockId, now: u64, hints: &mut Vec<Hint>) -> LockState {
        let (ours, until) = match self.scheme {
            LockScheme::Session => {
                let lease = self.leases.get(&lock.stream);
                let Some(lease) = lease.filter(|lease| self.lives(&lease.session, now)) else {
                    return LockState::Free;
                };
                (Some(lease), self.sessions[&lease.session])
            }
            LockScheme::PerStream => {
                self.touch(&lock.stream, lock.entry, now, hints);
                let wire = self.wire_keys.get(&(lock.stream.clone(), lock.entry));
                let Some(key) = self.stream_keys.get(&lock.stream).or(wire) else {
                    return LockState::Free;
                };
                (key.ours.as_ref(), key.expires_ms)
            }
        };
        let holder = match ours {
            Some(lease) => Holder::Session(lease.session.clone()),
            None => Holder::Foreign("go".into()),
        };
        let remaining = Duration::from_millis(until.saturating_sub(now));
        LockState::Held(Held { holder, remaining })
    }
}

fn lease_ref(stream: &StreamName, lease: &Lease) -> LeaseRef {
    LeaseRef {
        stream: stream.clone(),
        entry: lease.entry,
        token: lease.token,
    }
}
