//! What each crate says of itself where it is published, and what is in its package.
//! `tests/run.sh package` builds the packages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::files::{read, root};

/// What a package consists of.
const PARTS: [&str; 9] = [
    ".cargo_vcs_info.json",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "src",
    "tests",
];

#[test]
fn crates_are_published_and_nothing_else_is() {
    for package in workspace() {
        let in_crates = package.dir.parent() == Some(&root().join("crates"));
        assert_eq!(in_crates, package.is_published(), "{}", package.name());
    }
}

#[test]
fn each_crate_says_what_it_is() {
    for package in published() {
        let name = package.name();
        for field in ["description", "license", "repository", "rust_version"] {
            assert!(package.manifest[field].is_string(), "{name} has no {field}");
        }
        let keywords = package.words("keywords");
        assert!((1..=5).contains(&keywords.len()), "{name}: {keywords:?}");
        assert!(
            keywords.iter().all(|word| word.len() <= 20),
            "{name}: {keywords:?}"
        );
        assert!(
            !package.words("categories").is_empty(),
            "{name} has no categories"
        );
    }
}

/// Without its features a page shows less than there is: a Redis backend that
/// cannot connect, a facade without runtimes.
#[test]
fn docs_rs_shows_each_crate_with_all_its_features() {
    for package in published() {
        let all = &package.manifest["metadata"]["docs"]["rs"]["all-features"];
        assert_eq!(&Value::Bool(true), all, "{}", package.name());
    }
}

#[test]
fn each_package_has_its_readme_its_license_and_no_stray_files() {
    let license = read(&root().join("LICENSE"));
    for package in published() {
        let name = package.name();
        assert_eq!("README.md", package.manifest["readme"], "{name}");
        let readme = read(&package.dir.join("README.md"));
        assert!(
            readme.starts_with(&format!("# {name}\n")),
            "{name}: {readme}"
        );
        assert_eq!(license, read(&package.dir.join("LICENSE")), "{name}");
        let args = ["--offline", "--allow-dirty", "--list", "--package", name];
        let list = cargo("package", &args);
        let parts: BTreeSet<_> = list
            .lines()
            .map(|file| file.split(['/', '\\']).next().unwrap_or(file))
            .collect();
        for part in ["LICENSE", "README.md", "src"] {
            assert!(parts.contains(part), "{name} is packed without {part}");
        }
        let strays: Vec<_> = parts.iter().filter(|part| !PARTS.contains(part)).collect();
        assert!(strays.is_empty(), "{name} is packed with {strays:?}");
    }
}

struct Package {
    manifest: Value,
    dir: PathBuf,
}

impl Package {
    fn name(&self) -> &str {
        self.manifest["name"]
            .as_str()
            .expect("a package has a name")
    }

    fn is_published(&self) -> bool {
        self.manifest["publish"].is_null()
    }

    fn words(&self, field: &str) -> Vec<&str> {
        let words = self.manifest[field].as_array().expect("a list");
        words.iter().filter_map(Value::as_str).collect()
    }
}

fn published() -> impl Iterator<Item = Package> {
    workspace().into_iter().filter(Package::is_published)
}

fn workspace() -> Vec<Package> {
    let json = cargo(
        "metadata",
        &["--offline", "--no-deps", "--format-version", "1"],
    );
    let json: Value = serde_json::from_str(&json).expect("cargo metadata prints JSON");
    let packages = json["packages"]
        .as_array()
        .expect("a workspace has packages");
    let packages = packages.iter().map(|manifest| {
        let path = manifest["manifest_path"].as_str().expect("a path");
        let dir = Path::new(path)
            .parent()
            .expect("a manifest is in a directory");
        Package {
            manifest: manifest.clone(),
            dir: dir.to_path_buf(),
        }
    });
    packages.collect()
}

fn cargo(command: &str, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .arg(command)
        .args(args)
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {command} {args:?}: {said}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
