//! Trials: finding the entry that kills its owners.
//!
//! When a process dies, the death counts against every entry that it held. One of them may
//! be the cause, or none. An entry is suspicious after two of its owners have died. Such entries
//! are tried in groups. A trial lasts for the crash window and a little longer: an entry
//! whose owner is alive by then is suspicious no more (see `failure_reset`).
//!
//! After two deaths a group has eight entries, after three it has one, and after each group
//! that did no harm the next one may be twice as large. A process that dies begins small
//! again. So thousands that were held by processes which died for another reason are back
//! after a few windows. And the one that kills is tried with ever fewer others: at last, when
//! one more death would put it into quarantine, alone.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{EntryId, Timestamp};

/// Most entries of a group after three deaths: each of them may have to be tried alone.
const MOST_SUSPICIOUS: usize = 64;

/// How suspicious an entry is that owners died of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Its owner died once, which happens to everything.
    None,
    /// Two deaths in a row.
    Some,
    /// Three and more.
    Strong,
    /// One more, and it is quarantined.
    Last,
}

#[derive(Debug)]
pub(crate) struct Trials {
    group: Option<Group>,
    /// Most entries of the next groups.
    some: usize,
    strong: usize,
}

#[derive(Debug)]
struct Group {
    suspicion: Suspicion,
    entries: BTreeSet<EntryId>,
    /// Until when others may join.
    open_until: Timestamp,
    until: Timestamp,
}

impl Suspicion {
    /// Of an entry with so many failures, the last of which was a death.
    pub(super) fn of(failures: u32, limit: Option<u32>) -> Self {
        match failures {
            0 | 1 => Self::None,
            _ if limit.is_some_and(|limit| failures.saturating_add(1) >= limit) => Self::Last,
            2 => Self::Some,
            _ => Self::Strong,
        }
    }
}

impl Default for Trials {
    fn default() -> Self {
        Self {
            group: None,
            some: 8,
            strong: 1,
        }
    }
}

impl Trials {
    /// Begins the trial of `entry`, if it needs one, or says when to ask again.
    pub(super) fn begin(
        &mut self,
        entry: EntryId,
        suspicion: Suspicion,
        now: Timestamp,
        trial: Duration,
    ) -> Result<(), Timestamp> {
        if suspicion == Suspicion::None {
            return Ok(());
        }
        self.end_group(now);
        let most = self.most(suspicion);
        let group = self.group.get_or_insert_with(|| Group {
            suspicion,
            entries: BTreeSet::new(),
            open_until: now + trial,
            until: now + trial,
        });
        if group.entries.contains(&entry) {
            return Ok(());
        }
        let is_open = group.suspicion == suspicion && now < group.open_until;
        if !is_open || group.entries.len() >= most {
            return Err(group.until);
        }
        group.entries.insert(entry);
        group.until = now + trial;
        Ok(())
    }

    fn most(&self, suspicion: Suspicion) -> usize {
        match suspicion {
            Suspicion::None => usize::MAX,
            Suspicion::Some => self.some,
            Suspicion::Strong => self.strong,
            Suspicion::Last => 1,
        }
    }

    /// Whoever gets here has survived it.
    fn end_group(&mut self, now: Timestamp) {
        let Some(group) = self.group.take_if(|group| group.until <= now) else {
            return;
        };
        if group.entries.len() < self.most(group.suspicion) {
            return;
        }
        match group.suspicion {
            Suspicion::Some => self.some = self.some.saturating_mul(2),
            Suspicion::Strong => self.strong = (self.strong * 2).min(MOST_SUSPICIOUS),
            Suspicion::None | Suspicion::Last => {}
        }
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
        let suspicion = Suspicion::of(failures, Some(5));
        trials.begin(EntryId::new(n, 0), suspicion, at(ms), WINDOW)
    }

    /// How many of a thousand are let in at that time.
    fn group(trials: &mut Trials, failures: u32, ms: u64) -> usize {
        let tried = (0..1_000).map(|n| begin(trials, 10_000 * ms + n, failures, ms));
        tried.filter(Result::is_ok).count()
    }

    #[test]
    fn suspicion_grows_with_each_death_up_to_the_last() {
        let of = |failures, limit| Suspicion::of(failures, limit);
        let five = [0, 1, 2, 3, 4, 9].map(|failures| of(failures, Some(5)));
        use Suspicion::{Last, None as No, Some as Two, Strong};
        assert_eq!(five, [No, No, Two, Strong, Last, Last]);
        assert_eq!(of(2, Some(3)), Last);
        assert_eq!(of(9, None), Strong);
    }

    #[test]
    fn after_one_death_all_go_on_at_once() {
        assert_eq!(group(&mut Trials::default(), 1, 0), 1_000);
    }

    #[test]
    fn after_two_deaths_groups_of_eight_double_while_the_process_lives() {
        let mut trials = Trials::default();
        let sizes = [0, 2_000, 4_000, 6_000].map(|ms| group(&mut trials, 2, ms));
        assert_eq!(sizes, [8, 16, 32, 64]);
    }

    #[test]
    fn after_three_deaths_groups_begin_with_one_and_stay_small() {
        let mut trials = Trials::default();
        let sizes = (0..9).map(|n| group(&mut trials, 3, 2_000 * n));
        let sizes: Vec<_> = sizes.collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn before_the_last_death_each_is_tried_alone() {
        let mut trials = Trials::default();
        let sizes = [0, 2_000, 4_000].map(|ms| group(&mut trials, 4, ms));
        assert_eq!(sizes, [1, 1, 1]);
    }

    #[test]
    fn a_group_is_of_one_kind_and_lasts_until_its_last_entry_has_been_tried() {
        let mut trials = Trials::default();
        assert_eq!(begin(&mut trials, 1, 2, 0), Ok(()));
        assert_eq!(begin(&mut trials, 2, 2, 1_900), Ok(()));
        for failures in [2, 3, 4] {
            let until = Err(at(3_900));
            assert_eq!(begin(&mut trials, 3, failures, 2_000), until);
        }
        assert_eq!(
            begin(&mut trials, 1, 2, 2_000),
            Ok(()),
            "not in its own way"
        );
        assert_eq!(begin(&mut trials, 4, 1, 2_000), Ok(()), "not suspicious");
        assert_eq!(begin(&mut trials, 3, 4, 3_900), Ok(()));
        assert_eq!(begin(&mut trials, 5, 2, 3_900), Err(at(5_900)));
        // It was not full, so the next one is no larger.
        assert_eq!(group(&mut trials, 2, 5_900), 8);
    }
}
