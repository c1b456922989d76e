//! [`printable`]: text from outside in lines for people.

use std::fmt::{self, Write};

/// How text from outside is written in logs, errors and other lines for people: the name of a
/// stream, the reason of a failure, what a server said. Control characters, and what else ends a
/// line or changes the direction of what follows, are escaped (`\n`, `\u{1b}`), so that no name
/// forges a line or commands a terminal. All else stays as it is.
pub fn printable(text: impl fmt::Display) -> impl fmt::Display {
    Printable(text)
}

struct Printable<T>(T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_escaped(c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

fn is_escaped(c: char) -> bool {
    let ends_line = matches!(c, '\u{2028}' | '\u{2029}');
    let changes_direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || ends_line || changes_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_or_commands_a_terminal_is_escaped_and_nothing_else() {
        for (text, written) in [
            ("", ""),
            ("call 7", "call 7"),
            ("Zähler \\n \"q\" 通話 🦀", "Zähler \\n \"q\" 通話 🦀"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\0\u{7f}\u{9b}1m\u{85}", "\\u{0}\\u{7f}\\u{9b}1m\\u{85}"),
            ("a\u{2028}b\u{2029}", "a\\u{2028}b\\u{2029}"),
            ("\u{202e}flow", "\\u{202e}flow"),
        ] {
            assert_eq!(printable(text).to_string(), written);
        }
    }
}
