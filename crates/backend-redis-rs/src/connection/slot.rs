//! In which slot of a cluster a key is.

const SLOTS: u16 = 16384;

/// CRC16 (XMODEM) of the hash tag, or of all of the key, as the cluster specification says.
pub(crate) fn slot_of(key: &str) -> u16 {
    crc16(hash_tag(key).unwrap_or(key).as_bytes()) % SLOTS
}

/// The text between the first `{` and the first `}` after it, if there is any.
pub(crate) fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let crc = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(crc, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_examples_have_their_slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("orders-input", 4468)] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
        for (key, tag) in [
            ("{user1000}.following", Some("user1000")),
            ("foo{}{bar}", None),
            ("foo{{bar}}zap", Some("{bar")),
            ("foo{bar}{zap}", Some("bar")),
            ("foo", None),
        ] {
            assert_eq!(hash_tag(key), tag, "{key}");
        }
        assert_eq!(slot_of("{orders-input}:tokens"), slot_of("orders-input"));
    }
}
