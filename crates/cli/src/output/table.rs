//! [`Tables`]: what is listed, as tables or as JSON lines.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::{json_line, printable};

/// What is listed.
pub(crate) trait Row: Serialize {
    /// The same for people, one for each column.
    fn cells(&self) -> Vec<String>;
}

/// One below the other, each shown if it gets a row. A page is printed as it comes, so that a
/// long list takes no memory.
pub(crate) struct Tables {
    json: bool,
    colours: bool,
    out: io::BufWriter<io::Stdout>,
    /// Tables begun so far.
    tables: usize,
    columns: &'static [&'static str],
    /// Rows that wait until it is known how wide the columns are.
    waiting: Vec<Vec<String>>,
    /// As wide as the first rows need; later ones stand out.
    widths: Option<Vec<usize>>,
}

/// So many rows decide how wide a table's columns are.
const MEASURED: usize = 500;

/// No cell but the last of a line is wider: one long name would move all other rows.
const WIDEST: usize = 60;

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const PLAIN: &str = "\u{1b}[0m";

/// Nobody but a terminal, and none whose user does not want them.
fn wants_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

impl Tables {
    pub(crate) fn new(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR");
        Self {
            json,
            colours: wants_colours(io::stdout().is_terminal(), no_color.as_deref()),
            out: io::BufWriter::new(io::stdout()),
            tables: 0,
            columns: &[],
            waiting: Vec::new(),
            widths: None,
        }
    }

    /// Begins a table.
    pub(crate) fn table(&mut self, columns: &'static [&'static str]) -> io::Result<()> {
        self.flush()?;
        (self.widths, self.columns) = (None, columns);
        Ok(())
    }

    pub(crate) fn print(&mut self, row: &impl Row) -> io::Result<()> {
        if self.json {
            self.out.write_all(json_line(row).as_bytes())?;
            return self.out.flush();
        }
        let mut cells: Vec<String> = row.cells().iter().map(|cell| printable(cell)).collect();
        if let Some((_, before)) = cells.split_last_mut() {
            for cell in before {
                *cell = shortened(cell, WIDEST);
            }
        }
        if let Some(widths) = &self.widths {
            let line = line(&cells, widths, self.colours);
            return writeln!(self.out, "{line}");
        }
        self.waiting.push(cells);
        match self.waiting.len() < MEASURED {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Shows what waits, below the columns' names.
    fn flush(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        if rows.is_empty() {
            return Ok(());
        }
        self.tables += 1;
        if self.tables > 1 {
            writeln!(self.out)?;
        }
        let names: Vec<String> = self.columns.iter().map(ToString::to_string).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([&names]);
            let cells = cells.filter_map(|cells| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        let head = line(&names, &widths, false);
        match self.colours {
            true => writeln!(self.out, "{BOLD}{head}{PLAIN}")?,
            false => writeln!(self.out, "{head}")?,
        }
        for cells in rows {
            let line = line(&cells, &widths, self.colours);
            writeln!(self.out, "{line}")?;
        }
        self.widths = Some(widths);
        self.out.flush()
    }

    /// Shows what waits still.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        self.out.flush()
    }

    /// The last lines: that the listing is complete.
    pub(crate) fn end(&mut self, counts: &impl Serialize, in_words: &str) -> io::Result<()> {
        self.flush()?;
        if self.json {
            self.out.write_all(json_line(counts).as_bytes())?;
        } else {
            if self.tables > 0 {
                writeln!(self.out)?;
            }
            writeln!(self.out, "{in_words}")?;
        }
        self.out.flush()
    }
}

/// What is not as it should be stands out.
fn line(cells: &[String], widths: &[usize], colours: bool) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{cell:width$}  ");
    }
    let line = line.trim_end();
    let colour = cells.iter().find_map(|cell| match cell.as_str() {
        "stranded" => Some(RED),
        cell if cell.starts_with("failures=") || cell.contains(", failures=") => Some(YELLOW),
        _ => None,
    });
    match colour {
        Some(colour) if colours => format!("{colour}{line}{PLAIN}"),
        _ => line.to_owned(),
    }
}

/// With a mark where it was cut.
pub(crate) fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some(_) => text.chars().take(chars - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_have_colours_and_only_if_they_are_wanted() {
        assert!(wants_colours(true, None));
        assert!(wants_colours(true, Some(OsStr::new(""))));
        assert!(!wants_colours(true, Some(OsStr::new("1"))));
        assert!(!wants_colours(false, None));
        let cells = ["1-0", "stranded"].map(String::from);
        assert_eq!(line(&cells, &[5, 8], false), "1-0    stranded");
        let red = format!("{RED}1-0    stranded{PLAIN}");
        assert_eq!(line(&cells, &[5, 8], true), red);
    }

    #[test]
    fn a_long_cell_is_cut() {
        assert_eq!(shortened("ümlaut", 6), "ümlaut");
        assert_eq!(shortened("ümlauts", 6), "ümlau…");
    }
}
