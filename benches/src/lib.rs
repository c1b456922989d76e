//! What the benchmarks share: a table for people that is JSON for programs too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark stops where it is wrong"
)]

pub mod takeover;
mod usage;
pub mod wire;

use std::io::Write;
use std::time::Duration;

pub use usage::{ProcessUsage, RedisUsage};

use serde_json::{Map, Value, json};

/// Rows of figures under named columns.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self {
            name,
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row: one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
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
        writeln!(out, "{}", self.name)?;
        let header = self
            .columns
            .iter()
            .map(|column| (*column).to_owned())
            .collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, "  {cell:>width$}")?;
            }
            writeln!(out)?;
        }
        match json_path() {
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
        json!({ "bench": self.name, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

/// Whether this is a short run that only shows that the benchmark works.
pub fn is_smoke() -> bool {
    std::env::args().any(|arg| arg == "--smoke")
}

fn json_path() -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != "--json");
    args.nth(1)
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
