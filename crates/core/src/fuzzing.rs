//! What must hold for any bytes. Called by the fuzz targets, and by the tests
//! below; not in ordinary builds.

use crate::Announcement;

/// The payload of an LBS entry: no bytes panic, and what was read says the same
/// when it is written and read again.
pub fn announcement(payload: &[u8]) {
    let Ok(read) = Announcement::decode(payload) else {
        return;
    };
    let written = read.encode();
    assert_eq!(
        Announcement::decode(written.as_bytes()).as_ref(),
        Ok(&read),
        "{written}"
    );
    // What users do with it.
    let json = read.info.parse::<serde_json::Value>();
    if let (Ok(json), Some(text)) = (&json, read.info.as_json()) {
        assert!(json.is_object(), "{text}");
        assert_eq!(crate::Info::from_json(text).ok().as_ref(), Some(&read.info));
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn any_announcement_is_read_or_refused() {
        let words: &[&[u8]] = &[
            b"\"DataStreamName\":",
            b"\"Info\":",
            b"null",
            b"{",
            b"}",
            b"\"",
            b"\\u0000",
            b"\\ud800",
            b"1e999",
            b"[[[[[[[[",
            b"\xff",
            b",",
            b"datastreamname",
        ];
        super::replay::replay("announcement", words, super::announcement);
    }
}
