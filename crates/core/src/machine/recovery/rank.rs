//! Ranks among the survivors (R11): what one consumer handed back, or left when it
//! died, everybody hears of at the same moment.
//!
//! Each live consumer has a rank for each entry, by rendezvous hashing of the entry
//! and the consumer's name, so that all of them come to the same order without talking.
//! The first one takes the entry at once. The others wait, the later in the order the
//! longer, and then inspect the *lock*. If it is held, the first one took the entry, and
//! they forget it. If it is free (the first one is full, or dead itself), they try to take
//! the entry. Inspecting a page costs a fraction of acquiring it in vain, and nobody is
//! refused. The list of consumers is up to a TTL old: those that do not know of each
//! other yet cost one refused acquire each, and no more.
//!
//! The leases of dead sessions (session leases) need no ranks: they are taken over in
//! pages (see `takeover`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Recovery;
use super::scan::MOST_RECHECKS;
use crate::limits::{LAST_RANK, LATEST_RANK, RANK_STEP};
use crate::machine::cx::Cx;
use crate::machine::deadlines::Deadlines;
use crate::machine::leases::Leases;
use crate::machine::leases::table::Origin;
use crate::machine::rng::mix;
use crate::{
    Announcement, ConsumerName, EntryId, FencingToken, Held, Holder, LockId, LockState, Pending,
    StreamName, Timestamp,
};

/// Until the lock of something that was given up is looked at again; doubling.
const EARLY: Duration = Duration::from_millis(10);

/// Where nobody knows who lives, waits are drawn from so long a time.
const UNKNOWN: Duration = Duration::from_millis(45);
const _: () = assert!(UNKNOWN.as_nanos() <= LATEST_RANK.as_nanos());

/// Entries that others are to take first.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    waiting: BTreeMap<EntryId, Ranked>,
    due: Deadlines<EntryId>,
    /// Those that this consumer is the first to go for, and whose lock was still
    /// their former owner's, by data stream: its release is announced.
    unfreed: BTreeMap<StreamName, EntryId>,
}

#[derive(Debug)]
struct Ranked {
    stream: StreamName,
    origin: Origin,
    /// Whose it was, and with which token.
    from: Option<ConsumerName>,
    token: FencingToken,
    at: Timestamp,
    /// It came, and the lock was free.
    come: bool,
    /// Nobody comes before this consumer.
    is_first: bool,
    /// How often the lock was still its former owner's.
    early: u32,
    /// By when it will be so no more, unless it is extended.
    early_until: Timestamp,
}

impl Ranks {
    pub(crate) fn remove(&mut self, entry: EntryId) {
        if let Some(ranked) = self.waiting.remove(&entry) {
            self.due.cancel(&entry);
            self.unfreed.remove(&ranked.stream);
        }
    }

    /// Those whose time has come, lowest first.
    pub(crate) fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<EntryId> {
        let mut come = Vec::new();
        while come.len() < max
            && let Some(entry) = self.due.pop_due(now)
        {
            come.push(entry);
        }
        come
    }

    pub(crate) fn locks(&self, entries: &[EntryId]) -> Vec<LockId> {
        let lock = |entry: &EntryId| {
            let stream = self.waiting.get(entry)?.stream.clone();
            Some(LockId {
                stream,
                entry: *entry,
            })
        };
        entries.iter().filter_map(lock).collect()
    }

    pub(crate) fn put_off(&mut self, entries: Vec<EntryId>, at: Timestamp) {
        for entry in entries {
            if let Some(ranked) = self.waiting.get_mut(&entry) {
                ranked.at = at;
                self.due.set(entry, at);
            }
        }
    }

    pub(crate) fn forget_old(&mut self, before: Timestamp) {
        self.waiting.retain(|_, ranked| ranked.at >= before);
        self.unfreed
            .retain(|_, entry| self.waiting.contains_key(entry));
    }

    pub(crate) fn timeout(&self) -> Timestamp {
        self.due.next()
    }
}

impl Recovery {
    /// Whether what its owner handed back is to be gone for now, if its lock is free.
    pub(crate) fn ranks_first(&self, cx: &Cx, leases: &Leases, pending: &Pending) -> bool {
        let is_known = self.waiting_for(pending).is_some();
        !cx.is_manual()
            && leases.room(cx) > 0
            && !is_known
            && self.rank_for(cx, pending.entry, pending.consumer.as_ref()) == Some(0)
    }

    fn waiting_for(&self, pending: &Pending) -> Option<&Ranked> {
        let ranked = self.ranks.waiting.get(&pending.entry);
        ranked.filter(|ranked| ranked.token == pending.token)
    }

    /// Whether to go for what its owner handed back or left; if not, it is looked at
    /// again when its time comes.
    pub(crate) fn goes_now(
        &mut self,
        cx: &mut Cx,
        pending: &Pending,
        content: &Announcement,
        origin: Origin,
    ) -> bool {
        if let Some(ranked) = self.waiting_for(pending)
            && !ranked.come
        {
            return false;
        }
        let has_come = self.waiting_for(pending).is_some();
        self.ranks.remove(pending.entry);
        let wait = match self.rank_for(cx, pending.entry, pending.consumer.as_ref()) {
            _ if has_come => return true,
            Some(0) => return true,
            Some(place) => RANK_STEP * place.min(LAST_RANK) + cx.deadline_jitter(),
            None => cx.rng.up_to(UNKNOWN),
        };
        let stream = content.stream.clone();
        self.wait_for_rank(cx, pending, stream, origin, wait);
        false
    }

    fn wait_for_rank(
        &mut self,
        cx: &mut Cx,
        pending: &Pending,
        stream: StreamName,
        origin: Origin,
        wait: Duration,
    ) {
        if self.ranks.waiting.len() >= MOST_RECHECKS {
            self.sweeps.leave_behind();
            return;
        }
        let at = cx.now + wait;
        let ranked = Ranked {
            stream,
            origin,
            from: pending.consumer.clone(),
            token: pending.token,
            at,
            come: false,
            is_first: false,
            early: 0,
            early_until: Timestamp::MAX,
        };
        self.ranks.waiting.insert(pending.entry, ranked);
        self.ranks.due.set(pending.entry, at);
    }

    /// It was given up, and its lock is held.
    pub(crate) fn wait_for_giver(
        &mut self,
        cx: &mut Cx,
        pending: &Pending,
        stream: StreamName,
        held: &Held,
    ) {
        if is_held_by(held, pending.consumer.as_ref()) {
            self.wait_for_rank(cx, pending, stream.clone(), Origin::HandedBack, EARLY);
            if let Some(ranked) = self.ranks.waiting.get_mut(&pending.entry) {
                ranked.is_first = true;
                self.ranks.unfreed.insert(stream, pending.entry);
            }
        }
    }

    /// A lock was released, maybe one that this consumer's rank waits for.
    pub(crate) fn freed(&mut self, stream: &StreamName) {
        let ranks = &mut self.ranks;
        let Some(entry) = ranks.unfreed.remove(stream) else {
            return;
        };
        if let Some(ranked) = ranks.waiting.get_mut(&entry) {
            ranks.due.cancel(&entry);
            ranked.come = true;
            self.rescan(vec![entry]);
        }
    }

    /// This consumer's rank for the entry: how many of those who live, besides the
    /// former owner, come before. `None` if nobody knows.
    fn rank_for(&self, cx: &Cx, entry: EntryId, from: Option<&ConsumerName>) -> Option<u32> {
        if !cx.peers.are_known {
            return None;
        }
        let live = self.members.hashes();
        let others = live.filter(|(name, _)| **name != cx.consumer && Some(*name) != from);
        let others = others.map(|(_, hash)| hash);
        Some(rank(entry, hash(&cx.consumer), others))
    }

    /// The time of its rank has come; `state` is what the lock is now.
    pub(crate) fn rank_come(&mut self, cx: &mut Cx, entry: EntryId, state: LockState) {
        let Some(ranked) = self.ranks.waiting.get_mut(&entry) else {
            return;
        };
        match state {
            LockState::Free => {
                ranked.come = true;
                if ranked.origin == Origin::Orphan {
                    // That nobody owns it is known already.
                    self.scanner.expired.insert(entry, cx.now);
                }
                self.rescan(vec![entry]);
            }
            LockState::Held(held) if is_held_by(&held, ranked.from.as_ref()) => {
                // Not freed yet, or not expired.
                let margin = cx.settings.margin();
                if ranked.early == 0 {
                    ranked.early_until = cx.now + held.remaining + margin;
                } else if ranked.early_until <= cx.now {
                    // One of that name has it for good, restarted maybe. If it
                    // fails, that is told; if it cannot release, a sweep sees it.
                    return self.ranks.remove(entry);
                }
                ranked.early += 1;
                let unfreed = ranked.is_first.then(|| (ranked.stream.clone(), entry));
                let wait = EARLY * 2u32.pow(ranked.early.min(10));
                let at = cx.now + wait.min(held.remaining.max(EARLY)).min(cx.settings.ttl);
                self.ranks.unfreed.extend(unfreed);
                self.ranks.put_off(vec![entry], at);
            }
            // Whoever was first has it. If they fail, that is told.
            LockState::Held(_) => self.ranks.remove(entry),
        }
    }
}

/// How many of the others come before a consumer for this entry (rendezvous hashing): each
/// mixes the hash of its name with the entry, and the greatest goes first. So all of them
/// come to the same order without talking, each entry has an order of its own, and who
/// comes or leaves changes nothing in the order of the others.
fn rank(entry: EntryId, own: u64, others: impl Iterator<Item = u64>) -> u32 {
    let seed = mix(entry.ms ^ mix(entry.seq));
    let own = mix(seed ^ own);
    let before = others.filter(|hash| mix(seed ^ *hash) > own).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

fn is_held_by(held: &Held, consumer: Option<&ConsumerName>) -> bool {
    let Some(consumer) = consumer else {
        return false;
    };
    match &held.holder {
        Holder::Session(id) => id.consumer == *consumer,
        Holder::Foreign(name) => name == consumer.as_str(),
    }
}

/// FNV-1a; the same for everybody, whatever the build.
pub(super) fn hash(name: &ConsumerName) -> u64 {
    let bytes = name.as_str().bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: usize) -> Vec<u64> {
        let name = |n| ConsumerName::from_wire(format!("consumer-{n}"));
        (0..count).map(|n| hash(&name(n))).collect()
    }

    fn entries(count: u64) -> impl Iterator<Item = EntryId> {
        (0..count).map(|n| EntryId::new(1_700_000_000_000 + n / 3, n % 3))
    }

    /// The consumers in the order of the entry, as each of them reckons it.
    fn order(entry: EntryId, consumers: &[u64]) -> Vec<u64> {
        let others = |own: u64| consumers.iter().copied().filter(move |other| *other != own);
        let ranked = consumers
            .iter()
            .map(|own| (rank(entry, *own, others(*own)), *own));
        let order: BTreeMap<u32, u64> = ranked.collect();
        let ranks: Vec<u32> = order.keys().copied().collect();
        let all: Vec<u32> = (0..consumers.len() as u32).collect();
        assert_eq!(ranks, all, "each has another rank");
        order.into_values().collect()
    }

    #[test]
    fn all_come_to_the_same_order_and_each_is_the_first_for_its_part() {
        let consumers = hashes(4);
        let mut firsts = BTreeMap::new();
        for entry in entries(4_000) {
            *firsts.entry(order(entry, &consumers)[0]).or_insert(0) += 1;
        }
        assert!(
            firsts.values().all(|count| (850..1_150).contains(count)),
            "{firsts:?}"
        );
    }

    #[test]
    fn who_leaves_changes_nothing_in_the_order_of_the_others() {
        let consumers = hashes(5);
        for entry in entries(200) {
            let mut before = order(entry, &consumers);
            before.retain(|hash| *hash != consumers[2]);
            let left: Vec<u64> = [0, 1, 3, 4].map(|n| consumers[n]).to_vec();
            assert_eq!(order(entry, &left), before);
        }
    }
}
