//! What must hold for any bytes that come from a server. Called by the fuzz
//! targets, and by the tests below; not in ordinary builds.

use redis_rs::{PushKind, Value, VerbatimFormat};
use streamlease_core::{ConsumerName, EntryId, Error, ErrorKind, Hint, Holder};

use crate::decode;
use crate::keys::{parse_wire_lock, wire_lock};
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
    let parked = decode::quarantined(row);
    assert!(parked.is_ok_and(|parked| parked.entry == EntryId::new(5, 1)));
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
    let errors: [Option<Error>; 17] = [
        decode::list(value.clone()).err(),
        decode::pairs(value.clone()).err(),
        decode::text(value.clone()).err(),
        decode::number(value.clone()).err(),
        decode::small(value.clone()).err(),
        decode::millis(value.clone()).err(),
        decode::entry_id(value.clone()).err(),
        decode::token(value.clone()).err(),
        decode::session(value.clone()).err(),
        decode::delivery(value.clone()).err(),
        decode::fetched(value.clone()).err(),
        decode::pending_page(value.clone()).err(),
        decode::consumer_state(value.clone()).err(),
        decode::group_state(value.clone(), "g").err(),
        decode::quarantined(value.clone()).err(),
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
}
