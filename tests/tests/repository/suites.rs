//! A test that no binary has is not run, and nothing else says so.

use std::path::{Path, PathBuf};

use crate::files::{files, read, root};

/// Cargo makes binaries of the files of a folder `tests`, and of each `main.rs` one folder deeper.
/// Whatever else lies there must be a module of one of them.
#[test]
fn every_file_of_tests_is_compiled() {
    let all: Vec<_> = ["crates", "tests/tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), &["rs"]))
        .filter(|path| folder_of_tests(path).is_some())
        .collect();
    assert!(all.len() > 100, "only {all:?}");
    let left: Vec<_> = all
        .iter()
        .filter(|path| !is_binary(path) && !is_module(path))
        .collect();
    assert!(left.is_empty(), "of no binary: {left:#?}");
}

/// The folder `tests` of a package, if the file is in it.
fn folder_of_tests(path: &Path) -> Option<&Path> {
    path.ancestors()
        .find(|folder| folder.ends_with("tests") && folder.with_file_name("Cargo.toml").exists())
}

fn is_binary(path: &Path) -> bool {
    let folder = path.parent();
    let top = folder_of_tests(path);
    folder == top || path.ends_with("main.rs") && folder.and_then(Path::parent) == top
}

fn is_module(path: &Path) -> bool {
    let folder = path.parent().expect("a folder");
    let (module, around) = match path.file_stem().expect("a name") {
        name if name == "mod" => (folder.file_name().expect("a name"), folder.parent()),
        name => (name, Some(folder)),
    };
    let around = around.expect("a folder");
    let declared = format!("mod {};", module.to_string_lossy());
    parents(around).iter().any(|parent| {
        read(parent)
            .lines()
            .any(|line| line.trim_start_matches("pub(crate) ") == declared)
    })
}

/// The files whose modules lie in this folder.
fn parents(folder: &Path) -> Vec<PathBuf> {
    let is_parent = |path: &PathBuf| {
        path.parent() == Some(folder)
            && (is_binary(path) || path.ends_with("main.rs") || path.ends_with("mod.rs"))
    };
    let mut parents: Vec<_> = files(folder, &["rs"])
        .into_iter()
        .filter(is_parent)
        .collect();
    parents.extend(
        [folder.with_extension("rs")]
            .into_iter()
            .filter(|path| path.exists()),
    );
    parents
}
