//! [`Keys`]: which key is what.

use streamlease_core::{EntryId, ServiceName, StreamName};

use crate::connection::hash_tag;

/// What stands between data stream and entry id in a wire lock's key, literally.
const LOCK_SEPARATOR: &str = "<MUTEX_KEY_SEP>";

/// What stands in front of a consumer's identity in the group, as Go consumers have it.
pub(crate) const CONSUMER_PREFIX: &str = "redis-consumer-";

/// The keys of one service. The crate documentation lists them.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) lbs: String,
    pub(crate) group: String,
    pub(crate) tokens: String,
    pub(crate) announced: String,
    pub(crate) quarantine: String,
    pub(crate) quarantine_index: String,
    pub(crate) paused: String,
    pub(crate) counter: String,
    pub(crate) sessions: String,
    /// `buried` on the wire.
    pub(crate) removed: String,
    pub(crate) sweep: String,
    pub(crate) refused: String,
    pub(crate) hints: String,
    pub(crate) probe: String,
    pub(crate) scheme: String,
    /// In front of all keys but the LBS and the wire format's locks.
    pub(crate) space: String,
    pub(crate) owners: String,
    pub(crate) server: String,
    pub(crate) details: String,
    /// In front of a session, for what it holds.
    pub(crate) leases: String,
    /// In front of a batch's id.
    batch: String,
    /// In front of the id that a quarantined entry had.
    released: String,
    /// In front of a data stream's name.
    lock: String,
}

impl Keys {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let lbs = format!("{service}-input");
        // With a hash tag of its own the LBS key is kept as it is, so that keys
        // of services which share a tag stay apart.
        let prefix = if hash_tag(&lbs).is_some() {
            lbs.clone()
        } else {
            format!("{{{lbs}}}")
        };
        Self {
            group: format!("{service}-group"),
            tokens: format!("{prefix}:tokens"),
            announced: format!("{prefix}:announced"),
            quarantine: format!("{prefix}:quarantine"),
            quarantine_index: format!("{prefix}:quarantine:index"),
            paused: format!("{prefix}:paused"),
            counter: format!("{prefix}:counter"),
            sessions: format!("{prefix}:sessions"),
            removed: format!("{prefix}:sessions:buried"),
            sweep: format!("{prefix}:sweep"),
            refused: format!("{prefix}:refused"),
            hints: format!("{prefix}:hints"),
            probe: format!("{prefix}:probe"),
            scheme: format!("{prefix}:scheme"),
            space: prefix.clone() + ":",
            owners: format!("{prefix}:owners"),
            server: format!("{prefix}:server"),
            details: format!("{prefix}:sessions:details"),
            leases: format!("{prefix}:leases:"),
            batch: format!("{prefix}:batch:"),
            released: format!("{prefix}:released:"),
            lock: format!("{prefix}:lock:"),
            lbs,
        }
    }

    /// What became of a batch so far.
    pub(crate) fn batch(&self, id: u128) -> String {
        format!("{}{id:032x}", self.batch)
    }

    /// What became of a name of a batch with a key.
    pub(crate) fn named(&self, remembered_as: &str) -> String {
        format!("{}{remembered_as}", self.batch)
    }

    /// As what an entry came back from the quarantine.
    pub(crate) fn released(&self, entry: EntryId) -> String {
        format!("{}{entry}", self.released)
    }

    /// The lock of a data stream, under whichever entry.
    pub(crate) fn stream_lock(&self, stream: &StreamName) -> String {
        format!("{}{stream}", self.lock)
    }
}

/// The lock of one assignment, as Go consumers know it. It names no service.
pub(crate) fn wire_lock(stream: &StreamName, entry: EntryId) -> String {
    format!("{stream}{LOCK_SEPARATOR}{entry}")
}

/// The pattern of all keys of wire locks.
pub(crate) fn wire_lock_keys() -> String {
    format!("*{LOCK_SEPARATOR}*")
}

/// Reads a wire lock's key; `None` if it is none. Split at the last separator:
/// a data stream's name may contain it.
pub(crate) fn parse_wire_lock(key: &[u8]) -> Option<(StreamName, EntryId)> {
    let (stream, entry) = std::str::from_utf8(key).ok()?.rsplit_once(LOCK_SEPARATOR)?;
    Some((StreamName::new(stream).ok()?, entry.parse().ok()?))
}

/// The channel on which the server tells what happened to a key.
pub(crate) fn keyspace_channel(db: i64, key: &str) -> String {
    format!("__keyspace@{db}__:{key}")
}

/// The pattern of the channels of all wire locks.
pub(crate) fn wire_lock_pattern(db: i64) -> String {
    keyspace_channel(db, &wire_lock_keys())
}

/// Where the quarantine's index has an entry: ordered as text like ids as numbers.
pub(crate) fn index_member(entry: EntryId) -> String {
    format!("{:020}-{:020}", entry.ms, entry.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(service: &str) -> Keys {
        Keys::new(&ServiceName::new(service).unwrap())
    }

    #[test]
    fn keys_are_as_on_the_wire_and_share_the_hash_tag() {
        let orders = keys("orders");
        assert_eq!(
            (&*orders.lbs, &*orders.group),
            ("orders-input", "orders-group")
        );
        assert_eq!(orders.tokens, "{orders-input}:tokens");
        let tagged = keys("a{eu}");
        assert_eq!(
            (&*tagged.lbs, &*tagged.tokens),
            ("a{eu}-input", "a{eu}-input:tokens")
        );
        assert_eq!(
            keys("{}").tokens,
            "{{}-input}:tokens",
            "an empty tag is none"
        );
    }

    #[test]
    fn wire_locks_are_split_at_the_last_separator() {
        let stream = StreamName::new("a<MUTEX_KEY_SEP>b").unwrap();
        let key = wire_lock(&stream, EntryId::new(5, 1));
        assert_eq!(key, "a<MUTEX_KEY_SEP>b<MUTEX_KEY_SEP>5-1");
        assert_eq!(
            parse_wire_lock(key.as_bytes()),
            Some((stream, EntryId::new(5, 1)))
        );
        for bad in [
            &b"a"[..],
            b"",
            b"<MUTEX_KEY_SEP>1-1",
            b"a<MUTEX_KEY_SEP>",
            b"a<MUTEX_KEY_SEP>x",
            b"\xff<MUTEX_KEY_SEP>1-1",
        ] {
            assert_eq!(parse_wire_lock(bad), None);
        }
    }

    #[test]
    fn the_index_orders_ids_as_numbers() {
        let (low, high) = (EntryId::new(9, 10), EntryId::new(10, 9));
        assert!(index_member(low) < index_member(high));
        assert!(index_member(EntryId::new(9, 9)) < index_member(low));
    }
}
