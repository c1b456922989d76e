//! README and the pages name files, headings, settings, keys, rules and commands. Each
//! of them must be there, and what has to be described must be described. (That programs
//! compile, doctests check; that `streamlease` takes the commands shown, its own tests.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// README is the first page of the crate: what does not fit has a page of its own.
const README_LINES: usize = 200;

#[test]
fn every_link_leads_to_a_file_and_to_a_heading() {
    let mut wrong = Vec::new();
    for page in pages() {
        for link in links(&page.text) {
            if let Some(why) = what_is_wrong(&page.path, &link) {
                wrong.push(format!("{}: {link} {why}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_readme_is_short_and_its_links_work_outside_of_the_repository() {
    let readme = page("README.md");
    let lines = readme.text.lines().count();
    assert!(lines <= README_LINES, "README has {lines} lines");
    for link in links(&readme.text) {
        assert!(
            link.starts_with("https://") || link.starts_with('#'),
            "docs.rs and the packed crate do not have {link}"
        );
    }
    let named = links(&readme.text);
    for page in docs() {
        let link = format!("{}/blob/main/{}", repository(), page.name());
        assert!(
            named.contains(&link),
            "README does not name {}",
            page.name()
        );
    }
}

/// crates.io and docs.rs show a crate's README without the repository around it.
#[test]
fn links_of_the_crates_readmes_work_outside_of_the_repository() {
    let mut wrong = Vec::new();
    let readmes: Vec<_> = files(&root().join("crates"), &["md"])
        .into_iter()
        .filter(|path| path.ends_with("README.md"))
        .map(Page::open)
        .collect();
    assert!(readmes.len() > 9, "only {} READMEs", readmes.len());
    for page in readmes {
        for link in links(&page.text) {
            let works = link.starts_with("https://") || link.starts_with('#');
            let why = match works {
                true => what_is_wrong(&page.path, &link),
                false => Some("is not in the package"),
            };
            if let Some(why) = why {
                wrong.push(format!("{}: {link} {why}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Its one place is `Cargo.toml`; whoever moves the repository is told of every other.
#[test]
fn every_page_has_the_repositorys_address_as_cargo_toml_has_it() {
    let repository = repository();
    let name = repository.rsplit('/').next().expect("a name").to_owned();
    let mut pages = pages();
    pages.push(page("SECURITY.md"));
    pages.extend(
        files(&root().join("crates"), &["md"])
            .into_iter()
            .map(Page::open),
    );
    let mut named = 0;
    let mut wrong = Vec::new();
    for page in pages {
        for rest in page.text.split("https://github.com/").skip(1) {
            let end = rest.find([')', ' ', '>', '\n', '"']).unwrap_or(rest.len());
            let mut parts = rest[..end].split(['/', '#']).skip(1);
            if parts.next() != Some(&*name) {
                continue;
            }
            named += 1;
            let link = format!("https://github.com/{}", &rest[..end]);
            if !link.starts_with(&repository) {
                wrong.push(format!("{}: {link}", page.name()));
            }
        }
    }
    assert!(named > 10, "only {named} links: are they found?");
    assert!(wrong.is_empty(), "not {repository}: {wrong:#?}");
}

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
    let sources = sources();
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
    let sources = sources();
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

struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn open(path: PathBuf) -> Self {
        let text = read(&path);
        Self { path, text }
    }

    fn name(&self) -> String {
        let name = self.path.strip_prefix(root()).expect("below the root");
        name.display().to_string()
    }
}

/// What users and contributors read.
fn pages() -> Vec<Page> {
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

/// Where the repository is: links to its files there also work on docs.rs.
fn repository() -> String {
    let manifest = read(&root().join("Cargo.toml"));
    let address = manifest
        .lines()
        .find_map(|line| line.strip_prefix("repository = \""))
        .and_then(|rest| rest.strip_suffix('"'));
    address.expect("the workspace's repository").to_owned()
}

fn docs() -> Vec<Page> {
    in_folder(&root().join("docs"))
}

fn in_folder(folder: &Path) -> Vec<Page> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(Page::open).collect()
}

fn page(name: &str) -> Page {
    Page::open(root().join(name))
}

/// The targets of `[text](target)` and of `[name]: target`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        if let Some((name, target)) = line.split_once("]: ")
            && name.starts_with('[')
        {
            links.push(target.trim().to_owned());
        }
        // Inline code may have brackets.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for rest in prose.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                links.push(target.to_owned());
            }
        }
    }
    links
}

fn what_is_wrong(from: &Path, link: &str) -> Option<&'static str> {
    let here = link.strip_prefix(&repository()).and_then(|path| {
        path.strip_prefix("/blob/main/")
            .or(path.strip_prefix("/tree/main/"))
    });
    let link = match here {
        Some(path) => format!("{}/{path}", root().display()),
        None if link.contains("://") => return None,
        None => link.to_owned(),
    };
    let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
    let target = match path {
        "" => from.to_owned(),
        _ => from.parent().expect("a folder").join(path),
    };
    if !target.exists() {
        return Some("leads nowhere");
    }
    if heading.is_empty() {
        return None;
    }
    let text = read(&target);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let has = headings.map(anchor).any(|anchor| anchor == heading);
    (!has).then_some("names no heading of that page")
}

/// As GitHub makes it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
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

/// The code of the published crates.
fn sources() -> Vec<String> {
    let files = files(&root().join("crates"), &["rs"]);
    files.iter().map(|path| read(path)).collect()
}

/// All files with these endings in a folder, and in those within.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if ending.is_some_and(|ending| endings.contains(&ending)) {
                files.push(path);
            }
        }
    }
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the repository").to_owned()
}
