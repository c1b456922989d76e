//! What has to be described is described: settings, measurements, keys, rights, findings, rules,
//! terms. And what the pages name of the code is there.

use std::collections::BTreeSet;

use crate::files::{files, read, root, sources};
use crate::pages::{Page, page, pages};

#[test]
fn every_setting_has_its_row() {
    let page = page("docs/settings.md");
    let setters = ["client", "settings"].map(|file| {
        let source = read(&root().join(format!("crates/core/src/{file}.rs")));
        let (_, setters) = source.split_once("impl ClientBuilder").expect("setters");
        setters.to_owned()
    });
    let settings: Vec<_> = setters
        .iter()
        .flat_map(|setters| setters.lines())
        .filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self"))
        .map(|(name, _)| name)
        .collect();
    assert!(settings.len() > 10, "only {settings:?}");
    for setting in settings {
        assert!(
            page.text.contains(&format!("\n| `{setting}` |")),
            "docs/settings.md has no row for {setting}"
        );
    }
    for feature in features() {
        assert!(
            page.text.contains(&format!("\n| `{feature}` |")),
            "docs/settings.md has no row for the feature {feature}"
        );
    }
}

#[test]
fn every_measurement_is_described() {
    let page = page("docs/settings.md");
    let recorder = read(&root().join("crates/core/src/recorder.rs"));
    let (_, recorder) = recorder.split_once("pub trait Recorder").expect("a trait");
    for line in recorder.lines().take_while(|line| !line.starts_with('}')) {
        if let Some(name) = line.trim().strip_prefix("fn ") {
            let name = name.split('(').next().unwrap_or(name);
            assert!(page.text.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn the_pages_know_how_many_methods_a_lock_has() {
    let source = read(&root().join("crates/core/src/key_lock.rs"));
    let (_, methods) = source.split_once("pub trait KeyLock").expect("the trait");
    let (methods, _) = methods.split_once("\n}\n").expect("its end");
    let methods: Vec<_> = methods.split("\n    async fn ").skip(1).collect();
    let has_default = |method: &&&str| {
        let body = method.find(" {\n").unwrap_or(usize::MAX);
        body < method.find(";\n").unwrap_or(usize::MAX)
    };
    let with_default = methods.iter().filter(has_default).count();
    assert_eq!(
        (methods.len(), with_default),
        (5, 1),
        "change the pages, too"
    );
    let guide = page("docs/guide.md").text;
    assert!(guide.contains("`KeyLock` (five methods, one of them with a default)"));
    let lock_backend = page("docs/lock-backend.md").text;
    assert!(lock_backend.contains("## The five methods"));
}

#[test]
fn every_key_is_on_the_page_of_the_wire_format() {
    let page = page("docs/wire-format.md");
    let keys = read(&root().join("crates/backend-redis-rs/src/keys.rs"));
    let names: BTreeSet<_> = keys
        .split("\"{prefix}:")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(names.len() > 12, "only {names:?}");
    for name in names {
        let described = match name.ends_with(':') {
            true => format!("`{{orders-input}}:{name}<"),
            false => format!("`{{orders-input}}:{name}`"),
        };
        assert!(page.text.contains(&described), "no {described}");
    }
}

#[test]
fn every_command_that_a_script_calls_is_among_the_rights() {
    let page = page("docs/operations.md");
    let rights = page
        .text
        .lines()
        .filter(|line| line.starts_with("ACL SETUSER "));
    let rights: Vec<BTreeSet<_>> = rights
        .map(|line| {
            let words = line.split(' ').filter_map(|word| word.strip_prefix('+'));
            let names = words.filter_map(|word| word.split('|').next());
            names.map(str::to_uppercase).collect()
        })
        .collect();
    let [session, per_stream] = &rights[..] else {
        panic!("for session leases, and for per-stream locks: {rights:?}");
    };
    let mut missing = BTreeSet::new();
    for script in files(
        &root().join("crates/backend-redis-rs/src/scripts"),
        &["lua"],
    ) {
        let is_of = |kind: &str| script.iter().any(|part| part == kind);
        let text = read(&script);
        for rest in text.split("call('").skip(1) {
            let name = rest.split('\'').next().unwrap_or(rest);
            let granted = (is_of("per_stream") || session.contains(name))
                && (is_of("session") || per_stream.contains(name));
            if !granted {
                missing.insert(name.to_owned());
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/operations.md does not grant {missing:?}"
    );
}

/// A finding links to its heading, and each heading is about one that there is.
#[test]
fn every_finding_of_doctor_has_its_heading() {
    let page = page("docs/doctor.md");
    let headings = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let headings: BTreeSet<_> = headings.map(str::to_owned).collect();
    let mut codes = BTreeSet::new();
    for folder in ["crates/core/src", "crates/backend-redis-rs/src"] {
        let folder = root().join(folder);
        let of_check = files(&folder, &["rs"]).into_iter().filter(|path| {
            // Below the folder: the checkout itself may lie in one that is called `check`.
            let path = path.strip_prefix(&folder).expect("a file of the folder");
            path.starts_with("check") || path.ends_with("check.rs")
        });
        for path in of_check {
            let text = read(&path);
            // The tests of a file are its end.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let words: Vec<_> = text.split_whitespace().collect();
            let text = words.join(" ");
            // Where a code stands: behind a severity or an error, or in a constant.
            for before in [
                "Severity::Ok, \"",
                "Severity::Info, \"",
                "Severity::Warning, \"",
                "Severity::Error, \"",
                "(severity, \"",
                "severity, \"",
                "unknown(\"",
                "=> (\"",
                "=> { (\"",
                "=> ( \"",
                "const CODE: &str = \"",
                "const UNREACHABLE: &str = \"",
                "const SENTINELS: &str = \"",
            ] {
                for rest in text.split(before).skip(1) {
                    codes.extend(rest.split('"').next().map(str::to_owned));
                }
            }
        }
    }
    codes.insert("nodes".to_owned());
    assert!(codes.len() > 25, "only {codes:?}");
    assert_eq!(codes, headings);
}

#[test]
fn every_rule_has_its_section_and_every_trace_is_named() {
    let protocol = page("docs/protocol.md");
    for rule in 1..=12 {
        let heading = format!("\n### R{rule} ");
        assert!(protocol.text.contains(&heading), "no section for R{rule}");
    }
    let sources = sources("crates");
    for name in rows(&protocol.text, "## Six interleavings") {
        assert!(
            sources
                .iter()
                .any(|text| text.contains(&format!("fn {name}("))),
            "no test {name}"
        );
    }
}

#[test]
fn the_glossary_is_in_order_and_names_what_is_in_the_code() {
    let glossary = page("docs/glossary.md");
    let terms: Vec<_> = glossary
        .text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| **")?.split_once("** |")?.0))
        .map(str::to_lowercase)
        .collect();
    let mut sorted = terms.clone();
    sorted.sort();
    sorted.dedup();
    assert!(terms.len() > 40, "only {terms:?}");
    assert_eq!(terms, sorted, "sorted, and each once");
    let sources = sources("crates");
    for line in glossary.text.lines() {
        let (_, code) = line.split_once("In code: ").unwrap_or_default();
        for name in code.split('`').skip(1).step_by(2) {
            for part in name.split("::") {
                assert!(
                    sources.iter().any(|text| has_word(text, part)),
                    "{name} is not in the code any more: {line}"
                );
            }
        }
    }
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = read(&root().join(page));
        assert!(text.contains("glossary.md"), "{page} names the glossary");
    }
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let page = page("ARCHITECTURE.md");
    let files = files(&root().join("crates"), &["rs", "lua"]);
    let is_there = |name: &str| files.iter().any(|path| path.ends_with(name));
    let named = page.text.split('`').skip(1).step_by(2);
    let named = named.filter(|name| name.ends_with(".rs") || name.ends_with(".lua"));
    let missing: Vec<_> = named.filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn whatever_names_the_load_balancer_stream_says_once_what_it_is() {
    let mut without = Vec::new();
    // What users see of the crates, too: where each begins, the modules of core, and `spi`.
    let seen = files(&root().join("crates"), &["rs"])
        .into_iter()
        .filter(|path| {
            let of_core = path.parent().is_some_and(|at| at.ends_with("core/src"));
            let begins = path.ends_with("src/lib.rs") || path.ends_with("src/spi.rs");
            (of_core && !path.ends_with("fuzzing.rs")) || begins
        });
    for page in pages().into_iter().chain(seen.map(Page::open)) {
        let Some(at) = word_at(&page.text, "LBS") else {
            continue;
        };
        // A few words behind will do: "the LBS (load balancer stream)".
        let until = page.text[at..]
            .find("\n\n")
            .map_or(page.text.len(), |end| at + end);
        let text = page.text[..until].replace("//", " ");
        let words: Vec<_> = text
            .split_whitespace()
            .filter(|word| *word != "/")
            .collect();
        let text = words.join(" ");
        let used = word_at(&text, "LBS").unwrap_or(text.len());
        let said = text.find("oad balancer stream");
        if said.is_none_or(|said| said > used + 60) {
            without.push(page.name());
        }
    }
    assert!(
        without.is_empty(),
        "LBS is not defined at its first use in {without:?}"
    );
}

/// The facade's features.
fn features() -> Vec<String> {
    let manifest = read(&root().join("crates/streamlease/Cargo.toml"));
    let (_, features) = manifest.split_once("[features]").expect("features");
    let features = features.split("\n[").next().expect("a section");
    let names = features.lines().filter_map(|line| line.split_once(" = "));
    let names = names.map(|(name, _)| name.to_owned());
    names
        .filter(|name| name != "default" && !name.starts_with('#'))
        .collect()
}

/// The names in the first column of the table below a heading.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = text.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().expect("a section");
    let names: Vec<_> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect();
    assert!(!names.is_empty(), "no rows below {heading}");
    names
}

fn has_word(text: &str, word: &str) -> bool {
    word_at(text, word).is_some()
}

fn word_at(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|at| !text[..*at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}
