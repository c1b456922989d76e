//! What must hold for any bytes that come from a server. Called by the fuzz
//! targets, and by the tests below; not in ordinary builds.

use redis_rs::{PushKind, Value, VerbatimFormat};
use streamlease_core::{
    ConsumerName, EntryId, Error, ErrorKind, FencingToken, Hint, Holder, LeaseRef, LockScheme,
    Renewal, StreamName,
};

use crate::decode;
use crate::keys::{parse_wire_lock, wire_lock};
use crate::locks::{self, per_stream, session};
use crate::notifier::read_hint;
use crate::transport::{claimed, ended};

/// Lock keys, hints, values of locks, quarantine records: nothing panics, and
/// what was read is the same when it is written and read again.
pub fn wire_text(text: &[u8]) {
    if let Some((stream, entry)) = parse_wire_lock(text) {
        let written = wire_lock(&stream, entry);
        assert_eq!(parse_wire_lock(written.as_bytes()), Some((stream, entry)));
    }
    if let Some(hint) = read_hint(text) {
        assert_eq!(read_hint(&written_hint(&hint)), Some(hint));
    }
    if let Some(pieces) = decode::pieces(text) {
        assert_eq!(decode::pieces(&written_pieces(&pieces)), Some(pieces));
    }
    if let Holder::Session(session) = decode::holder(&String::from_utf8_lossy(text)) {
        assert_eq!(session.to_string().parse().ok(), Some(session));
    }
    let row = Value::Array(vec![word("5-1"), Value::BulkString(text.to_vec())]);
    let quarantined = decode::quarantined(row);
    assert!(quarantined.is_ok_and(|quarantined| quarantined.entry == EntryId::new(5, 1)));
}

fn written_hint(hint: &Hint) -> Vec<u8> {
    match hint {
        Hint::HandedBack(entries) => {
            let ids: Vec<_> = entries.iter().map(ToString::to_string).collect();
            format!("H{}", ids.join(" ")).into_bytes()
        }
        Hint::Freed(streams) => {
            let names: Vec<_> = streams
                .iter()
                .map(|name| name.as_str().as_bytes())
                .collect();
            [b"F", &*written_pieces(&names)].concat()
        }
        Hint::HolderGone(consumer) => format!("G{consumer}").into_bytes(),
        Hint::PauseChanged => b"P".to_vec(),
        other => panic!("scripts do not publish {other:?}"),
    }
}

fn written_pieces(pieces: &[&[u8]]) -> Vec<u8> {
    let piece = |piece: &&[u8]| [format!("{}:", piece.len()).as_bytes(), piece, b","].concat();
    pieces.iter().flat_map(piece).collect()
}

/// A reply of the shape that the bytes describe, to every function that reads
/// replies: none panics, and what is refused is a protocol error.
pub fn redis_reply(shape: &[u8]) {
    let value = tree(&mut Bytes(shape), 0);
    let errors: [Option<Error>; 20] = [
        decode::list(value.clone()).err(),
        decode::pairs(value.clone()).err(),
        decode::text(value.clone()).err(),
        decode::number(value.clone()).err(),
        decode::small(value.clone()).err(),
        decode::millis(value.clone()).err(),
        decode::entry_id(value.clone()).err(),
        decode::submit_outcome(value.clone()).err(),
        decode::token(value.clone()).err(),
        decode::session(value.clone()).err(),
        decode::delivery(value.clone()).err(),
        decode::fetched(value.clone()).err(),
        decode::pending_page(value.clone()).err(),
        decode::pending_ids(value.clone()).err(),
        decode::consumer_state(value.clone()).err(),
        decode::group_state(value.clone(), "g").err(),
        decode::quarantined(value.clone()).err(),
        decode::quarantine_page(value.clone()).err(),
        decode::quarantine_release(value.clone()).err(),
        decode::outcome(value.clone())
            .and_then(|(_, mut rest)| decode::held(&mut rest))
            .err(),
    ];
    let claimer = ConsumerName::from_wire("redis-consumer-a");
    let outcomes = [claimed(&claimer, value.clone()).err(), ended(value).err()];
    for error in errors.into_iter().chain(outcomes).flatten() {
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
}

/// A reply to a call of a lock manager, right but for what the bytes say, to
/// every function of both that reads replies: none panics, what is refused is a
/// protocol error (or the other scheme's), and there are as many outcomes as requests.
pub fn lock_reply(shape: &[u8]) {
    let shape = &mut Bytes(shape);
    let asked = usize::from(shape.next() % 4);
    let value = lock_value(shape, asked);
    let mut errors: Vec<Option<Error>> = Vec::new();
    match locks::acquired(asked, value.clone()) {
        Ok(outcomes) => assert_eq!(outcomes.len(), asked),
        Err(error) => errors.push(Some(error)),
    }
    match locks::released(asked, value.clone()) {
        Ok(outcomes) => assert_eq!(outcomes.len(), asked),
        Err(error) => errors.push(Some(error)),
    }
    let page: Vec<LeaseRef> = (0..asked).map(lease).collect();
    let mut summary = Renewal::default();
    match per_stream::renewed(&page, value.clone(), &mut summary) {
        Ok(true) => assert!(summary.lost.iter().all(|lost| page.contains(lost))),
        Ok(false) => assert_eq!(summary.lost, []),
        Err(error) => errors.push(Some(error)),
    }
    errors.extend([
        session::heartbeat_reply(value.clone()).err(),
        session::taken_over(value.clone()).err(),
        session::leases(value.clone()).err(),
        locks::state(value.clone()).err(),
        locks::members_of(value.clone()).err(),
        decode::outcome(value.clone())
            .and_then(|(word, mut rest)| per_stream::taken_over(&word, &mut rest))
            .err(),
    ]);
    for error in errors.into_iter().flatten() {
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
    if let Ok((word, mut rest)) = decode::outcome(value)
        && let Err(error) = locks::opened(&word, &mut rest, LockScheme::Session, "s-input")
    {
        let allowed = match &*word {
            "other" => [ErrorKind::Incompatible, ErrorKind::Protocol].as_slice(),
            _ => &[ErrorKind::Protocol],
        };
        assert!(allowed.contains(&error.kind()), "{error}");
    }
}

fn lease(number: usize) -> LeaseRef {
    LeaseRef {
        stream: StreamName::new(format!("call-{number}")).expect("a name without odd characters"),
        entry: EntryId::new(5, number as u64),
        token: FencingToken(7 + number as u64),
    }
}

/// A reply as one of the scripts gives it, in which each part may be another.
fn lock_value(shape: &mut Bytes<'_>, asked: usize) -> Value {
    const SESSION: &str = "redis-consumer-a/000000000000001f";
    const HOLDER: &str = "redis-consumer-a/000000000000001f/00000000000000000007/5-1/a";
    let array = |items: &[Value]| Value::Array(items.to_vec());
    let leases = |shape: &mut Bytes<'_>| {
        let one = [word("call-1"), word("5-1"), word("00000000000000000007")];
        let one = array(&one.map(|right| or_another(shape, right)));
        let count = usize::from(shape.next() % 3);
        or_another(shape, Value::Array(vec![one; count]))
    };
    let around = |shape: &mut Bytes<'_>| {
        let dead = or_another(shape, word(SESSION));
        let numbers = [Value::Int(250), Value::Int(3), Value::Int(1)];
        let [next, members, turn] = numbers.map(|right| or_another(shape, right));
        [or_another(shape, array(&[dead])), next, members, turn]
    };
    let each = |shape: &mut Bytes<'_>, right: &dyn Fn(&mut Bytes<'_>) -> Value| {
        let items = (0..asked).map(|_| right(shape)).collect();
        or_another(shape, Value::Array(items))
    };
    let state = |shape: &mut Bytes<'_>| {
        let parts = match shape.next() % 4 {
            0 => vec![word("free")],
            1 => vec![word("held"), Value::Int(900), word(HOLDER)],
            2 => return or_another(shape, word("00000000000000000007")),
            _ => vec![word("not_yet"), Value::Int(40)],
        };
        let parts = parts.into_iter().map(|right| or_another(shape, right));
        let parts = Value::Array(parts.collect());
        or_another(shape, parts)
    };
    let parts = match shape.next() % 11 {
        // An acquire, an inspect, a release.
        0 => vec![word("ok"), each(shape, &state)],
        1 => return state(shape),
        2 => return or_another(shape, word(&"10".repeat(asked)[..asked])),
        // A renewal of per-stream locks, the first page and another.
        3 => {
            let lost = (1..=asked).map(|index| Value::Int(index as i64));
            let lost = lost.map(|right| or_another(shape, right)).collect();
            let lost = or_another(shape, Value::Array(lost));
            [vec![word("ok"), lost], around(shape).to_vec()].concat()
        }
        4 => vec![word("ok"), array(&[])],
        // With session leases: a heartbeat, and what a take-over finds.
        5 => {
            let numbers = [1_700_000_000_000, 2, 1].map(Value::Int);
            let [shown, on_record, generation] = numbers.map(|right| or_another(shape, right));
            let first = vec![word("ok"), shown, on_record, leases(shape), generation];
            let doubted = or_another(shape, word(""));
            [first, around(shape).to_vec(), vec![doubted]].concat()
        }
        6 => {
            let left = or_another(shape, Value::Int(4));
            vec![word("ok"), leases(shape), left]
        }
        7 => return leases(shape),
        8 => {
            let others = ["alive", "not_yet", "gone", "other", "holds"];
            let first = word(others[usize::from(shape.next()) % others.len()]);
            vec![first, or_another(shape, Value::Int(30))]
        }
        9 => {
            let row = [word(SESSION), Value::Int(800)];
            let row = row.map(|right| or_another(shape, right));
            let row = or_another(shape, array(&row));
            let rows = or_another(shape, array(&[row]));
            vec![word("0"), rows]
        }
        _ => return tree(shape, 0),
    };
    let mut parts: Vec<_> = parts
        .into_iter()
        .map(|right| or_another(shape, right))
        .collect();
    // Too short, or longer than it should be.
    match shape.next() % 8 {
        1 => parts.truncate(usize::from(shape.next()) % (parts.len() + 1)),
        2 => parts.push(tree(shape, 1)),
        _ => {}
    }
    Value::Array(parts)
}

/// This one, mostly.
fn or_another(shape: &mut Bytes<'_>, right: Value) -> Value {
    match shape.next() {
        0..224 => right,
        _ => tree(shape, 1),
    }
}

/// What stands in replies.
const WORDS: &[&str] = &[
    "claimed",
    "gone",
    "stale",
    "done",
    "not_owner",
    "released",
    "unreadable",
    "held",
    "free",
    "name",
    "pending",
    "idle",
    "lag",
    "last-delivered-id",
    "g",
    "lbs-input",
    "1-1",
    "0-0",
    "18446744073709551615-18446744073709551615",
    "18446744073709551616",
    "-1",
    "00000000000000000007",
    "redis-consumer-a",
    "redis-consumer-a/000000000000001f",
    "{\"DataStreamName\":\"a\"}",
    "",
];

/// Deeper than any real reply.
const MOST_DEPTH: usize = 6;

fn word(text: &str) -> Value {
    Value::BulkString(text.into())
}

fn tree(shape: &mut Bytes<'_>, depth: usize) -> Value {
    if depth > MOST_DEPTH {
        return Value::Nil;
    }
    let deeper = depth + 1;
    let many = |shape: &mut Bytes<'_>| {
        let count = shape.next() % 9;
        (0..count).map(|_| tree(shape, deeper)).collect::<Vec<_>>()
    };
    match shape.next() % 20 {
        0 => Value::Nil,
        1 => Value::Int(i64::from_le_bytes(std::array::from_fn(|_| shape.next()))),
        2 => Value::Int(i64::from(shape.next()) - 2),
        3 => Value::BulkString(shape.some()),
        4 | 5 => word(WORDS[usize::from(shape.next()) % WORDS.len()]),
        6 | 7 => Value::Array(many(shape)),
        8 => Value::Set(many(shape)),
        9 => {
            let (names, values) = (many(shape), many(shape));
            Value::Map(names.into_iter().zip(values).collect())
        }
        10 => Value::SimpleString(String::from_utf8_lossy(&shape.some()).into_owned()),
        11 => Value::Okay,
        12 => Value::Double(f64::from_bits(u64::from(shape.next()) << 56)),
        13 => Value::Boolean(shape.next() > 127),
        14 => Value::BigNumber(shape.some()),
        15 => Value::VerbatimString {
            format: VerbatimFormat::Text,
            text: String::from_utf8_lossy(&shape.some()).into_owned(),
        },
        16 => Value::Attribute {
            data: Box::new(tree(shape, deeper)),
            attributes: Vec::new(),
        },
        17 => Value::Push {
            kind: PushKind::Message,
            data: many(shape),
        },
        // Right but for one part: chance alone does not get that far.
        18 => {
            let payload = Value::Array(vec![word("lbs-input"), Value::BulkString(shape.some())]);
            let row = [
                word("1-1"),
                word("redis-consumer-a"),
                Value::Int(5),
                Value::Int(1),
            ];
            let record = [
                word("00000000000000000007"),
                Value::Int(1),
                Value::Int(2),
                payload,
            ];
            let mut row: Vec<Value> = row.into_iter().chain(record).collect();
            row[usize::from(shape.next() % 8)] = tree(shape, deeper);
            Value::Array(vec![
                Value::Array(vec![Value::Array(row)]),
                tree(shape, deeper),
            ])
        }
        _ => {
            let fields = Value::Array(vec![word("lbs-input"), tree(shape, deeper)]);
            let entries = Value::Array(vec![Value::Array(vec![tree(shape, deeper), fields])]);
            Value::Array(vec![Value::Array(vec![word("s-input"), entries])])
        }
    }
}

/// The bytes that are left; zeros after their end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// As many as the next one says, or are left.
    fn some(&mut self) -> Vec<u8> {
        let length = usize::from(self.next()).min(self.0.len());
        let (some, rest) = self.0.split_at(length);
        self.0 = rest;
        some.to_vec()
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;
    use super::{Renewal, locks, per_stream, session};

    #[test]
    fn any_wire_text_is_read_or_refused() {
        let words: &[&[u8]] = &[
            b"<MUTEX_KEY_SEP>",
            b"5-1",
            b"18446744073709551615:",
            b"18446744073709551616-0",
            b"0:,",
            b"1:a,",
            b"/",
            b"/000000000000001f",
            b"\xff",
            b" ",
            b"H",
            b"F",
            b"G",
            b"+1-1",
        ];
        replay("wire_text", words, super::wire_text);
    }

    #[test]
    fn any_reply_is_read_or_refused() {
        replay("redis_reply", &[], super::redis_reply);
    }

    #[test]
    fn any_lock_reply_is_read_or_refused() {
        replay("lock_reply", &[], super::lock_reply);
    }
    /// Else the cases above would be refused at their first word.
    #[test]
    fn replies_of_lock_scripts_are_read_if_nothing_in_them_is_changed() {
        let reply = |shape: &[u8]| super::lock_value(&mut super::Bytes(shape), 2);
        let page = [0, 1].map(super::lease);
        let mut summary = Renewal::default();
        locks::acquired(2, reply(&[0, 2, 0, 1])).unwrap();
        locks::state(reply(&[1, 1])).unwrap();
        locks::released(2, reply(&[2])).unwrap();
        assert!(per_stream::renewed(&page, reply(&[3]), &mut summary).unwrap());
        assert!(per_stream::renewed(&page, reply(&[4]), &mut summary).unwrap());
        assert_eq!((summary.lost, summary.dead.len()), (page.into(), 1));
        let heartbeat = session::heartbeat_reply(reply(&[5, 0, 0, 0, 0, 0, 0, 2]));
        let renewal = heartbeat.unwrap().unwrap().renewal;
        assert_eq!((renewal.revoked.len(), renewal.members), (2, 3));
        session::taken_over(reply(&[6, 0, 0, 0, 0, 2])).unwrap();
        assert_eq!(session::leases(reply(&[7, 0, 0, 0, 2])).unwrap().len(), 2);
        session::taken_over(reply(&[8, 0])).unwrap();
        let (next, members) = locks::members_of(reply(&[9])).unwrap();
        assert_eq!((&*next, members.len()), ("0", 1));
    }
}
