//! The pages that users and contributors read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::{read, root};

pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn open(path: PathBuf) -> Self {
        let text = read(&path);
        Self { path, text }
    }

    pub(crate) fn name(&self) -> String {
        let name = self.path.strip_prefix(root()).expect("below the root");
        name.display().to_string()
    }
}

/// What users and contributors read.
pub(crate) fn pages() -> Vec<Page> {
    let named = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "GUARANTEES.md",
        "CHANGELOG.md",
        "benches/README.md",
    ];
    let mut pages: Vec<_> = named.map(page).into();
    pages.extend(docs());
    pages.extend(in_folder(&root().join("docs/notes")));
    pages
}

pub(crate) fn docs() -> Vec<Page> {
    in_folder(&root().join("docs"))
}

pub(crate) fn in_folder(folder: &Path) -> Vec<Page> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(Page::open).collect()
}

pub(crate) fn page(name: &str) -> Page {
    Page::open(root().join(name))
}

/// Where the repository is: links to its files there also work on docs.rs.
pub(crate) fn repository() -> String {
    let manifest = read(&root().join("Cargo.toml"));
    let address = manifest
        .lines()
        .find_map(|line| line.strip_prefix("repository = \""))
        .and_then(|rest| rest.strip_suffix('"'));
    address.expect("the workspace's repository").to_owned()
}
