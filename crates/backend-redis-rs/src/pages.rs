//! How a batch is cut into script calls.

use std::collections::BTreeSet;

use streamlease_core::limits;

/// Items per script that looks at each of them: well under two milliseconds of
/// the server's time.
pub(crate) const PAGE: usize = 128;
const _: () = assert!(PAGE >= limits::PAGE);

/// Pages in which no key stands twice: the scripts that get them look up what is
/// on record for all at once, before they change it for the first.
pub(crate) fn pages_without_repeats<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> Vec<&[T]> {
    let mut pages = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let mut seen = BTreeSet::new();
        let fits = |item: &&T| seen.len() < PAGE && seen.insert(key(item));
        let length = rest.iter().take_while(fits).count();
        let (page, later) = rest.split_at(length);
        pages.push(page);
        rest = later;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::{PAGE, pages_without_repeats};

    #[test]
    fn a_page_ends_before_a_repeat_and_when_it_is_full() {
        let pages = pages_without_repeats(&[1, 2, 2, 3, 2, 2], |n| *n);
        assert_eq!(pages, [&[1, 2][..], &[2, 3], &[2], &[2]]);
        let many: Vec<usize> = (0..2 * PAGE + 1).collect();
        let lengths: Vec<usize> = pages_without_repeats(&many, |n| *n)
            .iter()
            .map(|page| page.len())
            .collect();
        assert_eq!(lengths, [PAGE, PAGE, 1]);
        assert!(pages_without_repeats(&[], |n: &u8| *n).is_empty());
    }
}
