//! The rules R1–R12 as code. It sees every call as the backend executed it and
//! every notice as the user was given it, and asks the model nothing that a
//! rule does not speak of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::machine::{Action, DisownReason, End, Reply};
use streamlease_core::{
    AcquireOutcome, BeatOutcome, ClaimOutcome, CompleteOutcome, EntryId, FencingToken, LockScheme,
    OpenOutcome, QuarantineOutcome, StreamName, TakeOverOutcome, Timestamp,
};

use super::model::lbs::Lbs;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
    /// When, since the run's start.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.rule, self.at, self.what)
    }
}

/// Reads the deadline that a lease is believed until.
pub(super) type Until = Arc<dyn Fn() -> Timestamp>;

/// A lease as its user sees it.
struct View {
    stream: StreamName,
    token: FencingToken,
    until: Until,
    /// As of the owner's last step.
    last_until: Timestamp,
}

/// What the checker knows of one process.
pub(super) struct Watch {
    views: BTreeMap<EntryId, View>,
    /// The latest time that any lease may be believed until (R1).
    allowed: Timestamp,
    /// Until when everything that is held is believed by the last beat.
    beaten: Timestamp,
    capacity: usize,
    event_queue: usize,
    /// `Added` and `Expired` that the user has not taken.
    pub(super) queued: usize,
    terminated: bool,
    asked_to_stop: bool,
    asked_to_complete: BTreeSet<(EntryId, FencingToken)>,
    handed_back: BTreeMap<EntryId, Timestamp>,
    claimed_by_hand: BTreeSet<EntryId>,
    ttl: Duration,
    margin: Duration,
    /// Whether a lease's belief had run out when the current step began.
    ran_out: bool,
    /// Leases that were lost for want of a beat.
    lost: u64,
}

impl Watch {
    pub(super) fn new(
        ttl: Duration,
        margin: Duration,
        capacity: usize,
        event_queue: usize,
    ) -> Self {
        Self {
            views: BTreeMap::new(),
            allowed: Timestamp::ZERO,
            beaten: Timestamp::ZERO,
            capacity,
            event_queue,
            queued: 0,
            terminated: false,
            asked_to_stop: false,
            asked_to_complete: BTreeSet::new(),
            handed_back: BTreeMap::new(),
            claimed_by_hand: BTreeSet::new(),
            ttl,
            margin,
            ran_out: false,
            lost: 0,
        }
    }
}

/// What became of an entry that is off the LBS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Completed,
    Parked,
    /// A fault took it.
    Vanished,
}

pub(super) struct Checker {
    pub(super) scheme: LockScheme,
    /// Why a run is of the class *lossy*; empty: *durable*.
    pub(super) lossy: BTreeSet<&'static str>,
    pub(super) violation: Option<Violation>,
    pub(super) takeovers: u64,
    pub(super) added: u64,
    pub(super) acquires: u64,
    /// Claims with a token that the entry had not seen.
    pub(super) new_claims: u64,
    pub(super) longest_ttl: Duration,
    /// The lock server's clock was set back.
    pub(super) set_back: bool,
    watches: Vec<Watch>,
    /// Who has a view of a data stream.
    by_stream: BTreeMap<StreamName, Vec<(usize, EntryId)>>,
    contended: BTreeMap<StreamName, Duration>,
    submitted: BTreeMap<EntryId, Option<StreamName>>,
    fates: BTreeMap<EntryId, Fate>,
    live: usize,
    /// Greatest token claimed with, and by whom, per entry.
    claims: BTreeMap<EntryId, (FencingToken, usize)>,
    minted: BTreeMap<StreamName, FencingToken>,
    greatest_added: BTreeMap<StreamName, FencingToken>,
    /// The protected resource: the greatest token it has seen, and whose.
    resource: BTreeMap<StreamName, (FencingToken, usize)>,
    last_owner: BTreeMap<StreamName, usize>,
    now: Duration,
    /// Not counted for overlaps: the longest time a process was suspended.
    pub(super) suspended: Duration,
}

impl Checker {
    pub(super) fn new(scheme: LockScheme) -> Self {
        Self {
            scheme,
            lossy: BTreeSet::new(),
            violation: None,
            takeovers: 0,
            added: 0,
            acquires: 0,
            new_claims: 0,
            longest_ttl: Duration::ZERO,
            set_back: false,
            watches: Vec::new(),
            by_stream: BTreeMap::new(),
            contended: BTreeMap::new(),
            submitted: BTreeMap::new(),
            fates: BTreeMap::new(),
            live: 0,
            claims: BTreeMap::new(),
            minted: BTreeMap::new(),
            greatest_added: BTreeMap::new(),
            resource: BTreeMap::new(),
            last_owner: BTreeMap::new(),
            now: Duration::ZERO,
            suspended: Duration::ZERO,
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.lossy.is_empty()
    }

    pub(super) fn fail(&mut self, rule: &'static str, what: impl Into<String>) {
        let (what, at) = (what.into(), self.now);
        self.violation.get_or_insert(Violation { rule, what, at });
    }

    pub(super) fn watch(&mut self, watch: Watch) {
        self.longest_ttl = self.longest_ttl.max(watch.ttl);
        self.watches.push(watch);
    }

    pub(super) fn views(&self, node: usize) -> usize {
        self.watches[node].views.len()
    }

    /// How many leases were lost for want of a beat.
    pub(super) fn lost(&self, node: usize) -> u64 {
        self.watches[node].lost
    }

    /// Who has a lease of the data stream, as far as the users know.
    pub(super) fn holders(&self, stream: &StreamName) -> Vec<usize> {
        let holders = self.by_stream.get(stream);
        holders
            .map(|all| all.iter().map(|(node, _)| *node).collect())
            .unwrap_or_default()
    }

    // --- before and after each input of a machine --------------------------------------

    pub(super) fn before(&mut self, now: Duration, node: usize, local: Timestamp) {
        self.now = now;
        let watch = &mut self.watches[node];
        watch.ran_out = watch.views.values().any(|view| (view.until)() <= local);
    }

    /// `local` tells each process's clock.
    pub(super) fn after(&mut self, node: usize, local: &dyn Fn(usize) -> Timestamp) {
        let (watch, here) = (&mut self.watches[node], local(node));
        let mut failed = None;
        for (entry, view) in &mut watch.views {
            view.last_until = (view.until)();
            if view.last_until <= here {
                failed = Some((
                    "R1",
                    format!("n{node} keeps {entry} {} past its belief", view.stream),
                ));
            }
            if view.last_until > watch.allowed {
                failed = Some((
                    "R1",
                    format!(
                        "n{node} believes {entry} {} until {:?}, allowed is {:?}",
                        view.stream, view.last_until, watch.allowed
                    ),
                ));
            }
        }
        if let Some((rule, what)) = failed {
            self.fail(rule, what);
        }
        self.check_overlaps(local);
    }

    /// R6 and R1: no two believe that they hold one data stream.
    pub(super) fn check_overlaps(&mut self, local: &dyn Fn(usize) -> Timestamp) {
        let (now, longest) = (self.now, self.longest_ttl);
        let mut failed = None;
        for (stream, since) in &mut self.contended {
            let believers: Vec<_> = self
                .by_stream
                .get(stream)
                .into_iter()
                .flatten()
                .filter(|(node, entry)| {
                    let view = self.watches[*node].views.get(entry);
                    view.is_some_and(|view| (view.until)() > local(*node))
                })
                .collect();
            if believers.len() < 2 {
                *since = now;
            } else if self.lossy.is_empty() {
                failed = Some(("R6", format!("{stream} is believed twice: {believers:?}")));
            } else if now - *since > longest * 3 / 2 + self.suspended {
                failed = Some((
                    "R6",
                    format!("{stream} is believed twice since {since:?}: {believers:?}"),
                ));
            }
        }
        if let Some((rule, what)) = failed {
            self.fail(rule, what);
        }
    }

    // --- what a process hears -----------------------------------------------------------

    /// A reply is about to be handed to the machine.
    pub(super) fn hears(&mut self, node: usize, sent: Timestamp, reply: &Reply) {
        let watch = &mut self.watches[node];
        let extends = match reply {
            Reply::Beaten(BeatOutcome::Extended(_)) | Reply::Opened(OpenOutcome::Opened) => true,
            Reply::Acquired(_) => self.scheme == LockScheme::PerStream,
            _ => false,
        };
        let until = sent + (watch.ttl - watch.margin);
        if extends {
            watch.allowed = watch.allowed.max(until);
        }
        if extends && !matches!(reply, Reply::Acquired(_)) {
            watch.beaten = watch.beaten.max(until);
        }
    }

    pub(super) fn asked_to_complete(&mut self, node: usize, entry: EntryId, token: FencingToken) {
        self.watches[node].asked_to_complete.insert((entry, token));
    }

    pub(super) fn asked_done_stream(&mut self, node: usize, stream: &StreamName) {
        let watch = &mut self.watches[node];
        let asked = watch
            .views
            .iter()
            .filter(|(_, view)| view.stream == *stream);
        let asked: Vec<_> = asked.map(|(entry, view)| (*entry, view.token)).collect();
        watch.asked_to_complete.extend(asked);
    }

    pub(super) fn asked_to_stop(&mut self, node: usize) {
        self.watches[node].asked_to_stop = true;
    }

    pub(super) fn claimed_by_hand(&mut self, node: usize, entry: EntryId) {
        self.watches[node].claimed_by_hand.insert(entry);
    }

    pub(super) fn took(&mut self, node: usize) {
        self.watches[node].queued -= 1;
    }

    pub(super) fn queued(&mut self, node: usize) {
        let watch = &mut self.watches[node];
        watch.queued += 1;
        let (queued, most) = (watch.queued, watch.event_queue);
        if queued > most {
            self.fail(
                "R10",
                format!("n{node} has {queued} events queued, {most} fit"),
            );
        }
    }

    /// Any notice at all.
    pub(super) fn noticed(&mut self, node: usize) {
        if self.watches[node].terminated {
            self.fail("R12", format!("n{node} is told something after Terminated"));
        }
    }

    pub(super) fn terminated(&mut self, node: usize) {
        let watch = &mut self.watches[node];
        watch.terminated = true;
        let (asked, left) = (watch.asked_to_stop, watch.views.len());
        if !asked {
            self.fail("R8", format!("n{node} gave up"));
        }
        if left > 0 {
            self.fail(
                "R12",
                format!("n{node} terminated with {left} leases not ended"),
            );
        }
    }

    pub(super) fn is_terminated(&self, node: usize) -> bool {
        self.watches[node].terminated
    }

    pub(super) fn added(
        &mut self,
        node: usize,
        entry: EntryId,
        stream: &StreamName,
        token: FencingToken,
        until: Until,
        local: Timestamp,
    ) {
        self.added += 1;
        let durable = self.is_durable();
        let mut failed: Vec<(&'static str, String)> = Vec::new();
        let what = format!("n{node} is given {entry} {stream} {token:?}");
        if self
            .claims
            .get(&entry)
            .is_none_or(|(claimed, _)| *claimed < token)
        {
            failed.push(("R3", format!("{what} without a claim")));
        }
        if durable && self.fates.contains_key(&entry) {
            failed.push((
                "R3",
                format!("{what}, which is {:?}", self.fates.get(&entry)),
            ));
        }
        let greatest = self.greatest_added.entry(stream.clone()).or_default();
        // Who was told late of a lease that somebody else has by now is refused
        // by the fence; it happens only where a clock does not tell it so.
        let told_late = token < *greatest && !durable;
        if token <= *greatest && !told_late {
            failed.push(("R5", format!("{what} after {greatest:?}")));
        }
        *greatest = token.max(*greatest);
        let watch = &mut self.watches[node];
        if watch.views.values().any(|view| view.stream == *stream) {
            failed.push(("R12", format!("{what}, whose lease has not ended")));
        }
        if watch.views.len() >= watch.capacity {
            failed.push((
                "R11",
                format!("{what} beyond its capacity {}", watch.capacity),
            ));
        }
        let by_hand = watch.claimed_by_hand.remove(&entry);
        if let Some(at) = watch.handed_back.remove(&entry)
            && !by_hand
            && local.saturating_since(at) < watch.ttl * 9 / 10
        {
            failed.push(("R7", format!("{what}, handed back by it at {at:?}")));
        }
        let (stream, last_until) = (stream.clone(), until());
        let view = View {
            stream: stream.clone(),
            token,
            until,
            last_until,
        };
        watch.views.insert(entry, view);
        if self
            .last_owner
            .insert(stream.clone(), node)
            .is_some_and(|last| last != node)
        {
            self.takeovers += 1;
        }
        let holders = self.by_stream.entry(stream.clone()).or_default();
        holders.push((node, entry));
        if holders.len() > 1 {
            self.contended.entry(stream).or_insert(self.now);
        }
        for (rule, what) in failed {
            self.fail(rule, what);
        }
    }

    pub(super) fn ended(
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
        let Some(view) = watch.views.get(&entry).filter(|view| view.token == token) else {
            return self.fail(
                "R12",
                format!("n{node} ends {entry} {token:?}, which it does not have"),
            );
        };
        let stream = view.stream.clone();
        watch.views.remove(&entry);
        if end == End::HandedBack {
            watch.handed_back.insert(entry, local);
        }
        self.forget_view(&stream, node, entry);
        let End::Disowned(reason) = end else { return };
        let by_time = matches!(reason, DisownReason::Expired | DisownReason::LockLost);
        self.watches[node].lost += u64::from(by_time);
        let what = format!("n{node} loses {entry} {stream} {token:?}: {reason:?}");
        // R2: without lost data, only the clock ends a lease against its user's will.
        let legal = match reason {
            DisownReason::Expired => ran_out,
            DisownReason::Revoked | DisownReason::ClientStopped => true,
            _ => false,
        };
        if !legal && self.is_durable() {
            self.fail("R2", what);
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
    pub(super) fn crashed(&mut self, node: usize) {
        for (entry, view) in std::mem::take(&mut self.watches[node].views) {
            self.forget_view(&view.stream, node, entry);
        }
    }

    /// A write of an owner who believed when sending it reaches the resource (R4).
    pub(super) fn write(
        &mut self,
        now: Duration,
        stream: &StreamName,
        token: FencingToken,
        node: usize,
    ) {
        self.now = now;
        let &mut (greatest, whose) = self.resource.entry(stream.clone()).or_insert((token, node));
        if token < greatest {
            return; // refused
        }
        if token == greatest && whose != node {
            self.fail(
                "R5",
                format!("{stream}: n{node} and n{whose} write with {token:?}"),
            );
        }
        self.resource.insert(stream.clone(), (token, node));
    }

    // --- what the backend executes --------------------------------------------------------

    pub(super) fn submitted(&mut self, entry: EntryId, stream: Option<StreamName>) {
        self.live += 1;
        if self.submitted.insert(entry, stream).is_some() && self.is_durable() {
            self.fail("R7", format!("the entry id {entry} was given twice"));
        }
        self.fates.remove(&entry);
    }

    pub(super) fn executed(
        &mut self,
        now: Duration,
        node: usize,
        action: &Action,
        reply: &Reply,
        lbs: &Lbs,
    ) {
        self.now = now;
        match (action, reply) {
            (Action::Acquire(_, requests), Reply::Acquired(outcomes)) => {
                self.acquires += requests.len() as u64;
                for (request, outcome) in requests.iter().zip(outcomes) {
                    if let AcquireOutcome::Acquired(token) = outcome {
                        self.had_elsewhere(node, request.entry);
                        self.minted(&request.stream, *token);
                    }
                }
            }
            (Action::TakeOver { .. }, Reply::TakenOver(TakeOverOutcome::Taken { leases, .. })) => {
                self.acquires += leases.len() as u64;
                for lease in leases {
                    self.had_elsewhere(node, lease.entry);
                    self.minted(&lease.stream, lease.token);
                }
            }
            (Action::Claim(claims), Reply::Claimed(outcomes)) => {
                for (claim, outcome) in claims.iter().zip(outcomes) {
                    if matches!(outcome, ClaimOutcome::Claimed { .. }) {
                        self.acts("claims", node, claim.entry, claim.token);
                        let known = self.claims.get(&claim.entry);
                        self.new_claims +=
                            u64::from(known.is_none_or(|(seen, _)| *seen < claim.token));
                        self.claims.insert(claim.entry, (claim.token, node));
                    }
                }
            }
            (Action::Complete(entries), Reply::Completed(outcomes)) => {
                for (fenced, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == CompleteOutcome::Completed {
                        self.acts("completes", node, fenced.entry, fenced.token);
                        self.gone(fenced.entry, Fate::Completed);
                        let asked = (fenced.entry, fenced.token);
                        if !self.watches[node].asked_to_complete.contains(&asked) {
                            self.fail("R7", format!("n{node} completes {} unasked", fenced.entry));
                        }
                    }
                }
            }
            (Action::HandBack(entries), Reply::HandedBack(outcomes)) => {
                for (back, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == streamlease_core::HandBackOutcome::HandedBack {
                        self.acts("hands back", node, back.entry, back.token);
                    }
                }
            }
            (Action::Quarantine(entries), Reply::Quarantined(outcomes)) => {
                for (parked, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == QuarantineOutcome::Quarantined {
                        self.acts("parks", node, parked.entry, parked.token);
                        self.gone(parked.entry, Fate::Parked);
                    }
                }
            }
            _ => {}
        }
        // R7: what left, left by one of the two ways; and what was delivered is pending.
        if self.live != lbs.len() {
            self.fail(
                "R7",
                format!(
                    "{} entries should be on the LBS, {} are",
                    self.live,
                    lbs.len()
                ),
            );
        }
    }

    /// R7: what was delivered and is not finished is pending at somebody.
    pub(super) fn check_pending(&mut self, lbs: &Lbs) {
        if let Some(entry) = lbs.stray() {
            self.fail(
                "R7",
                format!("{entry} was delivered and is pending at nobody"),
            );
        }
    }

    /// Whoever else handed the entry back may have it again (R7).
    fn had_elsewhere(&mut self, node: usize, entry: EntryId) {
        for (other, watch) in self.watches.iter_mut().enumerate() {
            if other != node {
                watch.handed_back.remove(&entry);
            }
        }
    }

    fn minted(&mut self, stream: &StreamName, token: FencingToken) {
        let greatest = self.minted.entry(stream.clone()).or_default();
        // The repeat of an unanswered acquire yields the same token. Not promised:
        // lost writes, and a clock set back, and nobody left who remembers.
        let grows = token >= *greatest;
        *greatest = token.max(*greatest);
        let excused = self.lossy.contains("locks lost writes") && self.set_back;
        if !grows && !excused {
            self.fail("R5", format!("{stream} gets {token:?} after greater ones"));
        }
    }

    /// R4: whoever acts on an entry has the greatest token of it.
    fn acts(&mut self, how: &str, node: usize, entry: EntryId, token: FencingToken) {
        if let Some(&(greatest, owner)) = self.claims.get(&entry)
            && token < greatest
            && !self.lossy.contains("LBS restored")
        {
            let what =
                format!("n{node} {how} {entry} with {token:?}, n{owner} claimed with {greatest:?}");
            self.fail("R4", what);
        }
    }

    /// An entry is about to be parked, with so many failures on record (R7).
    pub(super) fn parks(&mut self, entry: EntryId, failures: u32, limit: Option<u32>) {
        let readable = self.submitted.get(&entry).is_some_and(Option::is_some);
        if readable && limit.is_none_or(|limit| failures < limit) {
            self.fail("R7", format!("{entry} is parked after {failures} failures"));
        }
    }

    fn gone(&mut self, entry: EntryId, fate: Fate) {
        self.live -= 1;
        if let Some(before) = self.fates.insert(entry, fate)
            && self.is_durable()
        {
            self.fail("R7", format!("{entry} was {before:?} already"));
        }
    }

    /// The LBS is as it was before: what came since is gone, what went is back.
    pub(super) fn restored(&mut self, lbs: &Lbs) {
        self.lossy.insert("LBS restored");
        let back: Vec<_> = self
            .fates
            .keys()
            .copied()
            .filter(|e| lbs.contains(*e))
            .collect();
        for entry in back {
            self.fates.remove(&entry);
        }
        for entry in self.submitted.keys() {
            if !lbs.contains(*entry) {
                self.fates.entry(*entry).or_insert(Fate::Vanished);
            }
        }
        self.live = lbs.len();
    }

    /// R7, R8, R9: all that was submitted is finished in time.
    pub(super) fn check_finished(&mut self, now: Duration, lbs: &Lbs) {
        self.now = now;
        if let Some(entry) = lbs.entries().next() {
            let readable = self.submitted.get(&entry).is_some_and(Option::is_some);
            let rule = if readable { "R9" } else { "R8" };
            let what = format!(
                "{} entries are not finished in time, the first is {}",
                lbs.len(),
                lbs.describe(entry)
            );
            self.fail(rule, what);
        }
    }
}
