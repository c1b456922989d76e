//! [`readable`] and [`counted`]: times and counts as people read them.

use std::fmt;
use std::time::Duration;

/// How a time is written in logs, errors and other texts for people: `350ms`, `1.2s`,
/// `3m05s`, `2h10m`, `3d04h`. Cut off, not rounded: 59.99 seconds are no minute.
pub fn readable(time: Duration) -> impl fmt::Display {
    Readable(time)
}

/// A count with its noun: `1 entry`, `2 entries`.
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

struct Readable(Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.as_secs(), self.0.subsec_micros());
        match (seconds, micros) {
            (0, 0) => f.pad("0s"),
            (0, 1..1_000) => f.pad(&format!("{micros}µs")),
            (0, 1_000..10_000) => f.pad(&tenths(micros / 1_000, micros / 100 % 10, "ms")),
            (0, _) => f.pad(&format!("{}ms", micros / 1_000)),
            (1..60, _) => f.pad(&tenths(seconds, micros / 100_000, "s")),
            (60..3_600, _) => f.pad(&two(seconds / 60, "m", seconds % 60, "s")),
            (3_600..86_400, _) => f.pad(&two(seconds / 3_600, "h", seconds / 60 % 60, "m")),
            _ => f.pad(&two(seconds / 86_400, "d", seconds / 3_600 % 24, "h")),
        }
    }
}

fn tenths(whole: impl fmt::Display, tenths: u32, unit: &str) -> String {
    match tenths {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}.{tenths}{unit}"),
    }
}

/// The two greatest units, or one where that is exact enough.
fn two(great: u64, unit: &str, small: u64, smaller: &str) -> String {
    match small {
        0 => format!("{great}{unit}"),
        _ => format!("{great}{unit}{small:02}{smaller}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(0_usize, "entry", "entries"), "0 entries");
        assert_eq!(counted(1_u32, "entry", "entries"), "1 entry");
        assert_eq!(counted(2_u64, "entry", "entries"), "2 entries");
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        for (ns, text) in [
            (0, "0s"),
            (999, "0s"),
            (30_500, "30µs"),
            (450_000, "450µs"),
            (1_000_000, "1ms"),
            (3_250_000, "3.2ms"),
            (99_999_999, "99ms"),
            (833_333_333, "833ms"),
            (1_000_000_000, "1s"),
            (1_234_567_891, "1.2s"),
            (5_000_000_000, "5s"),
            (59_999_999_999, "59.9s"),
            (60_000_000_000, "1m"),
            (185_400_000_000, "3m05s"),
            (3_600_000_000_000, "1h"),
            (3_660_000_000_000, "1h01m"),
            (86_400_000_000_000, "1d"),
            (273_600_000_000_000, "3d04h"),
        ] {
            assert_eq!(readable(Duration::from_nanos(ns)).to_string(), text);
        }
        assert_eq!(readable(Duration::MAX).to_string(), "213503982334601d07h");
        assert_eq!(
            format!("[{:>6}]", readable(Duration::from_secs(5))),
            "[    5s]"
        );
    }
}
