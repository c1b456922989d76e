//! What `cargo deny` would say of licenses, duplicates and sources by `deny.toml`, on
//! machines that do not have it. Advisories need its database: see `tests/run.sh`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::{fs, iter};

use serde_json::Value;

use crate::files::root;

/// An advisory is ignored by its id, and with a reason.
#[test]
fn ignored_advisories_have_a_reason() {
    let ignored = Deny::read().entries("advisories", "ignore");
    assert!(!ignored.is_empty(), "deny.toml is not read right");
    for entry in ignored {
        let quoted = quoted(&entry);
        assert!(quoted[0].starts_with("RUSTSEC-"), "{entry}");
        assert!(quoted.len() == 2 && !quoted[1].is_empty(), "{entry}");
    }
}

#[test]
fn each_dependency_has_a_license_that_is_allowed() {
    let deny = Deny::read();
    let allowed: BTreeSet<_> = words(&deny.entries("licenses", "allow")).collect();
    let mut exceptions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in deny.entries("licenses", "exceptions") {
        let mut quoted = quoted(&entry).into_iter();
        let name = quoted.next().expect("a crate's name");
        exceptions.insert(name, quoted.collect());
    }
    for package in packages() {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        let (name, license) = (text("name"), text("license"));
        let excepted = exceptions.remove(&name).unwrap_or_default();
        let is_allowed = |id: &str| allowed.contains(id) || excepted.iter().any(|e| e == id);
        assert!(allows(&license, &is_allowed), "{name}: {license:?}");
        let is_needed = excepted.is_empty() || !allows(&license, &|id| allowed.contains(id));
        assert!(is_needed, "{name} needs no exception in deny.toml");
    }
    assert!(exceptions.is_empty(), "not used any more: {exceptions:?}");
}

#[test]
fn no_dependency_comes_in_two_versions_unless_it_is_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let text = |field: &str| package[field].as_str().expect("a text").to_owned();
        versions
            .entry(text("name"))
            .or_default()
            .insert(text("version"));
    }
    let skip = Deny::read().entries("bans", "skip");
    for entry in &skip {
        let (name, version) = quoted(entry)[0]
            .split_once('@')
            .map(own)
            .expect("name@version");
        let prefix = format!("{version}.");
        let found = versions.get_mut(&name).filter(|found| found.len() > 1);
        let found = found.unwrap_or_else(|| panic!("{name} comes once: take it out of deny.toml"));
        found.retain(|found| !found.starts_with(&prefix));
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(
        versions.is_empty(),
        "neither once nor in deny.toml: {versions:?}"
    );
}

#[test]
fn dependencies_come_from_crates_io() {
    for package in packages() {
        let is_ours = package["source"].is_null();
        let is_there = package["source"] == "registry+https://github.com/rust-lang/crates.io-index";
        assert!(
            is_ours || is_there,
            "{}: {}",
            package["name"],
            package["source"]
        );
    }
}

#[test]
fn license_expressions_are_read_right() {
    let mit = |id: &str| id == "MIT";
    for allowed in [
        "MIT",
        "A OR MIT",
        "MIT/A",
        "MIT OR A AND B",
        "(A OR MIT) AND MIT",
    ] {
        assert!(allows(allowed, &mit), "{allowed}");
    }
    for refused in ["", "A", "MIT AND A", "(MIT OR A) AND B", "MIT WITH A"] {
        assert!(!allows(refused, &mit), "{refused}");
    }
}

/// `deny.toml`, of which lists with one entry a line are understood.
struct Deny(String);

impl Deny {
    fn read() -> Self {
        let path = root().join("deny.toml");
        Self(fs::read_to_string(path).expect("deny.toml is there"))
    }

    fn entries(&self, section: &str, list: &str) -> Vec<String> {
        let lines = self.0.lines().map(str::trim);
        let lines = lines.skip_while(|line| *line != format!("[{section}]"));
        let lines = lines.skip_while(|line| *line != format!("{list} = ["));
        let lines = lines.skip(1).take_while(|line| *line != "]");
        lines.map(str::to_owned).collect()
    }
}

fn words(entries: &[String]) -> impl Iterator<Item = String> {
    entries.iter().flat_map(|entry| quoted(entry))
}

fn quoted(entry: &str) -> Vec<String> {
    entry
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// Whether a license expression is fulfilled by what is allowed.
fn allows(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    any(&mut tokens, is_allowed)
}

type Tokens<'a> = iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(tokens: &mut Tokens<'_>, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = all(tokens, is_allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        result |= all(tokens, is_allowed);
    }
    result
}

fn all(tokens: &mut Tokens<'_>, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = one(tokens, is_allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        result &= one(tokens, is_allowed);
    }
    result
}

fn one(tokens: &mut Tokens<'_>, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    match tokens.next() {
        Some("(") => {
            let result = any(tokens, is_allowed);
            tokens.next();
            result
        }
        Some(id) if tokens.next_if_eq(&"WITH").is_some() => {
            let exception = tokens.next().unwrap_or_default();
            is_allowed(&format!("{id} WITH {exception}"))
        }
        Some(id) => is_allowed(id),
        None => false,
    }
}

/// Everything that any feature brings on any system, as `Cargo.lock` has it.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--all-features",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut json: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    match json["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("no list of packages: {other}"),
    }
}
