//! Reading replies. Every function here takes a [`Value`] or bytes and returns
//! a [`Result`] or an `Option`: no reply of a server, however odd, panics.
//!
//! The client crate's own conversions are not used: one field name that is not
//! UTF-8 fails a whole page of entries with them, after the entries have
//! entered the pending list.

use std::time::Duration;

use redis_rs::Value;
use streamlease_core::{
    Announcement, ConsumerName, ConsumerState, Delivery, EntryId, FencingToken, Held, Holder,
    LeaseRef, MalformedReason, Pause, Pending, PendingIds, QuarantineRelease, Quarantined, Result,
    ServiceCounts, SessionId, StreamName, SubmitOutcome,
};

use crate::error::protocol;

/// What a lock without a time to live counts as having still: nobody knows.
const ENDLESS: Duration = Duration::from_secs(3600);

/// About how many bytes a reply has.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len() + 8,
        Value::Array(items) | Value::Set(items) => items.iter().map(size).sum::<usize>() + 8,
        Value::Map(pairs) => pairs.iter().map(|(k, v)| size(k) + size(v)).sum(),
        _ => 8,
    }
}

/// The items of an array or set; none for nil.
pub(crate) fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        Value::Attribute { data, .. } => list(*data),
        _ => Err(protocol("not a list")),
    }
}

/// Exactly `N` items.
pub(crate) fn tuple<const N: usize>(value: Value) -> Result<[Value; N]> {
    list(value)?
        .try_into()
        .map_err(|_| protocol("a list of another length"))
}

/// The pairs of a map, whichever protocol version it comes in.
pub(crate) fn pairs(value: Value) -> Result<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Ok(pairs),
        other => {
            let items = list(other)?;
            if items.len() % 2 != 0 {
                return Err(protocol("a map with an odd number of items"));
            }
            let mut items = items.into_iter();
            Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
        }
    }
}

/// A text's bytes.
pub(crate) fn bytes(value: Value) -> Result<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text.into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(protocol("not a text")),
    }
}

/// A text; what is not UTF-8 in it is replaced.
pub(crate) fn text(value: Value) -> Result<String> {
    Ok(match String::from_utf8(bytes(value)?) {
        Ok(text) => text,
        Err(err) => String::from_utf8_lossy(err.as_bytes()).into_owned(),
    })
}

/// A number, which may come as text.
pub(crate) fn number(value: Value) -> Result<i64> {
    match value {
        Value::Int(number) => Ok(number),
        other => text(other)?.parse().map_err(|_| protocol("not a number")),
    }
}

/// A number that cannot be negative; negative ones read as 0.
pub(crate) fn count(value: Value) -> Result<u64> {
    Ok(u64::try_from(number(value)?).unwrap_or(0))
}

/// A time in milliseconds that cannot be negative.
pub(crate) fn millis(value: Value) -> Result<Duration> {
    Ok(Duration::from_millis(count(value)?))
}

/// An entry id.
pub(crate) fn entry_id(value: Value) -> Result<EntryId> {
    text(value)?
        .parse()
        .map_err(|_| protocol("not an entry id"))
}

/// What became of an announcement: its id; behind `=` the one that was there, and behind `+`
/// the one that another batch with the same key has made.
pub(crate) fn submit_outcome(value: Value) -> Result<SubmitOutcome> {
    let text = text(value)?;
    let (id, outcome): (_, fn(EntryId) -> SubmitOutcome) = match text.split_at_checked(1) {
        Some(("=", id)) => (id, SubmitOutcome::AlreadyAnnounced),
        Some(("+", id)) => (id, SubmitOutcome::AlreadySubmitted),
        _ => (&*text, SubmitOutcome::Announced),
    };
    id.parse()
        .map(outcome)
        .map_err(|_| protocol("not an entry id"))
}

/// A fencing token, as digits.
pub(crate) fn token(value: Value) -> Result<FencingToken> {
    text(value)?
        .parse()
        .map(FencingToken)
        .map_err(|_| protocol("not a token"))
}

/// A consumer's name.
pub(crate) fn consumer(value: Value) -> Result<ConsumerName> {
    Ok(ConsumerName::from_wire(text(value)?))
}

/// A session.
pub(crate) fn session(value: Value) -> Result<SessionId> {
    text(value)?.parse().map_err(|_| protocol("not a session"))
}

/// The names and values of an entry.
fn fields(value: Value) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    pairs(value)?
        .into_iter()
        .map(|(name, value)| Ok((bytes(name)?, bytes(value)?)))
        .collect()
}

fn content(value: Value) -> Result<Result<Announcement, MalformedReason>> {
    let fields = fields(value)?;
    Ok(Announcement::from_fields(
        fields.iter().map(|(name, value)| (&**name, &**value)),
    ))
}

/// One entry of XRANGE or XREADGROUP: id and fields.
pub(crate) fn delivery(value: Value) -> Result<Delivery> {
    let [entry, fields] = tuple(value)?;
    Ok(Delivery {
        entry: entry_id(entry)?,
        content: content(fields)?,
    })
}

/// The reply of XREADGROUP for one stream; nil if nothing came.
pub(crate) fn fetched(value: Value) -> Result<Vec<Delivery>> {
    let streams = match value {
        Value::Map(streams) => streams.into_iter().map(|(_, entries)| entries).collect(),
        other => list(other)?
            .into_iter()
            .map(|stream| tuple(stream).map(|[_key, entries]| entries))
            .collect::<Result<Vec<_>>>()?,
    };
    let mut deliveries = Vec::new();
    for entries in streams {
        for entry in list(entries)? {
            deliveries.push(delivery(entry)?);
        }
    }
    Ok(deliveries)
}

/// A page of `list_pending.lua`: rows, and where the next page starts.
pub(crate) fn pending_page(value: Value) -> Result<(Vec<Pending>, Option<EntryId>)> {
    let [rows, next] = tuple(value)?;
    let rows = list(rows)?
        .into_iter()
        .map(pending)
        .collect::<Result<_>>()?;
    let next = match next {
        Value::Nil => None,
        id => Some(entry_id(id)?),
    };
    Ok((rows, next))
}

/// The ids of what is stranded, and where to go on.
pub(crate) fn stranded(value: Value) -> Result<PendingIds> {
    let [ids, next] = tuple(value)?;
    let ids = list(ids)?.into_iter().map(entry_id);
    let next = match next {
        Value::Nil => None,
        id => Some(entry_id(id)?),
    };
    Ok(PendingIds {
        entries: ids.collect::<Result<_>>()?,
        next,
    })
}

/// The ids in a page of `XPENDING`.
pub(crate) fn pending_ids(value: Value) -> Result<Vec<EntryId>> {
    let id = |row: Value| {
        let [entry, _consumer, _idle, _deliveries] = tuple(row)?;
        entry_id(entry)
    };
    list(value)?.into_iter().map(id).collect()
}

fn pending(value: Value) -> Result<Pending> {
    let [
        entry,
        at,
        idle,
        deliveries,
        seen,
        state,
        failures,
        reasons,
        fields,
    ] = tuple(value)?;
    let (entry, state) = (entry_id(entry)?, number(state)?);
    if state == 2 {
        crate::transport::warn_of_unreadable(entry);
    }
    Ok(Pending {
        entry,
        consumer: match at {
            Value::Nil => None,
            name => Some(consumer(name)?),
        },
        idle: millis(idle)?,
        deliveries: count(deliveries)?,
        token: token(seen)?,
        handed_back: state != 0,
        failures: small(failures)?,
        reasons: list(reasons)?
            .into_iter()
            .map(text)
            .collect::<Result<_>>()?,
        content: match fields {
            // The length alone of what is too long to be read.
            Value::Int(_) => Err(MalformedReason::PayloadTooLong),
            fields => content(fields)?,
        },
    })
}

/// A count that is small; greater ones read as the greatest.
pub(crate) fn small(value: Value) -> Result<u32> {
    Ok(u32::try_from(count(value)?).unwrap_or(u32::MAX))
}

/// The reply to one item of a script: a word, and what comes with it.
pub(crate) fn outcome(value: Value) -> Result<(String, std::vec::IntoIter<Value>)> {
    let mut items = list(value)?.into_iter();
    let word = text(items.next().ok_or_else(|| protocol("an empty outcome"))?)?;
    Ok((word, items))
}

/// What comes next in an outcome.
pub(crate) fn next(items: &mut std::vec::IntoIter<Value>) -> Result<Value> {
    items
        .next()
        .ok_or_else(|| protocol("an outcome that is too short"))
}

/// A lock that is held: time left in milliseconds (-1: for ever), and its value.
pub(crate) fn held(items: &mut std::vec::IntoIter<Value>) -> Result<Held> {
    let remaining = match number(next(items)?)? {
        -1 => ENDLESS,
        ms => Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
    };
    Ok(Held {
        holder: holder(&text(next(items)?)?),
        remaining,
    })
}

/// One lease on record: data stream, entry, token.
pub(crate) fn lease(value: Value) -> Result<LeaseRef> {
    let [stream, entry, token] = tuple(value)?;
    Ok(LeaseRef {
        stream: StreamName::new(text(stream)?).map_err(|_| protocol("not a data stream"))?,
        entry: entry_id(entry)?,
        token: self::token(token)?,
    })
}

/// Who wrote a lock's value: `<session>/<token>/<entry>/<attempt>`, or somebody foreign.
pub(crate) fn holder(value: &str) -> Holder {
    let ours = || {
        let (rest, attempt) = value.rsplit_once('/')?;
        let (rest, entry) = rest.rsplit_once('/')?;
        let (session, token) = rest.rsplit_once('/')?;
        u64::from_str_radix(attempt, 16).ok()?;
        entry.parse::<EntryId>().ok()?;
        token.parse::<u64>().ok()?;
        session.parse::<SessionId>().ok()
    };
    ours().map_or_else(|| Holder::Foreign(value.to_owned()), Holder::Session)
}

/// What is on record of a pause: since when (ms) and why. Whatever else somebody has put
/// there pauses the service as well.
pub(crate) fn pause(value: Value) -> Result<Option<Pause>> {
    if value == Value::Nil {
        return Ok(None);
    }
    let record = bytes(value)?;
    let record = String::from_utf8_lossy(&record);
    let known = record.split_once(':');
    let known = known.and_then(|(since, reason)| Some((since.parse().ok()?, reason)));
    Ok(Some(match known {
        Some((since, reason)) => Pause::new(Some(since), reason),
        None => Pause::new(None, &*record),
    }))
}

/// One row of XINFO CONSUMERS.
pub(crate) fn consumer_state(value: Value) -> Result<ConsumerState> {
    let (mut name, mut pending, mut idle) = (None, 0, Duration::ZERO);
    for (key, value) in pairs(value)? {
        match &*bytes(key)? {
            b"name" => name = Some(consumer(value)?),
            b"pending" => pending = count(value)?,
            b"idle" => idle = millis(value)?,
            _ => {}
        }
    }
    let consumer = name.ok_or_else(|| protocol("a consumer without a name"))?;
    Ok(ConsumerState {
        consumer,
        pending,
        idle,
    })
}

/// What XINFO GROUPS says of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub(crate) last_delivered: EntryId,
    /// Entries not delivered yet; `None` if the server cannot tell.
    pub(crate) lag: Option<u64>,
}

/// Finds `group` in the reply of XINFO GROUPS.
pub(crate) fn group_state(value: Value, group: &str) -> Result<Option<GroupState>> {
    for row in list(value)? {
        let (mut found, mut last_delivered, mut lag) = (false, EntryId::MIN, None);
        for (key, value) in pairs(row)? {
            match &*bytes(key)? {
                b"name" => found = bytes(value)? == group.as_bytes(),
                b"last-delivered-id" => last_delivered = entry_id(value)?,
                b"lag" if value != Value::Nil => lag = Some(count(value)?),
                _ => {}
            }
        }
        if found {
            return Ok(Some(GroupState {
                last_delivered,
                lag,
            }));
        }
    }
    Ok(None)
}

/// The reply of `counts.lua`.
pub(crate) fn service_counts(value: Value) -> Result<ServiceCounts> {
    let mut items = list(value)?.into_iter();
    let known = |item| match item {
        Value::Nil => Ok(None),
        item => count(item).map(Some),
    };
    let waiting = known(next(&mut items)?)?;
    let oldest = known(next(&mut items)?)?;
    let (pending, quarantined) = (count(next(&mut items)?)?, count(next(&mut items)?)?);
    let is_paused = count(next(&mut items)?)? != 0;
    let oldest = oldest.map(Duration::from_millis);
    Ok(ServiceCounts::new(waiting, oldest, pending, quarantined).paused(is_paused))
}

/// The reply of `list_quarantined.lua`.
#[derive(Debug)]
pub(crate) enum QuarantinePage {
    Rows(Vec<Quarantined>),
    /// A step of mending the index was made; this is where it goes on.
    Mending(Vec<u8>),
}

pub(crate) fn quarantine_page(value: Value) -> Result<QuarantinePage> {
    let mut items = list(value)?.into_iter();
    match next(&mut items)? {
        Value::Nil => Ok(QuarantinePage::Mending(bytes(next(&mut items)?)?)),
        rows => {
            let rows = list(rows)?.into_iter().map(quarantined);
            Ok(QuarantinePage::Rows(rows.collect::<Result<_>>()?))
        }
    }
}

/// One row of `list_quarantined.lua`. A record that cannot be read is shown as
/// that: it must not hide the others.
pub(crate) fn quarantined(value: Value) -> Result<Quarantined> {
    let [entry, record] = tuple(value)?;
    let entry = entry_id(entry)?;
    Ok(
        quarantine_record(entry, &bytes(record)?).unwrap_or_else(|| Quarantined {
            entry,
            reason: "(the quarantine's record of this entry cannot be read)".to_owned(),
            failures: 0,
            reasons: Vec::new(),
            last_owner: ConsumerName::from_wire(""),
            at_ms: 0,
            fields: Vec::new(),
        }),
    )
}

/// The reply to one item of `release_quarantined.lua`.
pub(crate) fn quarantine_release(value: Value) -> Result<QuarantineRelease> {
    let (word, mut rest) = outcome(value)?;
    match &*word {
        "released" => Ok(QuarantineRelease::Released(entry_id(next(&mut rest)?)?)),
        "gone" => Ok(QuarantineRelease::Gone),
        "unreadable" => Ok(QuarantineRelease::Unreadable),
        _ => Err(protocol("an unknown outcome of a release")),
    }
}

fn quarantine_record(entry: EntryId, record: &[u8]) -> Option<Quarantined> {
    let mut pieces = pieces(record)?.into_iter();
    let mut next = || pieces.next();
    let text = |piece| String::from_utf8_lossy(piece).into_owned();
    let (reason, failed, owner, at_ms) = (next()?, next()?, next()?, next()?);
    let (failures, reasons) = failures(failed)?;
    let mut fields = Vec::new();
    while let Some(name) = pieces.next() {
        fields.push((name.to_vec(), pieces.next()?.to_vec()));
    }
    Some(Quarantined {
        entry,
        reason: text(reason),
        failures,
        reasons,
        last_owner: ConsumerName::from_wire(text(owner)),
        at_ms: text(at_ms).parse().ok()?,
        fields,
    })
}

/// How many failures, and behind a colon what `record.lua` keeps of the last ones: the
/// reason of each stands behind a letter and two tokens.
fn failures(text: &[u8]) -> Option<(u32, Vec<String>)> {
    let end = text.iter().position(|byte| *byte == b':');
    let (count, kept) = text.split_at(end.unwrap_or(text.len()));
    let count = std::str::from_utf8(count).ok()?.parse().ok()?;
    let kept = pieces(kept.strip_prefix(b":").unwrap_or_default()).unwrap_or_default();
    let reason = |failure: &[u8]| {
        let reason = failure.get(41..)?;
        Some(String::from_utf8_lossy(reason).into_owned())
    };
    Some((count, kept.into_iter().filter_map(reason).collect()))
}

/// Splits `<length>:<bytes>,` pieces, as the scripts write them.
pub(crate) fn pieces(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let colon = rest.iter().take(20).position(|byte| *byte == b':')?;
        let (length, tail) = rest.split_at(colon);
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        let tail = &tail[1..];
        let piece = tail.get(..length)?;
        rest = tail.get(length..)?.strip_prefix(b",")?;
        pieces.push(piece);
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamlease_core::ErrorKind;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn array<const N: usize>(items: [Value; N]) -> Value {
        Value::Array(items.into())
    }

    /// Everything a server could say instead of what was asked for.
    fn hostile() -> Vec<Value> {
        let mut values = vec![
            Value::Nil,
            Value::Int(i64::MIN),
            Value::Int(i64::MAX),
            bulk(""),
            bulk("18446744073709551616"),
            bulk("1-1"),
            Value::BulkString(vec![0xff, 0, 0xfe]),
            Value::Okay,
            Value::Double(f64::NAN),
            Value::Boolean(true),
            Value::BigNumber(b"9".to_vec()),
            Value::SimpleString("x".into()),
            Value::Map(vec![(Value::Nil, Value::Nil)]),
            Value::Map(vec![(bulk("name"), Value::Nil)]),
            Value::Push {
                kind: redis_rs::PushKind::Message,
                data: vec![],
            },
        ];
        for depth in 0..3 {
            for index in 0..values.len() {
                let inner = values[index].clone();
                values.push(array([inner.clone()]));
                if depth < 2 {
                    values.push(array([inner.clone(), inner.clone()]));
                    values.push(Value::Map(vec![(inner.clone(), inner)]));
                }
            }
            if values.len() > 3000 {
                break;
            }
        }
        values
    }

    #[test]
    fn no_reply_panics_and_what_is_refused_is_a_protocol_error() {
        for value in hostile() {
            let errors = [
                list(value.clone()).err(),
                pairs(value.clone()).err(),
                text(value.clone()).err(),
                number(value.clone()).err(),
                entry_id(value.clone()).err(),
                token(value.clone()).err(),
                session(value.clone()).err(),
                lease(value.clone()).err(),
                lease(array([value.clone(), value.clone(), value.clone()])).err(),
                delivery(value.clone()).err(),
                fetched(value.clone()).err(),
                pending_page(value.clone()).err(),
                outcome(value.clone())
                    .and_then(|(_, mut items)| held(&mut items))
                    .err(),
                consumer_state(value.clone()).err(),
                group_state(value.clone(), "g").err(),
                service_counts(value.clone()).err(),
                service_counts(array([Value::Nil, value.clone(), Value::Int(1)])).err(),
                quarantine_page(value.clone()).err(),
                quarantine_page(array([value.clone(), value.clone()])).err(),
                quarantine_release(value.clone()).err(),
                quarantined(array([bulk("1-1"), value.clone()])).err(),
                fetched(array([array([bulk("k"), array([value.clone()])])])).err(),
                pending_page(array([array([value.clone()]), value])).err(),
            ];
            for error in errors.into_iter().flatten() {
                assert_eq!(error.kind(), ErrorKind::Protocol);
            }
        }
    }

    #[test]
    fn one_bad_field_name_does_not_fail_its_page() {
        let good = array([
            bulk("1-1"),
            array([bulk("lbs-input"), bulk("{\"DataStreamName\":\"a\"}")]),
        ]);
        let bad = array([
            bulk("1-2"),
            array([Value::BulkString(vec![0xff]), bulk("x")]),
        ]);
        let page = array([array([bulk("orders-input"), array([good, bad])])]);
        let entries = fetched(page).unwrap();
        assert_eq!(entries[0].content.as_ref().unwrap().stream.as_str(), "a");
        assert_eq!(entries[1].content, Err(MalformedReason::FieldMissing));
    }

    #[test]
    fn holders_are_sessions_only_if_every_part_fits() {
        let ours = "redis-consumer-a/b/000000000000001f/00000000000000000007/5-1/a";
        let Holder::Session(session) = holder(ours) else {
            panic!("foreign")
        };
        assert_eq!(session.to_string(), "redis-consumer-a/b/000000000000001f");
        for foreign in ["redis-consumer-go", "", "a/b/c/d", "////", "a/1f/7/5-1/a"] {
            assert_eq!(holder(foreign), Holder::Foreign(foreign.into()));
        }
    }

    #[test]
    fn pieces_survive_any_bytes_and_nothing_else_is_taken_for_pieces() {
        assert_eq!(pieces(b"3:a,b,0:,"), Some(vec![&b"a,b"[..], b""]));
        for bad in [
            &b"x"[..],
            b"1:a",
            b"2:a,",
            b"-1:a,",
            b":a,",
            b"18446744073709551615:a,",
            b"99999999999999999999999:a,",
        ] {
            assert_eq!(pieces(bad), None);
        }
    }
}
