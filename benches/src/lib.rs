//! What the benchmarks share: a table for people that is JSON for programs too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark stops where it is wrong"
)]

mod slowest;
pub mod takeover;
mod usage;
pub mod wire;

use std::io::Write;
use std::time::Duration;

pub use slowest::{forget_slow_calls, server, slowest_call};
pub use usage::{ProcessUsage, RedisUsage};

use serde_json::{Map, Value, json};
use streamlease_core::LockScheme;

/// Rows of figures under named columns.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
    budgets: Vec<String>,
}

impl Table {
    /// An empty table.
    pub fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self {
            name,
            columns,
            rows: Vec::new(),
            budgets: Vec::new(),
        }
    }

    /// Adds a row: one cell per column. Shown at once, too: the whole takes minutes.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().collect();
        eprintln!("{}: {}", self.name, row.join("  "));
        self.rows.push(row);
    }

    /// Adds a line below the table: what was asked for, and what came of it.
    pub fn budget(&mut self, what: &str, measured: &str, met: bool) {
        let met = if met { "met" } else { "NOT MET" };
        self.budgets.push(format!("{what}: {measured}, {met}"));
    }

    /// Prints it, and writes it as JSON to the file named after `--json`, if given.
    pub fn finish(self) -> std::io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(self.columns[column].len())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = std::io::stdout().lock();
        // As Markdown, for README.md.
        writeln!(out, "{}\n", self.name)?;
        let header = self.columns.iter().map(|column| (*column).to_owned());
        let rule = widths.iter().map(|width| "-".repeat(*width));
        let head = [header.collect(), rule.collect()];
        for row in head.iter().chain(&self.rows) {
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, "| {cell:>width$} ")?;
            }
            writeln!(out, "|")?;
        }
        writeln!(out)?;
        for budget in &self.budgets {
            writeln!(out, "- {budget}")?;
        }
        match value_of("--json") {
            Some(path) => std::fs::write(path, format!("{:#}\n", self.json())),
            None => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<String>| {
            let cells = self.columns.iter().zip(row);
            let cells = cells.map(|(column, cell)| ((*column).to_owned(), json!(cell)));
            Value::Object(cells.collect::<Map<_, _>>())
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({ "bench": self.name, "rows": rows, "budgets": self.budgets })
    }
}

/// Whether this is a short run that only shows that the benchmark works.
pub fn is_smoke() -> bool {
    std::env::args().any(|arg| arg == "--smoke")
}

/// What follows `option` on the command line.
pub fn value_of(option: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != option);
    args.nth(1)
}

/// The number that follows `option` on the command line.
pub fn number_of<T: std::str::FromStr>(option: &str) -> Option<T> {
    let value = value_of(option)?;
    let number = value.parse().ok();
    assert!(number.is_some(), "{option} {value}: not a number");
    number
}

/// The numbers that follow `option` on the command line, with commas between them.
pub fn numbers_of(option: &str) -> Option<Vec<usize>> {
    let parse = |number: &str| {
        let parsed = number.parse().ok();
        parsed.unwrap_or_else(|| panic!("{option} {number}: not a number"))
    };
    value_of(option).map(|value| value.split(',').map(parse).collect())
}

/// What leases hang on in a cell; `None` is the wire format's algorithm.
pub fn name_of(scheme: Option<LockScheme>) -> &'static str {
    match scheme {
        Some(LockScheme::Session) => "session",
        Some(LockScheme::PerStream) => "per-stream",
        None => "wire",
    }
}

/// All of them, or those that `--only session|per-stream|wire` names (with
/// commas between them).
pub fn schemes() -> Vec<Option<LockScheme>> {
    let all = [Some(LockScheme::Session), Some(LockScheme::PerStream), None];
    let Some(only) = value_of("--only") else {
        return all.to_vec();
    };
    let parse = |name: &str| {
        let scheme = all.into_iter().find(|scheme| name_of(*scheme) == name);
        scheme.unwrap_or_else(|| panic!("--only {name}: session, per-stream or wire"))
    };
    only.split(',').map(parse).collect()
}

/// Ends this process with the one that started it, however that ends.
pub fn die_with_parent() {
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(500));
        }
        std::process::exit(1);
    });
}

/// The runtime that every benchmark with I/O uses.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// `n` announcements with 64 bytes of info each, in pages of 1,000.
pub fn announcements(n: usize) -> Vec<Vec<streamlease_core::Announcement>> {
    use streamlease_core::{Announcement, Info, StreamName};
    let info = Info::from_json(&format!("{{\"note\":\"{}\"}}", "x".repeat(53))).unwrap();
    let announce = |i: usize| {
        Announcement::new(
            StreamName::new(format!("stream-{i}")).unwrap(),
            info.clone(),
        )
    };
    let all: Vec<_> = (0..n).map(announce).collect();
    all.chunks(1_000).map(<[_]>::to_vec).collect()
}

/// A duration in milliseconds, for a table.
pub fn millis(duration: Duration) -> String {
    format!("{:.0}", duration.as_secs_f64() * 1e3)
}
