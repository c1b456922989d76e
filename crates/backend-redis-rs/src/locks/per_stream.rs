//! [`PerStreamLocks`]: a lock per data stream, shared with Go consumers.
//!
//! Each lease has two keys with the same value and time to live: the *wire key*,
//! per assignment, which Go consumers know; and the *stream key*, per data
//! stream, which they do not, but by which our consumers agree on one owner of
//! a data stream that was announced twice (R6). A lease that misses either is
//! lost.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use redis_rs::Value;
use streamlease_core::{
    Acquire, AcquireOutcome, LeaseRef, LockId, LockManager, LockScheme, LockState, Member,
    OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Renewal, Result, Session, SessionId,
    Sessions, StreamName, TakeOverOutcome,
};

use crate::connection::{Call, Script, Server, script};
use crate::decode;
use crate::error::protocol;
use crate::keys::{Keys, wire_lock};
use crate::pages::PAGE;

use super::{
    acquired, check_floor, digits, flatten, head, members, millis, opened, released, scheme_name,
    seen_around, state,
};

/// Leases per script: about a millisecond of the server's time each.
const LOCK_PAGE: usize = 250;

static ACQUIRE: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "lib/mint",
    "locks/per_stream/acquire"
);
static RENEW: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "lib/around",
    "locks/per_stream/renew"
);
static RELEASE: LazyLock<Script> = script!("lib/base", "lib/locks", "locks/per_stream/release");
static INSPECT: LazyLock<Script> = script!("lib/base", "lib/locks", "locks/per_stream/inspect");
static SESSION: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks",
    "locks/per_stream/session"
);

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
            .key(&self.keys.removed)
            .key(&self.keys.hints)
            .key(&self.keys.scheme);
        call.arg(verb)
            .arg(session.to_string())
            .arg(argument)
            .arg(scheme_name(self.scheme()));
        decode::outcome(self.server.run_one(what, &SESSION, call).await?)
    }
}

#[async_trait]
impl LockManager for PerStreamLocks {
    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
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
                check_floor(request)?;
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

    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let Renew {
            session,
            leases,
            want_sweep,
            ..
        } = renew;
        let id = session.id.to_string();
        // The first call has the look around, and is made even for no leases.
        let pages: Vec<&[LeaseRef]> = if leases.is_empty() {
            vec![&[]]
        } else {
            leases.chunks(LOCK_PAGE).collect()
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
                call.arg(head("", lease));
            }
            calls.push(call);
        }
        let replies = self.server.run("renewing locks", &RENEW, &calls).await?;
        let mut summary = Renewal::default();
        for (page, reply) in pages.iter().zip(replies) {
            if !renewed(page, reply, &mut summary)? {
                return Ok(RenewOutcome::SessionGone);
            }
        }
        Ok(RenewOutcome::Extended(summary))
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
                call.arg(head("", &release.lease))
                    .arg(release.lease.stream.as_str())
                    .arg(if release.announce { "1" } else { "0" });
            }
            calls.push(call);
        }
        let replies = self.server.run("releasing locks", &RELEASE, &calls).await?;
        let mut outcomes = Vec::with_capacity(releases.len());
        for (page, reply) in releases.chunks(PAGE).zip(replies) {
            outcomes.extend(released(page.len(), reply)?);
        }
        Ok(outcomes)
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        let mut calls = Vec::new();
        for page in locks.chunks(LOCK_PAGE) {
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
}

#[async_trait]
impl Sessions for PerStreamLocks {
    fn scheme(&self) -> LockScheme {
        LockScheme::PerStream
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        let ttl = millis(session.ttl);
        let (word, mut rest) = self
            .about_session("opening a session", "open", &session.id, &ttl)
            .await?;
        opened(&word, &mut rest, self.scheme(), &self.keys.lbs)
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        let consumer = session.consumer.as_str();
        self.about_session("closing a session", "close", session, consumer)
            .await
            .map(drop)
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
        taken_over(&word, &mut rest)
    }

    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        let (word, _) = self
            .about_session("removing a session", "remove", dead, "")
            .await?;
        Ok(word == "ok")
    }

    async fn members(&self) -> Result<Vec<Member>> {
        members(&self.server, &self.keys).await
    }
}

/// The reply to a take-over, which ends the session for good: its locks expire each for itself.
pub(crate) fn taken_over(
    word: &str,
    rest: &mut std::vec::IntoIter<Value>,
) -> Result<TakeOverOutcome> {
    match word {
        "ok" => Ok(TakeOverOutcome::Taken {
            leases: Vec::new(),
            left: 0,
        }),
        "alive" => Ok(TakeOverOutcome::Alive {
            remaining: decode::millis(decode::next(rest)?)?,
        }),
        "gone" => Ok(TakeOverOutcome::SessionGone),
        _ => Err(protocol("an unknown outcome of a take-over")),
    }
}

/// Adds the reply to one page of a renewal; `false` if the session is gone.
pub(crate) fn renewed(page: &[LeaseRef], reply: Value, summary: &mut Renewal) -> Result<bool> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "gone" => return Ok(false),
        "ok" => {}
        _ => return Err(protocol("an unknown outcome of a renewal")),
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
    seen_around(dead, &mut rest, summary)?;
    Ok(true)
}
