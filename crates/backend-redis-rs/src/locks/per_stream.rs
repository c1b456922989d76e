//! [`PerStreamLocks`]: a lock per data stream, shared with Go consumers.
//!
//! Each lease has two keys with the same value and time to live: the *wire key*,
//! per assignment, which Go consumers know; and the *stream key*, per data
//! stream, which they do not, but by which our consumers agree on one owner of
//! a data stream that was announced twice (R6). A lease that misses either is
//! lost.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use redis_rs::Value;
use streamlease_core::{
    Acquire, AcquireOutcome, BeatOutcome, BeatReply, Error, ErrorKind, FencingToken, LeaseRef,
    LockId, LockManager, LockScheme, LockState, Member, OpenOutcome, Release, ReleaseOutcome,
    Result, Session, SessionId, StreamName, TakeOverOutcome,
};

use crate::connection::{Call, Script, Server};
use crate::decode;
use crate::error::protocol;
use crate::keys::{Keys, wire_lock};

/// Leases per script: about a millisecond of the server's time each.
const BEAT_PAGE: usize = 250;
const PAGE: usize = 100;

macro_rules! script {
    ($name:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                include_str!("../scripts/lock.lua"),
                include_str!(concat!("../scripts/", $name, ".lua"))
            ))
        })
    };
}

static ACQUIRE: LazyLock<Script> = script!("acquire");
static BEAT: LazyLock<Script> = script!("beat");
static RELEASE: LazyLock<Script> = script!("release");
static INSPECT: LazyLock<Script> = script!("inspect");
static SESSION: LazyLock<Script> = script!("session");
static MEMBERS: LazyLock<Script> = script!("members");

/// The locks of one service, one per data stream.
#[derive(Debug)]
pub(crate) struct PerStreamLocks {
    server: Arc<Server>,
    keys: Arc<Keys>,
}

impl PerStreamLocks {
    pub(crate) fn new(server: Arc<Server>, keys: Arc<Keys>) -> Self {
        Self { server, keys }
    }

    fn add_lock(&self, call: &mut Call, stream: &StreamName, entry: streamlease_core::EntryId) {
        call.key(self.keys.stream_lock(stream))
            .key(wire_lock(stream, entry));
    }

    /// Runs the script about sessions; its answer is a word and perhaps a number.
    async fn about_session(
        &self,
        what: &str,
        verb: &str,
        session: &SessionId,
        argument: &str,
    ) -> Result<(String, std::vec::IntoIter<Value>)> {
        let mut call = Call::new();
        call.key(&self.keys.sessions)
            .key(&self.keys.buried)
            .key(&self.keys.hints);
        call.arg(verb).arg(session.to_string()).arg(argument);
        decode::outcome(self.server.run_one(what, &SESSION, call).await?)
    }
}

#[async_trait]
impl LockManager for PerStreamLocks {
    fn scheme(&self) -> LockScheme {
        LockScheme::PerStream
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        let ttl = millis(session.ttl);
        let (word, _) = self
            .about_session("opening a session", "open", &session.id, &ttl)
            .await?;
        match &*word {
            "ok" => Ok(OpenOutcome::Opened),
            "gone" => Ok(OpenOutcome::SessionGone),
            _ => Err(protocol("an unknown outcome of an open")),
        }
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        let consumer = session.consumer.as_str();
        self.about_session("closing a session", "close", session, consumer)
            .await
            .map(drop)
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        let mut calls = Vec::new();
        for page in requests.chunks(PAGE) {
            let mut call = Call::new();
            call.key(&self.keys.sessions)
                .key(&self.keys.counter)
                .key(&self.keys.refused);
            call.arg(session.id.to_string()).arg(millis(session.ttl));
            for request in page {
                if request.floor.0 == u64::MAX {
                    return Err(Error::new(
                        ErrorKind::Incompatible,
                        format!(
                            "stream={} no token is greater than {}",
                            request.stream,
                            u64::MAX
                        ),
                    ));
                }
                self.add_lock(&mut call, &request.stream, request.entry);
                call.arg(request.entry.to_string())
                    .arg(format!("{:016x}", request.attempt))
                    .arg(digits(request.floor))
                    .arg(request.stream.as_str());
            }
            calls.push(call);
        }
        let replies = self.server.run("acquiring locks", &ACQUIRE, &calls).await?;
        let mut outcomes = Vec::with_capacity(requests.len());
        for (page, reply) in requests.chunks(PAGE).zip(replies) {
            outcomes.extend(acquired(page.len(), reply)?);
        }
        Ok(outcomes)
    }

    async fn beat(
        &self,
        session: &Session,
        leases: &[LeaseRef],
        want_sweep: Option<Duration>,
    ) -> Result<BeatOutcome> {
        let id = session.id.to_string();
        // The first call has the look around, and is made even for no leases.
        let pages: Vec<&[LeaseRef]> = if leases.is_empty() {
            vec![&[]]
        } else {
            leases.chunks(BEAT_PAGE).collect()
        };
        let mut calls = Vec::with_capacity(pages.len());
        for (index, page) in pages.iter().enumerate() {
            let mut call = Call::new();
            call.key(&self.keys.sessions).key(&self.keys.sweep);
            call.arg(&id)
                .arg(millis(session.ttl))
                .arg(if index == 0 { "1" } else { "0" });
            call.arg(want_sweep.map_or_else(|| "0".to_owned(), millis));
            for lease in *page {
                self.add_lock(&mut call, &lease.stream, lease.entry);
                call.arg(head(lease));
            }
            calls.push(call);
        }
        let replies = self.server.run("beating", &BEAT, &calls).await?;
        let mut summary = BeatReply::default();
        for (page, reply) in pages.iter().zip(replies) {
            if !beaten(page, reply, &mut summary)? {
                return Ok(BeatOutcome::SessionGone);
            }
        }
        Ok(BeatOutcome::Extended(summary))
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        let id = session.to_string();
        let mut calls = Vec::new();
        for page in releases.chunks(PAGE) {
            let mut call = Call::new();
            call.key(&self.keys.refused).key(&self.keys.hints).arg(&id);
            for release in page {
                self.add_lock(&mut call, &release.lease.stream, release.lease.entry);
                call.arg(head(&release.lease))
                    .arg(release.lease.stream.as_str())
                    .arg(if release.announce { "1" } else { "0" });
            }
            calls.push(call);
        }
        let replies = self.server.run("releasing locks", &RELEASE, &calls).await?;
        let outcomes = flatten(releases.len(), replies)?
            .into_iter()
            .map(|released| {
                Ok(match decode::number(released)? {
                    1 => ReleaseOutcome::Released,
                    _ => ReleaseOutcome::NotHeld,
                })
            });
        outcomes.collect()
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        let mut calls = Vec::new();
        for page in locks.chunks(BEAT_PAGE) {
            let mut call = Call::new();
            for lock in page {
                self.add_lock(&mut call, &lock.stream, lock.entry);
            }
            calls.push(call);
        }
        let replies = self
            .server
            .run("inspecting locks", &INSPECT, &calls)
            .await?;
        flatten(locks.len(), replies)?
            .into_iter()
            .map(state)
            .collect()
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        _max: usize,
    ) -> Result<TakeOverOutcome> {
        let (word, mut rest) = self
            .about_session("taking over", "take_over", &session.id, &dead.to_string())
            .await?;
        match &*word {
            "ok" => Ok(TakeOverOutcome::Taken {
                leases: Vec::new(),
                left: 0,
            }),
            "alive" => Ok(TakeOverOutcome::Alive {
                remaining: decode::millis(decode::next(&mut rest)?)?,
            }),
            "gone" => Ok(TakeOverOutcome::SessionGone),
            _ => Err(protocol("an unknown outcome of a take-over")),
        }
    }

    async fn bury(&self, dead: &SessionId) -> Result<bool> {
        let (word, _) = self
            .about_session("burying a session", "bury", dead, "")
            .await?;
        Ok(word == "ok")
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let mut call = Call::new();
        call.key(&self.keys.sessions);
        let rows = decode::list(
            self.server
                .run_one("listing sessions", &MEMBERS, call)
                .await?,
        )?;
        let members = rows.into_iter().map(|row| {
            let [session, remaining] = decode::tuple(row)?;
            Ok(Member {
                session: decode::session(session)?,
                remaining: decode::millis(remaining)?,
            })
        });
        members.collect()
    }

    async fn records(
        &self,
        _session: &SessionId,
        _after: Option<&StreamName>,
        _max: usize,
    ) -> Result<Vec<LeaseRef>> {
        Ok(Vec::new())
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        Ok(vec![false; streams.len()])
    }
}

/// A TTL as the scripts take it; never 0, which Redis refuses.
fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

/// A token as the scripts compare it.
pub(crate) fn digits(token: FencingToken) -> String {
    format!("{:020}", token.0)
}

/// What follows the session in the value of a lease's keys, up to the attempt.
fn head(lease: &LeaseRef) -> String {
    format!("/{}/{}/", digits(lease.token), lease.entry)
}

/// The reply to one page of acquires.
fn acquired(page: usize, reply: Value) -> Result<Vec<AcquireOutcome>> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "gone" => return Ok(vec![AcquireOutcome::SessionGone; page]),
        "ok" => {}
        _ => return Err(protocol("an unknown outcome of an acquire")),
    }
    let outcomes = flatten(page, vec![decode::next(&mut rest)?])?
        .into_iter()
        .map(|outcome| {
            let (word, mut rest) = decode::outcome(outcome)?;
            match &*word {
                "acquired" => Ok(AcquireOutcome::Acquired(decode::token(decode::next(
                    &mut rest,
                )?)?)),
                "held" => Ok(AcquireOutcome::Held(decode::held(&mut rest)?)),
                _ => Err(protocol("an unknown outcome of an acquire")),
            }
        });
    outcomes.collect()
}

/// Adds the reply to one page of a beat; `false` if the session is gone.
fn beaten(page: &[LeaseRef], reply: Value, summary: &mut BeatReply) -> Result<bool> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "gone" => return Ok(false),
        "ok" => {}
        _ => return Err(protocol("an unknown outcome of a beat")),
    }
    for index in decode::list(decode::next(&mut rest)?)? {
        let index = usize::try_from(decode::number(index)?)
            .ok()
            .and_then(|index| index.checked_sub(1));
        let lease = index.and_then(|index| page.get(index));
        summary.lost.push(
            lease
                .ok_or_else(|| protocol("a lost lease that was not named"))?
                .clone(),
        );
    }
    let Some(dead) = rest.next() else {
        return Ok(true);
    };
    for session in decode::list(dead)? {
        // What is no session was not written by us; it must not fail our beats.
        if let Ok(session) = decode::session(session) {
            summary.dead.push(session);
        }
    }
    summary.next_deadline = u64::try_from(decode::number(decode::next(&mut rest)?)?)
        .ok()
        .map(Duration::from_millis);
    summary.members = decode::small(decode::next(&mut rest)?)?;
    summary.sweep = decode::number(decode::next(&mut rest)?)? == 1;
    Ok(true)
}

fn state(value: Value) -> Result<LockState> {
    let (word, mut rest) = decode::outcome(value)?;
    match &*word {
        "free" => Ok(LockState::Free),
        "held" => Ok(LockState::Held(decode::held(&mut rest)?)),
        _ => Err(protocol("an unknown state of a lock")),
    }
}

/// The replies of pages as one list of `expected` items.
pub(crate) fn flatten(expected: usize, replies: Vec<Value>) -> Result<Vec<Value>> {
    let mut items = Vec::with_capacity(expected);
    for reply in replies {
        items.append(&mut decode::list(reply)?);
    }
    if items.len() == expected {
        Ok(items)
    } else {
        Err(protocol("another number of outcomes"))
    }
}
