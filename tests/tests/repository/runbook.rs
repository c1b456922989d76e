//! Whoever is woken by a line of the log finds in `docs/runbook.md` what it means and what to
//! do. Each warning and each error that the sources log has its heading there, which has the
//! words that do not change from line to line; so has each kind of error that a client can
//! end with, each reason for which a lease is lost, and each alert of `ops/alerts.yml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::files::{files, read, root};

/// After each of these the text that is logged comes next in the source.
const LOGGED: [&str; 6] = [
    "warn!(",
    "error!(",
    "Level::Warn",
    "Level::Error",
    "(Warn, ",
    "(Error, ",
];

/// Stands for what differs from line to line.
const DIFFERS: &str = "…";

#[test]
fn every_warning_has_its_entry_and_every_entry_its_warning() {
    let page = page();
    let entries = headings(&page, "## Warnings and errors");
    let logged = logged();
    assert!(logged.len() > 30, "only {logged:#?}");
    let is_in = |entry: &String, line: &Logged| line.text.contains(entry.as_str());
    let without: Vec<_> = logged
        .iter()
        .filter(|line| !entries.iter().any(|entry| is_in(entry, line)))
        .collect();
    assert!(
        without.is_empty(),
        "docs/runbook.md has no heading for these: give each one, between backticks, that has \
         a part of its text ({DIFFERS} for what differs): {without:#?}"
    );
    for entry in &entries {
        assert!(
            logged.iter().any(|line| is_in(entry, line)),
            "nothing logs {entry:?}, which docs/runbook.md explains"
        );
    }
}

#[test]
fn every_kind_of_error_that_ends_a_client_has_its_entry() {
    let kinds = variants("error.rs", "pub enum ErrorKind {");
    assert!(kinds.len() > 8, "only {kinds:?}");
    let page = page();
    let section = section(&page, "## A client has ended");
    for kind in kinds {
        assert!(section.contains(&format!("`{kind}`")), "no {kind}");
    }
}

#[test]
fn every_reason_for_which_a_lease_is_lost_has_its_row() {
    let reasons = variants("machine/io.rs", "pub enum DisownReason {");
    assert!(reasons.len() > 5, "only {reasons:?}");
    let page = page();
    for reason in reasons {
        let row = format!("\n| `Disowned({reason})` |");
        assert!(page.contains(&row), "no row for {reason}");
    }
}

/// By the link that each alert carries, which is made of its name.
#[test]
fn every_alert_leads_to_its_entry_and_every_entry_is_about_one() {
    let rules = read(&root().join("ops/alerts.yml"));
    let alerts: BTreeMap<_, _> = rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let (name, rest) = rule.split_once('\n').expect("a rule");
            let link = rest.split("runbook_url: ").nth(1);
            let link = link.and_then(|rest| rest.lines().next());
            (name, link.unwrap_or_default())
        })
        .collect();
    assert!(alerts.len() > 10, "only {alerts:?}");
    let page = page();
    let alerts_of_page = section(&page, "## Alerts");
    let entries = alerts_of_page
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let entries: BTreeSet<_> = entries.collect();
    assert_eq!(entries, alerts.keys().copied().collect());
    let manifest = read(&root().join("Cargo.toml"));
    let repository = manifest
        .split("\nrepository = \"")
        .nth(1)
        .expect("an address");
    let repository = repository.split('"').next().unwrap_or_default();
    for (name, link) in &alerts {
        let anchor = name.to_lowercase();
        let expected = format!("{repository}/blob/main/docs/runbook.md#{anchor}");
        assert_eq!(*link, expected, "{name}");
    }
    for entry in alerts_of_page.split("\n### ").skip(1) {
        let (name, text) = entry.split_once('\n').expect("a heading");
        assert!(text.trim().len() > 20, "{name}: what is to be done?");
    }
}

/// What the log says with one statement, and where that stands.
#[derive(Debug)]
struct Logged {
    text: String,
    #[expect(dead_code, reason = "for messages")]
    at: String,
}

fn logged() -> Vec<Logged> {
    let mut logged = Vec::new();
    for file in sources() {
        let source = read(&file);
        // The tests of a file are its end.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<_> = source
            .lines()
            .filter(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && !line.starts_with("use ")
            })
            .collect();
        let code = code.join("\n");
        if let Some(line) = unread(&code) {
            panic!("{}: what does this log? {line:?}", file.display());
        }
        let ends: Vec<_> = LOGGED
            .iter()
            .flat_map(|mark| code.match_indices(mark).map(|(at, _)| at + mark.len()))
            // Of a lost lease: the level is chosen before.
            .chain(
                code.match_indices("=> Warn,")
                    .map(|(at, mark)| at + mark.len()),
            )
            // Of a logger: its own lines, as it prints them.
            .chain(code.match_indices("\"{ts} WARN ").map(|(at, _)| at))
            .chain(code.match_indices("\"{ts} ERROR ").map(|(at, _)| at))
            .collect();
        for end in ends {
            let text = literal(&code[end..]).unwrap_or_else(|| {
                panic!("{}: a warning without a text of its own", file.display())
            });
            let at = format!("{}, with {text:?}", file.display());
            let text = without_values(&text);
            logged.push(Logged { text, at });
        }
    }
    logged
}

/// A line that names the level of a warning in a form for which this test does not look.
fn unread(code: &str) -> Option<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let found = code.match_indices("Warn").find(|(at, level)| {
        let (before, after) = (&code[..*at], &code[at + level.len()..]);
        let is_other_word = before.ends_with(is_word) || after.starts_with(is_word);
        let is_read = before.ends_with("Level::")
            || (before.ends_with('(') && after.starts_with(", "))
            || (before.ends_with("=> ") && after.starts_with(','));
        !is_other_word && !is_read
    });
    let (at, _) = found?;
    let start = code[..at].rfind('\n').map_or(0, |end| end + 1);
    code[start..].lines().next()
}

#[test]
fn a_warning_in_a_form_that_is_not_looked_for_is_found_out() {
    for read in [
        "say(Warn, |c| x)",
        "log(Level::Warn, x)",
        "Lost => Warn,",
        "Warning",
    ] {
        assert_eq!(unread(read), None, "{read}");
    }
    for form in ["let level = Warn;", "    Warn,", "Lost => { Warn }"] {
        assert_eq!(unread(&format!("fn f() {{\n{form}\n}}")), Some(form));
    }
}

/// The first string literal that is not empty, as the compiler reads it.
fn literal(code: &str) -> Option<String> {
    let mut text = String::new();
    let (_, rest) = code.split_once('"')?;
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' if text.is_empty() => return literal(chars.as_str()),
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '\n' => {
                    let rest = chars.as_str().trim_start();
                    chars = rest.chars();
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

/// With [`DIFFERS`] for each `{…}`.
fn without_values(text: &str) -> String {
    let mut parts = text.split('{');
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str(DIFFERS);
        shown.push_str(part.split_once('}').map_or(part, |(_, rest)| rest));
    }
    shown
}

/// The code of the headings of the third level below that one.
fn headings(page: &str, heading: &str) -> Vec<String> {
    section(page, heading)
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .map(str::to_owned)
        .collect()
}

fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, section) = page.split_once(heading).expect("the heading");
    section.split("\n## ").next().unwrap_or_default()
}

/// The names of an enum of core, without data.
fn variants(file: &str, declared: &str) -> Vec<String> {
    let source = read(&root().join("crates/core/src").join(file));
    let (_, variants) = source.split_once(declared).expect("the enum");
    let lines = variants.lines().take_while(|line| *line != "}");
    let lines = lines.map(str::trim).filter(|line| !line.starts_with("//"));
    let names = lines.filter_map(|line| line.strip_suffix(','));
    names.map(str::to_owned).collect()
}

/// All that is published, but for what tests run.
fn sources() -> Vec<PathBuf> {
    let crates = root().join("crates");
    let is_shipped = |path: &PathBuf| {
        let path = path.strip_prefix(&crates).expect("below it");
        let is_in = |name: &str| path.iter().any(|part| part == name);
        is_in("src")
            && !path.starts_with("testkit")
            && !is_in("tests")
            && !path.ends_with("tests.rs")
    };
    let mut sources: Vec<_> = files(&crates, &["rs"])
        .into_iter()
        .filter(is_shipped)
        .collect();
    assert!(sources.len() > 80, "only {sources:?}");
    sources.sort();
    sources
}

fn page() -> String {
    read(&root().join("docs/runbook.md"))
}
