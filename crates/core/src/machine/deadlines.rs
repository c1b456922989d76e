//! Things that are due at a time, each once.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// When each of some keys is due.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    by_time: BTreeSet<(Timestamp, K)>,
    by_key: BTreeMap<K, Timestamp>,
    /// The first time in `by_time`: it is asked several times for each input.
    next: Timestamp,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
            next: Timestamp::MAX,
        }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Due then, instead of whenever it was due before.
    pub(crate) fn set(&mut self, key: K, at: Timestamp) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
        self.first_changed();
    }

    pub(crate) fn cancel(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
            self.first_changed();
        }
    }

    fn first_changed(&mut self) {
        self.next = self.by_time.first().map_or(Timestamp::MAX, |(at, _)| *at);
    }

    /// When this one is due.
    pub(crate) fn get(&self, key: &K) -> Option<Timestamp> {
        self.by_key.get(key).copied()
    }

    /// When the first one is due.
    #[inline]
    pub(crate) fn next(&self) -> Timestamp {
        self.next
    }

    /// The first one that is due by now, which is then due no more.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<K> {
        match self.next > now {
            true => None,
            false => self.pop(),
        }
    }

    fn pop(&mut self) -> Option<K> {
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        self.first_changed();
        Some(key)
    }

    /// Like [`pop_due`](Self::pop_due), but what is due `later` by now is moved to that
    /// time instead, which costs less than to take it out and set it again.
    pub(crate) fn pop_due_unless(
        &mut self,
        now: Timestamp,
        later: impl Fn(&K) -> Option<Timestamp>,
    ) -> Option<K> {
        while self.next <= now {
            let (_, key) = self.by_time.pop_first()?;
            let Some(at) = later(&key).filter(|at| *at > now) else {
                self.by_key.remove(&key);
                self.first_changed();
                return Some(key);
            };
            if let Some(due) = self.by_key.get_mut(&key) {
                *due = at;
            }
            self.by_time.insert((at, key));
            self.first_changed();
        }
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::machine::Rng;

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(ms)
    }

    /// The same as a plain map that is searched, whatever is done to it.
    #[test]
    fn each_key_is_due_once_and_at_the_time_that_was_set_last() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let (mut deadlines, mut model) = (Deadlines::default(), BTreeMap::new());
            for _ in 0..300 {
                let (key, time) = (rng.next() % 12, at(rng.next() % 40));
                match rng.next() % 5 {
                    0 | 1 => {
                        deadlines.set(key, time);
                        model.insert(key, time);
                    }
                    2 => {
                        deadlines.cancel(&key);
                        model.remove(&key);
                    }
                    3 => {
                        // Those with odd keys are due later by now.
                        let later = at(50);
                        let is_odd = |key: &u64| (key % 2 == 1).then_some(later);
                        let mut due = model.iter().filter(|(_, at)| **at <= time);
                        let first = due.clone().filter(|(key, _)| *key % 2 == 0);
                        let first = first.map(|(key, at)| (*at, *key)).min();
                        let before =
                            |at: Timestamp, key: u64| first.is_none_or(|first| (at, key) < first);
                        let moved = due
                            .by_ref()
                            .filter(|(key, at)| *key % 2 == 1 && before(**at, **key));
                        let moved: Vec<u64> = moved.map(|(key, _)| *key).collect();
                        model.extend(moved.into_iter().map(|key| (key, later)));
                        let popped = deadlines.pop_due_unless(time, is_odd);
                        assert_eq!(popped, first.map(|(_, key)| key));
                        popped.map(|key| model.remove(&key));
                    }
                    _ => {
                        let first = model.iter().map(|(key, at)| (*at, *key)).min();
                        let due = first.filter(|(at, _)| *at <= time).map(|(_, key)| key);
                        assert_eq!(deadlines.pop_due(time), due);
                        due.map(|key| model.remove(&key));
                    }
                }
                assert_eq!(deadlines.get(&key), model.get(&key).copied());
                let next = model.values().min().copied();
                assert_eq!(deadlines.next(), next.unwrap_or(Timestamp::MAX));
                assert_eq!(deadlines.len(), model.len());
            }
        }
    }
}
