//! Trials: finding the entry that kills its owners.
//!
//! When a process dies, the death counts against every entry that it held. One of them may
//! be the cause, or none. An entry after whose start owners died twice is a suspect, and is
//! tried with few others at a time, and after the third death alone. Each trial lasts for the
//! crash window: an entry whose owner is alive by then is no suspect any more (see
//! `failure_reset`). So the one that kills is soon alone in what it does, while the others go
//! on as soon as their trial has shown that they do no harm.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{EntryId, Timestamp};

/// From so many failures on, the last of which was a death, an entry is a suspect.
const SUSPECT: u32 = 2;

/// So many suspects are tried at once, before the third death.
const AT_ONCE: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Trials {
    running: BTreeMap<EntryId, Trial>,
}

#[derive(Debug)]
struct Trial {
    alone: bool,
    until: Timestamp,
}

impl Trials {
    /// Begins the trial of `entry`, if it needs one, or says when to ask again.
    pub(super) fn begin(
        &mut self,
        entry: EntryId,
        failures: u32,
        now: Timestamp,
        window: Duration,
    ) -> Result<(), Timestamp> {
        if failures < SUSPECT {
            return Ok(());
        }
        self.running.retain(|_, trial| trial.until > now);
        let alone = failures > SUSPECT;
        let others = || self.running.iter().filter(|(of, _)| **of != entry);
        let is_full = match alone {
            true => others().next().is_some(),
            false => others().count() >= AT_ONCE || others().any(|(_, trial)| trial.alone),
        };
        if is_full {
            // Those that began together also end together.
            let last = others().map(|(_, trial)| trial.until).max();
            return Err(last.unwrap_or(now + window));
        }
        let until = now + window;
        self.running.insert(entry, Trial { alone, until });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_millis(60_000 + ms))
    }

    fn begin(trials: &mut Trials, n: u64, failures: u32, ms: u64) -> Result<(), Timestamp> {
        trials.begin(EntryId::new(n, 0), failures, at(ms), WINDOW)
    }

    #[test]
    fn after_one_death_all_go_on_at_once() {
        let mut trials = Trials::default();
        for n in 0..1_000 {
            assert_eq!(begin(&mut trials, n, 1, 0), Ok(()));
        }
    }

    #[test]
    fn after_two_deaths_eight_are_tried_at_once() {
        let mut trials = Trials::default();
        for n in 0..8 {
            assert_eq!(begin(&mut trials, n, 2, n), Ok(()));
        }
        let last = at(7) + WINDOW;
        assert_eq!(begin(&mut trials, 8, 2, 8), Err(last));
        // What is looked at again is not in its own way.
        assert_eq!(begin(&mut trials, 3, 2, 8), Ok(()));
        assert_eq!(begin(&mut trials, 8, 2, 3_000), Ok(()));
    }

    #[test]
    fn after_three_deaths_one_is_tried_alone() {
        let mut trials = Trials::default();
        assert_eq!(begin(&mut trials, 1, 2, 0), Ok(()));
        assert_eq!(begin(&mut trials, 2, 3, 0), Err(at(2_000)));
        assert_eq!(begin(&mut trials, 2, 3, 2_000), Ok(()));
        for (n, failures) in [(3, 2), (4, 3), (5, 9)] {
            assert_eq!(begin(&mut trials, n, failures, 2_500), Err(at(4_000)));
        }
        assert_eq!(begin(&mut trials, 6, 1, 2_500), Ok(()), "not a suspect");
        assert_eq!(begin(&mut trials, 3, 2, 4_000), Ok(()));
    }
}
