//! The corpus as an ordinary test: each file as it is, then changed at random
//! from a fixed seed. Included by the tests beside the fuzzed functions.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Changed cases per target. They take a few seconds in a debug build.
const CASES: usize = 100_000;

/// Longest case made of others.
const MOST_BYTES: usize = 1_024;

/// Runs `target` on the files of `fuzz/corpus/<name>`, then on changed ones. A
/// panic is preceded by the case that caused it.
pub(crate) fn replay(name: &str, words: &[&[u8]], target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut files: Vec<_> = fs::read_dir(folder.join(name))
        .expect("the corpus is there")
        .map(|file| file.expect("the corpus can be listed").path())
        .collect();
    // Folders have no order of their own; the cases shall be the same everywhere.
    files.sort();
    let corpus: Vec<Vec<u8>> = files
        .iter()
        .map(|file| fs::read(file).expect("the corpus can be read"))
        .collect();
    assert!(corpus.len() >= 5, "the corpus of {name} is missing");
    let run = |case: &[u8], what: &str| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(case))) {
            eprintln!("{name}, {what}: {:?}", String::from_utf8_lossy(case));
            eprintln!("as bytes: {case:02x?}");
            resume_unwind(panic);
        }
    };
    for (file, case) in files.iter().zip(&corpus) {
        run(case, &file.display().to_string());
    }
    let mut random = Random(0x5eed);
    for n in 0..CASES {
        let mut case = random.pick(&corpus).clone();
        for _ in 0..=random.below(4) {
            change(&mut case, &mut random, &corpus, words);
        }
        case.truncate(MOST_BYTES);
        run(&case, &format!("case {n}"));
    }
}

fn change(case: &mut Vec<u8>, random: &mut Random, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.below(case.len() + 1);
    let end = (at + random.below(9)).min(case.len());
    match random.below(8) {
        0 if at < case.len() => case[at] ^= 1 << random.below(8),
        1 if at < case.len() => case[at] = random.below(256) as u8,
        2 => drop(case.drain(at..end)),
        3 => case.truncate(at),
        4 => case.insert(at, random.below(256) as u8),
        5 if !words.is_empty() => {
            let word = random.pick(words).to_vec();
            drop(case.splice(at..end, word));
        }
        6 => {
            // The rest of another.
            let other = random.pick(corpus);
            case.truncate(at);
            case.extend(&other[random.below(other.len() + 1)..]);
        }
        _ => {
            let copy = case[at..end].to_vec();
            drop(case.splice(at..at, copy));
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
