//! Each link of a page leads somewhere, wherever the page is shown.

use std::path::Path;

use crate::files::{files, read, root};
use crate::pages::{Page, docs, page, pages, repository};

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
