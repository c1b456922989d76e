//! GUARANTEES.md names tests and checks. Each of them must be there, where its mark
//! says, and be run; and each check of the simulation must stand beside its rule.

use std::collections::BTreeSet;

use crate::files::{read, root, sources};

/// Where each mark of the page points to, and how what is there is run.
const MARKS: [(&str, &str, Run); 11] = [
    ("M", "crates/core/src/machine/tests", Run::Attribute),
    ("F", "crates/core/tests", Run::Attribute),
    ("B", "crates/backend-redis-rs/tests", Run::Attribute),
    ("C", "crates/testkit/src/conformance", Run::List),
    ("O", "crates/testkit/tests", Run::Attribute),
    ("S", "tests/tests/scenarios", Run::List),
    ("D", "tests/tests/failovers", Run::Attribute),
    ("P", "crates/cli/tests/chaos", Run::Words),
    ("E", "crates/cli", Run::Attribute),
    ("X", "examples", Run::Attribute),
    ("I", SIMULATION, Run::Words),
];

const SIMULATION: &str = "crates/testkit/src/simulation";

/// What `docs/protocol.md` requires by name.
const DIRECT: [&str; 8] = [
    "mark_overtakes_acquire",
    "late_release",
    "late_fetch",
    "late_acquire_believed_too_long",
    "full_waiter",
    "late_claim_after_hand_back",
    "a_late_renewal_revives_nothing",
    "an_acquire_can_be_repeated",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// `#[test]`, or that of tokio, stands above it.
    Attribute,
    /// A macro is given its name, in a list with a line for each.
    List,
    /// Not a test by itself, but the words with which a check fails.
    Words,
}

/// Something that the page names: in the row of which rule, after which mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    rule: String,
    mark: String,
    name: String,
}

#[test]
fn every_test_and_check_that_the_page_names_is_there_and_is_run() {
    let page = read(&root().join("GUARANTEES.md"));
    let named = named(&page);
    for (mark, _, _) in MARKS {
        assert!(
            named.iter().any(|named| named.mark == mark),
            "nothing is marked {mark}: is the page read right?"
        );
    }
    let wrong: Vec<_> = named
        .iter()
        .filter_map(|named| Some(format!("{named:?} {}", what_is_wrong(named)?)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_six_traces_and_two_direct_tests_of_the_design_are_listed() {
    let page = read(&root().join("GUARANTEES.md"));
    let listed: BTreeSet<_> = named(&page)
        .into_iter()
        .filter(|named| named.rule.is_empty())
        .map(|named| named.name)
        .collect();
    assert_eq!(listed, DIRECT.map(str::to_owned).into());
}

#[test]
fn the_page_and_the_simulation_have_the_same_checks_for_each_rule() {
    let page = read(&root().join("GUARANTEES.md"));
    let listed: BTreeSet<_> = named(&page)
        .into_iter()
        .filter(|named| named.mark == "I")
        .map(|named| (named.rule, named.name))
        .collect();
    let checks: BTreeSet<_> = sources(SIMULATION)
        .iter()
        .flat_map(|source| checks(source))
        .collect();
    assert!(checks.len() > 20, "only {checks:?}: are they read right?");
    let is_of = |check: &(String, String), listed: &(String, String)| {
        // Which rule it is can depend on what is found.
        check.1 == listed.1 && (check.0 == listed.0 || check.0 == "rule")
    };
    let unlisted: Vec<_> = checks
        .iter()
        .filter(|check| !listed.iter().any(|listed| is_of(check, listed)))
        .collect();
    let unchecked: Vec<_> = listed
        .iter()
        .filter(|listed| !checks.iter().any(|check| is_of(check, listed)))
        .collect();
    assert!(
        unlisted.is_empty() && unchecked.is_empty(),
        "not in GUARANTEES.md: {unlisted:#?}, not in the simulation: {unchecked:#?}"
    );
}

/// `None` if it is there and is run.
fn what_is_wrong(named: &Named) -> Option<String> {
    let Some((_, folder, run)) = MARKS.iter().find(|(mark, _, _)| *mark == named.mark) else {
        return Some("has no mark".to_owned());
    };
    let sources = sources(folder);
    // A test may stand in a module beside what it tests.
    let lines = sources.iter().flat_map(|text| text.lines());
    let lines: Vec<&str> = lines.map(str::trim_start).collect();
    let (name, head) = (&*named.name, format!("fn {}(", named.name));
    let is_right = match run {
        Run::Attribute => lines
            .iter()
            .position(|line| line.trim_start_matches("async ").starts_with(&head))
            .is_some_and(|at| {
                let above = lines[..at].iter().rev();
                above
                    .take_while(|line| line.starts_with("#["))
                    .any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
            }),
        Run::List => {
            // In a list of behaviours, and not only as a function.
            let is_defined = lines.iter().any(|line| line.contains(&head));
            is_defined && lines.iter().any(|line| is_item_of_a_list(line, name))
        }
        // As the beginning of a text in the source.
        Run::Words => sources
            .iter()
            .any(|text| text.contains(&format!("\"{name}"))),
    };
    (!is_right).then(|| format!("is not in {folder}, or not run"))
}

/// `name,` or `name if condition,`, behind nothing but a macro's name.
fn is_item_of_a_list(line: &str, name: &str) -> bool {
    let item = line.split_once("!(").map_or(line, |(_, item)| item);
    let rest = item.trim().strip_prefix(name);
    rest.is_some_and(|rest| rest.starts_with(',') || rest.starts_with(" if "))
}

/// What stands between backquotes in the rows of the table and in the list after
/// it, with the mark that comes before it.
fn named(page: &str) -> Vec<Named> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        // Rule, promise, conditions, what holds it, and nothing.
        match cells[..] {
            [rule, _, _, held_by, ""] => Some((rule.to_owned(), held_by.to_owned())),
            // What the checks allow.
            [_, _, ""] => None,
            _ => panic!("a row with other columns: {line}"),
        }
    });
    let after = page
        .split_once("The six traces")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .map(|(list, _)| (String::new(), list.replace('\n', " ")));
    let mut all = Vec::new();
    for (rule, text) in rows.chain(after) {
        let mut mark = String::new();
        for (nth, piece) in text.split('`').enumerate() {
            if nth % 2 == 1 {
                all.push(Named {
                    rule: rule.clone(),
                    mark: mark.clone(),
                    name: piece.to_owned(),
                });
            } else if let Some(found) = piece.split_whitespace().last()
                && MARKS.iter().any(|(known, _, _)| *known == found)
            {
                mark = found.to_owned();
            }
        }
    }
    all
}

/// The checks in a source, each as its rule and its name: `("R1", "not told at once", …`.
fn checks(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices('(') {
        let arguments = source[at + 1..].trim_start();
        let Some((rule, rest)) = arguments.split_once(',') else {
            continue;
        };
        let is_rule = |text: &str| {
            let number = text.strip_prefix('R').and_then(|n| n.parse::<u8>().ok());
            number.is_some() || matches!(text, "progress" | "pause")
        };
        let rule = rule.trim();
        let quoted = rule.strip_prefix('"').and_then(|r| r.strip_suffix('"'));
        if !quoted.is_some_and(is_rule) && rule != "rule" {
            continue;
        }
        if let Some((name, _)) = rest
            .trim_start()
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'))
        {
            found.push((quoted.unwrap_or(rule).to_owned(), name.to_owned()));
        }
    }
    found
}
