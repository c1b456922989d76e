//! [`SessionLocks`]: one deadline for everything a session holds.
//!
//! A heartbeat is one script call whatever is held, and its reply says who is dead;
//! nothing of it depends on keys that expire. The scripts in `locks/session` say
//! what is kept where.
//!
//! A restart of the server is seen by its run id, which the scripts ask for
//! (INFO is allowed in them, and costs 3 µs): that way it is always the id of
//! the server which executes. A step of its clock needs somebody to compare
//! with, so each call says what the clock should show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use redis_rs::Value;
use streamlease_core::{
    Acquire, AcquireOutcome, LeaseRef, LockId, LockManager, LockScheme, LockState, Member,
    OpenOutcome, Release, ReleaseOutcome, Renew, RenewOutcome, Renewal, Result, Session, SessionId,
    Sessions, StreamName, TakeOverOutcome, printable,
};

use crate::connection::{Call, Script, Server, script};
use crate::decode;
use crate::error::protocol;
use crate::keys::Keys;
use crate::pages::{PAGE, pages_without_repeats};

use super::{
    acquired, check_floor, digits, flatten, head, members, millis, opened, released, scheme_name,
    seen_around, state,
};

static ACQUIRE: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "locks/session/head", "lib/mint",
    "locks/session/acquire"
);
static HEARTBEAT: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "locks/session/head", "lib/around",
    "locks/session/heartbeat"
);
static RELEASE: LazyLock<Script> = script!(
    "lib/base",
    "lib/locks",
    "locks/session/head",
    "locks/session/release"
);
static TAKE_OVER: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "locks/session/head", "lib/mint",
    "locks/session/take_over"
);
static SESSION: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "locks/session/head",
    "locks/session/session"
);
static INSPECT: LazyLock<Script> = script!(
    "lib/base",
    "lib/locks",
    "locks/session/head",
    "locks/session/inspect"
);
static RECORDS: LazyLock<Script> = script!(
    "lib/base",
    "lib/locks",
    "locks/session/head",
    "locks/session/records"
);
static REVOKE: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks", "locks/session/head",
    "locks/session/revoke"
);

/// The session leases of one service.
#[derive(Debug)]
pub(crate) struct SessionLocks {
    server: Arc<Server>,
    keys: Arc<Keys>,
    /// What the server's clock showed at the last heartbeat (ms), and when that was.
    clock: Mutex<Option<(u64, Instant)>>,
    /// Whether it was said that the server's run id is not believed.
    doubts_run_ids: AtomicBool,
}

impl SessionLocks {
    pub(crate) fn new(server: Arc<Server>, keys: Arc<Keys>) -> Self {
        Self {
            server,
            keys,
            clock: Mutex::new(None),
            doubts_run_ids: AtomicBool::new(false),
        }
    }

    /// A call with what every script of session leases is given.
    fn call(&self, session: &str, ttl: &str) -> Call {
        let mut call = Call::new();
        let keys = &self.keys;
        call.key(&keys.sessions).key(&keys.owners).key(&keys.server);
        call.key(&keys.details).key(&keys.leases);
        call.arg(session).arg(ttl).arg(self.expected().to_string());
        call
    }

    /// What the server's clock should show (ms); 0 if that is not known.
    fn expected(&self) -> u64 {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.map_or(0, |(shown, at)| {
            let passed = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            shown.saturating_add(passed)
        })
    }

    fn learn_clock(&self, shown: u64) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = Some((shown, Instant::now()));
    }

    /// Once each time that they begin not to be believed.
    fn warn_of_run_ids(&self, doubted: &str) {
        let said = self
            .doubts_run_ids
            .swap(!doubted.is_empty(), Ordering::Relaxed);
        if !said && !doubted.is_empty() {
            log::warn!(
                "{}, {}: the server's run id changes too often to be that of one server that was \
                 restarted (now {doubted}): several processes answer INFO, or it is restarted \
                 again and again; restarts go unnoticed until it has been the same for a minute",
                self.server.endpoint(),
                self.keys.lbs,
                doubted = printable(doubted)
            );
        }
    }

    /// Runs the script about single sessions; its answer is a word and what comes with it.
    async fn about_session(
        &self,
        what: &str,
        verb: &str,
        session: &SessionId,
        ttl: &str,
        argument: &str,
    ) -> Result<(String, std::vec::IntoIter<Value>)> {
        let mut call = self.call(&session.to_string(), ttl);
        call.key(&self.keys.removed)
            .key(&self.keys.hints)
            .key(&self.keys.scheme);
        call.arg(verb).arg(argument);
        decode::outcome(self.server.run_one(what, &SESSION, call).await?)
    }

    /// Runs a script over pages of data streams.
    async fn about_streams<'a>(
        &self,
        what: &str,
        script: &Script,
        streams: impl ExactSizeIterator<Item = &'a StreamName>,
    ) -> Result<Vec<Value>> {
        let count = streams.len();
        let mut calls = Vec::new();
        for (index, stream) in streams.enumerate() {
            if index % PAGE == 0 {
                calls.push(self.call("", "0"));
            }
            if let Some(call) = calls.last_mut() {
                call.arg(stream.as_str());
            }
        }
        flatten(count, self.server.run(what, script, &calls).await?)
    }
}

#[async_trait]
impl LockManager for SessionLocks {
    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }

    async fn acquire(
        &self,
        session: &Session,
        requests: &[Acquire],
    ) -> Result<Vec<AcquireOutcome>> {
        let (id, ttl) = (session.id.to_string(), millis(session.ttl));
        requests.iter().try_for_each(check_floor)?;
        let pages = pages_without_repeats(requests, |request| request.stream.clone());
        let mut calls = Vec::with_capacity(pages.len());
        for page in &pages {
            let mut call = self.call(&id, &ttl);
            call.key(&self.keys.counter).key(&self.keys.refused);
            call.args(page.iter().map(|request| request.stream.as_str()));
            call.args(page.iter().map(|request| request.entry.to_string()));
            call.args(
                page.iter()
                    .map(|request| format!("{:016x}", request.attempt)),
            );
            call.args(page.iter().map(|request| digits(request.floor)));
            calls.push(call);
        }
        let replies = self
            .server
            .run("acquiring leases", &ACQUIRE, &calls)
            .await?;
        let mut outcomes = Vec::with_capacity(requests.len());
        for (page, reply) in pages.into_iter().zip(replies) {
            outcomes.extend(acquired(page.len(), reply)?);
        }
        Ok(outcomes)
    }

    // No leases: with one deadline for them all, there is nothing to say of each.
    async fn renew(&self, renew: &Renew) -> Result<RenewOutcome> {
        let Renew {
            session,
            want_sweep,
            ..
        } = renew;
        let mut call = self.call(&session.id.to_string(), &millis(session.ttl));
        call.key(&self.keys.sweep)
            .key(&self.keys.tokens)
            .key(&self.keys.scheme);
        call.arg(want_sweep.map_or_else(|| "0".to_owned(), millis));
        let reply = self
            .server
            .run_one("sending a heartbeat", &HEARTBEAT, call)
            .await?;
        let Some(heartbeat) = heartbeat_reply(reply)? else {
            return Ok(RenewOutcome::SessionGone);
        };
        self.learn_clock(heartbeat.shown);
        self.warn_of_run_ids(&heartbeat.doubted_run);
        Ok(RenewOutcome::Extended(heartbeat.renewal))
    }

    async fn release(
        &self,
        session: &SessionId,
        releases: &[Release],
    ) -> Result<Vec<ReleaseOutcome>> {
        let id = session.to_string();
        let mut calls = Vec::new();
        for page in releases.chunks(PAGE) {
            let mut call = self.call(&id, "0");
            call.key(&self.keys.refused).key(&self.keys.hints);
            let announced = page.iter().map(|release| release.announce);
            call.arg(
                announced
                    .map(|yes| if yes { '1' } else { '0' })
                    .collect::<String>(),
            );
            call.args(page.iter().map(|release| release.lease.stream.as_str()));
            call.args(page.iter().map(|release| head(&id, &release.lease)));
            calls.push(call);
        }
        let replies = self
            .server
            .run("releasing leases", &RELEASE, &calls)
            .await?;
        let mut outcomes = Vec::with_capacity(releases.len());
        for (page, reply) in releases.chunks(PAGE).zip(replies) {
            outcomes.extend(released(page.len(), reply)?);
        }
        Ok(outcomes)
    }

    async fn inspect(&self, locks: &[LockId]) -> Result<Vec<LockState>> {
        let streams = locks.iter().map(|lock| &lock.stream);
        let states = self
            .about_streams("inspecting leases", &INSPECT, streams)
            .await?;
        states.into_iter().map(state).collect()
    }
}

#[async_trait]
impl Sessions for SessionLocks {
    fn scheme(&self) -> LockScheme {
        LockScheme::Session
    }

    async fn open(&self, session: &Session) -> Result<OpenOutcome> {
        let (ttl, scheme) = (millis(session.ttl), scheme_name(self.scheme()));
        let (word, mut rest) = self
            .about_session("opening a session", "open", &session.id, &ttl, scheme)
            .await?;
        let outcome = opened(&word, &mut rest, self.scheme(), &self.keys.lbs)?;
        if outcome == OpenOutcome::Opened {
            self.learn_clock(decode::count(decode::next(&mut rest)?)?);
        }
        Ok(outcome)
    }

    async fn close(&self, session: &SessionId) -> Result<()> {
        let consumer = session.consumer.as_str();
        self.about_session("closing a session", "close", session, "0", consumer)
            .await
            .map(drop)
    }

    async fn take_over(
        &self,
        session: &Session,
        dead: &SessionId,
        max: usize,
    ) -> Result<TakeOverOutcome> {
        let mut call = self.call(&session.id.to_string(), &millis(session.ttl));
        call.key(&self.keys.counter);
        call.arg(dead.to_string()).arg(max.min(PAGE).to_string());
        taken_over(self.server.run_one("taking over", &TAKE_OVER, call).await?)
    }

    async fn remove(&self, dead: &SessionId) -> Result<bool> {
        let (word, _) = self
            .about_session("removing a session", "remove", dead, "0", "")
            .await?;
        Ok(word == "ok")
    }

    async fn members(&self) -> Result<Vec<Member>> {
        members(&self.server, &self.keys).await
    }

    async fn records(
        &self,
        session: &SessionId,
        after: Option<&StreamName>,
        max: usize,
    ) -> Result<Vec<LeaseRef>> {
        let mut found: Vec<LeaseRef> = Vec::new();
        while found.len() < max {
            let after = found.last().map(|lease| &lease.stream).or(after);
            let limit = (max - found.len()).min(PAGE);
            let mut call = self.call(&session.to_string(), "0");
            call.arg(after.map_or_else(|| "-".to_owned(), |name| format!("({name}")))
                .arg(limit.to_string());
            let reply = self
                .server
                .run_one("reading the record", &RECORDS, call)
                .await?;
            let mut page = leases(reply)?;
            let is_last = page.len() < limit;
            found.append(&mut page);
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    async fn revoke(&self, streams: &[StreamName]) -> Result<Vec<bool>> {
        let marked = self
            .about_streams("revoking leases", &REVOKE, streams.iter())
            .await?;
        let marked = marked
            .into_iter()
            .map(|marked| Ok(decode::number(marked)? == 1));
        marked.collect()
    }
}

/// What a heartbeat brings.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// What the server's clock showed (ms).
    pub(crate) shown: u64,
    pub(crate) renewal: Renewal,
    /// The server's run id, if it changes too often to be believed; else empty.
    pub(crate) doubted_run: String,
}

/// The reply to a heartbeat; `None` if the session is gone.
pub(crate) fn heartbeat_reply(reply: Value) -> Result<Option<Heartbeat>> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "ok" => {}
        "gone" => return Ok(None),
        _ => return Err(protocol("an unknown outcome of a heartbeat")),
    }
    let shown = decode::count(decode::next(&mut rest)?)?;
    let mut renewal = Renewal::default();
    renewal.on_record = Some(decode::count(decode::next(&mut rest)?)?);
    renewal.revoked = leases(decode::next(&mut rest)?)?;
    renewal.generation = decode::count(decode::next(&mut rest)?)?;
    let dead = decode::next(&mut rest)?;
    seen_around(dead, &mut rest, &mut renewal)?;
    let doubted_run = decode::text(decode::next(&mut rest)?)?;
    Ok(Some(Heartbeat {
        shown,
        renewal,
        doubted_run,
    }))
}

/// The reply to one page of a take-over.
pub(crate) fn taken_over(reply: Value) -> Result<TakeOverOutcome> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "ok" => Ok(TakeOverOutcome::Taken {
            leases: leases(decode::next(&mut rest)?)?,
            left: decode::count(decode::next(&mut rest)?)?,
        }),
        "alive" => Ok(TakeOverOutcome::Alive {
            remaining: decode::millis(decode::next(&mut rest)?)?,
        }),
        "gone" => Ok(TakeOverOutcome::SessionGone),
        "not_yet" => Ok(TakeOverOutcome::NotYet {
            retry_in: decode::millis(decode::next(&mut rest)?)?,
        }),
        _ => Err(protocol("an unknown outcome of a take-over")),
    }
}

/// Leases as the scripts list them: data stream, entry, token.
pub(crate) fn leases(value: Value) -> Result<Vec<LeaseRef>> {
    decode::list(value)?
        .into_iter()
        .map(decode::lease)
        .collect()
}

#[cfg(test)]
mod tests {
    use streamlease_core::{FencingToken, LONGEST_GRACE};

    use super::digits;

    #[test]
    fn tokens_end_where_core_says() {
        let limit = format!("TOKEN_LIMIT = '{}'\n", digits(FencingToken::LIMIT));
        assert!(include_str!("../scripts/lib/base.lua").contains(&limit));
    }

    #[test]
    fn the_grace_after_a_restart_is_as_long_as_the_contract_says() {
        let script = include_str!("../scripts/locks/session/head.lua");
        let longest = format!("LONGEST_GRACE = {}\n", LONGEST_GRACE.as_millis());
        assert!(script.contains(&longest));
    }
}
