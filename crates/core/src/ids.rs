//! Names, ids and tokens: no bare string or number crosses a seam.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// Names a service: its load balancer stream (LBS) and consumer group.
    ServiceName
}

name! {
    /// Names a data stream: the thing that has one owner at a time.
    StreamName
}

name! {
    /// A consumer's name in the group. Two processes may share one by mistake;
    /// what is unique is the [`SessionId`].
    ConsumerName
}

impl ServiceName {
    /// Longest service name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Checks a service name: 1 to 512 bytes, no control characters.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        check_name("service name", name, Self::MAX_LEN)?;
        Ok(Self(name.into()))
    }
}

impl StreamName {
    /// Longest data stream name, in bytes. Longer ones in the LBS are quarantined.
    pub const MAX_LEN: usize = 4096;

    /// Checks a data stream name: 1 to 4096 bytes. Any characters are allowed.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Error::config(
                "data stream name is empty; give at least one character",
            ));
        }
        if name.len() > Self::MAX_LEN {
            return Err(Error::config(format!(
                "data stream name has {} bytes; at most {} are allowed",
                name.len(),
                Self::MAX_LEN
            )));
        }
        Ok(Self(name.into()))
    }
}

impl ConsumerName {
    /// Longest consumer name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// The consumer name that is equal to a configured identity. A client asks
    /// [`Backend::consumer_name`](crate::Backend::consumer_name), since a backend may put
    /// a prefix in front.
    ///
    /// The identity has 1 to 256 bytes and no control characters or `/`
    /// (which ends the consumer name in a lock's value).
    pub fn from_identity(identity: impl AsRef<str>) -> Result<Self> {
        let identity = identity.as_ref();
        check_name("consumer identity", identity, 256)?;
        if identity.contains('/') {
            return Err(Error::config(format!(
                "consumer identity {identity:?} contains '/', which is reserved; use another character"
            )));
        }
        Ok(Self(identity.into()))
    }

    /// A consumer name as it stands on the wire, whoever wrote it there.
    pub fn from_wire(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().into())
    }
}

fn check_name(what: &str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() {
        return Err(Error::config(format!(
            "{what} is empty; give at least one character"
        )));
    }
    if name.len() > max {
        return Err(Error::config(format!(
            "{what} has {} bytes; at most {max} are allowed",
            name.len()
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::config(format!(
            "{what} {name:?} contains a control character; use printable characters only"
        )));
    }
    Ok(())
}

/// The id of one announcement on the LBS, ordered as the LBS is.
///
/// In Redis this is the stream entry id `<ms>-<seq>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds of the server's clock when the entry was added.
    pub ms: u64,
    /// Counts the entries of one millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Below every entry.
    pub const MIN: Self = Self { ms: 0, seq: 0 };

    /// The id `<ms>-<seq>`.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EntryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (ms, seq) = text.split_once('-')?;
            // `u64::from_str` accepts a leading '+', Redis never writes one.
            if ms.starts_with('+') || seq.starts_with('+') {
                return None;
            }
            Some(Self {
                ms: ms.parse().ok()?,
                seq: seq.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            Error::config(format!(
                "{text:?} is not an entry id; it looks like 1700000000000-0"
            ))
        })
    }
}

/// A number that is greater for every later owner of the same data stream (R5).
///
/// Give it to whatever the owner writes to. A store that remembers the greatest one it has seen,
/// and refuses lower ones, cannot be corrupted by a stale owner. What the owner does first is to
/// put its token there; then it reads where to go on. `docs/fencing.md` has the recipes.
///
/// Tokens are below 9·10¹⁸ ([`LIMIT`](Self::LIMIT)). Do not keep them as floating-point numbers,
/// which JSON and Lua do: above 2⁵³ these are not exact. Compare them as numbers, not as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FencingToken(pub u64);

impl FencingToken {
    /// Below every token: nobody owns or has owned it.
    pub const NONE: Self = Self(0);
    /// Above every token. What is on record and not below this was put there by somebody
    /// else: were it taken for a token, no later owner could have a greater one. It is
    /// less than many stores' greatest number (2^63 − 1), with room for what is counted
    /// up from whatever is below, and more than any clock's time in ns until 2255.
    pub const LIMIT: Self = Self(9_000_000_000_000_000_000);

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number for stores without unsigned integers, as SQL's `BIGINT`. Every token that is
    /// given is below [`LIMIT`](Self::LIMIT), and so the same number.
    pub const fn as_i64(self) -> i64 {
        if self.0 < i64::MAX as u64 {
            self.0 as i64
        } else {
            i64::MAX
        }
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One incarnation's session: a consumer name and a number never used again.
///
/// Written and parsed as `<consumer>/<16 hex digits>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The consumer's name in the group.
    pub consumer: ConsumerName,
    /// Drawn anew for every session; what tells two holders of one name apart.
    pub nonce: u64,
}

impl SessionId {
    /// The session `nonce` of `consumer`.
    pub fn new(consumer: ConsumerName, nonce: u64) -> Self {
        Self { consumer, nonce }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.consumer, self.nonce)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.rsplit_once('/')
            .filter(|(consumer, nonce)| !consumer.is_empty() && nonce.len() == 16)
            .and_then(|(consumer, nonce)| {
                let nonce = u64::from_str_radix(nonce, 16).ok()?;
                Some(Self::new(ConsumerName::from_wire(consumer), nonce))
            })
            .ok_or_else(|| {
                Error::config(format!(
                    "{text:?} is not a session; it looks like name/0123456789abcdef"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_order_as_numbers_and_survive_a_round_trip() {
        let low: EntryId = "9-2".parse().unwrap();
        let high: EntryId = "10-1".parse().unwrap();
        assert!(low < high, "numbers, not text");
        assert_eq!(high.to_string(), "10-1");
        for bad in [
            "",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "a-1",
            "+1-2",
            "18446744073709551616-0",
        ] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad:?} parsed");
        }
    }

    #[test]
    fn tokens_are_the_same_number_to_every_store_in_their_order() {
        let greatest = FencingToken(FencingToken::LIMIT.get() - 1);
        for token in [
            FencingToken::NONE,
            FencingToken(1_800_000_000_000_001),
            greatest,
        ] {
            assert_eq!(token.as_i64().to_string(), token.to_string());
            assert_eq!(u64::try_from(token.as_i64()), Ok(token.get()));
        }
        assert_eq!(
            FencingToken(u64::MAX).as_i64(),
            i64::MAX,
            "still above every token"
        );
    }

    #[test]
    fn sessions_are_split_at_the_last_slash() {
        let id = SessionId::new(ConsumerName::from_wire("a/b"), 0x1f);
        assert_eq!(id.to_string(), "a/b/000000000000001f");
        assert_eq!(id.to_string().parse::<SessionId>().unwrap(), id);
        assert!("a-go-consumer".parse::<SessionId>().is_err());
    }

    #[test]
    fn bad_names_are_refused_with_what_would_be_right() {
        let err = ServiceName::new("a\nb").unwrap_err().to_string();
        assert!(
            err.contains("control character") && err.contains("printable"),
            "{err}"
        );
        assert!(ServiceName::new("").is_err());
        assert!(ConsumerName::from_identity("").is_err());
        assert!(StreamName::new("x".repeat(StreamName::MAX_LEN + 1)).is_err());
    }
}
