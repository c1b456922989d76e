//! What an entry of the load balancer stream (LBS) says: its JSON payload, encoded and decoded as on the wire.
//!
//! Every backend that stores the wire format uses these two functions, so that
//! a malformed entry is malformed everywhere and for the same stated reason.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{Error, Result, StreamName};

/// The one field of an LBS entry; its value is the JSON object below.
pub const PAYLOAD_FIELD: &str = "lbs-input";

/// The longest info, in bytes of JSON: 1 MiB. A longer one is refused before it is
/// submitted. An entry of another producer with a longer one is quarantined, because
/// whoever takes streams over has to read their infos, and its link may be slow.
pub const MAX_INFO_BYTES: usize = 1 << 20;

/// The longest payload: an info, a name that is escaped throughout, and some space.
pub const MAX_PAYLOAD_BYTES: usize = MAX_INFO_BYTES + 32 * 1024;

/// What a producer says about a data stream: any JSON object, or nothing.
///
/// Kept as the raw text until somebody asks, so that a held stream costs
/// little. `Debug` prints only the length.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Info(Option<Arc<str>>);

impl Info {
    /// No info.
    pub const NONE: Self = Self(None);

    /// Info from JSON text, which must be an object or `null`, of at most
    /// [`MAX_INFO_BYTES`].
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config): it is not; the message says what is wrong.
    pub fn from_json(json: &str) -> Result<Self> {
        let raw: &RawValue = serde_json::from_str(json).map_err(|err| {
            Error::with_source(
                crate::ErrorKind::Config,
                format!("info is not JSON ({err}); give an object like {{\"key\":\"value\"}}"),
                err,
            )
        })?;
        Self::from_raw(raw).map_err(|reason| match reason {
            MalformedReason::InfoTooLong => Error::config(format!(
                "info is {} bytes long; at most {MAX_INFO_BYTES} are allowed. Keep what is \
                 larger elsewhere, and let the info say where",
                raw.get().len()
            )),
            _ => Error::config(
                "info is not a JSON object; give one like {\"key\":\"value\"}, or null",
            ),
        })
    }

    /// Info from anything that serializes to a JSON object.
    pub fn from_serialize<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self> {
        let json = serde_json::to_string(value).map_err(|err| {
            Error::with_source(
                crate::ErrorKind::Config,
                "info cannot be written as JSON; give an object with string keys",
                err,
            )
        })?;
        Self::from_json(&json)
    }

    /// The JSON text, `None` if the producer gave none (or `null`).
    pub fn as_json(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The info as a type of yours; absent info reads as JSON `null`.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(self.as_json().unwrap_or("null")).map_err(|err| {
            Error::with_source(
                crate::ErrorKind::Config,
                format!("the stream's info does not have the expected shape: {err}"),
                err,
            )
        })
    }

    fn from_raw(raw: &RawValue) -> Result<Self, MalformedReason> {
        if raw.get().len() > MAX_INFO_BYTES {
            return Err(MalformedReason::InfoTooLong);
        }
        match raw.get().as_bytes().first() {
            Some(b'{') => Ok(Self(Some(raw.get().into()))),
            Some(b'n') => Ok(Self(None)),
            _ => Err(MalformedReason::InfoNotAnObject),
        }
    }
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(json) => write!(f, "Info({} bytes)", json.len()),
            None => f.write_str("Info(none)"),
        }
    }
}

/// A well-formed payload: which data stream, and what the producer says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The data stream that wants an owner.
    pub stream: StreamName,
    /// The producer's info.
    pub info: Info,
}

/// Of a name, without info.
impl TryFrom<&str> for Announcement {
    type Error = crate::Error;

    fn try_from(name: &str) -> crate::Result<Self> {
        Self::of(name, Info::NONE)
    }
}

/// Of a name, without info.
impl TryFrom<String> for Announcement {
    type Error = crate::Error;

    fn try_from(name: String) -> crate::Result<Self> {
        Self::of(name, Info::NONE)
    }
}

/// Of a name and what is to be said about it.
impl<N: AsRef<str>> TryFrom<(N, Info)> for Announcement {
    type Error = crate::Error;

    fn try_from((name, info): (N, Info)) -> crate::Result<Self> {
        Self::of(name, info)
    }
}

impl Announcement {
    /// An announcement of `stream`.
    pub fn new(stream: StreamName, info: Info) -> Self {
        Self { stream, info }
    }

    /// An announcement of the data stream that is called so.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if the name is invalid, see [`StreamName::new`].
    pub fn of(name: impl AsRef<str>, info: Info) -> crate::Result<Self> {
        Ok(Self::new(StreamName::new(name)?, info))
    }

    /// The JSON text of the payload, with the capitals the wire format writes.
    pub fn encode(&self) -> String {
        let name = serde_json::Value::from(self.stream.as_str());
        let info = self.info.as_json().unwrap_or("null");
        format!("{{\"DataStreamName\":{name},\"Info\":{info}}}")
    }

    /// Reads the value of the payload field. Keys are case-insensitive and the
    /// last of a repeated key counts, as for the Go consumers of the fleet;
    /// unknown keys are ignored.
    pub fn decode(payload: &[u8]) -> Result<Self, MalformedReason> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(MalformedReason::PayloadTooLong);
        }
        let text = std::str::from_utf8(payload).map_err(|_| MalformedReason::NotUtf8)?;
        let wire: Wire<'_> = serde_json::from_str(text).map_err(|err| {
            if err.is_data() {
                MalformedReason::WrongShape
            } else {
                MalformedReason::NotJson
            }
        })?;
        let name = wire.name.ok_or(MalformedReason::NameMissing)?;
        let name: String =
            serde_json::from_str(name.get()).map_err(|_| MalformedReason::NameNotAString)?;
        if name.is_empty() {
            return Err(MalformedReason::NameEmpty);
        }
        let stream = StreamName::new(name).map_err(|_| MalformedReason::NameTooLong)?;
        let info = wire.info.map_or(Ok(Info::NONE), Info::from_raw)?;
        Ok(Self { stream, info })
    }

    /// Reads an entry's fields, which must hold exactly one payload field
    /// (others are ignored).
    pub fn from_fields<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, MalformedReason> {
        let payload = fields
            .into_iter()
            .find(|(field, _)| *field == PAYLOAD_FIELD.as_bytes())
            .ok_or(MalformedReason::FieldMissing)?
            .1;
        Self::decode(payload)
    }
}

/// Why an LBS entry cannot be worked on. It is quarantined with this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedReason {
    /// The entry has no `lbs-input` field.
    #[error("the entry has no field lbs-input")]
    FieldMissing,
    /// The payload is not UTF-8.
    #[error("the payload is not UTF-8")]
    NotUtf8,
    /// The payload is not JSON.
    #[error("the payload is not JSON")]
    NotJson,
    /// The payload is JSON, but not an object.
    #[error("the payload is not a JSON object")]
    WrongShape,
    /// The payload has no `DataStreamName`.
    #[error("the payload has no DataStreamName")]
    NameMissing,
    /// `DataStreamName` is not a string.
    #[error("DataStreamName is not a string")]
    NameNotAString,
    /// `DataStreamName` is empty.
    #[error("DataStreamName is empty")]
    NameEmpty,
    /// `DataStreamName` is longer than [`StreamName::MAX_LEN`].
    #[error("DataStreamName is longer than 4096 bytes")]
    NameTooLong,
    /// `Info` is neither an object nor null.
    #[error("Info is not a JSON object")]
    InfoNotAnObject,
    /// `Info` is longer than [`MAX_INFO_BYTES`].
    #[error("Info is longer than 1048576 bytes")]
    InfoTooLong,
    /// The payload is longer than [`MAX_PAYLOAD_BYTES`].
    #[error("the payload is longer than 1081344 bytes")]
    PayloadTooLong,
}

struct Wire<'a> {
    name: Option<&'a RawValue>,
    info: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Wire<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WireVisitor;

        impl<'de> Visitor<'de> for WireVisitor {
            type Value = Wire<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object with DataStreamName")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
                let mut wire = Wire {
                    name: None,
                    info: None,
                };
                while let Some(key) = map.next_key::<String>()? {
                    if key.eq_ignore_ascii_case("DataStreamName") {
                        wire.name = Some(map.next_value()?);
                    } else if key.eq_ignore_ascii_case("Info") {
                        wire.info = Some(map.next_value()?);
                    } else {
                        map.next_value::<de::IgnoredAny>()?;
                    }
                }
                Ok(wire)
            }
        }

        deserializer.deserialize_map(WireVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_write_is_what_the_wire_format_says() {
        let stream = StreamName::new("call-\"1\"").unwrap();
        let with = Announcement::new(stream.clone(), Info::from_json("{\"a\": 1}").unwrap());
        assert_eq!(
            with.encode(),
            r#"{"DataStreamName":"call-\"1\"","Info":{"a": 1}}"#
        );
        assert_eq!(
            Announcement::decode(with.encode().as_bytes()).unwrap(),
            with
        );
        let without = Announcement::new(stream, Info::NONE);
        assert_eq!(
            Announcement::decode(without.encode().as_bytes()).unwrap(),
            without
        );
    }

    #[test]
    fn announcements_are_made_of_names() {
        let info = Info::from_json("{}").unwrap();
        let of = |name, info: &Info| Announcement::of(name, info.clone()).unwrap();
        assert_eq!(
            of("a", &info),
            Announcement::new(StreamName::new("a").unwrap(), info.clone())
        );
        assert_eq!(Announcement::try_from("a").unwrap(), of("a", &Info::NONE));
        let owned = "a".to_owned();
        assert_eq!(Announcement::try_from(owned).unwrap(), of("a", &Info::NONE));
        let name = StreamName::new("a").unwrap();
        let pair = Announcement::try_from((name, info.clone()));
        assert_eq!(pair.unwrap(), of("a", &info));
        let err = Announcement::try_from("").unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::Config);
    }

    #[test]
    fn reading_is_case_insensitive_and_ignores_unknown_keys() {
        let read = Announcement::decode(br#"{"x":[1],"datastreamname":"a","INFO":null}"#).unwrap();
        assert_eq!((read.stream.as_str(), read.info.as_json()), ("a", None));
    }

    fn info_of(bytes: usize) -> String {
        format!("{{\"x\":\"{}\"}}", "y".repeat(bytes - 8))
    }

    fn long_info(bytes: usize) -> String {
        format!("{{\"DataStreamName\":\"a\",\"Info\":{}}}", info_of(bytes))
    }

    #[test]
    fn an_info_that_is_too_long_is_refused_with_its_length_and_the_bound() {
        let longest = Info::from_json(&info_of(MAX_INFO_BYTES)).unwrap();
        let stream = StreamName::new("\u{1}".repeat(StreamName::MAX_LEN)).unwrap();
        let longest = Announcement::new(stream, longest);
        assert_eq!(
            Announcement::decode(longest.encode().as_bytes()).unwrap(),
            longest,
            "what may be announced can be read"
        );
        let err = Info::from_json(&info_of(MAX_INFO_BYTES + 1)).unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::Config);
        let shown = err.to_string();
        assert!(
            shown.contains("1048577") && shown.contains("1048576"),
            "{shown}"
        );
        for (reason, bound) in [
            (MalformedReason::InfoTooLong, MAX_INFO_BYTES),
            (MalformedReason::PayloadTooLong, MAX_PAYLOAD_BYTES),
        ] {
            assert!(reason.to_string().contains(&bound.to_string()), "{reason}");
        }
    }

    #[test]
    fn every_kind_of_malformed_payload_has_its_reason() {
        use MalformedReason::*;
        let long = format!("{{\"DataStreamName\":\"{}\"}}", "x".repeat(1 << 19));
        for (payload, reason) in [
            (&b"\xff\xfe"[..], NotUtf8),
            (b"{\"DataStreamName\":\"\xff\"}", NotUtf8),
            (b"hello", NotJson),
            (b"{\"DataStreamName\":", NotJson),
            (b"", NotJson),
            (b"[1]", WrongShape),
            (b"7", WrongShape),
            (b"{}", NameMissing),
            (b"{\"DataStreamName\":7}", NameNotAString),
            (b"{\"DataStreamName\":null}", NameNotAString),
            (b"{\"DataStreamName\":\"\"}", NameEmpty),
            (long.as_bytes(), NameTooLong),
            (b"{\"DataStreamName\":\"a\",\"Info\":[]}", InfoNotAnObject),
            (long_info(MAX_INFO_BYTES + 1).as_bytes(), InfoTooLong),
            (long_info(2 * MAX_INFO_BYTES).as_bytes(), PayloadTooLong),
        ] {
            assert_eq!(Announcement::decode(payload), Err(reason));
        }
        assert_eq!(
            Announcement::from_fields([(&b"other"[..], &b"{}"[..])]),
            Err(FieldMissing)
        );
    }
}
