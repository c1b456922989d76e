//! [`Harness`]: a machine, a made-up clock, and what it has asked for and said.
//!
//! It checks R12 and "no spinning" on the way: every call is answered once,
//! every `Added` ends once, nothing comes after `Terminated`, and the next
//! timeout always lies ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::belief::Belief;
use crate::machine::{
    Action, ActionId, Answer, CallId, Command, Config, End, Input, LbsCall, LocksCall, Machine,
    Notice, Output, Reply,
};
use crate::{
    AcquireOutcome, Announcement, ClaimOutcome, ConsumerName, Delivery, EntryId, Error, ErrorKind,
    FencingToken, Fetched, HandBackOutcome, Held, Holder, Info, LeaseRef, LockId, LockScheme,
    LockState, Member, OpenOutcome, Pause, Pending, PendingIds, PendingPage, ReleaseOutcome,
    RenewOutcome, Renewal, Result, Scope, SessionId, Settings, StreamName, Timestamp,
};

pub(super) const TTL: Duration = Duration::from_secs(2);
pub(super) const SCHEMES: [LockScheme; 2] = [LockScheme::Session, LockScheme::PerStream];

pub(super) struct Harness {
    pub(super) machine: Machine,
    pub(super) now: Timestamp,
    /// Sent and not answered, in order.
    pub(super) open: Vec<(ActionId, Action)>,
    pub(super) notices: Vec<Notice>,
    pub(super) answers: BTreeMap<CallId, Result<Answer>>,
    pub(super) terminated: bool,
    pub(super) stopped: bool,
    /// What listings find.
    pub(super) pending: BTreeMap<EntryId, Pending>,
    /// How many at most, as if they were long.
    pub(super) most_listed: usize,
    /// Whether the service is paused.
    pub(super) pause: Option<Pause>,
    /// What inspections find; absent is free.
    pub(super) locks: BTreeMap<StreamName, Held>,
    pub(super) members: Vec<Member>,
    /// What heartbeats bring, besides the number on record, which always fits.
    pub(super) heartbeat: Renewal,
    timeout: Timestamp,
    pub(super) owned: BTreeSet<(EntryId, FencingToken)>,
    asked: BTreeSet<CallId>,
    last_token: u64,
}

pub(super) fn consumer(name: &str) -> ConsumerName {
    ConsumerName::from_identity(name).unwrap()
}

pub(super) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(super) fn entry(n: u64) -> EntryId {
    EntryId::new(n, 0)
}

pub(super) fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "made up")
}

pub(super) fn announcement(name: &str) -> Announcement {
    Announcement::new(stream(name), Info::NONE)
}

pub(super) fn delivery(n: u64, name: &str) -> Delivery {
    Delivery {
        entry: entry(n),
        content: Ok(announcement(name)),
    }
}

pub(super) fn pending_at(at: &str, n: u64, name: &str) -> Pending {
    Pending {
        entry: entry(n),
        consumer: Some(consumer(at)),
        idle: Duration::ZERO,
        deliveries: 1,
        token: FencingToken::NONE,
        handed_back: false,
        failures: 0,
        reasons: Vec::new(),
        content: Ok(announcement(name)),
    }
}

pub(super) fn session_of(name: &str) -> SessionId {
    SessionId::new(consumer(name), 77)
}

pub(super) fn held_by(session: SessionId, remaining: Duration) -> Held {
    Held {
        holder: Holder::Session(session),
        remaining,
    }
}

pub(super) fn lease(name: &str, n: u64, token: u64) -> LeaseRef {
    LeaseRef {
        stream: stream(name),
        entry: entry(n),
        token: FencingToken(token),
    }
}

impl Harness {
    /// A machine that has not been answered anything yet.
    pub(super) fn cold(scheme: LockScheme, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            ttl: TTL,
            ..Settings::default()
        };
        change(&mut settings);
        let config = Config {
            consumer: consumer("a"),
            settings,
            scheme,
            seed: 7,
        };
        let now = Timestamp::from_millis(1_000_000);
        let mut harness = Self {
            machine: Machine::new(config, now),
            now,
            open: Vec::new(),
            notices: Vec::new(),
            answers: BTreeMap::new(),
            terminated: false,
            stopped: false,
            pending: BTreeMap::new(),
            most_listed: usize::MAX,
            pause: None,
            locks: BTreeMap::new(),
            members: Vec::new(),
            heartbeat: Renewal {
                members: 2,
                on_record: (scheme == LockScheme::Session).then_some(0),
                ..Renewal::default()
            },
            timeout: now,
            owned: BTreeSet::new(),
            asked: BTreeSet::new(),
            last_token: 100,
        };
        harness.drain();
        harness
    }

    /// A machine that is prepared, open, has sent a heartbeat and looked around, and waits in a fetch.
    pub(super) fn new(scheme: LockScheme) -> Self {
        Self::with(scheme, |_| {})
    }

    pub(super) fn with(scheme: LockScheme, change: impl FnOnce(&mut Settings)) -> Self {
        let mut harness = Self::cold(scheme, change);
        harness.housekeep();
        harness
    }

    fn drain(&mut self) {
        loop {
            let output = self.machine.poll_output();
            assert!(
                !self.terminated || !matches!(output, Output::Notice(_) | Output::Action(..)),
                "after Terminated: {output:?}"
            );
            match output {
                Output::Action(id, action) => self.open.push((id, action)),
                Output::Cancel(id) => self.open.retain(|(open, _)| *open != id),
                Output::Notice(notice) => self.hear(notice),
                Output::Answer(call, answer) => {
                    assert!(self.asked.contains(&call), "{call:?} was never asked");
                    let before = self.answers.insert(call, answer);
                    assert!(before.is_none(), "{call:?} answered twice");
                }
                Output::Timeout(at) => {
                    assert!(at > self.now, "spins");
                    self.timeout = at;
                    return;
                }
                Output::Stopped => {
                    self.stopped = true;
                    assert!(self.terminated, "stopped without a word");
                    assert!(self.owned.is_empty(), "never ended: {:?}", self.owned);
                    let answered = self.answers.keys().copied().collect();
                    assert_eq!(self.asked, answered, "calls without an answer");
                    return;
                }
            }
        }
    }

    fn hear(&mut self, notice: Notice) {
        match &notice {
            Notice::Added {
                entry,
                stream,
                token,
                ..
            } => {
                assert!(self.owned.insert((*entry, *token)), "added twice: {stream}");
            }
            Notice::Ended { entry, token, .. } => {
                assert!(self.owned.remove(&(*entry, *token)), "ended twice: {entry}");
            }
            Notice::Terminated { .. } => self.terminated = true,
            _ => {}
        }
        self.notices.push(notice);
    }

    pub(super) fn input(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    pub(super) fn call(&mut self, command: impl FnOnce(CallId) -> Command) -> CallId {
        let call = CallId(self.asked.len() as u64);
        self.asked.insert(call);
        self.input(Input::Command(command(call)));
        call
    }

    /// Takes out the first open action of that name.
    pub(super) fn take(&mut self, name: &str) -> (ActionId, Action) {
        match self.open.iter().position(|(_, action)| is(action, name)) {
            Some(at) => self.open.remove(at),
            None => panic!("no {name} among {:?}", self.open),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.open.iter().any(|(_, action)| is(action, name))
    }

    pub(super) fn reply(&mut self, id: ActionId, reply: Reply) {
        self.input(Input::Done(id, Ok(reply)));
    }

    /// Answers the first open action of that name.
    pub(super) fn answer(&mut self, name: &str, reply: Reply) -> Action {
        let (id, action) = self.take(name);
        self.reply(id, reply);
        action
    }

    pub(super) fn fail(&mut self, name: &str) -> Action {
        self.fail_with(name, unavailable())
    }

    pub(super) fn fail_with(&mut self, name: &str, error: Error) -> Action {
        let (id, action) = self.take(name);
        self.input(Input::Done(id, Err(error)));
        action
    }

    /// Answers everything that is not about single streams, until nothing of it is open.
    pub(super) fn housekeep(&mut self) {
        for _ in 0..1_000 {
            let Some(at) = self
                .open
                .iter()
                .position(|(_, action)| self.routine(action).is_some())
            else {
                return;
            };
            let (id, action) = self.open.remove(at);
            let reply = self.routine(&action).unwrap();
            self.reply(id, reply);
        }
        panic!("no end of work: {:?}", self.open);
    }

    pub(super) fn routine(&self, action: &Action) -> Option<Reply> {
        Some(match action {
            Action::Lbs(LbsCall::Prepare) => Reply::Prepared,
            Action::Lbs(LbsCall::Paused) => Reply::Paused(self.pause.clone()),
            Action::Locks(LocksCall::Open(_)) => Reply::Opened(OpenOutcome::Opened),
            Action::Locks(LocksCall::Renew { .. }) => {
                let on_record = self
                    .heartbeat
                    .on_record
                    .map(|n| n + self.machine.held() as u64);
                Reply::Renewed(RenewOutcome::Extended(Renewal {
                    on_record,
                    ..self.heartbeat.clone()
                }))
            }
            Action::Lbs(LbsCall::List { scope, .. }) => Reply::Listed(self.list(scope)),
            Action::Lbs(LbsCall::ListIds {
                consumer, after, ..
            }) => Reply::ListedIds(self.list_ids(consumer.as_ref(), *after)),
            Action::Lbs(LbsCall::ListStranded { after, .. }) => {
                Reply::ListedIds(self.list_stranded(*after))
            }
            Action::Locks(LocksCall::Inspect(locks)) => {
                Reply::Inspected(locks.iter().map(|lock| self.inspect(lock)).collect())
            }
            Action::Locks(LocksCall::Members) => Reply::Members(self.members.clone()),
            Action::Locks(LocksCall::Release(_, page)) => {
                Reply::Released(vec![ReleaseOutcome::Released; page.len()])
            }
            _ => return None,
        })
    }

    /// Answers the first open action of that name as a matter of routine.
    pub(super) fn answer_routine(&mut self, name: &str) {
        let (id, action) = self.take(name);
        let reply = self.routine(&action).unwrap();
        self.reply(id, reply);
    }

    /// Answers all that a shutdown does, to its end.
    pub(super) fn finish(&mut self) {
        for _ in 0..100 {
            self.housekeep();
            let Some((_, action)) = self.open.first() else {
                break;
            };
            let reply = match action {
                Action::Lbs(LbsCall::HandBack(page)) => {
                    Reply::HandedBack(vec![HandBackOutcome::HandedBack; page.len()])
                }
                Action::Lbs(LbsCall::Claim(page)) => {
                    let outcome = ClaimOutcome::Claimed {
                        from: None,
                        failures: 0.into(),
                    };
                    Reply::Claimed(vec![outcome; page.len()])
                }
                Action::Locks(LocksCall::Close(_)) => Reply::Closed,
                Action::Lbs(LbsCall::RemoveConsumer(_)) => Reply::ConsumerRemoved(true),
                Action::Locks(LocksCall::Records { .. }) => Reply::Records(Vec::new()),
                other => panic!("unexpected in a shutdown: {other:?}"),
            };
            let (id, _) = self.open.remove(0);
            self.reply(id, reply);
        }
        assert!(self.stopped, "no end: {:?}", self.machine);
    }

    /// Found pending here, locked, claimed: the user's. Needs no fetch.
    pub(super) fn leased_by_listing(&mut self, n: u64, name: &str) -> FencingToken {
        self.put_pending(pending_at("a", n, name));
        self.input(Input::Hint(crate::Hint::MayHaveMissed));
        self.housekeep();
        let token = self.acquired();
        self.claimed();
        token
    }

    fn list(&self, scope: &Scope) -> PendingPage {
        let is_in = |p: &&Pending| match scope {
            Scope::All { after } => p.entry > *after,
            Scope::Consumer { consumer, after } => {
                p.consumer.as_ref() == Some(consumer) && p.entry > *after
            }
            Scope::Entries(entries) => entries.contains(&p.entry),
        };
        let mut entries: Vec<Pending> = self.pending.values().filter(is_in).cloned().collect();
        let more = entries.len() > self.most_listed;
        entries.truncate(self.most_listed);
        let next = entries.last().filter(|_| more).map(|last| last.entry);
        PendingPage { entries, next }
    }

    fn list_ids(&self, consumer: Option<&ConsumerName>, after: EntryId) -> PendingIds {
        let after = |p: &&Pending| p.entry > after;
        let its = |p: &&Pending| consumer.is_none_or(|of| p.consumer.as_ref() == Some(of));
        let found = self.pending.values().filter(after).filter(its);
        PendingIds {
            entries: found.map(|p| p.entry).collect(),
            next: None,
        }
    }

    /// Of what listings find by id, what is at nobody.
    fn list_stranded(&self, after: EntryId) -> PendingIds {
        let found = self.pending.values().filter(|p| p.entry > after);
        PendingIds {
            entries: found
                .filter(|p| p.consumer.is_none())
                .map(|p| p.entry)
                .collect(),
            next: None,
        }
    }

    fn inspect(&self, lock: &LockId) -> LockState {
        let held = self.locks.get(&lock.stream).cloned();
        held.map_or(LockState::Free, LockState::Held)
    }

    pub(super) fn put_pending(&mut self, pending: Pending) {
        self.pending.insert(pending.entry, pending);
    }

    /// The clock jumps, and only then the machine runs: a late wake.
    pub(super) fn jump(&mut self, by: Duration) {
        self.now = self.now + by;
        self.machine.handle_timeout(self.now);
        self.drain();
    }

    /// Time passes, with all timeouts in it; nothing is answered.
    pub(super) fn pass(&mut self, by: Duration) {
        self.pass_with(by, |_| {});
    }

    /// Time passes, and the routine is answered.
    pub(super) fn live(&mut self, by: Duration) {
        self.pass_with(by, Self::housekeep);
    }

    pub(super) fn pass_with(&mut self, by: Duration, mut each: impl FnMut(&mut Self)) {
        let until = self.now + by;
        let mut wakes = 0;
        each(self);
        while self.timeout <= until && !self.stopped {
            self.now = self.timeout;
            self.machine.handle_timeout(self.now);
            self.drain();
            each(self);
            wakes += 1;
            assert!(wakes < 10_000, "spins: {wakes} wakes before {until:?}");
        }
        self.now = until;
        if !self.stopped {
            self.machine.handle_timeout(until);
            self.drain();
            each(self);
        }
    }

    /// Fetches an entry; it then waits to be acquired.
    pub(super) fn fetched(&mut self, n: u64, name: &str) {
        self.put_pending(pending_at("a", n, name));
        let entries = vec![delivery(n, name)];
        let fetched = Fetched {
            entries,
            backlog: 0,
        };
        self.answer("Fetch", Reply::Fetched(fetched));
    }

    /// Answers the open acquire of one stream with a new token.
    pub(super) fn acquired(&mut self) -> FencingToken {
        self.last_token += 1;
        let token = FencingToken(self.last_token);
        self.answer(
            "Acquire",
            Reply::Acquired(vec![AcquireOutcome::Acquired(token)]),
        );
        token
    }

    /// Grants an open acquire of any size, and the claim after it.
    pub(super) fn acquired_page(&mut self) {
        let (id, action) = self.take("Acquire");
        let Action::Locks(LocksCall::Acquire(_, page)) = action else {
            unreachable!()
        };
        let mut grant = |_| {
            self.last_token += 1;
            AcquireOutcome::Acquired(FencingToken(self.last_token))
        };
        let outcomes = page.iter().map(&mut grant).collect();
        self.reply(id, Reply::Acquired(outcomes));
        let outcome = ClaimOutcome::Claimed {
            from: None,
            failures: 0.into(),
        };
        self.answer("Claim", Reply::Claimed(vec![outcome; page.len()]));
    }

    pub(super) fn refused(&mut self, held: Held) {
        self.answer("Acquire", Reply::Acquired(vec![AcquireOutcome::Held(held)]));
    }

    pub(super) fn claimed(&mut self) {
        self.claimed_after(0);
    }

    /// What was lost before, and is to be claimed again.
    pub(super) fn handed_back_late(&mut self) {
        let reply = Reply::HandedBack(vec![HandBackOutcome::HandedBack]);
        self.answer("HandBack", reply);
    }

    /// Owners have failed so often on what is claimed.
    pub(super) fn claimed_after(&mut self, failures: u32) {
        let outcome = ClaimOutcome::Claimed {
            from: Some(consumer("a")),
            failures: failures.into(),
        };
        self.answer("Claim", Reply::Claimed(vec![outcome]));
    }

    /// Fetched, locked, claimed: the user's.
    pub(super) fn leased(&mut self, n: u64, name: &str) -> FencingToken {
        self.fetched(n, name);
        let token = self.acquired();
        self.claimed();
        assert!(self.owned.contains(&(entry(n), token)), "not leased");
        token
    }

    pub(super) fn belief(&self, n: u64) -> Arc<Belief> {
        let belief = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Added {
                entry: e, belief, ..
            } if *e == entry(n) => Some(belief.clone()),
            _ => None,
        });
        belief.unwrap()
    }

    /// The user takes it out of the queue, as `Events` does.
    pub(super) fn take_up(&self, n: u64) {
        self.belief(n).report_progress(self.now);
    }

    pub(super) fn owns(&self, n: u64) -> bool {
        self.owned.iter().any(|(e, _)| *e == entry(n))
    }

    pub(super) fn complete(&mut self, n: u64, token: FencingToken) -> CallId {
        let entry = entry(n);
        self.call(|call| Command::Complete { entry, token, call })
    }

    pub(super) fn hand_back(&mut self, n: u64, token: FencingToken) -> CallId {
        let entry = entry(n);
        self.call(|call| Command::HandBack {
            entry,
            token,
            failed: None,
            call: Some(call),
        })
    }

    pub(super) fn claim(&mut self, n: u64, name: &str) -> CallId {
        let (entry, stream, info) = (entry(n), stream(name), Info::NONE);
        self.call(|call| Command::Claim {
            entry,
            stream,
            info,
            call,
        })
    }

    pub(super) fn shut_down(&mut self) -> CallId {
        self.call(|call| Command::Shutdown { call: Some(call) })
    }

    /// How the entry's leases have ended so far.
    pub(super) fn ends(&self, n: u64) -> Vec<End> {
        let ended = |notice: &Notice| match notice {
            Notice::Ended { entry: e, end, .. } if *e == entry(n) => Some(end.clone()),
            _ => None,
        };
        self.notices.iter().filter_map(ended).collect()
    }

    pub(super) fn answered(&self, call: CallId) -> Option<&Answer> {
        self.answers.get(&call)?.as_ref().ok()
    }

    pub(super) fn refused_with(&self, call: CallId) -> Option<ErrorKind> {
        Some(self.answers.get(&call)?.as_ref().err()?.kind())
    }

    /// Sends a heartbeat now and brings `reply`.
    pub(super) fn heartbeat_with(&mut self, change: impl FnOnce(&mut Renewal)) {
        if !self.has("Renew") {
            self.pass_to_heartbeat();
        }
        let mut reply = Renewal {
            members: 2,
            on_record: self
                .heartbeat
                .on_record
                .map(|n| n + self.machine.held() as u64),
            ..Renewal::default()
        };
        change(&mut reply);
        self.answer("Renew", Reply::Renewed(RenewOutcome::Extended(reply)));
    }

    /// What the heartbeat names that is sent and not answered.
    pub(super) fn heartbeat_leases(&self) -> Vec<LeaseRef> {
        let leases = |action: &Action| match action {
            Action::Locks(LocksCall::Renew { leases, .. }) => Some(leases.to_vec()),
            _ => None,
        };
        self.open
            .iter()
            .find_map(|(_, a)| leases(a))
            .expect("a heartbeat")
    }

    pub(super) fn pass_to_heartbeat(&mut self) {
        for _ in 0..1_000 {
            if self.has("Renew") {
                return;
            }
            self.now = self.timeout;
            self.machine.handle_timeout(self.now);
            self.drain();
        }
        panic!("no heartbeat");
    }

    /// The streams and tokens of all releases sent and not answered.
    pub(super) fn releases(&self) -> Vec<LeaseRef> {
        let leases = |action: &Action| match action {
            Action::Locks(LocksCall::Release(_, page)) => {
                page.iter().map(|r| r.lease.clone()).collect()
            }
            _ => Vec::new(),
        };
        self.open.iter().flat_map(|(_, a)| leases(a)).collect()
    }

    /// The entries of all acquires sent and not answered.
    pub(super) fn acquires(&self) -> Vec<EntryId> {
        let entries = |action: &Action| match action {
            Action::Locks(LocksCall::Acquire(_, page)) => page.iter().map(|r| r.entry).collect(),
            _ => Vec::new(),
        };
        self.open.iter().flat_map(|(_, a)| entries(a)).collect()
    }
}

fn is(action: &Action, name: &str) -> bool {
    let text = match action {
        Action::Lbs(call) => format!("{call:?}"),
        Action::Locks(call) => format!("{call:?}"),
    };
    text.split(|c: char| !c.is_alphanumeric()).next() == Some(name)
}
