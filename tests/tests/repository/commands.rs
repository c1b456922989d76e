//! What the commands on the pages name is there. (That `streamlease` takes those that are shown,
//! its own tests check.)

use std::fs;

use crate::files::{read, root};
use crate::pages::pages;

#[test]
fn every_command_names_what_is_there() {
    let mut wrong = Vec::new();
    let mut commands = 0;
    for page in pages() {
        for line in fenced(&page.text) {
            commands += usize::from(is_command(line));
            for missing in missing_of(line) {
                wrong.push(format!("{}: {line}: there is no {missing}", page.name()));
            }
        }
    }
    assert!(commands > 10, "only {commands} commands: are they found?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The lines of blocks that are shell or plain text.
fn fenced(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut block: Option<&str> = None;
    for line in text.lines() {
        match (block, line.trim_start().strip_prefix("```")) {
            (None, Some(kind)) => block = Some(kind),
            (Some(_), Some(_)) => block = None,
            (Some("" | "text" | "sh" | "bash"), None) => lines.push(line.trim()),
            _ => {}
        }
    }
    lines
}

fn is_command(line: &str) -> bool {
    ["cargo ", "tests/", "benches/", "streamlease "]
        .iter()
        .any(|start| line.starts_with(start) && !line.starts_with("streamlease = "))
}

/// What a command names of this repository and is not there.
fn missing_of(line: &str) -> Vec<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut missing = Vec::new();
    let mut need = |what: String, is_there: bool| {
        if !is_there {
            missing.push(what);
        }
    };
    for pair in words.windows(2) {
        let (option, name) = (pair[0], pair[1]);
        match option {
            "--example" => need(
                format!("example {name}"),
                exists(&format!("examples/{name}.rs"))
                    || exists(&format!("examples/{name}/main.rs")),
            ),
            "--bench" => need(
                format!("bench {name}"),
                exists(&format!("benches/benches/{name}.rs")),
            ),
            "--test" => need(format!("test {name}"), is_test(name)),
            "--bin" => need(
                format!("binary {name}"),
                exists(&format!("crates/testkit/src/bin/{name}.rs")),
            ),
            "-p" => need(format!("package {name}"), is_package(name)),
            _ => {}
        }
    }
    let first = words.first().copied().unwrap_or_default();
    if first.starts_with("tests/") || first.starts_with("benches/") {
        need(format!("script {first}"), exists(first));
    }
    if first == "tests/run.sh" {
        let script = read(&root().join(first));
        let steps = words[1..].iter().take_while(|word| !word.starts_with('#'));
        for step in steps.filter(|step| !step.starts_with('-')) {
            need(
                format!("step {step}"),
                script.contains(&format!("step_{step}()")),
            );
        }
    }
    missing
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

fn is_test(name: &str) -> bool {
    let folders = fs::read_dir(root().join("crates")).expect("crates");
    let folders = folders.map(|entry| entry.expect("an entry").path());
    folders.chain([root().join("tests")]).any(|folder| {
        let tests = folder.join("tests");
        tests.join(format!("{name}.rs")).exists() || tests.join(name).join("main.rs").exists()
    })
}

fn is_package(name: &str) -> bool {
    let root = root();
    let folders = fs::read_dir(root.join("crates")).expect("crates");
    let folders = folders.map(|entry| entry.expect("an entry").path());
    let others = ["tests", "benches", "examples"].map(|name| root.join(name));
    let line = format!("name = \"{name}\"");
    folders.chain(others).any(|folder| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"));
        manifest.is_ok_and(|text| text.lines().any(|found| found == line))
    })
}
