//! Each program on a page, and each example, is run. (That they compile, doctests check.)

use std::collections::BTreeSet;

use crate::files::{files, read, root};
use crate::pages::{docs, pages};

/// What doctests only compile, a test runs on a server of its own.
#[test]
fn every_program_on_a_page_is_run() {
    /// Why a test of `examples/pages` does not have it.
    const ELSEWHERE: [(&str, &str); 1] = [(
        "getting_started_3",
        "the example whole_service, whose test compares the page with it",
    )];
    let runs = read(&root().join("examples/pages/tests/pages.rs"));
    let mut wrong = Vec::new();
    let mut only_compiled = BTreeSet::new();
    for page in pages() {
        let name = page.path.file_stem().expect("a name").to_string_lossy();
        let name = name.to_lowercase().replace('-', "_");
        let mut number = 0;
        for block in page.text.split("\n```rust").skip(1) {
            let (attributes, rest) = block.split_once('\n').expect("a program");
            let program = rest.split("\n```").next().unwrap_or_default();
            match attributes {
                "" => {}
                ",no_run" => {
                    number += 1;
                    let name = format!("{name}_{number}");
                    let is_elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == name);
                    // As `examples/pages/build.rs` looks for it.
                    let is_there = program.contains("\"redis://127.0.0.1/\"")
                        && runs.contains(&format!("\"{name}\""));
                    if !is_elsewhere && !is_there {
                        wrong.push(format!("{name} is run by nothing: {program}"));
                    }
                    only_compiled.insert(name);
                }
                other => wrong.push(format!("{}: rust{other}: {program}", page.name())),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(only_compiled.len() > 8, "only {only_compiled:?}");
    for (name, _) in ELSEWHERE {
        assert!(only_compiled.contains(name), "there is no {name}");
    }
}

/// With `test = true`, and tests that call what `main` calls, or itself.
#[test]
fn every_example_is_run_by_a_test() {
    let manifest = read(&root().join("examples/Cargo.toml"));
    let examples: Vec<_> = manifest.split("[[example]]\n").skip(1).collect();
    assert!(examples.len() > 8, "only {examples:?}");
    let mut listed = BTreeSet::new();
    for example in examples {
        let example = example.split("\n\n").next().unwrap_or_default();
        assert!(example.contains("\ntest = true"), "{example}");
        let path = example.split("path = \"").nth(1).expect("a path");
        let path = path.split('"').next().unwrap_or_default();
        let source = read(&root().join("examples").join(path));
        let parts = source.split_once("\nmod tests {");
        let (program, tests) = parts.unwrap_or_else(|| panic!("{path} has no tests"));
        let (_, main) = program.split_once("fn main(").expect("a program");
        let main = main.split("\n}\n").next().unwrap_or_default();
        let functions = program.split("fn ").skip(1);
        let is_tested = functions
            .filter_map(|rest| rest.split(['(', '<']).next())
            .map(|name| format!("{name}("))
            .any(|call| (call == "main(" || main.contains(&call)) && tests.contains(&call));
        assert!(is_tested, "no test of {path} runs it");
        listed.insert(root().join("examples").join(path));
    }
    let folders = files(&root().join("examples"), &["rs"]);
    let programs = folders.into_iter().filter(|path| {
        let is_package = path.ends_with("src/main.rs") || path.ends_with("build.rs");
        let text = read(path);
        !is_package && (text.contains("\nfn main(") || text.contains("\nasync fn main("))
    });
    for path in programs {
        assert!(listed.contains(&path), "{} is no example", path.display());
    }
}

/// `examples/src/pages.rs` makes doctests of them.
#[test]
fn every_program_on_a_page_is_compiled() {
    let list = read(&root().join("examples/src/pages.rs"));
    for page in docs() {
        let has_programs = page.text.lines().any(|line| line.starts_with("```rust"));
        let file = page.path.file_name().expect("a name").to_string_lossy();
        let is_listed = list.contains(&format!(": \"{file}\","));
        assert!(is_listed || !has_programs, "{file} is not in pages.rs");
    }
}
