//! Lock managers.
//!
//! Which of the two a service has is on record beside its group (`lbs/prepare.lua`):
//! consumers that go by different locks would each think themselves alone.

pub(crate) mod per_stream;
pub(crate) mod session;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis_rs::Value;
use streamlease_core::{
    Acquire, AcquireOutcome, Error, ErrorKind, FencingToken, LeaseRef, LockScheme, LockState,
    Member, OpenOutcome, ReleaseOutcome, Renewal, Result, SessionId,
};

use crate::connection::{Call, Script, Server, script};
use crate::decode;
use crate::error::protocol;
use crate::keys::Keys;

static MEMBERS: LazyLock<Script> = script!("lib/base", "lib/locks", "locks/members");

/// A scheme as it is on record.
pub(crate) fn scheme_name(scheme: LockScheme) -> &'static str {
    match scheme {
        LockScheme::PerStream => "per-stream",
        LockScheme::Session => "session",
    }
}

/// The refusal of a consumer whose scheme is not the service's; `recorded` is
/// `None` for a group that has no record.
pub(crate) fn other_scheme(lbs: &str, own: LockScheme, recorded: Option<&str>) -> Error {
    let own = scheme_name(own);
    let found = match recorded {
        Some(recorded) => format!("the service has {recorded} locks on record"),
        None => "its group has no lock scheme on record, so it belongs to consumers that \
                 use the wire format's per-stream locks"
            .to_owned(),
    };
    Error::new(
        ErrorKind::Incompatible,
        format!(
            "{lbs}: {found}, and this consumer uses {own} locks; give it the service's, or \
             stop all consumers and run `streamlease migrate --to {own}`"
        ),
    )
}

/// The live sessions; both lock managers keep them alike.
async fn members(server: &Server, keys: &Keys) -> Result<Vec<Member>> {
    let mut members = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut call = Call::new();
        call.key(&keys.sessions).arg(cursor);
        let reply = server.run_one("listing sessions", &MEMBERS, call).await?;
        let (next, page) = members_of(reply)?;
        members.extend(
            page.into_iter()
                .map(|member| (member.session.clone(), member)),
        );
        if next == "0" {
            return Ok(members.into_values().collect());
        }
        cursor = next;
    }
}

/// A part of them, and where to go on.
pub(crate) fn members_of(reply: Value) -> Result<(String, Vec<Member>)> {
    let [next, rows] = decode::tuple(reply)?;
    let mut members = Vec::new();
    for row in decode::list(rows)? {
        let [session, remaining] = decode::tuple(row)?;
        if let Some(session) = known_session(session) {
            let remaining = decode::millis(remaining)?;
            members.push(Member { session, remaining });
        }
    }
    Ok((decode::text(next)?, members))
}

/// What is no session was not written by us. It must not fail our calls, and the
/// scripts remove it, so that this warns once.
fn known_session(member: Value) -> Option<SessionId> {
    let shown = format!("{member:?}");
    let session = decode::session(member).ok();
    if session.is_none() {
        log::warn!("a member of the service's sessions is no session and is ignored: {shown}");
    }
    session
}

fn check_floor(request: &Acquire) -> Result<()> {
    if request.floor < FencingToken::LIMIT {
        return Ok(());
    }
    let (stream, floor) = (&request.stream, request.floor);
    let message = format!("stream={stream} no token is greater than {floor}");
    Err(Error::new(ErrorKind::Incompatible, message))
}

/// A TTL as the scripts take it; never 0, which Redis refuses.
fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

/// A token as the scripts compare it.
pub(crate) fn digits(token: FencingToken) -> String {
    format!("{:020}", token.0)
}

/// The value of a lease's keys, up to the attempt.
fn head(session: &str, lease: &LeaseRef) -> String {
    format!("{session}/{}/{}/", digits(lease.token), lease.entry)
}

/// The reply to an open; what comes behind the word is left in `rest`.
pub(crate) fn opened(
    word: &str,
    rest: &mut std::vec::IntoIter<Value>,
    own: LockScheme,
    lbs: &str,
) -> Result<OpenOutcome> {
    match word {
        "ok" => Ok(OpenOutcome::Opened),
        "gone" => Ok(OpenOutcome::SessionGone),
        "other" => {
            let recorded = decode::text(decode::next(rest)?)?;
            Err(other_scheme(lbs, own, Some(&recorded)))
        }
        _ => Err(protocol("an unknown outcome of an open")),
    }
}

/// The reply to one page of acquires.
pub(crate) fn acquired(page: usize, reply: Value) -> Result<Vec<AcquireOutcome>> {
    let (word, mut rest) = decode::outcome(reply)?;
    match &*word {
        "gone" => return Ok(vec![AcquireOutcome::SessionGone; page]),
        "ok" => {}
        _ => return Err(protocol("an unknown outcome of an acquire")),
    }
    let outcomes = flatten(page, vec![decode::next(&mut rest)?])?
        .into_iter()
        .map(|outcome| {
            if !matches!(outcome, Value::Array(_)) {
                return Ok(AcquireOutcome::Acquired(decode::token(outcome)?));
            }
            let (word, mut rest) = decode::outcome(outcome)?;
            match &*word {
                "held" => Ok(AcquireOutcome::Held(decode::held(&mut rest)?)),
                "not_yet" => Ok(AcquireOutcome::NotYet {
                    retry_in: decode::millis(decode::next(&mut rest)?)?,
                }),
                _ => Err(protocol("an unknown outcome of an acquire")),
            }
        });
    outcomes.collect()
}

/// The reply to one page of releases: a digit for each.
pub(crate) fn released(page: usize, reply: Value) -> Result<Vec<ReleaseOutcome>> {
    let digits = decode::bytes(reply)?;
    if digits.len() != page {
        return Err(protocol("another number of outcomes"));
    }
    let outcomes = digits.into_iter().map(|digit| match digit {
        b'1' => Ok(ReleaseOutcome::Released),
        b'0' => Ok(ReleaseOutcome::NotHeld),
        _ => Err(protocol("an unknown outcome of a release")),
    });
    outcomes.collect()
}

pub(crate) fn state(value: Value) -> Result<LockState> {
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

/// What `around.lua` returns, `dead` first.
fn seen_around(
    dead: Value,
    rest: &mut std::vec::IntoIter<Value>,
    summary: &mut Renewal,
) -> Result<()> {
    let dead = decode::list(dead)?.into_iter();
    summary.dead.extend(dead.filter_map(known_session));
    summary.next_deadline = u64::try_from(decode::number(decode::next(rest)?)?)
        .ok()
        .map(Duration::from_millis);
    summary.members = decode::small(decode::next(rest)?)?;
    summary.sweep = decode::number(decode::next(rest)?)? == 1;
    Ok(())
}
