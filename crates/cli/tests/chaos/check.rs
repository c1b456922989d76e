//! What must hold, as code. Names of rules are those of `docs/protocol.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::{Fleet, Gone};
use crate::plan::Class;
use crate::program::COMPLAINT;
use crate::round::{Evidence, Outcome};

/// So many owners have to fail on an entry before it is quarantined, by default.
const QUARANTINED_AFTER: usize = 5;

/// A lease as the workers report it.
type LeaseOf<'a> = (&'a str, &'a str, u64);

pub(crate) fn check(evidence: &Evidence<'_>) -> Outcome {
    let books = evidence.ledger.books();
    let mut violations = books.violations.clone();
    violations.extend(evidence.fleet.violations.iter().cloned());
    drop(books);
    check_workers(evidence, &mut violations);
    if evidence.leases_were_safe {
        check_leases(evidence, &mut violations);
    }
    let overlap = check_overlaps(evidence, &mut violations);
    let lost = check_entries(evidence, &mut violations);
    check_lbs(evidence, &mut violations);

    let books = evidence.ledger.books();
    let events = || evidence.fleet.gone.iter().flat_map(|gone| &gone.events);
    Outcome {
        announced: evidence.announced.len(),
        completed: events().filter(|event| is_completed(event)).count(),
        quarantined: evidence.lbs.quarantined.len(),
        takeovers: events()
            .filter(|event| event["event"] == "stream_added" && !event["claimed_from"].is_null())
            .count(),
        accepted: books.accepted,
        refused: books.refused.len(),
        looks: books.looks,
        overlap,
        lost,
        violations,
        ..Outcome::default()
    }
}

/// R5 and R12, by what the workers said: one `stream_added` per token, one end at
/// most, nothing after the end of all.
fn check_workers(evidence: &Evidence<'_>, violations: &mut Vec<String>) {
    let known: BTreeSet<&str> = evidence
        .announced
        .iter()
        .map(|a| a.entry.as_str())
        .collect();
    let mut owners: BTreeMap<(&str, u64), String> = BTreeMap::new();
    for gone in &evidence.fleet.gone {
        let who = format!("consumer={} pid={}", gone.name, gone.pid);
        let mut wrong = |what: &str, event: &Value| {
            violations.push(format!("{what}: {who} {event}"));
        };
        let mut held: BTreeSet<LeaseOf<'_>> = BTreeSet::new();
        let mut over = false;
        for event in &gone.events {
            if over {
                wrong("an event after the last", event);
            }
            let kind = event["event"].as_str().unwrap_or_default();
            match kind {
                "stream_added" => {
                    let lease = lease(event);
                    let (stream, entry, token) = lease;
                    held.insert(lease);
                    if let Some(other) = owners.insert((stream, token), who.clone()) {
                        wrong(&format!("a token given twice, also to {other}"), event);
                    }
                    if !known.contains(entry) {
                        wrong("an entry that nobody announced", event);
                    }
                }
                "stream_done" | "stream_failed" | "stream_handed_back" | "stream_disowned"
                    if !held.remove(&lease(event)) =>
                {
                    wrong("the end of what was not held", event);
                }
                "terminated" => {
                    over = true;
                    if let Some(lease) = held.first() {
                        wrong(&format!("the last event while {lease:?} is held"), event);
                    }
                }
                _ => {}
            }
        }
        if let Some(line) = gone.stderr.lines().find(|line| line.contains(COMPLAINT)) {
            violations.push(format!("{line}: {who}"));
        }
        // The last line of one that was killed may be half a line.
        if over && !gone.not_json.is_empty() {
            violations.push(format!("not JSON: {who} {:?}", gone.not_json));
        }
    }
}

pub(crate) const LOST_FOR_NOTHING: &str = "a lease lost for nothing";

/// R2: a lease ends against its owner's will only if something has happened that ends
/// leases.
fn check_leases(evidence: &Evidence<'_>, violations: &mut Vec<String>) {
    for gone in &evidence.fleet.gone {
        let lost = |event: &&Value| event["event"] == "stream_disowned";
        for event in gone.events.iter().filter(lost) {
            violations.push(format!(
                "{LOST_FOR_NOTHING}: consumer={} {event}",
                gone.name
            ));
        }
    }
}

/// R1: whoever lost a stream has said so before the next owner had it. Where a
/// worker was stopped, only tokens help, and the other checks look at those. Returns
/// the longest overlap.
fn check_overlaps(evidence: &Evidence<'_>, violations: &mut Vec<String>) -> Duration {
    // What they say takes time on a busy machine, though they know it in time.
    let slow = evidence.ttl / 2 + Duration::from_millis(250);
    let allowed = match evidence.class {
        Class::Durable => slow,
        Class::Lossy => slow + evidence.ttl,
    };
    // By stream and token: when it began, and when it was lost if it was.
    let mut owned: BTreeMap<(&str, u64), (u64, Option<u64>)> = BTreeMap::new();
    for gone in &evidence.fleet.gone {
        for event in &gone.events {
            let (stream, _, token) = lease(event);
            let at = event["ts"].as_u64().unwrap_or_default();
            if event["event"] == "stream_added" {
                owned.insert((stream, token), (at, None));
            } else if event["event"] == "stream_disowned"
                && !gone.was_stopped
                && let Some((_, lost)) = owned.get_mut(&(stream, token))
            {
                *lost = Some(at);
            }
        }
    }
    let mut longest = Duration::ZERO;
    let later = owned.iter().skip(1);
    for (((stream, token), (_, lost)), ((next_stream, next), (began, _))) in owned.iter().zip(later)
    {
        let overlap = Duration::from_millis(lost.unwrap_or(0).saturating_sub(*began));
        if stream != next_stream {
            continue;
        }
        longest = longest.max(overlap);
        if overlap > allowed {
            violations.push(format!(
                "two owners for {overlap:?}: stream={stream} tokens {token} and {next}"
            ));
        }
    }
    longest
}

/// R4 and R7, by the ledger: every entry was worked on to its end by the last who
/// began on it, and completed by nobody else. Those that were not are returned.
fn check_entries(evidence: &Evidence<'_>, violations: &mut Vec<String>) -> Vec<String> {
    let books = evidence.ledger.books();
    let mut completed: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for event in evidence.fleet.gone.iter().flat_map(|gone| &gone.events) {
        let (_, entry, token) = lease(event);
        if is_completed(event) {
            completed.entry(entry).or_default().push(token);
        }
        *owners.entry(entry).or_default() += usize::from(event["event"] == "stream_added");
    }
    let failed = failed_owners(evidence);
    let mut lost = Vec::new();
    let mut unfinished_streams: BTreeSet<&str> = evidence
        .announced
        .iter()
        .map(|announced| announced.work.stream.as_str())
        .collect();
    for announced in evidence.announced {
        let (stream, entry) = (&announced.work.stream, &announced.entry);
        let label = format!("stream={stream} entry={entry}");
        let account = books.entries.get(entry);
        let finished_by = account.and_then(|account| account.finished_by);
        let last = account.and_then(|account| account.begun.last().copied());
        let is_there = evidence.lbs.entries.contains(entry);
        let is_quarantined = evidence.lbs.quarantined.contains(entry);
        if finished_by.is_some() || is_quarantined {
            unfinished_streams.remove(stream.as_str());
        } else if !is_there && !evidence.losses.iter().any(|loss| announced.since < *loss) {
            lost.push(format!("gone and not finished: {label}"));
        }
        let begun = account.map_or(0, |account| account.begun.len());
        // A completion or a hand back that is lost with a server leaves its owner for dead.
        let may_lose = evidence.class == Class::Lossy
            && evidence.losses.iter().any(|loss| announced.since < *loss);
        let failures = match may_lose {
            true => begun,
            false => {
                begun.min(announced.work.fails)
                    + failed.get(entry.as_str()).map_or(0, BTreeSet::len)
            }
        };
        // One of them may have died before it could tell that the entry was its.
        if is_quarantined && failures + 1 < QUARANTINED_AFTER {
            violations.push(format!(
                "quarantined, though hardly anybody failed on it ({failures}): {label}"
            ));
        }
        if evidence.class == Class::Lossy {
            continue;
        }
        let by = completed.get(entry.as_str()).map_or(&[][..], Vec::as_slice);
        if by.len() > 1 {
            violations.push(format!("completed more than once, by {by:?}: {label}"));
        }
        if by.iter().any(|token| finished_by != Some(*token)) {
            violations.push(format!(
                "completed by {by:?}, but finished by {finished_by:?}: {label}"
            ));
        }
        if !is_there && !is_quarantined && finished_by != last {
            violations.push(format!(
                "gone, though {last:?} began on it after {finished_by:?} had finished: {label}"
            ));
        }
    }
    // With losses an entry may be gone, but its stream was announced again.
    lost.extend(
        unfinished_streams
            .into_iter()
            .map(|stream| format!("no entry of it was ever finished: stream={stream}")),
    );
    lost
}

/// By entry: those who died with it or were stopped, by token. Nobody else fails by
/// being gone: not who cannot reach Redis, nor who was refused.
fn failed_owners<'a>(evidence: &'a Evidence<'_>) -> BTreeMap<&'a str, BTreeSet<u64>> {
    let mut failed: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for gone in &evidence.fleet.gone {
        if !gone.was_stopped && !gone.was_killed {
            continue;
        }
        for event in &gone.events {
            let (_, entry, token) = lease(event);
            let tokens = failed.entry(entry).or_default();
            match event["event"].as_str().unwrap_or_default() {
                "stream_added" => _ = tokens.insert(token),
                // Those that it lost it may have lost by being stopped.
                "stream_done" | "stream_failed" | "stream_handed_back" => _ = tokens.remove(&token),
                _ => {}
            }
        }
    }
    failed
}

/// Convergence: nothing is left when the bound has passed.
fn check_lbs(evidence: &Evidence<'_>, violations: &mut Vec<String>) {
    let lbs = evidence.lbs;
    if !lbs.entries.is_empty() || lbs.pending > 0 {
        violations.push(format!(
            "not completed within the bound: {} entries, {} of them pending: {:?}",
            lbs.entries.len(),
            lbs.pending,
            lbs.entries
        ));
    }
}

fn is_completed(event: &Value) -> bool {
    event["event"] == "stream_done" && event["outcome"] == "completed"
}

fn lease(event: &Value) -> LeaseOf<'_> {
    (
        event["stream"].as_str().unwrap_or_default(),
        event["entry"].as_str().unwrap_or_default(),
        event["token"].as_u64().unwrap_or_default(),
    )
}

/// Everything with its time, in order: faults, the ledger, and then the workers
/// with the system's time.
pub(crate) fn story(
    began: Instant,
    faults: &[(Instant, String)],
    ledger: &[(Instant, String)],
    fleet: &Fleet,
) -> String {
    let mut lines: Vec<_> = faults
        .iter()
        .map(|line| (line, "FAULT "))
        .chain(ledger.iter().map(|line| (line, "ledger")))
        .collect();
    lines.sort_by_key(|((at, _), _)| *at);
    let (now, unix) = (Instant::now(), std::time::SystemTime::now());
    let mut text = String::new();
    for ((at, line), source) in lines {
        let ts = (unix - (now - *at))
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let after = at.saturating_duration_since(began).as_secs_f64();
        let _ = writeln!(text, "{ts} {after:8.3} {source} {line}");
    }
    for Gone {
        name,
        pid,
        exit,
        events,
        stderr,
        ..
    } in &fleet.gone
    {
        let _ = writeln!(text, "\nconsumer={name} pid={pid} {exit}");
        for event in events {
            let _ = writeln!(text, "  {event}");
        }
        let _ = writeln!(text, "  and on standard error:\n{stderr}");
    }
    text
}
