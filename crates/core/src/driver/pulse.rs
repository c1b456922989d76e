//! [`Pulse`]: how the client fares, as its driver saw it last; and [`Freed`], since when
//! streams are known to be free. Both are for measurements and probes only.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::machine::{Reply, StreamOrigin, Vitals};
use crate::recorder::{Attempt, Load};
use crate::{
    ConsumerName, EntryId, Hint, Part, Recorder, RenewOutcome, Result, SessionId, Timestamp,
};

/// Most entries, and most dead sessions, that are remembered.
const MOST: usize = 10_000;

/// A stream that was free for longer has had other owners in the meantime, perhaps: only what
/// comes next is a hint, too. What failed rests for half a minute at most.
const HINT_AGE: Duration = Duration::from_secs(60);

/// What the driver saw when it last had nothing to do.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    pub(crate) vitals: Vitals,
    /// When it is to look again at the latest.
    pub(crate) due: Timestamp,
}

/// Measures what is different now.
pub(super) fn measure_change(
    before: Option<&Vitals>,
    now: &Vitals,
    at: Timestamp,
    recorder: &dyn Recorder,
) {
    for (part, index) in Part::ALL.into_iter().zip(0..) {
        let was_out = before.and_then(|before| before.unreachable[index]);
        match (was_out, now.unreachable[index]) {
            (None, Some(_)) => recorder.unreachable(part),
            (Some(since), None) => recorder.reached(part, at.saturating_since(since)),
            _ => {}
        }
        let is_reachable = now.reachable[index];
        if before.is_none_or(|before| before.reachable[index] != is_reachable) {
            recorder.reachable(part, is_reachable);
        }
    }
    if let Some(last) = now.last_heartbeat
        && before.is_none_or(|before| before.last_heartbeat != Some(last))
    {
        recorder.heartbeat(Attempt::Ok, last.left);
    }
    let load = Load::from(now);
    if before.is_none_or(|before| Load::from(before) != load) {
        recorder.load(&load);
    }
}

/// The client has ended: nobody measures any more that it holds nothing and knows nothing.
pub(super) fn measure_end(recorder: &dyn Recorder) {
    recorder.load(&Load::NONE);
    for part in Part::ALL {
        recorder.reachable(part, None);
    }
}

/// Since when streams are known to be free, by what told.
#[derive(Debug)]
pub(super) struct Freed {
    ttl: Duration,
    /// Handed back, or their lock ran out, by hints.
    entries: BTreeMap<EntryId, Timestamp>,
    /// The same by age, and those that a later hint has replaced.
    hints: VecDeque<(Timestamp, EntryId)>,
    /// Dead sessions, as heartbeats tell of them: since when they are known, and when they
    /// were told of last.
    dead: BTreeMap<SessionId, (Timestamp, Timestamp)>,
}

impl Freed {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: BTreeMap::new(),
            hints: VecDeque::new(),
            dead: BTreeMap::new(),
        }
    }

    pub(super) fn hinted(&mut self, hint: &Hint, now: Timestamp) {
        let entries = match hint {
            Hint::HandedBack(entries) => &entries[..],
            Hint::LockExpired { entry, .. } => &[*entry],
            _ => return,
        };
        for entry in entries {
            self.entries.insert(*entry, now);
            self.hints.push_back((now, *entry));
        }
        // Those of others, mostly: they have long been taken.
        while let Some(&(at, entry)) = self.hints.front()
            && (self.hints.len() > MOST || now > at + HINT_AGE)
        {
            self.hints.pop_front();
            if self.entries.get(&entry) == Some(&at) {
                self.entries.remove(&entry);
            }
        }
    }

    pub(super) fn replied(&mut self, reply: &Result<Reply>, now: Timestamp) {
        let Ok(Reply::Renewed(RenewOutcome::Extended(renewal))) = reply else {
            return;
        };
        for session in &renewal.dead {
            if self.dead.len() < MOST {
                let told = self.dead.entry(session.clone()).or_insert((now, now));
                told.1 = now;
            }
        }
        // What it left is claimed after its end, too.
        let ttl = self.ttl;
        self.dead.retain(|_, (_, told)| now <= *told + ttl);
    }

    /// For how long a stream that is taken now was known to be free.
    pub(super) fn taken(
        &mut self,
        entry: EntryId,
        origin: StreamOrigin,
        owner: &ConsumerName,
        now: Timestamp,
    ) -> Option<Duration> {
        let hinted = self.entries.remove(&entry);
        let hinted = hinted.filter(|at| now <= *at + HINT_AGE);
        let since = match origin {
            StreamOrigin::Fresh => None,
            StreamOrigin::HandedBack => hinted,
            StreamOrigin::TakenOver => {
                let of_owner = self.dead.iter().filter(|(dead, _)| dead.consumer == *owner);
                let told = of_owner.map(|(_, (since, _))| *since).min();
                told.or(hinted)
            }
        };
        since.map(|since| now.saturating_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Renewal;

    const TTL: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn told_dead(freed: &mut Freed, dead: &[SessionId], now: Timestamp) {
        let renewal = Renewal {
            dead: dead.to_vec(),
            ..Renewal::default()
        };
        freed.replied(&Ok(Reply::Renewed(RenewOutcome::Extended(renewal))), now);
    }

    #[test]
    fn a_take_over_counts_from_when_the_death_was_told_first() {
        let (mut freed, name) = (Freed::new(TTL), ConsumerName::from_wire("a"));
        let dead = [SessionId::new(name.clone(), 7)];
        told_dead(&mut freed, &dead, at(1_000));
        told_dead(&mut freed, &dead, at(2_000));
        let entry = EntryId::new(1, 0);
        let taken =
            |freed: &mut Freed, ms| freed.taken(entry, StreamOrigin::TakenOver, &name, at(ms));
        assert_eq!(taken(&mut freed, 2_500), Some(Duration::from_millis(1_500)));
        told_dead(&mut freed, &[], at(5_000));
        assert_eq!(
            taken(&mut freed, 5_000),
            None,
            "its name may be another's by now"
        );
    }

    #[test]
    fn a_hint_is_too_old_once_others_have_surely_had_the_stream_meanwhile() {
        let (mut freed, name) = (Freed::new(TTL), ConsumerName::from_wire("a"));
        let (first, second) = (EntryId::new(2, 0), EntryId::new(1, 0));
        freed.hinted(&Hint::HandedBack(vec![first]), at(1_000));
        let taken =
            |freed: &mut Freed, entry, at| freed.taken(entry, StreamOrigin::HandedBack, &name, at);
        // It may rest for so long before anybody takes it.
        let still = at(1_000) + HINT_AGE;
        assert_eq!(taken(&mut freed, first, still), Some(HINT_AGE));
        freed.hinted(&Hint::HandedBack(vec![first]), at(1_000));
        let too_late = still + Duration::from_millis(1);
        assert_eq!(taken(&mut freed, first, too_late), None);

        // The next hint begins anew, and does not end with the age of the one before.
        freed.hinted(&Hint::HandedBack(vec![second]), at(1_000));
        freed.hinted(&Hint::HandedBack(vec![second]), still);
        freed.hinted(&Hint::HandedBack(vec![first]), too_late);
        assert_eq!(
            taken(&mut freed, second, too_late),
            Some(Duration::from_millis(1))
        );
    }

    #[test]
    fn of_too_many_hints_the_oldest_are_forgotten() {
        let (mut freed, name) = (Freed::new(TTL), ConsumerName::from_wire("a"));
        let entries = |ids: std::ops::Range<u64>| ids.map(|ms| EntryId::new(ms, 0)).collect();
        // Long streams are handed back last, and have the lowest ids.
        freed.hinted(&Hint::HandedBack(entries(10..10 + MOST as u64)), at(1_000));
        freed.hinted(&Hint::HandedBack(entries(1..2)), at(2_000));
        let entry = EntryId::new(1, 0);
        let taken = freed.taken(entry, StreamOrigin::HandedBack, &name, at(2_010));
        assert_eq!(taken, Some(Duration::from_millis(10)));
        assert!(freed.entries.len() <= MOST && freed.hints.len() <= MOST);
    }

    #[test]
    fn a_hand_over_counts_from_the_hint_and_once() {
        let (mut freed, name) = (Freed::new(TTL), ConsumerName::from_wire("a"));
        let entry = EntryId::new(1, 0);
        freed.hinted(&Hint::HandedBack(vec![entry]), at(1_000));
        let taken =
            |freed: &mut Freed, ms| freed.taken(entry, StreamOrigin::HandedBack, &name, at(ms));
        assert_eq!(taken(&mut freed, 1_020), Some(Duration::from_millis(20)));
        assert_eq!(taken(&mut freed, 9_000), None);
    }
}
