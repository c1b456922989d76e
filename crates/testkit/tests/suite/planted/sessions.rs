//! A `LockManager` with session leases and bugs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_lite::future;
use streamlease_core::{
    Acquire, AcquireOutcome, EntryId, FencingToken, Held, Holder, LeaseRef, LockId, LockManager,
    LockScheme, LockState, Member, OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome,
    Renewal, Result, Runtime, Session, SessionId, Sessions, StreamName, TakeOverOutcome, Timestamp,
};
use streamlease_testkit::conformance;
use streamlease_testkit::simulation::SimRuntime;

use super::{assert_right, planted, table};

planted! { Bug:
    Safety OpenKeepsDeadline = "an open that is repeated does not extend the session",
    Safety OpenRevives = "an open of a session that is over makes it live again",
    Safety OpenRevivesTheRemoved = "an open of a session that was removed makes it live again",
    Safety OpenRevivesTheClosed = "an open of a session that was closed makes it live again",
    Delay OpenForgetsLeases = "an open that is repeated drops what the session holds",
    Safety RenewRevives = "a renewal of a session that is over extends it",
    Safety RenewRevivesTheTakenOver = "a renewal of a session that was taken over extends it",
    Safety RenewDoesNothing = "a renewal extends nothing",
    Safety RenewSetsHalf = "a renewal sets half the TTL",
    Delay RenewAdds = "a renewal adds its TTL to what was left",
    Safety AcquireExtendsSession = "an acquire extends its session",
    Safety AcquireByTheGone = "a session that is over acquires",
    Safety AcquireByTheUnknown = "a session that was never opened acquires",
    Safety AcquireTakesHeld = "an acquire takes what another one holds",
    Safety AcquireTakesOwnOfOtherEntry = "a session holds a data stream for two entries",
    Safety AcquireIsPerEntry = "the lock is per entry",
    Safety AcquireIsTwoSteps = "an acquire looks in one step and writes in another",
    Safety AcquireGoesByConsumer = "who has the same consumer name is the same owner",
    Delay AcquireIgnoresDeath = "what the dead held is refused until it is taken over",
    Safety AcquireLeavesRecord = "what was acquired from a dead session stays on its record",
    Delay RepeatMintsAnew = "an acquire that is repeated gets another token",
    Delay RepeatIsHeld = "an acquire that is repeated is refused",
    Safety LaterAttemptGetsSameToken = "a later attempt gets the token of the one before",
    Safety EarlierAttemptReplaces = "an attempt that executes late replaces a later one",
    Safety RefusedAttemptsDoNotCount = "a lease that was taken over has the greatest attempt that was granted",
    Safety TakenOverHasNoAttempt = "a lease that was taken over has attempt 0",
    Safety TakenOverHasOldAttempt = "a lease that was taken over keeps its former owner's attempt",
    Safety TokensPerSession = "each session counts its own tokens",
    Safety TokensStandStill = "the next owner gets the same token",
    Safety TokensBeginAgain = "the counter of a data stream goes with its release",
    Safety FloorIgnored = "the floor counts for nothing",
    Safety ReleaseIgnoresToken = "a release frees whatever the token is",
    Safety ReleaseTakesLower = "a release with a lower token frees, too",
    Safety ReleaseIgnoresSession = "a release frees what another session holds",
    Allowed("it is free for others already, and a take-over clears the record away")
        ReleaseByTheGoneFails = "a release by a session that is over answers that it held nothing",
    Safety ReleaseByTheGoneFrees = "a release by a session that is over frees its data stream, whoever has it",
    Delay ReleaseDoesNothing = "a release says released and frees nothing",
    Delay MarksStay = "a mark outlives its lease: who acquires the stream next is told of it",
    Safety CloseKeepsLeases = "what a closed session held is refused until its deadline",
    Safety CloseDoesNothing = "a closed session lives to its deadline",
    Safety TakeOverOfTheLiving = "a take-over does not look at the deadline",
    Safety TakeOverRevivable = "a take-over does not declare the session dead: an open brings it back",
    Safety TakeOverByTheGone = "a session that is over takes over",
    Safety TakeOverKeepsTokens = "leases are taken over with their tokens",
    Safety TakeOverMovesTheAcquired = "a take-over moves what others have acquired since",
    Safety TakeOverIsTwoSteps = "a take-over reads in one step and writes in another",
    Safety TakeOverCopies = "what was taken over stays on the dead one's record",
    Safety TakeOverLosesEntry = "a lease that was taken over names no entry",
    Safety TakeOverDropsTheRest = "what is left after a page of a take-over is lost",
    Delay TakeOverMovesAll = "a take-over moves everything, however much was asked for",
    Delay TakeOverCountsWrong = "a take-over says that nothing is left",
    Delay TakeOverKeepsMarks = "a mark survives a take-over",
    Safety RemoveOfTheLiving = "a remove ends a session that lives",
    Safety RemoveWithLeases = "a remove drops what a dead session still holds, without a word",
    Delay RemoveDoesNothing = "a removed session is reported again",
    Delay DeadAreReportedOnce = "a dead session is reported in one renewal only",
    Delay DeadAreNotReported = "dead sessions are not reported",
    Delay ClosedAreNotReported = "closed sessions are not reported until their deadline",
    Delay NextDeadlineIsOwn = "the next deadline may be the session's own",
    Delay NextDeadlineIsLast = "the next deadline is the last one",
    Delay NextDeadlineOfTheDead = "the dead have a next deadline",
    Delay MembersAreAll = "the dead are members",
    Delay RecordsOfAll = "records are everybody's",
    Delay RecordsIgnoreAfter = "every page of records is the first",
    Safety RecordsCountOff = "one lease too few is on record",
    Safety RecordsLoseTokens = "records have no tokens",
    Safety RevokeFrees = "a mark frees the lease at once",
    Safety RenewalFreesMarked = "a renewal frees what is marked",
    Delay RevokeIsToldOnce = "a mark is told in one renewal only",
    Delay RevokeIsToldToAll = "a mark is told to everybody",
    Delay GenerationChanges = "the generation changes with each renewal",
    Delay SweepForAll = "the turn to sweep is everybody's",
    Delay SweepOnce = "the turn to sweep comes once",
    Safety NamesAreCut = "names are cut at 1000 bytes",
    Safety NamesFoldCase = "names are compared without regard to case",
    Safety InspectSeesTheDead = "a look shows what the dead held",
    Delay InspectSeesNobody = "a look sees everything free",
    Safety ResultsAreSorted = "results come in the order of names",
    Safety SecondOfAPageSeesNothing = "each item of a page sees what was before the page",
}

#[derive(Debug)]
struct Locks {
    bug: Option<Bug>,
    clock: Arc<dyn Runtime>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sessions: BTreeMap<SessionId, State>,
    over: BTreeSet<SessionId>,
    leases: BTreeMap<StreamName, Lease>,
    /// What sessions have on record besides, by a bug.
    copies: BTreeMap<SessionId, Vec<LeaseRef>>,
    marks: BTreeMap<StreamName, u64>,
    told: BTreeSet<String>,
    counters: BTreeMap<String, u64>,
    sweep_until: Timestamp,
    swept: bool,
    renewals: u64,
}

#[derive(Debug, Clone)]
struct State {
    deadline: Timestamp,
    closed: bool,
    last_attempt: u64,
    is_final: bool,
}

#[derive(Debug, Clone)]
struct Lease {
    session: SessionId,
    entry: EntryId,
    token: u64,
    attempt: u64,
}

impl Locks {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lives(&self, table: &Table, session: &SessionId) -> bool {
        let now = self.clock.now();
        table
            .sessions
            .get(session)
            .is_some_and(|state| state.deadline > now)
    }

    fn mint(&self, table: &mut Table, stream: &StreamName, by: &SessionId, floor: u64) -> u64 {
        let floor = if self.is(Bug::FloorIgnored) { 0 } else { floor };
        let counter = match self.bug {
            Some(Bug::TokensPerSession) => by.to_string(),
            Some(Bug::TokensBeginAgain | Bug::TokensStandStill) => stream.to_string(),
            _ => String::new(),
        };
        let last = table.counters.entry(counter).or_default();
        if self.is(Bug::TokensStandStill) {
            *last = (*last).max(1).max(floor + 1);
        } else {
            *last = (*last).max(floor) + 1;
        }
        *last
    }

    fn name(&self, stream: &StreamName, entry: EntryId) -> StreamName {
        let name = stream.as_str();
        let name = match self.bug {
            Some(Bug::NamesFoldCase) => name.to_lowercase(),
            Some(Bug::NamesAreCut) => name.chars().take(1_000).collect(),
            Some(Bug::AcquireIsPerEntry) => format!("{entry} {name}"),
            _ => return stream.clone(),
        };
        StreamName::new(name.chars().take(4_096).collect::<String>()).unwrap_or(stream.clone())
    }

    fn held(&self, table: &Table, lease: &Lease) -> Held {
        let deadline = table.sessions.get(&lease.session).map(|s| s.deadline);
        Held {
            holder: Holder::Session(lease.session.clone()),
            remaining: deadline
                .unwrap_or_default()
                .saturating_since(self.clock.now()),
        }
    }

    fn acquire_one(
        &self,
        table: &mut Table,
        session: &Session,
        request: &Acquire,
    ) -> AcquireOutcome {
        let id = &session.id;
        let known = table.sessions.contains_key(id);
        let allowed = (known && self.is(Bug::AcquireByTheGone))
            || (!known && !table.over.contains(id) && self.is(Bug::AcquireByTheUnknown));
        if !self.lives(table, id) && !allowed {
            return AcquireOutcome::SessionGone;
        }
        let now = self.clock.now();
        if let Some(own) = table.sessions.get_mut(id) {
            if self.is(Bug::AcquireExtendsSession) {
                own.deadline = now + session.ttl;
            }
            if !self.is(Bug::RefusedAttemptsDoNotCount) {
                own.last_attempt = own.last_attempt.max(request.attempt);
            }
        }
        let stream = self.name(&request.stream, request.entry);
        if let Some(had) = table.leases.get(&stream).cloned() {
            let same_session = match self.bug {
                Some(Bug::AcquireGoesByConsumer) => had.session.consumer == id.consumer,
                _ => had.session == *id,
            };
            let same = same_session
                && (had.entry == request.entry || self.is(Bug::AcquireTakesOwnOfOtherEntry));
            let lives = self.lives(table, &had.session) || self.is(Bug::AcquireIgnoresDeath);
            if lives && !self.is(Bug::AcquireTakesHeld) {
                let token = AcquireOutcome::Acquired(FencingToken(had.token));
                let refused = AcquireOutcome::Held(self.held(table, &had));
                let is_repeat = had.attempt == request.attempt;
                if same && is_repeat && self.is(Bug::RepeatIsHeld) {
                    return refused;
                }
                if same && is_repeat && !self.is(Bug::RepeatMintsAnew) {
                    return token;
                }
                if same && request.attempt > had.attempt && self.is(Bug::LaterAttemptGetsSameToken)
                {
                    return token;
                }
                let late = request.attempt < had.attempt && !self.is(Bug::EarlierAttemptReplaces);
                if !same || late {
                    return refused;
                }
            }
            if self.is(Bug::AcquireLeavesRecord) && had.session != *id {
                let copy = LeaseRef {
                    stream: stream.clone(),
                    entry: had.entry,
                    token: FencingToken(had.token),
                };
                table.copies.entry(had.session).or_default().push(copy);
            }
        }
        let token = self.mint(table, &stream, id, request.floor.0);
        if let Some(own) = table.sessions.get_mut(id) {
            own.last_attempt = own.last_attempt.max(request.attempt);
        }
        if !self.is(Bug::MarksStay) {
            table.marks.remove(&stream);
        }
        let lease = Lease {
            session: id.clone(),
            entry: request.entry,
            token,
            attempt: request.attempt,
        };
        table.leases.insert(stream, lease);
        AcquireOutcome::Acquired(FencingToken(token))
    }

    fn release_one(
        &self,
        table: &mut Table,
        session: &SessionId,
        release: &LeaseRef,
    ) -> ReleaseOutcome {
        let stream = self.name(&release.stream, release.entry);
        let Some(had) = table.leases.get(&stream) else {
            return ReleaseOutcome::NotHeld;
        };
        let fits = match self.bug {
            Some(Bug::ReleaseIgnoresToken) => true,
            Some(Bug::ReleaseTakesLower) => release.token.0 <= had.token && release.token.0 > 0,
            _ => had.token == release.token.0,
        };
        let gone = !self.lives(table, session);
        let own = had.session == *session || self.is(Bug::ReleaseIgnoresSession);
        let any = gone && self.is(Bug::ReleaseByTheGoneFrees);
        if !any && (!own || !fits || (gone && self.is(Bug::ReleaseByTheGoneFails))) {
            return ReleaseOutcome::NotHeld;
        }
        if !self.is(Bug::ReleaseDoesNothing) {
            table.leases.remove(&stream);
            if !self.is(Bug::MarksStay) {
                table.marks.remove(&stream);
            }
            if self.is(Bug::TokensBeginAgain) {
                table.counters.remove(stream.as_str());
            }
        }
        ReleaseOutcome::Released
    }

    /// Each item, in its order.
    fn page<A, R>(
        &self,
        items: &[A],
        mut each: impl FnMut(&A) -> R,
        name: impl Fn(&A) -> StreamName,
    ) -> Vec<R> {
        if self.is(Bug::ResultsAreSorted) {
            let mut sorted: Vec<_> = items.iter().collect();
            sorted.sort_by_key(|item| name(item));
            return sorted.into_iter().map(each).collect();
        }
        items.iter().map(&mut each).collect()
    }

    fn on_record(&self, table: &Table, session: &SessionId) -> Vec<LeaseRef> {
        let all = self.is(Bug::RecordsOfAll);
        let leases = table.leases.iter();
        let own = leases.filter(|(_, lease)| all || lease.session == *session);
        let mut own: Vec<_> = own
            .map(|(stream, lease)| LeaseRef {
                stream: stream.clone(),
                entry: lease.entry,
                token: FencingToken(match self.bug {
                    Some(Bug::RecordsLoseTokens) => 0,
                    _ => lease.token,
                }),
            })
            .collect();
        own.extend(table.copies.get(session).into_iter().flatten().cloned());
        own.sort();
        own
    }

    fn dead(&self, table: &Table) -> Vec<SessionId> {
        let now = self.clock.now();
        let mut dead: Vec<_> = table
            .sessions
            .iter()
            .filter(|(_, state)| state.deadline <= now)
            .filter(|(_, state)| !(state.closed && self.is(Bug::ClosedAreNotReported)))
            .map(|(id, state)| (state.deadline, id.clone()))
            .collect();
        dead.sort();
        dead.into_iter().map(|(_, id)| id).collect()
    }

    /// The leases of the page, moved, and how many are left.
    fn move_page(
        &self,
        table: &mut Table,
        session: &SessionId,
        page: Vec<LeaseRef>,
        dead: &SessionId,
    ) -> Vec<LeaseRef> {
        let own = table
            .sessions
            .get(session)
            .map_or(0, |own| own.last_attempt);
        let mut moved = Vec::new();
        for had in page {
            let Some(lease) = table.leases.get(&had.stream).cloned() else {
                continue;
            };
            if lease.session != *dead
                && !self.is(Bug::TakeOverMovesTheAcquired)
                && !self.is(Bug::TakeOverIsTwoSteps)
                && !self.is(Bug::AcquireLeavesRecord)
            {
                continue;
            }
            let token = match self.bug {
                Some(Bug::TakeOverKeepsTokens) => lease.token,
                _ => self.mint(table, &had.stream, session, lease.token),
            };
            let attempt = match self.bug {
                Some(Bug::TakenOverHasNoAttempt) => 0,
                Some(Bug::TakenOverHasOldAttempt) => lease.attempt,
                _ => own,
            };
            let new = Lease {
                session: session.clone(),
                token,
                attempt,
                entry: lease.entry,
            };
            table.leases.insert(had.stream.clone(), new);
            if self.is(Bug::TakeOverCopies) {
                table
                    .copies
                    .entry(dead.clone())
                    .or_default()
                    .push(had.clone());
            }
            if !self.is(Bug::TakeOverKeepsMarks) {
                table.marks.remove(&had.stream);
            }
            moved.push(LeaseRef {
                token: FencingToken(token),
                entry: match self.bug {
                    Some(Bug::TakeOverLosesEntry) => EntryId::MIN,
                    _ => had.entry,
                },
                ..had
            });
        }
        moved
    }
}

#[async_trait]
impl LockManager for Locks {
    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        if self.is(Bug::AcquireIsTwoSteps) || self.is(Bug::SecondOfAPageSeesNothing) {
            let free: Vec<bool> = {
                let table = self.table();
                let lives = |lease: &Lease| self.lives(&table, &lease.session);
                let held = |acquire: &Acquire| table.leases.get(&acquire.stream).is_some_and(lives);
                requests.iter().map(|acquire| !held(acquire)).collect()
            };
            if self.is(Bug::AcquireIsTwoSteps) {
                future::yield_now().await;
            }
            let mut table = self.table();
            let outcomes = requests.iter().zip(free).map(|(acquire, free)| {
                if free {
                    table.leases.remove(&acquire.stream);
                }
                self.acquire_one(&mut table, session, acquire)
            });
            return Ok(outcomes.collect());
        }
        let table = &mut *self.table();
        Ok(self.page(
            requests,
            |acquire| self.acquire_one(table, session, acquire),
            |acquire| acquire.stream.clone(),
        ))
    }

    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let table = &mut *self.table();
        let (session, now) = (&renew.session, self.clock.now());
        let id = &session.id;
        let Some(state) = table.sessions.get_mut(id) else {
            return Ok(RenewOutcome::SessionGone);
        };
        let revived = match self.bug {
            Some(Bug::RenewRevives) => !state.is_final && !state.closed,
            Some(Bug::RenewRevivesTheTakenOver) => state.is_final && !state.closed,
            _ => false,
        };
        if state.deadline <= now && !revived {
            return Ok(RenewOutcome::SessionGone);
        }
        match self.bug {
            Some(Bug::RenewDoesNothing) => {}
            Some(Bug::RenewSetsHalf) => state.deadline = now + session.ttl / 2,
            Some(Bug::RenewAdds) => state.deadline = state.deadline + session.ttl,
            _ => state.deadline = now + session.ttl,
        }
        table.renewals += 1;
        let mut reply = Renewal::default();
        reply.dead = self.dead(table);
        match self.bug {
            Some(Bug::DeadAreNotReported) => reply.dead.clear(),
            Some(Bug::DeadAreReportedOnce) => {
                reply
                    .dead
                    .retain(|dead| table.told.insert(dead.to_string()));
            }
            _ => {}
        }
        let deadlines = table.sessions.iter().filter(|(other, state)| {
            (*other != id || self.is(Bug::NextDeadlineIsOwn))
                && (state.deadline > now || self.is(Bug::NextDeadlineOfTheDead))
        });
        let deadlines = deadlines.map(|(_, state)| state.deadline.saturating_since(now));
        reply.next_deadline = match self.bug {
            Some(Bug::NextDeadlineIsLast) => deadlines.max(),
            _ => deadlines.min(),
        };
        let living = table.sessions.values().filter(|state| state.deadline > now);
        reply.members = living.count() as u32;
        let own = self.on_record(table, id);
        reply.on_record = Some(match self.bug {
            Some(Bug::RecordsCountOff) => (own.len() as u64).saturating_sub(1),
            _ => own.len() as u64,
        });
        let mut marked = Vec::new();
        for stream in table.marks.keys() {
            let Some(lease) = table.leases.get(stream) else {
                continue;
            };
            if lease.session == *id || self.is(Bug::RevokeIsToldToAll) {
                marked.push(LeaseRef {
                    stream: stream.clone(),
                    entry: lease.entry,
                    token: FencingToken(lease.token),
                });
            }
        }
        if self.is(Bug::RevokeIsToldOnce) {
            marked.retain(|lease| table.told.insert(format!("{lease:?}")));
        }
        if self.is(Bug::RenewalFreesMarked) {
            for lease in &marked {
                table.leases.remove(&lease.stream);
            }
        }
        reply.revoked = marked;
        if self.is(Bug::GenerationChanges) {
            reply.generation = table.renewals;
        }
        if let Some(turn) = renew.want_sweep {
            reply.sweep = match self.bug {
                Some(Bug::SweepForAll) => true,
                Some(Bug::SweepOnce) => !table.swept,
                _ => table.sweep_until <= now,
            };
            if reply.sweep {
                table.swept = true;
                table.sweep_until = now + turn;
            }
        }
        Ok(RenewOutcome::Extended(reply))
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        let table = &mut *self.table();
        Ok(self.page(
            releases,
            |release| self.release_one(table, session, &release.lease),
            |release| release.lease.stream.clone(),
        ))
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        let table = &*self.table();
        let state = |lock: &LockId| {
            let lease = table.leases.get(&self.name(&lock.stream, lock.entry));
            let shown = lease.filter(|lease| {
                self.lives(table, &lease.session) || self.is(Bug::InspectSeesTheDead)
            });
            let shown = shown.filter(|_| !self.is(Bug::InspectSeesNobody));
            shown.map_or(LockState::Free, |lease| {
                LockState::Held(self.held(table, lease))
            })
        };
        Ok(self.page(locks, state, |lock| lock.stream.clone()))
    }
}

#[async_trait]
impl Sessions for Locks {
    fn scheme(&self) -> LockScheme {
        LockScheme::Session
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        let table = &mut *self.table();
        let now = self.clock.now();
        let id = &session.id;
        if table.over.contains(id) && !self.is(Bug::OpenRevivesTheRemoved) {
            return Ok(OpenOutcome::SessionGone);
        }
        if self.is(Bug::OpenForgetsLeases) {
            table.leases.retain(|_, lease| lease.session != *id);
        }
        let new = State {
            deadline: now + session.ttl,
            closed: false,
            last_attempt: 0,
            is_final: false,
        };
        let state = table.sessions.entry(id.clone()).or_insert(new);
        let revived = match self.bug {
            Some(Bug::OpenRevives) => !state.closed && !state.is_final,
            Some(Bug::OpenRevivesTheClosed) => state.closed,
            Some(Bug::TakeOverRevivable) => state.is_final && !state.closed,
            _ => false,
        };
        if state.deadline <= now && !revived {
            return Ok(OpenOutcome::SessionGone);
        }
        if !self.is(Bug::OpenKeepsDeadline) {
            state.deadline = now + session.ttl;
        }
        Ok(OpenOutcome::Opened)
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        let table = &mut *self.table();
        let now = self.clock.now();
        match table.sessions.get_mut(session) {
            None => {
                table.over.insert(session.clone());
            }
            Some(_) if self.is(Bug::CloseDoesNothing) => {}
            Some(state) => {
                let until = state.deadline;
                state.deadline = state.deadline.min(now);
                state.closed = true;
                if self.is(Bug::CloseKeepsLeases) {
                    // Under a name that nobody has.
                    let shadow = SessionId::new(session.consumer.clone(), !session.nonce);
                    let held = table.leases.values_mut();
                    held.filter(|lease| lease.session == *session)
                        .for_each(|lease| lease.session = shadow.clone());
                    let state = State {
                        deadline: until,
                        closed: true,
                        last_attempt: 0,
                        is_final: true,
                    };
                    table.sessions.insert(shadow, state);
                }
            }
        }
        Ok(())
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        let (page, left) = {
            let table = &mut *self.table();
            let now = self.clock.now();
            if !self.lives(table, &session.id) && !self.is(Bug::TakeOverByTheGone) {
                return Ok(TakeOverOutcome::SessionGone);
            }
            let Some(state) = table.sessions.get_mut(dead) else {
                let leases = Vec::new();
                return Ok(TakeOverOutcome::Taken { leases, left: 0 });
            };
            if state.deadline > now {
                if !self.is(Bug::TakeOverOfTheLiving) {
                    let remaining = state.deadline.saturating_since(now);
                    return Ok(TakeOverOutcome::Alive { remaining });
                }
                state.deadline = now;
            }
            state.is_final = true;
            let mut page = self.on_record(table, dead);
            if self.is(Bug::TakeOverMovesTheAcquired) {
                let others = table.leases.iter().filter(|(_, l)| l.session != *dead);
                page.extend(others.map(|(stream, lease)| LeaseRef {
                    stream: stream.clone(),
                    entry: lease.entry,
                    token: FencingToken(lease.token),
                }));
            }
            let max = match self.bug {
                Some(Bug::TakeOverMovesAll) => usize::MAX,
                _ => max,
            };
            let rest = page.split_off(page.len().min(max));
            if self.is(Bug::TakeOverDropsTheRest) {
                for lease in &rest {
                    table.leases.remove(&lease.stream);
                }
            }
            let left = match self.bug {
                Some(Bug::TakeOverCountsWrong | Bug::TakeOverDropsTheRest) => 0,
                _ => rest.len() as u64,
            };
            (page, left)
        };
        if self.is(Bug::TakeOverIsTwoSteps) {
            future::yield_now().await;
        }
        let leases = self.move_page(&mut self.table(), &session.id, page, dead);
        Ok(TakeOverOutcome::Taken { leases, left })
    }

    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        let table = &mut *self.table();
        if !table.sessions.contains_key(dead) {
            return Ok(true);
        }
        if self.lives(table, dead) && !self.is(Bug::RemoveOfTheLiving) {
            return Ok(false);
        }
        let holds = !self.on_record(table, dead).is_empty();
        if holds && !self.is(Bug::RemoveOfTheLiving) && !self.is(Bug::RemoveWithLeases) {
            return Ok(false);
        }
        table.leases.retain(|_, lease| lease.session != *dead);
        if !self.is(Bug::RemoveDoesNothing) {
            table.sessions.remove(dead);
            table.over.insert(dead.clone());
        }
        Ok(true)
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let table = &*self.table();
        let now = self.clock.now();
        let all = self.is(Bug::MembersAreAll);
        let living = table.sessions.iter();
        let living = living.filter(|(_, state)| state.deadline > now || all);
        Ok(living
            .map(|(id, state)| Member {
                session: id.clone(),
                remaining: state.deadline.saturating_since(now),
            })
            .collect())
    }

    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        let after = after.filter(|_| !self.is(Bug::RecordsIgnoreAfter));
        let all = self.on_record(&self.table(), session).into_iter();
        let page = all.filter(|lease| after.is_none_or(|after| lease.stream > *after));
        Ok(page.take(max).collect())
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        let table = &mut *self.table();
        let marked = streams.iter().map(|stream| {
            let Some(lease) = table.leases.get(stream) else {
                return false;
            };
            table.marks.insert(stream.clone(), lease.token);
            if self.is(Bug::RevokeFrees) {
                table.leases.remove(stream);
            }
            true
        });
        Ok(marked.collect())
    }
}

fn locks(sim: &SimRuntime, bug: Option<Bug>) -> Arc<dyn LockManager> {
    Arc::new(Locks {
        bug,
        clock: Arc::new(sim.clone()),
        table: Mutex::default(),
    })
}

#[test]
fn what_is_wrong_with_session_leases_is_found() {
    let behaviours = conformance::lock_manager::behaviours();
    assert_right(&table("LockManager", &behaviours, locks, Bug::ALL));
}
