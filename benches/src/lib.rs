//! What the benchmarks share: a table for people that is JSON for programs too.

use std::io::Write;

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
