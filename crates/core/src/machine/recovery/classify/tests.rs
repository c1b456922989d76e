//! Each case: what is pending, what is known, and what it is then. Without a machine.

use super::*;
use crate::machine::recovery::takeover::SuspectKey;
use crate::machine::{Config, Output};
use crate::{Info, LeaseRef, MalformedReason, Member, SessionId, Settings, StreamName, Timestamp};

const ENTRY: EntryId = EntryId::new(7, 0);
const LONG_AGO: Duration = Duration::from_secs(3_600);

/// What an entry was found to be.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// To be taken.
    Admit(Origin),
    /// Its lock is to be looked at.
    Inspect,
    /// Others go first, or its lock is still its former owner's.
    Wait,
    /// To be looked at again at a later time.
    Later,
    Quarantine,
    Adopt,
    GiveBack,
    Wake,
    /// Users are told of it (manual claiming).
    Report,
    /// Not this consumer's business.
    Nothing,
}

struct Bench {
    cx: Cx,
    leases: Leases,
    recovery: Recovery,
    target: Target,
    pending: Pending,
}

fn name(name: &str) -> ConsumerName {
    ConsumerName::from_wire(name)
}

fn session(consumer: &str) -> SessionId {
    SessionId::new(name(consumer), 1)
}

fn stream() -> StreamName {
    StreamName::new("s").unwrap()
}

impl Bench {
    /// An entry of a consumer that nobody knows, for long, found by a sweep of "me".
    fn new(scheme: LockScheme) -> Self {
        let config = Config {
            consumer: name("me"),
            settings: Settings::default(),
            scheme,
            seed: 1,
        };
        let now = Timestamp::ZERO + LONG_AGO;
        let mut cx = Cx::new(config, now);
        cx.session.opened();
        Self {
            cx,
            leases: Leases::new(now),
            recovery: Recovery::new(now),
            target: Target::Sweep {
                after: EntryId::MIN,
            },
            pending: Pending {
                entry: ENTRY,
                consumer: Some(name("other")),
                idle: LONG_AGO,
                deliveries: 1,
                token: FencingToken::NONE,
                handed_back: false,
                failures: 0,
                reasons: Vec::new(),
                content: Ok(Announcement::new(stream(), Info::NONE)),
            },
        }
    }

    fn set(&mut self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Here => self.pending.consumer = Some(name("me")),
                Fact::Stranded => self.pending.consumer = None,
                Fact::HandedBack => self.pending.handed_back = true,
                Fact::Failed(times) => self.pending.failures = *times,
                Fact::Idle(seconds) => self.pending.idle = Duration::from_secs(*seconds),
                Fact::Unreadable => self.pending.content = Err(MalformedReason::NotJson),
                Fact::Manual => self.cx.settings.claim = crate::ClaimMode::Manual,
                Fact::Full => self.cx.settings.capacity = 0,
                Fact::Hinted => self.target = Target::Entries([ENTRY].into()),
                Fact::Known => {
                    let items = &mut self.leases.items;
                    items.insert(ENTRY, stream(), Info::NONE, Origin::Mine);
                }
                Fact::Adopting => {
                    let lease = LeaseRef {
                        stream: stream(),
                        entry: ENTRY,
                        token: FencingToken(1),
                    };
                    self.leases.adopting.insert(ENTRY, lease);
                }
                Fact::Expired => self.recovery.remember_expired(&mut self.cx, ENTRY),
                Fact::Dead => {
                    let key: SuspectKey = (name("other"), Some(session("other")));
                    let (consumer, session) = key.clone();
                    self.recovery.suspect(&mut self.cx, consumer, session);
                    self.target = Target::Suspect {
                        key,
                        after: EntryId::MIN,
                        unresolved: 0,
                    };
                }
                Fact::Live(count) => {
                    let names = (0..*count).map(|n| format!("live-{n}"));
                    let members = names.chain(["other".to_owned()]).map(|name| Member {
                        session: session(&name),
                        remaining: LONG_AGO,
                    });
                    let now = self.cx.now;
                    self.recovery.members.listed(members.collect(), now);
                }
            }
        }
    }

    fn verdict(&mut self) -> Verdict {
        match self.cx.effects.pop_back() {
            Some(Effect::Admit { origin, .. }) => return Verdict::Admit(origin),
            Some(Effect::Quarantine(..)) => return Verdict::Quarantine,
            Some(Effect::Adopt(..)) => return Verdict::Adopt,
            Some(Effect::GiveBack(_)) => return Verdict::GiveBack,
            Some(Effect::Wake(_)) => return Verdict::Wake,
            Some(effect) => panic!("{effect:?}"),
            None => {}
        }
        let is_report = |output: &Output| matches!(output, Output::Notice(Notice::Expired { .. }));
        if self.cx.outputs.iter().any(is_report) {
            Verdict::Report
        } else if self.recovery.ranks.timeout() < Timestamp::MAX {
            Verdict::Wait
        } else if self.recovery.scanner.rechecks() > 0 {
            Verdict::Later
        } else {
            Verdict::Nothing
        }
    }

    fn classify(&mut self) -> Verdict {
        let (cx, leases) = (&mut self.cx, &self.leases);
        let pending = self.pending.clone();
        let to_inspect = self
            .recovery
            .classify(cx, leases, &mut self.target, pending);
        match to_inspect {
            Some(_) => Verdict::Inspect,
            None => self.verdict(),
        }
    }

    fn classify_by_lock(&mut self, state: LockState) -> Verdict {
        let (cx, leases) = (&mut self.cx, &self.leases);
        let to_inspect = NeedsInspection {
            pending: self.pending.clone(),
            expired: false,
        };
        self.recovery
            .classify_by_lock(cx, leases, &mut self.target, to_inspect, state);
        self.verdict()
    }
}

#[derive(Debug, Clone, Copy)]
enum Fact {
    /// It is pending at this consumer.
    Here,
    /// It is pending at nobody.
    Stranded,
    HandedBack,
    Failed(u32),
    Idle(u64),
    Unreadable,
    Manual,
    Full,
    /// A hint made this consumer look.
    Hinted,
    /// It waits here already.
    Known,
    /// A take-over brought its lease.
    Adopting,
    /// Its lock was seen to expire.
    Expired,
    /// Its owner is dead, and is looked at for the first time.
    Dead,
    /// Its owner and so many others have a session.
    Live(usize),
}

#[test]
fn what_an_entry_is_before_its_lock_is_looked_at() {
    use Fact::*;
    use LockScheme::{PerStream, Session};
    use Verdict::*;
    #[rustfmt::skip]
    let cases: &[(&str, LockScheme, &[Fact], Verdict)] = &[
        ("one's own", Session, &[Here], Admit(Origin::Mine)),
        ("failed just now", Session, &[Here, Failed(3), Idle(0)], Later),
        ("failed, and rested", Session, &[Here, Failed(3)], Admit(Origin::Mine)),
        ("cannot be read", Session, &[Unreadable], Quarantine),
        ("given up, and nobody else lives", Session, &[HandedBack], Inspect),
        ("given up, and others live", Session, &[HandedBack, Live(50)], Wait),
        ("given up, manual", Session, &[HandedBack, Manual], Inspect),
        ("somebody's", Session, &[], Inspect),
        ("its lock expired", Session, &[Expired], Admit(Origin::Orphan)),
        ("its lock expired, no room", Session, &[Expired, Full], Nothing),
        ("its lock expired, manual", Session, &[Expired, Manual], Inspect),
        ("a dead one's", Session, &[Dead], Admit(Origin::Orphan)),
        ("a dead one's, manual", Session, &[Manual, Dead], Inspect),
        ("at nobody, expired", Session, &[Stranded, Expired], Admit(Origin::Orphan)),
        // It may be between the two steps of a completion.
        ("at nobody, expired, wire format", PerStream, &[Stranded, Expired], Inspect),
        ("brought by a take-over", Session, &[Adopting], Adopt),
        ("brought, and to rest", Session, &[Adopting, Failed(3), Idle(0)], GiveBack),
        ("known, a hint", Session, &[Known, Hinted], Wake),
        ("known, a sweep", Session, &[Known], Nothing),
    ];
    for (case, scheme, facts, expected) in cases {
        let mut bench = Bench::new(*scheme);
        bench.set(facts);
        assert_eq!(bench.classify(), *expected, "{case}: {facts:?}");
    }
}

#[test]
fn what_an_entry_is_by_its_lock() {
    use Fact::*;
    use LockScheme::{PerStream, Session};
    use Verdict::*;
    let held = |holder| {
        let remaining = Duration::from_secs(2);
        LockState::Held(Held { holder, remaining })
    };
    let by = |consumer: &str| held(Holder::Session(session(consumer)));
    let free = LockState::Free;
    let foreign = held(Holder::Foreign("go".into()));
    #[rustfmt::skip]
    let cases: &[(&str, LockScheme, &[Fact], &LockState, Verdict)] = &[
        ("given up", Session, &[HandedBack], &free, Admit(Origin::HandedBack)),
        ("given up, not released yet", Session, &[HandedBack], &by("other"), Wait),
        ("given up, taken by another", Session, &[HandedBack], &by("third"), Nothing),
        ("foreign, idle", PerStream, &[], &free, Admit(Origin::Orphan)),
        ("foreign, just delivered", PerStream, &[Idle(0)], &free, Later),
        ("foreign, idle, manual", PerStream, &[Manual], &free, Report),
        ("foreign, held", PerStream, &[], &foreign, Later),
        ("orphan, to rest", PerStream, &[Failed(4), Idle(6)], &free, Later),
        ("at a live one, not locked", Session, &[Live(0)], &free, Later),
        ("at a live one, locked", Session, &[Live(0)], &by("other"), Nothing),
        ("a dead one's, lock stands", Session, &[Dead], &by("other"), Later),
        ("at nobody", Session, &[Stranded], &free, Admit(Origin::Orphan)),
        ("at nobody, wire format", PerStream, &[Stranded], &free, Later),
        ("known meanwhile", Session, &[Known], &free, Nothing),
    ];
    for (case, scheme, facts, state, expected) in cases {
        let mut bench = Bench::new(*scheme);
        bench.set(facts);
        let verdict = bench.classify_by_lock((*state).clone());
        assert_eq!(verdict, *expected, "{case}: {facts:?}, {state:?}");
    }
}
