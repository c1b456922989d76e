//! What processes believe, hear and are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::{Belief, DisownReason, End, Reply};
use streamlease_core::{
    AcquireOutcome, BeatOutcome, EntryId, FencingToken, LockScheme, OpenOutcome, Settings,
    StreamName, Timestamp,
};

use super::{Checker, Clocks, TICK};
use crate::simulation::world::{Extends, Sent};

/// A lease as its user sees it.
struct View {
    stream: StreamName,
    token: FencingToken,
    belief: Arc<Belief>,
    max_silence: Option<Duration>,
    /// Of its handler.
    last_progress: Timestamp,
    /// Its user or an operator has asked for its end, or it was found silent.
    ending: bool,
    /// `lost()` fired because its handler was silent.
    silent: bool,
}

impl View {
    /// `lost()` has fired: over, although its end is not told yet.
    fn is_over(&self) -> bool {
        self.belief.until() == Timestamp::ZERO
    }
}

/// Until when something may be believed: by its owner's clock, and in truth.
#[derive(Debug, Clone, Copy, Default)]
struct Allowed {
    local: Timestamp,
    /// By then its lock may be somebody else's.
    truly: Duration,
}

impl Allowed {
    fn max(self, other: Self) -> Self {
        Self {
            local: self.local.max(other.local),
            truly: self.truly.max(other.truly),
        }
    }
}

/// What the checker knows of one process.
pub(in super::super) struct Watch {
    views: BTreeMap<EntryId, View>,
    /// R1: with sessions, for everything; with per-stream locks, for each lease.
    session_allowed: Allowed,
    lease_allowed: BTreeMap<(EntryId, FencingToken), Allowed>,
    /// Until when everything that is held is believed by the last beat.
    beaten: Timestamp,
    capacity: usize,
    /// How many may still come over the capacity: they were on their way when it
    /// was lowered.
    coming: usize,
    event_queue: usize,
    max_silence: Option<Duration>,
    /// `Added` and `Expired` that the user has not taken.
    queued: usize,
    terminated: bool,
    asked_to_stop: Option<Timestamp>,
    asked_to_complete: BTreeSet<(EntryId, FencingToken)>,
    handed_back: BTreeMap<EntryId, Timestamp>,
    claimed_by_hand: BTreeSet<EntryId>,
    pub(super) ttl: Duration,
    margin: Duration,
    /// Whether a lease's belief had run out when the current step began.
    ran_out: bool,
    /// Leases that were lost for want of a beat.
    lost: u64,
}

impl Watch {
    pub(in super::super) fn new(settings: &Settings) -> Self {
        Self {
            views: BTreeMap::new(),
            session_allowed: Allowed::default(),
            lease_allowed: BTreeMap::new(),
            beaten: Timestamp::ZERO,
            capacity: settings.capacity,
            coming: 0,
            event_queue: settings.event_queue,
            max_silence: settings.max_silence,
            queued: 0,
            terminated: false,
            asked_to_stop: None,
            asked_to_complete: BTreeSet::new(),
            handed_back: BTreeMap::new(),
            claimed_by_hand: BTreeSet::new(),
            ttl: settings.ttl,
            // Written out: it is what is checked.
            margin: (settings.ttl / 10).max(Duration::from_millis(50)),
            ran_out: false,
            lost: 0,
        }
    }

    fn view(&self, entry: EntryId, token: FencingToken) -> Option<&View> {
        self.views.get(&entry).filter(|view| view.token == token)
    }

    fn view_mut(&mut self, entry: EntryId, token: FencingToken) -> Option<&mut View> {
        let view = self.views.get_mut(&entry);
        view.filter(|view| view.token == token)
    }

    fn set_capacity(&mut self, capacity: usize) {
        if capacity < self.capacity {
            self.coming += self.capacity.saturating_sub(self.views.len());
        }
        self.capacity = capacity;
    }

    /// Whoever else handed the entry back may have it again (R7).
    pub(super) fn had_elsewhere(&mut self, entry: EntryId) {
        self.handed_back.remove(&entry);
    }

    pub(super) fn wants_completed(&self, entry: EntryId, token: FencingToken) -> bool {
        self.asked_to_complete.contains(&(entry, token))
    }
}

/// Two processes believe in leases of one data stream (*lossy* only).
pub(super) struct Overlap {
    earlier: (usize, FencingToken),
    later: (usize, FencingToken),
    stream: StreamName,
    /// Since when, on the earlier owner's clock.
    since: Timestamp,
    truly_since: Duration,
}

// --- before and after each input of a machine, and as time passes ----------------------------

impl Checker {
    pub(in super::super) fn before(&mut self, now: Duration, node: usize, local: Timestamp) {
        self.now = now;
        let watch = &mut self.watches[node];
        let mut views = watch.views.values();
        watch.ran_out = views.any(|view| !view.is_over() && view.belief.until() <= local);
    }

    pub(in super::super) fn after(&mut self, node: usize, local: Clocks<'_>) {
        self.check_beliefs(node, local(node), Duration::ZERO);
        self.check_overlaps(local);
    }

    /// A process that runs has been told of everything that was due a tick ago.
    pub(in super::super) fn check_told(&mut self, node: usize, local: Timestamp) {
        self.check_beliefs(node, local, TICK);
        let watch = &self.watches[node];
        let drained_by = watch.asked_to_stop.map(|at| at + watch.ttl + TICK);
        if drained_by.is_some_and(|by| by < local) && !watch.terminated {
            let what = format!("n{node} has not ended a TTL after it was asked to");
            self.fail("R12", "a shutdown does not end", what);
        }
    }

    /// R1: nothing is believed for longer than its lock stands, and who runs is
    /// told at once. What is `late` by less is not looked at.
    fn check_beliefs(&mut self, node: usize, local: Timestamp, late: Duration) {
        let stated_jump = self.is_durable().then_some(self.stated_jump);
        let (now, scheme) = (self.now, self.scheme);
        let watch = &mut self.watches[node];
        let mut failed = None;
        for (entry, view) in &mut watch.views {
            let (entry, token, until) = (*entry, view.token, view.belief.until());
            let lease = format_args!("{entry} {}", view.stream).to_string();
            if view.is_over() {
                let silent_at = view.max_silence.map(|limit| view.last_progress + limit);
                if !view.ending && silent_at.is_none_or(|at| at > local) {
                    let what = format!("n{node} is told that {lease} is lost, for no reason");
                    failed = Some(("silence", "lost() fires unasked", what));
                }
                (view.ending, view.silent) = (true, true);
                continue;
            }
            if view.silent {
                let what = format!("n{node} believes {lease} again, after lost() fired");
                failed = Some(("R1", "believed again after its end", what));
            }
            let allowed = match scheme {
                LockScheme::Session => watch.session_allowed,
                LockScheme::PerStream => watch
                    .lease_allowed
                    .get(&(entry, token))
                    .copied()
                    .unwrap_or_default(),
            };
            if until + late <= local {
                let what = format!("n{node} keeps {lease} past its belief, {until:?}");
                failed = Some(("R1", "not told at once", what));
            }
            if until > allowed.local {
                let what = format!(
                    "n{node} believes {lease} until {until:?}, allowed is {:?}",
                    allowed.local
                );
                failed = Some(("R1", "believes more than was extended", what));
            }
            // Its lock may be gone, by the true time.
            if let Some(jump) = stated_jump
                && until > local
                && now + jump >= allowed.truly
            {
                let what = format!("n{node} believes {lease}, whose lock may have expired");
                failed = Some(("R1", "believes more than the lock", what));
            }
            let silent_at = view.max_silence.map(|limit| view.last_progress + limit);
            let may_be_silent = view.ending || watch.asked_to_stop.is_some();
            if silent_at.is_some_and(|at| at + TICK.max(late) < local) && !may_be_silent {
                let what = format!("the handler of {lease} at n{node} is silent, and keeps it");
                failed = Some(("silence", "a silent handler keeps its lease", what));
            }
        }
        if let Some((rule, check, what)) = failed {
            self.fail(rule, check, what);
        }
    }

    /// R6 and R1: no two believe that they hold one data stream. In a *lossy*
    /// run, whatever took the earlier owner's lock, that owner believes for no
    /// longer than R1 lets it without its lock: its TTL less the margin, on its
    /// own clock (which may be slow, or have stood still).
    pub(in super::super) fn check_overlaps(&mut self, local: Clocks<'_>) {
        if self.contended.is_empty() {
            self.overlaps.clear();
            return;
        }
        let mut found = Vec::new();
        for stream in &self.contended {
            let mut believers: Vec<_> = self.believers(stream, local).collect();
            believers.sort_unstable_by_key(|(node, token)| (*token, *node));
            for (nth, earlier) in believers.iter().enumerate() {
                for later in &believers[nth + 1..] {
                    found.push((*earlier, *later, stream.clone()));
                }
            }
        }
        self.overlaps.retain(|overlap| {
            found.iter().any(|(earlier, later, stream)| {
                (overlap.earlier, overlap.later) == (*earlier, *later) && overlap.stream == *stream
            })
        });
        for (earlier, later, stream) in found {
            let known = |overlap: &&Overlap| {
                (overlap.earlier, overlap.later) == (earlier, later) && overlap.stream == stream
            };
            let here = local(earlier.0);
            let (since, truly_since) = match self.overlaps.iter().find(known) {
                Some(overlap) => (overlap.since, overlap.truly_since),
                None => {
                    self.overlaps.push(Overlap {
                        earlier,
                        later,
                        stream: stream.clone(),
                        since: here,
                        truly_since: self.now,
                    });
                    (here, self.now)
                }
            };
            let (ttl, margin) = (self.watches[earlier.0].ttl, self.watches[earlier.0].margin);
            let lasted = here.saturating_since(since);
            let share = |of: Duration| (of.as_nanos() * 1_000 / ttl.as_nanos()) as u64;
            self.longest_overlap = self.longest_overlap.max(share(lasted));
            let truly = share(self.now.saturating_sub(truly_since));
            self.longest_true_overlap = self.longest_true_overlap.max(truly);
            let what = format!("{stream} is believed by {earlier:?} and {later:?} since {since:?}");
            if self.is_durable() {
                self.fail("R6", "believed twice", what);
            } else if lasted > ttl - margin {
                self.fail("R6", "believed twice for too long", what);
            }
        }
    }

    fn believers<'a>(
        &'a self,
        stream: &StreamName,
        local: Clocks<'a>,
    ) -> impl Iterator<Item = (usize, FencingToken)> + 'a {
        let holders = self.by_stream.get(stream).into_iter().flatten();
        holders.filter_map(move |&(node, entry)| {
            let view = self.watches[node].views.get(&entry)?;
            (view.belief.until() > local(node)).then_some((node, view.token))
        })
    }

    /// R6 in a mixed fleet: a foreign consumer gets an entry's lock, for so
    /// long, only if none of ours believes in it; and the other way round.
    pub(in super::super) fn foreign_lock(
        &mut self,
        now: Duration,
        lasts: Duration,
        entry: EntryId,
        stream: &StreamName,
        local: Clocks<'_>,
    ) {
        self.now = now;
        self.foreign.insert(entry, now + lasts);
        let holders = self.by_stream.get(stream).into_iter().flatten();
        let of_it = holders.filter(|(_, theirs)| *theirs == entry);
        let believer = of_it.map(|(node, _)| *node).find(|node| {
            let view = self.watches[*node].views.get(&entry);
            view.is_some_and(|view| view.belief.until() > local(*node))
        });
        if let Some(node) = believer.filter(|_| self.is_durable()) {
            let what = format!("a foreign consumer has the lock of {entry}, and n{node} believes");
            self.fail("R6", "believed beside a foreign consumer", what);
        }
    }
}

// --- what a process hears, and what its user asks for ----------------------------------------

impl Checker {
    /// A reply is about to be handed to the machine.
    pub(in super::super) fn hears(&mut self, node: usize, sent: &Sent, reply: &Reply) {
        let watch = &mut self.watches[node];
        let until = Allowed {
            local: sent.local + (watch.ttl - watch.margin),
            truly: sent.at + watch.ttl,
        };
        match (&sent.what, reply) {
            (Extends::Session, Reply::Opened(OpenOutcome::Opened)) => {
                watch.session_allowed = watch.session_allowed.max(until);
                watch.beaten = watch.beaten.max(until.local);
            }
            (Extends::Beat(leases), Reply::Beaten(BeatOutcome::Extended(reply))) => {
                watch.session_allowed = watch.session_allowed.max(until);
                watch.beaten = watch.beaten.max(until.local);
                for lease in &reply.revoked {
                    if let Some(view) = watch.view_mut(lease.entry, lease.token) {
                        view.ending = true;
                    }
                }
                for lease in leases.iter().filter(|lease| !reply.lost.contains(lease)) {
                    let allowed = watch.lease_allowed.entry((lease.entry, lease.token));
                    allowed
                        .and_modify(|allowed| *allowed = allowed.max(until))
                        .or_insert(until);
                }
            }
            (Extends::Acquire(entries), Reply::Acquired(outcomes))
                if self.scheme == LockScheme::PerStream =>
            {
                for (entry, outcome) in entries.iter().zip(outcomes) {
                    if let AcquireOutcome::Acquired(token) = outcome {
                        let allowed = watch.lease_allowed.entry((*entry, *token));
                        allowed
                            .and_modify(|allowed| *allowed = allowed.max(until))
                            .or_insert(until);
                    }
                }
            }
            _ => {}
        }
    }

    pub(in super::super) fn asked_to_end(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) {
        if let Some(view) = self.watches[node].view_mut(entry, token) {
            view.ending = true;
        }
    }

    pub(in super::super) fn asked_to_complete(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) {
        self.watches[node].asked_to_complete.insert((entry, token));
    }

    pub(in super::super) fn asked_done_stream(&mut self, node: usize, stream: &StreamName) {
        let watch = &mut self.watches[node];
        for (entry, view) in &mut watch.views {
            if view.stream == *stream {
                view.ending = true;
                watch.asked_to_complete.insert((*entry, view.token));
            }
        }
    }

    pub(in super::super) fn asked_to_stop(&mut self, node: usize, local: Timestamp) {
        self.watches[node].asked_to_stop = Some(local);
    }

    pub(in super::super) fn set_capacity(&mut self, node: usize, capacity: usize) {
        self.watches[node].set_capacity(capacity);
    }

    pub(in super::super) fn claimed_by_hand(&mut self, node: usize, entry: EntryId) {
        self.watches[node].claimed_by_hand.insert(entry);
    }

    pub(in super::super) fn silence_limit(
        &self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
    ) -> Option<Duration> {
        let view = self.watches[node].view(entry, token)?;
        view.max_silence.filter(|_| !view.is_over())
    }

    /// The lease gets a limit of its own.
    pub(in super::super) fn limits_silence(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        limit: Duration,
    ) {
        let view = self.watches[node].view_mut(entry, token);
        if let Some(view) = view.filter(|view| !view.is_over()) {
            view.max_silence = Some(limit);
        }
    }

    pub(in super::super) fn progress(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        local: Timestamp,
    ) {
        if let Some(view) = self.watches[node].view_mut(entry, token) {
            view.last_progress = local;
        }
    }

    // --- what its user is told -------------------------------------------------------------

    pub(in super::super) fn took(&mut self, node: usize) {
        self.watches[node].queued -= 1;
    }

    /// R10: what is queued fits.
    pub(in super::super) fn queued(&mut self, node: usize) {
        let watch = &mut self.watches[node];
        watch.queued += 1;
        let (queued, most) = (watch.queued, watch.event_queue);
        if queued > most {
            let what = format!("n{node} has {queued} events queued, {most} fit");
            self.fail("R10", "the event queue overflows", what);
        }
    }

    /// Any notice at all.
    pub(in super::super) fn noticed(&mut self, node: usize) {
        if self.watches[node].terminated {
            let what = format!("n{node} is told something after Terminated");
            self.fail("R12", "a notice after Terminated", what);
        }
    }

    pub(in super::super) fn terminated(&mut self, node: usize) {
        let watch = &mut self.watches[node];
        watch.terminated = true;
        let (asked, left) = (watch.asked_to_stop.is_some(), watch.views.len());
        if !asked {
            self.fail("R8", "gave up", format!("n{node} gave up"));
        }
        if left > 0 {
            let what = format!("n{node} terminated with {left} leases not ended");
            self.fail("R12", "no end before Terminated", what);
        }
    }

    pub(in super::super) fn stopped(&mut self, node: usize) {
        if !self.watches[node].terminated {
            let what = format!("n{node} stops without Terminated");
            self.fail("R12", "no Terminated", what);
        }
    }

    pub(in super::super) fn added(
        &mut self,
        node: usize,
        entry: EntryId,
        stream: &StreamName,
        token: FencingToken,
        belief: Arc<Belief>,
        local: Timestamp,
    ) {
        self.added += 1;
        let what = format!("n{node} is given {entry} {stream} {token:?}");
        self.check_claimed(entry, token, &what);
        let durable = self.is_durable();
        if durable
            && self
                .foreign
                .get(&entry)
                .is_some_and(|until| *until > self.now)
        {
            let what = format!("{what}, which a foreign consumer has locked");
            self.fail("R6", "believed beside a foreign consumer", what);
        }
        let greatest = self.greatest_added.entry(stream.clone()).or_default();
        // Who was told late of a lease that somebody else has by now is refused
        // by the fence; it happens only where a clock does not tell it so.
        let told_late = token < *greatest && !durable;
        let before = *greatest;
        *greatest = token.max(before);
        if token <= before && !told_late {
            self.fail(
                "R5",
                "tokens do not grow",
                format!("{what} after {before:?}"),
            );
        }
        let watch = &mut self.watches[node];
        let mut failed = Vec::new();
        if watch.views.values().any(|view| view.stream == *stream) {
            failed.push(("R12", "added twice", what.clone()));
        }
        if watch.views.len() >= watch.capacity {
            match watch.coming.checked_sub(1) {
                Some(coming) => watch.coming = coming,
                None => {
                    let what = format!("{what} beyond its capacity {}", watch.capacity);
                    failed.push(("R11", "beyond the capacity", what));
                }
            }
        }
        let by_hand = watch.claimed_by_hand.remove(&entry);
        if let Some(at) = watch.handed_back.remove(&entry)
            && !by_hand
            && local.saturating_since(at) < watch.ttl
        {
            let what = format!("{what}, handed back by it at {at:?}");
            failed.push(("R7", "took back what it handed back", what));
        }
        let view = View {
            stream: stream.clone(),
            token,
            belief,
            max_silence: watch.max_silence,
            last_progress: local,
            ending: false,
            silent: false,
        };
        watch.views.insert(entry, view);
        let last = self.last_owner.insert(stream.clone(), node);
        self.takeovers += u64::from(last.is_some_and(|last| last != node));
        let holders = self.by_stream.entry(stream.clone()).or_default();
        holders.push((node, entry));
        if holders.len() > 1 {
            self.contended.insert(stream.clone());
        }
        for (rule, check, what) in failed {
            self.fail(rule, check, what);
        }
    }

    pub(in super::super) fn ended(
        &mut self,
        node: usize,
        entry: EntryId,
        token: FencingToken,
        end: End,
        local: Timestamp,
    ) {
        let watch = &mut self.watches[node];
        // A session ends as a whole, as soon as anything of it runs out: also a
        // lock that the user was not told of.
        let ran_out = watch.ran_out || watch.beaten <= local;
        if watch.view(entry, token).is_none() {
            let what = format!("n{node} ends {entry} {token:?}, which it does not have");
            return self.fail("R12", "ended twice", what);
        }
        let Some(view) = watch.views.remove(&entry) else {
            return;
        };
        watch.lease_allowed.remove(&(entry, token));
        if end == End::HandedBack {
            watch.handed_back.insert(entry, local);
        }
        let silent_at = view.max_silence.map(|limit| view.last_progress + limit);
        let stream = view.stream;
        self.forget_view(&stream, node, entry);
        let End::Disowned(reason) = end else { return };
        let by_time = matches!(reason, DisownReason::Expired | DisownReason::LockLost);
        self.watches[node].lost += u64::from(by_time);
        // R2: without lost data, only the clock ends a lease against its user's will.
        let legal = match reason {
            DisownReason::Expired => ran_out || view.silent,
            DisownReason::Silent => view.silent || silent_at.is_some_and(|at| at <= local),
            DisownReason::EntryGone => self.was_completed_by_foreigner(entry),
            DisownReason::Revoked | DisownReason::ClientStopped => true,
            _ => false,
        };
        if !legal && self.is_durable() {
            let what = format!("n{node} loses {entry} {stream} {token:?}: {reason:?}");
            self.fail("R2", "a lease is lost without need", what);
        }
    }

    fn forget_view(&mut self, stream: &StreamName, node: usize, entry: EntryId) {
        if let Some(holders) = self.by_stream.get_mut(stream) {
            holders.retain(|holder| *holder != (node, entry));
            if holders.len() < 2 {
                self.contended.remove(stream);
            }
        }
    }

    /// The process is gone: nobody there believes anything.
    pub(in super::super) fn crashed(&mut self, node: usize) {
        for (entry, view) in std::mem::take(&mut self.watches[node].views) {
            self.forget_view(&view.stream, node, entry);
        }
    }

    pub(in super::super) fn views(&self, node: usize) -> usize {
        self.watches[node].views.len()
    }

    pub(in super::super) fn streams_of(&self, node: usize) -> BTreeSet<StreamName> {
        let views = self.watches[node].views.values();
        views.map(|view| view.stream.clone()).collect()
    }

    /// How many leases were lost for want of a beat.
    pub(in super::super) fn lost(&self, node: usize) -> u64 {
        self.watches[node].lost
    }
}
