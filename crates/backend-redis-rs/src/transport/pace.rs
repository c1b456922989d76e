//! [`Pace`]: how many bytes make a piece of what is large.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// As many bytes as come, or go, in about a tenth of a second: a piece must be
/// through well before its caller loses patience, and on a slow link the heartbeats
/// come between two of them.
#[derive(Debug)]
pub(super) struct Pace(AtomicUsize);

const FIRST: usize = 128 << 10;
const LEAST: usize = 16 << 10;
const MOST: usize = 1 << 20;
/// From how long a piece takes pieces are halved.
const SLOW: Duration = Duration::from_millis(200);
/// Up to how long a piece takes they are doubled.
const FAST: Duration = Duration::from_millis(50);

impl Pace {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(FIRST))
    }

    /// How long a piece may be, beyond its last item.
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A piece is asked for, or sent.
    pub(super) fn begin(&self) -> Piece<'_> {
        Piece {
            pace: self,
            began: Instant::now(),
            answered: false,
        }
    }

    /// So many bytes took so long.
    fn took(&self, bytes: usize, time: Duration) {
        let now = self.bytes();
        // What is small says nothing about long ones.
        let next = if time >= SLOW && bytes >= LEAST / 2 {
            now / 2
        } else if time <= FAST && bytes >= now / 2 {
            now * 2
        } else {
            now
        };
        self.0.store(next.clamp(LEAST, MOST), Ordering::Relaxed);
    }
}

/// A piece under way. One that is given up was too long for the link, too.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pace: &'a Pace,
    began: Instant,
    answered: bool,
}

impl Piece<'_> {
    /// It was answered, with so many bytes in one of the two directions.
    pub(super) fn answered(mut self, bytes: usize) {
        self.answered = true;
        self.pace.took(bytes, self.began.elapsed());
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        let time = self.began.elapsed();
        if !self.answered && time >= SLOW {
            self.pace.took(self.pace.bytes(), time);
        }
    }
}

/// How much one call reads before it returns what it has: as much as a consumer
/// wants to wait for, or to hold, at once.
#[derive(Debug)]
pub(super) struct Allowance {
    began: Instant,
    bytes: usize,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Counts a piece; whether it was the last for now.
    pub(super) fn is_used_up(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.bytes >= MOST || self.began.elapsed() >= SLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_on_a_fast_link_and_shrink_on_a_slow_one_within_bounds() {
        let pace = Pace::new();
        pace.took(100, Duration::from_millis(1));
        assert_eq!(pace.bytes(), FIRST, "a small piece says nothing");
        for _ in 0..20 {
            pace.took(pace.bytes(), Duration::from_millis(10));
        }
        assert_eq!(pace.bytes(), MOST);
        pace.took(MOST, Duration::from_millis(100));
        assert_eq!(pace.bytes(), MOST, "neither slow nor fast");
        for _ in 0..20 {
            pace.took(pace.bytes(), Duration::from_secs(1));
        }
        assert_eq!(pace.bytes(), LEAST);
    }

    #[test]
    fn pieces_that_are_given_up_shrink_too() {
        let pace = Pace::new();
        let mut piece = pace.begin();
        piece.began -= Duration::from_secs(5);
        drop(piece);
        assert_eq!(pace.bytes(), FIRST / 2);
        // A refused connection says nothing about the link.
        drop(pace.begin());
        assert_eq!(pace.bytes(), FIRST / 2);
    }
}
