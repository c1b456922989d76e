//! What users see of streamlease is listed in `public-items.txt`, so that a new name is a
//! decision. Read from the sources: every name is re-exported one by one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LIST: &str = "tests/public-items.txt";

#[test]
fn the_facade_shows_what_the_list_says_and_nothing_else() {
    let mut found = BTreeSet::new();
    for (file, path) in [
        ("src/lib.rs", "streamlease"),
        ("src/spi.rs", "streamlease::spi"),
    ] {
        found.extend(public_items(&read(file)).map(|name| format!("{path}::{name}")));
    }
    let list = read(LIST);
    let listed: BTreeSet<String> = list.lines().map(str::to_owned).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "not in {LIST}: {new:?}; only in {LIST}: {gone:?}. Does a user need the new one, or \
         an implementor (then it belongs to spi)? Change the list with it"
    );
}

#[test]
fn no_name_is_both_for_users_and_for_implementors() {
    let for_users: BTreeSet<_> = public_items(&read("src/lib.rs")).collect();
    for name in public_items(&read("src/spi.rs")) {
        assert!(!for_users.contains(&name), "{name} is shown twice");
    }
}

/// The machine is core's own business: nothing of it is shown under its module's name.
#[test]
fn the_machine_is_not_shown() {
    let core = read("../core/src/lib.rs");
    assert!(core.contains("#[doc(hidden)]\npub mod machine;"), "{core}");
    assert!(!read("src/lib.rs").contains("machine") && !read("src/spi.rs").contains("machine"));
}

#[test]
fn items_are_found_in_every_form_that_they_are_shown_in() {
    let source = "
        // pub use a::Commented;
        pub use a::{B, c::{D, E as F}, // why
            g::H,
        };
        #[cfg(x)]
        pub use i::J;
        pub mod k;
        pub(crate) use l::M;
        pub fn n() {}
        use o::P;
        pub struct Q;
    ";
    let found: Vec<_> = public_items(source).collect();
    assert_eq!(found, ["B", "D", "F", "H", "J", "k", "n", "Q"]);
}

#[test]
#[should_panic(expected = "one by one")]
fn a_glob_is_refused() {
    public_items("pub use a::*;").for_each(drop);
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The names of what a module of re-exports shows, in the order of the source.
fn public_items(source: &str) -> impl Iterator<Item = String> {
    let lines = source.lines();
    let code: String = lines
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let mut names = Vec::new();
    for (at, _) in code.match_indices("pub ") {
        let item = &code[at + "pub ".len()..];
        let (kind, rest) = item
            .split_once(char::is_whitespace)
            .expect("a kind and a name");
        if kind == "use" {
            let (tree, _) = rest.split_once(';').expect("an end of the re-export");
            names.extend(leaves(tree));
        } else {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            names.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    names.into_iter()
}

/// The last name of each path in a `use` tree: what ends before `,`, `}` or the end.
fn leaves(tree: &str) -> Vec<String> {
    assert!(!tree.contains('*'), "{tree:?}: re-export names one by one");
    let paths = tree.split([',', '{', '}']);
    let names = paths
        .map(str::trim)
        .filter(|path| !path.is_empty() && !path.ends_with("::"));
    names
        .map(|path| {
            let shown = path.rsplit(" as ").next().unwrap_or(path);
            shown.rsplit("::").next().unwrap_or(shown).to_owned()
        })
        .collect()
}
