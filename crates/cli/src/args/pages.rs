//! Every `streamlease …` line that a page shows is one that this command takes.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};

use super::Cli;

/// Not a dependency in a manifest.
fn is_command(line: &str) -> bool {
    line.starts_with("streamlease ") && !line.starts_with("streamlease = ")
}

/// Arguments as a shell splits them; variables and files are not needed here.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_of_the_pages_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let pages = ["README.md", "CONTRIBUTING.md", "benches/README.md"].map(|name| root.join(name));
    let mut subcommands = Vec::new();
    for page in docs.chain(pages).filter(|path| path.is_file()) {
        let text = fs::read_to_string(&page).unwrap();
        // Every other part is within a block.
        let blocks = text.split("```").skip(1).step_by(2);
        let lines = blocks.flat_map(str::lines);
        for line in lines.filter(|line| is_command(line)) {
            let words = words(line);
            // Asking for help is no error of the page.
            if let Err(err) = Cli::try_parse_from(&words)
                && err.use_stderr()
            {
                panic!("{}: {line}\n{err}", page.display());
            }
            subcommands.push(words[1].clone());
        }
    }
    for name in [
        "submit",
        "work",
        "inspect",
        "migrate",
        "quarantine",
        "revoke",
    ] {
        assert!(subcommands.iter().any(|shown| shown == name), "no {name}");
    }
}

#[test]
fn words_are_split_as_a_shell_does() {
    assert_eq!(words(r#"a  'b "c"' d"e f" # g"#), ["a", "b \"c\"", "de f"]);
}

/// A comment is no string: a backslash in it reaches the reader.
#[test]
fn no_help_text_has_a_backslash_before_a_quote() {
    let mut command = Cli::command();
    command.build();
    let mut open = vec![command];
    let mut seen = 0;
    while let Some(mut command) = open.pop() {
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .render(&mut page)
            .unwrap();
        let page = String::from_utf8(page).unwrap();
        for text in [command.render_long_help().to_string(), page] {
            assert!(!text.contains("\\\""), "{}: {text}", command.get_name());
        }
        open.extend(command.get_subcommands().cloned());
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}
