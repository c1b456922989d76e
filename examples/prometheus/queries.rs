//! What the rules and the dashboard ask Prometheus, compared with what a scrape has.

use std::collections::{BTreeMap, BTreeSet};

/// Prometheus gives them to all series of a scrape, or they are of a recorded one.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

type Labels = BTreeMap<String, String>;

/// The series of a scrape, by name: each with its labels.
pub(crate) struct Scrape(BTreeMap<String, Vec<Labels>>);

/// `label op "value"` within the braces of a selector.
struct Matcher<'a> {
    label: &'a str,
    op: &'a str,
    value: &'a str,
}

impl Scrape {
    pub(crate) fn of(text: &str) -> Self {
        let mut series: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('{') else {
                continue;
            };
            let (labels, _) = rest.rsplit_once('}').unwrap_or((rest, ""));
            let labels = matchers(labels);
            let labels = labels.map(|of| (of.label.to_owned(), of.value.to_owned()));
            series
                .entry(name.to_owned())
                .or_default()
                .push(labels.collect());
        }
        Self(series)
    }

    /// What a query names and the scrape does not have.
    pub(crate) fn missing(&self, query: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut known: BTreeSet<&str> = OF_PROMETHEUS.into();
        for (name, selector) in selectors(query) {
            let Some(series) = self.0.get(name) else {
                missing.push(format!("the series {name}"));
                continue;
            };
            known.extend(
                series
                    .iter()
                    .flat_map(|labels| labels.keys().map(String::as_str)),
            );
            for matcher in matchers(selector) {
                missing
                    .extend(missing_of(series, &matcher).map(|what| format!("{what} of {name}")));
            }
        }
        let unknown = grouped(query)
            .into_iter()
            .filter(|label| !known.contains(label));
        missing.extend(unknown.map(|label| format!("the label {label}, to group by")));
        missing
    }
}

fn missing_of(series: &[Labels], matcher: &Matcher) -> Option<String> {
    let Matcher { label, op, value } = *matcher;
    let is_there = |value: &str| {
        let values = series.iter().filter_map(|labels| labels.get(label));
        values
            .into_iter()
            .any(|found| value == ".*" || found == value)
    };
    match op {
        _ if !is_there(".*") => Some(format!("the label {label}")),
        "=~" | "!~" => value
            .split('|')
            .find(|value| !is_there(value))
            .map(|value| format!("{label}={value}")),
        _ => (!is_there(value)).then(|| format!("{label}={value}")),
    }
}

/// Each metric of ours in a query, with what stands in its braces.
fn selectors(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.match_indices("streamlease_").map(|(at, _)| {
        let rest = &query[at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        (name, selector.map_or("", |(selector, _)| selector))
    })
}

fn matchers(labels: &str) -> impl Iterator<Item = Matcher<'_>> {
    let mut rest = labels;
    std::iter::from_fn(move || {
        let (matcher, after) = rest.split_once('"')?;
        let (value, after) = after.split_once('"')?;
        rest = after;
        let matcher = matcher.trim_matches([',', ' ']);
        let (label, op) = matcher.split_at(matcher.find(['=', '!'])?);
        Some(Matcher { label, op, value })
    })
}

/// The labels by which a query groups or joins.
fn grouped(query: &str) -> Vec<&str> {
    let lists = ["by (", "on (", "without (", "ignoring ("];
    let lists = lists.iter().flat_map(|list| query.split(list).skip(1));
    let lists = lists.filter_map(|rest| rest.split_once(')'));
    lists
        .flat_map(|(list, _)| list.split(',').map(str::trim))
        .collect()
}

#[test]
fn what_a_scrape_does_not_have_is_found() {
    let scrape = Scrape::of(
        "# HELP streamlease_a_total text\n\
         streamlease_a_total{service=\"s\",end=\"lost\"} 1\n\
         streamlease_b_seconds_bucket{service=\"s\",le=\"0.5\"} 1\n\
         streamlease_c_seconds{service=\"s\",quantile=\"0.5\"} 1\n",
    );
    for query in [
        "sum by (service, instance) (rate(streamlease_a_total{end=\"lost\",service=~\".*\"}[5m])) > 0",
        "histogram_quantile(0.5, sum by (le) (rate(streamlease_b_seconds_bucket[5m])))",
        "streamlease_a_total{end!=\"lost\"}",
    ] {
        assert!(
            scrape.missing(query).is_empty(),
            "{query}: {:?}",
            scrape.missing(query)
        );
    }
    for (query, missing) in [
        ("streamlease_b_seconds", "the series streamlease_b_seconds"),
        (
            "rate(streamlease_c_seconds_bucket[5m])",
            "the series streamlease_c_seconds_bucket",
        ),
        (
            "streamlease_a_total{ende=\"lost\"}",
            "the label ende of streamlease_a_total",
        ),
        (
            "streamlease_a_total{end=\"gone\"}",
            "end=gone of streamlease_a_total",
        ),
        (
            "streamlease_a_total{end=~\"lost|gone\"}",
            "end=gone of streamlease_a_total",
        ),
        (
            "streamlease_a_total{end!=\"gone\"}",
            "end=gone of streamlease_a_total",
        ),
        (
            "streamlease_b_seconds_bucket{le=\"0.3\"}",
            "le=0.3 of streamlease_b_seconds_bucket",
        ),
        (
            "sum by (ende) (streamlease_a_total)",
            "the label ende, to group by",
        ),
    ] {
        assert_eq!(scrape.missing(query), [missing], "{query}");
    }
}
